/* A file through a ring in a shared segment, guarded by two semaphores.
 * `transfer send FILE PATH` and `transfer receive PATH [OUT]`; both print the
 * SHA-256 of what they had in memory, computed after the transfer, so that the
 * rate is that of the ring. */
#include "demo.h"

#include <fcntl.h>
#include <sys/stat.h>

#define SLOT (64 * 1024)
#define SLOTS 16
enum { FREE, FULL };

struct ring {
    uint64_t total;
    uint32_t length[SLOTS];
    unsigned char slot[SLOTS][SLOT] __attribute__((aligned(4096)));
};

/* ---- SHA-256 (FIPS 180-4) ---- */

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t ror(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void block(uint32_t h[8], const unsigned char *p)
{
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t b = ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    memcpy(s, h, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t e = s[4], a = s[0];
        uint32_t t1 = s[7] + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + K[i] + w[i];
        uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += s[i];
}

static void sha256(const unsigned char *p, size_t n, char hex[65])
{
    uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
    size_t whole = n / 64 * 64;
    for (size_t i = 0; i < whole; i += 64)
        block(h, p + i);
    unsigned char last[128] = { 0 };
    size_t rest = n - whole, pad = rest < 56 ? 64 : 128;
    memcpy(last, p + whole, rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        last[pad - 1 - (size_t)i] = (unsigned char)((uint64_t)n * 8 >> (8 * i));
    for (size_t i = 0; i < pad; i += 64)
        block(h, last + i);
    for (int i = 0; i < 8; i++)
        snprintf(hex + 8 * i, 9, "%08x", h[i]);
}

static unsigned char *read_file(const char *path, size_t *size)
{
    int fd = MUST(open(path, O_RDONLY));
    struct stat st;
    MUST(fstat(fd, &st));
    unsigned char *data = malloc((size_t)st.st_size + 1);
    CHECK(data, "no memory for %s", path);
    *size = 0;
    for (;;) {
        ssize_t n = MUST(read(fd, data + *size, (size_t)st.st_size - *size));
        if (n == 0)
            break;
        *size += (size_t)n;
    }
    close(fd);
    return data;
}

int main(int argc, char **argv)
{
    int sending = argc == 4 && !strcmp(argv[1], "send");
    if (!sending && !(argc >= 3 && argc <= 4 && !strcmp(argv[1], "receive"))) {
        fprintf(stderr, "usage: transfer send FILE PATH | transfer receive PATH [OUT]\n");
        return 2;
    }
    begin();
    key_t key = MUST(ftok(argv[sending ? 3 : 2], 't'));
    unsigned char *data;
    size_t size, done = 0;
    int shm, set;
    struct ring *r;
    double start;
    if (sending) {
        data = read_file(argv[2], &size);
        remove_old(key);
        shm = MUST(shmget(key, sizeof *r, IPC_CREAT | IPC_EXCL | 0600));
        r = MUST(shmat(shm, NULL, 0));
        r->total = size;
        set = MUST(semget(key, 2, IPC_CREAT | IPC_EXCL | 0600));
        MUST(up(set, FREE, SLOTS));
        start = now();
        for (size_t i = 0; done < size; i = (i + 1) % SLOTS) {
            size_t n = size - done < SLOT ? size - done : SLOT;
            MUST(up(set, FREE, -1));
            if (done == 0)
                start = now();
            memcpy(r->slot[i], data + done, n);
            r->length[i] = (uint32_t)n;
            MUST(up(set, FULL, 1));
            done += n;
        }
        /* All slots free again: the receiver has taken everything. */
        MUST(up(set, FREE, -SLOTS));
    } else {
        set = wait_for_set(key);
        shm = MUST(shmget(key, 0, 0));
        r = MUST(shmat(shm, NULL, 0));
        size = r->total;
        data = malloc(size + 1);
        CHECK(data, "no memory for %zu bytes", size);
        memset(data, 0, size + 1);
        start = now();
        for (size_t i = 0; done < size; i = (i + 1) % SLOTS) {
            MUST(up(set, FULL, -1));
            size_t n = r->length[i];
            CHECK(n <= SLOT && n <= size - done, "a slot of %zu bytes", n);
            memcpy(data + done, r->slot[i], n);
            MUST(up(set, FREE, 1));
            done += n;
        }
    }
    double seconds = now() - start;
    MUST(shmdt(r));
    if (sending) {
        MUST(shmctl(shm, IPC_RMID, NULL));
        MUST(semctl(set, 0, IPC_RMID));
    } else
        await_removal(set);
    if (!sending && argc == 4) {
        int fd = MUST(open(argv[3], O_WRONLY | O_CREAT | O_TRUNC, 0600));
        for (size_t n = 0; n < size;)
            n += (size_t)MUST(write(fd, data + n, size - n));
        close(fd);
    }
    char hex[65];
    sha256(data, size, hex);
    printf("{\"test\":\"transfer\",\"role\":\"%s\",\"bytes\":%zu,\"seconds\":%.4f,\"mb_per_s\":%.1f,\"sha256\":\"%s\"}\n",
           sending ? "send" : "receive", size, seconds, (double)size / 1e6 / seconds, hex);
    return 0;
}
