/* SPDX-License-Identifier: GPL-2.0 */
/* Part of driver_test.c: WAIT and WAKE inside one guest. */

static void nothing(int sig) { (void)sig; }

static int wait_reports_its_outcomes(void)
{
	int fd = open_dev(O_RDWR);
	uint32_t *w = map_at(fd, base, 4096, PROT_READ | PROT_WRITE);

	*w = 7;
	REFUSED(wait_word(fd, base, 8, -1), EAGAIN);
	int64_t t0 = now_ns();
	REFUSED(wait_word(fd, base, 7, 30), ETIMEDOUT);
	CHECK(now_ns() - t0 >= 30000000);
	REFUSED(wait_word(fd, base, 7, 0), ETIMEDOUT);

	REFUSED(wait_word(fd, base + 2, 7, 1), EINVAL);
	REFUSED(wait_word(fd, bar_size, 7, 1), EINVAL);
	REFUSED(wait_word(fd, bar_size - 2, 7, 1), EINVAL);
	REFUSED(wait_word(fd, UINT64_MAX - 3, 7, 1), EINVAL);
	REFUSED(wake_word(fd, bar_size, 1), EINVAL);
	REFUSED(wake_word(fd, UINT64_MAX - 3, 1), EINVAL);
	REFUSED(wake_word(fd, base + 1, 1), EINVAL);
	struct vshmem_wait bad = { .off = base, .expected = 7, .flags = 2 };
	REFUSED(ioctl(fd, VSHMEM_IOC_WAIT, &bad), EINVAL);
	bad.flags = VSHMEM_WAIT_DEADLINE;
	bad.nsec = 1000000000;
	REFUSED(ioctl(fd, VSHMEM_IOC_WAIT, &bad), EINVAL);
	bad.nsec = -1;
	REFUSED(ioctl(fd, VSHMEM_IOC_WAIT, &bad), EINVAL);
	bad.nsec = 0;
	bad.sec = -1;
	REFUSED(ioctl(fd, VSHMEM_IOC_WAIT, &bad), EINVAL);
	struct vshmem_wake padded = { .off = base, .count = 1, .pad = 1 };
	REFUSED(ioctl(fd, VSHMEM_IOC_WAKE, &padded), EINVAL);

	CHECK(wake_word(fd, base, 1) == 0);
	CHECK(wake_word(fd, base, 0) == 0);
	REFUSED(wait_word(open_dev(O_RDONLY), base, 8, -1), EAGAIN);
	return 0;
}

static int a_signal_ends_wait_even_with_sa_restart(void)
{
	struct sigaction sa = { .sa_handler = nothing, .sa_flags = SA_RESTART };
	int fd = open_dev(O_RDWR);
	uint32_t *w = map_at(fd, base, 4096, PROT_READ | PROT_WRITE);

	*w = 0;
	CHECK(!sigaction(SIGUSR1, &sa, NULL));
	for (int timed = 0; timed < 2; timed++) {
		pid_t pid = fork_checked();
		if (!pid) {
			REFUSED(wait_word(fd, base, 0, timed ? 30000 : -1), EINTR);
			_exit(0);
		}
		until_asleep(pid);
		CHECK(!kill(pid, SIGUSR1));
		reap_ok(pid);
		CHECK(wake_word(fd, base, 1) == 0);	/* left the queue */
	}
	/* As semop does: also when the signal was a stop and a continue. */
	pid_t pid = fork_checked();
	if (!pid) {
		REFUSED(wait_word(fd, base, 0, 30000), EINTR);
		_exit(0);
	}
	int status;
	until_asleep(pid);
	CHECK(!kill(pid, SIGSTOP));
	CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
	CHECK(!kill(pid, SIGCONT));
	reap_ok(pid);
	return 0;
}

static int wake_counts_and_spares_other_words(void)
{
	int fd = open_dev(O_RDWR);
	uint32_t *w = map_at(fd, base, 4096, PROT_READ | PROT_WRITE);
	pid_t pid[6];

	w[0] = w[16] = 0;
	for (int i = 0; i < 6; i++) {
		pid[i] = fork_checked();
		if (!pid[i])
			_exit(wait_word(fd, base + (i == 5 ? 64 : 0), 0, 30000));
		until_asleep(pid[i]);	/* so the order is known */
	}
	CHECK(wake_word(fd, base, 1) == 1);
	reap_ok(pid[0]);		/* first come, first served */
	CHECK(wake_word(fd, base, 3) == 3);
	for (int i = 1; i < 4; i++)
		reap_ok(pid[i]);
	CHECK(wake_word(fd, base, UINT32_MAX) == 1);
	reap_ok(pid[4]);
	CHECK(wake_word(fd, base, 10) == 0);
	CHECK(waitpid(pid[5], NULL, WNOHANG) == 0);
	CHECK(wake_word(fd, base + 64, 10) == 1);
	reap_ok(pid[5]);
	return 0;
}

static int no_wake_up_is_lost(void)
{
	int fd = open_dev(O_RDWR);
	uint32_t *w = map_at(fd, base, 4096, PROT_READ | PROT_WRITE);
	const uint32_t rounds = 20000;

	w[0] = w[32] = 0;
	pid_t pid = fork_checked();
	uint64_t mine = base + (pid ? 0 : 128), other = base + (pid ? 128 : 0);
	uint32_t *me = w + (pid ? 0 : 32), *you = w + (pid ? 32 : 0);
	int64_t t0 = now_ns();
	for (uint32_t r = 1; r <= rounds; r++) {
		if (pid) {
			__atomic_store_n(you, r, __ATOMIC_SEQ_CST);
			CHECK(wake_word(fd, other, 1) >= 0);
		}
		while (__atomic_load_n(me, __ATOMIC_SEQ_CST) != r)
			if (wait_word(fd, mine, r - 1, 20000) && errno != EAGAIN)
				FAIL("round %u: %s", r, strerror(errno));
		if (!pid) {
			__atomic_store_n(you, r, __ATOMIC_SEQ_CST);
			CHECK(wake_word(fd, other, 1) >= 0);
		}
	}
	if (!pid)
		_exit(0);
	printf("# WAIT/WAKE ping-pong in one guest: %.1f us RTT\n",
	       (double)(now_ns() - t0) / rounds / 1000);
	reap_ok(pid);
	return 0;
}
