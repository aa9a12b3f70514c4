/* Children and threads made without fork: the C library's clone, _Fork, the system call itself.
 *
 * Not when trapped: a child in its parent's memory is a task of its own, which counts
 * what it maps and has adjustments of its own. */
#include "vt.h"

#define STACK (256 * 1024)

static int sem, shm;
static volatile char *p;
static long nattch(void)
{
    struct shmid_ds ds;
    MUST(shmctl(shm, IPC_STAT, &ds));
    return (long)ds.shm_nattch;
}
static void state(const char *when)
{
    say("%s: value %d, nattch %ld", when, getval(sem, 0), nattch());
}

static struct { volatile int rc, value, pid; volatile long nattch, other; } *seen;

/* In a child: no printing, it may share everything. */
static int work(void *arg)
{
    (void)arg;
    struct sembuf take[] = { { 0, -3, SEM_UNDO } };
    seen->nattch = nattch();
    seen->rc = semop(sem, take, 1);
    seen->value = semctl(sem, 0, GETVAL);
    seen->pid = semctl(sem, 0, GETPID);
    seen->other = *p;
    *p = 'c';
    return 0;
}

static void tell(const char *what, pid_t child)
{
    say("%s: rc %d, value %d, nattch %ld, memory %c then %c", what, seen->rc, seen->value, seen->nattch,
        (char)seen->other, *p);
    if (child)
        YES(seen->pid == child);
    *p = 'a';
    memset((void *)seen, 0, sizeof *seen);
}

static void wait_for(pid_t child)
{
    int status;
    MUST(waitpid(child, &status, __WALL));
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        say("status %x", status);
}

static volatile int tid_word;

int main(void)
{
    begin();
    sem = new_sem(1);
    shm = new_shm(4096);
    seen = scratch(4096);
    setval(sem, 0, 10);
    p = shmat(shm, NULL, 0);
    *p = 'a';
    MUST(SEMOP(sem, OP(0, -1, SEM_UNDO)));
    char *stack = scratch(STACK);
    state("before");

    pid_t child = MUST(clone(work, stack + STACK, SIGCHLD, NULL));
    wait_for(child);
    tell("clone, as fork", child);
    state("after");

    child = MUST(clone(work, stack + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL));
    wait_for(child);
    tell("clone, as vfork", child);
    state("after");

    child = MUST(clone(work, stack + STACK, CLONE_VM | CLONE_VFORK | CLONE_SYSVSEM | SIGCHLD, NULL));
    wait_for(child);
    tell("clone, with our adjustments", 0);
    state("after, they are ours");
    MUST(SEMOP(sem, OP(0, 3, SEM_UNDO)));

    child = MUST((pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL));
    if (child == 0)
        _exit(work(NULL));
    wait_for(child);
    tell("SYS_clone", child);
    state("after");

    struct { uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls; } args = { .exit_signal = SIGCHLD };
    child = MUST((pid_t)syscall(SYS_clone3, &args, sizeof args));
    if (child == 0)
        _exit(work(NULL));
    wait_for(child);
    tell("SYS_clone3", child);
    state("after");
#ifdef SYS_fork
    child = MUST((pid_t)syscall(SYS_fork));
    if (child == 0)
        _exit(work(NULL));
    wait_for(child);
    tell("SYS_fork", child);
    state("after");
#endif
#if __GLIBC__ > 2 || (__GLIBC__ == 2 && __GLIBC_MINOR__ >= 34)
    child = MUST(_Fork());
    if (child == 0)
        _exit(work(NULL));
    wait_for(child);
    tell("_Fork", child);
    state("after");
#endif
    /* A child that looks before it does anything else counts at once, as the kernel has it. */
    gate here = new_gate(), leave = new_gate();
    child = MUST((pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL));
    if (child == 0) {
        gate_open(here);
        gate_wait(leave);
        _exit(0);
    }
    gate_wait(here);
    state("a child that has done nothing yet");
    gate_open(leave);
    wait_for(child);
    state("and has ended");

    /* daemon() is a fork whose parent ends. */
    child = spawn();
    if (child == 0) {
        MUST(SEMOP(sem, OP(0, -1, SEM_UNDO)));
        if (daemon(1, 1) == -1)
            die("daemon");
        UNTIL(getval(sem, 0) == 9);
        seen->nattch = nattch();
        seen->value = getval(sem, 0);
        gate_open(here);
        gate_wait(leave);
        _exit(0);
    }
    reap(child);
    gate_wait(here);
    say("a daemon counts %ld, and what its first process took is back: %d", seen->nattch, seen->value);
    gate_open(leave);
    UNTIL(nattch() == 1);
    state("it has ended");
    return 0;
}
