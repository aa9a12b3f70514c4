//! System calls that a caller makes because the supervisor wants them: mapping memory is something
//! only the process itself can do.
//!
//! The caller waits inside the kernel for its answer. It is seized and told to stop, then answered:
//! so it stops on the way back, before its program runs on. There its registers are set to make
//! another call by the very instruction it has just used, as often as needed, and at last to what
//! they were, with the result. Its signals are blocked meanwhile.
//!
//! # If the supervisor dies
//! The kernel lets the caller go wherever it stands: it may find the result of an inner call, such
//! as an address, as that of its own.

use crate::failed::{Failed, Result};
use crate::listener::Notification;
use crate::remote::Remote;
use std::io;

/// A caller that is stopped.
pub struct Stopped {
    tid: i32,
    pid: u32,
    #[cfg(target_arch = "x86_64")]
    before: libc::user_regs_struct,
    mask: u64,
    /// Signals that came meanwhile and cannot be blocked.
    came: Vec<i32>,
    result: i64,
}

const EVENT_STOP: i32 = 128;
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

fn ptrace(request: libc::c_uint, tid: i32, at: usize, data: usize) -> io::Result<()> {
    // SAFETY: the callers pass what the request wants.
    match unsafe { libc::ptrace(request as _, tid, at, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Seizes thread `tid`, and has it stop as soon as it is answered.
///
/// # Errors
/// Somebody else traces it, or it is gone.
pub fn seize(tid: i32) -> Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD as usize;
    ptrace(libc::PTRACE_SEIZE, tid, 0, options).map_err(|e| match e.raw_os_error() {
        Some(libc::ESRCH) => Failed::Gone,
        _ => Failed::Aloud(
            "shmat and shmdt need to trace the program, which this kernel forbids or another \
             tracer does already: run it without, or link it dynamically"
                .to_owned(),
        ),
    })?;
    ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0).map_err(|_| Failed::Gone)
}

/// Whether the caller's own instruction can be used again.
///
/// # Errors
/// It is none that is known here.
pub fn check(call: &Notification) -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    {
        let mut code = [0; 2];
        Remote { tid: call.tid }.read_bytes(call.ip.wrapping_sub(2), &mut code)?;
        if code == [0x0f, 0x05] {
            return Ok(());
        }
    }
    let _ = call;
    Err(Failed::Aloud(
        "shmat and shmdt of a trapped program are not known on this processor: link it \
         dynamically"
            .to_owned(),
    ))
}

/// Lets go of a thread that was seized and not stopped.
pub fn release(tid: i32) {
    // One that is not stopped cannot be let go; it stops when it is answered, and then can.
    if wait(tid).is_ok() {
        let _ = ptrace(libc::PTRACE_DETACH, tid, 0, 0);
    }
}

/// Waits for the next stop: the signal, and the event.
fn wait(tid: i32) -> io::Result<(i32, i32)> {
    let mut status = 0;
    loop {
        // SAFETY: room for the status.
        let got = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) };
        if got < 0 {
            let e = io::Error::last_os_error();
            if e.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(e);
        }
        if libc::WIFSTOPPED(status) {
            return Ok((libc::WSTOPSIG(status), status >> 16));
        }
        // It has ended.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
}

#[cfg(target_arch = "x86_64")]
impl Stopped {
    /// Waits until the thread, seized and then answered, has stopped.
    ///
    /// # Errors
    /// It has ended.
    pub fn wait_for(tid: i32, pid: u32) -> Result<Self> {
        let gone = |_: io::Error| Failed::Gone;
        let mut came = Vec::new();
        loop {
            match wait(tid).map_err(gone)? {
                (_, EVENT_STOP) => break,
                (signal, _) => came.push(signal),
            }
            ptrace(libc::PTRACE_CONT as _, tid, 0, 0).map_err(gone)?;
        }
        // SAFETY: numbers only.
        let mut before: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        let to = (&raw mut before).expose_provenance();
        ptrace(libc::PTRACE_GETREGS as _, tid, 0, to).map_err(gone)?;
        let (mut mask, all) = (0u64, u64::MAX);
        let to = (&raw mut mask).expose_provenance();
        ptrace(libc::PTRACE_GETSIGMASK as _, tid, 8, to).map_err(gone)?;
        let from = (&raw const all).expose_provenance();
        ptrace(libc::PTRACE_SETSIGMASK as _, tid, 8, from).map_err(gone)?;
        Ok(Self { tid, pid, before, mask, came, result: 0 })
    }

    /// Has it make a call; what that returns, an errno negative.
    ///
    /// # Errors
    /// It has ended.
    pub fn call(&mut self, nr: libc::c_long, args: [u64; 6]) -> Result<i64> {
        let mut regs = self.before;
        // The instruction that brought it here, two bytes long, once more.
        regs.rip -= 2;
        regs.rax = nr as u64;
        // No call to restart.
        regs.orig_rax = u64::MAX;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        self.set(&regs)?;
        // To the entry, and to the exit.
        self.step()?;
        self.step()?;
        let to = (&raw mut regs).expose_provenance();
        ptrace(libc::PTRACE_GETREGS as _, self.tid, 0, to).map_err(|_| Failed::Gone)?;
        Ok(regs.rax.cast_signed())
    }

    fn set(&self, regs: &libc::user_regs_struct) -> Result<()> {
        let from = std::ptr::from_ref(regs).expose_provenance();
        ptrace(libc::PTRACE_SETREGS as _, self.tid, 0, from).map_err(|_| Failed::Gone)
    }

    fn step(&mut self) -> Result<()> {
        loop {
            ptrace(libc::PTRACE_SYSCALL as _, self.tid, 0, 0).map_err(|_| Failed::Gone)?;
            match wait(self.tid).map_err(|_| Failed::Gone)? {
                (SYSCALL_STOP, _) => return Ok(()),
                // A stop of all its threads: it goes on for this call, and stops when it is let go.
                (_, EVENT_STOP) => {}
                (signal, _) => self.came.push(signal),
            }
        }
    }

    /// What the caller's own call returns.
    pub fn set_result(&mut self, result: i64) {
        self.result = result;
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Stopped {
    /// Lets it go on, as after its own call.
    fn drop(&mut self) {
        let mut regs = self.before;
        regs.rax = self.result.cast_unsigned();
        let _ = self.set(&regs);
        let from = (&raw const self.mask).expose_provenance();
        let _ = ptrace(libc::PTRACE_SETSIGMASK as _, self.tid, 8, from);
        let _ = ptrace(libc::PTRACE_DETACH as _, self.tid, 0, 0);
        for signal in &self.came {
            // SAFETY: no pointers.
            unsafe { libc::syscall(libc::SYS_tgkill, self.pid, self.tid, *signal) };
        }
    }
}

/// Nobody is ever stopped where [`check`] always fails.
#[cfg(not(target_arch = "x86_64"))]
impl Stopped {
    pub fn wait_for(tid: i32, pid: u32) -> Result<Self> {
        let _ = wait(tid);
        Ok(Self { tid, pid, mask: 0, came: Vec::new(), result: 0 })
    }

    pub fn call(&mut self, _: libc::c_long, _: [u64; 6]) -> Result<i64> {
        let _ = (self.tid, self.pid, self.mask, &self.came, SYSCALL_STOP, EVENT_STOP);
        Ok(-i64::from(libc::ENOSYS))
    }

    pub fn set_result(&mut self, result: i64) {
        self.result = result;
    }
}
