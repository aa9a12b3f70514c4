/* What the coordinator sees by itself, with all rights. */
#include "player.h"

static char seen[3][NAMES][2048];

static void look_at(int kind, int n)
{
    char text[2048], *at = text;
    int id = shared->variable[kind][n];
    if (id < 0)
        return;
    put(&at, "   %c%d: ", "smq"[kind], n);
    union { struct semid_ds s; struct shmid_ds m; struct msqid_ds q; } u;
    memset(&u, 0, sizeof u);
    int index = id & 0x7fff;
    int found = kind == 0   ? semctl(index, 0, 20, &u)
                : kind == 1 ? shmctl(index, 15, &u.m)
                            : msgctl(index, 13, &u.q);
    if (found != id) {
        put(&at, "gone");
    } else if (kind == 0) {
        int sems = (int)u.s.sem_nsems;
        show_sem(&at, &u.s);
        for (int i = 0; i < sems && i < 6; i++) {
            put(&at, " %d", semctl(id, i, GETVAL));
            put(&at, "/%s", pid_name(semctl(id, i, GETPID)));
            put(&at, "/%d/%d", semctl(id, i, GETNCNT), semctl(id, i, GETZCNT));
        }
    } else if (kind == 1) {
        show_shm(&at, &u.m);
    } else {
        show_msg(&at, &u.q);
    }
    if (strcmp(text, seen[kind][n])) {
        strcpy(seen[kind][n], text);
        say("%s\n", text);
    }
}

void look_at_all(void)
{
    for (int kind = 0; kind < 3; kind++)
        for (int n = 0; n < NAMES; n++)
            look_at(kind, n);
}

/* What is left in the end, object by object, and its removal. */
void clean(void)
{
    union { struct semid_ds s; struct shmid_ds m; struct msqid_ds q; struct shm_info u; } u;
    struct seminfo si;
    struct msginfo mi;
    char text[2048];
    int last[3] = { semctl(0, 0, SEM_INFO, &si), shmctl(0, SHM_INFO, (void *)&u), msgctl(0, MSG_INFO, (void *)&mi) };
    for (int kind = 0; kind < 3; kind++) {
        for (int index = 0; index <= last[kind]; index++) {
            char *at = text;
            int id = kind == 0   ? semctl(index, 0, 20, &u)
                     : kind == 1 ? shmctl(index, 15, &u.m)
                                 : msgctl(index, 13, &u.q);
            if (id < 0)
                continue;
            show_id(&at, id);
            put(&at, " ");
            if (kind == 0) {
                static unsigned short all[MOST_SEMS];
                size_t n = u.s.sem_nsems;
                show_sem(&at, &u.s);
                if (semctl(id, 0, GETALL, all) == 0)
                    put(&at, " all=%08x", hash(all, n * sizeof *all));
                semctl(id, 0, IPC_RMID);
            } else if (kind == 1) {
                size_t n = u.m.shm_segsz;
                show_shm(&at, &u.m);
                void *p = shmat(id, NULL, SHM_RDONLY);
                if (p != (void *)-1) {
                    put(&at, " text=%08x", hash(p, n < 65536 ? n : 65536));
                    shmdt(p);
                }
                shmctl(id, IPC_RMID, NULL);
            } else {
                show_msg(&at, &u.q);
                static struct { long type; char text[MOST_TEXT]; } m;
                for (ssize_t n; (n = msgrcv(id, &m, sizeof m.text, 0, IPC_NOWAIT | MSG_NOERROR)) >= 0;)
                    put(&at, " %ld:%zd:%08x", m.type, n, hash(m.text, (size_t)n)),
                        at = at > text + 1000 ? text + 1000 : at;
                msgctl(id, IPC_RMID, NULL);
            }
            say("   left: %c %s\n", "smq"[kind], text);
        }
    }
}

void forget_looks(void)
{
    memset(seen, 0, sizeof seen);
}
