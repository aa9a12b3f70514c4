//! The sessions of a C program, which of them a call is for, and errno.
//!
//! A process has a session for every region that its rules lead to (`VSHMEM_RULES`; without rules,
//! for the one region of `VSHMEM_SOCKET`). Each attaches when it is first needed. `*get` goes where
//! the rules lead its key, every other call where its id says: ids carry their region's number.

use libc::c_int;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use vshmem::sysv::{ID_BIT, number_of};
use vshmem::{
    BadRule, Error, Kind, Mapping, Region, Result, Rules, Session, Signals, Target, sysv,
};

/// The regions of this process, and what leads to them.
struct Routes {
    rules: std::result::Result<Rules, BadRule>,
    regions: Vec<Place>,
}

/// A region, and the targets that mean it: one session for both `default` and the region's name.
struct Place {
    targets: Vec<Target>,
    socket: PathBuf,
    session: Session,
}

/// Null until somebody asks; then the process's, or [`none`]. Never freed once it is here.
static ROUTES: AtomicPtr<Routes> = AtomicPtr::new(ptr::null_mut());
/// Attached sessions of `ROUTES` by their region's number, for ids.
static NUMBERED: [AtomicPtr<Session>; 8] = [const { AtomicPtr::new(ptr::null_mut()) }; 8];
/// What a person was told already, a bit for each.
static TOLD: AtomicU64 = AtomicU64::new(0);

const _: () = assert!(NUMBERED.len() == vshmem::MAX_NUMBER as usize + 1);

/// Stands for "this program has no region": neither socket nor rules, nothing attached.
const fn none() -> *mut Routes {
    ptr::without_provenance_mut(align_of::<Routes>())
}

impl Routes {
    /// What the environment says; with `default` for its default region, if given.
    fn from_environment(default: Option<Session>) -> Result<Self> {
        let rules = vshmem::rules_from_environment().unwrap_or_else(|| Ok(Rules::default()));
        let mut regions: Vec<Place> = Vec::new();
        if let Some(session) = default {
            let socket = plain(session.socket());
            regions.push(Place { targets: vec![Target::Default], socket, session });
        }
        for target in rules.iter().flat_map(Rules::targets) {
            if regions.iter().any(|r| r.targets.contains(target)) {
                continue;
            }
            let socket = plain(match target {
                Target::Region(name) => vshmem::socket_of(Some(name)),
                _ => vshmem::socket_from_environment().unwrap_or_else(|| vshmem::socket_of(None)),
            });
            match regions.iter_mut().find(|r| r.socket == socket) {
                Some(same) => same.targets.push(target.clone()),
                None => {
                    let session = Session::later(&socket)?;
                    regions.push(Place { targets: vec![target.clone()], socket, session });
                }
            }
        }
        Ok(Self { rules, regions })
    }

    /// The session that `which` of the rules means, attached; `None` for the kernel.
    fn session(
        &'static self,
        which: impl Fn(&'static Rules) -> &'static Target,
    ) -> Option<Result<&'static Session>> {
        let target = match &self.rules {
            Ok(rules) => which(rules),
            Err(bad) => return Some(Err(bad.clone().into())),
        };
        let place = self.regions.iter().find(|r| r.targets.contains(target))?;
        Some(enter(&place.session))
    }
}

/// The path by which a socket is compared.
fn plain(socket: PathBuf) -> PathBuf {
    std::fs::canonicalize(&socket).unwrap_or(socket)
}

/// Attaches a session and has its ids found.
fn enter(session: &'static Session) -> Result<&'static Session> {
    let number = session.region()?.number();
    let slot = &NUMBERED[number as usize % NUMBERED.len()];
    let mine = ptr::from_ref(session).cast_mut();
    // Release: the session is complete before an id leads to it.
    match slot.compare_exchange(ptr::null_mut(), mine, Ordering::Release, Ordering::Acquire) {
        Ok(_) => Ok(session),
        Err(other) if other == mine => Ok(session),
        Err(other) => {
            // SAFETY: what is in the table is never freed.
            let (first, second) = (unsafe { &*other }.socket(), session.socket());
            Err(Error::SameNumber { number, first, second })
        }
    }
}

/// The routes, or `None` where System V IPC is the kernel's.
fn routes() -> Result<Option<&'static Routes>> {
    // Acquire: pairs with the Release in `publish`.
    let mut at = ROUTES.load(Ordering::Acquire);
    if at.is_null() {
        first()?;
        at = ROUTES.load(Ordering::Acquire);
    }
    // SAFETY: not null; routes, once published, are never freed.
    Ok(if at.is_null() || at == none() { None } else { Some(unsafe { &*at }) })
}

#[cold]
fn first() -> Result<()> {
    let told = vshmem::rules_from_environment().is_some();
    if told || vshmem::socket_from_environment().is_some() {
        publish(Routes::from_environment(None)?);
    } else {
        // Relaxed: nothing stands behind it. A `vshmem_attach` meanwhile wins.
        let (old, new) = (ptr::null_mut(), none());
        let _ = ROUTES.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
    }
    Ok(())
}

