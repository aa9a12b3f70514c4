/* A segment over fork: shared data, nattch and the last pid at every step. */
#include "vt.h"

static int id;
static struct shmid_ds ds;
static int nattch(void)
{
    MUST(shmctl(id, IPC_STAT, &ds));
    return (int)ds.shm_nattch;
}

int main(void)
{
    begin();
    id = new_shm(8192);
    VAL(nattch());
    volatile int *p = shmat(id, NULL, 0);
    VAL(nattch());
    YES(ds.shm_lpid == getpid());
    volatile int *p2 = shmat(id, NULL, SHM_RDONLY);
    VAL(nattch());

    gate here = new_gate(), leave = new_gate();
    p[0] = 1;
    pid_t child = spawn();
    if (child == 0) {
        p[1] = p[0] + 41;
        YES(p2[1] == 42);
        VAL(nattch());
        gate_open(here);
        gate_wait(leave);
        exit(0);
    }
    gate_wait(here);
    VAL(p[1]);
    VAL(nattch());
    gate_open(leave);
    reap(child);
    VAL(nattch());
    YES(ds.shm_lpid == child);

    /* A child that detaches one of two. */
    child = spawn();
    if (child == 0) {
        RC(shmdt((void *)p2));
        p[2] = 7;
        gate_open(here);
        gate_wait(leave);
        exit(0);
    }
    gate_wait(here);
    VAL(nattch());
    YES(ds.shm_lpid == child);
    VAL(p2[2]);
    gate_open(leave);
    reap(child);
    VAL(nattch());

    /* Killed, nothing is left behind. */
    child = spawn();
    if (child == 0) {
        if (shmat(id, NULL, 0) == (void *)-1)
            die("shmat");
        gate_open(here);
        for (;;)
            pause();
    }
    gate_wait(here);
    VAL(nattch());
    kill_and_reap(child);
    UNTIL(nattch() == 2);
    VAL(nattch());
    YES(ds.shm_lpid == child);

    /* Grandchildren, several at once. */
    pid_t kids[5];
    for (int i = 0; i < 5; i++) {
        kids[i] = spawn();
        if (kids[i] == 0) {
            IN_CHILD(p[10 + i] = nattch() >= 4);
            gate_open(here);
            for (;;)
                pause();
        }
    }
    for (int i = 0; i < 5; i++)
        gate_wait(here);
    UNTIL(nattch() == 12);
    VAL(nattch());
    for (int i = 0; i < 5; i++) {
        VAL(p[10 + i]);
        kill_and_reap(kids[i]);
    }
    UNTIL(nattch() == 2);
    VAL(nattch());

    /* A child that leaves by _exit. */
    child = spawn();
    if (child == 0)
        _exit(0);
    reap(child);
    VAL(nattch());
    RC(shmdt((void *)p));
    RC(shmdt((void *)p2));
    VAL(nattch());
    YES(ds.shm_lpid == getpid());
    return 0;
}
