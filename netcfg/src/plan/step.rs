//! The changes of a network, as data.

use std::fmt;

use host::{IfName, Impact};

use crate::bond::{BondOptions, settable};
use crate::hardware::HardwareSpec;
use crate::kinds::VlanProtocol;
use crate::route::{AddressSpec, Lifetime, MAIN_TABLE, RouteSpec, RuleSpec};
use crate::spec::LinkKind;

/// One change of the network. `Display` is the `ip`, `ethtool` or `sysctl` line for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Step {
    /// Writes a kernel parameter.
    Sysctl {
        /// The file.
        path: String,
        /// What it held.
        from: String,
        /// What it is to hold.
        to: String,
    },
    /// Gives a link, which must be down, another name.
    Rename {
        /// The name it had.
        from: IfName,
        /// The name it is to have.
        to: IfName,
    },
    /// Makes a link. A bond is made down and without ports, with all its options; ports and primary come later.
    CreateLink {
        /// Its name.
        name: IfName,
        /// What it is.
        kind: LinkKind,
        /// Its MTU.
        mtu: Option<u32>,
        /// A bond's hardware address: that of the card its first port is or stands on. Left to itself, udev gives a new bond an address made
        /// from the machine's id (`MACAddressPolicy=persistent`), at some moment after it was made; two machines cloned from one image
        /// then share an address and cannot talk.
        mac: Option<[u8; 6]>,
        /// The bond or bridge it is a port of; enslaved in the same message.
        controller: Option<IfName>,
        /// Whether it is brought up at once.
        up: bool,
    },
    /// Deletes a link that a spec of ours made.
    DeleteLink {
        /// Its name.
        name: IfName,
        /// The step that makes it as it was; `None` if it is not to come back: applying the spec makes it anew.
        was: Option<Box<Self>>,
    },
    /// Changes what a living VLAN, bridge or macvlan can change: flags, priority maps, options, mode. Both hold only what differs.
    SetKind {
        /// The link.
        name: IfName,
        /// What it was.
        from: LinkKind,
        /// What it is to be.
        to: LinkKind,
    },
    /// Changes options of a bond that is there. Delays always go with `miimon`: the kernel rescales them silently when it changes.
    SetBond {
        /// Its name.
        name: IfName,
        /// The options it had.
        from: BondOptions,
        /// The options it is to have.
        to: BondOptions,
    },
    /// Chooses a bond's preferred port.
    SetPrimary {
        /// The bond.
        name: IfName,
        /// The port it had.
        from: Option<IfName>,
        /// The port it is to have.
        to: Option<IfName>,
    },
    /// Sets an MTU.
    SetMtu {
        /// The link.
        name: IfName,
        /// What it was.
        from: u32,
        /// What it is to be.
        to: u32,
    },
    /// Changes what a card does. Both hold only what differs.
    SetHardware {
        /// The link.
        name: IfName,
        /// What it did.
        from: HardwareSpec,
        /// What it is to do.
        to: HardwareSpec,
    },
    /// Brings a link up or down.
    SetUp {
        /// The link.
        name: IfName,
        /// Up, or down.
        up: bool,
    },
    /// Makes a link a port of a bond or bridge, or releases it.
    SetController {
        /// The port.
        name: IfName,
        /// What it was in.
        from: Option<IfName>,
        /// What it is to be in.
        to: Option<IfName>,
    },
    /// Adds an address.
    AddAddress {
        /// The link.
        name: IfName,
        /// The address.
        address: AddressSpec,
    },
    /// Removes an address.
    DeleteAddress {
        /// The link.
        name: IfName,
        /// The address.
        address: AddressSpec,
    },
    /// Changes how long an address lives.
    ChangeAddress {
        /// The link.
        name: IfName,
        /// The address as it was.
        from: AddressSpec,
        /// The address as it is to be.
        to: AddressSpec,
    },
    /// Adds a route.
    AddRoute {
        /// Through which link.
        name: IfName,
        /// The route.
        route: RouteSpec,
    },
    /// Removes a route.
    DeleteRoute {
        /// Through which link.
        name: IfName,
        /// The route.
        route: RouteSpec,
    },
    /// Adds a rule.
    AddRule {
        /// The rule.
        rule: RuleSpec,
    },
    /// Removes a rule.
    DeleteRule {
        /// The rule.
        rule: RuleSpec,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mtu_of = |mtu: &Option<u32>| mtu.map(|m| format!(" mtu {m}")).unwrap_or_default();
        match self {
            Self::Sysctl { path, to, .. } => {
                let key = path.trim_start_matches("/proc/sys/").replace('/', ".");
                write!(f, "sysctl -w {key}=\"{to}\"")
            }
            Self::Rename { from, to } => write!(f, "ip link set {from} name {to}"),
            Self::CreateLink { name, kind, mtu, mac, controller, up } => {
                f.write_str("ip link add")?;
                if let Some(parent) = kind.parent() {
                    write!(f, " link {parent} name")?;
                }
                write!(f, " {name}")?;
                if let Some([a, b, c, d, e, g]) = mac {
                    write!(f, " address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")?;
                }
                f.write_str(&mtu_of(mtu))?;
                if let Some(controller) = controller {
                    write!(f, " master {controller}")?;
                }
                write!(f, "{} type {}", if *up { " up" } else { "" }, kind_words(kind, true))
            }
            Self::DeleteLink { name, .. } => write!(f, "ip link del {name}"),
            Self::SetKind { name, to, .. } => write!(f, "ip link set {name} type {}", kind_words(to, false)),
            Self::SetBond { name, to, .. } => {
                write!(f, "ip link set {name} type bond{}", words(&settable(to)))
            }
            Self::SetPrimary { name, to, .. } => {
                write!(
                    f,
                    "ip link set {name} type bond primary {}",
                    to.as_ref().map_or("\"\"", IfName::as_str)
                )
            }
            Self::SetMtu { name, to, .. } => write!(f, "ip link set {name} mtu {to}"),
            Self::SetHardware { name, to, .. } => f.write_str(&to.commands(&format!(" {name}"))),
            Self::SetUp { name, up } => write!(f, "ip link set {name} {}", if *up { "up" } else { "down" }),
            Self::SetController { name, to: Some(to), .. } => write!(f, "ip link set {name} master {to}"),
            Self::SetController { name, to: None, .. } => write!(f, "ip link set {name} nomaster"),
            Self::AddAddress { name, address } => {
                write!(f, "ip addr add {address} dev {name}{}", lifetime_words(address.lifetime))?;
                f.write_str(if address.no_prefix_route { " noprefixroute" } else { "" })?;
                f.write_str(if address.no_dad { " nodad" } else { "" })
            }
            Self::ChangeAddress { name, to, .. } => {
                let for_ever = " valid_lft forever preferred_lft forever".to_owned();
                let words = to.lifetime.map_or(for_ever, |lifetime| lifetime_words(Some(lifetime)));
                write!(f, "ip addr change {to} dev {name}{words}")
            }
            Self::AddRule { rule } => write!(f, "ip{} rule add {rule}", if rule.v6 { " -6" } else { "" }),
            Self::DeleteRule { rule } => write!(f, "ip{} rule del {rule}", if rule.v6 { " -6" } else { "" }),
            Self::DeleteAddress { name, address } => write!(f, "ip addr del {address} dev {name}"),
            Self::AddRoute { name, route } => write!(f, "ip route add {}", shown(route, name)),
            Self::DeleteRoute { name, route } => write!(f, "ip route del {}", shown(route, name)),
        }
    }
}

