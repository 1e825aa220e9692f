//! What the kernel has: resources with their volumes, connections and the peer's volumes.

mod decode;
mod nine;
mod proc;
mod progress;
mod status;
mod words;

use std::net::SocketAddr;
use std::path::PathBuf;

use host::Sectors;

use crate::{DiskOptions, MetaDisk, Minor, NetOptions, ResourceName, ResourceOptions, Volume};

#[cfg(test)]
pub(crate) use decode::empty_resource;
pub(crate) use decode::{Tree, absorb, insert_progress, progress_of};
#[cfg(test)]
pub(crate) use nine::fresh as fresh_9;
pub(crate) use proc::insert_verify;
pub use progress::Progress;
pub(crate) use progress::Speedometer;
pub(crate) use status::absorb_status;
pub use words::{ConnState, Dialect, DiskState, ReplState, Role};

/// A resource as the kernel has it.
///
/// Read by [`Drbd::get`](crate::Drbd::get) and [`Drbd::list`](crate::Drbd::list) from `DRBD_ADM_GET_RESOURCES`, `_DEVICES`,
/// `_CONNECTIONS` and `_PEER_DEVICES`; `drbdsetup status`, `drbdsetup show`.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ResourceState {
    /// Its name.
    pub name: ResourceName,
    /// This node's role.
    pub role: Role,
    /// Why I/O stands still, if it does.
    pub suspended: Suspended,
    /// Its volumes, by number.
    pub volumes: Vec<VolumeState>,
    /// Its connections. DRBD 8.4 has one at most; none stands for `StandAlone`.
    pub connections: Vec<ConnectionState>,
    /// Its options; `None` in states that come from a [`watch`](crate::Drbd::watch), where the kernel does not send them.
    pub options: Option<ResourceOptions>,
    /// This node's number in it; DRBD 9 only.
    pub node_id: Option<u32>,
}

/// Why I/O of a resource stands still. All `false`: it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Suspended {
    /// Somebody asked for it (`drbdsetup suspend-io`).
    pub user: bool,
    /// No data can be reached (`on-no-data-accessible suspend-io`).
    pub no_data: bool,
    /// The peer is being fenced (`fencing resource-and-stonith`).
    pub fencing: bool,
    /// There is no quorum (`on-no-quorum suspend-io`); DRBD 9 only.
    pub quorum: bool,
    /// I/O does not stand still but fails (`on-no-quorum io-error`, or a forced demotion); DRBD 9 only.
    pub fails: bool,
}

impl Suspended {
    /// Whether I/O stands still for any reason.
    #[must_use]
    pub fn any(self) -> bool {
        self.user || self.no_data || self.fencing || self.quorum
    }
}

/// A volume of a resource on this node.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VolumeState {
    /// Its number in the resource.
    pub volume: Volume,
    /// Its device.
    pub minor: Minor,
    /// The state of its disk.
    pub disk: DiskState,
    /// The size of the replicated device; 0 until it has been known once.
    pub size: Sectors,
    /// The disk as it was attached; `None` without one and in states from a watch.
    pub disk_path: Option<PathBuf>,
    /// Where its metadata is; `None` as above.
    pub meta_disk: Option<MetaDisk>,
    /// The generation of the data; 4 for a disk that has never been in sync, 0 without a disk. Bit 0 says that this node is Primary.
    pub current_uuid: u64,
    /// Options of the disk; `None` as above.
    pub options: Option<DiskOptions>,
    /// Whether enough nodes are reachable for writing; DRBD 9 only.
    pub has_quorum: Option<bool>,
    /// Whether this node has no disk on purpose; DRBD 9 only.
    pub is_diskless_client: bool,
    /// Counters, which change all the time.
    pub counters: VolumeCounters,
}

/// Counters of a volume (`struct device_statistics`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VolumeCounters {
    /// Read from the disk.
    pub read: Sectors,
    /// Written to the disk.
    pub written: Sectors,
    /// Requests from above that are not finished.
    pub upper_pending: u32,
    /// Requests to the disk that are not finished; `None` in what [`list`](crate::Drbd::list) reads from 8.4.
    pub lower_pending: Option<u32>,
}

/// A way to a peer; DRBD 9 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PathState {
    /// This node's end.
    pub local: SocketAddr,
    /// The peer's end.
    pub peer: SocketAddr,
    /// Whether it carries data.
    pub is_established: bool,
}

/// A connection to a peer.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ConnectionState {
    /// This node's end; in DRBD 9 that of the first path, and `0.0.0.0:0` without one.
    pub local: SocketAddr,
    /// The peer's end; as above.
    pub peer: SocketAddr,
    /// Its ways; DRBD 9 only.
    pub paths: Vec<PathState>,
    /// The peer's number; DRBD 9 only.
    pub node_id: Option<u32>,
    /// The peer's name; DRBD 9 only.
    pub peer_name: Option<String>,
    /// Its state.
    pub state: ConnState,
    /// The peer's role; [`Role::Unknown`] while it is not connected.
    pub peer_role: Role,
    /// The peer's volumes, by number.
    pub volumes: Vec<PeerVolumeState>,
    /// Its options; `None` in states from a watch.
    pub options: Option<NetOptions>,
    /// Whether the send buffer is congested; `None` in what [`list`](crate::Drbd::list) reads from 8.4.
    pub congested: Option<bool>,
}

