/* Micro-codes on System V IPC, and on the bare mechanisms that it is compared
 * with: the runner starts the same binary on the kernel and under vshmem.
 *
 *     micro NAME[-switches][-pinned|-busy] AMOUNT
 *
 * -switches: not the time of a turn, but how often both sides went to sleep. */
#include "bench.h"
#include <linux/futex.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static int sem, queue;

static void add(int n, int by, int flags)
{
    struct sembuf op = { (unsigned short)n, (short)by, (short)flags };
    MUST(semop(sem, &op, 1));
}

struct text { long mtype; char bytes[64]; };

static void put(long type)
{
    struct text m = { .mtype = type };
    MUST(msgsnd(queue, &m, sizeof m.bytes, 0));
}

static void get(long type)
{
    struct text m;
    MUST(msgrcv(queue, &m, sizeof m.bytes, type, 0));
}

static void sem_pair(void) { add(0, 1, 0), add(0, -1, 0); }
static void sem_undo_pair(void) { add(0, 1, SEM_UNDO), add(0, -1, SEM_UNDO); }
static void sem_multi(void)
{
    struct sembuf op[] = { { 0, 1, 0 }, { 1, 1, 0 }, { 1, -1, 0 }, { 0, -1, 0 } };
    MUST(semop(sem, op, 4));
}
static void sem_read(void) { MUST(semctl(sem, 0, GETVAL)); }
static void msg_pair(void) { put(1), get(0); }
static void msg_type_pair(void) { put(7), get(7); }
static void shm_cycle(void)
{
    int id = MUST(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600));
    char *p = MUST(shmat(id, NULL, 0));
    *p = 1;
    MUST(shmdt(p));
    MUST(shmctl(id, IPC_RMID, NULL));
}

/* POSIX message queues; the names go at once. */
static mqd_t mq[2];

static mqd_t make_mq(int n)
{
    char name[64];
    struct mq_attr attr = { .mq_maxmsg = 10, .mq_msgsize = 64 };
    snprintf(name, sizeof name, "/bench-%d-%d", getpid(), n);
    mqd_t made = MUST(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr));
    MUST(mq_unlink(name));
    return made;
}

static void make_mqs(void) { mq[0] = make_mq(0), mq[1] = make_mq(1); }
static void mq_put(int n)
{
    char bytes[64] = { 0 };
    MUST(mq_send(mq[n], bytes, sizeof bytes, 0));
}
static void mq_get(int n)
{
    char bytes[64];
    MUST(mq_receive(mq[n], bytes, sizeof bytes, NULL));
}
static void mq_pair(void) { mq_put(0), mq_get(0); }

/* In a segment, and in memory of our own. */
struct objects { sem_t unit, turn[2]; pthread_mutex_t mutex; };
static struct objects *shared, own;

static void init(struct objects *o, int pshared)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, pshared);
    pthread_mutex_init(&o->mutex, &attr);
    sem_init(&o->unit, pshared, 0);
    for (int i = 0; i < 2; i++)
        sem_init(&o->turn[i], pshared, 0);
}

static void *segment(size_t bytes)
{
    int id = MUST(shmget(IPC_PRIVATE, bytes, IPC_CREAT | 0600));
    void *at = MUST(shmat(id, NULL, 0));
    MUST(shmctl(id, IPC_RMID, NULL));
    return at;
}

static void make_objects(void)
{
    shared = segment(sizeof *shared);
    init(shared, PTHREAD_PROCESS_SHARED);
    init(&own, PTHREAD_PROCESS_PRIVATE);
}

static void unit_pair(void) { sem_post(&shared->unit), sem_wait(&shared->unit); }
static void own_unit_pair(void) { sem_post(&own.unit), sem_wait(&own.unit); }
static void mutex_pair(void) { pthread_mutex_lock(&shared->mutex), pthread_mutex_unlock(&shared->mutex); }
static void own_mutex_pair(void) { pthread_mutex_lock(&own.mutex), pthread_mutex_unlock(&own.mutex); }

