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

/// Name and value of each: machine, kernel, commit.
pub fn facts() -> Vec<(&'static str, String)> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let root = crate::build::root();
    let git =
        |arguments: &[&str]| first_line(Command::new("git").arg("-C").arg(&root).args(arguments));
    let commit = git(&["describe", "--always", "--dirty"]).unwrap_or_else(|| "unknown".into());
    vec![
        ("machine", format!("{} ({})", processor(), uname.machine().to_string_lossy())),
        ("kernel", release),
        ("commit", commit),
    ]
}

/// The time in UTC, to the second.
pub fn time() -> String {
    let mut date = Command::new("date");
    first_line(date.args(["-u", "+%Y-%m-%d %H:%M:%S"])).unwrap_or_else(|| "unknown time".into())
}

/// How many programs ran or waited for a processor, on the mean of the last minute.
pub fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// How QEMU runs a guest, from its own command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    /// What `--version` says, without the copyright.
    pub version: String,
    /// The value of `-accel`: `kvm`, or `tcg` with its options.
    pub accel: String,
    /// The value of `-smp`.
    pub smp: String,
    /// The values of `-netdev` and of its `-device`; none without a network.
    pub net: Option<String>,
}

impl Emulator {
    /// Reads it from a process; none when that is no QEMU.
    pub fn of(pid: rustix::process::Pid) -> Option<Self> {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let arguments: Vec<_> =
            line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        let program = arguments.first()?;
        if !program.rsplit('/').next()?.starts_with("qemu-system-") {
            return None;
        }
        let version = first_line(Command::new(program).arg("--version"))?;
        Some(Self::read(version, &arguments))
    }

    fn read(version: String, arguments: &[String]) -> Self {
        let values = |name: &'static str| {
            arguments.windows(2).filter(move |pair| pair[0] == name).map(|pair| pair[1].clone())
        };
        let device = values("-device").find(|v| v.starts_with("virtio-net"));
        Self {
            version: version.split(" (").next().unwrap_or_default().to_owned(),
            accel: values("-accel").next().unwrap_or_else(|| "tcg".into()),
            smp: values("-smp").next().unwrap_or_else(|| "1".into()),
            net: values("-netdev")
                .next()
                .zip(device)
                .map(|(netdev, device)| format!("-netdev {netdev} -device {device}")),
        }
    }

    /// Whether the guests' processors are emulated.
    pub fn is_emulation(&self) -> bool {
        !self.accel.starts_with("kvm")
    }
}

#[cfg(test)]
mod tests {
    use super::Emulator;

    #[test]
    fn a_command_line_of_qemu_is_read() {
        let line = "qemu-system-x86_64 -accel tcg,thread=multi -smp 1,maxcpus=2 \
                    -device virtio-serial-pci -netdev tap,id=net0,fd=9 \
                    -device virtio-net-pci,netdev=net0";
        let arguments: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let read = Emulator::read("QEMU emulator version 7.2.0 (Debian)".into(), &arguments);
        assert!(read.is_emulation());
        assert_eq!(read.version, "QEMU emulator version 7.2.0");
        assert_eq!(read.smp, "1,maxcpus=2");
        let net = "-netdev tap,id=net0,fd=9 -device virtio-net-pci,netdev=net0";
        assert_eq!(read.net.as_deref(), Some(net));
    }

    #[test]
    fn another_process_is_no_emulator() {
        assert_eq!(Emulator::of(rustix::process::getpid()), None);
    }
}
