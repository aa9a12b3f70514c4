/* A signal ends a blocked call with EINTR whenever it comes: also while the
 * call is only just about to sleep. And what handlers may do: jump out, run on
 * a stack of their own, be interrupted, go by themselves.
 *
 * Not when trapped: with SA_RESTART the kernel begins a call anew that is
 * interrupted before the supervisor has taken it. */
#include "vt.h"
#include <setjmp.h>

/* As many rounds, or, where two processors take turns slowly, as much time. */
#define ROUNDS 10000
#define SECONDS 4

static int sem, queue;
/* The round that the victim is in, the last that it has left, and whether that is all. */
static volatile int in, out, over;
static volatile pid_t victim_tid;

static unsigned random_(unsigned below)
{
    static unsigned x = 12345;
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    return x % below;
}

static void *victim(void *use_queue)
{
    message m;
    victim_tid = gettid_();
    for (int i = 1; !over; i++) {
        in = i;
        long rc = use_queue ? msgrcv(queue, &m, 100, 0, 0) : SEMOP(sem, OP(0, -1, 0));
        if (rc != -1 || errno != EINTR)
            say("round %d: %s", i, rc == -1 ? ename(errno) : "ok");
        out = i;
    }
    return NULL;
}

/* A signal before the call has begun does nothing: then another is sent, much
 * later. There are few of those; of signals lost there would be many. */
static void storm(const char *what, int use_queue, int flags)
{
    pthread_t t;
    int late = 0, i;
    double end = now() + SECONDS;
    catch_signal(SIGUSR1, flags);
    in = out = over = 0;
    MUST(-pthread_create(&t, NULL, victim, use_queue ? &queue : NULL));
    for (i = 1; !over; i++) {
        while (in != i)
            sched_yield();
        for (unsigned n = random_(8) ? random_(30000) : random_(100000); n > 0; n--)
            __asm__ volatile("");
        over = i == ROUNDS || now() > end;
        syscall(SYS_tgkill, getpid(), victim_tid, SIGUSR1);
        for (double until = now() + 0.2; out != i;) {
            if (now() > until) {
                late++;
                syscall(SYS_tgkill, getpid(), victim_tid, SIGUSR1);
                until = now() + 0.2;
            }
            sched_yield();
        }
    }
    pthread_join(t, NULL);
    say("%s: signals lost: %s", what, late <= 5 + i / 50 ? "no" : "yes");
    VAL(ncnt(sem, 0));
}

static sigjmp_buf jump;
static void jumps(int s)
{
    (void)s;
    siglongjmp(jump, 1);
}

static volatile int depth, deepest, on_stack;
static char *stack;
static void deep(int s, siginfo_t *info, void *context)
{
    char here;
    (void)context;
    depth++;
    if (depth > deepest)
        deepest = depth;
    on_stack = &here >= stack && &here < stack + 65536;
    if (s == SIGUSR1)
        raise(SIGUSR2);
    if (info->si_signo != s)
        deepest = -1;
    depth--;
}

static void set(int sig, void (*f)(int, siginfo_t *, void *), int flags)
{
    struct sigaction sa = { .sa_sigaction = f, .sa_flags = flags | SA_SIGINFO };
    MUST(sigaction(sig, &sa, NULL));
}

static pid_t sender;
/* How often the main program was interrupted, where it counts. */
static volatile int *jumped;
static void when_blocked(int sig, int times)
{
    pid_t to = getpid();
    sender = spawn();
    if (sender != 0)
        return;
    for (int i = 0; i < times; i++) {
        UNTIL(*jumped == i && ncnt(sem, 0) == 1);
        kill(to, sig);
    }
    exit(0);
}

int main(void)
{
    begin();
    sem = new_sem(2);
    queue = new_msg();
    storm("semop", 0, 0);
    storm("semop with SA_RESTART", 0, SA_RESTART);
    storm("msgrcv with SA_RESTART", 1, SA_RESTART);

    /* Out of the handler, again and again; the set stays usable. */
    struct sigaction out_of = { .sa_handler = jumps };
    MUST(sigaction(SIGUSR1, &out_of, NULL));
    jumped = scratch(4096);
    when_blocked(SIGUSR1, 100);
    while (*jumped < 100)
        if (sigsetjmp(jump, 1) == 0)
            SEMOP(sem, OP(0, -1, 0));
        else {
            /* The next call of this thread finds the last one gone. */
            MUST(SEMOP(sem, OP(1, 1, 0), OP(1, -1, 0)));
            ++*jumped;
        }
    reap(sender);
    VAL(*jumped);
    VAL(ncnt(sem, 0));
    *jumped = 0;

    /* On a stack of its own, and a handler that is interrupted itself. */
    stack = MUST((char *)malloc(65536));
    MUST(sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = 65536 }, NULL));
    set(SIGUSR1, deep, SA_ONSTACK | SA_RESTART);
    set(SIGUSR2, deep, SA_ONSTACK);
    when_blocked(SIGUSR1, 1);
    RC(SEMOP(sem, OP(0, -1, 0)));
    reap(sender);
    say("deepest %d, on its stack: %s", deepest, on_stack ? "yes" : "no");
    deepest = 0;
    set(SIGUSR2, deep, 0);
    when_blocked(SIGUSR2, 1);
    RC(SEMOP(sem, OP(0, -1, 0)));
    reap(sender);
    say("deepest %d, on its stack: %s", deepest, on_stack ? "yes" : "no");

    /* Once only. */
    struct sigaction sa;
    catch_signal(SIGUSR1, SA_RESETHAND);
    signals_seen = 0;
    when_blocked(SIGUSR1, 1);
    RC(SEMOP(sem, OP(0, -1, 0)));
    reap(sender);
    VAL(signals_seen);
    MUST(sigaction(SIGUSR1, NULL, &sa));
    YES(sa.sa_handler == SIG_DFL);

    /* The process's timer, with a call that cannot succeed. */
    catch_signal(SIGALRM, SA_RESTART);
    ualarm(20000, 0);
    RC(SEMOP(sem, OP(0, -1, 0)));
    ualarm(20000, 0);
    message m;
    RC(msgrcv(queue, &m, 100, 0, 0));
    return 0;
}
