//! The ivshmem server of one region.
//!
//! Rules, each with a test (see `tests/ivshmem.rs` too):
//!
//! 1. Ids ascend and are never used twice: a second use makes the QEMUs that
//!    saw the first abort. They run out after 65,519 connections.
//! 2. A client that cannot be served is told so by a refusal, not by a close.
//! 3. The host comes first among the peers every client is told of.
//! 4. Each client has its own queue; nothing here ever waits for one.
//! 5. A client told of a peer only in messages that are still queued is not
//!    told of its end either: the queue forgets both. So a client that reads
//!    nothing holds a bounded queue.
//! 6. Clients have nothing to say: a byte from one ends its connection.
//! 7. A connection's end is not a VM's. The VM is dead when the VMM's pidfd
//!    says so *and* the connection has ended: were the process that connected
//!    a helper that passed the socket on, its exit alone would prove nothing.
//!
//! Handlers only change this structure. The daemon then saves the state and
//! calls [`Server::pump`], which sends. So what was sent is always implied by
//! what was saved, and a daemon killed anywhere can be resumed.

use crate::codec::{
    self, Announced, IvshmemId, MESSAGES_TO_MEMORY, Message, connected, disconnected,
};
use crate::config::Region;
use crate::poller::{Poller, Source};
use crate::service::{RegionService, Vm};
use crate::state::{ClientState, DepartedState, ServerState};
use crate::sys::peer_pidfd;
use crate::vault::{Tag, Vault};
use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv, sockopt::socket_peercred};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// How long a shortage (descriptors, memory) is given before another try.
const RETRY: Duration = Duration::from_millis(200);

/// Messages sent in one go: a crowd of VMs that come or go makes the square of their number, and
/// those who attach do not wait for all of them.
const SENDS: usize = 128;

/// The most VMs that may have disconnected while their process lives on: one
/// that unplugs and plugs the device for ever must not grow this structure.
const MAX_DEPARTED: usize = 1024;

/// What the server works with besides its own structure.
pub struct Around<'a> {
    /// The descriptors.
    pub vault: &'a mut Vault,
    /// Who says what is ready.
    pub poller: &'a Poller,
    /// Who is told of VMs and doorbells.
    pub service: &'a mut dyn RegionService,
}

impl std::fmt::Debug for Around<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Around").field("vault", &self.vault).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Client {
    pid: u32,
    uid: u32,
    socket: Tag,
    /// The pidfd; connections of one process share it. `None` once that
    /// process has ended: then only the connection is left to end.
    process: Option<Tag>,
    events: Vec<Tag>,
    queue: VecDeque<Message<Tag>>,
    /// The socket was full: wait until it can be written.
    blocked: bool,
    /// Only here until it has been sent its refusal.
    closing: bool,
}

#[derive(Debug)]
struct Departed {
    pid: u32,
    process: Tag,
}

/// The ivshmem server of one region.
#[derive(Debug)]
pub struct Server {
    index: u16,
    name: String,
    vectors: u16,
    max_vms: usize,
    allow_uids: Vec<u32>,
    memory: Tag,
    listener: Tag,
    host_events: Vec<Tag>,
    next_id: u16,
    clients: BTreeMap<u16, Client>,
    departed: BTreeMap<u16, Departed>,
    /// Eventfds of peers that have gone, until no queue names them.
    retired: Vec<Tag>,
    /// To let go once the state no longer mentions it.
    garbage: Vec<Tag>,
    dirty: bool,
    /// Descriptors or memory ran out: when to try again.
    retry_at: Option<Instant>,
    listener_paused: bool,
    /// Who is sent to first the next time.
    turn: u16,
}

impl Server {
    /// A new server for the memory `memory` on the socket `listener`.
    ///
    /// # Errors
    ///
    /// When the host's eventfds cannot be made.
    pub fn new(
        index: u16,
        region: &Region,
        memory: Tag,
        listener: Tag,
        vault: &mut Vault,
    ) -> io::Result<Self> {
        let mut host_events = Vec::new();
        for _ in 0..region.vectors {
            host_events.push(vault.put(new_event()?));
        }
        Ok(Self::bare(index, region, memory, listener, host_events, IvshmemId::FIRST.0))
    }

