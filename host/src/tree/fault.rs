//! Failing on purpose: the n-th change answers an errno, or the process "dies" before it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Entry, Files, Kind};
use crate::error::Stopped;

/// What goes wrong in a fault-injecting tree ([`Tree::with_fault`](super::Tree::with_fault)). Changes are counted from 1; reads are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The n-th change fails with this errno; the ones after it succeed.
    Fail {
        /// Which change.
        nth: usize,
        /// The errno it answers.
        errno: i32,
    },
    /// The process stops before the n-th change: it and everything after it, reads too, is refused.
    Stop {
        /// Which change.
        nth: usize,
    },
}

#[derive(Debug)]
pub(super) struct Faulty {
    under: Arc<dyn Files>,
    fault: Fault,
    count: AtomicUsize,
}

impl Faulty {
    pub(super) fn over(under: Arc<dyn Files>, fault: Fault) -> Self {
        Self { under, fault, count: AtomicUsize::new(0) }
    }

    fn change(&self) -> io::Result<()> {
        let count = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        match self.fault {
            Fault::Fail { nth, errno } if count == nth => Err(io::Error::from_raw_os_error(errno)),
            Fault::Stop { nth } if count >= nth => Err(io::Error::other(Stopped)),
            _ => Ok(()),
        }
    }

    fn look(&self) -> io::Result<()> {
        match self.fault {
            Fault::Stop { nth } if self.count.load(Ordering::SeqCst) >= nth => Err(io::Error::other(Stopped)),
            _ => Ok(()),
        }
    }
}

impl Files for Faulty {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.look()?;
        self.under.read(path)
    }

    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        self.change()?;
        self.under.write(path, data)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.under.make_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.under.remove_dir(path)
    }

    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        self.change()?;
        self.under.link(target, path)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.under.unlink(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.look()?;
        self.under.list(path)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.look()?;
        self.under.read_link(path)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        self.look()?;
        self.under.kind(path)
    }

    fn replace(&self, path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
        self.change()?;
        self.under.replace(path, data, mode)
    }
}
