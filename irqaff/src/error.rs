//! Errors: which device, which interrupt, which processors, and what to do about it.

use host::plan::Failed;
use host::{LockError, TreeError};

use crate::name::DeviceName;

/// What kind of failure an [`Error`] is, also when it happened inside a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// This machine shows no interrupts.
    NotSupported,
    /// There is no such device.
    NotFound,
    /// The policy asks for what cannot be.
    Invalid,
    /// The kernel refused the value.
    Refused,
    /// Another process holds the lock.
    Locked,
    /// The process was stopped on purpose at a kill point.
    Stopped,
    /// A kernel file could not be read.
    Unreadable,
    /// irqbalance could not be spoken to.
    Irqbalance,
}

/// Why a call of this crate failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This machine shows no interrupts.
    #[error(
        "there is no /proc/irq: interrupts cannot be bound here (a container without the host's /proc, or another kernel)"
    )]
    NotSupported,
    /// There is no such device.
    #[error("there is no {name}: {} does not exist", name.path())]
    NotFound {
        /// Its name.
        name: DeviceName,
    },
    /// The policy asks for what cannot be.
    #[error("{what}: {reason}")]
    Invalid {
        /// The part of the policy.
        what: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// The kernel refused a change.
    #[error("{what}: {reason}")]
    Refused {
        /// The interrupt or queue, with its device.
        what: String,
        /// What the refusal means, and what to do.
        reason: String,
        /// The kernel's answer, with path and value.
        source: TreeError,
    },
    /// A kernel file could not be read.
    #[error("cannot read the interrupts of devices")]
    Unreadable {
        /// Which one and why.
        source: TreeError,
    },
    /// A kernel file holds what this crate does not understand.
    #[error("a kernel file has an unexpected form")]
    Form {
        /// What and why.
        source: host::ParseError,
    },
    /// Another process is binding interrupts.
    #[error("cannot take the lock for binding interrupts")]
    Locked {
        /// Who holds it.
        source: LockError,
    },
    /// irqbalance runs and cannot be told to leave interrupts alone.
    #[error(
        "cannot talk to irqbalance (process {pid}), which will move interrupts; stop it, or start it with a --policyscript"
    )]
    Irqbalance {
        /// Its process.
        pid: u32,
        /// Why.
        source: std::io::Error,
    },
    /// A step of a plan failed; the ones before it were undone.
    #[error("the interrupts could not be bound as planned")]
    Plan {
        /// Which step, why, and what came of the undoing.
        source: Box<Failed<Self>>,
    },
}

/// The result of the calls of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }

    /// What kind of failure it is; for a failed plan, that of the step.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotSupported => ErrorKind::NotSupported,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Refused { source, .. } if source.is_stopped() => ErrorKind::Stopped,
            Self::Refused { .. } => ErrorKind::Refused,
            Self::Unreadable { .. } | Self::Form { .. } => ErrorKind::Unreadable,
            Self::Locked { .. } => ErrorKind::Locked,
            Self::Irqbalance { .. } => ErrorKind::Irqbalance,
            Self::Plan { source } => source.cause.as_ref().map_or(ErrorKind::Stopped, Self::kind),
        }
    }

    /// The kernel's error number, if the kernel answered.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Unreadable { source } => source.errno(),
            Self::Irqbalance { source, .. } => source.raw_os_error(),
            Self::Plan { source } => source.cause.as_ref().and_then(Self::errno),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anything being changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            // No vector is free on that processor now; another interrupt may leave it (irq_do_set_affinity).
            Self::Refused { source, .. } => source.is_retryable() || source.errno() == Some(libc::ENOSPC),
            Self::Unreadable { source } => source.is_retryable(),
            Self::Locked { source } => matches!(source, LockError::Held { .. }),
            Self::Irqbalance { source, .. } => {
                matches!(source.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
            }
            Self::Plan { source } => source.cause.as_ref().is_some_and(Self::is_retryable),
            _ => false,
        }
    }

    /// Whether the kernel said EBUSY.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }
}

impl From<host::ParseError> for Error {
    fn from(source: host::ParseError) -> Self {
        Self::Form { source }
    }
}

impl From<LockError> for Error {
    fn from(source: LockError) -> Self {
        Self::Locked { source }
    }
}

impl From<TreeError> for Error {
    fn from(source: TreeError) -> Self {
        Self::Unreadable { source }
    }
}
