/* As many objects as Linux lets there be by default, all at once, and one more. */
#include "../vt.h"

#define MOST 33000
static int ids[MOST];

int main(void)
{
    begin();
    for (int round = 0; round < 2; round++) {
        int sets = 0, queues = 0, segs = 0, id;
        while ((id = semget(IPC_PRIVATE, 1, 0600)) != -1 && sets < MOST)
            ids[sets++] = id;
        say("%d sets, then %s", sets, ename(errno));
        int sems[2] = {ids[0], ids[sets - 1]};
        struct sembuf up = {0, 1, 0};
        RC(semop(sems[0], &up, 1));
        RC(semop(sems[1], &up, 1));
        while ((id = msgget(IPC_PRIVATE, 0600)) != -1 && queues < MOST)
            queues++;
        say("%d queues, then %s", queues, ename(errno));
        while ((id = shmget(IPC_PRIVATE, 4096, 0600)) != -1 && segs < MOST)
            segs++;
        say("%d segments, then %s", segs, ename(errno));
        struct seminfo si;
        struct shm_info hi;
        struct msginfo mi;
        int last = semctl(0, 0, SEM_INFO, (union semun){.info = &si});
        say("%d sets, %d semaphores, index %d", si.semusz, si.semaem, last);
        last = shmctl(0, SHM_INFO, (struct shmid_ds *)&hi);
        say("%d segments, %lu pages, index %d", hi.used_ids, hi.shm_tot, last);
        last = msgctl(0, MSG_INFO, (struct msqid_ds *)&mi);
        say("%d queues, index %d", mi.msgpool, last);
        /* By index: those made by others are not here. */
        for (int i = 0; i < MOST; i++) {
            struct semid_ds ss;
            struct shmid_ds ms;
            struct msqid_ds qs;
            if ((id = semctl(i, 0, SEM_STAT, (union semun){.buf = &ss})) != -1)
                MUST(semctl(id, 0, IPC_RMID));
            if ((id = shmctl(i, SHM_STAT, &ms)) != -1)
                MUST(shmctl(id, IPC_RMID, NULL));
            if ((id = msgctl(i, MSG_STAT, &qs)) != -1)
                MUST(msgctl(id, IPC_RMID, NULL));
        }
        RC(semop(sems[0], &up, 1));
        last = semctl(0, 0, SEM_INFO, (union semun){.info = &si});
        say("%d sets, %d semaphores, index %d", si.semusz, si.semaem, last);
        shmctl(0, SHM_INFO, (struct shmid_ds *)&hi);
        say("%d segments, %lu pages", hi.used_ids, hi.shm_tot);
        msgctl(0, MSG_INFO, (struct msqid_ds *)&mi);
        say("%d queues", mi.msgpool);
    }
    return 0;
}
