//! The stream of changes: a snapshot, then what differs from it, in the kernel's order, without holes.
//!
//! The kernel's messages may arrive out of order and may be lost. Each has a number (`notify_genl_seq`, `drbd_nl.c`); they are put in that
//! order, and when one is missing for a quarter of a second, or the socket says that it lost some, the whole state is read again and
//! the differences are delivered as if they had been told.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use host::nl::genl::{CONTROLLER, Family};
use host::nl::{Error as NlError, Protocol, Reply, Socket, attributes, flags};
use host::{Deadline, Host, Watch};

use crate::link::{About, Speech};
use crate::state::{Tree, absorb};
use crate::wire::{Command, NO_MINOR, Packet, nest, request};
use crate::{Dialect, Drbd, Error, Minor, ResourceName, ResourceState, Result, Role, SplitBrain, Volume};

/// `NLMSG_DONE`: a dump has ended.
const DONE: u16 = 3;
/// The multicast group of the family.
pub(crate) const GROUP: &str = "events";
/// How long a missing message is waited for.
const GAP: Duration = Duration::from_millis(250);
/// `NOTIFY_CONTINUES`: more messages of the same change follow.
const CONTINUES: u32 = 0x8000;
/// `enum drbd_notification_type` (include/linux/drbd.h).
const EXISTS: u32 = 0;
const DESTROY: u32 = 3;
const RESPONSE: u32 = 5;

/// What a [`watch`](Drbd::watch) delivers.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Event {
    /// All resources as they are when the watch begins. Always the first event.
    Snapshot(Vec<ResourceState>),
    /// A resource was made.
    Created(Box<ResourceState>),
    /// A resource changed: its role, a disk, the connection, the replication. Changes that happened at once come as one.
    Changed {
        /// Before.
        old: Box<ResourceState>,
        /// After.
        new: Box<ResourceState>,
    },
    /// A resource was taken down; its last state.
    Removed(Box<ResourceState>),
    /// The kernel calls a helper in user space, or the helper has ended. Told whether one is installed or not.
    Helper(HelperEvent),
    /// Both nodes have written without each other, and no policy says whose changes count: the connection is dropped. Comes after the
    /// [`Helper`](Self::Helper) event of the same call. [`Drbd::recover`] ends it.
    ///
    /// `initial-split-brain` alone is none: it is told of those too that a policy or `discard-my-data` resolves.
    SplitBrain(SplitBrain),
    /// Messages were lost; the state was read again. The events that follow lead from the last known state to it.
    Resynchronised,
    /// The module was unloaded. The watch goes on and begins anew when it is loaded again.
    ModuleUnloaded,
}

/// A call of a helper in user space.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HelperEvent {
    /// The resource.
    pub resource: ResourceName,
    /// The volume, if it is about one.
    pub volume: Option<Volume>,
    /// Its device.
    pub minor: Option<Minor>,
    /// The helper's name, for example `fence-peer`, `split-brain`, `before-resync-target`.
    pub name: String,
    /// Whether it is being called or has answered.
    pub phase: Phase,
}

/// Where the call of a helper stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Phase {
    /// It is being called.
    Call,
    /// It has ended: the raw status of `wait(2)`, or 0xfffffffe if there is no such program.
    Response(u32),
}

impl Drbd {
    /// Watches all resources. `drbdsetup events2`, `DRBD_ADM_GET_INITIAL_STATE` and the group `events`.
    ///
    /// The first event is the whole state; states in events have no options and paths, which the kernel does not send here. Read until
    /// [`next_before`](Watch::next_before) with a deadline that is over gives `None` before polling the descriptor: several events may come
    /// from one message. Dropping the watch ends it and changes nothing.
    ///
    /// # Errors
    /// The socket cannot be opened or the group not joined. Later errors come from the watch itself, which stays usable.
    #[doc(alias = "drbdsetup events2")]
    pub fn watch(&self) -> Result<Watch<Event, Error>> {
        let mut source = Source::open(&self.host, self.dialect)?;
        source.ask()?;
        Ok(Watch::new(source))
    }
}

