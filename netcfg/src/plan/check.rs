//! What can be known to be wrong with a spec before a single message is sent.

use std::collections::{BTreeMap, BTreeSet};

use host::IfName;

use super::{Planner, invalid};
use crate::bond::{BondAttribute, BondMoment, BondValue};
use crate::error::{Error, Result};
use crate::kinds::{BridgeAttribute, BridgeSpec, VlanSpec};
use crate::spec::{BondMode, BondSpec, LinkKind, LinkSpec};
use crate::state::{LinkState, NetState};
use crate::sysctl::{Advice, explain};

/// Everything that can be known to be wrong before a single message is sent.
pub(super) fn check(view: &Planner<'_>) -> Result<()> {
    let (state, spec) = (view.state, view.spec);
    for sysctl in spec.sysctls.iter().filter(|sysctl| !sysctl.force) {
        if let Some(verdict) = explain(&sysctl.key, &sysctl.value).filter(|v| v.advice == Advice::Harmful) {
            let reason =
                format!("setting it to {} does harm: {}; force it if you must", sysctl.value, verdict.reason);
            return Err(invalid(&sysctl.key, reason));
        }
    }
    check_rules(view)?;
    let mut names = BTreeSet::new();
    let mut addresses = BTreeMap::new();
    let mut vlans = BTreeMap::new();
    let mut controllers: BTreeMap<&IfName, &LinkSpec> = BTreeMap::new();
    for link in &spec.links {
        if !names.insert(&link.name) {
            return Err(invalid(&link.name, "it is described twice"));
        }
        check_addresses(link)?;
        for address in &link.addresses {
            if let Some(other) = addresses.insert(address.prefix.address, &link.name) {
                let reason = format!("it is given to {other} and to {}", link.name);
                return Err(invalid(address.prefix.address, reason));
            }
        }
        match &link.kind {
            LinkKind::Existing => {
                let seen = view.seen(&link.name).ok_or_else(|| no_link(state, &link.name))?;
                check_mtu(link, seen)?;
            }
            LinkKind::Vlan(vlan) => {
                let key = (&vlan.parent, vlan.id, vlan.protocol);
                if let Some(other) = vlans.insert(key, &link.name) {
                    let reason = format!("VLAN {} on {} is {other} already", vlan.id, vlan.parent);
                    return Err(invalid(&link.name, reason));
                }
                check_qos(link, vlan)?;
                check_parent(view, link, &vlan.parent)?;
            }
            LinkKind::Macvlan { parent, .. } => check_parent(view, link, parent)?,
            LinkKind::Veth { peer } => check_veth(view, link, peer)?,
            LinkKind::Bond(bond) => check_bond(view, link, bond)?,
            LinkKind::Bridge(bridge) => check_bridge(view, link, bridge)?,
            LinkKind::Dummy => {}
        }
        for port in link.kind.ports() {
            // "Device type (master device) cannot be enslaved" (bond_enslave); ELOOP (br_add_if).
            let same = view.spec_of(port).is_some_and(|p| p.kind.word() == link.kind.word());
            if same {
                let word = link.kind.word().unwrap_or("bond");
                return Err(invalid(
                    &link.name,
                    format!("{port} is a {word} too, and cannot be a port of a {word}"),
                ));
            }
            if let Some(other) = controllers.insert(port, link).filter(|other| other.name != link.name) {
                return Err(invalid(port, format!("it is a port of {} and of {}", other.name, link.name)));
            }
        }
    }
    for link in &spec.links {
        if let Some(controller) = controllers.get(&link.name).filter(|_| !link.addresses.is_empty()) {
            let word = controller.kind.word().unwrap_or("bond");
            let reason = format!("a port of a {word} has no address of its own; give it to the {word}");
            return Err(invalid(&link.name, reason));
        }
        // A walk down that does not end within as many steps as there are links goes in a circle.
        let mut at = vec![(&link.name, 0)];
        while let Some((name, depth)) = at.pop() {
            if depth > spec.links.len() {
                return Err(invalid(&link.name, "it stands on itself"));
            }
            if let Some(below) = view.spec_of(name) {
                at.extend(below.kind.parent().into_iter().chain(below.kind.ports()).map(|n| (n, depth + 1)));
            }
        }
    }
    Ok(())
}

