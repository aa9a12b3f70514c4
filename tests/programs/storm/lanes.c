/* More threads are in calls at one time than the region has lanes. Prints what those got that found
 * none, whether another process works meanwhile, and how many can be in calls afterwards. */
#include "../vt.h"
#include <stdatomic.h>

#define MOST 200
static int set;
static atomic_int waiting, refused, other;

/* Waits in a semop until it is let go, or has no lane to wait on. */
static void *one(void *unused)
{
    struct sembuf down = { 0, -1, 0 };
    atomic_fetch_add(&waiting, 1);
    if (semop(set, &down, 1) == -1) {
        atomic_fetch_sub(&waiting, 1);
        atomic_fetch_add(errno == ENOMEM ? &refused : &other, 1);
    }
    return unused;
}

static int asleep(void)
{
    int n = semctl(set, 0, GETNCNT);
    return n == -1 ? -1 : n;
}

int main(int argc, char **argv)
{
    begin();
    int threads = argc > 1 ? atoi(argv[1]) : 0;
    if (threads < 1 || threads > MOST)
        return 2;
    set = new_sem(2);
    gate go = new_gate(), gone = new_gate();
    pid_t neighbour = spawn();
    if (neighbour == 0) {
        struct sembuf up = { 1, 1, 0 }, down = { 1, -1, 0 };
        MUST(semop(set, &up, 1));
        gate_wait(go);
        for (int i = 0; i < 1000; i++) {
            MUST(semop(set, &down, 1));
            MUST(semop(set, &up, 1));
        }
        gate_open(gone);
        exit(0);
    }
    while (MUST(semctl(set, 1, GETVAL)) == 0)
        usleep(1000);
    for (int round = 0; round < 3; round++) {
        pthread_t thread[MOST];
        for (int i = 0; i < threads; i++)
            if (pthread_create(&thread[i], NULL, one, NULL) != 0)
                die("pthread_create");
        /* Each has either been refused, or sleeps. */
        while (refused + other + asleep() < threads)
            usleep(1000);
        printf("round %d %d %d\n", asleep(), refused, other);
        if (round == 0) {
            gate_open(go);
            gate_wait(gone);
            reap(neighbour);
            printf("neighbour worked\n");
        }
        struct sembuf up = { 0, (short)asleep(), 0 };
        MUST(semop(set, &up, 1));
        for (int i = 0; i < threads; i++)
            pthread_join(thread[i], NULL);
        printf("left %d\n", MUST(semctl(set, 0, GETVAL)));
        refused = other = waiting = 0;
    }
    return 0;
}