#[derive(Debug)]
struct Source {
    host: Host,
    dialect: Dialect,
    socket: Socket,
    family: Option<Family>,
    speech: Speech,
    tree: Tree,
    /// The state that is being read: `Some` from the request until its end mark.
    fresh: Option<Tree>,
    first: bool,
    /// Messages that came before one with a lower number, or while the state was being read.
    early: BTreeMap<u32, Reply>,
    next: Option<u32>,
    gap: Option<Deadline>,
    /// The resources that the change being told touches, as they were before it.
    touched: BTreeMap<ResourceName, Option<ResourceState>>,
    out: VecDeque<Event>,
}

fn about(deadline: Deadline) -> About<'static> {
    About { command: Command::GET_INITIAL_STATE, object: "all resources", deadline }
}

impl Source {
    fn open(host: &Host, dialect: Dialect) -> Result<Self> {
        let deadline = Deadline::after(Drbd::TIMEOUT);
        let failed = |error| about(deadline).failed(error);
        // Resolved on a socket of its own: this one hears of events from the moment it joins.
        let mut socket = host.nl().open(Protocol::Generic).map_err(failed)?;
        let found = Speech::resolve(host, &mut socket, deadline).map_err(failed)?;
        let (family, speech) = found.ok_or(Error::NotLoaded { source: None })?;
        let group = family.group(GROUP).ok_or(Error::Unsupported { version: family.version })?;
        // Where the controller tells of families that come and go; a fake may have none.
        let controller = Family::resolve(&mut socket, "nlctrl", deadline).map_err(failed)?;
        if let Some(notify) = controller.and_then(|family| family.group("notify")) {
            socket.join(notify).map_err(failed)?;
        }
        socket.join(group).map_err(failed)?;
        Ok(Self {
            host: host.clone(),
            dialect,
            socket,
            family: Some(family),
            speech,
            tree: Tree::new(),
            fresh: None,
            first: true,
            early: BTreeMap::new(),
            next: None,
            gap: None,
            touched: BTreeMap::new(),
            out: VecDeque::new(),
        })
    }

    /// Asks for the whole state.
    fn ask(&mut self) -> Result<()> {
        let Some(family) = &self.family else { return Ok(()) };
        let message = request(family, Command::GET_INITIAL_STATE, NO_MINOR, 0);
        let message = self.speech.request(message).with_flags(flags::DUMP);
        self.socket.send(&message).map_err(|error| about(Deadline::after(GAP)).failed(error))?;
        self.fresh = Some(Tree::new());
        self.gap = None;
        self.touched.clear();
        Ok(())
    }

    /// Messages were lost: what was put aside is of no use, the state is read again.
    fn start_over(&mut self) -> Result<()> {
        log::debug!("drbd events were lost; reading the state again");
        let waiting = self.socket.drain().map_err(|error| about(Deadline::after(GAP)).failed(error))?;
        self.early.clear();
        self.next = None;
        self.fresh = None;
        waiting
            .iter()
            .filter(|reply| reply.kind == CONTROLLER)
            .try_for_each(|reply| self.controller(reply))?;
        // A family that has come anew has been asked already.
        if self.fresh.is_none() { self.ask() } else { Ok(()) }
    }

