/* Receivers that sleep: who gets what. */
#include "vt.h"

static int id;
static gate here;

static pid_t receiver(const char *label, size_t max, long type, int flags)
{
    pid_t pid = spawn();
    if (pid == 0) {
        struct msqid_ds ds;
        MUST(msgctl(id, IPC_STAT, &ds));
        gate_open(here);
        recv_text(label, id, max, type, flags);
        exit(0);
    }
    gate_wait(here);
    wait_asleep(pid);
    return pid;
}

static long left(void)
{
    struct msqid_ds ds;
    MUST(msgctl(id, IPC_STAT, &ds));
    return (long)ds.msg_qnum;
}

int main(void)
{
    begin();
    id = new_msg();
    here = new_gate();
    pid_t p[5];

    say("one receiver");
    p[0] = receiver("any", 100, 0, 0);
    RC(send_text(id, 5, "hello", 0));
    reap(p[0]);
    VAL(left());

    say("each waits for its type");
    p[0] = receiver("type 1", 100, 1, 0);
    p[1] = receiver("type 2", 100, 2, 0);
    p[2] = receiver("up to 7", 100, -7, 0);
    p[3] = receiver("all but 9", 100, 9, MSG_EXCEPT);
    RC(send_text(id, 9, "for nobody", 0));
    VAL(left());
    RC(send_text(id, 2, "for the second", 0));
    reap(p[1]);
    RC(send_text(id, 8, "for the fourth", 0));
    reap(p[3]);
    RC(send_text(id, 6, "for the third", 0));
    reap(p[2]);
    RC(send_text(id, 1, "for the first", 0));
    reap(p[0]);
    VAL(left());
    recv_text("the rest", id, 100, 0, IPC_NOWAIT);

    say("first come, first served");
    for (int i = 0; i < 5; i++) {
        char label[16];
        snprintf(label, sizeof label, "receiver %d", i);
        p[i] = receiver(label, 100, i % 2 ? 0 : 3, 0);
    }
    for (int i = 0; i < 5; i++) {
        char text[16];
        snprintf(text, sizeof text, "message %d", i);
        RC(send_text(id, 3, text, 0));
        reap(p[i]);
        VAL(left());
    }

    say("too small: told so, and the message goes on");
    p[0] = receiver("small", 3, 0, 0);
    p[1] = receiver("large", 100, 0, 0);
    RC(send_text(id, 1, "too large for one", 0));
    reap(p[0]);
    reap(p[1]);
    VAL(left());
    p[0] = receiver("small", 3, 0, 0);
    RC(send_text(id, 1, "too large again", 0));
    reap(p[0]);
    VAL(left());
    recv_text("kept", id, 100, 0, IPC_NOWAIT);
    p[0] = receiver("cut", 3, 0, MSG_NOERROR);
    RC(send_text(id, 1, "abcdef", 0));
    reap(p[0]);
    VAL(left());

    say("a killed receiver takes nothing");
    p[0] = receiver("killed", 100, 0, 0);
    kill_and_reap(p[0]);
    RC(send_text(id, 1, "unharmed", 0));
    VAL(left());
    recv_text("kept", id, 100, 0, IPC_NOWAIT);

    say("lspid and lrpid of a hand-over");
    p[0] = receiver("any", 100, 0, 0);
    RC(send_text(id, 1, "x", 0));
    reap(p[0]);
    struct msqid_ds ds;
    RC(msgctl(id, IPC_STAT, &ds));
    YES(ds.msg_lspid == getpid());
    YES(ds.msg_lrpid == p[0]);
    return 0;
}