/* Bandwidth: half of the bytes go there, half come back; a sample is
 * nanoseconds per KiB. */
static void copies(const char *size, int ours)
{
    size_t bytes = (size_t)(!strcmp(size, "1M") ? 1 : 64) << 20;
    char *mine = MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    char *there = ours ? segment(bytes)
        : MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    memset(mine, 1, bytes), memset(there, 1, bytes);
    double begun = now(), start;
    do {
        start = now();
        long rounds = 0;
        do {
            memcpy(there, mine, bytes);
            memcpy(mine, there, bytes);
            rounds++;
        } while (now() - start < LEAST);
        printf("%.4f\n", (now() - start) / (double)(2 * rounds) / (double)(bytes / 1024));
    } while (now() - begun < slice);
}

static void sem_give(int side) { add(!side, 1, 0); }
static void sem_take(int side) { add(side, -1, 0); }
static void msg_give(int side) { put(1 + !side); }
static void msg_take(int side) { get(1 + side); }
static void unit_give(int side) { sem_post(&shared->turn[!side]); }
static void unit_take(int side) { MUST(sem_wait(&shared->turn[side])); }
static void mq_give(int side) { mq_put(!side); }
static void mq_take(int side) { mq_get(side); }

/* The bare mechanisms: a futex, and a word that is watched. */
static struct { _Alignas(128) _Atomic uint32_t word; } *words;

static void spin_give(int side) { words[!side].word = 1; }
static void spin_take(int side)
{
    while (!words[side].word)
        ;
    words[side].word = 0;
}
static void futex_give(int side)
{
    words[!side].word = 1;
    MUST(syscall(SYS_futex, &words[!side].word, FUTEX_WAKE, 1, NULL, NULL, 0));
}
static void futex_take(int side)
{
    while (!words[side].word)
        if (syscall(SYS_futex, &words[side].word, FUTEX_WAIT, 0, NULL, NULL, 0) == -1 && errno != EAGAIN)
            exit(1);
    words[side].word = 0;
}

static int ends[2];

static void make_tcp(void)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    int one = 1, listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(listener, (struct sockaddr *)&at, size));
    MUST(listen(listener, 1));
    MUST(getsockname(listener, (struct sockaddr *)&at, &size));
    ends[0] = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(ends[0], (struct sockaddr *)&at, size));
    ends[1] = MUST(accept(listener, NULL, NULL));
    for (int i = 0; i < 2; i++)
        MUST(setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    MUST(close(listener));
}
static void tcp_give(int side) { MUST(write(ends[side], "", 1)); }
static void tcp_take(int side)
{
    char byte;
    if (read(ends[side], &byte, 1) != 1)
        exit(1);
}

static int switches;

static long slept(int who)
{
    struct rusage usage;
    MUST(getrusage(who, &usage));
    return usage.ru_nvcsw;
}

/* Enough for the 99.9th percentile, and not too much to print. */
#define TURNS 50000

/* Two processes take turns. */
static void turns(void (*give)(int), void (*take)(int))
{
    _Atomic int *stop = shared_page(4096);
    pid_t other = child();
    if (other == 0) {
        pin(1);
        for (;;) {
            take(1);
            if (*stop)
                _exit(0);
            give(1);
        }
    }
    pin(0);
    static double took[TURNS];
    long count = 0, wanted = times ? times : TURNS, before_all = slept(RUSAGE_SELF);
    int warm = times ? 0 : 100;
    for (int i = 0; i < warm; i++)
        give(0), take(0);
    memset(took, 0, sizeof took);
    double begun = now(), before = begun;
    while (count < wanted && (times || before - begun < slice)) {
        give(0), take(0);
        double after = now();
        took[count++ % TURNS] = after - before;
        before = after;
    }
    long asleep = slept(RUSAGE_SELF) - before_all;
    *stop = 1;
    give(0);
    ended(other);
    if (switches)
        printf("%.4f\n", (double)(asleep + slept(RUSAGE_CHILDREN)) / (double)(count + warm));
    for (long i = 0; !times && !switches && i < count; i++)
        printf("%.0f\n", took[i]);
}

