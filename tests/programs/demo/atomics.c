/* Two or more machines add to one counter. Exact only if
 * atomic instructions work between them, which an emulator must be told.
 *
 *     atomics NUMBER PATH ROUNDS [PARTIES]
 *
 * NUMBER counts from 0; 0 makes the objects. */
#include "demo.h"

#include <stdatomic.h>

struct shared { _Atomic uint64_t counter, cas, done; };

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: atomics NUMBER PATH ROUNDS [PARTIES]\n");
        return 2;
    }
    begin();
    int me = atoi(argv[1]), parties = argc > 4 ? atoi(argv[4]) : 2;
    long rounds = atol(argv[3]);
    key_t key = MUST(ftok(argv[2], 'a'));
    int shm, set;
    struct shared *s;
    if (me == 0) {
        remove_old(key);
        shm = MUST(shmget(key, sizeof *s, IPC_CREAT | IPC_EXCL | 0600));
        s = MUST(shmat(shm, NULL, 0));
        set = MUST(semget(key, 1, IPC_CREAT | IPC_EXCL | 0600));
        MUST(up(set, 0, parties));
    } else {
        set = wait_for_set(key);
        shm = MUST(shmget(key, 0, 0));
        s = MUST(shmat(shm, NULL, 0));
    }
    /* All start when the last one has come. */
    struct sembuf all = { 0, 0, 0 };
    MUST(up(set, 0, -1));
    MUST(semop(set, &all, 1));
    for (long i = 0; i < rounds; i++) {
        atomic_fetch_add(&s->counter, 1);
        uint64_t v = atomic_load(&s->cas);
        while (!atomic_compare_exchange_weak(&s->cas, &v, v + 3))
            ;
    }
    atomic_fetch_add(&s->done, 1);
    while (atomic_load(&s->done) < (uint64_t)parties)
        nap_ms(1);
    uint64_t want = (uint64_t)rounds * (uint64_t)parties;
    uint64_t got = atomic_load(&s->counter), cas = atomic_load(&s->cas);
    printf("{\"test\":\"atomics\",\"number\":%d,\"expected\":%lu,\"added\":%lu,\"swapped\":%lu}\n", me,
           (unsigned long)want, (unsigned long)got, (unsigned long)cas / 3);
    MUST(shmdt(s));
    if (me == 0) {
        MUST(shmctl(shm, IPC_RMID, NULL));
        MUST(semctl(set, 0, IPC_RMID));
    } else
        await_removal(set);
    CHECK(got == want && cas == 3 * want, "updates were lost");
    return 0;
}
