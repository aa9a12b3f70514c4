//! What idle objects and tasks take of a region: the figures of docs/performance.md.
#![allow(missing_docs)]

mod common;
use common::{CREATE, endpoint, region, task};
use vshmem_core::format::Spec;
use vshmem_core::layout::Table;
use vshmem_core::mem::HeapMem;
use vshmem_core::region::Kind;
use vshmem_core::{Lane, Region};
use vshmem_sysv::{Caller, look, msg, sem, shm};

const DOCS: &str = include_str!("../../../docs/performance.md");
const PAGE: f64 = 4096.0;

/// The number in the row of the documented table that begins with `what`.
fn documented(what: &str) -> f64 {
    let row = DOCS.lines().find_map(|line| line.strip_prefix(&format!("| {what} | ")));
    let cell = row.unwrap_or_else(|| panic!("docs/performance.md has no row '{what}'"));
    let digits: String = cell.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    digits.parse().unwrap()
}

struct Place {
    r: Region<HeapMem>,
    _endpoint: Lane,
    c: Caller,
    on: Lane,
}

/// A region with as many sets and queues as one can have.
fn place() -> Place {
    let spec = Spec::for_file("test", 256 << 20).unwrap();
    let mem = HeapMem::new(spec.len);
    Region::format(mem.clone(), &spec).unwrap();
    let r = region(&mem);
    let mut endpoint = endpoint(&r);
    let (c, on) = task(&r, &mut endpoint, 10);
    Place { r, _endpoint: endpoint, c, on }
}

impl Place {
    /// Bytes of an object's place in its table, and of its share of the keys.
    fn entry(&self, kind: Kind) -> f64 {
        let (objects, keys) = (self.r.table(kind.table()), self.r.table(kind.keys()));
        let share = keys.stride * keys.count / objects.count;
        (objects.stride + share) as f64
    }

    /// Bytes of memory that one of `n` takes.
    fn each(&mut self, n: u32, mut make: impl FnMut(&mut Self, u32)) -> f64 {
        let before = look::pages(&self.r).unwrap().0;
        for i in 0..n {
            make(self, i);
        }
        let pages = look::pages(&self.r).unwrap().0 - before;
        f64::from(pages) * PAGE / f64::from(n)
    }

    fn sets(&mut self, n: u32, semaphores: i32) -> f64 {
        let each = self.each(n, |p, i| {
            sem::get(&p.r, &mut p.on, &p.c, 1 + i as i32, semaphores, CREATE).unwrap();
        });
        each + self.entry(Kind::Set)
    }

    fn queues(&mut self, n: u32) -> f64 {
        let each = self.each(n, |p, i| {
            msg::get(&p.r, &mut p.on, &p.c, 1 + i as i32, CREATE).unwrap();
        });
        each + self.entry(Kind::Queue)
    }
}

/// Pages that a pool has begun are no difference.
fn same(what: &str, found: f64) {
    let said = documented(what);
    assert!((found - said).abs() <= said / 33.0, "{what}: {said} is documented, it is {found}");
}

#[test]
fn an_idle_object_takes_what_is_documented() {
    same("semaphore set of 1", place().sets(2000, 1));
    same("semaphore set of 10", place().sets(2000, 10));
    same("message queue, empty", place().queues(2000));
    let mut p = place();
    let queues: Vec<i32> =
        (1..=320).map(|key| msg::get(&p.r, &mut p.on, &p.c, key, CREATE).unwrap()).collect();
    let send = |p: &mut Place, i: u32| {
        let queue = queues[i as usize % queues.len()];
        msg::send(&p.r, &mut p.on, &p.c, queue, 1, &[0; 64][..], 0, None).unwrap();
    };
    let messages = p.each(320 * 16, send);
    same("message of 64 bytes in a queue", messages);
    // From now on they are busy.
    let busy = p.each(320 * 64, send);
    same("ring of a busy queue, beside its messages", (busy - 256.0) * 64.0);
    same("message of up to 216 bytes in a busy queue", busy - 2048.0 / 64.0);
    let segments = p.each(1000, |p, i| {
        shm::get(&p.r, &mut p.on, &p.c, 1 + i as i32, 4096, CREATE).unwrap();
    });
    same("segment of a page, beside the page", segments - PAGE + p.entry(Kind::Seg));
}

#[test]
fn a_task_takes_what_is_documented() {
    let p = place();
    let stride = |table| p.r.table(table).stride as f64;
    let thread = stride(Table::Lanes) + stride(Table::Owners);
    same("task with one thread", stride(Table::Tasks) + thread);
    same("further thread", thread);
}

#[test]
fn thirty_two_thousand_sets_and_queues_take_what_is_documented() {
    const MIB: f64 = 1024.0 * 1024.0;
    let mut p = place();
    let sets = p.sets(32_000, 1);
    same("32,000 sets of 1, MiB", sets * 32_000.0 / MIB);
    let queues = p.queues(32_000);
    same("32,000 queues, MiB", queues * 32_000.0 / MIB);
}
