/* A mutex with a priority protocol, in a segment, used twice.
 *
 *     protocol
 *
 * Prints the segment's id. */
#include "demo.h"

#include <pthread.h>

int main(void)
{
    begin();
    int id = MUST(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600));
    char *at = MUST(shmat(id, NULL, 0));
    pthread_mutex_t *mutex = (pthread_mutex_t *)(at + 0x40);
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
    CHECK(pthread_mutex_init(mutex, &a) == 0, "pthread_mutex_init");
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_mutex_lock(mutex) == 0, "pthread_mutex_lock");
        CHECK(pthread_mutex_trylock(mutex) == EBUSY, "pthread_mutex_trylock");
        CHECK(pthread_mutex_unlock(mutex) == 0, "pthread_mutex_unlock");
    }
    printf("%d\n", id);
    MUST(shmctl(id, IPC_RMID, NULL));
    return 0;
}
