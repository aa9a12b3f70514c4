/* Threads share one list of adjustments; it is used when the last one ends. */
#include "vt.h"

static int id;

static void *take(void *n)
{
    MUST(SEMOP(id, OP(0, -1, SEM_UNDO), OP((int)(intptr_t)n, 1, SEM_UNDO)));
    return NULL;
}

static void *give(void *n)
{
    (void)n;
    MUST(SEMOP(id, OP(0, 1, SEM_UNDO)));
    return NULL;
}

int main(void)
{
    begin();
    id = new_sem(9);
    setval(id, 0, 20);
    pid_t child = spawn();
    if (child == 0) {
        pthread_t t[8];
        for (int i = 0; i < 8; i++)
            pthread_create(&t[i], NULL, take, (void *)(intptr_t)(i + 1));
        for (int i = 0; i < 8; i++)
            pthread_join(t[i], NULL);
        /* Those threads are gone, the process is not. */
        VAL(getval(id, 0));
        VAL(getval(id, 8));
        /* Another thread gives back what they took. */
        pthread_create(&t[0], NULL, give, NULL);
        pthread_join(t[0], NULL);
        VAL(getval(id, 0));
        exit(0);
    }
    reap(child);
    for (int i = 0; i < 9; i++)
        say("value %d: %d", i, getval(id, i));

    /* The first thread leaves, another lives on. */
    gate here = new_gate(), leave = new_gate();
    child = spawn();
    if (child == 0) {
        MUST(SEMOP(id, OP(0, -5, SEM_UNDO)));
        gate_open(here);
        gate_wait(leave);
        kill(getpid(), SIGKILL);
    }
    gate_wait(here);
    VAL(getval(id, 0));
    gate_open(leave);
    reap(child);
    UNTIL(getval(id, 0) == 20);
    VAL(getval(id, 0));
    return 0;
}
