//! Which modules a kernel's module needs.
//!
//! `modules.dep` does not exist in a package: `depmod` makes it at installation.
//! Each module names its direct needs itself, in its `.modinfo` section.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::tools::decompress;
use crate::{Error, Result};

/// The modules of one kernel, by name.
pub(crate) struct Modules {
    paths: BTreeMap<String, PathBuf>,
    builtin: String,
}

impl Modules {
    pub(crate) fn of(dir: &Path) -> Result<Modules> {
        let mut paths = BTreeMap::new();
        let mut todo = vec![dir.join("kernel")];
        while let Some(at) = todo.pop() {
            for entry in fs::read_dir(&at).map_err(Error::file(&at))? {
                let path = entry.map_err(Error::file(&at))?.path();
                if path.is_dir() {
                    todo.push(path);
                } else if let Some(name) = module_name(&path) {
                    paths.insert(name, path);
                }
            }
        }
        let list = dir.join("modules.builtin");
        let builtin = fs::read_to_string(&list).map_err(Error::file(list))?;
        Ok(Modules { paths, builtin })
    }

    /// Appends `name` after everything that it needs; what is in the list
    /// already, or built in, is left out.
    pub(crate) fn add(&self, name: &str, list: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        if list.iter().any(|(n, _)| n == name) {
            return Ok(());
        }
        let Some(path) = self.paths.get(name) else {
            let is_builtin =
                self.builtin.lines().filter_map(|l| module_name(Path::new(l))).any(|b| b == name);
            return if is_builtin {
                Ok(())
            } else {
                Err(Error::Malformed {
                    path: PathBuf::from(name),
                    what: "this kernel has no such module; choose another kernel (Debian's \
                           cloud kernels, for one, have no 9p)"
                        .to_string(),
                })
            };
        };
        let code = decompress(path, fs::read(path).map_err(Error::file(path))?)?;
        for needed in depends(&code) {
            self.add(&needed, list)?;
        }
        list.push((name.to_string(), code));
        Ok(())
    }

    /// Appends the needs of a module that is not one of the kernel's own.
    pub(crate) fn add_foreign(&self, path: &Path, list: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        let code = fs::read(path).map_err(Error::file(path))?;
        for needed in depends(&code) {
            self.add(&needed, list)?;
        }
        let name = module_name(path).unwrap_or_else(|| "module".to_string());
        list.push((name, code));
        Ok(())
    }
}

/// `drivers/uio/uio.ko.xz` → `uio`; the kernel reads `-` and `_` as one.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (stem, _) = file.split_once(".ko")?;
    Some(stem.replace('-', "_"))
}

/// The names after `depends=` in a module. The section is a list of
/// NUL-terminated strings, and the word occurs nowhere else after a NUL.
fn depends(code: &[u8]) -> Vec<String> {
    const WORD: &[u8] = b"\0depends=";
    let Some(at) = code.windows(WORD.len()).position(|w| w == WORD) else { return Vec::new() };
    let value = &code[at + WORD.len()..];
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end])
        .split(',')
        .filter(|n| !n.is_empty())
        .map(|n| n.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_come_before_the_module_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel");
        fs::create_dir(&kernel).unwrap();
        fs::write(dir.path().join("modules.builtin"), "kernel/lib/zlib-x.ko\n").unwrap();
        for (name, text) in [
            ("a.ko", "x\0depends=b-one,zlib_x\0"),
            ("b_one.ko", "x\0depends=c\0"),
            ("c.ko", "x\0depends=\0"),
            ("d.ko", "no section"),
        ] {
            fs::write(kernel.join(name), text).unwrap();
        }
        let modules = Modules::of(dir.path()).unwrap();
        let mut list = Vec::new();
        for name in ["c", "a", "d"] {
            modules.add(name, &mut list).unwrap();
        }
        let names: Vec<_> = list.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["c", "b_one", "a", "d"]);
        assert!(modules.add("absent", &mut list).is_err());
    }
}
