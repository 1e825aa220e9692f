//! From what is to what is wanted, as steps. Pure.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use host::{Impact, Plan};

use crate::{
    ConnState, ConnectionState, DiskOptions, DiskState, Error, MetaDisk, Minor, NetOptions, ResourceName,
    ResourceOptions, ResourceSpec, ResourceState, Result, Volume, VolumeSpec, VolumeState,
};

/// One change. `Display` is the line of drbdsetup or drbdmeta that does the same; secrets are `***` in it.
///
/// Serialised steps hold no shared secret: an undo read back from a file restores every other option, and leaves the connection
/// without a secret until the spec is applied again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Step {
    /// Makes a resource (`DRBD_ADM_NEW_RESOURCE`). Undone by [`DelResource`](Self::DelResource).
    NewResource {
        /// Its name.
        name: ResourceName,
        /// Its options.
        options: ResourceOptions,
    },
    /// Deletes a resource that has no volumes and no connection (`DRBD_ADM_DEL_RESOURCE`). Taken for done if it is not there.
    DelResource {
        /// Its name.
        name: ResourceName,
    },
    /// Sets all options of a resource (`DRBD_ADM_RESOURCE_OPTS`).
    SetResource {
        /// Its name.
        name: ResourceName,
        /// The options; what is not set becomes the default.
        options: ResourceOptions,
        /// What they were.
        before: ResourceOptions,
    },
    /// Makes a volume and its device (`DRBD_ADM_NEW_MINOR`). Undone by [`DelMinor`](Self::DelMinor).
    NewMinor {
        /// The resource.
        name: ResourceName,
        /// The volume.
        volume: Volume,
        /// The device.
        minor: Minor,
    },
    /// Deletes a device that has no disk (`DRBD_ADM_DEL_MINOR`). Taken for done if it is not there.
    DelMinor {
        /// The device.
        minor: Minor,
    },
    /// Replays the activity log, if it is not clean: the kernel attaches only clean ones. Nothing to undo.
    ApplyAl {
        /// The device.
        minor: Minor,
        /// Its disk.
        disk: PathBuf,
        /// Where its metadata is.
        meta: MetaDisk,
    },
    /// Gives a device its disk (`DRBD_ADM_ATTACH`). Undone by [`Detach`](Self::Detach).
    Attach {
        /// The device.
        minor: Minor,
        /// Its disk.
        disk: PathBuf,
        /// Where its metadata is.
        meta: MetaDisk,
        /// Options of the disk.
        options: DiskOptions,
    },
    /// Takes a device's disk away (`DRBD_ADM_DETACH`). Taken for done if there is none. Not undone.
    Detach {
        /// The device.
        minor: Minor,
    },
    /// Sets all options of a disk (`DRBD_ADM_CHG_DISK_OPTS`).
    SetDisk {
        /// The device.
        minor: Minor,
        /// The options; what is not set becomes the default.
        options: DiskOptions,
        /// What they were.
        before: DiskOptions,
    },
    /// Configures the connection and begins to connect (`DRBD_ADM_CONNECT`). Undone by [`Disconnect`](Self::Disconnect).
    Connect {
        /// The resource.
        name: ResourceName,
        /// This node's address.
        local: SocketAddr,
        /// The peer's.
        peer: SocketAddr,
        /// Options of the connection.
        options: NetOptions,
    },
    /// Ends the connection and forgets its configuration (`DRBD_ADM_DISCONNECT`). Taken for done if there is none. Undone by
    /// [`Connect`](Self::Connect) where the options were known.
    Disconnect {
        /// The resource.
        name: ResourceName,
        /// This node's address.
        local: SocketAddr,
        /// The peer's.
        peer: SocketAddr,
        /// The options it had.
        before: Option<NetOptions>,
    },
    /// Sets all options of the connection (`DRBD_ADM_CHG_NET_OPTS`).
    SetNet {
        /// The resource.
        name: ResourceName,
        /// This node's address.
        local: SocketAddr,
        /// The peer's.
        peer: SocketAddr,
        /// The options; what is not set becomes the default.
        options: NetOptions,
        /// What they were.
        before: NetOptions,
    },
}

