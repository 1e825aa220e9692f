//! What `IFLA_LINKINFO` says of each kind of link.

use std::collections::BTreeMap;

use host::ParseError;
use host::nl::{Attribute, Attributes, Message, NESTED};

use super::link::IFLA_IFNAME;
use crate::bond::{BondAttribute, BondOptions, Encoded};
use crate::kinds::{BRIDGE_OPTIONS, MacvlanMode, VlanProtocol, VlanSpec};
use crate::spec::LinkKind;
use crate::state::{Aggregator, BondPortState, BondState, LinkKindState, MiiStatus, VlanState};
use crate::{BondMode, VlanId};

const BOND_MODE: u16 = 1;
const BOND_ACTIVE_PORT: u16 = 2;
pub(crate) const BOND_PRIMARY: u16 = 11;
const BOND_AD_INFO: u16 = 23;
const VLAN_ID: u16 = 1;
const VLAN_FLAGS: u16 = 2;
const VLAN_EGRESS_QOS: u16 = 3;
const VLAN_INGRESS_QOS: u16 = 4;
const VLAN_PROTOCOL: u16 = 5;
const VLAN_QOS_MAPPING: u16 = 1;
const VETH_PEER: u16 = 1;
const MACVLAN_MODE: u16 = 1;

/// Adds the data of a kind.
pub(crate) fn data(message: Message, attribute: u16, kind: &LinkKind) -> Message {
    let nest = |fill: &dyn Fn(Message) -> Message| message.clone().with_nest(attribute | NESTED, fill);
    match kind {
        LinkKind::Existing | LinkKind::Dummy => message,
        LinkKind::Vlan(vlan) => nest(&|m| vlan_data(m, vlan)),
        LinkKind::Bond(bond) => nest(&|m| {
            settings(m.with_u8(BOND_MODE, bond.mode.number()), &crate::bond::settable(&bond.options))
        }),
        LinkKind::Bridge(bridge) => nest(&|m| {
            bridge.options.iter().fold(m, |m, (option, value)| {
                let info = option.info();
                match info.width {
                    1 => m.with_u8(info.number, u8::try_from(*value).unwrap_or(u8::MAX)),
                    2 => m.with_u16(info.number, u16::try_from(*value).unwrap_or(u16::MAX)),
                    _ => m.with_u32(info.number, *value),
                }
            })
        }),
        LinkKind::Veth { peer } => {
            // The peer is described as a link is: a header, then its attributes.
            let other = Message::new(0, 0).with_header(&[0; 16]).with_str(IFLA_IFNAME, peer.as_str());
            nest(&|m| m.with(VETH_PEER | NESTED, other.body()))
        }
        LinkKind::Macvlan { mode, .. } => nest(&|m| m.with_u32(MACVLAN_MODE, mode.number())),
    }
}

fn vlan_data(message: Message, vlan: &VlanSpec) -> Message {
    let mut message = message.with_u16(VLAN_ID, vlan.id.get());
    if !vlan.flags.is_empty() {
        let bits = |all: bool| -> u32 {
            vlan.flags.iter().filter(|(_, on)| all || **on).map(|(flag, _)| flag.bit()).sum()
        };
        message = message.with(VLAN_FLAGS, &[bits(false).to_ne_bytes(), bits(true).to_ne_bytes()].concat());
    }
    for (attribute, map) in [(VLAN_EGRESS_QOS, &vlan.egress_qos), (VLAN_INGRESS_QOS, &vlan.ingress_qos)] {
        if !map.is_empty() {
            message = message.with_nest(attribute | NESTED, |m| {
                map.iter().fold(m, |m, (from, to)| {
                    m.with(VLAN_QOS_MAPPING, &[from.to_ne_bytes(), to.to_ne_bytes()].concat())
                })
            });
        }
    }
    if vlan.protocol == VlanProtocol::Dot1Q {
        return message;
    }
    message.with_u16(VLAN_PROTOCOL, vlan.protocol.number().to_be())
}

/// A bond's options.
pub(crate) fn settings(message: Message, options: &BondOptions) -> Message {
    options.iter().fold(message, |m, (option, value)| {
        let info = option.info();
        match info.encode(value) {
            Encoded::Bytes(bytes) => m.with(info.number, &bytes),
            Encoded::Nest(children) => m.with_nest(info.number | NESTED, |m| {
                (0_u16..).zip(&children).fold(m, |m, (number, bytes)| m.with(number, bytes))
            }),
        }
    })
}

