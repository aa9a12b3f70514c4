//! The calls of System V IPC, and what else lies in segments.

use crate::row::{Goal, Row, Unit};

/// Kernel and vshmem, the same code.
fn micro(group: &'static str, code: &str, about: &str) -> Row {
    Row::program(group, "micro", code, about)
}

/// One that goes through `code`, beside something else than the kernel's System V IPC.
fn beside(name: &str, group: &'static str, code: &str, label: &str, other: &str) -> Row {
    micro(group, code, &format!("{code} beside {other}")).named(name).beside(label, other)
}

/// The rows.
pub fn rows() -> Vec<Row> {
    let mut rows = semaphores();
    rows.extend(messages());
    rows.extend(segments());
    rows.extend(posix());
    rows.extend(trapped());
    rows
}

fn semaphores() -> Vec<Row> {
    vec![
        micro("sem", "sem-pair", "semop +1, -1, uncontended").goal(Goal::Most(60.0)),
        micro("sem", "sem-undo-pair", "semop +1, -1 with SEM_UNDO"),
        micro("sem", "sem-multi", "semop of four operations"),
        micro("sem", "sem-read", "semctl GETVAL"),
        micro("sem", "sem-turns", "semop ping-pong, wherever the scheduler puts both"),
        micro("sem", "sem-turns-pinned", "semop ping-pong, each on a processor: both running"),
        micro("sem", "sem-turns-pinned", "semop ping-pong, each on a processor, no wait spins")
            .named("sem-turns-asleep")
            .asleep(),
        beside("sem-turns-futex", "sem", "sem-turns-pinned", "futex", "futex-turns-pinned")
            .asleep()
            .goal(Goal::Ratio(1.1)),
        // 200 ns where two processes that watch a word each take 80.
        beside("sem-turns-spin", "sem", "sem-turns-pinned", "spin", "spin-turns-pinned")
            .goal(Goal::Ratio(2.5)),
        beside("sem-turns-tcp", "sem", "sem-turns-pinned", "tcp", "tcp-turns-pinned"),
        micro("sem", "sem-turns-busy", "semop ping-pong, a third process keeps one processor busy"),
    ]
}

fn messages() -> Vec<Row> {
    vec![
        micro("msg", "msg-pair", "msgsnd, msgrcv of 64 bytes, uncontended").goal(Goal::Most(120.0)),
        micro("msg", "msg-type-pair", "msgsnd, msgrcv of 64 bytes, by type"),
        beside("msg-pair-mq", "msg", "msg-pair", "posix mq", "mq-pair"),
        micro("msg", "msg-stream", "one producer, one consumer, 64 bytes").goal(Goal::Ratio(0.1)),
        micro("msg", "msg-turns", "message ping-pong, wherever the scheduler puts both"),
        micro("msg", "msg-turns-pinned", "message ping-pong, each on a processor: both running"),
        micro("msg", "msg-turns-pinned", "message ping-pong, each on a processor, no wait spins")
            .named("msg-turns-asleep")
            .asleep(),
        beside("msg-turns-futex", "msg", "msg-turns-pinned", "futex", "futex-turns-pinned")
            .asleep(),
        beside("msg-turns-mq", "msg", "msg-turns-pinned", "posix mq", "mq-turns-pinned"),
        micro(
            "msg",
            "msg-turns-busy",
            "message ping-pong, a third process keeps one processor busy",
        ),
    ]
}

fn segments() -> Vec<Row> {
    let copy = |size: &str, about: &str| {
        micro("shm", &format!("copy-{size}"), about)
            .beside("memcpy", &format!("own-copy-{size}"))
            .unit(Unit::NsPerKib)
            // 95 % of its bandwidth.
            .goal(Goal::Ratio(1.0 / 0.95))
    };
    vec![
        micro("shm", "shm-cycle", "shmget, shmat, touch, shmdt, remove").goal(Goal::Ratio(1.0)),
        copy("1M", "1 MiB into and out of a segment, beside memory of its own"),
        copy("64M", "64 MiB into and out of a segment, beside memory of its own"),
    ]
}

fn posix() -> Vec<Row> {
    vec![
        micro("posix", "unit-pair", "sem_post, sem_wait in a segment"),
        micro("posix", "mutex-pair", "lock, unlock of a mutex in a segment"),
        micro("posix", "own-unit-pair", "sem_post, sem_wait in memory of its own"),
        micro("posix", "own-mutex-pair", "lock, unlock of a mutex in memory of its own"),
        micro("posix", "unit-turns-pinned", "sem_t ping-pong, each on a processor"),
        micro("posix", "unit-turns-pinned", "sem_t ping-pong, each on a processor, no wait spins")
            .named("unit-turns-asleep")
            .asleep(),
    ]
}

fn trapped() -> Vec<Row> {
    let row = |code: &str, about: &str| {
        micro("trapped", code, about).named(format!("{code}-trapped")).trapped()
    };
    vec![
        row("sem-pair", "sem-pair, linked statically"),
        row("msg-pair", "msg-pair, linked statically"),
        row("shm-cycle", "shm-cycle, linked statically"),
        row("sem-turns", "sem-turns, linked statically"),
    ]
}
