//! The endpoint itself: what it holds, its loop, and its duties towards peers.

use crate::clock::{self, Clock};
use crate::door::Talk;
use crate::foreign::{Bin, Foreign};
use crate::memory::Memory;
use crate::policy::Policy;
use crate::sys::{self, Credentials};
use crate::watch::Watched;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use tracing::{error, info, warn};
use vshmem_core::attach::Transport;
use vshmem_core::layout::{Table, peer};
use vshmem_core::task::{Owner, Peer, TaskId};
use vshmem_core::{Corrupt, Lane, LaneId, Region};
use vshmem_sysv::reap;

/// What an endpoint serves, and how.
pub struct Setup {
    /// The region, formatted or opened over a [`Memory`].
    pub region: Region<Memory>,
    /// The peer this kernel is: 0 on the host, what [`crate::enter()`] claimed in a guest.
    pub peer: u32,
    /// The memory or device, as tasks get it for reading and writing.
    pub read_write: OwnedFd,
    /// The same for reading only; it must not be possible to open it again for writing.
    pub read_only: OwnedFd,
    /// What the descriptors are.
    pub transport: Transport,
    /// The attach socket: `SOCK_SEQPACKET`, bound and listening.
    pub listener: OwnedFd,
    /// Who may attach.
    pub policy: Policy,
}

/// Why an endpoint cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error("cannot {step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: Errno,
    },
    /// The region is damaged.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The lane of the endpoint before this one is damaged.
    #[error("cannot settle what a former endpoint left: {0}")]
    Settle(vshmem_sysv::Error),
    /// The peer slot is not (or no longer) this kernel's.
    #[error("the region has no peer {0}: was it fenced? enter the region again")]
    NoPeer(u32),
    /// All lanes are taken.
    #[error(
        "all {0} lanes of the region are taken: end some of its tasks, or configure a larger region"
    )]
    NoLane(u64),
}

pub(crate) fn step(step: &'static str) -> impl Fn(Errno) -> Error {
    move |source| Error::System { step, source }
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Nothing yet.
    New,
    /// An attached process, by its token in `tasks`.
    Task(u64),
    /// A child that was announced and has not said hello.
    Child(TaskId),
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Foreign,
    /// Who connected it.
    pub(crate) who: Credentials,
    pub(crate) role: Role,
}

/// How long after a look at the tables the next one may be: what rings cannot shorten.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LISTENER: u64 = 0;
const TIMER: u64 = 1;
const CLOCK: u64 = 2;
const SOON: u64 = 3;
const MORE: u64 = 4;
const FIRST_TOKEN: u64 = 5;
/// Events fetched at one time.
const EVENTS: usize = 64;
/// How long the dead may keep the living waiting, when there are many of them.
const SLICE: Duration = Duration::from_millis(5);

/// The service of one region in one kernel. See the [crate] for how to embed it.
pub struct Endpoint {
    pub(crate) region: Region<Memory>,
    /// Its own lane, for reaping.
    pub(crate) lane: Lane,
    pub(crate) peer: u32,
    /// Which owner of the peer's slot this is.
    incarnation: u32,
    pub(crate) own_uid: u32,
    pub(crate) read_write: OwnedFd,
    pub(crate) read_only: OwnedFd,
    /// How the region shows in `/proc/PID/maps`.
    pub(crate) file: sys::FileId,
    pub(crate) transport: Transport,
    pub(crate) policy: Policy,
    pub(crate) listener: OwnedFd,
    /// Out of descriptors: not accepting until the next tick.
    pub(crate) paused: bool,
    /// Given up to accept one more connection when there are no descriptors.
    pub(crate) spare: Option<OwnedFd>,
    epoll: OwnedFd,
    timer: OwnedFd,
    armed: bool,
    /// Rings for the next look at the tables.
    soon: OwnedFd,
    /// When the tables were looked at last.
    looked: Option<Instant>,
    /// Some task could not be reaped: the region is corrupt.
    pub(crate) unreaped: bool,
    /// In a guest: how its clock is kept with the host's.
    clock: Option<Clock>,
    /// Never reused: an event that was fetched before its source went away finds nothing.
    next_token: u64,
    pub(crate) connections: HashMap<u64, Connection>,
    /// For what clients gave.
    pub(crate) bin: Bin,
    /// For what is said of them.
    pub(crate) talk: Talk,
    pub(crate) tasks: HashMap<u64, Watched>,
    /// Tasks whose processes have ended, in their order: reaped as time allows.
    pub(crate) ended: VecDeque<u64>,
    /// Tasks were reaped, after which all lanes are to be looked at; and when that may be.
    pub(crate) owes_rescan: bool,
    rescan_from: Option<Instant>,
    /// Always readable; watched while there are more of those.
    more: OwnedFd,
    more_watched: bool,
    /// Children that were announced to the endpoint before this one.
    pub(crate) orphans: Vec<TaskId>,
    /// Dead tasks that their keepers, who live, will reap.
    pub(crate) left: Vec<(TaskId, TaskId)>,
    /// Ticks until they are looked at again; 0 = none.
    pub(crate) grace: u32,
    /// Adopted tasks that did not map the region: looked at again with the next tick.
    pub(crate) unmapped: Vec<u64>,
}

