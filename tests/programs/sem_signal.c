/* A signal ends a blocked semop with EINTR, SA_RESTART or not. */
#include "vt.h"

static int id;

static void interrupted(const char *what, int flags, int signal_no, int op)
{
    pid_t child = spawn();
    if (child == 0) {
        if (signal_no == SIGUSR1)
            catch_signal(SIGUSR1, flags);
        int rc = SEMOP(id, OP(0, op, 0));
        int e = errno;
        say("%s: %s, handler ran %d times", what, rc == -1 ? ename(e) : "ok", (int)signals_seen);
        exit(0);
    }
    UNTIL((op ? ncnt(id, 0) : zcnt(id, 0)) == 1);
    kill(child, signal_no);
    if (signal_no == SIGSTOP) {
        int status;
        waitpid(child, &status, WUNTRACED);
        YES(WIFSTOPPED(status));
        kill(child, SIGCONT);
    }
    reap(child);
    VAL(ncnt(id, 0));
}

/* A handler that uses the same set while the program is blocked in it. */
static void nested(int s)
{
    (void)s;
    int e = errno;
    MUST(SEMOP(id, OP(1, 1, 0)));
    MUST(SEMOP(id, OP(1, -1, 0)));
    MUST(SEMOP(id, OP(2, 1, 0)));
    errno = e;
}

int main(void)
{
    begin();
    id = new_sem(3);
    interrupted("taker", 0, SIGUSR1, -1);
    interrupted("taker with SA_RESTART", SA_RESTART, SIGUSR1, -1);
    setval(id, 0, 1);
    interrupted("zero waiter with SA_RESTART", SA_RESTART, SIGUSR1, 0);
    setval(id, 0, 0);
    interrupted("stopped and continued", 0, SIGSTOP, -1);

    /* Ignored and blocked signals do not. */
    pid_t child = spawn();
    if (child == 0) {
        signal(SIGUSR1, SIG_IGN);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR2);
        sigprocmask(SIG_BLOCK, &set, NULL);
        RC(SEMOP(id, OP(0, -1, 0)));
        exit(0);
    }
    UNTIL(ncnt(id, 0) == 1);
    kill(child, SIGUSR1);
    kill(child, SIGUSR2);
    wait_asleep(child);
    VAL(ncnt(id, 0));
    RC(SEMOP(id, OP(0, 1, 0)));
    reap(child);

    /* A handler may call semop itself. */
    child = spawn();
    if (child == 0) {
        struct sigaction sa = { .sa_handler = nested, .sa_flags = SA_RESTART };
        sigaction(SIGUSR1, &sa, NULL);
        RC(SEMOP(id, OP(0, -1, 0)));
        exit(0);
    }
    UNTIL(ncnt(id, 0) == 1);
    kill(child, SIGUSR1);
    reap(child);
    say("values %d %d %d", getval(id, 0), getval(id, 1), getval(id, 2));

    /* A storm of signals: a call either got its unit or did not. */
    int *got = scratch(4096);
    gate ready = new_gate();
    child = spawn();
    if (child == 0) {
        catch_signal(SIGUSR1, 0);
        gate_open(ready);
        while (got[0] < 500)
            if (SEMOP(id, OP(0, -1, 0)) == 0)
                got[0]++;
            else if (errno == EINTR)
                got[1]++;
            else
                die("semop");
        exit(0);
    }
    gate_wait(ready);
    for (int i = 0; i < 500; i++) {
        kill(child, SIGUSR1);
        MUST(SEMOP(id, OP(0, 1, 0)));
    }
    reap(child);
    VAL(got[0]);
    VAL(getval(id, 0));
    VAL(ncnt(id, 0));
    return 0;
}
