//! Links: `struct ifinfomsg { u8 family; u8 pad; u16 type; i32 index; u32 flags; u32 change; }` and `IFLA_*`.

use host::nl::{Attribute, Attributes, Message, NESTED, Reply, attributes, flags};
use host::{IfName, ParseError};

use super::{RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK};
use crate::bond::{BondAttribute, BondOptions, Encoded};
use crate::state::{BondState, LinkKindState, LinkState};
use crate::{BondMode, VlanId};

const IFF_UP: u32 = 0x1;
const IFF_LOWER_UP: u32 = 0x1_0000;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_MIN_MTU: u16 = 50;
const IFLA_MAX_MTU: u16 = 51;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
/// Leave the counters out: two thirds of a dump.
const SKIP_STATS: u32 = 1 << 3;

const BOND_MODE: u16 = 1;
const BOND_ACTIVE_PORT: u16 = 2;
const BOND_PRIMARY: u16 = 11;
const VLAN_ID: u16 = 1;
const VLAN_PROTOCOL: u16 = 5;

fn header(index: u32, set: u32, change: u32) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend(index.to_ne_bytes());
    out.extend(set.to_ne_bytes());
    out.extend(change.to_ne_bytes());
    out
}

fn about(index: u32) -> Message {
    // RTM_NEWLINK without CREATE changes: RTM_SETLINK silently ignores IFLA_LINKINFO (net/core/rtnetlink.c).
    Message::new(RTM_NEWLINK, 0).with_header(&header(index, 0, 0))
}

pub(crate) fn dump() -> Message {
    Message::new(RTM_GETLINK, 0).with_header(&header(0, 0, 0)).with_u32(IFLA_EXT_MASK, SKIP_STATS)
}

pub(crate) fn get(name: &IfName) -> Message {
    Message::new(RTM_GETLINK, 0)
        .with_header(&header(0, 0, 0))
        .with_str(IFLA_IFNAME, name.as_str())
        .with_u32(IFLA_EXT_MASK, SKIP_STATS)
}

pub(crate) fn set_up(index: u32, up: bool) -> Message {
    Message::new(RTM_NEWLINK, 0).with_header(&header(index, if up { IFF_UP } else { 0 }, IFF_UP))
}

pub(crate) fn set_mtu(index: u32, mtu: u32) -> Message {
    about(index).with_u32(IFLA_MTU, mtu)
}

pub(crate) fn set_controller(index: u32, controller: u32) -> Message {
    about(index).with_u32(IFLA_MASTER, controller)
}

pub(crate) fn delete(index: u32) -> Message {
    Message::new(RTM_DELLINK, 0).with_header(&header(index, 0, 0))
}

fn create(name: &IfName, mtu: Option<u32>, up: bool) -> Message {
    let bits = if up { IFF_UP } else { 0 };
    let message = Message::new(RTM_NEWLINK, flags::CREATE | flags::EXCL)
        .with_header(&header(0, bits, bits))
        .with_str(IFLA_IFNAME, name.as_str());
    match mtu {
        Some(mtu) => message.with_u32(IFLA_MTU, mtu),
        None => message,
    }
}

/// A VLAN, enslaved in the same message if it is to be a port: one that is up already cannot be (`bond_enslave`).
pub(crate) fn create_vlan(
    name: &IfName,
    parent: u32,
    id: VlanId,
    mtu: Option<u32>,
    controller: Option<u32>,
    up: bool,
) -> Message {
    let mut message = create(name, mtu, up).with_u32(IFLA_LINK, parent);
    if let Some(controller) = controller {
        message = message.with_u32(IFLA_MASTER, controller);
    }
    message.with_nest(IFLA_LINKINFO | NESTED, |m| {
        m.with_str(INFO_KIND, "vlan").with_nest(INFO_DATA | NESTED, |m| m.with_u16(VLAN_ID, id.get()))
    })
}

pub(crate) fn create_bond(
    name: &IfName,
    mode: BondMode,
    options: &BondOptions,
    mtu: Option<u32>,
    mac: Option<[u8; 6]>,
) -> Message {
    let message = match mac {
        Some(mac) => create(name, mtu, false).with(IFLA_ADDRESS, &mac),
        None => create(name, mtu, false),
    };
    message.with_nest(IFLA_LINKINFO | NESTED, |m| {
        bond_info(m, |m| settings(m.with_u8(BOND_MODE, mode.number()), options))
    })
}

