/* A signal ends a blocked msgsnd or msgrcv with EINTR, SA_RESTART or not. */
#include "vt.h"

static int id;
static gate here;
static message m;

static void interrupted(const char *what, int flags, int send)
{
    pid_t child = spawn();
    if (child == 0) {
        struct msqid_ds ds;
        catch_signal(SIGUSR1, flags);
        MUST(msgctl(id, IPC_STAT, &ds));
        m.mtype = 1;
        gate_open(here);
        long rc = send ? msgsnd(id, &m, 100, 0) : msgrcv(id, &m, 100, 7, 0);
        int e = errno;
        say("%s: %s, handler ran %d times", what, rc == -1 ? ename(e) : "ok", (int)signals_seen);
        exit(0);
    }
    gate_wait(here);
    wait_asleep(child);
    kill(child, SIGUSR1);
    reap(child);
}

int main(void)
{
    begin();
    id = new_msg();
    here = new_gate();
    interrupted("receiver", 0, 0);
    interrupted("receiver with SA_RESTART", SA_RESTART, 0);
    m.mtype = 1;
    MUST(msgsnd(id, &m, 8192, 0));
    MUST(msgsnd(id, &m, 8192, 0));
    interrupted("sender", 0, 1);
    interrupted("sender with SA_RESTART", SA_RESTART, 1);
    struct msqid_ds ds;
    RC(msgctl(id, IPC_STAT, &ds));
    VAL(ds.msg_qnum);
    while (msgrcv(id, &m, 8192, 0, IPC_NOWAIT) != -1)
        ;

    /* A stop without a handler: the receiver goes on waiting. */
    pid_t child = spawn();
    if (child == 0) {
        MUST(msgctl(id, IPC_STAT, &ds));
        gate_open(here);
        recv_text("stopped and continued", id, 100, 0, 0);
        exit(0);
    }
    gate_wait(here);
    wait_asleep(child);
    kill(child, SIGSTOP);
    int status;
    waitpid(child, &status, WUNTRACED);
    YES(WIFSTOPPED(status));
    kill(child, SIGCONT);
    wait_asleep(child);
    RC(send_text(id, 1, "after all", 0));
    reap(child);

    /* A storm of signals loses and doubles no message. */
    int *got = scratch(4096);
    child = spawn();
    if (child == 0) {
        catch_signal(SIGUSR1, 0);
        gate_open(here);
        while (got[0] < 500) {
            message r;
            if (msgrcv(id, &r, sizeof r.text, 0, 0) == -1) {
                if (errno != EINTR)
                    die("msgrcv");
            } else if (r.mtype == got[0] + 1)
                got[0]++;
            else
                die("out of order");
        }
        exit(0);
    }
    gate_wait(here);
    for (int i = 0; i < 500; i++) {
        kill(child, SIGUSR1);
        MUST(send_text(id, i + 1, "x", 0));
    }
    reap(child);
    VAL(got[0]);
    RC(msgctl(id, IPC_STAT, &ds));
    VAL(ds.msg_qnum);
    return 0;
}
