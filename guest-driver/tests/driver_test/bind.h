/* SPDX-License-Identifier: GPL-2.0 */
/* Part of driver_test.c: BIND, RING, the wake bitmap and UIO events. */

static int bind_refuses_hostile_values(void)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind good = geometry(0), g;
	struct vshmem_info i;
	const uint64_t bitmap = 8ull * VSHMEM_SUMMARY_WORDS_MAX * 65;

#define BAD(...) do { g = good; __VA_ARGS__;				\
	REFUSED(ioctl(fd, VSHMEM_IOC_BIND, &g), EINVAL); } while (0)
	BAD(g.peer_off = bar_size);
	BAD(g.peer_off = bar_size - 4);
	BAD(g.peer_off = UINT64_MAX - 7);
	BAD(g.peer_off += 4);
	BAD(g.wake_off = bar_size - bitmap + 8);
	BAD(g.wake_off = UINT64_MAX - 7);
	BAD(g.wake_off += 1);
	BAD(g.summary_words = 0);
	BAD(g.summary_words = VSHMEM_SUMMARY_WORDS_MAX + 1);
	BAD(g.summary_words = UINT32_MAX);
	BAD(g.lanes_off = bar_size - (uint64_t)LANES * LANE_STRIDE + 8);
	BAD(g.lanes_off = UINT64_MAX - 7);
	BAD(g.lanes_off += 4);
	BAD(g.lane_stride = 0);
	BAD(g.lane_stride = 4);
	BAD(g.lane_stride = 4100);
	BAD(g.lane_stride = UINT32_MAX & ~7u);
	BAD(g.lane_stride = UINT32_MAX & ~7u; g.lane_count = 32768);
	BAD(g.lane_count = 0);
	BAD(g.lane_count = UINT32_MAX);
	BAD(g.summary_words = 1; g.lane_count = 4097; g.lane_stride = 8;
	    g.status_off = 0);
	BAD(g.status_off = LANE_STRIDE);
	BAD(g.status_off = LANE_STRIDE - 4);
	BAD(g.status_off = UINT32_MAX);
	BAD(g.status_off = UINT32_MAX & ~7u);
	BAD(g.host_id = 0x10000);
	BAD(g.host_vector = 256);
	BAD(g.wake_vector = my_vectors);
	BAD(g.pad[0] = 1);
	BAD(g.pad[1] = 1);
#undef BAD
	/* The extremes that fit. */
	g = good;
	g.wake_off = bar_size - bitmap;
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	g = good;
	g.lane_stride = 8;
	g.status_off = 0;
	g.lane_count = 32768;
	g.lanes_off = bar_size - 32768 * 8;
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	CHECK(!ioctl(fd, VSHMEM_IOC_INFO, &i) && i.bound == 1);
	CHECK(!ioctl(fd, VSHMEM_IOC_UNBIND));
	CHECK(!ioctl(fd, VSHMEM_IOC_INFO, &i) && i.bound == 0);
	CHECK(!ioctl(fd, VSHMEM_IOC_UNBIND));

	REFUSED(ring(fd, 0x10000, 0), EINVAL);
	REFUSED(ring(fd, my_id, 256), EINVAL);
	CHECK(!ring(fd, 0xfffe, 9));	/* nobody there: the device ignores it */
	return 0;
}

static int bind_needs_cap_sys_admin(void)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind g = geometry(0);
	pid_t pid = fork_checked();

	if (!pid) {
		CHECK(!setgid(1000) && !setuid(1000));
		REFUSED(open(node, O_RDWR), EACCES);
		REFUSED(ioctl(fd, VSHMEM_IOC_BIND, &g), EPERM);
		REFUSED(ioctl(fd, VSHMEM_IOC_UNBIND), EPERM);
		/* The rest needs the descriptor only. */
		CHECK(wake_word(fd, base, 1) == 0);
		CHECK(!ring(fd, my_id, 0));
		map_at(fd, base, 4096, PROT_READ | PROT_WRITE);
		_exit(0);
	}
	reap_ok(pid);
	return 0;
}

