/* GETNCNT and GETZCNT count the first operation that blocks. */
#include "vt.h"

static int id;
static void counts(void)
{
    say("ncnt %d %d %d, zcnt %d %d %d", ncnt(id, 0), ncnt(id, 1), ncnt(id, 2), zcnt(id, 0), zcnt(id, 1), zcnt(id, 2));
}
static int waiting(void)
{
    int n = 0;
    for (int i = 0; i < 3; i++)
        n += ncnt(id, i) + zcnt(id, i);
    return n;
}

int main(void)
{
    begin();
    id = new_sem(3);
    counts();
    pid_t pid[6];
    for (int i = 0; i < 6; i++) {
        pid[i] = spawn();
        if (pid[i] == 0) {
            int rc = -1;
            switch (i) {
            case 0: rc = SEMOP(id, OP(0, -1, 0), OP(1, -1, 0)); break;
            case 1: rc = SEMOP(id, OP(2, 0, 0), OP(1, -1, 0), OP(0, -1, 0)); break;
            case 2: rc = SEMOP(id, OP(1, 1, 0), OP(1, 0, 0)); break;
            case 3: rc = SEMOP(id, OP(2, 5, 0), OP(2, -6, 0)); break;
            case 4: rc = SEMOP(id, OP(0, -1, IPC_NOWAIT), OP(1, -1, 0)); break;
            case 5: rc = SEMOP(id, OP(0, -2, 0)); break;
            }
            if (i == 4) {
                say("%s", rc == -1 ? ename(errno) : "ok");
                exit(0);
            }
            exit(rc == 0 || errno == EIDRM ? 0 : 1);
        }
        if (i == 4)
            reap(pid[i]);
        else
            UNTIL(waiting() == (i > 4 ? i : i + 1));
        counts();
    }
    /* Letting one condition go moves a waiter to its next. */
    RC(setval(id, 0, 1));
    UNTIL(ncnt(id, 0) == 1);
    counts();
    kill_and_reap(pid[5]);
    UNTIL(ncnt(id, 0) == 0);
    counts();
    RC(setval(id, 2, 1));
    reap(pid[3]);
    counts();
    say("values %d %d %d", getval(id, 0), getval(id, 1), getval(id, 2));
    RC(semctl(id, 0, IPC_RMID));
    reap(pid[0]);
    reap(pid[1]);
    reap(pid[2]);
    return 0;
}
