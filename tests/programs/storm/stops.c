/* A worker that never has to wait for another one, and says how long its calls take.
 *
 *     stops BOARD make        makes a set, a queue and a segment that all share
 *     stops BOARD work N      works until told to end
 *     stops BOARD fork        attaches the segment, says so, and when told to forks and waits for the
 *                             child: how long, in ms
 *     stops BOARD hold        takes a semaphore with SEM_UNDO, says so, and waits to be told to end
 *     stops BOARD end         looks whether all is there, and removes the three
 *
 * BOARD is a file that the driver of the storm reads and writes: what a call took while its own
 * process was stopped is not counted. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 8, PHASES = 3, KINDS = 7, BUCKETS = 320, END = PHASES };
enum { ONE, TWO, UNDO, MESSAGE, SEGMENT, NOWAIT, TIMED };
enum { SHARED, FROM, TO, HELD, ZERO, SEMS };
enum { PLENTY = 10000, TIMEOUT_US = 3000 };

/* In words of 64 bits: the driver reads it as such. */
struct tally { uint64_t worst[KINDS], buckets[KINDS][BUCKETS]; };
struct worker {
    uint64_t pid;
    uint64_t stops; /* Odd while it may be stopped. */
    uint64_t calls, interrupted, early;
    struct tally tallies[PHASES];
};
struct board {
    uint64_t phase, set, queue, segment;
    struct worker workers[WORKERS];
};

static volatile struct board *board;
static volatile struct worker *me;

