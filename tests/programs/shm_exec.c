/* exec detaches; the new program attaches the same segment anew. */
#include "vt.h"

int main(int argc, char **argv)
{
    begin();
    struct shmid_ds ds;
    if (argc == 3) {
        int id = atoi(argv[1]);
        RC(shmctl(id, IPC_STAT, &ds));
        VAL(ds.shm_nattch);
        char *p = shmat(id, NULL, 0);
        YES(p != (void *)-1);
        say("%s", p);
        strcpy(p, "written after exec");
        RC(shmctl(id, IPC_STAT, &ds));
        VAL(ds.shm_nattch);
        YES(ds.shm_lpid == getpid());
        if (strcmp(argv[2], "exit") == 0)
            _exit(0);
        kill(getpid(), SIGKILL);
    }
    int id = new_shm(4096);
    char *p = shmat(id, NULL, 0);
    for (int i = 0; i < 2; i++) {
        strcpy(p, "written before exec");
        pid_t child = spawn();
        if (child == 0) {
            char text[16];
            snprintf(text, sizeof text, "%d", id);
            execl("/proc/self/exe", argv[0], text, i ? "kill" : "exit", NULL);
            die("execl");
        }
        reap(child);
        say("%s", p);
        UNTIL((shmctl(id, IPC_STAT, &ds), ds.shm_nattch) == 1);
        VAL(ds.shm_nattch);
        YES(ds.shm_lpid == child);
    }
    return 0;
}