/// Changes options. The kernel applies them in an order of its own and stops at the first it refuses: what came before stays changed.
pub(crate) fn set_bond(index: u32, options: &BondOptions) -> Message {
    about(index).with_nest(IFLA_LINKINFO | NESTED, |m| bond_info(m, |m| settings(m, options)))
}

/// Chooses the preferred port, by the number of its link; 0 chooses none.
pub(crate) fn set_primary(index: u32, port: u32) -> Message {
    about(index).with_nest(IFLA_LINKINFO | NESTED, |m| bond_info(m, |m| m.with_u32(BOND_PRIMARY, port)))
}

fn bond_info(message: Message, fill: impl FnOnce(Message) -> Message) -> Message {
    message.with_str(INFO_KIND, "bond").with_nest(INFO_DATA | NESTED, fill)
}

fn settings(message: Message, options: &BondOptions) -> Message {
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

/// Reads one `RTM_NEWLINK`. What a newer kernel adds is passed over; what is cut is an error of this message alone.
pub(crate) fn parse(reply: &Reply) -> Result<LinkState, ParseError> {
    let cut = || ParseError::new("link message", "", "shorter than its header");
    let word = |at: usize| reply.body.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let (index, device_flags) = word(4).zip(word(8)).ok_or_else(cut)?;
    let mut link = LinkState {
        index,
        name: String::new(),
        kind: LinkKindState::Physical,
        mtu: 0,
        mtu_range: (None, None),
        up: device_flags & IFF_UP != 0,
        carrier: device_flags & IFF_LOWER_UP != 0,
        oper: 0,
        mac: Vec::new(),
        controller: None,
        lower: None,
        addresses: Vec::new(),
    };
    for attribute in attributes(reply.body.get(16..).ok_or_else(cut)?) {
        let attribute = attribute?;
        match attribute.kind {
            IFLA_IFNAME => link.name = attribute.text().unwrap_or_default().to_owned(),
            IFLA_MTU => link.mtu = attribute.u32().unwrap_or_default(),
            IFLA_ADDRESS => link.mac = attribute.payload.to_vec(),
            IFLA_LINK => link.lower = attribute.u32().filter(|lower| *lower != 0 && *lower != index),
            IFLA_MASTER => link.controller = attribute.u32().filter(|n| *n != 0),
            IFLA_OPERSTATE => link.oper = attribute.u8().unwrap_or_default(),
            IFLA_MIN_MTU => link.mtu_range.0 = attribute.u32().filter(|n| *n != 0),
            IFLA_MAX_MTU => link.mtu_range.1 = attribute.u32().filter(|n| *n != 0),
            IFLA_LINKINFO => link.kind = parse_kind(attribute.nested())?,
            _ => {}
        }
    }
    Ok(link)
}

fn parse_kind(info: Attributes<'_>) -> Result<LinkKindState, ParseError> {
    let (mut kind, mut data) = (None, None);
    for attribute in info {
        let attribute = attribute?;
        match attribute.kind {
            INFO_KIND => kind = attribute.text().map(str::to_owned),
            INFO_DATA => data = Some(attribute),
            _ => {}
        }
    }
    let data = data.iter().flat_map(Attribute::nested);
    match kind.as_deref() {
        // A port of a bond has INFO_SLAVE_KIND only.
        None => Ok(LinkKindState::Physical),
        Some("vlan") => {
            let (mut id, mut protocol) = (None, 0x8100);
            for attribute in data {
                let attribute = attribute?;
                match attribute.kind {
                    VLAN_ID => id = attribute.u16().and_then(|id| VlanId::new(id).ok()),
                    VLAN_PROTOCOL => protocol = attribute.u16().map_or(0, u16::from_be),
                    _ => {}
                }
            }
            Ok(LinkKindState::Vlan { id, protocol })
        }
        Some("bond") => {
            let mut bond = BondState {
                mode: BondMode::BalanceRr,
                primary: None,
                active: None,
                options: BondOptions::new(),
            };
            for attribute in data {
                let attribute = attribute?;
                let port = || attribute.u32().filter(|n| *n != 0);
                match attribute.kind {
                    BOND_MODE => bond.mode = BondMode::from_number(attribute.u8().unwrap_or_default()),
                    BOND_ACTIVE_PORT => bond.active = port(),
                    BOND_PRIMARY => bond.primary = port(),
                    number => {
                        if let Some(info) = BondAttribute::from_number(number)
                            && let Some(value) = info.decode(attribute.payload)
                        {
                            bond.options.insert(info.attribute, value);
                        }
                    }
                }
            }
            Ok(LinkKindState::Bond(bond))
        }
        Some(other) => Ok(LinkKindState::Other(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use netlink_packet_core::{NetlinkBuffer, NetlinkDeserializable, NetlinkHeader};
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::{InfoBond, InfoData, InfoVlan, LinkAttribute, LinkInfo};
    use proptest::prelude::*;

    /// What the rust-netlink crate reads in our message.
    fn oracle(message: &Message) -> Vec<LinkAttribute> {
        let bytes = message.encode(1);
        let buffer = NetlinkBuffer::new_checked(&bytes).expect("whole");
        let mut header = NetlinkHeader::default();
        header.message_type = buffer.message_type();
        match RouteNetlinkMessage::deserialize(&header, buffer.payload()).expect("reads") {
            RouteNetlinkMessage::NewLink(link) => link.attributes,
            other => panic!("not a link: {other:?}"),
        }
    }

    fn info(attributes: &[LinkAttribute]) -> InfoData {
        let infos = attributes.iter().find_map(|a| match a {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
        let data = infos.expect("has link info").iter().find_map(|i| match i {
            LinkInfo::Data(data) => Some(data.clone()),
            _ => None,
        });
        data.expect("has data")
    }

    #[test]
    fn another_implementation_reads_our_vlan() {
        let name = "int1.2".parse().expect("name");
        let attributes =
            oracle(&create_vlan(&name, 3, VlanId::new(2).expect("id"), Some(1500), Some(9), false));
        assert!(attributes.contains(&LinkAttribute::IfName("int1.2".into())));
        assert!(
            attributes.contains(&LinkAttribute::Link(3))
                && attributes.contains(&LinkAttribute::Controller(9))
        );
        assert!(attributes.contains(&LinkAttribute::Mtu(1500)));
        assert_eq!(info(&attributes), InfoData::Vlan(vec![InfoVlan::Id(2)]));
    }

    #[test]
    fn another_implementation_reads_our_bond() {
        let name = "bond0".parse().expect("name");
        let targets = vec!["10.0.0.1".parse().expect("v4"), "10.0.0.2".parse().expect("v4")];
        let spec = crate::BondSpec::new(BondMode::ActiveBackup)
            .with_delays(Duration::from_millis(200), Duration::from_millis(300))
            .with_peer_notices(3)
            .with_option(BondAttribute::ArpTargets, targets)
            .with_option(BondAttribute::XmitHashPolicy, 1)
            .with_option(BondAttribute::AdActorSystemPriority, 7)
            .with_option(BondAttribute::AdActorSystem, [2, 0, 0, 0, 0, 9]);
        let v4 = |last| std::net::Ipv4Addr::new(10, 0, 0, last);
        let expected = InfoData::Bond(vec![
            InfoBond::Mode(netlink_packet_route::link::BondMode::ActiveBackup),
            InfoBond::MiiMon(100),
            InfoBond::UpDelay(200),
            InfoBond::DownDelay(300),
            InfoBond::ArpIpTarget(vec![v4(1), v4(2)]),
            InfoBond::XmitHashPolicy(netlink_packet_route::link::BondXmitHashPolicy::Layer34),
            InfoBond::NumPeerNotif(3),
            InfoBond::AdActorSysPrio(7),
            InfoBond::AdActorSystem([2, 0, 0, 0, 0, 9]),
        ]);
        assert_eq!(info(&oracle(&create_bond(&name, spec.mode, &spec.options, None, None))), expected);
        assert_eq!(info(&oracle(&set_primary(4, 7))), InfoData::Bond(vec![InfoBond::Primary(7)]));
        // And we read it back ourselves.
        let message = set_bond(4, &spec.options);
        let link = parse(&Reply::new(RTM_NEWLINK, 0, 1, message.body().to_vec())).expect("reads");
        let LinkKindState::Bond(bond) = link.kind else { panic!("not a bond: {link:?}") };
        assert_eq!(bond.options, spec.options);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let read = parse(&Reply::new(RTM_NEWLINK, 0, 1, body.clone()));
            prop_assert!(read.is_ok() || !body.is_empty() || body.len() < 16);
        }
    }
}
