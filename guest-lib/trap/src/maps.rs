//! What of the region a process maps, by `/proc/PID/maps`.
//!
//! The kernel counts mappings as attachments, and a program may unmap or protect a piece, execute
//! another program, or fork, without a call that is trapped. So what counts is read off the truth.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use vshmem::sysv::shm::Extent;
use vshmem_core::layout::{PAGE, REGION_BASE};

/// A segment: its index, and which of its successive owners.
pub type Key = (u32, u32);

/// A segment that somebody here has attached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    pub id: i32,
    pub extents: Vec<Extent>,
}

/// A file as `/proc/PID/maps` names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId {
    device: (u32, u32),
    inode: u64,
}

impl FileId {
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: numbers only.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: room for the answer.
        if unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let device = (libc::major(stat.st_dev), libc::minor(stat.st_dev));
        Ok(Self { device, inode: stat.st_ino })
    }
}

/// A mapping of pages of the region.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Vma {
    from: u64,
    to: u64,
    protection: [u8; 3],
    /// The first page, counted from the region's base.
    page: u64,
}

/// What of one attachment is mapped in a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    pub key: Key,
    /// Where its segment begins, or would.
    pub base: u64,
    pub from: u64,
    pub to: u64,
    protection: [u8; 3],
}

/// The region's mappings of process `pid`; `None` if it has the whole region, as a program with the
/// library has, which keeps its own count.
pub fn parts(pid: u32, file: FileId, known: &HashMap<Key, Shape>) -> io::Result<Option<Vec<Part>>> {
    let mut vmas = Vec::new();
    for line in maps(pid)?.split(b'\n') {
        match vma(&String::from_utf8_lossy(&line?), file) {
            Some(vma) if vma.page == 0 => return Ok(None),
            Some(vma) => vmas.push(vma),
            None => {}
        }
    }
    Ok(Some(split(&vmas, known)))
}

/// The maps of a process: its first thread's, or if that has ended, and shows nothing any more,
/// those of another one that goes on.
fn maps(pid: u32) -> io::Result<BufReader<File>> {
    let open = |path: &Path| Ok::<_, io::Error>(BufReader::new(File::open(path)?));
    let mut first = open(format!("/proc/{pid}/maps").as_ref())?;
    if first.fill_buf()?.is_empty() {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten()
        {
            if let Ok(mut maps) = open(&thread.path().join("maps"))
                && maps.fill_buf().is_ok_and(|lines| !lines.is_empty())
            {
                return Ok(maps);
            }
        }
    }
    Ok(first)
}

/// One line `from-to perms offset major:minor inode path`, if it is of `file`.
fn vma(line: &str, file: FileId) -> Option<Vma> {
    let mut fields = line.split_ascii_whitespace();
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (from, to) = fields.next()?.split_once('-')?;
    let perms = fields.next()?.as_bytes();
    let offset = hex(fields.next()?)?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let device = (hex(major)? as u32, hex(minor)? as u32);
    let inode = fields.next()?.parse().ok()?;
    if (FileId { device, inode }) != file {
        return None;
    }
    let page = offset.checked_sub(REGION_BASE)? / PAGE;
    Some(Vma { from: hex(from)?, to: hex(to)?, protection: perms.get(..3)?.try_into().ok()?, page })
}

/// Takes mappings apart by segment, and puts together what is one piece of one attachment.
fn split(vmas: &[Vma], known: &HashMap<Key, Shape>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for vma in vmas {
        let (mut at, mut page) = (vma.from, vma.page);
        while at < vma.to {
            let left = (vma.to - at) / PAGE;
            let Some((key, before, run)) = find(page, known) else {
                // Of a segment that is gone, or that nobody here knows.
                at += PAGE;
                page += 1;
                continue;
            };
            let run = run.min(left).max(1);
            let next = at + run * PAGE;
            let base = at.wrapping_sub(before * PAGE);
            let part = Part { key, base, from: at, to: next, protection: vma.protection };
            match parts.last_mut() {
                Some(last)
                    if last.to == at
                        && (last.key, last.base, last.protection)
                            == (key, base, vma.protection) =>
                {
                    last.to = next;
                }
                _ => parts.push(part),
            }
            (at, page) = (next, page + run);
        }
    }
    parts
}

/// The segment of a page, how many of its pages come before it, and how many follow in a row.
fn find(page: u64, known: &HashMap<Key, Shape>) -> Option<(Key, u64, u64)> {
    for (key, shape) in known {
        let mut before = 0;
        for e in &shape.extents {
            let (first, n) = (u64::from(e.first_page), u64::from(e.pages));
            if (first..first + n).contains(&page) {
                return Some((*key, before + page - first, first + n - page));
            }
            before += n;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId { device: (0, 1), inode: 4100 };

    fn line(from: u64, to: u64, perms: &str, page: u64) -> String {
        let offset = REGION_BASE + page * PAGE;
        format!("{from:x}-{to:x} {perms} {offset:08x} 00:01 4100  /memfd:vshmem:x (deleted)")
    }

    fn known(extents: &[(u32, u32)]) -> HashMap<Key, Shape> {
        let extents = extents
            .iter()
            .map(|(first_page, pages)| Extent { first_page: *first_page, pages: *pages });
        HashMap::from([((3, 9), Shape { id: 1, extents: extents.collect() })])
    }

    fn of(lines: &[String], known: &HashMap<Key, Shape>) -> Vec<(u64, u64, u64)> {
        let vmas: Vec<_> = lines.iter().filter_map(|l| vma(l, FILE)).collect();
        split(&vmas, known).iter().map(|p| (p.base, p.from, p.to)).collect()
    }

    #[test]
    fn a_segment_of_several_extents_is_one_part_and_a_hole_makes_two() {
        let shape = known(&[(100, 2), (50, 1)]);
        let whole = [line(0x10000, 0x12000, "rw-s", 100), line(0x12000, 0x13000, "rw-s", 50)];
        assert_eq!(of(&whole, &shape), [(0x10000, 0x10000, 0x13000)]);
        let hole = [line(0x10000, 0x11000, "rw-s", 100), line(0x12000, 0x13000, "rw-s", 50)];
        let parts = [(0x10000, 0x10000, 0x11000), (0x10000, 0x12000, 0x13000)];
        assert_eq!(of(&hole, &shape), parts);
        let protected = [line(0x10000, 0x12000, "rw-s", 100), line(0x12000, 0x13000, "r--s", 50)];
        assert_eq!(of(&protected, &shape).len(), 2);
    }

    #[test]
    fn two_attachments_side_by_side_stay_two_and_strangers_are_left_out() {
        let shape = known(&[(100, 1)]);
        let twice = [line(0x10000, 0x11000, "rw-s", 100), line(0x11000, 0x12000, "rw-s", 100)];
        assert_eq!(of(&twice, &shape), [(0x10000, 0x10000, 0x11000), (0x11000, 0x11000, 0x12000)]);
        assert_eq!(of(&[line(0x10000, 0x11000, "rw-s", 7)], &shape), []);
        assert_eq!(of(&["10000-11000 rw-s 0 00:02 4100 /x".to_owned()], &shape), []);
        assert_eq!(of(&["garbage".to_owned()], &shape), []);
    }
}
