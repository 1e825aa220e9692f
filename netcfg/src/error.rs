//! What can go wrong, by object and value.

use host::plan::Failed;
use host::{LockError, ParseError, TreeError};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a change.
    #[error("cannot {what}{}", hint.map(|h| format!(" ({h})")).unwrap_or_default())]
    Kernel {
        /// The change, as `ip` would be told it.
        what: String,
        /// What we know of this refusal beyond the kernel's words.
        hint: Option<&'static str>,
        /// The kernel's answer.
        source: host::nl::Error,
    },
    /// The network could not be read.
    #[error("cannot read the network's state")]
    Read(#[source] host::nl::Error),
    /// A kernel parameter could not be read or written.
    #[error("cannot set a kernel parameter")]
    Sysctl(#[source] TreeError),
    /// A file could not be read or written.
    #[error("cannot read or write a file")]
    File(#[source] TreeError),
    /// A link the spec needs is not there.
    #[error("there is no interface {name}; {have}")]
    NoLink {
        /// The name.
        name: String,
        /// What is there.
        have: String,
    },
    /// The spec contradicts itself or the machine.
    #[error("{object}: {reason}")]
    Invalid {
        /// The link or address.
        object: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The object is there already.
    #[error("{object} is there already")]
    AlreadyExists {
        /// The link.
        object: String,
    },
    /// The kernel took the change and did not do it: an option it does not know.
    #[error("the kernel accepted these without effect: {steps}")]
    NotTaken {
        /// What a second plan still wants.
        steps: String,
    },
    /// Something did not happen in time.
    #[error("{object} was not {what} before the deadline")]
    TimedOut {
        /// The link.
        object: String,
        /// What was waited for.
        what: &'static str,
    },
    /// An announcement could not be sent.
    #[error("cannot announce {object}")]
    Announce {
        /// The address and link.
        object: String,
        /// The reason.
        source: std::io::Error,
    },
    /// A question to the network could not be asked.
    #[error("cannot ask the network for {object}")]
    Probe {
        /// The address and link, or the path.
        object: String,
        /// The reason.
        source: std::io::Error,
    },
    /// A module is missing.
    #[error("cannot load a kernel module")]
    Module(#[source] host::exec::Error),
    /// The guard of a trial could not be started; nothing was changed.
    #[error("cannot guard the trial: the program has to call netcfg::confirm::guard() first thing in main")]
    Guard {
        /// What came of starting it.
        source: host::exec::Error,
    },
    /// Another process is applying.
    #[error("cannot take the lock of the network's configuration")]
    Locked(#[source] LockError),
    /// A step of a plan failed.
    #[error(transparent)]
    Step(Box<Failed<Self>>),
    /// A name or number has not the form it needs.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

impl Error {
    /// The kernel's error number, where it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } | Self::Read(source) => source.errno(),
            Self::Sysctl(source) | Self::File(source) => source.errno(),
            Self::Announce { source, .. } | Self::Probe { source, .. } => source.raw_os_error(),
            Self::Step(failed) => failed.cause.as_ref().and_then(Self::errno),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anything being changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Kernel { source, .. } | Self::Read(source) => source.is_retryable(),
            Self::Locked(_) | Self::TimedOut { .. } => true,
            Self::Step(failed) => failed.cause.as_ref().is_some_and(Self::is_retryable),
            _ => false,
        }
    }

    /// Whether the object is in use.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }
}

impl From<Failed<Self>> for Error {
    fn from(failed: Failed<Self>) -> Self {
        Self::Step(Box::new(failed))
    }
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;
