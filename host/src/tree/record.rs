//! Recording what is changed, for dry runs, plans as shell lines, and tests that assert "wrote nothing".

use std::cell::Cell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Entry, Files, Kind, Tree};

thread_local! {
    static HIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with values hidden: the layers between the tree and the kernel see bytes and must not keep them.
pub(super) fn hidden<T>(f: impl FnOnce() -> T) -> T {
    let before = HIDE.replace(true);
    let result = f();
    HIDE.set(before);
    result
}

/// One change of the file tree. `Display` is the shell line that does the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A value was written; `***` for a secret.
    Write(PathBuf, String),
    /// A directory was made.
    MakeDir(PathBuf),
    /// A directory was removed.
    RemoveDir(PathBuf),
    /// A link was made: where it leads, and where it stands.
    Link(PathBuf, PathBuf),
    /// A link or file was removed.
    Unlink(PathBuf),
    /// A regular file was replaced.
    Replace(PathBuf),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(path, value) => {
                write!(f, "echo -n '{}' > {}", value.escape_default(), path.display())
            }
            Self::MakeDir(path) => write!(f, "mkdir {}", path.display()),
            Self::RemoveDir(path) => write!(f, "rmdir {}", path.display()),
            Self::Link(target, path) => write!(f, "ln -s {} {}", target.display(), path.display()),
            Self::Unlink(path) => write!(f, "unlink {}", path.display()),
            Self::Replace(path) => write!(f, "install /dev/stdin {}", path.display()),
        }
    }
}

/// What a recording tree has seen so far. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Record {
    changes: Arc<Mutex<Vec<Change>>>,
    reads: Arc<std::sync::atomic::AtomicUsize>,
}

impl Record {
    /// The changes so far, in order. Failed ones are in it too: they were tried.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many reads, lists and looks there were: what "no re-reading the world" is measured by.
    #[must_use]
    pub fn reads(&self) -> usize {
        self.reads.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Forgets all so far.
    pub fn clear(&self) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.reads.store(0, std::sync::atomic::Ordering::Relaxed);
    }

    fn saw_read(&self) {
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn saw(&self, change: Change) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes().iter().try_for_each(|change| writeln!(f, "{change}"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Pass,
    Dry,
}

#[derive(Debug)]
pub(super) struct Recording {
    under: Arc<dyn Files>,
    record: Record,
    mode: Mode,
}

impl Recording {
    pub(super) fn over(under: Arc<dyn Files>, mode: Mode) -> (Tree, Record) {
        let record = Record::default();
        (Tree::of(Self { under, record: record.clone(), mode }), record)
    }

    fn change(&self, change: Change, run: impl FnOnce(&dyn Files) -> io::Result<()>) -> io::Result<()> {
        self.record.saw(change);
        match self.mode {
            Mode::Pass => run(&*self.under),
            Mode::Dry => Ok(()),
        }
    }
}

impl Files for Recording {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.record.saw_read();
        self.under.read(path)
    }

    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let value = if HIDE.get() { "***".to_owned() } else { String::from_utf8_lossy(data).into_owned() };
        self.change(Change::Write(path.to_path_buf(), value), |under| under.write(path, data))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.change(Change::MakeDir(path.to_path_buf()), |under| under.make_dir(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.change(Change::RemoveDir(path.to_path_buf()), |under| under.remove_dir(path))
    }

    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        self.change(Change::Link(target.to_path_buf(), path.to_path_buf()), |under| under.link(target, path))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.change(Change::Unlink(path.to_path_buf()), |under| under.unlink(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.record.saw_read();
        self.under.list(path)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.record.saw_read();
        self.under.read_link(path)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        self.record.saw_read();
        self.under.kind(path)
    }

    fn replace(&self, path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
        self.change(Change::Replace(path.to_path_buf()), |under| under.replace(path, data, mode))
    }
}
