/* SPDX-License-Identifier: GPL-2.0 */
/* Part of driver_test.c: mmap, huge pages, system calls and futexes on the mapping. */

static int info_describes_the_device(void)
{
	struct vshmem_info i;
	int fd = open_dev(O_RDONLY);

	CHECK(!ioctl(fd, VSHMEM_IOC_INFO, &i));
	CHECK(i.abi == VSHMEM_ABI_VERSION && i.vectors >= 1);
	CHECK(i.bar2_size >= 16ul << 20 && !(i.bar2_size & (i.bar2_size - 1)));
	CHECK(i.ivposition <= 0xffff);
	REFUSED(ioctl(fd, _IO(VSHMEM_IOC_MAGIC, 99)), EBADF);
	int rw = open_dev(O_RDWR);
	REFUSED(ioctl(rw, _IO(VSHMEM_IOC_MAGIC, 99)), ENOTTY);
	REFUSED(ioctl(rw, VSHMEM_IOC_INFO, (void *)8), EFAULT);
	REFUSED(ioctl(rw, VSHMEM_IOC_WAIT, (void *)8), EFAULT);

	struct stat st;
	CHECK(!stat(node, &st) && (st.st_mode & 0777) == 0600 && !st.st_uid);
	return 0;
}

static int mmap_outside_the_bar_is_refused(void)
{
	int fd = open_dev(O_RDWR), rw = PROT_READ | PROT_WRITE;

	REFUSED(mmap(NULL, 4096, rw, MAP_SHARED, fd, bar_size), EINVAL);
	REFUSED(mmap(NULL, 8192, rw, MAP_SHARED, fd, bar_size - 4096), EINVAL);
	REFUSED(mmap(NULL, bar_size + 4096, rw, MAP_SHARED, fd, 0), EINVAL);
	REFUSED(mmap(NULL, 8192, rw, MAP_SHARED, fd, 0x7ffffffffffff000 - 4096),
		EINVAL);
	/* Wraps around 2^64: the kernel itself has a word for it. */
	errno = 0;
	CHECK(mmap(NULL, 8192, rw, MAP_SHARED, fd, -4096) == MAP_FAILED);
	REFUSED(mmap(NULL, 4096, rw, MAP_PRIVATE, fd, 0), EINVAL);
	REFUSED(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0), EINVAL);

	/* Growing a mapping must not step over the end either. */
	char *p = map_at(fd, bar_size - 4096, 4096, rw);
	REFUSED(mremap(p, 4096, 8192, MREMAP_MAYMOVE), EFAULT);
	*(volatile char *)p = 1;
	return 0;
}

static int read_only_descriptor_cannot_be_upgraded(void)
{
	int fd = open_dev(O_RDONLY);
	struct vshmem_bind g = geometry(0);

	REFUSED(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, base),
		EACCES);
	volatile char *p = map_at(fd, base, 4096, PROT_READ);
	char c = *p;
	REFUSED(mprotect((void *)p, 4096, PROT_READ | PROT_WRITE), EACCES);
	REFUSED(mprotect((void *)p, 4096, PROT_WRITE), EACCES);

	/* Nor by way of /proc, which ignores page protection where it may. */
	int mem = open("/proc/self/mem", O_RDWR);
	CHECK(mem >= 0);
	CHECK(pwrite(mem, "x", 1, (off_t)(uintptr_t)p) == -1);
	CHECK(*p == c);

	/* Nor by a system call that writes to it. */
	int pipes[2];
	CHECK(!pipe(pipes) && write(pipes[1], "y", 1) == 1);
	REFUSED(read(pipes[0], (void *)p, 1), EFAULT);

	REFUSED(wake_word(fd, base, 1), EBADF);
	REFUSED(ring(fd, my_id, 0), EBADF);
	REFUSED(ioctl(fd, VSHMEM_IOC_BIND, &g), EBADF);
	REFUSED(ioctl(fd, VSHMEM_IOC_UNBIND), EBADF);

	pid_t pid = fork_checked();
	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		*p = 1;
		_exit(0);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	return 0;
}

