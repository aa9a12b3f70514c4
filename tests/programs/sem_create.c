/* semget: keys, flags, sizes and limits. */
#include "vt.h"

int main(void)
{
    begin();
    RC(semget(key(1), 3, 0600));
    RC(semget(key(1), 0, IPC_CREAT | 0600));
    RC(semget(key(1), -1, IPC_CREAT | 0600));
    RC(semget(key(1), -1, 0));
    RC(semget(key(1), 32001, IPC_CREAT | 0600));
    RC(semget(key(1), INT_MAX, IPC_CREAT | 0600));
    RC(semget(IPC_PRIVATE, 0, 0600));
    int a = keep('s', RC(semget(key(1), 3, IPC_CREAT | 0600)));
    YES(semget(key(1), 0, 0) == a);
    YES(semget(key(1), 2, 0) == a);
    YES(semget(key(1), 3, IPC_CREAT | 0600) == a);
    RC(semget(key(1), 4, 0));
    RC(semget(key(1), 4, IPC_CREAT));
    RC(semget(key(1), 3, IPC_CREAT | IPC_EXCL | 0600));
    RC(semget(key(1), 9, IPC_CREAT | IPC_EXCL | 0600));
    RC(semget(key(1), -1, IPC_CREAT | IPC_EXCL | 0600));
    int p = keep('s', RC(semget(IPC_PRIVATE, 1, 0600)));
    int q = keep('s', RC(semget(IPC_PRIVATE, 1, 0600)));
    YES(p != q);

    /* Every semaphore starts at zero, with nobody's pid. */
    for (int i = 0; i < 3; i++) {
        VAL(getval(a, i));
        VAL(semctl(a, i, GETPID));
        VAL(ncnt(a, i));
        VAL(zcnt(a, i));
    }

    /* A large set. */
    int big = keep('s', RC(semget(IPC_PRIVATE, 2000, 0600)));
    RC(setval(big, 1999, 7));
    VAL(getval(big, 1999));
    VAL(getval(big, 1998));
    RC(getval(big, 2000));

    RC(semctl(a, 0, IPC_RMID));
    RC(semget(key(1), 0, 0));
    RC(getval(a, 0));
    int b = keep('s', RC(semget(key(1), 5, IPC_CREAT | IPC_EXCL | 0600)));
    YES(a != b);
    VAL(getval(b, 4));
    RC(getval(a, 0));
    /* The semaphore number of IPC_RMID is not looked at. */
    RC(semctl(b, 99, IPC_RMID));
    RC(semctl(b, 0, IPC_RMID));
    RC(semctl(-1, 0, IPC_RMID));
    return 0;
}
