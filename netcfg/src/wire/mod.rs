//! rtnetlink messages and announcement frames as bytes. Pure: no I/O.
//!
//! Numbers: `include/uapi/linux/{rtnetlink,if_link,if_addr,if_bonding}.h` of Linux 6.1.

pub(crate) mod address;
pub(crate) mod announce;
pub(crate) mod link;

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
