/* QEMU without huge pages, wherever the host would give them:
 *
 *     smallpages QEMU-ARGUMENT... */
#include "../demo/demo.h"

#include <sys/prctl.h>

int main(int argc, char **argv)
{
    (void)argc;
    MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    argv[0] = "qemu-system-x86_64";
    execvp(argv[0], argv);
    fail("%s", argv[0]);
}
