/* A full queue: EAGAIN, or a sender that sleeps until there is room. */
#include "vt.h"

static int id;
static struct msqid_ds ds;
static struct { long mtype; char text[8192]; } big = { .mtype = 1 };

static void state(const char *when)
{
    MUST(msgctl(id, IPC_STAT, &ds));
    say("%s: %lu messages, %lu bytes of %lu", when, (unsigned long)ds.msg_qnum, (unsigned long)ds.__msg_cbytes,
        (unsigned long)ds.msg_qbytes);
}

/* A child that sends and blocks in it. */
static pid_t sender(gate here, long type, size_t size)
{
    pid_t pid = spawn();
    if (pid == 0) {
        big.mtype = type;
        MUST(msgctl(id, IPC_STAT, &ds));
        gate_open(here);
        int rc = msgsnd(id, &big, size, 0);
        exit(rc == 0 ? 0 : 1);
    }
    gate_wait(here);
    wait_asleep(pid);
    return pid;
}

int main(void)
{
    begin();
    id = new_msg();
    gate here = new_gate();
    state("new");
    RC(msgsnd(id, &big, 8192, IPC_NOWAIT));
    RC(msgsnd(id, &big, 8000, IPC_NOWAIT));
    RC(msgsnd(id, &big, 193, IPC_NOWAIT));
    RC(msgsnd(id, &big, 192, IPC_NOWAIT));
    state("full");
    RC(msgsnd(id, &big, 1, IPC_NOWAIT));
    /* An empty message needs no bytes. */
    RC(msgsnd(id, &big, 0, IPC_NOWAIT));
    state("with an empty one");

    say("a sender waits for room");
    pid_t a = sender(here, 2, 100);
    state("blocked");
    VAL(msgrcv(id, &big, 8192, 0, 0));
    reap(a);
    state("after");
    while (msgrcv(id, &big, 8192, 1, IPC_NOWAIT) != -1)
        ;
    VAL(msgrcv(id, &big, 8192, 0, 0));
    VAL(big.mtype);
    state("drained");

    /* Which of them goes first is left open by the kernel: all that would fit
     * are woken and race. One gets in for each that is taken out. */
    say("three senders");
    big.mtype = 1;
    RC(msgsnd(id, &big, 8192, 0));
    RC(msgsnd(id, &big, 8192, 0));
    for (int i = 0; i < 3; i++)
        sender(here, 10 + i, 8000);
    state("blocked");
    for (int i = 0; i < 3; i++) {
        VAL(msgrcv(id, &big, 8192, 0, 0));
        reap(-1);
        state("one came in");
    }
    long types = (big.mtype - 9) * (big.mtype - 9);
    for (int i = 0; i < 2; i++) {
        VAL(msgrcv(id, &big, 8192, 0, 0));
        types += (big.mtype - 9) * (big.mtype - 9);
    }
    YES(types == 1 + 4 + 9);
    state("drained");

    say("a killed sender sent nothing");
    big.mtype = 1;
    RC(msgsnd(id, &big, 8192, 0));
    RC(msgsnd(id, &big, 8192, 0));
    a = sender(here, 3, 5000);
    kill_and_reap(a);
    VAL(msgrcv(id, &big, 8192, 0, 0));
    VAL(msgrcv(id, &big, 8192, 0, 0));
    VAL(msgrcv(id, &big, 8192, 0, IPC_NOWAIT));
    state("drained");

    say("a smaller queue");
    MUST(msgctl(id, IPC_STAT, &ds));
    ds.msg_qbytes = 100;
    RC(msgctl(id, IPC_SET, &ds));
    big.mtype = 1;
    RC(msgsnd(id, &big, 101, IPC_NOWAIT));
    RC(msgsnd(id, &big, 60, IPC_NOWAIT));
    RC(msgsnd(id, &big, 60, IPC_NOWAIT));
    RC(msgsnd(id, &big, 40, IPC_NOWAIT));
    state("full");
    say("the count has the same bound");
    int sent = 0;
    while (msgsnd(id, &big, 0, IPC_NOWAIT) == 0)
        sent++;
    VAL(sent);
    state("full");
    say("a larger queue lets a sender go");
    a = sender(here, 1, 10);
    ds.msg_qbytes = 200;
    RC(msgctl(id, IPC_SET, &ds));
    reap(a);
    state("larger");
    say("smaller than what is in it");
    ds.msg_qbytes = 50;
    RC(msgctl(id, IPC_SET, &ds));
    RC(msgsnd(id, &big, 1, IPC_NOWAIT));
    state("smaller");
    return 0;
}