    /// The server a former daemon left in `state`, which has been checked.
    /// The service is told of every VM again.
    ///
    /// # Errors
    ///
    /// When a descriptor cannot be duplicated.
    pub fn resume(
        index: u16,
        region: &Region,
        memory: Tag,
        state: &ServerState,
        vault: &mut Vault,
        service: &mut dyn RegionService,
    ) -> io::Result<Self> {
        let events = state.host_events.clone();
        let mut server = Self::bare(index, region, memory, state.listener, events, state.next_id);
        for c in &state.client {
            let done = usize::try_from(vault.sent(c.socket) - c.sent).unwrap_or(usize::MAX);
            let client = Client {
                pid: c.pid,
                uid: c.uid,
                socket: c.socket,
                process: c.process,
                events: c.events.clone(),
                queue: c.queue.iter().skip(done).map(Message::from).collect(),
                blocked: false,
                closing: c.closing,
            };
            service.vm_connected(describe(c.id, &client, vault)?);
            server.clients.insert(c.id, client);
        }
        for d in &state.departed {
            server.departed.insert(d.id, Departed { pid: d.pid, process: d.process });
            let process = vault.fd(d.process)?.try_clone_to_owned()?;
            let (id, ring) = (IvshmemId(d.id), Vec::new());
            // Whose it is, the state does not say; the service does not ask.
            service.vm_connected(Vm {
                id,
                pid: d.pid,
                uid: u32::MAX,
                process: Some(process),
                ring,
            });
            service.vm_detached(id);
        }
        server.dirty = true;
        Ok(server)
    }

    fn bare(
        index: u16,
        region: &Region,
        memory: Tag,
        listener: Tag,
        host_events: Vec<Tag>,
        next_id: u16,
    ) -> Self {
        let own = rustix::process::geteuid().as_raw();
        Self {
            index,
            name: region.name.to_string(),
            vectors: region.vectors,
            max_vms: usize::from(region.max_vms),
            allow_uids: region.allow_vm_uids.clone().unwrap_or_else(|| vec![0, own]),
            memory,
            listener,
            host_events,
            next_id,
            clients: BTreeMap::new(),
            departed: BTreeMap::new(),
            retired: Vec::new(),
            garbage: Vec::new(),
            dirty: true,
            retry_at: None,
            listener_paused: false,
            turn: 0,
        }
    }

    /// Begins to watch every descriptor.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl` says.
    pub fn watch(&self, around: &mut Around<'_>) -> io::Result<()> {
        let (vault, poller) = (&*around.vault, around.poller);
        poller.watch(vault.fd(self.listener)?, Source::Listener(self.index))?;
        for (n, &tag) in (0..).zip(&self.host_events) {
            poller.watch(vault.fd(tag)?, Source::HostEvent(self.index, n))?;
        }
        for (&id, client) in &self.clients {
            poller.watch(vault.fd(client.socket)?, Source::Client(self.index, id))?;
            if let Some(process) = client.process {
                self.watch_process(process, id, vault, poller)?;
            }
        }
        for (&id, departed) in &self.departed {
            self.watch_process(departed.process, id, vault, poller)?;
        }
        Ok(())
    }

