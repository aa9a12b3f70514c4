//! Whether a path leads to a file of ours.
//!
//! By its text, with `.`, `..`, doubled slashes and the directory it is relative to put right. What
//! leads there by a symbolic link or another mount of procfs is the kernel's.

use crate::memory;
use libc::{c_char, c_int};
use vshmem::sysv::proc::File;

/// Room for the longest of our paths, with detours.
const ROOM: usize = 256;

/// The file of ours that `path` below `dir` names.
///
/// # Safety
/// `path` is null, near it, or a string.
#[inline]
pub unsafe fn file(dir: c_int, path: *const c_char) -> Option<File> {
    if memory::bad(path) {
        return None;
    }
    // SAFETY: at least the end is there.
    let first = unsafe { *path } as u8;
    if first == b'/' {
        // SAFETY: the byte after one that is not the end.
        let second = unsafe { *path.add(1) } as u8;
        // `/proc`, `//proc`, `/./proc`.
        if !matches!(second, b'p' | b'/' | b'.') {
            return None;
        }
    }
    // SAFETY: the caller's string.
    let path = unsafe { std::ffi::CStr::from_ptr(path) }.to_bytes();
    if first == b'/' { absolute(path) } else { relative(dir, path) }
}

#[inline]
fn absolute(path: &[u8]) -> Option<File> {
    let plain = path[1] == b'p';
    if plain && !path.starts_with(b"/proc/") {
        return None;
    }
    resolve(&[path])
}

fn relative(dir: c_int, path: &[u8]) -> Option<File> {
    // What our names end in; most others' do not.
    if !matches!(path.last()?, b'b' | b'd' | b'g' | b'i' | b'l' | b'm' | b'x') {
        return None;
    }
    let name = path.rsplit(|b| *b == b'/').next()?;
    if !File::is_name(name) || path.len() > ROOM {
        return None;
    }
    let mut room = [0; ROOM];
    let base = directory(dir, &mut room)?;
    resolve(&[base, b"/", path])
}

/// The path of a directory.
fn directory(dir: c_int, room: &mut [u8; ROOM]) -> Option<&[u8]> {
    let link = if dir == libc::AT_FDCWD {
        "/proc/self/cwd\0".to_owned()
    } else {
        format!("/proc/self/fd/{dir}\0")
    };
    read_link(&link, room)
}

/// What a link of procfs leads to; `None` also for what does not fit.
pub fn read_link<'a>(link: &str, room: &'a mut [u8; ROOM]) -> Option<&'a [u8]> {
    debug_assert!(link.ends_with('\0'), "a C string");
    let before = crate::global::errno();
    // SAFETY: a string with its end, and room for the result.
    let n = unsafe {
        libc::syscall(
            libc::SYS_readlinkat,
            libc::AT_FDCWD,
            link.as_ptr(),
            room.as_mut_ptr(),
            room.len(),
        )
    };
    crate::global::set_errno(before);
    let n = usize::try_from(n).ok().filter(|n| *n < ROOM)?;
    Some(&room[..n])
}

/// Follows the components of `parts`, one text, from the root.
fn resolve(parts: &[&[u8]]) -> Option<File> {
    let mut room = [0u8; ROOM];
    let mut end = 0;
    for part in parts.iter().flat_map(|p| p.split(|b| *b == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => end = room[..end].iter().rposition(|b| *b == b'/').unwrap_or(0),
            name => {
                let next = end + 1 + name.len();
                *room.get_mut(end)? = b'/';
                room.get_mut(end + 1..next)?.copy_from_slice(name);
                end = next;
            }
        }
    }
    File::at(room[..end].strip_prefix(b"/proc/")?)
}