impl host::plan::Step for Step {
    fn undo(&self) -> Vec<Self> {
        match self.clone() {
            Self::NewResource { name, .. } => vec![Self::DelResource { name }],
            Self::SetResource { name, options, before } => {
                vec![Self::SetResource { name, options: before, before: options }]
            }
            Self::NewMinor { minor, .. } => vec![Self::DelMinor { minor }],
            Self::Attach { minor, .. } => vec![Self::Detach { minor }],
            Self::SetDisk { minor, options, before } => {
                vec![Self::SetDisk { minor, options: before, before: options }]
            }
            Self::Connect { name, local, peer, options } => {
                vec![Self::Disconnect { name, local, peer, before: Some(options) }]
            }
            Self::Disconnect { name, local, peer, before: Some(options) } => {
                vec![Self::Connect { name, local, peer, options }]
            }
            Self::SetNet { name, local, peer, options, before } => {
                vec![Self::SetNet { name, local, peer, options: before, before: options }]
            }
            Self::DelResource { .. }
            | Self::DelMinor { .. }
            | Self::ApplyAl { .. }
            | Self::Detach { .. }
            | Self::Disconnect { before: None, .. } => Vec::new(),
        }
    }

    fn impact(&self) -> Impact {
        match self {
            Self::Connect { options, .. } if options.discards_my_data() => Impact::DestroysData,
            Self::Disconnect { .. } => Impact::DropsSessions,
            _ => Impact::Online,
        }
    }
}

/// An address as drbdsetup takes it: `ipv4:10.0.0.1:7788`.
pub(crate) struct Shown(pub(crate) SocketAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", if self.0.is_ipv4() { "ipv4" } else { "ipv6" }, self.0)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewResource { name, options } => {
                write!(f, "drbdsetup new-resource {name}{}", options.arguments())
            }
            Self::DelResource { name } => write!(f, "drbdsetup del-resource {name}"),
            Self::SetResource { name, options, .. } => {
                write!(f, "drbdsetup resource-options {name} --set-defaults{}", options.arguments())
            }
            Self::NewMinor { name, volume, minor } => {
                write!(f, "drbdsetup new-minor {name} {minor} {volume}")
            }
            Self::DelMinor { minor } => write!(f, "drbdsetup del-minor {minor}"),
            Self::ApplyAl { minor, disk, meta } => {
                let (device, index) = meta.words(disk);
                write!(f, "drbdmeta {minor} v08 {device} {index} apply-al")
            }
            Self::Attach { minor, disk, meta, options } => {
                let (device, index) = meta.words(disk);
                let disk = disk.display();
                write!(f, "drbdsetup attach {minor} {disk} {device} {index}{}", options.arguments())
            }
            Self::Detach { minor } => write!(f, "drbdsetup detach {minor}"),
            Self::SetDisk { minor, options, .. } => {
                write!(f, "drbdsetup disk-options {minor} --set-defaults{}", options.arguments())
            }
            Self::Connect { name, local, peer, options } => {
                write!(
                    f,
                    "drbdsetup connect {name} {} {}{}",
                    Shown(*local),
                    Shown(*peer),
                    options.arguments()
                )
            }
            Self::Disconnect { local, peer, .. } => {
                write!(f, "drbdsetup disconnect {} {}", Shown(*local), Shown(*peer))
            }
            Self::SetNet { local, peer, options, .. } => {
                let (local, peer) = (Shown(*local), Shown(*peer));
                write!(f, "drbdsetup net-options {local} {peer} --set-defaults{}", options.arguments())
            }
        }
    }
}

