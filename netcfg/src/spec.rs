//! What is wanted: links, addresses, routes, sysctls.

use std::net::IpAddr;
use std::time::Duration;

use host::IfName;

use crate::bond::{BondAttribute, BondOptions, BondValue};
use crate::hardware::HardwareSpec;
use crate::kinds::{BridgeSpec, MacvlanMode, VlanSpec};
use crate::names::CardMatch;
use crate::parameter::SysctlSpec;
use crate::route::{AddressSpec, RouteSpec, RuleSpec};
use crate::{Prefix, VlanId};

/// The network of a machine, as far as it is to be ruled. What it does not name is never touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct NetSpec {
    /// The links, in any order: the plan sorts them.
    pub links: Vec<LinkSpec>,
    /// Kernel parameters, written before the links.
    pub sysctls: Vec<SysctlSpec>,
    /// Rules that choose a table of routes. Others that the machine has are left alone.
    #[cfg_attr(feature = "serde", serde(default))]
    pub rules: Vec<RuleSpec>,
    /// What happens to a link that can become what is wanted only by being deleted and made anew.
    #[cfg_attr(feature = "serde", serde(default))]
    pub recreate: Recreate,
    /// Addresses of this machine whose links no step may take away or down: the one through which its administrator is connected.
    #[cfg_attr(feature = "serde", serde(default))]
    pub protected: Vec<IpAddr>,
}

/// Whether a plan may delete a link and make it anew, where the kernel cannot change the living one: a VLAN's number, protocol or parent, a
/// bond's mode, a link of another kind. Connections through it are dropped meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Recreate {
    /// It is refused, with what would have to go.
    #[default]
    Never,
    /// Where it must be, and whatever of the spec stands on it too; refused if something stands on it that the spec does not name.
    WhereNeeded,
}

impl NetSpec {
    /// Adds a link.
    #[must_use]
    pub fn with_link(mut self, link: LinkSpec) -> Self {
        self.links.push(link);
        self
    }

    /// Adds a kernel parameter.
    #[must_use]
    pub fn with_sysctl(mut self, sysctl: SysctlSpec) -> Self {
        self.sysctls.push(sysctl);
        self
    }

    /// Adds a rule; `ip rule add`.
    #[must_use]
    pub fn with_rule(mut self, rule: RuleSpec) -> Self {
        self.rules.push(rule);
        self
    }

    /// Lets links be deleted and made anew where they must be.
    #[must_use]
    pub fn with_recreation(mut self) -> Self {
        self.recreate = Recreate::WhereNeeded;
        self
    }

    /// Protects the link that has this address, and all it stands on, from every step that would cut a connection.
    #[must_use]
    pub fn with_protected(mut self, address: IpAddr) -> Self {
        self.protected.push(address);
        self
    }

    /// Routes what leaves with a portal's address through the portal's own link: a table of its own with the portal's network and, if there
    /// is one, a gateway, and a rule that sends the address there. Without it the answers of two portals in one network leave through
    /// whichever link the main table prefers. The table's number, 1 to 252, is the rule's priority too.
    ///
    /// # Errors
    /// The link is not in the spec or has not this address, or the table's number is out of range.
    pub fn with_source_routing(
        mut self,
        link: &IfName,
        portal: IpAddr,
        gateway: Option<IpAddr>,
        table: u32,
    ) -> Result<Self, host::ParseError> {
        let bad =
            |reason: &str| host::ParseError::new("source routing", format!("{portal} on {link}"), reason);
        if !(1..=252).contains(&table) {
            return Err(bad("a table of one's own has a number from 1 to 252"));
        }
        let found = self.links.iter_mut().find(|spec| spec.name == *link);
        let spec = found.ok_or_else(|| bad("the link is not in the spec"))?;
        let prefix = spec.addresses.iter().map(|a| a.prefix).find(|prefix| prefix.address == portal);
        let prefix = prefix.ok_or_else(|| bad("the link has not this address in the spec"))?;
        spec.routes.push(RouteSpec::new(prefix.network(), None).with_table(table).with_source(portal));
        if let Some(gateway) = gateway {
            spec.routes.push(RouteSpec::default_via(gateway).with_table(table));
        }
        let alone = Prefix { address: portal, length: if portal.is_ipv4() { 32 } else { 128 } };
        self.rules.push(RuleSpec::from(table, alone, table));
        Ok(self)
    }

