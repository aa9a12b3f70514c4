/* What the workers of the storm `kills` share. They know nothing of vshmem.
 *
 * A worker writes what it does into a plain file that it maps: a store in it outlives SIGKILL. Each
 * thread, child and new image takes a strand of the file, so that of every thread it is known what it
 * had done, and which one call it was in when it died. `tests/src/storms/kills/log.rs` reads it.
 */
#ifndef STORM_H
#define STORM_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What an entry says. A `_TRY` without what follows it is the call in which the thread died. */
enum what {
    SEND_TRY = 1, /* a: queue << 32 | type, b: serial */
    SEND_OK,
    SEND_NO,      /* a: errno */
    RECV_TRY,     /* n: 1 with MSG_EXCEPT, a: queue, b: type asked for */
    RECV_GOT,     /* a: type, b: serial */
    RECV_NO,      /* a: errno */
    INHERIT,      /* a: pid of the dead owner, b: when it began to wait, t: when it had the token */
    MAKE_TRY,     /* n: kind */
    MADE,         /* n: kind, a: id */
    GONE_TRY,     /* n: kind, a: id */
    GONE,
    POST_TRY,
    POST_OK,
    WAIT_TRY,
    WAIT_OK,
    WAIT_NO,
    BROKEN,       /* n: errno, then text: a promise that was broken */
    END,          /* it will exit now */
};

struct entry {
    uint32_t what, n;
    union {
        struct { uint64_t a, b, t; };
        char text[24];
    };
};

#define ENTRIES 8191
#define STRANDS 24

struct strand {
    _Atomic uint32_t used;
    uint32_t pad[7];
    struct entry entries[ENTRIES];
};

struct log {
    _Atomic uint32_t strands;
    char pad[4096 - 4];
    struct strand strand[STRANDS];
};

/* A thread. */
struct self {
    struct log *log;
    struct strand *strand;
    uint64_t random;
    uint64_t name;   /* of its messages */
    uint32_t serial; /* of the next one */
    bool busy;       /* rests never, and waits for no message: killed in the middle of something */
};

bool begin(struct self *self, struct log *log, uint32_t number, uint64_t seed);
void note(struct self *self, enum what what, uint32_t n, uint64_t a, uint64_t b);
void broken(struct self *self, const char *text);
bool full(const struct self *self);
uint32_t below(struct self *self, uint32_t n);
uint64_t now(void);
void rest(struct self *self, uint32_t microseconds);

/* ---- the objects that all share ---- */

#define KEY 0x564b0001
#define KIND_SEG 0
#define KIND_SET 1
#define KIND_QUEUE 2

/* The set. */
enum { POOLS = 4, LEFT = 4, RIGHT, GIVER, TAKER, ZERO, MUTEX, SEMS };
#define POOL 3       /* tokens in each pool */
#define SUM 1000     /* in LEFT, and so in LEFT and RIGHT together */
#define LENT 100     /* in GIVER and in TAKER */
#define QUEUES 2
#define TYPES 4

/* The segment. */
#define WORDS 256
#define SLOTS 40     /* of sem_t */
struct record {
    _Atomic uint64_t owner;    /* pid of who is inside */
    _Atomic uint64_t version;
    uint64_t copies[2][WORDS]; /* of the version and of the one before */
};
struct shared {
    struct record guarded;     /* by MUTEX */
    struct record robust;      /* by the mutex below */
    pthread_mutex_t mutex;
    sem_t slots;
    uint64_t sound[WORDS];     /* never changes */
};

extern int set, queues[QUEUES], segment;
uint64_t mix(uint64_t x);
bool find(int flags);

/* ---- what a worker does: one step of each ---- */

void tokens(struct self *self);
void guarded(struct self *self);
void messages(struct self *self);
void attach(struct self *self);
void private_object(struct self *self);
void robust(struct self *self);
void slots(struct self *self);

#endif
