//! Links of all kinds, links made anew, rules, protected addresses.

use std::time::Duration;

use host::plan::KillPoint;
use netcfg::{
    AddressSpec, BondMode, BondSpec, BridgeAttribute, BridgeSpec, CardMatch, Host, IfName, Lifetime,
    LinkKindState, LinkSpec, MacvlanMode, NetSpec, Netcfg, RouteSpec, RuleSpec, VlanFlag, VlanProtocol,
    VlanSpec,
};

use super::{Outcome, id, name, picture};

/// A small storage network with every kind of link.
fn everything(a: &IfName, b: &IfName) -> NetSpec {
    let outer = VlanSpec::new(b.clone(), id(100))
        .with_protocol(VlanProtocol::Dot1Ad)
        .with_flag(VlanFlag::LooseBinding, true)
        .with_egress_qos(6, 5)
        .with_ingress_qos(3, 2);
    let bridge = BridgeSpec::new()
        .with_port(name("v0"))
        .with_port(name("bond1"))
        .with_option(BridgeAttribute::ForwardDelay, 0)
        .with_option(BridgeAttribute::McastSnooping, 0);
    let bond = BondSpec::new(BondMode::ActiveBackup).with_port(name("d0")).with_port(name("d1"));
    NetSpec::default()
        .with_link(
            LinkSpec::bridge(name("br0"), bridge)
                .with_mtu(1400)
                .with_address("10.50.0.1/24".parse().expect("v4")),
        )
        .with_link(LinkSpec::veth(name("v0"), name("v1")))
        .with_link(LinkSpec::veth(name("v1"), name("v0")).with_address("10.50.0.2/24".parse().expect("v4")))
        .with_link(LinkSpec::dummy(name("d0")))
        .with_link(LinkSpec::dummy(name("d1")))
        .with_link(LinkSpec::bond(name("bond1"), bond).with_mtu(1400))
        .with_link(LinkSpec::existing(a.clone()))
        .with_link(LinkSpec::existing(b.clone()))
        .with_link(LinkSpec::macvlan(name("mac0"), a.clone(), MacvlanMode::Bridge))
        .with_link(LinkSpec::new(name("outer"), netcfg::LinkKind::Vlan(outer)))
        .with_link(LinkSpec::vlan(name("inner"), name("outer"), id(7)))
}

pub(super) fn every_kind(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let spec = everything(a, b);
    for n in 0..net.plan(&spec)?.len() {
        let before = picture(host)?;
        let broken = host.clone().with_kill_point(KillPoint::FailAfter(n));
        Netcfg::on(&broken)?.ensure(&spec).expect_err("breaks");
        assert_eq!(picture(host)?, before, "not as before after a failure at step {}", n + 1);
    }
    assert!(net.ensure(&spec)? && !net.ensure(&spec)?, "a second ensure writes nothing");
    let state = net.list()?;
    let kind = |link: &str| state.link(&name(link)).map(|l| l.kind.clone()).expect(link);
    let LinkKindState::Vlan(outer) = kind("outer") else { panic!("no VLAN") };
    assert_eq!((outer.protocol, outer.has(VlanFlag::LooseBinding)), (VlanProtocol::Dot1Ad, true));
    assert_eq!((outer.egress_qos.get(&6), outer.ingress_qos.get(&3)), (Some(&5), Some(&2)));
    let LinkKindState::Bridge(options) = kind("br0") else { panic!("no bridge") };
    assert_eq!(options.get(&BridgeAttribute::McastSnooping), Some(&0));
    assert_eq!(
        (kind("mac0"), kind("v1")),
        (LinkKindState::Macvlan(MacvlanMode::Bridge), LinkKindState::Veth)
    );
    let bridge = state.link(&name("br0")).expect("bridge");
    let mut ports: Vec<_> = state.ports_of(bridge.index).map(|port| port.name.as_str()).collect();
    ports.sort_unstable();
    assert_eq!(ports, ["bond1", "v0"]);
    let health = state.health(&name("bond1")).expect("a bond");
    assert!(health.is_redundant() && health.failed.is_empty(), "{health:?}");

    // What a living link can change, it changes; nothing is deleted.
    let mut changed = spec.clone();
    for link in &mut changed.links {
        match &mut link.kind {
            netcfg::LinkKind::Vlan(vlan) if link.name.as_str() == "outer" => {
                *vlan = vlan
                    .clone()
                    .with_flag(VlanFlag::ReorderHdr, false)
                    .with_egress_qos(6, 0)
                    .with_egress_qos(2, 1);
            }
            netcfg::LinkKind::Bridge(bridge) => {
                *bridge = bridge.clone().with_option(BridgeAttribute::AgeingTime, 1000);
            }
            netcfg::LinkKind::Macvlan { mode, .. } => *mode = MacvlanMode::Private,
            _ => {}
        }
    }
    let plan = net.plan(&changed)?;
    let steps: Vec<String> = plan.steps().iter().map(ToString::to_string).collect();
    assert_eq!(
        steps,
        [
            "ip link set br0 type bridge ageing_time 1000",
            "ip link set mac0 type macvlan mode private",
            "ip link set outer type vlan reorder_hdr off egress-qos-map 2:1 6:0",
        ]
    );
    for n in 0..steps.len() {
        let broken = host.clone().with_kill_point(KillPoint::FailAfter(n));
        Netcfg::on(&broken)?.ensure(&changed).expect_err("breaks");
        assert!(!net.ensure(&spec)?, "not as before after a failure at step {}", n + 1);
    }
    assert!(net.ensure(&changed)? && !net.ensure(&changed)?);
    net.apply(net.plan_removal(&changed)?)?;
    assert!(net.plan_removal(&changed)?.is_empty());
    Ok(())
}

