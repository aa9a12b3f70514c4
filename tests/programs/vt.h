/* Shared by the conformance programs.
 *
 * Every program prints only what must be equal on any implementation of
 * System V IPC: names of errno, values, relations ("cpid == self: yes"), never
 * an id, a pid, an address or a time. Its exit code is non-zero only when the
 * program itself could not do its work, so that a wrong result shows up as a
 * differing line, not as a mere failure.
 */
#ifndef VT_H
#define VT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A program that takes longer than this hangs. */
#define WATCHDOG_SECONDS 60
/* Exit code of a program that could not do its own work. */
#define INTERNAL 70
#define UNUSED __attribute__((unused))

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
    struct seminfo *info;
};

UNUSED static const char *ename(int e)
{
    static char other[32];
#define E(x) case x: return #x
    switch (e) {
    E(E2BIG); E(EACCES); E(EAGAIN); E(EEXIST); E(EFAULT); E(EFBIG); E(EIDRM);
    E(EINTR); E(EINVAL); E(EIO); E(ENOENT); E(ENOMEM); E(ENOMSG); E(ENOSPC);
    E(ENOSYS); E(EPERM); E(ERANGE); E(ETIMEDOUT); E(EBUSY); E(ECHILD);
    }
#undef E
    snprintf(other, sizeof other, "errno %d", e);
    return other;
}

__attribute__((format(printf, 1, 2))) UNUSED static void say(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

__attribute__((format(printf, 1, 2), noreturn)) UNUSED static void die(const char *fmt, ...)
{
    int e = errno;
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, ": %s\n", ename(e));
    exit(INTERNAL);
}

UNUSED static long show_rc(const char *text, long rc)
{
    int e = errno;
    say("%s: %s", text, rc == -1 ? ename(e) : "ok");
    errno = e;
    return rc;
}

UNUSED static long show_val(const char *text, long rc)
{
    int e = errno;
    if (rc == -1)
        say("%s: %s", text, ename(e));
    else
        say("%s: %ld", text, rc);
    errno = e;
    return rc;
}

/* Prints the call and "ok" or its errno; gives its value back. */
#define RC(...) show_rc(#__VA_ARGS__, (long)(__VA_ARGS__))
/* Prints the call and its value or its errno; gives its value back. */
#define VAL(...) show_val(#__VA_ARGS__, (long)(__VA_ARGS__))
/* Prints a relation and whether it holds. */
#define YES(...) say("%s: %s", #__VA_ARGS__, (__VA_ARGS__) ? "yes" : "no")
/* A call that must succeed for the program to make sense. */
#define MUST(...)                                    \
    ({                                               \
        __typeof__(__VA_ARGS__) must_ = __VA_ARGS__; \
        if ((long)must_ == -1)                       \
            die("%s", #__VA_ARGS__);                 \
        must_;                                       \
    })

/* ---- what a program made is removed however it ends ---- */

static struct { char kind; int id; pid_t owner; } made[4096];
static int made_count;

UNUSED static void remove_made(void)
{
    for (int i = 0; i < made_count; i++) {
        if (made[i].owner != getpid())
            continue;
        switch (made[i].kind) {
        case 'm': shmctl(made[i].id, IPC_RMID, NULL); break;
        case 's': semctl(made[i].id, 0, IPC_RMID); break;
        case 'q': msgctl(made[i].id, IPC_RMID, NULL); break;
        }
    }
}

UNUSED static int keep(char kind, int id)
{
    if (id != -1 && made_count < (int)(sizeof made / sizeof made[0])) {
        made[made_count].kind = kind;
        made[made_count].id = id;
        made[made_count++].owner = getpid();
    }
    return id;
}

UNUSED static int new_shm(size_t size) { return keep('m', MUST(shmget(IPC_PRIVATE, size, IPC_CREAT | 0600))); }
UNUSED static int new_sem(int n) { return keep('s', MUST(semget(IPC_PRIVATE, n, IPC_CREAT | 0600))); }
UNUSED static int new_msg(void) { return keep('q', MUST(msgget(IPC_PRIVATE, IPC_CREAT | 0600))); }

static pid_t main_pid;

/* A key no other program that runs now uses. */
UNUSED static key_t key(int n) { return (key_t)(((unsigned)main_pid << 8) | (unsigned)n); }

UNUSED static void begin(void)
{
    main_pid = getpid();
    /* Lines leave at once, so that a fork never copies a full buffer. */
    setvbuf(stdout, NULL, _IOLBF, 1 << 16);
    umask(0);
    alarm(WATCHDOG_SECONDS);
    atexit(remove_made);
}

/* ---- children ----
 *
 * What a child prints is kept aside and shown when it is reaped: a waker and
 * the woken would otherwise race for the next line. */

static struct { pid_t pid; int lines; } kept[256];
static int kept_count;

UNUSED static pid_t spawn(void)
{
    int lines = MUST(memfd_create("lines", MFD_CLOEXEC));
    fflush(NULL);
    pid_t pid = MUST(fork());
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(WATCHDOG_SECONDS);
        MUST(dup2(lines, 1));
        close(lines);
        kept_count = 0;
        return 0;
    }
    if (kept_count == (int)(sizeof kept / sizeof kept[0]))
        die("too many children");
    kept[kept_count].pid = pid;
    kept[kept_count++].lines = lines;
    return pid;
}

UNUSED static void show_lines(pid_t pid)
{
    char text[4096];
    ssize_t n;
    for (int i = 0; i < kept_count; i++) {
        if (kept[i].pid != pid)
            continue;
        for (off_t at = 0; (n = pread(kept[i].lines, text, sizeof text, at)) > 0; at += n)
            fwrite(text, 1, (size_t)n, stdout);
        fflush(stdout);
        close(kept[i].lines);
        kept[i] = kept[--kept_count];
        return;
    }
}

