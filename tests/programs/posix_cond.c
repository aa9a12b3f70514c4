/* Process-shared condition variables in a segment. */
#include "vt.h"

#define SLOTS 4

typedef struct {
    pthread_mutex_t m;
    pthread_cond_t c, full, empty;
    int turn, waiting, go, in, out, queue[SLOTS];
    long sum, taken, cleanups;
} shared;

static shared *s;

static struct timespec in_ms(clockid_t clock, long ms)
{
    struct timespec t;
    clock_gettime(clock, &t);
    t.tv_nsec += ms % 1000 * 1000000;
    t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

static void make(pthread_cond_t *c, clockid_t clock)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_condattr_setclock(&a, clock);
    memset(c, 0xff, sizeof *c);
    pthread_cond_init(c, &a);
}

static void make_mutex(int type, int robust)
{
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_settype(&a, type);
    if (robust)
        pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&s->m, &a);
}

static const char *rc(int e) { return e == EOWNERDEAD ? "EOWNERDEAD" : e ? ename(e) : "ok"; }

static void lock(void) { pthread_mutex_lock(&s->m); }
static void unlock(void) { pthread_mutex_unlock(&s->m); }

/* A child that waits for s->go to reach n. */
static pid_t waiter(int n)
{
    pid_t pid = spawn();
    if (pid == 0) {
        lock();
        s->waiting++;
        while (s->go < n)
            pthread_cond_wait(&s->c, &s->m);
        s->waiting--;
        unlock();
        exit(0);
    }
    return pid;
}

static int locked(int *what)
{
    lock();
    int v = *what;
    unlock();
    return v;
}

static void times(void)
{
    lock();
    double before = now();
    struct timespec t = in_ms(CLOCK_REALTIME, 30);
    say("real time: %s", rc(pthread_cond_timedwait(&s->c, &s->m, &t)));
    YES(now() - before >= 0.029);
    t = in_ms(CLOCK_MONOTONIC, 30);
    say("given clock: %s", rc(pthread_cond_clockwait(&s->c, &s->m, CLOCK_MONOTONIC, &t)));
    say("no clock: %s", rc(pthread_cond_clockwait(&s->c, &s->m, 77, &t)));
    t = in_ms(CLOCK_REALTIME, -1000);
    say("passed: %s", rc(pthread_cond_timedwait(&s->c, &s->m, &t)));
    t.tv_nsec = 1000000000;
    say("no time: %s", rc(pthread_cond_timedwait(&s->c, &s->m, &t)));
    unlock();
    make(&s->full, CLOCK_MONOTONIC);
    lock();
    before = now();
    t = in_ms(CLOCK_MONOTONIC, 30);
    say("monotonic: %s", rc(pthread_cond_timedwait(&s->full, &s->m, &t)));
    YES(now() - before >= 0.029);
    /* The mutex is locked again after each of them. */
    IN_CHILD(say("trylock: %s", rc(pthread_mutex_trylock(&s->m))));
    unlock();
}

static void cleanup(void *arg)
{
    (void)arg;
    s->cleanups++;
    unlock();
}

static void *wait_for_ever(void *arg)
{
    gate *g = arg;
    lock();
    pthread_cleanup_push(cleanup, NULL);
    gate_open(*g);
    for (;;)
        pthread_cond_wait(&s->c, &s->m);
    pthread_cleanup_pop(1);
    return NULL;
}

/* A cancelled waiter has the mutex in its cleanup handler. */
static void cancellation(void)
{
    gate g = new_gate();
    pthread_t t;
    void *end;
    double before = now();
    for (int i = 0; i < 3; i++) {
        pthread_create(&t, NULL, wait_for_ever, &g);
        gate_wait(g);
        lock();
        unlock();
        pthread_cancel(t);
        pthread_join(t, &end);
        YES(end == PTHREAD_CANCELED);
    }
    VAL(s->cleanups);
    YES(now() - before < 8);
    say("mutex: %s", rc(pthread_mutex_trylock(&s->m)));
    unlock();
}

int main(void)
{
    begin();
    s = shmat(new_shm(sizeof *s), NULL, 0);
    if (s == (void *)-1)
        die("shmat");
    make_mutex(PTHREAD_MUTEX_NORMAL, 0);
    make(&s->c, CLOCK_REALTIME);

    say("nobody waits: %s %s", rc(pthread_cond_signal(&s->c)), rc(pthread_cond_broadcast(&s->c)));
    times();

    /* A broadcast wakes all. */
    pid_t kids[8];
    for (int i = 0; i < 8; i++)
        kids[i] = waiter(1);
    UNTIL(locked(&s->waiting) == 8);
    lock();
    s->go = 1;
    pthread_cond_broadcast(&s->c);
    unlock();
    for (int i = 0; i < 8; i++)
        reap(kids[i]);
    VAL(s->waiting);

    /* As many signals as waiters wake all. */
    for (int i = 0; i < 8; i++)
        kids[i] = waiter(2);
    UNTIL(locked(&s->waiting) == 8);
    lock();
    s->go = 2;
    unlock();
    for (int i = 0; i < 8; i++)
        pthread_cond_signal(&s->c);
    for (int i = 0; i < 8; i++)
        reap(kids[i]);
    VAL(s->waiting);

    /* Taking turns. */
    pid_t other = spawn();
    for (int i = 0; i < 1500; i++) {
        lock();
        while (s->turn % 2 != (other == 0))
            pthread_cond_wait(&s->c, &s->m);
        s->turn++;
        pthread_cond_signal(&s->c);
        unlock();
    }
    if (other == 0)
        exit(0);
    reap(other);
    VAL(s->turn);

    /* Producers and consumers of a short queue. */
    make(&s->full, CLOCK_REALTIME);
    make(&s->empty, CLOCK_REALTIME);
    for (int i = 0; i < 6; i++) {
        kids[i] = spawn();
        if (kids[i] == 0) {
            for (int k = 1; k <= 700; k++) {
                lock();
                if (i % 2) {
                    while (s->in - s->out == SLOTS)
                        pthread_cond_wait(&s->full, &s->m);
                    s->queue[s->in++ % SLOTS] = k;
                    pthread_cond_signal(&s->empty);
                } else {
                    while (s->in == s->out)
                        pthread_cond_wait(&s->empty, &s->m);
                    s->sum += s->queue[s->out++ % SLOTS];
                    s->taken++;
                    pthread_cond_signal(&s->full);
                }
                unlock();
            }
            exit(0);
        }
    }
    for (int i = 0; i < 6; i++)
        reap(kids[i]);
    VAL(s->taken);
    VAL(s->sum);

    cancellation();

    /* A robust mutex whose owner dies while others wait for the condition. */
    make_mutex(PTHREAD_MUTEX_NORMAL, 1);
    make(&s->c, CLOCK_REALTIME);
    s->go = s->waiting = 0;
    pid_t child = spawn();
    if (child == 0) {
        lock();
        s->waiting++;
        int e = 0;
        while (!s->go)
            e = pthread_cond_wait(&s->c, &s->m);
        say("woken: %s", rc(e));
        pthread_mutex_consistent(&s->m);
        unlock();
        exit(0);
    }
    UNTIL(locked(&s->waiting) == 1);
    IN_CHILD({
        lock();
        s->go = 1;
        pthread_cond_signal(&s->c);
    });
    reap(child);

    /* Without the right to unlock there is no waiting. */
    make_mutex(PTHREAD_MUTEX_ERRORCHECK, 0);
    say("not the owner: %s", rc(pthread_cond_wait(&s->c, &s->m)));
    say("destroy: %s", rc(pthread_cond_destroy(&s->c)));
    return 0;
}
