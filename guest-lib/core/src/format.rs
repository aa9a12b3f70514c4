//! Laying a region out, and checking one that somebody else laid out.

use crate::layout::{
    FEATURE_SPARSE, FEATURES_INCOMPAT, FEATURES_RO_COMPAT, LIMITS, Limit, MAGIC, MAX_NUMBER,
    MIN_FILE, PAGE, PAGE_SHIFT, REGION_BASE, TABLES, Table, VERSION, arena, lane, msg, obj, park,
    peer, sb, sem, task, wake,
};
use crate::mem::{Corrupt, Mem, Offset, Ordering};

/// Where a table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Its first element.
    pub at: Offset,
    /// Bytes per element.
    pub stride: u64,
    /// Elements.
    pub count: u64,
}

/// Where all tables are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// By [`Table`].
    pub tables: [Place; TABLES],
    /// Bytes of the region.
    pub len: u64,
    /// The region's number.
    pub number: u32,
}

/// Why memory is no region this code can use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// Not a vshmem region at all.
    #[error(
        "no vshmem region: magic is {0:#018x}; is this the right file or device, and did its daemon start?"
    )]
    Magic(u64),
    /// Another version.
    #[error(
        "region has format version {found}, this library speaks {VERSION}: install the same vshmem release on the host and in every guest"
    )]
    Version {
        /// What the region says.
        found: u32,
    },
    /// A feature this code does not know.
    #[error(
        "region uses features that this library (format version {VERSION}) does not know (incompatible bits {0:#x}): install the newer vshmem that made it"
    )]
    Features(u64),
    /// A feature that forbids writing to this code, which only ever opens regions to write.
    #[error(
        "region uses features that this library (format version {VERSION}) does not know and must not write to (read-only compatible bits {0:#x}): install the newer vshmem that made it"
    )]
    ReadOnly(u64),
    /// The memory is shorter than the region in it.
    #[error(
        "region is truncated: {have} bytes mapped, {need} needed; does the file or BAR have the size of its configuration?"
    )]
    Truncated {
        /// Bytes there are.
        have: u64,
        /// Bytes the region has.
        need: u64,
    },
    /// A size no region can have.
    #[error(
        "region file of {0} bytes: the size must be a power of two, at least {MIN_FILE} bytes (16M), at most 256G"
    )]
    Size(u64),
    /// A name no region can have.
    #[error("region name {0:?}: use 1 to 32 of a-z, 0-9, '-' and '_'")]
    Name(String),
    /// A number no region can have.
    #[error(
        "region number {0}: use 0 to {MAX_NUMBER}, different ones for regions that one program uses"
    )]
    Number(u32),
    /// The tables do not fit.
    #[error(
        "tables for {tasks} tasks leave no pages in {len} bytes: configure fewer tasks or a larger region"
    )]
    NoRoom {
        /// Tasks asked for.
        tasks: u64,
        /// Bytes of the region.
        len: u64,
    },
    /// A limit above what the region has room for.
    #[error(
        "{name} = {value}: this region has room for {most}; lower it, or configure a larger region"
    )]
    Limit {
        /// Which.
        name: &'static str,
        /// What was asked.
        value: u64,
        /// What there is room for.
        most: u64,
    },
    /// Something else is wrong with it.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

impl Geometry {
    /// The most that a limit can be here: what the tables, a lane or a block have room for, else
    /// what the kernel lets it be.
    #[must_use]
    pub fn limit_max(&self, limit: Limit) -> u64 {
        let count = |t: Table| self.tables[t as usize].count;
        match limit {
            Limit::Shmmni => count(Table::Segs),
            Limit::Semmni => count(Table::Sets),
            Limit::Msgmni => count(Table::Queues),
            Limit::Semmsl => arena::MAX_BLOCK / sem::STRIDE - 1,
            Limit::Semopm => lane::MAX_OPS as u64,
            Limit::Msgmax => arena::MAX_BLOCK - msg::BYTES,
            Limit::Semmns | Limit::Msgmnb => i32::MAX as u64,
            Limit::Shmall | Limit::Shmmax => u64::MAX,
            Limit::ShmRmidForced => 1,
        }
    }
}

/// What a new region shall be.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// Its bytes, without [`REGION_BASE`].
    pub len: u64,
    /// Its number: regions that one process uses have different ones.
    pub number: u32,
    /// The user whom it belongs to.
    pub owner: u32,
    /// Tasks (and lanes) at once; 0 chooses by size.
    pub tasks: u64,
    /// Limits other than the default.
    pub limits: Vec<(Limit, u64)>,
    /// Whether its memory is had as it is touched, and may be given back in between.
    pub sparse: bool,
}

