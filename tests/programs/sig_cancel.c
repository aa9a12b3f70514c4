/* pthread_cancel: msgsnd and msgrcv are where a thread may be cancelled, semop
 * is none, unless the thread says: at any time. */
#include "vt.h"

static int sem, queue;
static gate here, on;
static volatile pid_t tid;
static volatile int cleaned;
static const char *volatile outcome;
enum { TAKE, TAKE_UNDO, RECEIVE, SEND, SEND_AT_ONCE, RECEIVE_NONE, CONTROL };
struct what { int call, type, state, before; };

static void cleanup(void *x)
{
    (void)x;
    cleaned++;
    /* The objects work here. */
    MUST(SEMOP(sem, OP(1, 1, 0)));
    MUST(SEMOP(sem, OP(1, 1, 0), OP(1, -1, 0)));
}

static long calls(int call)
{
    message m = { .mtype = 3 };
    struct msqid_ds ds;
    switch (call) {
    case TAKE: return SEMOP(sem, OP(0, -1, 0));
    case TAKE_UNDO: return SEMOP(sem, OP(1, 1, SEM_UNDO), OP(0, -1, SEM_UNDO));
    case RECEIVE: return msgrcv(queue, &m, 100, 7, 0);
    case RECEIVE_NONE: return msgrcv(queue, &m, 100, 7, IPC_NOWAIT);
    case SEND: return msgsnd(queue, &m, 8192, 0);
    case SEND_AT_ONCE: return msgsnd(queue, &m, 1, IPC_NOWAIT);
    default: return msgctl(queue, IPC_STAT, &ds);
    }
}

static void *victim(void *x)
{
    struct what *w = x;
    long rc;
    pthread_cleanup_push(cleanup, NULL);
    pthread_setcanceltype(w->type, NULL);
    pthread_setcancelstate(w->state, NULL);
    tid = gettid_();
    gate_open(here);
    if (w->before) {
        /* Until the request is there, without a place to be cancelled at. */
        int old;
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
        gate_wait(on);
        pthread_setcancelstate(old, NULL);
    }
    rc = calls(w->call);
    outcome = rc == -1 ? ename(errno) : "ok";
    pthread_testcancel();
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_cleanup_pop(0);
    return NULL;
}

static void cancel(const char *name, struct what w)
{
    pthread_t t;
    void *result;
    struct msqid_ds ds;
    message m = { .mtype = 1 };
    say("%s", name);
    cleaned = 0;
    outcome = "left";
    if (w.call == SEND)
        while (msgsnd(queue, &m, 8192, IPC_NOWAIT) != -1)
            ;
    MUST(-pthread_create(&t, NULL, victim, &w));
    gate_wait(here);
    wait_asleep(tid);
    pthread_cancel(t);
    if (w.before)
        gate_open(on);
    else if (w.state == PTHREAD_CANCEL_DISABLE || (w.call <= TAKE_UNDO && w.type == PTHREAD_CANCEL_DEFERRED)) {
        /* It goes on waiting; then it gets what it waits for. */
        wait_asleep(tid);
        RC(SEMOP(sem, OP(0, 1, 0)));
        RC(send_text(queue, 7, "seven", IPC_NOWAIT));
    }
    pthread_join(t, &result);
    say("  the call: %s; %s, cleaned up %d", outcome, result == PTHREAD_CANCELED ? "cancelled" : "ended", cleaned);
    /* Nobody waits there any more: these stay. */
    if (w.call <= TAKE_UNDO && result == PTHREAD_CANCELED && !w.before)
        RC(SEMOP(sem, OP(0, 1, 0)));
    say("  values %d %d, waiting %d", getval(sem, 0), getval(sem, 1), ncnt(sem, 0));
    if (w.call == RECEIVE)
        RC(send_text(queue, 7, "seven", IPC_NOWAIT));
    MUST(msgctl(queue, IPC_STAT, &ds));
    say("  queued %ld", (long)ds.msg_qnum);
    while (msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT) != -1)
        ;
    setval(sem, 0, 0);
    setval(sem, 1, 0);
}

int main(void)
{
    const int deferred = PTHREAD_CANCEL_DEFERRED, any = PTHREAD_CANCEL_ASYNCHRONOUS;
    const int off = PTHREAD_CANCEL_DISABLE;
    begin();
    sem = new_sem(2);
    queue = new_msg();
    here = new_gate();
    on = new_gate();
    cancel("a receiver", (struct what){ RECEIVE, deferred, 0, 0 });
    cancel("a sender", (struct what){ SEND, deferred, 0, 0 });
    cancel("a taker", (struct what){ TAKE, deferred, 0, 0 });
    cancel("a taker with undo", (struct what){ TAKE_UNDO, deferred, 0, 0 });
    cancel("a receiver that forbids it", (struct what){ RECEIVE, deferred, off, 0 });
    cancel("a taker that forbids it", (struct what){ TAKE, any, off, 0 });
    cancel("a receiver, any time", (struct what){ RECEIVE, any, 0, 0 });
    cancel("a taker, any time", (struct what){ TAKE, any, 0, 0 });
    cancel("a taker with undo, any time", (struct what){ TAKE_UNDO, any, 0, 0 });
    cancel("a sender, any time", (struct what){ SEND, any, 0, 0 });
    cancel("before a receiver", (struct what){ RECEIVE, deferred, 0, 1 });
    cancel("before a receiver of nothing", (struct what){ RECEIVE_NONE, deferred, 0, 1 });
    cancel("before a sender that need not wait", (struct what){ SEND_AT_ONCE, deferred, 0, 1 });
    cancel("before msgctl", (struct what){ CONTROL, deferred, 0, 1 });
    return 0;
}