/// A volume as it is on a peer.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PeerVolumeState {
    /// Its number in the resource.
    pub volume: Volume,
    /// What goes on between the two disks.
    pub repl: ReplState,
    /// The peer's disk.
    pub peer_disk: DiskState,
    /// What is known to differ.
    pub out_of_sync: Sectors,
    /// How far the resync is, while one is going on; `None` in states from a watch. [`Progress::rate`] and [`Progress::eta`] need two
    /// looks and are filled in by [`wait_synced`](crate::Drbd::wait_synced) only: DRBD 8.4 does not tell them, DRBD 9 does.
    pub resync: Option<Progress>,
    /// How far an online verify is, while one is going on; `None` in states from a watch. 8.4 tells it in `/proc/drbd` alone.
    pub verify: Option<Progress>,
    /// Whether the resync is paused, and by whom.
    pub paused: Paused,
    /// Options of the volume at this peer: resync speed and the like; `None` in 8.4, where they stand at the disk, and in states from a watch.
    pub options: Option<DiskOptions>,
    /// Counters, which change all the time.
    pub counters: PeerVolumeCounters,
}

/// Who pauses a resync. All `false`: nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Paused {
    /// Somebody on this node.
    pub user: bool,
    /// The peer.
    pub peer: bool,
    /// `resync-after`: another device comes first.
    pub dependency: bool,
}

/// Counters of a peer's volume (`struct peer_device_statistics`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PeerVolumeCounters {
    /// Received from the peer.
    pub received: Sectors,
    /// Sent to the peer.
    pub sent: Sectors,
    /// Requests the peer has not answered.
    pub pending: u32,
    /// Requests of the peer this node has not answered; `None` in what [`list`](crate::Drbd::list) reads from 8.4.
    pub unacked: Option<u32>,
}

impl ConnectionState {
    /// Whether the nodes have told each other their roles and the state of all volumes.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == ConnState::Connected
            && self.peer_role != Role::Unknown
            && self.volumes.iter().all(|volume| volume.repl != ReplState::Off)
    }
}

impl ResourceState {
    /// Whether this node is Primary.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }

    /// Whether the peer is known to be Secondary; `None` if it is not connected, and so nothing is known.
    ///
    /// This is what a takeover asks: `Some(true)` means that the peer has given the data up.
    #[must_use]
    pub fn peer_is_secondary(&self) -> Option<bool> {
        let roles: Vec<_> = self
            .connections
            .iter()
            .map(|connection| match (connection.state, connection.peer_role) {
                (ConnState::Connected, Role::Primary) => Some(false),
                (ConnState::Connected, Role::Secondary) => Some(true),
                _ => None,
            })
            .collect();
        if roles.contains(&Some(false)) {
            return Some(false);
        }
        (!roles.is_empty() && roles.iter().all(|role| *role == Some(true))).then_some(true)
    }

    /// Whether there is a connection and all of them are up, for all volumes and with the peer's role known.
    ///
    /// [`ConnState::Connected`] alone says less: DRBD 8.4 says it from the moment the sockets are up, before the nodes have told each other
    /// their roles and generations (`C_WF_REPORT_PARAMS`).
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.connections.is_empty() && self.connections.iter().all(ConnectionState::is_up)
    }

    /// Whether both nodes have all data: connected, all disks of both UpToDate, no resync.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.is_connected()
            && !self.volumes.is_empty()
            && self.volumes.iter().all(|volume| volume.disk == DiskState::UpToDate)
            && self.connections.iter().all(|connection| {
                self.volumes.iter().all(|volume| {
                    connection.volumes.iter().any(|peer| {
                        peer.volume == volume.volume
                            && peer.peer_disk == DiskState::UpToDate
                            && !peer.repl.is_sync_pending()
                    })
                })
            })
    }

    /// How far the resync of the whole resource is, all volumes taken together; `None` if none is going on.
    #[must_use]
    pub fn resync(&self) -> Option<Progress> {
        let peers = self.connections.iter().flat_map(|connection| &connection.volumes);
        Progress::sum(&peers.filter_map(|peer| peer.resync).collect::<Vec<_>>())
    }

    /// A volume by its number.
    #[must_use]
    pub fn volume(&self, volume: Volume) -> Option<&VolumeState> {
        self.volumes.iter().find(|v| v.volume == volume)
    }

    /// Whether two states differ in nothing but counters and amounts.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let plain = |state: &Self| {
            let mut state = state.clone();
            state.volumes.iter_mut().for_each(|volume| volume.counters = VolumeCounters::default());
            for peer in state.connections.iter_mut().flat_map(|c| c.volumes.iter_mut()) {
                peer.counters = PeerVolumeCounters::default();
                peer.out_of_sync = Sectors(0);
                peer.resync = None;
                peer.verify = None;
            }
            state
        };
        plain(self) == plain(other)
    }

    /// The state in one line, for errors: `Secondary, volume 0 Inconsistent, Connecting`.
    pub(crate) fn summary(&self) -> String {
        let mut parts = vec![self.role.to_string()];
        parts.extend(self.volumes.iter().map(|v| format!("volume {} {}", v.volume, v.disk)));
        if self.connections.is_empty() {
            parts.push(ConnState::StandAlone.to_string());
        }
        for connection in &self.connections {
            parts.push(format!("{} {}, peer {}", connection.peer, connection.state, connection.peer_role));
            let peers = connection.volumes.iter();
            parts.extend(peers.map(|v| format!("peer volume {} {} {}", v.volume, v.peer_disk, v.repl)));
        }
        parts.join(", ")
    }
}