/// Reads a link's kind and its data. What a newer kernel adds is passed over.
pub(crate) fn parse(word: &str, data: Option<&Attribute<'_>>) -> Result<LinkKindState, ParseError> {
    let data = data.into_iter().flat_map(Attribute::nested);
    Ok(match word {
        "vlan" => LinkKindState::Vlan(parse_vlan(data)?),
        "bond" => LinkKindState::Bond(parse_bond(data)?),
        "bridge" => {
            let mut options = BTreeMap::new();
            for attribute in data {
                let attribute = attribute?;
                let info = BRIDGE_OPTIONS.iter().find(|info| info.number == attribute.kind);
                let value = match info.map(|info| info.width) {
                    Some(1) => attribute.u8().map(u32::from),
                    Some(2) => attribute.u16().map(u32::from),
                    Some(_) => attribute.u32(),
                    None => None,
                };
                options.extend(info.map(|info| info.attribute).zip(value));
            }
            LinkKindState::Bridge(options)
        }
        "veth" => LinkKindState::Veth,
        "macvlan" => {
            let mut mode = MacvlanMode::default();
            for attribute in data {
                let attribute = attribute?;
                if attribute.kind == MACVLAN_MODE {
                    mode = MacvlanMode::from_number(attribute.u32().unwrap_or_default());
                }
            }
            LinkKindState::Macvlan(mode)
        }
        "dummy" => LinkKindState::Dummy,
        other => LinkKindState::Other(other.to_owned()),
    })
}

type Data<'a, T> = Result<T, ParseError>;

fn parse_vlan<'a>(data: impl Iterator<Item = Data<'a, Attribute<'a>>>) -> Result<VlanState, ParseError> {
    let mut vlan = VlanState::default();
    for attribute in data {
        let attribute = attribute?;
        match attribute.kind {
            VLAN_ID => vlan.id = attribute.u16().and_then(|id| VlanId::new(id).ok()),
            VLAN_PROTOCOL => {
                vlan.protocol = VlanProtocol::from_number(attribute.u16().map_or(0, u16::from_be));
            }
            // { u32 flags; u32 mask; }
            VLAN_FLAGS => vlan.flags = pair(attribute.payload).map_or(0, |(flags, _)| flags),
            VLAN_EGRESS_QOS => vlan.egress_qos = mappings(attribute.nested()),
            VLAN_INGRESS_QOS => vlan.ingress_qos = mappings(attribute.nested()),
            _ => {}
        }
    }
    Ok(vlan)
}

fn pair(payload: &[u8]) -> Option<(u32, u32)> {
    let word = |at: usize| payload.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    Some((word(0)?, word(4)?))
}

fn mappings(nest: Attributes<'_>) -> BTreeMap<u32, u32> {
    // An entry that leads to 0 is none: the kernel keeps it when it is overwritten.
    nest.flatten().filter_map(|a| pair(a.payload)).filter(|(_, to)| *to != 0).collect()
}

fn parse_bond<'a>(data: impl Iterator<Item = Data<'a, Attribute<'a>>>) -> Result<BondState, ParseError> {
    let mut bond = BondState {
        mode: BondMode::BalanceRr,
        primary: None,
        active: None,
        options: BondOptions::new(),
        aggregator: None,
    };
    for attribute in data {
        let attribute = attribute?;
        let port = || attribute.u32().filter(|n| *n != 0);
        match attribute.kind {
            BOND_MODE => bond.mode = BondMode::from_number(attribute.u8().unwrap_or_default()),
            BOND_ACTIVE_PORT => bond.active = port(),
            BOND_PRIMARY => bond.primary = port(),
            BOND_AD_INFO => bond.aggregator = Some(aggregator(attribute.nested())),
            number => {
                if let Some(info) = BondAttribute::from_number(number)
                    && let Some(value) = info.decode(attribute.payload)
                {
                    bond.options.insert(info.attribute, value);
                }
            }
        }
    }
    Ok(bond)
}

fn aggregator(nest: Attributes<'_>) -> Aggregator {
    let mut out = Aggregator::default();
    for attribute in nest.flatten() {
        let number = attribute.u16().unwrap_or_default();
        match attribute.kind {
            1 => out.id = number,
            2 => out.ports = number,
            3 => out.actor_key = number,
            4 => out.partner_key = number,
            5 => out.partner = attribute.payload.try_into().unwrap_or_default(),
            _ => {}
        }
    }
    out
}

/// Reads how a port fares (`IFLA_BOND_SLAVE_*`).
pub(crate) fn parse_port(nest: Attributes<'_>) -> Result<BondPortState, ParseError> {
    let mut port = BondPortState::default();
    let (mut actor, mut partner) = (None, None);
    for attribute in nest {
        let attribute = attribute?;
        match attribute.kind {
            1 => port.active = attribute.u8() == Some(0),
            2 => {
                port.mii = match attribute.u8() {
                    Some(1) => MiiStatus::GoingDown,
                    Some(2) => MiiStatus::Down,
                    Some(3) => MiiStatus::GoingBack,
                    _ => MiiStatus::Up,
                };
            }
            3 => port.failures = attribute.u32().unwrap_or_default(),
            5 => port.queue = attribute.u16().unwrap_or_default(),
            6 => port.aggregator = attribute.u16(),
            7 => actor = attribute.u8(),
            8 => partner = attribute.u16(),
            9 => port.priority = attribute.u32().unwrap_or_default().cast_signed(),
            _ => {}
        }
    }
    port.lacp = actor.zip(partner);
    Ok(port)
}
