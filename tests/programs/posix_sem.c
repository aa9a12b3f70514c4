/* sem_t in a segment, between processes. */
#include "vt.h"
#include <semaphore.h>

typedef struct {
    sem_t a, b, c;
    int n, got[2];
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

static int value(sem_t *sem)
{
    int v = -1;
    sem_getvalue(sem, &v);
    return v;
}

static void interrupted(const char *what, int flags, int timed)
{
    gate ready = new_gate();
    pid_t child = spawn();
    if (child == 0) {
        catch_signal(SIGUSR1, flags);
        struct timespec t = in_ms(CLOCK_REALTIME, 20000);
        gate_open(ready);
        int rc = timed ? sem_timedwait(&s->a, &t) : sem_wait(&s->a);
        say("%s: %s, handler ran %d times", what, rc ? ename(errno) : "ok", (int)signals_seen);
        exit(0);
    }
    gate_wait(ready);
    wait_asleep(child);
    kill(child, SIGUSR1);
    if ((flags & SA_RESTART) && !timed) {
        wait_asleep(child);
        sem_post(&s->a);
    }
    reap(child);
    VAL(value(&s->a));
}

int main(void)
{
    begin();
    s = shmat(new_shm(sizeof *s), NULL, 0);
    if (s == (void *)-1)
        die("shmat");

    RC(sem_init(&s->a, 1, 3));
    VAL(value(&s->a));
    RC(sem_wait(&s->a));
    RC(sem_trywait(&s->a));
    RC(sem_trywait(&s->a));
    RC(sem_trywait(&s->a));
    RC(sem_post(&s->a));
    VAL(value(&s->a));
    RC(sem_wait(&s->a));
    RC(sem_init(&s->b, 1, (unsigned)INT_MAX + 1));
    RC(sem_init(&s->b, 1, INT_MAX));
    errno = 0;
    YES(sem_post(&s->b) == -1 && errno == EOVERFLOW);
    VAL(value(&s->b) == INT_MAX);

    /* Times. */
    double before = now();
    struct timespec t = in_ms(CLOCK_REALTIME, 30);
    RC(sem_timedwait(&s->a, &t));
    YES(now() - before >= 0.029);
    before = now();
    t = in_ms(CLOCK_MONOTONIC, 30);
    RC(sem_clockwait(&s->a, CLOCK_MONOTONIC, &t));
    YES(now() - before >= 0.029);
    t = in_ms(CLOCK_REALTIME, -1000);
    RC(sem_timedwait(&s->a, &t));
    t.tv_nsec = 1000000000;
    RC(sem_timedwait(&s->a, &t));
    RC(sem_clockwait(&s->a, 77, &t));
    sem_post(&s->a);
    t = in_ms(CLOCK_REALTIME, -1000);
    RC(sem_timedwait(&s->a, &t));

    /* Signals. */
    interrupted("a wait", 0, 0);
    interrupted("a wait that restarts", SA_RESTART, 0);
    interrupted("a timed wait", 0, 1);
    interrupted("a timed wait with SA_RESTART", SA_RESTART, 1);

    /* Ping-pong, each side in its own process, through its own attachment. */
    sem_init(&s->a, 1, 0);
    sem_init(&s->b, 1, 0);
    IN_CHILD({
        pid_t other = spawn();
        for (int i = 0; i < 2000; i++)
            if (other == 0) {
                MUST(sem_wait(&s->a));
                s->n++;
                MUST(sem_post(&s->b));
            } else {
                s->n++;
                MUST(sem_post(&s->a));
                MUST(sem_wait(&s->b));
            }
        if (other == 0)
            exit(0);
        reap(other);
    });
    VAL(s->n);

    /* Many producers and consumers: every unit is taken once. */
    sem_init(&s->c, 1, 0);
    pid_t workers[6];
    for (int i = 0; i < 6; i++) {
        workers[i] = spawn();
        if (workers[i] == 0) {
            for (int k = 0; k < 1500; k++)
                if (i % 2)
                    sem_post(&s->c);
                else {
                    MUST(sem_wait(&s->c));
                    __atomic_fetch_add(&s->got[0], 1, __ATOMIC_SEQ_CST);
                }
            exit(0);
        }
    }
    for (int i = 0; i < 6; i++)
        reap(workers[i]);
    VAL(s->got[0]);
    VAL(value(&s->c));

    /* A waiter that is killed takes nothing. */
    gate ready = new_gate();
    pid_t child = spawn();
    if (child == 0) {
        gate_open(ready);
        sem_wait(&s->c);
        say("it got one");
        exit(0);
    }
    gate_wait(ready);
    wait_asleep(child);
    kill_and_reap(child);
    RC(sem_post(&s->c));
    VAL(value(&s->c));
    RC(sem_wait(&s->c));

    /* A private one in ordinary memory is nobody else's business. */
    sem_t own;
    RC(sem_init(&own, 0, 1));
    RC(sem_wait(&own));
    RC(sem_post(&own));
    RC(sem_destroy(&own));
    RC(sem_destroy(&s->a));
    return 0;
}
