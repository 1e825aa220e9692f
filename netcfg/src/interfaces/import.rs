//! Stanzas into a spec.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use host::IfName;

use super::read::{Line, Stanza, Stanzas};
use super::{Imported, Remark};
use crate::bond::BondAttribute;
use crate::error::Result;
use crate::kinds::{BridgeAttribute, BridgeSpec, VlanFlag, VlanSpec};
use crate::parameter::SysctlSpec;
use crate::route::{MAIN_TABLE, RouteSpec, RuleSpec};
use crate::spec::{BondMode, BondSpec, LinkKind, LinkSpec, NetSpec};
use crate::{Prefix, VlanId};

/// What the stanzas of one interface say together.
#[derive(Default)]
struct Gathered {
    parent: Option<IfName>,
    vlan: Option<VlanId>,
    bond: Option<BondSpec>,
    bridge: Option<BridgeSpec>,
    /// What of a VLAN stands in commands.
    flags: BTreeMap<VlanFlag, bool>,
    qos: [BTreeMap<u32, u32>; 2],
    mtu: Option<u32>,
    addresses: Vec<Prefix>,
    routes: Vec<RouteSpec>,
}

#[derive(Default)]
struct Importer {
    links: BTreeMap<IfName, Gathered>,
    /// In the order of the file.
    order: Vec<IfName>,
    /// Ports that name their bond themselves.
    joins: Vec<(IfName, IfName)>,
    /// Primaries named by ports: bond-primary stands in the stanzas of the ports, too.
    primaries: BTreeMap<IfName, IfName>,
    sysctls: Vec<SysctlSpec>,
    rules: Vec<RuleSpec>,
    left_out: Vec<Remark>,
}

pub(super) fn import(stanzas: Stanzas) -> Result<Imported> {
    let mut importer = Importer { left_out: stanzas.left_out, ..Importer::default() };
    let auto: BTreeSet<&str> = stanzas.auto.iter().map(String::as_str).collect();
    let mut needed: BTreeSet<IfName> = BTreeSet::new();
    for stanza in &stanzas.ifaces {
        if stanza.method == "loopback" {
            // Rules belong to no interface, so they stand here.
            let name: IfName = stanza.name.parse().map_err(|e| stanza.head.invalid(format!("{e}")))?;
            for (key, text, line) in stanza.options.iter().filter(|(key, ..)| key.ends_with("up")) {
                importer.command(&name, key, text, line, &mut Gathered::default())?;
            }
            continue;
        }
        let name: IfName = stanza.name.parse().map_err(|e| stanza.head.invalid(format!("{e}")))?;
        importer.stanza(&name, stanza)?;
    }
    importer.join()?;
    for gathered in importer.links.values() {
        needed.extend(gathered.parent.iter().cloned());
        needed.extend(gathered.bond.iter().flat_map(|bond| bond.ports.iter().cloned()));
        needed.extend(gathered.bridge.iter().flat_map(|bridge| bridge.ports.iter().cloned()));
    }
    // ifupdown brings up what is marked, and what that stands on.
    for stanza in &stanzas.ifaces {
        let wanted = auto.contains(stanza.name.as_str())
            || needed.iter().any(|name| name.as_str() == stanza.name)
            || importer.joins.iter().any(|(port, _)| port.as_str() == stanza.name);
        if !wanted && stanza.method != "loopback" {
            let reason =
                "it is not brought up by itself (no auto, no allow-hotplug); it is in the spec all the same";
            importer.left_out.push(stanza.head.remark(reason));
        }
    }
    let mut spec = NetSpec::default();
    for parent in
        importer.links.values().filter_map(|gathered| gathered.parent.clone()).collect::<BTreeSet<_>>()
    {
        // The raw device of a VLAN comes up with it, stanza or not.
        if !importer.links.contains_key(&parent) {
            spec.links.push(LinkSpec::existing(parent));
        }
    }
    for name in importer.order {
        if let Some(gathered) = importer.links.remove(&name) {
            spec.links.push(gathered.link(name));
        }
    }
    spec.sysctls = importer.sysctls;
    spec.rules = importer.rules;
    Ok(Imported { spec, left_out: importer.left_out })
}

