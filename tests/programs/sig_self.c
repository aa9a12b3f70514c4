/* A handler and the call that it interrupts: that call waits no more before
 * the handler begins, as the handler can see for itself; it gives EINTR
 * whatever the handler does, and nothing is lost if it is left for good. */
#include "vt.h"
#include <setjmp.h>

static int sem, queue;
static sigjmp_buf away;
static void (*does)(void);

static void handler(int s)
{
    (void)s;
    does();
}

static long queued(void)
{
    struct msqid_ds ds;
    MUST(msgctl(queue, IPC_STAT, &ds));
    return ds.msg_qnum;
}

/* Runs `call` in a child whose handler then does `what`. */
static void with(const char *name, long (*call)(void), void (*what)(void), int jumps)
{
    gate here = new_gate();
    pid_t child = spawn();
    if (child == 0) {
        does = what;
        struct sigaction sa = { .sa_handler = handler, .sa_flags = SA_RESTART };
        MUST(sigaction(SIGUSR1, &sa, NULL));
        if (sigsetjmp(away, 1) == 0) {
            gate_open(here);
            long rc = call();
            say("  %s", rc == -1 ? ename(errno) : "ok");
        } else
            say("  jumped");
        if (jumps) {
            /* What comes now is for others. */
            gate_wait(here);
            gate_wait(here);
        }
        exit(0);
    }
    gate_wait(here);
    wait_asleep(child);
    say("%s", name);
    kill(child, SIGUSR1);
    if (jumps) {
        UNTIL(ncnt(sem, 0) == 0);
        wait_asleep(child);
        RC(SEMOP(sem, OP(0, 1, 0)));
        RC(send_text(queue, 1, "for others", IPC_NOWAIT));
        gate_open(here);
        gate_open(here);
    }
    reap(child);
    say("value %d, waiting %d, queued %ld", getval(sem, 0), ncnt(sem, 0), queued());
    setval(sem, 0, 0);
    message m;
    while (msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT) != -1)
        ;
}

static long take(void) { return SEMOP(sem, OP(0, -1, 0)); }
static long take_timed(void)
{
    struct sembuf op = OP(0, -1, SEM_UNDO);
    return semtimedop(sem, &op, 1, &(struct timespec){ 50, 0 });
}
static long take_many(void) { return SEMOP(sem, OP(1, 1, 0), OP(0, -2, 0), OP(1, -1, SEM_UNDO)); }
static long receive(void)
{
    message m;
    return msgrcv(queue, &m, sizeof m.text, 0, 0);
}
static long send_full(void)
{
    message m = { .mtype = 1 };
    while (msgsnd(queue, &m, 8192, IPC_NOWAIT) != -1)
        ;
    return msgsnd(queue, &m, 8192, 0);
}

static void posts(void) { RC(SEMOP(sem, OP(0, 2, 0))); }
static void looks(void) { say("  waiting %d %d", ncnt(sem, 0), ncnt(sem, 1)); }
static void sends(void) { RC(send_text(queue, 1, "from the handler", IPC_NOWAIT)); }
static void receives(void) { VAL(receive()); }
static void takes_too(void) { RC(SEMOP(sem, OP(0, 1, 0), OP(0, -1, SEM_UNDO))); }
static void jump(void) { siglongjmp(away, 1); }
static void post_and_jump(void)
{
    RC(SEMOP(sem, OP(0, 2, 0)));
    RC(send_text(queue, 1, "and away", IPC_NOWAIT));
    jump();
}
static void removes(void)
{
    struct msqid_ds ds;
    MUST(msgctl(queue, IPC_STAT, &ds));
    RC(msgctl(queue, IPC_SET, &ds));
    RC(semctl(sem, 0, GETPID) >= 0 ? 0 : -1);
}

int main(void)
{
    begin();
    sem = new_sem(2);
    queue = new_msg();
    with("a taker, whose handler posts", take, posts, 0);
    with("a taker with a time, whose handler posts", take_timed, posts, 0);
    with("a taker of many, whose handler posts", take_many, posts, 0);
    with("a taker, whose handler looks", take, looks, 0);
    with("a taker, whose handler takes", take, takes_too, 0);
    with("a taker, whose handler changes", take, removes, 0);
    with("a receiver, whose handler sends", receive, sends, 0);
    with("a receiver, whose handler sends and looks", receive, looks, 0);
    with("a sender, whose handler receives", send_full, receives, 0);
    with("a sender, whose handler looks", send_full, looks, 0);
    with("a receiver, whose handler changes", receive, removes, 0);
    with("a taker, whose handler jumps", take, jump, 1);
    with("a taker of many, whose handler jumps", take_many, jump, 1);
    with("a taker, whose handler posts and jumps", take, post_and_jump, 1);
    with("a receiver, whose handler jumps", receive, jump, 1);
    with("a receiver, whose handler sends and jumps", receive, post_and_jump, 1);
    with("a sender, whose handler jumps", send_full, jump, 1);
    return 0;
}
