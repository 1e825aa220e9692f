//! Specs made at random, applied one after the other, each to what the one before left.

#![allow(clippy::indexing_slicing)] // It is a test.

use netcfg::{
    BondAttribute, BondMode, BondSpec, BridgeAttribute, BridgeSpec, Host, IfName, LinkKind, LinkSpec,
    MacvlanMode, NetSpec, Netcfg, VlanFlag, VlanSpec,
};

use super::{Outcome, id, name};

/// A linear congruential generator (Knuth): the same specs in every run, on the fake and on every kernel.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        let at = self.below(u64::try_from(all.len()).expect("fits"));
        all[usize::try_from(at).expect("fits")].clone()
    }
}

/// A spec over both cards: dummies, VLANs of cards and bonds, bonds of cards, VLANs and dummies, bridges, macvlans, addresses.
fn spec(dice: &mut Dice, a: &IfName, b: &IfName) -> NetSpec {
    let jumbo = dice.one_in(2);
    let card_mtu = if jumbo { 9000 } else { 1500 };
    let mut links: Vec<LinkSpec> =
        [a, b].iter().map(|card| LinkSpec::existing((*card).clone()).with_mtu(card_mtu)).collect();
    let mut free: Vec<IfName> = Vec::new();
    for n in 0..dice.below(3) {
        links.push(LinkSpec::dummy(name(&format!("dummy{}", n + 5))));
        free.push(links[links.len() - 1].name.clone());
    }
    for n in 0..dice.below(4) {
        let card = dice.pick(&[a.clone(), b.clone()]);
        let mut vlan = VlanSpec::new(card.clone(), id(u16::try_from(n).expect("fits") + 10));
        if dice.one_in(3) {
            vlan = vlan.with_flag(dice.pick(&[VlanFlag::Gvrp, VlanFlag::ReorderHdr]), dice.one_in(2));
        }
        if dice.one_in(3) {
            vlan =
                vlan.with_egress_qos(u32::try_from(dice.below(4)).expect("fits"), 3).with_ingress_qos(1, 2);
        }
        links.push(LinkSpec::new(name(&format!("vl{n}")), LinkKind::Vlan(vlan)));
        free.push(links[links.len() - 1].name.clone());
    }
    if dice.one_in(3) {
        let mode = dice.pick(&[MacvlanMode::Bridge, MacvlanMode::Private, MacvlanMode::Vepa]);
        links.push(LinkSpec::macvlan(name("mac5"), a.clone(), mode));
    }
    let mut bonds = Vec::new();
    for n in 0..dice.below(3) {
        let modes = [BondMode::BalanceRr, BondMode::ActiveBackup, BondMode::BalanceXor, BondMode::Broadcast];
        let mut bond = BondSpec::new(dice.pick(&modes));
        let mut ports = Vec::new();
        for _ in 0..dice.below(3) {
            if !free.is_empty() {
                let at = usize::try_from(dice.below(u64::try_from(free.len()).expect("fits"))).expect("fits");
                ports.push(free.swap_remove(at));
            }
        }
        if bond.mode.takes_primary() && !ports.is_empty() && dice.one_in(2) {
            bond = bond.with_primary(ports[0].clone());
        }
        if dice.one_in(2) {
            bond = bond.with_option(BondAttribute::MinLinks, u32::try_from(dice.below(2)).expect("fits"));
        }
        if dice.one_in(2) {
            bond = bond.with_miimon(std::time::Duration::from_millis(50 * (1 + dice.below(3))));
        }
        bond = ports.into_iter().fold(bond, BondSpec::with_port);
        let bond_name = name(&format!("bo{n}"));
        let mtu = dice.pick(&[1400, 1500]);
        links.push(LinkSpec::bond(bond_name.clone(), bond).with_mtu(mtu));
        if dice.one_in(2) {
            links.push(LinkSpec::vlan(name(&format!("bo{n}.5")), bond_name, id(5)));
        } else {
            bonds.push(bond_name);
        }
    }
    // A bond is no port of a bond.
    free.append(&mut bonds);
    if dice.one_in(2) {
        let mut bridge = BridgeSpec::new().with_option(BridgeAttribute::ForwardDelay, 0);
        if dice.one_in(2) {
            let seconds = 100 * u32::try_from(dice.below(300)).expect("fits");
            bridge = bridge.with_option(BridgeAttribute::AgeingTime, seconds);
        }
        while dice.one_in(2) {
            bridge.ports.extend(free.pop());
        }
        links.push(LinkSpec::bridge(name("br5"), bridge));
        free.push(name("br5"));
    }
    if dice.one_in(3) {
        links.push(LinkSpec::veth(name("ve0"), name("ve1")));
    }
    // Addresses for those that are nobody's port, each in a network of its own.
    for (n, link) in free.iter().enumerate() {
        if let Some(spec) = links.iter_mut().find(|spec| spec.name == *link)
            && dice.one_in(2)
        {
            spec.addresses.push(netcfg::AddressSpec::new(
                format!("10.200.{n}.{}/24", 1 + dice.below(250)).parse().expect("v4"),
            ));
        }
    }
    // In any order: the plan sorts them.
    for at in 0..links.len() {
        let other = usize::try_from(dice.below(u64::try_from(links.len()).expect("fits"))).expect("fits");
        links.swap(at, other);
    }
    links.into_iter().fold(NetSpec::default(), NetSpec::with_link).with_recreation()
}

pub(super) fn specs(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let long = host.tree().read("/proc/cmdline").is_ok_and(|line| line.contains("lab.long"));
    let many = if long { 500 } else { 50 };
    let net = Netcfg::on(host)?;
    let (mut dice, mut steps) = (Dice(20_261_121), 0);
    let mut before = NetSpec::default();
    for number in 1..=many {
        let spec = spec(&mut dice, a, b);
        // What the one before had and this one has not is nobody's any more.
        let mut gone = before.clone();
        gone.links.retain(|link| link.kind != LinkKind::Existing && spec.link(&link.name).is_none());
        net.apply(net.plan_removal(&gone)?)?;
        let plan = net.plan(&spec).map_err(|e| format!("spec {number}: {e}\n{spec:#?}"))?;
        steps += plan.len();
        net.ensure(&spec).map_err(|e| format!("spec {number}: {}\n{plan}", all(&e)))?;
        let left = net.plan(&spec)?;
        assert!(left.is_empty(), "spec {number} is not done:\n{left}after\n{plan}");
        before = spec;
    }
    before.links.retain(|link| link.kind != LinkKind::Existing);
    net.apply(net.plan_removal(&before)?)?;
    println!("{many} specs, {steps} steps");
    assert!(steps > many * 5, "{steps} steps are no test");
    Ok(())
}

/// An error with its causes.
fn all(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