    /// The link of a name.
    #[must_use]
    pub fn link(&self, name: &IfName) -> Option<&LinkSpec> {
        self.links.iter().find(|link| &link.name == name)
    }

    /// The bond or bridge that has a link as its port.
    #[must_use]
    pub fn controller_of(&self, port: &IfName) -> Option<&IfName> {
        self.links.iter().find(|link| link.kind.ports().contains(port)).map(|link| &link.name)
    }

    /// The bond that has a link as its port.
    #[must_use]
    pub fn bond_of(&self, port: &IfName) -> Option<&IfName> {
        self.links.iter().find_map(|link| match &link.kind {
            LinkKind::Bond(bond) if bond.ports.contains(port) => Some(&link.name),
            _ => None,
        })
    }
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LinkSpec {
    /// Its name.
    pub name: IfName,
    /// What it is.
    pub kind: LinkKind,
    /// What a network card is known by: it is given this name, whatever it was called. `None` takes the card that has the name.
    #[cfg_attr(feature = "serde", serde(default))]
    pub card: Option<CardMatch>,
    /// Its MTU in bytes; `None` leaves it as it is, or as the kernel makes it. A bond sets its ports' MTU to its own.
    pub mtu: Option<u32>,
    /// Its addresses. Others that it has are left alone.
    pub addresses: Vec<AddressSpec>,
    /// Routes through it.
    pub routes: Vec<RouteSpec>,
    /// What its card is to do: rings, queues, interrupt moderation, pause frames, offloads.
    #[cfg_attr(feature = "serde", serde(default))]
    pub hardware: HardwareSpec,
}

impl LinkSpec {
    /// A link of any kind.
    #[must_use]
    pub fn new(name: IfName, kind: LinkKind) -> Self {
        let (addresses, routes) = Default::default();
        Self { name, kind, card: None, mtu: None, addresses, routes, hardware: HardwareSpec::default() }
    }

    /// An interface that is there (a network card): it is brought up, given its MTU and addresses, never made or deleted.
    #[must_use]
    pub fn existing(name: IfName) -> Self {
        Self::new(name, LinkKind::Existing)
    }

    /// A network card that is known by its hardware address or place, and gets this name: a USB card that comes back as `eth3` is found
    /// again. `/etc/udev/rules.d/70-persistent-net.rules`; see [`CardMatch::link_file`] for the next boot.
    #[must_use]
    pub fn card(name: IfName, card: CardMatch) -> Self {
        Self { card: Some(card), ..Self::new(name, LinkKind::Existing) }
    }

    /// A VLAN on another link; `ip link add link PARENT name NAME type vlan id ID`.
    #[must_use]
    pub fn vlan(name: IfName, parent: IfName, id: VlanId) -> Self {
        Self::new(name, LinkKind::Vlan(VlanSpec::new(parent, id)))
    }

    /// A bond; `ip link add NAME type bond`.
    #[must_use]
    pub fn bond(name: IfName, bond: BondSpec) -> Self {
        Self::new(name, LinkKind::Bond(bond))
    }

    /// A bridge; `ip link add NAME type bridge`.
    #[must_use]
    pub fn bridge(name: IfName, bridge: BridgeSpec) -> Self {
        Self::new(name, LinkKind::Bridge(bridge))
    }

    /// One end of a veth pair; `ip link add NAME type veth peer name PEER`. The peer may have an entry of its own that names this one.
    #[must_use]
    pub fn veth(name: IfName, peer: IfName) -> Self {
        Self::new(name, LinkKind::Veth { peer })
    }

    /// A macvlan: another hardware address on a card; `ip link add link PARENT name NAME type macvlan mode MODE`.
    #[must_use]
    pub fn macvlan(name: IfName, parent: IfName, mode: MacvlanMode) -> Self {
        Self::new(name, LinkKind::Macvlan { parent, mode })
    }

    /// A link that leads nowhere and is always up; `ip link add NAME type dummy`.
    #[must_use]
    pub fn dummy(name: IfName) -> Self {
        Self::new(name, LinkKind::Dummy)
    }