impl Gathered {
    fn link(self, name: IfName) -> LinkSpec {
        let mut link = match (self.bond, self.bridge, self.parent, self.vlan) {
            (Some(bond), ..) => LinkSpec::bond(name, bond),
            (None, Some(bridge), ..) => LinkSpec::bridge(name, bridge),
            (None, None, Some(parent), Some(id)) => {
                let mut vlan = VlanSpec::new(parent, id);
                let [egress, ingress] = self.qos;
                (vlan.flags, vlan.egress_qos, vlan.ingress_qos) = (self.flags, egress, ingress);
                LinkSpec::new(name, LinkKind::Vlan(vlan))
            }
            _ => LinkSpec::existing(name),
        };
        link.mtu = self.mtu;
        link.addresses = self.addresses.into_iter().map(Into::into).collect();
        link.routes = self.routes;
        link
    }
}

impl Gathered {
    /// `type vlan` and `type bridge` with what follows; false if not all of it is known.
    fn type_words(&mut self, kind: &str, words: &[&str]) -> bool {
        let (mut words, mut map) = (words, None);
        while let [first, rest @ ..] = words {
            let mapping = first.split_once(':').map(|(from, to)| (from.parse().ok(), to.parse().ok()));
            match (kind, *first, rest) {
                ("vlan", "egress-qos-map", _) => map = Some(0),
                ("vlan", "ingress-qos-map", _) => map = Some(1),
                ("vlan", flag, [value @ ("on" | "off"), more @ ..]) => {
                    let Some(flag) = VlanFlag::from_name(flag) else { return false };
                    self.flags.insert(flag, *value == "on");
                    words = more;
                    continue;
                }
                ("vlan", ..) => match (mapping, map.and_then(|map: usize| self.qos.get_mut(map))) {
                    (Some((Some(from), Some(to))), Some(map)) => drop(map.insert(from, to)),
                    _ => return false,
                },
                ("bridge", option, [value, more @ ..]) => {
                    let known = BridgeAttribute::from_name(option).zip(value.parse().ok());
                    let Some((option, value)) = known else { return false };
                    self.bridge.get_or_insert_default().options.insert(option, value);
                    words = more;
                    continue;
                }
                _ => return false,
            }
            words = rest;
        }
        true
    }
}

/// A bond as the kernel makes it, with nothing chosen.
fn plain_bond() -> BondSpec {
    let mut bond = BondSpec::new(BondMode::BalanceRr);
    bond.options.clear();
    bond
}

