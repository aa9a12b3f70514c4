use std::io;
use std::path::PathBuf;

/// What can go wrong while an image is made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A program that this needs is not installed.
    #[error("{program} is not installed; run: {remedy}")]
    Missing {
        /// What is missing.
        program: String,
        /// The one command that installs it.
        remedy: String,
    },
    /// A program failed.
    #[error("{program} failed ({status}): {output}")]
    Failed {
        /// The command line.
        program: String,
        /// Its exit status.
        status: String,
        /// The end of what it wrote.
        output: String,
    },
    /// A package is in none of the configured sources.
    #[error(
        "package {package} is in none of the configured package sources; \
         run `apt-get update`, or add a source that has it"
    )]
    NoPackage {
        /// The package.
        package: String,
    },
    /// A file is not what it should be.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what helps.
        what: String,
    },
    /// The kernel module's sources are nowhere to be found.
    #[error(
        "the sources of uio_vshmem are not in {}; set VSHMEM_MODULE_SRC to their directory",
        tried.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoModuleSource {
        /// Where they were looked for.
        tried: Vec<PathBuf>,
    },
}

/// The result of making an image.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Names the file in an I/O error.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}
