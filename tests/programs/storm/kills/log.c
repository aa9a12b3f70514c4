/* The log, and what everybody needs. */
#include "storm.h"

int set, queues[QUEUES], segment;

bool begin(struct self *self, struct log *log, uint32_t number, uint64_t seed)
{
    uint32_t n = atomic_fetch_add(&log->strands, 1);
    if (n >= STRANDS)
        return false;
    *self = (struct self){ .log = log, .strand = &log->strand[n] };
    self->random = mix(seed ^ mix(n + 1));
    self->name = (uint64_t)number << 32 | (uint64_t)n << 24;
    self->busy = below(self, 2);
    return true;
}

void note(struct self *self, enum what what, uint32_t n, uint64_t a, uint64_t b)
{
    uint32_t used = atomic_load(&self->strand->used);
    if (used >= ENTRIES)
        return;
    self->strand->entries[used] = (struct entry){ .what = what, .n = n, .a = a, .b = b, .t = now() };
    /* The entry counts from here on. */
    atomic_store(&self->strand->used, used + 1);
}

void broken(struct self *self, const char *text)
{
    uint32_t used = atomic_load(&self->strand->used);
    if (used >= ENTRIES)
        return;
    struct entry *e = &self->strand->entries[used];
    *e = (struct entry){ .what = BROKEN, .n = errno };
    strncpy(e->text, text, sizeof e->text - 1);
    atomic_store(&self->strand->used, used + 1);
}

/* One step needs fewer entries than are kept. */
bool full(const struct self *self) { return atomic_load(&self->strand->used) > ENTRIES - 16; }

uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t below(struct self *self, uint32_t n)
{
    self->random += 0x9e3779b97f4a7c15u;
    return mix(self->random) % n;
}

uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Somewhere between nothing and so long. */
void rest(struct self *self, uint32_t microseconds)
{
    struct timespec t = { 0, below(self, microseconds + 1) * 1000l };
    if (!self->busy)
        nanosleep(&t, NULL);
}

bool find(int flags)
{
    set = semget(KEY, SEMS, flags);
    segment = shmget(KEY, sizeof(struct shared), flags);
    bool all = set != -1 && segment != -1;
    for (int i = 0; i < QUEUES; i++) {
        queues[i] = msgget(KEY + i, flags);
        all = all && queues[i] != -1;
    }
    return all;
}
