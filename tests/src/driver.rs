//! A guest's kernel module without its agent, through a shell that [`Guests`] booted.

use std::ops::Deref;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::guests::{Guests, Host};

/// The first process gives up after some restarts, and may be slow to do one.
const END_AGENT: &str = "none=0; for i in $(seq 60); do \
    pkill -KILL -x vshmem && none=0 || none=$((none + 1)); \
    test $none = 3 && break; sleep 1; done; test $none = 3";

/// The very file that was loaded.
const FILE: &str = "for f in /var/cache/vshmem/module/*/uio_vshmem.ko \
    ${VSHMEM_CACHE:-/nowhere}/module/*/uio_vshmem.ko \
    ${HOME:-/root}/.cache/vshmem/module/*/uio_vshmem.ko; do test -e $f || continue; \
    test $(modinfo -F srcversion $f) = $(cat /sys/module/uio_vshmem/srcversion) && echo $f && break; \
    done";

/// Ends the agent of a guest for good: nobody has the module's devices then, but programs that run.
///
/// # Errors
///
/// It does not end within `limit`.
pub fn end_agent<H>(guests: &mut Guests<H>, guest: usize, limit: Duration) -> Result<()>
where
    H: Deref<Target = Host>,
{
    let (status, said) = guests.ask(guest, END_AGENT, limit)?;
    ensure!(status == 0, "the agent does not end: {said:?}");
    Ok(())
}

/// The module's file, as the guest sees it.
///
/// # Errors
///
/// There is none like the one that is loaded.
pub fn module_file<H>(guests: &mut Guests<H>, guest: usize, limit: Duration) -> Result<String>
where
    H: Deref<Target = Host>,
{
    let (status, said) = guests.ask(guest, FILE, limit)?;
    ensure!(status == 0 && said.len() == 1, "no file of the loaded module: {status}, {said:?}");
    Ok(said.concat())
}
