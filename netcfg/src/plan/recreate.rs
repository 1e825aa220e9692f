//! Links that must be deleted and made anew, and links that must not be touched.

use std::collections::BTreeSet;

use host::{IfName, Plan};

use super::address::{as_spec, is_automatic};
use super::{Planner, Step, invalid};
use crate::bond::{BondChange, BondMoment};
use crate::error::Result;
use crate::kinds::{BridgeSpec, MacvlanMode, VlanFlag, VlanSpec};
use crate::spec::{BondSpec, LinkKind, LinkSpec, Recreate};
use crate::state::{LinkKindState, LinkState};

impl<'a> Planner<'a> {
    /// Finds the links that the kernel cannot change into what is wanted, and what stands on them.
    pub(super) fn find_recreated(&mut self) -> Result<()> {
        let mut why: Vec<(&'a LinkSpec, String)> = Vec::new();
        for link in &self.spec.links {
            let Some(seen) = self.old(link.name.as_str()) else { continue };
            if let Some(reason) = self.obstacle(link, seen) {
                if seen.kind == LinkKindState::Physical {
                    return Err(invalid(&link.name, format!("{reason}; rename the card or the link")));
                }
                why.push((link, reason));
            }
        }
        if let (Some((link, reason)), Recreate::Never) = (why.first(), self.spec.recreate) {
            let name = &link.name;
            let text = format!(
                "{reason}; let it be made anew (recreation), or remove it first (ip link del {name})"
            );
            return Err(invalid(name, text));
        }
        let mut open: Vec<&LinkSpec> = why.into_iter().map(|(link, _)| link).collect();
        while let Some(link) = open.pop() {
            if !self.recreated.insert(link.name.as_str()) {
                continue;
            }
            let index = self.old(link.name.as_str()).map(|seen| seen.index);
            let stands = |above: &&LinkState| above.lower == index && above.kind != LinkKindState::Veth;
            for above in self.state.links.values().filter(stands) {
                match self.specs.get(above.name.as_str()) {
                    Some(spec) => open.push(spec),
                    None => {
                        let reason = format!(
                            "it must be made anew, and {} stands on it, which the spec does not name; add it or delete it",
                            above.name
                        );
                        return Err(invalid(&link.name, reason));
                    }
                }
            }
            // The other end of a pair goes with this one.
            if let LinkKind::Veth { peer } = &link.kind {
                open.extend(self.spec_of(peer).filter(|peer| self.old(peer.name.as_str()).is_some()));
            }
        }
        Ok(())
    }

    /// Why a living link cannot become what is wanted.
    fn obstacle(&self, link: &LinkSpec, seen: &LinkState) -> Option<String> {
        let below = || seen.lower.and_then(|lower| self.state.name_of(lower)).unwrap_or("nothing");
        match (&link.kind, &seen.kind) {
            (LinkKind::Existing, _) => None,
            (LinkKind::Vlan(vlan), LinkKindState::Vlan(now)) => {
                let same = now.id == Some(vlan.id) && now.protocol == vlan.protocol;
                (!same || below() != vlan.parent.as_str()).then(|| {
                    let number = now.id.map_or_else(|| "?".to_owned(), |id| id.to_string());
                    format!(
                        "it is VLAN {number} ({}) on {} and a living VLAN cannot move to VLAN {} ({}) on {}",
                        now.protocol,
                        below(),
                        vlan.id,
                        vlan.protocol,
                        vlan.parent
                    )
                })
            }
            (LinkKind::Bond(bond), LinkKindState::Bond(now)) => {
                if now.mode != bond.mode {
                    let reason =
                        format!("its mode is {} and cannot become {} while it lives", now.mode, bond.mode);
                    return Some(reason);
                }
                let has_ports = self.state.ports_of(seen.index).next().is_some();
                let moment = BondMoment::new(now.mode, false, has_ports);
                let changed = |(option, value): &(&_, &_)| now.options.get(*option) != Some(*value);
                let stuck = bond.options.iter().filter(changed).map(|(option, _)| option.info());
                stuck
                    .filter(|info| info.change == BondChange::Empty)
                    .find(|info| info.refusal(moment).is_some())
                    .map(|info| format!("its {} cannot change while it has ports", info.ip))
            }
            (LinkKind::Bridge(_), LinkKindState::Bridge(_)) | (LinkKind::Dummy, LinkKindState::Dummy) => None,
            (LinkKind::Veth { peer }, LinkKindState::Veth) => {
                let other = below();
                (other != peer.as_str()).then(|| format!("its other end is {other} and cannot become {peer}"))
            }
            (LinkKind::Macvlan { parent, mode }, LinkKindState::Macvlan(now)) => {
                let passthru = |mode: MacvlanMode| mode == MacvlanMode::Passthru;
                if below() != parent.as_str() {
                    return Some(format!("it is on {} and cannot move to {parent}", below()));
                }
                (passthru(*mode) != passthru(*now))
                    .then(|| format!("its mode is {now} and cannot become {mode} while it lives"))
            }
            (wanted, now) => {
                let wanted = wanted.word().unwrap_or("card");
                let now = now.word().unwrap_or("network card");
                Some(format!("there is a {now} of this name, and a {wanted} is wanted"))
            }
        }
    }

    /// Takes down what is made anew, from the top, each part by a step that can be taken back.
    pub(super) fn take_down(&self, ordered: &[&LinkSpec], plan: &mut Plan<Step>) {
        let mut gone: BTreeSet<&str> = BTreeSet::new();
        for link in ordered.iter().rev().filter(|link| self.recreated.contains(link.name.as_str())) {
            let Some(seen) = self.old(link.name.as_str()) else { continue };
            let name = || link.name.clone();
            for route in self.own_routes(seen) {
                plan.push(Step::DeleteRoute { name: name(), route: route.route.clone() });
            }
            for address in seen.addresses.iter().filter(|a| !is_automatic(a)) {
                plan.push(Step::DeleteAddress { name: name(), address: as_spec(address) });
            }
            if let LinkKindState::Bond(bond) = &seen.kind
                && let Some(primary) = self.primary(bond)
            {
                plan.push(Step::SetPrimary { name: name(), from: Some(primary), to: None });
            }
            let is_controller = matches!(seen.kind, LinkKindState::Bond(_) | LinkKindState::Bridge(_));
            for port in self.state.ports_of(seen.index).filter(|_| is_controller) {
                if let Ok(port) = port.name.parse::<IfName>()
                    && !gone.contains(port.as_str())
                {
                    plan.push(Step::SetController { name: port, from: Some(name()), to: None });
                }
            }
            if seen.up {
                plan.push(Step::SetUp { name: name(), up: false });
            }
            let controller = seen.controller.and_then(|c| self.state.name_of(c));
            if let Some(controller) = controller.filter(|c| !gone.contains(c)).and_then(|c| c.parse().ok()) {
                plan.push(Step::SetController { name: name(), from: Some(controller), to: None });
            }
            gone.insert(seen.name.as_str());
            if matches!(&link.kind, LinkKind::Veth { peer } if gone.contains(peer.as_str())) {
                continue;
            }
            plan.push(Step::DeleteLink { name: name(), was: self.as_it_was(seen).map(Box::new) });
        }
    }

    /// The step that makes a link as it is.
    fn as_it_was(&self, seen: &LinkState) -> Option<Step> {
        let lower =
            || seen.lower.and_then(|lower| self.state.name_of(lower)).and_then(|name| name.parse().ok());
        let kind = match &seen.kind {
            LinkKindState::Vlan(now) => {
                let mut vlan = VlanSpec::new(lower()?, now.id?).with_protocol(now.protocol);
                vlan.flags = VlanFlag::ALL.into_iter().map(|flag| (flag, now.has(flag))).collect();
                // A kernel that does not know a flag must not be asked to clear it.
                vlan.flags.retain(|flag, on| *on || *flag == VlanFlag::ReorderHdr);
                (vlan.egress_qos, vlan.ingress_qos) = (now.egress_qos.clone(), now.ingress_qos.clone());
                LinkKind::Vlan(vlan)
            }
            LinkKindState::Bond(now) => {
                let mut bond = BondSpec::new(now.mode);
                let moment = BondMoment::new(now.mode, false, false);
                bond.options = now.options.clone();
                bond.options.retain(|option, _| option.info().refusal(moment).is_none());
                LinkKind::Bond(bond)
            }
            LinkKindState::Bridge(options) => {
                LinkKind::Bridge(BridgeSpec { ports: Vec::new(), options: options.clone() })
            }
            LinkKindState::Veth => LinkKind::Veth { peer: lower()? },
            LinkKindState::Macvlan(mode) => LinkKind::Macvlan { parent: lower()?, mode: *mode },
            LinkKindState::Dummy => LinkKind::Dummy,
            LinkKindState::Physical | LinkKindState::Other(_) => return None,
        };
        let mac = matches!(kind, LinkKind::Bond(_)).then(|| seen.mac.as_slice().try_into().ok()).flatten();
        let (name, mtu) = (seen.name.parse().ok()?, Some(seen.mtu));
        Some(Step::CreateLink { name, kind, mtu, mac, controller: None, up: false })
    }

    /// Refuses a plan that would cut a connection through a protected address.
    pub(super) fn check_protected(&self, plan: &Plan<Step>) -> Result<()> {
        for address in &self.spec.protected {
            let mut carriers: BTreeSet<&str> = BTreeSet::new();
            let holds = |link: &&LinkState| link.addresses.iter().any(|a| a.prefix.address == *address);
            let mut open: Vec<&LinkState> = self.state.links.values().filter(holds).collect();
            while let Some(link) = open.pop() {
                if carriers.insert(link.name.as_str()) {
                    open.extend(link.lower.and_then(|lower| self.state.links.get(&lower)));
                    open.extend(self.state.ports_of(link.index));
                }
            }
            for step in plan.steps() {
                let touched = match step {
                    Step::DeleteLink { name, .. }
                    | Step::Rename { to: name, .. }
                    | Step::SetUp { name, up: false }
                    | Step::SetController { name, .. } => Some(name),
                    Step::DeleteAddress { name, address: gone } if gone.prefix.address == *address => {
                        Some(name)
                    }
                    Step::DeleteRoute { name, .. } => Some(name),
                    _ => None,
                };
                if let Some(name) = touched.filter(|name| carriers.contains(name.as_str())) {
                    let reason = format!(
                        "it carries {address}, which is protected, and this would cut it off: {step}; do it from the console, or let the change be confirmed (commit-confirm) and take the protection away"
                    );
                    return Err(invalid(name, reason));
                }
            }
        }
        Ok(())
    }
}
