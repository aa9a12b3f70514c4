/* What a dead machine held is released.
 *
 * `death watcher PATH` makes a set, a segment and a queue; `death holder PATH`
 * takes the semaphore with SEM_UNDO, attaches the segment, says so through the
 * queue and then holds both until it is killed, with its whole machine. The
 * watcher reports each thing it sees as a JSON line at once, so that whoever
 * does the killing can time them on one clock:
 *
 *     {"event":"held"}        the holder has both: kill it now
 *     {"event":"holding"}     the same, from the holder itself
 *     {"event":"acquired"}    the watcher's blocked semop got the semaphore
 *     {"event":"detached"}    nattch is zero
 */
#include "demo.h"

struct note { long mtype; char text[16]; };

static void event(const char *name) { printf("{\"test\":\"death\",\"event\":\"%s\"}\n", name); }

int main(int argc, char **argv)
{
    int holder = argc == 3 && !strcmp(argv[1], "holder");
    if (!holder && !(argc == 3 && !strcmp(argv[1], "watcher"))) {
        fprintf(stderr, "usage: death holder|watcher PATH\n");
        return 2;
    }
    begin();
    key_t key = MUST(ftok(argv[2], 'd'));
    struct sembuf take = { 0, -1, SEM_UNDO };
    struct note note = { .mtype = 1 };
    if (holder) {
        int set = wait_for_set(key);
        unsigned char *p = MUST(shmat(MUST(shmget(key, 0, 0)), NULL, 0));
        MUST(semop(set, &take, 1));
        memset(p, 0x5a, 4096);
        strcpy(note.text, "held");
        MUST(msgsnd(MUST(msgget(key, 0)), &note, sizeof note.text, 0));
        MUST(msgrcv(MUST(msgget(key, 0)), &note, sizeof note.text, 2, 0));
        event("holding");
        for (;;)
            pause();
    }
    remove_old(key);
    int shm = MUST(shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0600));
    int queue = MUST(msgget(key, IPC_CREAT | IPC_EXCL | 0600));
    int set = MUST(semget(key, 1, IPC_CREAT | IPC_EXCL | 0600));
    MUST(up(set, 0, 1));

    MUST(msgrcv(queue, &note, sizeof note.text, 1, 0));
    CHECK(strcmp(note.text, "held") == 0, "another message came");
    struct shmid_ds ds;
    MUST(shmctl(shm, IPC_STAT, &ds));
    CHECK(semctl(set, 0, GETVAL) == 0, "the semaphore is not held");
    CHECK(ds.shm_nattch == 1, "%lu attached, not 1", (unsigned long)ds.shm_nattch);
    event("held");
    note.mtype = 2;
    MUST(msgsnd(queue, &note, sizeof note.text, 0));

    struct timespec patience = { PATIENCE_SECONDS, 0 };
    MUST(semtimedop(set, &take, 1, &patience));
    event("acquired");
    double until = now() + PATIENCE_SECONDS;
    do {
        MUST(shmctl(shm, IPC_STAT, &ds));
        CHECK(now() < until, "%lu are still attached", (unsigned long)ds.shm_nattch);
    } while (ds.shm_nattch != 0);
    event("detached");

    /* The data outlives its writer. */
    unsigned char *p = MUST(shmat(shm, NULL, SHM_RDONLY));
    for (int i = 0; i < 4096; i++)
        CHECK(p[i] == 0x5a, "byte %d is gone", i);
    MUST(shmdt(p));
    MUST(shmctl(shm, IPC_RMID, NULL));
    MUST(semctl(set, 0, IPC_RMID));
    MUST(msgctl(queue, IPC_RMID, NULL));
    event("removed");
    return 0;
}
