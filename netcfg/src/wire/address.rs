//! Addresses: `struct ifaddrmsg { u8 family, prefixlen, flags, scope; u32 index; }`; routes: `struct rtmsg`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use host::ParseError;
use host::nl::{Attribute, Message, Reply, attributes, flags};

use super::{
    AF_INET, AF_INET6, RTM_DELADDR, RTM_DELROUTE, RTM_GETADDR, RTM_GETROUTE, RTM_NEWADDR, RTM_NEWROUTE,
};
use crate::Prefix;
use crate::spec::RouteSpec;
use crate::state::{AddressState, RouteState};

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: the address is usable at once.
pub(crate) const IFA_F_NODAD: u32 = 0x02;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u8 = 254;

fn family(v6: bool) -> u8 {
    if v6 { AF_INET6 } else { AF_INET }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn address_of(payload: &[u8]) -> Option<IpAddr> {
    match payload.len() {
        4 => <[u8; 4]>::try_from(payload).ok().map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(payload).ok().map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

fn about(kind: u16, message_flags: u16, index: u32, prefix: &Prefix) -> Message {
    let mut header = vec![family(prefix.address.is_ipv6()), prefix.length, 0, 0];
    header.extend(index.to_ne_bytes());
    let address = prefix.octets();
    Message::new(kind, message_flags)
        .with_header(&header)
        .with(IFA_LOCAL, &address)
        .with(IFA_ADDRESS, &address)
}

/// Adds an address, as `ip addr add` does (with the network's broadcast address). EEXIST if the link has it with this prefix length.
pub(crate) fn add(index: u32, prefix: &Prefix, address_flags: u32) -> Message {
    let mut message = about(RTM_NEWADDR, flags::CREATE | flags::EXCL, index, prefix);
    if let (IpAddr::V4(address), 0..=30) = (prefix.address, prefix.length) {
        let hosts = u32::MAX.checked_shr(prefix.length.into()).unwrap_or(0);
        message = message.with(IFA_BROADCAST, &(u32::from(address) | hosts).to_be_bytes());
    }
    if address_flags == 0 { message } else { message.with_u32(IFA_FLAGS, address_flags) }
}

pub(crate) fn delete(index: u32, prefix: &Prefix) -> Message {
    about(RTM_DELADDR, 0, index, prefix)
}

pub(crate) fn dump() -> Message {
    Message::new(RTM_GETADDR, 0).with_header(&[0; 8])
}

/// Reads one `RTM_NEWADDR`: the link's number and the address.
pub(crate) fn parse(reply: &Reply) -> Result<Option<(u32, AddressState)>, ParseError> {
    let cut = || ParseError::new("address message", "", "shorter than its header");
    let header = reply.body.get(..8).ok_or_else(cut)?;
    let length = header.get(1).copied().ok_or_else(cut)?;
    let index = header.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes).ok_or_else(cut)?;
    let (mut local, mut address, mut state_flags) = (None, None, 0);
    for attribute in attributes(reply.body.get(8..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind {
            IFA_LOCAL => local = address_of(attribute.payload),
            IFA_ADDRESS => address = address_of(attribute.payload),
            IFA_FLAGS => state_flags = attribute.u32().unwrap_or_default(),
            _ => {}
        }
    }
    let Some(found) = local.or(address) else { return Ok(None) };
    let prefix = Prefix::new(found, length)?;
    Ok(Some((index, AddressState { prefix, flags: state_flags })))
}

fn route(kind: u16, message_flags: u16, index: u32, spec: &RouteSpec) -> Message {
    let v6 = spec.destination.map(|d| d.address).or(spec.gateway).is_some_and(|a| a.is_ipv6());
    let length = spec.destination.map_or(0, |d| d.length);
    // Scope: universe (0) behind a gateway, link (253) without one. Protocol 4 is "static". Type 1 is unicast.
    let scope = if spec.gateway.is_some() || v6 { 0 } else { 253 };
    let header = [family(v6), length, 0, 0, RT_TABLE_MAIN, 4, scope, 1, 0, 0, 0, 0];
    let mut message = Message::new(kind, message_flags).with_header(&header);
    if let Some(destination) = spec.destination {
        message = message.with(RTA_DST, &destination.octets());
    }
    if let Some(gateway) = spec.gateway {
        message = message.with(RTA_GATEWAY, &octets(gateway));
    }
    message.with_u32(RTA_OIF, index)
}

pub(crate) fn add_route(index: u32, spec: &RouteSpec) -> Message {
    route(RTM_NEWROUTE, flags::CREATE | flags::EXCL, index, spec)
}

pub(crate) fn delete_route(index: u32, spec: &RouteSpec) -> Message {
    route(RTM_DELROUTE, 0, index, spec)
}

pub(crate) fn dump_routes() -> Message {
    Message::new(RTM_GETROUTE, 0).with_header(&[0; 12])
}

/// Reads one `RTM_NEWROUTE`; `None` if it is not a unicast route of the main table through one link.
pub(crate) fn parse_route(reply: &Reply) -> Result<Option<RouteState>, ParseError> {
    let cut = || ParseError::new("route message", "", "shorter than its header");
    let [af, length, _, _, table, protocol, _, kind, ..] = *reply.body.get(..12).ok_or_else(cut)? else {
        return Err(cut());
    };
    let (mut destination, mut gateway, mut link, mut table) = (None, None, None, u32::from(table));
    for attribute in attributes(reply.body.get(12..).unwrap_or_default()) {
        let attribute: Attribute<'_> = attribute?;
        match attribute.kind {
            RTA_DST => destination = address_of(attribute.payload),
            RTA_GATEWAY => gateway = address_of(attribute.payload),
            RTA_OIF => link = attribute.u32(),
            RTA_TABLE => table = attribute.u32().unwrap_or(table),
            _ => {}
        }
    }
    let destination = destination.filter(|_| length > 0).map(|d| Prefix::new(d, length)).transpose()?;
    let wanted = kind == 1 && table == u32::from(RT_TABLE_MAIN) && (af == AF_INET || af == AF_INET6);
    Ok(link.filter(|_| wanted).map(|link| RouteState {
        destination,
        gateway,
        link,
        protocol,
        is_v6: af == AF_INET6,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        for text in ["10.1.0.100/24", "fd00::1/64", "10.0.0.1/32"] {
            let prefix: Prefix = text.parse().expect(text);
            let reply = Reply::new(RTM_NEWADDR, 0, 1, add(7, &prefix, 0x82).body().to_vec());
            let (index, state) = parse(&reply).expect("reads").expect("has an address");
            assert_eq!((index, state.prefix, state.flags), (7, prefix, 0x82));
        }
    }

    #[test]
    fn a_route_reads_back_as_it_was_written() {
        for spec in [
            RouteSpec::default_via("10.1.0.1".parse().expect("v4")),
            RouteSpec::new("fd00:1::/64".parse().expect("v6"), Some("fd00::2".parse().expect("v6"))),
            RouteSpec::new("10.9.0.0/16".parse().expect("v4"), None),
        ] {
            let reply = Reply::new(RTM_NEWROUTE, 0, 1, add_route(3, &spec).body().to_vec());
            let state = parse_route(&reply).expect("reads").expect("main table");
            assert_eq!((state.destination, state.gateway, state.link), (spec.destination, spec.gateway, 3));
        }
    }
}