pub(super) fn recreation(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let sub = |card: &IfName| name(&format!("{card}.9"));
    let spec = |mode: BondMode, number: u16| {
        let bond = BondSpec::new(mode).with_port(sub(a)).with_port(sub(b));
        let up = LinkSpec::vlan(name("top"), name("bond1"), id(77))
            .with_address("10.60.1.1/24".parse().expect("v4"));
        let route =
            RouteSpec::new("10.61.0.0/16".parse().expect("v4"), Some("10.60.0.9".parse().expect("v4")));
        NetSpec::default()
            .with_link(LinkSpec::existing(a.clone()))
            .with_link(LinkSpec::existing(b.clone()))
            .with_link(LinkSpec::vlan(sub(a), a.clone(), id(9)))
            .with_link(LinkSpec::vlan(sub(b), b.clone(), id(number)))
            .with_link(
                LinkSpec::bond(name("bond1"), bond)
                    .with_address("10.60.0.1/24".parse().expect("v4"))
                    .with_route(route),
            )
            .with_link(up)
    };
    let first = spec(BondMode::ActiveBackup, 9);
    net.ensure(&first)?;
    // An address that no spec names comes back too.
    let foreign = Netcfg::on(host)?;
    foreign.ensure(
        &NetSpec::default().with_link(
            LinkSpec::new(name("bond1"), first.link(&name("bond1")).expect("bond").kind.clone())
                .with_address("10.62.0.1/24".parse()?),
        ),
    )?;
    for (other, hint) in [
        (
            spec(BondMode::BalanceRr, 9),
            "its mode is active-backup and cannot become balance-rr while it lives",
        ),
        (spec(BondMode::ActiveBackup, 19), "and a living VLAN cannot move to VLAN 19"),
    ] {
        let before = picture(host)?;
        let error = net.ensure(&other).expect_err("not allowed").to_string();
        assert!(error.contains(hint) && error.contains("made anew"), "{error}");
        assert_eq!(picture(host)?, before);
        let other = other.with_recreation();
        let plan = net.plan(&other)?;
        assert_eq!(plan.impact(), host::Impact::DropsSessions);
        for n in 0..plan.len() {
            let broken = host.clone().with_kill_point(KillPoint::FailAfter(n));
            Netcfg::on(&broken)?.ensure(&other).expect_err("breaks");
            let left = net.plan(&first)?;
            assert!(left.is_empty(), "not as before after a failure at step {} of\n{plan}:\n{left}", n + 1);
        }
        assert!(net.ensure(&other)? && !net.ensure(&other)?);
        let bond = net.get(&name("bond1"))?.expect("bond");
        assert!(bond.addresses.iter().any(|a| a.prefix.to_string() == "10.62.0.1/24"), "{bond:?}");
        net.ensure(&first.clone().with_recreation())?;
    }
    // What stands on it and is not in the spec would go unasked.
    let mut less = spec(BondMode::BalanceRr, 9).with_recreation();
    less.links.retain(|link| link.name.as_str() != "top");
    let error = net.ensure(&less).expect_err("refused").to_string();
    assert!(error.contains("top stands on it, which the spec does not name"), "{error}");
    Ok(())
}

