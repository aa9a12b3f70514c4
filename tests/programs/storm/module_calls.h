/* Part of module.c: the random calls. */
#include <linux/futex.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

/* A pointer to `good`, or somewhere it should not be. */
static void *pointer(void *good, void *region)
{
	switch (below(10)) {
	case 0:
		return (void *)odd(0);
	case 1:
		return (void *)0xffff888000000000;	/* the kernel's */
	case 2:
		return (char *)good + 1;
	case 3:
		return region;
	default:
		return good;
	}
}

/* What is read may be the region itself, which others change meanwhile. */
static void *to_read(void *good)
{
	size_t left;

	return pointer(good, place(&left));
}

/* What is written, too, but only where it harms nobody. */
static void *to_write(void *good)
{
	return pointer(good, all.harmless + below(4096));
}

static struct vshmem_bind geometry(void)
{
	/* Where nothing is that others need: on removal the module writes to peer_off. */
	uint64_t tail = all.size / 4 * 3;
	struct vshmem_bind g = {
		.peer_off = tail, .wake_off = tail + 4096, .lanes_off = tail + 65536,
		.lane_stride = 8 * (1 + below(64)), .lane_count = 1 + below(4000),
		.status_off = 0, .summary_words = 1 + below(8), .dead_value = 2,
		.host_id = below(4), .host_vector = below(2), .wake_vector = below(2),
	};
	uint32_t word[sizeof(g) / 4];

	/* One of the words but the first two, the offset that is written to. */
	if (percent(70)) {
		memcpy(word, &g, sizeof(g));
		word[2 + below(sizeof(g) / 4 - 2)] = odd(word[2]);
		memcpy(&g, word, sizeof(g));
	}
	/* The bitmap is cleared: what others need it must not be. */
	if (g.wake_off < tail && g.wake_off + 8192 > VSHMEM_REGION_BASE)
		g.wake_off = tail + 4096;
	return g;
}

static void do_ioctl(void)
{
	uint64_t off = percent(50) ? scribble_off() & ~3ull : odd(below(all.size) & ~3ull);
	struct vshmem_wait wait = { .off = off, .flags = percent(80) ? 1 : odd(1) };
	struct vshmem_wake wake = { .off = off, .count = odd(below(5)), .pad = percent(5) };
	struct vshmem_ring ring = { .peer = odd(below(4)), .vector = odd(below(3)) };
	struct vshmem_info info[2];
	struct vshmem_bind bind = geometry();
	struct timespec now;

	switch (below(10)) {
	case 0:
		ioctl(a_fd(), VSHMEM_IOC_INFO, to_write(info));
		return;
	case 1:
	case 2:
	case 3:
		clock_gettime(CLOCK_MONOTONIC, &now);
		wait.sec = percent(90) ? now.tv_sec : (int64_t)odd(now.tv_sec);
		wait.nsec = percent(90) ? now.tv_nsec : (int64_t)odd(0);
		wait.expected = percent(80) ? 0 : odd(0);
		if (percent(2))
			wait.flags = 0;
		ioctl(a_fd(), VSHMEM_IOC_WAIT, to_read(&wait));
		return;
	case 4:
	case 5:
		ioctl(a_fd(), VSHMEM_IOC_WAKE, to_read(&wake));
		return;
	case 6:
		ioctl(a_fd(), VSHMEM_IOC_RING, to_read(&ring));
		return;
	case 7:
		ioctl(a_fd(), VSHMEM_IOC_BIND, percent(80) ? &bind : to_read(&bind));
		return;
	case 8:
		ioctl(a_fd(), percent(10) ? VSHMEM_IOC_UNBIND : FIONREAD, to_write(info));
		return;
	default:
		ioctl(a_fd(), _IOC(below(4), percent(80) ? 0xb8 : below(256), below(16), below(128)),
		      to_write(info));
	}
}

/* Maps something in place `i` of those there are. */
static void do_mmap(unsigned i, int good)
{
	static const int flags[] = { MAP_SHARED, MAP_SHARED, MAP_SHARED, MAP_SHARED_VALIDATE,
				     MAP_PRIVATE };
	static const int more[] = { MAP_POPULATE, MAP_LOCKED, MAP_NORESERVE, MAP_GROWSDOWN, 0x80000,
				    MAP_HUGETLB, MAP_32BIT, 0 };
	uint64_t pages = percent(20) ? 512 * (1 + below(4)) : 1 + below(64);
	uint64_t len = pages * 4096, off = below(all.size / 4096) * 4096;
	int prot = PROT_READ | (percent(60) ? PROT_WRITE : 0) | (percent(5) ? PROT_EXEC : 0);

	if (!good) {
		len = odd(len);
		off = odd(off);
	} else if (pages >= 512) {
		off &= ~((2ull << 20) - 1);
	}
	void *at = mmap(percent(5) ? (void *)odd(1u << 30) : NULL, len, percent(5) ? (int)below(8) : prot,
			flags[below(5)] | (percent(20) ? more[below(8)] : 0),
			good && percent(70) ? all.rw : a_fd(), off);
	if (at == MAP_FAILED)
		return;
	void *old = all.map[i].at;
	size_t old_len = all.map[i].len;
	all.map[i].len = 0;
	all.map[i].at = at;
	all.map[i].len = len;
	if (old && old_len)
		munmap(old, old_len);
}

