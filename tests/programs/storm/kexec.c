/* Another kernel without the firmware, and without a word to any process:
 *
 *     kexec KERNEL INITRD     loads it
 *     kexec                   starts it */
#include "../demo/demo.h"

#include <fcntl.h>
#include <linux/reboot.h>
#include <sys/reboot.h>
#include <sys/syscall.h>

int main(int argc, char **argv)
{
    if (argc == 1) {
        MUST(reboot((int)LINUX_REBOOT_CMD_KEXEC));
        return 1;
    }
    if (argc != 3) {
        fprintf(stderr, "usage: kexec [KERNEL INITRD]\n");
        return 2;
    }
    char line[4096] = "";
    int kernel = MUST(open(argv[1], O_RDONLY)), initrd = MUST(open(argv[2], O_RDONLY));
    ssize_t n = MUST(read(MUST(open("/proc/cmdline", O_RDONLY)), line, sizeof line - 1));
    line[n - (n && line[n - 1] == '\n')] = 0;
    MUST(syscall(SYS_kexec_file_load, kernel, initrd, strlen(line) + 1, line, 0));
    return 0;
}