static int a_doorbell_drains_the_bitmap_and_wakes_the_lane(void)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind g = geometry(0);
	char *m = map_at(fd, base, 4ul << 20, PROT_READ | PROT_WRITE);
	static const unsigned lanes[] = { 0, 5, 63, 64, 300, LANES - 1 };
	enum { N = sizeof(lanes) / sizeof(lanes[0]) };
	pid_t pid[N];

	memset(m, 0, 4ul << 20);
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	for (unsigned i = 0; i < N; i++) {
		pid[i] = fork_checked();
		if (!pid[i])
			_exit(wait_word(fd, lane_off(0, lanes[i]), 0, 30000));
		until_asleep(pid[i]);
	}
	/* One at a time first: nobody else may wake. */
	set_wake_bit(m + (wake_off(0) - base), lanes[1]);
	CHECK(!ring(fd, my_id, 0));
	reap_ok(pid[1]);
	CHECK(!waitpid(pid[0], NULL, WNOHANG) && !waitpid(pid[2], NULL, WNOHANG));
	/* The rest by one doorbell; a lane that does not exist among them. */
	for (unsigned i = 0; i < N; i++)
		set_wake_bit(m + (wake_off(0) - base), lanes[i]);
	set_wake_bit(m + (wake_off(0) - base), LANES + 3);
	CHECK(!ring(fd, my_id, 0));
	for (unsigned i = 0; i < N; i++)
		if (i != 1)
			reap_ok(pid[i]);
	uint64_t *bits = (uint64_t *)(m + (wake_off(0) - base));
	for (unsigned i = 0; i < VSHMEM_SUMMARY_WORDS_MAX * 65; i++)
		CHECK(!__atomic_load_n(&bits[i], __ATOMIC_SEQ_CST));

	/* Bits set while nothing was bound are found by the next BIND. */
	CHECK(!ioctl(fd, VSHMEM_IOC_UNBIND));
	pid_t late = fork_checked();
	if (!late)
		_exit(wait_word(fd, lane_off(0, 400), 0, 30000));
	until_asleep(late);
	set_wake_bit(bits, 400);
	CHECK(!ring(fd, my_id, 0));
	CHECK(!waitpid(late, NULL, WNOHANG));
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	reap_ok(late);
	CHECK(!ioctl(fd, VSHMEM_IOC_UNBIND));
	return 0;
}

static int a_hostile_bitmap_is_survived(void)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind g = geometry(0);
	char *m = map_at(fd, base, 4ul << 20, PROT_READ | PROT_WRITE);
	char *bits = m + (wake_off(0) - base);
	uint32_t *word = (uint32_t *)(m + (lane_off(0, 9) - base));

	memset(m, 0, 4ul << 20);
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	/* One process fills it without end and rings, another must still get
	 * through: a sleeper on lane 9, woken over and over. */
	pid_t evil = fork_checked();
	if (!evil) {
		for (;;) {
			memset(bits, 0xff, 8 * VSHMEM_SUMMARY_WORDS_MAX * 65);
			ring(fd, my_id, 0);
		}
	}
	const unsigned enough = 200;
	int64_t t0 = now_ns();
	for (unsigned i = 0; i < enough; i++)
		if (wait_word(fd, lane_off(0, 9), *word, 5000))
			FAIL("sleeper under fire: %s", strerror(errno));
	int64_t t1 = now_ns();
	CHECK(!kill(evil, SIGKILL) && waitpid(evil, NULL, 0) == evil);
	printf("# hostile bitmap: %u wake-ups of one lane in %.1f ms\n", enough,
	       (double)(t1 - t0) / 1e6);

	/* And afterwards all is as before. */
	memset(bits, 0, 8 * VSHMEM_SUMMARY_WORDS_MAX * 65);
	CHECK(!ioctl(fd, VSHMEM_IOC_UNBIND));
	return 0;
}

