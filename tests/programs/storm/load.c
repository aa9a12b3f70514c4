/* Load on one set, one queue and one segment, of which every unit and message
 * is accounted for: whoever dies, tokens come back and messages arrive once.
 *
 *     load make             makes the objects
 *     load work FIRST N     works as N processes of the slots from FIRST on
 *     load settle SLOT...   stops the living, checks the accounts, with the
 *                           workers of these slots dead, and lets them go on
 *     load hold             takes the token with SEM_UNDO, and keeps it
 *     load take             takes it when it is free, and gives it back
 *     load asleep           waits until somebody sleeps for it
 *     load remove           removes the objects */
#include "../demo/demo.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#define SLOTS 24
#define SERIALS 16384 /* of one worker between two settlings */
#define UNITS 3
#define PILE 0x5707

/* The semaphores. The pools are smaller than the crowd: some always sleep. */
enum { LEFT, RIGHT, SINGLE, TOKEN, SEMS };
static const unsigned short INITIAL[SEMS] = { 3, 3, 2, 1 };

/* Above BUSY: pauses, in the settling of this number. */
enum { NOBODY, BUSY };
enum { NONE, TAKING, HOLDING, POSTING };

/* What a worker writes of itself, before and after each step that its death
 * leaves in doubt. */
struct ledger {
    int state, unit, receiving;
    unsigned sending, sent; /* serials; equal but inside msgsnd */
    unsigned long done;
    unsigned char got[SERIALS]; /* how often its messages came, by serial */
};

struct shared {
    int pause, settlings, owner;
    unsigned inherited;
    sem_t units;
    pthread_mutex_t mutex;
    struct ledger of[SLOTS];
};

struct message {
    long mtype;
    unsigned from, serial, len;
    unsigned char fill[500];
};
#define HEAD (3 * sizeof(unsigned))

static int set, shm, queue;
static key_t key;
static struct shared *s;

#define GET(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define PUT(x, v) __atomic_store_n(&(x), (v), __ATOMIC_SEQ_CST)

static void make(void)
{
    remove_old(key);
    shm = MUST(shmget(key, sizeof *s, IPC_CREAT | IPC_EXCL | 0600));
    s = MUST(shmat(shm, NULL, 0));
    MUST(sem_init(&s->units, 1, UNITS));
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&s->mutex, &a);
    queue = MUST(msgget(key, IPC_CREAT | IPC_EXCL | 0600));
    set = MUST(semget(key, SEMS, IPC_CREAT | IPC_EXCL | 0600));
    unsigned short values[SEMS];
    memcpy(values, INITIAL, sizeof values);
    MUST(semctl(set, 0, SETALL, (union semun){ .array = values }));
}

static void find(void)
{
    set = MUST(semget(key, 0, 0));
    queue = MUST(msgget(key, 0));
    shm = MUST(shmget(key, 0, 0));
}

static unsigned rnd(unsigned n)
{
    static unsigned long x;
    if (!x)
        x = (unsigned long)getpid() * 0x9e3779b97f4a7c15 ^ (unsigned long)(now() * 1e9);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (unsigned)(x >> 33) % n;
}

static void nap_us(unsigned us)
{
    struct timespec t = { 0, (long)us * 1000 };
    if (us)
        nanosleep(&t, NULL);
}

/* False when the timer cut it short: time to look whether to pause. */
static int finished(int result)
{
    if (result == -1 && errno != EINTR && errno != EAGAIN)
        fail("a call");
    return result != -1;
}

static void tokens(void)
{
    struct sembuf take[2] = { { LEFT, -1, SEM_UNDO }, { RIGHT, -1, SEM_UNDO } };
    struct sembuf give[2] = { { RIGHT, 1, SEM_UNDO }, { LEFT, 1, SEM_UNDO } };
    if (!finished(semop(set, take, 2)))
        return;
    nap_us(rnd(300));
    while (!finished(semop(set, give, 2)))
        ;
}

