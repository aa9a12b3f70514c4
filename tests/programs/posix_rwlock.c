/* Process-shared read-write locks in a segment. */
#include "vt.h"

typedef struct {
    pthread_rwlock_t l;
    long a, b, torn, reading, most;
    int up;
} shared;

static shared *s;

#define P(...) say("%s: %s", #__VA_ARGS__, perr(__VA_ARGS__))
static const char *perr(int rc) { return rc == EDEADLK ? "EDEADLK" : rc ? ename(rc) : "ok"; }

static struct timespec in_ms(clockid_t clock, long ms)
{
    struct timespec t;
    clock_gettime(clock, &t);
    t.tv_nsec += ms % 1000 * 1000000;
    t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

static void make(int kind)
{
    pthread_rwlockattr_t a;
    pthread_rwlockattr_init(&a);
    pthread_rwlockattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_rwlockattr_setkind_np(&a, kind);
    memset(&s->l, 0xff, sizeof s->l);
    pthread_rwlock_init(&s->l, &a);
}

static void try_all(void)
{
    struct timespec t = in_ms(CLOCK_REALTIME, 20);
    P(pthread_rwlock_tryrdlock(&s->l));
    P(pthread_rwlock_trywrlock(&s->l));
    P(pthread_rwlock_timedwrlock(&s->l, &t));
}

static void kind(const char *name, int k)
{
    say("-- %s", name);
    make(k);
    P(pthread_rwlock_rdlock(&s->l));
    IN_CHILD({
        P(pthread_rwlock_rdlock(&s->l));
        P(pthread_rwlock_unlock(&s->l));
        try_all();
        P(pthread_rwlock_unlock(&s->l));
    });
    P(pthread_rwlock_unlock(&s->l));
    P(pthread_rwlock_wrlock(&s->l));
    P(pthread_rwlock_wrlock(&s->l));
    P(pthread_rwlock_rdlock(&s->l));
    P(pthread_rwlock_tryrdlock(&s->l));
    IN_CHILD({
        try_all();
        struct timespec t = in_ms(CLOCK_REALTIME, 20);
        P(pthread_rwlock_timedrdlock(&s->l, &t));
        t = in_ms(CLOCK_MONOTONIC, 20);
        P(pthread_rwlock_clockrdlock(&s->l, CLOCK_MONOTONIC, &t));
        P(pthread_rwlock_clockwrlock(&s->l, CLOCK_MONOTONIC, &t));
        t.tv_nsec = -1;
        P(pthread_rwlock_timedrdlock(&s->l, &t));
    });
    P(pthread_rwlock_unlock(&s->l));

    /* Readers see both or none; several read at a time. */
    s->a = s->b = s->torn = s->reading = s->most = 0;
    pid_t kids[6];
    for (int i = 0; i < 6; i++) {
        kids[i] = spawn();
        if (kids[i] == 0) {
            for (int n = 0; n < 800; n++)
                if (i < 2) {
                    pthread_rwlock_wrlock(&s->l);
                    *(volatile long *)&s->a += 1;
                    if (n % 100 == 0)
                        sched_yield();
                    *(volatile long *)&s->b += 1;
                    pthread_rwlock_unlock(&s->l);
                } else {
                    pthread_rwlock_rdlock(&s->l);
                    if (*(volatile long *)&s->a != *(volatile long *)&s->b)
                        __atomic_fetch_add(&s->torn, 1, __ATOMIC_SEQ_CST);
                    pthread_rwlock_unlock(&s->l);
                }
            exit(0);
        }
    }
    for (int i = 0; i < 6; i++)
        reap(kids[i]);
    VAL(s->a);
    VAL(s->b);
    VAL(s->torn);
    P(pthread_rwlock_trywrlock(&s->l));
    P(pthread_rwlock_unlock(&s->l));
}

int main(void)
{
    begin();
    s = shmat(new_shm(sizeof *s), NULL, 0);
    if (s == (void *)-1)
        die("shmat");
    kind("for readers", PTHREAD_RWLOCK_PREFER_READER_NP);
    kind("for writers", PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);

    /* While a writer waits, a lock for writers lets no more readers in. */
    for (int k = 0; k < 2; k++) {
        make(k ? PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP : PTHREAD_RWLOCK_PREFER_READER_NP);
        pthread_rwlock_rdlock(&s->l);
        gate ready = new_gate();
        pid_t writer = spawn();
        if (writer == 0) {
            gate_open(ready);
            P(pthread_rwlock_wrlock(&s->l));
            P(pthread_rwlock_unlock(&s->l));
            exit(0);
        }
        gate_wait(ready);
        wait_asleep(writer);
        IN_CHILD({
            struct timespec t = in_ms(CLOCK_REALTIME, 50);
            int rc = pthread_rwlock_timedrdlock(&s->l, &t);
            say("a reader meanwhile: %s", perr(rc));
            if (rc == 0)
                pthread_rwlock_unlock(&s->l);
        });
        P(pthread_rwlock_unlock(&s->l));
        reap(writer);
    }
    P(pthread_rwlock_destroy(&s->l));
    return 0;
}
