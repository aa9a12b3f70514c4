/* What grows when there are many: objects, sleepers, tasks.
 *
 *     scale CODE AMOUNT N
 *
 * The same operation with N of them. */
#include "bench.h"

/* Keys that nobody else uses at the time. */
static key_t key(long n) { return (key_t)((getpid() * 40000L + n) % 0x7fff0000 + 1); }

static long n;
static int *ids;

static unsigned seed = 1;
static long any(void)
{
    seed = seed * 1103515245 + 12345;
    return (long)((seed >> 8) % (unsigned long)n);
}

static int sem_get(long i, int flags) { return semget(key(i), 3, flags); }
static int msg_get(long i, int flags) { return msgget(key(i), flags); }
static int shm_get(long i, int flags) { return shmget(key(i), 4096, flags); }
static void sem_remove(int id) { MUST(semctl(id, 0, IPC_RMID)); }
static void msg_remove(int id) { MUST(msgctl(id, IPC_RMID, NULL)); }
static void shm_remove(int id) { MUST(shmctl(id, IPC_RMID, NULL)); }

static const struct kind {
    const char *name;
    int (*get)(long, int);
    void (*remove)(int);
} KINDS[] = { { "sem", sem_get, sem_remove }, { "msg", msg_get, msg_remove }, { "shm", shm_get, shm_remove } };
static const struct kind *kind;

static void make_objects(void)
{
    ids = calloc((size_t)n, sizeof *ids);
    for (long i = 0; i < n; i++)
        ids[i] = MUST(kind->get(i, IPC_CREAT | IPC_EXCL | 0600));
}

static void remove_objects(void)
{
    for (long i = 0; i < n; i++)
        kind->remove(ids[i]);
}

static void add(int id, int i, int by)
{
    struct sembuf op = { (unsigned short)i, (short)by, 0 };
    MUST(semop(id, &op, 1));
}

static void put(int id, long type)
{
    struct { long type; char bytes[64]; } m = { type, "" };
    MUST(msgsnd(id, &m, sizeof m.bytes, 0));
}

static void take(int id, long type)
{
    struct { long type; char bytes[64]; } m;
    MUST(msgrcv(id, &m, sizeof m.bytes, type, 0));
}

/* Those of one object among many. */
static void lookup(void) { MUST(kind->get(any(), 0)); }
static void get(void) { kind->remove(MUST(kind->get(n, IPC_CREAT | IPC_EXCL | 0600))); }
static void operation(void)
{
    int id = ids[any()];
    if (kind->get == sem_get)
        add(id, 0, 1), add(id, 0, -1);
    else
        put(id, 1), take(id, 1);
}

/* Calls of a child, until its object is removed. */
static void forever(int id, int first, int second)
{
    struct sembuf one = { (unsigned short)first, -1, 0 }, two = { (unsigned short)second, 1, 0 };
    while (semop(id, &one, 1) == 0 && semop(id, &two, 1) == 0)
        ;
    _exit(errno == EIDRM || errno == EINVAL ? 0 : 1);
}

static void turn_times(void (*turn)(int), int id)
{
    for (int i = 0; i < 50; i++)
        turn(id);
    for (double begun = now(), before = begun; before - begun < slice;) {
        turn(id);
        double after = now();
        printf("%.0f\n", after - before);
        before = after;
    }
}

static void sem_turn(int id) { add(id, 0, 1), add(id, 1, -1); }
static void msg_turn(int id) { put(id, 1), take(id, 2); }

/* Until so many of our children are in their last call. */
static void all_asleep(int id, long many)
{
    while (semctl(id, 0, GETNCNT) + semctl(id, 2, GETNCNT) < many)
        sched_yield();
}

/* A child sleeps on one of N sets; each turn wakes it and is answered. */
static void wake(void)
{
    int id = ids[n / 2];
    pid_t other = child();
    if (other == 0)
        forever(id, 0, 1);
    turn_times(sem_turn, id);
    remove_objects();
    ended(other);
}

/* N asleep on one semaphore, each turn wakes the first; or one there, and all
 * others on another semaphore of the set. */
static void sleepers(int apart)
{
    int id = MUST(semget(IPC_PRIVATE, 3, IPC_CREAT | 0600));
    pid_t *pids = calloc((size_t)n, sizeof *pids);
    for (long i = 0; i < n; i++)
        if ((pids[i] = child()) == 0)
            forever(id, apart && i > 0 ? 2 : 0, 1);
    all_asleep(id, n);
    turn_times(sem_turn, id);
    sem_remove(id);
    for (long i = 0; i < n; i++)
        ended(pids[i]);
}

/* N receivers asleep on one queue: the first of type 1, all others of types of
 * their own. */
