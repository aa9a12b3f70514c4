/* Process-shared mutexes of all types in a segment. */
#include "vt.h"

typedef struct {
    pthread_mutex_t m;
    long n;
} shared;

static shared *s;

/* pthread functions return their error. */
#define P(...) say("%s: %s", #__VA_ARGS__, perr(__VA_ARGS__))
static const char *perr(int rc)
{
    switch (rc) {
    case 0: return "ok";
    case EDEADLK: return "EDEADLK";
    case EOWNERDEAD: return "EOWNERDEAD";
    case ENOTRECOVERABLE: return "ENOTRECOVERABLE";
    default: return ename(rc);
    }
}

static struct timespec in_ms(clockid_t clock, long ms)
{
    struct timespec t;
    clock_gettime(clock, &t);
    t.tv_nsec += ms % 1000 * 1000000;
    t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

static void make(int type, int robust)
{
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_settype(&a, type);
    pthread_mutexattr_setrobust(&a, robust ? PTHREAD_MUTEX_ROBUST : PTHREAD_MUTEX_STALLED);
    memset(&s->m, 0xff, sizeof s->m);
    pthread_mutex_init(&s->m, &a);
    pthread_mutexattr_destroy(&a);
}

static void count(void)
{
    pid_t kids[4];
    s->n = 0;
    for (int i = 0; i < 4; i++) {
        kids[i] = spawn();
        if (kids[i] == 0) {
            for (int k = 0; k < 3000; k++) {
                pthread_mutex_lock(&s->m);
                volatile long *n = &s->n;
                long was = *n;
                if (k % 500 == 0)
                    sched_yield();
                *n = was + 1;
                pthread_mutex_unlock(&s->m);
            }
            exit(0);
        }
    }
    for (int i = 0; i < 4; i++)
        reap(kids[i]);
    VAL(s->n);
}

static void type(const char *name, int kind, int robust)
{
    say("-- %s%s", name, robust ? ", robust" : "");
    make(kind, robust);
    P(pthread_mutex_lock(&s->m));
    if (kind != PTHREAD_MUTEX_NORMAL) {
        P(pthread_mutex_lock(&s->m));
        struct timespec t = in_ms(CLOCK_REALTIME, 20);
        P(pthread_mutex_timedlock(&s->m, &t));
    } else {
        struct timespec t = in_ms(CLOCK_REALTIME, 20);
        P(pthread_mutex_timedlock(&s->m, &t));
    }
    P(pthread_mutex_trylock(&s->m));
    IN_CHILD({
        P(pthread_mutex_trylock(&s->m));
        struct timespec t = in_ms(CLOCK_REALTIME, 20);
        P(pthread_mutex_timedlock(&s->m, &t));
        t = in_ms(CLOCK_MONOTONIC, 20);
        P(pthread_mutex_clocklock(&s->m, CLOCK_MONOTONIC, &t));
        P(pthread_mutex_clocklock(&s->m, 77, &t));
        if (kind != PTHREAD_MUTEX_NORMAL || robust)
            P(pthread_mutex_unlock(&s->m));
    });
    if (!robust)
        P(pthread_mutex_destroy(&s->m));
    P(pthread_mutex_unlock(&s->m));
    if (kind == PTHREAD_MUTEX_RECURSIVE)
        for (int i = 0; i < 3; i++)
            P(pthread_mutex_unlock(&s->m));
    if (kind != PTHREAD_MUTEX_NORMAL || robust)
        P(pthread_mutex_unlock(&s->m));
    IN_CHILD({
        P(pthread_mutex_trylock(&s->m));
        P(pthread_mutex_unlock(&s->m));
    });
    count();
    P(pthread_mutex_destroy(&s->m));
}

static void *lock_and_end(void *arg)
{
    (void)arg;
    P(pthread_mutex_lock(&s->m));
    return NULL;
}

/* Its process lives on; the thread does not. */
static void *lock_here(void *arg)
{
    pthread_t t;
    pthread_create(&t, NULL, lock_and_end, NULL);
    pthread_join(t, NULL);
    return arg;
}

static void deaths(void)
{
    say("-- deaths of owners");
    make(PTHREAD_MUTEX_NORMAL, 1);
    /* Killed while others wait. */
    gate ready = new_gate(), asleep = new_gate();
    pid_t owner = spawn();
    if (owner == 0) {
        P(pthread_mutex_lock(&s->m));
        gate_open(ready);
        pause();
    }
    gate_wait(ready);
    pid_t waiter = spawn();
    if (waiter == 0) {
        gate_open(asleep);
        P(pthread_mutex_lock(&s->m));
        P(pthread_mutex_consistent(&s->m));
        P(pthread_mutex_consistent(&s->m));
        P(pthread_mutex_unlock(&s->m));
        exit(0);
    }
    gate_wait(asleep);
    wait_asleep(waiter);
    double before = now();
    kill_and_reap(owner);
    reap(waiter);
    YES(now() - before < 5);
    P(pthread_mutex_lock(&s->m));
    P(pthread_mutex_unlock(&s->m));

    /* Left locked by a process that ends well, found later. */
    IN_CHILD(pthread_mutex_lock(&s->m));
    P(pthread_mutex_trylock(&s->m));
    P(pthread_mutex_consistent(&s->m));
    P(pthread_mutex_unlock(&s->m));

    /* Left locked by a program that made room for another. */
    IN_CHILD({
        pthread_mutex_lock(&s->m);
        execl("/bin/true", "true", (char *)NULL);
    });
    P(pthread_mutex_trylock(&s->m));
    P(pthread_mutex_consistent(&s->m));
    P(pthread_mutex_unlock(&s->m));

    /* A thread that ends. */
    lock_here(NULL);
    P(pthread_mutex_lock(&s->m));
    /* Not made consistent: lost for good. */
    P(pthread_mutex_unlock(&s->m));
    P(pthread_mutex_lock(&s->m));
    /* (pthread_mutex_trylock of glibc 2.36 would keep its lock word.) */
    IN_CHILD(P(pthread_mutex_lock(&s->m)));
    P(pthread_mutex_lock(&s->m));
    P(pthread_mutex_consistent(&s->m));
    P(pthread_mutex_destroy(&s->m));

    /* Dies of what the dead left, again and again. */
    make(PTHREAD_MUTEX_RECURSIVE, 1);
    for (int i = 0; i < 3; i++)
        IN_CHILD({
            P(pthread_mutex_lock(&s->m));
            P(pthread_mutex_lock(&s->m));
        });
    P(pthread_mutex_lock(&s->m));
    P(pthread_mutex_consistent(&s->m));
    P(pthread_mutex_unlock(&s->m));
    P(pthread_mutex_unlock(&s->m));

    /* Not robust: it stays locked. */
    make(PTHREAD_MUTEX_NORMAL, 0);
    IN_CHILD(P(pthread_mutex_lock(&s->m)));
    P(pthread_mutex_trylock(&s->m));
    struct timespec t = in_ms(CLOCK_REALTIME, 20);
    P(pthread_mutex_timedlock(&s->m, &t));
    t.tv_nsec = -1;
    P(pthread_mutex_timedlock(&s->m, &t));
    P(pthread_mutex_unlock(&s->m));
    t.tv_nsec = -1;
    P(pthread_mutex_timedlock(&s->m, &t));
}

int main(void)
{
    begin();
    s = shmat(new_shm(sizeof *s), NULL, 0);
    if (s == (void *)-1)
        die("shmat");
    for (int robust = 0; robust < 2; robust++) {
        type("normal", PTHREAD_MUTEX_NORMAL, robust);
        type("errorcheck", PTHREAD_MUTEX_ERRORCHECK, robust);
        type("recursive", PTHREAD_MUTEX_RECURSIVE, robust);
    }
    deaths();
    return 0;
}
