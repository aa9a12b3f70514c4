/* What a program sees of its signals' dispositions is its own, also after it
 * has slept in calls of System V IPC; and its handlers run as they were set. */
#include "vt.h"
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

static int sem;
static volatile sig_atomic_t last, value, mask_had_usr2, nested_runs, old_style;

static void one(int s) { last = s; }
static void two(int s) { last = 100 + s; }
static void three(int s, siginfo_t *info, void *context)
{
    sigset_t now;
    (void)context;
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    mask_had_usr2 = sigismember(&now, SIGUSR2);
    last = 200 + s;
    value = info->si_value.sival_int;
}
static void nodefer(int s)
{
    if (++nested_runs < 5)
        raise(s);
}
static void style(int s) { old_style = s; }

static const char *name(void (*f)(int))
{
    return f == SIG_DFL ? "default" : f == SIG_IGN ? "ignore" : f == one ? "one" : f == two ? "two"
        : f == (void (*)(int))(void *)three ? "three" : f == nodefer ? "nodefer" : f == style ? "style" : "another";
}

static void show(int sig)
{
    struct sigaction sa;
    memset(&sa, 0x55, sizeof sa);
    if (RC(sigaction(sig, NULL, &sa)) == 0)
        say("  %s, flags %x, SIGUSR2 in mask: %d", name(sa.sa_handler), sa.sa_flags & ~0x04000000,
            sigismember(&sa.sa_mask, SIGUSR2));
}

static void use(int sig, void (*f)(int), int flags)
{
    struct sigaction old, sa = { .sa_handler = f, .sa_flags = flags };
    sigaddset(&sa.sa_mask, SIGUSR2);
    memset(&old, 0x55, sizeof old);
    if (RC(sigaction(sig, &sa, &old)) == 0)
        say("  was %s, flags %x", name(old.sa_handler), old.sa_flags & ~0x04000000);
}

/* Everything that can be set, seen and sent. */
static void all(void)
{
    use(SIGUSR1, one, 0);
    use(SIGUSR1, two, SA_RESTART);
    raise(SIGUSR1);
    VAL(last);
    show(SIGUSR1);
    use(SIGUSR1, (void (*)(int))(void *)three, SA_SIGINFO);
    show(SIGUSR1);
    sigqueue(getpid(), SIGUSR1, (union sigval){ .sival_int = 77 });
    VAL(last);
    VAL(value);
    VAL(mask_had_usr2);
    use(SIGUSR1, SIG_IGN, 0);
    raise(SIGUSR1);
    show(SIGUSR1);
    use(SIGUSR1, SIG_DFL, 0);
    show(SIGUSR1);
    use(SIGRTMIN + 3, one, SA_RESETHAND);
    raise(SIGRTMIN + 3);
    YES(last == SIGRTMIN + 3);
    show(SIGRTMIN + 3);
    nested_runs = 0;
    use(SIGUSR1, nodefer, SA_NODEFER);
    raise(SIGUSR1);
    VAL(nested_runs);
    use(SIGCONT, one, SA_RESTART);
    show(SIGCONT);
    raise(SIGCONT);
    YES(last == SIGCONT);
    use(SIGCONT, SIG_DFL, 0);
    show(SIGCONT);
    use(SIGKILL, one, 0);
    use(0, one, 0);
    use(65, one, 0);
    show(32);

    /* The older functions. */
    say("signal: %s", name(signal(SIGUSR1, one)));
    say("signal: %s", name(signal(SIGUSR1, two)));
    show(SIGUSR1);
    raise(SIGUSR1);
    VAL(last);
    siginterrupt(SIGUSR1, 1);
    show(SIGUSR1);
    say("signal: %s", name(signal(SIGUSR1, one)));
    show(SIGUSR1);
    siginterrupt(SIGUSR1, 0);
    show(SIGUSR1);
    say("sysv_signal: %s", name(sysv_signal(SIGUSR1, style)));
    show(SIGUSR1);
    raise(SIGUSR1);
    VAL(old_style);
    show(SIGUSR1);
    say("ssignal: %s", name(ssignal(SIGUSR1, one)));
    say("signal: %s", name(signal(SIGUSR1, SIG_IGN)));
    say("signal: %s", name(signal(SIGUSR1, SIG_DFL)));
    YES(signal(SIGKILL, one) == SIG_ERR);
    YES(signal(77, one) == SIG_ERR);

    /* What was saved can be put back, by hand or by the C library. */
    struct sigaction saved, *volatile same = &saved, mine = { .sa_sigaction = three, .sa_flags = SA_SIGINFO };
    use(SIGINT, one, SA_ONSTACK);
    MUST(sigaction(SIGINT, &mine, &saved));
    MUST(sigaction(SIGINT, &saved, same));
    YES(saved.sa_sigaction == three);
    show(SIGINT);
    MUST(system("true"));
    show(SIGINT);
    raise(SIGINT);
    YES(last == SIGINT);
    use(SIGINT, SIG_DFL, 0);
}

