/* What the measuring programs share. Each is started as
 *
 *     PROGRAM CODE AMOUNT [ARGUMENT...]
 *
 * AMOUNT is 100ms: measure that long and print a number per line, nanoseconds of
 * one operation, each the mean of a batch, or of one turn; or 5000x: do it just so
 * often and print nothing, for whoever counts from outside. */
#ifndef BENCH_H
#define BENCH_H

#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
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

#define MUST(...)                                                          \
    ({                                                                     \
        __typeof__(__VA_ARGS__) must_ = __VA_ARGS__;                       \
        if ((long)must_ == -1) {                                           \
            fprintf(stderr, "%s: %s\n", #__VA_ARGS__, strerror(errno));    \
            exit(1);                                                       \
        }                                                                  \
        must_;                                                             \
    })

static inline double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Nanoseconds, or how often; the other is 0. */
static double slice;
static long times;

static inline void amount(const char *text)
{
    char *end;
    double number = strtod(text, &end);
    if (!strcmp(end, "ms") && number > 0)
        slice = number * 1e6;
    else if (!strcmp(end, "x") && number > 0)
        times = (long)number;
    else {
        fprintf(stderr, "'%s' is no amount such as 100ms or 5000x\n", text);
        exit(2);
    }
}

/* A number among the arguments. */
static inline long number(int argc, char **argv, int n)
{
    if (n >= argc) {
        fprintf(stderr, "%s: a number is missing\n", argv[0]);
        exit(2);
    }
    return atol(argv[n]);
}

/* A batch is this long at least: the clock is no part of what is measured. */
#define LEAST 2e5

/* Batches of an operation; how many make one is found out while it warms up. */
static inline void batches(void (*operation)(void))
{
    for (long i = 0; i < times; i++)
        operation();
    if (times)
        return;
    long batch = 1;
    for (double took = 0; took < LEAST && batch < 1L << 40; batch *= 2) {
        double start = now();
        for (long i = 0; i < batch; i++)
            operation();
        took = now() - start;
    }
    double begun = now(), start;
    do {
        start = now();
        for (long i = 0; i < batch; i++)
            operation();
        printf("%.3f\n", (now() - start) / (double)batch);
    } while (now() - begun < slice);
}

static int pinned;

/* The nth processor that we may use, so that two processes really run at once;
 * with one processor they share it. */
static inline void pin(int n)
{
    cpu_set_t all, one;
    if (!pinned)
        return;
    /* What a parent was pinned to is inherited, what there is is not. */
    static cpu_set_t first;
    static int known;
    if (!known)
        MUST(sched_getaffinity(0, sizeof first, &first)), known = 1;
    all = first;
    n %= CPU_COUNT(&all);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && n-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            sched_setaffinity(0, sizeof one, &one);
        }
}

/* Zeros that forked children see change. */
static inline void *shared_page(size_t bytes)
{
    return MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
}

/* A child that ends with its parent. */
static inline pid_t child(void)
{
    pid_t parent = getpid(), pid = MUST(fork());
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
    }
    return pid;
}

/* It must have left with 0. */
static inline void ended(pid_t pid)
{
    int status;
    if (MUST(waitpid(pid, &status, 0)) != pid || status != 0) {
        fprintf(stderr, "a child ended with %#x\n", status);
        exit(1);
    }
}

#endif
