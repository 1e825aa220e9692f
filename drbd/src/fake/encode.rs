//! The fake's objects as the kernel's messages.

use std::collections::BTreeMap;

use host::nl::{Message, Reply};

use super::model::{Cluster, Place, Res};
use crate::wire::{Command, Context, MANDATORY, NO_MINOR, nest};
use crate::{ConnState, DiskState, ReplState, Role};

/// The number of the fake's family.
pub(super) const FAMILY_ID: u16 = 0x20;

/// An object: its resource, its place in the kernel's order, its volume.
pub(super) type Key = (String, u8, u16);

/// What is told of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object {
    minor: u32,
    context: Context,
    role: Option<Role>,
    disk: Option<DiskState>,
    size: u64,
    current: u64,
    conn: Option<(ConnState, Role)>,
    repl: Option<(ReplState, DiskState)>,
    out_of_sync: u64,
    suspended: bool,
    /// By this node, by the peer.
    paused: (bool, bool),
}

/// A message of the family.
pub(super) fn message(command: u8, minor: u32, code: i32) -> Message {
    let words = [minor.to_ne_bytes(), code.to_ne_bytes()].concat();
    Message::new(FAMILY_ID, 0).with_header(&[command, 1, 0, 0]).with_header(&words)
}

pub(super) fn reply(message: &Message, seq: u32) -> Reply {
    Reply::new(FAMILY_ID, 0, seq, message.body().to_vec())
}

/// All objects of a node.
pub(super) fn objects(cluster: &Cluster, node: usize) -> BTreeMap<Key, Object> {
    let mut all = BTreeMap::new();
    for place in cluster.places().into_iter().filter(|place| place.0 == node) {
        if let Some(res) = cluster.get(&place) {
            resource(cluster, &place, res, &mut all);
        }
    }
    all
}

fn resource(cluster: &Cluster, place: &Place, res: &Res, all: &mut BTreeMap<Key, Object>) {
    let name = &place.1;
    let partner = cluster.partner(place).and_then(|partner| cluster.get(&partner));
    let role = |primary: bool| if primary { Role::Primary } else { Role::Secondary };
    let plain = Object {
        minor: NO_MINOR,
        context: Context::resource(name),
        role: None,
        disk: None,
        size: 0,
        current: 0,
        conn: None,
        repl: None,
        out_of_sync: 0,
        suspended: res.suspended,
        paused: (false, false),
    };
    all.insert((name.clone(), 0, 0), Object { role: Some(role(res.is_primary())), ..plain.clone() });
    let addresses = res.net.as_ref().map(|net| (net.local, net.peer));
    if let Some(net) = &res.net {
        let peer_role = partner.map_or(Role::Unknown, |partner| role(partner.is_primary()));
        let context = Context { addresses, ..plain.context.clone() };
        all.insert(
            (name.clone(), 1, 0),
            Object { context, conn: Some((net.state, peer_role)), ..plain.clone() },
        );
    }
    for (number, vol) in &res.volumes {
        let context = Context::volume(name, *number);
        // Without a disk there is no metadata to tell of.
        let current = vol.backing.as_ref().map_or(0, |_| vol.current | u64::from(vol.primary));
        let size = vol.size;
        let (minor, disk) = (vol.minor, Some(vol.disk));
        all.insert(
            (name.clone(), 2, *number),
            Object { minor, context, disk, size, current, ..plain.clone() },
        );
        if res.net.is_some() {
            let context = Context { addresses, ..Context::volume(name, *number) };
            let peer_disk =
                partner.and_then(|p| p.volumes.get(number)).map_or(DiskState::DUnknown, |v| v.disk);
            let repl = Some((if partner.is_some() { vol.repl } else { ReplState::Off }, peer_disk));
            let out_of_sync = vol.out_of_sync;
            let peer_pauses = partner.and_then(|p| p.volumes.get(number)).is_some_and(|v| v.paused);
            let object =
                Object { context, repl, out_of_sync, paused: (vol.paused, peer_pauses), ..plain.clone() };
            all.insert((name.clone(), 3, *number), object);
        }
    }
}