/* Sleeps once in semop, until a handler ends it. */
static void sleep_once(void (*f)(int))
{
    struct sigaction sa = { .sa_handler = f };
    pid_t to = getpid(), child;
    if (f)
        MUST(sigaction(SIGUSR1, &sa, NULL));
    child = spawn();
    if (child == 0) {
        UNTIL(ncnt(sem, 0) == 1);
        kill(to, SIGUSR1);
        exit(0);
    }
    RC(SEMOP(sem, OP(0, -1, 0)));
    reap(child);
}

static volatile int stop;
static void *changes(void *f)
{
    struct sigaction sa = { .sa_handler = (void (*)(int))f }, old;
    while (!stop) {
        MUST(sigaction(SIGUSR1, &sa, &old));
        if (old.sa_handler != one && old.sa_handler != two)
            say("unknown handler");
        signal(SIGUSR1, (void (*)(int))f);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    begin();
    if (argc > 1) {
        /* Only what is ignored outlives exec. */
        show(SIGUSR1);
        show(SIGUSR2);
        return 0;
    }
    sem = new_sem(1);
    use(SIGUSR1, two, SA_NODEFER);
    all();
    /* Set before the first sleep, seen and run after it. */
    use(SIGUSR2, two, SA_RESETHAND | SA_NODEFER);
    sleep_once(one);
    show(SIGUSR1);
    show(SIGUSR2);
    raise(SIGUSR2);
    VAL(last);
    show(SIGUSR2);
    all();
    use(SIGUSR1, one, 0);
    say("signal: %s", name(signal(SIGUSR1, two)));
    sleep_once(NULL);
    say("sysv_signal: %s", name(sysv_signal(SIGUSR1, one)));
    sleep_once(NULL);
    show(SIGUSR1);

    /* Children have them too, and their own. */
    use(SIGUSR1, one, 0);
    IN_CHILD(show(SIGUSR1); use(SIGUSR1, two, 0); raise(SIGUSR1); VAL(last); sleep_once(NULL));
    show(SIGUSR1);
    raise(SIGUSR1);
    YES(last == SIGUSR1);
    pid_t child = vfork();
    if (child == 0) {
        struct sigaction sa = { .sa_handler = two };
        sigaction(SIGUSR1, &sa, NULL);
        _exit(0);
    }
    reap(child);
    show(SIGUSR1);
    raise(SIGUSR1);
    YES(last == SIGUSR1);
    IN_CHILD(signal(SIGUSR2, SIG_IGN); execl("/proc/self/exe", argv[0], "again", (char *)NULL));

    /* Threads that change a handler under one that receives it. */
    pthread_t t[2];
    MUST(-pthread_create(&t[0], NULL, changes, one));
    MUST(-pthread_create(&t[1], NULL, changes, two));
    for (int i = 0; i < 5000; i++) {
        last = 0;
        raise(SIGUSR1);
        if (last != SIGUSR1 && last != 100 + SIGUSR1)
            say("no handler ran");
    }
    stop = 1;
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    return 0;
}
