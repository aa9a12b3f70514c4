/* semctl, shmctl, msgctl. */
#include "player.h"

union semun {
    int val;
    void *buf;
    unsigned short *array;
    unsigned long raw;
};

static int is(const char *a, const char *b) { return !strcmp(a, b); }

static void failed(char **out, const void *at, size_t n)
{
    put(out, "%s%s", ename(errno), all_are(at, n, 0xaa) ? "" : " touched");
}

static void info_shm(char **out, void *at)
{
    struct shminfo *i = at;
    put(out, " shmmax=%lu shmmin=%lu shmmni=%lu shmseg=%lu shmall=%lu", i->shmmax, i->shmmin,
        i->shmmni, i->shmseg, i->shmall);
    put(out, "%s", all_are(&i->shmall + 1, 32, 0) ? "" : " PADDING");
}

static void usage_shm(char **out, void *at)
{
    struct shm_info *i = at;
    put(out, " used=%d tot=%lu rss=%lu swp=%lu attempts=%lu successes=%lu", i->used_ids, i->shm_tot,
        i->shm_rss, i->shm_swp, i->swap_attempts, i->swap_successes);
}

static void control_shm(struct words *w, char **out)
{
    static union { struct shmid_ds ds; struct shminfo limits; struct shm_info usage; } u;
    int id = id_of(w->at[1]), command = (int)flags(w->at[2]);
    memset(&u, 0xaa, sizeof u);
    void *at = pointer(w, &u, sizeof u.ds);
    if (command == IPC_SET && w->n > 5) {
        memset(&u, 0, sizeof u);
        u.ds.shm_perm.uid = (uid_t)number(w->at[3]);
        u.ds.shm_perm.gid = (gid_t)number(w->at[4]);
        u.ds.shm_perm.mode = (unsigned short)number(w->at[5]);
    }
    int rc = shmctl(id, command, at);
    if (rc == -1) {
        if (command == IPC_SET)
            put(out, "%s", ename(errno));
        else
            failed(out, &u, sizeof u);
        return;
    }
    if (command == SHM_STAT || command == 15)
        show_id(out, rc);
    else
        put(out, "%d", rc);
    if (command == IPC_STAT || command == SHM_STAT || command == 15) {
        put(out, " ");
        show_shm(out, &u.ds);
    } else if (command == IPC_INFO) {
        info_shm(out, &u);
    } else if (command == SHM_INFO) {
        usage_shm(out, &u);
    }
}

static void show_values(char **out, const unsigned short *all)
{
    int n = 0;
    while (n < MOST_SEMS && all[n] != 0xffff)
        n++;
    put(out, " %d:", n);
    for (int i = 0; i < n && i < 12; i++)
        put(out, " %u", all[i]);
    put(out, " #%08x", hash(all, (size_t)n * sizeof *all));
}

static void control_sem(struct words *w, char **out)
{
    static unsigned short all[MOST_SEMS + 1];
    static union { struct semid_ds ds; struct seminfo limits; } u;
    int id = id_of(w->at[1]), num = (int)number(w->at[2]), command = (int)flags(w->at[3]);
    union semun arg = { .raw = 0 };
    memset(&u, 0xaa, sizeof u);
    memset(all, 0xff, sizeof all);
    if (command == SETVAL) {
        arg.val = w->n > 4 ? (int)number(w->at[4]) : 0;
    } else if (command == SETALL || command == GETALL) {
        arg.array = pointer(w, all, 4);
        int value = 0;
        for (int i = 0; command == SETALL && i < MOST_SEMS; i++) {
            if (i + 4 < w->n)
                value = (int)number(w->at[i + 4]);
            all[i] = (unsigned short)value;
        }
    } else {
        arg.buf = pointer(w, &u, sizeof u.ds);
        if (command == IPC_SET && w->n > 6) {
            memset(&u, 0, sizeof u);
            u.ds.sem_perm.uid = (uid_t)number(w->at[4]);
            u.ds.sem_perm.gid = (gid_t)number(w->at[5]);
            u.ds.sem_perm.mode = (unsigned short)number(w->at[6]);
        }
    }
    int rc = semctl(id, num, command, arg);
    if (rc == -1) {
        if (command == IPC_SET || command == SETALL)
            put(out, "%s", ename(errno));
        else if (command == GETALL)
            failed(out, &u, sizeof u), put(out, "%s", all_are(all, sizeof all, 0xff) ? "" : " filled");
        else
            failed(out, &u, sizeof u);
        return;
    }
    if (command == SEM_STAT || command == 20)
        show_id(out, rc);
    else if (command == GETPID)
        put(out, "%s", pid_name(rc));
    else
        put(out, "%d", rc);
    if (command == IPC_STAT || command == SEM_STAT || command == 20) {
        put(out, " ");
        show_sem(out, &u.ds);
    } else if (command == GETALL) {
        show_values(out, all);
    } else if (command == IPC_INFO || command == SEM_INFO) {
        struct seminfo *i = &u.limits;
        put(out, " map=%d mni=%d mns=%d mnu=%d msl=%d opm=%d ume=%d usz=%d vmx=%d aem=%d", i->semmap,
            i->semmni, i->semmns, i->semmnu, i->semmsl, i->semopm, i->semume, i->semusz, i->semvmx,
            i->semaem);
    }
}

static void control_msg(struct words *w, char **out)
{
    static union { struct msqid_ds ds; struct msginfo limits; } u;
    int id = id_of(w->at[1]), command = (int)flags(w->at[2]);
    memset(&u, 0xaa, sizeof u);
    void *at = pointer(w, &u, sizeof u.ds);
    if (command == IPC_SET && w->n > 6) {
        memset(&u, 0, sizeof u);
        u.ds.msg_perm.uid = (uid_t)number(w->at[3]);
        u.ds.msg_perm.gid = (gid_t)number(w->at[4]);
        u.ds.msg_perm.mode = (unsigned short)number(w->at[5]);
        u.ds.msg_qbytes = (unsigned long)number(w->at[6]);
    }
    int rc = msgctl(id, command, at);
    if (rc == -1) {
        if (command == IPC_SET)
            put(out, "%s", ename(errno));
        else
            failed(out, &u, sizeof u);
        return;
    }
    if (command == MSG_STAT || command == 13)
        show_id(out, rc);
    else
        put(out, "%d", rc);
    if (command == IPC_STAT || command == MSG_STAT || command == 13) {
        put(out, " ");
        show_msg(out, &u.ds);
    } else if (command == IPC_INFO || command == MSG_INFO) {
        struct msginfo *i = &u.limits;
        put(out, " pool=%d map=%d max=%d mnb=%d mni=%d ssz=%d tql=%d seg=%u", i->msgpool, i->msgmap,
            i->msgmax, i->msgmnb, i->msgmni, i->msgssz, i->msgtql, i->msgseg);
    }
}

int do_control(struct slot *me, struct words *w, char **out)
{
    (void)me;
    if (is(w->at[0], "shmctl"))
        control_shm(w, out);
    else if (is(w->at[0], "semctl"))
        control_sem(w, out);
    else if (is(w->at[0], "msgctl"))
        control_msg(w, out);
    else
        return 0;
    return 1;
}
