/* Permission of a segment for owner, group, others, and for root. */
#include "vt.h"

static void as(uid_t uid, gid_t gid, int id, int n)
{
    struct shmid_ds ds;
    fflush(NULL);
    pid_t pid = spawn();
    if (pid == 0) {
        become(uid, gid);
        say("-- uid %d gid %d", (int)uid, (int)gid);
        RC(shmget(key(n), 0, 0));
        RC(shmget(key(n), 0, 0400));
        RC(shmget(key(n), 0, 0200));
        RC(shmget(key(n), 0, 0600));
        RC(shmget(key(n), 0, 0666));
        RC(shmget(key(n), 99999, 0666));
        RC(shmget(key(n), 99999, IPC_CREAT | IPC_EXCL | 0666));
        RC(shmat(id, NULL, 0));
        RC(shmat(id, NULL, SHM_RDONLY));
        RC(shmctl(id, IPC_STAT, &ds));
        memset(&ds, 0, sizeof ds);
        RC(shmctl(id, IPC_SET, &ds));
        RC(shmctl(id, IPC_RMID, NULL));
        exit(0);
    }
    reap(pid);
}

int main(void)
{
    begin();
    if (!need_root())
        return 0;
    static const int modes[] = { 0, 0600, 0640, 0660, 0604, 0606, 0064, 0444, 0666 };
    for (int i = 0; i < (int)(sizeof modes / sizeof modes[0]); i++) {
        int id = keep('m', MUST(shmget(key(i), 4096, IPC_CREAT | modes[i])));
        struct shmid_ds ds;
        MUST(shmctl(id, IPC_STAT, &ds));
        ds.shm_perm.gid = 2000;
        MUST(shmctl(id, IPC_SET, &ds));
        say("---- mode %o, owner 0:2000", modes[i]);
        as(1000, 1000, id, i);
        as(1000, 2000, id, i);
        /* Root passes whatever the mode says. */
        RC(shmget(key(i), 0, 0666));
        char *p = shmat(id, NULL, 0);
        YES(p != (void *)-1);
        RC(shmdt(p));
    }

    /* The owner that IPC_SET named, and the creator, may both control it. */
    say("---- owned by another");
    int id = keep('m', MUST(shmget(key(50), 4096, IPC_CREAT | 0400)));
    struct shmid_ds ds;
    MUST(shmctl(id, IPC_STAT, &ds));
    ds.shm_perm.uid = 1000;
    ds.shm_perm.mode = 0400;
    MUST(shmctl(id, IPC_SET, &ds));
    pid_t pid = spawn();
    if (pid == 0) {
        become(1000, 1000);
        RC(shmat(id, NULL, 0));
        RC(shmat(id, NULL, SHM_RDONLY));
        RC(shmctl(id, IPC_STAT, &ds));
        ds.shm_perm.mode = 0600;
        RC(shmctl(id, IPC_SET, &ds));
        RC(shmat(id, NULL, 0));
        RC(shmctl(id, IPC_RMID, NULL));
        exit(0);
    }
    reap(pid);
    RC(shmget(key(50), 0, 0));

    say("---- made by another");
    gate made_ = new_gate(), done = new_gate();
    int *theirs = scratch(4096);
    pid = spawn();
    if (pid == 0) {
        become(1000, 1000);
        *theirs = (int)RC(shmget(key(51), 4096, IPC_CREAT | 0600));
        gate_open(made_);
        gate_wait(done);
        RC(shmctl(*theirs, IPC_STAT, &ds));
        exit(0);
    }
    gate_wait(made_);
    RC(shmctl(*theirs, IPC_STAT, &ds));
    VAL(ds.shm_perm.uid);
    VAL(ds.shm_perm.cgid);
    IN_CHILD(become(1001, 1001); RC(shmat(*theirs, NULL, 0)); RC(shmctl(*theirs, IPC_RMID, NULL)));
    RC(shmctl(*theirs, IPC_RMID, NULL));
    gate_open(done);
    reap(pid);
    return 0;
}
