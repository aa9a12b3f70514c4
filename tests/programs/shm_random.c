/* Random changes to a stretch of address space with segments in it: the counts, what is mapped
 * where, and what every call says. A fixed seed makes all runs alike.
 *
 * Not when trapped: pieces are counted as they lie in memory, not as the kernel cuts them. */
#include "vt.h"

#define PAGES 48
#define SIZE 4096ul
#define STEPS 1000

static char *arena;
static int id[2], pipes[2];
static unsigned long state = 20261120;

static unsigned pick(unsigned n)
{
    state = state * 6364136223846793005ul + 1442695040888963407ul;
    return (unsigned)(state >> 33) % n;
}

static char *page(unsigned n) { return arena + n * SIZE; }

/* What a byte holds; '.' where nothing can be read, '~' for empty memory. */
static char peek(const char *at)
{
    char c = '.';
    if (write(pipes[1], at, 1) == 1 && read(pipes[0], &c, 1) == 1 && c == 0)
        c = '~';
    return c;
}

static void *reserve(void *at, size_t size)
{
    return mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

int main(int argc, char **argv)
{
    begin();
    if (argc > 1)
        state = strtoul(argv[1], NULL, 0);
    MUST(pipe(pipes));
    for (int s = 0; s < 2; s++) {
        id[s] = new_shm(8 * SIZE);
        char *p = shmat(id[s], NULL, 0);
        for (int i = 0; i < 8; i++)
            p[i * SIZE] = (char)((s ? 'A' : 'a') + i);
        MUST(shmdt(p));
    }
    /* Far below what the kernel chooses for others: its holes stay holes. */
    arena = mmap((void *)0x100000000000, PAGES * SIZE, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (arena == MAP_FAILED)
        die("mmap");
    for (int step = 0; step < STEPS; step++) {
        unsigned from = pick(PAGES - 9), n = 1 + pick(9), to = pick(PAGES - 9), what = pick(16);
        static const int protections[] = { PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE };
        static const int advices[] = { MADV_DONTDUMP, MADV_DODUMP, MADV_RANDOM, MADV_NORMAL };
        long rc = 0;
        errno = 0;
        switch (what) {
        case 0: case 1: case 2: case 3: {
            int flags = SHM_REMAP | (pick(4) ? 0 : SHM_RDONLY);
            rc = (long)shmat(id[pick(2)], page(from), flags);
            break;
        }
        case 4:
            rc = shmdt(page(from));
            break;
        case 5:
            rc = munmap(page(from), n * SIZE);
            break;
        case 6: case 7: case 8:
            rc = mprotect(page(from), n * SIZE, protections[pick(3)]);
            break;
        case 9: case 10:
            rc = madvise(page(from), n * SIZE, advices[pick(4)]);
            break;
        case 11:
            rc = pick(2) ? mlock(page(from), n * SIZE) : munlock(page(from), n * SIZE);
            break;
        case 12:
            rc = (long)reserve(page(from), n * SIZE);
            break;
        case 13: {
            size_t old = pick(9) * SIZE;
            rc = (long)mremap(page(from), old, n * SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, page(to));
            break;
        }
        case 14:
            rc = (long)mremap(page(from), n * SIZE, (1 + pick(9)) * SIZE, 0);
            break;
        case 15:
            rc = (long)mremap(page(from), n * SIZE, n * SIZE,
                              MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, page(to));
            break;
        }
        const char *outcome = rc == -1 ? ename(errno) : "ok";
        struct shmid_ds ds[2];
        MUST(shmctl(id[0], IPC_STAT, &ds[0]));
        MUST(shmctl(id[1], IPC_STAT, &ds[1]));
        char view[PAGES + 1] = { 0 };
        for (unsigned i = 0; i < PAGES; i++)
            view[i] = peek(page(i));
        say("%4d: %2u %2u+%u %2u: %s %lu %lu |%s|", step, what, from, n, to,
            outcome, ds[0].shm_nattch, ds[1].shm_nattch, view);
    }
    return 0;
}