#define CHECK(so, ...)                                  \
    do {                                                \
        if (!(so)) {                                    \
            fprintf(stderr, "stops: %s: ", #so);        \
            fprintf(stderr, __VA_ARGS__);               \
            fprintf(stderr, ": %s\n", strerror(errno)); \
            exit(1);                                    \
        }                                               \
    } while (0)
#define MUST(call)                        \
    ({                                    \
        __typeof__(call) got_ = (call);   \
        CHECK((long)got_ != -1, "%s", ""); \
        got_;                             \
    })

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Eight buckets to each power of two. */
static unsigned bucket(uint64_t ns)
{
    if (ns < 8)
        return (unsigned)ns;
    unsigned power = 63 - (unsigned)__builtin_clzll(ns);
    unsigned at = (power - 2) * 8 + (unsigned)(ns >> (power - 3) & 7);
    return at < BUCKETS ? at : BUCKETS - 1;
}

static uint64_t began, stops, phase, delayed, begun;

/* Turns on a processor that a call may need: one that waits for somebody by looking again and again
 * has hundreds. */
enum { TURNS = 48 };

/* For how long this process has been ready to run, and had no processor; and how often it got one. */
static uint64_t delay(uint64_t *turns)
{
    static int fd = -1;
    char text[64];
    unsigned long long ran, waited, got;
    if (fd == -1)
        fd = MUST(open("/proc/self/schedstat", O_RDONLY));
    ssize_t n = MUST(pread(fd, text, sizeof text - 1, 0));
    text[n] = 0;
    CHECK(sscanf(text, "%llu %llu %llu", &ran, &waited, &got) == 3, "%s", text);
    *turns = got;
    return waited;
}

static void begin(void)
{
    delayed = delay(&begun);
    phase = board->phase;
    stops = __atomic_load_n(&me->stops, __ATOMIC_SEQ_CST);
    began = now();
}

/* Counts what took from `begin` until now, less what it was to take, unless this process was stopped.
 * What took long is counted without the time in which there was no processor for it. */
static void count(int kind, uint64_t wanted)
{
    uint64_t took = now() - began;
    int saved = errno;
    uint64_t since = __atomic_load_n(&me->stops, __ATOMIC_SEQ_CST);
    me->calls++;
    if (phase >= PHASES || phase != board->phase || since != stops || since % 2)
        return;
    if (took < wanted)
        me->early++;
    took = took > wanted ? took - wanted : 0;
    if (took > 1000000) {
        uint64_t turns, busy = delay(&turns) - delayed;
        if (turns - begun < TURNS)
            took = took > busy ? took - busy : 0;
    }
    errno = saved;
    volatile struct tally *t = &me->tallies[phase];
    t->buckets[kind][bucket(took)]++;
    if (took > t->worst[kind])
        t->worst[kind] = took;
}

/* Again where a stop and continuation of this process ended it. */
static int again(int got)
{
    if (got == -1 && errno == EINTR) {
        me->interrupted++;
        return 1;
    }
    return 0;
}

static void change(int kind, struct sembuf *ops, size_t n)
{
    int got;
    do {
        begin();
        got = semop((int)board->set, ops, n);
        count(kind, 0);
    } while (again(got));
    CHECK(got == 0, "kind %d", kind);
}

static void one(int flag, int kind)
{
    struct sembuf take = { SHARED, -1, (short)flag }, give = { SHARED, 1, (short)flag };
    if (flag & SEM_UNDO)
        take.sem_num = give.sem_num = HELD;
    change(kind, &take, 1);
    change(kind, &give, 1);
}

static void two(void)
{
    struct sembuf there[2] = { { FROM, -1, 0 }, { TO, 1, 0 } };
    struct sembuf back[2] = { { TO, -1, 0 }, { FROM, 1, 0 } };
    change(TWO, there, 2);
    change(TWO, back, 2);
}

struct message { long type; uint64_t number; char rest[48]; };

/* To itself, through the queue of all. */
static void message(long type, uint64_t number)
{
    struct message m = { .type = type, .number = number };
    int got;
    do {
        begin();
        got = msgsnd((int)board->queue, &m, sizeof m - sizeof m.type, 0);
        count(MESSAGE, 0);
    } while (again(got));
    CHECK(got == 0, "sending");
    memset(&m, 0, sizeof m);
    do {
        begin();
        got = (int)msgrcv((int)board->queue, &m, sizeof m - sizeof m.type, type, 0);
        count(MESSAGE, 0);
    } while (again(got));
    CHECK(got == sizeof m - sizeof m.type, "receiving");
    CHECK(m.number == number, "message %llu instead of %llu", (unsigned long long)m.number,
          (unsigned long long)number);
}

static void segment(void)
{
    begin();
    int id = MUST(shmget(IPC_PRIVATE, 20000, 0600));
    count(SEGMENT, 0);
    begin();
    char *mine = MUST(shmat(id, NULL, 0));
    count(SEGMENT, 0);
    begin();
    char *all = MUST(shmat((int)board->segment, NULL, 0));
    count(SEGMENT, 0);
    CHECK(mine[0] == 0 && mine[19999] == 0, "a new segment is not empty");
    mine[0] = mine[19999] = 1;
    begin();
    MUST(shmctl(id, IPC_RMID, NULL));
    count(SEGMENT, 0);
    begin();
    MUST(shmdt(mine));
    count(SEGMENT, 0);
    begin();
    MUST(shmdt(all));
    count(SEGMENT, 0);
}

static void impatient(void)
{
    struct sembuf never = { ZERO, -1, IPC_NOWAIT };
    begin();
    int got = semop((int)board->set, &never, 1);
    count(NOWAIT, 0);
    CHECK(got == -1 && errno == EAGAIN, "IPC_NOWAIT");
    struct message m;
    begin();
    got = (int)msgrcv((int)board->queue, &m, sizeof m - sizeof m.type, 1 << 20, IPC_NOWAIT);
    count(NOWAIT, 0);
    CHECK(got == -1 && errno == ENOMSG, "msgrcv with IPC_NOWAIT");
}

static void timed(void)
{
    struct sembuf never = { ZERO, -1, 0 };
    struct timespec limit = { 0, TIMEOUT_US * 1000 };
    int got;
    do {
        begin();
        got = semtimedop((int)board->set, &never, 1, &limit);
        if (got == -1 && errno == EINTR)
            continue;
        count(TIMED, TIMEOUT_US * 1000);
    } while (again(got));
    CHECK(got == -1 && errno == EAGAIN, "semtimedop");
}

static void work(int n)
{
    me = &board->workers[n];
    uint64_t random = (uint64_t)n * 7919 + 1;
    me->pid = (uint64_t)getpid();
    for (uint64_t i = 0; board->phase != END; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        switch (random >> 33 & 31) {
        case 0: segment(); break;
        case 1: timed(); break;
        case 2 ... 7: message(n + 1, i); break;
        case 8 ... 12: two(); break;
        case 13 ... 17: one(SEM_UNDO, UNDO); break;
        case 18 ... 20: impatient(); break;
        default: one(0, ONE); break;
        }
    }
}

static void make(void)
{
    board->set = (uint64_t)MUST(semget(IPC_PRIVATE, SEMS, 0600));
    board->queue = (uint64_t)MUST(msgget(IPC_PRIVATE, 0600));
    board->segment = (uint64_t)MUST(shmget(IPC_PRIVATE, 4096, 0600));
    unsigned short values[SEMS] = { PLENTY, PLENTY, PLENTY, PLENTY, 0 };
    MUST(semctl((int)board->set, 0, SETALL, values));
}

static void fork_once(void)
{
    MUST(shmat((int)board->segment, NULL, 0));
    puts("attached");
    fflush(stdout);
    getchar();
    uint64_t start = now();
    pid_t child = MUST(fork());
    if (child == 0)
        _exit(0);
    MUST(waitpid(child, NULL, 0));
    printf("%llu\n", (unsigned long long)(now() - start) / 1000000);
}

static void hold(void)
{
    struct sembuf take = { HELD, -1, SEM_UNDO };
    MUST(semop((int)board->set, &take, 1));
    puts("holding");
    fflush(stdout);
    getchar();
}

static void end(void)
{
    unsigned short values[SEMS];
    MUST(semctl((int)board->set, 0, GETALL, values));
    for (int i = 0; i < SEMS; i++)
        CHECK(values[i] == (i == ZERO ? 0 : PLENTY), "semaphore %d is %d", i, values[i]);
    struct msqid_ds q;
    MUST(msgctl((int)board->queue, IPC_STAT, &q));
    CHECK(q.msg_qnum == 0, "%lu messages are left", (unsigned long)q.msg_qnum);
    struct shmid_ds s;
    MUST(shmctl((int)board->segment, IPC_STAT, &s));
    CHECK(s.shm_nattch == 0, "attached %lu times", (unsigned long)s.shm_nattch);
    MUST(semctl((int)board->set, 0, IPC_RMID));
    MUST(msgctl((int)board->queue, IPC_RMID, NULL));
    MUST(shmctl((int)board->segment, IPC_RMID, NULL));
}

int main(int argc, char **argv)
{
    CHECK(argc >= 3, "usage: stops BOARD make|work N|fork|end");
    int fd = MUST(open(argv[1], O_RDWR));
    board = MUST(mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    if (!strcmp(argv[2], "make"))
        make();
    else if (!strcmp(argv[2], "work") && argc == 4)
        work(atoi(argv[3]));
    else if (!strcmp(argv[2], "fork"))
        fork_once();
    else if (!strcmp(argv[2], "hold"))
        hold();
    else if (!strcmp(argv[2], "end"))
        end();
    else
        CHECK(0, "what is '%s'?", argv[2]);
    return 0;
}
