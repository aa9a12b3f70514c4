/* Threads at work while others make children of every kind: nobody's work is lost, or done twice. */
#include "vt.h"
#include <spawn.h>

#define ROUNDS 60

static int sem, shm;
static volatile int over;
static long nattch(void)
{
    struct shmid_ds ds;
    MUST(shmctl(shm, IPC_STAT, &ds));
    return (long)ds.shm_nattch;
}

static void *semaphores(void *arg)
{
    long *done = arg;
    while (!over) {
        MUST(SEMOP(sem, OP(1, 1, SEM_UNDO)));
        MUST(SEMOP(sem, OP(1, -1, SEM_UNDO)));
        ++*done;
    }
    return NULL;
}

static void *segments(void *arg)
{
    long *done = arg;
    while (!over) {
        char *p = shmat(shm, NULL, 0);
        if (p == (void *)-1)
            die("shmat");
        MUST(mprotect(p + 4096, 4096, PROT_READ));
        MUST(munmap(p + 8192, 4096));
        MUST(shmdt(p));
        ++*done;
    }
    return NULL;
}

static void *children(void *arg)
{
    (void)arg;
    for (volatile int i = 0; i < ROUNDS; i++) {
        int status;
        pid_t child;
        char *const args[] = { "true", NULL };
        struct sembuf take = { 0, -1, SEM_UNDO };
        switch (i % 4) {
        case 0:
            child = vfork();
            if (child == 0) {
                if (semop(sem, &take, 1) == -1)
                    _exit(1);
                _exit(0);
            }
            break;
        case 1:
            child = fork();
            if (child == 0) {
                if (semop(sem, &take, 1) == -1)
                    _exit(1);
                _exit(0);
            }
            break;
        case 2:
            if (posix_spawnp(&child, "true", NULL, NULL, args, NULL))
                die("posix_spawnp");
            break;
        default:
            child = vfork();
            if (child == 0) {
                execvp("true", args);
                _exit(127);
            }
        }
        if (child == -1 || waitpid(child, &status, 0) != child || status)
            die("child");
    }
    return NULL;
}

int main(void)
{
    begin();
    sem = new_sem(2);
    shm = new_shm(4 * 4096);
    setval(sem, 0, 4);
    char *p = shmat(shm, NULL, 0);
    strcpy(p, "here");
    MUST(SEMOP(sem, OP(0, -2, SEM_UNDO)));
    long done[2] = { 0, 0 };
    pthread_t worker[2], maker[2];
    pthread_create(&worker[0], NULL, semaphores, &done[0]);
    pthread_create(&worker[1], NULL, segments, &done[1]);
    for (int i = 0; i < 2; i++)
        pthread_create(&maker[i], NULL, children, NULL);
    for (int i = 0; i < 2; i++)
        pthread_join(maker[i], NULL);
    over = 1;
    for (int i = 0; i < 2; i++)
        pthread_join(worker[i], NULL);
    VAL(getval(sem, 0));
    VAL(getval(sem, 1));
    YES(done[0] > 0 && done[1] > 0);

    VAL(nattch());
    say("%s", p);
    RC(SEMOP(sem, OP(0, 2, SEM_UNDO)));
    VAL(getval(sem, 0));
    return 0;
}
