/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * System V IPC between virtual machines, containers and the host.
 *
 * Most programs need none of this: `vshmem run PROGRAM` preloads libvshmem.so,
 * and their own shmget, semop, msgsnd work on the region. This header is for
 * programs that link with it (-lvshmem) and attach themselves:
 *
 *     #include <vshmem.h>
 *     #include <sys/sem.h>
 *     int main(void)
 *     {
 *         if (vshmem_attach("demo"))
 *             return 1;
 *         int set = vshmem_semget(42, 1, IPC_CREAT | 0600);
 *         struct sembuf up = { .sem_num = 0, .sem_op = 1, .sem_flg = SEM_UNDO };
 *         return vshmem_semop(set, &up, 1) ? 1 : 0;
 *     }
 *
 * A program that links with the library before the C library gets the plain
 * names (semop, ...) from it too; after vshmem_attach they work on the region
 * for ids of the region, and on the kernel's objects for all other ids.
 *
 * Every call behaves, and sets errno, as the System V call it is named after,
 * and also fails with
 *
 *     ENOSYS  no endpoint answers, or the rules cannot be kept (a message on
 *             stderr says which and why)
 *     EACCES  the endpoint refused this user
 *     ENOMEM  all of the region's lanes are in use
 *     EIO     the region is corrupt
 *
 * All of them may be called from any thread, and from signal handlers also
 * while the interrupted code is inside one of them.
 */
#ifndef VSHMEM_H
#define VSHMEM_H

#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct shmid_ds;
struct semid_ds;
struct msqid_ds;
struct sembuf;
struct timespec;

/*
 * Attaches the process to a region of this machine's endpoint; with NULL, to
 * the one that the environment variable VSHMEM_SOCKET names, else to the
 * user's default one. 0, or -1 and errno; EALREADY if the process is attached,
 * or was told by VSHMEM_SOCKET where to and has made a call. VSHMEM_RULES may
 * lead some keys to other regions, or to the kernel (see `vshmem run --help`);
 * this region is the `default` of those rules.
 */
int vshmem_attach(const char *region);

int vshmem_shmget(key_t key, size_t size, int flags);
void *vshmem_shmat(int id, const void *at, int flags);
int vshmem_shmdt(const void *at);
int vshmem_shmctl(int id, int command, struct shmid_ds *arg);

int vshmem_semget(key_t key, int nsems, int flags);
int vshmem_semop(int id, struct sembuf *ops, size_t n);
int vshmem_semtimedop(int id, struct sembuf *ops, size_t n, const struct timespec *limit);
/* A fourth argument, if the command wants one, is a union semun. */
int vshmem_semctl(int id, int num, int command, ...);

int vshmem_msgget(key_t key, int flags);
int vshmem_msgsnd(int id, const void *message, size_t n, int flags);
ssize_t vshmem_msgrcv(int id, void *message, size_t n, long type, int flags);
int vshmem_msgctl(int id, int command, struct msqid_ds *arg);

/* One path and one letter give one key on every peer, from the canonical path. */
key_t vshmem_ftok(const char *path, int letter);

#ifdef __cplusplus
}
#endif

#endif
