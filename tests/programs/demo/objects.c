/* Processes that share POSIX synchronisation objects in a System V segment:
 * sem_t, mutex, condition variable, barrier, read-write lock.
 *
 *     objects ID N PATH ROUNDS
 *
 * N parties, of which 0 makes the segment; each may be on another kernel. The
 * time of a sem_t passed on around all of them is printed as a JSON line. */
#include "demo.h"

#include <pthread.h>
#include <semaphore.h>

#define PARTIES 8
#define QUEUE 8
#define STOP (-1)

struct shared {
    sem_t turn[PARTIES];
    pthread_barrier_t all;
    pthread_mutex_t mutex, robust;
    pthread_cond_t full, empty;
    pthread_rwlock_t rw;
    long number, robustly, sum, in, out, taken;
    int queue[QUEUE];
    long a, b;
};

/* A pthread function's error. */
#define OK(...)                                    \
    do {                                           \
        int e_ = __VA_ARGS__;                      \
        errno = e_;                                \
        if (e_ && e_ != PTHREAD_BARRIER_SERIAL_THREAD) \
            fail("%s", #__VA_ARGS__);              \
    } while (0)

static struct shared *s;
static int me, parties;

static void make(void)
{
    pthread_mutexattr_t m;
    pthread_condattr_t c;
    pthread_barrierattr_t b;
    pthread_rwlockattr_t r;
    for (int i = 0; i < parties; i++)
        MUST(sem_init(&s->turn[i], 1, i == 0));
    OK(pthread_mutexattr_init(&m));
    OK(pthread_mutexattr_setpshared(&m, PTHREAD_PROCESS_SHARED));
    OK(pthread_mutex_init(&s->mutex, &m));
    OK(pthread_mutexattr_setrobust(&m, PTHREAD_MUTEX_ROBUST));
    OK(pthread_mutex_init(&s->robust, &m));
    OK(pthread_condattr_init(&c));
    OK(pthread_condattr_setpshared(&c, PTHREAD_PROCESS_SHARED));
    OK(pthread_cond_init(&s->full, &c));
    OK(pthread_cond_init(&s->empty, &c));
    OK(pthread_barrierattr_init(&b));
    OK(pthread_barrierattr_setpshared(&b, PTHREAD_PROCESS_SHARED));
    OK(pthread_barrier_init(&s->all, &b, (unsigned)parties));
    OK(pthread_rwlockattr_init(&r));
    OK(pthread_rwlockattr_setpshared(&r, PTHREAD_PROCESS_SHARED));
    OK(pthread_rwlock_init(&s->rw, &r));
}

static void put(int what)
{
    OK(pthread_mutex_lock(&s->mutex));
    while (s->in - s->out == QUEUE)
        OK(pthread_cond_wait(&s->full, &s->mutex));
    s->queue[s->in++ % QUEUE] = what;
    OK(pthread_cond_signal(&s->empty));
    OK(pthread_mutex_unlock(&s->mutex));
}

static int take(void)
{
    OK(pthread_mutex_lock(&s->mutex));
    while (s->in == s->out)
        OK(pthread_cond_wait(&s->empty, &s->mutex));
    int what = s->queue[s->out++ % QUEUE];
    if (what != STOP) {
        s->sum += what;
        s->taken++;
    }
    OK(pthread_cond_signal(&s->full));
    OK(pthread_mutex_unlock(&s->mutex));
    return what;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: objects ID N PATH ROUNDS\n");
        return 2;
    }
    begin();
    me = atoi(argv[1]), parties = atoi(argv[2]);
    long rounds = atol(argv[4]);
    CHECK(me >= 0 && me < parties && parties > 1 && parties <= PARTIES && rounds > 0, "an argument is out of range");
    key_t key = MUST(ftok(argv[3], 'o'));
    int set;
    if (me == 0) {
        remove_old(key);
        s = MUST(shmat(MUST(shmget(key, sizeof *s, IPC_CREAT | IPC_EXCL | 0600)), NULL, 0));
        make();
        set = MUST(semget(key, 1, IPC_CREAT | IPC_EXCL | 0600));
        MUST(up(set, 0, 1));
    } else {
        set = wait_for_set(key);
        s = MUST(shmat(MUST(shmget(key, 0, 0)), NULL, 0));
    }

    /* All arrive before any leaves. */
    OK(pthread_barrier_wait(&s->all));

    /* A turn goes round; each adds one. */
    uint64_t *stamps = calloc((size_t)rounds + 1, sizeof *stamps);
    CHECK(stamps, "no memory for the time stamps");
    memset(stamps, 1, ((size_t)rounds + 1) * sizeof *stamps);
    double start = now();
    stamps[0] = ticks();
    for (long i = 0; i < rounds; i++) {
        MUST(sem_wait(&s->turn[me]));
        CHECK(s->number == i * parties + me, "round %ld: the number is %ld", i, s->number);
        s->number++;
        MUST(sem_post(&s->turn[(me + 1) % parties]));
        stamps[i + 1] = ticks();
    }
    if (me == 0)
        report_stamps("objects", "sem_t", parties, stamps, rounds, now() - start);
    OK(pthread_barrier_wait(&s->all));
    CHECK(s->number == rounds * parties, "the number is %ld", s->number);
    OK(pthread_barrier_wait(&s->all));

    /* Under a mutex, a robust one, and a read-write lock, nothing is lost. */
    for (long i = 0; i < rounds; i++) {
        OK(pthread_mutex_lock(&s->mutex));
        s->number--;
        OK(pthread_mutex_unlock(&s->mutex));
        OK(pthread_mutex_lock(&s->robust));
        s->robustly++;
        OK(pthread_mutex_unlock(&s->robust));
        OK(pthread_rwlock_wrlock(&s->rw));
        s->a++;
        s->b++;
        OK(pthread_rwlock_unlock(&s->rw));
        OK(pthread_rwlock_rdlock(&s->rw));
        CHECK(s->a == s->b, "half of a change is seen");
        OK(pthread_rwlock_unlock(&s->rw));
    }
    OK(pthread_barrier_wait(&s->all));
    CHECK(s->number == 0 && s->robustly == rounds * parties && s->a == s->robustly,
          "counted %ld, %ld and %ld", s->number, s->robustly, s->a);

    /* One produces, the others consume. */
    if (me == 0) {
        for (int i = 1; i <= rounds; i++)
            put(i);
        for (int i = 1; i < parties; i++)
            put(STOP);
    } else {
        while (take() != STOP)
            ;
    }
    OK(pthread_barrier_wait(&s->all));
    CHECK(s->taken == rounds && s->sum == rounds * (rounds + 1) / 2, "%ld taken, their sum is %ld", s->taken, s->sum);

    /* Many barriers on end. */
    double before = now();
    for (long i = 0; i < rounds; i++)
        OK(pthread_barrier_wait(&s->all));
    if (me == 0) {
        printf("{\"test\":\"objects\",\"how\":\"barrier\",\"size\":%d,\"unit\":\"us\",\"mean\":%.3f}\n", parties,
               (now() - before) * 1e6 / (double)rounds);
        OK(pthread_barrier_destroy(&s->all));
        MUST(shmctl(shmget(key, 0, 0), IPC_RMID, NULL));
        MUST(semctl(set, 0, IPC_RMID));
    } else {
        await_removal(set);
    }
    return 0;
}
