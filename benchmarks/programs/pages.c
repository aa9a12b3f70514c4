/* Pages of segments.
 *
 *     pages walk AMOUNT MIB [huge]   reads of random words; nanoseconds of one
 *     pages cycle AMOUNT MIB [huge]  made, attached, each page touched, removed;
 *                                    nanoseconds of a page
 *     pages hold once MIB            touched and removed; says when, and waits
 *
 * huge: the program asks for huge pages by madvise. */
#include "bench.h"

static size_t bytes;
static int huge;

static volatile char *segment(int *id)
{
    *id = MUST(shmget(IPC_PRIVATE, bytes, IPC_CREAT | 0600));
    char *at = MUST(shmat(*id, NULL, 0));
    /* Where the host's settings forbid it, it is as without. */
    if (huge)
        madvise(at, bytes, MADV_HUGEPAGE);
    return at;
}

static void touch(volatile char *at)
{
    for (size_t i = 0; i < bytes; i += 4096)
        at[i] = 1;
}

static volatile uint64_t *words;
static uint64_t sum, seed = 1;
static void walk(void)
{
    seed = seed * 6364136223846793005 + 1442695040888963407;
    /* The next place depends on what is read: no two misses overlap. */
    sum += words[((seed >> 24) + sum) % (bytes / 8)];
    seed += sum & 1;
}

static void cycle(void)
{
    int id;
    volatile char *at = segment(&id);
    touch(at);
    MUST(shmdt((void *)at));
    MUST(shmctl(id, IPC_RMID, NULL));
}

int main(int argc, char **argv)
{
    int id;
    if (argc < 4) {
        fprintf(stderr, "usage: pages CODE AMOUNT MIB [huge]\n");
        return 2;
    }
    alarm(120);
    bytes = (size_t)number(argc, argv, 3) << 20;
    huge = argc > 4 && !strcmp(argv[4], "huge");
    if (!strcmp(argv[1], "hold")) {
        volatile char *at = segment(&id);
        touch(at);
        puts("touched"), fflush(stdout);
        getchar();
        MUST(shmdt((void *)at));
        MUST(shmctl(id, IPC_RMID, NULL));
        puts("removed"), fflush(stdout);
        return 0;
    }
    amount(argv[2]);
    if (!strcmp(argv[1], "walk")) {
        volatile char *at = segment(&id);
        MUST(shmctl(id, IPC_RMID, NULL));
        touch(at);
        words = (volatile uint64_t *)at;
        batches(walk);
    } else if (!strcmp(argv[1], "cycle")) {
        cycle();
        double begun = now(), start;
        do {
            start = now();
            cycle();
            printf("%.2f\n", (now() - start) / (double)(bytes / 4096));
        } while (now() - begun < slice);
    } else {
        fprintf(stderr, "pages: there is no '%s'\n", argv[1]);
        return 2;
    }
    return 0;
}