    /// Watches a pidfd; one that is shared is watched under its first VM's id.
    fn watch_process(&self, tag: Tag, id: u16, vault: &Vault, poller: &Poller) -> io::Result<()> {
        match poller.watch(vault.fd(tag)?, Source::Process(self.index, id)) {
            Err(Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    /// What a next daemon has to know.
    pub fn state(&self, vault: &Vault) -> ServerState {
        let client = |(&id, c): (&u16, &Client)| ClientState {
            id,
            pid: c.pid,
            uid: c.uid,
            socket: c.socket,
            process: c.process,
            events: c.events.clone(),
            sent: vault.sent(c.socket),
            closing: c.closing,
            queue: c.queue.iter().map(Into::into).collect(),
        };
        let departed =
            |(&id, d): (&u16, &Departed)| DepartedState { id, pid: d.pid, process: d.process };
        ServerState {
            vectors: self.vectors,
            next_id: self.next_id,
            listener: self.listener,
            host_events: self.host_events.clone(),
            client: self.clients.iter().map(client).collect(),
            departed: self.departed.iter().map(departed).collect(),
        }
    }

    /// The listening socket.
    pub fn listener(&self) -> Tag {
        self.listener
    }

    /// How many VMs are connected.
    pub fn connected(&self) -> usize {
        self.clients.len()
    }

    /// Whether a VM may still be using the region.
    pub fn has_vms(&self) -> bool {
        !self.clients.is_empty() || !self.departed.is_empty()
    }

    /// Whether the state has changed since the last [`saved`](Self::saved).
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// When [`pump`](Self::pump) should be called even without an event.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The state has been saved: what it no longer mentions can go.
    pub fn saved(&mut self, vault: &mut Vault) {
        self.dirty = false;
        for tag in self.garbage.drain(..) {
            vault.remove(tag);
        }
    }

    /// Takes the connections that wait.
    pub fn accept(&mut self, around: &mut Around<'_>) {
        // A bound, so that a crowd at the door does not starve those inside.
        for _ in 0..16 {
            match around.vault.accept(self.listener) {
                Ok(socket) => self.admit(socket, around),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(e) => {
                    warn!(region = %self.name, error = %e, "cannot accept: trying again soon");
                    self.pause_listener(around, true);
                    return;
                }
            }
        }
    }

    fn pause_listener(&mut self, around: &mut Around<'_>, paused: bool) {
        if let Ok(fd) = around.vault.fd(self.listener) {
            let _ = around.poller.rewatch(fd, Source::Listener(self.index), !paused, false);
        }
        self.listener_paused = paused;
        if paused {
            self.retry_at = Some(Instant::now() + RETRY);
        }
    }

    /// Admits the connection `socket`, or refuses it.
    pub fn admit(&mut self, socket: Tag, around: &mut Around<'_>) {
        if let Err(reason) = self.try_admit(socket, around) {
            warn!(region = %self.name, reason, "refused a VM");
            // Eight bytes always fit into a new socket.
            let _ = around.vault.send(socket, Message::<Tag>::refusal().bytes(), None);
            around.vault.remove(socket);
        }
    }

    fn try_admit(&mut self, socket: Tag, around: &mut Around<'_>) -> Result<(), String> {
        let vault = &mut *around.vault;
        let told = |e: Errno| e.to_string();
        let cred = socket_peercred(vault.fd(socket).map_err(told)?).map_err(told)?;
        let (uid, pid) = (cred.uid.as_raw(), cred.pid.as_raw_nonzero().get().unsigned_abs());
        if !self.allow_uids.contains(&uid) {
            return Err(format!("uid {uid} (pid {pid}) is not in allow_vm_uids"));
        }
        if self.clients.len() >= self.max_vms {
            let most = self.max_vms;
            return Err(format!("the region has {most} VMs, as max_vms says: end one of them"));
        }
        if self.next_id >= IvshmemId::HOST.0 {
            return Err("the region has used up its 65519 ids: restart it without VMs".into());
        }
        if self.departed.len() >= MAX_DEPARTED {
            return Err(format!("{MAX_DEPARTED} VMs have disconnected and live on: end some"));
        }
        let process = match peer_pidfd(vault.fd(socket).map_err(told)?) {
            Ok(fd) => Some(fd),
            // Gone already; the end of the connection will follow.
            Err(Errno::SRCH) => None,
            Err(e) => return Err(format!("no pidfd of pid {pid}: {e}")),
        };
        let shared = self.process_of(pid, vault);
        let made: Result<Vec<_>, _> = (0..self.vectors).map(|_| new_event()).collect();
        let made = made.map_err(|e| format!("no eventfd: {e}"))?;

        let id = self.next_id;
        self.next_id += 1;
        self.dirty = true;
        let client = Client {
            pid,
            uid,
            socket,
            process: process.map(|fd| shared.unwrap_or_else(|| vault.put_witness(fd))),
            events: made.into_iter().map(|fd| vault.put(fd)).collect(),
            queue: VecDeque::new(),
            blocked: false,
            closing: false,
        };
        self.enrol(id, client, around).map_err(|e| e.to_string())
    }

    /// The pidfd of process `pid`, if another connection has it and it lives;
    /// as long as it lives, no other process has that pid.
    fn process_of(&self, pid: u32, vault: &Vault) -> Option<Tag> {
        let clients = self.clients.values().map(|c| (c.pid, c.process));
        let departed = self.departed.values().map(|d| (d.pid, Some(d.process)));
        let (_, tag) = clients.chain(departed).find(|&(p, tag)| p == pid && tag.is_some())?;
        let fd = vault.fd(tag?).ok()?;
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now));
        if ended == Ok(0) { tag } else { None }
    }

    /// Queues the handshake, tells the others and begins to watch.
    fn enrol(&mut self, id: u16, mut client: Client, around: &mut Around<'_>) -> io::Result<()> {
        let watched = describe(id, &client, around.vault).and_then(|vm| {
            let socket = around.vault.fd(client.socket)?;
            around.poller.watch(socket, Source::Client(self.index, id))?;
            if let Some(process) = client.process {
                self.watch_process(process, id, around.vault, around.poller)?;
            }
            Ok(vm)
        });
        let vm = match watched {
            Ok(vm) => vm,
            Err(e) => {
                self.forget(client.socket, around);
                self.garbage.extend(client.events);
                self.drop_process(client.process, around);
                return Err(e);
            }
        };
        let own = Announced { id: IvshmemId(id), events: &client.events };
        let host = Announced { id: IvshmemId::HOST, events: &self.host_events };
        let others = self.clients.iter().filter(|(_, c)| !c.closing);
        let others = others.map(|(&n, c)| Announced { id: IvshmemId(n), events: &c.events });
        client.queue = codec::handshake(own, self.memory, [host].into_iter().chain(others)).into();
        for other in self.clients.values_mut().filter(|c| !c.closing) {
            other.queue.extend(connected(own));
        }
        info!(region = %self.name, id, pid = client.pid, uid = client.uid, "VM connected");
        around.service.vm_connected(vm);
        self.clients.insert(id, client);
        Ok(())
    }

    fn forget(&self, tag: Tag, around: &Around<'_>) {
        if let Ok(fd) = around.vault.fd(tag) {
            around.poller.forget(fd);
        }
    }

    /// Something happened on the connection of VM `id`.
    pub fn client_ready(&mut self, id: u16, flags: EventFlags, around: &mut Around<'_>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if flags.contains(EventFlags::OUT) {
            client.blocked = false;
            let closing = client.closing;
            if let Ok(fd) = around.vault.fd(client.socket) {
                let source = Source::Client(self.index, id);
                let _ = around.poller.rewatch(fd, source, !closing, false);
            }
        }
        let closing = client.closing;
        if flags.contains(EventFlags::IN) && !closing {
            let Ok(fd) = around.vault.fd(client.socket) else { return };
            let mut bytes = [0_u8; 1];
            // Only a look: to take it would close, here and now, what came with it.
            match recv(fd, &mut bytes[..], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
                Ok((0, _)) => return self.hang_up(id, "the connection has ended", around),
                Ok(_) => return self.reject(id, around),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return self.hang_up(id, "the connection broke", around),
            }
        }
        if flags.intersects(EventFlags::HUP | EventFlags::RDHUP | EventFlags::ERR) {
            self.hang_up(id, "the connection has ended", around);
        }
    }

