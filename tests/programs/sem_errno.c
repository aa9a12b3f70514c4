/* semop: its errors, and which of several wins. */
#include "vt.h"

int main(void)
{
    begin();
    int id = new_sem(2);
    static struct sembuf many[501];
    for (int i = 0; i < 501; i++)
        many[i] = OP(0, 0, IPC_NOWAIT);

    RC(semop(id, many, 0));
    RC(semop(id, many, 500));
    RC(semop(id, many, 501));
    RC(semop(-1, many, 501));
    RC(semop(-1, many, 0));
    RC(semop(-1, many, 1));
    RC(semop(id, (void *)16, 1));
    RC(semop(-1, (void *)16, 1));
    RC(semop(id, (void *)16, 501));
    RC(semop(id, NULL, 1));

    RC(SEMOP(id, OP(2, 1, 0)));
    RC(SEMOP(id, OP(65535, 1, 0)));
    RC(SEMOP(id, OP(0, 1, 0), OP(2, 1, 0)));
    VAL(getval(id, 0));
    RC(SEMOP(id, OP(2, 1, IPC_NOWAIT)));
    RC(SEMOP(-1, OP(2, 1, 0)));

    RC(SEMOP(id, OP(0, -1, IPC_NOWAIT)));
    RC(setval(id, 0, 1));
    RC(SEMOP(id, OP(0, 0, IPC_NOWAIT)));
    RC(SEMOP(id, OP(0, -2, IPC_NOWAIT)));
    VAL(getval(id, 0));

    RC(setval(id, 0, 32767));
    RC(SEMOP(id, OP(0, 1, 0)));
    RC(SEMOP(id, OP(0, 1, IPC_NOWAIT)));
    RC(SEMOP(id, OP(0, -1, 0), OP(0, 1, 0)));
    RC(SEMOP(id, OP(0, 1, 0), OP(0, -1, 0)));
    RC(SEMOP(id, OP(0, 32767, 0)));
    RC(SEMOP(id, OP(0, -32767, 0)));
    VAL(getval(id, 0));
    RC(SEMOP(id, OP(0, -32768, IPC_NOWAIT)));
    RC(SEMOP(id, OP(0, 32767, 0), OP(1, -1, IPC_NOWAIT)));
    VAL(getval(id, 0));

    /* The first operation that cannot go on decides. */
    RC(SEMOP(id, OP(0, -1, IPC_NOWAIT), OP(1, 32767, 0), OP(1, 1, 0)));
    RC(SEMOP(id, OP(1, 32767, 0), OP(1, 1, 0), OP(0, -1, IPC_NOWAIT)));
    VAL(getval(id, 1));

    /* semtimedop looks at its time first. */
    struct sembuf one = OP(0, 1, 0);
    struct timespec bad = { 0, 1000000000 }, negative = { -1, 0 }, good = { 0, 1000 };
    RC(semtimedop(id, &one, 1, &bad));
    RC(semtimedop(id, &one, 1, &negative));
    RC(semtimedop(id, &one, 1, &good));
    RC(semtimedop(id, &one, 1, NULL));
    VAL(getval(id, 0));
    RC(semtimedop(id, &one, 1, (void *)16));
    RC(semtimedop(id, many, 501, &bad));
    RC(semtimedop(-1, &one, 1, &bad));

    /* A removed set. */
    RC(semctl(id, 0, IPC_RMID));
    RC(SEMOP(id, OP(0, 1, 0)));
    RC(getval(id, 0));
    return 0;
}
