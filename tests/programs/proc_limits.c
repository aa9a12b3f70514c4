/* /proc/sys/kernel: what is read there, and which writes fail how. The limits are left as they were.
 * (proc/limits.sh changes them, in a region of its own.) */
#include "vt.h"

#define DIR "/proc/sys/kernel/"

static char before[256];

static const char *get(const char *name)
{
    static char text[256];
    char path[64];
    snprintf(path, sizeof path, DIR "%s", name);
    int fd = MUST(open(path, O_RDONLY));
    ssize_t n = MUST(read(fd, text, sizeof text - 1));
    text[n] = 0;
    close(fd);
    return text;
}

static void put(const char *name, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, DIR "%s", name);
    strcpy(before, get(name));
    int fd = open(path, O_WRONLY);
    if (fd == -1) {
        say("%s: open: %s", name, ename(errno));
        return;
    }
    ssize_t n = write(fd, text, strlen(text));
    int e = errno;
    printf("%s <- \"", name);
    for (const char *c = text; *c; c++)
        *c == '\n' ? printf("\\n") : putchar(*c);
    if (n == -1)
        say("\": %s", ename(e));
    else
        say("\": %zd", n);
    close(fd);
    if (strcmp(before, get(name)) != 0)
        printf("was %snow %s", before, get(name));
}

int main(void)
{
    begin();
    if (!need_root())
        return 0;
    static const char *const names[] = {"shmmax", "shmall", "shm_rmid_forced", "msgmax", "msgmnb",
                                        "auto_msgmni", "shm_next_id", "sem_next_id", "msg_next_id"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        printf("%s: %s", names[i], get(names[i]));

    /* Refused, or without effect. */
    put("shmmni", "x");
    put("shmmni", "");
    put("shmmni", "\n");
    put("shmmni", "-1");
    put("shmmni", "32769");
    put("shmmni", "5x");
    put("shmmni", "2147483648");
    put("shmmax", "x");
    put("shmmax", "18446744073709551616");
    put("shmall", " ");
    put("msgmax", "-5");
    put("msgmnb", "99999999999999999999999");
    put("msgmni", "32769\n");
    put("shm_rmid_forced", "2");
    put("auto_msgmni", "2");
    put("auto_msgmni", "1");
    put("sem", "x");
    put("sem", "");

    /* What is already so. */
    char text[256];
    strcpy(text, get("sem"));
    put("msgmax", get("msgmax"));
    int fd = MUST(open(DIR "sem", O_WRONLY));
    YES(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    /* Behind the beginning nothing counts, not even nonsense. */
    VAL(write(fd, "x", 1));
    VAL(lseek(fd, 0, SEEK_SET));
    VAL(write(fd, "x", 1));
    VAL(read(fd, text, 1));
    RC(close(fd));

    /* The same by way of a stream, whose errors come when it is emptied. */
    FILE *f = fopen(DIR "msgmni", "w");
    VAL(fprintf(f, "nonsense"));
    VAL(fflush(f));
    YES(ferror(f));
    clearerr(f);
    RC(fclose(f));
    f = fopen(DIR "msgmni", "w");
    VAL(fprintf(f, "nonsense"));
    RC(fclose(f));
    return 0;
}