    /// VM `id` has sent something, which the protocol does not know.
    fn reject(&mut self, id: u16, around: &mut Around<'_>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let (region, pid) = (&self.name, client.pid);
        warn!(%region, id, pid, "protocol error: a VM sent data; closing its connection");
        if around.vault.sent(client.socket) >= MESSAGES_TO_MEMORY {
            return self.hang_up(id, "it sent data", around);
        }
        client.closing = true;
        client.queue = [Message::refusal()].into();
        if let Ok(fd) = around.vault.fd(client.socket) {
            let source = Source::Client(self.index, id);
            let _ = around.poller.rewatch(fd, source, false, client.blocked);
        }
        self.announce_end(id);
        self.dirty = true;
    }

    /// Tells every other client that `id` has gone, unless it was yet to be
    /// told that it exists.
    fn announce_end(&mut self, id: u16) {
        let gone = IvshmemId(id);
        let vectors = usize::from(self.vectors);
        for (_, other) in self.clients.iter_mut().filter(|(n, c)| **n != id && !c.closing) {
            let queued = other.queue.iter().filter(|m| m.announces(gone)).count();
            if queued == vectors {
                other.queue.retain(|m| !m.announces(gone));
            } else {
                other.queue.push_back(disconnected(gone));
            }
        }
    }