    fn take(&mut self, reply: Reply) -> Result<()> {
        if reply.kind == CONTROLLER {
            return self.controller(&reply);
        }
        if self.family.as_ref().map(|family| family.id) != Some(reply.kind) {
            // End marks of dumps, acknowledgements, families that are no more. A refused dump is an error.
            refused(&reply)?;
            // The family drbd ends the state with a message of its own.
            let is_end = reply.kind == DONE && self.speech == Speech::Drbd2;
            return if is_end { self.adopt() } else { Ok(()) };
        }
        let reply = self.speech.answer(reply);
        let packet = Packet::parse(&reply)?;
        let kind = kind(&packet);
        if packet.command == Command::INITIAL_STATE_DONE.0 {
            return self.adopt();
        }
        if kind & !CONTINUES == EXISTS {
            if let Some(fresh) = &mut self.fresh {
                absorb(self.dialect, fresh, &packet, false);
            }
            return Ok(());
        }
        if !is_event(packet.command) {
            // DRBD_EVENT of the old interface, numbered by itself.
            return Ok(());
        }
        if self.fresh.is_some() {
            self.early.insert(reply.seq, reply);
            return Ok(());
        }
        let next = *self.next.get_or_insert(reply.seq);
        // The number wraps round.
        if reply.seq.wrapping_sub(next).cast_signed() > 0 {
            self.early.insert(reply.seq, reply);
            self.gap.get_or_insert_with(|| Deadline::after(GAP));
            return Ok(());
        }
        self.one(&reply)?;
        self.drain()
    }

    /// Takes one message whose turn it is.
    fn one(&mut self, reply: &Reply) -> Result<()> {
        if self.next == Some(reply.seq) {
            self.next = Some(reply.seq.wrapping_add(1));
        }
        let packet = Packet::parse(reply)?;
        let kind = kind(&packet);
        if packet.command == Command::HELPER.0 {
            if let Some(event) = helper(&packet, kind) {
                let split = (event.name == "split-brain" && event.phase == Phase::Call).then(|| SplitBrain {
                    resource: event.resource.clone(),
                    volume: event.volume,
                    role: self.tree.get(&event.resource).map_or(Role::Unknown, |state| state.role),
                });
                self.out.push_back(Event::Helper(event));
                self.out.extend(split.map(Event::SplitBrain));
            }
            return Ok(());
        }
        if let Some(name) = packet.context.resource.as_deref().map(ResourceName::from_kernel) {
            let before = self.tree.get(&name).cloned();
            self.touched.entry(name).or_insert(before);
        }
        absorb(self.dialect, &mut self.tree, &packet, kind & !CONTINUES == DESTROY);
        if kind & CONTINUES == 0 {
            for (name, old) in std::mem::take(&mut self.touched) {
                self.out.extend(difference(old, self.tree.get(&name)));
            }
        }
        Ok(())
    }

    /// Takes the messages put aside whose turn has come.
    fn drain(&mut self) -> Result<()> {
        while let Some(reply) = self.next.and_then(|next| self.early.remove(&next)) {
            self.one(&reply)?;
        }
        self.gap = if self.early.is_empty() { None } else { self.gap.or(Some(Deadline::after(GAP))) };
        Ok(())
    }

    /// The state has been read: delivers it, or what differs from the one known, then what happened meanwhile.
    fn adopt(&mut self) -> Result<()> {
        let Some(fresh) = self.fresh.take() else { return Ok(()) };
        if self.first {
            self.first = false;
            self.out.push_back(Event::Snapshot(fresh.values().cloned().collect()));
        } else {
            self.out.push_back(Event::Resynchronised);
            let mut old = std::mem::take(&mut self.tree);
            for (name, new) in &fresh {
                self.out.extend(difference(old.remove(name), Some(new)));
            }
            self.out.extend(old.into_values().map(|state| Event::Removed(Box::new(state))));
        }
        self.tree = fresh;
        // In the kernel's order, from the one that comes first behind the largest hole: the numbers may have wrapped.
        self.next = first_of(self.early.keys().copied());
        self.drain()
    }

