//! What is seen: groups with their volumes, lockspaces of this host, hosts of a lockspace, leases on the disk.

use std::path::PathBuf;
use std::time::Duration;

use host::Bytes;

use super::{Activation, HostId};
use crate::state::words;

words! {
    /// Which lock manager coordinates a group (`vg_lock_type`).
    LockType {
        /// None: a group of one host.
        None = "none",
        /// sanlock: leases on the group's own disk.
        Sanlock = "sanlock",
        /// The distributed lock manager of corosync.
        Dlm = "dlm",
        /// A drive's own lock manager.
        Idm = "idm",
    }
}

words! {
    /// What a lock of lvmlockd protects.
    LockKind {
        /// Which groups there are.
        Global = "GL",
        /// A group's metadata.
        Group = "VG",
        /// A volume.
        Volume = "LV",
    }
}

words! {
    /// How a lock is held.
    LockMode {
        /// By one host.
        Exclusive = "ex",
        /// By hosts together.
        Shared = "sh",
        /// Not.
        Unlocked = "un",
    }
}

words! {
    /// Whether a host of the lockspace is alive, as sanlock on this host sees it: `sanlock client gets -h 1`.
    HostLiveness {
        /// It renews its lease.
        Live = "LIVE",
        /// It has not renewed its lease for a while; its volumes are still its own.
        Failing = "FAIL",
        /// Its lease is gone: its volumes can be taken over.
        Dead = "DEAD",
        /// Not seen long enough to say.
        Unknown = "UNKNOWN",
        /// It left.
        Free = "FREE",
    }
}

words! {
    /// Where this host stands in a lockspace.
    SpacePhase {
        /// It has its lease.
        Joined = "joined",
        /// It is acquiring its lease, which takes 20 s, or 140 s and more if its number was in use.
        Joining = "joining",
        /// It is giving its lease back.
        Leaving = "leaving",
        /// Its lease is lost, its volumes must go.
        Lost = "lost",
    }
}

impl LockMode {
    /// The activation that goes with it.
    #[must_use]
    pub fn activation(&self) -> Option<Activation> {
        match self {
            Self::Exclusive => Some(Activation::Exclusive),
            Self::Shared => Some(Activation::Shared),
            _ => None,
        }
    }
}

/// A volume group; `vgs`, `lvs -a`, `pvs` and `lvmlockctl -i`, joined.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VgState {
    /// Its name.
    pub name: String,
    /// Its UUID, as LVM writes it.
    pub uuid: String,
    /// Its size.
    pub size: Bytes,
    /// What is not allocated.
    pub free: Bytes,
    /// The unit of allocation.
    pub extent: Bytes,
    /// Who coordinates it.
    pub lock_type: LockType,
    /// Whether this host has its lockspace: without it only reading works.
    pub started: bool,
    /// Its disks.
    pub pvs: Vec<PvState>,
    /// Its volumes, without those LVM keeps for itself.
    pub lvs: Vec<LvState>,
    /// The volume with the locks, `lvmlock`; `None` for a group that sanlock does not coordinate.
    pub lvmlock: Option<LvState>,
}

/// A disk of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PvState {
    /// Its device, as LVM has opened it.
    pub device: PathBuf,
    /// Its size.
    pub size: Bytes,
    /// What is not allocated.
    pub free: Bytes,
    /// Where its first extent begins.
    pub start: Bytes,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LvState {
    /// Its name.
    pub name: String,
    /// Its UUID, which is also the name of its lock.
    pub uuid: String,
    /// Its size.
    pub size: Bytes,
    /// Whether this host has it as a device.
    pub active: bool,
    /// Whether a program of this host has the device open.
    pub open: bool,
    /// How this host holds its lock; `None`: not.
    pub lock: Option<LockMode>,
    /// Where its lock is: "1.0.0:70254592" is byte 70254592 of `lvmlock`.
    pub lock_args: String,
    /// Where its first segment begins: "/dev/mapper/mpatha(65)".
    pub devices: String,
    /// The device: `/dev/mapper/VG-LV`; there only while it is active.
    pub path: PathBuf,
}

impl LvState {
    /// How this host uses it; `None`: not at all, or without a lock.
    #[must_use]
    pub fn activation(&self) -> Option<Activation> {
        self.lock.as_ref().filter(|_| self.active).and_then(LockMode::activation)
    }

    /// Where its lock is in `lvmlock`, in bytes.
    #[must_use]
    pub fn lock_offset(&self) -> Option<u64> {
        self.lock_args.rsplit_once(':').and_then(|(_, offset)| offset.parse().ok())
    }
}

/// A lockspace of lvmlockd on this host: a group that is started here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LockspaceState {
    /// The group.
    pub vg: String,
    /// The group's UUID.
    pub uuid: String,
    /// Who coordinates it.
    pub kind: LockType,
    /// Its name for the lock manager: `lvm_VG`.
    pub lockspace: String,
    /// What this host holds.
    pub locks: Vec<LockHeld>,
}

