//! Links: `struct ifinfomsg { u8 family; u8 pad; u16 type; i32 index; u32 flags; u32 change; }` and `IFLA_*`.

use host::nl::{Attributes, Message, NESTED, Reply, attributes, flags};
use host::{IfName, ParseError};

use super::{RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, kind};
use crate::bond::BondOptions;
use crate::spec::LinkKind;
use crate::state::{BondPortState, LinkKindState, LinkState};

const IFF_UP: u32 = 0x1;
const IFF_LOWER_UP: u32 = 0x1_0000;

const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_MIN_MTU: u16 = 50;
const IFLA_MAX_MTU: u16 = 51;
const IFLA_PERM_ADDRESS: u16 = 54;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_PORT_KIND: u16 = 4;
const INFO_PORT_DATA: u16 = 5;
/// Leave the counters out: two thirds of a dump.
const SKIP_STATS: u32 = 1 << 3;

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

pub(crate) fn rename(index: u32, name: &IfName) -> Message {
    about(index).with_str(IFLA_IFNAME, name.as_str())
}

pub(crate) fn set_controller(index: u32, controller: u32) -> Message {
    about(index).with_u32(IFLA_MASTER, controller)
}

pub(crate) fn delete(index: u32) -> Message {
    Message::new(RTM_DELLINK, 0).with_header(&header(index, 0, 0))
}

/// A link to be made.
pub(crate) struct Birth<'a> {
    pub(crate) name: &'a IfName,
    pub(crate) kind: &'a LinkKind,
    /// The link below a VLAN or macvlan.
    pub(crate) parent: Option<u32>,
    pub(crate) mtu: Option<u32>,
    pub(crate) mac: Option<[u8; 6]>,
    /// Enslaved in the same message: a link that is up already cannot become a bond's port (`bond_enslave`).
    pub(crate) controller: Option<u32>,
    pub(crate) up: bool,
}

pub(crate) fn create(birth: &Birth<'_>) -> Message {
    let bits = if birth.up { IFF_UP } else { 0 };
    let mut message = Message::new(RTM_NEWLINK, flags::CREATE | flags::EXCL)
        .with_header(&header(0, bits, bits))
        .with_str(IFLA_IFNAME, birth.name.as_str());
    for (kind, value) in [(IFLA_MTU, birth.mtu), (IFLA_LINK, birth.parent), (IFLA_MASTER, birth.controller)] {
        if let Some(value) = value {
            message = message.with_u32(kind, value);
        }
    }
    if let Some(mac) = birth.mac {
        message = message.with(IFLA_ADDRESS, &mac);
    }
    info(message, birth.kind)
}

/// Changes what a living link can change of its kind. A bond's options the kernel applies in an order of its own and stops at the first it
/// refuses: what came before stays changed.
pub(crate) fn set_kind(index: u32, kind: &LinkKind) -> Message {
    info(about(index), kind)
}

fn info(message: Message, kind: &LinkKind) -> Message {
    match kind.word() {
        Some(word) => message
            .with_nest(IFLA_LINKINFO | NESTED, |m| kind::data(m.with_str(INFO_KIND, word), INFO_DATA, kind)),
        None => message,
    }
}

pub(crate) fn set_bond(index: u32, options: &BondOptions) -> Message {
    about(index).with_nest(IFLA_LINKINFO | NESTED, |m| {
        m.with_str(INFO_KIND, "bond").with_nest(INFO_DATA | NESTED, |m| kind::settings(m, options))
    })
}