    /// A message of the controller: families come and go.
    fn controller(&mut self, reply: &Reply) -> Result<()> {
        const NEW_FAMILY: u8 = 1;
        const DEL_FAMILY: u8 = 2;
        let mut attributes = attributes(reply.body.get(4..).unwrap_or_default()).flatten();
        if !attributes.any(|a| a.kind == 2 && a.text() == Some(self.speech.family())) {
            return Ok(());
        }
        match reply.body.first() {
            Some(&DEL_FAMILY) if self.family.is_some() => {
                self.family = None;
                self.fresh = None;
                self.early.clear();
                self.next = None;
                self.gap = None;
                for state in std::mem::take(&mut self.tree).into_values() {
                    self.out.push_back(Event::Removed(Box::new(state)));
                }
                self.out.push_back(Event::ModuleUnloaded);
                Ok(())
            }
            Some(&NEW_FAMILY) if self.family.is_none() => {
                // The number of the group may be another one: a new socket joins it.
                let mut again = Self::open(&self.host, self.dialect)?;
                again.first = false;
                again.out = std::mem::take(&mut self.out);
                *self = again;
                self.ask()
            }
            _ => Ok(()),
        }
    }
}

impl host::Source for Source {
    type Item = Event;
    type Error = Error;

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    fn next(&mut self, deadline: Deadline) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.out.pop_front() {
                return Ok(Some(event));
            }
            let until = self.gap.map_or(deadline, |gap| gap.min(deadline));
            match self.socket.event(until) {
                Ok(Some(reply)) => self.take(reply)?,
                Ok(None) if self.gap.is_some_and(Deadline::is_over) => self.start_over()?,
                Ok(None) if deadline.is_over() => return Ok(None),
                Ok(None) => {}
                Err(NlError::Overrun) => self.start_over()?,
                Err(error) => return Err(about(deadline).failed(error)),
            }
        }
    }
}

fn kind(packet: &Packet<'_>) -> u32 {
    packet.field(nest::NOTIFICATION_HEADER, 1).and_then(|field| field.u32()).unwrap_or(EXISTS)
}

fn is_event(command: u8) -> bool {
    [
        Command::RESOURCE_STATE,
        Command::DEVICE_STATE,
        Command::CONNECTION_STATE,
        Command::PEER_DEVICE_STATE,
        Command::PATH_STATE,
        Command::HELPER,
    ]
    .iter()
    .any(|known| known.0 == command)
}

fn helper(packet: &Packet<'_>, kind: u32) -> Option<HelperEvent> {
    let name = packet.field(nest::HELPER, 1)?.text()?.to_owned();
    let status = packet.field(nest::HELPER, 2).and_then(|field| field.u32()).unwrap_or_default();
    let phase = if kind & !CONTINUES == RESPONSE { Phase::Response(status) } else { Phase::Call };
    let resource = ResourceName::from_kernel(packet.context.resource.clone()?);
    let volume = packet.context.volume.map(Volume);
    let minor = Minor::new(packet.minor).ok();
    Some(HelperEvent { resource, volume, minor, name, phase })
}

fn difference(old: Option<ResourceState>, new: Option<&ResourceState>) -> Option<Event> {
    match (old, new) {
        (None, None) => None,
        (None, Some(new)) => Some(Event::Created(Box::new(new.clone()))),
        (Some(old), None) => Some(Event::Removed(Box::new(old))),
        (Some(old), Some(new)) if old.is_like(new) => None,
        (Some(old), Some(new)) => Some(Event::Changed { old: Box::new(old), new: Box::new(new.clone()) }),
    }
}

/// The first of some numbers that are close together on a circle.
fn first_of(numbers: impl Iterator<Item = u32>) -> Option<u32> {
    numbers.reduce(|first, number| if number.wrapping_sub(first).cast_signed() < 0 { number } else { first })
}

/// Whether a message is a refusal (`NLMSG_ERROR` with a code) of the request for the state.
fn refused(reply: &Reply) -> Result<()> {
    const ERROR: u16 = 2;
    let code = reply.body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if reply.kind != ERROR || code >= 0 {
        return Ok(());
    }
    let source = NlError::Kernel { errno: code.saturating_neg(), message: None, offset: None };
    Err(about(Deadline::after(GAP)).failed(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_wrap_round() {
        assert_eq!(first_of([2, u32::MAX, 0, 1].into_iter()), Some(u32::MAX));
        assert_eq!(first_of([5, 4, 9].into_iter()), Some(4));
        assert_eq!(first_of(std::iter::empty()), None);
    }
}
