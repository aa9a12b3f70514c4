/* Socket, the paper's second micro-code: a buffer goes back and forth over TCP
 * (with TCP_NODELAY) or UDP.
 *
 *     socket server tcp|udp PORT
 *     socket client tcp|udp ADDRESS PORT SIZE TURNS
 *
 * The server serves one client and ends with it. The client prints the
 * percentiles of all round trips as one JSON line. */
#include "demo.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#define MAX_SIZE 60000

static unsigned char buffer[MAX_SIZE], sent[MAX_SIZE];

static void nodelay(int fd)
{
    int one = 1;
    MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
}

static int server(int udp, struct sockaddr_in *at)
{
    int one = 1, fd = MUST(socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0));
    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    MUST(bind(fd, (struct sockaddr *)at, sizeof *at));
    if (udp) {
        for (;;) {
            struct sockaddr_in from;
            socklen_t len = sizeof from;
            ssize_t n = MUST(recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &len));
            MUST(sendto(fd, buffer, (size_t)n, 0, (struct sockaddr *)&from, len));
            if (n == 1)
                return 0;
        }
    }
    MUST(listen(fd, 1));
    int c = MUST(accept(fd, NULL, NULL));
    nodelay(c);
    for (;;) {
        ssize_t n = MUST(read(c, buffer, sizeof buffer));
        if (n == 0)
            return 0;
        for (ssize_t done = 0; done < n;)
            done += MUST(write(c, buffer + done, (size_t)(n - done)));
    }
}

/* One datagram there and back; sent again after a second without an answer. */
static int udp_turn(int fd, size_t size)
{
    for (int lost = 0;; lost++) {
        CHECK(lost < 10, "ten datagrams in a row were lost");
        ssize_t n = send(fd, sent, size, 0);
        if (n == (ssize_t)size)
            do {
                n = recv(fd, buffer, sizeof buffer, 0);
                if (n == (ssize_t)size && memcmp(buffer, sent, size) == 0)
                    return lost;
            } while (n >= 0);
        if (errno != EAGAIN && errno != ECONNREFUSED)
            fail("udp");
        if (errno == ECONNREFUSED)
            nap_ms(100);
    }
}

static void tcp_turn(int fd, size_t size)
{
    for (size_t done = 0; done < size;)
        done += (size_t)MUST(write(fd, sent + done, size - done));
    for (size_t done = 0; done < size;) {
        ssize_t n = MUST(read(fd, buffer + done, size - done));
        CHECK(n > 0, "the server left");
        done += (size_t)n;
    }
    CHECK(memcmp(buffer, sent, size) == 0, "other bytes came back");
}

static int client(int udp, struct sockaddr_in *to, size_t size, long turns)
{
    int fd;
    double until = now() + PATIENCE_SECONDS;
    for (;;) {
        fd = MUST(socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0));
        if (connect(fd, (struct sockaddr *)to, sizeof *to) == 0)
            break;
        if (now() > until)
            fail("no server within %d s", PATIENCE_SECONDS);
        close(fd);
        nap_ms(20);
    }
    if (udp) {
        struct timeval second = { 1, 0 };
        MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second));
    } else
        nodelay(fd);
    uint64_t *stamps = calloc((size_t)turns + 1, sizeof *stamps);
    CHECK(stamps, "no memory for the time stamps");
    memset(stamps, 1, ((size_t)turns + 1) * sizeof *stamps);
    int lost = udp ? udp_turn(fd, size) : (tcp_turn(fd, size), 0);
    lost = 0;
    double start = now();
    stamps[0] = ticks();
    for (long turn = 0; turn < turns; turn++) {
        memset(sent, (int)turn, size);
        memcpy(sent, &turn, size < sizeof turn ? size : sizeof turn);
        if (udp)
            lost += udp_turn(fd, size);
        else
            tcp_turn(fd, size);
        stamps[turn + 1] = ticks();
    }
    double seconds = now() - start;
    if (udp)
        udp_turn(fd, 1);
    close(fd);
    if (lost)
        fprintf(stderr, "%d datagrams were lost and sent again\n", lost);
    report_stamps("socket", udp ? "udp" : "tcp", (long)size, stamps, turns, seconds);
    return 0;
}

int main(int argc, char **argv)
{
    int serve = argc == 4 && !strcmp(argv[1], "server");
    if ((!serve && !(argc == 7 && !strcmp(argv[1], "client"))) || (strcmp(argv[2], "tcp") && strcmp(argv[2], "udp"))) {
        fprintf(stderr, "usage: socket server tcp|udp PORT | socket client tcp|udp ADDRESS PORT SIZE TURNS\n");
        return 2;
    }
    begin();
    int udp = !strcmp(argv[2], "udp");
    struct sockaddr_in at = { .sin_family = AF_INET };
    at.sin_port = htons((uint16_t)atoi(argv[serve ? 3 : 4]));
    if (serve)
        return server(udp, &at);
    long size = atol(argv[5]), turns = atol(argv[6]);
    CHECK(inet_pton(AF_INET, argv[3], &at.sin_addr) == 1, "%s is no address", argv[3]);
    /* One byte is the datagram that ends the server. */
    CHECK(size > 1 && size <= MAX_SIZE && turns > 0 && turns <= 10000000, "an argument is out of range");
    return client(udp, &at, (size_t)size, turns);
}