impl Importer {
    fn stanza(&mut self, name: &IfName, stanza: &Stanza) -> Result<()> {
        let mut gathered = self.links.remove(name).unwrap_or_default();
        if !self.order.contains(name) {
            self.order.push(name.clone());
        }
        match stanza.method.as_str() {
            "static" | "manual" => {}
            method => {
                let reason =
                    format!("method {method} is not for a storage node; only static and manual are read");
                self.left_out.push(stanza.head.remark(reason));
            }
        }
        self.by_name(name, stanza, &mut gathered)?;
        let mut address: Option<(IpAddr, Option<u8>, &Line)> = None;
        let (mut mask, mut gateway) = (None, None);
        for (key, value, line) in &stanza.options {
            let bad = |e: host::ParseError| line.invalid(e.to_string());
            match key.as_str() {
                "address" => {
                    let (ip, length) = match value.split_once('/') {
                        Some((ip, length)) => {
                            (ip, Some(length.parse().map_err(|_| line.invalid("not a prefix length"))?))
                        }
                        None => (value.as_str(), None),
                    };
                    let ip: IpAddr = ip.parse().map_err(|_| line.invalid("not an IP address"))?;
                    if ip.is_ipv6() != (stanza.family == "inet6") {
                        return Err(line.invalid(format!("not an address of family {}", stanza.family)));
                    }
                    address = Some((ip, length, line));
                }
                "netmask" => mask = Some(length_of(value).ok_or_else(|| line.invalid("not a network mask"))?),
                "gateway" => {
                    gateway = Some(value.parse::<IpAddr>().map_err(|_| line.invalid("not an IP address"))?);
                }
                "mtu" => gathered.mtu = Some(mtu(value, line)?),
                "vlan-raw-device" | "vlan-id" => {}
                "slaves" | "bond-slaves" => {
                    let bond = gathered.bond.get_or_insert_with(plain_bond);
                    for port in value.split_whitespace().filter(|word| *word != "none") {
                        let port: IfName = port.parse().map_err(bad)?;
                        if !bond.ports.contains(&port) {
                            bond.ports.push(port);
                        }
                    }
                }
                "bridge-ports" => {
                    let bridge = gathered.bridge.get_or_insert_default();
                    for port in value.split_whitespace().filter(|word| *word != "none") {
                        bridge.ports.push(port.parse().map_err(bad)?);
                    }
                }
                "bond-master" => self.joins.push((name.clone(), value.parse().map_err(bad)?)),
                "bond-primary" => {
                    // In the bond's stanza, or in that of a port; the first of several is the one that counts.
                    if let Some(first) = value.split_whitespace().next() {
                        self.primaries.insert(name.clone(), first.parse().map_err(bad)?);
                    }
                }
                "bond-mode" => {
                    let bond = gathered.bond.get_or_insert_with(plain_bond);
                    bond.mode = match value.parse::<u8>() {
                        Ok(number) if number <= 6 => BondMode::from_number(number),
                        _ => value.parse().map_err(bad)?,
                    };
                }
                "up" | "post-up" | "pre-up" | "down" | "pre-down" | "post-down" => {
                    self.command(name, key, value, line, &mut gathered)?;
                }
                "broadcast" | "network" | "bond-give-a-chance" => {}
                key => match BondAttribute::from_name(key).filter(|_| key.starts_with("bond-")) {
                    Some(info) => {
                        let value = info.parse(value).map_err(bad)?;
                        let bond = gathered.bond.get_or_insert_with(plain_bond);
                        bond.options.insert(info.attribute, value);
                    }
                    None => self.left_out.push(line.remark("this key is not read")),
                },
            }
        }
        if let Some((ip, length, line)) = address {
            if stanza.method == "static" {
                let length = length.or(mask).or(ip.is_ipv6().then_some(64));
                let length = length
                    .ok_or_else(|| line.invalid("there is no netmask; write the address as 10.1.0.100/24"))?;
                gathered.addresses.push(Prefix::new(ip, length).map_err(|e| line.invalid(e.to_string()))?);
                gathered.routes.extend(gateway.map(RouteSpec::default_via));
            } else {
                self.left_out
                    .push(line.remark(format!("an address means nothing with method {}", stanza.method)));
            }
        }
        self.links.insert(name.clone(), gathered);
        Ok(())
    }

