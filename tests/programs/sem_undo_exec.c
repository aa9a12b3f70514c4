/* SEM_UNDO survives exec and is applied when the new program ends. */
#include "vt.h"

int main(int argc, char **argv)
{
    begin();
    if (argc == 3) {
        int id = atoi(argv[1]);
        VAL(getval(id, 0));
        RC(SEMOP(id, OP(0, -1, SEM_UNDO)));
        VAL(getval(id, 0));
        if (strcmp(argv[2], "again") == 0) {
            execl("/proc/self/exe", argv[0], argv[1], "exit", NULL);
            die("execl");
        }
        if (strcmp(argv[2], "exit") == 0)
            _exit(0);
        kill(getpid(), SIGKILL);
    }
    static const char *const ends[] = { "exit", "kill", "again" };
    int id = new_sem(1);
    setval(id, 0, 10);
    for (int i = 0; i < 3; i++) {
        say("-- %s", ends[i]);
        pid_t child = spawn();
        if (child == 0) {
            char text[16];
            snprintf(text, sizeof text, "%d", id);
            MUST(SEMOP(id, OP(0, -3, SEM_UNDO)));
            execl("/proc/self/exe", argv[0], text, ends[i], NULL);
            die("execl");
        }
        reap(child);
        UNTIL(getval(id, 0) == 10);
        VAL(getval(id, 0));
    }
    return 0;
}
