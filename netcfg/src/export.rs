//! A spec as configuration of other programs: systemd-networkd and netplan. `interfaces(5)` is in [`interfaces`](crate::interfaces).

use std::fmt::Write as _;

use host::IfName;

use crate::bond::{BondAttribute, BondOptionInfo, BondValue};
use crate::error::{Error, Result};
use crate::kinds::{BridgeAttribute, VlanFlag, VlanProtocol, VlanSpec};
use crate::route::{AddressSpec, MAIN_TABLE, RuleSpec};
use crate::spec::{LinkKind, LinkSpec, NetSpec};

/// A file of another program's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigFile {
    /// Its name, without a directory.
    pub name: String,
    /// Its content.
    pub text: String,
}

fn line(out: &mut String, text: &str) {
    // Writing into a String cannot fail.
    let _ = writeln!(out, "{text}");
}

fn unsaid(link: &IfName, info: &BondOptionInfo, program: &str) -> Error {
    let reason = format!("{program} has no word for the bond option {}; leave it out of the spec", info.ip);
    Error::Invalid { object: link.to_string(), reason }
}

/// Whether an option's number is a time, and in which unit.
fn unit(attribute: BondAttribute) -> Option<&'static str> {
    match attribute {
        BondAttribute::Miimon
        | BondAttribute::UpDelay
        | BondAttribute::DownDelay
        | BondAttribute::ArpInterval => Some("ms"),
        BondAttribute::LearnInterval => Some("s"),
        _ => None,
    }
}

/// An option's value as both programs write it: names, `yes` and `no`.
fn shown(info: &BondOptionInfo, value: &BondValue, [off, on]: [&str; 2]) -> String {
    match (info.names, value) {
        (["off", "on"], BondValue::Number(n)) => if *n > 0 { on } else { off }.to_owned(),
        _ => info.show(value),
    }
}

/// Writes a spec for systemd-networkd: the files for `/etc/systemd/network` (systemd.netdev(5), systemd.network(5)). Kernel parameters are
/// not its business: see [`SysctlSpec`](crate::SysctlSpec).
///
/// # Errors
/// [`Error::Invalid`] names an option networkd has no word for.
pub fn networkd(spec: &NetSpec) -> Result<Vec<ConfigFile>> {
    let mut files = Vec::new();
    for link in &spec.links {
        let name = &link.name;
        let mut netdev = match &link.kind {
            LinkKind::Existing => None,
            // The other end of a pair is made with this one.
            LinkKind::Veth { peer } if spec.link(peer).is_some_and(|peer| peer.name < *name) => None,
            kind => Some(networkd_kind(name, kind)?),
        };
        if let (Some(text), Some(mtu)) = (&mut netdev, link.mtu) {
            *text = text.replacen("\n\n", &format!("\nMTUBytes={mtu}\n\n"), 1);
        }
        files.extend(netdev.map(|text| ConfigFile { name: format!("10-{name}.netdev"), text }));
        files.push(ConfigFile { name: format!("20-{name}.network"), text: networkd_link(spec, link)? });
    }
    // Ports without an entry of their own.
    for link in &spec.links {
        for port in link.kind.ports().iter().filter(|port| spec.link(port).is_none()) {
            let port = LinkSpec::existing(port.clone());
            let name = format!("20-{}.network", port.name);
            files.push(ConfigFile { name, text: networkd_link(spec, &port)? });
        }
    }
    Ok(files)
}