/* Waits for the child, or for any with -1, and says so if it did not leave with 0. */
UNUSED static void reap(pid_t pid)
{
    int status;
    pid = MUST(waitpid(pid, &status, 0));
    show_lines(pid);
    if (WIFSIGNALED(status))
        say("child died of %s", strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) != 0)
        say("child left with %d", WEXITSTATUS(status));
}

UNUSED static void kill_and_reap(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    if (waitpid(pid, &status, 0) != pid)
        die("waitpid");
    show_lines(pid);
    if (!WIFSIGNALED(status))
        say("child was not killed");
}

/* Runs the block in a child, and waits for it. */
#define IN_CHILD(...)            \
    do {                         \
        pid_t pid_ = spawn();    \
        if (pid_ == 0) {         \
            __VA_ARGS__;         \
            exit(0);             \
        }                        \
        reap(pid_);              \
    } while (0)

/* A gate: one side waits until the other opens it. */
typedef struct { int fd[2]; } gate;

UNUSED static gate new_gate(void)
{
    gate g;
    MUST(pipe(g.fd));
    return g;
}
UNUSED static void gate_open(gate g)
{
    if (write(g.fd[1], "x", 1) != 1)
        die("gate_open");
}
UNUSED static void gate_wait(gate g)
{
    char c;
    ssize_t n;
    do
        n = read(g.fd[0], &c, 1);
    while (n == -1 && errno == EINTR);
    if (n != 1)
        die("gate_wait");
}

/* Memory that processes of the program share without System V IPC. */
UNUSED static void *scratch(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        die("mmap");
    return p;
}

UNUSED static void nap_ms(long ms)
{
    struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
    nanosleep(&t, NULL);
}

UNUSED static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* Waits, up to ten seconds, until the condition holds. */
#define UNTIL(...)                                        \
    do {                                                  \
        double until_ = now() + 10;                       \
        while (!(__VA_ARGS__)) {                          \
            if (now() > until_) {                         \
                say("never true: %s", #__VA_ARGS__);      \
                break;                                    \
            }                                             \
            nap_ms(1);                                    \
        }                                                 \
    } while (0)

/* Waits until the thread sleeps: in state S, without a switch, five looks on
 * end. Used where no call of the interface tells that a task is blocked. The
 * thread must have announced itself (a gate) right before its blocking call. */
UNUSED static void wait_asleep(pid_t tid)
{
    char path[64], line[256];
    long last = -1;
    double until = now() + 10;
    for (int calm = 0; calm < 5;) {
        long switches = 0;
        char state = '?';
        snprintf(path, sizeof path, "/proc/%d/status", tid);
        FILE *f = fopen(path, "r");
        if (!f)
            die("%s", path);
        while (fgets(line, sizeof line, f)) {
            sscanf(line, "State: %c", &state);
            sscanf(line, "voluntary_ctxt_switches: %ld", &switches);
        }
        fclose(f);
        calm = state == 'S' && switches == last ? calm + 1 : 0;
        last = switches;
        if (now() > until) {
            say("never asleep");
            return;
        }
        nap_ms(2);
    }
}

UNUSED static pid_t gettid_(void) { return (pid_t)syscall(SYS_gettid); }

/* ---- signals ---- */

static volatile sig_atomic_t signals_seen;
UNUSED static void count_signal(int s) { (void)s; signals_seen++; }

UNUSED static void catch_signal(int sig, int flags)
{
    struct sigaction sa = { .sa_handler = count_signal, .sa_flags = flags };
    MUST(sigaction(sig, &sa, NULL));
}

/* ---- semaphores ---- */

#define OP(n, d, f) ((struct sembuf){ .sem_num = (n), .sem_op = (d), .sem_flg = (f) })

/* semop with its operations written out: SEMOP(id, OP(0,-1,0), OP(1,1,0)) */
#define SEMOP(id, ...)                                  \
    ({                                                  \
        struct sembuf ops_[] = { __VA_ARGS__ };         \
        semop(id, ops_, sizeof ops_ / sizeof ops_[0]);  \
    })

UNUSED static int getval(int id, int n) { return semctl(id, n, GETVAL); }
UNUSED static int setval(int id, int n, int v) { return semctl(id, n, SETVAL, (union semun){ .val = v }); }
UNUSED static int ncnt(int id, int n) { return semctl(id, n, GETNCNT); }
UNUSED static int zcnt(int id, int n) { return semctl(id, n, GETZCNT); }

/* ---- messages ---- */

typedef struct { long mtype; char text[8192]; } message;

UNUSED static int send_text(int id, long type, const char *text, int flags)
{
    message m = { .mtype = type };
    size_t n = strlen(text);
    memcpy(m.text, text, n);
    return msgsnd(id, &m, n, flags);
}

/* Receives and prints what came: its type, size and text. */
UNUSED static ssize_t recv_text(const char *label, int id, size_t max, long type, int flags)
{
    message m = { .mtype = -77 };
    ssize_t n = msgrcv(id, &m, max, type, flags);
    if (n == -1)
        say("%s: %s", label, ename(errno));
    else
        say("%s: type %ld, %zd bytes, '%.*s'", label, m.mtype, n, (int)n, m.text);
    return n;
}

/* ---- another user ---- */

/* Continues as another user; false, with a line that says so, without root. */
UNUSED static int need_root(void)
{
    if (geteuid() == 0)
        return 1;
    say("SKIP: needs root");
    return 0;
}

UNUSED static void become(uid_t uid, gid_t gid)
{
    gid_t none = gid;
    extern int setgroups(size_t, const gid_t *);
    if (setgroups(1, &none) == -1 || setgid(gid) == -1 || setuid(uid) == -1)
        die("become");
}

#endif
