//! What can go wrong, with the object, the value and the fix.

use std::path::PathBuf;

use host::plan::Failed;
use host::{LockError, ParseError, TreeError};

use host::signature::Found;

use crate::{Holder, Refusal, ResourceName};

/// A `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel has no DRBD.
    #[error(
        "the kernel has no DRBD (no generic netlink family \"drbd\"); run \"modprobe drbd\" on the host; stock kernels have the module, \
         Debian's cloud kernels do not"
    )]
    NotLoaded {
        /// Why the module could not be loaded, if it was tried.
        source: Option<host::exec::Error>,
    },
    /// The kernel's DRBD speaks another dialect than the one that was asked for.
    #[error(
        "this DRBD speaks version {version} of its netlink interface (1 is DRBD 8.4, 2 is DRBD 9), for which this call is not made; commands of \
         DRBD 9 are carried out by Drbd::run_9"
    )]
    Unsupported {
        /// The version of the family.
        version: u8,
    },
    /// There is no such resource.
    #[error("there is no DRBD resource {name}; create it with ensure")]
    NotFound {
        /// Its name.
        name: ResourceName,
    },
    /// The resource is there already.
    #[error("the DRBD resource {name} exists already; use ensure to change it")]
    AlreadyExists {
        /// Its name.
        name: ResourceName,
    },
    /// What is there differs from the spec in something that cannot be changed in place.
    #[error("the DRBD resource {name} cannot be changed in place: {what}; remove it first")]
    Conflict {
        /// Its name.
        name: ResourceName,
        /// What differs.
        what: String,
    },
    /// Somebody uses the resource.
    #[error("cannot {command} {name}: {}", users(holders))]
    Busy {
        /// What was tried.
        command: &'static str,
        /// The resource.
        name: ResourceName,
        /// Who uses it, as far as it can be seen.
        holders: Vec<Holder>,
    },
    /// The kernel refused.
    #[error("cannot {command} {object}: {refusal}{}", said(info))]
    Refused {
        /// What was tried.
        command: &'static str,
        /// On what.
        object: String,
        /// Why not.
        refusal: Refusal,
        /// The kernel's own words, and what the state was.
        info: Vec<String>,
    },
    /// What the caller made a condition does not hold. Nothing was done.
    #[error("cannot {command} {name} as things are: {reason}")]
    Precondition {
        /// What was to be done.
        command: &'static str,
        /// The resource.
        name: ResourceName,
        /// What is missing, and what the state is.
        reason: String,
    },
    /// The kernel did not answer, or the state waited for did not come, before the deadline. A command that was on its way may still be
    /// carried out; look at the state before trying again.
    #[error("cannot {command} {object} before the deadline{}", said(info))]
    Timeout {
        /// What was tried or waited for.
        command: &'static str,
        /// On what.
        object: String,
        /// What the state was last.
        info: Vec<String>,
    },
    /// A connection ended for good while it was waited for.
    #[error(
        "{name} is not connecting to its peer: the connection is {state}; a split brain, different secrets or protocols, or a helper \
         that fails (see Drbd::set_helper) end it so, and the kernel log says which"
    )]
    Disconnected {
        /// The resource.
        name: ResourceName,
        /// The state of the connection.
        state: String,
    },
    /// The netlink exchange failed.
    #[error("cannot {command} {object}{}", hint(source))]
    Netlink {
        /// What was tried.
        command: &'static str,
        /// On what.
        object: String,
        /// Why it failed.
        source: host::nl::Error,
    },
    /// An option does not exist or cannot have this value.
    #[error("option {name} cannot be {value:?}: {reason}")]
    Option {
        /// Its name in drbd.conf.
        name: String,
        /// The value; `***` for a secret.
        value: String,
        /// What it takes.
        reason: String,
    },
    /// A spec that makes no sense by itself.
    #[error("the spec of {name} is wrong: {reason}")]
    Spec {
        /// The resource.
        name: ResourceName,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The device to be written holds data already.
    #[error("{path} holds data already: {}; use Overwrite::Always if it shall be lost", found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    ExistingData {
        /// The device.
        path: PathBuf,
        /// What was found, and where.
        found: Vec<Found>,
    },
    /// The device to be written is in use: mounted, attached, or part of another device. Nothing was written, whatever
    /// [`Overwrite`](crate::Overwrite) said.
    #[error("{path} is in use: mounted, attached to DRBD, or part of another device; end that first")]
    DiskInUse {
        /// The device.
        path: PathBuf,
        /// The refusal of the exclusive open.
        source: std::io::Error,
    },
    /// A block device cannot be read or written.
    #[error("cannot use the device {path}")]
    Device {
        /// The device.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Metadata is damaged, or has no room on its device.
    #[error("the DRBD metadata of {path} is not in order: {reason}")]
    Metadata {
        /// The device.
        path: PathBuf,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A step of a plan failed.
    #[error("the plan was not carried out")]
    Apply {
        /// Which step, why, and what became of the others.
        #[source]
        failed: Box<Failed<Self>>,
    },
    /// Another process is changing DRBD's configuration.
    #[error("cannot take the lock of DRBD's configuration")]
    Lock {
        /// Who holds it.
        #[from]
        source: LockError,
    },
    /// A file could not be read.
    #[error("cannot look at the system")]
    Tree {
        /// Which, and why.
        #[from]
        source: TreeError,
    },
    /// A text or message could not be read.
    #[error("cannot read a name or message")]
    Parse {
        /// Which, and why.
        #[from]
        source: ParseError,
    },
}

fn users(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "it is in use, by whom cannot be seen; \"fuser -v\" on the device may tell".to_owned();
    }
    let all: Vec<_> = holders.iter().map(ToString::to_string).collect();
    format!("it is in use by {}; end that first", all.join(", "))
}

