//! What is seen: one dump of links, one of addresses, one of routes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use host::IfName;

use crate::bond::{BondAttribute, BondOptions};
use crate::{BondMode, Prefix, VlanId};

/// The network of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NetState {
    /// All links, by their number.
    pub links: BTreeMap<u32, LinkState>,
    /// The routes of the main table.
    pub routes: Vec<RouteState>,
}

impl NetState {
    /// The link of a name.
    #[must_use]
    pub fn link(&self, name: &IfName) -> Option<&LinkState> {
        self.links.values().find(|link| link.name == name.as_str())
    }

    /// The name of a link's number.
    #[must_use]
    pub fn name_of(&self, index: u32) -> Option<&str> {
        self.links.get(&index).map(|link| link.name.as_str())
    }

    /// The ports of a bond or bridge, by number.
    pub fn ports_of(&self, controller: u32) -> impl Iterator<Item = &LinkState> {
        self.links.values().filter(move |link| link.controller == Some(controller))
    }
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LinkState {
    /// Its number.
    pub index: u32,
    /// Its name, as the kernel has it.
    pub name: String,
    /// What it is.
    pub kind: LinkKindState,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The smallest and largest MTU its driver takes, where it says so.
    pub mtu_range: (Option<u32>, Option<u32>),
    /// Administratively up.
    pub up: bool,
    /// Its lower layer is up: a cable, a partner.
    pub carrier: bool,
    /// RFC 2863's state: 6 is up, 2 down, 0 unknown (a device without one).
    pub oper: u8,
    /// Its hardware address.
    pub mac: Vec<u8>,
    /// The bond or bridge it is a port of.
    pub controller: Option<u32>,
    /// The link below it (a VLAN's parent).
    pub lower: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<AddressState>,
}

impl LinkState {
    /// Whether packets can pass: up, with carrier, and operational or of a kind that does not say.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.up && self.carrier && matches!(self.oper, 0 | 6)
    }
}

/// What a link is, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum LinkKindState {
    /// A device of a driver.
    Physical,
    /// A VLAN.
    Vlan {
        /// Its number; `None` if the kernel's is out of our range.
        id: Option<VlanId>,
        /// 0x8100 (802.1Q) or 0x88a8 (802.1ad).
        protocol: u16,
    },
    /// A bond.
    Bond(BondState),
    /// Another software link: "veth", "bridge", ...
    Other(String),
}

/// A bond's options.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BondState {
    /// The mode.
    pub mode: BondMode,
    /// The preferred port.
    pub primary: Option<u32>,
    /// The port in use (active-backup).
    pub active: Option<u32>,
    /// All other options this kernel has.
    pub options: BondOptions,
}

impl BondState {
    /// An option's number, if this kernel has it.
    #[must_use]
    pub fn number(&self, option: BondAttribute) -> Option<u32> {
        crate::bond::number(&self.options, option)
    }
}

/// One address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AddressState {
    /// The address.
    pub prefix: Prefix,
    /// `IFA_F_*` flags: 0x40 tentative, 0x08 duplicate, 0x80 permanent, 0x01 secondary.
    pub flags: u32,
}

/// One route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RouteState {
    /// Where it leads; `None` is the default route.
    pub destination: Option<Prefix>,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// Through which link.
    pub link: u32,
    /// Who made it: 2 the kernel, 3 boot, 4 an administrator (`rtm_protocol`, `/etc/iproute2/rt_protos`).
    pub protocol: u8,
    /// IPv6 (a default route has no destination to tell by).
    pub is_v6: bool,
}
