/* Removing a queue: EIDRM for those inside, EINVAL for those who come later. */
#include "vt.h"

int main(void)
{
    begin();
    int id = new_msg();
    gate here = new_gate();
    static struct { long mtype; char text[8192]; } m = { .mtype = 1 };
    pid_t pid[5];

    MUST(msgsnd(id, &m, 8192, 0));
    MUST(msgsnd(id, &m, 8192, 0));
    for (int i = 0; i < 5; i++) {
        pid[i] = spawn();
        if (pid[i] == 0) {
            struct msqid_ds ds;
            MUST(msgctl(id, IPC_STAT, &ds));
            gate_open(here);
            long rc = i < 2   ? msgsnd(id, &m, 10, 0)
                      : i < 4 ? msgrcv(id, &m, 10, 5, 0)
                              : msgrcv(id, &m, 8192, 1, MSG_EXCEPT);
            int e = errno;
            long later = msgrcv(id, &m, 10, 5, 0);
            int le = errno;
            exit(rc == -1 && e == EIDRM && later == -1 && le == EINVAL ? 0 : 1);
        }
        gate_wait(here);
        wait_asleep(pid[i]);
    }
    RC(msgctl(id, IPC_RMID, NULL));
    for (int i = 0; i < 5; i++)
        reap(pid[i]);
    RC(msgsnd(id, &m, 10, 0));
    RC(msgrcv(id, &m, 10, 0, 0));
    RC(msgctl(id, IPC_RMID, NULL));
    return 0;
}
