/* Micro-codes on System V IPC, in plain C: the runner starts the same binary on
 * the kernel and under vshmem.
 *
 *     micro NAME COUNT
 *
 * Prints one number per line: nanoseconds of one operation, each the mean of a
 * batch, or of one round trip where two processes take turns. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BATCH 2000

#define MUST(...)                                                          \
    ({                                                                     \
        __typeof__(__VA_ARGS__) must_ = __VA_ARGS__;                       \
        if ((long)must_ == -1) {                                           \
            fprintf(stderr, "%s: %s\n", #__VA_ARGS__, strerror(errno));    \
            exit(1);                                                       \
        }                                                                  \
        must_;                                                             \
    })

static int sem, queue;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void add(int n, int by, int flags)
{
    struct sembuf op = { (unsigned short)n, (short)by, (short)flags };
    MUST(semop(sem, &op, 1));
}

struct text { long mtype; char bytes[64]; };

static void put(long type)
{
    struct text m = { .mtype = type };
    MUST(msgsnd(queue, &m, sizeof m.bytes, 0));
}

static void get(long type)
{
    struct text m;
    MUST(msgrcv(queue, &m, sizeof m.bytes, type, 0));
}

static void sem_pair(void) { add(0, 1, 0), add(0, -1, 0); }
static void sem_undo_pair(void) { add(0, 1, SEM_UNDO), add(0, -1, SEM_UNDO); }
static void sem_multi(void)
{
    struct sembuf op[] = { { 0, 1, 0 }, { 1, 1, 0 }, { 1, -1, 0 }, { 0, -1, 0 } };
    MUST(semop(sem, op, 4));
}
static void sem_read(void) { MUST(semctl(sem, 0, GETVAL)); }
static void msg_pair(void) { put(1), get(0); }
static void msg_type_pair(void) { put(7), get(7); }
static void shm_cycle(void)
{
    int id = MUST(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600));
    char *p = MUST(shmat(id, NULL, 0));
    *p = 1;
    MUST(shmdt(p));
    MUST(shmctl(id, IPC_RMID, NULL));
}

/* In a segment, and in memory of our own. */
struct objects { sem_t unit, turn[2]; pthread_mutex_t mutex; };
static struct objects *shared, own;

static void init(struct objects *o, int pshared)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, pshared);
    pthread_mutex_init(&o->mutex, &attr);
    sem_init(&o->unit, pshared, 0);
    for (int i = 0; i < 2; i++)
        sem_init(&o->turn[i], pshared, 0);
}

static void make_objects(void)
{
    int id = MUST(shmget(IPC_PRIVATE, sizeof *shared, IPC_CREAT | 0600));
    shared = MUST(shmat(id, NULL, 0));
    MUST(shmctl(id, IPC_RMID, NULL));
    init(shared, PTHREAD_PROCESS_SHARED);
    init(&own, PTHREAD_PROCESS_PRIVATE);
}

static void unit_pair(void) { sem_post(&shared->unit), sem_wait(&shared->unit); }
static void own_unit_pair(void) { sem_post(&own.unit), sem_wait(&own.unit); }
static void mutex_pair(void) { pthread_mutex_lock(&shared->mutex), pthread_mutex_unlock(&shared->mutex); }
static void own_mutex_pair(void) { pthread_mutex_lock(&own.mutex), pthread_mutex_unlock(&own.mutex); }

static void batches(void (*operation)(void), long count, long batch)
{
    for (long i = 0; i < batch; i++)
        operation();
    for (long n = 0; n < count; n++) {
        double start = now();
        for (long i = 0; i < batch; i++)
            operation();
        printf("%.3f\n", (now() - start) / (double)batch);
    }
}

static void sem_give(int side) { add(!side, 1, 0); }
static void sem_take(int side) { add(side, -1, 0); }
static void msg_give(int side) { put(1 + !side); }
static void msg_take(int side) { get(1 + side); }

