/* What unmapping, moving and protecting pieces of attachments does to the count, and what shmdt
 * takes of them.
 *
 * Not when trapped: pieces are counted as they lie in memory, not as the kernel cuts them. */
#include "vt.h"

#define SIZE 4096ul

static int id, other;
static long nattch(int of)
{
    struct shmid_ds ds;
    MUST(shmctl(of, IPC_STAT, &ds));
    return (long)ds.shm_nattch;
}
static void count(const char *text) { say("%s: %ld and %ld", text, nattch(id), nattch(other)); }

/* A stretch where nothing else comes to lie. */
static char *stretch(size_t pages)
{
    static char *next = (char *)0x110000000000;
    char *at = next;
    next += 2 * pages * SIZE;
    return at;
}

static char *attach(int of, char *at, int flags)
{
    char *p = shmat(of, at, flags);
    if (p != at)
        die("shmat");
    return p;
}

int main(void)
{
    begin();
    id = new_shm(8 * SIZE);
    other = new_shm(4 * SIZE);
    char *a = stretch(32), *b = a + 8 * SIZE;
    attach(id, a, 0);
    for (int i = 0; i < 8; i++)
        a[i * SIZE] = (char)('a' + i);
    attach(other, b, 0);
    strcpy(b, "the other");

    say("munmap over two attachments");
    count("attached");
    RC(munmap(a + 6 * SIZE, 3 * SIZE));
    count("the end of one, the head of the other");
    RC(shmdt(b));
    count("shmdt of one without its head");
    RC(munmap(a, SIZE));
    RC(munmap(a + 3 * SIZE, SIZE));
    count("head and a hole");
    RC(shmdt(a + SIZE));
    count("shmdt of its first page left");
    RC(shmdt(a));
    count("shmdt of where it began");

    say("and foreign memory between");
    a = stretch(32);
    attach(id, a, 0);
    attach(other, a + 10 * SIZE, 0);
    if (mmap(a + 8 * SIZE, 2 * SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        die("mmap");
    RC(munmap(a + 4 * SIZE, 8 * SIZE));
    count("half of both");
    RC(munmap(a + 100, SIZE));
    RC(munmap(a, 0));
    RC(munmap(a, 14 * SIZE));
    count("all");

    say("MAP_FIXED");
    attach(id, a, 0);
    YES(mmap(a + 2 * SIZE, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == a + 2 * SIZE);
    count("over a page of it");
    YES(mmap(a, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST);
    YES(mmap(a, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != a);
    count("not over it");
    RC((long)shmat(other, a + SIZE, 0));
    YES(shmat(other, a + SIZE, SHM_REMAP) == a + SIZE);
    count("SHM_REMAP inside it");
    say("it reads '%c%c%c%c%c'", a[0], a[SIZE], a[4 * SIZE], a[5 * SIZE], a[7 * SIZE]);
    RC(shmdt(a));
    count("shmdt of the one beneath");
    RC(shmdt(a + SIZE));
    count("of the one above");

    say("moves");
    char *to = stretch(32);
    attach(id, a, 0);
    YES(mremap(a, 8 * SIZE, 8 * SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
    count("the whole");
    say("it reads '%c', '%c'", to[0], to[7 * SIZE]);
    RC(shmdt(a));
    to[SIZE] = 'B';
    YES(mremap(to + SIZE, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, a) == a);
    count("one page");
    say("it reads '%c'", a[0]);
    YES(mremap(a, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to + SIZE) == to + SIZE);
    count("and back");
    YES(mremap(to, 0, 8 * SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, a) == a);
    count("a second view");
    a[0] = 'A';
    say("both read '%c%c', '%c%c'", a[0], a[SIZE], to[0], to[SIZE]);
    char *any = mremap(to + 2 * SIZE, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
    YES(any != MAP_FAILED);
    count("left behind as well");
    say("it reads '%c' twice: '%c'", any[0], to[2 * SIZE]);
    RC(munmap(any, SIZE));
    RC(shmdt(to));
    count("shmdt of the first view");
    RC(shmdt(a));
    count("of the second");

    say("sizes");
    attach(id, a, 0);
    YES(mremap(a, 8 * SIZE, 5 * SIZE, 0) == a);
    count("shorter");
    YES(mremap(a, 5 * SIZE, 8 * SIZE, 0) == a);
    say("and longer again: '%c'", a[7 * SIZE]);
    count("it is one");
    YES(mremap(a, 8 * SIZE, 10 * SIZE, 0) == a);
    count("longer than the segment");
    gate probe = new_gate();
    YES(write(probe.fd[1], a + 8 * SIZE, 1) == -1 && errno == EFAULT);
    IN_CHILD({
        signal(SIGBUS, SIG_DFL);
        a[9 * SIZE] = 1;
    });
    RC((long)mremap(a, 9 * SIZE, 12 * SIZE, 0));
    RC((long)mremap(a, 12 * SIZE, 13 * SIZE, MREMAP_MAYMOVE));
    RC((long)mremap(a, SIZE, 0, MREMAP_MAYMOVE));
    RC((long)mremap(a + 1, SIZE, 2 * SIZE, MREMAP_MAYMOVE));
    RC((long)mremap(a, SIZE, SIZE, MREMAP_FIXED, to));
    RC((long)mremap(a, 2 * SIZE, 2 * SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, a + SIZE));
    RC((long)mremap(a, SIZE, 2 * SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0));
    RC((long)mremap(a, SIZE, SIZE, 64));
    char *moved = mremap(a + 6 * SIZE, SIZE, 3 * SIZE, MREMAP_MAYMOVE);
    YES(moved != MAP_FAILED && moved[0] == 'g' && moved[SIZE] == 'h');
    count("a piece that grew elsewhere");
    RC(munmap(moved, 3 * SIZE));
    RC(shmdt(a));
    count("shmdt leaves what lies behind the segment's end");
    RC(munmap(a, 10 * SIZE));
    count("gone");

    say("others moved over it");
    attach(id, a, 0);
    char *mine = mmap(to, 2 * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    strcpy(mine, "mine");
    YES(mremap(mine, 2 * SIZE, 2 * SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, a + 3 * SIZE) == a + 3 * SIZE);
    count("two pages");
    say("%s", a + 3 * SIZE);
    attach(other, to, 0);
    YES(mremap(to, 4 * SIZE, 4 * SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, a + 4 * SIZE) == a + 4 * SIZE);
    count("one segment over the other");
    say("%s", a + 4 * SIZE);
    RC(shmdt(a));
    RC(shmdt(a + 4 * SIZE));
    count("both detached");
    return 0;
}