static int offsets_are_bytes_and_addresses_are_chosen(void)
{
	int fd = open_dev(O_RDWR), rw = PROT_READ | PROT_WRITE;
	uint64_t off = base + 3 * HUGE_PAGE + 5 * 4096;
	char *whole = map_at(fd, base, 8 * HUGE_PAGE, rw);
	char *want = mmap(NULL, 16 * HUGE_PAGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(want != MAP_FAILED);
	want += 7 * 4096;
	char *p = mmap(want, 2 * 4096, rw, MAP_SHARED | MAP_FIXED, fd, off);
	CHECK(p == want);
	strcpy(p + 4096, "here");
	CHECK(!strcmp(whole + (off - base) + 4096, "here"));
	whole[off - base] = 'z';
	CHECK(*p == 'z');

	/* Protection can be lowered and raised again on a writable one. */
	CHECK(!mprotect(p, 8192, PROT_READ));
	CHECK(*p == 'z' && !mprotect(p, 8192, rw));
	*p = 'y';
	CHECK(whole[off - base] == 'y');
	CHECK(!msync(p, 8192, MS_SYNC));

	/* A hole in the middle of a huge page leaves the rest in place. */
	char *h = whole + 2 * HUGE_PAGE;
	memset(h, 'h', HUGE_PAGE);
	CHECK(!munmap(h + 4096, 4096));
	CHECK(h[0] == 'h' && h[8192] == 'h' && h[HUGE_PAGE - 1] == 'h');
	CHECK(!mprotect(h + 8192, 4096, PROT_READ));
	CHECK(h[8192] == 'h');
	h[12288] = 'i';
	return 0;
}

static long minor_faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_minflt;
}

static long faults_of_touching(volatile char *p, size_t len)
{
	long before = minor_faults();

	for (size_t i = 0; i < len; i += 4096)
		p[i]++;
	return minor_faults() - before;
}