/// What makes a link: `[NetDev]` and the section of its kind.
fn networkd_kind(name: &IfName, kind: &LinkKind) -> Result<String> {
    let mut out = format!("[NetDev]\nName={name}\nKind={}\n", kind.word().unwrap_or("dummy"));
    match kind {
        LinkKind::Existing | LinkKind::Dummy => line(&mut out, ""),
        LinkKind::Bond(bond) => {
            line(&mut out, &format!("\n[Bond]\nMode={}", bond.mode));
            for (option, value) in &bond.options {
                let info = option.info();
                let key = info.networkd.ok_or_else(|| unsaid(name, info, "systemd-networkd"))?;
                let text = shown(info, value, ["no", "yes"]).replace(',', " ");
                line(&mut out, &format!("{key}={text}{}", unit(*option).unwrap_or("")));
            }
        }
        LinkKind::Vlan(vlan) => {
            line(&mut out, &format!("\n[VLAN]\nId={}", vlan.id));
            if vlan.protocol != VlanProtocol::Dot1Q {
                line(&mut out, &format!("Protocol={}", vlan.protocol.to_string().to_lowercase()));
            }
            for (flag, on) in &vlan.flags {
                let key = match flag {
                    VlanFlag::ReorderHdr => "ReorderHeader",
                    VlanFlag::Gvrp => "GVRP",
                    VlanFlag::LooseBinding => "LooseBinding",
                    VlanFlag::Mvrp => "MVRP",
                    VlanFlag::BridgeBinding => return Err(wordless(name, "systemd-networkd", flag)),
                };
                line(&mut out, &format!("{key}={}", if *on { "yes" } else { "no" }));
            }
            for (key, map) in [("EgressQOSMaps", &vlan.egress_qos), ("IngressQOSMaps", &vlan.ingress_qos)] {
                if !map.is_empty() {
                    let pairs: Vec<_> = map.iter().map(|(from, to)| format!("{from}-{to}")).collect();
                    line(&mut out, &format!("{key}={}", pairs.join(" ")));
                }
            }
        }
        LinkKind::Bridge(bridge) => {
            line(&mut out, "\n[Bridge]");
            for (option, value) in &bridge.options {
                let text = bridge_value(*option, *value, ["no", "yes"]);
                let key = match option {
                    BridgeAttribute::ForwardDelay => "ForwardDelaySec",
                    BridgeAttribute::HelloTime => "HelloTimeSec",
                    BridgeAttribute::MaxAge => "MaxAgeSec",
                    BridgeAttribute::AgeingTime => "AgeingTimeSec",
                    BridgeAttribute::StpState => "STP",
                    BridgeAttribute::Priority => "Priority",
                    BridgeAttribute::VlanFiltering => "VLANFiltering",
                    BridgeAttribute::McastSnooping => "MulticastSnooping",
                    BridgeAttribute::VlanDefaultPvid => "DefaultPVID",
                };
                line(&mut out, &format!("{key}={text}"));
            }
        }
        LinkKind::Veth { peer } => line(&mut out, &format!("\n[Peer]\nName={peer}")),
        LinkKind::Macvlan { mode, .. } => line(&mut out, &format!("\n[MACVLAN]\nMode={mode}")),
    }
    Ok(out)
}

fn wordless(link: &IfName, program: &str, what: impl std::fmt::Display) -> Error {
    Error::Invalid {
        object: link.to_string(),
        reason: format!("{program} has no word for {what}; leave it out of the spec"),
    }
}

/// A bridge's option as both programs write it: seconds, `yes` and `no`.
fn bridge_value(option: BridgeAttribute, value: u32, [off, on]: [&str; 2]) -> String {
    match option {
        BridgeAttribute::ForwardDelay
        | BridgeAttribute::HelloTime
        | BridgeAttribute::MaxAge
        | BridgeAttribute::AgeingTime => match (value / 100, value % 100) {
            (seconds, 0) => seconds.to_string(),
            (seconds, hundredths) => format!("{seconds}.{hundredths:02}"),
        },
        BridgeAttribute::StpState | BridgeAttribute::VlanFiltering | BridgeAttribute::McastSnooping => {
            if value > 0 { on } else { off }.to_owned()
        }
        BridgeAttribute::Priority | BridgeAttribute::VlanDefaultPvid => value.to_string(),
    }
}