fn check_rules(view: &Planner<'_>) -> Result<()> {
    for rule in &view.spec.rules {
        let bad = |reason: &str| Err(invalid(format!("rule {rule}"), reason));
        if !(1..=32_765).contains(&rule.priority) {
            return bad("its priority is 1 to 32765; 0, 32766 and 32767 are the kernel's own");
        }
        if rule.table == 0 {
            return bad("there is no table 0; take 1 to 252");
        }
        let families = [rule.from, rule.to].into_iter().flatten().map(|prefix| prefix.address.is_ipv6());
        if families.into_iter().any(|v6| v6 != rule.v6) {
            return bad("its prefixes are of different families");
        }
        let mut prefixes = [rule.from, rule.to].into_iter().flatten();
        if let Some(prefix) = prefixes.find(|prefix| prefix.network() != *prefix) {
            return bad(&format!("{prefix} has bits behind its prefix; write {}", prefix.network()));
        }
    }
    let routes = view.spec.links.iter().flat_map(|link| link.routes.iter().map(move |route| (link, route)));
    for (link, route) in routes {
        if let Some(network) = route.destination.filter(|d| d.network() != *d) {
            let reason = format!("route {network} has bits behind its prefix; write {}", network.network());
            return Err(invalid(&link.name, reason));
        }
        if matches!(route.table, 0 | 255) {
            return Err(invalid(&link.name, format!("table {} is the kernel's; take 1 to 252", route.table)));
        }
    }
    Ok(())
}

fn check_addresses(link: &LinkSpec) -> Result<()> {
    for address in &link.addresses {
        if let Some(lifetime) = address.lifetime
            && (lifetime.valid.as_secs() == 0 || lifetime.preferred > lifetime.valid)
        {
            let reason =
                "its valid lifetime is at least a second, and the preferred one is no longer than that";
            return Err(invalid(address.prefix, reason));
        }
    }
    Ok(())
}

fn check_qos(link: &LinkSpec, vlan: &VlanSpec) -> Result<()> {
    if vlan.ingress_qos.keys().chain(vlan.egress_qos.values()).any(|priority| *priority > 7) {
        return Err(invalid(&link.name, "the priority of a tag is 0 to 7"));
    }
    Ok(())
}

fn check_veth(view: &Planner<'_>, link: &LinkSpec, peer: &IfName) -> Result<()> {
    if *peer == link.name {
        return Err(invalid(&link.name, "the ends of a pair have two names"));
    }
    match view.spec_of(peer).map(|other| &other.kind) {
        None => Ok(()),
        Some(LinkKind::Veth { peer: back }) if *back == link.name => Ok(()),
        Some(_) => Err(invalid(
            peer,
            format!("it is the other end of {0}; describe it as veth with the peer {0}", link.name),
        )),
    }
}

fn check_bridge(view: &Planner<'_>, link: &LinkSpec, bridge: &BridgeSpec) -> Result<()> {
    for port in &bridge.ports {
        if view.spec_of(port).is_none() && view.old(port.as_str()).is_none() && !view.is_peer(port) {
            return Err(no_link(view.state, port));
        }
    }
    for (option, value) in &bridge.options {
        option.check(*value).map_err(|error| invalid(&link.name, error.to_string()))?;
    }
    let of = |option| bridge.options.get(&option).copied();
    if of(BridgeAttribute::StpState) == Some(1)
        && let Some(delay) = of(BridgeAttribute::ForwardDelay).filter(|delay| *delay < 200)
    {
        let reason = format!("with spanning tree its forward_delay is 200 to 3000, not {delay}");
        return Err(invalid(&link.name, reason));
    }
    Ok(())
}

fn no_link(state: &NetState, name: &IfName) -> Error {
    let mut have: Vec<_> = state.links.values().map(|l| l.name.as_str()).filter(|n| *n != "lo").collect();
    have.sort_unstable();
    Error::NoLink { name: name.to_string(), have: format!("this machine has {}", have.join(", ")) }
}

fn check_mtu(link: &LinkSpec, seen: &LinkState) -> Result<()> {
    let Some(mtu) = link.mtu else { return Ok(()) };
    let (least, most) = (seen.mtu_range.0.unwrap_or(68), seen.mtu_range.1.unwrap_or(65_535));
    if mtu < least || mtu > most {
        return Err(invalid(
            &link.name,
            format!("mtu {mtu} is out of its driver's range, {least} to {most}"),
        ));
    }
    Ok(())
}

