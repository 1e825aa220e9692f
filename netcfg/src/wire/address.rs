//! Addresses: `struct ifaddrmsg { u8 family, prefixlen, flags, scope; u32 index; }`; routes: `struct rtmsg`.

use std::net::IpAddr;
use std::time::Duration;

use host::ParseError;
use host::nl::{Attribute, Message, Reply, attributes, flags};

use super::{
    AF_INET, AF_INET6, RTM_DELADDR, RTM_DELROUTE, RTM_GETADDR, RTM_GETROUTE, RTM_NEWADDR, RTM_NEWROUTE,
    address_of, family, octets,
};
use crate::Prefix;
use crate::route::{AddressSpec, Lifetime, RouteSpec};
use crate::state::{AddressState, RouteState};

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: the address is usable at once.
const IFA_F_NODAD: u32 = 0x02;
/// No route to the address's network.
pub(crate) const IFA_F_NOPREFIXROUTE: u32 = 0x200;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RT_TABLE_LOCAL: u32 = 255;

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
pub(crate) fn add(index: u32, spec: &AddressSpec) -> Message {
    set(index, spec, flags::CREATE | flags::EXCL)
}

fn set(index: u32, spec: &AddressSpec, message_flags: u16) -> Message {
    let prefix = &spec.prefix;
    let mut message = about(RTM_NEWADDR, message_flags, index, prefix);
    if let (IpAddr::V4(address), 0..=30) = (prefix.address, prefix.length) {
        let hosts = u32::MAX.checked_shr(prefix.length.into()).unwrap_or(0);
        message = message.with(IFA_BROADCAST, &(u32::from(address) | hosts).to_be_bytes());
    }
    if let Some(lifetime) = spec.lifetime {
        // { u32 preferred, valid, created, updated; }, seconds; all ones is for ever.
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).to_ne_bytes();
        let times = [seconds(lifetime.preferred), seconds(lifetime.valid), [0; 4], [0; 4]];
        message = message.with(IFA_CACHEINFO, &times.concat());
    }
    let no_route = if spec.no_prefix_route { IFA_F_NOPREFIXROUTE } else { 0 };
    let no_dad = if spec.no_dad && prefix.address.is_ipv6() { IFA_F_NODAD } else { 0 };
    match no_route | no_dad {
        0 => message,
        bits => message.with_u32(IFA_FLAGS, bits),
    }
}

