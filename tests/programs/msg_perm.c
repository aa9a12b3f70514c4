/* Permission of a queue for owner, group, others, and for root. */
#include "vt.h"

static void as(uid_t uid, gid_t gid, int id, int n)
{
    pid_t pid = spawn();
    if (pid == 0) {
        struct msqid_ds ds;
        become(uid, gid);
        say("-- uid %d gid %d", (int)uid, (int)gid);
        RC(msgget(key(n), 0));
        RC(msgget(key(n), 0400));
        RC(msgget(key(n), 0600));
        RC(msgget(key(n), IPC_CREAT | IPC_EXCL | 0600));
        RC(send_text(id, 1, "sent", IPC_NOWAIT));
        RC(send_text(id, 0, "sent", IPC_NOWAIT));
        recv_text("msgrcv", id, 100, 0, IPC_NOWAIT);
        recv_text("msgrcv of none", id, 100, 99, IPC_NOWAIT);
        RC(msgctl(id, IPC_STAT, &ds));
        memset(&ds, 0, sizeof ds);
        RC(msgctl(id, IPC_SET, &ds));
        RC(msgctl(id, IPC_RMID, NULL));
        exit(0);
    }
    reap(pid);
}

int main(void)
{
    begin();
    if (!need_root())
        return 0;
    static const int modes[] = { 0, 0600, 0640, 0620, 0660, 0604, 0602, 0606, 0666, 0066 };
    for (int i = 0; i < (int)(sizeof modes / sizeof modes[0]); i++) {
        int id = keep('q', MUST(msgget(key(i), IPC_CREAT | modes[i])));
        struct msqid_ds ds;
        MUST(msgctl(id, IPC_STAT, &ds));
        ds.msg_perm.gid = 2000;
        MUST(msgctl(id, IPC_SET, &ds));
        say("---- mode %o, owner 0:2000", modes[i]);
        as(1000, 1000, id, i);
        as(1000, 2000, id, i);
        RC(send_text(id, 1, "by root", IPC_NOWAIT));
        recv_text("root", id, 100, 0, IPC_NOWAIT);
    }

    /* IPC_SET wakes sleepers, who look at the permission again. */
    say("---- the mode changes under a sleeping receiver");
    int id = keep('q', MUST(msgget(key(40), IPC_CREAT | 0666)));
    gate here = new_gate();
    pid_t pid = spawn();
    if (pid == 0) {
        struct msqid_ds ds;
        become(1000, 1000);
        MUST(msgctl(id, IPC_STAT, &ds));
        gate_open(here);
        recv_text("msgrcv", id, 100, 0, 0);
        exit(0);
    }
    gate_wait(here);
    wait_asleep(pid);
    struct msqid_ds ds;
    MUST(msgctl(id, IPC_STAT, &ds));
    ds.msg_perm.mode = 0600;
    RC(msgctl(id, IPC_SET, &ds));
    reap(pid);
    return 0;
}
