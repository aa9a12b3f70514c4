/* ftok: one file and one letter give one key, always. */
#include "vt.h"

int main(void)
{
    begin();
    char dir[] = "/tmp/vshmem-ftok-XXXXXX", a[64], b[64], l[64];
    if (!mkdtemp(dir))
        die("mkdtemp");
    snprintf(a, sizeof a, "%s/a", dir);
    snprintf(b, sizeof b, "%s/b", dir);
    snprintf(l, sizeof l, "%s/link", dir);
    close(MUST(open(a, O_CREAT | O_WRONLY, 0600)));
    close(MUST(open(b, O_CREAT | O_WRONLY, 0600)));
    MUST(symlink(a, l));
    YES(ftok(a, 'x') != -1);
    YES(ftok(a, 'x') == ftok(a, 'x'));
    YES(ftok(a, 'x') != ftok(a, 'y'));
    YES(ftok(a, 'x') != ftok(b, 'x'));
    YES(ftok(a, 'x') == ftok(l, 'x'));
    /* Only the low eight bits of the letter count, and they are the top ones. */
    YES(ftok(a, 1) == ftok(a, 257));
    VAL(((unsigned)ftok(a, 'x') >> 24) == 'x');
    RC(ftok("/nowhere/at/all", 'x'));
    RC(ftok("", 'x'));
    IN_CHILD(exit(ftok(a, 'x') == -1));
    int id = keep('s', RC(semget(ftok(a, 'x'), 1, IPC_CREAT | IPC_EXCL | 0600)));
    YES(semget(ftok(l, 'x'), 0, 0) == id);
    unlink(a);
    unlink(b);
    unlink(l);
    rmdir(dir);
    return 0;
}