impl Spec {
    /// A region of root's called `name` of `len` bytes with everything else as Linux has it.
    #[must_use]
    pub fn new(name: &str, len: u64) -> Self {
        Self {
            name: name.to_owned(),
            len,
            number: 0,
            owner: 0,
            tasks: 0,
            limits: Vec::new(),
            sparse: false,
        }
    }

    /// The same for a region file of `size` bytes.
    ///
    /// # Errors
    /// The size is no power of two or below [`MIN_FILE`].
    pub fn for_file(name: &str, size: u64) -> Result<Self, FormatError> {
        if !size.is_power_of_two() || size < MIN_FILE {
            return Err(FormatError::Size(size));
        }
        Ok(Self::new(name, size - REGION_BASE))
    }
}

/// Whether `name` can name a region.
#[must_use]
pub fn valid_name(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    (1..=32).contains(&name.len()) && name.bytes().all(good)
}

/// Tables of a region of `len` bytes for `tasks` tasks: the only place that decides where things are.
fn lay_out(len: u64, tasks: u64) -> Result<Geometry, FormatError> {
    // A cell names a block by its offset in units of 64 bytes.
    if len > 1 << 38 {
        return Err(FormatError::Size(len.saturating_add(REGION_BASE)));
    }
    // An eighth of the region for lanes. Tasks have more than one thread, endpoints need lanes too.
    let lanes = (len / 8 / lane::STRIDE).clamp(24, 5124);
    let tasks = if tasks == 0 { (lanes - 4) / 5 * 4 } else { tasks };
    let tasks = tasks.min((wake::MAX_LANES - 4) / 5 * 4);
    let lanes = tasks + tasks / 4 + 4;
    let objects = (len / 8192).clamp(64, 32_000);
    let segs = (len / 32_768).clamp(64, 4096);
    let buckets = |n: u64| n.next_power_of_two();
    let cells = |n: u64| n.div_ceil(32);
    let all_pages = len / PAGE;
    let mut tables = [Place::default(); TABLES];
    let mut at = sb::SIZE;
    let mut put = |t: Table, stride: u64, count: u64, align: u64| {
        at = at.next_multiple_of(align);
        tables[t as usize] = Place { at: Offset(at), stride, count };
        at = at.saturating_add(stride.saturating_mul(count));
        at
    };
    put(Table::Peers, peer::STRIDE, peer::COUNT, 4096);
    put(Table::Wake, wake::STRIDE, peer::COUNT, 128);
    put(Table::Tasks, task::STRIDE, tasks, 4096);
    put(Table::Owners, 8, lanes, 4096);
    put(Table::Lanes, lane::STRIDE, lanes, 4096);
    put(Table::Segs, obj::STRIDE, segs, 4096);
    put(Table::Sets, obj::STRIDE, objects, 4096);
    put(Table::Queues, obj::STRIDE, objects, 4096);
    put(Table::SegKeys, 8, buckets(segs), 4096);
    put(Table::SetKeys, 8, buckets(objects), 4096);
    put(Table::QueueKeys, 8, buckets(objects), 4096);
    put(Table::SegUsed, 8, cells(segs), 4096);
    put(Table::SetUsed, 8, cells(objects), 4096);
    put(Table::QueueUsed, 8, cells(objects), 4096);
    put(Table::PageUsed, 8, cells(all_pages), 4096);
    put(Table::PageDirty, 8, cells(all_pages), 4096);
    let end = put(Table::Parking, park::STRIDE, park::COUNT, 4096);
    // Pages are numbered from the region's base, so that 2 MiB of them are aligned in the file too.
    let first = end.div_ceil(PAGE);
    if first + 64 > all_pages {
        return Err(FormatError::NoRoom { tasks, len });
    }
    tables[Table::Pages as usize] =
        Place { at: Offset(first * PAGE), stride: PAGE, count: all_pages - first };
    Ok(Geometry { tables, len, number: 0 })
}

/// Linux's `SHMMAX` and `SHMALL`.
const NO_LIMIT: u64 = u64::MAX - (1 << 24);

fn defaults(geometry: &Geometry) -> [(Limit, u64); LIMITS] {
    let count = |t: Table| geometry.tables[t as usize].count;
    [
        (Limit::Shmmni, count(Table::Segs)),
        (Limit::Shmall, NO_LIMIT),
        (Limit::Shmmax, NO_LIMIT),
        (Limit::Semmsl, 32_000),
        (Limit::Semmns, 1_024_000_000),
        (Limit::Semopm, lane::MAX_OPS as u64),
        (Limit::Semmni, count(Table::Sets)),
        (Limit::Msgmax, 8192),
        (Limit::Msgmnb, 16_384),
        (Limit::Msgmni, count(Table::Queues)),
        (Limit::ShmRmidForced, 0),
    ]
}

