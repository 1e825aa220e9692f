//! From messages to states. Dumps and events carry the same nests, so one function takes both.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use host::Sectors;
use host::nl::Attribute;

use super::nine;
use super::{
    ConnState, ConnectionState, Dialect, DiskState, Paused, PeerVolumeCounters, PeerVolumeState, Progress,
    ReplState, ResourceState, Role, Suspended, VolumeCounters, VolumeState,
};
use crate::wire::{Command, Packet, nest};
use crate::{DiskOptions, MetaDisk, Minor, NetOptions, ResourceName, ResourceOptions, Volume};

/// The resources of a kernel.
pub(crate) type Tree = BTreeMap<ResourceName, ResourceState>;

impl Dialect {
    fn disk_state(self, number: u32) -> DiskState {
        match self {
            Self::Drbd84 => DiskState::from_number(number),
            // 9 has put a state in between (include/linux/drbd.h of drbd-headers).
            Self::Drbd9 => match number {
                0 | 1 => DiskState::from_number(number),
                2 => DiskState::Detaching,
                3..=9 => DiskState::from_number(number.saturating_sub(1)),
                other => DiskState::Other(other),
            },
        }
    }
}

/// Enters a message of a dump or an event into the tree; `gone` is an event that says that the object is destroyed.
///
/// An object whose resource is not in the tree is passed over: dumps are not atomic between each other, and a connection that has
/// never been configured is none.
pub(crate) fn absorb(dialect: Dialect, tree: &mut Tree, packet: &Packet<'_>, gone: bool) {
    let Some(name) = packet.context.resource.as_deref().map(ResourceName::from_kernel) else { return };
    let is = |dump: Command, event: Command| [dump.0, event.0].contains(&packet.command);
    if is(Command::GET_RESOURCES, Command::RESOURCE_STATE) {
        if gone {
            tree.remove(&name);
        } else {
            resource(dialect, tree, name, packet);
        }
        return;
    }
    let Some(state) = tree.get_mut(&name) else { return };
    if is(Command::GET_DEVICES, Command::DEVICE_STATE) {
        device_table(dialect, state, packet, gone);
    } else if is(Command::GET_CONNECTIONS, Command::CONNECTION_STATE) {
        connection(dialect, state, packet, gone);
    } else if is(Command::GET_PEER_DEVICES, Command::PEER_DEVICE_STATE) {
        peer_device(dialect, state, packet, gone);
    } else if is(Command::GET_PATHS, Command::PATH_STATE) {
        nine::path(state, packet, gone);
    }
}

fn resource(dialect: Dialect, tree: &mut Tree, name: ResourceName, packet: &Packet<'_>) {
    let state = tree.entry(name).or_insert_with_key(|name| empty_resource(name.clone()));
    if let Some(nest) = packet.nest(nest::RESOURCE_OPTS) {
        let options = state.options.insert(ResourceOptions::default());
        match dialect {
            Dialect::Drbd84 => *options = ResourceOptions::decode(nest),
            Dialect::Drbd9 => {
                options.absorb_9(nest::RESOURCE_OPTS, nest);
                state.node_id = packet.field(nest::RESOURCE_OPTS, 4).and_then(|field| field.u32());
            }
        }
    }
    each(packet.nest(nest::RESOURCE_INFO), |field| match field.kind {
        1 => state.role = Role::from_number(field.u32().unwrap_or_default()),
        2 => state.suspended.user = flag(field),
        3 => state.suspended.no_data = flag(field),
        4 => state.suspended.fencing = flag(field),
        5 => state.suspended.quorum = flag(field),
        6 => state.suspended.fails = flag(field),
        _ => {}
    });
}

/// A resource of which nothing is known but its name.
pub(crate) fn empty_resource(name: ResourceName) -> ResourceState {
    ResourceState {
        name,
        role: Role::Unknown,
        suspended: Suspended::default(),
        volumes: Vec::new(),
        connections: Vec::new(),
        options: None,
        node_id: None,
    }
}

