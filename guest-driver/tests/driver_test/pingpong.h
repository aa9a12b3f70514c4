/* SPDX-License-Identifier: GPL-2.0 */
/* Part of driver_test.c: Two guests: round trips and shared counters. */

static int compare_ns(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

static void report(const char *what, int64_t *ns, unsigned n)
{
	int64_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += ns[i];
	qsort(ns, n, sizeof(*ns), compare_ns);
	printf("%s: RTT mean %.1f us, p50 %.1f, p99 %.1f, max %.1f (%u turns)\n",
	       what, (double)sum / n / 1e3, (double)ns[n / 2] / 1e3,
	       (double)ns[n - n / 100 - 1] / 1e3, (double)ns[n - 1] / 1e3, n);
}

/* Values only grow: the other side may be at its next meeting already. */
static void meet(uint32_t *mine, uint32_t *other, uint32_t value)
{
	int64_t end = now_ns() + 120000000000ll;

	__atomic_store_n(mine, value, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(other, __ATOMIC_SEQ_CST) < value)
		if (now_ns() > end)
			FAIL("the other side did not come");
}

/*
 * SIDE 0 starts each turn. Lane 3 of each side is where it sleeps. Cells of
 * side s, from its base: 64 its ivshmem id, 128 a meeting point. They must be
 * zero when the two start.
 */
static int pingpong(unsigned side, unsigned rounds)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind g = geometry(side);
	char *m = map_at(fd, base, 8ul << 20, PROT_READ | PROT_WRITE);
	char *me = m + (side_off(side) - base), *you = m + (side_off(!side) - base);
	uint32_t *my_word = (uint32_t *)(m + (lane_off(side, 3) - base));
	uint32_t *your_word = (uint32_t *)(m + (lane_off(!side, 3) - base));
	void *your_bits = m + (wake_off(!side) - base);
	uint32_t *mine = (uint32_t *)(me + 128), *other = (uint32_t *)(you + 128);
	int uio = uio_open("vshmem-wake");
	int64_t *ns = malloc(rounds * sizeof(*ns));
	int32_t n;

	CHECK(ns && my_vectors >= 1);
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	*(volatile uint32_t *)(me + 64) = my_id;
	*my_word = 0;
	meet(mine, other, 1);
	uint32_t peer = *(volatile uint32_t *)(you + 64);

	/* Both running, through the memory alone. */
	uint32_t *hot_me = (uint32_t *)(me + 256), *hot_you = (uint32_t *)(you + 256);
	*hot_me = 0;
	meet(mine, other, 2);
	int64_t t0 = now_ns();
	unsigned spins = rounds * 20;
	for (uint32_t r = 1; r <= spins; r++) {
		if (!side)
			__atomic_store_n(hot_you, r, __ATOMIC_RELEASE);
		while (__atomic_load_n(hot_me, __ATOMIC_ACQUIRE) != r)
			;
		if (side)
			__atomic_store_n(hot_you, r, __ATOMIC_RELEASE);
	}
	if (!side)
		printf("spin: RTT mean %.3f us (%u turns)\n",
		       (double)(now_ns() - t0) / spins / 1e3, spins);

	/* WAIT in one guest, bit and RING in the other. */
	meet(mine, other, 3);
	for (uint32_t r = 1; r <= rounds; r++) {
		int64_t start = now_ns();
		if (!side) {
			__atomic_store_n(your_word, r, __ATOMIC_SEQ_CST);
			set_wake_bit(your_bits, 3);
			CHECK(!ring(fd, peer, 0));
		}
		while (__atomic_load_n(my_word, __ATOMIC_SEQ_CST) != r)
			if (wait_word(fd, lane_off(side, 3), r - 1, 10000) &&
			    errno != EAGAIN)
				FAIL("round %u: %s", r, strerror(errno));
		if (side) {
			__atomic_store_n(your_word, r, __ATOMIC_SEQ_CST);
			set_wake_bit(your_bits, 3);
			CHECK(!ring(fd, peer, 0));
		}
		ns[r - 1] = now_ns() - start;
	}
	if (!side)
		report("WAIT/RING", ns, rounds);

	/* The bare notification: doorbell, blocking read of the UIO device. */
	CHECK(!ioctl(fd, VSHMEM_IOC_UNBIND));
	while (uio_read(uio, 0, &n))
		;
	meet(mine, other, 4);
	for (unsigned r = 0; r < rounds; r++) {
		int64_t start = now_ns();
		if (!side)
			CHECK(!ring(fd, peer, 0));
		CHECK(read(uio, &n, sizeof(n)) == sizeof(n));
		if (side)
			CHECK(!ring(fd, peer, 0));
		ns[r] = now_ns() - start;
	}
	if (!side)
		report("doorbell/UIO read", ns, rounds);

	/* Cross-machine atomics: both add, none may be lost. */
	uint64_t *sum = (uint64_t *)(m + 512);
	if (!side)
		__atomic_store_n(sum, 0, __ATOMIC_SEQ_CST);
	meet(mine, other, 5);
	for (unsigned i = 0; i < 500000; i++)
		__atomic_fetch_add(sum, 1, __ATOMIC_SEQ_CST);
	meet(mine, other, 6);
	printf("counter: %" PRIu64 " of 1000000\n", *(volatile uint64_t *)sum);
	return *(volatile uint64_t *)sum == 1000000 ? 0 : 1;
}
