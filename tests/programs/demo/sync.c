/* Sync, the ping-pong micro-code of the Vshmem paper (section V, figure 6):
 *
 *     sem[0] = 1; sem[1] = 0;
 *     for (turn = 0; turn < turns; turn++) {
 *         P(sem[my_id]);
 *         memset(region, my_id, size);
 *         V(sem[!my_id]);
 *     }
 *
 * in two processes that differ in my_id alone. Before its memset each side
 * checks every byte of the other's.
 *
 * P and V come in two kinds. `word`: the paper's own, busy-waiting on words of
 * the segment; it uses nothing but shared memory. `semop`: calls of the
 * System V interface.
 *
 * With --busy the sides answer at once, so that whoever spins before it sleeps
 * never sleeps. With --block each side thinks before its V for longer than any
 * sensible spinning, so that the other is asleep by then; the time that both
 * thought is taken out of the turn, which leaves two wake-ups.
 *
 *     sync 0|1 PATH word|semop --busy|--block SIZE TURNS
 *
 * Side 0 prints the percentiles of all its round trips as one JSON line. */
#include "demo.h"

#include <sched.h>
#include <stdatomic.h>

#define MAX_SIZE 65536
#define THINK_NS 200000

struct shared {
    /* Each word has cache lines of its own. */
    struct { _Atomic int64_t word; char pad[120]; } sem[2];
    /* How long side 1 had the turn, in nanoseconds; written before its V. */
    volatile uint64_t held;
    char pad[120];
    unsigned char region[MAX_SIZE];
};

static struct shared *s;
static int set;

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void word_p(int n)
{
    for (unsigned spins = 0;; spins++) {
        int64_t v = atomic_load_explicit(&s->sem[n].word, memory_order_acquire);
        if (v > 0 && atomic_compare_exchange_weak_explicit(&s->sem[n].word, &v, v - 1, memory_order_acquire,
                                                           memory_order_relaxed))
            return;
        relax();
        /* On a machine with fewer cores than spinners someone must step aside. */
        if (spins % (1u << 20) == (1u << 20) - 1)
            sched_yield();
    }
}

static void word_v(int n) { atomic_fetch_add_explicit(&s->sem[n].word, 1, memory_order_release); }

static double now_if(int wanted) { return wanted ? now() : 0; }

static void semop_p(int n) { MUST(up(set, n, -1)); }
static void semop_v(int n) { MUST(up(set, n, 1)); }

int main(int argc, char **argv)
{
    if (argc != 7 || (strcmp(argv[3], "word") && strcmp(argv[3], "semop")) ||
        (strcmp(argv[4], "--busy") && strcmp(argv[4], "--block"))) {
        fprintf(stderr, "usage: sync 0|1 PATH word|semop --busy|--block SIZE TURNS\n");
        return 2;
    }
    begin();
    int me = atoi(argv[1]), words = !strcmp(argv[3], "word"), block = !strcmp(argv[4], "--block");
    long size = atol(argv[5]), turns = atol(argv[6]);
    CHECK((me == 0 || me == 1) && size > 0 && size <= MAX_SIZE && turns > 1 && turns <= 10000000, "an argument is out of range");
    CHECK(!words || !block, "the paper's P has no way to sleep: word goes with --busy");
    key_t key = MUST(ftok(argv[2], 's'));
    if (me == 0) {
        remove_old(key);
        int shm = MUST(shmget(key, sizeof *s, IPC_CREAT | IPC_EXCL | 0600));
        s = MUST(shmat(shm, NULL, 0));
        memset(s->region, 1, sizeof s->region);
        atomic_store(&s->sem[0].word, 1);
        set = MUST(semget(key, 3, IPC_CREAT | IPC_EXCL | 0600));
        MUST(up(set, 0, 1));
    } else {
        set = wait_for_set(key);
        s = MUST(shmat(MUST(shmget(key, 0, 0)), NULL, 0));
    }
    /* Both are here: semaphore 2 counts them. */
    MUST(up(set, 2, 1));
    struct sembuf both[] = { { 2, -2, 0 }, { 2, 2, 0 } };
    MUST(semop(set, both, 2));

    uint64_t *stamps = calloc((size_t)turns + 1, sizeof *stamps);
    unsigned char theirs[MAX_SIZE];
    CHECK(stamps, "no memory for the time stamps");
    /* Touched before, so that no turn pays for a page. */
    memset(stamps, 1, ((size_t)turns + 1) * sizeof *stamps);
    memset(theirs, !me, (size_t)size);
    double gave = 0;
    void (*p)(int) = words ? word_p : semop_p, (*v)(int) = words ? word_v : semop_v;
    double start = now();
    stamps[0] = ticks();
    for (long turn = 0; turn < turns; turn++) {
        p(me);
        double got = now_if(block);
        CHECK(memcmp(s->region, theirs, (size_t)size) == 0, "turn %ld: the region is not the other's", turn);
        memset(s->region, me, (size_t)size);
        if (block) {
            /* Side 0's turn lasts from its V until it has P again; the very
             * first P has no V before it and is not counted. */
            if (me == 0 && turn > 0)
                stamps[turn - 1] = (uint64_t)((got - gave) * 1e9) - s->held;
            struct timespec think = { 0, THINK_NS };
            nanosleep(&think, NULL);
            if (me == 1)
                s->held = (uint64_t)((now() - got) * 1e9);
            gave = now();
        }
        v(!me);
        if (!block)
            stamps[turn + 1] = ticks();
    }
    double seconds = now() - start;

    /* Side 1 says that it is done; then side 0 removes everything. */
    if (me == 1) {
        MUST(up(set, 2, 1));
        await_removal(set);
    } else {
        MUST(up(set, 2, -3));
        MUST(shmctl(shmget(key, 0, 0), IPC_RMID, NULL));
        MUST(semctl(set, 0, IPC_RMID));
        char how[32];
        snprintf(how, sizeof how, "%s %s", argv[3], argv[4] + 2);
        if (block)
            report("sync", how, size, stamps, turns - 1, 1e-3);
        else
            report_stamps("sync", how, size, stamps, turns, seconds);
    }
    return 0;
}