/// The events that lead from some objects to others, in the kernel's order, without sequence numbers.
pub(super) fn events(before: &BTreeMap<Key, Object>, after: &BTreeMap<Key, Object>) -> Vec<Message> {
    const CREATE: u32 = 1;
    const CHANGE: u32 = 2;
    const DESTROY: u32 = 3;
    let mut told: Vec<(u32, &Key, &Object)> = Vec::new();
    let gone = before.iter().rev().filter(|(key, _)| !after.contains_key(*key));
    told.extend(gone.map(|(key, object)| (DESTROY, key, object)));
    for (key, object) in after {
        match before.get(key) {
            None => told.push((CREATE, key, object)),
            Some(old) if old != object => told.push((CHANGE, key, object)),
            Some(_) => {}
        }
    }
    let last = told.len().saturating_sub(1);
    told.iter()
        .enumerate()
        .map(|(index, (kind, key, object))| notification(*kind, index < last, key, object))
        .collect()
}

/// The messages of the initial state, with its end mark.
pub(super) fn initial_state(objects: &BTreeMap<Key, Object>) -> Vec<Message> {
    let mut all: Vec<_> = objects.iter().map(|(key, object)| notification(0, true, key, object)).collect();
    let done = message(Command::INITIAL_STATE_DONE.0, NO_MINOR, 101);
    all.push(done.with_nest(nest::NOTIFICATION_HEADER, |m| m.with_u32(1, 0)));
    all
}

fn notification(kind: u32, more: bool, key: &Key, object: &Object) -> Message {
    const CONTINUES: u32 = 0x8000;
    let command = match key.1 {
        0 => Command::RESOURCE_STATE,
        1 => Command::CONNECTION_STATE,
        2 => Command::DEVICE_STATE,
        _ => Command::PEER_DEVICE_STATE,
    };
    let flag = if more { CONTINUES } else { 0 };
    let begun = object
        .context
        .encode(message(command.0, object.minor, 101), MANDATORY)
        .with_nest(nest::NOTIFICATION_HEADER, |m| m.with_u32(1, kind | flag));
    if kind == 3 { begun } else { state(object, begun) }
}

/// Appends the info and statistics of an object.
fn state(object: &Object, mut m: Message) -> Message {
    if let Some(role) = object.role {
        m = m
            .with_nest(nest::RESOURCE_INFO, |m| {
                m.with_u32(1, role.number())
                    .with_u8(2, u8::from(object.suspended))
                    .with_u8(3, 0)
                    .with_u8(4, 0)
            })
            .with_nest(nest::RESOURCE_STATISTICS, |m| m.with_u32(1, 2));
    }
    if let Some((conn, role)) = object.conn {
        m = m
            .with_nest(nest::CONNECTION_INFO, |m| m.with_u32(1, conn.number()).with_u32(2, role.number()))
            .with_nest(nest::CONNECTION_STATISTICS, |m| m.with_u8(1, 0));
    }
    if let Some(disk) = object.disk {
        m = m
            .with_nest(nest::DEVICE_INFO, |m| m.with_u32(1, disk.number()))
            .with_nest(nest::DEVICE_STATISTICS, |m| m.with_u64(1, object.size).with_u64(12, object.current));
    }
    if let Some((repl, disk)) = object.repl {
        m = m
            .with_nest(nest::PEER_DEVICE_INFO, |m| {
                let m = m.with_u32(1, repl.number()).with_u32(2, disk.number());
                m.with_u32(3, u32::from(object.paused.0)).with_u32(4, u32::from(object.paused.1))
            })
            .with_nest(nest::PEER_DEVICE_STATISTICS, |m| m.with_u64(5, object.out_of_sync));
    }
    m
}

/// The call of a helper that is not there, and its answer.
pub(super) fn helper(context: &Context, minor: u32, name: &str) -> [Message; 2] {
    const CALL: u32 = 4;
    const RESPONSE: u32 = 5;
    const MISSING: u32 = 0xffff_fffe;
    [(CALL, 0), (RESPONSE, MISSING)].map(|(kind, status)| {
        context
            .encode(message(Command::HELPER.0, minor, 101), MANDATORY)
            .with_nest(nest::NOTIFICATION_HEADER, |m| m.with_u32(1, kind))
            .with_nest(nest::HELPER, |m| m.with_str(1, name).with_u32(2, status))
    })
}

/// The messages of one of the four tables.
pub(super) fn table(cluster: &Cluster, node: usize, command: u8, filter: Option<&str>) -> Vec<Message> {
    let order = command.saturating_sub(Command::GET_RESOURCES.0);
    // The table of connections comes after that of devices; in events it is the other way round.
    let order = [0, 2, 1, 3].get(usize::from(order)).copied().unwrap_or_default();
    objects(cluster, node)
        .iter()
        .filter(|((name, kind, _), _)| *kind == order && filter.is_none_or(|filter| filter == name))
        .map(|((name, _, number), object)| {
            // The kernel's bug: with a filter, a peer device's minor is its volume.
            let minor = if order == 3 { u32::from(*number) } else { object.minor };
            let begun = object.context.encode(message(command, minor, 101), MANDATORY);
            let res = cluster.get(&(node, name.clone()));
            state(object, conf(res, order, *number, begun))
        })
        .collect()
}