/// Changes how long an address lives that is there.
pub(crate) fn change(index: u32, spec: &AddressSpec) -> Message {
    set(index, spec, flags::REPLACE)
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
    let (mut local, mut address, mut state_flags, mut lifetime) = (None, None, 0, None);
    for attribute in attributes(reply.body.get(8..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind {
            IFA_LOCAL => local = address_of(attribute.payload),
            IFA_ADDRESS => address = address_of(attribute.payload),
            IFA_FLAGS => state_flags = attribute.u32().unwrap_or_default(),
            IFA_CACHEINFO => lifetime = lives(attribute.payload),
            _ => {}
        }
    }
    let Some(found) = local.or(address) else { return Ok(None) };
    let prefix = Prefix::new(found, length)?;
    Ok(Some((index, AddressState { prefix, flags: state_flags, lifetime })))
}

fn lives(payload: &[u8]) -> Option<Lifetime> {
    let word = |at: usize| payload.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let time = |seconds: u32| Duration::from_secs(seconds.into());
    let (preferred, valid) = (word(0)?, word(4)?);
    (valid != u32::MAX).then(|| Lifetime::new(time(valid), time(preferred)))
}

fn route(kind: u16, message_flags: u16, index: u32, spec: &RouteSpec) -> Message {
    let v6 = spec.is_v6();
    let length = spec.destination.map_or(0, |d| d.length);
    // Scope: universe (0) behind a gateway, link (253) without one. Protocol 4 is "static". Type 1 is unicast. The byte for the table holds
    // small numbers only; the attribute holds all.
    let scope = if spec.gateway.is_some() || v6 { 0 } else { 253 };
    let table = u8::try_from(spec.table).unwrap_or(0);
    let header = [family(v6), length, 0, 0, table, 4, scope, 1, 0, 0, 0, 0];
    let mut message = Message::new(kind, message_flags).with_header(&header);
    for (attribute, address) in [
        (RTA_DST, spec.destination.map(|d| d.address)),
        (RTA_GATEWAY, spec.gateway),
        (RTA_PREFSRC, spec.source),
    ] {
        if let Some(address) = address {
            message = message.with(attribute, &octets(address));
        }
    }
    if let Some(metric) = spec.metric {
        message = message.with_u32(RTA_PRIORITY, metric);
    }
    if table == 0 {
        message = message.with_u32(RTA_TABLE, spec.table);
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

/// Reads one `RTM_NEWROUTE`; `None` if it is not a unicast route through one link, or of the kernel's table of its own addresses.
pub(crate) fn parse_route(reply: &Reply) -> Result<Option<RouteState>, ParseError> {
    let cut = || ParseError::new("route message", "", "shorter than its header");
    let [af, length, _, _, table, protocol, _, kind, ..] = *reply.body.get(..12).ok_or_else(cut)? else {
        return Err(cut());
    };
    let (mut destination, mut link) = (None, None);
    let mut route =
        RouteSpec { destination: None, gateway: None, table: u32::from(table), metric: None, source: None };
    for attribute in attributes(reply.body.get(12..).unwrap_or_default()) {
        let attribute: Attribute<'_> = attribute?;
        match attribute.kind {
            RTA_DST => destination = address_of(attribute.payload),
            RTA_GATEWAY => route.gateway = address_of(attribute.payload),
            RTA_OIF => link = attribute.u32(),
            RTA_PRIORITY => route.metric = attribute.u32(),
            RTA_PREFSRC => route.source = address_of(attribute.payload),
            RTA_TABLE => route.table = attribute.u32().unwrap_or(route.table),
            _ => {}
        }
    }
    route.destination = destination.filter(|_| length > 0).map(|d| Prefix::new(d, length)).transpose()?;
    let wanted = kind == 1 && route.table != RT_TABLE_LOCAL && (af == AF_INET || af == AF_INET6);
    Ok(link.filter(|_| wanted).map(|link| RouteState { route, link, protocol, is_v6: af == AF_INET6 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        let lifetime = Lifetime::new(Duration::from_secs(600), Duration::from_secs(300));
        for (text, lifetime) in
            [("10.1.0.100/24", None), ("fd00::1/64", Some(lifetime)), ("10.0.0.1/32", None)]
        {
            let prefix: Prefix = text.parse().expect(text);
            let spec =
                AddressSpec { lifetime, ..AddressSpec::new(prefix).without_dad().without_prefix_route() };
            let reply = Reply::new(RTM_NEWADDR, 0, 1, add(7, &spec).body().to_vec());
            let (index, state) = parse(&reply).expect("reads").expect("has an address");
            assert_eq!((index, state.prefix, state.lifetime), (7, prefix, lifetime));
            assert_eq!(state.flags, if prefix.address.is_ipv6() { 0x202 } else { 0x200 });
        }
    }

    #[test]
    fn a_route_reads_back_as_it_was_written() {
        for spec in [
            RouteSpec::default_via("10.1.0.1".parse().expect("v4")),
            RouteSpec::new("fd00:1::/64".parse().expect("v6"), Some("fd00::2".parse().expect("v6"))),
            RouteSpec::new("10.9.0.0/16".parse().expect("v4"), None).with_table(100).with_metric(7),
            RouteSpec::new("10.9.0.0/16".parse().expect("v4"), None)
                .with_table(70_000)
                .with_source("10.9.0.1".parse().expect("v4")),
        ] {
            let reply = Reply::new(RTM_NEWROUTE, 0, 1, add_route(3, &spec).body().to_vec());
            let state = parse_route(&reply).expect("reads").expect("of a table");
            assert_eq!((state.route, state.link), (spec, 3));
        }
    }
}
