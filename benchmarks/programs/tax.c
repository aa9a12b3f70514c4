/* What the preload costs a program that has no use for it, in plain C: the
 * runner starts the same binary with and without.
 *
 *     tax NAME AMOUNT [attached]
 *
 * An attached one makes a semaphore set first, so that it is a user of System V
 * IPC while it does the rest. */
#include "bench.h"
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define ZERO(...)                                                          \
    do {                                                                   \
        int must_ = __VA_ARGS__;                                           \
        if (must_ != 0) {                                                  \
            fprintf(stderr, "%s: %s\n", #__VA_ARGS__, strerror(must_));    \
            exit(1);                                                       \
        }                                                                  \
    } while (0)

extern char **environ;

static double seconds(struct timeval t) { return (double)t.tv_sec + (double)t.tv_usec / 1e6; }

/* Processor time of this process and its ended children: what other programs
 * do at the same time changes it less than the time on the clock. */
static double spent(void)
{
    struct rusage own, children;
    MUST(getrusage(RUSAGE_SELF, &own));
    MUST(getrusage(RUSAGE_CHILDREN, &children));
    return 1e9 * (seconds(own.ru_utime) + seconds(own.ru_stime) + seconds(children.ru_utime) +
                  seconds(children.ru_stime));
}

/* A whole small program: loader, start, end. */
static void start(void)
{
    static char name[] = "/bin/true";
    char *arguments[] = { name, NULL };
    pid_t pid;
    ZERO(posix_spawn(&pid, name, NULL, NULL, arguments, environ));
    ended(pid);
}

static void forks(void)
{
    pid_t pid = MUST(fork());
    if (pid == 0)
        _exit(0);
    ended(pid);
}

static void vforks(void)
{
    pid_t pid = MUST(vfork());
    if (pid == 0)
        _exit(0);
    ended(pid);
}

/* An exec that fails: what it costs before the kernel has it. */
static void execs(void)
{
    static char name[] = "/nonexistent";
    char *arguments[] = { name, NULL };
    if (execv(name, arguments) == 0 || errno != ENOENT)
        exit(1);
}

static void waits(void)
{
    int status;
    if (waitpid(-1, &status, WNOHANG) != -1 || errno != ECHILD)
        exit(1);
}

static void maps(void)
{
    void *at = MUST(mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    MUST(munmap(at, 1 << 16));
}

static void protects(void)
{
    static void *at;
    if (at == NULL)
        at = MUST(mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    MUST(mprotect(at, 1 << 16, PROT_READ));
    MUST(mprotect(at, 1 << 16, PROT_READ | PROT_WRITE));
}

static void opens(void) { MUST(close(MUST(open("/dev/null", O_RDONLY | O_CLOEXEC)))); }

static void streams(void)
{
    FILE *file = fopen("/dev/null", "r");
    if (file == NULL || fclose(file) != 0)
        exit(1);
}

static void handler(int signal) { (void)signal; }

static void actions(void)
{
    struct sigaction action = { .sa_handler = handler };
    MUST(sigaction(SIGUSR1, &action, NULL));
    MUST(sigaction(SIGUSR1, NULL, &action));
}

static void signals(void)
{
    static int ready;
    if (!ready) {
        actions();
        ready = 1;
    }
    MUST(raise(SIGUSR1));
}

static void mutexes(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    ZERO(pthread_mutex_lock(&mutex));
    ZERO(pthread_mutex_unlock(&mutex));
}

static void raw(void) { MUST(syscall(SYS_getppid)); }

static void *churn(void *argument)
{
    unsigned seed = (unsigned)(size_t)argument + 1;
    void *held[64] = { NULL };
    for (int i = 0; i < 20000; i++) {
        seed = seed * 1103515245 + 12345;
        unsigned slot = seed >> 16 & 63;
        free(held[slot]);
        held[slot] = malloc(16 + (seed >> 8 & 0xffff));
        *(volatile char *)held[slot] = 1;
    }
    for (int i = 0; i < 64; i++)
        free(held[i]);
    return NULL;
}

/* Two threads that allocate and free. */
static void allocations(void)
{
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++)
        ZERO(pthread_create(&threads[i], NULL, churn, (void *)i));
    for (int i = 0; i < 2; i++)
        ZERO(pthread_join(threads[i], NULL));
}

static void *nothing(void *argument) { return argument; }

static void threads(void)
{
    pthread_t thread;
    ZERO(pthread_create(&thread, NULL, nothing, NULL));
    ZERO(pthread_join(thread, NULL));
}

static const struct {
    const char *name;
    void (*code)(void);
    int batch;
    double (*clock)(void);
} CODES[] = {
    { "start", start, 1, now },
    { "start-processor", start, 20, spent },
    { "fork", forks, 1, now },
    { "vfork", vforks, 1, now },
    { "exec-fails", execs, 500, now },
    { "waitpid", waits, 2000, now },
    { "munmap", maps, 500, now },
    { "mprotect", protects, 500, now },
    { "open-close", opens, 500, now },
    { "fopen-fclose", streams, 500, now },
    { "sigaction", actions, 500, now },
    { "signal", signals, 500, now },
    { "mutex", mutexes, 20000, now },
    { "syscall", raw, 2000, now },
    { "malloc", allocations, 1, now },
    { "thread", threads, 20, now },
};

int main(int argc, char **argv)
{
    int attached = argc == 4 && !strcmp(argv[3], "attached"), set = -1;
    if (argc != 3 && !attached) {
        fprintf(stderr, "usage: tax NAME AMOUNT [attached]\n");
        return 2;
    }
    amount(argv[2]);
    alarm(120);
    if (attached) {
        struct sembuf op = { 0, 1, 0 };
        set = MUST(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600));
        MUST(semop(set, &op, 1));
    }
    for (size_t i = 0; i < sizeof CODES / sizeof CODES[0]; i++) {
        if (strcmp(argv[1], CODES[i].name) != 0)
            continue;
        CODES[i].code();
        double begun = now();
        do {
            double start = CODES[i].clock();
            for (int b = 0; b < CODES[i].batch; b++)
                CODES[i].code();
            printf("%.1f\n", (CODES[i].clock() - start) / CODES[i].batch);
        } while (now() - begun < slice);
        if (set != -1)
            MUST(semctl(set, 0, IPC_RMID));
        return 0;
    }
    fprintf(stderr, "tax: there is no '%s'\n", argv[1]);
    return 2;
}
