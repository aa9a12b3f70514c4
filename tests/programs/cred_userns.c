/* Ids in a user name space: shown as they are called there, or as nobody where
 * they have no name; taken as they are called there, or refused.
 *
 * Not when trapped: the supervisor takes and shows ids as they are called where it runs itself. */
#include "vt.h"
#include <sys/prctl.h>

#define NAME 4321
static int sem, queue, shm;

static void map(const char *file, const char *text)
{
    int fd = MUST(open(file, O_WRONLY));
    if (write(fd, text, strlen(text)) == -1)
        die("%s", file);
    close(fd);
}

static const char *who(unsigned id)
{
    return id == NAME ? "its name" : id == 65534 ? "nobody" : "another";
}

static void show(void)
{
    struct semid_ds sd;
    struct msqid_ds md;
    struct shmid_ds hd;
    if (RC(semctl(sem, 0, IPC_STAT, (union semun){ .buf = &sd })) == 0)
        say("  %s, %s, %s, %s", who(sd.sem_perm.uid), who(sd.sem_perm.gid), who(sd.sem_perm.cuid), who(sd.sem_perm.cgid));
    if (RC(msgctl(queue, IPC_STAT, &md)) == 0)
        say("  %s, %s, %s, %s", who(md.msg_perm.uid), who(md.msg_perm.gid), who(md.msg_perm.cuid), who(md.msg_perm.cgid));
    if (RC(shmctl(shm, IPC_STAT, &hd)) == 0)
        say("  %s, %s, %s, %s", who(hd.shm_perm.uid), who(hd.shm_perm.gid), who(hd.shm_perm.cuid), who(hd.shm_perm.cgid));
}

static void set(unsigned uid, unsigned gid)
{
    struct semid_ds sd = { .sem_perm = { .uid = uid, .gid = gid, .mode = 0660 } };
    struct shmid_ds hd = { .shm_perm = { .uid = uid, .gid = gid, .mode = 0660 } };
    struct msqid_ds md;
    MUST(msgctl(queue, IPC_STAT, &md));
    md.msg_perm.uid = uid;
    md.msg_perm.gid = gid;
    RC(semctl(sem, 0, IPC_SET, (union semun){ .buf = &sd }));
    RC(msgctl(queue, IPC_SET, &md));
    RC(shmctl(shm, IPC_SET, &hd));
}

int main(void)
{
    char users[64], groups[64];
    begin();
    sem = new_sem(1);
    queue = new_msg();
    shm = new_shm(100);
    RC(SEMOP(sem, OP(0, 1, 0)));
    snprintf(users, sizeof users, "%d %u 1", NAME, geteuid());
    snprintf(groups, sizeof groups, "%d %u 1", NAME, getegid());
    pid_t child = spawn();
    if (child == 0) {
        if (unshare(CLONE_NEWUSER) == -1) {
            say("SKIP: no user name spaces here");
            exit(0);
        }
        /* Nobody has a name yet, but who one is has not changed. */
        say("before");
        show();
        set(0, 0);
        RC(SEMOP(sem, OP(0, 1, 0)));
        map("/proc/self/setgroups", "deny");
        map("/proc/self/uid_map", users);
        map("/proc/self/gid_map", groups);
        say("after");
        YES(geteuid() == NAME);
        show();
        set(NAME, NAME);
        set(NAME, NAME + 1);
        set(NAME + 1, NAME);
        set(0, 0);
        show();
        /* Objects of its own. */
        sem = new_sem(1);
        queue = new_msg();
        shm = new_shm(100);
        show();
        /* All powers here are none there. */
        struct msqid_ds md;
        MUST(msgctl(queue, IPC_STAT, &md));
        md.msg_qbytes *= 4;
        RC(msgctl(queue, IPC_SET, &md));
        exit(0);
    }
    reap(child);
    VAL(getval(sem, 0));
    /* What somebody else owns. */
    if (geteuid() == 0) {
        set(777, 778);
        child = spawn();
        if (child == 0) {
            MUST(unshare(CLONE_NEWUSER));
            map("/proc/self/setgroups", "deny");
            map("/proc/self/uid_map", users);
            map("/proc/self/gid_map", groups);
            show();
            set(NAME, NAME);
            show();
            exit(0);
        }
        reap(child);
    } else
        say("SKIP: needs root");
    return 0;
}
