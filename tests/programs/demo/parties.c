/* Any number of parties meet, count under a mutex made of a semaphore, and
 * pass a token round through one queue, each receiving by its own type.
 *
 *     parties NUMBER PARTIES PATH ROUNDS
 *
 * NUMBER counts from 0; 0 makes the objects. */
#include "demo.h"

enum { MUTEX, HERE, DONE };
struct shared { volatile uint64_t counter; };
struct token { long mtype; struct { uint64_t hops, sum; } body; };

/* Nobody goes on before all have come. */
static void meet(int set, int n, int parties)
{
    struct sembuf all[] = { { (unsigned short)n, (short)-parties, 0 }, { (unsigned short)n, (short)parties, 0 } };
    MUST(up(set, n, 1));
    MUST(semop(set, all, 2));
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: parties NUMBER PARTIES PATH ROUNDS\n");
        return 2;
    }
    begin();
    int me = atoi(argv[1]), parties = atoi(argv[2]);
    long rounds = atol(argv[4]);
    key_t key = MUST(ftok(argv[3], 'p'));
    int shm, set, queue;
    if (me == 0) {
        remove_old(key);
        shm = MUST(shmget(key, sizeof(struct shared), IPC_CREAT | IPC_EXCL | 0600));
        queue = MUST(msgget(key, IPC_CREAT | IPC_EXCL | 0600));
        set = MUST(semget(key, 3, IPC_CREAT | IPC_EXCL | 0600));
        MUST(up(set, MUTEX, 1));
    } else {
        set = wait_for_set(key);
        shm = MUST(shmget(key, 0, 0));
        queue = MUST(msgget(key, 0));
    }
    struct shared *s = MUST(shmat(shm, NULL, 0));
    meet(set, HERE, parties);
    struct shmid_ds ds;
    MUST(shmctl(shm, IPC_STAT, &ds));
    CHECK(ds.shm_nattch == (shmatt_t)parties, "%lu attached, not %d", (unsigned long)ds.shm_nattch, parties);

    for (long i = 0; i < rounds; i++) {
        struct sembuf lock = { MUTEX, -1, SEM_UNDO }, unlock = { MUTEX, 1, SEM_UNDO };
        MUST(semop(set, &lock, 1));
        s->counter++;
        MUST(semop(set, &unlock, 1));
    }

    /* The token visits everyone once per round; each adds its number. */
    struct token t = { .mtype = 1 };
    if (me == 0)
        MUST(msgsnd(queue, &t, sizeof t.body, 0));
    for (long i = 0; i < rounds; i++) {
        ssize_t n = MUST(msgrcv(queue, &t, sizeof t.body, me + 1, 0));
        CHECK(n == sizeof t.body, "a token of %zd bytes", n);
        CHECK(t.body.hops == (uint64_t)(i * parties + me), "the token came after %lu hops", (unsigned long)t.body.hops);
        t.body.hops++;
        t.body.sum += (uint64_t)me;
        t.mtype = (me + 1) % parties + 1;
        MUST(msgsnd(queue, &t, sizeof t.body, 0));
    }
    meet(set, DONE, parties);
    uint64_t want = (uint64_t)rounds * (uint64_t)parties;
    CHECK(s->counter == want, "the counter is %lu, not %lu", (unsigned long)s->counter, (unsigned long)want);
    if (me == 0) {
        MUST(msgrcv(queue, &t, sizeof t.body, 1, IPC_NOWAIT));
        CHECK(t.body.sum == want * (uint64_t)(parties - 1) / 2, "the token's sum is %lu", (unsigned long)t.body.sum);
    }
    printf("{\"test\":\"parties\",\"number\":%d,\"counter\":%lu}\n", me, (unsigned long)want);
    MUST(shmdt(s));
    /* All have read the counter before it goes: they say so on DONE. */
    if (me != 0) {
        MUST(up(set, DONE, 1));
        await_removal(set);
    } else {
        MUST(up(set, DONE, 1 - 2 * parties));
        MUST(shmctl(shm, IPC_RMID, NULL));
        MUST(msgctl(queue, IPC_RMID, NULL));
        MUST(semctl(set, 0, IPC_RMID));
    }
    return 0;
}
