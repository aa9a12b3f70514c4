/* Eight processes create the same keys at once: exactly one wins each. */
#include "vt.h"

#define PROCESSES 8
#define ROUNDS 100

struct round { int won[3], found[3], other; int id[3][PROCESSES]; };

int main(void)
{
    begin();
    struct round *r = scratch(sizeof *r * ROUNDS);
    int *arrived = scratch(4096);
    pid_t pid[PROCESSES];
    key_t base = key(0) * 4;
    for (int p = 0; p < PROCESSES; p++) {
        pid[p] = spawn();
        if (pid[p] == 0) {
            for (int i = 0; i < ROUNDS; i++) {
                __atomic_fetch_add(arrived, 1, __ATOMIC_SEQ_CST);
                while (__atomic_load_n(arrived, __ATOMIC_SEQ_CST) < PROCESSES * (i + 1))
                    sched_yield();
                for (int kind = 0; kind < 3; kind++) {
                    int flags = IPC_CREAT | IPC_EXCL | 0600;
                    key_t k = base + i;
                    int id = kind == 0 ? shmget(k, 100, flags) : kind == 1 ? semget(k, 2, flags) : msgget(k, flags);
                    if (id != -1)
                        __atomic_fetch_add(&r[i].won[kind], 1, __ATOMIC_SEQ_CST);
                    else if (errno != EEXIST)
                        __atomic_fetch_add(&r[i].other, 1, __ATOMIC_SEQ_CST);
                    int again = kind == 0 ? shmget(k, 0, 0) : kind == 1 ? semget(k, 0, 0) : msgget(k, 0);
                    if (again != -1 && (id == -1 || id == again))
                        __atomic_fetch_add(&r[i].found[kind], 1, __ATOMIC_SEQ_CST);
                    r[i].id[kind][p] = again;
                }
            }
            exit(0);
        }
    }
    for (int p = 0; p < PROCESSES; p++)
        reap(pid[p]);
    int won = 0, found = 0, other = 0, same = 0;
    for (int i = 0; i < ROUNDS; i++) {
        for (int kind = 0; kind < 3; kind++) {
            won += r[i].won[kind] == 1;
            found += r[i].found[kind];
            int equal = 1;
            for (int p = 1; p < PROCESSES; p++)
                equal &= r[i].id[kind][p] == r[i].id[kind][0];
            same += equal;
        }
        other += r[i].other;
        MUST(shmctl(r[i].id[0][0], IPC_RMID, NULL));
        MUST(semctl(r[i].id[1][0], 0, IPC_RMID));
        MUST(msgctl(r[i].id[2][0], IPC_RMID, NULL));
    }
    VAL(won);
    VAL(found);
    VAL(same);
    VAL(other);

    /* Creating and removing one key without end: no call sees a half-made one. */
    int bad = 0;
    *arrived = 0;
    for (int p = 0; p < 4; p++) {
        pid[p] = spawn();
        if (pid[p] == 0) {
            for (int i = 0; i < 500; i++) {
                int id = semget(base, 3, IPC_CREAT | 0600);
                if (id == -1)
                    exit(2);
                int v = getval(id, 2);
                if (v != 0 && !(v == -1 && (errno == EINVAL || errno == EIDRM)))
                    exit(3);
                if (semctl(id, 0, IPC_RMID) == -1 && errno != EINVAL && errno != EIDRM)
                    exit(4);
            }
            exit(0);
        }
    }
    for (int p = 0; p < 4; p++)
        reap(pid[p]);
    VAL(bad);
    RC(semget(base, 0, 0));
    return 0;
}