/// Options as words of a command.
fn words(options: &BondOptions) -> String {
    options.iter().map(|(option, value)| format!(" {option} {}", option.info().show(value))).collect()
}

fn shown(route: &RouteSpec, name: &IfName) -> String {
    let mut text = format!("{route} dev {name}");
    if route.table != MAIN_TABLE {
        text += &format!(" table {}", route.table);
    }
    if let Some(metric) = route.metric {
        text += &format!(" metric {metric}");
    }
    if let Some(source) = route.source {
        text += &format!(" src {source}");
    }
    text
}

fn lifetime_words(lifetime: Option<Lifetime>) -> String {
    let words =
        |l: Lifetime| format!(" valid_lft {} preferred_lft {}", l.valid.as_secs(), l.preferred.as_secs());
    lifetime.map(words).unwrap_or_default()
}

/// A kind as `ip` is told it; what identifies a living one is said only at its birth.
fn kind_words(kind: &LinkKind, birth: bool) -> String {
    let mut text = kind.word().unwrap_or("card").to_owned();
    match kind {
        LinkKind::Vlan(vlan) => {
            if birth {
                if vlan.protocol != VlanProtocol::Dot1Q {
                    text += &format!(" protocol {}", vlan.protocol);
                }
                text += &format!(" id {}", vlan.id);
            }
            for (flag, on) in &vlan.flags {
                text += &format!(" {flag} {}", if *on { "on" } else { "off" });
            }
            for (word, map) in [("egress-qos-map", &vlan.egress_qos), ("ingress-qos-map", &vlan.ingress_qos)]
            {
                if !map.is_empty() {
                    text += &format!(" {word}");
                    map.iter().for_each(|(from, to)| text += &format!(" {from}:{to}"));
                }
            }
        }
        LinkKind::Bond(bond) => {
            text += &format!(" mode {}{}", bond.mode, words(&settable(&bond.options)));
        }
        LinkKind::Bridge(bridge) => {
            bridge.options.iter().for_each(|(option, value)| text += &format!(" {option} {value}"));
        }
        LinkKind::Veth { peer } => text += &format!(" peer name {peer}"),
        LinkKind::Macvlan { mode, .. } => text += &format!(" mode {mode}"),
        LinkKind::Existing | LinkKind::Dummy => {}
    }
    text
}

