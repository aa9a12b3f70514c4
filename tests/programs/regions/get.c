/* get [-x] KEY...: where semaphores, segments and queues with these keys are:
 * the number of their region, "kernel", or the errno. Makes them, or with -x
 * looks for what is there. */
#include "../vt.h"

static const char *where(int id)
{
    static char number[2];
    if (id == -1)
        return ename(errno);
    if (!(id & 1 << 30))
        return "kernel";
    number[0] = '0' + (id >> 27 & 7);
    return number;
}

int main(int argc, char **argv)
{
    begin();
    int old = argc > 1 && strcmp(argv[1], "-x") == 0;
    int flags = old ? 0 : IPC_CREAT | 0600;
    for (int i = 1 + old; i < argc; i++) {
        key_t k = (key_t)strtoul(argv[i], NULL, 0);
        int set = semget(k, !old, flags);
        printf("%s: sem %s", argv[i], where(set));
        int segment = shmget(k, !old, flags);
        printf(", shm %s", where(segment));
        int queue = msgget(k, flags);
        printf(", msg %s\n", where(queue));
        if (!old)
            keep('s', set), keep('m', segment), keep('q', queue);
    }
    return 0;
}
