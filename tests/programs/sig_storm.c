/* A timer that interrupts as fast as it can, handlers that use the very objects
 * or jump away: what was done is done once, and nothing is held by nobody. */
#include "vt.h"
#include <setjmp.h>
#include <sys/resource.h>
#include <sys/time.h>

#ifndef SECONDS
#define SECONDS 2.0
#endif
static int sem, queue;
static volatile sig_atomic_t armed, jumps, runs;
static sigjmp_buf away;

static void storm(void (*f)(int), int flags, int us)
{
    struct sigaction sa = { .sa_handler = f, .sa_flags = flags };
    MUST(sigaction(SIGPROF, &sa, NULL));
    MUST(sigaction(SIGVTALRM, &sa, NULL));
    struct itimerval t = { { 0, us }, { 0, us } };
    MUST(setitimer(ITIMER_PROF, &t, NULL));
    MUST(setitimer(ITIMER_VIRTUAL, &t, NULL));
}

static void calm(void)
{
    struct itimerval t = { { 0, 0 }, { 0, 0 } };
    MUST(setitimer(ITIMER_PROF, &t, NULL));
    MUST(setitimer(ITIMER_VIRTUAL, &t, NULL));
    signal(SIGPROF, SIG_IGN);
    signal(SIGVTALRM, SIG_IGN);
}

/* Handlers that may interrupt themselves pile up, on the kernel as well, when signals come faster
 * than they return: where setting up a handler takes longer than sending a signal, as in an
 * emulated machine, none gets to its first instruction before the next one stands on it, until
 * there is no stack. So a signal is sent when the handler of the one before has begun, and once
 * LEVELS are under way they return first. Were it not so, this stack would not do. */
enum { LEVELS = 16, STACK = 512 << 10, ENOUGH = 100 };
static volatile sig_atomic_t raised, begun, level;

/* Another thread does what the timer is too slow for. */
static volatile int over;
static pthread_t target;
static void *sender(void *sig)
{
    while (!over) {
        raised++;
        pthread_kill(target, (int)(long)sig);
        for (int i = 0; i < 3000; i++)
            __asm__ volatile("");
        while (!over && begun != raised)
            sched_yield();
        for (int full = level >= LEVELS; full && !over; full = level > 0)
            sched_yield();
    }
    return NULL;
}

/* Again if a handler that did the same came between. */
static void answer(void)
{
    do
        begun = raised;
    while (begun != raised);
}

static void begin_handler(int s)
{
    runs++;
    if (s == SIGUSR1)
        answer();
}

/* Until then, and longer on a machine so slow that too few handlers have run. */
static int storms(double end)
{
    return now() < end || (runs <= ENOUGH && now() < end + 15);
}

static void works(int s)
{
    int e = errno;
    message m = { .mtype = 50 + s };
    begin_handler(s);
    if (SEMOP(sem, OP(0, 1, 0)) == -1 || SEMOP(sem, OP(1, 1, 0), OP(0, -1, 0), OP(1, -1, 0)) == -1)
        die("semop in the handler");
    if (msgsnd(queue, &m, 8, IPC_NOWAIT) == 0 && msgrcv(queue, &m, 8, 50 + s, IPC_NOWAIT) != 8)
        die("its own message");
    if (getval(sem, 0) < 0)
        die("getval");
    errno = e;
}

static void jump(int s)
{
    level++;
    begin_handler(s);
    if (armed) {
        armed = 0;
        jumps++;
        siglongjmp(away, 1);
    }
    level--;
}

static long queued(void)
{
    struct msqid_ds ds;
    MUST(msgctl(queue, IPC_STAT, &ds));
    return ds.msg_qnum;
}

static void begin_storm(pthread_t *t, void (*f)(int), int flags)
{
    over = 0;
    target = pthread_self();
    storm(f, flags, 100);
    struct sigaction sa = { .sa_handler = f, .sa_flags = flags };
    MUST(sigaction(SIGUSR1, &sa, NULL));
    sigset_t mine;
    sigemptyset(&mine);
    sigaddset(&mine, SIGPROF);
    sigaddset(&mine, SIGVTALRM);
    pthread_sigmask(SIG_BLOCK, &mine, NULL);
    MUST(-pthread_create(t, NULL, sender, (void *)SIGUSR1));
    pthread_sigmask(SIG_UNBLOCK, &mine, NULL);
}

static void end_storm(pthread_t t)
{
    over = 1;
    pthread_join(t, NULL);
    calm();
    signal(SIGUSR1, SIG_IGN);
}

