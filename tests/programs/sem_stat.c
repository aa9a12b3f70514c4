/* Every field of semid_ds, and IPC_SET. */
#include "vt.h"

static struct semid_ds ds;
static time_t start;
static int recent(time_t t) { return t >= start - 1 && t <= time(NULL) + 1; }
static int stat_(int id) { return semctl(id, 0, IPC_STAT, (union semun){ .buf = &ds }); }

int main(void)
{
    begin();
    start = time(NULL);
    int id = keep('s', MUST(semget(key(1), 4, IPC_CREAT | 0751)));
    RC(stat_(id));
    say("mode %o", ds.sem_perm.mode);
    VAL(ds.sem_nsems);
    VAL(ds.sem_otime);
    YES(recent(ds.sem_ctime));
    YES(ds.sem_perm.__key == key(1));
    YES(ds.sem_perm.uid == geteuid() && ds.sem_perm.gid == getegid());
    YES(ds.sem_perm.cuid == geteuid() && ds.sem_perm.cgid == getegid());

    /* otime: the last semop that succeeded, also a wait for zero. */
    RC(SEMOP(id, OP(0, -1, IPC_NOWAIT)));
    RC(stat_(id));
    VAL(ds.sem_otime);
    RC(setval(id, 0, 1));
    RC(stat_(id));
    VAL(ds.sem_otime);
    YES(recent(ds.sem_ctime));
    RC(SEMOP(id, OP(1, 0, 0)));
    RC(stat_(id));
    YES(recent(ds.sem_otime));

    struct semid_ds set = ds;
    set.sem_perm.mode = 07600;
    set.sem_nsems = 1;
    set.sem_perm.__key = 1;
    RC(semctl(id, 0, IPC_SET, (union semun){ .buf = &set }));
    RC(stat_(id));
    say("mode %o", ds.sem_perm.mode);
    VAL(ds.sem_nsems);
    YES(ds.sem_perm.__key == key(1));
    RC(semctl(id, 99, IPC_STAT, (union semun){ .buf = &ds }));

    RC(semctl(id, 0, IPC_STAT, (union semun){ .buf = (void *)16 }));
    RC(semctl(id, 0, IPC_SET, (union semun){ .buf = (void *)16 }));
    RC(semctl(-1, 0, IPC_STAT, (union semun){ .buf = (void *)16 }));
    RC(semctl(-1, 0, IPC_SET, (union semun){ .buf = (void *)16 }));

    /* Undone by an exit counts as an operation of the process that left. */
    int other = new_sem(1);
    pid_t child = spawn();
    if (child == 0) {
        MUST(SEMOP(other, OP(0, 1, SEM_UNDO)));
        exit(0);
    }
    reap(child);
    RC(stat_(other));
    YES(recent(ds.sem_otime));
    YES(semctl(other, 0, GETPID) == child);
    VAL(getval(other, 0));
    return 0;
}
