//! System V shared memory, semaphores and message queues: semantics over vshmem-core.
