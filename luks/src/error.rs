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
    /// There is no such key slot.
    #[error("{device}: key slot {slot} is empty or out of range")]
    NoKeyslot {
        /// The device.
        device: PathBuf,
        /// The slot.
        slot: u32,
    },
    /// The key slot that was to be made is there already.
    #[error("{device}: key slot {slot} is in use; remove it first or leave the number out")]
    SlotTaken {
        /// The device.
        device: PathBuf,
        /// The slot.
        slot: u32,
    },
    /// There is no room for another key slot.
    #[error("{device}: no room for another key slot; remove one first")]
    NoRoom {
        /// The device.
        device: PathBuf,
    },
    /// The slot is the last that is known to open the volume.
    #[error(
        "{device}: removing key slot {slot} would leave no key known to open the volume; add one first, or give the one that stays"
    )]
    LastKey {
        /// The device.
        device: PathBuf,
        /// The slot.
        slot: u32,
    },
    /// There is no such token.
    #[error("{device}: there is no token {token}")]
    NoToken {
        /// The device.
        device: PathBuf,
        /// Its number.
        token: u32,
    },
    /// Nothing here can open a token of this type.
    #[error(
        "{device}: nothing here opens token {token}, which is of type {kind}; install libcryptsetup's plug-in for it \
         (libcryptsetup-token-{kind}.so)"
    )]
    TokenUnhandled {
        /// The device.
        device: PathBuf,
        /// Its number.
        token: u32,
        /// Its type.
        kind: String,
    },
    /// A token yields no key: its device is not there, or does not give it in this state of the machine.
    #[error("{device}: token {token} of type {kind} yields no key{}", log.as_ref().map(|l| format!(": {l}")).unwrap_or_default())]
    TokenRefused {
        /// The device.
        device: PathBuf,
        /// Its number.
        token: u32,
        /// Its type.
        kind: String,
        /// What the library said.
        log: Option<String>,
        /// Its answer.
        source: io::Error,
    },
    /// A token wants a PIN.
    #[error("{device}: token {token} wants a PIN; give it (Key::Token)")]
    TokenPin {
        /// The device.
        device: PathBuf,
        /// Its number.
        token: u32,
    },
    /// The program that opens a token of this type yields no key.
    #[error("{device}: token {token} is opened by a program, which yields no key")]
    TokenProgram {
        /// The device.
        device: PathBuf,
        /// Its number.
        token: u32,
        /// What came of the program.
        source: host::exec::Error,
    },
    /// The kernel's keyrings of this process have no such key.
    #[error(
        "no key \"{description}\" of type user is in the keyrings of this process; add it (keyctl padd user)"
    )]
    NoKeyringKey {
        /// Its description.
        description: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The key derivation makes guessing cheap.
    #[error(
        "the key derivation {kdf:?} makes guessing cheap; raise its cost, or say WeakKdf::Allowed for a random key"
    )]
    WeakKdf {
        /// The derivation.
        kdf: crate::Kdf,
    },
    /// The device holds no LUKS header.
    #[error("{device}: no LUKS header; is it the right device?")]
    NotLuks {
        /// The device.
        device: PathBuf,
    },
    /// The device's header is there and damaged.
    #[error("{device}: the LUKS header is damaged: {reason}; restore it from a backup (Volume::restore)")]
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
    /// The volume is open, and what was asked needs it closed.
    #[error("{device} is open as /dev/mapper/{open_as}: cannot {what}; close it first")]
    Open {
        /// The device.
        device: PathBuf,
        /// The mapping.
        open_as: String,
        /// What was tried.
        what: &'static str,
    },
    /// There is no mapping of this name.
    #[error("/dev/mapper/{name} is not open")]
    NotOpen {
        /// The name.
        name: DmName,
    },
    /// The volume is another one than was meant.
    #[error(
        "{device} is not the volume {wanted} of the backup: {found}; say Overwrite::Always if it is to become that"
    )]
    OtherVolume {
        /// The device.
        device: PathBuf,
        /// The volume meant.
        wanted: Uuid,
        /// What is there.
        found: String,
    },
    /// The volume's key is not the one in the backup: it was reencrypted since.
    #[error(
        "the backup {file} is of another volume key than {device} has now (it was reencrypted or formatted since): with it the data could not be read"
    )]
    OtherKey {
        /// The device.
        device: PathBuf,
        /// The backup.
        file: PathBuf,
    },
    /// A reencryption is under way, or what else the header demands cannot be met.
    #[error("{device}: {what}")]
    Unfinished {
        /// The device.
        device: PathBuf,
        /// What is unfinished, and how to go on.
        what: String,
    },
    /// Key slots would be lost.
    #[error(
        "{device}: no passphrase was given for key slots {slots:?}, which would be lost; give them, or say OtherKeys::Drop"
    )]
    OtherKeys {
        /// The device.
        device: PathBuf,
        /// The slots.
        slots: Vec<u32>,
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
    /// A key file could not be read.
    #[error("cannot take the key of a key file")]
    KeyFile(#[source] TreeError),
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
            Self::Library { source, .. }
            | Self::Io { source, .. }
            | Self::TokenRefused { source, .. }
            | Self::NoKeyringKey { source, .. } => source.raw_os_error(),
            Self::Tree(source) | Self::KeyFile(source) => source.errno(),
            Self::Step(failed) => failed.cause.as_ref().and_then(Self::errno),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anything being changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Locked(_) | Self::NoMemory { .. } => true,
            Self::TokenProgram { source, .. } => source.is_retryable(),
            Self::Step(failed) => failed.cause.as_ref().is_some_and(Self::is_retryable),
            other => matches!(other.errno(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR)),
        }
    }

    /// Whether the object is in use.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Open { .. } => true,
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
