/* A program's own SIGSEGV and SIGBUS: its handlers run as they were set, with
 * what the kernel says; without one it dies of the right signal. Calls that
 * were given bad pointers do not disturb that. */
#include "vt.h"
#include <setjmp.h>
#include <sys/resource.h>
#include <ucontext.h>

static int sem;
static sigjmp_buf back;
static volatile int ran, code, on_stack, mask_had_usr2, mask_had_segv, from_me;
static void *volatile where;
static char *stack, *hole, *beyond;

static void fails(void)
{
    RC(semop(sem, (void *)1, 1));
    RC(semop(sem, (void *)0x8000000000000000ul, 1));
    RC(semop(sem, (void *)beyond, 1));
}

static void segv(int s, siginfo_t *info, void *context)
{
    char here;
    sigset_t now;
    (void)context;
    ran = s;
    code = info->si_code;
    where = info->si_addr;
    from_me = info->si_code <= 0 && info->si_pid == getpid();
    on_stack = &here >= stack && &here < stack + 65536;
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    mask_had_usr2 = sigismember(&now, SIGUSR2);
    mask_had_segv = sigismember(&now, s);
    struct sembuf op = OP(0, 1, 0);
    MUST(semop(sem, &op, 1));
    if (semop(sem, (void *)1, 1) == 0 || errno != EFAULT)
        die("semop in the handler");
    if (code > 0)
        siglongjmp(back, 1);
}

static void set(int sig, int flags)
{
    struct sigaction old, sa = { .sa_sigaction = segv, .sa_flags = flags | SA_SIGINFO };
    sigaddset(&sa.sa_mask, SIGUSR2);
    memset(&old, 0x55, sizeof old);
    RC(sigaction(sig, &sa, &old));
    say("  was %s, flags %x, USR2 %d", old.sa_handler == SIG_DFL ? "default" : old.sa_sigaction == segv ? "ours"
        : "other", old.sa_flags & ~0x04000000, sigismember(&old.sa_mask, SIGUSR2));
}

static void show(int sig)
{
    struct sigaction sa;
    memset(&sa, 0x55, sizeof sa);
    RC(sigaction(sig, NULL, &sa));
    say("  is %s, flags %x, USR2 %d", sa.sa_handler == SIG_DFL ? "default" : sa.sa_handler == SIG_IGN ? "ignored"
        : sa.sa_sigaction == segv ? "ours" : "other", sa.sa_flags & ~0x04000000, sigismember(&sa.sa_mask, SIGUSR2));
}

static void touch(const char *what, char *at)
{
    ran = code = 0;
    if (sigsetjmp(back, 1) == 0)
        *(volatile char *)at = 1;
    say("%s: signal %d, code %d, its address: %s, on its stack %d, in mask: USR2 %d, itself %d", what, ran, code,
        where == at ? "yes" : where ? "another" : "none", on_stack, mask_had_usr2, mask_had_segv);
}

/* How a child ends that does this. */
#define ENDS(...)                                                                  \
    do {                                                                           \
        int status_;                                                               \
        pid_t pid_ = spawn();                                                      \
        if (pid_ == 0) {                                                           \
            setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });                      \
            fails();                                                               \
            __VA_ARGS__;                                                           \
            say("still there");                                                    \
            exit(0);                                                               \
        }                                                                          \
        MUST(waitpid(pid_, &status_, 0));                                          \
        show_lines(pid_);                                                          \
        say("%s: %s", #__VA_ARGS__, WIFSIGNALED(status_) ? strsignal(WTERMSIG(status_)) : "left"); \
    } while (0)

static int overflow(volatile char *below)
{
    volatile char big[4096];
    big[0] = below ? below[0] : 1;
    return big[0] ? overflow(big) + 1 : 0;
}

int main(void)
{
    begin();
    sem = new_sem(1);
    long page = sysconf(_SC_PAGESIZE);
    hole = mmap(NULL, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int file = MUST(memfd_create("short", 0));
    beyond = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    stack = malloc(65536);

    /* Nothing set. */
    show(SIGSEGV);
    show(SIGBUS);
    fails();
    show(SIGSEGV);
    show(SIGBUS);
    ENDS(*(volatile char *)NULL = 1);
    ENDS(*(volatile char *)hole = 1);
    ENDS(*(volatile char *)0x8000000000000000ul = 1);
    ENDS(*(volatile char *)beyond = 1);
    ENDS(raise(SIGSEGV));
    ENDS(kill(getpid(), SIGBUS));
    ENDS(overflow(NULL));
    ENDS(sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = 65536 }, NULL); overflow(NULL));
    ENDS(sigset_t all; sigfillset(&all); sigprocmask(SIG_SETMASK, &all, NULL); *(volatile char *)hole = 1);
    ENDS(signal(SIGSEGV, SIG_IGN); raise(SIGSEGV); show(SIGSEGV); *(volatile char *)hole = 1);
    ENDS(abort());

    /* A handler. */
    set(SIGSEGV, 0);
    set(SIGBUS, SA_NODEFER);
    show(SIGSEGV);
    fails();
    touch("hole", hole);
    touch("no canonical address", (char *)0x8000000000000000ul);
    touch("beyond the file", beyond);
    MUST(sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = 65536 }, NULL));
    set(SIGSEGV, SA_ONSTACK);
    touch("on a stack", hole);
    fails();
    ran = 0;
    raise(SIGSEGV);
    say("raised: %d, code %d, from me %d", ran, code, from_me);
    kill(getpid(), SIGBUS);
    say("killed: %d, code %d, from me %d", ran, code, from_me);

    /* Once only; a call's own fault is not that once. */
    set(SIGSEGV, SA_RESETHAND);
    fails();
    show(SIGSEGV);
    touch("once", hole);
    show(SIGSEGV);
    fails();
    ENDS(*(volatile char *)hole = 1);
    set(SIGSEGV, SA_RESETHAND | SA_NODEFER);
    raise(SIGSEGV);
    show(SIGSEGV);

    /* The older functions. */
    YES(signal(SIGSEGV, (void (*)(int))(void *)segv) == SIG_DFL);
    show(SIGSEGV);
    fails();
    YES(signal(SIGSEGV, SIG_IGN) == (void (*)(int))(void *)segv);
    raise(SIGSEGV);
    fails();
    YES(signal(SIGSEGV, SIG_DFL) == SIG_IGN);
    fails();
    ENDS(*(volatile char *)hole = 1);
    VAL(getval(sem, 0));
    return 0;
}