/// Chooses the preferred port, by the number of its link; 0 chooses none.
pub(crate) fn set_primary(index: u32, port: u32) -> Message {
    about(index).with_nest(IFLA_LINKINFO | NESTED, |m| {
        m.with_str(INFO_KIND, "bond").with_nest(INFO_DATA | NESTED, |m| m.with_u32(kind::BOND_PRIMARY, port))
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
        flags: device_flags,
        up: device_flags & IFF_UP != 0,
        carrier: device_flags & IFF_LOWER_UP != 0,
        oper: 0,
        mac: Vec::new(),
        permanent_mac: Vec::new(),
        bus_name: None,
        port: None,
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
            IFLA_LINKINFO => (link.kind, link.port) = parse_kind(attribute.nested())?,
            IFLA_PERM_ADDRESS => link.permanent_mac = attribute.payload.to_vec(),
            IFLA_PARENT_DEV_NAME => link.bus_name = attribute.text().map(str::to_owned),
            _ => {}
        }
    }
    Ok(link)
}

fn parse_kind(info: Attributes<'_>) -> Result<(LinkKindState, Option<BondPortState>), ParseError> {
    let (mut kind, mut data, mut of_bond, mut port) = (None, None, false, None);
    for attribute in info {
        let attribute = attribute?;
        match attribute.kind {
            INFO_KIND => kind = attribute.text().map(str::to_owned),
            INFO_DATA => data = Some(attribute),
            INFO_PORT_KIND => of_bond = attribute.text() == Some("bond"),
            INFO_PORT_DATA if of_bond => port = Some(kind::parse_port(attribute.nested())?),
            _ => {}
        }
    }
    // A port of a bond has INFO_SLAVE_KIND only.
    let Some(word) = kind else { return Ok((LinkKindState::Physical, port)) };
    Ok((kind::parse(&word, data.as_ref())?, port))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bond::BondAttribute;
    use crate::kinds::{VlanFlag, VlanProtocol, VlanSpec};
    use crate::{BondMode, VlanId};
    use netlink_packet_core::{NetlinkBuffer, NetlinkDeserializable, NetlinkHeader};
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::{
        InfoBond, InfoData, InfoVlan, LinkAttribute, LinkInfo, VlanFlags, VlanQosMapping,
    };
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

    fn birth<'a>(name: &'a IfName, kind: &'a LinkKind) -> Birth<'a> {
        Birth { name, kind, parent: None, mtu: None, mac: None, controller: None, up: false }
    }

    #[test]
    fn another_implementation_reads_our_vlan() {
        let name = "int1.2".parse().expect("name");
        let vlan = VlanSpec::new("int1".parse().expect("name"), VlanId::new(2).expect("id"))
            .with_protocol(VlanProtocol::Dot1Ad)
            .with_flag(VlanFlag::Gvrp, true)
            .with_flag(VlanFlag::ReorderHdr, false)
            .with_egress_qos(6, 5);
        let kind = LinkKind::Vlan(vlan);
        let birth = Birth { parent: Some(3), mtu: Some(1500), controller: Some(9), ..birth(&name, &kind) };
        let attributes = oracle(&create(&birth));
        assert!(attributes.contains(&LinkAttribute::IfName("int1.2".into())));
        assert!(
            attributes.contains(&LinkAttribute::Link(3))
                && attributes.contains(&LinkAttribute::Controller(9))
        );
        assert!(attributes.contains(&LinkAttribute::Mtu(1500)));
        let InfoData::Vlan(all) = info(&attributes) else { panic!("no VLAN: {attributes:?}") };
        let flags = VlanFlags::Gvrp;
        assert_eq!(all[0], InfoVlan::Id(2));
        assert!(all.contains(&InfoVlan::Flags((flags, VlanFlags::Gvrp | VlanFlags::ReorderHdr))), "{all:?}");
        assert!(all.contains(&InfoVlan::EgressQos(vec![VlanQosMapping::Mapping(6, 5)])), "{all:?}");
        assert!(all.contains(&InfoVlan::Protocol(netlink_packet_route::link::VlanProtocol::Ieee8021Ad)));
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
        let kind = LinkKind::Bond(spec.clone());
        assert_eq!(info(&oracle(&create(&birth(&name, &kind)))), expected);
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