impl host::plan::Step for Step {
    fn undo(&self) -> Vec<Self> {
        match self.clone() {
            Self::Sysctl { path, from, to } => vec![Self::Sysctl { path, from: to, to: from }],
            Self::Rename { from, to } => vec![Self::Rename { from: to, to: from }],
            Self::CreateLink { name, .. } => vec![Self::DeleteLink { name, was: None }],
            Self::DeleteLink { was, .. } => was.map(|step| *step).into_iter().collect(),
            Self::SetKind { name, from, to } => vec![Self::SetKind { name, from: to, to: from }],
            Self::SetBond { name, from, to } => vec![Self::SetBond { name, from: to, to: from }],
            Self::SetPrimary { name, from, to } => vec![Self::SetPrimary { name, from: to, to: from }],
            Self::SetMtu { name, from, to } => vec![Self::SetMtu { name, from: to, to: from }],
            Self::SetHardware { name, from, to } => vec![Self::SetHardware { name, from: to, to: from }],
            Self::SetUp { name, up } => vec![Self::SetUp { name, up: !up }],
            Self::SetController { name, from, to } => vec![Self::SetController { name, from: to, to: from }],
            Self::AddAddress { name, address } => vec![Self::DeleteAddress { name, address }],
            Self::DeleteAddress { name, address } => vec![Self::AddAddress { name, address }],
            Self::ChangeAddress { name, from, to } => vec![Self::ChangeAddress { name, from: to, to: from }],
            Self::AddRule { rule } => vec![Self::DeleteRule { rule }],
            Self::DeleteRule { rule } => vec![Self::AddRule { rule }],
            Self::AddRoute { name, route } => vec![Self::DeleteRoute { name, route }],
            Self::DeleteRoute { name, route } => vec![Self::AddRoute { name, route }],
        }
    }

    fn impact(&self) -> Impact {
        match self {
            Self::DeleteLink { .. }
            | Self::DeleteAddress { .. }
            | Self::DeleteRoute { .. }
            | Self::DeleteRule { .. }
            | Self::SetController { .. }
            | Self::SetUp { up: false, .. } => Impact::DropsSessions,
            _ => Impact::Online,
        }
    }
}
