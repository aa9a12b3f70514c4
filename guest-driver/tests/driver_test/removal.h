/* SPDX-License-Identifier: GPL-2.0 */
/* Part of driver_test.c: Unbinding, removing and loading the module while it is in use. */

static volatile sig_atomic_t bus_errors;
static char *volatile bus_page;

static void on_sigbus(int sig)
{
	(void)sig;
	bus_errors++;
	/* Put something there, so that the access can be repeated. */
	mmap(bus_page, 4096, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static int unbind_is_safe_with_mappings_and_sleepers_alive(void)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind g = geometry(0);
	struct vshmem_info info;
	char *huge = map_at(fd, base, HUGE_PAGE, PROT_READ | PROT_WRITE);
	char *small = map_at(fd, base + 4096, 4096, PROT_READ | PROT_WRITE);
	int uio = uio_open("vshmem-wake");
	pid_t sleeper[3];

	huge[512] = 'a';	/* byte 0 is the peer word of geometry(0) */
	small[0] = 'b';
	*(uint32_t *)(huge + 256) = 0;
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	for (int i = 0; i < 2; i++) {
		sleeper[i] = fork_checked();
		if (!sleeper[i]) {
			REFUSED(wait_word(fd, base + 256, 0, i ? 30000 : -1),
				ENODEV);
			bus_page = huge;
			signal(SIGBUS, on_sigbus);
			*(volatile char *)huge = 1;
			CHECK(bus_errors == 1);
			_exit(0);
		}
		until_asleep(sleeper[i]);
	}
	sleeper[2] = fork_checked();
	if (!sleeper[2]) {
		int32_t n;
		CHECK(read(uio, &n, sizeof(n)) == -1);
		_exit(0);
	}
	until_asleep(sleeper[2]);

	unbind_driver();
	for (int i = 0; i < 3; i++)
		reap_ok(sleeper[i]);
	CHECK(access(node, F_OK) == -1);
	REFUSED(ioctl(fd, VSHMEM_IOC_INFO, &info), ENODEV);
	REFUSED(ioctl(fd, VSHMEM_IOC_BIND, &g), ENODEV);
	REFUSED(ioctl(fd, VSHMEM_IOC_UNBIND), ENODEV);
	REFUSED(wait_word(fd, base, 0, -1), ENODEV);
	REFUSED(wake_word(fd, base, 1), ENODEV);
	REFUSED(ring(fd, my_id, 0), ENODEV);
	REFUSED(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, base), ENODEV);
	signal(SIGBUS, on_sigbus);
	bus_page = huge;
	*(volatile char *)huge = 1;
	bus_page = small;
	*(volatile char *)small = 1;
	CHECK(bus_errors == 2);
	/* System calls and futexes meet a hole, not the old page. */
	int pipes[2];
	CHECK(!pipe(pipes));
	REFUSED(write(pipes[1], huge + 8192, 16), EFAULT);
	REFUSED(futex((uint32_t *)(huge + 8192), FUTEX_WAKE, 1, NULL), EFAULT);

	/* The device comes back; what was opened before stays dead. */
	bind_driver();
	int again = open_dev(O_RDWR);
	REFUSED(ioctl(fd, VSHMEM_IOC_INFO, &info), ENODEV);
	CHECK(!ioctl(again, VSHMEM_IOC_INFO, &info) && !info.bound);
	char *p = map_at(again, base, 8192, PROT_READ);
	CHECK(p[512] == 'a' && p[4096] == 'b');	/* the memory is the host's */
	REFUSED(write(pipes[1], huge + 12288, 16), EFAULT);
	return 0;
}

static int removal_while_bound_marks_the_peer_dead(void)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind g = geometry(1);
	uint32_t *peer = map_at(fd, side_off(1), 4096, PROT_READ | PROT_WRITE);

	peer[0] = 1;
	peer[1] = 77;
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	unbind_driver();
	bind_driver();
	fd = open_dev(O_RDWR);
	peer = map_at(fd, side_off(1), 4096, PROT_READ | PROT_WRITE);
	CHECK(peer[0] == 0xdead && peer[1] == 77);
	/* After UNBIND it is nobody's death. */
	peer[0] = 1;
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g) && !ioctl(fd, VSHMEM_IOC_UNBIND));
	unbind_driver();
	bind_driver();
	fd = open_dev(O_RDWR);
	peer = map_at(fd, side_off(1), 4096, PROT_READ);
	CHECK(peer[0] == 1);
	return 0;
}

static int removal_waits_for_pinned_pages(void)
{
	int fd = open_dev(O_RDWR), pipes[2];
	char *p = map_at(fd, base + HUGE_PAGE, 4096, PROT_READ | PROT_WRITE), q[8];
	struct iovec v = { p, 4096 };

	CHECK(!pipe(pipes));
	strcpy(p, "pinned");
	CHECK(vmsplice(pipes[1], &v, 1, 0) == 4096);
	pid_t pid = fork_checked();
	if (!pid) {
		close(pipes[0]);
		close(pipes[1]);
		unbind_driver();
		_exit(0);
	}
	/* The node goes early in removal, the driver's device not at all yet. */
	for (int i = 0; i < 2000 && !access(node, F_OK); i++)
		poll(NULL, 0, 5);
	CHECK(access(node, F_OK) == -1);
	poll(NULL, 0, 300);
	CHECK(waitpid(pid, NULL, WNOHANG) == 0);
	CHECK(read(pipes[0], q, 7) == 7 && !strcmp(q, "pinned"));
	close(pipes[0]);
	close(pipes[1]);
	reap_ok(pid);
	bind_driver();
	return 0;
}

