//! What the kernel accepts and a storage network should not have.

use std::collections::BTreeMap;
use std::fmt;

use host::IfName;

use crate::Prefix;
use crate::bond::BondAttribute;
use crate::hardware::HardwareAttribute;
use crate::spec::{BondMode, BondSpec, LinkKind, LinkSpec, NetSpec};
use crate::state::{LinkKindState, LinkState, NetState};
use crate::sysctl::{Advice, explain};

/// A rule that a spec or a machine breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Rule {
    /// A bond looks at nothing: a dead port keeps being used.
    BondWithoutMonitor,
    /// A bond sends in turn, and TCP takes what is overtaken for lost.
    ReorderingTooSmall,
    /// An iSCSI portal is on a bond that hashes: one session never gets more than one port's speed.
    PortalOnHashingBond,
    /// Several links have addresses in one network, and answer for each other.
    SharedNetwork,
    /// An MTU above what the layer below carries: a silent hole for large frames.
    MtuAboveLower,
    /// An MTU that not all cards and switches carry.
    MtuNotPortable,
    /// A card neither heeds nor sends pause frames: a switch in front of a slower port drops what it cannot hold.
    PauseOff,
    /// A kernel parameter that makes things worse, does nothing, or is gone.
    Sysctl,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BondWithoutMonitor => "bond-without-monitor",
            Self::ReorderingTooSmall => "reordering-too-small",
            Self::PortalOnHashingBond => "portal-on-hashing-bond",
            Self::SharedNetwork => "shared-network",
            Self::MtuAboveLower => "mtu-above-lower",
            Self::MtuNotPortable => "mtu-not-portable",
            Self::PauseOff => "pause-off",
            Self::Sysctl => "sysctl",
        })
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// The link or parameter.
    pub object: String,
    /// What is the matter, and what would be better.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.object, self.text, self.rule)
    }
}

fn finding(rule: Rule, object: impl fmt::Display, text: impl Into<String>) -> Finding {
    Finding { rule, object: object.to_string(), text: text.into() }
}

/// Looks a spec over. `sysctls` holds the machine's values by file below `/proc/sys`, as far as they are known; `portals` are the links that
/// carry iSCSI. Pure.
#[must_use]
pub fn spec(spec: &NetSpec, sysctls: &BTreeMap<String, String>, portals: &[IfName]) -> Vec<Finding> {
    let mut found = Vec::new();
    for link in &spec.links {
        if let LinkKind::Bond(bond) = &link.kind {
            lint_bond(spec, link, bond, sysctls, &mut found);
        }
        if let (Some(parent), Some(mtu)) = (link.kind.parent(), link.mtu)
            && let Some(below) = spec.link(parent).and_then(|parent| parent.mtu).filter(|below| *below < mtu)
        {
            let text = format!("mtu {mtu} is above the {below} of {parent} below it; raise that");
            found.push(finding(Rule::MtuAboveLower, &link.name, text));
        }
        if let Some(mtu) = link.mtu.filter(|mtu| *mtu > 9000) {
            let text =
                format!("mtu {mtu}: 9000 is the largest that all cards and switches with jumbo frames carry");
            found.push(finding(Rule::MtuNotPortable, &link.name, text));
        }
    }
    for portal in portals {
        let below = carried_by(spec, portal);
        if let Some((name, bond)) = below
            && matches!(bond.mode, BondMode::BalanceXor | BondMode::Lacp)
        {
            let text = format!(
                "it is on {name} (mode {}): one session uses one port and never gets faster; give each port a portal of its own and let multipath spread",
                bond.mode
            );
            found.push(finding(Rule::PortalOnHashingBond, portal, text));
        }
    }
    let addresses: Vec<(&str, Prefix)> = spec
        .links
        .iter()
        .flat_map(|link| link.addresses.iter().map(|address| (link.name.as_str(), address.prefix)))
        .collect();
    let value = |key: &str| value_of(spec, sysctls, key);
    shared_networks(&addresses, &value, &mut found);
    for sysctl in &spec.sysctls {
        if let Some(verdict) = explain(&sysctl.key, &sysctl.value)
            && matches!(verdict.advice, Advice::Harmful | Advice::Useless | Advice::Removed | Advice::Measure)
        {
            let text = format!("{} is {}: {}", sysctl.value, verdict.advice, verdict.reason);
            found.push(finding(Rule::Sysctl, &sysctl.key, text));
        }
    }
    found
}

