/* A process whose first thread has ended keeps its segments, for the others. */
#include "vt.h"

static int id;
static char *at;

static void *goes_on(void *unused)
{
    (void)unused;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/stat", getpid());
    /* The first thread is a zombie. */
    for (char state = 0; state != 'Z'; usleep(1000)) {
        char text[256] = "";
        FILE *f = fopen(path, "r");
        if (!f || !fgets(text, sizeof text, f))
            die("stat");
        fclose(f);
        state = strrchr(text, ')')[2];
    }
    struct shmid_ds ds;
    int other = new_shm(4096);
    char *more = shmat(other, NULL, 0);
    RC(shmdt(more));
    RC(shmctl(id, IPC_STAT, &ds));
    VAL(ds.shm_nattch);
    at[0] = 1;
    RC(shmdt(at));
    RC(shmctl(id, IPC_STAT, &ds));
    VAL(ds.shm_nattch);
    fflush(stdout);
    exit(0);
}

int main(void)
{
    begin();
    id = new_shm(8192);
    at = shmat(id, NULL, 0);
    if (at == (void *)-1)
        die("shmat");
    pthread_t thread;
    if (pthread_create(&thread, NULL, goes_on, NULL) != 0)
        die("pthread_create");
    pthread_exit(NULL);
}