static void single(void)
{
    struct sembuf take = { SINGLE, -1, SEM_UNDO }, give = { SINGLE, 1, SEM_UNDO };
    if (!finished(semop(set, &take, 1)))
        return;
    nap_us(rnd(2) * rnd(200));
    while (!finished(semop(set, &give, 1)))
        ;
}

static void put_message(struct ledger *me, unsigned slot)
{
    unsigned serial = me->sent + 1;
    if (serial == SERIALS)
        return;
    struct message m = { .mtype = 1 + rnd(3), .from = slot, .serial = serial, .len = rnd(sizeof m.fill) };
    memset(m.fill, (int)(serial + slot), m.len);
    PUT(me->sending, serial);
    if (finished(msgsnd(queue, &m, HEAD + m.len, rnd(2) ? IPC_NOWAIT : 0)))
        PUT(me->sent, serial);
    else
        PUT(me->sending, me->sent);
}

/* False when there is none now. */
static int get_message(struct ledger *me, long type, int flags)
{
    struct message m;
    if (me)
        PUT(me->receiving, 1);
    ssize_t n = msgrcv(queue, &m, sizeof m - sizeof m.mtype, type, flags);
    int got = n != -1;
    if (!got && errno != EINTR && errno != EAGAIN && errno != ENOMSG)
        fail("msgrcv");
    if (got) {
        CHECK((size_t)n == HEAD + m.len && m.from < SLOTS && m.serial < SERIALS, "a message of %zd bytes: %u of %u",
              n, m.serial, m.from);
        for (unsigned i = 0; i < m.len; i++)
            CHECK(m.fill[i] == (unsigned char)(m.serial + m.from), "byte %u of message %u of %u", i, m.serial, m.from);
        __atomic_fetch_add(&s->of[m.from].got[m.serial], 1, __ATOMIC_SEQ_CST);
    }
    if (me)
        PUT(me->receiving, 0);
    return got;
}

static void unit(struct ledger *me)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 50000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    PUT(me->unit, TAKING);
    if (sem_timedwait(&s->units, &until) == -1) {
        CHECK(errno == ETIMEDOUT || errno == EINTR, "sem_timedwait: %d", errno);
    } else {
        PUT(me->unit, HOLDING);
        nap_us(rnd(200));
        PUT(me->unit, POSTING);
        MUST(sem_post(&s->units));
    }
    PUT(me->unit, NONE);
}

static void mutex(unsigned slot)
{
    int e = pthread_mutex_lock(&s->mutex);
    if (e == EOWNERDEAD) {
        s->inherited++;
        pthread_mutex_consistent(&s->mutex);
    } else {
        CHECK(e == 0, "pthread_mutex_lock: %s", strerror(e));
        CHECK(GET(s->owner) == 0, "the mutex is slot %d's as well as slot %u's", s->owner - 1, slot);
    }
    PUT(s->owner, (int)slot + 1);
    nap_us(rnd(100));
    PUT(s->owner, 0);
    CHECK(pthread_mutex_unlock(&s->mutex) == 0, "pthread_mutex_unlock");
}

/* Pages and a slot that nobody but the dead knew of. */
static void scratch(unsigned slot)
{
    size_t len = 4096u << rnd(5);
    int id = MUST(shmget(IPC_PRIVATE, len, 0600));
    unsigned char *at = MUST(shmat(id, NULL, 0));
    MUST(shmctl(id, IPC_RMID, NULL));
    for (size_t i = 0; i < len; i += 512)
        CHECK(at[i] == 0, "a new segment has a %u at %zu", at[i], i);
    memset(at, (int)slot + 1, len);
    nap_us(rnd(200));
    MUST(shmdt(at));
}

static void alarmed(int number)
{
    (void)number;
}

