/* Several operations: in order, on running values, all or none. */
#include "vt.h"

static int id;
static void values(void) { say("values %d %d %d", getval(id, 0), getval(id, 1), getval(id, 2)); }

int main(void)
{
    begin();
    id = new_sem(3);
    setval(id, 0, 5);
    RC(SEMOP(id, OP(0, -5, 0), OP(0, 5, 0), OP(0, -5, 0)));
    values();
    RC(SEMOP(id, OP(0, 1, 0), OP(1, 2, 0), OP(2, 3, 0)));
    values();
    /* The last one fails: none happened. */
    RC(SEMOP(id, OP(0, -1, 0), OP(1, -2, 0), OP(2, -4, IPC_NOWAIT)));
    values();
    /* IPC_NOWAIT counts only on the operation that would block. */
    RC(SEMOP(id, OP(0, -1, IPC_NOWAIT), OP(1, -2, IPC_NOWAIT), OP(2, -3, 0)));
    values();
    /* Zero operations see what was done before them in the same call. */
    RC(SEMOP(id, OP(0, 1, 0), OP(0, 0, IPC_NOWAIT)));
    RC(SEMOP(id, OP(0, 0, IPC_NOWAIT), OP(0, 1, 0)));
    RC(SEMOP(id, OP(0, -1, 0), OP(0, 0, IPC_NOWAIT), OP(0, 4, 0)));
    values();
    /* Up first lets a down through that alone would fail. */
    RC(SEMOP(id, OP(1, -3, IPC_NOWAIT), OP(1, 3, 0)));
    RC(SEMOP(id, OP(1, 3, 0), OP(1, -3, IPC_NOWAIT)));
    values();
    /* One semaphore many times. */
    struct sembuf ops[300];
    for (int i = 0; i < 300; i++)
        ops[i] = OP(i % 3, i % 2 ? -1 : 1, IPC_NOWAIT);
    setval(id, 0, 0);
    VAL(semop(id, ops, 300) == -1 ? -errno != 0 : 1);
    values();
    for (int i = 0; i < 300; i++)
        ops[i] = OP(i % 3, 100, 0);
    RC(semop(id, ops, 300));
    values();

    /* A blocked call takes nothing until it can take all. */
    setval(id, 0, 1);
    setval(id, 1, 0);
    setval(id, 2, 0);
    pid_t child = spawn();
    if (child == 0) {
        RC(SEMOP(id, OP(0, -1, 0), OP(1, -1, 0), OP(2, -1, 0)));
        exit(0);
    }
    UNTIL(ncnt(id, 1) == 1);
    values();
    say("ncnt %d %d %d", ncnt(id, 0), ncnt(id, 1), ncnt(id, 2));
    RC(SEMOP(id, OP(0, -1, IPC_NOWAIT)));
    RC(SEMOP(id, OP(1, 1, 0)));
    UNTIL(ncnt(id, 0) == 1);
    say("ncnt %d %d %d", ncnt(id, 0), ncnt(id, 1), ncnt(id, 2));
    values();
    RC(SEMOP(id, OP(0, 1, 0)));
    UNTIL(ncnt(id, 2) == 1);
    say("ncnt %d %d %d", ncnt(id, 0), ncnt(id, 1), ncnt(id, 2));
    values();
    RC(SEMOP(id, OP(2, 1, 0)));
    reap(child);
    values();

    /* Threads move tokens between three semaphores: their sum never changes. */
    setval(id, 0, 10);
    setval(id, 1, 10);
    setval(id, 2, 10);
    pid_t kids[4];
    for (int k = 0; k < 4; k++) {
        kids[k] = spawn();
        if (kids[k] == 0) {
            for (int i = 0; i < 2000; i++)
                MUST(SEMOP(id, OP((i + k) % 3, -1, 0), OP((i + k + 1) % 3, 1, 0)));
            exit(0);
        }
    }
    for (int i = 0; i < 500; i++) {
        unsigned short v[3];
        MUST(semctl(id, 0, GETALL, (union semun){ .array = v }));
        if (v[0] + v[1] + v[2] != 30) {
            say("the sum was %d", v[0] + v[1] + v[2]);
            break;
        }
    }
    for (int k = 0; k < 4; k++)
        reap(kids[k]);
    VAL(getval(id, 0) + getval(id, 1) + getval(id, 2));
    return 0;
}
