//! From what is to what is wanted, in the only order the kernel accepts.

mod address;
mod bond;
mod check;
mod recreate;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use host::{IfName, Plan};

pub use step::Step;

use crate::error::{Error, Result};
use crate::kinds::{BridgeSpec, VlanSpec};
use crate::names::rename;
use crate::route::RuleSpec;
use crate::spec::{BondSpec, LinkKind, LinkSpec, NetSpec};
use crate::state::{BondState, LinkKindState, LinkState, NetState, VlanState};

fn invalid(object: impl fmt::Display, reason: impl Into<String>) -> Error {
    Error::Invalid { object: object.to_string(), reason: reason.into() }
}

/// The steps from a state to a spec. Pure. `sysctls` holds the present value of each file that the spec names.
///
/// # Errors
/// [`Error::Invalid`] and [`Error::NoLink`] name the link and the fix; then nothing is to be done at all.
pub fn diff(state: &NetState, spec: &NetSpec, sysctls: &BTreeMap<String, String>) -> Result<Plan<Step>> {
    let mut plan = Plan::default();
    let renamed = rename(state, spec, &mut plan)?;
    let state = renamed.as_ref().unwrap_or(state);
    let mut planner = Planner::new(state, spec);
    check::check(&planner)?;
    planner.find_recreated()?;
    for sysctl in &spec.sysctls {
        let path = sysctl.path();
        let from = sysctls.get(&path).ok_or_else(|| {
            invalid(
                &sysctl.key,
                "this kernel has no such parameter; remove the line or load the module that has it",
            )
        })?;
        if let Some(to) = sysctl.wanted_over(from) {
            let from = from.split_whitespace().collect::<Vec<_>>().join(" ");
            plan.push(Step::Sysctl { path, from, to });
        }
    }
    let ordered = planner.ordered();
    planner.take_down(&ordered, &mut plan);
    // Before anything comes up: many cards switch themselves off for it.
    for link in &ordered {
        planner.hardware(link, &mut plan)?;
    }
    // Network cards first, so that their VLANs can be opened; the ports among them wait for their bond.
    for link in ordered.iter().filter(|link| matches!(link.kind, LinkKind::Existing)) {
        if planner.bond_of(&link.name).is_none() {
            planner.raise_mtu(link, &mut plan);
            planner.up(&link.name, &mut plan);
        }
    }
    // Bonds and bridges, down and empty: then every option is free to be set, and VLANs can be born as ports.
    for link in &ordered {
        match &link.kind {
            LinkKind::Bond(bond) => planner.bond(link, bond, &mut plan),
            LinkKind::Bridge(bridge) => planner.bridge(link, bridge, &mut plan),
            _ => {}
        }
    }
    for link in &ordered {
        planner.link(link, &mut plan);
    }
    for link in &ordered {
        match &link.kind {
            LinkKind::Bond(bond) => planner.bond_ports(link, bond, &mut plan),
            LinkKind::Bridge(bridge) => planner.bridge_ports(link, bridge, &mut plan),
            _ => {}
        }
    }
    for link in ordered.iter().filter(|link| planner.bond_of(&link.name).is_none()) {
        if planner.seen(&link.name).is_some_and(|seen| seen.port.is_some()) {
            // A bond leaves down what it lets go.
            plan.push(Step::SetUp { name: link.name.clone(), up: true });
        } else if is_single(&link.kind) && !planner.is_born_up(link) {
            planner.up(&link.name, &mut plan);
        }
    }
    // Smaller MTUs from the top down: a parent that shrinks first would shrink the VLANs above it silently.
    for link in ordered.iter().rev() {
        if let (Some(to), Some(seen)) = (link.mtu, planner.seen(&link.name))
            && to < seen.mtu
            && planner.bond_of(&link.name).is_none()
        {
            plan.push(Step::SetMtu { name: link.name.clone(), from: seen.mtu, to });
        }
    }
    ordered.iter().for_each(|link| planner.addresses(link, &mut plan));
    ordered.iter().for_each(|link| planner.routes(link, &mut plan));
    let missing = |rule: &&RuleSpec| !state.rules.contains(rule);
    spec.rules.iter().filter(missing).for_each(|rule| plan.push(Step::AddRule { rule: rule.clone() }));
    planner.check_protected(&plan)?;
    Ok(plan)
}

