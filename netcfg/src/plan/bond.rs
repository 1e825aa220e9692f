//! A living bond's options: what differs, and what it takes to change it.

use host::Plan;

use super::{Planner, Step, invalid};
use crate::bond::{BondAttribute, BondChange, BondMoment, BondOptions, number};
use crate::error::Result;
use crate::spec::{BondSpec, LinkSpec, RouteSpec};
use crate::state::{BondState, LinkState};

/// `RTPROT_KERNEL`: routes the kernel makes of addresses, and makes anew by itself.
const BY_THE_KERNEL: u8 = 2;

impl Planner<'_> {
    /// Plans the change of a living bond's options. One that the kernel takes only from a bond that is down costs a moment of silence:
    /// down, change, up, and back come the IPv6 addresses and routes that going down takes away.
    pub(super) fn options(
        &self,
        link: &LinkSpec,
        seen: &LinkState,
        now: &BondState,
        bond: &BondSpec,
        plan: &mut Plan<Step>,
    ) -> Result<()> {
        let mut to: BondOptions = bond
            .options
            .iter()
            .filter(|(option, value)| now.options.get(*option) != Some(*value))
            .map(|(option, value)| (*option, value.clone()))
            .collect();
        if to.is_empty() {
            return Ok(());
        }
        let has_ports = self.state.ports_of(seen.index).next().is_some();
        let mut silence = false;
        for option in to.keys() {
            let info = option.info();
            if info.refusal(BondMoment::new(now.mode, false, has_ports)).is_some() {
                let reason = format!(
                    "{info} cannot change while it has ports; release them or remove the bond first (ip link del {})",
                    link.name,
                    info = info.ip
                );
                return Err(invalid(&link.name, reason));
            }
            silence |= info.change == BondChange::Down && seen.up;
        }
        // A monitor that changes takes the other one and all delays along.
        let monitor = |option: &BondAttribute| {
            matches!(option, BondAttribute::Miimon | BondAttribute::ArpInterval)
                || BondAttribute::DELAYS.contains(option)
        };
        let mut from = BondOptions::new();
        if to.keys().any(monitor) {
            let arp = number(&to, BondAttribute::ArpInterval).is_some_and(|n| n > 0);
            for option in now.options.keys().filter(|option| monitor(option)) {
                from.extend(now.options.get(option).map(|value| (*option, value.clone())));
                // The kernel switches the other monitor off by itself, and delays go with miimon.
                let kept =
                    || now.options.get(option).filter(|_| !arp && BondAttribute::DELAYS.contains(option));
                let wanted = bond.options.get(option).or_else(kept);
                to.extend(wanted.map(|value| (*option, value.clone())));
            }
        }
        for option in to.keys() {
            from.extend(now.options.get(option).map(|value| (*option, value.clone())));
        }
        let name = link.name.clone();
        if !silence {
            plan.push(Step::SetBond { name, from, to });
            return Ok(());
        }
        let routes: Vec<RouteSpec> = self
            .state
            .routes
            .iter()
            .filter(|route| route.link == seen.index && route.protocol != BY_THE_KERNEL)
            .map(|route| RouteSpec { destination: route.destination, gateway: route.gateway })
            .collect();
        let addresses: Vec<_> = seen
            .addresses
            .iter()
            .map(|address| address.prefix)
            .filter(|prefix| match prefix.address {
                // A link-local one the kernel makes anew.
                std::net::IpAddr::V6(address) => !address.is_unicast_link_local(),
                std::net::IpAddr::V4(_) => false,
            })
            .collect();
        for route in &routes {
            plan.push(Step::DeleteRoute { name: name.clone(), route: route.clone() });
        }
        for address in &addresses {
            plan.push(Step::DeleteAddress { name: name.clone(), address: *address });
        }
        plan.push(Step::SetUp { name: name.clone(), up: false });
        plan.push(Step::SetBond { name: name.clone(), from, to });
        plan.push(Step::SetUp { name: name.clone(), up: true });
        for address in addresses {
            plan.push(Step::AddAddress { name: name.clone(), address });
        }
        for route in routes {
            plan.push(Step::AddRoute { name: name.clone(), route });
        }
        Ok(())
    }
}
