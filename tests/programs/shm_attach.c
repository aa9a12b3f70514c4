/* shmat and shmdt: read-write and read-only views, several at once. */
#include "vt.h"

static void write_to(volatile char *p)
{
    pid_t pid = spawn();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        *p = 'x';
        exit(0);
    }
    reap(pid);
}

int main(void)
{
    begin();
    int id = new_shm(3 * 4096);
    struct shmid_ds ds;

    char *rw = shmat(id, NULL, 0);
    YES(rw != (void *)-1);
    YES(((uintptr_t)rw & 4095) == 0);
    char *ro = shmat(id, NULL, SHM_RDONLY);
    YES(ro != (void *)-1);
    YES(ro != rw);
    strcpy(rw + 4096, "seen through both");
    say("%s", ro + 4096);
    RC(shmctl(id, IPC_STAT, &ds));
    VAL(ds.shm_nattch);

    say("write to the read-write view");
    write_to(rw);
    say("write to the read-only view");
    write_to(ro);
    say("ro[0] is '%c'", ro[0]);
    /* Two views of one kind. */
    char *second = shmat(id, NULL, 0);
    YES(second != (void *)-1);
    YES(second != rw);
    second[9000] = 'z';
    say("rw[9000] is '%c'", rw[9000]);
    RC(shmctl(id, IPC_STAT, &ds));
    VAL(ds.shm_nattch);

    RC(mprotect(ro, 4096, PROT_READ | PROT_WRITE));
    RC(mprotect(ro, 4096, PROT_READ));
    RC(mprotect(rw, 4096, PROT_READ));
    say("write to the protected page");
    write_to(rw);
    RC(mprotect(rw, 4096, PROT_READ | PROT_WRITE));
    say("write to it again");
    write_to(rw);

    RC(shmdt(rw + 1));
    RC(shmdt(rw + 4096));
    RC(shmdt(NULL));
    RC(shmdt(main));
    RC(shmdt(rw));
    RC(shmdt(rw));
    say("ro[9000] is '%c'", ro[9000]);
    RC(shmdt(ro));
    RC(shmdt(second));
    RC(shmctl(id, IPC_STAT, &ds));
    VAL(ds.shm_nattch);

    /* What was written stays while nobody is attached. */
    char *again = shmat(id, NULL, 0);
    say("%s", again + 4096);
    RC(shmdt(again));
    return 0;
}
