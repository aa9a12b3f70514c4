//! Reports as files.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

use super::Report;

/// The version of the structure; other versions are refused.
pub const FORMAT: u32 = 1;

/// A file that will have the report. It is opened before anything is measured,
/// so that nobody measures for minutes and cannot keep the result; what it was
/// before stays until then.
pub struct Target {
    path: PathBuf,
    file: NamedTempFile,
}

impl Target {
    /// Makes the folder, too.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn new(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot write {}", path.display());
        if path.is_dir() {
            return Err(anyhow::anyhow!("it is a folder").context(cannot()));
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(folder).with_context(cannot)?;
        let file = NamedTempFile::new_in(folder).with_context(cannot)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Where it will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it whole.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn write(mut self, report: &Report) -> Result<()> {
        let cannot = || format!("cannot write {}", self.path.display());
        let text = serde_json::to_string_pretty(report)?;
        self.file.write_all(text.as_bytes()).with_context(cannot)?;
        self.file.write_all(b"\n").with_context(cannot)?;
        self.file.persist(&self.path).with_context(cannot)?;
        Ok(())
    }
}

/// Reads a former report.
///
/// # Errors
///
/// It cannot be read, or is none.
pub fn read(path: &Path) -> Result<Report> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    parse(&text).with_context(|| format!("{name} is no report of `cargo xtask bench`"))
}

fn parse(text: &str) -> Result<Report> {
    let value: serde_json::Value = serde_json::from_str(text)?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        None => bail!("it has no number \"format\""),
        Some(format) if format != u64::from(FORMAT) => {
            bail!("its format is {format}, this is a program for {FORMAT}")
        }
        Some(_) => Ok(serde_json::from_value(value)?),
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;
    use crate::row::Goal;

    fn report() -> Report {
        Report {
            format: FORMAT,
            machine: vec![("kernel".into(), "6".into())],
            load: (Some(0.5), None),
            quick: false,
            results: vec![
                example("a", vec![(500.0, 50.0); 9], Some(Goal::Most(60.0))),
                example("b", vec![(0.0, 0.0); 9], None),
            ],
            failed: vec!["c".into()],
        }
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.json");
        Target::new(&path).unwrap().write(&report()).unwrap();
        let read = read(&path).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", report()));
        // Nothing else is left there.
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_report_is_refused_with_its_name_and_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let said = |text: &str| {
            std::fs::write(&path, text).unwrap();
            format!("{:#}", read(&path).expect_err("it is read"))
        };
        for (text, reason) in [
            ("", "EOF"),
            ("[1, 2]", "no number \"format\""),
            ("{\"format\": \"1\"}", "no number \"format\""),
            ("{\"format\": 99}", "its format is 99"),
            ("{\"format\": 1}", "missing field `machine`"),
            ("{\"format\": 1, \"machine\": [", "EOF"),
        ] {
            let said = said(text);
            assert!(said.contains("a.json is no report") && said.contains(reason), "{said}");
        }
        let none = read(&folder.path().join("none")).expect_err("it is read");
        assert!(format!("{none:#}").contains("none"));
    }

    #[test]
    fn what_cannot_be_written_is_said_before_anything_is_measured() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [folder.path().to_owned(), file.join("below")] {
            let said = format!("{:#}", Target::new(&path).err().expect("it can be written"));
            assert!(said.contains(&format!("cannot write {}", path.display())), "{said}");
        }
    }
}
