use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use vshmem_images::Cache;

use crate::args::probe_args;
use crate::process::Process;
use crate::{Boot, Error, Ports, Qemu, Result};

/// How the guest's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// By emulation: about ten times slower, and atomics between guests hold.
    Tcg,
}

impl std::fmt::Display for Accel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        })
    }
}

/// A real KVM is in user space in less than a second.
const PROBE_LIMIT: Duration = Duration::from_secs(4);

/// Chooses KVM if it boots this kernel, else emulation.
///
/// That `/dev/kvm` opens says little: it may be a software implementation in
/// which stock kernels hang. So a guest is really booted, once per boot of the
/// host, QEMU version and kernel; the answer is kept in the cache.
///
/// # Errors
///
/// [`Error::File`] if the cache cannot be written, [`Error::NoQemu`].
pub fn choose_accel(cache: &Cache, qemu: &Qemu, kernel: &Path, initrd: &Path) -> Result<Accel> {
    let open = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(why) = open {
        tracing::debug!(%why, "no /dev/kvm: emulating");
        return Ok(Accel::Tcg);
    }
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let key = format!("kvm/{}-{}-{}", boot_id.trim(), qemu.version, tag(kernel));
    let answer = cache.entry(&key, |at| {
        tracing::info!("probing /dev/kvm with a guest");
        let works = probe(qemu, kernel, initrd).map_err(|e| {
            let source = std::io::Error::other(e.to_string());
            vshmem_images::Error::File { path: "/dev/kvm".into(), source }
        })?;
        let entry = at.join("entry");
        let text = if works { "kvm" } else { "tcg" };
        fs::write(&entry, text).map_err(|source| vshmem_images::Error::File { path: entry, source })
    })?;
    let text = fs::read_to_string(&answer).map_err(Error::file(&answer))?;
    Ok(if text == "kvm" { Accel::Kvm } else { Accel::Tcg })
}

/// The kernel's place in the cache names its release.
fn tag(kernel: &Path) -> String {
    kernel.to_string_lossy().replace('/', "_")
}

fn probe(qemu: &Qemu, kernel: &Path, initrd: &Path) -> Result<bool> {
    let (mut ours, theirs) = UnixStream::pair().map_err(Error::system("socketpair"))?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&theirs);
    let boot = Boot {
        version: qemu.version,
        kernel: kernel.into(),
        initrd: initrd.into(),
        accel: Accel::Kvm,
        tsc_khz: None,
        qboot: qemu.qboot.clone(),
        net: None,
        ports: Ports { console: fd, control: -1, stdout: -1, stderr: -1, stdin: None },
    };
    let gone = Arc::new((Mutex::new(false), Condvar::new()));
    let tell = Arc::clone(&gone);
    let (process, _stderr) =
        Process::launch(&qemu.program, &probe_args(&boot), vec![theirs.into()], move |_| {
            *tell.0.lock().unwrap_or_else(|e| e.into_inner()) = true;
            tell.1.notify_all();
        })?;
    // Both ends of waiting are bounded by one limit: a hanging guest is silent.
    let ended = gone.0.lock().unwrap_or_else(|e| e.into_inner());
    let ended = gone.1.wait_timeout_while(ended, PROBE_LIMIT, |g| !*g);
    let ended = ended.map_or_else(|e| *e.into_inner().0, |(g, _)| *g);
    if !ended {
        process.kill();
    }
    let mut console = String::new();
    let _ = ours.set_read_timeout(Some(Duration::from_secs(2)));
    let mut bytes = Vec::new();
    let _ = ours.read_to_end(&mut bytes);
    console.push_str(&String::from_utf8_lossy(&bytes));
    let works = console.contains("vshmem-probe-ok");
    tracing::debug!(works, ended, "probed /dev/kvm");
    Ok(works)
}

/// Measures the host's time-stamp counter, once per process (20 ms). `None`
/// where there is none.
#[must_use]
pub fn tsc_khz() -> Option<u64> {
    static ANSWER: OnceLock<Option<u64>> = OnceLock::new();
    *ANSWER.get_or_init(measure_tsc)
}

#[cfg(target_arch = "x86_64")]
fn measure_tsc() -> Option<u64> {
    /// A pair of readings as close together as eight tries get them.
    fn sample() -> Option<(u64, Instant)> {
        let one = |_| {
            // SAFETY: every x86-64 processor has the instruction.
            let before = unsafe { core::arch::x86_64::_rdtsc() };
            let time = Instant::now();
            // SAFETY: as above.
            let after = unsafe { core::arch::x86_64::_rdtsc() };
            (after.wrapping_sub(before), before, time)
        };
        let (width, at, time) = (0..8).map(one).min_by_key(|s| s.0)?;
        Some((at + width / 2, time))
    }
    let (ticks, time) = sample()?;
    std::thread::sleep(Duration::from_millis(20));
    let (more_ticks, later) = sample()?;
    let micros = u64::try_from(later.duration_since(time).as_micros()).ok()?;
    // Ticks per microsecond, times a thousand.
    more_ticks.checked_sub(ticks)?.checked_mul(1000)?.checked_div(micros)
}

#[cfg(not(target_arch = "x86_64"))]
fn measure_tsc() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_counter_has_a_plausible_frequency() {
        let khz = tsc_khz().unwrap();
        assert!((500_000..10_000_000).contains(&khz), "{khz}");
    }
}
