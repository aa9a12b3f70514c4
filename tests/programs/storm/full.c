/* Fills every table and the arena, and gives everything back: prints what was there, with what each
 * ended, and how long an operation takes before and afterwards. */
#include "../vt.h"

#define MOST 70000
static int segs[MOST], sets[MOST], queues[MOST];
static struct { long type; char text[8192]; } m = { .type = 1 };

/* The best of some: others use the machine. */
static long nanoseconds(int set, int queue)
{
    long best = LONG_MAX;
    for (int i = 0; i < 40; i++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int n = 0; n < 200; n++) {
            struct sembuf up = { 0, 1, SEM_UNDO }, down = { 0, -1, SEM_UNDO };
            MUST(semop(set, &up, 1));
            MUST(semop(set, &down, 1));
            MUST(msgsnd(queue, &m, 64, 0));
            MUST(msgrcv(queue, &m, 64, 0, 0));
        }
        int seg = MUST(shmget(IPC_PRIVATE, 4096, 0600));
        void *at = shmat(seg, NULL, 0);
        MUST(shmdt(at));
        MUST(shmctl(seg, IPC_RMID, NULL));
        clock_gettime(CLOCK_MONOTONIC, &b);
        long took = (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
        if (took < best)
            best = took;
    }
    return best;
}

int main(void)
{
    begin();
    int set = MUST(semget(IPC_PRIVATE, 1, 0600)), queue = MUST(msgget(IPC_PRIVATE, 0600));
    printf("before %ld\n", nanoseconds(set, queue));
    for (int round = 0; round < 3; round++) {
        int s = 0, t = 0, q = 0, sent = 0, undone = 0, id;
        while ((id = semget(IPC_PRIVATE, 1 + t % 40, 0600)) != -1)
            sets[t++] = id;
        printf("sets %d %s\n", t, ename(errno));
        while ((id = msgget(IPC_PRIVATE, 0600)) != -1)
            queues[q++] = id;
        printf("queues %d %s\n", q, ename(errno));
        /* Undo records, one for each set. */
        struct sembuf up = { 0, 1, SEM_UNDO };
        while (undone < t && semop(sets[undone], &up, 1) == 0)
            undone++;
        printf("undo %d %s\n", undone, undone < t ? ename(errno) : "all");
        /* One page each, until the table is full; then larger ones, until the pages are. */
        while ((id = shmget(IPC_PRIVATE, round ? 1 << 20 : 4096, 0600)) != -1)
            segs[s++] = id;
        printf("segments %d %s\n", s, ename(errno));
        for (int i = 0; i < q; i++)
            while (msgsnd(queues[i], &m, sizeof m.text, IPC_NOWAIT) == 0)
                sent++;
        printf("messages %d %s\n", sent, ename(errno));
        /* What was there before goes on. */
        struct sembuf down = { 0, -1, 0 };
        up.sem_flg = 0;
        MUST(semop(set, &up, 1));
        MUST(semop(set, &down, 1));
        fflush(stdout);
        while (s)
            MUST(shmctl(segs[--s], IPC_RMID, NULL));
        while (t)
            MUST(semctl(sets[--t], 0, IPC_RMID));
        while (q)
            MUST(msgctl(queues[--q], IPC_RMID, NULL));
    }
    printf("after %ld\n", nanoseconds(set, queue));
    MUST(semctl(set, 0, IPC_RMID));
    MUST(msgctl(queue, IPC_RMID, NULL));
    return 0;
}
