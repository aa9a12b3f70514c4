/* Eight processes count in a segment under a mutex made of one semaphore.
 *
 * Not when trapped: 96000 calls in turns take too long on a busy machine. */
#include "vt.h"

#define PROCESSES 8
#define ROUNDS 3000

int main(void)
{
    begin();
    int shm = keep('m', MUST(shmget(key(1), 4096, IPC_CREAT | 0600)));
    int sem = keep('s', MUST(semget(key(1), 2, IPC_CREAT | 0600)));
    long *count = shmat(shm, NULL, 0);
    setval(sem, 0, 1);
    for (int undo = 0; undo < 2; undo++) {
        int flag = undo ? SEM_UNDO : 0;
        /* All start together: they wait for the second semaphore to be zero. */
        setval(sem, 1, 1);
        pid_t pid[PROCESSES];
        for (int p = 0; p < PROCESSES; p++) {
            pid[p] = spawn();
            if (pid[p] == 0) {
                int s = MUST(semget(key(1), 2, 0));
                int m = MUST(shmget(key(1), 0, 0));
                volatile long *c = shmat(m, NULL, 0);
                MUST(SEMOP(s, OP(1, 0, 0)));
                for (int i = 0; i < ROUNDS; i++) {
                    MUST(SEMOP(s, OP(0, -1, flag)));
                    c[0]++;
                    c[1] += c[0];
                    MUST(SEMOP(s, OP(0, 1, flag)));
                }
                exit(0);
            }
        }
        UNTIL(zcnt(sem, 1) == PROCESSES);
        VAL(zcnt(sem, 1));
        RC(setval(sem, 1, 0));
        for (int p = 0; p < PROCESSES; p++)
            reap(pid[p]);
        VAL(count[0]);
        VAL(count[1]);
        VAL(getval(sem, 0));
    }
    return 0;
}
