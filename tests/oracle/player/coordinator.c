/* The coordinator: one program after another, one step after another. */
#include "player.h"

struct shared *shared;

static char transcript[4 << 20];
static char *out = transcript;
static pid_t coordinator;
static int lies;
static int most_workers;

/* A step that takes longer is told as hanging; nothing in a program takes as long. */
enum { HANGS_AFTER_MS = 20000 };

_Noreturn void die(const char *what)
{
    fprintf(stderr, "player: %s: %s\n", what, ename(errno));
    if (getpid() != coordinator)
        kill(coordinator, SIGABRT);
    _exit(70);
}

static void flush(void)
{
    for (char *at = transcript; at < out;) {
        ssize_t n = write(1, at, (size_t)(out - at));
        if (n <= 0)
            _exit(71);
        at += n;
    }
    out = transcript;
}

void say(const char *fmt, ...)
{
    va_list ap;
    if (out > transcript + sizeof transcript - 2 * RESULT)
        flush();
    va_start(ap, fmt);
    out += vsnprintf(out, RESULT, fmt, ap);
    va_end(ap);
}

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Reads a small file of /proc: its first line. */
static int look(pid_t pid, const char *file, char *line, size_t n)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
        return 0;
    ssize_t got = read(fd, line, n - 1);
    close(fd);
    line[got > 0 ? got : 0] = 0;
    return got > 0;
}

static char state_of(pid_t pid)
{
    char line[512];
    if (!look(pid, "stat", line, sizeof line))
        return '?';
    char *end = strrchr(line, ')');
    return end && end[1] ? end[2] : '?';
}

/* Whether it sleeps in a call that waits for others. */
static int asleep(pid_t pid)
{
    char line[256];
    if (!look(pid, "syscall", line, sizeof line) || line[0] == 'r')
        return 0;
    switch (strtol(line, NULL, 10)) {
    case SYS_semop: case SYS_semtimedop: case SYS_msgsnd: case SYS_msgrcv: case SYS_futex:
    case SYS_futex_waitv:
    case SYS_restart_syscall: /* a wait with a limit, after a stop */
        return state_of(pid) == 'S';
    }
    return 0;
}

/* Until the worker has finished (1), sleeps in its call (0), or is dead (-1). */
static int settle(int number)
{
    struct slot *s = &shared->slot[number];
    int must_end = !strncmp(s->line, "semtimedop", 10) && strstr(s->line, " short ");
    long until = now_ms() + HANGS_AFTER_MS;
    for (int round = 0;; round++) {
        int phase = atomic_load(&s->phase);
        if (phase == DONE)
            return 1;
        if (phase == IN_CALL && !must_end && asleep(s->pid) && atomic_load(&s->phase) == IN_CALL)
            return 0;
        if (round > 20 && strchr("ZX?", state_of(s->pid)))
            return -1;
        if (now_ms() > until) {
            char line[256] = "";
            look(s->pid, "syscall", line, sizeof line);
            say("HANG %d: %s: state %c, system call %s\n", number, s->line, state_of(s->pid), line);
            flush();
            kill(0, SIGKILL);
        }
        if (round < 3) {
            sched_yield();
        } else {
            struct timespec t = { 0, 100000 };
            nanosleep(&t, NULL);
        }
    }
}

static void told(int number, int later)
{
    struct slot *s = &shared->slot[number];
    char *at = s->result;
    if (lies && strstr(s->line, " getval") && strtol(at, NULL, 10) > 1)
        at[0]--;
    if (later)
        say("   w%d, step %d: %s\n", number, s->step, at);
    else
        say("%s\n", at);
    s->waits = 0;
    atomic_store(&s->phase, IDLE);
}

static int reap(int number);

static void gone(int number)
{
    shared->slot[number].pid = 0;
    shared->slot[number].waits = 0;
    for (int i = 0; i < SLOTS; i++)
        if (shared->slot[i].parent == number)
            shared->slot[i].parent = -1;
}

static void died(int number, const char *why)
{
    say("   w%d %s\n", number, why);
    gone(number);
}

/* Whatever the last step set going comes to rest. */
static void settle_all(void)
{
    for (int again = 1; again;) {
        again = 0;
        for (int i = 0; i < SLOTS; i++) {
            if (!shared->slot[i].pid || !shared->slot[i].waits)
                continue;
            int how = settle(i);
            if (how == 0)
                continue;
            again = 1;
            if (how > 0)
                told(i, 1);
            else if (reap(i))
                died(i, "DIED");
        }
    }
}

