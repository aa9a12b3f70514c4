/* semtimedop: how it ends and about when. */
#include "vt.h"

static int id;

/* Prints the outcome, and whether the time it took lies in wide bounds. */
static void timed(const char *what, int op, long ms, double least, double most)
{
    struct sembuf ops = OP(0, op, 0);
    struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
    double start = now();
    int rc = semtimedop(id, &ops, 1, &t);
    int e = errno;
    double took = now() - start;
    say("%s: %s, %s", what, rc == -1 ? ename(e) : "ok",
        took < least ? "too early" : took > most ? "too late" : "in time");
}

int main(void)
{
    begin();
    id = new_sem(1);
    timed("no time at all", -1, 0, 0, 2);
    timed("50 ms for a unit", -1, 50, 0.049, 5);
    timed("300 ms for a unit", -1, 300, 0.299, 5);
    VAL(ncnt(id, 0));
    setval(id, 0, 1);
    timed("50 ms for zero", 0, 50, 0.049, 5);
    VAL(zcnt(id, 0));
    timed("it was there", -1, 1000, 0, 0.9);

    /* Someone comes in time. */
    pid_t child = spawn();
    if (child == 0) {
        UNTIL(ncnt(id, 0) == 1);
        RC(SEMOP(id, OP(0, 1, 0)));
        exit(0);
    }
    timed("a child gives", -1, 20000, 0, 15);
    reap(child);
    VAL(getval(id, 0));

    /* IPC_NOWAIT wins over the time. */
    struct sembuf nowait = OP(0, -1, IPC_NOWAIT);
    struct timespec t = { 20, 0 };
    double start = now();
    RC(semtimedop(id, &nowait, 1, &t));
    YES(now() - start < 5);

    /* A long time that a signal ends. */
    catch_signal(SIGUSR1, SA_RESTART);
    child = spawn();
    if (child == 0) {
        timed("a signal comes", -1, 30000, 0, 15);
        exit(0);
    }
    UNTIL(ncnt(id, 0) == 1);
    kill(child, SIGUSR1);
    reap(child);
    VAL(ncnt(id, 0));

    /* After a time-out nothing is owed: the unit stays. */
    timed("20 ms again", -1, 20, 0.019, 5);
    RC(SEMOP(id, OP(0, 1, 0)));
    VAL(getval(id, 0));

    /* Many short waits beside a giver: no unit is lost, none made. */
    setval(id, 0, 0);
    int *got = scratch(4096);
    child = spawn();
    if (child == 0) {
        struct sembuf take = OP(0, -1, 0);
        struct timespec brief = { 0, 200000 };
        for (int i = 0; i < 2000; i++)
            if (semtimedop(id, &take, 1, &brief) == 0)
                ++*got;
            else if (errno != EAGAIN)
                die("semtimedop");
        exit(0);
    }
    for (int i = 0; i < 1000; i++)
        MUST(SEMOP(id, OP(0, 1, 0)));
    reap(child);
    VAL(*got + getval(id, 0));
    return 0;
}