/// The entry of a volume, made if it is not there yet.
pub(super) fn device(state: &mut ResourceState, volume: Volume, minor: u32) -> Option<&mut VolumeState> {
    let place = match state.volumes.binary_search_by_key(&volume, |v| v.volume) {
        Ok(place) => place,
        Err(place) => {
            let fresh = VolumeState {
                volume,
                minor: Minor::from_kernel(minor),
                disk: DiskState::Diskless,
                size: Sectors(0),
                disk_path: None,
                meta_disk: None,
                current_uuid: 0,
                options: None,
                has_quorum: None,
                is_diskless_client: false,
                counters: VolumeCounters::default(),
            };
            state.volumes.insert(place, fresh);
            place
        }
    };
    let entry = state.volumes.get_mut(place)?;
    entry.minor = Minor::from_kernel(minor);
    Some(entry)
}

fn device_table(dialect: Dialect, state: &mut ResourceState, packet: &Packet<'_>, gone: bool) {
    let Some(volume) = packet.context.volume.map(Volume) else { return };
    if gone {
        state.volumes.retain(|v| v.volume != volume);
        return;
    }
    let Some(entry) = device(state, volume, packet.minor) else { return };
    if let Some(conf) = packet.nest(nest::DISK_CONF) {
        disk_conf(entry, conf);
        if dialect == Dialect::Drbd9 {
            nine::disk_options(entry, packet);
        }
    }
    each(packet.nest(nest::DEVICE_INFO), |field| match (field.kind, dialect) {
        (1, _) => entry.disk = dialect.disk_state(field.u32().unwrap_or_default()),
        (2, Dialect::Drbd9) => entry.is_diskless_client = flag(field),
        (3, Dialect::Drbd9) => entry.has_quorum = Some(flag(field)),
        _ => {}
    });
    each(packet.nest(nest::DEVICE_STATISTICS), |field| match field.kind {
        1 => entry.size = sectors(field),
        2 => entry.counters.read = sectors(field),
        3 => entry.counters.written = sectors(field),
        6 => entry.counters.upper_pending = field.u32().unwrap_or_default(),
        7 => entry.counters.lower_pending = field.u32(),
        12 => entry.current_uuid = field.u64().unwrap_or_default(),
        _ => {}
    });
}

pub(super) fn disk_conf(entry: &mut VolumeState, conf: &Attribute<'_>) {
    let (mut disk, mut meta, mut index) = (None, None, MetaDisk::INTERNAL);
    each(Some(conf), |field| match field.kind {
        1 => disk = field.text().map(PathBuf::from),
        2 => meta = field.text().map(PathBuf::from),
        3 => index = field.u32().map_or(index, u32::cast_signed),
        _ => {}
    });
    entry.meta_disk = meta.map(|meta| MetaDisk::from_index(meta, index));
    entry.disk_path = disk;
    entry.options = Some(DiskOptions::decode(conf));
}

fn connection(dialect: Dialect, state: &mut ResourceState, packet: &Packet<'_>, gone: bool) {
    let entry = match dialect {
        Dialect::Drbd9 => nine::connection(state, packet, gone),
        // DRBD 8.4 has one connection a resource. One without addresses has never been configured, or is no more.
        Dialect::Drbd84 => match packet.context.addresses.filter(|_| !gone) {
            Some((local, peer)) => net_conf(state, local, peer, packet.nest(nest::NET_CONF)),
            None if gone => {
                state.connections.clear();
                None
            }
            None => None,
        },
    };
    let Some(entry) = entry else { return };
    each(packet.nest(nest::CONNECTION_INFO), |field| match field.kind {
        1 => entry.state = ConnState::from_number(field.u32().unwrap_or_default()),
        2 => entry.peer_role = Role::from_number(field.u32().unwrap_or_default()),
        _ => {}
    });
    each(packet.nest(nest::CONNECTION_STATISTICS), |field| {
        if field.kind == 1 {
            entry.congested = Some(flag(field));
        }
    });
}

/// The entry of the connection between two addresses, made if it is not there yet, with its options.
pub(super) fn net_conf<'a>(
    state: &'a mut ResourceState,
    local: SocketAddr,
    peer: SocketAddr,
    conf: Option<&Attribute<'_>>,
) -> Option<&'a mut ConnectionState> {
    let known = state.connections.first().is_some_and(|c| (c.local, c.peer) == (local, peer));
    if !known {
        state.connections = vec![ConnectionState { local, peer, ..nine::fresh() }];
    }
    let entry = state.connections.first_mut()?;
    if let Some(conf) = conf {
        entry.options = Some(NetOptions::decode(conf));
    }
    Some(entry)
}

