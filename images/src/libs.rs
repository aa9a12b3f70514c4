use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::run;
use crate::{Error, Result};

/// The shared libraries, with the program loader, that a program needs.
///
/// It asks `ldd`, which runs the loader on the program: only for programs that
/// one would also run. Empty for a static program or a script.
///
/// # Errors
///
/// [`Error::Malformed`] if a library is not found; [`Error::File`] if the
/// program cannot be read.
pub fn libraries_of(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let head = fs::read(program).map_err(Error::file(program))?;
    if !head.starts_with(b"\x7fELF") {
        return Ok(BTreeSet::new());
    }
    let text = match run(Command::new("ldd").arg(program)) {
        Ok(out) => String::from_utf8_lossy(&out.stdout).into_owned(),
        Err(Error::Failed { output, .. }) if output.contains("not a dynamic executable") => {
            return Ok(BTreeSet::new());
        }
        Err(other) => return Err(other),
    };
    parse(program, &text)
}

/// Reads lines such as `libc.so.6 => /lib/…/libc.so.6 (0x…)` and
/// `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn parse(program: &Path, text: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let place = line.split_once("=>").map_or(line, |(_, right)| right).trim();
        if place.starts_with("not found") {
            let what = format!("needs a library that is not found: {}", line.trim());
            return Err(Error::Malformed { path: program.into(), what });
        }
        let path = place.split_once(" (").map_or(place, |(path, _)| path);
        if path.starts_with('/') {
            found.insert(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_ldd_is_read_and_a_lost_library_is_an_error() {
        let good = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let got = parse(Path::new("p"), good).unwrap();
        let want = ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(got, BTreeSet::from(want));
        assert!(parse(Path::new("p"), "\tliby.so => not found\n").is_err());
        assert!(parse(Path::new("p"), "\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn a_script_needs_no_libraries_and_a_shell_does() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("s");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(libraries_of(&script).unwrap().is_empty());
        let libs = libraries_of(Path::new("/bin/sh")).unwrap();
        assert!(libs.iter().any(|l| l.to_string_lossy().contains("libc.so")));
    }
}
