//! What the kernel says of a process.

/// Its state in a word. `start` tells it from another one of the same pid.
pub fn state(pid: u32, start: u64) -> &'static str {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return "dead" };
    // PID (COMMAND) STATE ...: of the command, which may hold anything, the last parenthesis ends it.
    let Some((_, rest)) = stat.rsplit_once(") ") else { return "unknown" };
    let mut fields = rest.split(' ');
    let letter = fields.next().unwrap_or("");
    // The 22nd field of all.
    let began = fields.nth(18).and_then(|f| f.parse::<u64>().ok());
    if start != 0 && began.is_some_and(|b| b != start) {
        return "dead";
    }
    match letter {
        "R" => "running",
        "S" | "D" | "I" => "sleeping",
        "T" => "STOPPED",
        "t" => "traced",
        "Z" | "X" | "x" => "dead",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::state;

    #[test]
    fn a_running_a_sleeping_and_another_process_are_told_apart() {
        assert_eq!(state(std::process::id(), 1), "dead", "one of the same pid");
        assert_ne!(state(std::process::id(), 0), "dead");
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        while state(child.id(), 0) != "STOPPED" {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(state(child.id(), 0), "dead");
    }
}