/* Whether `so` comes true in time. */
#define COMES(so)                                    \
    ({                                               \
        double until_ = now() + PATIENCE_SECONDS;    \
        while (!(so) && now() < until_)              \
            nap_ms(1);                               \
        (so);                                        \
    })

__attribute__((noreturn)) static void work(unsigned slot)
{
    s = MUST(shmat(shm, NULL, 0));
    struct ledger *me = &s->of[slot];
    struct sigaction a = { .sa_handler = alarmed };
    MUST(sigaction(SIGALRM, &a, NULL));
    struct itimerval often = { { 0, 100000 }, { 0, 100000 } };
    MUST(setitimer(ITIMER_REAL, &often, NULL));
    for (PUT(me->state, BUSY);;) {
        for (int p; (p = GET(s->pause)); PUT(me->state, BUSY)) {
            PUT(me->state, p);
            while (GET(s->pause) == p)
                nap_ms(2);
        }
        switch (rnd(16)) {
        case 0: case 1: case 2: tokens(); break;
        case 3: case 4: case 5: single(); break;
        case 6: case 7: case 8: put_message(me, slot); break;
        case 9: case 10: get_message(me, -(long)(1 + rnd(3)), IPC_NOWAIT); break;
        case 11: get_message(me, 1 + rnd(3), 0); break;
        case 12: case 13: unit(me); break;
        case 14: mutex(slot); break;
        case 15: if (!rnd(8)) scratch(slot); break;
        }
        PUT(me->done, me->done + 1);
    }
}

static void crowd(unsigned first, unsigned n)
{
    /* The children attach, so that a process counts once. */
    for (unsigned i = 0; i < n; i++)
        if (MUST(fork()) == 0)
            work(first + i);
    s = MUST(shmat(shm, NULL, 0));
    for (unsigned i = 0; i < n; i++)
        CHECK(COMES(GET(s->of[first + i].state) != NOBODY), "slot %u does not come", first + i);
    MUST(shmdt(s));
    alarm(0);
    printf("working\n");
    int status;
    MUST(wait(&status));
    fail("a worker ended with %#x", status);
}

static int value(int sem)
{
    return MUST(semctl(set, sem, GETVAL));
}

/* How many do, once all do. */
static int paused(const unsigned char *dead)
{
    int n = 0;
    for (int i = 0; i < SLOTS; i++) {
        int state = dead[i] ? NOBODY : GET(s->of[i].state);
        if (state != NOBODY && state != s->settlings)
            return -1;
        n += state != NOBODY;
    }
    return n;
}

static unsigned long attached(void)
{
    struct shmid_ds ds;
    MUST(shmctl(shm, IPC_STAT, &ds));
    return (unsigned long)ds.shm_nattch;
}

