/* Programs that close, or take, all descriptors by every means there is; and one that may have few. */
#include "vt.h"
#include <sys/resource.h>

static int sem, shm, queue;

/* All that a program may do after it has lost our descriptors, or put its own in their place. */
static void use(char *p)
{
    message m;
    say("%s", p);
    RC(SEMOP(sem, OP(0, -1, SEM_UNDO)));
    RC(send_text(queue, 1, "sent", 0));
    RC(msgrcv(queue, &m, sizeof m.text, 1, IPC_NOWAIT));
    char *q = shmat(shm, NULL, SHM_RDONLY);
    YES(q != (void *)-1);
    int id = (int)RC(shmget(IPC_PRIVATE, 4096, 0600));
    RC(shmctl(id, IPC_RMID, NULL));
    IN_CHILD(RC(SEMOP(sem, OP(0, -1, SEM_UNDO))); VAL(getval(sem, 0)));
    RC(shmdt(q));
    VAL(getval(sem, 0));
}

/* A file of the program's own under every number; its bytes must be the same afterwards. */
static void fill(int from, int to)
{
    int file = MUST(memfd_create("mine", 0));
    if (write(file, "mine", 4) != 4)
        die("write");
    for (int fd = from; fd < to; fd++)
        if (fd != file)
            MUST(dup2(file, fd));
}

static void check(int from, int to)
{
    int good = 0;
    for (int fd = from; fd < to; fd++) {
        char text[8] = "";
        struct stat st;
        good += fstat(fd, &st) == 0 && st.st_size == 4 && pread(fd, text, 4, 0) == 4 && strcmp(text, "mine") == 0;
    }
    say("%d of %d are as they were", good, to - from);
}

static void run(const char *how, void (*lose)(void))
{
    say("- %s", how);
    IN_CHILD({
        char *p = shmat(shm, NULL, 0);
        MUST(SEMOP(sem, OP(0, -1, SEM_UNDO)));
        lose();
        use(p);
        if (how[0] == 'd')
            check(20, 1000);
    });
    UNTIL(getval(sem, 0) == 9);
    struct shmid_ds ds;
    MUST(shmctl(shm, IPC_STAT, &ds));
    say("value %d, nattch %ld", getval(sem, 0), (long)ds.shm_nattch);
}

static void by_close_range(void) { MUST(syscall(SYS_close_range, 3, ~0U, 0)); }
static void by_cloexec(void) { MUST(syscall(SYS_close_range, 3, ~0U, 4)); }
static void by_loop(void)
{
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
}
static void by_dup2(void) { fill(20, 1000); }
#if __GLIBC__ > 2 || (__GLIBC__ == 2 && __GLIBC_MINOR__ >= 34)
static void by_closefrom(void) { closefrom(3); }
#endif
static void by_dir(void)
{
    /* As daemons do: what /proc lists. */
    char path[64];
    for (int fd = 3; fd < 1024; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (access(path, F_OK) == 0)
            close(fd);
    }
}
static void by_limit(void)
{
    /* Nothing above 10 any more, and what is there stays open. */
    struct rlimit few = { 10, 1024 };
    MUST(setrlimit(RLIMIT_NOFILE, &few));
}

int main(void)
{
    begin();
    sem = new_sem(1);
    shm = new_shm(4096);
    queue = new_msg();
    setval(sem, 0, 9);
    strcpy(shmat(shm, NULL, 0), "attached before");
    struct rlimit many = { 1024, 1024 };
    MUST(setrlimit(RLIMIT_NOFILE, &many));
    run("close_range", by_close_range);
    run("marked to close on exec", by_cloexec);
    run("a loop", by_loop);
#if __GLIBC__ > 2 || (__GLIBC__ == 2 && __GLIBC_MINOR__ >= 34)
    run("closefrom", by_closefrom);
#endif
    run("what /proc lists", by_dir);
    run("dup2 over all", by_dup2);
    run("a lower limit", by_limit);
    return 0;
}
