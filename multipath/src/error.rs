//! What can go wrong, by portal, target and map.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use host::{Iqn, LockError, ParseError, TreeError, Wwid};

use crate::wire::reply::Reply;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// multipathd does not answer.
    #[error("multipathd does not run here; start it (systemctl start multipathd)")]
    NoDaemon(#[source] io::Error),
    /// multipathd refused a command.
    #[error("multipathd refused {command:?}: {reply}")]
    Daemon {
        /// The command.
        command: String,
        /// What it answered.
        reply: Reply,
    },
    /// The connection to multipathd broke; whether it carried the command out is not known.
    #[error("the connection to multipathd broke at {command:?}")]
    Connection {
        /// The command.
        command: String,
        /// The reason.
        source: io::Error,
    },
    /// multipathd's answer cannot be read.
    #[error("multipathd's answer to {command:?} cannot be read: {reason}")]
    Answer {
        /// The command.
        command: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A portal cannot be reached.
    #[error("portal {portal} cannot be reached; is its address up and the target running?")]
    Portal {
        /// The portal.
        portal: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// A portal refused the login.
    #[error("portal {portal} refused the login: {reason}")]
    Login {
        /// The portal.
        portal: SocketAddr,
        /// What its status class and detail mean, and what to do.
        reason: String,
        /// Status class and detail (RFC 7143, 11.13.5).
        status: (u8, u8),
    },
    /// A portal does not speak iSCSI as it should.
    #[error("portal {portal} broke the protocol: {reason}")]
    Protocol {
        /// The portal.
        portal: SocketAddr,
        /// How.
        reason: String,
    },
    /// Logging in through iscsiadm failed.
    #[error("cannot log in to {target} at {portal}")]
    Iscsiadm {
        /// The target.
        target: Iqn,
        /// The portal.
        portal: SocketAddr,
        /// What iscsiadm said.
        source: host::exec::Error,
    },
    /// Logging out through iscsiadm failed.
    #[error("cannot log out of {target} (session {session})")]
    Logout {
        /// The target.
        target: Iqn,
        /// The session's number.
        session: u32,
        /// What iscsiadm said.
        source: host::exec::Error,
    },
    /// A target does not show the disk that was asked for.
    #[error(
        "{target} shows no LUN {lun} to us through {portal}; it shows {seen}. Is it mapped in the target's ACL?"
    )]
    NoLun {
        /// The target.
        target: Iqn,
        /// The portal.
        portal: SocketAddr,
        /// The number that was asked for.
        lun: u16,
        /// What it shows: the numbers of the disks that are there, or "nothing".
        seen: String,
    },
    /// A map has no working path, and what waits in it would wait for ever.
    #[error(
        "{object} has no working path, so what is written last cannot be kept; bring a path back, or detach by force and lose it"
    )]
    NoPath {
        /// The map.
        object: String,
    },
    /// Something failed, and taking back what was done so far failed, too.
    #[error("what was done before the failure could not all be taken back; left are: {left}")]
    NotUndone {
        /// What is left, and why.
        left: String,
        /// What failed first.
        source: Box<Self>,
    },
    /// A path shows another disk than the others or than was asked for.
    #[error(
        "{device} at {target} is disk {found}, not {expected}; the target's LUN was exchanged, nothing was attached"
    )]
    WrongDisk {
        /// The path's device.
        device: String,
        /// The target.
        target: Iqn,
        /// What it is.
        found: Wwid,
        /// What it should be.
        expected: Wwid,
    },
    /// Somebody uses the map.
    #[error("{object} is in use by {holders}; stop that first")]
    Busy {
        /// The map.
        object: String,
        /// Who.
        holders: String,
    },
    /// There is one already.
    #[error("{object} exists already")]
    Exists {
        /// The map.
        object: String,
    },
    /// Device-mapper refused.
    #[error("cannot {what} {object}")]
    Mapper {
        /// What was tried.
        what: String,
        /// The map.
        object: String,
        /// The reason.
        source: io::Error,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen before the deadline; {seen}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// What is there instead.
        seen: String,
    },
    /// The spec contradicts itself.
    #[error("{object}: {reason}")]
    Invalid {
        /// The value.
        object: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A kernel or configuration file could not be read or written.
    #[error("cannot use a file of the initiator")]
    Tree(#[source] TreeError),
    /// A file of the open-iscsi database is not there after iscsiadm made it.
    #[error("open-iscsi made no record at {path}; is its database elsewhere?")]
    NoRecord {
        /// Where it should be.
        path: PathBuf,
    },
    /// The kernel's events cannot be heard.
    #[error("cannot listen to the kernel's events")]
    Events(#[source] host::nl::Error),
    /// A watch cannot listen to the kernel.
    #[error("cannot listen to the kernel's events of devices and connections")]
    Watch(#[source] io::Error),
    /// A module is missing.
    #[error("cannot load a kernel module")]
    Module(#[source] host::exec::Error),
    /// Another process is attaching or detaching.
    #[error("disks are being attached or detached by another process")]
    Locked(#[source] LockError),
    /// A name or number has not the form it needs.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

impl Error {
    /// The error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::NoDaemon(source)
            | Self::Watch(source)
            | Self::Portal { source, .. }
            | Self::Connection { source, .. }
            | Self::Mapper { source, .. } => source.raw_os_error(),
            Self::Tree(source) => source.errno(),
            Self::Events(source) => source.errno(),
            Self::NotUndone { source, .. } => source.errno(),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anything being changed here.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoDaemon(_)
            | Self::Connection { .. }
            | Self::Portal { .. }
            | Self::TimedOut { .. }
            | Self::Locked(_)
            | Self::Busy { .. } => true,
            Self::NotUndone { source, .. } => source.is_retryable(),
            Self::Daemon { reply, .. } => reply.is_retryable(),
            Self::Mapper { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::EBUSY | libc::EINTR | libc::EAGAIN))
            }
            // Class 3 is the target's trouble and passes; class 2 is ours and does not.
            Self::Login { status, .. } => status.0 == 3,
            Self::Iscsiadm { source, .. } | Self::Logout { source, .. } => {
                source.is_retryable() || matches!(source.code(), Some(4 | 8 | 11 | 28 | 29 | 33))
            }
            _ => false,
        }
    }

    /// Whether the object is in use.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Daemon { reply: Reply::Busy, .. })
            || matches!(self, Self::Mapper { source, .. } if source.raw_os_error() == Some(libc::EBUSY))
    }
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;