/// The steps from a state (`None`: there is no such resource) to a spec.
///
/// Order: resource, volumes, disks, connection, as `drbdadm up` does it; a changed address ends the old connection just before the new
/// one. Volumes that the spec does not name are left alone.
///
/// # Errors
/// [`Error::Spec`] if the spec is wrong by itself, [`Error::Conflict`] if what is there cannot become what is wanted: a volume with
/// another device, disk or place of its metadata.
pub fn diff(state: Option<&ResourceState>, spec: &ResourceSpec) -> Result<Plan<Step>> {
    spec.check()?;
    let mut plan = Plan::default();
    match state {
        None => plan.push(Step::NewResource { name: spec.name.clone(), options: spec.options.clone() }),
        Some(state) => {
            let before = state.options.clone().unwrap_or_default();
            if !before.differences(&spec.options).is_empty() {
                let (name, options) = (spec.name.clone(), spec.options.clone());
                plan.push(Step::SetResource { name, options, before });
            }
        }
    }
    let mut attach = Plan::default();
    for volume in &spec.volumes {
        let seen = state.and_then(|state| state.volume(volume.volume));
        if seen.is_none() {
            let (name, minor) = (spec.name.clone(), volume.minor);
            plan.push(Step::NewMinor { name, volume: volume.volume, minor });
        }
        disk(seen, spec, volume, &mut attach)?;
    }
    plan.append(attach);
    connection(state.and_then(|state| state.connections.first()), spec, &mut plan);
    Ok(plan)
}

fn disk(
    seen: Option<&VolumeState>,
    spec: &ResourceSpec,
    volume: &VolumeSpec,
    plan: &mut Plan<Step>,
) -> Result<()> {
    let (minor, options) = (volume.minor, spec.disk_options(volume).clone());
    if let Some(seen) = seen {
        no_conflict(&spec.name, seen, volume)?;
        if seen.disk != DiskState::Diskless {
            let before = seen.options.clone().unwrap_or_default();
            if !before.differences(&options).is_empty() {
                plan.push(Step::SetDisk { minor, options, before });
            }
            return Ok(());
        }
    }
    let (disk, meta) = (volume.disk.clone(), volume.meta.clone());
    plan.push(Step::ApplyAl { minor, disk: disk.clone(), meta: meta.clone() });
    plan.push(Step::Attach { minor, disk, meta, options });
    Ok(())
}

/// Whether a volume that is there is the one that is wanted: its device and disk cannot be exchanged.
pub(crate) fn no_conflict(name: &ResourceName, seen: &VolumeState, wanted: &VolumeSpec) -> Result<()> {
    let conflict = |what: String| Err(Error::Conflict { name: name.clone(), what });
    let (number, minor) = (wanted.volume, wanted.minor);
    if seen.minor != minor {
        return conflict(format!("volume {number} has minor {}, not {minor}", seen.minor));
    }
    if let Some(path) = seen.disk_path.as_ref().filter(|path| **path != wanted.disk) {
        let (is, wanted) = (path.display(), wanted.disk.display());
        return conflict(format!("volume {number} is on the disk {is}, not on {wanted}"));
    }
    if let Some(meta) = seen.meta_disk.as_ref().filter(|meta| **meta != wanted.meta) {
        let wanted = &wanted.meta;
        return conflict(format!("volume {number} has its metadata at {meta:?}, not at {wanted:?}"));
    }
    Ok(())
}

fn connection(seen: Option<&ConnectionState>, spec: &ResourceSpec, plan: &mut Plan<Step>) {
    let (name, options) = (spec.name.clone(), spec.net.clone());
    if let Some(seen) = seen {
        let (local, peer) = (seen.local, seen.peer);
        let ended = matches!(seen.state, ConnState::StandAlone | ConnState::Disconnecting);
        if (local, peer) == (spec.local, spec.peer) && !ended {
            let before = seen.options.clone().unwrap_or_default();
            if !before.differences(&options).is_empty() {
                plan.push(Step::SetNet { name, local, peer, options, before });
            }
            return;
        }
        plan.push(Step::Disconnect { name: name.clone(), local, peer, before: seen.options.clone() });
    }
    plan.push(Step::Connect { name, local: spec.local, peer: spec.peer, options });
}
