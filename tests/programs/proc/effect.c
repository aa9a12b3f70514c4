/* Each limit, lowered and met. Run in a region, or a namespace, of its own. */
#include "../vt.h"

static void limit(const char *name, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/sys/kernel/%s", name);
    FILE *f = fopen(path, "w");
    if (f == NULL || fputs(text, f) == EOF || fclose(f) == EOF)
        die("%s", name);
    say("%s <- %s", name, text);
}

int main(void)
{
    begin();
    int one = keep('s', RC(semget(IPC_PRIVATE, 3, 0600)));
    int kept = keep('m', RC(shmget(IPC_PRIVATE, 4096 * 3, 0600)));
    int queue = keep('q', RC(msgget(IPC_PRIVATE, 0600)));

    limit("sem", "2 8 2 2");
    RC(semget(IPC_PRIVATE, 3, 0600));
    keep('s', RC(semget(IPC_PRIVATE, 2, 0600)));
    RC(semget(IPC_PRIVATE, 2, 0600));
    limit("sem", "10 8 2 10");
    RC(semget(IPC_PRIVATE, 4, 0600));
    keep('s', RC(semget(IPC_PRIVATE, 3, 0600)));
    struct sembuf ops[3] = {{0, 1, 0}, {1, 1, 0}, {2, 1, 0}};
    RC(semop(one, ops, 3));
    RC(semop(one, ops, 2));
    struct seminfo si;
    semctl(0, 0, IPC_INFO, (union semun){.info = &si});
    say("semmsl %d semmns %d semopm %d semmni %d", si.semmsl, si.semmns, si.semopm, si.semmni);

    /* Below what is there: that stays, and can be found. */
    limit("shmmni", "1");
    RC(shmget(IPC_PRIVATE, 1, 0600));
    limit("shmmni", "5");
    limit("shmmax", "8191");
    RC(shmget(IPC_PRIVATE, 8192, 0600));
    int other = RC(shmget(IPC_PRIVATE, 8191, 0600));
    RC(shmctl(other, IPC_RMID, NULL));
    limit("shmall", "4");
    RC(shmget(IPC_PRIVATE, 8191, 0600));
    other = RC(shmget(IPC_PRIVATE, 4096, 0600));
    RC(shmctl(other, IPC_RMID, NULL));
    struct shminfo hi;
    shmctl(0, IPC_INFO, (struct shmid_ds *)&hi);
    say("shmmax %lu shmmin %lu shmmni %lu shmall %lu", hi.shmmax, hi.shmmin, hi.shmmni, hi.shmall);

    struct { long type; char text[100]; } m = {1, ""};
    limit("msgmax", "10");
    RC(msgsnd(queue, &m, 11, 0));
    RC(msgsnd(queue, &m, 10, 0));
    limit("msgmnb", "100");
    struct msqid_ds qs;
    RC(msgctl(queue, IPC_STAT, &qs));
    VAL(qs.msg_qbytes);
    int small = keep('q', RC(msgget(IPC_PRIVATE, 0600)));
    RC(msgctl(small, IPC_STAT, &qs));
    VAL(qs.msg_qbytes);
    limit("msgmni", "2");
    RC(msgget(IPC_PRIVATE, 0600));
    struct msginfo mi;
    msgctl(0, IPC_INFO, (struct msqid_ds *)&mi);
    say("msgmax %d msgmnb %d msgmni %d", mi.msgmax, mi.msgmnb, mi.msgmni);

    /* Indices go on however low the limit is. */
    int seen = 0;
    for (int i = 0; i < 20; i++) {
        int id = MUST(shmget(IPC_PRIVATE, 1, 0600));
        seen |= 1 << (id & 0x1f);
        MUST(shmctl(id, IPC_RMID, NULL));
    }
    VAL(__builtin_popcount((unsigned)seen));

    /* Segments that go with their last user, and those whose creator has gone. */
    limit("shmall", "1000");
    gate g = new_gate();
    pid_t child = spawn();
    if (child == 0) {
        MUST(shmget(key(9), 4096, IPC_CREAT | 0600));
        gate_open(g);
        exit(0);
    }
    gate_wait(g);
    reap(child);
    RC(shmget(key(9), 0, 0));
    int mine = RC(shmget(key(8), 4096, IPC_CREAT | 0600));
    limit("shm_rmid_forced", "1");
    RC(shmget(key(9), 0, 0));
    RC(shmget(key(8), 0, 0));
    void *at = MUST(shmat(mine, NULL, 0));
    RC(shmdt(at));
    RC(shmget(key(8), 0, 0));
    at = MUST(shmat(kept, NULL, 0));
    RC(shmdt(at));
    RC(shmctl(kept, IPC_STAT, &(struct shmid_ds){0}));
    child = spawn();
    if (child == 0) {
        MUST(shmget(key(7), 4096, IPC_CREAT | 0600));
        exit(0);
    }
    reap(child);
    RC(shmget(key(7), 0, 0));
    limit("shm_rmid_forced", "0");
    mine = keep('m', RC(shmget(key(6), 4096, IPC_CREAT | 0600)));
    at = MUST(shmat(mine, NULL, 0));
    RC(shmdt(at));
    RC(shmget(key(6), 0, 0));
    return 0;
}
