/* How much stack a handler has left: where the kernel leaves it room to work, so is there when what
 * it interrupts is a call that waits, and when handlers interrupt handlers. */
#include "vt.h"
#include <sys/auxv.h>

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif
/* What a stack for handlers has besides the kernel's frame, half of it for the handler itself; and
 * what a handler's level may cost besides the frame. */
enum { ROOM = 2048, PASSED = 512, LEVELS = 100 };
static int sem, queue;
static char *first, *last;
static volatile sig_atomic_t level;

/* The frame that the kernel makes grows with the processor's registers. */
static size_t frame(void)
{
    size_t known = getauxval(AT_MINSIGSTKSZ);
    return known ? known : MINSIGSTKSZ;
}

static void works(int s)
{
    char own[ROOM / 2];
    (void)s;
    memset(own, 1, sizeof own);
    __asm__ volatile("" : : "r"(own) : "memory");
    signals_seen++;
}

/* Less than any SIGSTKSZ; below it nothing may be touched. */
static void small_stack(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = frame() + ROOM;
    char *at = mmap(NULL, page + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        die("mmap");
    MUST(mprotect(at, page, PROT_NONE));
    MUST(sigaltstack(&(stack_t){ .ss_sp = at + page, .ss_size = size }, NULL));
    struct sigaction sa = { .sa_handler = works, .sa_flags = SA_ONSTACK };
    MUST(sigaction(SIGUSR1, &sa, NULL));
}

static pid_t waiter;
static pthread_t target;
static void *kicks(void *none)
{
    (void)none;
    wait_asleep(waiter);
    pthread_kill(target, SIGUSR1);
    return NULL;
}

#define INTERRUPTED(what, ...)                         \
    do {                                               \
        pthread_t t_;                                  \
        MUST(-pthread_create(&t_, NULL, kicks, NULL)); \
        show_rc(what, __VA_ARGS__);                    \
        pthread_join(t_, NULL);                        \
    } while (0)

static void deeper(int s)
{
    last = __builtin_frame_address(0);
    if (level++ == 0)
        first = last;
    if (level < LEVELS)
        raise(s);
}

int main(void)
{
    begin();
    sem = new_sem(2);
    queue = new_msg();
    message m;
    waiter = gettid_();
    target = pthread_self();

    small_stack();
    INTERRUPTED("semop", SEMOP(sem, OP(0, -1, 0)));
    INTERRUPTED("two operations", SEMOP(sem, OP(1, 1, SEM_UNDO), OP(0, -1, SEM_UNDO)));
    INTERRUPTED("msgrcv", msgrcv(queue, &m, 100, 0, 0));
    say("handlers: %d", signals_seen);
    say("waiting %d, value %d", ncnt(sem, 0), getval(sem, 1));

    struct sigaction sa = { .sa_handler = deeper, .sa_flags = SA_NODEFER };
    MUST(sigaction(SIGUSR1, &sa, NULL));
    raise(SIGUSR1);
    VAL(level);
    if (getenv("VERBOSE"))
        fprintf(stderr, "%ld bytes a level, %zu of them the kernel's\n", (long)(first - last) / (LEVELS - 1), frame());
    YES((first - last) / (LEVELS - 1) < (long)frame() + PASSED);
    return 0;
}