/// The entry of a volume of the peer, made if it is not there yet.
pub(super) fn peer_volume(connection: &mut ConnectionState, volume: Volume) -> Option<&mut PeerVolumeState> {
    let place = match connection.volumes.binary_search_by_key(&volume, |v| v.volume) {
        Ok(place) => place,
        Err(place) => {
            let fresh = PeerVolumeState {
                volume,
                repl: ReplState::Off,
                peer_disk: DiskState::DUnknown,
                out_of_sync: Sectors(0),
                resync: None,
                verify: None,
                paused: Paused::default(),
                options: None,
                counters: PeerVolumeCounters::default(),
            };
            connection.volumes.insert(place, fresh);
            place
        }
    };
    connection.volumes.get_mut(place)
}

fn peer_device(dialect: Dialect, state: &mut ResourceState, packet: &Packet<'_>, gone: bool) {
    // The header's minor is the volume's number when the dump was filtered by resource (a bug of the kernel): the context is right.
    let Some(volume) = packet.context.volume.map(Volume) else { return };
    let node_id = packet.context.node_id;
    let mut connections = state.connections.iter_mut();
    let Some(connection) = connections.find(|c| c.node_id.is_none() || c.node_id == node_id) else { return };
    if gone {
        connection.volumes.retain(|v| v.volume != volume);
        return;
    }
    let Some(entry) = peer_volume(connection, volume) else { return };
    each(packet.nest(nest::PEER_DEVICE_INFO), |field| match field.kind {
        1 => entry.repl = ReplState::from_number(field.u32().unwrap_or_default()),
        2 => entry.peer_disk = dialect.disk_state(field.u32().unwrap_or_default()),
        3 => entry.paused.user = field.u32().unwrap_or_default() != 0,
        4 => entry.paused.peer = field.u32().unwrap_or_default() != 0,
        5 => entry.paused.dependency = field.u32().unwrap_or_default() != 0,
        _ => {}
    });
    each(packet.nest(nest::PEER_DEVICE_STATISTICS), |field| match field.kind {
        1 => entry.counters.received = sectors(field),
        2 => entry.counters.sent = sectors(field),
        3 => entry.counters.pending = field.u32().unwrap_or_default(),
        4 => entry.counters.unacked = field.u32(),
        5 => entry.out_of_sync = sectors(field),
        _ => {}
    });
    if dialect == Dialect::Drbd9 {
        if let Some(conf) = packet.nest(nest::PEER_DEVICE_OPTS) {
            entry.options.insert(DiskOptions::default()).absorb_9(nest::PEER_DEVICE_OPTS, conf);
        }
        nine::progress(entry, packet);
    }
}

/// How far a resync is, from the answer to `DRBD_ADM_GET_STATUS`: only its `struct state_info` has the total, in bits of 4 KiB, and only
/// while a resync is going on.
pub(crate) fn progress_of(packet: &Packet<'_>) -> Option<Progress> {
    const SECTORS_A_BIT: u64 = 8;
    let bits = |number| {
        let bits = packet.field(nest::STATE_INFO, number)?.u64()?;
        Some(Sectors(bits.saturating_mul(SECTORS_A_BIT)))
    };
    let total = bits(11)?;
    Some(Progress::new(total, bits(10)?, bits(12).unwrap_or_default()))
}

/// Enters the progress of one volume's resync.
pub(crate) fn insert_progress(state: &mut ResourceState, volume: Volume, progress: Option<Progress>) {
    for peer in state.connections.iter_mut().flat_map(|c| c.volumes.iter_mut()) {
        if peer.volume == volume && peer.repl.is_syncing() {
            peer.resync = progress;
        }
    }
}

pub(super) fn each<'a>(nest: Option<&Attribute<'a>>, mut f: impl FnMut(&Attribute<'a>)) {
    if let Some(nest) = nest {
        nest.nested().flatten().for_each(|field| f(&field));
    }
}

pub(super) fn flag(field: &Attribute<'_>) -> bool {
    field.u8().unwrap_or_default() != 0
}

pub(super) fn sectors(field: &Attribute<'_>) -> Sectors {
    Sectors(field.u64().unwrap_or_default())
}
