/* Every call made through syscall(), as programs do whose C library lacks them.
 *
 * Not when trapped: what a program maps is counted as it lies in memory, not as the
 * kernel cuts it. */
#include "vt.h"

struct sembuf down = { 0, -1, SEM_UNDO | IPC_NOWAIT };
struct sembuf up = { 0, 1, 0 };

static long nattch(int id)
{
    struct shmid_ds ds;
    MUST(syscall(SYS_shmctl, id, IPC_STAT, &ds));
    return (long)ds.shm_nattch;
}

/* Seven arguments: the last one travels where only variadic callers look. */
static long six(long n, long a, long b, long c, long d, long e, long f)
{
    return syscall(n, a, b, c, d, e, f);
}

int main(void)
{
    begin();
    say("shared memory");
    int shm = (int)RC(syscall(SYS_shmget, IPC_PRIVATE, 3 * 4096, IPC_CREAT | 0600));
    keep('m', shm);
    char *p = (char *)syscall(SYS_shmat, shm, NULL, 0), *q = shmat(shm, NULL, SHM_RDONLY);
    YES((long)p != -1 && (long)q != -1);
    strcpy(p, "through both");
    say("%s", q);
    VAL(nattch(shm));
    RC(syscall(SYS_shmat, shm, p + 1, 0));
    RC(syscall(SYS_munmap, p + 4096, 4096));
    VAL(nattch(shm));
    RC(syscall(SYS_mprotect, q, 4096, PROT_NONE));
    RC(syscall(SYS_mprotect, q, 4096, PROT_READ | PROT_WRITE));
    RC(syscall(SYS_madvise, q, 8192, MADV_DONTDUMP));
    VAL(nattch(shm));
    YES(syscall(SYS_mremap, p + 8192, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, p + 4096) == (long)p + 4096);
    YES(six(SYS_mmap, (long)p, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (long)p);
    VAL(nattch(shm));
    RC(syscall(SYS_shmdt, p));
    RC(syscall(SYS_shmdt, p - 4096));
    RC(syscall(SYS_shmdt, q));
    RC(syscall(SYS_shmdt, q));
    VAL(nattch(shm));
    RC(syscall(SYS_shmctl, shm, IPC_RMID, NULL));
    RC(syscall(SYS_shmctl, shm, IPC_STAT, NULL));

    say("semaphores");
    int sem = (int)RC(syscall(SYS_semget, IPC_PRIVATE, 2, IPC_CREAT | 0600));
    keep('s', sem);
    RC(syscall(SYS_semctl, sem, 0, SETVAL, 1));
    VAL(syscall(SYS_semctl, sem, 0, GETVAL));
    VAL(syscall(SYS_semctl, sem, 0, GETVAL | 0x100));
    IN_CHILD({
        RC(syscall(SYS_semop, sem, &down, 1));
        RC(syscall(SYS_semop, sem, &down, 1));
        struct timespec t = { 0, 1000000 };
        down.sem_flg = 0;
        RC(syscall(SYS_semtimedop, sem, &down, 1, &t));
        RC(syscall(SYS_semop, sem, &down, 0));
        RC(syscall(SYS_semop, sem, NULL, 1));
        /* Without a word to the C library. */
        syscall(SYS_exit_group, 3);
    });
    VAL(getval(sem, 0));
    unsigned short all[2] = { 5, 6 };
    RC(syscall(SYS_semctl, sem, 0, SETALL, all));
    RC(syscall(SYS_semop, sem, &up, 1));
    RC(syscall(SYS_semctl, sem, 0, GETALL, all));
    say("%d %d", all[0], all[1]);

    say("queues");
    int msg = (int)RC(syscall(SYS_msgget, IPC_PRIVATE, IPC_CREAT | 0600));
    keep('q', msg);
    message m = { .mtype = 4, .text = "a message" };
    RC(syscall(SYS_msgsnd, msg, &m, 10, 0));
    RC(syscall(SYS_msgsnd, msg, &m, (size_t)-1, 0));
    struct msqid_ds ds;
    RC(syscall(SYS_msgctl, msg, IPC_STAT, &ds));
    VAL(ds.msg_qnum);
    memset(&m, 0, sizeof m);
    VAL(syscall(SYS_msgrcv, msg, &m, sizeof m.text, 4, IPC_NOWAIT));
    say("%ld '%s'", m.mtype, m.text);
    RC(syscall(SYS_msgrcv, msg, &m, sizeof m.text, 0, IPC_NOWAIT));
    RC(syscall(SYS_msgctl, msg, IPC_RMID, 0));

    say("others arrive as they were");
    YES(syscall(SYS_getpid) == getpid());
    YES(syscall(SYS_getppid) == getppid());
    RC(syscall(SYS_close, -1));
    RC(syscall(100000));
    RC(syscall(-1));
    int fd[2];
    RC(syscall(SYS_pipe2, fd, O_CLOEXEC));
    VAL(syscall(SYS_write, fd[1], "bytes", 5));
    VAL(six(SYS_copy_file_range, fd[0], 0, fd[1], 0, 1, 7) == -1);
    /* Six that all matter: what is there is mapped at its offset. */
    FILE *f = tmpfile();
    for (int i = 0; i < 4096 * 3; i++)
        fputc('0' + i / 4096, f);
    fflush(f);
    char *third = (char *)six(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, fileno(f), 8192);
    say("the third page of a file: %c", *third);
    pid_t child = spawn();
    if (child == 0)
        _exit(7);
    int status;
    YES(syscall(SYS_wait4, child, &status, 0, NULL) == child);
    VAL(WEXITSTATUS(status));
    return 0;
}
