/* Objects of one's own: made, used, shared with a child, and removed, unless it dies before. */
#include "storm.h"

static int made(struct self *self, uint32_t kind, int id)
{
    if (id == -1)
        broken(self, "an object of its own");
    else
        note(self, MADE, kind, id, 0);
    return id;
}

static void remove_object(struct self *self, uint32_t kind, int id)
{
    note(self, GONE_TRY, kind, id, 0);
    int got = kind == KIND_SEG ? shmctl(id, IPC_RMID, NULL)
        : kind == KIND_SET     ? semctl(id, 0, IPC_RMID)
                               : msgctl(id, IPC_RMID, NULL);
    if (got != 0)
        broken(self, "IPC_RMID");
    else
        note(self, GONE, kind, id, 0);
}

static bool holds(const uint64_t *at, size_t words, uint64_t seed)
{
    for (size_t i = 0; i < words; i += 64)
        if (at[i] != (seed ? mix(seed ^ i) : 0))
            return false;
    return true;
}

static void fill(uint64_t *at, size_t words, uint64_t seed)
{
    for (size_t i = 0; i < words; i += 64)
        at[i] = mix(seed ^ i);
}

static void child_of(struct self *self, uint64_t *at, size_t words, uint64_t seed)
{
    if (below(self, 2))
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    uint32_t number = self->name >> 32;
    if (!begin(self, self->log, number, seed))
        _exit(0);
    if (!holds(at, words, seed))
        broken(self, "inherited segment");
    for (int i = below(self, 6); i > 0; i--) {
        tokens(self);
        messages(self);
    }
    if (!holds(at, words, seed))
        broken(self, "segment of a child");
    if (below(self, 2) && shmdt(at) != 0)
        broken(self, "shmdt in a child");
    /* A child that dies of itself in the middle of something, now and then. */
    if (below(self, 8) == 0)
        kill(getpid(), SIGKILL);
    _exit(0);
}

static void own_segment(struct self *self)
{
    size_t bytes = 4096 * (1 + below(self, below(self, 8) ? 8 : 256));
    size_t words = bytes / 8;
    uint64_t seed = self->random | 1;
    note(self, MAKE_TRY, KIND_SEG, 0, 0);
    int id = made(self, KIND_SEG, shmget(IPC_PRIVATE, bytes, 0600));
    if (id == -1)
        return;
    uint64_t *at = shmat(id, NULL, 0);
    if (at == (void *)-1) {
        broken(self, "shmat of its own");
        return;
    }
    bool early = below(self, 2);
    if (early)
        remove_object(self, KIND_SEG, id);
    if (!holds(at, words, 0))
        broken(self, "a new segment is not zero");
    fill(at, words, seed);
    pid_t child = below(self, 3) ? -1 : fork();
    if (child == 0)
        child_of(self, at, words, seed);
    rest(self, 100);
    if (!holds(at, words, seed))
        broken(self, "a segment of its own");
    bool collect = child > 0 && below(self, 4);
    if (collect)
        waitpid(child, NULL, 0);
    struct shmid_ds ds;
    if (!early && (shmctl(id, IPC_STAT, &ds) != 0 || ds.shm_nattch < 1))
        broken(self, "nattch of its own");
    if (shmdt(at) != 0)
        broken(self, "shmdt of its own");
    if (!early)
        remove_object(self, KIND_SEG, id);
}

static void own_set(struct self *self)
{
    note(self, MAKE_TRY, KIND_SET, 0, 0);
    int id = made(self, KIND_SET, semget(IPC_PRIVATE, 1 + below(self, 50), 0600));
    if (id == -1)
        return;
    struct sembuf up = { .sem_op = 1 + below(self, 5), .sem_flg = SEM_UNDO };
    if (semop(id, &up, 1) != 0)
        broken(self, "semop of its own");
    remove_object(self, KIND_SET, id);
}

static void own_queue(struct self *self)
{
    struct { long type; char text[300]; } m = { .type = 1 };
    note(self, MAKE_TRY, KIND_QUEUE, 0, 0);
    int id = made(self, KIND_QUEUE, msgget(IPC_PRIVATE, 0600));
    if (id == -1)
        return;
    for (int i = below(self, 4); i > 0; i--)
        if (msgsnd(id, &m, below(self, sizeof m.text), IPC_NOWAIT) != 0)
            broken(self, "msgsnd of its own");
    remove_object(self, KIND_QUEUE, id);
}

void private_object(struct self *self)
{
    static void (*const steps[])(struct self *) = { own_segment, own_segment, own_set, own_queue };
    steps[below(self, 4)](self);
}

/* The segment of all, in another place. */
void attach(struct self *self)
{
    struct shared *at = shmat(segment, NULL, below(self, 2) ? SHM_RDONLY : 0);
    if (at == (void *)-1) {
        broken(self, "shmat");
        return;
    }
    for (uint64_t i = 0; i < WORDS; i++)
        if (at->sound[i] != mix(i)) {
            broken(self, "what nobody changes");
            break;
        }
    rest(self, 30);
    if (shmdt(at) != 0)
        broken(self, "shmdt");
}