    /// Sets the MTU in bytes. The kernel refuses values outside the device's own range, which the plan checks first.
    #[must_use]
    pub fn with_mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Adds an address; `ip addr add`.
    #[must_use]
    pub fn with_address(mut self, address: Prefix) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Adds an address with more to be said of it: a lifetime, no route to its network.
    #[must_use]
    pub fn with_address_spec(mut self, address: AddressSpec) -> Self {
        self.addresses.push(address);
        self
    }

    /// Says what its card is to do; `ethtool -G`, `-L`, `-C`, `-A`, `-K`. Set before the card is brought up.
    #[doc(alias = "ethtool")]
    #[must_use]
    pub fn with_hardware(mut self, hardware: HardwareSpec) -> Self {
        self.hardware = hardware;
        self
    }

    /// Adds a route; `ip route add`.
    #[must_use]
    pub fn with_route(mut self, route: RouteSpec) -> Self {
        self.routes.push(route);
        self
    }
}

/// What a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum LinkKind {
    /// An interface that is there and stays.
    Existing,
    /// A VLAN.
    Vlan(VlanSpec),
    /// A bond.
    Bond(BondSpec),
    /// A bridge.
    Bridge(BridgeSpec),
    /// One end of a veth pair.
    Veth {
        /// The other end.
        peer: IfName,
    },
    /// Another hardware address on a card (`drivers/net/macvlan.c`). The parent of a living one cannot change.
    Macvlan {
        /// The card.
        parent: IfName,
        /// How it deals with its siblings.
        mode: MacvlanMode,
    },
    /// A link that leads nowhere (`drivers/net/dummy.c`).
    Dummy,
}

impl LinkKind {
    /// The link it stands on: a VLAN's or macvlan's parent.
    #[must_use]
    pub fn parent(&self) -> Option<&IfName> {
        match self {
            Self::Vlan(vlan) => Some(&vlan.parent),
            Self::Macvlan { parent, .. } => Some(parent),
            _ => None,
        }
    }

    /// The ports of a bond or bridge.
    #[must_use]
    pub fn ports(&self) -> &[IfName] {
        match self {
            Self::Bond(bond) => &bond.ports,
            Self::Bridge(bridge) => &bridge.ports,
            _ => &[],
        }
    }

    /// The kernel's word for it; `None` for a card.
    #[must_use]
    pub fn word(&self) -> Option<&'static str> {
        Some(match self {
            Self::Existing => return None,
            Self::Vlan(_) => "vlan",
            Self::Bond(_) => "bond",
            Self::Bridge(_) => "bridge",
            Self::Veth { .. } => "veth",
            Self::Macvlan { .. } => "macvlan",
            Self::Dummy => "dummy",
        })
    }
}

/// How a bond spreads and guards its traffic (`drivers/net/bonding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum BondMode {
    /// Packet by packet over all ports: one stream gets more than one port's speed and arrives out of order.
    BalanceRr,
    /// One port at a time.
    ActiveBackup,
    /// By a hash of addresses.
    BalanceXor,
    /// Everything on all ports.
    Broadcast,
    /// LACP.
    #[cfg_attr(feature = "serde", serde(rename = "802.3ad"))]
    Lacp,
    /// By load, sending.
    BalanceTlb,
    /// By load, both ways.
    BalanceAlb,
    /// A mode of a newer kernel.
    #[cfg_attr(feature = "serde", serde(skip))]
    Other(u8),
}

/// The modes with their names and numbers (`include/uapi/linux/if_bonding.h`).
const MODES: [(BondMode, &str, u8); 7] = [
    (BondMode::BalanceRr, "balance-rr", 0),
    (BondMode::ActiveBackup, "active-backup", 1),
    (BondMode::BalanceXor, "balance-xor", 2),
    (BondMode::Broadcast, "broadcast", 3),
    (BondMode::Lacp, "802.3ad", 4),
    (BondMode::BalanceTlb, "balance-tlb", 5),
    (BondMode::BalanceAlb, "balance-alb", 6),
];

impl BondMode {
    /// The kernel's number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Other(number) => number,
            mode => MODES.iter().find(|(m, ..)| *m == mode).map_or(u8::MAX, |(.., number)| *number),
        }
    }

    /// The mode of a kernel's number; an unknown one is kept.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        MODES.iter().find(|(.., n)| *n == number).map_or(Self::Other(number), |(mode, ..)| *mode)
    }

    /// Whether a primary port can be chosen.
    #[must_use]
    pub fn takes_primary(self) -> bool {
        matches!(self, Self::ActiveBackup | Self::BalanceTlb | Self::BalanceAlb)
    }
}