/// See [`crate::Region::format`].
pub(crate) fn format(mem: &impl Mem, spec: &Spec) -> Result<Geometry, FormatError> {
    if !valid_name(&spec.name) {
        return Err(FormatError::Name(spec.name.clone()));
    }
    if mem.len() < spec.len {
        return Err(FormatError::Truncated { have: mem.len(), need: spec.len });
    }
    if spec.number > MAX_NUMBER {
        return Err(FormatError::Number(spec.number));
    }
    let geometry = Geometry { number: spec.number, ..lay_out(spec.len, spec.tasks)? };
    let put = |at: u64, value: u64| mem.store(Offset(at), value, Ordering::Relaxed);
    put(sb::VERSION, u64::from(PAGE_SHIFT) << 32 | u64::from(VERSION))?;
    put(sb::COMPAT, if spec.sparse { FEATURE_SPARSE } else { 0 })?;
    put(sb::RO_COMPAT, 0)?;
    put(sb::INCOMPAT, 0)?;
    put(sb::LEN, spec.len)?;
    put(sb::NUMBER, spec.number.into())?;
    put(sb::OWNER, spec.owner.into())?;
    mem.write_bytes(Offset(sb::NAME), spec.name.as_bytes())?;
    for (i, place) in geometry.tables.iter().enumerate() {
        let at = sb::TABLES + i as u64 * 24;
        put(at, place.at.0)?;
        put(at + 8, place.stride)?;
        put(at + 16, place.count)?;
    }
    for (limit, value) in defaults(&geometry).into_iter().chain(spec.limits.iter().copied()) {
        let most = geometry.limit_max(limit);
        if value > most {
            return Err(FormatError::Limit { name: limit.name(), value, most });
        }
        put(sb::LIMITS + limit as u64 * 8, value)?;
    }
    let host = geometry.tables[Table::Peers as usize].at;
    let state = crate::task::peer_state(peer::LIVE, peer::HOST_IVSHMEM);
    mem.store(host.plus(peer::STATE), state.into(), Ordering::Relaxed)?;
    mem.write_bytes(host.plus(peer::NAME), b"host")?;
    // Release: the committing step; pairs with the Acquire in `open`.
    mem.store(Offset(sb::MAGIC), MAGIC, Ordering::Release)?;
    Ok(geometry)
}

/// See [`crate::Region::open`].
pub(crate) fn open(mem: &impl Mem) -> Result<Geometry, FormatError> {
    if mem.len() < sb::SIZE {
        return Err(FormatError::Truncated { have: mem.len(), need: MIN_FILE - REGION_BASE });
    }
    let get = |at: u64| mem.load(Offset(at), Ordering::Relaxed);
    // Acquire: pairs with the committing store of `format`.
    let magic = mem.load(Offset(sb::MAGIC), Ordering::Acquire)?;
    if magic != MAGIC {
        return Err(FormatError::Magic(magic));
    }
    let version = get(sb::VERSION)?;
    if version as u32 != VERSION {
        return Err(FormatError::Version { found: version as u32 });
    }
    let unknown = get(sb::INCOMPAT)? & !FEATURES_INCOMPAT;
    if unknown != 0 {
        return Err(FormatError::Features(unknown));
    }
    let unknown = get(sb::RO_COMPAT)? & !FEATURES_RO_COMPAT;
    if unknown != 0 {
        return Err(FormatError::ReadOnly(unknown));
    }
    if (version >> 32) as u32 != PAGE_SHIFT {
        return Err(Corrupt::new(Offset(sb::VERSION), "page shift is not 12").into());
    }
    let len = get(sb::LEN)?;
    if len > mem.len() {
        return Err(FormatError::Truncated { have: mem.len(), need: len });
    }
    let number = u32::try_from(get(sb::NUMBER)?).ok().filter(|n| *n <= MAX_NUMBER);
    let number =
        number.ok_or_else(|| Corrupt::new(Offset(sb::NUMBER), "no region has such a number"))?;
    let mut tables = [Place::default(); TABLES];
    for (i, place) in tables.iter_mut().enumerate() {
        let at = sb::TABLES + i as u64 * 24;
        *place = Place { at: Offset(get(at)?), stride: get(at + 8)?, count: get(at + 16)? };
    }
    // The tasks decide everything else: what does not follow from them was tampered with.
    let tasks = tables[Table::Tasks as usize].count;
    let expected = lay_out(len, tasks)
        .map_err(|_| Corrupt::new(Offset(sb::TABLES), "table sizes do not fit the region"))?;
    if let Some(i) = (0..TABLES).find(|i| tables[*i] != expected.tables[*i]) {
        let at = Offset(sb::TABLES + i as u64 * 24);
        return Err(Corrupt::new(at, "a table is not where this format version has it").into());
    }
    Ok(Geometry { number, ..expected })
}