static int aligned_mappings_get_huge_pages(void)
{
	int fd = open_dev(O_RDWR), rw = PROT_READ | PROT_WRITE;
	size_t len = 4 * HUGE_PAGE;
	char *p = map_at(fd, base, len, rw);

	minor_faults();
	if ((uintptr_t)p % HUGE_PAGE)
		FAIL("%p for an aligned offset is not aligned", (void *)p);
	int64_t t0 = now_ns();
	long huge = faults_of_touching(p, len);
	int64_t t1 = now_ns();
	CHECK(!munmap(p, len));

	/* One page off: small pages, same bytes. */
	char *hint = mmap(NULL, len + 2 * HUGE_PAGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(hint != MAP_FAILED);
	hint = (char *)(((uintptr_t)hint + HUGE_PAGE) & ~(HUGE_PAGE - 1)) + 4096;
	p = mmap(hint, len, rw, MAP_SHARED | MAP_FIXED, fd, base);
	CHECK(p == hint);
	int64_t t2 = now_ns();
	long small = faults_of_touching(p, len);
	int64_t t3 = now_ns();
	printf("# 8 MiB: %ld faults, %" PRId64 " us huge; %ld faults, %" PRId64
	       " us small\n", huge, (t1 - t0) / 1000, small, (t3 - t2) / 1000);
	CHECK(huge <= 4 + 2 && small >= 4 * 512);

	/* Read first, then write: one mapping, upgraded in place. */
	p = map_at(fd, base, len, rw);
	long reads = minor_faults();
	for (size_t i = 0; i < len; i += 4096)
		(void)((volatile char *)p)[i];
	reads = minor_faults() - reads;
	long writes = faults_of_touching(p, len);
	CHECK(reads <= 6 && writes <= 6);
	return 0;
}

static int system_calls_read_and_write_the_mapping(void)
{
	int fd = open_dev(O_RDWR), pipes[2];
	size_t len = 1 << 16;
	char *p = map_at(fd, base + HUGE_PAGE, len, PROT_READ | PROT_WRITE);
	char *q = malloc(len);

	CHECK(!pipe(pipes) && q);
	CHECK(fcntl(pipes[1], F_SETPIPE_SZ, 1 << 20) > 0);
	for (size_t i = 0; i < len; i++)
		p[i] = (char)(i * 7);
	CHECK(write(pipes[1], p, len) == (ssize_t)len);
	CHECK(read(pipes[0], q, len) == (ssize_t)len && !memcmp(p, q, len));
	memset(q, 'q', len);
	CHECK(write(pipes[1], q, len) == (ssize_t)len);
	CHECK(read(pipes[0], p, len) == (ssize_t)len && !memcmp(p, q, len));

	/* get_user_pages proper: pages go into the pipe, not bytes. */
	struct iovec v = { p, 4096 };
	CHECK(vmsplice(pipes[1], &v, 1, 0) == 4096);
	p[0] = 'r';
	CHECK(read(pipes[0], q, 4096) == 4096 && q[0] == 'r');
	return 0;
}

static long futex(uint32_t *word, int op, uint32_t val, struct timespec *ts)
{
	return syscall(SYS_futex, word, op, val, ts, NULL, 0);
}

static void futex_pair(int fd_a, int fd_b, uint64_t off)
{
	struct timespec ts = { 20, 0 };
	uint32_t *a = map_at(fd_a, off & ~4095ul, 4096, PROT_READ | PROT_WRITE);
	uint32_t *b = map_at(fd_b, off & ~4095ul, 4096, PROT_READ | PROT_WRITE);

	a += off % 4096 / 4;
	b += off % 4096 / 4;
	*a = 0;
	pid_t pid = fork_checked();
	if (!pid) {
		while (__atomic_load_n(a, __ATOMIC_SEQ_CST) == 0)
			if (futex(a, FUTEX_WAIT, 0, &ts) && errno != EAGAIN)
				FAIL("futex wait: %s", strerror(errno));
		_exit(0);
	}
	until_asleep(pid);
	__atomic_store_n(b, 1, __ATOMIC_SEQ_CST);
	CHECK(futex(b, FUTEX_WAKE, 1, NULL) == 1);
	reap_ok(pid);
}

static int shared_futex_works_across_processes(void)
{
	int a = open_dev(O_RDWR), b = open_dev(O_RDWR);
	struct stat st;

	futex_pair(a, a, base + 128);
	futex_pair(a, b, base + 128);
	/* A second node of the same device must give the same futex key. */
	CHECK(!stat(node, &st));
	unlink("/tmp/vshmem-second");
	CHECK(!mknod("/tmp/vshmem-second", S_IFCHR | 0600, st.st_rdev));
	int c = open("/tmp/vshmem-second", O_RDWR);
	unlink("/tmp/vshmem-second");
	CHECK(c >= 0);
	futex_pair(a, c, base + 128);

	/* Inside a huge page, and in one process huge, in the other small. */
	volatile char *h = map_at(a, base, HUGE_PAGE, PROT_READ | PROT_WRITE);
	h[0]++;
	futex_pair(a, b, base + 77 * 4096 + 8);
	uint32_t *big = (uint32_t *)(h + 99 * 4096);
	uint32_t *small = map_at(b, base + 99 * 4096, 4096, PROT_READ | PROT_WRITE);
	*big = 0;
	pid_t pid = fork_checked();
	if (!pid) {
		struct timespec ts = { 20, 0 };
		_exit(futex(big, FUTEX_WAIT, 0, &ts) ? 1 : 0);
	}
	until_asleep(pid);
	CHECK(futex(small, FUTEX_WAKE, 1, NULL) == 1);
	reap_ok(pid);
	return 0;
}
