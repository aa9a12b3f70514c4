//! What somebody who looks at a region should know, or do.

use super::sample::{Holder, TaskRow, View};

/// How full a table may be before it is worth a word.
const FULL: u64 = 90;

fn who(pid: u32, command: &str, peer: u32) -> String {
    match pid {
        0 => format!("{command} of peer {peer}"),
        _ => format!("process {pid} ({command}) of peer {peer}"),
    }
}

/// By what matters most.
pub fn notes(view: &View, (tasks, lanes): (u64, u64), taken: usize) -> Vec<String> {
    let mut notes: Vec<_> = view.holders.iter().map(holder).collect();
    notes.extend(view.tasks.iter().filter_map(|t| stopped(view, t)));
    for t in view.tasks.iter().filter(|t| t.state == "dead") {
        notes.push(format!(
            "{} is dead and not reaped yet: its endpoint looks about once a second",
            who(t.pid, &t.command, t.peer)
        ));
    }
    for p in &view.peers {
        let named = format!("peer {} ({})", p.index, p.name);
        match p.state {
            "fenced" => notes.push(format!("{named} is fenced: end its VM to free the rest")),
            "dead" => notes.push(format!("{named} is dead and not reaped yet")),
            _ if p.unanswered_wakes => notes.push(format!(
                "{named} does not take the wakes that are for it: is it paused? Resume it; `vshmem \
                 peer fence {}` gives what it holds to others",
                p.index
            )),
            _ => {}
        }
    }
    if view.memory_used_percent >= FULL {
        notes.push(format!("{} % of the memory is in use", view.memory_used_percent));
    }
    let fill = |n: usize, of: u64| n as u64 * 100 / of.max(1);
    if fill(view.tasks.len(), tasks) >= FULL || fill(taken, lanes) >= FULL {
        notes.push(format!(
            "{} of {tasks} task slots and {taken} of {lanes} lanes are taken: a larger region has more",
            view.tasks.len()
        ));
    }
    notes
}

fn holder(h: &Holder) -> String {
    let locks = match h.locks[..] {
        [] => String::new(),
        _ => format!(", with the lock of {}", h.locks.join(" and ")),
    };
    let whose = who(h.pid, &h.command, h.peer);
    match h.state {
        "STOPPED" | "traced" => format!(
            "{whose} is {} in the middle of a change{locks}: others do not wait for it; `kill -CONT \
             {}` continues it",
            h.state, h.pid
        ),
        _ => format!(
            "{whose} ({}) is in the middle of a change{locks} for {} ms: others do not wait for it",
            h.state, h.for_at_least_ms
        ),
    }
}

/// Whoever is stopped and has what others wait for.
fn stopped(view: &View, t: &TaskRow) -> Option<String> {
    if !matches!(t.state, "STOPPED" | "traced") || t.holds.is_empty() {
        return None;
    }
    let held = t.holds.iter().map(|a| format!("semaphore {} of set {}", a.semaphore, a.set));
    let held = held.collect::<Vec<_>>().join(", ");
    let waits = view.tasks.iter().flat_map(|o| &o.waits);
    let waits = waits.filter(|w| w.kind == "set" && t.holds.iter().any(|a| a.set == w.id)).count();
    Some(format!(
        "{} is {} and holds {held} (SEM_UNDO); waiting on {}: {waits}. `kill -CONT {}` continues it",
        who(t.pid, &t.command, t.peer),
        t.state,
        if t.holds.len() == 1 { "that set" } else { "those sets" },
        t.pid
    ))
}
