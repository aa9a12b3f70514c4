/* A peer that lies: finds the region where the library has mapped it and writes into what means
 * something there, as fast as it likes, until it is killed.
 *
 *   liar SEED
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/shm.h>
#include <time.h>

enum { TABLES = 18, LANES = 4, PAGES = 17 };

static uint64_t state;

static uint64_t draw(void)
{
	uint64_t z = state += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static uint64_t below(uint64_t n)
{
	return draw() % (n ? n : 1);
}

static volatile uint64_t *words;
static uint64_t bytes;
static struct { uint64_t at, stride, count; } table[TABLES];

/* The mapping of the whole region: it begins 2 MiB into its file. */
static int find(void)
{
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "r");
	while (maps && fgets(line, sizeof line, maps)) {
		uintptr_t from, to, offset;
		char mode[8];
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s %" SCNxPTR, &from, &to, mode, &offset) != 4)
			continue;
		if (!strstr(line, "memfd:vshmem:") || strcmp(mode, "rw-s") || offset != 2 << 20)
			continue;
		if (to - from > bytes) {
			words = (volatile uint64_t *)from;
			bytes = to - from;
		}
	}
	if (maps)
		fclose(maps);
	return bytes != 0;
}

static uint64_t somewhere(void)
{
	uint64_t t, i, inside;
	switch (below(16)) {
	case 0:
		return below(10) ? 0x300 + below(0xd00) : below(0x300);
	case 1:
		return 0x400 + below(3) * 0x100 + below(0x28);
	case 2:
		return 0x800 + below(0x880);
	case 3:
	case 4:
	case 5:
		/* Where blocks are carved. */
		return table[PAGES].at + 64 * below(1 << (4 + below(3) * 4)) + below(64);
	case 6:
	case 7:
	case 8:
		t = LANES;
		break;
	default:
		t = below(TABLES - 1);
	}
	i = below(below(3) ? (table[t].count < 12 ? table[t].count : 12) : table[t].count);
	inside = t == LANES ? (below(3) ? below(0x200) : 0x1200 + below(0x100)) : below(table[t].stride);
	return table[t].at + i * table[t].stride + inside;
}

static uint64_t value(uint64_t old)
{
	uint64_t low = old & 0xffffffff;
	switch (below(16)) {
	case 0: low = 0; break;
	case 1: low = 1; break;
	case 2: low = 0xffffffff; break;
	case 3: low++; break;
	case 4: low--; break;
	case 5: low ^= 1u << below(32); break;
	case 6: low = table[PAGES].at / 64 + below(4096); break;
	case 7: low = bytes / 64 - below(2); break;
	case 8: low = below(40); break;
	case 9: low = words[somewhere() % bytes / 8]; break;
	case 10: return draw();
	case 11: return (old & ~3ull) | below(4);
	case 12: return below(1 << 20) << 15 | below(30);
	case 13: return old ^ 1ull << below(64);
	case 14: return ~0ull;
	default: low = draw();
	}
	return ((old >> 32) + below(3)) << 32 | (low & 0xffffffff);
}

int main(int argc, char **argv)
{
	state = argc > 1 ? strtoull(argv[1], 0, 10) : 1;
	/* Attaches; whether it is allowed does not matter. */
	shmget(4711, 1, 0);
	if (!find()) {
		fprintf(stderr, "no region is mapped here\n");
		return 2;
	}
	for (int i = 0; i < TABLES; i++) {
		table[i].at = words[(0x80 + i * 24) / 8];
		table[i].stride = words[(0x88 + i * 24) / 8];
		table[i].count = words[(0x90 + i * 24) / 8];
	}
	puts("lying");
	fflush(stdout);
	for (;;) {
		uint64_t lies = 1 + below(30), at = 0;
		int stubborn = !below(8);
		for (uint64_t i = 0; i < (stubborn ? lies * 2000 : lies); i++) {
			if (!stubborn || !i)
				at = somewhere() % bytes / 8;
			words[at] = stubborn ? words[at] + (1ull << 32) + i % 3 : value(words[at]);
		}
		nanosleep(&(struct timespec){ .tv_nsec = 1000 * (100 + below(3000)) }, 0);
	}
}
