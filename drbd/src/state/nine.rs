//! What DRBD 9 says otherwise: peers by node ids, with paths, and resyncs with their speed.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use host::{Bytes, Sectors};

use super::decode::{each, flag};
use super::{
    ConnState, ConnectionState, PathState, PeerVolumeState, Progress, ResourceState, Role, VolumeState,
};
use crate::wire::{Packet, decode_address, nest};
use crate::{DiskOptions, NetOptions};

/// A connection of which nothing is known.
pub(crate) fn fresh() -> ConnectionState {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    ConnectionState {
        local: nowhere,
        peer: nowhere,
        paths: Vec::new(),
        node_id: None,
        peer_name: None,
        state: ConnState::StandAlone,
        peer_role: Role::Unknown,
        volumes: Vec::new(),
        options: None,
        congested: None,
    }
}

/// The entry of a connection, made if it is not there yet, with its options and paths.
pub(super) fn connection<'a>(
    state: &'a mut ResourceState,
    packet: &Packet<'_>,
    gone: bool,
) -> Option<&'a mut ConnectionState> {
    let node_id = packet.context.node_id?;
    if gone {
        state.connections.retain(|c| c.node_id != Some(node_id));
        return None;
    }
    let place = match state.connections.binary_search_by_key(&Some(node_id), |c| c.node_id) {
        Ok(place) => place,
        Err(place) => {
            state.connections.insert(place, ConnectionState { node_id: Some(node_id), ..fresh() });
            place
        }
    };
    let entry = state.connections.get_mut(place)?;
    if packet.context.peer_name.is_some() {
        entry.peer_name.clone_from(&packet.context.peer_name);
    }
    if let Some(conf) = packet.nest(nest::NET_CONF) {
        entry.options.insert(NetOptions::default()).absorb_9(nest::NET_CONF, conf);
    }
    // Pairs of addresses, one a path.
    let mut local = None;
    each(packet.nest(nest::PATH_PARMS), |field| match (field.kind, decode_address(field.payload)) {
        (1, address) => local = address,
        (2, Some(peer)) => {
            if let Some(local) = local.take() {
                enter(entry, local, peer, None);
            }
        }
        _ => {}
    });
    Some(entry)
}

/// Enters a path, by its addresses.
fn enter(entry: &mut ConnectionState, local: SocketAddr, peer: SocketAddr, is_established: Option<bool>) {
    match entry.paths.iter_mut().find(|path| (path.local, path.peer) == (local, peer)) {
        Some(path) => path.is_established = is_established.unwrap_or(path.is_established),
        None => {
            entry.paths.push(PathState { local, peer, is_established: is_established.unwrap_or_default() });
        }
    }
    first(entry);
}

fn first(entry: &mut ConnectionState) {
    let nowhere = fresh();
    let path = entry.paths.first();
    entry.local = path.map_or(nowhere.local, |path| path.local);
    entry.peer = path.map_or(nowhere.peer, |path| path.peer);
}

/// A message about a path.
pub(super) fn path(state: &mut ResourceState, packet: &Packet<'_>, gone: bool) {
    let Some((local, peer)) = packet.context.addresses else { return };
    let node_id = packet.context.node_id;
    let Some(entry) = state.connections.iter_mut().find(|c| c.node_id == node_id) else { return };
    if gone {
        entry.paths.retain(|path| (path.local, path.peer) != (local, peer));
        first(entry);
        return;
    }
    let is_established = packet.field(nest::PATH_INFO, 1).map(|field| flag(&field));
    enter(entry, local, peer, is_established);
}

/// The options of a disk, which stand in two nests.
pub(super) fn disk_options(entry: &mut VolumeState, packet: &Packet<'_>) {
    let options = entry.options.insert(DiskOptions::default());
    for number in [nest::DISK_CONF, nest::DEVICE_CONF] {
        if let Some(conf) = packet.nest(number) {
            options.absorb_9(number, conf);
        }
    }
}

/// How far a resync or verify is (`struct peer_device_statistics` of drbd-headers): amounts in sectors, times in milliseconds.
pub(super) fn progress(entry: &mut PeerVolumeState, packet: &Packet<'_>) {
    if packet.nest(nest::PEER_DEVICE_STATISTICS).is_none() {
        return;
    }
    let number = |number| packet.field(nest::PEER_DEVICE_STATISTICS, number).and_then(|field| field.u64());
    let value = |n| number(n).unwrap_or_default();
    let total = value(10);
    // -1 and 0 stand for none.
    if !entry.repl.is_syncing() && !entry.repl.is_verifying() || total == 0 || total == u64::MAX {
        (entry.resync, entry.verify) = (None, None);
        return;
    }
    let left = value(14);
    let (out, failed) = if left > 0 { (left, 0) } else { (value(5), value(6)) };
    let progress = Progress::new(Sectors(total), Sectors(out), Sectors(failed));
    // The amount done in the last interval is signed: what is written meanwhile may be more.
    let (done, millis) = (value(22).cast_signed(), value(21));
    let rate = u64::try_from(done).ok().filter(|done| *done > 0 && millis > 0);
    let rate = rate.map(|done| Bytes(done.saturating_mul(512).saturating_mul(1000) / millis.max(1)));
    let eta =
        rate.filter(|rate| rate.0 > 0).map(|rate| Duration::from_secs(progress.left.0.div_ceil(rate.0)));
    let progress = Some(Progress { rate, eta, ..progress });
    let is_verify = entry.repl.is_verifying();
    (entry.resync, entry.verify) = if is_verify { (None, progress) } else { (progress, None) };
}
