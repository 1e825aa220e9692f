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
