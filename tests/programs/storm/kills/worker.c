/* worker LOG NUMBER SEED STEPS: does so many random steps, in one of several lives, unless killed. */
#include "storm.h"

struct life {
    struct log *log;
    uint32_t number, steps;
    uint64_t seed;
};

static void work(struct self *self, uint32_t steps)
{
    static void (*const kinds[])(struct self *) = {
        tokens, tokens, tokens, guarded, guarded, messages, messages, messages,
        attach, private_object, robust, slots,
    };
    while (steps-- && !full(self))
        kinds[below(self, sizeof kinds / sizeof *kinds)](self);
}

static void *thread(void *argument)
{
    struct life *life = argument;
    struct self self;
    if (begin(&self, life->log, life->number, life->seed))
        work(&self, life->steps);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    struct log *log = mmap(NULL, sizeof *log, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd == -1 || log == MAP_FAILED)
        return 3;
    close(fd);
    static struct life life; /* Threads read it when main has left. */
    life = (struct life){ log, atoi(argv[2]), atoi(argv[4]), strtoull(argv[3], NULL, 10) };
    struct self self;
    if (!begin(&self, log, life.number, life.seed))
        return 0;
    if (!find(0)) {
        broken(&self, "the objects of all");
        return 4;
    }
    uint32_t kind = below(&self, 10);
    pthread_t threads[3];
    int running = 0;
    if (kind < 3)
        for (int n = 1 + below(&self, 3); running < n; running++)
            if (pthread_create(&threads[running], NULL, thread, &life) != 0)
                break;
    if (kind == 1)
        pthread_exit(NULL); /* The others go on without it. */
    work(&self, life.steps);
    if (kind == 3 && atomic_load(&log->strands) < STRANDS) {
        /* Another image of the same process, which dies with what this one took. */
        struct sembuf hold = { .sem_num = below(&self, POOLS), .sem_op = -1, .sem_flg = SEM_UNDO | IPC_NOWAIT };
        semop(set, &hold, 1);
        char seed[32], steps[16];
        snprintf(seed, sizeof seed, "%llu", (unsigned long long)mix(life.seed));
        snprintf(steps, sizeof steps, "%u", life.steps / 2);
        execl("/proc/self/exe", argv[0], argv[1], argv[2], seed, steps, NULL);
        broken(&self, "execl");
    }
    if (kind != 2) /* Else it ends in the middle of what they do. */
        for (int i = 0; i < running; i++)
            pthread_join(threads[i], NULL);
    note(&self, END, 0, 0, 0);
    return 0;
}