/// The steps that take away what a spec makes: rules, addresses and routes of ours, software links from the top down. Network cards stay as
/// they are.
#[must_use]
pub fn removal(state: &NetState, spec: &NetSpec) -> Plan<Step> {
    let planner = Planner::new(state, spec);
    let mut plan = Plan::default();
    for rule in spec.rules.iter().filter(|rule| state.rules.contains(rule)) {
        plan.push(Step::DeleteRule { rule: rule.clone() });
    }
    let mut ordered = planner.ordered();
    ordered.reverse();
    // Bonds before the VLANs that are their ports, VLANs before what they are on.
    for link in &ordered {
        let Some(seen) = planner.seen(&link.name) else { continue };
        let name = || link.name.clone();
        match &link.kind {
            LinkKind::Existing => {
                for route in link.routes.iter().filter(|route| planner.has_route(seen, route)) {
                    plan.push(Step::DeleteRoute { name: name(), route: route.clone() });
                }
                for address in &link.addresses {
                    if seen.addresses.iter().any(|a| a.prefix == address.prefix) {
                        plan.push(Step::DeleteAddress { name: name(), address: address.clone() });
                    }
                }
            }
            // The other end of a pair goes with this one.
            LinkKind::Veth { peer } if planner.spec_of(peer).is_some_and(|p| p.name < link.name) => {}
            _ => plan.push(Step::DeleteLink { name: name(), was: None }),
        }
    }
    plan
}

/// Whether a link is made by itself: no card, and without ports.
fn is_single(kind: &LinkKind) -> bool {
    !matches!(kind, LinkKind::Existing | LinkKind::Bond(_) | LinkKind::Bridge(_))
}

/// State and spec, by name: with a thousand links nothing may look through all of them for each.
struct Planner<'a> {
    state: &'a NetState,
    spec: &'a NetSpec,
    seen: BTreeMap<&'a str, &'a LinkState>,
    specs: BTreeMap<&'a str, &'a LinkSpec>,
    /// Ports with the bond or bridge of the spec that has them.
    controllers: BTreeMap<&'a str, &'a LinkSpec>,
    /// What is deleted and made anew.
    recreated: BTreeSet<&'a str>,
}

impl<'a> Planner<'a> {
    fn new(state: &'a NetState, spec: &'a NetSpec) -> Self {
        let mut controllers = BTreeMap::new();
        for link in &spec.links {
            controllers.extend(link.kind.ports().iter().map(|port| (port.as_str(), link)));
        }
        Self {
            state,
            spec,
            seen: state.links.values().map(|link| (link.name.as_str(), link)).collect(),
            specs: spec.links.iter().map(|link| (link.name.as_str(), link)).collect(),
            controllers,
            recreated: BTreeSet::new(),
        }
    }

