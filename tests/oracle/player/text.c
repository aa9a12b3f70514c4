/* Reading words, and showing what was seen so that it compares. */
#include "player.h"

void split(struct words *w, char *line)
{
    w->n = 0;
    for (char *at = strtok(line, " \n"); at && w->n < 600; at = strtok(NULL, " \n"))
        w->at[w->n++] = at;
}

long number(const char *text)
{
    if (!strcmp(text, "min"))
        return INT64_MIN;
    if (!strcmp(text, "max"))
        return INT64_MAX;
    return text[0] == '-' ? strtol(text, NULL, 0) : (long)strtoul(text, NULL, 0);
}

static const struct { const char *name; long value; } NAMED[] = {
    { "creat", IPC_CREAT }, { "excl", IPC_EXCL }, { "nowait", IPC_NOWAIT }, { "undo", SEM_UNDO },
    { "noerror", MSG_NOERROR }, { "except", MSG_EXCEPT }, { "copy", 040000 },
    { "rdonly", SHM_RDONLY }, { "rnd", SHM_RND }, { "remap", SHM_REMAP }, { "exec", SHM_EXEC },
    { "noreserve", SHM_NORESERVE }, { "hugetlb", SHM_HUGETLB },
    { "r", PROT_READ }, { "w", PROT_WRITE }, { "x", PROT_EXEC },
    { "rmid", IPC_RMID }, { "set", IPC_SET }, { "stat", IPC_STAT }, { "ipcinfo", IPC_INFO },
    { "lock", SHM_LOCK }, { "unlock", SHM_UNLOCK },
    { "shmstat", SHM_STAT }, { "shminfo", SHM_INFO }, { "shmany", 15 },
    { "getpid", GETPID }, { "getval", GETVAL }, { "getall", GETALL }, { "getncnt", GETNCNT },
    { "getzcnt", GETZCNT }, { "setval", SETVAL }, { "setall", SETALL },
    { "semstat", SEM_STAT }, { "seminfo", SEM_INFO }, { "semany", 20 },
    { "msgstat", MSG_STAT }, { "msginfo", MSG_INFO }, { "msgany", 13 },
};

/* Words and numbers between bars. */
long flags(const char *text)
{
    char copy[128], *save = NULL;
    long all = 0;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *at = strtok_r(copy, "|", &save); at; at = strtok_r(NULL, "|", &save)) {
        size_t i = 0;
        while (i < sizeof NAMED / sizeof NAMED[0] && strcmp(at, NAMED[i].name))
            i++;
        all |= i < sizeof NAMED / sizeof NAMED[0] ? NAMED[i].value : number(at);
    }
    return all;
}

/* Where the variable s0 .. q7 is kept; none for another word. */
int *variable(const char *name)
{
    static const char kinds[] = "smq";
    const char *kind = name[0] ? strchr(kinds, name[0]) : NULL;
    int n = name[0] ? name[1] - '0' : -1;
    return kind && n >= 0 && n < NAMES ? &shared->variable[kind - kinds][n] : NULL;
}

/* A variable, its index (s0.i), its next life (s0.n), or a number. */
int id_of(const char *text)
{
    int *at = variable(text);
    if (!at)
        return (int)number(text);
    if (text[2] == '.' && *at >= 0)
        return text[3] == 'i' ? *at & 0x7fff : *at + 0x8000;
    return *at;
}

const char *ename(int e)
{
    static char other[32];
    const char *name = strerrorname_np(e);
    if (name)
        return name;
    snprintf(other, sizeof other, "errno%d", e);
    return other;
}

const char *pid_name(pid_t pid)
{
    if (pid == 0)
        return "0";
    for (int i = shared->known - 1; i >= 0; i--)
        if (shared->who[i].pid == pid)
            return shared->who[i].name;
    return "?";
}