static void unit_give(int side) { sem_post(&shared->turn[!side]); }
static void unit_take(int side) { MUST(sem_wait(&shared->turn[side])); }

static int pinned;

/* The nth processor that we may use, so that two processes really run at once;
 * with one processor they share it. */
static void pin(int n)
{
    if (!pinned)
        return;
    cpu_set_t all, one;
    MUST(sched_getaffinity(0, sizeof all, &all));
    n %= CPU_COUNT(&all);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && n-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            sched_setaffinity(0, sizeof one, &one);
        }
}

/* Two processes take turns. */
static void turns(void (*give)(int), void (*take)(int), long count)
{
    pid_t child = MUST(fork());
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(1);
        for (long i = 0; i < count + 100; i++)
            take(1), give(1);
        _exit(0);
    }
    pin(0);
    for (long i = 0; i < 100; i++)
        give(0), take(0);
    double *took = MUST(mmap(NULL, (size_t)count * sizeof *took, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
    double before = now();
    for (long i = 0; i < count; i++) {
        give(0), take(0);
        double after = now();
        took[i] = after - before;
        before = after;
    }
    waitpid(child, NULL, 0);
    for (long i = 0; i < count; i++)
        printf("%.1f\n", took[i]);
}

/* One sends, the other receives; each batch is what the receiver saw. */
static void stream(long count)
{
    pid_t child = MUST(fork());
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(1);
        for (long i = 0; i < (count + 1) * BATCH; i++)
            put(1);
        _exit(0);
    }
    pin(0);
    for (long n = 0; n <= count; n++) {
        double start = now();
        for (long i = 0; i < BATCH; i++)
            get(0);
        if (n > 0)
            printf("%.3f\n", (now() - start) / BATCH);
    }
    waitpid(child, NULL, 0);
}

static void remove_all(void)
{
    semctl(sem, 0, IPC_RMID);
    msgctl(queue, IPC_RMID, NULL);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: micro NAME[-pinned] COUNT\n");
        return 2;
    }
    char *name = argv[1], *rest = strstr(argv[1], "-pinned");
    long count = atol(argv[2]);
    if (rest)
        *rest = 0, pinned = 1;
    alarm(120);
    sem = MUST(semget(IPC_PRIVATE, 2, IPC_CREAT | 0600));
    queue = MUST(msgget(IPC_PRIVATE, IPC_CREAT | 0600));
    make_objects();
    if (!strcmp(name, "sem-pair"))
        batches(sem_pair, count, BATCH);
    else if (!strcmp(name, "sem-undo-pair"))
        batches(sem_undo_pair, count, BATCH);
    else if (!strcmp(name, "sem-multi"))
        batches(sem_multi, count, BATCH);
    else if (!strcmp(name, "sem-read"))
        batches(sem_read, count, BATCH);
    else if (!strcmp(name, "msg-pair"))
        batches(msg_pair, count, BATCH);
    else if (!strcmp(name, "msg-type-pair"))
        batches(msg_type_pair, count, BATCH);
    else if (!strcmp(name, "shm-cycle"))
        batches(shm_cycle, count, 50);
    else if (!strcmp(name, "unit-pair"))
        batches(unit_pair, count, BATCH);
    else if (!strcmp(name, "own-unit-pair"))
        batches(own_unit_pair, count, BATCH);
    else if (!strcmp(name, "mutex-pair"))
        batches(mutex_pair, count, BATCH);
    else if (!strcmp(name, "own-mutex-pair"))
        batches(own_mutex_pair, count, BATCH);
    else if (!strcmp(name, "unit-turns"))
        turns(unit_give, unit_take, count);
    else if (!strcmp(name, "sem-turns"))
        turns(sem_give, sem_take, count);
    else if (!strcmp(name, "msg-turns"))
        turns(msg_give, msg_take, count);
    else if (!strcmp(name, "msg-stream"))
        stream(count);
    else {
        fprintf(stderr, "micro: there is no '%s'\n", name);
        remove_all();
        return 2;
    }
    remove_all();
    return 0;
}
