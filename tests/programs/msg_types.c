/* msgrcv: which message a type selects, and MSG_NOERROR, MSG_EXCEPT. */
#include "vt.h"

static int id;

static void fill(void)
{
    while (recv_text("left over", id, 8192, 0, IPC_NOWAIT) != -1)
        ;
    send_text(id, 4, "four", 0);
    send_text(id, 3, "three", 0);
    send_text(id, 2, "two", 0);
    send_text(id, 1, "one", 0);
    send_text(id, 3, "three again", 0);
    send_text(id, 2, "two again", 0);
}

#define RECV(max, type, flags) recv_text("msgrcv(" #max ", " #type ", " #flags ")", id, max, type, (flags) | IPC_NOWAIT)

int main(void)
{
    begin();
    id = new_msg();
    RECV(100, 0, 0);
    RECV(100, 1, 0);
    RECV(100, -1, 0);
    RECV(100, 1, MSG_EXCEPT);

    say("-- in order");
    fill();
    for (int i = 0; i < 7; i++)
        RECV(100, 0, 0);
    say("-- one type");
    fill();
    RECV(100, 3, 0);
    RECV(100, 3, 0);
    RECV(100, 3, 0);
    RECV(100, 9, 0);
    RECV(100, 1, 0);
    say("-- up to a type: the lowest, the first of it");
    fill();
    RECV(100, -2, 0);
    RECV(100, -2, 0);
    RECV(100, -2, 0);
    RECV(100, -2, 0);
    RECV(100, -100, 0);
    RECV(100, -100, 0);
    RECV(100, LONG_MIN, 0);
    RECV(100, -100, 0);
    say("-- all but a type");
    fill();
    RECV(100, 4, MSG_EXCEPT);
    RECV(100, 2, MSG_EXCEPT);
    RECV(100, 2, MSG_EXCEPT);
    RECV(100, 2, MSG_EXCEPT);
    RECV(100, 2, MSG_EXCEPT);
    RECV(100, 0, MSG_EXCEPT);
    RECV(100, -9, MSG_EXCEPT);
    say("-- too big for the buffer");
    fill();
    RECV(3, 0, 0);
    RECV(3, 0, 0);
    RECV(3, 0, MSG_NOERROR);
    RECV(4, 3, 0);
    RECV(0, 3, MSG_NOERROR);
    RECV(3, 3, 0);
    RECV(3, 2, 0);
    RECV(3, -100, 0);
    say("-- types of any size");
    fill();
    send_text(id, LONG_MAX, "greatest", 0);
    RECV(100, LONG_MAX, 0);
    RECV(100, -LONG_MAX, 0);
    RECV(100, 4294967297, 0);
    say("-- what is left");
    fill();
    say("-- empty ones");
    fill();
    send_text(id, 7, "", 0);
    RECV(0, 7, 0);
    send_text(id, 7, "", 0);
    RECV(100, 7, 0);
    RECV(100, 7, 0);
    return 0;
}
