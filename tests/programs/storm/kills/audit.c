/* audit make: makes the objects that all share; audit: prints what is in them, and empties the queues. */
#include "storm.h"

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static void record(const char *name, const struct record *r)
{
    uint64_t version = r->version, whole = 1;
    for (uint64_t i = 0; i < WORDS; i++)
        whole &= r->copies[version & 1][i] == mix(version ^ i << 32);
    printf("%s %llu\n", name, (unsigned long long)whole);
}

static int make(void)
{
    if (!find(IPC_CREAT | IPC_EXCL | 0600))
        return fail("objects");
    unsigned short values[SEMS] = { POOL, POOL, POOL, POOL, SUM, 0, LENT, LENT, 0, 1 };
    struct shared *at = shmat(segment, NULL, 0);
    if (semctl(set, 0, SETALL, values) != 0 || at == (void *)-1)
        return fail("values");
    for (uint64_t i = 0; i < WORDS; i++) {
        at->sound[i] = mix(i);
        at->guarded.copies[0][i] = at->robust.copies[0][i] = mix(i << 32);
    }
    pthread_mutexattr_t shared;
    pthread_mutexattr_init(&shared);
    pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST);
    if (pthread_mutex_init(&at->mutex, &shared) != 0 || sem_init(&at->slots, 1, SLOTS) != 0)
        return fail("mutex");
    return 0;
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc == 2)
        return make();
    if (!find(0))
        return fail("the objects have gone");
    unsigned short values[SEMS];
    if (semctl(set, 0, GETALL, values) != 0)
        return fail("GETALL");
    printf("values");
    for (int i = 0; i < SEMS; i++)
        printf(" %d", values[i]);
    printf("\nwaiting");
    for (int i = 0; i < SEMS; i++)
        printf(" %d %d", semctl(set, i, GETNCNT), semctl(set, i, GETZCNT));
    struct shmid_ds ds;
    if (shmctl(segment, IPC_STAT, &ds) != 0)
        return fail("IPC_STAT");
    printf("\nattached %lu\n", (unsigned long)ds.shm_nattch);
    struct shared *at = shmat(segment, NULL, 0);
    if (at == (void *)-1)
        return fail("shmat");
    record("guarded", &at->guarded);
    record("robust", &at->robust);
    int left = 0;
    sem_getvalue(&at->slots, &left);
    printf("slots %d\n", left);
    for (int i = 0; i < QUEUES; i++) {
        static struct { long type; uint64_t words[1024]; } m;
        while (msgrcv(queues[i], &m, sizeof m.words, 0, IPC_NOWAIT) != -1)
            printf("message %d %ld %llu\n", i, m.type, (unsigned long long)m.words[0]);
        struct msqid_ds q;
        if (errno != ENOMSG || msgctl(queues[i], IPC_STAT, &q) != 0)
            return fail("queue");
        printf("queue %d %lu %lu\n", i, (unsigned long)q.msg_qnum, (unsigned long)q.__msg_cbytes);
    }
    printf("kept %d %d", set, segment);
    for (int i = 0; i < QUEUES; i++)
        printf(" %d", queues[i]);
    printf("\n");
    return 0;
}