/* The tick a time fell into; ticks are second boundaries the coordinator waited for. */
const char *time_name(time_t t)
{
    static char names[4][8];
    static int next;
    if (t == 0)
        return "0";
    if (t > time(NULL) + 1)
        return "future";
    int k = shared->ticks - 1;
    while (k >= 0 && shared->tick[k] > t)
        k--;
    if (k < 0)
        return "past";
    char *name = names[next++ & 3];
    snprintf(name, sizeof names[0], "t%d", k & 0xfff);
    return name;
}

uint32_t hash(const void *at, size_t n)
{
    const unsigned char *p = at;
    uint32_t h = 2166136261u;
    while (n--)
        h = (h ^ *p++) * 16777619u;
    return h;
}

void put(char **out, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(*out, 1024, fmt, ap);
    va_end(ap);
    *out += n < 1024 ? n : 1023;
}

int all_are(const void *at, size_t n, unsigned char byte)
{
    const unsigned char *p = at;
    while (n--)
        if (*p++ != byte)
            return 0;
    return 1;
}

/* Index and sequence; the rest of an id says which world it is of. */
void show_id(char **out, int id)
{
    if (id < 0)
        put(out, "%d", id);
    else
        put(out, "%d/%d", id & 0x7fff, id >> 15 & 0xfff);
}

static void show_perm(char **out, struct ipc_perm *p)
{
    put(out, "key=%x mode=%o uid=%d:%d cuid=%d:%d seq=%d", (unsigned)p->__key, p->mode,
        (int)p->uid, (int)p->gid, (int)p->cuid, (int)p->cgid, p->__seq & 0xfff);
    p->__key = 0;
    p->mode = 0;
    p->uid = p->gid = p->cuid = p->cgid = 0;
    p->__seq = 0;
}

/* What is left of a structure once its fields are shown: padding, reserved. */
#define REST(out, ds) put(out, "%s", all_are(ds, sizeof *(ds), 0) ? "" : " PADDING")

void show_shm(char **out, struct shmid_ds *ds)
{
    show_perm(out, &ds->shm_perm);
    put(out, " segsz=%zu nattch=%lu cpid=%s lpid=%s", ds->shm_segsz, (long)ds->shm_nattch,
        pid_name(ds->shm_cpid), pid_name(ds->shm_lpid));
    put(out, " atime=%s dtime=%s ctime=%s", time_name(ds->shm_atime), time_name(ds->shm_dtime),
        time_name(ds->shm_ctime));
    ds->shm_segsz = ds->shm_nattch = 0;
    ds->shm_cpid = ds->shm_lpid = 0;
    ds->shm_atime = ds->shm_dtime = ds->shm_ctime = 0;
    REST(out, ds);
}

void show_sem(char **out, struct semid_ds *ds)
{
    show_perm(out, &ds->sem_perm);
    put(out, " nsems=%lu otime=%s ctime=%s", (long)ds->sem_nsems, time_name(ds->sem_otime),
        time_name(ds->sem_ctime));
    ds->sem_nsems = 0;
    ds->sem_otime = ds->sem_ctime = 0;
    REST(out, ds);
}

void show_msg(char **out, struct msqid_ds *ds)
{
    show_perm(out, &ds->msg_perm);
    put(out, " qnum=%lu cbytes=%lu qbytes=%lu lspid=%s lrpid=%s", (long)ds->msg_qnum,
        (long)ds->__msg_cbytes, (long)ds->msg_qbytes, pid_name(ds->msg_lspid),
        pid_name(ds->msg_lrpid));
    put(out, " stime=%s rtime=%s ctime=%s", time_name(ds->msg_stime), time_name(ds->msg_rtime),
        time_name(ds->msg_ctime));
    ds->msg_qnum = ds->__msg_cbytes = ds->msg_qbytes = 0;
    ds->msg_lspid = ds->msg_lrpid = 0;
    ds->msg_stime = ds->msg_rtime = ds->msg_ctime = 0;
    REST(out, ds);
}
