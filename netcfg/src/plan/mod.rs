//! From what is to what is wanted, in the only order the kernel accepts.

mod bond;
mod check;

use std::collections::BTreeMap;
use std::fmt;

use host::{IfName, Impact, Plan};

use crate::bond::{BondOptions, settable};
use crate::error::{Error, Result};
use crate::spec::{BondSpec, LinkKind, LinkSpec, NetSpec, RouteSpec};
use crate::state::{LinkKindState, LinkState, NetState};
use crate::{Prefix, VlanId};

/// One change of the network. `Display` is the `ip` or `sysctl` line for it.
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
    /// Makes a bond, down and without ports, with all its options.
    CreateBond {
        /// Its name.
        name: IfName,
        /// Its options; ports and primary come later.
        bond: BondSpec,
        /// Its MTU.
        mtu: Option<u32>,
        /// Its hardware address: that of the card its first port is or stands on. Left to itself, udev gives a new bond an address made
        /// from the machine's id (`MACAddressPolicy=persistent`), at some moment after it was made; two machines cloned from one image
        /// then share an address and cannot talk.
        mac: Option<[u8; 6]>,
    },
    /// Makes a VLAN, enslaved in the same message if it is a port.
    CreateVlan {
        /// Its name.
        name: IfName,
        /// The link it is on.
        parent: IfName,
        /// Its number.
        id: VlanId,
        /// Its MTU.
        mtu: Option<u32>,
        /// The bond it is a port of.
        controller: Option<IfName>,
        /// Whether it is brought up at once.
        up: bool,
    },
    /// Deletes a link that a spec of ours made. Not undone: applying the spec makes it anew.
    DeleteLink {
        /// Its name.
        name: IfName,
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
    /// Brings a link up or down.
    SetUp {
        /// The link.
        name: IfName,
        /// Up, or down.
        up: bool,
    },
    /// Makes a link a port of a bond, or releases it.
    SetController {
        /// The port.
        name: IfName,
        /// The bond it was in.
        from: Option<IfName>,
        /// The bond it is to be in.
        to: Option<IfName>,
    },
    /// Adds an address.
    AddAddress {
        /// The link.
        name: IfName,
        /// The address.
        address: Prefix,
    },
    /// Removes an address.
    DeleteAddress {
        /// The link.
        name: IfName,
        /// The address.
        address: Prefix,
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
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mtu_of = |mtu: &Option<u32>| mtu.map(|m| format!(" mtu {m}")).unwrap_or_default();
        match self {
            Self::Sysctl { path, to, .. } => {
                let key = path.trim_start_matches("/proc/sys/").replace('/', ".");
                write!(f, "sysctl -w {key}=\"{to}\"")
            }
            Self::CreateBond { name, bond, mtu, mac } => {
                let mac = mac.map(|[a, b, c, d, e, f]| {
                    format!(" address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
                });
                let (mac, mtu) = (mac.unwrap_or_default(), mtu_of(mtu));
                let options = words(&settable(&bond.options));
                write!(f, "ip link add {name}{mac}{mtu} type bond mode {}{options}", bond.mode)
            }
            Self::CreateVlan { name, parent, id, mtu, controller, up } => {
                let master = controller.as_ref().map(|c| format!(" master {c}")).unwrap_or_default();
                let up = if *up { " up" } else { "" };
                write!(
                    f,
                    "ip link add link {parent} name {name}{}{master}{up} type vlan id {id}",
                    mtu_of(mtu)
                )
            }
            Self::DeleteLink { name } => write!(f, "ip link del {name}"),
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
            Self::SetUp { name, up } => write!(f, "ip link set {name} {}", if *up { "up" } else { "down" }),
            Self::SetController { name, to: Some(to), .. } => write!(f, "ip link set {name} master {to}"),
            Self::SetController { name, to: None, .. } => write!(f, "ip link set {name} nomaster"),
            Self::AddAddress { name, address } => write!(f, "ip addr add {address} dev {name}"),
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
    let destination = route.destination.map_or_else(|| "default".to_owned(), |d| d.to_string());
    let via = route.gateway.map(|g| format!(" via {g}")).unwrap_or_default();
    format!("{destination}{via} dev {name}")
}

impl host::plan::Step for Step {
    fn undo(&self) -> Vec<Self> {
        match self.clone() {
            Self::Sysctl { path, from, to } => vec![Self::Sysctl { path, from: to, to: from }],
            Self::CreateBond { name, .. } | Self::CreateVlan { name, .. } => vec![Self::DeleteLink { name }],
            Self::DeleteLink { .. } => vec![],
            Self::SetBond { name, from, to } => vec![Self::SetBond { name, from: to, to: from }],
            Self::SetPrimary { name, from, to } => vec![Self::SetPrimary { name, from: to, to: from }],
            Self::SetMtu { name, from, to } => vec![Self::SetMtu { name, from: to, to: from }],
            Self::SetUp { name, up } => vec![Self::SetUp { name, up: !up }],
            Self::SetController { name, from, to } => vec![Self::SetController { name, from: to, to: from }],
            Self::AddAddress { name, address } => vec![Self::DeleteAddress { name, address }],
            Self::DeleteAddress { name, address } => vec![Self::AddAddress { name, address }],
            Self::AddRoute { name, route } => vec![Self::DeleteRoute { name, route }],
            Self::DeleteRoute { name, route } => vec![Self::AddRoute { name, route }],
        }
    }

    fn impact(&self) -> Impact {
        match self {
            Self::DeleteLink { .. }
            | Self::DeleteAddress { .. }
            | Self::DeleteRoute { .. }
            | Self::SetController { .. }
            | Self::SetUp { up: false, .. } => Impact::DropsSessions,
            _ => Impact::Online,
        }
    }
}

fn invalid(object: impl fmt::Display, reason: impl Into<String>) -> Error {
    Error::Invalid { object: object.to_string(), reason: reason.into() }
}

/// The steps from a state to a spec. Pure. `sysctls` holds the present value of each file that the spec names.
///
/// # Errors
/// [`Error::Invalid`] and [`Error::NoLink`] name the link and the fix; then nothing is to be done at all.
pub fn diff(state: &NetState, spec: &NetSpec, sysctls: &BTreeMap<String, String>) -> Result<Plan<Step>> {
    let planner = Planner::new(state, spec);
    check::check(&planner)?;
    let mut plan = Plan::default();
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
    let is = |link: &&LinkSpec, f: fn(&LinkKind) -> bool| f(&link.kind);
    // Network cards first, so that their VLANs can be opened; the ports among them wait for their bond.
    for link in ordered.iter().filter(|l| is(l, |k| matches!(k, LinkKind::Existing))) {
        if planner.bond_of(&link.name).is_none() {
            planner.raise_mtu(link, &mut plan);
            planner.up(&link.name, &mut plan);
        }
    }
    // Bonds, down and empty: then every option is free to be set, and VLANs can be born as ports.
    for link in &ordered {
        if let LinkKind::Bond(bond) = &link.kind {
            planner.bond(link, bond, &mut plan)?;
        }
    }
    for link in &ordered {
        if let LinkKind::Vlan { parent, id } = &link.kind {
            planner.vlan(link, parent, *id, &mut plan)?;
        }
    }
    for link in &ordered {
        if let LinkKind::Bond(bond) = &link.kind {
            planner.ports(link, bond, &mut plan);
        }
    }
    for link in &ordered {
        let is_port = planner.bond_of(&link.name).is_some();
        if let LinkKind::Vlan { parent, .. } = &link.kind
            && !is_port
            && (planner.seen(&link.name).is_some() || !planner.is_up_early(parent))
        {
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
    Ok(plan)
}

/// The steps that take away what a spec makes: addresses and routes of ours, VLANs and bonds from the top down. Network cards stay as they
/// are.
#[must_use]
pub fn removal(state: &NetState, spec: &NetSpec) -> Plan<Step> {
    let planner = Planner::new(state, spec);
    let mut plan = Plan::default();
    let mut ordered = planner.ordered();
    ordered.reverse();
    // Bonds before the VLANs that are their ports, VLANs before what they are on.
    for link in &ordered {
        let Some(seen) = planner.seen(&link.name) else { continue };
        match link.kind {
            LinkKind::Existing => {
                for address in &link.addresses {
                    if seen.addresses.iter().any(|a| a.prefix == *address) {
                        plan.push(Step::DeleteAddress { name: link.name.clone(), address: *address });
                    }
                }
            }
            _ => plan.push(Step::DeleteLink { name: link.name.clone() }),
        }
    }
    plan
}

/// State and spec, by name: with a thousand links nothing may look through all of them for each.
struct Planner<'a> {
    state: &'a NetState,
    spec: &'a NetSpec,
    seen: BTreeMap<&'a str, &'a LinkState>,
    specs: BTreeMap<&'a str, &'a LinkSpec>,
    bonds: BTreeMap<&'a str, &'a IfName>,
}

impl<'a> Planner<'a> {
    fn new(state: &'a NetState, spec: &'a NetSpec) -> Self {
        let mut bonds = BTreeMap::new();
        for link in &spec.links {
            if let LinkKind::Bond(bond) = &link.kind {
                bonds.extend(bond.ports.iter().map(|port| (port.as_str(), &link.name)));
            }
        }
        Self {
            state,
            spec,
            seen: state.links.values().map(|link| (link.name.as_str(), link)).collect(),
            specs: spec.links.iter().map(|link| (link.name.as_str(), link)).collect(),
            bonds,
        }
    }

    fn seen(&self, name: &IfName) -> Option<&'a LinkState> {
        self.seen.get(name.as_str()).copied()
    }

    fn spec_of(&self, name: &IfName) -> Option<&'a LinkSpec> {
        self.specs.get(name.as_str()).copied()
    }

    /// The bond that the spec makes a link a port of.
    fn bond_of(&self, name: &IfName) -> Option<&'a IfName> {
        self.bonds.get(name.as_str()).copied()
    }

    /// Whether a new VLAN on this link can be brought up in the message that makes it: the link is up by then.
    fn is_up_early(&self, parent: &IfName) -> bool {
        match self.spec_of(parent).map(|link| &link.kind) {
            Some(LinkKind::Existing) => self.bond_of(parent).is_none(),
            Some(_) => false,
            None => self.seen(parent).is_some_and(|seen| seen.up),
        }
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
        match self.spec_of(name).map(|link| &link.kind) {
            Some(LinkKind::Vlan { parent, .. }) => below(parent),
            Some(LinkKind::Bond(bond)) => bond.ports.iter().map(below).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// The hardware address of the card that a link is or stands on.
    fn card_mac(&self, name: &IfName, guard: usize) -> Option<[u8; 6]> {
        match self.spec_of(name).map(|link| &link.kind) {
            Some(LinkKind::Vlan { parent, .. }) if guard < self.spec.links.len() => {
                self.card_mac(parent, guard + 1)
            }
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

    fn bond(&self, link: &LinkSpec, bond: &BondSpec, plan: &mut Plan<Step>) -> Result<()> {
        let name = link.name.clone();
        let Some(seen) = self.seen(&link.name) else {
            let mac = bond.ports.first().and_then(|port| self.card_mac(port, 0));
            plan.push(Step::CreateBond { name, bond: bond.clone(), mtu: link.mtu, mac });
            return Ok(());
        };
        let LinkKindState::Bond(now) = &seen.kind else {
            return Err(invalid(
                name,
                "there is an interface of this name that is no bond; rename or delete it",
            ));
        };
        if now.mode != bond.mode {
            let reason = format!(
                "its mode is {} and cannot become {} while it lives; remove the bond first (ip link del {name})",
                now.mode, bond.mode
            );
            return Err(invalid(&link.name, reason));
        }
        self.options(link, seen, now, bond, plan)?;
        self.raise_mtu(link, plan);
        Ok(())
    }

    fn vlan(&self, link: &LinkSpec, parent: &IfName, id: VlanId, plan: &mut Plan<Step>) -> Result<()> {
        let name = link.name.clone();
        let controller = self.bond_of(&link.name).cloned();
        let Some(seen) = self.seen(&link.name) else {
            // A port takes its bond's MTU.
            let bond_mtu = controller.as_ref().and_then(|c| self.spec_of(c)).and_then(|c| c.mtu);
            let mtu = link.mtu.or(bond_mtu);
            // A port is opened by its bond, and must not be up before.
            let up = controller.is_none() && self.is_up_early(parent);
            plan.push(Step::CreateVlan { name, parent: parent.clone(), id, mtu, controller, up });
            return Ok(());
        };
        let LinkKindState::Vlan { id: now, .. } = &seen.kind else {
            return Err(invalid(
                name,
                "there is an interface of this name that is no VLAN; rename or delete it",
            ));
        };
        let on = seen.lower.and_then(|lower| self.state.name_of(lower));
        if *now != Some(id) || on != Some(parent.as_str()) {
            let now = now.map_or_else(|| "?".to_owned(), |id| id.to_string());
            let reason = format!(
                "it is VLAN {now} on {} and a living VLAN cannot move to VLAN {id} on {parent}; remove it first (ip link del {name})",
                on.unwrap_or("nothing")
            );
            return Err(invalid(&link.name, reason));
        }
        if controller.is_none() {
            self.raise_mtu(link, plan);
        }
        Ok(())
    }

    fn ports(&self, link: &LinkSpec, bond: &BondSpec, plan: &mut Plan<Step>) {
        let seen = self.seen(&link.name);
        for port in &bond.ports {
            let born_as_port = self.spec_of(port).is_some_and(|l| matches!(l.kind, LinkKind::Vlan { .. }));
            match self.seen(port) {
                None if born_as_port => {}
                Some(now) if seen.is_some() && now.controller == seen.map(|s| s.index) => {
                    // A port that shrank with the card below it, while the bond kept its MTU: giving the bond the one it has is
                    // no change to the kernel (dev_set_mtu).
                    let bond_mtu = seen.map_or(now.mtu, |seen| seen.mtu);
                    if now.mtu != bond_mtu && link.mtu.is_none_or(|mtu| mtu == bond_mtu) {
                        plan.push(Step::SetMtu { name: port.clone(), from: now.mtu, to: bond_mtu });
                    }
                }
                now => {
                    if now.is_some_and(|now| now.up) {
                        // bond_enslave refuses a link that is up; the bond opens it itself.
                        plan.push(Step::SetUp { name: port.clone(), up: false });
                    }
                    let from = now
                        .and_then(|now| now.controller)
                        .and_then(|c| self.state.name_of(c))
                        .and_then(|c| c.parse().ok());
                    plan.push(Step::SetController { name: port.clone(), from, to: Some(link.name.clone()) });
                }
            }
        }
        if let Some(seen) = seen {
            for extra in self.state.ports_of(seen.index) {
                if let Ok(name) = extra.name.parse::<IfName>()
                    && !bond.ports.contains(&name)
                {
                    plan.push(Step::SetController { name, from: Some(link.name.clone()), to: None });
                }
            }
        }
        let primary = seen.and_then(|seen| match &seen.kind {
            LinkKindState::Bond(now) => {
                now.primary.and_then(|p| self.state.name_of(p)).and_then(|p| p.parse().ok())
            }
            _ => None,
        });
        if bond.mode.takes_primary() && primary != bond.primary {
            plan.push(Step::SetPrimary { name: link.name.clone(), from: primary, to: bond.primary.clone() });
        }
        self.up(&link.name, plan);
    }

    fn addresses(&self, link: &LinkSpec, plan: &mut Plan<Step>) {
        let have = self.seen(&link.name).map(|seen| seen.addresses.as_slice()).unwrap_or_default();
        for address in &link.addresses {
            if have.iter().any(|a| a.prefix == *address) {
                continue;
            }
            let name = link.name.clone();
            // The same address with another prefix length is a second address to the kernel; to its owner it is a correction.
            let other = have.iter().find(|a| a.prefix.address == address.address);
            if let Some(other) = other {
                plan.push(Step::DeleteAddress { name: name.clone(), address: other.prefix });
            }
            plan.push(Step::AddAddress { name, address: *address });
        }
    }

    fn routes(&self, link: &LinkSpec, plan: &mut Plan<Step>) {
        let index = self.seen(&link.name).map(|seen| seen.index);
        for route in &link.routes {
            let there = self.state.routes.iter().any(|r| {
                Some(r.link) == index
                    && r.destination == route.destination
                    && r.gateway == route.gateway
                    && route.gateway.is_none_or(|g| g.is_ipv6() == r.is_v6)
            });
            if !there {
                plan.push(Step::AddRoute { name: link.name.clone(), route: route.clone() });
            }
        }
    }
}