static void settle(int n, char **slots)
{
    unsigned char dead[SLOTS] = { 0 };
    for (int i = 0; i < n; i++)
        dead[atoi(slots[i]) % SLOTS] = 1;
    s = MUST(shmat(shm, NULL, 0));
    s->settlings = s->settlings < 2 ? 2 : s->settlings + 1;
    PUT(s->pause, s->settlings);
    for (int i = 0; !COMES(paused(dead) >= 0) && i < SLOTS; i++)
        CHECK(dead[i] || GET(s->of[i].state) != BUSY, "slot %d does not pause", i);

    /* Tokens: all there once the dead are reaped. */
    for (int i = 0; i < TOKEN; i++)
        CHECK(COMES(value(i) == INITIAL[i]), "semaphore %d is %d, not %d", i, value(i), INITIAL[i]);
    for (int i = 0; i < SEMS; i++)
        CHECK(value(i) <= INITIAL[i] && MUST(semctl(set, i, GETZCNT)) == 0, "semaphore %d is %d", i, value(i));
    unsigned long living = 1 + (unsigned long)paused(dead);
    CHECK(COMES(attached() == living), "%lu attachments of %lu processes", attached(), living);

    /* Messages: each has come once, but for those in the hands of the dead. */
    int left = 0;
    while (get_message(NULL, 0, IPC_NOWAIT))
        left++;
    struct msqid_ds ds;
    MUST(msgctl(queue, IPC_STAT, &ds));
    CHECK(ds.msg_qnum == 0, "%lu messages that nobody gets", (unsigned long)ds.msg_qnum);
    int lost = 0, allowed = 0, low = UNITS, high = UNITS;
    unsigned long messages = 0, done = 0;
    for (int i = 0; i < SLOTS; i++) {
        struct ledger *l = &s->of[i];
        for (unsigned serial = 1; serial <= l->sending; serial++) {
            CHECK(l->got[serial] <= 1, "message %u of slot %d came %u times", serial, i, l->got[serial]);
            lost += l->got[serial] == 0 && serial <= l->sent;
            CHECK(serial <= l->sent || dead[i], "slot %d lives and sends", i);
        }
        for (unsigned serial = l->sending + 1; serial < SERIALS; serial++)
            CHECK(l->got[serial] == 0, "message %u of slot %d was never sent", serial, i);
        CHECK(dead[i] || (l->unit == NONE && !l->receiving), "slot %d lives and holds", i);
        allowed += l->receiving;
        low -= l->unit != NONE;
        high -= l->unit == HOLDING;
        messages += l->sent;
        done += l->done;
    }
    CHECK(lost <= allowed, "%d messages are lost, %d were in the hands of the dead", lost, allowed);

    int units = -1, e;
    MUST(sem_getvalue(&s->units, &units));
    CHECK(low <= units && units <= high, "%d units, not %d to %d", units, low, high);
    while (units++ < UNITS)
        MUST(sem_post(&s->units));
    struct timespec until = { .tv_sec = time(NULL) + PATIENCE_SECONDS };
    e = pthread_mutex_timedlock(&s->mutex, &until);
    CHECK(e == 0 || e == EOWNERDEAD, "the mutex: %s", strerror(e));
    CHECK(e == EOWNERDEAD || GET(s->owner) == 0, "slot %d owns the free mutex", s->owner - 1);
    pthread_mutex_consistent(&s->mutex);
    PUT(s->owner, 0);
    CHECK(pthread_mutex_unlock(&s->mutex) == 0, "pthread_mutex_unlock");

    printf("{\"workers\":%lu,\"done\":%lu,\"messages\":%lu,\"left\":%d,\"lost\":%d,\"allowed\":%d,\"inherited\":%u}\n",
           living - 1, done, messages, left, lost, allowed, s->inherited);
    for (int i = 0; i < SLOTS; i++) {
        int state = dead[i] ? NOBODY : s->of[i].state;
        memset(&s->of[i], 0, sizeof s->of[i]);
        PUT(s->of[i].state, state);
    }
    s->inherited = 0;
    PUT(s->pause, 0);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    begin();
    key = PILE;
    struct sembuf hold = { TOKEN, -1, SEM_UNDO };
    if (!strcmp(what, "make")) {
        make();
        return 0;
    }
    find();
    if (!strcmp(what, "work") && argc == 4) {
        crowd((unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]));
    } else if (!strcmp(what, "settle")) {
        settle(argc - 2, argv + 2);
    } else if (!strcmp(what, "hold")) {
        MUST(semop(set, &hold, 1));
        printf("holding\n");
        alarm(0);
        pause();
    } else if (!strcmp(what, "take")) {
        MUST(up(set, TOKEN, -1));
        printf("taken\n");
        MUST(up(set, TOKEN, 1));
    } else if (!strcmp(what, "asleep")) {
        CHECK(COMES(semctl(set, TOKEN, GETNCNT) > 0), "nobody sleeps");
    } else if (!strcmp(what, "remove")) {
        remove_old(key);
    } else {
        fprintf(stderr, "usage: load make|work FIRST N|settle SLOT...|hold|take|asleep|remove\n");
        return 2;
    }
    return 0;
}
