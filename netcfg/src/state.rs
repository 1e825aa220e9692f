//! What is seen: one dump of links, one of addresses, one of routes.

use std::collections::BTreeMap;

use host::IfName;

use crate::bond::{BondAttribute, BondOptions};
use crate::hardware::HardwareState;
use crate::kinds::{BridgeAttribute, MacvlanMode, VlanFlag, VlanProtocol};
use crate::route::{Lifetime, RouteSpec, RuleSpec};
use crate::{BondMode, Prefix, VlanId};

/// The network of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NetState {
    /// All links, by their number.
    pub links: BTreeMap<u32, LinkState>,
    /// The unicast routes of all tables but `local`, which is the kernel's own.
    pub routes: Vec<RouteState>,
    /// The rules that choose a table, in the order in which they are asked.
    pub rules: Vec<RuleSpec>,
    /// What cards do, by their link's number: of those links whose settings were asked for.
    pub hardware: BTreeMap<u32, HardwareState>,
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
    /// Its flags (`IFF_*`), as the kernel has them.
    pub flags: u32,
    /// Administratively up.
    pub up: bool,
    /// Its lower layer is up: a cable, a partner.
    pub carrier: bool,
    /// RFC 2863's state: 6 is up, 2 down, 0 unknown (a device without one).
    pub oper: u8,
    /// Its hardware address.
    pub mac: Vec<u8>,
    /// The hardware address its card was made with, which a bond does not change; empty for links that are no cards.
    pub permanent_mac: Vec<u8>,
    /// The place of its card: `0000:03:00.0` on PCI, `virtio0`, `1-2:1.0` on USB. Since Linux 5.13.
    pub bus_name: Option<String>,
    /// How it fares as a port of a bond.
    pub port: Option<BondPortState>,
    /// The bond or bridge it is a port of.
    pub controller: Option<u32>,
    /// The link below it (the parent of a VLAN or macvlan), or the other end of a veth pair.
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
    Vlan(VlanState),
    /// A bond.
    Bond(BondState),
    /// A bridge, with its options.
    Bridge(BTreeMap<BridgeAttribute, u32>),
    /// One end of a veth pair.
    Veth,
    /// A macvlan.
    Macvlan(MacvlanMode),
    /// A link that leads nowhere.
    Dummy,
    /// Another software link: "vxlan", "tun", ...
    Other(String),
}

impl LinkKindState {
    /// The kernel's word for it; `None` for a card.
    #[must_use]
    pub fn word(&self) -> Option<&str> {
        Some(match self {
            Self::Physical => return None,
            Self::Vlan(_) => "vlan",
            Self::Bond(_) => "bond",
            Self::Bridge(_) => "bridge",
            Self::Veth => "veth",
            Self::Macvlan(_) => "macvlan",
            Self::Dummy => "dummy",
            Self::Other(word) => word,
        })
    }
}

/// A VLAN.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VlanState {
    /// Its number; `None` if the kernel's is out of our range.
    pub id: Option<VlanId>,
    /// The tag's protocol.
    pub protocol: VlanProtocol,
    /// Its flags, as the kernel has them ([`VlanFlag::bit`]).
    pub flags: u32,
    /// Priorities of outgoing tags by the packet's; what is not there is 0.
    pub egress_qos: BTreeMap<u32, u32>,
    /// Priorities of packets by the tag's.
    pub ingress_qos: BTreeMap<u32, u32>,
}

impl VlanState {
    /// Whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: VlanFlag) -> bool {
        self.flags & flag.bit() != 0
    }
}

/// A port as its bond sees it (`IFLA_BOND_SLAVE_*`); `/proc/net/bonding/BOND`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BondPortState {
    /// It carries traffic; `false`: it waits in reserve.
    pub active: bool,
    /// Whether the bond's monitor takes it for usable.
    pub mii: MiiStatus,
    /// How often its carrier failed since it became a port.
    pub failures: u32,
    /// The queue that is steered to it; 0 for none.
    pub queue: u16,
    /// Its preference when a new active port is chosen.
    pub priority: i32,
    /// The aggregator it is in (802.3ad); ports in another one than the bond's carry nothing.
    pub aggregator: Option<u16>,
    /// The LACP bits of this side and of the partner (IEEE 802.1AX 6.4.2.3).
    pub lacp: Option<(u8, u16)>,
}

