/* Who is woken, and in which order. */
#include "vt.h"

static int id;
static struct { int next; int who[16]; } *order;

/* Starts a child that blocks with one operation and enters its number after. */
static pid_t waiter(int number, int sem, int op)
{
    int before = op ? ncnt(id, sem) : zcnt(id, sem);
    pid_t pid = spawn();
    if (pid == 0) {
        MUST(SEMOP(id, OP(sem, op, 0)));
        order->who[__atomic_fetch_add(&order->next, 1, __ATOMIC_SEQ_CST)] = number;
        exit(0);
    }
    UNTIL((op ? ncnt(id, sem) : zcnt(id, sem)) == before + 1);
    return pid;
}

int main(void)
{
    begin();
    order = scratch(sizeof *order);
    id = new_sem(2);
    pid_t pid[5];

    say("first come, first served");
    for (int i = 0; i < 5; i++)
        pid[i] = waiter(i, 0, -1);
    VAL(ncnt(id, 0));
    for (int i = 0; i < 5; i++) {
        RC(SEMOP(id, OP(0, 1, 0)));
        /* The unit was handed over: it is not there to be taken. */
        RC(SEMOP(id, OP(0, -1, IPC_NOWAIT)));
        VAL(ncnt(id, 0));
        reap(pid[i]);
        say("served %d", order->who[i]);
    }
    VAL(getval(id, 0));

    say("a big request does not hold up later small ones");
    order->next = 0;
    pid[0] = waiter(0, 0, -5);
    pid[1] = waiter(1, 0, -1);
    pid[2] = waiter(2, 0, -2);
    RC(SEMOP(id, OP(0, 1, 0)));
    reap(pid[1]);
    VAL(ncnt(id, 0));
    RC(SEMOP(id, OP(0, 2, 0)));
    reap(pid[2]);
    VAL(ncnt(id, 0));
    VAL(getval(id, 0));
    RC(SEMOP(id, OP(0, 4, 0)));
    VAL(getval(id, 0));
    VAL(ncnt(id, 0));
    RC(SEMOP(id, OP(0, 1, 0)));
    reap(pid[0]);
    VAL(getval(id, 0));
    say("served %d %d %d", order->who[0], order->who[1], order->who[2]);

    say("the big one goes first when there is enough");
    pid[0] = waiter(0, 0, -5);
    pid[1] = waiter(1, 0, -1);
    RC(SEMOP(id, OP(0, 5, 0)));
    reap(pid[0]);
    VAL(getval(id, 0));
    VAL(ncnt(id, 0));
    RC(SEMOP(id, OP(0, 1, 0)));
    reap(pid[1]);

    say("one up for many");
    for (int i = 0; i < 5; i++)
        pid[i] = waiter(i, 0, -2);
    RC(SEMOP(id, OP(0, 7, 0)));
    VAL(ncnt(id, 0));
    VAL(getval(id, 0));
    RC(SEMOP(id, OP(0, 3, 0)));
    for (int i = 0; i < 5; i++)
        reap(pid[i]);
    VAL(getval(id, 0));

    say("waiters for zero go before takers");
    RC(setval(id, 0, 1));
    pid[0] = waiter(0, 0, -3);
    pid[1] = waiter(1, 0, 0);
    pid[2] = waiter(2, 0, 0);
    VAL(zcnt(id, 0));
    VAL(ncnt(id, 0));
    RC(SEMOP(id, OP(0, -1, 0)));
    reap(pid[1]);
    reap(pid[2]);
    VAL(zcnt(id, 0));
    VAL(ncnt(id, 0));
    RC(SEMOP(id, OP(0, 3, 0)));
    reap(pid[0]);

    say("an operation that passes through zero");
    RC(setval(id, 0, 1));
    pid[0] = waiter(0, 0, 0);
    RC(SEMOP(id, OP(0, -1, 0), OP(0, 1, 0)));
    VAL(zcnt(id, 0));
    RC(SEMOP(id, OP(0, -1, 0)));
    reap(pid[0]);

    say("a taker that makes it zero lets the zero waiter go");
    RC(setval(id, 0, 1));
    pid[0] = waiter(0, 0, 0);
    pid[1] = waiter(1, 0, -3);
    RC(SEMOP(id, OP(0, 2, 0)));
    reap(pid[1]);
    reap(pid[0]);
    VAL(getval(id, 0));

    say("chains: the first to go lets the next one go");
    pid_t chain[3];
    for (int i = 0; i < 3; i++) {
        chain[i] = spawn();
        if (chain[i] == 0) {
            if (i == 0)
                MUST(SEMOP(id, OP(0, -1, 0), OP(1, 1, 0)));
            else if (i == 1)
                MUST(SEMOP(id, OP(1, -2, 0)));
            else
                MUST(SEMOP(id, OP(1, -1, 0), OP(0, 1, 0), OP(1, 1, 0)));
            exit(0);
        }
        UNTIL(ncnt(id, 0) + ncnt(id, 1) == i + 1);
    }
    RC(SEMOP(id, OP(0, 1, 0)));
    reap(chain[0]);
    reap(chain[2]);
    say("values %d %d, waiting %d", getval(id, 0), getval(id, 1), ncnt(id, 1));
    RC(SEMOP(id, OP(1, 1, 0)));
    reap(chain[1]);
    say("values %d %d", getval(id, 0), getval(id, 1));

    say("SETVAL and SETALL let them go too");
    pid[0] = waiter(0, 0, -2);
    pid[1] = waiter(1, 1, -3);
    setval(id, 0, 0);
    RC(setval(id, 0, 3));
    reap(pid[0]);
    VAL(getval(id, 0));
    unsigned short v[2] = { 0, 4 };
    pid[0] = waiter(0, 0, 0);
    RC(semctl(id, 0, SETALL, (union semun){ .array = v }));
    reap(pid[0]);
    reap(pid[1]);
    say("values %d %d", getval(id, 0), getval(id, 1));
    /* The pid is the taker's, not the waker's. */
    pid[0] = waiter(0, 0, -2);
    RC(SEMOP(id, OP(0, 2, 0)));
    reap(pid[0]);
    YES(semctl(id, 0, GETPID) == pid[0]);
    return 0;
}
