/* A stop and continuation: every thread that waits in semop gets EINTR, those
 * in msgrcv and msgsnd go on waiting; with a handler of SIGCONT's as without.
 *
 * Not when trapped: now and then the stopped process of several threads ends instead of going
 * on; why is not known yet. */
#include "vt.h"

#define TAKERS 5
#define RECEIVERS 3
static int sem, queue;
static volatile int *tids;

static void *takes(void *n)
{
    ((int *)tids)[(long)n] = gettid_();
    long rc = SEMOP(sem, OP(0, -1, 0));
    int e = errno;
    MUST(SEMOP(sem, OP(rc == -1 && e == EINTR ? 1 : 2, 1, 0)));
    return NULL;
}

static void *receives(void *n)
{
    ((int *)tids)[(long)n] = gettid_();
    message m;
    long rc = msgrcv(queue, &m, 100, 0, 0);
    MUST(SEMOP(sem, OP(rc == -1 ? 4 : 3, 1, 0)));
    return NULL;
}

static void round_(const char *what, int handles)
{
    int status;
    memset((void *)tids, 0, 4096);
    pid_t child = spawn();
    if (child == 0) {
        pthread_t t[TAKERS + RECEIVERS];
        if (handles) {
            /* Its handler runs in the first thread, which waits elsewhere. */
            catch_signal(SIGCONT, SA_RESTART);
            sigset_t cont;
            sigemptyset(&cont);
            sigaddset(&cont, SIGCONT);
            pthread_sigmask(SIG_BLOCK, &cont, NULL);
        }
        for (long i = 0; i < TAKERS; i++)
            MUST(-pthread_create(&t[i], NULL, takes, (void *)i));
        for (long i = 0; i < RECEIVERS; i++)
            MUST(-pthread_create(&t[TAKERS + i], NULL, receives, (void *)(TAKERS + i)));
        if (handles) {
            sigset_t none;
            sigemptyset(&none);
            pthread_sigmask(SIG_SETMASK, &none, NULL);
        }
        for (int i = 0; i < TAKERS + RECEIVERS; i++)
            pthread_join(t[i], NULL);
        say("  handler ran: %d", (int)signals_seen);
        exit(0);
    }
    say("%s", what);
    UNTIL(ncnt(sem, 0) == TAKERS);
    for (int i = 0; i < TAKERS + RECEIVERS; i++) {
        UNTIL(tids[i] != 0);
        wait_asleep(tids[i]);
    }
    kill(child, SIGSTOP);
    MUST(waitpid(child, &status, WUNTRACED));
    YES(WIFSTOPPED(status));
    kill(child, SIGCONT);
    UNTIL(getval(sem, 1) + getval(sem, 2) == TAKERS);
    say("  interrupted %d, not %d, waiting %d", getval(sem, 1), getval(sem, 2), ncnt(sem, 0));
    for (int i = 0; i < RECEIVERS; i++)
        wait_asleep(tids[TAKERS + i]);
    for (int i = 0; i < RECEIVERS; i++)
        MUST(send_text(queue, 1, "x", 0));
    reap(child);
    say("  received %d, not %d", getval(sem, 3), getval(sem, 4));
    for (int i = 0; i < 5; i++)
        MUST(setval(sem, i, 0));
}

int main(void)
{
    begin();
    sem = new_sem(5);
    queue = new_msg();
    tids = scratch(4096);
    round_("nothing set", 0);
    round_("a handler", 1);
    return 0;
}
