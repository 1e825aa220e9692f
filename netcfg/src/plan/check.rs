//! What can be known to be wrong with a spec before a single message is sent.

use std::collections::{BTreeMap, BTreeSet};

use host::IfName;

use super::{Planner, invalid};
use crate::bond::{BondAttribute, BondMoment, BondValue};
use crate::error::{Error, Result};
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
    let mut names = BTreeSet::new();
    let mut addresses = BTreeMap::new();
    let mut vlans = BTreeMap::new();
    let mut bond_of_port: BTreeMap<&IfName, &IfName> = BTreeMap::new();
    for link in &spec.links {
        if !names.insert(&link.name) {
            return Err(invalid(&link.name, "it is described twice"));
        }
        for address in &link.addresses {
            if let Some(other) = addresses.insert(address.address, &link.name) {
                return Err(invalid(address.address, format!("it is given to {other} and to {}", link.name)));
            }
        }
        match &link.kind {
            LinkKind::Existing => {
                let seen = view.seen(&link.name).ok_or_else(|| no_link(state, &link.name))?;
                check_mtu(link, seen)?;
            }
            LinkKind::Vlan { parent, id } => {
                if let Some(other) = vlans.insert((parent, id), &link.name) {
                    return Err(invalid(&link.name, format!("VLAN {id} on {parent} is {other} already")));
                }
                check_vlan(view, link, parent)?;
            }
            LinkKind::Bond(bond) => {
                check_bond(view, link, bond)?;
                for port in &bond.ports {
                    if let Some(other) = bond_of_port.insert(port, &link.name).filter(|o| *o != &link.name) {
                        return Err(invalid(port, format!("it is a port of {other} and of {}", link.name)));
                    }
                }
            }
        }
    }
    for link in &spec.links {
        if bond_of_port.contains_key(&link.name) && !link.addresses.is_empty() {
            return Err(invalid(
                &link.name,
                "a port of a bond has no address of its own; give it to the bond",
            ));
        }
        // A walk down that does not end within as many steps as there are links goes in a circle.
        let mut at = vec![(&link.name, 0)];
        while let Some((name, depth)) = at.pop() {
            if depth > spec.links.len() {
                return Err(invalid(&link.name, "it stands on itself"));
            }
            match view.spec_of(name).map(|l| &l.kind) {
                Some(LinkKind::Vlan { parent, .. }) => at.push((parent, depth + 1)),
                Some(LinkKind::Bond(bond)) => at.extend(bond.ports.iter().map(|p| (p, depth + 1))),
                _ => {}
            }
        }
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

fn check_vlan(view: &Planner<'_>, link: &LinkSpec, parent: &IfName) -> Result<()> {
    if view.spec_of(parent).is_none() && view.seen(parent).is_none() {
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
        if view.spec_of(port).is_none() && view.seen(port).is_none() {
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
