/* A worker: takes one step after another from its pipe. */
#include "player.h"

#include <linux/capability.h>

extern int capset(void *header, const void *data);

enum { OWNER = 1 << CAP_IPC_OWNER, ADMIN = 1 << CAP_SYS_ADMIN, RESOURCE = 1 << CAP_SYS_RESOURCE };

/* Who a worker can be. The real user stays root, so that it can become anybody again. */
static const struct { uid_t uid; gid_t gid, group; uint64_t can; } PERSONAS[] = {
    { 0, 0, 0, ~0ull },
    { 1001, 1001, 1001, 0 },
    { 1002, 1001, 1002, 0 },
    { 1003, 1003, 1001, 0 },
    { 0, 0, 0, 0 },
    { 1003, 1003, 1003, OWNER },
    { 1003, 1003, 1003, ADMIN },
    { 1003, 1003, 1003, RESOURCE },
    { 0, 0, 1001, ~(uint64_t)(OWNER | ADMIN) },
};

static void have(uint64_t can)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct sets[2];
    memset(sets, 0, sizeof sets);
    if (syscall(SYS_capget, &header, sets) == -1)
        die("capget");
    sets[0].effective = (uint32_t)can & sets[0].permitted;
    sets[1].effective = (uint32_t)(can >> 32) & sets[1].permitted;
    if (capset(&header, sets) == -1)
        die("capset");
}

void take_persona(int persona)
{
    size_t n = sizeof PERSONAS / sizeof PERSONAS[0];
    __typeof__(PERSONAS[0]) *p = &PERSONAS[(size_t)persona % n];
    have(~0ull);
    if (seteuid(0) == -1 || setgroups(1, &p->group) == -1 || setegid(p->gid) == -1 ||
        seteuid(p->uid) == -1)
        die("persona");
    have(p->can);
}

static void nothing(int sig) { (void)sig; }

static void handle(struct slot *me)
{
    struct sigaction new = { .sa_handler = nothing, .sa_flags = me->restart ? SA_RESTART : 0 };
    sigaction(SIGUSR1, &new, NULL);
}

static void child(struct slot *me, int number, char **out)
{
    struct slot *new = &shared->slot[number];
    if (number < 0 || number >= SLOTS || new->pid) {
        put(out, "skip");
        return;
    }
    atomic_store(&new->ready, 0);
    pid_t pid = fork();
    if (pid == -1) {
        put(out, "%s", ename(errno));
        return;
    }
    if (pid == 0)
        work(number);
    new->pid = pid;
    new->parent = (int)(me - shared->slot);
    new->persona = me->persona;
    new->restart = me->restart;
    memcpy(new->address, me->address, sizeof me->address);
    atomic_store(&new->phase, IDLE);
    new->births++;
    if (shared->known < PIDS) {
        shared->who[shared->known].pid = pid;
        snprintf(shared->who[shared->known++].name, 16, "w%d.%d", number, new->births);
    }
    put(out, "0");
}

static void do_step(int number)
{
    struct slot *me = &shared->slot[number];
    struct words w;
    char line[LINE], *out = me->result;
    snprintf(line, sizeof line, "%s", me->line);
    split(&w, line);
    *out = 0;
    atomic_store(&me->phase, IN_CALL);
    if (w.n == 0) {
        put(&out, "empty");
    } else if (do_call(me, &w, &out) || do_control(me, &w, &out) || do_memory(me, &w, &out)) {
        /* done */
    } else if (!strcmp(w.at[0], "persona")) {
        me->persona = (int)strtol(w.at[1], NULL, 10);
        take_persona(me->persona);
        put(&out, "0");
    } else if (!strcmp(w.at[0], "handler")) {
        me->restart = !strcmp(w.at[1], "restart");
        handle(me);
        put(&out, "0");
    } else if (!strcmp(w.at[0], "fork")) {
        child(me, (int)strtol(w.at[1], NULL, 10), &out);
    } else if (!strcmp(w.at[0], "exec")) {
        char name[16];
        snprintf(name, sizeof name, "%d", number);
        memset(me->address, 0, sizeof me->address);
        put(&out, "0");
        /* A program whose effective user is not its real one is not preloaded. */
        take_persona(0);
        execl("/proc/self/exe", "player", "--worker", name, NULL);
        die("exec");
    } else if (!strcmp(w.at[0], "exit")) {
        exit(0);
    } else if (!strcmp(w.at[0], "quit")) {
        _exit(0);
    } else if (!strcmp(w.at[0], "reap")) {
        pid_t pid = (pid_t)strtol(w.at[1], NULL, 10);
        put(&out, "%s", waitpid(pid, NULL, 0) == pid ? "0" : ename(errno));
    } else {
        put(&out, "no such step");
    }
    atomic_store(&me->phase, DONE);
}

_Noreturn void work(int number)
{
    struct slot *me = &shared->slot[number];
    struct sched_param first = { .sched_priority = 1 };
    /* Woken ones run in the order in which they were woken, before the next step is given.
     * Without the right to that, order is what the scheduler makes of it. */
    sched_setscheduler(0, SCHED_FIFO, &first);
    handle(me);
    atomic_store(&me->ready, 1);
    /* The programs are the coordinator's to read; at exit the C library would turn back what
     * was read ahead. */
    close(0);
    /* Only the coordinator writes: its end is then the end of the pipe. */
    for (int i = 0; i < SLOTS; i++)
        close(FIRST_FD + 2 * i + 1);
    /* The end of an exec. */
    if (atomic_load(&me->phase) == IN_CALL) {
        /* The new program takes part before anybody looks at what the old one left. */
        msgctl(0, MSG_INFO, (void *)(char[256]){ 0 });
        take_persona(me->persona);
        atomic_store(&me->phase, DONE);
    }
    for (;;) {
        char c;
        ssize_t n = read(FIRST_FD + 2 * number, &c, 1);
        if (n == 0)
            _exit(0);
        if (n == 1)
            do_step(number);
    }
}
