/* semctl: the commands that read and set values. */
#include "vt.h"

static void all(int id)
{
    unsigned short v[3] = { 99, 99, 99 };
    RC(semctl(id, 0, GETALL, (union semun){ .array = v }));
    say("values %u %u %u", v[0], v[1], v[2]);
}

static void set(int id, unsigned short a, unsigned short b, unsigned short c)
{
    unsigned short v[3] = { a, b, c };
    say("SETALL %u %u %u", a, b, c);
    RC(semctl(id, 0, SETALL, (union semun){ .array = v }));
}

int main(void)
{
    begin();
    int id = new_sem(3);
    all(id);
    RC(setval(id, 0, 5));
    RC(setval(id, 1, 0));
    RC(setval(id, 2, 32767));
    RC(setval(id, 2, 32768));
    RC(setval(id, 2, -1));
    RC(setval(id, 3, 1));
    RC(setval(id, -1, 1));
    all(id);
    set(id, 1, 2, 3);
    all(id);
    set(id, 9, 32768, 9);
    all(id);
    set(id, 9, 9, 65535);
    all(id);
    set(id, 32767, 0, 32767);
    all(id);
    VAL(getval(id, 0));
    RC(getval(id, 3));
    RC(getval(id, -1));
    RC(ncnt(id, 3));
    RC(zcnt(id, -1));
    RC(semctl(id, 3, GETPID));
    RC(semctl(id, 0, 12345));
    RC(semctl(id, 0, GETALL, (union semun){ .array = (void *)16 }));
    RC(semctl(id, 0, SETALL, (union semun){ .array = (void *)16 }));
    /* The number is not looked at by the commands for all. */
    unsigned short v[3];
    RC(semctl(id, 77, GETALL, (union semun){ .array = v }));

    /* sempid: who set or changed it last; SETALL names all of them. */
    id = new_sem(2);
    VAL(semctl(id, 0, GETPID));
    RC(setval(id, 0, 5));
    YES(semctl(id, 0, GETPID) == getpid());
    VAL(semctl(id, 1, GETPID));
    pid_t child = spawn();
    if (child == 0) {
        RC(SEMOP(id, OP(1, 1, 0)));
        exit(0);
    }
    reap(child);
    YES(semctl(id, 0, GETPID) == getpid());
    YES(semctl(id, 1, GETPID) == child);
    child = spawn();
    if (child == 0) {
        v[0] = v[1] = 1;
        RC(semctl(id, 0, SETALL, (union semun){ .array = v }));
        exit(0);
    }
    reap(child);
    YES(semctl(id, 0, GETPID) == child);
    YES(semctl(id, 1, GETPID) == child);
    /* A failed operation leaves it; a wait for zero that goes through sets it. */
    RC(SEMOP(id, OP(0, -9, IPC_NOWAIT)));
    YES(semctl(id, 0, GETPID) == child);
    RC(SEMOP(id, OP(0, 0, IPC_NOWAIT)));
    YES(semctl(id, 0, GETPID) == child);
    RC(setval(id, 0, 0));
    YES(semctl(id, 0, GETPID) == getpid());
    child = spawn();
    if (child == 0) {
        RC(SEMOP(id, OP(0, 0, 0)));
        exit(0);
    }
    reap(child);
    YES(semctl(id, 0, GETPID) == child);
    return 0;
}
