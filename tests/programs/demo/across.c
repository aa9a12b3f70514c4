/* What one VM sees of the objects that another made.
 *
 *   across make PATH FIRST   makes a segment, a set and a queue, and uses each once
 *   across look PATH FIRST   tells what it sees of them
 *   across drop PATH FIRST   removes them
 *
 * FIRST is the first of three letters for ftok. Each prints one line of name=value. */
#include "demo.h"

static key_t keys[3];

static void tell(int m, int s, int q)
{
    struct shmid_ds ms;
    struct semid_ds ss;
    struct msqid_ds qs;
    MUST(shmctl(m, IPC_STAT, &ms));
    MUST(semctl(s, 0, IPC_STAT, (union semun){.buf = &ss}));
    MUST(msgctl(q, IPC_STAT, &qs));
    printf("pid=%d keym=%d keys=%d keyq=%d idm=%d ids=%d idq=%d ", getpid(), keys[0], keys[1], keys[2], m, s, q);
    printf("cpid=%d lpid=%d sempid=%d lspid=%d lrpid=%d ", ms.shm_cpid, ms.shm_lpid,
           MUST(semctl(s, 0, GETPID)), qs.msg_lspid, qs.msg_lrpid);
    printf("uid=%u gid=%u cuid=%u cgid=%u ", ms.shm_perm.uid, ss.sem_perm.gid, qs.msg_perm.cuid,
           qs.msg_perm.cgid);
    printf("made=%ld atime=%ld otime=%ld stime=%ld rtime=%ld now=%ld\n", (long)ms.shm_ctime,
           (long)ms.shm_atime, (long)ss.sem_otime, (long)qs.msg_stime, (long)qs.msg_rtime, (long)time(NULL));
}

int main(int argc, char **argv)
{
    alarm(WATCHDOG_SECONDS);
    CHECK(argc == 4, "usage: across make|look|drop PATH FIRST");
    for (int i = 0; i < 3; i++)
        keys[i] = MUST(ftok(argv[2], argv[3][0] + i));
    int flags = strcmp(argv[1], "make") == 0 ? IPC_CREAT | IPC_EXCL | 0600 : 0;
    int m = shmget(keys[0], flags ? 4096 : 0, flags);
    if (m == -1) {
        printf("errno=%d\n", errno);
        return 0;
    }
    int s = MUST(semget(keys[1], flags ? 1 : 0, flags)), q = MUST(msgget(keys[2], flags));
    if (flags) {
        MUST(shmdt(MUST(shmat(m, NULL, 0))));
        MUST(semop(s, &(struct sembuf){0, 1, 0}, 1));
        struct { long type; char text[8]; } message = {1, ""};
        MUST(msgsnd(q, &message, 8, 0));
        MUST(msgrcv(q, &message, 8, 0, 0));
    }
    if (strcmp(argv[1], "drop") == 0) {
        MUST(shmctl(m, IPC_RMID, NULL));
        MUST(semctl(s, 0, IPC_RMID));
        MUST(msgctl(q, IPC_RMID, NULL));
        printf("dropped=1\n");
    } else {
        tell(m, s, q);
    }
    return 0;
}
