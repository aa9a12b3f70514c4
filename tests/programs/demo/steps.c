/* System V calls one after the other, as the arguments name them: what the
 * tests compose a scene of.
 *
 *     steps LETTER STEP...
 *
 *     make           makes a segment, a queue and a set of eight semaphores
 *     find           waits until they are made
 *     add=N  take=N  V and P on semaphore N
 *     hold=N         P with SEM_UNDO
 *     attach         attaches the segment
 *     send=T         sends a message of type T
 *     receive=T      receives one
 *     value=N:V      waits until semaphore N is V
 *     waiters=N:C    waits until C are asleep in P on semaphore N
 *     attached=C     waits until the segment is attached C times
 *     post=N wait=N  sem_post and sem_wait on the segment's sem_t N
 *     asleep=N:C     waits until C wait for sem_t N
 *     lock           locks the segment's robust mutex, or says "owner died"
 *     unlock         unlocks it, consistent again
 *     count          counts in the segment, on and on
 *     still          counted once, and does so no more
 *     say=TEXT       prints a line
 *     pause          waits for a signal
 *     remove         removes all three
 *     ids            prints the ids of set, segment and queue, and their key
 *     set=ID  shm=ID  queue=ID   uses the object of this id
 *     dismissed=N    P on semaphore N, which must end with EIDRM
 *     denied         makes calls on all three, which must fail with EINVAL
 *     absent         looks for all three by key, which nobody may find
 *     busy=N         V and P on semaphore N, again and again, until EIDRM
 *     drain=N        sets semaphore N to 0
 *     shut           makes calls on all three, which must fail with EIDRM
 *
 * Scenes with different letters do not meet. */
#include "demo.h"

#include <pthread.h>
#include <semaphore.h>

#define WORK 7 /* The semaphore that marks the set as ready. */

struct note { long mtype; char text[16]; };

/* After the page that `attach` fills. */
struct objects { sem_t sem[4]; pthread_mutex_t mutex; volatile unsigned long count; };

static key_t key;
static int set, shm, queue;
static int first, second;

/* Looks until it is so. */
#define UNTIL(so)                                                    \
    do {                                                             \
        double until_ = now() + PATIENCE_SECONDS;                    \
        while (!(so)) {                                              \
            CHECK(now() < until_, "in vain: %s with %d, %d", #so, first, second); \
            nap_ms(1);                                               \
        }                                                            \
    } while (0)

static unsigned long attached(void)
{
    struct shmid_ds ds;
    MUST(shmctl(shm, IPC_STAT, &ds));
    return (unsigned long)ds.shm_nattch;
}

static struct objects *objects(void)
{
    static char *at;
    if (!at)
        at = MUST(shmat(shm, NULL, 0));
    return (struct objects *)(at + 4096);
}

static void make(void)
{
    remove_old(key);
    shm = MUST(shmget(key, 8192, IPC_CREAT | IPC_EXCL | 0666));
    char *at = MUST(shmat(shm, NULL, 0));
    struct objects *o = (struct objects *)(at + 4096);
    for (int i = 0; i < 4; i++)
        MUST(sem_init(&o->sem[i], 1, 0));
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&o->mutex, &a);
    MUST(shmdt(at));
    queue = MUST(msgget(key, IPC_CREAT | IPC_EXCL | 0666));
    set = MUST(semget(key, WORK + 1, IPC_CREAT | IPC_EXCL | 0666));
    MUST(up(set, WORK, 1));
}

static void find(void)
{
    set = wait_for_set(key);
    shm = MUST(shmget(key, 0, 0));
    queue = MUST(msgget(key, 0));
}

