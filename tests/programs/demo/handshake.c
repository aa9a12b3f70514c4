/* Two processes meet: `handshake a PATH` makes a segment, a semaphore set and
 * a queue under ftok(PATH), `handshake b PATH` finds them. Each checks every
 * byte that the other wrote, and both count in the segment under a semaphore. */
#include "demo.h"

#define BYTES (256 * 1024)
#define ROUNDS 20000

struct shared {
    volatile uint64_t counter, sum;
    unsigned char data[BYTES];
};
struct note { long mtype; struct { char text[24]; uint64_t checksum; } body; };

static unsigned char byte(char role, size_t i) { return (unsigned char)(i * 131 + (i >> 8) * 7 + (size_t)role); }

static uint64_t checksum(const unsigned char *p)
{
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < BYTES; i++)
        h = (h ^ p[i]) * 1099511628211u;
    return h;
}

static void check_bytes(const struct shared *s, char writer)
{
    for (size_t i = 0; i < BYTES; i++)
        CHECK(s->data[i] == byte(writer, i), "byte %zu written by %c is wrong", i, writer);
}

static void write_bytes(struct shared *s, char writer)
{
    for (size_t i = 0; i < BYTES; i++)
        s->data[i] = byte(writer, i);
}

static void tell(int queue, long type, const char *text, const struct shared *s)
{
    struct note n = { .mtype = type };
    snprintf(n.body.text, sizeof n.body.text, "%s", text);
    n.body.checksum = checksum(s->data);
    MUST(msgsnd(queue, &n, sizeof n.body, 0));
}

static void hear(int queue, long type, const char *text, const struct shared *s)
{
    struct note n;
    ssize_t size = MUST(msgrcv(queue, &n, sizeof n.body, type, 0));
    CHECK(size == sizeof n.body && strcmp(n.body.text, text) == 0, "expected '%s' from the queue", text);
    CHECK(n.body.checksum == checksum(s->data), "the checksum sent with '%s' does not fit the segment", text);
}

/* Adds ROUNDS times under semaphore 0. */
static void count(int set, struct shared *s)
{
    for (int i = 0; i < ROUNDS; i++) {
        MUST(up(set, 0, -1));
        s->counter++;
        s->sum += s->counter;
        MUST(up(set, 0, 1));
    }
}

int main(int argc, char **argv)
{
    if (argc != 3 || (strcmp(argv[1], "a") && strcmp(argv[1], "b"))) {
        fprintf(stderr, "usage: handshake a|b PATH\n");
        return 2;
    }
    begin();
    char me = argv[1][0];
    key_t key = MUST(ftok(argv[2], 'h'));
    int shm, set, queue;
    struct shared *s;
    if (me == 'a') {
        remove_old(key);
        shm = MUST(shmget(key, sizeof *s, IPC_CREAT | IPC_EXCL | 0600));
        queue = MUST(msgget(key, IPC_CREAT | IPC_EXCL | 0600));
        s = MUST(shmat(shm, NULL, 0));
        write_bytes(s, 'a');
        set = MUST(semget(key, 2, IPC_CREAT | IPC_EXCL | 0600));
        MUST(up(set, 0, 1));
        hear(queue, 1, "b is here", s);
        check_bytes(s, 'b');
        tell(queue, 2, "a has read", s);
    } else {
        set = wait_for_set(key);
        shm = MUST(shmget(key, 0, 0));
        queue = MUST(msgget(key, 0));
        s = MUST(shmat(shm, NULL, 0));
        check_bytes(s, 'a');
        write_bytes(s, 'b');
        tell(queue, 1, "b is here", s);
        hear(queue, 2, "a has read", s);
    }
    count(set, s);
    /* Each says that it is done on semaphore 1 and waits for the other. */
    MUST(up(set, 1, 1));
    struct sembuf both[] = { { 1, -2, 0 }, { 1, 2, 0 } };
    MUST(semop(set, both, 2));
    uint64_t n = 2 * ROUNDS;
    CHECK(s->counter == n, "the counter is %lu, not %lu", (unsigned long)s->counter, (unsigned long)n);
    CHECK(s->sum == n * (n + 1) / 2, "the sum of all counts is wrong");
    struct shmid_ds sd;
    struct msqid_ds qd;
    MUST(shmctl(shm, IPC_STAT, &sd));
    MUST(msgctl(queue, IPC_STAT, &qd));
    CHECK(sd.shm_segsz == sizeof *s, "the segment has another size");
    CHECK(sd.shm_nattch == 2 || me == 'a', "%lu attached, not 2", (unsigned long)sd.shm_nattch);
    CHECK(qd.msg_qnum == 0, "%lu messages are left", (unsigned long)qd.msg_qnum);
    if (me == 'b') {
        MUST(up(set, 1, 1));
        await_removal(set);
    } else {
        MUST(up(set, 1, -3));
        MUST(shmctl(shm, IPC_RMID, NULL));
        MUST(semctl(set, 0, IPC_RMID));
        MUST(msgctl(queue, IPC_RMID, NULL));
    }
    MUST(shmdt(s));
    printf("{\"test\":\"handshake\",\"role\":\"%c\",\"bytes\":%d,\"counter\":%lu}\n", me, 2 * BYTES, (unsigned long)n);
    return 0;
}
