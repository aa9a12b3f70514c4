/* msgsnd and msgrcv: their errors, and which of several wins. */
#include "vt.h"

int main(void)
{
    begin();
    int id = new_msg();
    static struct { long mtype; char text[9000]; } m = { .mtype = 1 };
    RC(msgsnd(id, &m, 0, IPC_NOWAIT));
    RC(msgsnd(id, &m, 8192, IPC_NOWAIT));
    RC(msgrcv(id, &m, 9000, 0, IPC_NOWAIT));
    VAL(msgrcv(id, &m, 9000, 0, IPC_NOWAIT));
    RC(msgsnd(id, &m, 8193, IPC_NOWAIT));
    RC(msgsnd(id, &m, (size_t)-1, IPC_NOWAIT));
    m.mtype = 0;
    RC(msgsnd(id, &m, 1, IPC_NOWAIT));
    m.mtype = -1;
    RC(msgsnd(id, &m, 1, IPC_NOWAIT));
    m.mtype = LONG_MIN;
    RC(msgsnd(id, &m, 1, IPC_NOWAIT));
    m.mtype = 1;
    RC(msgsnd(-1, &m, 1, IPC_NOWAIT));
    RC(msgsnd(id, (void *)16, 1, IPC_NOWAIT));
    RC(msgsnd(-1, (void *)16, 1, IPC_NOWAIT));
    RC(msgsnd(id, (void *)16, 8193, IPC_NOWAIT));
    RC(msgsnd(-1, &m, 8193, IPC_NOWAIT));
    RC(msgrcv(-1, &m, 10, 0, IPC_NOWAIT));
    RC(msgrcv(id, &m, (size_t)-1, 0, IPC_NOWAIT));
    RC(msgrcv(-1, &m, (size_t)-1, 0, IPC_NOWAIT));
    RC(msgrcv(id, &m, 10, 0, IPC_NOWAIT));
    RC(msgrcv(id, (void *)16, 10, 0, IPC_NOWAIT));

    /* A text that cannot be read is not sent. */
    char *edge = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(mprotect(edge + 4096, 4096, PROT_NONE));
    long *at = (long *)(edge + 4096 - 64);
    *at = 5;
    memset(at + 1, 'e', 56);
    RC(msgsnd(id, at, 56, IPC_NOWAIT));
    RC(msgsnd(id, at, 57, IPC_NOWAIT));
    struct msqid_ds ds;
    RC(msgctl(id, IPC_STAT, &ds));
    VAL(ds.msg_qnum);
    /* A message whose buffer cannot be written is gone all the same. */
    RC(msgrcv(id, (void *)16, 100, 0, IPC_NOWAIT));
    RC(msgctl(id, IPC_STAT, &ds));
    VAL(ds.msg_qnum);

    RC(msgctl(id, IPC_STAT, (void *)16));
    RC(msgctl(id, IPC_SET, (void *)16));
    RC(msgctl(-1, IPC_SET, (void *)16));
    RC(msgctl(id, IPC_RMID, NULL));
    RC(msgsnd(id, &m, 1, IPC_NOWAIT));
    m.mtype = 0;
    RC(msgsnd(id, &m, 1, IPC_NOWAIT));
    return 0;
}