/// Makes `routes` the program's, unless it has some.
fn publish(routes: Routes) -> bool {
    Signals::guard();
    Signals::cancellation_points();
    let new = Box::into_raw(Box::new(routes));
    loop {
        let old = ROUTES.load(Ordering::Relaxed);
        if !old.is_null() && old != none() {
            // SAFETY: made above, and shown to nobody.
            drop(unsafe { Box::from_raw(new) });
            return false;
        }
        // Release: the routes are complete before they are found.
        if ROUTES.compare_exchange(old, new, Ordering::Release, Ordering::Relaxed).is_ok() {
            return true;
        }
    }
}

/// Makes `session` the program's default region; `false` if the program has made a call that went to
/// a region.
pub fn adopt(session: Session) -> Result<bool> {
    Ok(publish(Routes::from_environment(Some(session))?))
}

/// Whether this program has regions, for whatever keys.
pub fn in_use() -> bool {
    routes().is_ok_and(|routes| routes.is_some())
}

/// Where an object of `kind` with `key` is; `None`: in this kernel.
pub fn by_key(kind: Kind, key: c_int) -> Option<Result<&'static Session>> {
    routes()
        .transpose()?
        .map_or_else(|e| Some(Err(e)), |routes| routes.session(|rules| rules.target(kind, key)))
}

/// What calls speak of that name no object (`*_INFO`) or an index (`*_STAT`): the place of the keys
/// that no rule names. `None`: this kernel.
pub fn rest(kind: Kind) -> Option<Result<&'static Session>> {
    routes()
        .transpose()?
        .map_or_else(|e| Some(Err(e)), |routes| routes.session(|rules| rules.rest(kind)))
}

/// Where the object is that `id` names; `None`: in this kernel.
#[inline]
pub fn by_id(id: c_int) -> Option<Result<&'static Session>> {
    if id & ID_BIT == 0 {
        return None;
    }
    match numbered(id) {
        Some(session) => Some(Ok(session)),
        None => find(id),
    }
}

#[inline]
fn numbered(id: c_int) -> Option<&'static Session> {
    let slot = &NUMBERED[number_of(id) as usize % NUMBERED.len()];
    // Acquire: pairs with the Release in `enter`.
    // SAFETY: null, or a session that is never freed.
    unsafe { slot.load(Ordering::Acquire).as_ref() }
}

/// Looks for the region of `id` among those not attached yet: the id may be another process's.
#[cold]
fn find(id: c_int) -> Option<Result<&'static Session>> {
    let routes = match routes().transpose()? {
        Ok(routes) => routes,
        Err(e) => return Some(Err(e)),
    };
    let (mut any, mut failed) = (None, None);
    for place in &routes.regions {
        match enter(&place.session) {
            Ok(session) => any = Some(session),
            Err(e) => failed = Some(e),
        }
        if let Some(session) = numbered(id) {
            return Some(Ok(session));
        }
    }
    match (any, failed, &routes.rules) {
        // It might have been the one.
        (_, Some(e), _) => Some(Err(e)),
        // An id of no region names nothing, and any region says so as the kernel would.
        (Some(session), None, _) => Some(Ok(session)),
        (None, None, Err(bad)) => Some(Err(bad.clone().into())),
        (None, None, Ok(_)) => None,
    }
}

/// Runs `f` on every session there is, attached or not; makes none.
pub fn each(mut f: impl FnMut(&'static Session)) {
    let at = ROUTES.load(Ordering::Acquire);
    if at.is_null() || at == none() {
        return;
    }
    // SAFETY: as in `routes`.
    for place in &unsafe { &*at }.regions {
        f(&place.session);
    }
}

/// What the fast path needs; `None` sends the call the slow way.
#[inline]
pub fn fast(id: c_int) -> Option<(&'static Region<Mapping>, &'static sysv::Caller)> {
    numbered(id)?.fast()
}

/// Tells a person, once, why something does not work; of corruption only what was met first, since
/// much of it may follow.
pub fn tell(e: &Error) {
    let more = "; `vshmem region check` finds the rest";
    let text = match e.corruption() {
        Some(_) => format!("vshmem: {e}{more}\n"),
        None => format!("vshmem: {e}\n"),
    };
    let told = if e.corruption().is_some() { more } else { text.as_str() };
    let hash = told.bytes().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let bit = 1 << (hash % 64);
    if TOLD.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return;
    }
    // SAFETY: the text's bytes. If nobody listens, nobody is told.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

/// The calling thread's errno.
pub fn errno() -> c_int {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() }
}

/// Sets it.
pub fn set_errno(e: c_int) {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() = e };
}

/// Runs the body of a call: its value, or -1 and errno. A call that succeeds leaves errno alone.
pub fn answer<T>(body: impl FnOnce() -> Result<T>) -> std::result::Result<T, ()> {
    let before = errno();
    match body() {
        Ok(value) => {
            set_errno(before);
            Ok(value)
        }
        Err(e) => {
            if e.is_session() || e.corruption().is_some() {
                tell(&e);
            }
            set_errno(e.errno());
            Err(())
        }
    }
}

/// As [`answer`], for calls that return an int.
pub fn int(body: impl FnOnce() -> Result<c_int>) -> c_int {
    answer(body).unwrap_or(-1)
}
