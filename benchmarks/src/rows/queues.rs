//! Throughput of message queues: by size, by who sends to whom, by type.

use crate::row::Row;

/// Up to what a message may have unless told.
const SIZES: &[&str] = &["0", "64", "512", "1024", "4096", "8192"];

fn queue(code: &str, name: String, about: String) -> Row {
    Row::program("queues", "msg", code, about).named(name)
}

/// The same beside POSIX's.
fn posix(code: &str, name: &str, about: &str, size: &str) -> Row {
    queue(code, format!("{name}-{size}-mq"), format!("{about}, {size} bytes"))
        .beside("posix mq", &format!("mq-{code}"))
        .with(&[size])
}

/// The rows.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let ways = [
        ("alone", "queue-alone", "one process sends and receives"),
        ("1-1", "queue-stream", "one to one, each on a processor"),
        ("1-4", "queue-fan-out", "one to four"),
        ("4-1", "queue-fan-in", "four to one"),
    ];
    for (code, name, about) in ways {
        for size in SIZES {
            // Of more processes the ends and one size say enough.
            if !matches!(*size, "0" | "64" | "8192") && code.starts_with(['1', '4']) {
                continue;
            }
            let about = format!("{about}, {size} bytes");
            rows.push(queue(code, format!("{name}-{size}"), about).with(&[size]));
        }
        rows.push(posix(code, name, about, "64"));
        rows.push(posix(code, name, about, "8192"));
    }
    for backlog in ["0", "100", "1000"] {
        let about = format!("received by type from behind {backlog} others");
        rows.push(queue("typed", format!("queue-typed-{backlog}"), about).with(&["8", backlog]));
    }
    rows
}
