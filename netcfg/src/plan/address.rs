//! Addresses and routes: what is missing, and what is there and different.

use host::Plan;

use super::{Planner, Step};
use crate::route::{AddressSpec, Lifetime, RouteSpec};
use crate::spec::LinkSpec;
use crate::state::{AddressState, LinkState, RouteState};
use crate::wire::address::IFA_F_NOPREFIXROUTE;

/// `RTPROT_KERNEL`: routes the kernel makes of addresses, and makes anew by itself.
pub(super) const BY_THE_KERNEL: u8 = 2;

/// An address that is there, as a spec would have it.
pub(super) fn as_spec(address: &AddressState) -> AddressSpec {
    AddressSpec {
        prefix: address.prefix,
        lifetime: address.lifetime,
        no_prefix_route: address.flags & IFA_F_NOPREFIXROUTE != 0,
        no_dad: false,
    }
}

/// Whether the kernel makes an address anew by itself.
pub(super) fn is_automatic(address: &AddressState) -> bool {
    matches!(address.prefix.address, std::net::IpAddr::V6(address) if address.is_unicast_link_local())
}

impl<'a> Planner<'a> {
    pub(super) fn addresses(&self, link: &LinkSpec, plan: &mut Plan<Step>) {
        let have = self.seen(&link.name).map(|seen| seen.addresses.as_slice()).unwrap_or_default();
        for address in &link.addresses {
            let name = link.name.clone();
            let same = have.iter().find(|a| a.prefix == address.prefix);
            let same = same.filter(|a| !address.no_prefix_route || as_spec(a).no_prefix_route);
            if let Some(same) = same {
                let ends_later = |wanted: Lifetime| same.lifetime.is_none_or(|now| now.valid > wanted.valid);
                if address.lifetime.is_some_and(ends_later) {
                    let from = as_spec(same);
                    let to = AddressSpec { lifetime: address.lifetime, ..from.clone() };
                    plan.push(Step::ChangeAddress { name, from, to });
                }
                continue;
            }
            // The same address with another prefix length is a second address to the kernel; to its owner it is a correction.
            let other = have.iter().find(|a| a.prefix.address == address.prefix.address);
            if let Some(other) = other {
                plan.push(Step::DeleteAddress { name: name.clone(), address: as_spec(other) });
            }
            plan.push(Step::AddAddress { name, address: address.clone() });
        }
        if let Some(old) = self.recreated(link) {
            let named =
                |a: &&AddressState| link.addresses.iter().any(|w| w.prefix.address == a.prefix.address);
            for address in old.addresses.iter().filter(|a| !is_automatic(a) && !named(a)) {
                plan.push(Step::AddAddress { name: link.name.clone(), address: as_spec(address) });
            }
        }
    }

    pub(super) fn routes(&self, link: &LinkSpec, plan: &mut Plan<Step>) {
        let seen = self.seen(&link.name);
        for route in &link.routes {
            if !seen.is_some_and(|seen| self.has_route(seen, route)) {
                plan.push(Step::AddRoute { name: link.name.clone(), route: route.clone() });
            }
        }
        if let Some(old) = self.recreated(link) {
            for route in self.own_routes(old).filter(|now| !link.routes.iter().any(|wanted| is(now, wanted)))
            {
                plan.push(Step::AddRoute { name: link.name.clone(), route: route.route.clone() });
            }
        }
    }

    /// The link that was there, if this one is made anew.
    fn recreated(&self, link: &LinkSpec) -> Option<&'a LinkState> {
        self.old(link.name.as_str()).filter(|_| self.recreated.contains(link.name.as_str()))
    }

    /// The routes through a link that the kernel would not make anew.
    pub(super) fn own_routes(&self, seen: &LinkState) -> impl Iterator<Item = &'a RouteState> + use<'a> {
        let index = seen.index;
        self.state.routes.iter().filter(move |r| r.link == index && r.protocol != BY_THE_KERNEL)
    }

    pub(super) fn has_route(&self, seen: &LinkState, route: &RouteSpec) -> bool {
        self.state.routes.iter().any(|now| now.link == seen.index && is(now, route))
    }
}

/// Whether a route that is there is the one that is wanted; what is not said may be anything.
fn is(now: &RouteState, wanted: &RouteSpec) -> bool {
    now.route.destination == wanted.destination
        && now.route.gateway == wanted.gateway
        && now.route.table == wanted.table
        && (wanted.metric.is_none() || now.route.metric.unwrap_or(0) == wanted.metric.unwrap_or(0))
        && (wanted.source.is_none() || now.route.source == wanted.source)
        && wanted.gateway.is_none_or(|g| g.is_ipv6() == now.is_v6)
}
