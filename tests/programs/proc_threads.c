/* Threads of one process hammer one set and one queue. */
#include "vt.h"

#define THREADS 8
#define ROUNDS 3000

static int sem, queue;
static long counter;

static void *add(void *n)
{
    for (int i = 0; i < ROUNDS; i++) {
        int undo = (i + (int)(intptr_t)n) % 2 ? SEM_UNDO : 0;
        MUST(SEMOP(sem, OP(0, -1, undo)));
        counter++;
        MUST(SEMOP(sem, OP(0, 1, undo)));
    }
    return NULL;
}

static void *send_many(void *n)
{
    struct { long mtype; long value; } m = { .mtype = 1 + (intptr_t)n % 3 };
    for (long i = 0; i < ROUNDS; i++) {
        m.value = (intptr_t)n * ROUNDS + i;
        MUST(msgsnd(queue, &m, sizeof m.value, 0));
    }
    return NULL;
}

static void *receive_many(void *sum)
{
    struct { long mtype; long value; } m;
    for (long i = 0; i < ROUNDS; i++) {
        MUST(msgrcv(queue, &m, sizeof m.value, 0, 0));
        *(long *)sum += m.value;
    }
    return NULL;
}

int main(void)
{
    begin();
    sem = new_sem(1);
    queue = new_msg();
    setval(sem, 0, 1);
    pthread_t t[2 * THREADS];
    for (intptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&t[i], NULL, add, (void *)i))
            die("pthread_create");
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    VAL(counter);
    VAL(getval(sem, 0));
    VAL(ncnt(sem, 0));

    static long sums[THREADS];
    for (intptr_t i = 0; i < THREADS; i++) {
        if (pthread_create(&t[i], NULL, send_many, (void *)i) ||
            pthread_create(&t[THREADS + i], NULL, receive_many, &sums[i]))
            die("pthread_create");
    }
    for (int i = 0; i < 2 * THREADS; i++)
        pthread_join(t[i], NULL);
    long sum = 0, n = (long)THREADS * ROUNDS;
    for (int i = 0; i < THREADS; i++)
        sum += sums[i];
    YES(sum == n * (n - 1) / 2);
    struct msqid_ds ds;
    RC(msgctl(queue, IPC_STAT, &ds));
    VAL(ds.msg_qnum);
    VAL(ds.__msg_cbytes);
    return 0;
}
