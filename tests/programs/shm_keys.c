/* shmget: keys, flags, sizes, and which error wins. */
#include "vt.h"

int main(void)
{
    begin();
    RC(shmget(key(1), 4096, 0600));
    int a = keep('m', RC(shmget(key(1), 5000, IPC_CREAT | 0600)));
    YES(shmget(key(1), 0, 0) == a);
    YES(shmget(key(1), 0, 0600) == a);
    YES(shmget(key(1), 1, 0) == a);
    YES(shmget(key(1), 5000, IPC_CREAT | 0600) == a);
    RC(shmget(key(1), 5001, 0));
    RC(shmget(key(1), 5001, IPC_CREAT | 0600));
    RC(shmget(key(1), 8192, 0));
    RC(shmget(key(1), 5000, IPC_CREAT | IPC_EXCL | 0600));
    /* EEXIST is found before the size. */
    RC(shmget(key(1), 9999, IPC_CREAT | IPC_EXCL | 0600));
    RC(shmget(key(1), 0, IPC_CREAT | IPC_EXCL | 0600));
    /* IPC_EXCL alone means nothing. */
    YES(shmget(key(1), 0, IPC_EXCL) == a);
    RC(shmget(key(2), 0, IPC_EXCL));

    /* New ones need a size. */
    RC(shmget(key(2), 0, IPC_CREAT | 0600));
    RC(shmget(IPC_PRIVATE, 0, 0600));
    RC(shmget(key(2), (size_t)-1, IPC_CREAT | 0600));
    RC(shmget(key(2), (size_t)1 << 63, IPC_CREAT | 0600));

    /* IPC_PRIVATE always makes a new one, whatever the flags. */
    int p = keep('m', RC(shmget(IPC_PRIVATE, 100, 0600)));
    int q = keep('m', RC(shmget(IPC_PRIVATE, 100, IPC_CREAT | IPC_EXCL | 0600)));
    YES(p != q);
    struct shmid_ds ds;
    RC(shmctl(p, IPC_STAT, &ds));
    YES(ds.shm_perm.__key == IPC_PRIVATE);
    RC(shmctl(a, IPC_STAT, &ds));
    YES(ds.shm_perm.__key == key(1));
    VAL(ds.shm_segsz);

    /* Negative keys are keys like any other. */
    int n = keep('m', RC(shmget(-key(3), 10, IPC_CREAT | 0600)));
    YES(shmget(-key(3), 10, 0) == n);

    /* A removed key is free; the old id is not the new one. */
    RC(shmctl(a, IPC_RMID, NULL));
    RC(shmget(key(1), 0, 0));
    RC(shmctl(a, IPC_STAT, &ds));
    RC(shmat(a, NULL, 0));
    int b = keep('m', RC(shmget(key(1), 9000, IPC_CREAT | IPC_EXCL | 0600)));
    YES(a != b);
    RC(shmctl(a, IPC_STAT, &ds));
    RC(shmctl(b, IPC_STAT, &ds));
    VAL(ds.shm_segsz);
    RC(shmctl(b, IPC_RMID, NULL));
    RC(shmctl(b, IPC_RMID, NULL));

    /* Ids that were never given out. */
    RC(shmctl(-1, IPC_STAT, &ds));
    RC(shmat(-1, NULL, 0));
    RC(shmctl(INT_MAX, IPC_STAT, &ds));
    RC(shmctl(p, 12345, &ds));
    return 0;
}
