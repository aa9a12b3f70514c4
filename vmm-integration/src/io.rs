use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use crate::vm::lock;
use crate::{Error, Result};

/// Where the command's three streams come from and go to.
pub struct VmIo {
    /// Standard input; used only if the description asks for it.
    pub stdin: Option<Box<dyn Read + Send>>,
    /// Standard output.
    pub stdout: Box<dyn Write + Send>,
    /// Standard error.
    pub stderr: Box<dyn Write + Send>,
}

/// What a guest's command wrote, growing while it runs.
#[derive(Debug, Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// What has arrived so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.0).clone()
    }

    /// The same, with replacement characters for what is no UTF-8.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.0)).into_owned()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl VmIo {
    /// This process's own streams, unbuffered.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if one is closed.
    pub fn inherit() -> Result<VmIo> {
        let copy = |fd: std::os::fd::BorrowedFd<'_>| -> Result<std::fs::File> {
            fd.try_clone_to_owned().map(Into::into).map_err(Error::system("dup"))
        };
        Ok(VmIo {
            stdin: copy(std::io::stdin().as_fd()).ok().map(|f| Box::new(f) as _),
            stdout: Box::new(copy(std::io::stdout().as_fd())?),
            stderr: Box::new(copy(std::io::stderr().as_fd())?),
        })
    }

    /// Collects output and error in memory.
    #[must_use]
    pub fn capture() -> (VmIo, Captured, Captured) {
        let (out, err) = (Captured::default(), Captured::default());
        let io = VmIo { stdin: None, stdout: Box::new(out.clone()), stderr: Box::new(err.clone()) };
        (io, out, err)
    }
}
