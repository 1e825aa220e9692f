//! What can go wrong, by group and volume.

use std::path::PathBuf;
use std::time::Duration;

use host::signature::Found;
use host::{ParseError, TreeError};

use super::preflight::Finding;
use super::state::Holder;

/// An error of shared volume groups.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A volume is in use by another host.
    #[error(
        "{volume} is in use by {}; deactivate it there, or let that host become free of it",
        shown(holders)
    )]
    Held {
        /// The volume: "vms/vm1".
        volume: String,
        /// Who; empty if it could not be read.
        holders: Vec<Holder>,
    },
    /// Another host is changing the group or the list of groups at this moment.
    #[error("{lock} is held by another host; try again")]
    Contended {
        /// "the lock of group vms", "the global lock".
        lock: String,
    },
    /// lvmlockd or sanlock does not run or does not answer (lvm's error -210).
    #[error("the lock manager does not run here ({said}); start it first")]
    NoLockManager {
        /// What lvm said.
        said: String,
    },
    /// The group's lockspace is not started on this host.
    #[error("group {vg} is not started on this host; join it first (vgchange --lock-start {vg})")]
    NotStarted {
        /// The group.
        vg: String,
    },
    /// The group's lockspace is being started.
    #[error("group {vg} is still being started on this host; sanlock takes 20 s to 3 minutes")]
    Starting {
        /// The group.
        vg: String,
    },
    /// sanlock cannot reach the leases, or has lost them.
    #[error("sanlock has no access to the leases of group {vg} ({said}); look at the paths of its disk")]
    LeasesLost {
        /// The group.
        vg: String,
        /// What lvm said.
        said: String,
    },
    /// sanlock may not open the volume with the locks.
    #[error(
        "sanlock cannot open lvmlock of group {vg} ({said}); block devices must be open to its user: group disk, mode 0660"
    )]
    NoAccess {
        /// The group.
        vg: String,
        /// What lvm said.
        said: String,
    },
    /// The global lock is in a group that is not started here.
    #[error("the global lock is in another group that is not started here; start that group first ({said})")]
    GlobalLockElsewhere {
        /// What lvm said.
        said: String,
    },
    /// There is no room for another volume's lock.
    #[error("lvmlock of group {vg} has no room for another lock; grow it")]
    NoRoomForLocks {
        /// The group.
        vg: String,
    },
    /// There is no such group or volume.
    #[error("there is no {object} here")]
    NotFound {
        /// "group vms", "volume vms/vm1".
        object: String,
    },
    /// It is there already.
    #[error("{object} is there already")]
    AlreadyExists {
        /// "group vms", "volume vms/vm1".
        object: String,
    },
    /// The group is not coordinated by sanlock.
    #[error("group {vg} has the lock type {lock_type}, not sanlock")]
    NotShared {
        /// The group.
        vg: String,
        /// What it is.
        lock_type: String,
    },
    /// The device holds something.
    #[error("{} holds {}; nothing was changed", device.display(), list(found))]
    Occupied {
        /// The device.
        device: PathBuf,
        /// What.
        found: Vec<Found>,
    },
    /// A program of this host uses the volume.
    #[error("{volume} is in use on this host by {users}; stop that first")]
    Busy {
        /// The volume or group.
        volume: String,
        /// Who.
        users: String,
    },
    /// This host must not share volumes as it is.
    #[error("this host is not fit to share volumes: {}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unfit {
        /// Why, and what to do.
        findings: Vec<Finding>,
    },
    /// lvm ended well and the lock is not as it should be.
    #[error("volume {volume} should be active {wanted} and is {seen}")]
    Lock {
        /// The volume.
        volume: String,
        /// How it should be.
        wanted: super::Activation,
        /// How it is.
        seen: String,
    },
    /// A step failed, and what was done before it could not be undone.
    #[error("{failed}; and what was done before could not be undone: {left}")]
    NotUndone {
        /// What failed.
        failed: Box<Self>,
        /// What is left, with what undoes it.
        left: String,
    },
    /// lvm refused for another reason.
    #[error("lvm refused: {said}")]
    Lvm {
        /// What it said.
        said: String,
        /// The command.
        source: host::exec::Error,
    },
    /// A program cannot be run, or did not end in time.
    #[error("cannot run a program of LVM or sanlock")]
    Exec(#[source] host::exec::Error),
    /// A program's answer cannot be read.
    #[error("the answer of {program} cannot be read: {reason}")]
    Answer {
        /// The program and what it was asked.
        program: String,
        /// What is wrong.
        reason: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen in time; {seen}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// What is there instead.
        seen: String,
    },
    /// The host's number is in use by another host.
    #[error(
        "host number {id} is in use by {owner} in group {vg}, which renewed its lease within {within:?}; give this host another one"
    )]
    HostIdTaken {
        /// The number.
        id: super::HostId,
        /// Who has it.
        owner: String,
        /// The group.
        vg: String,
        /// How long it was watched.
        within: Duration,
    },
    /// What was asked cannot be.
    #[error("{object}: {reason}")]
    Invalid {
        /// The value.
        object: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A device cannot be read.
    #[error("cannot read {}", device.display())]
    Device {
        /// The device.
        device: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A kernel or configuration file could not be read or written.
    #[error("cannot use a file of LVM or sanlock")]
    Tree(#[source] TreeError),
    /// The multipath maps cannot be read.
    #[error("cannot read the multipath maps")]
    Multipath(#[source] crate::Error),
    /// A name or number has not the form it needs.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

fn shown(holders: &[Holder]) -> String {
    match holders.is_empty() {
        true => "another host".to_owned(),
        false => holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
    }
}

fn list(found: &[Found]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

impl Error {
    /// The error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Tree(source) => source.errno(),
            Self::Device { source, .. } => source.raw_os_error(),
            Self::Multipath(source) => source.errno(),
            Self::NotUndone { failed, .. } => failed.errno(),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anything being changed here.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Held { .. }
            | Self::Contended { .. }
            | Self::Starting { .. }
            | Self::LeasesLost { .. }
            | Self::Busy { .. }
            | Self::TimedOut { .. } => true,
            Self::Exec(source) => source.is_retryable(),
            Self::Multipath(source) => source.is_retryable(),
            _ => false,
        }
    }

    /// Whether the object is in use, here or on another host.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Held { .. } | Self::Busy { .. })
    }
}

/// The result of this module's calls.
pub type Result<T> = std::result::Result<T, Error>;
