/* What a process pays once, and what an idle one costs.
 *
 *     life CODE AMOUNT
 *
 * Each sample of CODE is a fresh image of this program: the first call of its
 * life, or its first segment. `asleep` waits in semop until it is killed. */
#include "bench.h"

static void first_call(void) { MUST(semctl(MUST(semget(IPC_PRIVATE, 1, 0600)), 0, IPC_RMID)); }

static void first_touch(void)
{
    int id = MUST(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600));
    char *at = MUST(shmat(id, NULL, 0));
    *at = 1;
    MUST(shmctl(id, IPC_RMID, NULL));
}

/* As first_touch, and what that is beside: the same from the kernel's shared
 * memory that has no calls of System V. */
static void first_map(void)
{
    int fd = MUST(memfd_create("bench", 0));
    MUST(ftruncate(fd, 4096));
    char *at = MUST(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    *at = 1;
}

static void asleep(void)
{
    int id = MUST(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600));
    struct sembuf op = { 0, -1, 0 };
    puts("ready");
    fflush(stdout);
    semop(id, &op, 1);
    exit(1);
}

static const struct { const char *name; void (*code)(void); } CODES[] = {
    { "first-call", first_call },
    { "first-touch", first_touch },
    { "first-map", first_map },
    { "asleep", asleep },
};

int main(int argc, char **argv)
{
    void (*code)(void) = NULL;
    for (size_t i = 0; argc == 3 && i < sizeof CODES / sizeof *CODES; i++)
        if (!strcmp(argv[1], CODES[i].name))
            code = CODES[i].code;
    if (code == NULL) {
        fprintf(stderr, "usage: life CODE AMOUNT\n");
        return 2;
    }
    if (code == asleep)
        asleep();
    if (!strcmp(argv[2], "once")) {
        double start = now();
        code();
        printf("%.0f\n", now() - start);
        return 0;
    }
    amount(argv[2]);
    alarm(120);
    char once[] = "once", *arguments[] = { argv[0], argv[1], once, NULL };
    double begun = now();
    do {
        pid_t pid = child();
        if (pid == 0) {
            execv("/proc/self/exe", arguments);
            _exit(1);
        }
        ended(pid);
    } while (now() - begun < slice);
    return 0;
}
