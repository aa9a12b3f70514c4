/* Pointers that lead nowhere: EFAULT, at its moment in the order of errors,
 * and what a call did before it found out. */
#include "vt.h"

static int sem, queue, shm;
static long page;
/* Two pages, of which the second is not there. */
static char *edge;

struct wild { const char *name; void *at; };
static struct wild wild[16];
static int wilds;

static void add(const char *name, void *at)
{
    wild[wilds++] = (struct wild){ name, at };
}

static char *map(size_t pages, int protection)
{
    char *p = mmap(NULL, pages * page, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        die("mmap");
    return p;
}

static void collect(void)
{
    edge = map(2, PROT_READ | PROT_WRITE);
    munmap(edge + page, page);
    add("null", NULL);
    add("one", (void *)1);
    add("the last page", (void *)-4096L);
    add("the last byte", (void *)-1L);
    add("a kernel's address", (void *)0xffff888000000000ul);
    add("no canonical address", (void *)0x8000000000000000ul);
    add("another such", (void *)0x0000900000000000ul);
    add("a page that was unmapped", edge + page);
    add("a page without rights", map(1, PROT_NONE));
    add("across into nothing", edge + page - 4);
    add("one byte too few", edge + page - 1);
    int file = MUST(memfd_create("short", 0));
    MUST(ftruncate(file, page));
    char *beyond = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    add("beyond the end of a file", beyond + page);
}

/* `call` uses `p`, which is wild. */
#define EACH(call)                                     \
    do {                                               \
        say("%s", #call);                              \
        for (int i_ = 0; i_ < wilds; i_++) {           \
            void *p = wild[i_].at;                     \
            long rc_ = (long)(call);                   \
            say("  %s: %s", wild[i_].name, rc_ == -1 ? ename(errno) : "ok"); \
        }                                              \
    } while (0)

static int ctl(int id, int cmd, void *p) { return semctl(id, 0, cmd, (union semun){ .buf = p }); }

static void semaphores(void)
{
    EACH(semop(sem, p, 1));
    EACH(semop(sem, p, 3));
    EACH(semop(sem, p, 200));
    struct sembuf op = OP(0, -1, IPC_NOWAIT);
    EACH(semtimedop(sem, &op, 1, p));
    EACH(ctl(sem, IPC_STAT, p));
    EACH(ctl(sem, IPC_SET, p));
    EACH(ctl(sem, GETALL, p));
    EACH(ctl(sem, SETALL, p));
    EACH(ctl(0, SEM_INFO, p));
    EACH(ctl(0, IPC_INFO, p));
    /* Before and after other errors. */
    RC(semop(sem, NULL, 0));
    RC(semop(sem, NULL, 100000));
    RC(semop(-1, NULL, 1));
    RC(semop(sem ^ 0x7fff, NULL, 1));
    struct timespec bad = { -1, 0 };
    RC(semtimedop(sem, NULL, 1, &bad));
    RC(semtimedop(sem, NULL, 0, (void *)1));
    RC(semtimedop(sem, &op, 1, &bad));
    RC(ctl(sem ^ 0x7fff, IPC_STAT, NULL));
    RC(ctl(sem ^ 0x7fff, IPC_SET, NULL));
    RC(ctl(sem ^ 0x7fff, SETALL, NULL));
    RC(ctl(sem ^ 0x7fff, GETALL, NULL));
    RC(ctl(-1, IPC_SET, NULL));
    RC(ctl(sem, 99, NULL));
    op = OP(9, 1, 0);
    RC(semop(sem, &op, 1));
    say("values %d %d", getval(sem, 0), getval(sem, 1));

    /* The last bytes of a page are enough. */
    struct sembuf *last = (void *)(edge + page - sizeof op);
    *last = OP(0, 1, 0);
    RC(semop(sem, last, 1));
    RC(semop(sem, last, 2));
    unsigned short *all = (void *)(edge + page - 4);
    RC(ctl(sem, GETALL, all));
    say("got %d %d", all[0], all[1]);
    all[1] = 7;
    RC(ctl(sem, SETALL, all));
    say("values %d %d", getval(sem, 0), getval(sem, 1));
    RC(ctl(sem, GETALL, all + 1));
    say("a part of it: %d", all[1]);

    /* Read only. */
    char *fixed = map(1, PROT_READ);
    RC(ctl(sem, IPC_STAT, fixed));
    RC(ctl(sem, GETALL, fixed));
    RC(ctl(sem, SETALL, fixed));
    say("values %d %d", getval(sem, 0), getval(sem, 1));
}

static long queued(void)
{
    struct msqid_ds ds;
    MUST(msgctl(queue, IPC_STAT, &ds));
    return ds.msg_qnum;
}

static void messages(void)
{
    EACH(msgsnd(queue, p, 0, 0));
    EACH(msgsnd(queue, p, 100, 0));
    EACH(msgsnd(queue, p, 8192, 0));
    EACH(msgctl(queue, IPC_STAT, p));
    EACH(msgctl(queue, IPC_SET, p));
    EACH(msgctl(0, MSG_INFO, p));
    EACH(msgctl(0, IPC_INFO, p));
    RC(msgsnd(queue ^ 0x7fff, NULL, 1, 0));
    RC(msgsnd(-1, NULL, 1, 0));
    RC(msgsnd(queue, NULL, 1 << 20, 0));
    RC(msgctl(queue ^ 0x7fff, IPC_SET, NULL));
    RC(msgctl(queue ^ 0x7fff, IPC_STAT, NULL));
    RC(msgctl(-1, IPC_SET, NULL));
    RC(msgctl(queue, 99, NULL));

    /* The type is there, the text is not. */
    long *last = (void *)(edge + page - sizeof *last);
    *last = 3;
    RC(msgsnd(queue, last, 0, 0));
    RC(msgsnd(queue, last, 1, 0));
    RC(msgsnd(queue ^ 0x7fff, last, 1, 0));
    *last = 0;
    RC(msgsnd(queue, last, 1, 0));
    RC(msgsnd(queue, last, 1 << 20, 0));
    VAL(queued());
    long *some = (void *)(edge + page - 108);
    *some = 4;
    RC(msgsnd(queue, some, 100, 0));
    RC(msgsnd(queue, some, 101, 0));
    RC(msgsnd(queue, some, 5000, 0));
    VAL(queued());

    /* A message that cannot be copied out is gone. */
    message m;
    RC(msgrcv(queue, NULL, 100, 99, IPC_NOWAIT));
    RC(msgrcv(queue ^ 0x7fff, NULL, 100, 0, 0));
    RC(msgrcv(queue, NULL, 10, 4, 0));
    VAL(queued());
    RC(msgrcv(queue, NULL, 100, 4, 0));
    VAL(queued());
    while (msgrcv(queue, &m, 8192, 0, IPC_NOWAIT) != -1)
        ;
    for (int i = 0; i < wilds; i++) {
        MUST(send_text(queue, 5, "some text that is somewhat longer", 0));
        long rc = msgrcv(queue, wild[i].at, 100, 0, 0);
        say("receive to %s: %s, left %ld", wild[i].name, rc == -1 ? ename(errno) : "ok", queued());
    }
    char *to = edge + page - 12;
    memset(edge, '.', page);
    MUST(send_text(queue, 6, "abcdefgh", 0));
    RC(msgrcv(queue, to, 100, 0, 0));
    say("type %ld, a part of it: %.4s", *(long *)to, to + 8);
    MUST(send_text(queue, 6, "abcd", 0));
    VAL(msgrcv(queue, to, 100, 0, 0));
    say("type %ld, all of it: %.4s", *(long *)to, to + 8);
    char *fixed = map(1, PROT_READ);
    MUST(send_text(queue, 6, "abcd", 0));
    RC(msgrcv(queue, fixed, 100, 0, 0));
    VAL(queued());

    /* A receiver that sleeps. */
    gate here = new_gate();
    pid_t child = spawn();
    if (child == 0) {
        gate_open(here);
        RC(msgrcv(queue, (void *)1, 100, 0, 0));
        exit(0);
    }
    gate_wait(here);
    wait_asleep(child);
    RC(send_text(queue, 7, "for nobody", 0));
    reap(child);
    VAL(queued());
}

static void segments(void)
{
    EACH(shmctl(shm, IPC_STAT, p));
    EACH(shmctl(shm, IPC_SET, p));
    EACH(shmctl(0, IPC_INFO, p));
    EACH(shmctl(0, SHM_INFO, p));
    RC(shmctl(shm ^ 0x7fff, IPC_SET, NULL));
    RC(shmctl(shm ^ 0x7fff, IPC_STAT, NULL));
    RC(shmctl(-1, IPC_SET, NULL));
    RC(shmctl(shm, 99, NULL));
    /* Into and out of a segment. */
    char *rw = MUST((char *)shmat(shm, NULL, 0)), *ro = MUST((char *)shmat(shm, NULL, SHM_RDONLY));
    RC(ctl(sem, IPC_STAT, ro));
    RC(ctl(sem, IPC_STAT, rw));
    YES(((struct semid_ds *)ro)->sem_nsems == 2);
    RC(shmctl(shm, IPC_STAT, (void *)ro));
    RC(shmctl(shm, IPC_STAT, (void *)rw));
    YES(((struct shmid_ds *)ro)->shm_segsz == (size_t)page);
    shmdt(rw);
    shmdt(ro);
    RC(ctl(sem, IPC_STAT, rw));
}

static void ftoks(void)
{
    EACH(ftok(p, 1));
}

/* In a thread that blocks all signals, and in a handler that does. */
static void *blocked(void *x)
{
    sigset_t all;
    sigfillset(&all);
    if (!x)
        pthread_sigmask(SIG_SETMASK, &all, NULL);
    struct sembuf op = OP(0, 1, 0);
    RC(semop(sem, (void *)1, 1));
    RC(semop(sem, &op, 1));
    RC(semop(sem, (void *)1, 1));
    RC(msgsnd(queue, NULL, 1, 0));
    RC(ctl(sem, IPC_STAT, (void *)-1L));
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    YES(sigismember(&now, SIGSEGV) && sigismember(&now, SIGBUS) && sigismember(&now, SIGUSR1));
    return NULL;
}

static void handler(int s)
{
    (void)s;
    blocked(&sem);
}

int main(void)
{
    begin();
    page = sysconf(_SC_PAGESIZE);
    sem = new_sem(2);
    queue = new_msg();
    shm = new_shm(page);
    collect();
    semaphores();
    messages();
    segments();
    ftoks();
    pthread_t t;
    MUST(-pthread_create(&t, NULL, blocked, NULL));
    pthread_join(t, NULL);
    struct sigaction sa = { .sa_handler = handler };
    sigfillset(&sa.sa_mask);
    MUST(sigaction(SIGUSR1, &sa, NULL));
    raise(SIGUSR1);
    RC(semop(sem, (void *)1, 1));
    return 0;
}
