/* Shared by the demo programs: plain C against <sys/ipc.h>, nothing of vshmem.
 * Results are JSON lines on stdout; the exit code is 0 when every check held. */
#ifndef DEMO_H
#define DEMO_H

#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))
/* How long one side waits for the other to come. */
#define PATIENCE_SECONDS 60
#define WATCHDOG_SECONDS 150

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
};

__attribute__((format(printf, 1, 2), noreturn)) UNUSED static void fail(const char *fmt, ...)
{
    int e = errno;
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, e ? ": %s\n" : "\n", strerror(e));
    exit(1);
}

/* The call's value; ends the program when it is -1. */
#define MUST(...)                                    \
    ({                                               \
        __typeof__(__VA_ARGS__) must_ = __VA_ARGS__; \
        if ((long)must_ == -1)                       \
            fail("%s", #__VA_ARGS__);                \
        must_;                                       \
    })

/* A condition on the data: no errno to show. */
#define CHECK(cond, ...)       \
    do {                       \
        if (!(cond)) {         \
            errno = 0;         \
            fail(__VA_ARGS__); \
        }                      \
    } while (0)

UNUSED static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

UNUSED static void nap_ms(long ms)
{
    struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
    nanosleep(&t, NULL);
}

UNUSED static void begin(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    alarm(WATCHDOG_SECONDS);
}

UNUSED static int up(int set, int n, int by)
{
    struct sembuf op = { (unsigned short)n, (short)by, 0 };
    return semop(set, &op, 1);
}

/* What an earlier run left behind under this key goes away. */
UNUSED static void remove_old(key_t key)
{
    int id;
    if ((id = shmget(key, 0, 0)) != -1)
        shmctl(id, IPC_RMID, NULL);
    if ((id = semget(key, 0, 0)) != -1)
        semctl(id, 0, IPC_RMID);
    if ((id = msgget(key, 0)) != -1)
        msgctl(id, IPC_RMID, NULL);
}

/* Waits for the set that the other side makes last, and until it was used
 * once: a set is made and initialised in two steps, and sem_otime is how
 * System V programs tell that the second has happened. */
UNUSED static int wait_for_set(key_t key)
{
    double until = now() + PATIENCE_SECONDS;
    for (;;) {
        struct semid_ds ds;
        int id = semget(key, 0, 0);
        if (id != -1 && semctl(id, 0, IPC_STAT, (union semun){ .buf = &ds }) == 0 && ds.sem_otime != 0)
            return id;
        if (now() > until)
            fail("the other side did not come within %d s", PATIENCE_SECONDS);
        nap_ms(5);
    }
}

/* Waits until the maker of the set removes it, so that what comes next under
 * the same key does not find the old one. */
UNUSED static void await_removal(int set)
{
    if (up(set, 0, -32000) == -1 && (errno == EIDRM || errno == EINVAL))
        return;
    fail("waiting for the set's removal");
}

/* ---- percentiles, of every turn ---- */

/* A clock that costs little in a guest too, where clock_gettime may be a
 * system call: raw ticks, scaled by what the whole run took. */
UNUSED static uint64_t ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t t;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(t));
    return t;
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
#endif
}

UNUSED static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts the turns and prints their percentiles; `unit` is how many
 * microseconds one unit of them is. */
UNUSED static void report(const char *name, const char *how, long size, uint64_t *turn, long turns, double unit)
{
    double sum = 0;
    for (long i = 0; i < turns; i++)
        sum += (double)turn[i];
    qsort(turn, (size_t)turns, sizeof *turn, by_size);
#define AT(p) ((double)turn[(long)((double)(turns - 1) * (p))] * unit)
    printf("{\"test\":\"%s\",\"how\":\"%s\",\"size\":%ld,\"turns\":%ld,\"unit\":\"us\",\"mean\":%.3f,"
           "\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p99.9\":%.3f,\"max\":%.3f}\n",
           name, how, size, turns, sum * unit / (double)turns, AT(0.5), AT(0.9), AT(0.99), AT(0.999), AT(1));
#undef AT
}

/* The same from turns + 1 readings of ticks(), of which the first is the
 * start, and the seconds that all of them took. */
UNUSED static void report_stamps(const char *name, const char *how, long size, uint64_t *stamps, long turns, double seconds)
{
    double unit = seconds * 1e6 / (double)(stamps[turns] - stamps[0]);
    for (long i = 0; i < turns; i++)
        stamps[i] = stamps[i + 1] - stamps[i];
    report(name, how, size, stamps, turns, unit);
}

#endif
