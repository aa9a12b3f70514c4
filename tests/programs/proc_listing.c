/* /proc/sysvipc: the heading and the line of each kind, byte for byte. What differs from run to run
 * is checked for its value and printed as '#', so that every column's place and width count.
 *
 * Not when trapped: files are not calls of System V IPC, and stay the kernel's. */
#include "vt.h"

/* Up to 32,000 objects of others may be listed. */
static char text[8 << 20];

static void read_all(const char *path)
{
    int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
    size_t n = 0;
    ssize_t got;
    while ((got = MUST(read(fd, text + n, sizeof text - 1 - n))) > 0)
        n += (size_t)got;
    text[n] = 0;
    RC(close(fd));
}

/* The line whose first column is `key`. */
static char *line_of(key_t key)
{
    char *line = text, *end;
    while ((end = strchr(line, '\n')) != NULL) {
        *end = 0;
        if (atol(line) == key)
            return line;
        line = end + 1;
    }
    say("no line");
    return NULL;
}

/* Where the digits of column n (from 0) are: the number, and '#' for each digit in the line. */
static long hide(char *line, int n)
{
    char *at = line;
    while (1) {
        at += strspn(at, " ");
        size_t len = strcspn(at, " ");
        if (len == 0)
            return -1;
        if (n-- == 0) {
            long value = atol(at);
            memset(at, '#', len);
            return value;
        }
        at += len;
    }
}

/* Digits vary in number: only where the column ends is equal. */
static void show(const char *line)
{
    for (const char *at = line; *at; at++) {
        if (*at == '#' && (at == line || at[-1] == '#' || at[-1] == ' ') && at[1] == '#')
            putchar(' ');
        else
            putchar(*at);
    }
    putchar('\n');
}

static void heading(void)
{
    printf("%.*s\n", (int)strcspn(text, "\n"), text);
}

static int recent(long t) { return t >= time(NULL) - 60 && t <= time(NULL) + 1; }

int main(void)
{
    begin();
    int shm = keep('m', MUST(shmget(key(1), 5000, IPC_CREAT | 0640)));
    int sem = keep('s', MUST(semget(key(2), 17, IPC_CREAT | 0600)));
    int msg = keep('q', MUST(msgget(key(3), IPC_CREAT | 0666)));
    char *at = MUST(shmat(shm, NULL, 0));
    /* The kernel counts what was touched, vshmem has all of it in memory. */
    memset(at, 1, 5000);
    struct sembuf up = {3, 1, 0};
    MUST(semop(sem, &up, 1));
    struct { long type; char text[100]; } m = {1, "x"};
    MUST(msgsnd(msg, &m, 100, 0));
    MUST(msgsnd(msg, &m, 23, 0));
    MUST(msgrcv(msg, &m, 100, 0, 0));

    char *line;
    read_all("/proc/sysvipc/shm");
    heading();
    if ((line = line_of(key(1))) != NULL) {
        YES(hide(line, 0) == key(1));
        YES(hide(line, 1) == shm);
        YES(hide(line, 4) == getpid());
        YES(hide(line, 5) == getpid());
        YES(recent(hide(line, 11)));
        YES(hide(line, 12) == 0);
        YES(recent(hide(line, 13)));
        show(line);
    }
    read_all("/proc/sysvipc/sem");
    heading();
    if ((line = line_of(key(2))) != NULL) {
        YES(hide(line, 0) == key(2));
        YES(hide(line, 1) == sem);
        YES(recent(hide(line, 8)));
        YES(recent(hide(line, 9)));
        show(line);
    }
    read_all("/proc/sysvipc/msg");
    heading();
    if ((line = line_of(key(3))) != NULL) {
        YES(hide(line, 0) == key(3));
        YES(hide(line, 1) == msg);
        YES(hide(line, 5) == getpid());
        YES(hide(line, 6) == getpid());
        YES(recent(hide(line, 11)));
        YES(recent(hide(line, 12)));
        YES(recent(hide(line, 13)));
        show(line);
    }

    /* A removed segment is listed with its flag and without its key. */
    MUST(shmctl(shm, IPC_RMID, NULL));
    read_all("/proc/sysvipc/shm");
    for (line = text; (line = strchr(line, '\n')) != NULL;) {
        line++;
        char key[16], id[16], mode[16];
        if (sscanf(line, "%15s %15s %15s", key, id, mode) == 3 && atoi(id) == shm)
            say("key %s mode %s", key, mode);
    }

    /* Ways to the files. */
    struct stat st;
    RC(stat("/proc/sysvipc/shm", &st));
    RC(access("/proc/sysvipc/shm", R_OK));
    int fd = RC(open("//proc/./sys/../sysvipc//sem", O_RDONLY));
    char byte;
    VAL(read(fd, &byte, 1));
    RC(write(fd, "x", 1));
    RC(close(fd));
    int dir = MUST(open("/proc/sysvipc", O_RDONLY | O_DIRECTORY));
    fd = RC(openat(dir, "msg", O_RDONLY));
    VAL(lseek(fd, 0, SEEK_SET));
    VAL(read(fd, &byte, 1));
    RC(chdir("/proc/sys"));
    FILE *f = fopen("kernel/sem", "r");
    int all[4];
    VAL(fscanf(f, "%d %d %d %d", &all[0], &all[1], &all[2], &all[3]));
    f = freopen("../sysvipc/shm", "r", f);
    VAL(fgetc(f));
    RC(fclose(f));
    RC(open("kernel/nothing", O_RDONLY));
    RC(open("kernel/sem", O_RDONLY | O_DIRECTORY));
    return 0;
}
