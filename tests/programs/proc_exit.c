/* However a process ends, with whatever its threads do: what it held is free, and at once. */
#include "vt.h"

static int sem, shm, msg;
static struct shmid_ds ds;
static long nattch(void)
{
    MUST(shmctl(shm, IPC_STAT, &ds));
    return (long)ds.shm_nattch;
}

static void *wait_on_semaphore(void *arg)
{
    gate_open(*(gate *)arg);
    SEMOP(sem, OP(1, -1, SEM_UNDO), OP(0, -1, SEM_UNDO));
    return NULL;
}
static void *wait_on_queue(void *arg)
{
    message m;
    gate_open(*(gate *)arg);
    msgrcv(msg, &m, sizeof m.text, 7, 0);
    return NULL;
}
static void *work_on_and_on(void *arg)
{
    gate_open(*(gate *)arg);
    for (;;) {
        SEMOP(sem, OP(2, 1, SEM_UNDO));
        SEMOP(sem, OP(2, -1, SEM_UNDO));
        char *p = shmat(shm, NULL, 0);
        p[1]++;
        shmdt(p);
    }
    return NULL;
}
static void *leave(void *arg)
{
    (void)arg;
    exit(9);
}
static void *leave_thread(void *arg)
{
    /* What a thread did is the process's: its end undoes nothing. */
    (void)arg;
    MUST(SEMOP(sem, OP(0, -1, SEM_UNDO)));
    return NULL;
}

static void at_exit(void) { SEMOP(sem, OP(3, 1, 0)); }

static void end(const char *how)
{
    pthread_t t;
    if (strcmp(how, "return") == 0)
        return;
    if (strcmp(how, "exit") == 0)
        exit(1);
    if (strcmp(how, "_exit") == 0)
        _exit(2);
    if (strcmp(how, "_Exit") == 0)
        _Exit(3);
    if (strcmp(how, "quick_exit") == 0)
        quick_exit(4);
    if (strcmp(how, "SYS_exit_group") == 0)
        syscall(SYS_exit_group, 5);
    if (strcmp(how, "SYS_exit") == 0)
        syscall(SYS_exit, 6);
    if (strcmp(how, "abort") == 0)
        abort();
    if (strcmp(how, "SIGKILL") == 0)
        raise(SIGKILL);
    if (strcmp(how, "SIGTERM") == 0)
        raise(SIGTERM);
    if (strcmp(how, "pthread_exit") == 0)
        pthread_exit(NULL);
    if (strcmp(how, "exit of a thread") == 0) {
        pthread_create(&t, NULL, leave, NULL);
        pthread_join(t, NULL);
    }
    die("%s", how);
}

static void run(const char *how, int threads)
{
    pid_t child = spawn();
    if (child == 0) {
        struct rlimit { unsigned long cur, max; } none = { 0, 0 };
        syscall(SYS_setrlimit, 4, &none);
        atexit(at_exit);
        shmat(shm, NULL, 0);
        pthread_t t;
        pthread_create(&t, NULL, leave_thread, NULL);
        pthread_join(t, NULL);
        MUST(SEMOP(sem, OP(0, -2, SEM_UNDO)));
        if (getval(sem, 0) != 7)
            say("%d", getval(sem, 0));
        if (threads) {
            gate begun = new_gate();
            void *(*const all[])(void *) = { wait_on_semaphore, wait_on_queue, work_on_and_on };
            for (int i = 0; i < 3; i++) {
                pthread_create(&t, NULL, all[i], &begun);
                gate_wait(begun);
            }
            UNTIL(ncnt(sem, 1) == 1);
        }
        end(how);
        exit(0);
    }
    int status;
    MUST(waitpid(child, &status, 0));
    /* Nothing is waited for: all of it has happened when the parent knows. */
    long left = nattch();
    say("%s%s: status %#x, value %d, %d, %d, waiting %d, nattch %ld, lpid %s", how, threads ? " with threads" : "",
        status, getval(sem, 0), getval(sem, 1), getval(sem, 2), ncnt(sem, 1), left,
        ds.shm_lpid == child ? "the child's" : "another's");
    show_lines(child);
}

int main(void)
{
    begin();
    sem = new_sem(4);
    shm = new_shm(4096);
    msg = new_msg();
    setval(sem, 0, 10);
    static const char *const alone[] = { "return", "exit", "_exit", "_Exit", "quick_exit", "SYS_exit_group",
        "SYS_exit", "abort", "SIGKILL", "SIGTERM", "pthread_exit", "exit of a thread" };
    for (size_t i = 0; i < sizeof alone / sizeof alone[0]; i++)
        run(alone[i], 0);
    static const char *const busy[] = { "return", "exit", "_exit", "SYS_exit_group", "abort", "SIGKILL", "exit of a thread" };
    for (size_t i = 0; i < sizeof busy / sizeof busy[0]; i++)
        run(busy[i], 1);
    say("atexit ran %d times", getval(sem, 3));
    return 0;
}