static void give(int number, int step, const char *line)
{
    struct slot *s = &shared->slot[number];
    s->step = step;
    snprintf(s->line, sizeof s->line, "%s", line);
    atomic_store(&s->phase, GIVEN);
    if (write(FIRST_FD + 2 * number + 1, "x", 1) != 1)
        die("pipe");
}

/* Whether somebody could wait for its end now. */
static int can_reap(int number)
{
    int parent = shared->slot[number].parent;
    return parent == -1 || !shared->slot[parent].waits;
}

/* Has the one who must wait for it do so; true when it is gone. */
static int reap(int number)
{
    struct slot *s = &shared->slot[number];
    if (s->parent == -1)
        return waitpid(s->pid, NULL, 0) == s->pid;
    char line[32], before[LINE];
    struct slot *parent = &shared->slot[s->parent];
    snprintf(line, sizeof line, "reap %d", s->pid);
    snprintf(before, sizeof before, "%s", parent->line);
    give(s->parent, parent->step, line);
    if (settle(s->parent) != 1)
        return 0;
    atomic_store(&parent->phase, IDLE);
    return 1;
}

static void birth(int number)
{
    struct slot *s = &shared->slot[number];
    int births = s->births;
    memset(s, 0, sizeof *s);
    s->births = births + 1;
    s->parent = -1;
    /* Registered before it runs. */
    pid_t pid = fork();
    if (pid == -1)
        die("fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        work(number);
    }
    s->pid = pid;
    if (shared->known < PIDS) {
        shared->who[shared->known].pid = pid;
        snprintf(shared->who[shared->known++].name, 16, "w%d.%d", number, s->births);
    }
}

/* ---- steps ---- */

static void wait_for_tick(void)
{
    time_t last = time(NULL);
    while (time(NULL) == last) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        struct timespec rest = { 0, 1000000000 - t.tv_nsec };
        nanosleep(&rest, NULL);
    }
    if (shared->ticks < TICKS)
        shared->tick[shared->ticks++] = time(NULL);
}

/* Whether anybody else sleeps for a message or for room, as this one does. */
static int others_wait(int number)
{
    for (int i = 0; i < SLOTS; i++)
        if (i != number && shared->slot[i].waits && !strncmp(shared->slot[i].line, "msg", 3) &&
            !strncmp(shared->slot[number].line, "msg", 3))
            return 1;
    return 0;
}

/* kill, signal, stop: what is done to a worker. */
static void from_outside(char *line)
{
    struct words w;
    split(&w, line);
    if (!strcmp(w.at[0], "tick")) {
        wait_for_tick();
        say("0\n");
        return;
    }
    int number = w.n > 1 ? atoi(w.at[1]) & (SLOTS - 1) : 0;
    struct slot *s = &shared->slot[number];
    while (s->pid && !atomic_load(&s->ready) && state_of(s->pid) != 'Z')
        sched_yield();
    if (!strcmp(w.at[0], "spawn")) {
        if (s->pid)
            say("skip\n");
        else
            birth(number), say("0\n");
    } else if (!s->pid) {
        say("skip\n");
    } else if (!strcmp(w.at[0], "kill")) {
        if (!can_reap(number)) {
            say("skip\n");
            return;
        }
        kill(s->pid, SIGKILL);
        int gone = reap(number);
        say("%s\n", gone ? "0" : "not reaped");
        died(number, "dead");
    } else if (!strcmp(w.at[0], "signal")) {
        kill(s->pid, SIGUSR1);
        say("0\n");
    } else if (!strcmp(w.at[0], "stop") && s->waits && others_wait(number)) {
        /* Who is first after a stop is not the same everywhere. */
        say("skip\n");
    } else if (!strcmp(w.at[0], "stop")) {
        kill(s->pid, SIGSTOP);
        long until = now_ms() + HANGS_AFTER_MS;
        while (state_of(s->pid) != 'T' && now_ms() < until)
            sched_yield();
        kill(s->pid, SIGCONT);
        say("0\n");
    } else {
        say("no such step\n");
    }
}

/* 3: worker 3. *3: the first after it that has nothing to do, else 3. */
static int idle_from(const char *line)
{
    int first = (line[line[0] == '*'] - '0') & (SLOTS - 1);
    for (int i = 0; line[0] == '*' && i < SLOTS; i++) {
        struct slot *s = &shared->slot[(first + i) & (SLOTS - 1)];
        if (s->pid && !s->waits)
            return (first + i) & (SLOTS - 1);
    }
    return first;
}