impl Endpoint {
    /// Begins to serve: takes over the tasks of an endpoint before it, and reaps those that died
    /// in between.
    ///
    /// # Errors
    /// The region is damaged or full, or the kernel refuses a descriptor.
    ///
    /// # If the caller dies
    /// The next endpoint finds everything in the region.
    pub fn open(setup: Setup) -> Result<Self, Error> {
        let Setup { region, peer, read_write, read_only, transport, listener, policy } = setup;
        let here = region.peer(peer)?.filter(|p| p.state == peer::LIVE);
        let here = here.ok_or(Error::NoPeer(peer))?;
        region.mem().enter(&region, peer);
        let owner = Owner::Endpoint { peer, incarnation: here.incarnation };
        let lane = own_lane(&region, owner)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(step("make an epoll"))?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, flags).map_err(step("make a timer"))?;
        let soon =
            timerfd_create(TimerfdClockId::Monotonic, flags).map_err(step("make a timer"))?;
        let file = sys::FileId::of(&read_write).map_err(step("inspect the region's memory"))?;
        rustix::io::ioctl_fionbio(&listener, true).map_err(step("use the attach socket"))?;
        // Who sends a packet is the kernel's to say, from the first packet on.
        rustix::net::sockopt::set_socket_passcred(&listener, true)
            .map_err(step("ask for senders' credentials"))?;
        let more = eventfd(1, EventfdFlags::CLOEXEC).map_err(step("make an eventfd"))?;
        let spare = rustix::io::fcntl_dupfd_cloexec(&listener, 0).ok();
        let mut endpoint = Self {
            region,
            lane,
            peer,
            incarnation: here.incarnation,
            own_uid: rustix::process::geteuid().as_raw(),
            read_write,
            read_only,
            file,
            transport,
            policy,
            listener,
            paused: false,
            spare,
            epoll,
            timer,
            soon,
            armed: false,
            looked: None,
            unreaped: false,
            clock: None,
            next_token: FIRST_TOKEN,
            connections: HashMap::new(),
            bin: Bin::default(),
            talk: Talk::default(),
            tasks: HashMap::new(),
            ended: VecDeque::new(),
            owes_rescan: false,
            rescan_from: None,
            more,
            more_watched: false,
            orphans: Vec::new(),
            left: Vec::new(),
            grace: 0,
            unmapped: Vec::new(),
        };
        endpoint
            .add(endpoint.listener.as_fd(), LISTENER)
            .map_err(step("watch the attach socket"))?;
        endpoint.add(endpoint.timer.as_fd(), TIMER).map_err(step("watch the timer"))?;
        endpoint.add(endpoint.soon.as_fd(), SOON).map_err(step("watch a timer"))?;
        if peer != 0 {
            let clock = Clock::new().map_err(step("watch the clock"))?;
            endpoint.add(clock.as_fd(), CLOCK).map_err(step("watch the clock"))?;
            endpoint.clock = Some(clock);
            endpoint.set_clock();
        }
        endpoint.adopt()?;
        endpoint.shut_out_fenced();
        if endpoint.rescan() {
            info!(peer, tasks = endpoint.tasks.len(), "endpoint serves");
        }
        endpoint.arm();
        Ok(endpoint)
    }

    /// Readable when [`Endpoint::dispatch`] has something to do.
    #[must_use]
    pub fn epoll_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// The region it serves.
    #[must_use]
    pub fn region(&self) -> &Region<Memory> {
        &self.region
    }

    /// Tasks it watches.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Takes its lane anew where somebody scribbled on it: nobody fences an endpoint whose peer is
    /// there, and with a lane it cannot use it would serve nobody any more.
    fn keep_lane(&mut self) {
        if !self.region.is_taken_away(&self.lane).unwrap_or(false) || !self.is_member() {
            return;
        }
        let owner = Owner::Endpoint { peer: self.peer, incarnation: self.incarnation };
        match own_lane(&self.region, owner) {
            Ok(lane) => self.lane = lane,
            Err(e) => return self.complain("lane", |quiet| error!(error = %e, quiet, "no lane")),
        }
        self.complain("lane", |quiet| {
            warn!(quiet, "somebody changed the endpoint's own journal: it has a lane again");
        });
    }

    /// Handles what is ready now, a bounded amount of it; never blocks.
    pub fn dispatch(&mut self) {
        self.keep_lane();
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, spare, Some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => error!(error = %e, "cannot look for events"),
        }
        let all = events.len() < EVENTS;
        for event in events {
            let Event { data, .. } = event;
            match data.u64() {
                LISTENER => self.accept(),
                TIMER => self.tick(),
                SOON => {
                    let _ = rustix::io::read(&self.soon, &mut [0; 8]);
                    self.look();
                }
                CLOCK => self.set_clock(),
                MORE => {}
                token if self.tasks.contains_key(&token) => self.note_end(token),
                token => self.serve(token),
            }
        }
        self.reap_ended(if all { SLICE } else { Duration::ZERO });
        self.rescan_after_deaths();
        self.arm();
    }

    /// A VM is dead: marks its peers dead and reaps them. Host only.
    pub fn peer_died(&mut self, ivshmem: u32) {
        match self.region.peers() {
            Ok(peers) => {
                for p in peers {
                    if p.index != self.peer && p.ivshmem == ivshmem {
                        info!(peer = p.index, name = p.name, ivshmem, "peer died: reaping");
                        if let Err(e) = self.region.set_peer_state(p.index, peer::DEAD) {
                            error!(peer = p.index, error = %e, "cannot mark a dead peer");
                        }
                        self.reap_peer(p.index);
                    }
                }
            }
            Err(e) => error!(ivshmem, error = %e, "cannot read the peer table"),
        }
    }

    /// The control vector was rung: a peer came, went, panicked, or asks for the time.
    ///
    /// Peers may ring as often as they like: from one look at the tables to the next ten milliseconds
    /// pass.
    pub fn control_doorbell(&mut self) {
        if self.peer == 0 {
            clock::tell(&self.region);
        }
        if self.looked.is_none_or(|t| t.elapsed() >= LOOK_AGAIN) {
            return self.look();
        }
        // Later in any case: what rang may have been seen too early.
        let soon = Timespec { tv_sec: 0, tv_nsec: LOOK_AGAIN.subsec_nanos().into() };
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: none, it_value: soon };
        if let Err(e) = timerfd_settime(&self.soon, TimerfdTimerFlags::empty(), &spec) {
            error!(error = %e, "cannot set a timer");
        }
    }

    /// Looks at the tables: who is dead, and what they left.
    fn look(&mut self) {
        self.keep_lane();
        self.reap_dead_peers();
        self.rescan();
        // From its end: as much time again belongs to others.
        self.looked = Some(Instant::now());
    }

    /// Says what is wrong with the region, unless that was said often enough lately; `say` hears
    /// how often it was not.
    pub(crate) fn complain(&self, kind: &'static str, say: impl FnOnce(u64)) {
        if let Some(quiet) = self.region.mem().complaints().worth(kind) {
            say(quiet);
        }
    }

    /// The wake vector was rung: wakes the local sleepers named in this peer's bitmap.
    ///
    /// (With the `Module` transport the interrupt handler does it, and this is not called.)
    pub fn wake_doorbell(&mut self) {
        let region = &self.region;
        let woken = region.drain_wakes(self.peer, |id| {
            if let Ok(lane) = region.lane(id) {
                region.mem().wake_here(lane.plus(vshmem_core::layout::lane::STATUS));
            }
        });
        if let Err(e) = woken {
            self.complain(
                "drain",
                |quiet| error!(error = %e, quiet, "cannot drain the wake bitmap"),
            );
        }
    }

    /// Has every sleeper of this kernel look whether it was woken, whatever it sleeps for.
    pub fn wake_all(&self) {
        for i in 0..self.region.table(Table::Lanes).count as u32 {
            if let Ok(lane) = self.region.lane(LaneId(i)) {
                self.region.mem().wake_here(lane.plus(vshmem_core::layout::lane::STATUS));
            }
        }
    }

    /// Whether nobody is attached and no object exists.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let child = |c: &Connection| matches!(c.role, Role::Child(_));
        self.tasks.is_empty()
            && !self.connections.values().any(child)
            && reap::objects(&self.region).is_ok_and(|n| n == 0)
    }

    /// Whether this kernel still is the peer it was; if not, it was fenced and must enter anew.
    #[must_use]
    pub fn is_member(&self) -> bool {
        let mine = |p: Peer| p.state == peer::LIVE && p.incarnation == self.incarnation;
        self.region.peer(self.peer).is_ok_and(|p| p.is_some_and(mine))
    }

    /// On the host: reaps every peer that is marked dead.
    fn reap_dead_peers(&mut self) {
        if self.peer != 0 {
            return;
        }
        for index in 1..peer::COUNT as u32 {
            if let Ok(Some(p)) = self.region.peer(index)
                && p.state == peer::DEAD
                && !p.fenced
            {
                self.complain("dead", |quiet| {
                    info!(peer = index, name = p.name, quiet, "peer is marked dead: reaping");
                });
                self.reap_peer(index);
            }
        }
    }

    pub(crate) fn reap_peer(&mut self, index: u32) {
        if let Err(e) = reap::peer(&self.region, &mut self.lane, index) {
            self.complain("reap peer", |quiet| {
                error!(peer = index, error = %e, quiet, "cannot reap a dead peer");
            });
        }
    }

    /// Helps, hands off and wakes what a death somewhere may have left; `false` if it failed.
    pub(crate) fn rescan(&mut self) -> bool {
        self.owes_rescan = false;
        let done = reap::rescan(&self.region, &mut self.lane, self.peer);
        if let Err(e) = &done {
            self.complain("rescan", |quiet| error!(error = %e, quiet, "cannot rescan"));
        }
        done.is_ok()
    }

    /// Rescans after deaths, for a tenth of the time at the most: where there are thousands of lanes that
    /// takes much longer than reaping one task. What is left then is left to the next tick.
    fn rescan_after_deaths(&mut self) {
        let begun = Instant::now();
        if self.owes_rescan && self.rescan_from.is_none_or(|from| from <= begun) {
            self.rescan();
            self.rescan_from = Some(Instant::now() + begun.elapsed() * 9);
        }
    }

    fn tick(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.timer, &mut count);
        if self.paused && self.add(self.listener.as_fd(), LISTENER).is_ok() {
            self.paused = false;
        }
        if self.grace > 0 {
            self.grace -= 1;
            if self.grace == 0 {
                self.adopt_orphans();
            }
        }
        self.settle_unmapped();
        self.forget_settled();
        if self.clock.as_mut().is_some_and(Clock::is_due) {
            self.set_clock();
        }
        self.reap_again();
        self.look();
    }

    /// In a guest: measures how far its clock is from the host's.
    fn set_clock(&mut self) {
        if let Some(clock) = &mut self.clock {
            clock.set(&self.region, self.peer);
        }
    }

    /// Ticks about every second while there is anybody to tick for: an idle endpoint sleeps.
    fn arm(&mut self) {
        let child = |c: &Connection| matches!(c.role, Role::Child(_));
        let wanted = !self.tasks.is_empty()
            || self.paused
            || self.grace > 0
            || self.unreaped
            || self.owes_rescan
            || self.connections.values().any(child);
        if wanted == self.armed {
            return;
        }
        let period = Timespec { tv_sec: wanted.into(), tv_nsec: 0 };
        let spec = Itimerspec { it_interval: period, it_value: period };
        match timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec) {
            Ok(_) => self.armed = wanted,
            Err(e) => error!(error = %e, "cannot set the timer"),
        }
    }

    pub(crate) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token), EventFlags::IN | EventFlags::RDHUP)
    }

    /// Stops watching `fd`. Closing alone does not: a client may hold a duplicate.
    pub(crate) fn forget(&self, fd: BorrowedFd<'_>) {
        // Of one that has ended the pidfd is forgotten before the rest.
        if let Err(e) = epoll::delete(&self.epoll, fd)
            && e != Errno::NOENT
        {
            warn!(error = %e, "cannot stop watching a descriptor");
        }
    }

    /// Reaps tasks that have ended: one, and others as long as there is time.
    fn reap_ended(&mut self, time: Duration) {
        let begun = Instant::now();
        while let Some(token) = self.ended.pop_front() {
            self.task_ended(token);
            if begun.elapsed() >= time {
                break;
            }
        }
        let wanted = !self.ended.is_empty();
        if wanted && !self.more_watched {
            match self.add(self.more.as_fd(), MORE) {
                Ok(()) => self.more_watched = true,
                Err(e) => {
                    error!(error = %e, "cannot leave the dead for later");
                    while let Some(token) = self.ended.pop_front() {
                        self.task_ended(token);
                    }
                }
            }
        } else if !wanted && self.more_watched {
            self.forget(self.more.as_fd());
            self.more_watched = false;
        }
    }

    pub(crate) fn pause(&mut self) {
        if !self.paused {
            self.forget(self.listener.as_fd());
            self.paused = true;
        }
    }
}

/// The lane of this endpoint: that of the one before it, settled, or a new one.
fn own_lane(region: &Region<Memory>, owner: Owner) -> Result<Lane, Error> {
    let old = region.lanes_of(owner)?;
    if let Some(id) = old.first() {
        let mut lane = Lane::new(*id);
        // What it was doing for a dead task, the next reaping of that task does again.
        vshmem_sysv::abandon(region, &mut lane).map_err(Error::Settle)?;
        return Ok(lane);
    }
    let lanes = region.table(Table::Lanes).count;
    region.claim_lane(owner)?.ok_or(Error::NoLane(lanes))
}
