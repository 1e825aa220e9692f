//! The older status message of 8.4, `DRBD_ADM_GET_STATUS`: one message a volume that holds everything about it (`nla_put_status_info`,
//! `drbd_nl.c`), where the four tables send four. A snapshot is therefore four times cheaper, and whole for each volume.

use super::decode::{Tree, device, disk_conf, each, empty_resource, net_conf, peer_volume, progress_of};
use super::{ConnState, DiskState, ReplState, Role};
use crate::wire::{Packet, nest};
use crate::{ResourceName, ResourceOptions, Volume};
use host::Sectors;
use host::nl::Attribute;

/// `union drbd_state` (`include/linux/drbd.h`): fields of a word, from bit 0 on.
struct Word(u32);

impl Word {
    fn bits(&self, from: u32, count: u32) -> u32 {
        (self.0 >> from) & ((1 << count) - 1)
    }

    fn flag(&self, bit: u32) -> bool {
        self.bits(bit, 1) == 1
    }
}

/// The greatest number of a connection's state, and with another meaning the least of a replication's (`C_CONNECTED`).
const CONNECTED: u32 = 9;
const SECTORS_A_BIT: u64 = 8;

/// Enters a status message into the tree. `false`: it is about a resource without volumes, and does not say how that is.
pub(crate) fn absorb_status(tree: &mut Tree, packet: &Packet<'_>) -> bool {
    let Some(name) = packet.context.resource.as_deref().map(ResourceName::from_kernel) else { return false };
    let Some(volume) = packet.context.volume.map(Volume) else { return false };
    let Some(info) = packet.nest(nest::STATE_INFO) else { return false };
    let Some(word) = packet.field(nest::STATE_INFO, 2).and_then(|field| field.u32()).map(Word) else {
        return false;
    };
    let state = tree.entry(name).or_insert_with_key(|name| empty_resource(name.clone()));
    if let Some(nest) = packet.nest(nest::RESOURCE_OPTS).filter(|_| state.options.is_none()) {
        state.options = Some(ResourceOptions::decode(nest));
    }
    // A resource is Primary if one of its volumes is (conn_highest_role).
    let role = Role::from_number(word.bits(0, 2));
    if state.role != Role::Primary {
        state.role = role;
    }
    state.suspended.user |= word.flag(17);
    state.suspended.no_data |= word.flag(21);
    state.suspended.fencing |= word.flag(22);
    let Some(entry) = device(state, volume, packet.minor) else { return false };
    entry.disk = DiskState::from_number(word.bits(9, 4));
    if let Some(conf) = packet.nest(nest::DISK_CONF) {
        disk_conf(entry, conf);
    }
    let mut out_of_sync = Sectors(0);
    let (mut sent, mut received, mut pending) = (Sectors(0), Sectors(0), 0u32);
    each(Some(info), |field| match field.kind {
        3 => entry.size = sectors(field),
        7 => entry.current_uuid = field.u64().unwrap_or_default(),
        10 => out_of_sync = Sectors(field.u64().unwrap_or_default().saturating_mul(SECTORS_A_BIT)),
        15 => sent = sectors(field),
        16 => received = sectors(field),
        17 => entry.counters.read = sectors(field),
        18 => entry.counters.written = sectors(field),
        21 => entry.counters.upper_pending = field.u32().unwrap_or_default(),
        22 | 23 => pending = pending.saturating_add(field.u32().unwrap_or_default()),
        _ => {}
    });
    let (Some(conf), Some((local, peer))) = (packet.nest(nest::NET_CONF), packet.context.addresses) else {
        return true;
    };
    let conn = word.bits(4, 5);
    let connection = net_conf(state, local, peer, Some(conf));
    let Some(connection) = connection else { return true };
    connection.state = ConnState::from_number(conn.min(CONNECTED));
    let peer_role = Role::from_number(word.bits(2, 2));
    if connection.peer_role != Role::Primary {
        connection.peer_role = peer_role;
    }
    let Some(entry) = peer_volume(connection, volume) else { return true };
    entry.repl = ReplState::from_number(conn.max(CONNECTED));
    entry.peer_disk = DiskState::from_number(word.bits(13, 4));
    entry.paused.dependency = word.flag(18);
    entry.paused.peer = word.flag(19);
    entry.paused.user = word.flag(20);
    entry.out_of_sync = out_of_sync;
    entry.counters.sent = sent;
    entry.counters.received = received;
    entry.counters.pending = pending;
    entry.resync = if entry.repl.is_syncing() { progress_of(packet) } else { None };
    true
}

fn sectors(field: &Attribute<'_>) -> Sectors {
    Sectors(field.u64().unwrap_or_default())
}
