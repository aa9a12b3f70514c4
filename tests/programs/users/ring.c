/*
 * Ranks that pass a token round, add up, and move a message that fills many fragments. Rank 0 runs
 * a command while all of them are at work: ring ROUNDS COMMAND
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#define BIG (2 << 20)

static void check(int good, const char *what)
{
	if (!good) {
		fprintf(stderr, "ring: wrong: %s\n", what);
		MPI_Abort(MPI_COMM_WORLD, 1);
	}
}

int main(int argc, char **argv)
{
	int rank, size, rounds;
	const char *command;

	MPI_Init(&argc, &argv);
	check(argc == 3, "arguments");
	rounds = atoi(argv[1]);
	command = argv[2];
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	int next = (rank + 1) % size, before = (rank + size - 1) % size;

	for (int round = 0; round < rounds; round++) {
		int token = round;
		if (rank == 0)
			MPI_Send(&token, 1, MPI_INT, next, 1, MPI_COMM_WORLD);
		MPI_Recv(&token, 1, MPI_INT, before, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		check(token == round + (rank == 0 ? size - 1 : rank - 1), "token");
		token++;
		if (rank != 0)
			MPI_Send(&token, 1, MPI_INT, next, 1, MPI_COMM_WORLD);
	}

	for (int round = 0; round < rounds; round++) {
		long mine = rank + round, sum = 0;
		MPI_Allreduce(&mine, &sum, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
		check(sum == (long)size * round + (long)size * (size - 1) / 2, "sum");
	}

	if (rank == 0)
		check(system(command) == 0, "command");

	int *out = malloc(BIG * sizeof(*out)), *in = malloc(BIG * sizeof(*in));
	for (int i = 0; i < BIG; i++)
		out[i] = rank * BIG + i;
	MPI_Sendrecv(out, BIG, MPI_INT, next, 2, in, BIG, MPI_INT, before, 2, MPI_COMM_WORLD,
		     MPI_STATUS_IGNORE);
	for (int i = 0; i < BIG; i++)
		check(in[i] == before * BIG + i, "message");
	free(out);
	free(in);

	/* The window's memory is a segment of its own. */
	long *base;
	MPI_Win win;
	MPI_Win_allocate_shared(sizeof(*base), sizeof(*base), MPI_INFO_NULL, MPI_COMM_WORLD, &base,
				&win);
	*base = 0;
	MPI_Barrier(MPI_COMM_WORLD);
	MPI_Win_lock_all(0, win);
	long one = 1, old;
	for (int i = 0; i < rounds; i++)
		MPI_Fetch_and_op(&one, &old, MPI_LONG, 0, 0, MPI_SUM, win);
	MPI_Win_unlock_all(win);
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0)
		check(*base == (long)rounds * size, "window");
	MPI_Win_free(&win);

	if (rank == 0)
		printf("%d ranks agree\n", size);
	MPI_Finalize();
	return 0;
}
