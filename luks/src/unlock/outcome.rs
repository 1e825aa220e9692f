//! What came of each volume.

use std::fmt;
use std::path::PathBuf;

use host::{Bytes, DmName};

use crate::error::Error;
use crate::spec::MappingSpec;

/// What came of one volume.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// The name it was to have.
    pub name: DmName,
    /// The device it is on, if that is known.
    pub device: Option<PathBuf>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of one volume. `Display` is a sentence for people.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It is open now, or, in a check, could be.
    Opened {
        /// The key slot that the passphrase is of; `None` of a volume in reencryption, which needs more than one.
        keyslot: Option<u32>,
    },
    /// It was open already under its name.
    AlreadyOpen,
    /// It is open under another name.
    OpenAs(String),
    /// It is open under its name, and its I/O is stopped.
    Suspended,
    /// Its mapping is there and its disk is not: every request to it fails. Close it (`cryptsetup close --deferred NAME`).
    Zombie {
        /// The mapping.
        open_as: String,
    },
    /// No secret fits.
    WrongKey,
    /// No token yields its key, and no passphrase was given.
    NoToken {
        /// Why none does.
        why: String,
    },
    /// No disk here has it.
    Missing {
        /// What is here.
        have: String,
    },
    /// Several disks have it, clones or snapshots of one another: say by path which is meant.
    Ambiguous(Vec<PathBuf>),
    /// The name is taken by something else.
    NameTaken {
        /// What it is.
        what: String,
    },
    /// Somebody else holds the disk.
    Busy {
        /// Who does, by kernel name.
        holders: Vec<String>,
    },
    /// There is a disk, and it has no LUKS header.
    NotLuks,
    /// No copy of its header can be trusted.
    Damaged {
        /// What is wrong with each copy.
        reason: String,
    },
    /// Each of its key slots needs more memory than one derivation may take.
    TooLarge {
        /// What the least of them needs.
        needs: Bytes,
        /// What it may take.
        limit: Bytes,
    },
    /// It was not tried: a passphrase was wrong before, or it was called off.
    NotTried,
    /// Time was over before it was tried.
    TimedOut,
    /// Something failed.
    Failed(Box<Error>),
}

impl Report {
    pub(super) fn failed(spec: &MappingSpec, error: Error) -> Self {
        Self { name: spec.name.clone(), device: None, outcome: Outcome::Failed(error.into()) }
    }
}

impl Outcome {
    /// Whether the volume is usable under its name now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Opened { .. } | Self::AlreadyOpen)
    }

    /// Whether the same may succeed later without anything being changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::Busy { .. } | Self::NotTried | Self::TimedOut => true,
            Self::Failed(error) => error.is_retryable(),
            _ => false,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened { keyslot: Some(slot) } => write!(f, "opened with key slot {slot}"),
            Self::Opened { keyslot: None } => f.write_str("opened"),
            Self::AlreadyOpen => f.write_str("open already"),
            Self::OpenAs(name) => {
                write!(f, "open already as {name}; close that first (cryptsetup close {name})")
            }
            Self::Suspended => f.write_str("open and suspended; resume it (cryptsetup luksResume)"),
            Self::Zombie { open_as } => write!(
                f,
                "its disk is gone and its mapping {open_as} is still there; close that (cryptsetup close --deferred {open_as})"
            ),
            Self::WrongKey => f.write_str("no key slot opens with this passphrase"),
            Self::NoToken { why } => write!(f, "no token opens it ({why}); give a passphrase"),
            Self::Missing { have } => write!(f, "no disk here has it; {have}"),
            Self::Ambiguous(devices) => {
                let devices: Vec<_> = devices.iter().map(|d| d.display().to_string()).collect();
                write!(f, "{} all have it; say by path which is meant", devices.join(" and "))
            }
            Self::NameTaken { what } => {
                write!(f, "the name is taken ({what}); close that or choose another name")
            }
            Self::Busy { holders } => write!(f, "its disk is in use by {}", holders.join(", ")),
            Self::NotLuks => f.write_str("no LUKS header; is it the right device?"),
            Self::Damaged { reason } => {
                write!(f, "its header is damaged: {reason}; restore it from a backup")
            }
            Self::TooLarge { needs, limit } => {
                write!(f, "its key derivation needs {needs} of memory, {limit} may be used")
            }
            Self::NotTried => f.write_str("not tried"),
            Self::TimedOut => f.write_str("not tried: time was over"),
            Self::Failed(error) => f.write_str(&with_causes(error)),
        }
    }
}

/// An error and why it came to it, in one line.
pub(super) fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
