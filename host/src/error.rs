//! Errors of this crate. They name the operation, the object and the value, and keep the errno.
//!
//! The crates above wrap them as the *source* of their own errors and never show them in their public API otherwise.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A text from outside that does not have the form of the type it was meant to become.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no {what}: {reason}")]
#[non_exhaustive]
pub struct ParseError {
    /// What the text should have been, for example "interface name".
    pub what: &'static str,
    /// The text itself.
    pub value: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl ParseError {
    /// Makes an error; for the parsers of the sibling crates too.
    pub fn new(what: &'static str, value: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { what, value: value.into(), reason: reason.into() }
    }
}

/// What was tried on a kernel file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Reading a file.
    Read,
    /// Writing a file with one `write(2)`.
    Write,
    /// `mkdir(2)`.
    MakeDir,
    /// `rmdir(2)`.
    RemoveDir,
    /// `symlink(2)`.
    Link,
    /// `unlink(2)`.
    Unlink,
    /// Listing a directory.
    List,
    /// `readlink(2)`.
    ReadLink,
    /// `stat(2)`.
    Stat,
    /// Replacing a regular file: temporary file, fsync, rename.
    Replace,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::MakeDir => "make directory",
            Self::RemoveDir => "remove directory",
            Self::Link => "link",
            Self::Unlink => "unlink",
            Self::List => "list",
            Self::ReadLink => "read link",
            Self::Stat => "look at",
            Self::Replace => "replace file",
        })
    }
}

/// A file operation that failed: which one, on which path, with which value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub struct TreeError {
    /// What was tried.
    pub operation: Operation,
    /// The path, as the caller gave it (without the root of a rooted tree).
    pub path: PathBuf,
    /// What was to be written, `***` for a secret; `None` where nothing was.
    pub value: Option<String>,
    /// The reason.
    pub source: io::Error,
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match (&self.operation, &self.value) {
            (Operation::Write, Some(value)) => write!(f, "cannot write {value:?} to {path}"),
            (Operation::Link, Some(target)) => write!(f, "cannot link {path} to {target}"),
            (operation, _) => write!(f, "cannot {operation} {path}"),
        }
    }
}

impl TreeError {
    /// The kernel's error number, if the kernel answered.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Whether the object was not there (ENOENT).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the object is in use (EBUSY).
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }

    /// Whether the same call may succeed later without anything being changed (EINTR, EAGAIN, EBUSY).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.errno(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
    }

    /// Whether the process stopped here on purpose (a fault-injecting tree, see [`Tree::with_fault`](crate::Tree::with_fault)).
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.source.get_ref().is_some_and(|e| e.is::<Stopped>())
    }
}

/// The marker inside the [`io::Error`] of an operation that a fault-injecting tree refused because the process "died" before it.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("stopped here on purpose")]
pub struct Stopped;

/// A lock of a facility that could not be had in time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else holds it.
    #[error("{path} is locked by {holder}; wait for it to end, or stop it")]
    Held {
        /// The lock file.
        path: String,
        /// Who holds it: process number and command line, as far as it says.
        holder: String,
    },
    /// The lock file could not be made.
    #[error("cannot lock {path}{}", if source.kind() == io::ErrorKind::PermissionDenied { " (run as root)" } else { "" })]
    Io {
        /// The lock file.
        path: String,
        /// The reason.
        source: io::Error,
    },
}