static void do_memory(void)
{
	/* Without 100 and 101: those are memory errors, and may be had. */
	static const int advice[] = { 0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
				      20, 21, 22, 23, 24, 25, 77 };
	size_t left, len;
	char *at = place(&left);
	unsigned char core[1024];

	len = percent(80) && left ? 1 + below(left) : odd(left);
	if (len > 1u << 30)
		len = 1u << 30;	/* what is not ours lies far away, or above what is */
	if (!left)
		return;
	char *page = (char *)((uintptr_t)at & ~4095ul);
	size_t within = len < left ? len : left;
	switch (below(12)) {
	case 0:
		munmap(page, within);
		break;
	case 1: {
		unsigned i = below(MAPS);
		void *to = mremap(all.map[i].at, all.map[i].len, percent(50) ? odd(all.map[i].len) :
				  all.map[i].len, percent(70) ? MREMAP_MAYMOVE : below(8));

		if (to != MAP_FAILED)
			all.map[i].at = to;
		break;
	}
	case 2:
		mprotect(page, within, below(8));
		break;
	case 3:
		madvise(page, within, advice[below(sizeof(advice) / sizeof(*advice))]);
		break;
	case 4:
		percent(50) ? mlock(page, within) : munlock(page, within);
		break;
	case 5:
		msync(page, within, below(8));
		break;
	case 6:
		mincore(page, within < 1024 * 4096 ? within : 1024 * 4096, core);
		break;
	case 7: {
		int node = 0, status;
		void *pages[] = { page };
		unsigned long mask = 1;

		syscall(SYS_move_pages, 0, 1, pages, percent(50) ? &node : NULL, &status, below(8));
		syscall(SYS_mbind, page, within, below(6), &mask, 8, below(8));
		break;
	}
	case 8:
		syscall(SYS_remap_file_pages, page, within, 0, odd(below(all.size / 4096)), 0);
		break;
	case 9: {
		char byte[4096];
		struct iovec ours = { byte, below(sizeof(byte)) }, theirs = { at, within };
		pid_t who = percent(50) ? getpid() : getppid();

		syscall(SYS_process_vm_readv, who, &ours, 1, &theirs, 1, 0);
		break;
	}
	default:
		touch();
	}
}

/* System calls that read and write the mapping in the kernel. */
static void do_transfer(void)
{
	struct timespec soon = { .tv_nsec = 1000000 };
	size_t left, off = scribble_off();
	char *at = place(&left);
	int two[2], file;

	if (left > 1 << 20)
		left = 1 << 20;
	switch (below(8)) {
	case 0:
		file = memfd_create("sink", MFD_CLOEXEC);
		if (write(file, at, left) < 0)
			errno = 0;
		close(file);
		break;
	case 1:	/* only where it harms nobody */
		file = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
		at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, all.rw, off & ~4095ul);
		if (at != MAP_FAILED) {
			if (read(file, at + off % 4096, 8) < 0)
				errno = 0;
			munmap(at, 4096);
		}
		close(file);
		break;
	case 2:
		if (!pipe2(two, O_CLOEXEC | O_NONBLOCK)) {
			struct iovec part = { at, left };

			vmsplice(two[1], &part, 1, below(8));
			if (percent(50))
				touch();
			close(two[0]);
			close(two[1]);
		}
		break;
	case 3:
		if (!pipe2(two, O_CLOEXEC | O_NONBLOCK)) {
			splice(a_fd(), NULL, two[1], NULL, 4096, below(8));
			sendfile(two[1], a_fd(), NULL, 4096);
			copy_file_range(a_fd(), NULL, two[1], NULL, 4096, 0);
			close(two[0]);
			close(two[1]);
		}
		break;
	case 4:
		syscall(SYS_futex, (uintptr_t)at & ~3ul, percent(50) ? FUTEX_WAIT : FUTEX_WAIT_BITSET,
			0, &soon, NULL, ~0u);
		break;
	case 5:
		syscall(SYS_futex, (uintptr_t)at & ~3ul, FUTEX_WAKE, below(100), NULL, NULL, 0);
		syscall(SYS_futex, (uintptr_t)at & ~3ul, FUTEX_REQUEUE, 1, 100,
			((uintptr_t)at & ~3ul) + 4, 0);
		break;
	default: {	/* a child with the mappings */
		pid_t pid = fork_tied();

		if (!pid) {
			for (int i = 0; i < 20; i++)
				percent(50) ? touch() : do_ioctl();
			_exit(0);
		}
		usleep(below(1000));
		if (pid > 0) {
			kill(pid, SIGKILL);
			syscall(SYS_wait4, pid, NULL, 0, NULL);
		}
	}
	}
}