    /// What a name and the vlan keys say: `int1.2`, `vlan24` on a raw device, or a number of its own.
    fn by_name(&mut self, name: &IfName, stanza: &Stanza, gathered: &mut Gathered) -> Result<()> {
        let find = |wanted: &str| stanza.options.iter().find(|(key, ..)| key == wanted);
        let raw = find("vlan-raw-device");
        let text = name.as_str();
        let (prefix, suffix) = text.rsplit_once('.').unzip();
        let number = match (find("vlan-id"), suffix, text.strip_prefix("vlan")) {
            (Some((_, value, line)), ..) => {
                Some(value.parse().map_err(|_| line.invalid("a VLAN number is 1 to 4094"))?)
            }
            (None, Some(suffix), _) => suffix.parse::<u16>().ok(),
            (None, None, Some(digits)) if raw.is_some() => digits.parse::<u16>().ok(),
            _ => None,
        };
        let parent = match (raw, prefix) {
            (Some((_, value, line)), _) => {
                Some(value.parse::<IfName>().map_err(|e| line.invalid(e.to_string()))?)
            }
            (None, Some(prefix)) if number.is_some() => prefix.parse::<IfName>().ok(),
            _ => None,
        };
        match (parent, number) {
            (Some(parent), Some(number)) => {
                gathered.vlan = Some(VlanId::new(number).map_err(|e| stanza.head.invalid(e.to_string()))?);
                gathered.parent = Some(parent);
                Ok(())
            }
            (Some(_), None) => Err(stanza
                .head
                .invalid("its VLAN number is neither in its name (int1.24, vlan24) nor in a vlan-id")),
            _ => Ok(()),
        }
    }

    /// A command: read if it sets what a spec says, otherwise left out. None is run.
    fn command(
        &mut self,
        name: &IfName,
        when: &str,
        text: &str,
        line: &Line,
        gathered: &mut Gathered,
    ) -> Result<()> {
        let text = text.strip_suffix("|| true").unwrap_or(text).trim();
        let words: Vec<&str> = text.split_whitespace().collect();
        let words: Vec<&str> = match words.as_slice() {
            [first, rest @ ..] => std::iter::once(first.rsplit('/').next().unwrap_or(first))
                .chain(rest.iter().copied())
                .collect(),
            [] => return Ok(()),
        };
        let own = |word: &str| word == name.as_str() || word == "$IFACE" || word == "${IFACE}";
        let is_down = when.contains("down");
        let all = words.as_slice();
        match all {
            ["ip", "link", "set", "dev", device, rest @ ..]
            | ["ip", "link", "set", device, rest @ ..]
            | ["ifconfig", device, rest @ ..]
                if own(device) =>
            {
                let mut rest = rest;
                loop {
                    match rest {
                        [] => return Ok(()),
                        // Every link of a spec is up; and a spec says nothing of taking down.
                        ["up" | "down", more @ ..] => rest = more,
                        ["mtu", value, more @ ..] if !is_down => {
                            gathered.mtu = Some(mtu(value, line)?);
                            rest = more;
                        }
                        ["type", kind, options @ ..] if !is_down && gathered.type_words(kind, options) => {
                            return Ok(());
                        }
                        _ => break,
                    }
                }
            }
            ["ip", "route", "add", route @ ..] if !is_down => {
                let (destination, rest) = match route {
                    [destination, rest @ ..] => (*destination, rest),
                    [] => ("", [].as_slice()),
                };
                let known = match destination {
                    "default" => Some(None),
                    text => text.parse::<Prefix>().ok().map(Some),
                };
                let plain = |destination| RouteSpec {
                    destination,
                    gateway: None,
                    table: MAIN_TABLE,
                    metric: None,
                    source: None,
                };
                if let Some(route) = known.and_then(|to| route_words(plain(to), rest, own)) {
                    gathered.routes.push(route);
                    return Ok(());
                }
            }
            ["ip", "route" | "rule", "del" | "delete", ..] if is_down => return Ok(()),
            ["ip", "rule", "add", words @ ..] | ["ip", "-6", "rule", "add", words @ ..] if !is_down => {
                if let Some(rule) = rule_words(all.get(1) == Some(&"-6"), words) {
                    self.rules.push(rule);
                    return Ok(());
                }
            }
            ["sysctl", "-w", setting] | ["sysctl", setting] if !is_down => {
                if let Some((key, value)) = setting.split_once('=') {
                    let sysctl = SysctlSpec::exactly(key, value).map_err(|e| line.invalid(e.to_string()))?;
                    self.sysctls.push(sysctl);
                    return Ok(());
                }
            }
            _ => {}
        }
        self.left_out.push(line.remark("a command that is no setting of the network; it is not run"));
        Ok(())
    }

