//! A living bond's options: what differs, and what it takes to change it.

use host::Plan;

use super::address::{as_spec, is_automatic};
use super::{Planner, Step};
use crate::bond::{BondAttribute, BondChange, BondOptions, number};
use crate::route::RouteSpec;
use crate::spec::{BondSpec, LinkSpec};
use crate::state::{AddressState, BondState, LinkState};

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
    ) {
        let mut to: BondOptions = bond
            .options
            .iter()
            .filter(|(option, value)| now.options.get(*option) != Some(*value))
            .map(|(option, value)| (*option, value.clone()))
            .collect();
        if to.is_empty() {
            return;
        }
        let silence = seen.up && to.keys().any(|option| option.info().change == BondChange::Down);
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
            return;
        }
        let routes: Vec<RouteSpec> = self.own_routes(seen).map(|route| route.route.clone()).collect();
        let lost = |a: &&AddressState| a.prefix.address.is_ipv6() && !is_automatic(a);
        let addresses: Vec<_> = seen.addresses.iter().filter(lost).map(as_spec).collect();
        for route in &routes {
            plan.push(Step::DeleteRoute { name: name.clone(), route: route.clone() });
        }
        for address in &addresses {
            plan.push(Step::DeleteAddress { name: name.clone(), address: address.clone() });
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
    }
}
