//! What can go wrong, by device and name.

use std::io;
use std::path::PathBuf;

use host::plan::Failed;
use host::{DmName, LockError, ParseError, Signature, TreeError};

use crate::Uuid;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No passphrase of the volume is this one.
    #[error("{device}: no key slot opens with this passphrase")]
    WrongPassphrase {
        /// The device.
        device: PathBuf,
    },
    /// The device holds no LUKS header.
    #[error("{device}: no LUKS header; is it the right device?")]
    NotLuks {
        /// The device.
        device: PathBuf,
    },
    /// The device's header is there and damaged.
    #[error(
        "{device}: the LUKS header is damaged: {reason}; restore it from a backup (cryptsetup luksHeaderRestore)"
    )]
    Damaged {
        /// The device.
        device: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No block device of this machine has a LUKS header with this UUID.
    #[error("no disk with LUKS UUID {uuid} is here; {have}")]
    NoVolume {
        /// The UUID.
        uuid: Uuid,
        /// What is here.
        have: String,
    },
    /// No block device of this machine has a LUKS2 header with this label.
    #[error("no disk with LUKS label {label:?} is here")]
    NoLabel {
        /// The label.
        label: String,
    },
    /// The mapping's name is taken by something else.
    #[error("/dev/mapper/{name} is there and is not this volume ({what}); close it or choose another name")]
    NameTaken {
        /// The name.
        name: DmName,
        /// What it is.
        what: String,
    },
    /// The volume is open under another name.
    #[error(
        "the volume {uuid} is open as /dev/mapper/{open_as}, not as {name}; close that first (cryptsetup close {open_as})"
    )]
    OpenElsewhere {
        /// The volume.
        uuid: Uuid,
        /// The name it was to have.
        name: DmName,
        /// The name it has.
        open_as: String,
    },
    /// The object is there already.
    #[error("/dev/mapper/{name} is open already")]
    AlreadyExists {
        /// The mapping.
        name: DmName,
    },
    /// Somebody uses the mapping or device.
    #[error("{object} is in use by {holders}")]
    Busy {
        /// The mapping or device.
        object: String,
        /// Who holds it, as far as the kernel tells.
        holders: String,
    },
    /// The device holds something that formatting would destroy.
    #[error("{device} holds {what}; formatting would destroy it. Say Overwrite::Always if that is meant")]
    HoldsData {
        /// The device.
        device: PathBuf,
        /// What it holds.
        what: Signature,
    },
    /// A file is in the way.
    #[error("{path} is there already; move it away first")]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// Root rights are missing.
    #[error("{what} needs root (CAP_SYS_ADMIN): device-mapper refuses everybody else")]
    Permission {
        /// What was tried.
        what: String,
    },
    /// The kernel has no memory for the key derivation.
    #[error("{device}: not enough memory for the key derivation; free some, or unlock fewer volumes at once")]
    NoMemory {
        /// The device.
        device: PathBuf,
    },
    /// Mappings cannot be had here.
    #[error("{0}")]
    Unsupported(&'static str),
    /// libcryptsetup refused.
    #[error("cannot {what}{}", log.as_ref().map(|l| format!(": {l}")).unwrap_or_default())]
    Library {
        /// What was tried.
        what: String,
        /// What the library said.
        log: Option<String>,
        /// Its answer.
        source: io::Error,
    },
    /// A device or file could not be read or written.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// The reason.
        source: io::Error,
    },
    /// The state of the mappings could not be read.
    #[error("cannot read the mappings")]
    Tree(#[source] TreeError),
    /// A module is missing.
    #[error("cannot load a kernel module")]
    Module(#[source] host::exec::Error),
    /// Another process is applying.
    #[error("cannot take the lock of the mappings")]
    Locked(#[source] LockError),
    /// A step of a plan failed.
    #[error(transparent)]
    Step(Box<Failed<Self>>),
    /// A name has not the form it needs.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

impl Error {
    /// The error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Library { source, .. } | Self::Io { source, .. } => source.raw_os_error(),
            Self::Tree(source) => source.errno(),
            Self::Step(failed) => failed.cause.as_ref().and_then(Self::errno),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anything being changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Locked(_) | Self::NoMemory { .. } => true,
            Self::Step(failed) => failed.cause.as_ref().is_some_and(Self::is_retryable),
            other => matches!(other.errno(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR)),
        }
    }

    /// Whether the object is in use.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Busy { .. } => true,
            Self::Step(failed) => failed.cause.as_ref().is_some_and(Self::is_busy),
            _ => false,
        }
    }

    /// Whether the passphrase was wrong: ask again.
    #[must_use]
    pub fn is_wrong_passphrase(&self) -> bool {
        match self {
            Self::WrongPassphrase { .. } => true,
            Self::Step(failed) => failed.cause.as_ref().is_some_and(Self::is_wrong_passphrase),
            _ => false,
        }
    }
}

impl From<Failed<Self>> for Error {
    fn from(failed: Failed<Self>) -> Self {
        Self::Step(Box::new(failed))
    }
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;
