use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::{Accel, NetLink, Root, Version, VmSpec};

/// Descriptors that QEMU inherits, by number: one end of a socket pair each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The guest's kernel console.
    pub console: i32,
    /// The control port.
    pub control: i32,
    /// The command's standard output.
    pub stdout: i32,
    /// The command's standard error.
    pub stderr: i32,
    /// The command's standard input.
    pub stdin: Option<i32>,
}

/// What a description is completed with before it becomes arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// QEMU's version.
    pub version: Version,
    /// The kernel.
    pub kernel: PathBuf,
    /// The first root.
    pub initrd: PathBuf,
    /// How instructions are run.
    pub accel: Accel,
    /// The frequency of the host's time-stamp counter, which emulation hands
    /// through; see [`tsc_khz`](crate::tsc_khz).
    pub tsc_khz: Option<u64>,
    /// The minimal firmware, if installed.
    pub qboot: Option<PathBuf>,
    /// The place in the network segment.
    pub net: Option<NetLink>,
    /// The inherited descriptors.
    pub ports: Ports,
}

/// Turns a description into QEMU's arguments (without the program).
#[must_use]
pub fn qemu_args(spec: &VmSpec, boot: &Boot) -> Vec<OsString> {
    let mut args = Args(machine(spec.smp, spec.mem_mib, boot));
    if !spec.reboot {
        args.0.push("-no-reboot".into());
    }
    args.put("-name", format!("guest={}", plain(&spec.name)));
    let words: Vec<_> =
        std::iter::once(cmdline(boot)).chain(spec.kernel_args.iter().cloned()).collect();
    args.put("-append", words.join(" "));

    args.put("-device", "virtio-serial-pci,max_ports=6");
    let ports = [
        ("control", Some(boot.ports.control)),
        ("stdout", Some(boot.ports.stdout)),
        ("stderr", Some(boot.ports.stderr)),
        ("stdin", boot.ports.stdin),
    ];
    for (name, fd) in ports.into_iter().filter_map(|(n, fd)| Some((n, fd?))) {
        args.put("-chardev", format!("socket,id={name},fd={fd}"));
        args.put("-device", format!("virtserialport,chardev={name},name=vshmem.{name}"));
    }
    if let Root::Host { .. } = spec.root {
        // remap: the host's root holds several file systems, whose inode numbers
        // would collide.
        args.put("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap");
        args.put("-device", "virtio-9p-pci,fsdev=root,mount_tag=root");
    }
    if let Some(net) = &boot.net {
        args.put("-netdev", net.netdev.clone());
        // romfile: nobody boots from the network, and the ROM costs boot time.
        args.put("-device", format!("virtio-net-pci,netdev=net0,mac={},romfile=", net.mac));
    }
    for (n, region) in spec.regions.iter().enumerate() {
        // Never `reconnect`: QEMU would spin for ever. Two vectors: wake and
        // control.
        let path = escape(&region.socket);
        args.put("-chardev", format!("socket,id=region{n},path={path}"));
        args.put("-device", format!("ivshmem-doorbell,chardev=region{n},vectors=2"));
    }
    args.0
}

/// The arguments of a guest that only says that it has booted.
pub(crate) fn probe_args(boot: &Boot) -> Vec<OsString> {
    let mut args = Args(machine(1, 256, boot));
    args.0.push("-no-reboot".into());
    args.put("-append", format!("{} vshmem.probe", cmdline(boot)));
    args.0
}

/// Machine, processor, memory, console and kernel.
fn machine(smp: u32, mem_mib: u64, boot: &Boot) -> Vec<OsString> {
    let mut args = Args(Vec::new());
    // Nothing that was not asked for: each device costs boot time.
    for flag in ["-nodefaults", "-no-user-config"] {
        args.0.push(flag.into());
    }
    args.put("-display", "none");
    args.put("-vga", "none");
    args.put("-machine", "q35,usb=off,vmport=off,hpet=off,smbus=off,sata=off,graphics=off");
    match boot.accel {
        Accel::Kvm => {
            args.put("-accel", "kvm");
            args.put("-cpu", "host");
            args.put("-smp", smp.to_string());
        }
        Accel::Tcg => {
            args.put("-accel", "tcg,thread=multi");
            args.put("-cpu", "max");
            // With one possible processor QEMU turns locked instructions into
            // plain ones, and atomics between guests break.
            args.put("-smp", format!("{smp},maxcpus={}", smp.max(2)));
        }
    }
    args.put("-m", format!("{mem_mib}M"));
    // No program can be started from a guest that broke out of the emulation.
    args.put("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    if let Some(qboot) = &boot.qboot {
        args.put("-bios", qboot);
    }
    args.put("-kernel", &boot.kernel);
    args.put("-initrd", &boot.initrd);
    args.put("-chardev", format!("socket,id=console,fd={}", boot.ports.console));
    args.put("-serial", "chardev:console");
    args.0
}