/// The MTU a link will have when the spec is applied.
fn mtu_of(view: &Planner<'_>, name: &IfName) -> Option<u32> {
    view.spec_of(name).and_then(|l| l.mtu).or_else(|| view.seen(name).map(|l| l.mtu))
}

fn check_parent(view: &Planner<'_>, link: &LinkSpec, parent: &IfName) -> Result<()> {
    if view.spec_of(parent).is_none() && view.seen(parent).is_none() && !view.is_peer(parent) {
        return Err(no_link(view.state, parent));
    }
    match (link.mtu, mtu_of(view, parent)) {
        (Some(mtu), Some(below)) if mtu > below => Err(invalid(
            &link.name,
            format!("mtu {mtu} is larger than the {below} of {parent} below it; raise that first"),
        )),
        _ => Ok(()),
    }
}

fn check_bond(view: &Planner<'_>, link: &LinkSpec, bond: &BondSpec) -> Result<()> {
    if let BondMode::Other(number) = bond.mode {
        return Err(invalid(&link.name, format!("bond mode {number} is not known")));
    }
    for port in &bond.ports {
        if view.spec_of(port).is_none() && view.seen(port).is_none() && !view.is_peer(port) {
            return Err(no_link(view.state, port));
        }
        let own = view.spec_of(port).and_then(|l| l.mtu);
        if let (Some(own), Some(mtu)) = (own, link.mtu.filter(|m| Some(*m) != own)) {
            let reason =
                format!("mtu {own}: as a port of {} it has the bond's, {mtu}; make them equal", link.name);
            return Err(invalid(port, reason));
        }
        if let (Some(mtu), Some(seen)) = (link.mtu, view.seen(port)) {
            check_mtu(&LinkSpec::existing(port.clone()).with_mtu(mtu), seen)?;
        }
    }
    match &bond.primary {
        Some(primary) if !bond.ports.contains(primary) => {
            return Err(invalid(&link.name, format!("its primary {primary} is none of its ports")));
        }
        Some(_) if !bond.mode.takes_primary() => {
            return Err(invalid(&link.name, format!("mode {} has no primary port", bond.mode)));
        }
        _ => {}
    }
    for (option, value) in &bond.options {
        let info = option.info();
        info.check(value).map_err(|error| invalid(&link.name, error.to_string()))?;
        // At its birth a bond is down and has no ports: what is refused then is refused always.
        if let Some((_, reason)) = info.refusal(BondMoment::new(bond.mode, false, false)) {
            return Err(invalid(&link.name, reason));
        }
    }
    let of = |option| bond.number(option).unwrap_or(0);
    let (miimon, arp) = (of(BondAttribute::Miimon), of(BondAttribute::ArpInterval));
    for option in BondAttribute::DELAYS {
        let delay = of(option);
        if bond.options.contains_key(&option) && !bond.options.contains_key(&BondAttribute::Miimon) {
            return Err(invalid(&link.name, format!("its {option} needs a miimon beside it")));
        }
        if delay > 0 && (miimon == 0 || !delay.is_multiple_of(miimon)) {
            let reason = format!(
                "its {option} of {delay} ms is no multiple of miimon ({miimon} ms); the kernel would round it down"
            );
            return Err(invalid(&link.name, reason));
        }
    }
    let has_targets =
        |option| matches!(bond.options.get(&option), Some(BondValue::Addresses(all)) if !all.is_empty());
    if arp > 0 && miimon > 0 {
        return Err(invalid(&link.name, "arp_interval and miimon exclude each other; set one of them to 0"));
    }
    if arp > 0 && !has_targets(BondAttribute::ArpTargets) && !has_targets(BondAttribute::NsTargets) {
        return Err(invalid(
            &link.name,
            "arp_interval without arp_ip_target or ns_ip6_target: every port would be given up",
        ));
    }
    if of(BondAttribute::ArpValidate) > 0 && miimon > 0 {
        return Err(invalid(
            &link.name,
            "arp_validate needs arp_interval, and miimon excludes that; leave one of them out",
        ));
    }
    Ok(())
}
