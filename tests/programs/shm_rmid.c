/* Removing a segment while it is attached. */
#include "vt.h"

int main(void)
{
    begin();
    struct shmid_ds ds;
    int id = keep('m', MUST(shmget(key(1), 4096, IPC_CREAT | 0640)));
    char *p = shmat(id, NULL, 0);
    strcpy(p, "still here");
    RC(shmctl(id, IPC_STAT, &ds));
    say("mode %o", ds.shm_perm.mode);
    RC(shmctl(id, IPC_RMID, NULL));

    /* Marked: its key is gone, it is not. */
    RC(shmctl(id, IPC_STAT, &ds));
    say("mode %o", ds.shm_perm.mode);
    YES((ds.shm_perm.mode & SHM_DEST) != 0);
    VAL(ds.shm_perm.__key);
    VAL(ds.shm_nattch);
    RC(shmget(key(1), 0, 0));
    char *q = shmat(id, NULL, 0);
    YES(q != (void *)-1);
    say("%s", q);
    RC(shmctl(id, IPC_RMID, NULL));

    /* The key can be used for another. */
    int other = keep('m', RC(shmget(key(1), 8192, IPC_CREAT | IPC_EXCL | 0600)));
    YES(other != id);
    char *o = shmat(other, NULL, 0);
    say("other reads '%s'", o);
    RC(shmdt(o));

    RC(shmdt(p));
    RC(shmctl(id, IPC_STAT, &ds));
    VAL(ds.shm_nattch);
    say("%s", q);
    RC(shmdt(q));
    RC(shmctl(id, IPC_STAT, &ds));
    RC(shmat(id, NULL, 0));

    /* The last attachment may be a killed child's. */
    id = new_shm(4096);
    gate here = new_gate();
    pid_t child = spawn();
    if (child == 0) {
        if (shmat(id, NULL, 0) == (void *)-1)
            die("shmat");
        gate_open(here);
        for (;;)
            pause();
    }
    gate_wait(here);
    RC(shmctl(id, IPC_RMID, NULL));
    RC(shmctl(id, IPC_STAT, &ds));
    VAL(ds.shm_nattch);
    kill_and_reap(child);
    UNTIL(shmctl(id, IPC_STAT, &ds) == -1);
    RC(shmctl(id, IPC_STAT, &ds));

    /* As Open MPI does: attach, remove at once, children attach by id. */
    id = new_shm(4096);
    p = shmat(id, NULL, 0);
    RC(shmctl(id, IPC_RMID, NULL));
    IN_CHILD(char *c = shmat(id, NULL, 0); YES(c != (void *)-1); strcpy(c, "from a child"));
    say("%s", p);
    RC(shmdt(p));
    RC(shmctl(id, IPC_STAT, &ds));
    return 0;
}
