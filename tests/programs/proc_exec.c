/* exec by every name, from any thread, and one that fails: what goes, what stays. */
#include "vt.h"

extern char **environ;
static char *self;
static int sem, shm;
static struct shmid_ds ds;
static long nattch(void)
{
    MUST(shmctl(shm, IPC_STAT, &ds));
    return (long)ds.shm_nattch;
}

/* The program executed: it has its former image's adjustments and none of its attachments. */
static int after(char **argv)
{
    sem = atoi(argv[1]);
    shm = atoi(argv[2]);
    VAL(getval(sem, 0));
    VAL(nattch());
    MUST(SEMOP(sem, OP(0, -1, SEM_UNDO)));
    char *p = shmat(shm, NULL, 0);
    say("%s, and counts %ld", p, nattch());
    VAL(getval(sem, 0));
    return 0;
}

static char a1[16], a2[16];
static char *args[] = { "proc_exec", a1, a2, NULL };

static void *exec_here(void *arg)
{
    (void)arg;
    execv(self, args);
    die("execv");
}

static void *wait_for_ever(void *arg)
{
    gate *begun = arg;
    gate_open(*begun);
    SEMOP(sem, OP(1, -1, SEM_UNDO));
    return NULL;
}

static void child(const char *how)
{
    char *p = shmat(shm, NULL, 0);
    shmat(shm, NULL, SHM_RDONLY);
    MUST(SEMOP(sem, OP(0, -2, SEM_UNDO)));
    strcpy(p, how);
    gate begun = new_gate();
    pthread_t t;
    if (strcmp(how, "execv") == 0)
        execv(self, args);
    else if (strcmp(how, "execve") == 0)
        execve(self, args, environ);
    else if (strcmp(how, "execvp") == 0)
        execvp(self, args);
    else if (strcmp(how, "execvpe") == 0)
        execvpe(self, args, environ);
    else if (strcmp(how, "execl") == 0)
        execl(self, args[0], a1, a2, (char *)NULL);
    else if (strcmp(how, "execlp") == 0)
        execlp(self, args[0], a1, a2, (char *)NULL);
    else if (strcmp(how, "execle") == 0)
        execle(self, args[0], a1, a2, (char *)NULL, environ);
    else if (strcmp(how, "fexecve") == 0)
        fexecve(open(self, O_RDONLY | O_CLOEXEC), args, environ);
    else if (strcmp(how, "execveat") == 0)
        syscall(SYS_execveat, AT_FDCWD, self, args, environ, 0);
    else if (strcmp(how, "SYS_execve") == 0)
        syscall(SYS_execve, self, args, environ);
    else if (strcmp(how, "another thread") == 0) {
        pthread_create(&t, NULL, exec_here, NULL);
        pthread_join(t, NULL);
    } else if (strcmp(how, "while threads wait") == 0) {
        for (int i = 0; i < 3; i++) {
            pthread_create(&t, NULL, wait_for_ever, &begun);
            gate_wait(begun);
        }
        UNTIL(ncnt(sem, 1) == 3);
        execv(self, args);
    }
    die("%s", how);
}

int main(int argc, char **argv)
{
    begin();
    if (argc == 3)
        return after(argv);
    self = realpath("/proc/self/exe", NULL);
    sem = new_sem(2);
    shm = new_shm(4096);
    setval(sem, 0, 10);
    snprintf(a1, sizeof a1, "%d", sem);
    snprintf(a2, sizeof a2, "%d", shm);
    static char *const names[] = { "execv", "execve", "execvp", "execvpe", "execl", "execlp", "execle",
        "fexecve", "execveat", "SYS_execve", "another thread", "while threads wait" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        say("- %s", names[i]);
        IN_CHILD(child(names[i]));
        UNTIL(getval(sem, 0) == 10 && nattch() == 0 && ncnt(sem, 1) == 0);
        say("value %d, nattch %ld, waiting %d", getval(sem, 0), nattch(), ncnt(sem, 1));
    }

    say("- one that fails");
    IN_CHILD({
        char *p = shmat(shm, NULL, 0);
        MUST(SEMOP(sem, OP(0, -3, SEM_UNDO)));
        RC(execl("/nowhere/at/all", "x", (char *)NULL));
        RC(execl("/dev/null", "x", (char *)NULL));
        static char huge[1 << 20];
        memset(huge, 'x', sizeof huge - 1);
        char *const much[] = { "x", huge, huge, huge, NULL };
        YES(execv(self, much) == -1 && errno == E2BIG);
        strcpy(p, "still here");
        VAL(getval(sem, 0));
        VAL(nattch());
        RC(SEMOP(sem, OP(0, 1, SEM_UNDO)));
        RC(shmdt(p));
        VAL(nattch());
    });
    UNTIL(getval(sem, 0) == 10);
    say("value %d, nattch %ld", getval(sem, 0), nattch());

    say("- a chain of three");
    IN_CHILD({
        MUST(SEMOP(sem, OP(0, -4, SEM_UNDO)));
        char line[128];
        snprintf(line, sizeof line, "exec sh -c 'exec \"$0\" %s %s' \"$0\"", a1, a2);
        execl("/bin/sh", "sh", "-c", line, self, (char *)NULL);
        die("execl");
    });
    UNTIL(getval(sem, 0) == 10);
    say("value %d, nattch %ld", getval(sem, 0), nattch());
    return 0;
}