static int faults_and_calls_race_with_removal(void)
{
	pid_t pid[4];
	const int rounds = 15;

	for (int i = 0; i < 4; i++) {
		pid[i] = fork_checked();
		if (pid[i])
			continue;
		signal(SIGBUS, SIG_IGN);
		for (unsigned n = 0;; n++) {
			int fd = open(node, O_RDWR);
			if (fd < 0) {
				poll(NULL, 0, 1);
				continue;
			}
			/* In a grandchild: SIGBUS is the expected end. */
			pid_t g = fork();
			if (!g) {
				signal(SIGBUS, SIG_DFL);
				struct vshmem_bind geo = geometry(0);
				for (int r = 0; r < 200; r++) {
					char *p = mmap(NULL, 2 * HUGE_PAGE,
						PROT_READ | PROT_WRITE, MAP_SHARED,
						fd, base + (r & 1) * 4096);
					if (p == MAP_FAILED)
						_exit(0);
					p[8192] = 1;
					p[HUGE_PAGE + 4096 * r] = 1;
					futex((uint32_t *)(p + 8), FUTEX_WAKE, 1, NULL);
					ring(fd, my_id, 0);
					if (i == 0)
						ioctl(fd, VSHMEM_IOC_BIND, &geo);
					if (i == 1)
						wait_word(fd, base, 0, 1);
					munmap(p, 2 * HUGE_PAGE);
				}
				_exit(0);
			}
			waitpid(g, NULL, 0);
			close(fd);
		}
	}
	for (int r = 0; r < rounds; r++) {
		poll(NULL, 0, 20);
		unbind_driver();
		bind_driver();
	}
	for (int i = 0; i < 4; i++) {
		kill(pid[i], SIGKILL);
		waitpid(pid[i], NULL, 0);
	}
	return 0;
}

static int module_can_be_removed_and_loaded_again(void)
{
	int fd = open_dev(O_RDWR);
	char *p = map_at(fd, base, 4096, PROT_READ | PROT_WRITE);

	if (!module_path)
		return SKIP;
	p[512] = 'm';	/* not byte 0, the peer word of geometry(0) */
	/* A file open: the kernel says no, and nothing changes. */
	REFUSED(syscall(SYS_delete_module, "uio_vshmem", O_NONBLOCK), EAGAIN);
	CHECK(p[512] == 'm' && wake_word(fd, base, 1) == 0);
	close(fd);
	/* So does a mapping, which holds the file. */
	REFUSED(syscall(SYS_delete_module, "uio_vshmem", O_NONBLOCK), EAGAIN);
	CHECK(!munmap(p, 4096));
	for (int i = 0; i < 3; i++) {
		/* What an earlier test has killed may still be closing. */
		long gone = -1;
		for (int n = 0; n < 1000 && gone; n++) {
			gone = syscall(SYS_delete_module, "uio_vshmem", O_NONBLOCK);
			if (gone)
				poll(NULL, 0, 5);
		}
		CHECK(!gone);
		CHECK(access(node, F_OK) == -1);
		int ko = open(module_path, O_RDONLY | O_CLOEXEC);
		CHECK(ko >= 0);
		CHECK(!syscall(SYS_finit_module, ko, "", 0));
		close(ko);
		for (int n = 0; n < 1000 && access(node, F_OK); n++)
			poll(NULL, 0, 5);
		fd = open_dev(O_RDWR);
		p = map_at(fd, base, 4096, PROT_READ);
		CHECK(p[512] == 'm');
		munmap(p, 4096);
		close(fd);
	}
	return 0;
}

/* A second device of the family, without MSI-X, must be left alone. */
static int ivshmem_plain_is_refused_with_a_message(void)
{
	DIR *d = opendir("/sys/bus/pci/devices");
	struct dirent *e;
	char path[400], text[32], line[1024];
	bool plain = false, said = false;

	CHECK(d);
	while ((e = readdir(d))) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/device", e->d_name);
		FILE *f = fopen(path, "r");
		if (!f)
			continue;
		CHECK(fgets(text, sizeof(text), f));
		fclose(f);
		if (strcmp(text, "0x1110\n") || !strcmp(e->d_name, pci_name))
			continue;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource1", e->d_name);
		if (!access(path, F_OK))
			continue;	/* it has an MSI-X table */
		plain = true;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", e->d_name);
		CHECK(access(path, F_OK) == -1);
	}
	closedir(d);
	if (!plain)
		return SKIP;
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	CHECK(fd >= 0);
	ssize_t n;
	while ((n = read(fd, line, sizeof(line) - 1)) > 0 || errno == EPIPE) {
		line[n > 0 ? n : 0] = 0;
		if (strstr(line, "uio_vshmem") && strstr(line, "ivshmem-plain"))
			said = true;
	}
	CHECK(said);
	return 0;
}
