/* A stopped process keeps what it holds and holds up nobody else. */
#include "vt.h"

int main(void)
{
    begin();
    int sem = new_sem(2);
    setval(sem, 0, 2);
    gate here = new_gate();
    pid_t child = spawn();
    if (child == 0) {
        gate_open(here);
        for (;;) {
            MUST(SEMOP(sem, OP(0, -1, SEM_UNDO), OP(1, 1, SEM_UNDO)));
            MUST(SEMOP(sem, OP(0, 1, SEM_UNDO), OP(1, -1, SEM_UNDO)));
        }
    }
    gate_wait(here);
    int good = 0;
    for (int i = 0; i < 50; i++) {
        int status;
        kill(child, SIGSTOP);
        if (waitpid(child, &status, WUNTRACED) != child || !WIFSTOPPED(status))
            die("waitpid");
        /* One of the two units is always free for us, with no wait. */
        good += SEMOP(sem, OP(0, -1, IPC_NOWAIT)) == 0;
        good += getval(sem, 0) + getval(sem, 1) == 1;
        good += SEMOP(sem, OP(0, 1, IPC_NOWAIT)) == 0;
        kill(child, SIGCONT);
        struct timespec t = { 0, 100000 * (i % 7) };
        nanosleep(&t, NULL);
    }
    VAL(good);
    kill_and_reap(child);
    UNTIL(getval(sem, 0) == 2);
    say("values %d %d", getval(sem, 0), getval(sem, 1));

    /* A stopped sleeper is served while it is stopped. */
    setval(sem, 0, 0);
    child = spawn();
    if (child == 0) {
        MUST(SEMOP(sem, OP(0, -1, 0)));
        exit(0);
    }
    UNTIL(ncnt(sem, 0) == 1);
    RC(SEMOP(sem, OP(0, 1, 0)));
    VAL(getval(sem, 0));
    VAL(ncnt(sem, 0));
    reap(child);
    return 0;
}