static int ring_is_rate_limited_and_never_drops(void)
{
	struct sigaction sa = { .sa_handler = nothing, .sa_flags = SA_RESTART };
	int fd = open_dev(O_RDWR);
	const int n = 6000;

	int64_t t0 = now_ns();
	for (int i = 0; i < 1000; i++)
		CHECK(!ring(fd, 0xfffe, 0));
	int64_t t1 = now_ns();
	for (int i = 1000; i < n; i++)
		CHECK(!ring(fd, 0xfffe, 0));
	int64_t t2 = now_ns();
	printf("# doorbells: %.2f us each in the burst, %d in %.1f ms after\n",
	       (double)(t1 - t0) / 1e6, n - 1000, (double)(t2 - t1) / 1e6);
	CHECK(t2 - t0 >= (n - 1024) * 20000ll);

	/*
	 * The sleep for a token ends with a signal. It is short, so many
	 * signals are needed for one to meet it; and on a slow machine one
	 * process alone would find a token each time.
	 */
	pid_t greedy[2];
	for (int i = 0; i < 2; i++) {
		greedy[i] = fork_checked();
		while (!greedy[i])
			ring(fd, 0xfffe, 0);
	}
	CHECK(!sigaction(SIGALRM, &sa, NULL));
	struct itimerval every = { { 0, 337 }, { 0, 337 } }, off = { 0 };
	CHECK(!setitimer(ITIMER_REAL, &every, NULL));
	bool interrupted = false;
	for (int64_t end = now_ns() + 30000000000ll;
	     !interrupted && now_ns() < end;)
		if (ring(fd, 0xfffe, 0)) {
			CHECK(errno == EINTR);
			interrupted = true;
		}
	CHECK(!setitimer(ITIMER_REAL, &off, NULL));
	for (int i = 0; i < 2; i++)
		CHECK(!kill(greedy[i], SIGKILL) && waitpid(greedy[i], NULL, 0) == greedy[i]);
	CHECK(interrupted);
	return 0;
}

static int uio_events_count_interrupts_per_vector(void)
{
	int fd = open_dev(O_RDWR);
	int wake = uio_open("vshmem-wake");
	int32_t first, n;

	if (my_vectors < 2)
		return SKIP;
	int control = uio_open("vshmem-control"), second = uio_open("vshmem-control");
	/* A fresh descriptor has nothing to read. */
	CHECK(!uio_read(control, 50, &n) && !uio_read(wake, 0, &n));
	CHECK(!ring(fd, my_id, 1));
	CHECK(uio_read(control, 5000, &first));
	CHECK(!uio_read(wake, 50, &n));
	/* Each descriptor sees the event; counts go up. */
	CHECK(uio_read(second, 5000, &n) && n == first);
	CHECK(!ring(fd, my_id, 1));
	CHECK(uio_read(control, 5000, &n) && n == first + 1);
	CHECK(!ring(fd, my_id, 0));
	CHECK(uio_read(wake, 5000, &n));
	/* A local wake-up by writing. */
	int32_t one = 1;
	CHECK(write(control, &one, sizeof(one)) == sizeof(one));
	CHECK(uio_read(control, 1000, &n) && n == first + 2);

	/* BAR0: a page of it maps, more does not; IVPosition reads back. */
	volatile uint32_t *regs = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				       MAP_SHARED, control, 0);
	CHECK(regs != MAP_FAILED);
	char path[128], text[32];
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource", pci_name);
	FILE *f = fopen(path, "r");
	CHECK(f && fgets(text, sizeof(text), f));
	fclose(f);
	uint64_t in_page = strtoull(text, NULL, 16) & 4095;
	CHECK(regs[in_page / 4 + 2] == my_id);
	REFUSED(mmap(NULL, 8192, PROT_READ, MAP_SHARED, control, 0), EINVAL);
	return 0;
}
