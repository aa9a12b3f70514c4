//! What the daemon asks of the part that knows a region's contents.
//!
//! The daemon owns memory, sockets and VMs; a [`RegionService`] formats the
//! region, lets tasks attach, and reaps the dead. This seam is all they share.

use crate::codec::IvshmemId;
use crate::config::Region;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A VM that has just connected, or is found again after a restart.
#[derive(Debug)]
pub struct Vm {
    /// The id its guest reads as IVPosition.
    pub id: IvshmemId,
    /// The VMM's process.
    pub pid: u32,
    /// The VMM's user.
    pub uid: u32,
    /// The VMM's pidfd, where it could be had.
    pub process: Option<OwnedFd>,
    /// The eventfd of each of its vectors: writing 1 interrupts the guest.
    pub ring: Vec<OwnedFd>,
}

/// Where a region's memory comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// It is new and holds only zeros.
    Fresh,
    /// A holder kept it: tasks and VMs use it now.
    Resumed,
    /// It is a file that nobody else has open: its users have all ended.
    Reopened,
}

/// Everything a service needs to begin.
#[derive(Debug)]
pub struct Open<'a> {
    /// The region's configuration.
    pub region: &'a Region,
    /// The memory, for reading and writing.
    pub memory: OwnedFd,
    /// The same, for reading only, as tasks may be given it.
    pub read_only: OwnedFd,
    /// Where the memory comes from.
    pub start: Start,
    /// The socket on which tasks attach; bound, listening, non-blocking.
    pub attach: OwnedFd,
}

/// One region's contents.
pub trait RegionService: Send {
    /// A VM is connected. Ids are never used twice; after a restart of the
    /// daemon this is called again for each VM that is still there.
    fn vm_connected(&mut self, vm: Vm);

    /// A VM's connection has ended while its VMM lives: no doorbell reaches
    /// it any more, but its guest may still be writing to the region.
    fn vm_detached(&mut self, id: IvshmemId);

    /// The process that connected a VM has ended, and somebody else holds its connection.
    fn vm_passed_on(&mut self, _id: IvshmemId) {}

    /// A VM's process has ended: what it held may be released.
    fn vm_dead(&mut self, id: IvshmemId);

    /// A guest has rung one of the host's vectors; several rings may arrive
    /// as one.
    fn doorbell(&mut self, vector: u16);

    /// A descriptor that is readable when [`dispatch`](Self::dispatch) has
    /// something to do.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Does what there is to do now, without waiting.
    fn dispatch(&mut self);

    /// Whether no task is attached and no object exists.
    fn is_idle(&self) -> bool;

    /// The daemon leaves; tasks keep their mappings.
    fn stop(&mut self);
}

/// Makes services.
pub trait Services {
    /// Formats or adopts a region and begins to serve its tasks.
    ///
    /// # Errors
    ///
    /// When the memory is not a region this version can use. A fresh region
    /// then leaves nothing behind.
    fn open(&self, open: Open<'_>) -> anyhow::Result<Box<dyn RegionService>>;
}

/// The service of a raw region: there are no contents to look after.
#[derive(Debug)]
pub struct Raw;

impl RegionService for Raw {
    fn vm_connected(&mut self, _: Vm) {}

    fn vm_detached(&mut self, _: IvshmemId) {}

    fn vm_dead(&mut self, _: IvshmemId) {}

    fn doorbell(&mut self, vector: u16) {
        tracing::debug!(vector, "a guest rang the host");
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn dispatch(&mut self) {}

    fn is_idle(&self) -> bool {
        true
    }

    fn stop(&mut self) {}
}
