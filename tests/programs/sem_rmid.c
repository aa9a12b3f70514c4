/* Removing a set: EIDRM for those inside, EINVAL for those who come later. */
#include "vt.h"

int main(void)
{
    begin();
    int id = keep('s', MUST(semget(key(1), 3, IPC_CREAT | 0600)));
    setval(id, 1, 1);
    pid_t pid[4];
    for (int i = 0; i < 4; i++) {
        pid[i] = spawn();
        if (pid[i] == 0) {
            struct timespec t = { 30, 0 };
            struct sembuf op = OP(2, -1, 0);
            int rc = i == 0   ? SEMOP(id, OP(0, -1, 0))
                     : i == 1 ? SEMOP(id, OP(1, 0, 0))
                     : i == 2 ? SEMOP(id, OP(0, -1, SEM_UNDO), OP(1, 1, 0))
                              : semtimedop(id, &op, 1, &t);
            int e = errno;
            int later = SEMOP(id, OP(0, -1, 0));
            int le = errno;
            exit(rc == -1 && e == EIDRM && later == -1 && le == EINVAL ? 0 : 1);
        }
    }
    UNTIL(ncnt(id, 0) == 2 && zcnt(id, 1) == 1 && ncnt(id, 2) == 1);
    say("waiting %d %d %d", ncnt(id, 0), zcnt(id, 1), ncnt(id, 2));
    RC(semctl(id, 0, IPC_RMID));
    for (int i = 0; i < 4; i++)
        reap(pid[i]);
    RC(SEMOP(id, OP(0, 1, 0)));
    RC(getval(id, 0));
    RC(semctl(id, 0, IPC_RMID));
    RC(semget(key(1), 0, 0));
    int again = keep('s', RC(semget(key(1), 1, IPC_CREAT | IPC_EXCL | 0600)));
    YES(again != id);
    VAL(getval(again, 0));

    /* The remover may be another process. */
    pid_t child = spawn();
    if (child == 0) {
        UNTIL(ncnt(again, 0) == 1);
        RC(semctl(again, 0, IPC_RMID));
        exit(0);
    }
    RC(SEMOP(again, OP(0, -1, 0)));
    reap(child);
    return 0;
}
