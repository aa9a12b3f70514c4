/* Producers and consumers over one queue: every message once, in order, whole. */
#include "vt.h"

#define PRODUCERS 3
#define CONSUMERS 3
#define MESSAGES 2000

struct body { int producer; int number; unsigned sum; unsigned char data[500]; };
struct packet { long mtype; struct body body; };

static unsigned sum_of(const struct body *b, size_t n)
{
    unsigned s = (unsigned)b->producer * 7919u + (unsigned)b->number;
    for (size_t i = 0; i < n; i++)
        s = s * 31 + b->data[i];
    return s;
}

static size_t size_of(int number) { return (size_t)(number * 37 % 500); }

int main(void)
{
    begin();
    int id = keep('q', MUST(msgget(key(1), IPC_CREAT | 0600)));
    struct { unsigned char seen[PRODUCERS][MESSAGES]; int bad, late; } *t = scratch(sizeof *t);
    pid_t pid[PRODUCERS + CONSUMERS];
    size_t head = offsetof(struct body, data);
    for (int c = 0; c < CONSUMERS; c++) {
        pid[PRODUCERS + c] = spawn();
        if (pid[PRODUCERS + c] == 0) {
            int last[PRODUCERS] = { -1, -1, -1 };
            for (;;) {
                struct packet p;
                ssize_t n = MUST(msgrcv(id, &p, sizeof p.body, -100, 0));
                if (p.mtype == 100)
                    exit(0);
                struct body *b = &p.body;
                if ((size_t)n != head + size_of(b->number) || b->sum != sum_of(b, size_of(b->number)))
                    __atomic_fetch_add(&t->bad, 1, __ATOMIC_SEQ_CST);
                else {
                    __atomic_fetch_add(&t->seen[b->producer][b->number], 1, __ATOMIC_SEQ_CST);
                    if (b->number <= last[b->producer])
                        __atomic_fetch_add(&t->late, 1, __ATOMIC_SEQ_CST);
                    last[b->producer] = b->number;
                }
            }
        }
    }
    for (int i = 0; i < PRODUCERS; i++) {
        pid[i] = spawn();
        if (pid[i] == 0) {
            struct packet p = { .mtype = i + 1, .body = { .producer = i } };
            for (int n = 0; n < MESSAGES; n++) {
                p.body.number = n;
                for (size_t k = 0; k < size_of(n); k++)
                    p.body.data[k] = (unsigned char)(k * (size_t)n + (size_t)i);
                p.body.sum = sum_of(&p.body, size_of(n));
                MUST(msgsnd(id, &p, head + size_of(n), 0));
            }
            exit(0);
        }
    }
    for (int i = 0; i < PRODUCERS; i++)
        reap(pid[i]);
    for (int c = 0; c < CONSUMERS; c++) {
        struct packet end = { .mtype = 100 };
        MUST(msgsnd(id, &end, 0, 0));
    }
    for (int c = 0; c < CONSUMERS; c++)
        reap(pid[PRODUCERS + c]);
    int once = 0;
    for (int i = 0; i < PRODUCERS; i++)
        for (int n = 0; n < MESSAGES; n++)
            once += t->seen[i][n] == 1;
    VAL(once);
    VAL(t->bad);
    VAL(t->late);
    return 0;
}
