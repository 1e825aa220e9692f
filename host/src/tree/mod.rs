//! Kernel files: configfs, sysfs, procfs, and the few regular files beside them.
//!
//! Every file operation of the family goes through a [`Tree`], so each error has operation, path and value, each write is logged once,
//! and each crate can be run on a captured tree, on a fake, recorded, or made to fail at its n-th operation.

mod fault;
mod live;
mod record;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Operation;
use crate::{Secret, TreeError};

pub use fault::Fault;
pub use record::{Change, Record};

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A device node, socket or pipe.
    Other,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Entry {
    /// The name, without the directory.
    pub name: String,
    /// What it is; a symbolic link is not followed.
    pub kind: Kind,
}

impl Entry {
    pub(crate) fn new(name: String, kind: Kind) -> Self {
        Self { name, kind }
    }
}

impl PartialOrd for Kind {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kind {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (*self as u8).cmp(&(*other as u8))
    }
}

/// What carries out file operations: the kernel, or something that stands for it. Paths are absolute.
///
/// Implement it to put another layer under a [`Tree`]; the crates themselves only ever see `Tree`.
pub trait Files: fmt::Debug + Send + Sync {
    /// Reads a whole file.
    ///
    /// # Errors
    /// As `read(2)`.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Writes an existing file with exactly one `write(2)`: an attribute's store is one call of the kernel's.
    ///
    /// # Errors
    /// As `write(2)`.
    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()>;
    /// Makes a directory.
    ///
    /// # Errors
    /// As `mkdir(2)`.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory.
    ///
    /// # Errors
    /// As `rmdir(2)`.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes `path` a symbolic link to `target`.
    ///
    /// # Errors
    /// As `symlink(2)`.
    fn link(&self, target: &Path, path: &Path) -> io::Result<()>;
    /// Removes a link or regular file.
    ///
    /// # Errors
    /// As `unlink(2)`.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Lists a directory.
    ///
    /// # Errors
    /// As `readdir(3)`; a single bad entry fails the whole list.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Where a symbolic link leads, as an absolute path without `..`.
    ///
    /// # Errors
    /// As `readlink(2)`.
    fn read_link(&self, path: &Path) -> io::Result<PathBuf>;
    /// What stands at a path, without following a link; `None` if nothing does.
    ///
    /// # Errors
    /// As `lstat(2)`, but for ENOENT.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>>;
    /// Replaces a regular file as a whole: temporary file of that mode, fsync, rename, fsync of the directory.
    ///
    /// # Errors
    /// As the calls it makes.
    fn replace(&self, path: &Path, data: &[u8], mode: u32) -> io::Result<()>;
}

/// The files of a machine. Cheap to clone.
///
/// ```
/// let tree = host::Tree::live();
/// assert!(tree.exists("/proc/self")?);
/// assert_eq!(tree.read_opt("/proc/no-such-file")?, None);
/// let error = tree.read("/proc/no-such-file").unwrap_err();
/// assert_eq!(error.to_string(), "cannot read /proc/no-such-file");
/// # Ok::<(), host::TreeError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tree(Arc<dyn Files>);

impl Tree {
    /// The files of this machine.
    #[must_use]
    pub fn live() -> Self {
        Self::of(live::Live::new(PathBuf::new()))
    }

    /// The files under a directory, which stands for `/`.
    #[must_use]
    pub fn rooted(dir: impl Into<PathBuf>) -> Self {
        Self::of(live::Live::new(dir.into()))
    }

    /// A tree of any implementation.
    #[must_use]
    pub fn of(files: impl Files + 'static) -> Self {
        Self(Arc::new(files))
    }

    /// The same tree, with every change recorded (and carried out).
    #[must_use]
    pub fn recording(&self) -> (Self, Record) {
        record::Recording::over(Arc::clone(&self.0), record::Mode::Pass)
    }

    /// The same tree for reading; changes are recorded and **not** carried out. Each change succeeds, so a later read does not see it.
    #[must_use]
    pub fn dry_run(&self) -> (Self, Record) {
        record::Recording::over(Arc::clone(&self.0), record::Mode::Dry)
    }

    /// The same tree, failing on purpose at its n-th change.
    #[must_use]
    pub fn with_fault(&self, fault: Fault) -> Self {
        Self::of(fault::Faulty::over(Arc::clone(&self.0), fault))
    }

