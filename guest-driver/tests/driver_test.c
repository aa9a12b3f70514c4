// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of uio_vshmem on a real device, run as root inside a guest that has no
 * agent; tests/tests/vm/driver.rs is who does it:
 *
 *   driver_test [--module FILE.ko] [NAME...]    all tests, or those named
 *   driver_test pingpong SIDE ROUNDS            SIDE 0 in one guest, 1 in another
 *
 * It scribbles over the upper half of BAR2: give it a scratch region of at
 * least 32 MiB. Prints
 * "ok NAME", "skip NAME: why" or "FAIL NAME: why" per test and exits with 1
 * when any failed. Build: cc -static -O2 -Wall -Wextra -o driver_test
 * driver_test.c (the parts in driver_test/ are included).
 */
#define _GNU_SOURCE
#include "driver_test/common.h"

#include "driver_test/mapping.h"
#include "driver_test/sleep.h"
#include "driver_test/bind.h"
#include "driver_test/removal.h"
#include "driver_test/pingpong.h"

#define T(f) { #f, f }
static const struct {
	const char *name;
	int (*run)(void);
} tests[] = {
	T(info_describes_the_device),
	T(mmap_outside_the_bar_is_refused),
	T(read_only_descriptor_cannot_be_upgraded),
	T(offsets_are_bytes_and_addresses_are_chosen),
	T(aligned_mappings_get_huge_pages),
	T(system_calls_read_and_write_the_mapping),
	T(shared_futex_works_across_processes),
	T(wait_reports_its_outcomes),
	T(a_signal_ends_wait_even_with_sa_restart),
	T(wake_counts_and_spares_other_words),
	T(no_wake_up_is_lost),
	T(bind_refuses_hostile_values),
	T(bind_needs_cap_sys_admin),
	T(a_doorbell_drains_the_bitmap_and_wakes_the_lane),
	T(a_hostile_bitmap_is_survived),
	T(ring_is_rate_limited_and_never_drops),
	T(uio_events_count_interrupts_per_vector),
	T(ivshmem_plain_is_refused_with_a_message),
	T(unbind_is_safe_with_mappings_and_sleepers_alive),
	T(removal_while_bound_marks_the_peer_dead),
	T(removal_waits_for_pinned_pages),
	T(faults_and_calls_race_with_removal),
	T(module_can_be_removed_and_loaded_again),
};

static void find_device(void)
{
	char path[128], target[256];
	struct vshmem_info i;
	int fd;

	fd = open(node, O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, VSHMEM_IOC_INFO, &i)) {
		fprintf(stderr, "%s: %s; is uio_vshmem loaded and an ivshmem-doorbell device there?\n",
			node, strerror(errno));
		exit(2);
	}
	close(fd);
	bar_size = i.bar2_size;
	base = bar_size / 2;
	my_id = i.ivposition;
	my_vectors = i.vectors;
	snprintf(path, sizeof(path), "/sys/class/misc/%s/device", node + 5);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	if (n < 0) {
		perror(path);
		exit(2);
	}
	target[n] = 0;
	snprintf(pci_name, sizeof(pci_name), "%s", strrchr(target, '/') + 1);
}

static bool wanted(const char *name, char **names, int n)
{
	for (int i = 0; i < n; i++)
		if (!strcmp(name, names[i]))
			return true;
	return n == 0;
}

int main(int argc, char **argv)
{
	int failed = 0, passed = 0, skipped = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	find_device();
	if (argc == 4 && !strcmp(argv[1], "pingpong")) {
		alarm(300);
		return pingpong(!!atoi(argv[2]), (unsigned)atoi(argv[3]));
	}
	argc--;
	argv++;
	if (argc >= 2 && !strcmp(argv[0], "--module")) {
		module_path = argv[1];
		argc -= 2;
		argv += 2;
	}

	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		int status;

		if (!wanted(tests[i].name, argv, argc))
			continue;
		fflush(stdout);
		pid_t pid = fork();
		if (!pid) {
			/* The watchdog; everything a test forks dies with it. */
			setpgid(0, 0);
			alarm(90);
			int ret = tests[i].run();
			fflush(stdout);
			_exit(ret);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid) {
			perror("driver_test");
			return 2;
		}
		kill(-pid, SIGKILL);
		if (WIFEXITED(status) && !WEXITSTATUS(status)) {
			printf("ok %s\n", tests[i].name);
			passed++;
		} else if (WIFEXITED(status) && WEXITSTATUS(status) == SKIP) {
			printf("skip %s: not in this set-up\n", tests[i].name);
			skipped++;
		} else {
			printf("FAIL %s: %s %d\n", tests[i].name,
			       WIFEXITED(status) ? "exit" : "signal",
			       WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
			failed++;
		}
	}
	printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
	return failed ? 1 : 0;
}