    /// A link that is there and stays.
    fn seen(&self, name: &IfName) -> Option<&'a LinkState> {
        self.old(name.as_str()).filter(|_| !self.recreated.contains(name.as_str()))
    }

    /// A link that is there, though it may go.
    fn old(&self, name: &str) -> Option<&'a LinkState> {
        self.seen.get(name).copied()
    }

    fn spec_of(&self, name: &IfName) -> Option<&'a LinkSpec> {
        self.specs.get(name.as_str()).copied()
    }

    /// What its card is to do differently.
    fn hardware(&self, link: &LinkSpec, plan: &mut Plan<Step>) -> Result<()> {
        if link.hardware.is_empty() {
            return Ok(());
        }
        let now = self.seen(&link.name).and_then(|seen| self.state.hardware.get(&seen.index));
        let now = now.filter(|_| link.kind == LinkKind::Existing).ok_or_else(|| {
            invalid(&link.name, "only what is a network card already has settings of a card; leave them out")
        })?;
        let differing =
            now.differing(&link.hardware).map_err(|error| invalid(&link.name, error.to_string()))?;
        if let Some((from, to)) = differing {
            plan.push(Step::SetHardware { name: link.name.clone(), from, to });
        }
        Ok(())
    }

    /// The bond that the spec makes a link a port of.
    fn bond_of(&self, name: &IfName) -> Option<&'a IfName> {
        let link = self.controllers.get(name.as_str())?;
        matches!(link.kind, LinkKind::Bond(_)).then_some(&link.name)
    }

    /// The present bond or bridge of a link, if that stays.
    fn controller_now(&self, seen: &LinkState) -> Option<IfName> {
        let name = self.state.name_of(seen.controller?)?;
        (!self.recreated.contains(name)).then(|| name.parse().ok()).flatten()
    }

    /// Whether a new link on this one can be brought up in the message that makes it: this one is up by then.
    fn is_up_early(&self, below: &IfName) -> bool {
        match self.spec_of(below) {
            Some(link) if matches!(link.kind, LinkKind::Existing) => self.bond_of(below).is_none(),
            Some(link) => self.is_born_up(link),
            None => self.seen(below).is_some_and(|seen| seen.up),
        }
    }

    /// Whether a link is brought up in the message that makes it. A bond's port is opened by its bond, and must not be up before.
    fn is_born_up(&self, link: &LinkSpec) -> bool {
        self.seen(&link.name).is_none()
            && self.bond_of(&link.name).is_none()
            && match &link.kind {
                LinkKind::Vlan(VlanSpec { parent, .. }) | LinkKind::Macvlan { parent, .. } => {
                    self.is_up_early(parent)
                }
                LinkKind::Dummy => true,
                // The other end may not be there yet to answer.
                _ => false,
            }
    }

    /// Whether a veth end comes into being with its other end.
    fn is_born_with_peer(&self, link: &LinkSpec) -> bool {
        matches!(&link.kind, LinkKind::Veth { peer } if self.spec_of(peer).is_some_and(|p| p.name < link.name))
    }

    /// Whether a link comes into being as the other end of one in the spec.
    fn is_peer(&self, name: &IfName) -> bool {
        self.spec.links.iter().any(|link| matches!(&link.kind, LinkKind::Veth { peer } if peer == name))
    }

    /// The links, each after what it stands on.
    fn ordered(&self) -> Vec<&'a LinkSpec> {
        let mut links: Vec<&LinkSpec> = self.spec.links.iter().collect();
        links.sort_by_cached_key(|link| self.depth(&link.name, 0));
        links
    }

    fn depth(&self, name: &IfName, guard: usize) -> usize {
        // A cycle is refused by `check`; the guard only keeps this from recursing for ever before that.
        if guard > self.spec.links.len() {
            return guard;
        }
        let below = |name: &IfName| self.depth(name, guard + 1) + 1;
        let Some(link) = self.spec_of(name) else { return 0 };
        if let LinkKind::Veth { peer } = &link.kind {
            // After the end that makes both.
            return if self.is_born_with_peer(link) { below(peer) } else { 0 };
        }
        link.kind.parent().into_iter().chain(link.kind.ports()).map(below).max().unwrap_or(0)
    }

    /// The hardware address of the card that a link is or stands on.
    fn card_mac(&self, name: &IfName, guard: usize) -> Option<[u8; 6]> {
        match self.spec_of(name).and_then(|link| link.kind.parent()) {
            Some(parent) if guard < self.spec.links.len() => self.card_mac(parent, guard + 1),
            _ => self.seen(name).and_then(|seen| seen.mac.as_slice().try_into().ok()),
        }
    }

    fn raise_mtu(&self, link: &LinkSpec, plan: &mut Plan<Step>) {
        if let (Some(to), Some(seen)) = (link.mtu, self.seen(&link.name))
            && to > seen.mtu
        {
            plan.push(Step::SetMtu { name: link.name.clone(), from: seen.mtu, to });
        }
    }

    fn up(&self, name: &IfName, plan: &mut Plan<Step>) {
        if !self.seen(name).is_some_and(|seen| seen.up) {
            plan.push(Step::SetUp { name: name.clone(), up: true });
        }
    }

    fn bond(&self, link: &LinkSpec, bond: &BondSpec, plan: &mut Plan<Step>) {
        match self.seen(&link.name).map(|seen| (seen, &seen.kind)) {
            Some((seen, LinkKindState::Bond(now))) => {
                self.options(link, seen, now, bond, plan);
                self.raise_mtu(link, plan);
            }
            _ => {
                let mac = bond.ports.first().and_then(|port| self.card_mac(port, 0));
                plan.push(Self::birth(link, mac, None, false));
            }
        }
    }

    fn bridge(&self, link: &LinkSpec, bridge: &BridgeSpec, plan: &mut Plan<Step>) {
        let Some(LinkKindState::Bridge(now)) = self.seen(&link.name).map(|seen| &seen.kind) else {
            // A bridge takes the smallest MTU of its ports by itself, unless it is given one: that waits for the ports.
            let kind = LinkKind::Bridge(bridge.clone());
            let (name, mtu, mac, controller) = (link.name.clone(), None, None, None);
            plan.push(Step::CreateLink { name, kind, mtu, mac, controller, up: false });
            return;
        };
        let mut to = BridgeSpec::new();
        let mut from = BridgeSpec::new();
        for (option, value) in
            bridge.options.iter().filter(|(option, value)| now.get(*option) != Some(*value))
        {
            to.options.insert(*option, *value);
            from.options.extend(now.get(option).map(|value| (*option, *value)));
        }
        self.set_kind(link, !to.options.is_empty(), LinkKind::Bridge(from), LinkKind::Bridge(to), plan);
    }

    fn set_kind(&self, link: &LinkSpec, differs: bool, from: LinkKind, to: LinkKind, plan: &mut Plan<Step>) {
        if differs {
            plan.push(Step::SetKind { name: link.name.clone(), from, to });
        }
    }

    fn birth(link: &LinkSpec, mac: Option<[u8; 6]>, controller: Option<IfName>, up: bool) -> Step {
        let (name, kind) = (link.name.clone(), link.kind.clone());
        Step::CreateLink { name, kind, mtu: link.mtu, mac, controller, up }
    }

    /// A link without ports: made, as a port in the same message, or changed.
    fn link(&self, link: &LinkSpec, plan: &mut Plan<Step>) {
        if !is_single(&link.kind) {
            return;
        }
        let controller = self.controllers.get(link.name.as_str());
        let Some(seen) = self.seen(&link.name) else {
            if self.is_born_with_peer(link) {
                if let Some(mtu) = link.mtu.filter(|mtu| *mtu != 1500) {
                    plan.push(Step::SetMtu { name: link.name.clone(), from: 1500, to: mtu });
                }
                return;
            }
            // A bond's port takes its bond's MTU.
            let bond = controller.filter(|c| matches!(c.kind, LinkKind::Bond(_)));
            let mtu = link.mtu.or_else(|| bond.and_then(|bond| bond.mtu));
            let link = LinkSpec { mtu, ..link.clone() };
            plan.push(Self::birth(&link, None, controller.map(|c| c.name.clone()), self.is_born_up(&link)));
            return;
        };
        match (&link.kind, &seen.kind) {
            (LinkKind::Vlan(vlan), LinkKindState::Vlan(now)) => {
                if let Some((from, to)) = vlan_changes(vlan, now) {
                    self.set_kind(link, true, LinkKind::Vlan(from), LinkKind::Vlan(to), plan);
                }
            }
            (LinkKind::Macvlan { parent, mode }, LinkKindState::Macvlan(now)) => {
                let of = |mode| LinkKind::Macvlan { parent: parent.clone(), mode };
                self.set_kind(link, mode != now, of(*now), of(*mode), plan);
            }
            _ => {}
        }
        if self.bond_of(&link.name).is_none() {
            self.raise_mtu(link, plan);
        }
    }

    /// Makes a link a port, unless it is one or is born as one.
    fn join(&self, port: &IfName, controller: &LinkSpec, plan: &mut Plan<Step>) {
        let seen = self.seen(&controller.name);
        let born_as_port =
            self.spec_of(port).is_some_and(|l| is_single(&l.kind) && !self.is_born_with_peer(l));
        let now = self.seen(port);
        match now {
            None if born_as_port => {}
            Some(now) if seen.is_some() && now.controller == seen.map(|s| s.index) => {
                // A port that shrank with the card below it, while the bond kept its MTU: giving the bond the one it has is no change to
                // the kernel (dev_set_mtu).
                let mtu = seen.map_or(now.mtu, |seen| seen.mtu);
                let is_bond = matches!(controller.kind, LinkKind::Bond(_));
                if is_bond && now.mtu != mtu && controller.mtu.is_none_or(|wanted| wanted == mtu) {
                    plan.push(Step::SetMtu { name: port.clone(), from: now.mtu, to: mtu });
                }
            }
            now => {
                let from = now.and_then(|now| self.controller_now(now));
                // A port of a bond that was deleted is down.
                let released = from.is_none() && now.is_some_and(|now| now.controller.is_some());
                if matches!(controller.kind, LinkKind::Bond(_)) && now.is_some_and(|now| now.up && !released)
                {
                    // bond_enslave refuses a link that is up; the bond opens it itself.
                    plan.push(Step::SetUp { name: port.clone(), up: false });
                }
                let to = Some(controller.name.clone());
                plan.push(Step::SetController { name: port.clone(), from, to });
            }
        }
    }

    fn bond_ports(&self, link: &LinkSpec, bond: &BondSpec, plan: &mut Plan<Step>) {
        let seen = self.seen(&link.name);
        let primary = seen.and_then(|seen| match &seen.kind {
            LinkKindState::Bond(now) => self.primary(now),
            _ => None,
        });
        let is_port =
            |port: &IfName| self.seen(port).is_some_and(|now| now.controller == seen.map(|s| s.index));
        if seen.is_some()
            && bond.mode.takes_primary()
            && bond.primary.is_none()
            && primary.is_none()
            && bond.ports.iter().any(|port| !is_port(port))
        {
            // A bond remembers the name of a primary port that has left, and shows it to nobody: a port of this name that joins would be
            // preferred again (bond_enslave).
            plan.push(Step::SetPrimary { name: link.name.clone(), from: None, to: None });
        }
        bond.ports.iter().for_each(|port| self.join(port, link, plan));
        if let Some(seen) = seen {
            for extra in self.state.ports_of(seen.index) {
                if let Ok(name) = extra.name.parse::<IfName>()
                    && !bond.ports.contains(&name)
                    && !self.controllers.contains_key(name.as_str())
                    && self.seen(&name).is_some()
                {
                    plan.push(Step::SetController { name, from: Some(link.name.clone()), to: None });
                }
            }
        }
        if bond.mode.takes_primary() && primary != bond.primary {
            plan.push(Step::SetPrimary { name: link.name.clone(), from: primary, to: bond.primary.clone() });
        }
        self.up(&link.name, plan);
    }

    fn primary(&self, now: &BondState) -> Option<IfName> {
        now.primary.and_then(|p| self.state.name_of(p)).and_then(|p| p.parse().ok())
    }

    fn bridge_ports(&self, link: &LinkSpec, bridge: &BridgeSpec, plan: &mut Plan<Step>) {
        bridge.ports.iter().for_each(|port| self.join(port, link, plan));
        match (link.mtu, self.seen(&link.name)) {
            (Some(to), None) => plan.push(Step::SetMtu { name: link.name.clone(), from: 1500, to }),
            _ => self.raise_mtu(link, plan),
        }
        self.up(&link.name, plan);
    }
}

/// What a living VLAN must change: what it has, and what it is to have.
fn vlan_changes(vlan: &VlanSpec, now: &VlanState) -> Option<(VlanSpec, VlanSpec)> {
    let bare = VlanSpec::new(vlan.parent.clone(), vlan.id).with_protocol(vlan.protocol);
    let (mut from, mut to) = (bare.clone(), bare);
    for (flag, on) in vlan.flags.iter().filter(|(flag, on)| now.has(**flag) != **on) {
        from.flags.insert(*flag, !on);
        to.flags.insert(*flag, *on);
    }
    let maps = [
        (&vlan.egress_qos, &now.egress_qos, &mut from.egress_qos, &mut to.egress_qos),
        (&vlan.ingress_qos, &now.ingress_qos, &mut from.ingress_qos, &mut to.ingress_qos),
    ];
    for (wanted, now, from, to) in maps {
        for (key, value) in wanted {
            let had = now.get(key).copied().unwrap_or(0);
            if had != *value {
                from.insert(*key, had);
                to.insert(*key, *value);
            }
        }
    }
    (from != to).then_some((from, to))
}
