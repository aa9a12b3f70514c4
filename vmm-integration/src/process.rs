//! A QEMU process that cannot outlive this one.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::{Error, Result};

pub(crate) struct Process {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// Starts `program`; it inherits `keep` under the same numbers. `ended` is
    /// called once, when it is gone.
    ///
    /// The kernel sends the parent-death signal when the starting *thread* ends,
    /// so a thread that lives as long as the child starts it and waits for it.
    pub(crate) fn launch(
        program: &Path,
        args: &[OsString],
        keep: Vec<OwnedFd>,
        ended: impl FnOnce(ExitStatus) + Send + 'static,
    ) -> Result<(Process, ChildStderr)> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // A group of its own: a terminal's Ctrl-C is for us to forward.
        command.process_group(0);
        let parent = rustix::process::getpid();
        let raw: Vec<i32> = keep.iter().map(AsRawFd::as_raw_fd).collect();
        let prepare = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above.
            if rustix::process::getppid() != Some(parent) {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            for fd in &raw {
                // SAFETY: F_SETFD takes plain integers; the descriptors are open
                // copies of those in `keep`, which the parent holds.
                if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: between fork and exec, `prepare` makes system calls only: it
        // neither allocates nor takes a lock.
        unsafe { command.pre_exec(prepare) };

        let (tell, told) = mpsc::channel();
        let name = program.to_path_buf();
        let start = move || {
            let spawned = command.spawn();
            drop(keep);
            let mut child = match spawned {
                Ok(child) => child,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    let _ = tell.send(Err(Error::NoQemu));
                    return;
                }
                Err(e) => {
                    let _ = tell.send(Err(Error::file(name)(e)));
                    return;
                }
            };
            let pidfd = rustix::process::pidfd_open(pid_of(&child), PidfdFlags::empty());
            let stderr = child.stderr.take();
            match (pidfd, stderr) {
                (Ok(pidfd), Some(stderr)) => {
                    let _ = tell.send(Ok((Process { pid: child.id(), pidfd }, stderr)));
                }
                (pidfd, _) => {
                    let _ = child.kill();
                    let cause =
                        pidfd.err().map_or_else(|| std::io::ErrorKind::Other.into(), Into::into);
                    let _ = tell.send(Err(Error::System { what: "pidfd_open", source: cause }));
                }
            }
            if let Ok(status) = child.wait() {
                ended(status);
            }
        };
        thread::Builder::new()
            .name("qemu".to_string())
            .spawn(start)
            .map_err(Error::system("starting a thread"))?;
        told.recv().unwrap_or_else(|_| {
            Err(Error::System { what: "starting QEMU", source: std::io::ErrorKind::Other.into() })
        })
    }

    /// Kills it; one that is gone already is no error.
    pub(crate) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

fn pid_of(child: &std::process::Child) -> Pid {
    Pid::from_child(child)
}
