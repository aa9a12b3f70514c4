use std::collections::BTreeSet;
use std::io::{self, Write};

/// Writes the archive format that the kernel unpacks at boot (`newc`, see
/// `Documentation/driver-api/early-userspace/buffer-format.rst`).
///
/// Parent directories are added as needed. Everything belongs to root and has
/// time 0, so that equal contents give equal archives.
///
/// ```
/// let mut cpio = vshmem_images::Cpio::new(Vec::new());
/// cpio.file("etc/motd", 0o644, b"hello")?;
/// let bytes = cpio.finish()?;
/// assert_eq!(&bytes[..6], b"070701");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Cpio<W> {
    out: W,
    at: usize,
    inode: u32,
    made: BTreeSet<String>,
}

const DIR: u32 = 0o040000;
const FILE: u32 = 0o100000;
const LINK: u32 = 0o120000;
const CHAR: u32 = 0o020000;

impl<W: Write> Cpio<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Cpio<W> {
        Cpio { out, at: 0, inode: 0, made: BTreeSet::new() }
    }

    /// Adds a regular file unless the path is there already.
    ///
    /// # Errors
    ///
    /// Those of the writer; `InvalidInput` for contents of 4 GiB and more.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | mode, (0, 0), contents)
    }

    /// Adds a directory unless the path is there already.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn dir(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.entry(path, DIR | mode, (0, 0), &[])
    }

    /// Adds a symbolic link unless the path is there already.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn char_device(&mut self, path: &str, mode: u32, id: (u32, u32)) -> io::Result<()> {
        self.entry(path, CHAR | mode, id, &[])
    }

    /// Ends the archive and returns the writer.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.record("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, id: (u32, u32), data: &[u8]) -> io::Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.made.insert(path.to_string()) {
            return Ok(());
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent, 0o755)?;
        }
        self.inode += 1;
        self.record(path, mode, id, data)
    }

    fn record(&mut self, name: &str, mode: u32, id: (u32, u32), data: &[u8]) -> io::Result<()> {
        let size = u32::try_from(data.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "file of 4 GiB or more"))?;
        let links = if mode & DIR != 0 && mode & FILE != FILE { 2 } else { 1 };
        let name_size = name.len() as u32 + 1;
        // Inode, mode, uid, gid, links, time, size, device (2), id (2), name
        // size, checksum.
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, id.0, id.1, name_size, 0];
        let mut head = String::from("070701");
        for field in fields {
            head.push_str(&format!("{field:08x}"));
        }
        head.push_str(name);
        head.push('\0');
        self.put(head.as_bytes())?;
        self.put(data)
    }

    /// Writes and pads to four bytes.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len();
        let pad = self.at.wrapping_neg() % 4;
        self.out.write_all(&[0; 4][..pad])?;
        self.at += pad;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back: (name, mode, contents).
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let up = |n: usize| n.next_multiple_of(4);
        let mut out = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name_size - 1], 0);
            let data = &bytes[up(110 + name_size)..][..size];
            if name == "TRAILER!!!" {
                assert_eq!(bytes.len(), up(110 + name_size));
                return out;
            }
            out.push((name, mode as u32, data.to_vec()));
            bytes = &bytes[up(110 + name_size) + up(size)..];
        }
    }

    #[test]
    fn an_archive_reads_back_with_parents_first_and_no_duplicates() {
        let mut cpio = Cpio::new(Vec::new());
        cpio.file("/a/b/c", 0o755, b"12345").unwrap();
        cpio.file("a/b/c", 0o644, b"other").unwrap();
        cpio.symlink("a/l", "b/c").unwrap();
        cpio.char_device("dev/console", 0o600, (5, 1)).unwrap();
        let got = read(&cpio.finish().unwrap());
        let names: Vec<_> = got.iter().map(|(n, m, _)| (n.as_str(), *m)).collect();
        assert_eq!(
            names,
            [
                ("a", 0o040755),
                ("a/b", 0o040755),
                ("a/b/c", 0o100755),
                ("a/l", 0o120777),
                ("dev", 0o040755),
                ("dev/console", 0o020600)
            ]
        );
        assert_eq!(got[2].2, b"12345");
        assert_eq!(got[3].2, b"b/c");
    }
}
