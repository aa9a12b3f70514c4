/* Robust mutexes whose owners are killed at any moment, again and again. */
#include "vt.h"

#define WORKERS 5
#define KILLS 60

typedef struct {
    pthread_mutex_t m;
    volatile long a, b, torn, repaired;
    volatile int stop;
} shared;

static shared *s;

/* Locks it; what a dead owner left half done is done. */
static int lock(void)
{
    int e = pthread_mutex_lock(&s->m);
    if (e == EOWNERDEAD) {
        if (s->a != s->b) {
            s->b = s->a;
            s->repaired++;
        }
        e = pthread_mutex_consistent(&s->m);
    }
    return e;
}

static pid_t worker(void)
{
    pid_t pid = spawn();
    if (pid == 0) {
        while (!s->stop) {
            int e = lock();
            if (e) {
                say("lock: %s", e == ENOTRECOVERABLE ? "ENOTRECOVERABLE" : ename(e));
                exit(1);
            }
            if (s->a != s->b)
                s->torn++;
            s->a++;
            s->b++;
            pthread_mutex_unlock(&s->m);
        }
        exit(0);
    }
    return pid;
}

int main(void)
{
    begin();
    s = shmat(new_shm(sizeof *s), NULL, 0);
    if (s == (void *)-1)
        die("shmat");
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&s->m, &a);
    pid_t kids[WORKERS];
    for (int i = 0; i < WORKERS; i++)
        kids[i] = worker();
    for (int i = 0; i < KILLS; i++) {
        long was = s->a;
        /* They go on, whoever was killed. */
        UNTIL(s->a > was + 20);
        kill_and_reap(kids[i % WORKERS]);
        kids[i % WORKERS] = worker();
    }
    s->stop = 1;
    for (int i = 0; i < WORKERS; i++)
        reap(kids[i]);
    VAL(lock());
    YES(s->a == s->b);
    VAL(s->torn);
    pthread_mutex_unlock(&s->m);
    return 0;
}