fn conf(res: Option<&Res>, order: u8, number: u16, m: Message) -> Message {
    let Some(res) = res else { return m };
    match order {
        0 => m.with_nest(nest::RESOURCE_OPTS, |m| res.options.encode_all(m)),
        1 => match &res.net {
            Some(net) => m.with_nest(nest::NET_CONF, |m| net.options.encode_all(m)),
            None => m,
        },
        2 => match res.volumes.get(&number).and_then(|vol| vol.backing.as_ref()) {
            Some(backing) => m.with_nest(nest::DISK_CONF, |m| {
                let path = std::path::PathBuf::from(&backing.path);
                let device = backing.meta.device(&path).display().to_string();
                let m = m.with_str(1, &backing.path).with_str(2, &device);
                backing.options.encode_all(m.with_u32(3, backing.meta.index().cast_unsigned()))
            }),
            None => m,
        },
        _ => m,
    }
}

/// The answers of the older status command: one a volume, and one for a resource without any.
pub(super) fn statuses(cluster: &Cluster, node: usize, filter: Option<&str>) -> Vec<Message> {
    let all = objects(cluster, node);
    let resources = all.keys().filter(|(name, kind, _)| *kind == 0 && filter.is_none_or(|f| f == name));
    let messages = resources.flat_map(|(name, ..)| {
        let place = (node, name.clone());
        let volumes = cluster.get(&place).map(|res| res.volumes.keys().copied().collect::<Vec<_>>());
        match volumes.unwrap_or_default().as_slice() {
            [] => {
                vec![Context::resource(name).encode(message(Command::GET_STATUS.0, NO_MINOR, 101), MANDATORY)]
            }
            some => some.iter().filter_map(|number| status(cluster, &all, &place, *number)).collect(),
        }
    });
    messages.collect()
}

/// The answer for one volume, as far as this crate reads it (`nla_put_status_info`, `drbd_nl.c`).
pub(super) fn status(
    cluster: &Cluster,
    all: &BTreeMap<Key, Object>,
    place: &Place,
    number: u16,
) -> Option<Message> {
    const SECTORS_A_BIT: u64 = 8;
    const CONNECTED: u32 = 9;
    let (name, res) = (&place.1, cluster.get(place)?);
    let vol = res.volumes.get(&number)?;
    let object = all.get(&(name.clone(), 2, number))?;
    let (connection, peer) = (all.get(&(name.clone(), 1, 0)), all.get(&(name.clone(), 3, number)));
    let context = peer.unwrap_or(object).context.clone();
    let mut m = context.encode(message(Command::GET_STATUS.0, vol.minor, 101), MANDATORY);
    for order in [0, 2, 1] {
        m = conf(Some(res), order, number, m);
    }
    let (state, peer_role) =
        connection.and_then(|object| object.conn).unwrap_or((ConnState::StandAlone, Role::Unknown));
    let (repl, peer_disk) =
        peer.and_then(|object| object.repl).unwrap_or((ReplState::Off, DiskState::DUnknown));
    let paused = peer.map_or((false, false), |object| object.paused);
    let conn = if repl.number() > CONNECTED { repl.number() } else { state.number() };
    let role = if vol.primary { Role::Primary } else { Role::Secondary };
    let word = role.number()
        | peer_role.number() << 2
        | conn << 4
        | vol.disk.number() << 9
        | peer_disk.number() << 13
        | u32::from(res.suspended) << 17
        | u32::from(paused.1) << 19
        | u32::from(paused.0) << 20;
    Some(m.with_nest(nest::STATE_INFO, |m| {
        let mut m = m.with_u32(1, 1).with_u32(2, word).with_u64(3, object.size);
        m = m.with_u64(10, vol.out_of_sync / SECTORS_A_BIT);
        if vol.backing.is_some() {
            let uuids = [vol.current | u64::from(vol.primary), vol.bitmap, 0, 0];
            m = m.with(7, &uuids.map(u64::to_ne_bytes).concat());
        }
        match vol.repl.is_syncing() {
            true => m.with_u64(11, vol.total / SECTORS_A_BIT).with_u64(12, 0),
            false => m,
        }
    }))
}