/// What a bond's monitor says of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum MiiStatus {
    /// Usable.
    #[default]
    Up,
    /// Failed, and the down delay is running.
    GoingDown,
    /// Not usable.
    Down,
    /// Has carrier again, and the up delay is running.
    GoingBack,
}

/// The aggregator that an 802.3ad bond uses, and who is at its other end (`IFLA_BOND_AD_INFO`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Aggregator {
    /// Its number.
    pub id: u16,
    /// How many ports it has.
    pub ports: u16,
    /// The key of this side.
    pub actor_key: u16,
    /// The key of the partner.
    pub partner_key: u16,
    /// The partner's system; all zeros while none answers.
    pub partner: [u8; 6],
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
    /// The aggregator in use (802.3ad, once it is up).
    pub aggregator: Option<Aggregator>,
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
    /// `IFA_F_*` flags: 0x40 tentative, 0x08 duplicate, 0x80 permanent, 0x01 secondary, 0x200 without a route to its network.
    pub flags: u32,
    /// How long it still lives; `None` for ever.
    pub lifetime: Option<Lifetime>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RouteState {
    /// The route as a spec would have it, with the metric the kernel gave it.
    pub route: RouteSpec,
    /// Through which link.
    pub link: u32,
    /// Who made it: 2 the kernel, 3 boot, 4 an administrator (`rtm_protocol`, `/etc/iproute2/rt_protos`).
    pub protocol: u8,
    /// IPv6 (a default route has no destination to tell by).
    pub is_v6: bool,
}

/// How a bond fares: what to look at before one port more fails.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BondHealth {
    /// The bond's name.
    pub bond: String,
    /// The port in use (active-backup, balance-tlb, balance-alb).
    pub active: Option<String>,
    /// The ports that could carry traffic now.
    pub usable: Vec<String>,
    /// The ports that could not, each with the reason.
    pub failed: Vec<(String, String)>,
    /// How often ports failed since they joined, all together.
    pub failures: u32,
    /// The aggregator in use (802.3ad).
    pub aggregator: Option<Aggregator>,
}

impl BondHealth {
    /// Whether one more failure leaves it working: at least two ports are usable.
    #[must_use]
    pub fn is_redundant(&self) -> bool {
        self.usable.len() >= 2
    }
}

impl NetState {
    /// How a bond fares; `None` if there is no bond of this name.
    #[must_use]
    pub fn health(&self, bond: &IfName) -> Option<BondHealth> {
        let link = self.link(bond)?;
        let LinkKindState::Bond(state) = &link.kind else { return None };
        let (mut usable, mut failed, mut failures) = (Vec::new(), Vec::new(), 0_u32);
        for port in self.ports_of(link.index) {
            let seen = port.port.clone().unwrap_or_default();
            failures = failures.saturating_add(seen.failures);
            let apart = state.aggregator.zip(seen.aggregator).is_some_and(|(bond, port)| bond.id != port);
            let reason = match seen.mii {
                _ if !port.up => "it is down",
                _ if !port.carrier => "it has no carrier: look at its cable and the switch's port",
                MiiStatus::Down => "the bond's monitor takes it for dead",
                MiiStatus::GoingDown => "it failed a moment ago",
                MiiStatus::GoingBack => "it has carrier again and waits for the up delay",
                MiiStatus::Up if apart => "it is in another aggregator: the switch's ports are not one group",
                MiiStatus::Up => {
                    usable.push(port.name.clone());
                    continue;
                }
            };
            failed.push((port.name.clone(), reason.to_owned()));
        }
        let active = state.active.and_then(|index| self.name_of(index)).map(str::to_owned);
        let bond = link.name.clone();
        Some(BondHealth { bond, active, usable, failed, failures, aggregator: state.aggregator })
    }
}
