//! Whether a preload reaches a program.

use anyhow::{Context, bail};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What the dynamic loader will make of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Image {
    /// Loaded by this interpreter.
    Dynamic { loader: String, bits: u8 },
    /// No interpreter: no preload.
    Static,
    /// Run by another program.
    Script { interpreter: PathBuf },
    /// Nothing known: the kernel will say.
    Other,
}

/// Scripts may be run by scripts; the kernel stops here too.
const DEPTH: u32 = 5;

/// How a program's calls can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// By the library; its calls may be trapped as well.
    Preload,
    /// By trapping its calls; the library does no harm, and reaches what the program starts.
    Trap,
    /// By trapping its calls; its loader stumbles over the library.
    TrapAlone,
}

/// Finds out how a program can be reached, and refuses one that would run on unreached. `may_trap`:
/// trapping is not forbidden.
pub fn check(program: &Path, may_trap: bool) -> anyhow::Result<Reach> {
    check_at(program, may_trap, DEPTH)
}

fn check_at(program: &Path, may_trap: bool, depth: u32) -> anyhow::Result<Reach> {
    let name = program.display();
    let file = match File::open(program) {
        Ok(file) => file,
        // It can be executed and not read: nothing can be said about it.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => return Ok(Reach::Preload),
        Err(e) => return Err(e).with_context(|| format!("cannot run {name}")),
    };
    let meta = file.metadata().with_context(|| format!("cannot run {name}"))?;
    if meta.is_dir() {
        bail!("cannot run {name}: it is a directory");
    }
    match image(&file).with_context(|| format!("cannot read {name}"))? {
        Image::Script { interpreter } if depth > 0 => {
            return check_at(&interpreter, may_trap, depth - 1);
        }
        Image::Script { .. } | Image::Other => return Ok(Reach::Preload),
        Image::Static if may_trap => return Ok(Reach::Trap),
        Image::Static => bail!(
            "{name} is linked statically: a preload cannot reach it, and its System V IPC would go \
             to this kernel alone. Leave --no-trap out, link it dynamically, or with libvshmem"
        ),
        Image::Dynamic { bits, .. } if u32::from(bits) != usize::BITS => bail!(
            "{name} is a {bits}-bit program, and libvshmem.so is not: use a {}-bit build of it",
            usize::BITS
        ),
        Image::Dynamic { loader, .. } if loader.contains("ld-musl") && may_trap => {
            return Ok(Reach::TrapAlone);
        }
        Image::Dynamic { loader, .. } if loader.contains("ld-musl") => bail!(
            "{name} uses musl, and libvshmem.so is built for the GNU C library: use a build of it \
             for that, or leave --no-trap out"
        ),
        Image::Dynamic { .. } => {}
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let other_user = meta.mode() & 0o4000 != 0 && meta.uid() != uid;
    let other_group = meta.mode() & 0o2010 == 0o2010 && meta.gid() != gid;
    let mut value = [0; 64];
    let capable = uid != 0
        && rustix::fs::getxattr(program, "security.capability", value.as_mut_slice()).is_ok();
    if other_user || other_group || capable {
        bail!(
            "{name} gets other privileges than yours when it runs (setuid, setgid or file \
             capabilities): the loader then ignores preloads. Run it as that user, or run a copy \
             without those bits"
        );
    }
    Ok(Reach::Preload)
}

fn image(file: &File) -> std::io::Result<Image> {
    let mut head = Vec::new();
    file.take(4096).read_to_end(&mut head)?;
    if let Some(rest) = head.strip_prefix(b"#!") {
        let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
        let mut words = line.split(|b| matches!(b, b' ' | b'\t')).filter(|w| !w.is_empty());
        let interpreter = words.next().unwrap_or_default();
        return Ok(Image::Script { interpreter: std::ffi::OsStr::from_bytes(interpreter).into() });
    }
    if !head.starts_with(b"\x7fELF") {
        return Ok(Image::Other);
    }
    Ok(elf(file, &head).unwrap_or(Image::Other))
}

/// Looks for the loader among the program headers; `None` for an ELF file that makes no sense.
fn elf(file: &File, head: &[u8]) -> Option<Image> {
    const PT_INTERP: u64 = 3;
    let wide = match head.get(4)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    // Only programs of this machine's byte order can run on it.
    if (*head.get(5)? == 1) != cfg!(target_endian = "little") {
        return None;
    }
    let number = |bytes: &[u8], at: usize, len: usize| -> Option<u64> {
        let mut word = [0; 8];
        let from = bytes.get(at..at.checked_add(len)?)?;
        if cfg!(target_endian = "little") {
            word[..len].copy_from_slice(from);
        } else {
            word[8 - len..].copy_from_slice(from);
        }
        Some(u64::from_ne_bytes(word))
    };
    let (table, size, count) = if wide {
        (number(head, 0x20, 8)?, number(head, 0x36, 2)?, number(head, 0x38, 2)?)
    } else {
        (number(head, 0x1c, 4)?, number(head, 0x2a, 2)?, number(head, 0x2c, 2)?)
    };
    let bits = if wide { 64 } else { 32 };
    for i in 0..count {
        let mut entry = [0; 56];
        let room = if wide { 56 } else { 32 };
        let entry = entry.get_mut(..room)?;
        file.read_exact_at(entry, table.checked_add(i.checked_mul(size)?)?).ok()?;
        if number(entry, 0, 4)? != PT_INTERP {
            continue;
        }
        let (at, len) = if wide {
            (number(entry, 0x08, 8)?, number(entry, 0x20, 8)?)
        } else {
            (number(entry, 0x04, 4)?, number(entry, 0x10, 4)?)
        };
        let mut loader = vec![0; usize::try_from(len.min(4096)).ok()?];
        file.read_exact_at(&mut loader, at).ok()?;
        loader.retain(|b| *b != 0);
        let loader = String::from_utf8_lossy(&loader).into_owned();
        return Some(Image::Dynamic { loader, bits });
    }
    Some(Image::Static)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    fn with_file(bytes: &[u8], test: impl FnOnce(&Path)) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        test(file.path());
    }

    /// This test program's bytes, with the type of every program header passed through `change`.
    fn self_with(change: impl Fn(u32) -> u32) -> Vec<u8> {
        let mut bytes = std::fs::read("/proc/self/exe").unwrap();
        let at = u64::from_le_bytes(bytes[0x20..0x28].try_into().unwrap()) as usize;
        let size = u16::from_le_bytes(bytes[0x36..0x38].try_into().unwrap()) as usize;
        let count = u16::from_le_bytes(bytes[0x38..0x3a].try_into().unwrap()) as usize;
        for i in 0..count {
            let entry = at + i * size..at + i * size + 4;
            let kind = u32::from_le_bytes(bytes[entry.clone()].try_into().unwrap());
            bytes[entry].copy_from_slice(&change(kind).to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_dynamic_program_is_accepted() {
        assert_eq!(check(Path::new("/proc/self/exe"), true).unwrap(), Reach::Preload);
    }

    #[test]
    fn a_static_program_is_trapped_or_refused_also_behind_a_script() {
        with_file(&self_with(|kind| if kind == 3 { 0 } else { kind }), |program| {
            assert_eq!(check(program, true).unwrap(), Reach::Trap);
            let text = check(program, false).unwrap_err().to_string();
            assert!(text.contains("linked statically"), "{text}");
            with_file(format!("#! {} -x\nbody\n", program.display()).as_bytes(), |script| {
                assert_eq!(check(script, true).unwrap(), Reach::Trap);
                let text = check(script, false).unwrap_err().to_string();
                assert!(text.contains("linked statically"), "{text}");
            });
        });
    }

    #[test]
    fn another_users_setuid_program_is_refused() {
        with_file(&self_with(|kind| kind), |program| {
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::chown(program, Some(12345), None).unwrap();
                std::fs::set_permissions(program, PermissionsExt::from_mode(0o4755)).unwrap();
                assert!(check(program, true).unwrap_err().to_string().contains("other privileges"));
            }
        });
    }

    #[test]
    fn what_is_damaged_is_left_to_the_kernel() {
        for bytes in [b"\x7fELF".to_vec(), self_with(|k| k)[..100].to_vec(), Vec::new()] {
            with_file(&bytes, |p| assert_eq!(check(p, true).unwrap(), Reach::Preload));
        }
        assert!(check(Path::new("/nonexistent"), true).is_err());
    }
}
