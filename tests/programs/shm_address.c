/* shmat at an address that the program chooses. */
#include "vt.h"

int main(void)
{
    begin();
    int id = new_shm(2 * 4096);

    /* A hole that is surely free: reserve, then give back. */
    char *hole = mmap(NULL, 16 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST((long)hole);
    MUST(munmap(hole, 16 * 4096));

    char *a = shmat(id, hole, 0);
    YES(a == hole);
    strcpy(a, "here");
    /* Occupied. */
    RC(shmat(id, hole, 0));
    RC(shmat(id, hole + 4096, 0));
    /* Unaligned, unless rounding is asked for. */
    RC(shmat(id, hole + 4 * 4096 + 1, 0));
    char *b = shmat(id, hole + 4 * 4096 + 123, SHM_RND);
    YES(b == hole + 4 * 4096);
    say("%s", b);
    RC(shmat(id, hole + 4 * 4096 + 123, SHM_RND));

    /* Over what is there, when asked for. */
    char *mine = mmap(hole + 8 * 4096, 4 * 4096, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    YES(mine == hole + 8 * 4096);
    strcpy(mine, "old");
    strcpy(mine + 2 * 4096, "beside");
    RC(shmat(id, mine, 0));
    char *c = shmat(id, mine, SHM_REMAP);
    YES(c == mine);
    say("%s, %s", mine, mine + 2 * 4096);
    RC(shmat(id, NULL, SHM_REMAP));

    struct shmid_ds ds;
    RC(shmctl(id, IPC_STAT, &ds));
    VAL(ds.shm_nattch);
    RC(shmdt(a));
    RC(shmdt(b + 5));
    RC(shmdt(b));
    RC(shmdt(c));
    RC(shmdt(c));
    RC(shmctl(id, IPC_STAT, &ds));
    VAL(ds.shm_nattch);
    RC(munmap(mine + 2 * 4096, 2 * 4096));

    /* The id is looked at after the address. */
    RC(shmat(-1, hole + 1, 0));
    RC(shmat(-1, NULL, SHM_REMAP));

    /* Detached, the place is free for something else. */
    char *d = mmap(hole, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    YES(d == hole);
    return 0;
}
