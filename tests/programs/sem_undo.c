/* SEM_UNDO: when a process ends, what it did is taken back. */
#include "vt.h"

static int id;
static void values(const char *when) { say("%s: %d %d", when, getval(id, 0), getval(id, 1)); }

int main(void)
{
    begin();
    id = new_sem(2);
    setval(id, 0, 5);
    gate here = new_gate(), leave = new_gate();

    IN_CHILD(RC(SEMOP(id, OP(0, -2, SEM_UNDO))); values("in the child"));
    values("after its exit");
    IN_CHILD(RC(SEMOP(id, OP(0, -2, SEM_UNDO), OP(1, 3, SEM_UNDO))); RC(SEMOP(id, OP(0, 1, SEM_UNDO)));
             RC(SEMOP(id, OP(1, 1, 0))); values("in the child"));
    values("after its exit");
    IN_CHILD(RC(SEMOP(id, OP(0, -1, SEM_UNDO))); fflush(NULL); _exit(0));
    values("after _exit");

    say("killed");
    setval(id, 1, 0);
    pid_t child = spawn();
    if (child == 0) {
        MUST(SEMOP(id, OP(0, -4, SEM_UNDO), OP(1, 2, SEM_UNDO)));
        gate_open(here);
        for (;;)
            pause();
    }
    gate_wait(here);
    values("held");
    kill_and_reap(child);
    UNTIL(getval(id, 0) == 5);
    values("after kill");
    YES(semctl(id, 0, GETPID) == child);

    say("clipped at zero and at the most");
    setval(id, 0, 0);
    setval(id, 1, 32767);
    child = spawn();
    if (child == 0) {
        MUST(SEMOP(id, OP(0, 10, SEM_UNDO), OP(1, -10, SEM_UNDO)));
        gate_open(here);
        gate_wait(leave);
        exit(0);
    }
    gate_wait(here);
    values("held");
    RC(SEMOP(id, OP(0, -7, 0), OP(1, 5, 0)));
    gate_open(leave);
    reap(child);
    values("clipped");

    say("SETVAL cancels it for that semaphore, in every process");
    setval(id, 0, 9);
    setval(id, 1, 9);
    child = spawn();
    if (child == 0) {
        MUST(SEMOP(id, OP(0, -1, SEM_UNDO), OP(1, -1, SEM_UNDO)));
        gate_open(here);
        gate_wait(leave);
        exit(0);
    }
    gate_wait(here);
    RC(setval(id, 0, 3));
    gate_open(leave);
    reap(child);
    values("after");

    say("SETALL cancels it for all");
    child = spawn();
    if (child == 0) {
        MUST(SEMOP(id, OP(0, -1, SEM_UNDO), OP(1, -1, SEM_UNDO)));
        gate_open(here);
        gate_wait(leave);
        MUST(SEMOP(id, OP(1, -2, SEM_UNDO)));
        exit(0);
    }
    gate_wait(here);
    unsigned short v[2] = { 20, 30 };
    RC(semctl(id, 0, SETALL, (union semun){ .array = v }));
    gate_open(leave);
    reap(child);
    values("after");

    say("a fork does not inherit it");
    child = spawn();
    if (child == 0) {
        MUST(SEMOP(id, OP(0, -5, SEM_UNDO)));
        IN_CHILD(values("grandchild"));
        values("after the grandchild");
        exit(0);
    }
    reap(child);
    values("after the child");

    say("it wakes who waits");
    setval(id, 0, 1);
    child = spawn();
    if (child == 0) {
        MUST(SEMOP(id, OP(0, -1, SEM_UNDO)));
        gate_open(here);
        for (;;)
            pause();
    }
    gate_wait(here);
    pid_t waiter = spawn();
    if (waiter == 0) {
        RC(SEMOP(id, OP(0, -1, SEM_UNDO)));
        exit(0);
    }
    UNTIL(ncnt(id, 0) == 1);
    kill_and_reap(child);
    reap(waiter);
    values("after both");

    say("a waiter that was killed owes nothing");
    setval(id, 0, 0);
    waiter = spawn();
    if (waiter == 0) {
        SEMOP(id, OP(0, -1, SEM_UNDO));
        exit(0);
    }
    UNTIL(ncnt(id, 0) == 1);
    kill_and_reap(waiter);
    UNTIL(ncnt(id, 0) == 0);
    RC(SEMOP(id, OP(0, 1, 0)));
    values("after");

    say("the adjustment of a waiter counts from when it got it");
    setval(id, 0, 0);
    waiter = spawn();
    if (waiter == 0) {
        MUST(SEMOP(id, OP(0, -1, SEM_UNDO)));
        gate_open(here);
        gate_wait(leave);
        exit(0);
    }
    UNTIL(ncnt(id, 0) == 1);
    RC(SEMOP(id, OP(0, 1, 0)));
    gate_wait(here);
    values("got");
    gate_open(leave);
    reap(waiter);
    values("given back");

    say("adjustments have a range");
    setval(id, 0, 0);
    setval(id, 1, 0);
    IN_CHILD(RC(SEMOP(id, OP(0, 32767, SEM_UNDO))); RC(setval(id, 1, 0)); RC(SEMOP(id, OP(0, -32767, 0)));
             RC(SEMOP(id, OP(0, 1, SEM_UNDO))); RC(SEMOP(id, OP(0, 2, SEM_UNDO))); values("in range"));
    values("after");
    /* A failed call leaves no adjustment. */
    IN_CHILD(RC(SEMOP(id, OP(1, 1, SEM_UNDO), OP(0, -1, SEM_UNDO | IPC_NOWAIT))));
    values("after a failed one");

    say("the set goes first");
    int other = new_sem(1);
    child = spawn();
    if (child == 0) {
        MUST(SEMOP(other, OP(0, 1, SEM_UNDO)));
        gate_open(here);
        gate_wait(leave);
        exit(0);
    }
    gate_wait(here);
    RC(semctl(other, 0, IPC_RMID));
    gate_open(leave);
    reap(child);
    return 0;
}