fn said(info: &[String]) -> String {
    if info.is_empty() { String::new() } else { format!(": {}", info.join("; ")) }
}

fn hint(error: &host::nl::Error) -> &'static str {
    match error.errno() {
        Some(libc::EPERM) => "; it needs CAP_NET_ADMIN in the initial user namespace",
        Some(libc::EOPNOTSUPP) => "; the kernel does not know an option or the command",
        _ => "",
    }
}

/// The kind of an [`Error`], for `match` without its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// DRBD is missing or of another kind.
    Unavailable,
    /// No such object.
    NotFound,
    /// The object is there already.
    AlreadyExists,
    /// It cannot be changed in place.
    Conflict,
    /// Somebody uses it.
    Busy,
    /// The kernel refused.
    Refused,
    /// Time is up.
    Timeout,
    /// The caller's input is wrong.
    Invalid,
    /// Data would be lost.
    ExistingData,
    /// A system call, message or program failed.
    System,
}

impl Error {
    pub(crate) fn option(name: &str, value: &str, reason: String) -> Self {
        Self::Option { name: name.to_owned(), value: value.to_owned(), reason }
    }

    /// The error of the step that failed, or this one.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Apply { failed } => failed.cause.as_ref().map_or(self, Self::cause),
            other => other,
        }
    }

    /// What kind of error it is; of a failed plan, the kind of the step's.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self.cause() {
            Self::NotLoaded { .. } | Self::Unsupported { .. } => ErrorKind::Unavailable,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Busy { .. } | Self::DiskInUse { .. } | Self::Lock { .. } => ErrorKind::Busy,
            Self::Refused { refusal, .. } if refusal.is_busy() => ErrorKind::Busy,
            Self::Refused { .. } | Self::Precondition { .. } | Self::Disconnected { .. } => {
                ErrorKind::Refused
            }
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::Option { .. } | Self::Spec { .. } | Self::Parse { .. } => ErrorKind::Invalid,
            Self::ExistingData { .. } => ErrorKind::ExistingData,
            Self::Netlink { .. }
            | Self::Device { .. }
            | Self::Metadata { .. }
            | Self::Apply { .. }
            | Self::Tree { .. } => ErrorKind::System,
        }
    }

    /// The kernel's reason, if it refused a command.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self.cause() {
            Self::Refused { refusal, .. } => Some(*refusal),
            Self::Busy { .. } => Some(Refusal::DeviceInUse),
            _ => None,
        }
    }

    /// The error number, if a system call or the kernel gave one. DRBD's own codes are in [`refusal`](Self::refusal).
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self.cause() {
            Self::Netlink { source, .. } => source.errno(),
            Self::Tree { source } => source.errno(),
            Self::Device { source, .. } | Self::DiskInUse { source, .. } => source.raw_os_error(),
            Self::Busy { .. } => Some(libc::EBUSY),
            Self::Timeout { .. } => Some(libc::ETIMEDOUT),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anything being changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.cause() {
            Self::Refused { refusal, .. } => refusal.is_retryable(),
            Self::Netlink { source, .. } => source.is_retryable(),
            Self::Tree { source } => source.is_retryable(),
            Self::Timeout { .. } | Self::Lock { .. } => true,
            _ => false,
        }
    }

    /// Whether somebody uses the object.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.kind() == ErrorKind::Busy
    }
}

impl From<Failed<Self>> for Error {
    fn from(failed: Failed<Self>) -> Self {
        Self::Apply { failed: Box::new(failed) }
    }
}