static void do_line(int step, char *line)
{
    char echo[LINE];
    if (line[0] == '*')
        snprintf(echo, sizeof echo, "%d%s", idle_from(line), line + 2);
    else
        snprintf(echo, sizeof echo, "%s", line);
    say("%d %s: ", step, echo);
    if (line[0] == '-') {
        from_outside(line + 2);
    } else {
        int number = idle_from(line);
        struct slot *s = &shared->slot[number];
        char *what = strchr(line, ' ') + 1;
        int leaves = !strncmp(what, "exit", 4) || !strncmp(what, "quit", 4);
        if (!s->pid || s->waits || (leaves && !can_reap(number))) {
            say("skip\n");
            return;
        }
        give(number, step, what);
        if (leaves) {
            int gone = reap(number);
            say("%s\n", gone ? "0" : "not reaped");
            died(number, "dead");
        } else {
            int how = settle(number);
            if (how > 0) {
                told(number, 0);
            } else if (how == 0) {
                s->waits = 1;
                say("waits\n");
            } else {
                say("DIED\n");
                if (reap(number))
                    died(number, "DIED");
            }
        }
    }
    settle_all();
}

static void play(char *header)
{
    struct words w;
    char name[64];
    split(&w, header);
    snprintf(name, sizeof name, "%s", w.n > 1 ? w.at[1] : "?");
    int workers = w.n > 2 ? atoi(w.at[2]) : 3, watch = w.n > 3 && !strcmp(w.at[3], "watched");
    say("program %s\n", name);
    memset(shared, 0, sizeof *shared);
    memset(shared->variable, 0xff, sizeof shared->variable);
    forget_looks();
    shared->tick[shared->ticks++] = time(NULL);
    shared->who[0].pid = getpid();
    snprintf(shared->who[0].name, 16, "co");
    shared->known = 1;
    most_workers = workers < SLOTS ? workers : SLOTS;
    for (int i = 0; i < most_workers; i++)
        birth(i);
    static char line[LINE];
    for (int step = 1; fgets(line, sizeof line, stdin); step++) {
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "end"))
            break;
        if (strlen(line) < 3)
            continue;
        do_line(step, line);
        if (watch)
            look_at_all();
    }
    /* One after another, so that who left last is the same everywhere. Children of
     * one that is gone are the coordinator's. */
    for (int left = 1; left;) {
        left = 0;
        for (int i = 0; i < SLOTS; i++) {
            struct slot *s = &shared->slot[i];
            left |= s->pid && s->parent != -1;
            if (!s->pid || s->parent != -1)
                continue;
            kill(s->pid, SIGKILL);
            waitpid(s->pid, NULL, 0);
            gone(i);
        }
    }
    clean();
    say("end %s\n", name);
    flush();
}

static void share(int first)
{
    if (first) {
        int fd = memfd_create("player", 0);
        if (fd == -1 || ftruncate(fd, sizeof *shared) == -1 || dup2(fd, SHARED_FD) == -1)
            die("memfd");
        close(fd);
    }
    shared = mmap(SHARED_AT, sizeof *shared, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_FIXED_NOREPLACE, SHARED_FD, 0);
    if (shared == MAP_FAILED)
        die("mmap");
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--worker")) {
        coordinator = getppid();
        share(0);
        work(atoi(argv[2]));
    }
    coordinator = getpid();
    lies = getenv("PLAYER_LIES") != NULL;
    const char *cpu = getenv("PLAYER_CPU");
    if (cpu) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)atoi(cpu), &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    /* Nobody is left behind by a driver that was killed. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    umask(0);
    share(1);
    for (int i = 0; i < SLOTS; i++) {
        int fd[2];
        if (pipe(fd) == -1 || dup2(fd[0], FIRST_FD + 2 * i) == -1 ||
            dup2(fd[1], FIRST_FD + 2 * i + 1) == -1)
            die("pipe");
        close(fd[0]);
        close(fd[1]);
    }
    /* The coordinator takes part: it waits for workers, and their end is its to see. */
    msgctl(0, MSG_INFO, (void *)(char[256]){ 0 });
    static char line[LINE];
    while (fgets(line, sizeof line, stdin))
        if (!strncmp(line, "program ", 8))
            play(line);
    return 0;
}