#define FAILS(with, ...) \
    CHECK((long)(__VA_ARGS__) == -1 && errno == (with), "%s: no %s", #__VA_ARGS__, #with)

static void denied(void)
{
    struct note note = { .mtype = 1 };
    struct shmid_ds ds;
    FAILS(EINVAL, up(set, 0, 1));
    FAILS(EINVAL, semctl(set, 0, GETVAL));
    FAILS(EINVAL, semctl(set, 0, IPC_RMID));
    FAILS(EINVAL, shmat(shm, NULL, 0));
    FAILS(EINVAL, shmctl(shm, IPC_STAT, &ds));
    FAILS(EINVAL, msgsnd(queue, &note, sizeof note.text, IPC_NOWAIT));
    FAILS(EINVAL, msgrcv(queue, &note, sizeof note.text, 0, IPC_NOWAIT));
}

static void absent(void)
{
    FAILS(ENOENT, semget(key, 0, 0));
    FAILS(ENOENT, shmget(key, 0, 0));
    FAILS(ENOENT, msgget(key, 0));
}

static void busy(int n)
{
    int e;
    do
        e = up(set, n, 1) || up(set, n, -1);
    while (!e);
    CHECK(errno == EIDRM, "busy: %s", strerror(errno));
}

static void shut(void)
{
    struct note note = { .mtype = 1 };
    FAILS(EIDRM, up(set, 0, 1));
    FAILS(EIDRM, up(set, 0, -1));
    FAILS(EIDRM, semctl(set, 0, GETVAL));
    FAILS(EIDRM, semctl(set, 0, SETVAL, 9));
    FAILS(EIDRM, semget(key, 0, 0));
    FAILS(EIDRM, shmat(shm, NULL, 0));
    FAILS(EIDRM, shmget(IPC_PRIVATE, 4096, 0600));
    FAILS(EIDRM, msgsnd(queue, &note, sizeof note.text, 0));
    FAILS(EIDRM, msgrcv(queue, &note, sizeof note.text, 0, 0));
}

/* glibc counts those who wait for a sem_t in its second word. */
static int asleep(int n)
{
    return ((volatile int *)&objects()->sem[n])[1];
}

static void lock(void)
{
    int e = pthread_mutex_lock(&objects()->mutex);
    if (e == EOWNERDEAD)
        printf("owner died\n");
    else
        CHECK(e == 0, "pthread_mutex_lock: %s", strerror(e));
}

static void unlock(void)
{
    pthread_mutex_consistent(&objects()->mutex);
    CHECK(pthread_mutex_unlock(&objects()->mutex) == 0, "pthread_mutex_unlock");
}

/* Looks for half a second. */
static void still(void)
{
    unsigned long before = objects()->count;
    CHECK(before, "nobody has counted");
    for (int i = 0; i < 500; i++) {
        unsigned long now = objects()->count;
        CHECK(now == before, "somebody counts: %lu more after %d ms", now - before, i);
        nap_ms(1);
    }
}

static void step(const char *name, const char *text)
{
    struct note note = { .mtype = first, .text = "note" };
    struct sembuf hold = { (unsigned short)first, -1, SEM_UNDO };
    if (!strcmp(name, "make"))
        make();
    else if (!strcmp(name, "find"))
        find();
    else if (!strcmp(name, "add"))
        MUST(up(set, first, 1));
    else if (!strcmp(name, "take"))
        MUST(up(set, first, -1));
    else if (!strcmp(name, "hold"))
        MUST(semop(set, &hold, 1));
    else if (!strcmp(name, "attach"))
        memset(MUST(shmat(shm, NULL, 0)), 0x5a, 4096);
    else if (!strcmp(name, "send"))
        MUST(msgsnd(queue, &note, sizeof note.text, 0));
    else if (!strcmp(name, "receive"))
        MUST(msgrcv(queue, &note, sizeof note.text, first, 0));
    else if (!strcmp(name, "post"))
        MUST(sem_post(&objects()->sem[first]));
    else if (!strcmp(name, "wait"))
        MUST(sem_wait(&objects()->sem[first]));
    else if (!strcmp(name, "asleep"))
        UNTIL(asleep(first) == second);
    else if (!strcmp(name, "lock"))
        lock();
    else if (!strcmp(name, "unlock"))
        unlock();
    else if (!strcmp(name, "value"))
        UNTIL(MUST(semctl(set, first, GETVAL)) == second);
    else if (!strcmp(name, "waiters"))
        UNTIL(MUST(semctl(set, first, GETNCNT)) == second);
    else if (!strcmp(name, "attached"))
        UNTIL(attached() == (unsigned long)first);
    else if (!strcmp(name, "count"))
        for (struct objects *o = objects();;)
            o->count++;
    else if (!strcmp(name, "still"))
        still();
    else if (!strcmp(name, "say"))
        printf("%s\n", text);
    else if (!strcmp(name, "pause"))
        pause();
    else if (!strcmp(name, "remove"))
        remove_old(key);
    else if (!strcmp(name, "ids"))
        printf("ids %d %d %d %#x\n", set, shm, queue, (unsigned)key);
    else if (!strcmp(name, "set"))
        set = first;
    else if (!strcmp(name, "shm"))
        shm = first;
    else if (!strcmp(name, "queue"))
        queue = first;
    else if (!strcmp(name, "dismissed"))
        FAILS(EIDRM, up(set, first, -1));
    else if (!strcmp(name, "denied"))
        denied();
    else if (!strcmp(name, "absent"))
        absent();
    else if (!strcmp(name, "busy"))
        busy(first);
    else if (!strcmp(name, "drain"))
        MUST(semctl(set, first, SETVAL, 0));
    else if (!strcmp(name, "shut"))
        shut();
    else {
        fprintf(stderr, "steps: there is no step '%s'\n", name);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3 || strlen(argv[1]) != 1) {
        fprintf(stderr, "usage: steps LETTER STEP...\n");
        return 2;
    }
    begin();
    key = MUST(ftok("/etc/passwd", argv[1][0]));
    for (int i = 2; i < argc; i++) {
        char name[64], *rest;
        snprintf(name, sizeof name, "%s", argv[i]);
        if ((rest = strchr(name, '=')))
            *rest++ = 0;
        first = second = 0;
        if (rest)
            sscanf(rest, "%d:%d", &first, &second);
        step(name, rest ? rest : "");
    }
    return 0;
}