    /// Puts ports and primaries that are named elsewhere where they belong.
    fn join(&mut self) -> Result<()> {
        for (port, bond) in self.joins.clone() {
            let gathered = self.links.entry(bond.clone()).or_default();
            if !self.order.contains(&bond) {
                self.order.push(bond);
            }
            let ports = &mut gathered.bond.get_or_insert_with(plain_bond).ports;
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        for (name, primary) in std::mem::take(&mut self.primaries) {
            let joined = self.joins.iter().find(|(port, _)| *port == name).map(|(_, bond)| bond.clone());
            if let Some(gathered) = self.links.get_mut(&joined.unwrap_or(name)) {
                gathered.bond.get_or_insert_with(plain_bond).primary = Some(primary);
            }
        }
        Ok(())
    }
}

/// The gateway of what follows a route's destination; `None` if there is more to it than gateway and device.
fn route_words(mut route: RouteSpec, words: &[&str], own: impl Fn(&str) -> bool) -> Option<RouteSpec> {
    let mut words = words;
    while let [key, value, rest @ ..] = words {
        match *key {
            "via" => route.gateway = Some(value.parse().ok()?),
            "dev" if own(value) => {}
            "table" => route.table = value.parse().ok()?,
            "metric" => route.metric = Some(value.parse().ok()?),
            "src" => route.source = Some(value.parse().ok()?),
            _ => return None,
        }
        words = rest;
    }
    words.is_empty().then_some(route)
}

/// `from PREFIX to PREFIX iif LINK table NUMBER priority NUMBER`, each once and in any order.
fn rule_words(v6: bool, words: &[&str]) -> Option<RuleSpec> {
    let prefix = |text: &str| match text.split_once('/') {
        Some(_) => text.parse().ok(),
        None => text
            .parse::<IpAddr>()
            .ok()
            .map(|a| Prefix { address: a, length: if a.is_ipv4() { 32 } else { 128 } }),
    };
    let (mut priority, mut table, mut words) = (None, None, words);
    let mut rule = RuleSpec { priority: 0, from: None, to: None, incoming: None, table: 0, v6 };
    while let [key, value, rest @ ..] = words {
        match *key {
            "from" if *value == "all" => {}
            "from" => rule.from = Some(prefix(value)?),
            "to" => rule.to = Some(prefix(value)?),
            "iif" => rule.incoming = Some(value.parse().ok()?),
            "table" | "lookup" => table = Some(value.parse().ok()?),
            "priority" | "pref" => priority = Some(value.parse().ok()?),
            _ => return None,
        }
        words = rest;
    }
    (rule.priority, rule.table) = (priority?, table?);
    rule.v6 |= [rule.from, rule.to].into_iter().flatten().any(|prefix| prefix.address.is_ipv6());
    words.is_empty().then_some(rule)
}

fn mtu(text: &str, line: &Line) -> Result<u32> {
    text.parse().map_err(|_| line.invalid("an MTU is a number of bytes"))
}

/// A prefix length, or that of a mask in dots.
fn length_of(text: &str) -> Option<u8> {
    if let Ok(length) = text.parse::<u8>() {
        return Some(length);
    }
    let mask = u32::from(text.parse::<Ipv4Addr>().ok()?);
    let ones = mask.leading_ones();
    (ones + mask.trailing_zeros() >= 32 || mask == 0).then(|| u8::try_from(ones).unwrap_or(32))
}

/// Whether a VLAN's name says its number.
pub(super) fn named_vlan(name: &IfName, parent: &IfName, id: VlanId) -> bool {
    name.as_str() == format!("{parent}.{id}") || name.as_str() == format!("vlan{id}")
}