int main(void)
{
    pthread_t t;
    static long done, sent, received, interrupted, rounds;
    begin();
    MUST(setrlimit(RLIMIT_STACK, &(struct rlimit){ STACK, RLIM_INFINITY }));
    sem = new_sem(3);
    queue = new_msg();

    /* Handlers that call. */
    begin_storm(&t, works, SA_RESTART);
    for (double end = now() + SECONDS; storms(end);) {
        message m = { .mtype = 1 };
        if (SEMOP(sem, OP(2, 1, 0)) == 0)
            done++;
        if (SEMOP(sem, OP(2, 1, SEM_UNDO), OP(0, 1, 0), OP(2, -2, SEM_UNDO), OP(0, -1, 0)) == 0)
            done--;
        else if (errno == EINTR)
            interrupted++;
        else
            die("semop");
        if (msgsnd(queue, &m, 100, 0) == 0)
            sent++;
        if (msgrcv(queue, &m, sizeof m.text, 1, 0) == 100)
            received++;
        struct timespec soon = { 0, 100000 };
        struct sembuf op = OP(0, -100, 0);
        if (semtimedop(sem, &op, 1, &soon) == 0 || (errno != EINTR && errno != EAGAIN))
            die("semtimedop");
        /* Before what is to be undone is more than a semaphore holds. */
        if (++rounds % 10000 == 0) {
            MUST(setval(sem, 2, 0));
            done = 0;
        }
    }
    end_storm(t);
    YES(runs > ENOUGH);
    YES(getval(sem, 2) == done);
    YES(queued() == sent - received);
    YES(getval(sem, 0) == 0 && getval(sem, 1) == 0);
    say("waiting %d", ncnt(sem, 0));
    message m;
    while (msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT) != -1)
        ;

    /* Handlers that jump out of whatever they meet, blocked or not. */
    static volatile long tries, sure_sent;
    runs = jumps = 0;
    setval(sem, 0, 0);
    /* More than a semaphore holds on a quick machine. */
    long *got = scratch(sizeof *got);
    pid_t receiver = spawn();
    if (receiver == 0) {
        long last = 0, n = 0;
        signal(SIGUSR1, SIG_IGN);
        for (;;) {
            message r;
            MUST(msgrcv(queue, &r, sizeof r.text, 0, 0));
            if (r.mtype == LONG_MAX)
                break;
            if (r.mtype <= last)
                die("twice, or out of order");
            last = r.mtype;
            n++;
        }
        *got = n;
        exit(0);
    }
    begin_storm(&t, jump, SA_NODEFER);
    for (double end = now() + SECONDS; storms(end);) {
        tries++;
        if (sigsetjmp(away, 1) == 0) {
            struct timespec soon = { 0, 300000 };
            struct sembuf op = OP(0, -1, 0);
            m.mtype = tries;
            armed = 1;
            switch (tries % 5) {
            case 0: SEMOP(sem, OP(1, 1, 0), OP(1, -1, 0)); break;
            case 1: semtimedop(sem, &op, 1, &soon); armed = 0; break;
            case 2:
                if (msgsnd(queue, &m, 16, 0) == 0) {
                    armed = 0;
                    sure_sent++;
                }
                break;
            case 3: SEMOP(sem, OP(1, 1, SEM_UNDO), OP(1, -1, SEM_UNDO)); break;
            case 4: getval(sem, 1); break;
            }
            armed = 0;
        } else {
            /* Gone with the stack, among them perhaps one that had not begun. */
            level = 0;
            answer();
        }
    }
    armed = 0;
    end_storm(t);
    m.mtype = LONG_MAX;
    MUST(msgsnd(queue, &m, 8, 0));
    reap(receiver);
    YES(runs > ENOUGH && jumps > 10);
    YES(getval(sem, 1) == 0 && getval(sem, 0) == 0);
    say("waiting %d, queued %ld", ncnt(sem, 0), queued());
    YES(*got >= sure_sent && *got - sure_sent <= jumps + 5);

    /* And the thread is as good as new. */
    for (int i = 0; i < 100; i++)
        MUST(SEMOP(sem, OP(0, 1, SEM_UNDO), OP(0, -1, SEM_UNDO)));
    RC(SEMOP(sem, OP(0, 1, 0)));
    RC(SEMOP(sem, OP(0, -1, 0)));
    if (getenv("VERBOSE"))
        fprintf(stderr, "runs %d jumps %d tries %ld interrupted %ld\n", (int)runs, (int)jumps, tries, interrupted);
    return 0;
}
