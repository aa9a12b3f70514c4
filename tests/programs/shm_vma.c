/* nattch counts the mappings of a segment: unmapping and protecting pieces. */
#include "vt.h"

static int id;
static long nattch(void)
{
    struct shmid_ds ds;
    MUST(shmctl(id, IPC_STAT, &ds));
    return (long)ds.shm_nattch;
}

int main(void)
{
    begin();
    id = new_shm(5 * 4096);
    char *p = shmat(id, NULL, 0);
    memset(p, 'a', 5 * 4096);
    VAL(nattch());

    say("a hole in the middle");
    RC(munmap(p + 2 * 4096, 4096));
    VAL(nattch());
    say("p[0] '%c', p[4 pages] '%c'", p[0], p[4 * 4096]);
    say("shmdt takes all that is left of it");
    RC(shmdt(p));
    VAL(nattch());

    p = shmat(id, NULL, 0);
    say("a protected page in the middle");
    RC(mprotect(p + 4096, 4096, PROT_READ));
    VAL(nattch());
    RC(shmdt(p));
    VAL(nattch());

    p = shmat(id, NULL, 0);
    say("unmapped altogether");
    RC(munmap(p, 5 * 4096));
    VAL(nattch());
    RC(shmdt(p));

    p = shmat(id, NULL, 0);
    say("its first page only");
    RC(munmap(p, 4096));
    VAL(nattch());
    RC(shmdt(p + 4096));
    RC(shmdt(p));
    VAL(nattch());
    say("p reads '%c'", *(char *)shmat(id, NULL, 0));
    return 0;
}