/// Looks a machine over, whoever set it up.
#[must_use]
pub fn state(state: &NetState, sysctls: &BTreeMap<String, String>) -> Vec<Finding> {
    let mut found = Vec::new();
    for link in state.links.values() {
        if let LinkKindState::Bond(bond) = &link.kind {
            let off = |option| bond.number(option).is_none_or(|n| n == 0);
            if off(BondAttribute::Miimon) && off(BondAttribute::ArpInterval) {
                found.push(finding(Rule::BondWithoutMonitor, &link.name, NO_MONITOR));
            }
            if bond.mode == BondMode::BalanceRr {
                let now = sysctls.get(REORDERING_FILE).map(String::as_str);
                found.extend(reordering(&link.name, now));
            }
            for port in state.ports_of(link.index).filter(|port| port.mtu != link.mtu) {
                let text = format!(
                    "its mtu is {} and that of its port {} is {}: larger frames vanish there; set the mtu of {0} again (ip link set {} mtu {0})",
                    link.mtu, port.name, port.mtu, link.name
                );
                found.push(finding(Rule::MtuAboveLower, &link.name, text));
            }
        }
        let pause = |attribute| state.hardware.get(&link.index)?.values.get(&attribute).copied();
        if pause(HardwareAttribute::PauseRx) == Some(0) && pause(HardwareAttribute::PauseTx) == Some(0) {
            let text = format!(
                "pause frames are off: what a switch or the other end cannot hold for a moment is dropped and sent again; ethtool -A {} rx on tx on, and the same on the switch",
                link.name
            );
            found.push(finding(Rule::PauseOff, &link.name, text));
        }
        // A VLAN can be left above its parent, or a bond above a VLAN that shrank with its parent.
        if matches!(link.kind, LinkKindState::Vlan(_) | LinkKindState::Macvlan(_))
            && let Some(below) = link.lower.and_then(|lower| state.links.get(&lower))
            && link.mtu > below.mtu
        {
            let text = format!("mtu {} is above the {} of {} below it", link.mtu, below.mtu, below.name);
            found.push(finding(Rule::MtuAboveLower, &link.name, text));
        }
    }
    let own = |link: &&LinkState| link.name != "lo";
    let addresses: Vec<(&str, Prefix)> = state
        .links
        .values()
        .filter(own)
        .flat_map(|link| link.addresses.iter().map(|address| (link.name.as_str(), address.prefix)))
        .collect();
    let value = |key: &str| sysctls.get(&format!("/proc/sys/{}", key.replace('.', "/"))).map(String::as_str);
    shared_networks(&addresses, &value, &mut found);
    found
}

/// The files below `/proc/sys` whose values [`spec`] and [`state`] look at.
pub const SYSCTLS: [&str; 4] = [
    REORDERING_FILE,
    "/proc/sys/net/ipv4/conf/all/arp_ignore",
    "/proc/sys/net/ipv4/conf/all/arp_announce",
    "/proc/sys/net/ipv4/conf/all/rp_filter",
];

const REORDERING_FILE: &str = "/proc/sys/net/ipv4/tcp_reordering";

const NO_MONITOR: &str = "neither miimon nor arp_interval is set: the bond does not look at its ports, and one that keeps to a port stays on a dead one; set miimon 100";

/// What TCP must bear when a bond of a few ports sends in turn.
const REORDERING: u32 = 127;

fn reordering(object: &str, value: Option<&str>) -> Option<Finding> {
    let value = value?.trim();
    let small = value.parse::<u32>().is_ok_and(|n| n < REORDERING);
    small.then(|| {
        let text = format!(
            "it sends in turn and net.ipv4.tcp_reordering is {value}: what is overtaken is sent again; set it to {REORDERING}"
        );
        finding(Rule::ReorderingTooSmall, object, text)
    })
}

fn lint_bond(
    spec: &NetSpec,
    link: &LinkSpec,
    bond: &BondSpec,
    sysctls: &BTreeMap<String, String>,
    found: &mut Vec<Finding>,
) {
    let off = |option| bond.number(option).is_none_or(|n| n == 0);
    // The kernel gives these modes a monitor by itself.
    let by_itself = matches!(bond.mode, BondMode::Lacp | BondMode::BalanceTlb | BondMode::BalanceAlb)
        && bond.number(BondAttribute::Miimon).is_none();
    if off(BondAttribute::Miimon) && off(BondAttribute::ArpInterval) && !by_itself {
        found.push(finding(Rule::BondWithoutMonitor, &link.name, NO_MONITOR));
    }
    if bond.mode == BondMode::BalanceRr {
        let value = value_of(spec, sysctls, "net.ipv4.tcp_reordering");
        found.extend(reordering(link.name.as_str(), value));
    }
}

/// The value a parameter has when the spec is applied, as far as that is known.
fn value_of<'a>(spec: &'a NetSpec, sysctls: &'a BTreeMap<String, String>, key: &str) -> Option<&'a str> {
    let asked =
        spec.sysctls.iter().rev().find(|sysctl| sysctl.key == key).map(|sysctl| sysctl.value.as_str());
    asked.or_else(|| sysctls.get(&format!("/proc/sys/{}", key.replace('.', "/"))).map(String::as_str))
}

/// The bond a link is, or stands on.
fn carried_by<'a>(spec: &'a NetSpec, name: &'a IfName) -> Option<(&'a IfName, &'a BondSpec)> {
    let mut at = name;
    for _ in 0..=spec.links.len() {
        match &spec.link(at)?.kind {
            LinkKind::Bond(bond) => return Some((at, bond)),
            kind => at = kind.parent()?,
        }
    }
    None
}

fn shared_networks<'a>(
    addresses: &[(&str, Prefix)],
    value: &dyn Fn(&str) -> Option<&'a str>,
    found: &mut Vec<Finding>,
) {
    for (number, (link, address)) in addresses.iter().enumerate() {
        let other = addresses.iter().take(number).find(|(other, prefix)| {
            other != link && address.address.is_ipv4() && prefix.contains(address.address)
        });
        let Some((other, _)) = other else { continue };
        let missing: Vec<String> = [
            ("net.ipv4.conf.all.arp_ignore", "1"),
            ("net.ipv4.conf.all.arp_announce", "2"),
            ("net.ipv4.conf.all.rp_filter", "2"),
        ]
        .iter()
        .filter(|(key, wanted)| value(key).is_none_or(|now| now.trim() != *wanted))
        .map(|(key, wanted)| format!("{key}={wanted}"))
        .collect();
        if !missing.is_empty() {
            let text = format!(
                "{address} is in the network of {other}: each answers ARP for the other and all traffic leaves by one; use a network for each, or set {}",
                missing.join(", ")
            );
            found.push(finding(Rule::SharedNetwork, link, text));
        }
    }
}