impl std::fmt::Display for BondMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match MODES.iter().find(|(mode, ..)| mode == self) {
            Some((_, name, _)) => f.write_str(name),
            None => write!(f, "mode {}", self.number()),
        }
    }
}

impl std::str::FromStr for BondMode {
    type Err = host::ParseError;

    fn from_str(text: &str) -> Result<Self, host::ParseError> {
        MODES.iter().find(|(_, name, _)| *name == text).map(|(mode, ..)| *mode).ok_or_else(|| {
            let names: Vec<_> = MODES.iter().map(|(_, name, _)| *name).collect();
            host::ParseError::new("bond mode", text, format!("one of {}", names.join(", ")))
        })
    }
}

/// A bond: its mode, its ports, how it notices a dead one, and whatever else the kernel lets one choose.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BondSpec {
    /// The mode; can be changed only while the bond is down and has no ports.
    pub mode: BondMode,
    /// Its ports. Others that it has are released.
    pub ports: Vec<IfName>,
    /// The port that carries the traffic while it is up (active-backup, balance-tlb, balance-alb).
    pub primary: Option<IfName>,
    /// All other options. What is not named is left as it is, or as the kernel makes it; [`new`](Self::new) names the carrier watch.
    #[cfg_attr(feature = "serde", serde(default))]
    pub options: BondOptions,
}

impl BondSpec {
    /// A bond of a mode, with the carrier looked at every 100 ms and no ports yet.
    #[must_use]
    pub fn new(mode: BondMode) -> Self {
        Self { mode, ports: Vec::new(), primary: None, options: BondOptions::new() }
            .with_miimon(Duration::from_millis(100))
            .with_delays(Duration::ZERO, Duration::ZERO)
    }

    /// Adds a port; `ip link set PORT master BOND`.
    #[must_use]
    pub fn with_port(mut self, port: IfName) -> Self {
        self.ports.push(port);
        self
    }

    /// Prefers a port; bond-primary.
    #[must_use]
    pub fn with_primary(mut self, port: IfName) -> Self {
        self.primary = Some(port);
        self
    }

    /// Sets how often the carrier of each port is looked at; bond-miimon. Zero means never: a dead port then keeps being used, unless
    /// [`with_arp_monitor`](Self::with_arp_monitor) watches.
    #[must_use]
    pub fn with_miimon(self, every: Duration) -> Self {
        self.with_option(BondAttribute::Miimon, every)
    }

    /// Sets how long a port must have carrier before it is used, and lack it before it is given up: multiples of `miimon`. bond-updelay
    /// and bond-downdelay.
    #[must_use]
    pub fn with_delays(self, up: Duration, down: Duration) -> Self {
        self.with_option(BondAttribute::UpDelay, up).with_option(BondAttribute::DownDelay, down)
    }

    /// Sets the number of gratuitous ARPs and neighbour advertisements after a failover; bond-num-grat-arp.
    #[must_use]
    pub fn with_peer_notices(self, count: u8) -> Self {
        self.with_option(BondAttribute::PeerNotices, u32::from(count))
    }

    /// Watches the ports by asking these addresses, instead of looking at the carrier; bond-arp-interval and bond-arp-ip-target. Not for
    /// 802.3ad, balance-tlb and balance-alb.
    #[must_use]
    pub fn with_arp_monitor(mut self, every: Duration, targets: Vec<IpAddr>) -> Self {
        for monitor in [BondAttribute::Miimon, BondAttribute::UpDelay, BondAttribute::DownDelay] {
            self.options.remove(&monitor);
        }
        self.with_option(BondAttribute::ArpInterval, every).with_option(BondAttribute::ArpTargets, targets)
    }

    /// Sets any option; `ip link set BOND type bond OPTION VALUE`. The plan checks it.
    #[must_use]
    pub fn with_option(mut self, option: BondAttribute, value: impl Into<BondValue>) -> Self {
        self.options.insert(option, value.into());
        self
    }

    /// An option's number, if it is named and has one.
    #[must_use]
    pub fn number(&self, option: BondAttribute) -> Option<u32> {
        crate::bond::number(&self.options, option)
    }
}
