//! Cards' settings over the generic netlink family "ethtool" (Documentation/networking/ethtool-netlink.rst; Linux 5.6).

use std::collections::BTreeMap;
use std::time::Duration;

use host::nl::genl::Family;
use host::nl::{Attribute, Message, NESTED, Protocol, Reply, Socket, attributes};
use host::{Deadline, Host, IfName};

use crate::error::{Error, Result};
use crate::hardware::{ATTRIBUTES, Group, HardwareSpec, HardwareState};

const HEADER: u16 = 1;
const HEADER_DEV_NAME: u16 = 2;
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const FEATURES_HW: u16 = 2;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const FEATURES_NOCHANGE: u16 = 5;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
/// A driver may talk to its card's firmware for seconds.
const ONE: Duration = Duration::from_secs(30);

/// A socket and the family's number.
pub(crate) struct Ethtool {
    socket: Socket,
    family: Family,
}

impl Ethtool {
    pub(crate) fn open(host: &Host) -> Result<Self> {
        let mut socket = host.nl().open(Protocol::Generic).map_err(Error::Read)?;
        let family = Family::resolve(&mut socket, "ethtool", Deadline::after(ONE)).map_err(Error::Read)?;
        match family {
            Some(family) => Ok(Self { socket, family }),
            None => Err(Error::Invalid {
                object: "ethtool".to_owned(),
                reason: "this kernel is built without ETHTOOL_NETLINK; leave out the cards' settings"
                    .to_owned(),
            }),
        }
    }

    fn message(&self, command: u8, link: &IfName) -> Message {
        self.family
            .message(command)
            .with_nest(HEADER | NESTED, |m| m.with_str(HEADER_DEV_NAME, link.as_str()))
    }

    /// Reads these groups and, if asked for, the features. What a driver does not have is not in the result.
    pub(crate) fn read(&mut self, link: &IfName, groups: &[Group], features: bool) -> Result<HardwareState> {
        let mut state = HardwareState::default();
        for group in groups {
            if let Some(reply) = self.ask(group.get(), link)? {
                values(&reply, *group, &mut state);
            }
        }
        if features && let Some(reply) = self.ask(FEATURES_GET, link)? {
            read_features(&reply, &mut state);
        }
        Ok(state)
    }

    fn ask(&mut self, command: u8, link: &IfName) -> Result<Option<Reply>> {
        let message = self.message(command, link);
        match self.socket.ask(&message, Deadline::after(ONE)) {
            Ok(reply) => Ok(Some(reply)),
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(Error::Read(error)),
        }
    }

    /// Sets what a spec names: a message for each group.
    pub(crate) fn set(
        &mut self,
        link: &IfName,
        spec: &HardwareSpec,
    ) -> std::result::Result<(), host::nl::Error> {
        for group in Group::ALL {
            let mine: Vec<_> = spec.values.iter().filter(|(a, _)| a.info().group == group).collect();
            if mine.is_empty() {
                continue;
            }
            let message =
                mine.into_iter().fold(self.message(group.get() + 1, link), |message, (a, value)| {
                    match (a.info().switch, *value) {
                        (true, value) => message.with_u8(a.info().number, u8::from(value != 0)),
                        (false, value) => message.with_u32(a.info().number, value),
                    }
                });
            self.socket.request(&message, Deadline::after(ONE))?;
        }
        if spec.features.is_empty() {
            return Ok(());
        }
        let bits = |m: Message| {
            spec.features.iter().fold(m, |m, (name, on)| {
                m.with_nest(BITS_BIT | NESTED, |bit| {
                    let bit = bit.with_str(BIT_NAME, name);
                    if *on { bit.with(BIT_VALUE, &[]) } else { bit }
                })
            })
        };
        let message = self
            .message(FEATURES_SET, link)
            .with_nest(FEATURES_WANTED | NESTED, |m| m.with_nest(BITSET_BITS | NESTED, bits));
        self.socket.request(&message, Deadline::after(ONE))
    }
}

fn values(reply: &Reply, group: Group, state: &mut HardwareState) {
    let seen: BTreeMap<u16, u32> = attributes(reply.body.get(4..).unwrap_or_default())
        .flatten()
        .filter_map(|a| Some((a.kind, a.u32().or_else(|| a.u8().map(u32::from))?)))
        .collect();
    for info in ATTRIBUTES.iter().filter(|info| info.group == group) {
        let Some(value) = seen.get(&info.number) else { continue };
        state.values.insert(info.attribute, *value);
        if let Some(most) = info.most.and_then(|most| seen.get(&most)) {
            state.most.insert(info.attribute, *most);
        }
    }
}

/// The names in a bitset.
fn names<'a>(bitset: &Attribute<'a>) -> Vec<&'a str> {
    let bits = bitset.nested().flatten().filter(|part| part.kind == BITSET_BITS);
    let bits = bits.flat_map(|bits| bits.nested().flatten()).filter(|bit| bit.kind == BITS_BIT);
    bits.filter_map(|bit| bit.nested().flatten().find(|part| part.kind == BIT_NAME)?.text()).collect()
}

fn read_features(reply: &Reply, state: &mut HardwareState) {
    let mut sets: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for attribute in attributes(reply.body.get(4..).unwrap_or_default()).flatten() {
        sets.insert(attribute.kind, names(&attribute));
    }
    let mut take = |kind: u16| sets.remove(&kind).unwrap_or_default();
    let (changeable, active, fixed) = (take(FEATURES_HW), take(FEATURES_ACTIVE), take(FEATURES_NOCHANGE));
    for name in changeable.iter().chain(&active) {
        state.features.insert((*name).to_owned(), active.contains(name));
    }
    let is_fixed = |name: &&&str| fixed.contains(name) || !changeable.contains(name);
    state.fixed = active.iter().filter(is_fixed).map(|name| (*name).to_owned()).collect();
    state.fixed.extend(changeable.iter().filter(|name| fixed.contains(name)).map(|name| (*name).to_owned()));
}
