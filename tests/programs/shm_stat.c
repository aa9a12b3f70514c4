/* Every field of shmid_ds, and IPC_SET. */
#include "vt.h"

static struct shmid_ds ds;
static time_t start;

static int recent(time_t t) { return t >= start - 1 && t <= time(NULL) + 1; }

int main(void)
{
    begin();
    start = time(NULL);
    int id = keep('m', MUST(shmget(key(1), 12345, IPC_CREAT | 0753)));
    RC(shmctl(id, IPC_STAT, &ds));
    say("mode %o", ds.shm_perm.mode);
    VAL(ds.shm_segsz);
    VAL(ds.shm_nattch);
    YES(ds.shm_perm.__key == key(1));
    YES(ds.shm_perm.uid == geteuid());
    YES(ds.shm_perm.gid == getegid());
    YES(ds.shm_perm.cuid == geteuid());
    YES(ds.shm_perm.cgid == getegid());
    YES(ds.shm_cpid == getpid());
    VAL(ds.shm_lpid);
    VAL(ds.shm_atime);
    VAL(ds.shm_dtime);
    YES(recent(ds.shm_ctime));

    void *p = shmat(id, NULL, 0);
    RC(shmctl(id, IPC_STAT, &ds));
    YES(ds.shm_lpid == getpid());
    YES(recent(ds.shm_atime));
    VAL(ds.shm_dtime);
    RC(shmdt(p));
    RC(shmctl(id, IPC_STAT, &ds));
    YES(recent(ds.shm_dtime));
    YES(ds.shm_atime <= ds.shm_dtime);

    pid_t child = spawn();
    if (child == 0) {
        p = shmat(id, NULL, SHM_RDONLY);
        exit(0);
    }
    reap(child);
    RC(shmctl(id, IPC_STAT, &ds));
    YES(ds.shm_lpid == child);
    YES(ds.shm_cpid == getpid());

    /* IPC_SET: owner and the nine mode bits, nothing else. */
    struct shmid_ds set = ds;
    set.shm_perm.mode = 07777;
    set.shm_perm.__key = 1;
    set.shm_segsz = 1;
    set.shm_nattch = 77;
    RC(shmctl(id, IPC_SET, &set));
    RC(shmctl(id, IPC_STAT, &ds));
    say("mode %o", ds.shm_perm.mode);
    VAL(ds.shm_segsz);
    VAL(ds.shm_nattch);
    YES(ds.shm_perm.__key == key(1));
    YES(recent(ds.shm_ctime));

    if (geteuid() == 0) {
        set.shm_perm.uid = 1234;
        set.shm_perm.gid = 4321;
        set.shm_perm.mode = 0600;
        RC(shmctl(id, IPC_SET, &set));
        RC(shmctl(id, IPC_STAT, &ds));
        VAL(ds.shm_perm.uid);
        VAL(ds.shm_perm.gid);
        VAL(ds.shm_perm.cuid);
        VAL(ds.shm_perm.cgid);
        say("mode %o", ds.shm_perm.mode);
        set.shm_perm.uid = (uid_t)-1;
        RC(shmctl(id, IPC_SET, &set));
    }
    /* A bad buffer. */
    RC(shmctl(id, IPC_STAT, (void *)16));
    RC(shmctl(id, IPC_SET, (void *)16));
    RC(shmctl(-1, IPC_SET, (void *)16));
    RC(shmctl(-1, IPC_STAT, (void *)16));
    return 0;
}
