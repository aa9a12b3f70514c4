//! Random calls at the kernel module of a guest, beside programs that use it.
//!
//! A guest with every check that the distribution's kernel has runs `programs/storm/module.c`: as
//! nobody with the descriptors that its agent gives to anyone, as root on the devices, and while
//! the driver is taken off the device, or the module out of the kernel. The kernel must not
//! complain, the module must not keep anything, and whoever just works with the region, in that
//! guest and in another, must not notice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Plan, Report};
use crate::guests::{Guests, Host};
use crate::{build, driver};

const REGION: &str = "gates";
/// A guest that boots with all checks, emulated, on a busy machine.
const BOOT: Duration = Duration::from_secs(240);
/// One line of shell but for the storms.
const SOON: Duration = Duration::from_secs(120);
const NOBODY: u32 = 65534;

/// What makes the kernel look after its memory, and stop at the first complaint. Those that its
/// configuration lacks do nothing; what really works is asked afterwards.
const CHECKS: &str = "slub_debug=FZPU page_poison=1 init_on_free=1 debug_pagealloc=on \
                      kfence.sample_interval=1 oops=panic panic_on_warn=1";

/// Whether each check works, in shell.
const WORKING: &[(&str, &str)] = &[
    (
        "red zones, poison and owners of slabs",
        "grep -q 1 /sys/kernel/slab/kmalloc-64/red_zone \
      && grep -q 1 /sys/kernel/slab/kmalloc-64/poison && grep -q 1 /sys/kernel/slab/kmalloc-64/store_user",
    ),
    ("poison of free pages", "dmesg | grep -q 'PAGE_POISONING is on\\|heap free:on'"),
    (
        "stop at an oops and at a warning",
        "grep -q 1 /proc/sys/kernel/panic_on_oops \
      && grep -q 1 /proc/sys/kernel/panic_on_warn",
    ),
    ("hung tasks", "test $(cat /proc/sys/kernel/hung_task_timeout_secs) -gt 0"),
    ("KFENCE", "test -e /sys/kernel/debug/kfence"),
    ("KASAN", "grep -q ' kasan_save_stack$' /proc/kallsyms"),
];

/// Until those who were killed have ended, which with all checks takes a while: then they hold no
/// file any more. Prints how often the module is held even so, and who has its devices.
const HELD: &str = "for i in $(seq 600); do pgrep -x module > /dev/null || break; sleep 0.1; done; \
    held=$(cat /sys/module/uio_vshmem/refcnt); echo held $held; \
    test $held = 0 || for p in /proc/[0-9]*; do \
    n=$( (ls -l $p/task/*/fd; cat $p/task/*/maps) 2>/dev/null | grep -c '/dev/\\(vshmem\\|uio\\)[0-9]'); \
    test $n = 0 || echo ${p#/proc/} $(tr '\\0' ' ' < $p/cmdline) has them $n times, $(cat $p/task/*/wchan); \
    done";

/// What no line of the kernel's log may say.
const COMPLAINTS: &str = "BUG|WARNING:|Oops|general protection|KFENCE:|KASAN:|blocked for more than|\
                          Call Trace|Redzone|Poison overwritten|corrupt|refcount_t|Bad page|scheduling while";

/// `run` of the storm.
///
/// # Errors
///
/// What kept it from running.
pub fn storm(plan: &Plan) -> Result<Report> {
    let host = Host::open_to_all(REGION, "64M")?;
    let source = |name| build::programs().join(format!("storm/{name}.c"));
    build::compile_static(&source("module"), host.folder())?;
    build::compile(&source("caller"), host.folder())?;
    let mut guests = Guests::new(&host);
    let a = guests.shell_with("a", &["--smp", "2", "--mem", "768M", "--kernel-args", CHECKS])?;
    let b = guests.shell("b")?;
    let mut storm =
        Storm { guests, a, b, vshmem: host.session().artifacts().vshmem.display().to_string() };
    let mut report = Report::default();
    storm.begin(&mut report)?;
    storm.by_tasks(plan, &mut report)?;
    storm.by_root(plan, &mut report)?;
    storm.removals(plan, &mut report)?;
    storm.again(&mut report)?;
    for (guest, name) in [(storm.a, "a"), (storm.b, "b")] {
        let status = storm.ask(guest, "cat /dev/null", SOON)?.0;
        ensure!(status == 0, "guest {name} does not answer");
    }
    drop(storm);
    host.stop()?;
    Ok(report)
}

struct Storm<'a> {
    guests: Guests<&'a Host>,
    /// Where the storm is.
    a: usize,
    /// Where somebody works, and counts interrupts.
    b: usize,
    vshmem: String,
}