    /// Reads a file as text. Bytes that are no UTF-8 are replaced, NUL bytes kept.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<String, TreeError> {
        let text = |bytes| {
            String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
        };
        self.read_bytes(path).map(text)
    }

    /// Reads a file as bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read_bytes(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, TreeError> {
        let path = path.as_ref();
        self.0.read(path).map_err(fail(Operation::Read, path, None))
    }

    /// Reads a file as text; `None` if there is none.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read_opt(&self, path: impl AsRef<Path>) -> Result<Option<String>, TreeError> {
        optional(self.read(path))
    }

    /// Writes `value` to an existing file with one `write(2)`, exactly these bytes.
    ///
    /// # Errors
    /// The file is not there or the kernel refuses the value; the error shows it.
    pub fn write(&self, path: impl AsRef<Path>, value: impl AsRef<[u8]>) -> Result<(), TreeError> {
        let (path, value) = (path.as_ref(), value.as_ref());
        let shown = || String::from_utf8_lossy(value).into_owned();
        log::debug!("write {} = {:?}", path.display(), shown());
        self.0.write(path, value).map_err(|e| fail(Operation::Write, path, Some(shown()))(e))
    }

    /// Writes a secret to an existing file; `***` in logs, records and errors.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_secret(&self, path: impl AsRef<Path>, secret: &Secret) -> Result<(), TreeError> {
        let path = path.as_ref();
        log::debug!("write {} = ***", path.display());
        record::hidden(|| self.0.write(path, secret.expose())).map_err(fail(
            Operation::Write,
            path,
            Some("***".to_owned()),
        ))
    }

    /// Makes a directory. `mkdir` in configfs creates a kernel object.
    ///
    /// # Errors
    /// As `mkdir(2)`: EEXIST if it is there.
    pub fn make_dir(&self, path: impl AsRef<Path>) -> Result<(), TreeError> {
        let path = path.as_ref();
        log::debug!("mkdir {}", path.display());
        self.0.make_dir(path).map_err(fail(Operation::MakeDir, path, None))
    }

    /// Makes a directory if it is not there; says whether it made it.
    ///
    /// # Errors
    /// As `mkdir(2)`, but for EEXIST.
    pub fn ensure_dir(&self, path: impl AsRef<Path>) -> Result<bool, TreeError> {
        match self.make_dir(path) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes an empty directory; says whether it was there.
    ///
    /// # Errors
    /// As `rmdir(2)`, but for ENOENT.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<bool, TreeError> {
        let path = path.as_ref();
        log::debug!("rmdir {}", path.display());
        existed(self.0.remove_dir(path).map_err(fail(Operation::RemoveDir, path, None)))
    }

    /// Makes `path` a symbolic link to `target`. Both are absolute: configfs resolves the target from the caller's directory.
    ///
    /// # Errors
    /// As `symlink(2)`.
    pub fn link(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<(), TreeError> {
        let (target, path) = (target.as_ref(), path.as_ref());
        log::debug!("ln -s {} {}", target.display(), path.display());
        self.0
            .link(target, path)
            .map_err(|e| fail(Operation::Link, path, Some(target.display().to_string()))(e))
    }

    /// Removes a link or regular file; says whether it was there.
    ///
    /// # Errors
    /// As `unlink(2)`, but for ENOENT.
    pub fn unlink(&self, path: impl AsRef<Path>) -> Result<bool, TreeError> {
        let path = path.as_ref();
        log::debug!("unlink {}", path.display());
        existed(self.0.unlink(path).map_err(fail(Operation::Unlink, path, None)))
    }

    /// Lists a directory, sorted by name.
    ///
    /// # Errors
    /// The directory or one of its entries cannot be read.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<Entry>, TreeError> {
        let path = path.as_ref();
        let mut entries = self.0.list(path).map_err(fail(Operation::List, path, None))?;
        entries.sort();
        Ok(entries)
    }

    /// Lists a directory; nothing if there is none.
    ///
    /// # Errors
    /// The directory is there and cannot be read.
    pub fn list_opt(&self, path: impl AsRef<Path>) -> Result<Vec<Entry>, TreeError> {
        optional(self.list(path)).map(Option::unwrap_or_default)
    }

    /// The names of the directories in a directory (links not followed), sorted; nothing if there is none.
    ///
    /// # Errors
    /// The directory is there and cannot be read.
    pub fn dirs(&self, path: impl AsRef<Path>) -> Result<Vec<String>, TreeError> {
        self.named(path, Kind::Dir)
    }

    /// The names of the symbolic links in a directory, sorted; nothing if there is none.
    ///
    /// # Errors
    /// The directory is there and cannot be read.
    pub fn links(&self, path: impl AsRef<Path>) -> Result<Vec<String>, TreeError> {
        self.named(path, Kind::Link)
    }

    fn named(&self, path: impl AsRef<Path>, kind: Kind) -> Result<Vec<String>, TreeError> {
        let entries = self.list_opt(path)?;
        Ok(entries.into_iter().filter(|e| e.kind == kind).map(|e| e.name).collect())
    }

    /// Where a symbolic link leads: absolute, without `..`.
    ///
    /// # Errors
    /// It is not there or no link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf, TreeError> {
        let path = path.as_ref();
        self.0.read_link(path).map_err(fail(Operation::ReadLink, path, None))
    }

    /// What stands at a path, without following a link.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn kind(&self, path: impl AsRef<Path>) -> Result<Option<Kind>, TreeError> {
        let path = path.as_ref();
        self.0.kind(path).map_err(fail(Operation::Stat, path, None))
    }

    /// Whether something stands at a path; a link that leads nowhere does.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn exists(&self, path: impl AsRef<Path>) -> Result<bool, TreeError> {
        self.kind(path).map(|kind| kind.is_some())
    }

    /// Replaces a regular file as a whole, durably: temporary file beside it with `mode`, fsync, rename, fsync of the directory.
    ///
    /// # Errors
    /// As the calls it makes; the old file is untouched then.
    pub fn replace(
        &self,
        path: impl AsRef<Path>,
        data: impl AsRef<[u8]>,
        mode: u32,
    ) -> Result<(), TreeError> {
        let path = path.as_ref();
        log::debug!("replace {} ({} bytes, mode {mode:o})", path.display(), data.as_ref().len());
        self.0.replace(path, data.as_ref(), mode).map_err(fail(Operation::Replace, path, None))
    }
}

fn fail(operation: Operation, path: &Path, value: Option<String>) -> impl FnOnce(io::Error) -> TreeError {
    let path = path.to_path_buf();
    move |source| TreeError { operation, path, value, source }
}

fn optional<T>(result: Result<T, TreeError>) -> Result<Option<T>, TreeError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn existed(result: Result<(), TreeError>) -> Result<bool, TreeError> {
    optional(result).map(|done| done.is_some())
}
