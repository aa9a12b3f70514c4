/* New segments read as zeros to the end of their last page, used memory or not. */
#include "vt.h"

static size_t nonzero(const char *p, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += p[i] != 0;
    return count;
}

int main(void)
{
    begin();
    static const size_t sizes[] = { 1, 100, 4095, 4096, 4097, 10000, 65536, 1 << 20, (1 << 21) + 5 };
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            size_t size = sizes[i], whole = (size + 4095) / 4096 * 4096;
            int id = new_shm(size);
            struct shmid_ds ds;
            char *p = shmat(id, NULL, 0);
            if (p == (void *)-1)
                die("shmat");
            MUST(shmctl(id, IPC_STAT, &ds));
            say("round %d: size %zu, nonzero bytes %zu", round, (size_t)ds.shm_segsz, nonzero(p, whole));
            /* All of the last page can be used and is kept. */
            memset(p, 0xa5, whole);
            MUST(shmdt(p));
            p = shmat(id, NULL, SHM_RDONLY);
            say("kept %zu of the page's bytes", nonzero(p, whole) - nonzero(p, size));
            MUST(shmdt(p));
            MUST(shmctl(id, IPC_RMID, NULL));
        }
    return 0;
}
