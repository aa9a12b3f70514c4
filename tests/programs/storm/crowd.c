/* A crowd: NEW processes attach by themselves, BORN are born of one that is attached; all are there
 * at one time, and killed at one time. One more, the witness, works all the while. Prints what it
 * measured, "ready" when all are there, "killed" with how long that took, and ends with its input. */
#include "../vt.h"
#include <stdatomic.h>

#define MOST 20000
static struct shared {
    atomic_int stage, arrived, group;
    int pair, marks, seg;
    long took[MOST];
} *all;

static long clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

static void pause_a_moment(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
}

static void reach(atomic_int *what, int value)
{
    while (atomic_load(what) < value)
        pause_a_moment();
}

/* One of the crowd: it leaves a mark in a semaphore and an attachment, which go with it. */
static void member(int i, long begun)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, atomic_load(&all->group));
    struct sembuf mark = { 0, 1, SEM_UNDO };
    MUST(semop(all->marks, &mark, 1));
    all->took[i] = clock_now() - begun;
    if (shmat(all->seg, NULL, 0) == (void *)-1)
        die("shmat");
    atomic_fetch_add(&all->arrived, 1);
    /* As daemons do. */
    if (i % 4 == 3)
        MUST(close_range(3, ~0u, 0));
    for (;;)
        pause();
}

static void grow(int from, int to)
{
    for (int i = from; i < to; i++) {
        long begun = clock_now();
        pid_t child = MUST(fork());
        if (child == 0)
            member(i, begun);
        if (i == 0) {
            MUST(setpgid(child, child));
            atomic_store(&all->group, child);
        }
        for (; atomic_load(&all->arrived) <= i; pause_a_moment())
            MUST(kill(child, 0));
    }
}

static int by_size(const void *a, const void *b)
{
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

/* The median of some that end with `last`. */
static long median(int first, int last)
{
    enum { SOME = 51 };
    long some[SOME];
    int n = last - first < SOME ? last - first : SOME;
    memcpy(some, &all->took[last - n], n * sizeof *some);
    qsort(some, n, sizeof *some, by_size);
    return some[n / 2];
}

static long one_pair(void)
{
    struct sembuf up = { 0, 1, 0 }, down = { 0, -1, 0 };
    long begun = clock_now();
    MUST(semop(all->pair, &up, 1));
    MUST(semop(all->pair, &down, 1));
    return clock_now() - begun;
}

/* The best mean of some: others use the machine. */
static long pair(void)
{
    long best = LONG_MAX;
    for (int i = 0; i < 40; i++) {
        long sum = 0;
        for (int n = 0; n < 1000; n++)
            sum += one_pair();
        if (sum / 1000 < best)
            best = sum / 1000;
    }
    return best;
}

static void said(const char *what)
{
    struct shmid_ds seg;
    MUST(shmctl(all->seg, IPC_STAT, &seg));
    printf("%s %d %ld\n", what, MUST(semctl(all->marks, 0, GETVAL)), (long)seg.shm_nattch);
}

static void witness(int attach, int total)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    all->pair = MUST(semget(IPC_PRIVATE, 1, 0600));
    all->marks = MUST(semget(IPC_PRIVATE, 1, 0600));
    all->seg = MUST(shmget(IPC_PRIVATE, 4096, 0600));
    printf("pair-alone %ld\n", pair());
    fflush(stdout);
    atomic_store(&all->stage, 1);
    reach(&all->stage, 2);
    grow(attach, total);
    printf("pair-crowded %ld\n", pair());
    said("marks-crowded");
    fflush(stdout);
    atomic_store(&all->stage, 3);
    long worst = 0;
    while (atomic_load(&all->stage) < 5) {
        long took = one_pair();
        worst = took > worst ? took : worst;
        if (atomic_load(&all->stage) == 3)
            worst = 0;
        pause_a_moment();
    }
    printf("worst %ld\npair-after %ld\n", worst, pair());
    said("marks-after");
    MUST(semctl(all->pair, 0, IPC_RMID));
    MUST(semctl(all->marks, 0, IPC_RMID));
    MUST(shmctl(all->seg, IPC_RMID, NULL));
    fflush(stdout);
    _exit(0);
}

int main(int argc, char **argv)
{
    begin();
    alarm(0);
    if (argc != 3)
        return 2;
    int attach = atoi(argv[1]), total = attach + atoi(argv[2]);
    if (attach < 1 || total > MOST)
        return 2;
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    signal(SIGCHLD, SIG_IGN);
    pid_t other = MUST(fork());
    if (other == 0)
        witness(attach, total);
    reach(&all->stage, 1);
    grow(0, attach);
    atomic_store(&all->stage, 2);
    for (; atomic_load(&all->stage) < 3; pause_a_moment())
        MUST(kill(other, 0));
    int early = attach < 100 ? attach : 100, between = attach + early;
    printf("attach-first %ld\nattach-last %ld\n", median(0, early), median(0, attach));
    printf("fork-first %ld\nfork-last %ld\nready\n", median(attach, between < total ? between : total),
           median(attach, total));
    fflush(stdout);
    getchar();
    atomic_store(&all->stage, 4);
    long begun = clock_now();
    MUST(kill(-atomic_load(&all->group), SIGKILL));
    printf("killed %ld\n", clock_now() - begun);
    fflush(stdout);
    getchar();
    atomic_store(&all->stage, 5);
    while (wait(NULL) != -1 || errno == EINTR)
        ;
    return 0;
}