static void do_file(void)
{
	static const int commands[] = { F_GETFL, F_SETFL, F_GETFD, F_SETSIG, F_SETOWN, F_NOTIFY,
					F_SETLEASE, F_GETPIPE_SZ, F_ADD_SEALS, F_SETLK, F_OFD_SETLK };
	struct flock lock = { .l_type = below(3), .l_start = odd(0), .l_len = odd(1) };
	struct pollfd p = { .fd = a_fd(), .events = ~0 };
	struct epoll_event event = { .events = ~0u };
	char bytes[64], path[32];
	int fd = a_fd(), two[2], command;

	switch (below(10)) {
	case 0:	/* while others wait, map or ring with it */
		fd = below(8);
		close(all.fds[fd]);
		all.fds[fd] = dup(percent(50) ? all.rw : all.ro);
		break;
	case 1:
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		fd = open(path, percent(50) ? O_RDWR | O_CLOEXEC : O_RDONLY | O_CLOEXEC);
		if (fd >= 0) {
			struct vshmem_ring ring = { 0 };

			ioctl(fd, VSHMEM_IOC_RING, &ring);
			close(fd);
		}
		break;
	case 2:
		lseek(fd, odd(0), below(6));
		if (read(fd, bytes, sizeof(bytes)) < 0 && write(fd, bytes, sizeof(bytes)) < 0)
			errno = 0;
		break;
	case 3:
		poll(&p, 1, 0);
		break;
	case 4:
		command = commands[below(sizeof(commands) / sizeof(*commands))];
		if (command == F_SETLK || command == F_OFD_SETLK)
			fcntl(fd, command, &lock);
		else
			fcntl(fd, command, below(70));
		break;
	case 5:
		if (fsync(fd) || ftruncate(fd, odd(0)) || fallocate(fd, below(64), 0, 4096))
			errno = 0;
		syscall(SYS_fadvise64, fd, odd(0), odd(0), below(8));
		syscall(SYS_readahead, fd, 0, 4096);
		syscall(SYS_sync_file_range, fd, 0, 4096, below(8));
		break;
	case 6:
		flock(fd, (1 + below(3)) | LOCK_NB);
		break;
	case 7:	/* over a socket, and closed in its queue or taken out */
		if (!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, two)) {
			_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
			struct iovec part = { "x", 1 };
			struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1,
					    .msg_control = control, .msg_controllen = sizeof(control) };
			struct cmsghdr *c = CMSG_FIRSTHDR(&m);

			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(c), &fd, sizeof(fd));
			sendmsg(two[0], &m, MSG_DONTWAIT);
			if (percent(50) && recvmsg(two[1], &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) == 1 &&
			    CMSG_FIRSTHDR(&m)) {
				memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
				ioctl(fd, VSHMEM_IOC_INFO, bytes);
				close(fd);
			}
			close(two[0]);
			close(two[1]);
		}
		break;
	case 8:
		two[0] = epoll_create1(EPOLL_CLOEXEC);
		epoll_ctl(two[0], EPOLL_CTL_ADD, fd, &event);
		close(two[0]);
		break;
	default:
		fd = all.uio[below(4)];
		if (fd >= 0) {
			p.fd = fd;
			if (poll(&p, 1, 0) > 0 && read(fd, bytes, percent(80) ? 4 : below(9)) < 0)
				errno = 0;
			if (write(fd, bytes, percent(80) ? 4 : below(9)) < 0)
				errno = 0;
			void *at = mmap(NULL, odd(4096), PROT_READ, MAP_SHARED, fd, odd(0));
			if (at != MAP_FAILED)
				munmap(at, 4096);
			ioctl(fd, rnd(), bytes);
		}
	}
}

static void one_call(void)
{
	unsigned kind = below(100);

	if (kind < 40)
		do_ioctl();
	else if (kind < 55)
		do_mmap(below(MAPS), percent(60));
	else if (kind < 75)
		do_memory();
	else if (kind < 85)
		do_transfer();
	else
		do_file();
}
