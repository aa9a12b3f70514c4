//! What a figure is worth nothing without: machine, kernel, commit.

use std::process::Command;

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|o| o.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    format!("{}, {cores} cores", model.map_or("unknown processor", |(_, name)| name))
}

/// Name and value of each.
pub fn facts() -> Vec<(&'static str, String)> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let root = vshmem_tests::build::root();
    let git =
        |arguments: &[&str]| first_line(Command::new("git").arg("-C").arg(&root).args(arguments));
    let commit = git(&["describe", "--always", "--dirty"]).unwrap_or_else(|| "unknown".into());
    vec![
        ("machine", format!("{} ({})", processor(), uname.machine().to_string_lossy())),
        ("kernel", release),
        ("commit", commit),
    ]
}
