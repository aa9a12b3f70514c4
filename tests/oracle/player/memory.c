/* Attaching, and what a program does to its address space. */
#include "player.h"

static int is(const char *a, const char *b) { return !strcmp(a, b); }

/* null, f3 (the arena's fourth 64 KiB), f3+0x800, or a0 (what was attached there). */
static char *address(struct slot *me, const char *text)
{
    if (text[0] == 'n')
        return NULL;
    const char *plus = strchr(text, '+');
    long offset = plus ? number(plus + 1) : 0;
    if (text[0] == 'f')
        return ARENA + strtol(text + 1, NULL, 10) * 0x10000 + offset;
    if (text[0] == 'a' && text[1] >= '0' && text[1] < '0' + NAMES) {
        char *at = me->address[text[1] - '0'];
        return at ? at + offset : NULL;
    }
    return (char *)number(text);
}

static int inside(const char *at, long n)
{
    return at >= ARENA && n >= 0 && n <= ARENA_SIZE && at + n <= ARENA + ARENA_SIZE;
}

static sigjmp_buf fault;

static void faulted(int sig)
{
    siglongjmp(fault, sig);
}

/* Runs a look at memory that may not be there: 0, or the signal it gave. */
#define TRY(...)                                                                 \
    ({                                                                           \
        struct sigaction new_ = { .sa_handler = faulted }, old_[2];              \
        sigaction(SIGSEGV, &new_, &old_[0]);                                     \
        sigaction(SIGBUS, &new_, &old_[1]);                                      \
        int sig_ = sigsetjmp(fault, 1);                                          \
        if (sig_ == 0) {                                                         \
            __VA_ARGS__;                                                         \
        }                                                                        \
        sigaction(SIGSEGV, &old_[0], NULL);                                      \
        sigaction(SIGBUS, &old_[1], NULL);                                       \
        sig_;                                                                    \
    })

static void forget(struct slot *me, const char *at)
{
    for (int i = 0; i < NAMES; i++)
        if (me->address[i] == at)
            me->address[i] = NULL;
}

static void attach(struct slot *me, struct words *w, char **out)
{
    char *want = address(me, w->at[2]);
    int how = (int)flags(w->at[3]);
    if (want && (how & SHM_REMAP) && !inside(want, 0)) {
        put(out, "skip");
        return;
    }
    char *at = shmat(id_of(w->at[1]), want, how);
    if (at == (char *)-1) {
        put(out, "%s", ename(errno));
        return;
    }
    if (inside(at, 0))
        put(out, "arena+0x%lx", (long)(at - ARENA));
    else
        put(out, "somewhere%s", ((uintptr_t)at & 4095) ? " unaligned" : "");
    if (w->n > 4 && w->at[4][0] == '=' && !inside(at, 0))
        me->address[(w->at[4][2] - '0') & (NAMES - 1)] = at;
}

static void plain(char **out, long rc)
{
    if (rc == -1)
        put(out, "%s", ename(errno));
    else
        put(out, "%ld", rc);
}

int do_memory(struct slot *me, struct words *w, char **out)
{
    const char *call = w->at[0];
    if (is(call, "shmat")) {
        attach(me, w, out);
        return 1;
    }
    if (is(call, "shmdt")) {
        char *at = address(me, w->at[1]);
        int rc = shmdt(at);
        plain(out, rc);
        if (rc == 0)
            forget(me, at);
        return 1;
    }
    int known = is(call, "peek") || is(call, "poke") || is(call, "munmap") || is(call, "mprotect") ||
                is(call, "mmap");
    if (!known)
        return 0;
    volatile char *at = address(me, w->at[1]);
    long n = number(w->at[2]);
    if (is(call, "peek") || is(call, "poke")) {
        static char copy[1 << 16];
        n = n < (long)sizeof copy ? n : (long)sizeof copy;
        /* Where the kernel chose the place, what is behind the first page may be anything. */
        long first = inside((char *)at, n) ? n : 4096 - (long)((uintptr_t)at & 4095);
        int behind = w->at[1][0] == 'a' && strchr(w->at[1], '+') && number(strchr(w->at[1], '+')) > 4095;
        n = n < first ? n : first;
        if (!at || behind) {
            put(out, "skip");
            return 1;
        }
        int sig;
        if (call[1] == 'e')
            sig = TRY(memcpy(copy, (char *)at, (size_t)n));
        else
            sig = TRY(memset((char *)at, (int)number(w->at[3]), (size_t)n));
        if (sig)
            put(out, "%s", sigabbrev_np(sig));
        else if (call[1] == 'e')
            put(out, "%08x", hash(copy, (size_t)n));
        else
            put(out, "0");
    } else if (!inside((char *)at, n)) {
        put(out, "skip");
    } else if (is(call, "munmap")) {
        plain(out, munmap((char *)at, (size_t)n));
    } else if (is(call, "mprotect")) {
        plain(out, mprotect((char *)at, (size_t)n, w->at[3][0] == '0' ? 0 : (int)flags(w->at[3])));
    } else {
        char *got = mmap((char *)at, (size_t)n, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        plain(out, got == MAP_FAILED ? -1 : 0);
    }
    return 1;
}
