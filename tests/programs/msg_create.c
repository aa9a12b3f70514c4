/* msgget: keys and flags. */
#include "vt.h"

int main(void)
{
    begin();
    struct msqid_ds ds;
    RC(msgget(key(1), 0600));
    int a = keep('q', RC(msgget(key(1), IPC_CREAT | 0600)));
    YES(msgget(key(1), 0) == a);
    YES(msgget(key(1), IPC_CREAT | 0600) == a);
    RC(msgget(key(1), IPC_CREAT | IPC_EXCL | 0600));
    YES(msgget(key(1), IPC_EXCL) == a);
    int p = keep('q', RC(msgget(IPC_PRIVATE, 0600)));
    int q = keep('q', RC(msgget(IPC_PRIVATE, IPC_CREAT | IPC_EXCL | 0600)));
    YES(p != q);
    RC(send_text(a, 1, "kept", 0));
    RC(msgctl(a, IPC_RMID, NULL));
    RC(msgctl(a, IPC_RMID, NULL));
    RC(msgctl(a, IPC_STAT, &ds));
    RC(send_text(a, 1, "late", 0));
    RC(recv_text("late", a, 100, 0, IPC_NOWAIT));
    int b = keep('q', RC(msgget(key(1), IPC_CREAT | IPC_EXCL | 0600)));
    YES(a != b);
    recv_text("the new queue", b, 100, 0, IPC_NOWAIT);
    RC(msgctl(-1, IPC_STAT, &ds));
    RC(msgctl(INT_MAX, IPC_STAT, &ds));
    RC(msgctl(b, 12345, &ds));
    /* Its own name space: the same key names a set and a segment too. */
    int s = keep('s', RC(semget(key(1), 1, IPC_CREAT | IPC_EXCL | 0600)));
    int m = keep('m', RC(shmget(key(1), 1, IPC_CREAT | IPC_EXCL | 0600)));
    YES(msgget(key(1), 0) == b && semget(key(1), 0, 0) == s && shmget(key(1), 0, 0) == m);
    return 0;
}
