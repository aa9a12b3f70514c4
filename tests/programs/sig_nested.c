/* Handlers that interrupt handlers, each inside a call that waits; handlers
 * that fork there; threads that end there. */
#include "vt.h"

#define LEVELS 24
static int sem, queue;
static volatile int *level;

static void deeper(int s)
{
    (void)s;
    int at = ++*level;
    if (at == LEVELS)
        return;
    message m;
    long rc = at % 2 ? SEMOP(sem, OP(0, -1, 0)) : msgrcv(queue, &m, 100, 0, 0);
    if (rc != -1 || errno != EINTR)
        say("level %d: %s", at, rc == -1 ? ename(errno) : "ok");
    MUST(SEMOP(sem, OP(1, 1, 0), OP(2, 1, 0)));
}

static void forks(int s)
{
    (void)s;
    int e = errno;
    fflush(stdout);
    pid_t child = MUST(fork());
    if (child == 0) {
        alarm(WATCHDOG_SECONDS);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        MUST(SEMOP(sem, OP(1, 1, 0)));
        *level = 1;
    } else {
        int status;
        MUST(waitpid(child, &status, 0));
        if (status)
            say("the child of the handler: %x", status);
        *level = 2;
    }
    errno = e;
}

static void in_call(const char *what, long (*call)(void))
{
    gate here = new_gate();
    *level = 0;
    pid_t child = spawn();
    if (child == 0) {
        struct sigaction sa = { .sa_handler = forks, .sa_flags = SA_RESTART };
        MUST(sigaction(SIGUSR1, &sa, NULL));
        gate_open(here);
        pid_t me = getpid();
        long rc = call();
        int e = errno;
        say("%s, %s: %s", what, getpid() == me ? "parent" : "child", rc == -1 ? ename(e) : "ok");
        /* Each goes on with the same objects. */
        RC(SEMOP(sem, OP(0, 1, 0), OP(0, -1, 0)));
        message m;
        RC(send_text(queue, 9, "mine", 0));
        VAL(msgrcv(queue, &m, 100, 9, 0));
        fflush(stdout);
        _exit(0);
    }
    gate_wait(here);
    wait_asleep(child);
    kill(child, SIGUSR1);
    reap(child);
    VAL(*level);
    VAL(getval(sem, 1));
    VAL(ncnt(sem, 0));
}

static long take(void) { return SEMOP(sem, OP(0, -1, 0)); }
static long take_undo(void) { return SEMOP(sem, OP(1, 5, SEM_UNDO), OP(0, -1, SEM_UNDO)); }
static long receive(void)
{
    message m;
    return msgrcv(queue, &m, sizeof m.text, 0, 0);
}

static gate here;
static volatile pid_t tid;
static void leaves(int s)
{
    (void)s;
    pthread_exit("left");
}
static void cleanup(void *x)
{
    (void)x;
    /* The end of a thread may call, too. */
    MUST(SEMOP(sem, OP(2, 1, 0)));
    MUST(send_text(queue, 5, "end", 0));
}
static void *waits(void *in_queue)
{
    pthread_cleanup_push(cleanup, NULL);
    tid = gettid_();
    gate_open(here);
    if (in_queue)
        receive();
    else
        take();
    pthread_cleanup_pop(0);
    return "returned";
}

static void ends(const char *what, void *in_queue)
{
    pthread_t t;
    void *result;
    MUST(-pthread_create(&t, NULL, waits, in_queue));
    gate_wait(here);
    wait_asleep(tid);
    pthread_kill(t, SIGUSR1);
    pthread_join(t, &result);
    say("%s: %s, cleaned up: %d, waiting %d", what, (char *)result, getval(sem, 2), ncnt(sem, 0));
    message m;
    while (msgrcv(queue, &m, 100, 0, IPC_NOWAIT) != -1)
        say("left: type %ld", m.mtype);
    setval(sem, 2, 0);
    RC(SEMOP(sem, OP(0, 1, 0)));
    RC(send_text(queue, 1, "later", 0));
    VAL(getval(sem, 0));
    VAL(msgrcv(queue, &m, 100, 0, IPC_NOWAIT));
    setval(sem, 0, 0);
}

int main(void)
{
    begin();
    sem = new_sem(3);
    queue = new_msg();
    level = scratch(4096);

    pid_t child = spawn();
    if (child == 0) {
        struct sigaction sa = { .sa_handler = deeper, .sa_flags = SA_NODEFER };
        MUST(sigaction(SIGUSR1, &sa, NULL));
        RC(SEMOP(sem, OP(0, -1, 0)));
        say("level %d, made on the way back: %d %d", *level, getval(sem, 1), getval(sem, 2));
        exit(0);
    }
    for (int i = 0; i < LEVELS; i++) {
        UNTIL(*level == i);
        wait_asleep(child);
        kill(child, SIGUSR1);
    }
    reap(child);
    VAL(ncnt(sem, 0));
    setval(sem, 1, 0);
    setval(sem, 2, 0);

    in_call("semop", take);
    in_call("semop with undo", take_undo);
    in_call("msgrcv", receive);

    here = new_gate();
    struct sigaction sa = { .sa_handler = leaves };
    MUST(sigaction(SIGUSR1, &sa, NULL));
    ends("a taker", NULL);
    ends("a receiver", &queue);
    return 0;
}
