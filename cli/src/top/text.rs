//! The view as lines.

use super::sample::View;
use crate::listing::table;
use std::fmt::Write;

/// Objects shown at the most.
const OBJECTS: usize = 20;

/// All of it.
pub fn text(view: &View) -> String {
    let mut out = format!(
        "region {}: {} MiB, {} % in use, {} objects\n",
        view.region,
        view.size_mib,
        view.memory_used_percent,
        view.objects.len()
    );
    for note in &view.notes {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "! {note}");
    }
    let peers = view.peers.iter().map(|p| {
        let here = if p.here { "this one" } else { "" };
        vec![p.index.to_string(), p.name.clone(), p.state.into(), p.tasks.to_string(), here.into()]
    });
    let peers: Vec<_> = peers.collect();
    let tasks = view.tasks.iter().map(|t| {
        let waits: Vec<_> =
            t.waits.iter().map(|w| format!("{} for {} ms", w.what, w.for_at_least_ms)).collect();
        let holds =
            t.holds.iter().map(|a| format!("{:+} on {}:{}", -a.undo_adds, a.set, a.semaphore));
        vec![
            t.peer.to_string(),
            t.pid.to_string(),
            t.command.clone(),
            t.state.to_owned(),
            t.steps_per_second.to_string(),
            dash(holds.collect::<Vec<_>>().join(", ")),
            dash(waits.join("; ")),
        ]
    });
    let tasks: Vec<_> = tasks.collect();
    let shown = view.objects.iter().filter(|o| o.sleepers > 0 || o.changes_per_second > 0);
    let objects = shown.take(OBJECTS).map(|o| {
        let (rate, sleepers) = (o.changes_per_second.to_string(), o.sleepers.to_string());
        vec![o.kind.to_owned(), o.id.to_string(), rate, sleepers]
    });
    let objects: Vec<_> = objects.collect();
    out.push('\n');
    out += &table(&["PEER", "NAME", "STATE", "TASKS", ""], &peers);
    out.push('\n');
    out += &table(&["PEER", "PID", "COMMAND", "STATE", "STEPS/S", "HOLDS", "WAITS FOR"], &tasks);
    if !objects.is_empty() {
        out.push('\n');
        out += &table(&["KIND", "ID", "CHANGES/S", "SLEEPERS"], &objects);
    }
    out
}

fn dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}