/* Somebody else keeps one processor busy, and the scheduler finds out. */
static void busy(void)
{
    pid_t other = child();
    if (other == 0)
        for (volatile long n = 0;; n++)
            ;
}

/* One sends, the other receives; each batch is what the receiver saw. */
static void stream(void)
{
    pid_t other = child();
    if (other == 0) {
        struct text m = { .mtype = 1 };
        pin(1);
        while (msgsnd(queue, &m, sizeof m.bytes, 0) == 0)
            ;
        /* Its end is that of the queue. */
        _exit(errno == EIDRM || errno == EINVAL ? 0 : 1);
    }
    pin(0);
    for (long i = 0; i < 1000; i++)
        get(0);
    double begun = now(), start;
    do {
        start = now();
        for (int i = 0; i < 1000; i++)
            get(0);
        printf("%.3f\n", (now() - start) / 1000);
    } while (now() - begun < slice);
    MUST(msgctl(queue, IPC_RMID, NULL));
    ended(other);
}

static const struct { const char *name; void (*code)(void); } PAIRS[] = {
    { "sem-pair", sem_pair },
    { "sem-undo-pair", sem_undo_pair },
    { "sem-multi", sem_multi },
    { "sem-read", sem_read },
    { "msg-pair", msg_pair },
    { "msg-type-pair", msg_type_pair },
    { "mq-pair", mq_pair },
    { "shm-cycle", shm_cycle },
    { "unit-pair", unit_pair },
    { "own-unit-pair", own_unit_pair },
    { "mutex-pair", mutex_pair },
    { "own-mutex-pair", own_mutex_pair },
};

static const struct { const char *name; void (*give)(int), (*take)(int); } TURN[] = {
    { "sem-turns", sem_give, sem_take },
    { "msg-turns", msg_give, msg_take },
    { "mq-turns", mq_give, mq_take },
    { "unit-turns", unit_give, unit_take },
    { "futex-turns", futex_give, futex_take },
    { "spin-turns", spin_give, spin_take },
    { "tcp-turns", tcp_give, tcp_take },
};

static int go(const char *name)
{
    for (size_t i = 0; i < sizeof PAIRS / sizeof *PAIRS; i++)
        if (!strcmp(name, PAIRS[i].name))
            return batches(PAIRS[i].code), 0;
    for (size_t i = 0; i < sizeof TURN / sizeof *TURN; i++)
        if (!strcmp(name, TURN[i].name))
            return turns(TURN[i].give, TURN[i].take), 0;
    if (!strcmp(name, "msg-stream"))
        return stream(), 0;
    if (!strncmp(name, "copy-", 5))
        return copies(name + 5, 1), 0;
    if (!strncmp(name, "own-copy-", 9))
        return copies(name + 9, 0), 0;
    fprintf(stderr, "micro: there is no '%s'\n", name);
    return 2;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: micro NAME[-switches][-pinned|-busy] AMOUNT\n");
        return 2;
    }
    char *name = argv[1], *last = strrchr(name, '-');
    amount(argv[2]);
    alarm(120);
    if (last && !strcmp(last, "-pinned"))
        *last = 0, pinned = 1;
    else if (last && !strcmp(last, "-busy"))
        *last = 0, busy();
    last = strrchr(name, '-');
    if (last && !strcmp(last, "-switches"))
        *last = 0, switches = 1;
    sem = MUST(semget(IPC_PRIVATE, 2, IPC_CREAT | 0600));
    queue = MUST(msgget(IPC_PRIVATE, IPC_CREAT | 0600));
    words = shared_page(4096);
    make_objects();
    if (!strncmp(name, "mq-", 3))
        make_mqs();
    if (!strncmp(name, "tcp-", 4))
        make_tcp();
    int status = go(name);
    semctl(sem, 0, IPC_RMID);
    msgctl(queue, IPC_RMID, NULL);
    return status;
}