fn networkd_link(spec: &NetSpec, link: &LinkSpec) -> Result<String> {
    let name = &link.name;
    let mut out = format!("[Match]\nName={name}\n");
    let bond = spec.bond_of(name);
    if let (LinkKind::Existing, Some(mtu), None) = (&link.kind, link.mtu, bond) {
        line(&mut out, &format!("\n[Link]\nMTUBytes={mtu}"));
    }
    line(&mut out, "\n[Network]\nLinkLocalAddressing=ipv6");
    for above in spec.links.iter().filter(|above| above.kind.parent() == Some(name)) {
        let key = if matches!(above.kind, LinkKind::Vlan(_)) { "VLAN" } else { "MACVLAN" };
        line(&mut out, &format!("{key}={}", above.name));
    }
    if let Some(bridge) = spec.controller_of(name).filter(|_| bond.is_none()) {
        line(&mut out, &format!("Bridge={bridge}"));
    }
    if let Some(bond) = bond {
        line(&mut out, &format!("Bond={bond}"));
        let is_primary = spec.link(bond).is_some_and(
            |link| matches!(&link.kind, LinkKind::Bond(bond) if bond.primary.as_ref() == Some(name)),
        );
        if is_primary {
            line(&mut out, "PrimarySlave=yes");
        }
    }
    let (plain, special): (Vec<_>, Vec<_>) =
        link.addresses.iter().partition(|address| **address == AddressSpec::new(address.prefix));
    for address in plain {
        line(&mut out, &format!("Address={address}"));
    }
    for address in special {
        line(&mut out, &format!("\n[Address]\nAddress={address}"));
        if address.no_prefix_route {
            line(&mut out, "AddPrefixRoute=no");
        }
        if address.no_dad {
            line(&mut out, "DuplicateAddressDetection=none");
        }
        match address.lifetime.map(|lifetime| lifetime.preferred.as_secs()) {
            None => {}
            Some(0) => line(&mut out, "PreferredLifetime=0"),
            Some(_) => return Err(wordless(name, "systemd-networkd", "a lifetime that ends")),
        }
    }
    for route in &link.routes {
        line(&mut out, "\n[Route]");
        if let Some(destination) = route.destination {
            line(&mut out, &format!("Destination={destination}"));
        }
        if let Some(gateway) = route.gateway {
            line(&mut out, &format!("Gateway={gateway}"));
        }
        if route.table != MAIN_TABLE {
            line(&mut out, &format!("Table={}", route.table));
        }
        if let Some(metric) = route.metric {
            line(&mut out, &format!("Metric={metric}"));
        }
        if let Some(source) = route.source {
            line(&mut out, &format!("PreferredSource={source}"));
        }
    }
    for rule in rules_of(spec, link) {
        line(&mut out, "\n[RoutingPolicyRule]");
        for (key, prefix) in [("From", rule.from), ("To", rule.to)] {
            if let Some(prefix) = prefix {
                line(&mut out, &format!("{key}={prefix}"));
            }
        }
        if let Some(incoming) = &rule.incoming {
            line(&mut out, &format!("IncomingInterface={incoming}"));
        }
        if rule.v6 && rule.from.is_none() && rule.to.is_none() {
            line(&mut out, "Family=ipv6");
        }
        line(&mut out, &format!("Table={}\nPriority={}", rule.table, rule.priority));
    }
    Ok(out)
}

/// The rules that are written with a link: of the table its routes are in, or, where no link has such a route, with the first link.
fn rules_of<'a>(spec: &'a NetSpec, link: &LinkSpec) -> impl Iterator<Item = &'a RuleSpec> {
    let has = |link: &LinkSpec, rule: &RuleSpec| link.routes.iter().any(|route| route.table == rule.table);
    let home = move |rule: &RuleSpec| spec.links.iter().find(|link| has(link, rule)).or(spec.links.first());
    let name = link.name.clone();
    spec.rules.iter().filter(move |rule| home(rule).is_some_and(|home| home.name == name))
}

/// Writes a spec for netplan, with networkd as its renderer: a file for `/etc/netplan`, to be kept at mode 0600.
///
/// # Errors
/// [`Error::Invalid`] names an option netplan has no word for.
pub fn netplan(spec: &NetSpec) -> Result<ConfigFile> {
    let mut out = String::from("network:\n  version: 2\n  renderer: networkd\n");
    type Is = fn(&LinkKind) -> bool;
    let kinds: [(&str, Is); 6] = [
        ("ethernets", |kind| matches!(kind, LinkKind::Existing)),
        ("dummy-devices", |kind| matches!(kind, LinkKind::Dummy)),
        ("virtual-ethernets", |kind| matches!(kind, LinkKind::Veth { .. })),
        ("bonds", |kind| matches!(kind, LinkKind::Bond(_))),
        ("vlans", |kind| matches!(kind, LinkKind::Vlan(_))),
        ("bridges", |kind| matches!(kind, LinkKind::Bridge(_))),
    ];
    if let Some(macvlan) = spec.links.iter().find(|link| matches!(link.kind, LinkKind::Macvlan { .. })) {
        return Err(wordless(&macvlan.name, "netplan", "macvlans"));
    }
    // Ports without an entry of their own are cards.
    let ports = spec.links.iter().flat_map(|link| link.kind.ports());
    let cards: Vec<LinkSpec> =
        ports.filter(|port| spec.link(port).is_none()).map(|port| LinkSpec::existing(port.clone())).collect();
    for (section, is) in kinds {
        let mut links = spec.links.iter().chain(&cards).filter(|link| is(&link.kind)).peekable();
        if links.peek().is_some() {
            line(&mut out, &format!("  {section}:"));
        }
        for link in links {
            netplan_link(spec, link, &mut out)?;
        }
    }
    Ok(ConfigFile { name: "60-storage.yaml".to_owned(), text: out })
}