pub(super) fn protection(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let mine = "10.1.0.100".parse()?;
    let spec = super::article(a, b);
    net.ensure(&spec)?;
    let before = picture(host)?;
    let mut other = spec.clone().with_recreation().with_protected(mine);
    assert!(!net.ensure(&other)?, "nothing to do, nothing to refuse");
    for link in &mut other.links {
        if let netcfg::LinkKind::Bond(bond) = &mut link.kind {
            bond.ports.truncate(1);
        }
    }
    let error = net.ensure(&other).expect_err("a port would be taken from it").to_string();
    assert!(error.contains("it carries 10.1.0.100, which is protected"), "{error}");
    assert_eq!(picture(host)?, before);
    other.protected.clear();
    assert!(net.ensure(&other)?);
    Ok(())
}

pub(super) fn source_routing(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let portal = |last: u8| format!("10.1.24.{last}/24").parse().expect("v4");
    let spec = NetSpec::default()
        .with_link(LinkSpec::existing(a.clone()).with_address(portal(10)))
        .with_link(LinkSpec::existing(b.clone()).with_address(portal(20)))
        .with_source_routing(a, "10.1.24.10".parse()?, Some("10.1.24.1".parse()?), 101)?
        .with_source_routing(b, "10.1.24.20".parse()?, None, 102)?;
    assert!(net.ensure(&spec)? && !net.ensure(&spec)?);
    let state = net.list()?;
    assert!(state.rules.contains(&RuleSpec::from(101, "10.1.24.10/32".parse()?, 101)), "{:?}", state.rules);
    let through = |card: &IfName| state.link(card).map(|link| link.index);
    let tables: Vec<_> = state.routes.iter().filter(|r| r.route.table == 102).map(|r| Some(r.link)).collect();
    assert_eq!(tables, [through(b)]);
    for n in 0..net.plan_removal(&spec)?.len() {
        let broken = host.clone().with_kill_point(KillPoint::FailAfter(n));
        Netcfg::on(&broken)?.apply(net.plan_removal(&spec)?).expect_err("breaks");
        assert!(!net.ensure(&spec)?, "not as before after a failure at step {}", n + 1);
    }
    net.apply(net.plan_removal(&spec)?)?;
    let state = net.list()?;
    assert!(!state.rules.iter().any(|rule| rule.priority == 101));
    assert!(!state.routes.iter().any(|r| matches!(r.route.table, 101 | 102)), "{:?}", state.routes);
    let bad = spec.clone().with_rule(RuleSpec::from(40_000, "10.0.0.0/8".parse()?, 5));
    let error = net.ensure(&bad).expect_err("priority").to_string();
    assert!(error.contains("its priority is 1 to 32765"), "{error}");
    let error = spec.with_source_routing(a, "10.1.24.99".parse()?, None, 7).expect_err("address").to_string();
    assert!(error.contains("the link has not this address"), "{error}");
    Ok(())
}

