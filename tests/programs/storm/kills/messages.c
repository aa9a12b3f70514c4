/* Queues: messages with serial numbers, each of which arrives once. */
#include "storm.h"

#define LARGEST 8192

struct message {
    long type;
    union {
        struct { uint64_t serial, bytes; };
        uint64_t words[LARGEST / 8];
    };
};

static uint64_t size(struct self *self)
{
    uint32_t kind = below(self, 20);
    uint64_t words = kind == 0 ? LARGEST / 8 : kind < 4 ? 2 + below(self, 200) : 2 + below(self, 14);
    return words * 8;
}

static void send_one(struct self *self, struct message *m, int flags)
{
    int queue = below(self, QUEUES);
    m->type = 1 + below(self, TYPES);
    m->serial = self->name | self->serial++;
    m->bytes = size(self);
    for (uint64_t i = 2; i < m->bytes / 8; i++)
        m->words[i] = mix(m->serial ^ i);
    note(self, SEND_TRY, 0, (uint64_t)queue << 32 | m->type, m->serial);
    int got = msgsnd(queues[queue], m, m->bytes, flags);
    if (got != 0 && errno != EAGAIN)
        broken(self, "msgsnd");
    note(self, got == 0 ? SEND_OK : SEND_NO, 0, got == 0 ? 0 : errno, 0);
}

static void receive_one(struct self *self, struct message *m, int flags)
{
    int queue = below(self, QUEUES);
    bool except = below(self, 6) == 0;
    long type = except ? 1 + below(self, TYPES) : (long)below(self, 2 * TYPES + 1) - TYPES;
    note(self, RECV_TRY, except, queue, type);
    ssize_t got = msgrcv(queues[queue], m, LARGEST, type, flags | (except ? MSG_EXCEPT : 0));
    if (got == -1) {
        if (errno != ENOMSG)
            broken(self, "msgrcv");
        note(self, RECV_NO, 0, errno, 0);
        return;
    }
    note(self, RECV_GOT, 0, m->type, m->serial);
    bool sound = got >= 16 && (uint64_t)got == m->bytes;
    for (uint64_t i = 2; sound && i < m->bytes / 8; i++)
        sound = m->words[i] == mix(m->serial ^ i);
    if (!sound)
        broken(self, "a message is torn");
    bool meant = type == 0 || (except ? m->type != type : type > 0 ? m->type == type : m->type <= -type);
    if (!meant)
        broken(self, "another type");
}

/* Half of the calls may wait; nobody waits to send while nobody would receive. */
void messages(struct self *self)
{
    static _Thread_local struct message m;
    struct msqid_ds ds;
    int queue = below(self, QUEUES);
    if (msgctl(queues[queue], IPC_STAT, &ds) != 0) {
        broken(self, "msgctl IPC_STAT");
        return;
    }
    int flags = self->busy || below(self, 2) ? IPC_NOWAIT : 0;
    bool many = ds.__msg_cbytes > ds.msg_qbytes / 2;
    if (many || (below(self, 2) && ds.msg_qnum))
        receive_one(self, &m, many ? IPC_NOWAIT : flags);
    else
        send_one(self, &m, flags);
}