    /// The connection of VM `id` is over.
    fn hang_up(&mut self, id: u16, why: &str, around: &mut Around<'_>) {
        let Some(client) = self.clients.remove(&id) else { return };
        self.dirty = true;
        self.forget(client.socket, around);
        self.garbage.push(client.socket);
        if !client.closing {
            self.announce_end(id);
        }
        self.retired.extend(client.events);
        let gone = IvshmemId(id);
        match client.process {
            Some(process) => {
                info!(region = %self.name, id, pid = client.pid, why, "VM disconnected");
                self.departed.insert(id, Departed { pid: client.pid, process });
                around.service.vm_detached(gone);
            }
            None => {
                info!(region = %self.name, id, pid = client.pid, why, "VM is dead");
                around.service.vm_dead(gone);
            }
        }
    }

    /// Lets go of a pidfd, unless another connection shares it.
    fn drop_process(&mut self, process: Option<Tag>, around: &Around<'_>) {
        let shared = self.clients.values().any(|c| c.process == process)
            || self.departed.values().any(|d| Some(d.process) == process);
        if let Some(tag) = process
            && !shared
        {
            self.forget(tag, around);
            self.garbage.push(tag);
        }
    }

    /// A pidfd watched under the id `id` says that its process has ended.
    pub fn process_ended(&mut self, id: u16, around: &mut Around<'_>) {
        let client = self.clients.get(&id).and_then(|c| c.process);
        let Some(process) = client.or_else(|| self.departed.get(&id).map(|d| d.process)) else {
            return;
        };
        self.dirty = true;
        self.forget(process, around);
        self.garbage.push(process);
        self.departed.retain(|&id, departed| {
            let dead = departed.process == process;
            if dead {
                info!(region = %self.name, id, pid = departed.pid, "VM is dead");
                around.service.vm_dead(IvshmemId(id));
            }
            !dead
        });
        let mut left = Vec::new();
        for (&id, client) in self.clients.iter_mut().filter(|(_, c)| c.process == Some(process)) {
            client.process = None;
            left.push((id, client.pid, client.socket));
        }
        for (id, pid, socket) in left {
            self.process_ended_before_connection(id, pid, socket, around);
        }
    }

    /// The kernel closes a process's files before its pidfd speaks, so the
    /// end of the connection is there to be read, or somebody else has it.
    fn process_ended_before_connection(
        &mut self,
        id: u16,
        pid: u32,
        socket: Tag,
        around: &mut Around<'_>,
    ) {
        let mut byte = [0_u8; 1];
        let Ok(fd) = around.vault.fd(socket) else { return };
        match recv(fd, &mut byte[..], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Err(Errno::AGAIN) => {
                warn!(
                    region = %self.name, id, pid,
                    "the process that connected has ended, but another holds its connection: \
                     the VM counts as alive until that one ends too"
                );
                around.service.vm_passed_on(IvshmemId(id));
            }
            // Data to be read first, which will end the connection as well.
            Ok((n, _)) if n > 0 => {}
            _ => self.hang_up(id, "its process has ended", around),
        }
    }

    /// Somebody has rung the host's vector `vector`.
    pub fn host_event(&mut self, vector: u16, around: &mut Around<'_>) {
        let Some(&tag) = self.host_events.get(usize::from(vector)) else { return };
        let Ok(fd) = around.vault.fd(tag) else { return };
        let mut count = [0_u8; 8];
        // Reading resets the count, so that later rings are seen.
        if rustix::io::read(fd, &mut count).is_ok() {
            around.service.doorbell(vector);
        }
    }

