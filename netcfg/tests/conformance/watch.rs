//! What a watch tells.

use std::collections::BTreeMap;
use std::time::Duration;

use netcfg::{Deadline, Event, Host, IfName, LinkSpec, NetSpec, NetState, Netcfg, RouteSpec, VlanId, Watch};

use super::Outcome;

type Seen = Watch<Event, netcfg::Error>;

/// Reads events until one is as wanted; all that came.
fn until(
    watch: &mut Seen,
    wanted: impl Fn(&Event) -> bool,
) -> Result<Vec<Event>, Box<dyn std::error::Error>> {
    let (deadline, mut all) = (Deadline::after(Duration::from_secs(60)), Vec::new());
    loop {
        match watch.next_before(deadline)? {
            Some(event) => {
                let found = wanted(&event);
                all.push(event);
                if found {
                    return Ok(all);
                }
            }
            None => return Err(format!("it did not come; these did: {all:#?}").into()),
        }
    }
}

/// A state as the events have it: by them alone it must become what a new reading shows.
#[derive(Default)]
struct Replica(BTreeMap<String, (u32, bool, Vec<String>)>, Vec<netcfg::RouteState>);

impl Replica {
    fn of(state: &NetState) -> Self {
        let mut replica = Self::default();
        state.links.values().for_each(|link| replica.link(link));
        replica.1.clone_from(&state.routes);
        replica
    }

    fn link(&mut self, link: &netcfg::LinkState) {
        let mut addresses: Vec<_> = link.addresses.iter().map(|a| a.prefix.to_string()).collect();
        addresses.sort();
        self.0.insert(link.name.clone(), (link.mtu, link.up, addresses));
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Snapshot(state) => *self = Self::of(state),
            Event::LinkAdded(link) => self.link(link),
            Event::LinkChanged { old, new } => {
                self.0.remove(&old.name);
                self.link(new);
            }
            Event::LinkRemoved(link) => drop(self.0.remove(&link.name)),
            Event::AddressAdded { link, address } => {
                let known = &mut self.0.get_mut(link).expect("a known link").2;
                known.retain(|prefix| *prefix != address.prefix.to_string());
                known.push(address.prefix.to_string());
                known.sort();
            }
            Event::AddressRemoved { link, address } => {
                let known = &mut self.0.get_mut(link).expect("a known link").2;
                known.retain(|prefix| *prefix != address.prefix.to_string());
            }
            Event::RouteAdded(route) => self.1.push(route.clone()),
            Event::RouteRemoved(route) => self.1.retain(|known| known != route),
            _ => {}
        }
    }

    fn sorted(mut self) -> Self {
        self.1.sort_by_key(|route| format!("{route:?}"));
        self
    }
}

pub(crate) fn tells(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    net.ensure(
        &NetSpec::default().with_link(LinkSpec::existing(a.clone())).with_link(LinkSpec::existing(b.clone())),
    )?;
    let mut watch = net.watch()?;
    let mut all =
        until(&mut watch, |event| matches!(event, Event::Snapshot(state) if state.link(a).is_some()))?;
    let vlan: IfName = format!("{a}.7").parse()?;
    let spec = NetSpec::default().with_link(
        LinkSpec::vlan(vlan.clone(), a.clone(), VlanId::new(7)?)
            .with_mtu(1400)
            .with_address("10.7.0.1/24".parse()?)
            .with_route(RouteSpec::new("10.70.0.0/16".parse()?, Some("10.7.0.9".parse()?))),
    );
    net.ensure(&spec)?;
    let ours = |event: &Event| matches!(event, Event::RouteAdded(r) if r.route.destination.is_some_and(|d| d.length == 16));
    all.extend(until(&mut watch, ours)?);
    let added = |event: &Event| matches!(event, Event::LinkAdded(link) if link.name == vlan.as_str() && link.mtu == 1400);
    let addressed = |event: &Event| matches!(event, Event::AddressAdded { link, address } if link == vlan.as_str() && address.prefix.to_string() == "10.7.0.1/24");
    let order: Vec<_> = [&added as &dyn Fn(&Event) -> bool, &addressed, &ours]
        .iter()
        .map(|wanted| all.iter().position(wanted).expect("it came"))
        .collect();
    assert!(order.is_sorted(), "{order:?} of {all:#?}");
    // The route goes without a word of the kernel's.
    net.remove(&vlan)?;
    let went = |event: &Event| matches!(event, Event::LinkRemoved(link) if link.name == vlan.as_str());
    all.extend(until(&mut watch, went)?);
    // An IPv6 address that is still being looked for on the network is in the list, and is told when nobody else has it.
    let deadline = Deadline::after(Duration::from_secs(60));
    let (now, replica) = loop {
        while let Some(event) = watch.next_before(Deadline::after(Duration::from_millis(300)))? {
            all.push(event);
        }
        let mut replica = Replica::default();
        all.iter().for_each(|event| replica.apply(event));
        let (now, replica) = (Replica::of(&net.list()?).sorted(), replica.sorted());
        if (&now.0, &now.1) == (&replica.0, &replica.1) || deadline.is_over() {
            break (now, replica);
        }
    };
    let unrouted = |event: &Event| matches!(event, Event::RouteRemoved(r) if r.route.destination.is_some_and(|d| d.length == 16));
    assert!(all.iter().any(unrouted), "{all:#?}");
    assert_eq!((replica.0, replica.1), (now.0, now.1));
    Ok(())
}
