//! Errors: what was tried on which object, why it cannot be, and what to do about it.

use host::plan::Failed;
use host::{LockError, ParseError, TreeError};

/// What kind of failure an [`Error`] is, also when it happened inside a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// LIO is not there: configfs not mounted or a module not loaded.
    NotLoaded,
    /// There is no such target.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// The specification contradicts itself or a limit of the kernel.
    Invalid,
    /// What is asked cannot be changed while the object is in use.
    Conflict,
    /// Somebody holds the object.
    Busy,
    /// The kernel refused the value.
    Refused,
    /// Another process holds the lock.
    Locked,
    /// The process was stopped on purpose at a kill point.
    Stopped,
    /// A kernel file could not be read.
    Unreadable,
    /// The kernel did not answer before the deadline.
    Late,
}

/// Why a call of this crate failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// LIO is not available on this machine.
    #[error("{missing}; {fix}")]
    NotLoaded {
        /// What is not there.
        missing: String,
        /// What a person would do about it.
        fix: String,
        /// Why loading it failed, where that was tried.
        source: Option<Box<host::exec::Error>>,
    },
    /// There is no target of this name.
    #[error("there is no target {iqn}; make it with Lio::ensure")]
    NotFound {
        /// The target's name.
        iqn: String,
    },
    /// There is a target of this name.
    #[error("the target {iqn} exists already; use Lio::ensure to change it")]
    AlreadyExists {
        /// The target's name.
        iqn: String,
    },
    /// The specification cannot be carried out on any kernel.
    #[error("{object}: {reason}")]
    Invalid {
        /// The part of the specification.
        object: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A text of the specification has not the form it must have.
    #[error("the specification holds a value of the wrong form")]
    Form {
        /// Which one and why.
        source: ParseError,
    },
    /// The change is not possible while the object is in use.
    #[error("cannot do \"{step}\" while {object} is in use: {reason}")]
    Conflict {
        /// The object.
        object: String,
        /// The step that would have been needed, as a shell line.
        step: String,
        /// Why it is impossible, and what to do.
        reason: String,
    },
    /// Somebody holds the object.
    #[error("{object} is in use by {holder}")]
    Busy {
        /// The object.
        object: String,
        /// Who holds it, and what to do.
        holder: String,
        /// The kernel's answer.
        source: TreeError,
    },
    /// The kernel refused a change.
    #[error("the kernel refused: {reason}")]
    Refused {
        /// What the refusal means, and what to do.
        reason: String,
        /// The kernel's answer, with path and value.
        source: TreeError,
    },
    /// A kernel file could not be read.
    #[error("cannot read the target configuration")]
    Unreadable {
        /// Which one and why.
        source: TreeError,
    },
    /// Another process is changing the target configuration.
    #[error("cannot take the lock of the target configuration")]
    Locked {
        /// Who holds it.
        source: LockError,
    },
    /// Device-mapper refused.
    #[error("cannot {doing}: {fix}")]
    Mapper {
        /// What was tried, on which device.
        doing: String,
        /// What it means, and what to do.
        fix: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The kernel did not answer before the deadline; what was begun goes on in a thread of its own.
    #[error("not done in time: {doing}")]
    Late {
        /// What was tried, what it waits for, and what to do.
        doing: String,
    },
    /// A step of a plan failed; the ones before it were undone.
    #[error("the target configuration could not be changed as planned")]
    Plan {
        /// Which step, why, and what came of the undoing.
        source: Box<Failed<Self>>,
    },
}

/// The result of the calls of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn invalid(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { object: object.into(), reason: reason.into() }
    }

    pub(crate) fn unreadable(source: TreeError) -> Self {
        Self::Unreadable { source }
    }

    /// What kind of failure it is; for a failed plan, that of the step.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotLoaded { .. } => ErrorKind::NotLoaded,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::Invalid { .. } | Self::Form { .. } => ErrorKind::Invalid,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::Refused { source, .. } if source.is_stopped() => ErrorKind::Stopped,
            Self::Refused { .. } => ErrorKind::Refused,
            Self::Unreadable { .. } => ErrorKind::Unreadable,
            Self::Locked { .. } => ErrorKind::Locked,
            Self::Mapper { source, .. } if source.raw_os_error() == Some(libc::EBUSY) => ErrorKind::Busy,
            Self::Mapper { .. } => ErrorKind::Refused,
            Self::Late { .. } => ErrorKind::Late,
            Self::Plan { source } => source.cause.as_ref().map_or(ErrorKind::Stopped, Self::kind),
        }
    }

    /// The kernel's error number, if the kernel answered.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Busy { source, .. } | Self::Refused { source, .. } | Self::Unreadable { source } => {
                source.errno()
            }
            Self::Mapper { source, .. } => source.raw_os_error(),
            Self::Plan { source } => source.cause.as_ref().and_then(Self::errno),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anything being changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Late { .. } => true,
            Self::Mapper { .. } => self.is_busy(),
            Self::Refused { source, .. } | Self::Unreadable { source } => source.is_retryable(),
            Self::Locked { source } => matches!(source, LockError::Held { .. }),
            Self::NotLoaded { source, .. } => source.as_ref().is_some_and(|e| e.is_retryable()),
            Self::Plan { source } => source.cause.as_ref().is_some_and(Self::is_retryable),
            _ => false,
        }
    }

    /// Whether somebody holds the object that was to be changed.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.kind() == ErrorKind::Busy
    }
}

impl From<ParseError> for Error {
    fn from(source: ParseError) -> Self {
        Self::Form { source }
    }
}

impl From<LockError> for Error {
    fn from(source: LockError) -> Self {
        Self::Locked { source }
    }
}