fn cmdline(boot: &Boot) -> String {
    // panic=-1 with -no-reboot ends QEMU, so that a dead guest is noticed.
    let mut line = String::from(
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on \
         audit=0 apparmor=0 8250.nr_uarts=1 cryptomgr.notests nowatchdog i8042.nopnp \
         i8042.noaux i8042.nokbd",
    );
    if boot.accel == Accel::Tcg {
        // The emulated counter is the host's; without this the watchdog of an
        // overloaded host would take it for unstable and use a slower clock.
        line.push_str(" tsc=reliable no_timer_check");
        // Told, because a guest that measures it on an overloaded host gets it
        // wrong, and its clock then runs at twice the speed.
        if let Some(khz) = boot.tsc_khz {
            line.push_str(&format!(" tsc_early_khz={khz}"));
        }
    }
    line
}

fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// A name without characters that mean something to QEMU.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

struct Args(Vec<OsString>);

impl Args {
    fn put(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NetSpec, RegionSocket};

    fn boot(accel: Accel) -> Boot {
        Boot {
            version: Version { major: 7, minor: 2 },
            kernel: "/c/vmlinux".into(),
            initrd: "/c/i.cpio".into(),
            accel,
            tsc_khz: Some(2_300_000),
            qboot: None,
            net: None,
            ports: Ports { console: 10, control: 11, stdout: 12, stderr: 13, stdin: None },
        }
    }

    /// One option with its value per line.
    fn text(args: &[OsString]) -> String {
        let mut text = String::new();
        for arg in args {
            let arg = arg.to_string_lossy();
            text.push(if arg.starts_with('-') { '\n' } else { ' ' });
            text.push_str(&arg);
        }
        text.trim_start().to_string()
    }

    #[test]
    fn a_plain_emulated_guest() {
        let spec = VmSpec { smp: 1, ..VmSpec::new(["true"]) };
        let want = "\
-nodefaults
-no-user-config
-display none
-vga none
-machine q35,usb=off,vmport=off,hpet=off,smbus=off,sata=off,graphics=off
-accel tcg,thread=multi
-cpu max
-smp 1,maxcpus=2
-m 512M
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-kernel /c/vmlinux
-initrd /c/i.cpio
-chardev socket,id=console,fd=10
-serial chardev:console
-no-reboot
-name guest=guest
-append console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on audit=0 \
apparmor=0 8250.nr_uarts=1 cryptomgr.notests nowatchdog i8042.nopnp i8042.noaux i8042.nokbd \
tsc=reliable no_timer_check tsc_early_khz=2300000
-device virtio-serial-pci,max_ports=6
-chardev socket,id=control,fd=11
-device virtserialport,chardev=control,name=vshmem.control
-chardev socket,id=stdout,fd=12
-device virtserialport,chardev=stdout,name=vshmem.stdout
-chardev socket,id=stderr,fd=13
-device virtserialport,chardev=stderr,name=vshmem.stderr
-fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap
-device virtio-9p-pci,fsdev=root,mount_tag=root";
        assert_eq!(text(&qemu_args(&spec, &boot(Accel::Tcg))), want);
    }

    #[test]
    fn regions_network_input_and_firmware_are_added() {
        let spec = VmSpec {
            smp: 3,
            regions: vec![
                RegionSocket { name: "a".into(), socket: "/run/vshmem/a.ivshmem".into() },
                RegionSocket { name: "b".into(), socket: "/x,y/b".into() },
            ],
            root: Root::Isolated { programs: Vec::new() },
            kernel_args: vec!["init_on_free=1".into(), "debug".into()],
            reboot: true,
            ..VmSpec::new(["true"])
        };
        let mut boot = boot(Accel::Kvm);
        boot.ports.stdin = Some(14);
        boot.qboot = Some("/q.rom".into());
        boot.net = Some(NetLink::describe(&NetSpec::new("n"), 2, Path::new("/r"), None));
        let got = text(&qemu_args(&spec, &boot));
        for line in [
            "-cpu host\n-smp 3\n",
            " i8042.nokbd init_on_free=1 debug\n",
            "-bios /q.rom\n",
            "-chardev socket,id=stdin,fd=14\n-device virtserialport,chardev=stdin,name=vshmem.stdin\n",
            "-chardev socket,id=region0,path=/run/vshmem/a.ivshmem\n\
             -device ivshmem-doorbell,chardev=region0,vectors=2\n",
            "-chardev socket,id=region1,path=/x,,y/b\n",
            "-device virtio-net-pci,netdev=net0,mac=52:54:76:",
        ] {
            assert!(got.contains(line), "{line:?} is not in\n{got}");
        }
        assert!(!got.contains("-fsdev"), "an isolated guest sees nothing of the host");
        assert!(!got.contains("reconnect"), "QEMU would spin");
        assert!(!got.contains("-no-reboot"), "it is to boot again");
    }

    #[test]
    fn an_emulated_guest_never_has_one_possible_processor() {
        for (smp, want) in [(1, "1,maxcpus=2"), (2, "2,maxcpus=2"), (4, "4,maxcpus=4")] {
            let spec = VmSpec { smp, ..VmSpec::new(["true"]) };
            let args = qemu_args(&spec, &boot(Accel::Tcg));
            assert!(args.contains(&OsString::from(want)), "{want}");
        }
    }
}