impl LockspaceState {
    pub(super) fn new(vg: String, kind: &str, uuid: String) -> Self {
        Self { vg, uuid, kind: LockType::from_word(kind), lockspace: String::new(), locks: Vec::new() }
    }

    /// How this host holds the lock of a volume.
    #[must_use]
    pub fn lv_mode(&self, uuid: &str) -> Option<&LockMode> {
        self.locks.iter().find(|lock| lock.uuid.as_deref() == Some(uuid)).map(|lock| &lock.mode)
    }
}

/// A lock that this host holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LockHeld {
    /// What it protects.
    pub kind: LockKind,
    /// How it is held.
    pub mode: LockMode,
    /// Which volume it is of.
    pub uuid: Option<String>,
}

impl LockHeld {
    pub(super) fn new(kind: LockKind, mode: LockMode, uuid: Option<String>) -> Self {
        Self { kind, mode, uuid }
    }
}

/// The sanlock that runs on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SanlockState {
    /// The name under which it acquires leases: a random UUID, a dot, the host's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it feeds the watchdog; `None` if it does not say.
    pub watchdog: Option<bool>,
    /// The lockspaces it is in.
    pub spaces: Vec<SanlockSpace>,
}

impl SanlockState {
    pub(super) fn new(name: String) -> Self {
        Self { name, version: String::new(), watchdog: None, spaces: Vec::new() }
    }
}

/// A lockspace of sanlock on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SanlockSpace {
    /// Its name: `lvm_VG`.
    pub name: String,
    /// This host's number in it.
    pub host_id: HostId,
    /// Where it is: `/dev/mapper/VG-lvmlock`.
    pub path: PathBuf,
    /// Where this host stands in it.
    pub phase: SpacePhase,
    /// The I/O timeout in force.
    pub io_timeout: Option<Duration>,
}

impl SanlockSpace {
    pub(super) fn new(name: String, host_id: HostId, path: String, phase: SpacePhase) -> Self {
        Self { name, host_id, path: path.into(), phase, io_timeout: None }
    }
}

/// A host of a lockspace, as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HostState {
    /// Its number.
    pub id: HostId,
    /// The name under which it has its lease; `None` if it was not read yet.
    pub name: Option<String>,
    /// How often the number was acquired.
    pub generation: u64,
    /// When it renewed its lease, in seconds of its own clock since its boot.
    pub timestamp: u64,
    /// Whether it is alive.
    pub liveness: HostLiveness,
}

impl HostState {
    pub(super) fn new(
        id: HostId,
        name: Option<String>,
        generation: u64,
        timestamp: u64,
        liveness: HostLiveness,
    ) -> Self {
        Self { id, name, generation, timestamp, liveness }
    }
}

/// A lease as it is on the disk: a host's on its number, or a resource's (the UUID of a volume, `VGLK`, `GLLK`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Lease {
    /// Where it is in `lvmlock`, in bytes.
    pub offset: u64,
    /// The lockspace.
    pub lockspace: String,
    /// The resource, or the name of the host.
    pub resource: String,
    /// Whether it is a host's.
    pub is_host: bool,
    /// When it was acquired or renewed, in seconds of the owner's clock; 0: it was given back.
    pub timestamp: u64,
    /// Who has it, or had it last.
    pub owner: Option<HostId>,
    /// How often the owner's number had been acquired then.
    pub generation: u64,
    /// Who shares it.
    pub shared_by: Vec<HostId>,
}

impl Lease {
    pub(super) fn new(offset: u64, lockspace: String, resource: String, timestamp: u64) -> Self {
        Self {
            offset,
            lockspace,
            resource,
            is_host: false,
            timestamp,
            owner: None,
            generation: 0,
            shared_by: Vec::new(),
        }
    }

    /// Whether it is held shared.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        !self.shared_by.is_empty()
    }

    /// Who holds it. A host that died still does, until another one takes it over.
    #[must_use]
    pub fn holders(&self) -> Vec<HostId> {
        match self.is_shared() {
            true => self.shared_by.clone(),
            false => self.owner.filter(|_| self.timestamp != 0).into_iter().collect(),
        }
    }
}

/// A host that holds a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Holder {
    /// Its number.
    pub id: HostId,
    /// Its name, where its lease has one.
    pub name: Option<String>,
    /// How it holds it.
    pub activation: Activation,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "host {} ({}, {})", self.id, host_part(name), self.activation),
            None => write!(f, "host {} ({})", self.id, self.activation),
        }
    }
}

/// The host's name in the name of a sanlock: "d3b1...-uuid.hv1" is hv1's.
pub(super) fn host_part(name: &str) -> &str {
    name.split_once('.').map_or(name, |(_, host)| host)
}
