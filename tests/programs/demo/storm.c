/* Waiters on one sem_t are killed at any moment, while units are posted: no
 * living one sleeps while there is something to take.
 *
 *     storm PATH SECONDS
 *
 * (A kernel's own sem_t does not promise that: a waiter that is killed as it
 * wakes takes the wake with it.) */
#include "demo.h"

#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/wait.h>

#define WAITERS 6

struct shared { sem_t sem; long taken; };

static struct shared *s;

static pid_t waiter(void)
{
    pid_t pid = MUST(fork());
    if (pid == 0) {
        alarm(WATCHDOG_SECONDS);
        for (;;) {
            MUST(sem_wait(&s->sem));
            __atomic_fetch_add(&s->taken, 1, __ATOMIC_SEQ_CST);
        }
    }
    return pid;
}

static int value(void)
{
    int v;
    MUST(sem_getvalue(&s->sem, &v));
    return v;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: storm PATH SECONDS\n");
        return 2;
    }
    begin();
    key_t key = MUST(ftok(argv[1], 'k'));
    remove_old(key);
    s = MUST(shmat(MUST(shmget(key, sizeof *s, IPC_CREAT | IPC_EXCL | 0600)), NULL, 0));
    MUST(sem_init(&s->sem, 1, 0));
    pid_t kids[WAITERS];
    for (int i = 0; i < WAITERS; i++)
        kids[i] = waiter();
    double end = now() + atof(argv[2]), worst = 0;
    long kills = 0, posts = 0;
    for (unsigned turn = 0; now() < end; turn++) {
        /* One dies as it wakes, or a little before or after. */
        int victim = (int)(turn % WAITERS), units = 1 + (int)(turn % 3);
        for (int i = 0; i < units; i++)
            MUST(sem_post(&s->sem));
        for (volatile unsigned spin = turn * 37 % 4000; spin; spin--)
            ;
        MUST(kill(kids[victim], SIGKILL));
        posts += units;
        kills++;
        double since = now();
        while (value() > 0) {
            CHECK(now() - since < 10, "%d units lie there, and %d waiters sleep", value(), WAITERS - 1);
            sched_yield();
        }
        if (now() - since > worst)
            worst = now() - since;
        MUST(waitpid(kids[victim], NULL, 0));
        kids[victim] = waiter();
    }
    CHECK(s->taken <= posts && s->taken >= posts - kills, "%ld posted, %ld taken, %ld killed", posts, s->taken, kills);
    for (int i = 0; i < WAITERS; i++) {
        MUST(kill(kids[i], SIGKILL));
        MUST(waitpid(kids[i], NULL, 0));
    }
    printf("{\"test\":\"storm\",\"kills\":%ld,\"posts\":%ld,\"taken\":%ld,\"worst_ms\":%.3f}\n", kills, posts, s->taken,
           worst * 1e3);
    MUST(shmctl(shmget(key, 0, 0), IPC_RMID, NULL));
    return 0;
}
