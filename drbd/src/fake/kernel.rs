//! The fake's side of the netlink socket: requests in, answers and events out.

use std::sync::{Arc, Mutex};

use host::Deadline;
use host::nl::fake::{Answer, FakeKernel, Responder};
use host::nl::genl::CONTROLLER;
use host::nl::{Message, NESTED, Protocol, Reply, attributes, flags};

use super::encode::{self, FAMILY_ID};
use super::model::{self, Backing, Cluster, Verdict};
use super::{EVENTS, NOTIFY, World, lock};
use crate::link::FAMILY;
use crate::watch::GROUP;
use crate::wire::{Command, NO_MINOR, Packet, SET_DEFAULTS, nest};
use crate::{DiskOptions, MetaDisk, NetOptions, ResourceOptions};

#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) node: usize,
}

impl Responder for Kernel {
    fn answer(&mut self, protocol: Protocol, request: &Reply) -> Answer {
        if protocol != Protocol::Generic {
            return Answer::status(libc::EPROTONOSUPPORT, None);
        }
        let hang = if request.kind == FAMILY_ID { lock(&self.world).hang.take() } else { None };
        if let Some(time) = hang {
            // The kernel stays locked meanwhile, as the real one does; the world does not.
            let _over = Deadline::after(time).pause(time);
        }
        let mut world = lock(&self.world);
        let loaded = world.loaded.get(self.node).copied().unwrap_or_default();
        match request.kind {
            CONTROLLER => get_family(request, loaded),
            FAMILY_ID if loaded => self.command(&mut world, request),
            _ => Answer::status(libc::ENOENT, None),
        }
    }
}

impl Kernel {
    fn command(&self, world: &mut World, request: &Reply) -> Answer {
        let Ok(packet) = Packet::parse(request) else { return Answer::status(libc::EINVAL, None) };
        // The kernel's policy: nests carry their flag, and each command takes its own nests only.
        for nest in attributes(request.body.get(12..).unwrap_or_default()).flatten() {
            if nest.raw_kind & NESTED == 0 || !allowed(packet.command).contains(&nest.kind) {
                return Answer::status(libc::EINVAL, None);
            }
        }
        let is_dump = request.flags & flags::DUMP == flags::DUMP;
        let filter = packet.context.resource.as_deref();
        let command = packet.command;
        if is_dump && command == Command::GET_INITIAL_STATE.0 {
            let messages = encode::initial_state(&encode::objects(&world.cluster, self.node));
            let mut answer = Answer::dump(Vec::new());
            // Parts of this dump do not carry the mark of one.
            answer.replies.splice(0..0, messages.iter().map(|m| encode::reply(m, 0)));
            return answer;
        }
        if is_dump && command == Command::GET_STATUS.0 {
            self.look_at_syncs(world);
            let messages = encode::statuses(&world.cluster, self.node, filter);
            if filter.is_some() && messages.is_empty() {
                return Answer::status(libc::ENODEV, None);
            }
            return Answer::dump(messages.iter().map(|m| encode::reply(m, 0)).collect());
        }
        if is_dump {
            let filter = filter.filter(|_| command != Command::GET_RESOURCES.0);
            let known = |name: &str| world.cluster.get(&(self.node, name.to_owned())).is_some();
            if filter.is_some_and(|name| !known(name)) {
                // The kernel would say so for ever, and never end the dump.
                let refusal = encode::reply(&encode::message(command, NO_MINOR, 158), 0);
                let mut answer = Answer::dump(vec![refusal; 3]);
                answer.replies.pop();
                return answer;
            }
            let messages = encode::table(&world.cluster, self.node, command, filter);
            return Answer::dump(messages.iter().map(|m| encode::reply(m, 0)).collect());
        }
        if command == Command::GET_STATUS.0 {
            self.look_at_syncs(world);
            let found = world.cluster.find(self.node, packet.minor);
            let message = found.and_then(|(place, number)| {
                encode::status(&world.cluster, &encode::objects(&world.cluster, self.node), &place, number)
            });
            let message = message.unwrap_or_else(|| encode::message(command, packet.minor, 127));
            return Answer::one(encode::reply(&message, 0));
        }
        if command == Command::GET_TIMEOUT_TYPE.0 {
            let known = world.cluster.find(self.node, packet.minor).is_some();
            let message = encode::message(command, packet.minor, if known { 101 } else { 127 });
            // Every start of the fake is one after both nodes had been there.
            let message = message.with_nest(nest::TIMEOUT_PARMS, |m| m.with_u32(1, 0));
            return Answer::one(encode::reply(&message, 0));
        }
        if let Some(changes) = world.changes.get_mut(self.node) {
            *changes += 1;
        }
        self.change(world, request, &packet)
    }

