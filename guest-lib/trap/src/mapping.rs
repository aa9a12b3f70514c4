//! `shmat` and `shmdt`: the counting here, the mapping in the caller.

use crate::calls::At;
use crate::failed::{Failed, Result};
use crate::inject::{self, Stopped};
use crate::listener::{Answer, Notification};
use crate::maps::{Part, Shape};
use crate::process::{Process, lock};
use crate::supervisor::Supervisor;
use std::os::fd::AsFd;
use vshmem::sysv::Errno;
use vshmem::sysv::shm::{self, Attachment};
use vshmem_core::layout::{PAGE, REGION_BASE};

/// Where and how, as `shmat` has it.
#[derive(Clone, Copy)]
struct Place {
    at: u64,
    replace: bool,
    read_only: bool,
    execute: bool,
}

impl Place {
    fn read(at: u64, flags: i32) -> Result<Self> {
        let (round, replace) = (flags & libc::SHM_RND != 0, flags & libc::SHM_REMAP != 0);
        let rounded = at & !(PAGE - 1);
        if (rounded != at && !round) || (rounded == 0 && replace) {
            return Err(Errno::EINVAL.into());
        }
        let read_only = flags & libc::SHM_RDONLY != 0;
        Ok(Self { at: rounded, replace, read_only, execute: flags & libc::SHM_EXEC != 0 })
    }

    fn protection(self) -> i32 {
        libc::PROT_READ
            | if self.read_only { 0 } else { libc::PROT_WRITE }
            | if self.execute { libc::PROT_EXEC } else { 0 }
    }

    fn fixed(self) -> i32 {
        match (self.at, self.replace) {
            (0, _) => 0,
            (_, false) => libc::MAP_FIXED_NOREPLACE,
            (_, true) => libc::MAP_FIXED,
        }
    }
}

/// What a call in the caller returned: a value, or an errno.
fn returned(value: i64) -> std::result::Result<u64, i32> {
    // An address may look negative; an errno is above the last page.
    if (-4095..0).contains(&value) { Err(-value as i32) } else { Ok(value.cast_unsigned()) }
}

impl Supervisor {
    /// Stops the caller on its way back from the call; it has been answered then.
    fn stop(
        &self,
        call: &Notification,
        process: &Process,
        before: impl FnOnce() -> Result<()>,
    ) -> Result<Stopped> {
        inject::check(call)?;
        inject::seize(call.tid)?;
        if let Err(failed) = before() {
            // It can be let go only once it has been answered.
            self.fail(call, Some(process), failed);
            inject::release(call.tid);
            return Err(Failed::Gone);
        }
        if !self.listener.answer(call.id, Answer::Value(0)) {
            inject::release(call.tid);
            return Err(Failed::Gone);
        }
        Stopped::wait_for(call.tid, process.pid)
    }

    /// `shmat`; answers the call unless it fails.
    pub fn attach(&self, at: &mut At<'_>, call: &Notification, process: &Process) -> Result<()> {
        let [id, address, flags, ..] = call.args;
        let place = Place::read(address, flags as i32)?;
        let access = 0o4 | u32::from(!place.read_only) << 1 | u32::from(place.execute);
        let got = shm::attach(at.r, at.on, at.c, id as i32, access)?;
        let key = (got.seg, got.life);
        let mut counted = lock(&process.attached);
        // Known before it is mapped: whoever counts from now on finds whose pages these are.
        self.attached.know(key, Shape { id: id as i32, extents: got.extents.clone() });
        let mapped = self.map(call, process, &got, place);
        if mapped.is_ok() {
            *counted.entry(key).or_default() += 1;
            return Ok(());
        }
        shm::cancel(at.r, at.on, at.c, got.seg, got.life, got.before)?;
        mapped
    }

