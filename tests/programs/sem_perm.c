/* Permission of a set for owner, group, others, and for root. */
#include "vt.h"

static void as(uid_t uid, gid_t gid, int id, int n)
{
    pid_t pid = spawn();
    if (pid == 0) {
        struct semid_ds ds;
        unsigned short v[2] = { 0, 0 };
        become(uid, gid);
        say("-- uid %d gid %d", (int)uid, (int)gid);
        RC(semget(key(n), 0, 0));
        RC(semget(key(n), 0, 0400));
        RC(semget(key(n), 0, 0600));
        RC(semget(key(n), 9, 0600));
        RC(SEMOP(id, OP(0, 1, IPC_NOWAIT)));
        RC(SEMOP(id, OP(1, 0, IPC_NOWAIT)));
        RC(SEMOP(id, OP(1, 0, 0), OP(1, 1, 0), OP(1, -1, 0)));
        /* The number is looked at before the permission. */
        RC(SEMOP(id, OP(7, 1, 0)));
        RC(getval(id, 0) == -1 ? -1 : 0);
        RC(ncnt(id, 0));
        RC(semctl(id, 0, GETPID) == -1 ? -1 : 0);
        RC(semctl(id, 0, GETALL, (union semun){ .array = v }));
        RC(setval(id, 1, 0));
        RC(setval(id, 1, 99999));
        RC(setval(id, 9, 0));
        RC(semctl(id, 0, SETALL, (union semun){ .array = v }));
        RC(semctl(id, 0, IPC_STAT, (union semun){ .buf = &ds }));
        memset(&ds, 0, sizeof ds);
        RC(semctl(id, 0, IPC_SET, (union semun){ .buf = &ds }));
        RC(semctl(id, 0, IPC_RMID));
        exit(0);
    }
    reap(pid);
}

int main(void)
{
    begin();
    if (!need_root())
        return 0;
    static const int modes[] = { 0, 0600, 0640, 0620, 0660, 0604, 0602, 0606, 0666, 0066 };
    for (int i = 0; i < (int)(sizeof modes / sizeof modes[0]); i++) {
        int id = keep('s', MUST(semget(key(i), 2, IPC_CREAT | modes[i])));
        struct semid_ds ds;
        MUST(semctl(id, 0, IPC_STAT, (union semun){ .buf = &ds }));
        ds.sem_perm.gid = 2000;
        MUST(semctl(id, 0, IPC_SET, (union semun){ .buf = &ds }));
        say("---- mode %o, owner 0:2000", modes[i]);
        as(1000, 1000, id, i);
        as(1000, 2000, id, i);
        RC(SEMOP(id, OP(0, 1, 0)));
    }

    /* Permission goes while someone sleeps: he is served all the same. */
    say("---- the mode changes under a sleeper");
    int id = keep('s', MUST(semget(key(40), 1, IPC_CREAT | 0666)));
    pid_t pid = spawn();
    if (pid == 0) {
        become(1000, 1000);
        RC(SEMOP(id, OP(0, -1, 0)));
        RC(SEMOP(id, OP(0, 1, 0)));
        exit(0);
    }
    UNTIL(ncnt(id, 0) == 1);
    struct semid_ds ds;
    MUST(semctl(id, 0, IPC_STAT, (union semun){ .buf = &ds }));
    ds.sem_perm.mode = 0600;
    RC(semctl(id, 0, IPC_SET, (union semun){ .buf = &ds }));
    RC(SEMOP(id, OP(0, 1, 0)));
    reap(pid);
    VAL(getval(id, 0));
    return 0;
}
