/* Protection, advice and locks make pieces of an attachment, and pieces count.
 *
 * Not when trapped: flags of a mapping do not show in what the supervisor reads. */
#include "vt.h"

#define SIZE 4096ul

static int id;
static long nattch(void)
{
    struct shmid_ds ds;
    MUST(shmctl(id, IPC_STAT, &ds));
    return (long)ds.shm_nattch;
}
static void count(const char *text) { say("%s: %ld", text, nattch()); }

static char *attach(int flags)
{
    char *p = shmat(id, NULL, flags);
    if (p == (void *)-1)
        die("shmat");
    return p;
}

/* How many bytes from p on a child can read: those it inherited. */
static void child_sees(const char *p, int pages)
{
    gate probe = new_gate();
    IN_CHILD({
        char view[16] = { 0 };
        for (int i = 0; i < pages; i++)
            view[i] = write(probe.fd[1], p + i * SIZE, 1) == 1 ? '+' : '-';
        say("a child sees %s and counts %ld", view, nattch());
    });
    close(probe.fd[0]);
    close(probe.fd[1]);
}

int main(void)
{
    begin();
    id = new_shm(8 * SIZE);

    char *p = attach(0);
    RC(mprotect(p + 2 * SIZE, 2 * SIZE, PROT_READ));
    count("two pages read-only");
    RC(mprotect(p + 2 * SIZE, SIZE, PROT_READ | PROT_WRITE));
    count("the first of them writable again");
    RC(mprotect(p + 3 * SIZE, SIZE, PROT_READ | PROT_WRITE));
    count("the second too");
    p[3 * SIZE] = 1;
    RC(mprotect(p, 8 * SIZE, PROT_NONE));
    count("all of it shut");
    RC(mprotect(p, 8 * SIZE, PROT_READ | PROT_WRITE));
    count("all of it open");
    RC(shmdt(p));
    count("detached");

    p = attach(SHM_RDONLY);
    RC(mprotect(p, SIZE, PROT_READ | PROT_WRITE));
    RC(mprotect(p + SIZE, SIZE, PROT_NONE));
    count("of a read-only one");
    RC(mprotect(p + SIZE, SIZE, PROT_READ));
    RC(shmdt(p));
    count("detached");

    p = attach(0);
    RC(madvise(p + SIZE, SIZE, MADV_DONTDUMP));
    count("not dumped");
    RC(madvise(p + SIZE, SIZE, MADV_DODUMP));
    count("dumped");
    RC(madvise(p + 4 * SIZE, 2 * SIZE, MADV_RANDOM));
    count("random");
    RC(madvise(p + 4 * SIZE, SIZE, MADV_SEQUENTIAL));
    count("sequential");
    RC(madvise(p + 4 * SIZE, 2 * SIZE, MADV_NORMAL));
    count("normal");
    RC(madvise(p, 8 * SIZE, MADV_WILLNEED));
    RC(madvise(p, 8 * SIZE, MADV_DONTNEED));
    RC(madvise(p, 8 * SIZE, MADV_WIPEONFORK));
    RC(madvise(p, 8 * SIZE, 4711));
    count("and no more");
    RC(shmdt(p));
    count("detached");

    p = attach(0);
    child_sees(p, 8);
    RC(madvise(p + 2 * SIZE, 3 * SIZE, MADV_DONTFORK));
    count("not inherited in the middle");
    child_sees(p, 8);
    RC(madvise(p, 8 * SIZE, MADV_DONTFORK));
    child_sees(p, 8);
    RC(madvise(p + 2 * SIZE, 3 * SIZE, MADV_DOFORK));
    child_sees(p, 8);
    count("here");
    RC(shmdt(p));
    count("detached");

    p = attach(0);
    RC(mlock(p + SIZE, SIZE));
    count("a locked page");
    RC(munlock(p + SIZE, SIZE));
    count("unlocked");
    RC(mlock(p + 100, 1));
    count("and one that is not named by its start");
    RC(mlockall(MCL_CURRENT));
    RC(munlockall());
    count("all");
    RC(shmdt(p));
    count("detached");
    return 0;
}
