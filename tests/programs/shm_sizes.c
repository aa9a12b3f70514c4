/* Many segments at once and one larger one; no byte of one shows in another. */
#include "vt.h"

#define COUNT 64

static unsigned char pattern(int seg, size_t i) { return (unsigned char)(seg * 37 + i * 11 + (i >> 8)); }

int main(void)
{
    begin();
    static int id[COUNT];
    static unsigned char *at[COUNT];
    static size_t size[COUNT];
    for (int s = 0; s < COUNT; s++) {
        size[s] = (size_t)(s * 797 + 1);
        id[s] = new_shm(size[s]);
        at[s] = shmat(id[s], NULL, 0);
        if (at[s] == (void *)-1)
            die("shmat");
        for (size_t i = 0; i < size[s]; i++)
            at[s][i] = pattern(s, i);
    }
    /* Another process finds each as it was written, and turns every bit. */
    IN_CHILD(
        size_t wrong = 0;
        for (int s = 0; s < COUNT; s++) {
            unsigned char *mine = shmat(id[s], NULL, 0);
            if (mine == (void *)-1)
                die("shmat");
            for (size_t i = 0; i < size[s]; i++) {
                wrong += mine[i] != pattern(s, i);
                mine[i] ^= 0xff;
            }
        }
        say("the child found %zu wrong bytes", wrong));
    size_t wrong = 0;
    for (int s = 0; s < COUNT; s++)
        for (size_t i = 0; i < size[s]; i++)
            wrong += at[s][i] != (unsigned char)(pattern(s, i) ^ 0xff);
    say("the parent found %zu wrong bytes", wrong);
    for (int s = 0; s < COUNT; s++) {
        MUST(shmctl(id[s], IPC_RMID, NULL));
        MUST(shmdt(at[s]));
    }

    size_t big = 8 << 20;
    int b = new_shm(big);
    uint64_t *w = shmat(b, NULL, 0);
    if (w == (void *)-1)
        die("shmat");
    uint64_t sum = 0;
    for (size_t i = 0; i < big / 8; i++)
        sum += w[i];
    say("the big one starts with sum %llu", (unsigned long long)sum);
    for (size_t i = 0; i < big / 8; i++)
        w[i] = i * 2654435761u;
    IN_CHILD(
        size_t wrong_words = 0;
        for (size_t i = 0; i < big / 8; i++)
            wrong_words += w[i] != i * 2654435761u;
        say("the child found %zu wrong words", wrong_words));
    return 0;
}