static void receivers(void)
{
    int id = MUST(msgget(IPC_PRIVATE, IPC_CREAT | 0600));
    _Atomic long *ready = shared_page(4096);
    pid_t *pids = calloc((size_t)n, sizeof *pids);
    for (long i = 0; i < n; i++)
        if ((pids[i] = child()) == 0) {
            struct { long type; char bytes[64]; } m;
            ++*ready;
            while (msgrcv(id, &m, sizeof m.bytes, i == 0 ? 1 : 2 + i, 0) >= 0)
                put(id, 2);
            _exit(errno == EIDRM || errno == EINVAL ? 0 : 1);
        }
    while (*ready < n)
        sched_yield();
    turn_times(msg_turn, id);
    msg_remove(id);
    for (long i = 0; i < n; i++)
        ended(pids[i]);
}

static int one;
static void pair(void) { add(one, 0, 1), add(one, 0, -1); }

/* Until that many of our children have said so; none must have ended. */
static void all_there(long many)
{
    const struct timespec tick = { 0, 1000000 };
    while (semctl(one, 1, GETVAL) < many) {
        if (waitpid(-1, NULL, WNOHANG) != 0) {
            fprintf(stderr, "one of %ld processes has ended\n", many);
            exit(1);
        }
        nanosleep(&tick, NULL);
    }
}

/* N others are attached, and asleep. They come a few at a time: a crowd at the
 * door is another matter. */
static void tasks(void)
{
    one = MUST(semget(IPC_PRIVATE, 3, IPC_CREAT | 0600));
    pid_t *pids = calloc((size_t)n, sizeof *pids);
    for (long i = 0; i < n; i++) {
        if ((pids[i] = child()) == 0) {
            add(one, 1, 1);
            for (;;)
                pause();
        }
        if (i % 50 == 0)
            all_there(i);
    }
    all_there(n);
    batches(pair);
    sem_remove(one);
    for (long i = 0; i < n; i++)
        kill(pids[i], SIGKILL);
    for (long i = 0; i < n; i++)
        MUST(waitpid(pids[i], NULL, 0));
}

static double spent(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* N processes, each on its own processor and its own set, at the same time:
 * nanoseconds of a pair of any of them. The processors' time counts, since others
 * may want them, too: what one costs the other is in it. */
static void apart(void)
{
    _Atomic int *go = shared_page(4096);
    struct { _Alignas(128) long pairs; double took; } *done = shared_page((size_t)n * 128);
    pid_t *pids = calloc((size_t)n, sizeof *pids);
    pinned = 1;
    for (long i = 0; i < n; i++)
        if ((pids[i] = child()) == 0) {
            pin((int)i);
            one = MUST(semget(IPC_PRIVATE, 3, IPC_CREAT | 0600));
            while (*go == 0)
                pair();
            double start = spent();
            for (; *go == 1; done[i].pairs += 100)
                for (int k = 0; k < 100; k++)
                    pair();
            done[i].took = spent() - start;
            sem_remove(one);
            _exit(0);
        }
    struct timespec warm = { 0, (long)(slice / 10) };
    struct timespec all = { (time_t)(slice / 1e9), (long)slice % 1000000000 };
    nanosleep(&warm, NULL);
    *go = 1;
    nanosleep(&all, NULL);
    *go = 2;
    double took = 0;
    for (long i = 0; i < n; i++) {
        ended(pids[i]);
        if (done[i].pairs == 0) {
            fprintf(stderr, "a process had no processor\n");
            exit(1);
        }
        took += done[i].took / (double)done[i].pairs;
    }
    printf("%.3f\n", took / (double)n / (double)n);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: scale CODE AMOUNT N\n");
        return 2;
    }
    char *code = argv[1], *last = strrchr(code, '-');
    amount(argv[2]);
    n = number(argc, argv, 3);
    alarm(n < 5000 ? 120 : 500);
    if (!strcmp(code, "sleepers"))
        return sleepers(0), 0;
    if (!strcmp(code, "sleepers-apart"))
        return sleepers(1), 0;
    if (!strcmp(code, "receivers"))
        return receivers(), 0;
    if (!strcmp(code, "tasks"))
        return tasks(), 0;
    if (!strcmp(code, "apart"))
        return apart(), 0;
    for (size_t i = 0; last && i < sizeof KINDS / sizeof *KINDS; i++)
        if (!strcmp(last + 1, KINDS[i].name))
            kind = &KINDS[i], *last = 0;
    if (kind)
        make_objects();
    if (kind && !strcmp(code, "wake"))
        return wake(), 0;
    if (kind && !strcmp(code, "lookup"))
        batches(lookup);
    else if (kind && !strcmp(code, "get"))
        batches(get);
    else if (kind && !strcmp(code, "operation"))
        batches(operation);
    else {
        fprintf(stderr, "scale: there is no '%s'\n", code);
        return 2;
    }
    remove_objects();
    return 0;
}
