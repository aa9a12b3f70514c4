/* The calls that make, use and wait: *get, semop, msgsnd, msgrcv. */
#include "player.h"

static int is(const char *a, const char *b) { return !strcmp(a, b); }

static int key_of(const char *text)
{
    return is(text, "private") ? IPC_PRIVATE : KEY_BASE + (int)number(text + 1);
}

/* Memory that is bad in some way. `size` is what the call will touch. */
void *pointer(struct words *w, void *good, size_t size)
{
    static char *wild;
    const char *how = w->n ? w->at[w->n - 1] : "";
    if (how[0] != '@')
        return good;
    w->n--;
    if (!wild) {
        /* readable and written, read-only, not at all, nothing */
        wild = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (wild == MAP_FAILED)
            die("mmap");
        mprotect(wild + 4096, 4096, PROT_READ);
        mprotect(wild + 8192, 4096, PROT_NONE);
        munmap(wild + 12288, 4096);
    }
    if (is(how, "@null"))
        return NULL;
    if (is(how, "@low"))
        return (void *)8;
    if (is(how, "@ro"))
        return wild + 4096;
    if (is(how, "@none"))
        return wild + 8192;
    if (is(how, "@kernel"))
        return (void *)0xffff888000000000;
    if (is(how, "@odd"))
        return (void *)0x8000000000000000;
    if (is(how, "@edge")) {
        /* Its first half can be read, not written; the other half not at all. */
        char *at = wild + 8192 - size / 2;
        return at;
    }
    die(how);
}

static void got_id(struct words *w, int id, char **out)
{
    const char *to = w->at[w->n - 1];
    if (id >= 0 && to[0] == '=') {
        int *at = variable(to + 1);
        if (at)
            *at = id;
    }
    if (id < 0)
        put(out, "%s", ename(errno));
    else
        show_id(out, id);
}

static int parse_ops(struct words *w, int from, struct sembuf *ops)
{
    int n = 0;
    for (int i = from; i < w->n; i++) {
        char *save = NULL, *num = strtok_r(w->at[i], ":", &save);
        char *op = strtok_r(NULL, ":", &save), *flg = strtok_r(NULL, ":", &save);
        ops[n++] = (struct sembuf){ (unsigned short)number(num), (short)(op ? number(op) : 0),
                                    (short)(flg ? flags(flg) : 0) };
    }
    return n;
}

static void plain(char **out, long rc)
{
    if (rc == -1)
        put(out, "%s", ename(errno));
    else
        put(out, "%ld", rc);
}

static struct timespec *limit_of(const char *text, struct timespec *t)
{
    *t = (struct timespec){ 0, 0 };
    if (is(text, "none"))
        return NULL;
    if (is(text, "short"))
        t->tv_nsec = 2000000;
    else if (is(text, "long"))
        t->tv_sec = 3600;
    else if (is(text, "forever"))
        t->tv_sec = INT64_MAX;
    else if (is(text, "negative"))
        t->tv_sec = -1;
    else if (is(text, "nanos"))
        t->tv_nsec = 1000000000;
    else if (is(text, "nowhere"))
        return (struct timespec *)8;
    return t;
}

struct message { long type; char text[MOST_TEXT]; };

static void send(struct words *w, int step, char **out)
{
    static struct message m;
    long n = number(w->at[3]);
    m.type = number(w->at[2]);
    for (long i = 0; i < n && i < MOST_TEXT; i++)
        m.text[i] = (char)(step * 7 + i);
    long how = flags(w->at[4]);
    void *at = pointer(w, &m, sizeof m.type + (n > 0 && n < 4096 ? (size_t)n : 0));
    plain(out, msgsnd(id_of(w->at[1]), at, (size_t)n, (int)how));
}

static void receive(struct words *w, char **out)
{
    static struct message m;
    long n = number(w->at[2]), type = number(w->at[3]);
    long how = flags(w->at[4]);
    void *at = pointer(w, &m, sizeof m.type + (n > 0 && n < 4096 ? (size_t)n : 0));
    memset(&m, 0xaa, sizeof m);
    ssize_t got = msgrcv(id_of(w->at[1]), at, (size_t)n, type, (int)how);
    if (got == -1) {
        put(out, "%s%s", ename(errno), all_are(&m, sizeof m, 0xaa) ? "" : " touched");
        return;
    }
    put(out, "%zd type=%ld text=%08x%s", got, m.type, hash(m.text, (size_t)got),
        all_are(m.text + got, sizeof m.text - (size_t)got, 0xaa) ? "" : " beyond");
}

int do_call(struct slot *me, struct words *w, char **out)
{
    static struct sembuf ops[40000];
    const char *call = w->at[0];
    if (is(call, "semget")) {
        got_id(w, semget(key_of(w->at[1]), (int)number(w->at[2]), (int)flags(w->at[3])), out);
    } else if (is(call, "shmget")) {
        got_id(w, shmget(key_of(w->at[1]), (size_t)number(w->at[2]), (int)flags(w->at[3])), out);
    } else if (is(call, "msgget")) {
        got_id(w, msgget(key_of(w->at[1]), (int)flags(w->at[2])), out);
    } else if (is(call, "semop")) {
        struct sembuf *at = pointer(w, ops, sizeof *ops);
        int n = parse_ops(w, 2, ops);
        plain(out, semop(id_of(w->at[1]), at, (size_t)n));
    } else if (is(call, "semtimedop")) {
        struct timespec t;
        struct sembuf *at = pointer(w, ops, sizeof *ops);
        int n = parse_ops(w, 3, ops);
        plain(out, semtimedop(id_of(w->at[1]), at, (size_t)n, limit_of(w->at[2], &t)));
    } else if (is(call, "semmany")) {
        /* so many of the same operation */
        size_t n = (size_t)number(w->at[2]);
        struct sembuf *at = pointer(w, ops, sizeof *ops);
        parse_ops(w, 3, ops);
        for (size_t i = 1; i < n && i < sizeof ops / sizeof ops[0]; i++)
            ops[i] = ops[0];
        plain(out, semop(id_of(w->at[1]), at, n));
    } else if (is(call, "msgsnd")) {
        send(w, me->step, out);
    } else if (is(call, "msgrcv")) {
        receive(w, out);
    } else {
        return 0;
    }
    return 1;
}