pub(super) fn addresses(host: &Host, a: &IfName, _: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let hours = |n: u64| Duration::from_secs(n * 3600);
    let spec = |lifetime: Option<Lifetime>, v6: &str| -> Result<NetSpec, Box<dyn std::error::Error>> {
        let mut four = AddressSpec::new("10.70.0.1/24".parse()?).without_prefix_route();
        four.lifetime = lifetime;
        let six = AddressSpec::new(v6.parse()?).without_dad();
        let link = LinkSpec::existing(a.clone()).with_address_spec(four).with_address_spec(six);
        Ok(NetSpec::default().with_link(link))
    };
    let ends = Lifetime::new(hours(2), hours(1));
    assert!(net.ensure(&spec(Some(ends), "fd00:70::1/64")?)?);
    assert!(!net.ensure(&spec(Some(ends), "fd00:70::1/64")?)?, "a lifetime is not renewed by every ensure");
    assert!(!net.ensure(&spec(None, "fd00:70::1/64")?)?, "what is not said is left as it is");
    let seen = net.get(a)?.expect("card");
    let four = seen.addresses.iter().find(|x| x.prefix.address.is_ipv4()).expect("v4");
    assert!(four.flags & 0x200 != 0 && four.lifetime.is_some_and(|l| l.valid <= hours(2)), "{four:?}");
    let index = seen.index;
    let own = |route: &&netcfg::RouteState| route.link == index && !route.is_v6;
    assert_eq!(net.list()?.routes.iter().filter(own).count(), 0, "it makes no route");
    let shorter = Lifetime::new(hours(1), hours(0));
    let plan = net.plan(&spec(Some(shorter), "fd00:70::1/64")?)?;
    assert_eq!(plan.len(), 1, "{plan}");
    assert!(net.ensure(&spec(Some(shorter), "fd00:70::1/64")?)?);
    // Another prefix length is a correction, of IPv6 too.
    assert!(net.ensure(&spec(None, "fd00:70::1/56")?)? && !net.ensure(&spec(None, "fd00:70::1/56")?)?);
    let wrong = Lifetime::new(hours(1), hours(2));
    let error =
        net.ensure(&spec(Some(wrong), "fd00:70::1/56")?).expect_err("preferred for longer").to_string();
    assert!(error.contains("the preferred one is no longer than that"), "{error}");
    Ok(())
}

pub(super) fn cards(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let card = |of: &IfName| -> Result<CardMatch, Box<dyn std::error::Error>> {
        let link = net.get(of)?.expect("card");
        Ok(CardMatch::Mac(link.mac.as_slice().try_into()?))
    };
    let (mine, other) = (card(a)?, card(b)?);
    let storage = name("int9");
    let spec = NetSpec::default()
        .with_link(LinkSpec::card(storage.clone(), mine.clone()).with_address("10.80.0.1/24".parse()?))
        .with_link(LinkSpec::card(b.clone(), other.clone()))
        .with_link(LinkSpec::vlan(name("int9.3"), storage.clone(), id(3)));
    net.ensure(&NetSpec::default().with_link(LinkSpec::existing(a.clone())))?;
    for n in 0..net.plan(&spec)?.len() {
        let before = picture(host)?;
        let broken = host.clone().with_kill_point(KillPoint::FailAfter(n));
        Netcfg::on(&broken)?.ensure(&spec).expect_err("breaks");
        assert_eq!(picture(host)?, before, "not as before after a failure at step {}", n + 1);
    }
    assert!(net.ensure(&spec)? && !net.ensure(&spec)?);
    assert!(net.get(a)?.is_none() && net.get(&storage)?.is_some_and(|link| link.up));
    let file = mine.link_file(&storage)?;
    assert!(file.name == "10-int9.link" && file.text.ends_with("[Link]\nName=int9\n"), "{file:?}");
    // A name that another card has is not taken from it.
    let error = net
        .ensure(&NetSpec::default().with_link(LinkSpec::card(b.clone(), mine.clone())))
        .expect_err("taken")
        .to_string();
    assert!(error.contains("is int9, and another link"), "{error}");
    let nobody = CardMatch::Bus("0000:77:00.0".to_owned());
    let error = net
        .ensure(&NetSpec::default().with_link(LinkSpec::card(name("x"), nobody)))
        .expect_err("none")
        .to_string();
    assert!(error.contains("there is no card with place 0000:77:00.0"), "{error}");
    net.apply(net.plan_removal(&spec)?)?;
    assert!(net.ensure(&NetSpec::default().with_link(LinkSpec::card(a.clone(), mine)))?);
    Ok(())
}
