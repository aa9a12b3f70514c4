/* What the tests of trapped calls need of a program that is linked statically.
 *
 *     static MODE [N]
 */
#include "../vt.h"
#include <dirent.h>
#include <sys/resource.h>

#define KEY 0x7ab5

static int sem;

/* Takes the semaphore with SEM_UNDO and then waits for one that nobody gives. */
static void hold(void)
{
    MUST(setval(sem, 0, 1));
    MUST(SEMOP(sem, OP(0, -1, SEM_UNDO)));
    say("holds");
    fflush(stdout);
    SEMOP(sem, OP(1, -1, SEM_UNDO));
}

/* Takes it, as soon as the holder is gone. */
static void acquire(void)
{
    struct timespec limit = { .tv_sec = 20 };
    MUST(semtimedop(sem, (struct sembuf[]){ OP(0, -1, 0) }, 1, &limit));
    say("acquired, %ld wait", (long)ncnt(sem, 1));
}

/* Works until it no longer can; says what the calls fail with then. */
static void work(void)
{
    say("works");
    fflush(stdout);
    while (SEMOP(sem, OP(0, 1, 0), OP(0, -1, 0)) == 0)
        ;
    say("semop: %s", ename(errno));
    say("shmget: %s", shmget(IPC_PRIVATE, 1, 0600) == -1 ? ename(errno) : "ok");
    say("fork: %s", fork() == -1 ? ename(errno) : "ok");
}

static int descriptors(void)
{
    int n = 0;
    DIR *all = opendir("/proc/self/fd");
    while (readdir(all))
        n++;
    closedir(all);
    return n;
}

/* Children that make calls of all kinds and end, some of them by force; then says so, and waits
 * for a line before the next ones. */
static void children(int n)
{
    int before = descriptors();
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < n; i++) {
            pid_t child = MUST(fork());
            if (child == 0) {
                int id = new_shm(12345);
                char *at = MUST(shmat(id, NULL, 0));
                memset(at, i, 12345);
                MUST(SEMOP(sem, OP(0, 1, SEM_UNDO)));
                if (i % 2)
                    MUST(shmdt(at));
                MUST(shmctl(id, IPC_RMID, NULL));
                if (i % 3 == 0)
                    kill(getpid(), SIGKILL);
                exit(0);
            }
            int status;
            MUST(waitpid(child, &status, 0));
        }
        say("value %ld, descriptors: %s", (long)getval(sem, 0),
            descriptors() == before ? "as before" : "other");
        fflush(stdout);
        getchar();
    }
}

/* An attachment that only a grandchild still has, which has never called: its pages stay. */
static void heir(void)
{
    int *shared = scratch(4096);
    int id = new_shm(8192);
    int *at = MUST(shmat(id, NULL, 0));
    *at = 4711;
    pid_t child = MUST(fork());
    if (child == 0) {
        if (fork() == 0) {
            /* Its parent is gone, and with it all who are known to have attached it. */
            while (getppid() == (pid_t)shared[1] || shared[2] == 0)
                usleep(1000);
            shared[0] = *at;
            _exit(0);
        }
        shared[1] = getpid();
        _exit(0);
    }
    reap(child);
    MUST(shmdt(at));
    MUST(shmctl(id, IPC_RMID, NULL));
    /* Takes freed pages, were there any. */
    int other = new_shm(1 << 20);
    memset(MUST(shmat(other, NULL, 0)), 1, 1 << 20);
    shared[2] = 1;
    UNTIL(shared[0] != 0);
    say("heir sees %d", shared[0]);
}

/* As Go does it: many threads, calls by the bare instruction, and all the while signals that
 * interrupt them, which are not asked to (SA_RESTART). */
static int stop;
static long bare(long nr, long a, long b, long c, long d)
{
#ifdef __x86_64__
    register long r10 __asm__("r10") = d;
    long rc;
    __asm__ volatile("syscall" : "=a"(rc) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return rc;
#else
    long rc = syscall(nr, a, b, c, d);
    return rc == -1 ? -errno : rc;
#endif
}

#define THREADS 6
static long counter;

static void *lock_and_count(void *rounds)
{
    for (long i = 0; i < (long)rounds; i++) {
        struct sembuf down = OP(0, -1, 0), up = OP(0, 1, 0);
        long rc;
        while ((rc = bare(SYS_semop, sem, (long)&down, 1, 0)) == -EINTR)
            ;
        if (rc != 0)
            say("down: %ld", rc);
        counter++;
        while ((rc = bare(SYS_semop, sem, (long)&up, 1, 0)) == -EINTR)
            ;
        if (rc != 0)
            say("up: %ld", rc);
    }
    return NULL;
}

static pthread_t threads[THREADS];
static void *pester(void *unused)
{
    (void)unused;
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE))
        for (int i = 0; i < THREADS; i++) {
            pthread_kill(threads[i], SIGURG);
            usleep(200);
        }
    return NULL;
}

static void bare_threads(long rounds)
{
    pthread_t p;
    catch_signal(SIGURG, SA_RESTART);
    MUST(setval(sem, 0, 1));
    for (int i = 0; i < THREADS; i++)
        MUST(-pthread_create(&threads[i], NULL, lock_and_count, (void *)rounds));
    MUST(-pthread_create(&p, NULL, pester, NULL));
    /* Not joined before the one that signals them has ended. */
    UNTIL(__atomic_load_n(&counter, __ATOMIC_RELAXED) == THREADS * rounds);
    __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
    pthread_join(p, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    say("counted %ld, value %ld, waiting %ld", counter, (long)getval(sem, 0), (long)ncnt(sem, 0));
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    int n = argc > 2 ? atoi(argv[2]) : 0;
    if (!strcmp(mode, "exit"))
        return n;
    if (!strcmp(mode, "die"))
        raise(n);
    begin();
    sem = MUST(semget(KEY, 2, IPC_CREAT | 0600));
    if (!strcmp(mode, "hold"))
        hold();
    else if (!strcmp(mode, "acquire"))
        acquire();
    else if (!strcmp(mode, "work"))
        work();
    else if (!strcmp(mode, "children"))
        children(n);
    else if (!strcmp(mode, "heir"))
        heir();
    else if (!strcmp(mode, "threads"))
        bare_threads(n);
    else
        return 2;
    return 0;
}
