/* Takes all the memory there is, looks at how each call says so, gives it back,
 * and finds that everything works again. */
#include "demo.h"

#define MANY 100000
#define BIG (1 << 20)

static int ids[MANY];

/* Segments of this size until there is no more; how many. */
static int take_all(int *into, size_t size)
{
    int n = 0;
    while (into + n < ids + MANY && (into[n] = shmget(IPC_PRIVATE, size, IPC_CREAT | 0600)) != -1)
        n++;
    CHECK(errno == ENOSPC || errno == ENOMEM, "shmget on a full region: errno %d", errno);
    return n;
}

int main(void)
{
    struct { long mtype; char text[4000]; } big = { .mtype = 1, .text = "kept" };
    begin();
    int queue = MUST(msgget(IPC_PRIVATE, IPC_CREAT | 0600));
    MUST(msgsnd(queue, &big, sizeof big.text, 0));
    int n = take_all(ids, BIG);
    n += take_all(ids + n, 4096);
    CHECK(n > 0, "not one segment");
    /* A little is left of what others had before, and then there is none of that either. */
    static int sets[1000];
    int made = 0;
    while (made < 1000 && (sets[made] = semget(IPC_PRIVATE, 2000, IPC_CREAT | 0600)) != -1)
        made++;
    CHECK(errno == ENOMEM || errno == ENOSPC, "semget on a full region: errno %d", errno);
    /* A message may still fit where no segment does; the queue has its own limit. */
    int sent = 1;
    while (sent < 100 && msgsnd(queue, &big, sizeof big.text, IPC_NOWAIT) == 0)
        sent++;
    CHECK(errno == ENOMEM || errno == EAGAIN, "msgsnd on a full region: errno %d", errno);
    memset(&big, 0, sizeof big);
    while (sent-- > 0)
        CHECK(MUST(msgrcv(queue, &big, sizeof big.text, 0, 0)) == sizeof big.text && !strcmp(big.text, "kept"),
              "a message is another");

    while (made > 0)
        MUST(semctl(sets[--made], 0, IPC_RMID));
    for (int i = 0; i < n; i++)
        MUST(shmctl(ids[i], IPC_RMID, NULL));
    int set = MUST(semget(IPC_PRIVATE, 2000, IPC_CREAT | 0600));
    int again = take_all(ids, BIG);
    CHECK(again > 0, "nothing came back");
    unsigned char *p = MUST(shmat(ids[0], NULL, 0));
    for (int i = 0; i < BIG; i++)
        CHECK(p[i] == 0, "byte %d was not cleared", i);
    MUST(shmdt(p));
    while (again > 0)
        MUST(shmctl(ids[--again], IPC_RMID, NULL));
    MUST(semctl(set, 0, IPC_RMID));
    MUST(msgctl(queue, IPC_RMID, NULL));
    printf("{\"test\":\"fill\",\"segments\":%d}\n", n);
    return 0;
}
