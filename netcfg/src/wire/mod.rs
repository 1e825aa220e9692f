//! rtnetlink messages and announcement frames as bytes. Pure: no I/O.
//!
//! Numbers: `include/uapi/linux/{rtnetlink,if_link,if_addr,if_bonding}.h` of Linux 6.1.

pub(crate) mod address;
pub(crate) mod announce;
pub(crate) mod kind;
pub(crate) mod link;
pub(crate) mod rule;

/// Message types.
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWRULE: u16 = 32;
pub(crate) const RTM_DELRULE: u16 = 33;
pub(crate) const RTM_GETRULE: u16 = 34;

/// Address families.
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

/// Multicast groups (`enum rtnetlink_groups`).
pub(crate) mod groups {
    pub(crate) const LINK: u32 = 1;
    pub(crate) const IPV4_ADDRESS: u32 = 5;
    pub(crate) const IPV4_ROUTE: u32 = 7;
    pub(crate) const IPV6_ADDRESS: u32 = 9;
    pub(crate) const IPV6_ROUTE: u32 = 11;
    /// Those that tell of what a state holds.
    pub(crate) const ALL: [u32; 5] = [LINK, IPV4_ADDRESS, IPV4_ROUTE, IPV6_ADDRESS, IPV6_ROUTE];
}

/// An address of either family, by its length.
pub(crate) fn address_of(payload: &[u8]) -> Option<std::net::IpAddr> {
    match payload.len() {
        4 => <[u8; 4]>::try_from(payload).ok().map(std::net::IpAddr::from),
        16 => <[u8; 16]>::try_from(payload).ok().map(std::net::IpAddr::from),
        _ => None,
    }
}

/// The bytes of an address, in network order.
pub(crate) fn octets(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub(crate) fn family(v6: bool) -> u8 {
    if v6 { AF_INET6 } else { AF_INET }
}