    fn look_at_syncs(&self, world: &mut World) {
        if world.sync_steps == 0 {
            return;
        }
        let steps = world.sync_steps;
        let before = world.look();
        for place in world.cluster.places().into_iter().filter(|place| place.0 == self.node) {
            world.cluster.sync(&place, steps);
        }
        let told = world.tell(&before);
        for (node, replies) in told.into_iter().enumerate() {
            deliver(world.kernels.get(node), replies);
        }
    }

    fn change(&self, world: &mut World, request: &Reply, packet: &Packet<'_>) -> Answer {
        world.read_images();
        let before = world.look();
        let verdict = match world.planted.pop().filter(|code| *code != 101) {
            Some(code) => Some((code, "")),
            None => self.carry_out(&mut world.cluster, request, packet),
        };
        let Some((code, text)) = verdict else { return Answer::status(libc::EOPNOTSUPP, None) };
        let mut message = encode::message(packet.command, packet.minor, code);
        if packet.nest(nest::CFG_CONTEXT).is_some() {
            message = packet.context.encode(message, 0);
        }
        if !text.is_empty() {
            message = message.with_nest(nest::CFG_REPLY, |m| m.with_str(1, text));
        }
        let mut answer = Answer::one(encode::reply(&message, 0));
        for (node, replies) in world.tell(&before).into_iter().enumerate() {
            if node == self.node {
                answer.events.extend(replies.into_iter().map(|reply| (EVENTS, reply)));
            } else {
                deliver(world.kernels.get(node), replies);
            }
        }
        world.write_images();
        answer
    }