    /// Sends what can be sent without waiting, a bounded amount of it: when
    /// some is left, [`retry_at`](Self::retry_at) is now. Call after the state
    /// has been saved; it may be dirty again afterwards.
    pub fn pump(&mut self, around: &mut Around<'_>) {
        if self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.retry_at = None;
            if self.listener_paused {
                self.pause_listener(around, false);
            }
        }
        let mut ids: Vec<u16> = self.clients.keys().copied().collect();
        let first = ids.partition_point(|&id| id < self.turn);
        ids.rotate_left(first);
        let mut left = SENDS;
        for id in ids {
            self.pump_one(id, &mut left, around);
            if left == 0 {
                self.turn = id.wrapping_add(1);
                self.retry_at = Some(Instant::now());
                break;
            }
        }
        self.bury();
    }

    fn pump_one(&mut self, id: u16, left: &mut usize, around: &mut Around<'_>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        while !client.blocked
            && let Some(message) = client.queue.front()
        {
            if *left == 0 {
                return;
            }
            *left -= 1;
            match around.vault.send(client.socket, message.bytes(), message.fd) {
                Ok(_) => {
                    client.queue.pop_front();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    debug!(region = %self.name, id, left = client.queue.len(), "VM is slow");
                    client.blocked = true;
                    if let Ok(fd) = around.vault.fd(client.socket) {
                        let source = Source::Client(self.index, id);
                        let _ = around.poller.rewatch(fd, source, !client.closing, true);
                    }
                }
                // Too many descriptors under way, or no memory: the client's
                // reading, or somebody else's, will help.
                Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM) => {
                    self.retry_at = Some(Instant::now() + RETRY);
                    return;
                }
                Err(e) => return self.hang_up(id, &e.to_string(), around),
            }
        }
        if client.closing && client.queue.is_empty() {
            self.hang_up(id, "it was refused", around);
        }
    }

    /// Lets go of the eventfds of the departed that no queue names any more;
    /// the saved state may, so it has to be written once more first.
    fn bury(&mut self) {
        let Self { clients, retired, garbage, dirty, .. } = self;
        retired.retain(|&tag| {
            let wanted = clients.values().any(|c| c.queue.iter().any(|m| m.fd == Some(tag)));
            if !wanted {
                garbage.push(tag);
                *dirty = true;
            }
            wanted
        });
    }
}

fn new_event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

