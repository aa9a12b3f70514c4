/* Every field of msqid_ds, and IPC_SET. */
#include "vt.h"

static struct msqid_ds ds;
static time_t start;
static int recent(time_t t) { return t >= start - 1 && t <= time(NULL) + 1; }

int main(void)
{
    begin();
    start = time(NULL);
    int id = keep('q', MUST(msgget(key(1), IPC_CREAT | 0731)));
    RC(msgctl(id, IPC_STAT, &ds));
    say("mode %o", ds.msg_perm.mode);
    YES(ds.msg_perm.__key == key(1));
    YES(ds.msg_perm.uid == geteuid() && ds.msg_perm.gid == getegid());
    YES(ds.msg_perm.cuid == geteuid() && ds.msg_perm.cgid == getegid());
    VAL(ds.msg_qnum);
    VAL(ds.__msg_cbytes);
    VAL(ds.msg_qbytes);
    VAL(ds.msg_lspid);
    VAL(ds.msg_lrpid);
    VAL(ds.msg_stime);
    VAL(ds.msg_rtime);
    YES(recent(ds.msg_ctime));

    RC(send_text(id, 1, "four", 0));
    RC(send_text(id, 1, "eleven more", 0));
    RC(msgctl(id, IPC_STAT, &ds));
    VAL(ds.msg_qnum);
    VAL(ds.__msg_cbytes);
    YES(ds.msg_lspid == getpid());
    VAL(ds.msg_lrpid);
    YES(recent(ds.msg_stime));
    VAL(ds.msg_rtime);

    pid_t child = spawn();
    if (child == 0) {
        recv_text("child", id, 100, 0, 0);
        exit(0);
    }
    reap(child);
    RC(msgctl(id, IPC_STAT, &ds));
    VAL(ds.msg_qnum);
    VAL(ds.__msg_cbytes);
    YES(ds.msg_lspid == getpid());
    YES(ds.msg_lrpid == child);
    YES(recent(ds.msg_rtime));

    /* A receive that fails changes nothing. */
    RC(recv_text("none", id, 1, 0, IPC_NOWAIT));
    RC(msgctl(id, IPC_STAT, &ds));
    VAL(ds.msg_qnum);
    VAL(ds.__msg_cbytes);
    YES(ds.msg_lrpid == child);

    struct msqid_ds set = ds;
    set.msg_perm.mode = 07666;
    set.msg_qbytes = 1000;
    set.msg_qnum = 99;
    set.msg_perm.__key = 3;
    RC(msgctl(id, IPC_SET, &set));
    RC(msgctl(id, IPC_STAT, &ds));
    say("mode %o", ds.msg_perm.mode);
    VAL(ds.msg_qbytes);
    VAL(ds.msg_qnum);
    YES(ds.msg_perm.__key == key(1));
    recv_text("the last", id, 100, 0, IPC_NOWAIT);
    RC(msgctl(id, IPC_STAT, &ds));
    VAL(ds.__msg_cbytes);
    YES(ds.msg_lrpid == getpid());

    if (geteuid() == 0) {
        /* Root may go over the limit, and give the queue away. */
        set.msg_qbytes = 100000;
        set.msg_perm.uid = 1000;
        set.msg_perm.mode = 0600;
        RC(msgctl(id, IPC_SET, &set));
        RC(msgctl(id, IPC_STAT, &ds));
        VAL(ds.msg_qbytes);
        VAL(ds.msg_perm.uid);
        IN_CHILD(
            become(1000, 1000);
            RC(msgctl(id, IPC_STAT, &ds));
            ds.msg_qbytes = 16384;
            RC(msgctl(id, IPC_SET, &ds));
            ds.msg_qbytes = 16385;
            RC(msgctl(id, IPC_SET, &ds));
            ds.msg_qbytes = 1;
            RC(msgctl(id, IPC_SET, &ds));
            RC(msgctl(id, IPC_RMID, NULL)));
    }
    return 0;
}
