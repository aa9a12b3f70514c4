/* Throughput of message queues, System V's and POSIX's.
 *
 *     msg [mq-]SENDERS-RECEIVERS AMOUNT SIZE   one queue between so many processes
 *     msg typed AMOUNT SIZE BACKLOG            receive by type what lies behind a backlog
 *     msg [mq-]alone AMOUNT SIZE               send, receive, one process
 *
 * A sample is nanoseconds per message. */
#include "bench.h"
#include <mqueue.h>

#define MOST 8192

static int queue, posix;
static mqd_t mq;
static size_t size;
static struct { long type; char bytes[MOST]; } m;

static int put(long type)
{
    m.type = type;
    return posix ? mq_send(mq, m.bytes, size, 0) : msgsnd(queue, &m, size, 0);
}

static long get(long type)
{
    return posix ? mq_receive(mq, m.bytes, MOST, NULL) : msgrcv(queue, &m, MOST, type, 0);
}

static void make_queue(void)
{
    char name[64];
    struct mq_attr attr = { .mq_maxmsg = 10, .mq_msgsize = MOST };
    queue = MUST(msgget(IPC_PRIVATE, IPC_CREAT | 0600));
    if (!posix)
        return;
    snprintf(name, sizeof name, "/bench-%d", getpid());
    mq = MUST(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr));
    MUST(mq_unlink(name));
}

static void alone(void) { MUST(put(1)), MUST(get(1)); }
static void typed(void) { MUST(put(2)), MUST(get(2)); }

/* How many messages each process has sent or received. */
static struct { _Alignas(128) _Atomic long count; } *done;

static long sum(long from, long to)
{
    long all = 0;
    for (long i = from; i < to; i++)
        all += done[i].count;
    return all;
}

/* All processes go on for the whole time; what the receivers have is counted. */
static void many(long senders, long receivers)
{
    long all = senders + receivers;
    pid_t *pids = calloc((size_t)all, sizeof *pids);
    done = shared_page((size_t)all * sizeof *done);
    pinned = all == 2;
    for (long i = 0; i < all; i++)
        if ((pids[i] = child()) == 0) {
            pin((int)i);
            while ((i < senders ? put(1) : get(0)) >= 0)
                done[i].count++;
            _exit(errno == EIDRM || errno == EINVAL ? 0 : 1);
        }
    struct timespec tick = { 0, (long)(slice / 10) };
    nanosleep(&tick, NULL);
    long before = sum(senders, all);
    double start = now();
    for (int i = 0; i < 10; i++)
        nanosleep(&tick, NULL);
    double took = now() - start;
    long received = sum(senders, all) - before;
    /* None at all is as slow as one. */
    printf("%.2f\n", took / (double)(received > 0 ? received : 1));
    msgctl(queue, IPC_RMID, NULL);
    for (long i = 0; i < all; i++) {
        /* A POSIX queue cannot be removed under those who wait. */
        if (posix)
            kill(pids[i], SIGKILL), waitpid(pids[i], NULL, 0);
        else
            ended(pids[i]);
    }
}

int main(int argc, char **argv)
{
    long senders, receivers;
    if (argc < 4) {
        fprintf(stderr, "usage: msg CODE AMOUNT SIZE [BACKLOG]\n");
        return 2;
    }
    char *code = argv[1];
    amount(argv[2]);
    size = (size_t)number(argc, argv, 3);
    alarm(120);
    if (!strncmp(code, "mq-", 3))
        posix = 1, code += 3;
    if (size > MOST) {
        fprintf(stderr, "msg: at most %d bytes\n", MOST);
        return 2;
    }
    make_queue();
    if (!strcmp(code, "alone"))
        batches(alone);
    else if (!strcmp(code, "typed")) {
        for (long i = number(argc, argv, 4); i > 0; i--)
            MUST(put(1));
        batches(typed);
    } else if (sscanf(code, "%ld-%ld", &senders, &receivers) == 2 && senders > 0 && receivers > 0)
        return many(senders, receivers), 0;
    else {
        fprintf(stderr, "msg: there is no '%s'\n", code);
        return 2;
    }
    msgctl(queue, IPC_RMID, NULL);
    return 0;
}
