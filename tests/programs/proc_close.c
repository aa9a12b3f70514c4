/* A program may close every descriptor, as daemons do: IPC does not use them. */
#include "vt.h"

int main(void)
{
    begin();
    int sem = new_sem(1), shm = new_shm(4096), queue = new_msg();
    setval(sem, 0, 3);
    strcpy(shmat(shm, NULL, 0), "attached before");
    gate done = new_gate();
    pid_t child = spawn();
    if (child == 0) {
        int out = fcntl(1, F_DUPFD_CLOEXEC, 200);
        char *p = shmat(shm, NULL, 0);
        MUST(SEMOP(sem, OP(0, -1, SEM_UNDO)));
        for (int fd = 0; fd < 1024; fd++)
            if (fd != out && fd != done.fd[1])
                close(fd);
        MUST(dup2(out, 1));
        say("%s", p);
        RC(SEMOP(sem, OP(0, -1, SEM_UNDO)));
        RC(send_text(queue, 1, "sent without descriptors", 0));
        int id = (int)RC(shmget(IPC_PRIVATE, 4096, 0600));
        char *q = shmat(id, NULL, 0);
        YES(q != (void *)-1);
        RC(shmctl(id, IPC_RMID, NULL));
        VAL(getval(sem, 0));
        /* And one that is opened now is the program's own. */
        int fd = open("/dev/null", O_RDWR);
        YES(fd >= 0);
        IN_CHILD(RC(SEMOP(sem, OP(0, -1, SEM_UNDO))); VAL(getval(sem, 0)));
        VAL(getval(sem, 0));
        exit(0);
    }
    reap(child);
    UNTIL(getval(sem, 0) == 3);
    VAL(getval(sem, 0));
    recv_text("received", queue, 100, 0, IPC_NOWAIT);
    struct shmid_ds ds;
    RC(shmctl(shm, IPC_STAT, &ds));
    VAL(ds.shm_nattch);
    return 0;
}
