/*
 * Forks children that attach a segment and use a set until its input ends, and
 * prints how long each lived, in nanoseconds: what a program feels of the
 * endpoint, which must hear of every fork.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(void)
{
	int segment = shmget(IPC_PRIVATE, 4096, 0600), set = semget(IPC_PRIVATE, 1, 0600);
	volatile uint64_t *count = shmat(segment, NULL, 0);
	struct sembuf up = { 0, 1, 0 }, down = { 0, -1, 0 };
	uint64_t rounds = 0;
	char byte;

	if (count == (void *)-1 || set < 0 || fcntl(0, F_SETFL, O_NONBLOCK)) {
		perror("caller");
		return 1;
	}
	while (read(0, &byte, 1) != 0) {
		uint64_t begun = now();
		int status;
		pid_t pid = fork();

		if (!pid) {
			if (semop(set, &up, 1) || semop(set, &down, 1)) {
				perror("semop");
				_exit(1);
			}
			++*count;
			_exit(0);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status) {
			fprintf(stderr, "caller: a child ended with %#x\n", status);
			return 1;
		}
		printf("%llu\n", (unsigned long long)(now() - begun));
		fflush(stdout);
		rounds++;
		usleep(2000);
	}
	if (*count != rounds) {
		fprintf(stderr, "caller: %llu of %llu children counted\n",
			(unsigned long long)*count, (unsigned long long)rounds);
		return 1;
	}
	return shmctl(segment, IPC_RMID, NULL) || semctl(set, 0, IPC_RMID) ? 1 : 0;
}
