/* Many objects at once: each is found by its key, none is mistaken for another. */
#include "vt.h"

#define COUNT 500

int main(void)
{
    begin();
    static int sem[COUNT], msg[COUNT], shm[COUNT];
    /* Keys of this program alone: the low byte is not enough for 500. */
    key_t base = key(0) * 4;
    for (int i = 0; i < COUNT; i++) {
        sem[i] = keep('s', MUST(semget(base + i, 1 + i % 4, IPC_CREAT | IPC_EXCL | 0600)));
        msg[i] = keep('q', MUST(msgget(base + i, IPC_CREAT | IPC_EXCL | 0600)));
        shm[i] = keep('m', MUST(shmget(base + i, 1 + (size_t)i, IPC_CREAT | IPC_EXCL | 0600)));
        MUST(setval(sem[i], i % 4, i));
        char text[16];
        snprintf(text, sizeof text, "%d", i);
        MUST(send_text(msg[i], 1 + i, text, 0));
    }
    int right = 0;
    for (int i = COUNT - 1; i >= 0; i--) {
        struct shmid_ds sd;
        struct msqid_ds qd;
        struct semid_ds ed;
        right += semget(base + i, 0, 0) == sem[i] && getval(sem[i], i % 4) == i;
        right += msgget(base + i, 0) == msg[i] && msgctl(msg[i], IPC_STAT, &qd) == 0 && qd.msg_qnum == 1;
        right += shmget(base + i, 0, 0) == shm[i] && shmctl(shm[i], IPC_STAT, &sd) == 0 && sd.shm_segsz == 1 + (size_t)i;
        right += semctl(sem[i], 0, IPC_STAT, (union semun){ .buf = &ed }) == 0 && ed.sem_nsems == 1 + (unsigned)i % 4;
    }
    VAL(right);
    int distinct = 1;
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < i; j++)
            distinct &= sem[i] != sem[j] && msg[i] != msg[j] && shm[i] != shm[j];
    VAL(distinct);

    /* Every other one goes; the rest is untouched; the gaps are used again. */
    for (int i = 0; i < COUNT; i += 2) {
        MUST(semctl(sem[i], 0, IPC_RMID));
        MUST(msgctl(msg[i], IPC_RMID, NULL));
        MUST(shmctl(shm[i], IPC_RMID, NULL));
    }
    int gone = 0, there = 0, stale = 0;
    for (int i = 0; i < COUNT; i++) {
        int found = (semget(base + i, 0, 0) == sem[i]) + (msgget(base + i, 0) == msg[i]) + (shmget(base + i, 0, 0) == shm[i]);
        gone += found == 0;
        there += found == 3;
    }
    VAL(gone);
    VAL(there);
    for (int i = 0; i < COUNT; i += 2) {
        int old = sem[i];
        sem[i] = keep('s', MUST(semget(base + i, 1, IPC_CREAT | IPC_EXCL | 0600)));
        stale += getval(old, 0) == -1 && errno == EINVAL && getval(sem[i], 0) == 0;
    }
    VAL(stale);
    for (int i = 1; i < COUNT; i += 2) {
        message m;
        if (msgrcv(msg[i], &m, sizeof m.text, 0, IPC_NOWAIT) == -1 || m.mtype != 1 + i || atoi(m.text) != i)
            say("queue %d holds something else", i);
        if (getval(sem[i], i % 4) != i)
            say("set %d holds something else", i);
    }
    return 0;
}
