/* A child that shares its parent's memory and is another process all the same: vfork, posix_spawn,
 * and what system() and popen() make of them. */
#include "vt.h"
#include <spawn.h>

extern char **environ;
static int sem, shm;
static struct shmid_ds ds;
static long nattch(void)
{
    MUST(shmctl(shm, IPC_STAT, &ds));
    return (long)ds.shm_nattch;
}

static void check(const char *after, volatile char *p)
{
    say("after %s: value %d, nattch %ld, memory '%c'", after, getval(sem, 0), nattch(), *p);
}

int main(int argc, char **argv)
{
    begin();
    if (argc == 2) {
        sem = atoi(argv[1]);
        RC(SEMOP(sem, OP(0, -1, SEM_UNDO)));
        return 0;
    }
    sem = new_sem(2);
    shm = new_shm(8192);
    setval(sem, 0, 10);
    volatile char *p = shmat(shm, NULL, 0);
    *p = 'a';
    MUST(SEMOP(sem, OP(0, -2, SEM_UNDO)));
    check("nothing", p);

    pid_t child;
    int status;
    child = vfork();
    if (child == 0)
        _exit(5);
    MUST(waitpid(child, &status, 0));
    VAL(WEXITSTATUS(status));
    check("vfork and _exit", p);

    static char text[16];
    snprintf(text, sizeof text, "%d", sem);
    char *const args[] = { argv[0], text, NULL };
    child = vfork();
    if (child == 0) {
        execv("/proc/self/exe", args);
        _exit(127);
    }
    reap(child);
    check("vfork and exec", p);

    child = vfork();
    if (child == 0) {
        execv("/nowhere/at/all", args);
        _exit(6);
    }
    MUST(waitpid(child, &status, 0));
    VAL(WEXITSTATUS(status));
    check("vfork and an exec that fails", p);

    /* It may not do much; reading and changing a semaphore is little. */
    static volatile int value, rc, pid;
    child = vfork();
    if (child == 0) {
        struct sembuf take[] = { { 0, -3, SEM_UNDO } };
        rc = semop(sem, take, 1);
        value = semctl(sem, 0, GETVAL);
        pid = semctl(sem, 0, GETPID);
        _exit(0);
    }
    MUST(waitpid(child, &status, 0));
    VAL(rc);
    VAL(value);
    YES(pid == child);
    check("vfork and semop with undo", p);

    static volatile char *from_child;
    child = vfork();
    if (child == 0) {
        from_child = shmat(shm, NULL, 0);
        _exit(0);
    }
    MUST(waitpid(child, &status, 0));
    check("vfork and shmat, which is the parent's too", p);
    *from_child = 'b';
    RC(shmdt((void *)from_child));
    check("shmdt of it", p);

    child = vfork();
    if (child == 0) {
        kill(getpid(), SIGKILL);
        _exit(0);
    }
    MUST(waitpid(child, &status, 0));
    YES(WIFSIGNALED(status));
    check("vfork and SIGKILL", p);

    /* Said when the child has said its own: they run side by side. */
    int spawned = posix_spawn(&child, "/proc/self/exe", NULL, NULL, args, environ);
    MUST(waitpid(child, &status, 0));
    YES(spawned == 0);
    VAL(WEXITSTATUS(status));
    check("posix_spawn", p);
    int failed = posix_spawn(&child, "/nowhere/at/all", NULL, NULL, args, environ);
    say("posix_spawn of nothing: %s", ename(failed));
    check("it", p);
    VAL(system("true"));
    check("system", p);
    FILE *f = popen("echo popen", "r");
    char line[32] = "";
    if (!f || !fgets(line, sizeof line, f))
        die("popen");
    pclose(f);
    say("%.5s", line);
    check("popen", p);

    RC(SEMOP(sem, OP(0, 2, SEM_UNDO)));
    RC(shmdt((void *)p));
    VAL(getval(sem, 0));
    VAL(nattch());
    return 0;
}