    fn map(
        &self,
        call: &Notification,
        process: &Process,
        got: &Attachment,
        place: Place,
    ) -> Result<()> {
        let len = got.size.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
        if place.at.checked_add(len).is_none() {
            return Err(Errno::EINVAL.into());
        }
        let fd = self.session.region_descriptor(place.read_only);
        let fd = fd.map_err(|e| Failed::Aloud(e.to_string()))?;
        let mut there = -1;
        let mut caller = self.stop(call, process, || {
            let given = self.listener.give(call.id, fd.as_fd());
            there = given.map_err(|e| Failed::Errno(e.raw_os_error().unwrap_or(libc::ENOMEM)))?;
            Ok(())
        })?;
        let mapped = pieces(&mut caller, got, place, len, there);
        caller.call(libc::SYS_close, [there as u64, 0, 0, 0, 0, 0])?;
        match mapped? {
            Ok(base) => {
                caller.set_result(base.cast_signed());
                Ok(())
            }
            Err(errno) => {
                // What is in the way is the caller's mistake, as `shmat` sees it.
                let errno = if errno == libc::EEXIST { libc::EINVAL } else { errno };
                caller.set_result(-i64::from(errno));
                Err(Failed::Gone)
            }
        }
    }

    /// `shmdt`; answers the call unless it fails. `false`: there is nothing of ours.
    pub fn detach(&self, at: &mut At<'_>, call: &Notification, process: &Process) -> Result<bool> {
        let mut counted = lock(&process.attached);
        let parts = self.attached.parts(process.pid).unwrap_or_default();
        let address = call.args[0];
        let its = |p: &&Part| p.base == address;
        let Some(key) = parts.iter().find(its).map(|p| p.key) else { return Ok(false) };
        let its: Vec<_> = parts.iter().filter(|p| p.base == address && p.key == key).collect();
        let mut caller = self.stop(call, process, || Ok(()))?;
        for part in &its {
            caller.call(libc::SYS_munmap, [part.from, part.to - part.from, 0, 0, 0, 0])?;
        }
        // The program may have cut them since they were counted; those elsewhere stay.
        let left = parts.iter().filter(|p| p.key == key && p.base != address).count() as u32;
        let had = counted.get(&key).copied().unwrap_or(0);
        for _ in left..had {
            // A corrupt record is the reaper's to report.
            let _ = shm::detach(at.r, at.on, at.c, key.0, key.1);
        }
        if left == 0 {
            counted.remove(&key);
        } else {
            counted.insert(key, had.min(left));
        }
        // Only now does the caller go on: it finds the count it expects.
        drop(caller);
        Ok(true)
    }
}

/// Maps the segment in the caller, piece by piece; where, or the errno.
fn pieces(
    caller: &mut Stopped,
    got: &Attachment,
    place: Place,
    len: u64,
    fd: i32,
) -> Result<std::result::Result<u64, i32>> {
    let protection = place.protection() as u64;
    let mut mmap = |at: u64, len: u64, protection: u64, flags: i32, fd: i32, offset: u64| {
        let fd = i64::from(fd).cast_unsigned();
        let args = [at, len, protection, flags as u64, fd, offset];
        Ok::<_, Failed>(returned(caller.call(libc::SYS_mmap, args)?))
    };
    let offset = |page: u32| REGION_BASE + u64::from(page) * PAGE;
    if let [one] = got.extents[..] {
        let flags = libc::MAP_SHARED | place.fixed();
        return mmap(place.at, len, protection, flags, fd, offset(one.first_page));
    }
    // A place for all of them, with nothing in it.
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | place.fixed();
    let base = match mmap(place.at, len, libc::PROT_NONE as u64, flags, -1, 0)? {
        Ok(base) => base,
        failed => return Ok(failed),
    };
    let mut to = base;
    for e in &got.extents {
        let bytes = u64::from(e.pages) * PAGE;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let piece = mmap(to, bytes, protection, flags, fd, offset(e.first_page))?;
        if let Err(errno) = piece {
            caller.call(libc::SYS_munmap, [base, len, 0, 0, 0, 0])?;
            return Ok(Err(errno));
        }
        to += bytes;
    }
    Ok(Ok(base))
}