    fn carry_out(&self, cluster: &mut Cluster, request: &Reply, packet: &Packet<'_>) -> Option<Verdict> {
        let exclusive = request.flags & flags::EXCL != 0;
        let place = (self.node, packet.context.resource.clone().unwrap_or_default());
        let (node, minor) = (self.node, packet.minor);
        let command = [
            Command::NEW_RESOURCE,
            Command::DEL_RESOURCE,
            Command::RESOURCE_OPTS,
            Command::NEW_MINOR,
            Command::DEL_MINOR,
            Command::ATTACH,
            Command::DETACH,
            Command::CHG_DISK_OPTS,
            Command::CONNECT,
            Command::DISCONNECT,
            Command::CHG_NET_OPTS,
            Command::PRIMARY,
            Command::SECONDARY,
            Command::DOWN,
            Command::INVALIDATE,
            Command::INVAL_PEER,
            Command::START_OV,
            Command::PAUSE_SYNC,
            Command::RESUME_SYNC,
            Command::SUSPEND_IO,
            Command::RESUME_IO,
            Command::RESIZE,
            Command::NEW_C_UUID,
            Command::OUTDATE,
        ]
        .into_iter()
        .find(|command| command.0 == packet.command)?;
        Some(match command {
            Command::NEW_RESOURCE => {
                cluster.new_resource(node, &place.1, resource_options(packet), exclusive)
            }
            Command::DEL_RESOURCE => cluster.del_resource(&place),
            Command::NEW_MINOR => {
                cluster.new_minor(&place, packet.context.volume.unwrap_or_default(), minor, exclusive)
            }
            Command::DEL_MINOR => cluster.del_minor(node, minor),
            Command::ATTACH => match backing(packet) {
                Some(backing) => cluster.attach(node, minor, backing),
                None => (126, "required attribute missing"),
            },
            Command::DETACH => cluster.detach(node, minor),
            Command::CONNECT => cluster.connect(&place, packet.context.addresses, net_options(packet)),
            Command::DISCONNECT => match cluster.by_addresses(node, &packet.context, minor) {
                Ok(place) => cluster.disconnect(&place),
                Err(verdict) => verdict,
            },
            Command::PRIMARY => {
                let force = packet.field(nest::SET_ROLE_PARMS, 1).and_then(|f| f.u8());
                cluster.promote(node, minor, force == Some(1))
            }
            Command::SECONDARY => cluster.demote(node, minor),
            Command::DOWN => cluster.down(&place),
            Command::INVALIDATE | Command::INVAL_PEER => {
                cluster.invalidate(node, minor, command == Command::INVAL_PEER)
            }
            Command::START_OV => cluster.verify(node, minor),
            Command::PAUSE_SYNC | Command::RESUME_SYNC => {
                cluster.pause(node, minor, command == Command::PAUSE_SYNC)
            }
            Command::SUSPEND_IO | Command::RESUME_IO => {
                cluster.suspend(node, minor, command == Command::SUSPEND_IO)
            }
            Command::RESIZE => {
                let size = packet.field(nest::RESIZE_PARMS, 1).and_then(|f| f.u64());
                cluster.resize(node, minor, size.unwrap_or_default())
            }
            Command::NEW_C_UUID => {
                let clear = packet.field(nest::NEW_C_UUID_PARMS, 1).and_then(|f| f.u8());
                cluster.new_current_uuid(node, minor, clear == Some(1))
            }
            Command::OUTDATE => cluster.outdate(node, minor),
            _ => return self.options(cluster, packet, &place),
        })
    }

    /// Changes of options. Only those that start from the defaults: this crate sends no others.
    fn options(
        &self,
        cluster: &mut Cluster,
        packet: &Packet<'_>,
        place: &(usize, String),
    ) -> Option<Verdict> {
        let flags = u32::from_ne_bytes(packet.code.to_ne_bytes());
        if flags & SET_DEFAULTS == 0 {
            return None;
        }
        if packet.command == Command::RESOURCE_OPTS.0 {
            let Some(res) = cluster.get_mut(place) else { return Some((158, "unknown resource")) };
            res.options = resource_options(packet);
        } else if packet.command == Command::CHG_DISK_OPTS.0 {
            let Some((place, number)) = cluster.find(self.node, packet.minor) else { return Some((127, "")) };
            let volume = cluster.get_mut(&place).and_then(|res| res.volumes.get_mut(&number));
            let Some(backing) = volume.and_then(|v| v.backing.as_mut()) else { return Some((138, "")) };
            backing.options = packet.nest(nest::DISK_CONF).map(DiskOptions::decode).unwrap_or_default();
        } else {
            let place = match cluster.by_addresses(self.node, &packet.context, packet.minor) {
                Ok(place) => place,
                Err(verdict) => return Some(verdict),
            };
            let net = cluster.get_mut(&place).and_then(|res| res.net.as_mut());
            let Some(net) = net else { return Some((162, "unknown connection")) };
            net.options = net_options(packet);
        }
        Some(model::OK)
    }
}

/// Commands of a minor that take no nest.
const PLAIN: &[Command] = &[
    Command::SECONDARY,
    Command::DEL_MINOR,
    Command::INVALIDATE,
    Command::INVAL_PEER,
    Command::PAUSE_SYNC,
    Command::RESUME_SYNC,
    Command::SUSPEND_IO,
    Command::RESUME_IO,
    Command::OUTDATE,
    Command::GET_TIMEOUT_TYPE,
];

