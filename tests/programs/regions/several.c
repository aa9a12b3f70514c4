/* One process with objects in two regions and in the kernel. The test runs it
 * with 0x1000-0x1fff to one region, 0x2000-0x2fff to another, messages without
 * a key to the first, and everything else to the kernel. */
#include "../vt.h"

#define CREATE (IPC_CREAT | IPC_EXCL | 0600)

/* An id of a region has bit 30, and the region's number above its sequence. */
static int region(int id) { return id & 1 << 30 ? id >> 27 & 7 : -1; }

static int nattch(int id)
{
    struct shmid_ds ds;
    MUST(shmctl(id, IPC_STAT, &ds));
    return (int)ds.shm_nattch;
}

static volatile sig_atomic_t from_handler;
static int other_set;

/* In the middle of a call for one region, a call for the other. */
static void use_other(int sig)
{
    (void)sig;
    from_handler = SEMOP(other_set, OP(0, 1, 0));
}

int main(void)
{
    begin();
    int sets[2] = { keep('s', MUST(semget(0x1001, 2, CREATE))), keep('s', MUST(semget(0x2001, 2, CREATE))) };
    int shms[2] = { keep('m', MUST(shmget(0x1001, 8192, CREATE))), keep('m', MUST(shmget(0x2001, 8192, CREATE))) };
    int queues[2] = { keep('q', MUST(msgget(IPC_PRIVATE, 0600))), keep('q', MUST(msgget(0x2001, CREATE))) };
    int local = keep('s', MUST(semget(0x3001, 1, CREATE)));
    int private = new_sem(1);

    say("numbers: %d %d %d %d %d %d", region(sets[0]), region(sets[1]), region(shms[0]), region(shms[1]),
        region(queues[0]), region(queues[1]));
    say("local: %d %d", region(local), region(private));
    YES(semget(0x1001, 0, 0) == sets[0]);
    YES(semget(0x2001, 0, 0) == sets[1]);
    YES(semget(0x3001, 0, 0) == local);
    YES(shmget(0x3001, 0, 0) == -1 && errno == ENOENT);
    RC(semget(0x2001, 0, IPC_CREAT | IPC_EXCL));

    /* Each call finds its region. */
    RC(SEMOP(sets[0], OP(0, 5, 0)));
    RC(SEMOP(sets[1], OP(0, 7, 0), OP(1, 1, SEM_UNDO)));
    RC(SEMOP(local, OP(0, 9, 0)));
    say("values: %d %d %d", getval(sets[0], 0), getval(sets[1], 0), getval(local, 0));
    RC(send_text(queues[0], 3, "first", 0));
    RC(send_text(queues[1], 4, "second", 0));
    recv_text("from the second", queues[1], 100, 0, IPC_NOWAIT);
    recv_text("from the first", queues[0], 100, 0, IPC_NOWAIT);
    /* Numbers that no region has. */
    RC(getval(1 << 30 | 5 << 27, 0));
    RC(SEMOP(1 << 30 | 5 << 27, OP(0, 1, 0)));
    RC(shmctl(-1, IPC_RMID, NULL));
    /* Everything without a rule is in the kernel, and so are calls without an object. */
    struct semid_ds ds;
    YES(semctl(local & 0x7fff, 0, SEM_STAT, (union semun){ .buf = &ds }) == local);
    YES(ds.sem_perm.__key == 0x3001);

    /* Attached in both, and inherited in both. */
    volatile int *a = shmat(shms[0], NULL, 0), *b = shmat(shms[1], NULL, 0);
    a[0] = 1;
    b[0] = 2;
    gate here = new_gate(), go = new_gate();
    pid_t child = spawn();
    if (child == 0) {
        say("child reads: %d %d", a[0], b[0]);
        a[1] = b[0] * 10;
        b[1] = a[0] * 10;
        YES(SEMOP(sets[0], OP(1, 3, SEM_UNDO)) == 0 && SEMOP(sets[1], OP(1, 4, SEM_UNDO)) == 0);
        gate_open(here);
        gate_wait(go);
        RC(SEMOP(sets[0], OP(0, -100, 0)));
        exit(0);
    }
    gate_wait(here);
    say("attached: %d %d", nattch(shms[0]), nattch(shms[1]));
    say("child wrote: %d %d", a[1], b[1]);
    say("undo to come: %d %d", getval(sets[0], 1), getval(sets[1], 1));
    gate_open(go);
    UNTIL(ncnt(sets[0], 0) == 1);
    /* Killed asleep in one region, it leaves both. */
    kill_and_reap(child);
    say("undone: %d %d", getval(sets[0], 1), getval(sets[1], 1));
    say("attached: %d %d", nattch(shms[0]), nattch(shms[1]));
    say("waiting: %d", ncnt(sets[0], 0));

    /* One that leaves in order does too, and its children have nothing to undo. */
    child = spawn();
    if (child == 0) {
        RC(SEMOP(sets[0], OP(1, 3, SEM_UNDO)));
        RC(SEMOP(sets[1], OP(1, 4, SEM_UNDO)));
        RC(shmdt((void *)a));
        say("attached in the child: %d %d", nattch(shms[0]), nattch(shms[1]));
        exit(0);
    }
    reap(child);
    say("undone: %d %d", getval(sets[0], 1), getval(sets[1], 1));
    say("attached: %d %d", nattch(shms[0]), nattch(shms[1]));

    /* Two processes, each asleep in one region and woken by way of it. */
    pid_t sleepers[2];
    for (int i = 0; i < 2; i++) {
        sleepers[i] = spawn();
        if (sleepers[i] == 0) {
            say("sleeper %d: %s", i, SEMOP(sets[i], OP(1, -2, 0)) ? ename(errno) : "woken");
            exit(0);
        }
    }
    for (int i = 0; i < 2; i++)
        UNTIL(ncnt(sets[i], 1) == 1);
    for (int i = 1; i >= 0; i--)
        RC(SEMOP(sets[i], OP(1, 2, 0)));
    for (int i = 0; i < 2; i++)
        reap(sleepers[i]);

    /* A handler that uses the other region than the call it interrupts. */
    other_set = sets[1];
    struct sigaction sa = { .sa_handler = use_other, .sa_flags = SA_RESTART };
    MUST(sigaction(SIGUSR1, &sa, NULL));
    from_handler = -1;
    int before = getval(sets[1], 0);
    child = spawn();
    if (child == 0) {
        UNTIL(ncnt(sets[0], 0) == 1);
        kill(getppid(), SIGUSR1);
        exit(0);
    }
    RC(SEMOP(sets[0], OP(0, -100, 0)));
    reap(child);
    say("the handler's call: %d, value %+d", from_handler, getval(sets[1], 0) - before);

    /* A segment of one region over one of the other. */
    void *at = (void *)a;
    YES(shmat(shms[1], at, SHM_REMAP) == at);
    say("remapped: %d %d, reads %d", nattch(shms[0]), nattch(shms[1]), a[0]);
    RC(shmdt(at));
    RC(shmdt(at));
    MUST(munmap((void *)b, 8192));
    say("unmapped: %d %d", nattch(shms[0]), nattch(shms[1]));

    /* Removed in one, the other's go on. */
    RC(semctl(sets[0], 0, IPC_RMID));
    RC(getval(sets[0], 0));
    VAL(getval(sets[1], 0));
    return 0;
}