impl Storm<'_> {
    fn ask(&mut self, guest: usize, line: &str, limit: Duration) -> Result<(i32, Vec<String>)> {
        self.guests.ask(guest, line, limit)
    }

    /// What a line prints, which must end well.
    fn get(&mut self, guest: usize, line: &str) -> Result<String> {
        let (status, said) = self.ask(guest, line, SOON)?;
        ensure!(status == 0, "{line}: {status}, {said:?}");
        Ok(said.join("\n"))
    }

    fn number(&mut self, guest: usize, line: &str) -> Result<u64> {
        let text = self.get(guest, line)?;
        text.trim().parse().with_context(|| format!("{line}: '{text}'"))
    }

    fn begin(&mut self, report: &mut Report) -> Result<()> {
        for guest in [self.a, self.b] {
            let (status, _) = self.ask(guest, "true", BOOT)?;
            ensure!(status == 0, "a shell that fails at nothing");
        }
        let a = self.a;
        self.get(a, "mount -t debugfs debugfs /sys/kernel/debug")?;
        self.get(a, "echo 60 > /proc/sys/kernel/hung_task_timeout_secs")?;
        report.row("kernel under attack", self.get(a, "uname -r")?);
        let (mut on, mut off) = (Vec::new(), Vec::new());
        for (name, line) in WORKING {
            let works = self.ask(a, line, SOON)?.0 == 0;
            if works { &mut on } else { &mut off }.push(*name);
        }
        report.row("checks at work", on.join(", "));
        report.row("checks that this kernel does not have", off.join(", "));
        // Without these it would show little.
        ensure!(on.len() >= 3, "the kernel checks only {on:?}");
        Ok(())
    }

    /// The same in each guest: a program that forks, whose children attach and use a set.
    fn start_caller(&mut self, guest: usize) -> Result<()> {
        let line = format!(
            "rm -f /tmp/go /tmp/times; mkfifo /tmp/go; sleep 100000 > /tmp/go & keep=$!; \
             '{}' run --region {REGION} -- ./caller < /tmp/go > /tmp/times 2> /tmp/why & caller=$!; \
             while ! test -s /tmp/times; do kill -0 $caller || break; sleep 0.1; done; \
             test -s /tmp/times || {{ cat /tmp/why; false; }}",
            self.vshmem
        );
        self.get(guest, &line).map(drop)
    }

    fn end_caller(&mut self, guest: usize, name: &str, report: &mut Report) -> Result<()> {
        let (status, said) =
            self.ask(guest, "kill $keep; wait $caller; was=$?; cat /tmp/why; (exit $was)", SOON)?;
        report
            .promise(status == 0, || format!("the caller in {name} ended with {status}: {said:?}"));
        let worst = self.number(guest, "(echo 0; cat /tmp/times) | sort -n | tail -n 1")?;
        let times = self.number(guest, "wc -l < /tmp/times")?;
        let shown = format!("{times} times, worst {:.1} ms", worst as f64 / 1e6);
        report.row(format!("fork and semop in {name} meanwhile"), shown);
        Ok(())
    }

    /// Allocations of the module that are not freed.
    fn kept(&mut self) -> Result<u64> {
        self.number(
            self.a,
            "cat /sys/kernel/debug/slab/*/alloc_traces | \
             awk '/\\[uio_vshmem\\]/ {n += $1} END {print n + 0}'",
        )
    }

    fn free_kib(&mut self) -> Result<u64> {
        let line = "sync; echo 3 > /proc/sys/vm/drop_caches; sleep 1; \
                    awk '/^MemAvailable/ {print $2}' /proc/meminfo";
        self.number(self.a, line)
    }

    /// What the kernel says about what was done to it.
    fn complaints(&mut self, when: &str, report: &mut Report) -> Result<()> {
        let (_, said) =
            self.ask(self.a, &format!("dmesg | grep -E '{COMPLAINTS}' | head -n 20"), SOON)?;
        report.promise(said.is_empty(), || format!("the kernel, {when}: {said:?}"));
        Ok(())
    }

    fn raise(&mut self, from: &str, user: u32, seed: u64, processes: u64) -> Result<String> {
        let limit = SOON + Duration::from_millis(1000 * processes);
        let line = format!("./module {from} {user} {seed} {processes}");
        let (status, said) = self.ask(self.a, &line, limit)?;
        ensure!(status == 0, "{line}: {status}, {said:?}");
        Ok(said.join(" "))
    }

    fn by_tasks(&mut self, plan: &Plan, report: &mut Report) -> Result<()> {
        let (a, b) = (self.a, self.b);
        self.start_caller(a)?;
        self.start_caller(b)?;
        let socket = format!("/run/vshmem/{REGION}.sock");
        let (kept, free) = (self.kept()?, self.free_kib()?);
        let did = self.raise(&socket, NOBODY, plan.seed, plan.rounds)?;
        report.row("by nobody", did);
        self.complaints("after the storm of nobody", report)?;
        let (now, left) = (self.kept()?, self.free_kib()?);
        report.row("allocations of the module before and after", format!("{kept}, {now}"));
        report.row("MiB available before and after", format!("{}, {}", free >> 10, left >> 10));
        report.promise(now <= kept, || format!("the module had {kept} allocations, has {now}"));
        report.promise(left + (24 << 10) > free, || format!("{free} KiB became {left}"));
        self.flood(report)?;
        self.end_caller(a, "that guest", report)?;
        self.end_caller(b, "another guest", report)
    }

    /// A user who rings as often as it can, with ever new descriptors.
    fn flood(&mut self, report: &mut Report) -> Result<()> {
        const SECONDS: u64 = 3;
        let peer = "dmesg | sed -n 's/.*ivshmem id \\([0-9]*\\),.*/\\1/p' | tail -n 1";
        let peer = self.number(self.b, peer)?;
        let count = "awk '/vshmem/ {for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) n += $i} END {print n}' \
                     /proc/interrupts";
        let before = self.number(self.b, count)?;
        let did = self.get(
            self.a,
            &format!("./module flood /run/vshmem/{REGION}.sock {NOBODY} {SECONDS} {peer}"),
        )?;
        let interrupts = self.number(self.b, count)? - before;
        let field = |name: &str| {
            let mut words = did.split_ascii_whitespace().skip_while(|w| *w != name);
            words
                .nth(1)
                .and_then(|n| n.parse::<u64>().ok())
                .with_context(|| format!("{name} in {did}"))
        };
        let (rung, time) = (field("rung")?, field("milliseconds")?);
        // guest-driver/uio_vshmem/chardev.c: of one user.
        let most = 2048 + 100 * time;
        report.row("doorbells of one user", format!("{did}; interrupts there {interrupts}"));
        report.promise(rung <= most, || format!("{rung} doorbells in {time} ms, not {most}"));
        // Others ring that guest too: callers do not.
        report.promise(interrupts <= rung + 1000, || {
            format!("{interrupts} interrupts for {rung} rings")
        });
        Ok(())
    }

    fn by_root(&mut self, plan: &Plan, report: &mut Report) -> Result<()> {
        self.start_caller(self.b)?;
        let did = self.raise("/dev/vshmem0", 0, plan.seed + 1, plan.rounds / 2 + 1)?;
        report.row("by root", did);
        self.complaints("after the storm of root", report)?;
        self.end_caller(self.b, "another guest, beside root", report)
    }

    /// The driver taken off its device, and the module out of the kernel, under storms.
    fn removals(&mut self, plan: &Plan, report: &mut Report) -> Result<()> {
        let a = self.a;
        driver::end_agent(&mut self.guests, a, SOON)?;
        let driver = "/sys/bus/pci/drivers/uio_vshmem";
        let device = self.get(a, &format!("basename $(ls -d {driver}/0000:*)"))?;
        let cycles = 2 + plan.rounds / 20;
        let mut refused = 0;
        for cycle in 0..cycles {
            let seed = plan.seed.wrapping_mul(1000) + cycle;
            let limit = SOON * 2;
            let line = format!(
                "./module /dev/vshmem0 {NOBODY} {seed} 9999 & one=$!; ./module /dev/vshmem0 0 {seed} 9999 & two=$!; \
                 for i in $(seq 200); do test $(cat /sys/module/uio_vshmem/refcnt) -ge 2 && break; sleep 0.05; done; \
                 sleep 0.{}; rmmod uio_vshmem 2> /tmp/why && echo removed in use; \
                 grep -c 'in use' /tmp/why; \
                 echo {device} > {driver}/unbind; sleep 0.{}; echo {device} > {driver}/bind; \
                 kill $one $two; wait $one; wait $two; {HELD}; test -e /dev/vshmem0",
                1 + seed % 5,
                seed % 3,
            );
            let (status, said) = self.ask(a, &line, limit)?;
            ensure!(status == 0, "removal {cycle}: {status}, {said:?}");
            let unharmed = !said.iter().any(|l| l.contains("removed in use"));
            report.promise(unharmed, || format!("rmmod removed a module in use: {said:?}"));
            refused += u64::from(said.iter().any(|l| l == "1"));
            let free = said.iter().any(|l| l == "held 0");
            report.promise(free, || format!("held when all were killed: {said:?}"));
            self.complaints("after a removal", report)?;
        }
        report.promise(refused == cycles, || {
            format!("rmmod was refused {refused} times of {cycles}")
        });
        report.row(
            "removals of the driver while used, rmmod refused",
            format!("{cycles}, {refused}"),
        );
        Ok(())
    }

    /// The module out of the kernel and in again, and somebody works with it.
    fn again(&mut self, report: &mut Report) -> Result<()> {
        let a = self.a;
        let file = driver::module_file(&mut self.guests, a, SOON)?;
        self.get(a, "rmmod uio_vshmem")?;
        let kept = self.kept()?;
        report.promise(kept == 0, || format!("{kept} allocations outlive the module"));
        self.get(a, "! test -e /dev/vshmem0")?;
        self.get(a, &format!("insmod {file}; test -e /dev/vshmem0"))?;
        self.get(
            a,
            &format!(
                "'{}' agent --region {REGION} --ready-file /tmp/ready > /tmp/agent.log 2>&1 & \
                 for i in $(seq 60); do test -e /tmp/ready && break; sleep 0.5; done; \
                 test -e /tmp/ready || {{ cat /tmp/agent.log; dmesg | tail -n 3; false; }}",
                self.vshmem
            ),
        )?;
        self.start_caller(a)?;
        self.get(a, "sleep 1")?;
        self.end_caller(a, "that guest afterwards", report)?;
        self.complaints("at the end", report)
    }
}