fn netplan_link(spec: &NetSpec, link: &LinkSpec, out: &mut String) -> Result<()> {
    line(out, &format!("    {}:", link.name));
    let before = out.len();
    match &link.kind {
        LinkKind::Existing | LinkKind::Dummy | LinkKind::Macvlan { .. } => {}
        LinkKind::Vlan(vlan) => {
            if *vlan != VlanSpec::new(vlan.parent.clone(), vlan.id) {
                return Err(wordless(&link.name, "netplan", "a VLAN's protocol, flags and priority maps"));
            }
            line(out, &format!("      id: {}\n      link: {}", vlan.id, vlan.parent));
        }
        LinkKind::Veth { peer } => line(out, &format!("      peer: {peer}")),
        LinkKind::Bridge(bridge) => {
            let ports: Vec<&str> = bridge.ports.iter().map(IfName::as_str).collect();
            line(out, &format!("      interfaces: [{}]", ports.join(", ")));
            for (number, (option, value)) in bridge.options.iter().enumerate() {
                if number == 0 {
                    line(out, "      parameters:");
                }
                let key = match option {
                    BridgeAttribute::ForwardDelay => "forward-delay",
                    BridgeAttribute::HelloTime => "hello-time",
                    BridgeAttribute::MaxAge => "max-age",
                    BridgeAttribute::AgeingTime => "ageing-time",
                    BridgeAttribute::StpState => "stp",
                    BridgeAttribute::Priority => "priority",
                    other => return Err(wordless(&link.name, "netplan", other)),
                };
                line(out, &format!("        {key}: {}", bridge_value(*option, *value, ["false", "true"])));
            }
        }
        LinkKind::Bond(bond) => {
            let ports: Vec<&str> = bond.ports.iter().map(IfName::as_str).collect();
            line(out, &format!("      interfaces: [{}]\n      parameters:", ports.join(", ")));
            line(out, &format!("        mode: {}", bond.mode));
            if let Some(primary) = &bond.primary {
                line(out, &format!("        primary: {primary}"));
            }
            for (option, value) in &bond.options {
                let info = option.info();
                let key = info.netplan.ok_or_else(|| unsaid(&link.name, info, "netplan"))?;
                let text = shown(info, value, ["false", "true"]);
                let text = if matches!(value, BondValue::Addresses(_)) { format!("[{text}]") } else { text };
                line(out, &format!("        {key}: {text}"));
            }
        }
    }
    if let Some(mtu) = link.mtu {
        line(out, &format!("      mtu: {mtu}"));
    }
    if let Some(address) = link.addresses.iter().find(|a| **a != AddressSpec::new(a.prefix)) {
        return Err(wordless(&link.name, "netplan", format!("the flags and lifetime of {address}")));
    }
    if !link.addresses.is_empty() {
        let all: Vec<String> = link.addresses.iter().map(|address| format!("\"{address}\"")).collect();
        line(out, &format!("      addresses: [{}]", all.join(", ")));
    }
    if !link.routes.is_empty() {
        line(out, "      routes:");
        for route in &link.routes {
            let to = route.destination.map_or_else(|| "default".to_owned(), |d| d.to_string());
            line(out, &format!("        - to: \"{to}\""));
            match route.gateway {
                Some(gateway) => line(out, &format!("          via: \"{gateway}\"")),
                None => line(out, "          scope: link"),
            }
            if route.table != MAIN_TABLE {
                line(out, &format!("          table: {}", route.table));
            }
            if let Some(metric) = route.metric {
                line(out, &format!("          metric: {metric}"));
            }
            if let Some(source) = route.source {
                line(out, &format!("          from: \"{source}\""));
            }
        }
    }
    for (number, rule) in rules_of(spec, link).enumerate() {
        if number == 0 {
            line(out, "      routing-policy:");
        }
        if rule.incoming.is_some() {
            return Err(wordless(&link.name, "netplan", format!("the incoming link of rule {rule}")));
        }
        line(out, &format!("        - table: {}\n          priority: {}", rule.table, rule.priority));
        for (key, prefix) in [("from", rule.from), ("to", rule.to)] {
            if let Some(prefix) = prefix {
                line(out, &format!("          {key}: \"{prefix}\""));
            }
        }
    }
    if out.len() == before {
        line(out, "      optional: false");
    }
    Ok(())
}
