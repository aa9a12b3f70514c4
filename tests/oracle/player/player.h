/* The player: performs programs of IPC calls step by step, and tells what it saw.
 *
 * It knows nothing of vshmem. The same binary runs on the kernel and under
 * `vshmem run`; two worlds that behave alike give the same transcript. So it
 * prints nothing that may differ between two runs: processes by name, times by
 * the tick they fell into, addresses by what they are relative to.
 *
 * One coordinator reads programs from standard input and gives each step to one
 * of its workers, over a pipe and memory that all share. The next step is given
 * when the worker has finished or sleeps in its call: so a step's outcome
 * depends on the steps before it, not on who runs first.
 */
#ifndef PLAYER_H
#define PLAYER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    SLOTS = 8,          /* workers at once */
    NAMES = 8,          /* variables of a kind */
    KINDS = 4,          /* s: sets, m: segments, q: queues, a: addresses */
    LINE = 4096,
    RESULT = 16384,
    TICKS = 64,
    PIDS = 256,
    SHARED_FD = 200,
    FIRST_FD = 210,     /* two descriptors for each worker's pipe */
    MOST_SEMS = 32000,
    MOST_TEXT = 1 << 16,
};

/* Where steps attach at addresses of their own choice: nothing else maps there. */
#define ARENA ((char *)0x100000000000)
#define ARENA_SIZE (64L << 20)
#define SHARED_AT ((void *)0x200000000000)
#define KEY_BASE 0x4f500000

enum phase { IDLE, GIVEN, IN_CALL, DONE };

struct slot {
    _Atomic int phase;
    pid_t pid;          /* 0: nobody */
    int parent;         /* slot that forked it, -1: the coordinator */
    int births;
    int step;           /* of what it is doing */
    int waits;          /* it was seen asleep in its call */
    int persona;
    _Atomic int ready;  /* its handlers are there */
    int restart;        /* its handler was installed with SA_RESTART */
    char *address[NAMES];
    char line[LINE];
    char result[RESULT];
};

struct shared {
    int variable[3][NAMES];     /* -1 until set; by ipc.h's order s, m, q */
    time_t tick[TICKS];
    int ticks;
    struct { pid_t pid; char name[16]; } who[PIDS];
    int known;
    int lie;                    /* this step's result is told wrongly: the self-test */
    struct slot slot[SLOTS];
};

extern struct shared *shared;

/* text.c: reading words, showing what was seen */
struct words { int n; char *at[600]; };
void split(struct words *w, char *line);
long number(const char *text);
long flags(const char *text);
int *variable(const char *name);
int id_of(const char *text);
const char *ename(int e);
const char *pid_name(pid_t pid);
const char *time_name(time_t t);
uint32_t hash(const void *at, size_t n);
void put(char **out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void show_id(char **out, int id);
void show_shm(char **out, struct shmid_ds *ds);
void show_sem(char **out, struct semid_ds *ds);
void show_msg(char **out, struct msqid_ds *ds);
int all_are(const void *at, size_t n, unsigned char byte);

/* calls.c, control.c, memory.c: a step each; false: not theirs */
typedef int doer(struct slot *me, struct words *w, char **out);
doer do_call, do_control, do_memory;
/* The memory a word like @null or @ro stands for, else what is given. */
void *pointer(struct words *w, void *good, size_t size);

/* worker.c */
_Noreturn void work(int me);
void take_persona(int persona);

/* watch.c */
void look_at_all(void);
void forget_looks(void);
void clean(void);

/* coordinator.c */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void die(const char *what);

#endif