fn describe(id: u16, client: &Client, vault: &Vault) -> io::Result<Vm> {
    let ring = client.events.iter().map(|&tag| vault.fd(tag)?.try_clone_to_owned());
    let process = client.process.map(|tag| vault.fd(tag)?.try_clone_to_owned());
    Ok(Vm {
        id: IvshmemId(id),
        pid: client.pid,
        uid: client.uid,
        process: process.transpose()?,
        ring: ring.collect::<io::Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
    use std::path::Path;

    #[derive(Default)]
    struct Heard(Vec<String>);

    impl RegionService for Heard {
        fn vm_connected(&mut self, vm: Vm) {
            self.0.push(format!("connected {} with {} vectors", vm.id, vm.ring.len()));
        }
        fn vm_detached(&mut self, id: IvshmemId) {
            self.0.push(format!("detached {id}"));
        }
        fn vm_dead(&mut self, id: IvshmemId) {
            self.0.push(format!("dead {id}"));
        }
        fn doorbell(&mut self, vector: u16) {
            self.0.push(format!("doorbell {vector}"));
        }
        fn poll_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
            None
        }
        fn dispatch(&mut self) {}
        fn is_idle(&self) -> bool {
            true
        }
        fn stop(&mut self) {}
    }

    struct Bench {
        vault: Vault,
        poller: Poller,
        heard: Heard,
        server: Server,
    }

    impl Bench {
        fn new() -> Self {
            let text = "[[region]]\nname = \"r\"\nsize = \"16M\"\n";
            let region = Config::parse(text, Path::new("c")).unwrap().regions.remove(0);
            let mut vault = Vault::local();
            let memory = vault.put(new_event().unwrap());
            let listener = vault.put(new_event().unwrap());
            let server = Server::new(0, &region, memory, listener, &mut vault).unwrap();
            let poller = Poller::new().unwrap();
            Self { vault, poller, heard: Heard::default(), server }
        }

        fn with<T>(&mut self, act: impl FnOnce(&mut Server, &mut Around<'_>) -> T) -> T {
            let Self { vault, poller, heard, server } = self;
            act(server, &mut Around { vault, poller, service: heard })
        }

        /// Admits a connection without sending anything yet.
        fn admit(&mut self) -> OwnedFd {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            let tag = self.vault.put(ours);
            self.with(|server, around| server.admit(tag, around));
            theirs
        }

        fn settle(&mut self) {
            while self.server.is_dirty() {
                self.server.saved(&mut self.vault);
                self.with(|server, around| server.pump(around));
            }
        }

        fn values(&self, socket: &OwnedFd) -> Vec<i64> {
            let mut out = Vec::new();
            let mut word = [0_u8; 8];
            while let Ok((8, _)) = recv(socket, &mut word[..], RecvFlags::DONTWAIT) {
                out.push(i64::from_le_bytes(word));
            }
            out
        }
    }

    #[test]
    fn nothing_is_sent_before_the_state_is_saved() {
        let mut bench = Bench::new();
        let a = bench.admit();
        assert_eq!(bench.values(&a), []);
        assert!(bench.server.is_dirty());
        bench.settle();
        assert_eq!(bench.values(&a), [0, 1, -1, 0xfff0, 0xfff0, 1, 1]);
    }

    #[test]
    fn byte_before_the_memory_is_answered_by_a_refusal_not_by_a_close() {
        let mut bench = Bench::new();
        let a = bench.admit();
        bench.settle();
        bench.values(&a);
        let b = bench.admit();
        send(&b, b"x", SendFlags::empty()).unwrap();
        bench.with(|server, around| server.client_ready(2, EventFlags::IN, around));
        bench.settle();
        assert_eq!(bench.values(&b), [codec::REFUSAL]);
        // It was never announced, so its end is not either.
        assert_eq!(bench.values(&a), []);
        assert_eq!(bench.server.connected(), 1);
    }

    #[test]
    fn peer_announced_in_part_is_announced_in_full_and_then_ended() {
        let mut bench = Bench::new();
        let a = bench.admit();
        bench.settle();
        bench.values(&a);
        let b = bench.admit();
        // As a full socket would: one of the two vectors is out.
        bench.server.clients.get_mut(&1).unwrap().queue.pop_front();
        drop(b);
        bench.with(|server, around| server.client_ready(2, EventFlags::HUP, around));
        bench.settle();
        assert_eq!(bench.values(&a), [2, 2]);
    }

    #[test]
    fn ids_end_below_the_host_and_then_clients_are_refused() {
        let mut bench = Bench::new();
        bench.server.next_id = IvshmemId::HOST.0 - 1;
        let a = bench.admit();
        let b = bench.admit();
        bench.settle();
        assert_eq!(bench.values(&a)[1], 0xffef);
        assert_eq!(bench.values(&b), [codec::REFUSAL]);
    }

    #[test]
    fn service_hears_of_connection_end_and_death_in_this_order() {
        let mut bench = Bench::new();
        let a = bench.admit();
        let b = bench.admit();
        drop(a);
        bench.with(|server, around| server.client_ready(1, EventFlags::HUP, around));
        // Both connections are this process's, and share its pidfd.
        bench.with(|server, around| server.process_ended(1, around));
        bench.settle();
        let heard = ["connected 1 with 2 vectors", "connected 2 with 2 vectors"];
        let then = ["detached 1", "dead 1"];
        assert_eq!(bench.heard.0, [heard, then].concat());
        drop(b);
        bench.with(|server, around| server.client_ready(2, EventFlags::HUP, around));
        assert_eq!(bench.heard.0[4..], ["dead 2"]);
        bench.settle();
        assert!(!bench.server.has_vms());
        // Only memory, listener and the host's two vectors are left.
        assert_eq!(bench.vault.tags().len(), 4);
    }
}