/// The nests a command takes (`drbd_genl.h`; newer kernels refuse all others).
fn allowed(command: u8) -> &'static [u16] {
    const CONTEXT: u16 = nest::CFG_CONTEXT;
    let is = |known: Command| known.0 == command;
    match () {
        () if is(Command::NEW_RESOURCE) || is(Command::RESOURCE_OPTS) => &[CONTEXT, nest::RESOURCE_OPTS],
        () if is(Command::ATTACH) || is(Command::CHG_DISK_OPTS) => &[nest::DISK_CONF],
        () if is(Command::CONNECT) || is(Command::CHG_NET_OPTS) => &[CONTEXT, nest::NET_CONF],
        () if is(Command::PRIMARY) => &[nest::SET_ROLE_PARMS],
        () if is(Command::DETACH) => &[nest::DETACH_PARMS],
        () if is(Command::RESIZE) => &[nest::RESIZE_PARMS],
        () if is(Command::START_OV) => &[nest::START_OV_PARMS],
        () if is(Command::NEW_C_UUID) => &[nest::NEW_C_UUID_PARMS],
        () if PLAIN.iter().any(|plain| is(*plain)) => &[],
        () => &[CONTEXT],
    }
}

fn resource_options(packet: &Packet<'_>) -> ResourceOptions {
    packet.nest(nest::RESOURCE_OPTS).map(ResourceOptions::decode).unwrap_or_default()
}

fn net_options(packet: &Packet<'_>) -> NetOptions {
    packet.nest(nest::NET_CONF).map(NetOptions::decode).unwrap_or_default()
}

fn backing(packet: &Packet<'_>) -> Option<Backing> {
    let text = |number| packet.field(nest::DISK_CONF, number)?.text().map(str::to_owned);
    let index = packet.field(nest::DISK_CONF, 3)?.u32()?.cast_signed();
    let meta = MetaDisk::from_index(text(2)?.into(), index);
    let options = packet.nest(nest::DISK_CONF).map(DiskOptions::decode).unwrap_or_default();
    Some(Backing { path: text(1)?, meta, options })
}

/// Tells another node. On a thread of its own: the caller holds the lock of its own kernel, and the other may be waiting for that.
fn deliver(kernel: Option<&FakeKernel>, replies: Vec<Reply>) {
    let Some(kernel) = kernel.filter(|_| !replies.is_empty()).cloned() else { return };
    let tell = move || replies.iter().for_each(|reply| kernel.notify(Protocol::Generic, EVENTS, reply));
    if let Err(error) = std::thread::Builder::new().name("fake-drbd".to_owned()).spawn(tell) {
        log::debug!("fake drbd: {error}");
    }
}

fn get_family(request: &Reply, loaded: bool) -> Answer {
    let name = attributes(request.body.get(4..).unwrap_or_default()).flatten().find(|a| a.kind == 2);
    match name.as_ref().and_then(|name| name.text()) {
        Some(FAMILY) if loaded => Answer::one(Reply::new(
            CONTROLLER,
            0,
            0,
            family(1, FAMILY_ID, FAMILY, GROUP, EVENTS).body().to_vec(),
        )),
        Some("nlctrl") => Answer::one(Reply::new(
            CONTROLLER,
            0,
            0,
            family(1, CONTROLLER, "nlctrl", "notify", NOTIFY).body().to_vec(),
        )),
        _ => Answer::status(libc::ENOENT, None),
    }
}

fn family(command: u8, id: u16, name: &str, group: &str, number: u32) -> Message {
    Message::new(CONTROLLER, 0)
        .with_header(&[command, 2, 0, 0])
        .with_str(2, name)
        .with_u16(1, id)
        .with_u32(3, 1)
        .with_u32(4, 8)
        .with_u32(5, 24)
        .with_nest(7, |m| m.with_nest(1, |m| m.with_u32(2, number).with_str(1, group)))
}

pub(super) fn controller_event(command: u8) -> Reply {
    Reply::new(CONTROLLER, 0, 0, family(command, FAMILY_ID, FAMILY, GROUP, EVENTS).body().to_vec())
}
