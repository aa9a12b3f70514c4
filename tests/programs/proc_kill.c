/* Processes killed at any instruction: the living go on, the sums stay right. */
#include "vt.h"

#define VICTIMS 40
#define START 4

int main(void)
{
    begin();
    int sem = new_sem(3);
    int queue = new_msg();
    int shm = new_shm(4096);
    unsigned short v[3] = { START, 100, 100 };
    MUST(semctl(sem, 0, SETALL, (union semun){ .array = v }));
    unsigned seed = 12345;
    int *alive = scratch(4096);

    /* A process that is never killed works beside them all the time. */
    int *stop = alive + 1;
    pid_t worker = spawn();
    if (worker == 0) {
        long rounds = 0;
        while (!__atomic_load_n(stop, __ATOMIC_SEQ_CST)) {
            MUST(SEMOP(sem, OP(0, -1, SEM_UNDO)));
            MUST(SEMOP(sem, OP(0, 1, SEM_UNDO)));
            rounds++;
        }
        YES(rounds > 0);
        exit(0);
    }
    for (int i = 0; i < VICTIMS; i++) {
        int before = __atomic_load_n(alive, __ATOMIC_SEQ_CST);
        pid_t pid = spawn();
        if (pid == 0) {
            __atomic_fetch_add(alive, 1, __ATOMIC_SEQ_CST);
            for (;;) {
                MUST(SEMOP(sem, OP(0, -1, SEM_UNDO)));
                MUST(SEMOP(sem, OP(1, -3, SEM_UNDO), OP(2, 3, SEM_UNDO)));
                void *p = shmat(shm, NULL, 0);
                if (p == (void *)-1)
                    die("shmat");
                MUST(SEMOP(sem, OP(2, -3, SEM_UNDO), OP(1, 3, SEM_UNDO)));
                MUST(SEMOP(sem, OP(0, 1, SEM_UNDO)));
                MUST(send_text(queue, 1, "unit", 0));
                message m;
                MUST(msgrcv(queue, &m, sizeof m.text, 1, 0));
                shmdt(p);
            }
        }
        UNTIL(__atomic_load_n(alive, __ATOMIC_SEQ_CST) == before + 1);
        seed = seed * 1103515245u + 12345u;
        struct timespec t = { 0, seed / 65536u % 3000u * 1000 };
        nanosleep(&t, NULL);
        kill_and_reap(pid);
    }
    *stop = 1;
    reap(worker);
    UNTIL(getval(sem, 0) == START && getval(sem, 1) == 100 && getval(sem, 2) == 100);
    say("values %d %d %d", getval(sem, 0), getval(sem, 1), getval(sem, 2));
    say("waiting %d %d %d", ncnt(sem, 0), ncnt(sem, 1), ncnt(sem, 2));
    struct shmid_ds ds;
    UNTIL(shmctl(shm, IPC_STAT, &ds) == 0 && ds.shm_nattch == 0);
    VAL(ds.shm_nattch);
    /* At most one message per victim is left; the queue works and empties. */
    struct msqid_ds qd;
    MUST(msgctl(queue, IPC_STAT, &qd));
    YES(qd.msg_qnum <= VICTIMS);
    message m;
    unsigned long n = 0;
    while (msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT) == 4)
        n++;
    YES(n == qd.msg_qnum);
    MUST(msgctl(queue, IPC_STAT, &qd));
    VAL(qd.__msg_cbytes);
    RC(shmctl(shm, IPC_RMID, NULL));
    RC(shmctl(shm, IPC_STAT, &ds));
    return 0;
}
