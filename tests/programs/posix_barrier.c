/* Process-shared barriers in a segment. */
#include "vt.h"

#define N 5
#define ROUNDS 400

typedef struct {
    pthread_barrier_t b;
    int serial[ROUNDS], arrived[ROUNDS], early;
} shared;

static shared *s;

static int make(unsigned n)
{
    pthread_barrierattr_t a;
    pthread_barrierattr_init(&a);
    pthread_barrierattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    memset(&s->b, 0xff, sizeof s->b);
    return pthread_barrier_init(&s->b, &a, n);
}

int main(void)
{
    begin();
    s = shmat(new_shm(sizeof *s), NULL, 0);
    if (s == (void *)-1)
        die("shmat");
    say("for nobody: %s", ename(make(0)));
    VAL(make(1));
    YES(pthread_barrier_wait(&s->b) == PTHREAD_BARRIER_SERIAL_THREAD);
    YES(pthread_barrier_wait(&s->b) == PTHREAD_BARRIER_SERIAL_THREAD);
    VAL(pthread_barrier_destroy(&s->b));

    VAL(make(N));
    pid_t kids[N];
    for (int i = 0; i < N; i++) {
        kids[i] = spawn();
        if (kids[i] == 0) {
            for (int r = 0; r < ROUNDS; r++) {
                __atomic_fetch_add(&s->arrived[r], 1, __ATOMIC_SEQ_CST);
                int rc = pthread_barrier_wait(&s->b);
                if (rc == PTHREAD_BARRIER_SERIAL_THREAD)
                    __atomic_fetch_add(&s->serial[r], 1, __ATOMIC_SEQ_CST);
                else if (rc)
                    say("round %d: %s", r, ename(rc));
                if (s->arrived[r] != N)
                    __atomic_fetch_add(&s->early, 1, __ATOMIC_SEQ_CST);
            }
            exit(0);
        }
    }
    for (int i = 0; i < N; i++)
        reap(kids[i]);
    int wrong = 0;
    for (int r = 0; r < ROUNDS; r++)
        wrong += s->serial[r] != 1;
    VAL(wrong);
    VAL(s->early);
    /* Whoever leaves first may destroy it and use its memory for another. */
    VAL(pthread_barrier_destroy(&s->b));
    for (int i = 0; i < 100; i++) {
        make(2);
        pid_t child = spawn();
        if (child == 0) {
            pthread_barrier_wait(&s->b);
            exit(0);
        }
        pthread_barrier_wait(&s->b);
        pthread_barrier_destroy(&s->b);
        memset(&s->b, i, sizeof s->b);
        reap(child);
    }
    /* A signal handler changes nothing. */
    make(2);
    gate ready = new_gate();
    pid_t child = spawn();
    if (child == 0) {
        catch_signal(SIGUSR1, 0);
        gate_open(ready);
        VAL(pthread_barrier_wait(&s->b));
        VAL(signals_seen);
        exit(0);
    }
    gate_wait(ready);
    wait_asleep(child);
    kill(child, SIGUSR1);
    wait_asleep(child);
    YES(pthread_barrier_wait(&s->b) == PTHREAD_BARRIER_SERIAL_THREAD);
    reap(child);
    return 0;
}
