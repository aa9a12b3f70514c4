/* Semaphores: tokens that must never get lost or more. */
#include "storm.h"

static struct sembuf op(int num, int by, int flags)
{
    return (struct sembuf){ .sem_num = num, .sem_op = by, .sem_flg = flags };
}

/* True when it was done; that it could not be in time, or at once, is no error. */
static bool operate(struct self *self, struct sembuf *ops, int n, uint32_t wait)
{
    struct timespec limit = { 0, wait * 1000l };
    if (semtimedop(set, ops, n, wait ? &limit : NULL) == 0)
        return true;
    if (errno != EAGAIN)
        broken(self, "semop");
    return false;
}

/* One that cannot fail nor wait: giving back what is one's own. */
static void give(struct self *self, struct sembuf *ops, int n)
{
    if (semop(set, ops, n) != 0)
        broken(self, "semop that gives back");
}

/* Tokens of pools, taken to be given back, by whoever. */
static void pools(struct self *self)
{
    int pool = below(self, POOLS), other = (pool + 1 + below(self, POOLS - 1)) % POOLS;
    int n = 1 + below(self, 2);
    uint32_t how = below(self, 4);
    int flags = SEM_UNDO | (how == 0 ? IPC_NOWAIT : 0);
    struct sembuf ops[] = { op(pool, -1, flags), op(other, -1, flags) };
    if (!operate(self, ops, n, how == 1 ? 1 + below(self, 2000) : 0))
        return;
    rest(self, below(self, 4) ? 20 : 300);
    ops[0] = op(pool, 1, SEM_UNDO);
    ops[1] = op(other, 1, SEM_UNDO);
    give(self, ops, n);
}

/* From one to the other in one operation that nobody undoes: it happens wholly or not at all. */
static void transfer(struct self *self)
{
    bool back = below(self, 2);
    int by = 1 + below(self, 5);
    struct sembuf ops[] = { op(back ? RIGHT : LEFT, -by, 0), op(back ? LEFT : RIGHT, by, 0) };
    operate(self, ops, 2, 1 + below(self, 1000));
}

/* The same and back again, undone for the dead. */
static void lend(struct self *self)
{
    int by = 1 + below(self, 9);
    struct sembuf there[] = { op(GIVER, -by, SEM_UNDO), op(TAKER, by, SEM_UNDO) };
    struct sembuf back[] = { op(TAKER, -by, SEM_UNDO), op(GIVER, by, SEM_UNDO) };
    if (!operate(self, there, 2, 0))
        return;
    rest(self, 100);
    give(self, back, 2);
}

static void zero(struct self *self)
{
    struct sembuf wait = op(ZERO, 0, 0), up = op(ZERO, 1, SEM_UNDO), down = op(ZERO, -1, SEM_UNDO);
    if (below(self, 2)) {
        operate(self, &wait, 1, 1 + below(self, 2000));
        return;
    }
    give(self, &up, 1);
    rest(self, 50);
    give(self, &down, 1);
}

void tokens(struct self *self)
{
    static void (*const steps[])(struct self *) = { pools, pools, transfer, lend, zero };
    steps[below(self, 5)](self);
}

/* Whether a process runs: one that is dead and not yet waited for does not. */
static bool runs(uint64_t pid)
{
    char path[32], text[512];
    snprintf(path, sizeof path, "/proc/%llu/stat", (unsigned long long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd == -1 ? -1 : read(fd, text, sizeof text - 1);
    if (fd != -1)
        close(fd);
    if (n <= 0)
        return false;
    text[n] = 0;
    const char *state = strrchr(text, ')');
    return state && state[2] != 'Z' && state[2] != 'X';
}

/* What is inside: a record whose former version is whole while the next one is written. */
static void inside(struct self *self, struct record *record)
{
    uint64_t version = atomic_load(&record->version);
    atomic_store(&record->owner, getpid());
    for (uint64_t i = 0; i < WORDS; i++)
        if (record->copies[version & 1][i] != mix(version ^ i << 32)) {
            broken(self, "a record is torn");
            break;
        }
    version++;
    for (uint64_t i = 0; i < WORDS; i++)
        record->copies[version & 1][i] = mix(version ^ i << 32);
    atomic_store(&record->version, version);
    rest(self, below(self, 2) ? 50 : 2000);
    if (atomic_load(&record->owner) != (uint64_t)getpid())
        broken(self, "another came inside");
    atomic_store(&record->owner, 0);
}

/* Where the segment is; it stays. */
static struct shared *shared(struct self *self)
{
    static _Atomic(struct shared *) at;
    struct shared *here = atomic_load(&at);
    if (here)
        return here;
    here = shmat(segment, NULL, 0);
    if (here == (void *)-1) {
        broken(self, "shmat");
        return NULL;
    }
    struct shared *none = NULL;
    if (atomic_compare_exchange_strong(&at, &none, here))
        return here;
    shmdt(here);
    return none;
}

void guarded(struct self *self)
{
    struct shared *at = shared(self);
    if (!at)
        return;
    struct sembuf down = op(MUTEX, -1, SEM_UNDO), up = op(MUTEX, 1, SEM_UNDO);
    uint64_t since = now();
    if (!operate(self, &down, 1, below(self, 4) ? 0 : 1 + below(self, 5000)))
        return;
    uint64_t owner = atomic_load(&at->guarded.owner);
    if (owner)
        note(self, INHERIT, 0, owner, since);
    if (owner && runs(owner))
        broken(self, "two are inside");
    inside(self, &at->guarded);
    give(self, &up, 1);
}

void robust(struct self *self)
{
    struct shared *at = shared(self);
    if (!at)
        return;
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 20;
    int got = below(self, 4) ? pthread_mutex_timedlock(&at->mutex, &limit) : pthread_mutex_trylock(&at->mutex);
    if (got == EBUSY)
        return;
    if (got != 0 && got != EOWNERDEAD) {
        errno = got;
        broken(self, "pthread_mutex_lock");
        return;
    }
    if (got == 0 && atomic_load(&at->robust.owner))
        broken(self, "a dead owner, unsaid");
    inside(self, &at->robust);
    if (got == EOWNERDEAD && pthread_mutex_consistent(&at->mutex) != 0)
        broken(self, "mutex_consistent");
    if (pthread_mutex_unlock(&at->mutex) != 0)
        broken(self, "mutex_unlock");
}

static void post(struct self *self, struct shared *at)
{
    note(self, POST_TRY, 0, 0, 0);
    if (sem_post(&at->slots) != 0)
        broken(self, "sem_post");
    note(self, POST_OK, 0, 0, 0);
}

/* A sem_t that nobody undoes: what the dead held is made up for by whoever finds none left. */
void slots(struct self *self)
{
    struct shared *at = shared(self);
    if (!at)
        return;
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_nsec += 1000 * below(self, 2000);
    if (limit.tv_nsec >= 1000000000) {
        limit.tv_nsec -= 1000000000;
        limit.tv_sec++;
    }
    note(self, WAIT_TRY, 0, 0, 0);
    int got = below(self, 2) ? sem_timedwait(&at->slots, &limit) : sem_trywait(&at->slots);
    if (got != 0 && errno != ETIMEDOUT && errno != EAGAIN)
        broken(self, "sem_wait");
    note(self, got == 0 ? WAIT_OK : WAIT_NO, 0, 0, 0);
    if (got == 0)
        rest(self, 50);
    post(self, at);
}
