/* An honest program: every call of System V IPC that need not wait long, from two threads, whatever
 * comes of it; how long the longest took.
 *
 *   victim SEED MILLISECONDS [sound]
 *
 * With "sound" nothing may fail that does not fail between honest peers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>

/* As many as a set can have: it says itself how many it has. */
enum { VALUES = 1 << 16 };

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
	struct seminfo *info;
};

struct worker {
	pthread_t thread;
	uint64_t state;
	long calls, failed, corrupt;
	double wall, cpu;
	int slowest, hungriest, strange;
};

static uint64_t until;
static int sound;

static uint64_t now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t draw(struct worker *w)
{
	uint64_t z = w->state += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static int call(struct worker *w, int n, unsigned short *values)
{
	struct { long type; char text[512]; } message = { 1 + draw(w) % 3, { 0 } };
	struct timespec soon = { .tv_nsec = 2000000 };
	struct sembuf ops[3];
	union semun arg;
	struct semid_ds sem;
	struct msqid_ds msg;
	struct shmid_ds shm;
	key_t key = 1 + draw(w) % 3;
	int set = semget(key, 3, IPC_CREAT | 0666), queue = msgget(key, IPC_CREAT | 0666);
	int seg = shmget(key, 100000, IPC_CREAT | 0666);
	char *at;
	for (int i = 0; i < 3; i++)
		ops[i] = (struct sembuf){ draw(w) % 3, (short)(draw(w) % 5) - 2,
			(draw(w) % 2 ? SEM_UNDO : 0) | (draw(w) % 3 ? IPC_NOWAIT : 0) };
	switch (n) {
	case 0:
	case 1:
	case 2:
		return semtimedop(set, ops, 1 + draw(w) % 3, &soon);
	case 3:
	case 4:
		return msgsnd(queue, &message, draw(w) % 512, IPC_NOWAIT);
	case 5:
	case 6:
		return msgrcv(queue, &message, 512, draw(w) % 3 - 1, IPC_NOWAIT | MSG_NOERROR);
	case 7:
		at = shmat(seg, 0, 0);
		if (at == (void *)-1)
			return -1;
		/* As much as there is of any segment, however long it claims to be. */
		memset(at, 7, 4096);
		return shmdt(at);
	case 8:
		arg.array = values;
		return semctl(set, 0, draw(w) % 2 ? GETALL : SETALL, arg);
	case 9:
		arg.val = draw(w) % 4;
		return semctl(set, draw(w) % 3, SETVAL, arg);
	case 10:
		return semctl(set, draw(w) % 3, (int[]){ GETVAL, GETNCNT, GETZCNT, GETPID }[draw(w) % 4]);
	case 11:
		arg.buf = &sem;
		return semctl(set, 0, IPC_STAT, arg);
	case 12:
		return msgctl(queue, IPC_STAT, &msg);
	case 13:
		return shmctl(seg, IPC_STAT, &shm);
	case 14:
		switch (draw(w) % 60) {
		case 0: return semctl(set, 0, IPC_RMID);
		case 1: return msgctl(queue, IPC_RMID, 0);
		case 2: return shmctl(seg, IPC_RMID, 0);
		}
		return 0;
	default:
		arg.buf = &sem;
		return semctl(draw(w) % 4, 0, SEM_STAT, arg) | msgctl(draw(w) % 4, MSG_STAT, &msg);
	}
}

static void *work(void *of)
{
	struct worker *w = of;
	unsigned short *values = calloc(VALUES, sizeof *values);
	while (values && now(CLOCK_MONOTONIC) < until) {
		int n = draw(w) % 16;
		uint64_t wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_THREAD_CPUTIME_ID);
		errno = 0;
		int got = call(w, n, values);
		int why = errno;
		double cpu_ms = (now(CLOCK_THREAD_CPUTIME_ID) - cpu) / 1e6;
		double wall_ms = (now(CLOCK_MONOTONIC) - wall) / 1e6;
		w->calls++;
		if (got < 0) {
			w->failed++;
			w->corrupt += why == EIO;
			if (why != EAGAIN && why != ENOMSG && why != EIDRM && why != EINVAL && why != ERANGE)
				w->strange = why;
		}
		if (wall_ms > w->wall)
			w->wall = wall_ms, w->slowest = n;
		if (cpu_ms > w->cpu)
			w->cpu = cpu_ms, w->hungriest = n;
		memset(values, 0, 8);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct worker workers[2] = { 0 }, sum = { 0 };
	sound = argc > 3 && !strcmp(argv[3], "sound");
	until = now(CLOCK_MONOTONIC) + (argc > 2 ? strtoull(argv[2], 0, 10) : 1000) * 1000000;
	for (int i = 0; i < 2; i++) {
		workers[i].state = strtoull(argc > 1 ? argv[1] : "1", 0, 10) * 2 + i;
		if (pthread_create(&workers[i].thread, 0, work, &workers[i]))
			return 2;
	}
	for (int i = 0; i < 2; i++) {
		pthread_join(workers[i].thread, 0);
		sum.calls += workers[i].calls;
		sum.failed += workers[i].failed;
		sum.corrupt += workers[i].corrupt;
		if (workers[i].strange)
			sum.strange = workers[i].strange;
		if (workers[i].wall > sum.wall)
			sum.wall = workers[i].wall, sum.slowest = workers[i].slowest;
		if (workers[i].cpu > sum.cpu)
			sum.cpu = workers[i].cpu, sum.hungriest = workers[i].hungriest;
	}
	printf("calls %ld failed %ld corrupt %ld wall %.3f %d cpu %.3f %d strange %d\n", sum.calls,
		sum.failed, sum.corrupt, sum.wall, sum.slowest, sum.cpu, sum.hungriest, sum.strange);
	return sound && sum.strange ? 3 : 0;
}
