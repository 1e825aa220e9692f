//! What holds on the fake and on a real kernel alike. Each function gets a machine with two spare network cards.

mod bond;
#[cfg(feature = "confirm")]
mod confirm;
mod hardware;
mod kinds;
mod random;
mod watch;

use std::time::Duration;

use netcfg::lint::Rule;
use netcfg::{
    BondAttribute, BondMode, BondSpec, FloatingAddr, Host, IfName, LinkKindState, LinkSpec, NetSpec, Netcfg,
    Plan, RouteSpec, Step, SysctlSpec, VlanId,
};

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A check and its name.
pub(crate) type Check = (&'static str, fn(&Host, &IfName, &IfName) -> Outcome);

pub(crate) const ALL: &[Check] = &[
    ("bond_over_vlans_as_in_the_first_article", bond_over_vlans),
    ("second_ensure_plans_nothing", second_ensure),
    ("round_robin_bond_of_cards_with_jumbo_frames", round_robin),
    ("vlan_over_bond", vlan_over_bond),
    ("a_failure_at_each_step_leaves_what_was_before", failures_are_undone),
    ("a_stop_at_each_step_converges_when_run_again", stops_converge),
    ("floating_address_is_claimed_once_and_released_once", floating),
    ("bad_specs_are_refused_by_name", bad_specs),
    ("removal_leaves_the_cards", removal),
    ("a_port_that_shrank_under_its_bond_is_told_and_mended", shrunken_port),
    ("harmful_parameters_are_refused_unless_forced", harmful),
    ("a_new_bond_has_the_known_defaults", bond::defaults),
    ("every_bond_option_in_every_mode_is_taken_or_refused_as_known", bond::every_option),
    ("a_living_bond_changes_its_options", bond::changes_on_a_living_bond),
    ("every_kind_of_link_is_made_changed_and_removed", kinds::every_kind),
    ("what_cannot_change_is_made_anew_only_if_allowed", kinds::recreation),
    ("a_protected_address_is_not_cut_off", kinds::protection),
    ("a_portal_answers_through_its_own_network", kinds::source_routing),
    ("addresses_have_lifetimes_and_flags", kinds::addresses),
    ("a_card_is_found_by_its_address_and_renamed", kinds::cards),
    ("a_card_does_what_it_is_told_and_refuses_the_rest", hardware::settings),
    #[cfg(feature = "confirm")]
    ("what_is_not_confirmed_is_taken_back", confirm::trials),
    ("random_specs_one_after_the_other_are_what_they_say", random::specs),
    ("a_watch_tells_what_changes_and_ends_at_what_is", watch::tells),
];

fn id(n: u16) -> VlanId {
    VlanId::new(n).expect("a VLAN number")
}

fn name(text: &str) -> IfName {
    text.parse().expect("an interface name")
}

/// Management as in the first article: an active-backup bond over VLAN 2 of both cards, and a storage VLAN on each.
pub(crate) fn article(a: &IfName, b: &IfName) -> NetSpec {
    let sub = |card: &IfName, n: u16| name(&format!("{card}.{n}"));
    let bond = BondSpec::new(BondMode::ActiveBackup)
        .with_port(sub(a, 2))
        .with_port(sub(b, 2))
        .with_primary(sub(a, 2))
        .with_delays(Duration::from_millis(200), Duration::from_millis(200));
    NetSpec::default()
        .with_link(
            LinkSpec::bond(name("bond_vlan2"), bond)
                .with_mtu(1500)
                .with_address("10.1.0.100/24".parse().expect("address"))
                .with_route(RouteSpec::default_via("10.1.0.1".parse().expect("gateway"))),
        )
        .with_link(LinkSpec::vlan(sub(a, 24), a.clone(), id(24)).with_mtu(9000))
        .with_link(LinkSpec::vlan(sub(b, 25), b.clone(), id(25)).with_mtu(9000))
        .with_link(LinkSpec::vlan(sub(a, 2), a.clone(), id(2)).with_mtu(1500))
        .with_link(LinkSpec::vlan(sub(b, 2), b.clone(), id(2)).with_mtu(1500))
        .with_link(LinkSpec::existing(a.clone()).with_mtu(9000))
        .with_link(LinkSpec::existing(b.clone()).with_mtu(9000))
}

/// Takes everything of ours away again.
pub(crate) fn clean(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    for link in net.list()?.links.values() {
        if !matches!(link.kind, LinkKindState::Physical)
            && !link.name.starts_with("bonding")
            && link.name != "lo"
        {
            net.remove(&link.name.parse()?)?;
        }
    }
    let back = NetSpec::default()
        .with_link(LinkSpec::existing(a.clone()).with_mtu(1500))
        .with_link(LinkSpec::existing(b.clone()).with_mtu(1500));
    net.ensure(&back)?;
    let down = [a, b].map(|card| Step::SetUp { name: card.clone(), up: false });
    net.apply(Plan::new(down.to_vec()))?;
    Ok(())
}

fn bond_over_vlans(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let spec = article(a, b);
    assert!(net.ensure(&spec)?);
    let state = net.list()?;
    let bond = state.link(&name("bond_vlan2")).expect("bond");
    let LinkKindState::Bond(options) = &bond.kind else { panic!("no bond: {bond:?}") };
    let number = |option| options.number(option);
    assert_eq!((options.mode, number(BondAttribute::Miimon)), (BondMode::ActiveBackup, Some(100)));
    assert_eq!((number(BondAttribute::UpDelay), number(BondAttribute::DownDelay)), (Some(200), Some(200)));
    assert_eq!(options.primary.and_then(|p| state.name_of(p)), Some(format!("{a}.2").as_str()));
    assert!(bond.up && bond.mtu == 1500);
    assert_eq!(state.ports_of(bond.index).count(), 2);
    assert_eq!(state.link(&name(&format!("{a}.24"))).map(|l| l.mtu), Some(9000));
    assert!(bond.addresses.iter().any(|address| address.prefix.to_string() == "10.1.0.100/24"));
    assert!(state.routes.iter().any(|r| r.link == bond.index && r.route.destination.is_none()));
    Ok(())
}

fn second_ensure(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let spec = article(a, b);
    net.ensure(&spec)?;
    assert!(!net.ensure(&spec)?);
    assert!(net.plan(&spec)?.is_empty());
    Ok(())
}

fn round_robin(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let bond = BondSpec::new(BondMode::BalanceRr).with_port(a.clone()).with_port(b.clone());
    let spec = NetSpec::default().with_link(
        LinkSpec::bond(name("bond_drbd"), bond).with_mtu(9216).with_address("192.168.123.100/24".parse()?),
    );
    assert!(net.ensure(&spec)? && !net.ensure(&spec)?);
    let state = net.list()?;
    let bond = state.link(&name("bond_drbd")).expect("bond").clone();
    let ports: Vec<_> = state.ports_of(bond.index).map(|p| p.mtu).collect();
    assert_eq!((bond.mtu, ports), (9216, vec![9216, 9216]));
    assert!(net.remove(&name("bond_drbd"))? && !net.remove(&name("bond_drbd"))?);
    Ok(())
}

fn vlan_over_bond(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let bond = BondSpec::new(BondMode::ActiveBackup).with_port(a.clone()).with_port(b.clone());
    let spec = NetSpec::default()
        .with_link(
            LinkSpec::vlan(name("san24"), name("bond_san"), id(24)).with_address("10.1.24.1/24".parse()?),
        )
        .with_link(LinkSpec::bond(name("bond_san"), bond).with_mtu(9000));
    assert!(net.ensure(&spec)? && !net.ensure(&spec)?);
    let state = net.list()?;
    let vlan = state.link(&name("san24")).expect("VLAN");
    assert_eq!(vlan.lower.and_then(|l| state.name_of(l)), Some("bond_san"));
    assert!(vlan.up && vlan.mtu == 9000);
    Ok(())
}

/// The state as far as our spec can change it.
pub(crate) fn picture(host: &Host) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let state = Netcfg::on(host)?.list()?;
    let mut lines: Vec<_> = state
        .links
        .values()
        .map(|l| {
            let addresses: Vec<_> =
                l.addresses.iter().filter(|a| a.prefix.address.is_ipv4()).map(|a| a.prefix).collect();
            // By name: what was made anew has another number.
            let controller = l.controller.and_then(|index| state.name_of(index));
            format!("{} mtu {} up {} in {controller:?} {addresses:?}", l.name, l.mtu, l.up)
        })
        .collect();
    lines.sort();
    Ok(lines)
}

fn failures_are_undone(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let spec = article(a, b);
    let before = picture(host)?;
    let steps = Netcfg::on(host)?.plan(&spec)?.len();
    assert!(steps >= 12, "{steps} steps");
    for n in 0..steps {
        let broken = host.clone().with_kill_point(host::plan::KillPoint::FailAfter(n));
        let error = Netcfg::on(&broken)?.ensure(&spec).expect_err("breaks");
        assert!(error.to_string().starts_with(&format!("step {} of {steps} failed", n + 1)), "{error}");
        assert_eq!(picture(host)?, before, "after a failure at step {}", n + 1);
    }
    println!("failed after each of {steps} steps");
    Ok(())
}

fn stops_converge(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let spec = article(a, b);
    let net = Netcfg::on(host)?;
    let steps = net.plan(&spec)?.len();
    let mut killed = 0;
    for n in 0..steps {
        let stopped = host.clone().with_kill_point(host::plan::KillPoint::StopAfter(n));
        Netcfg::on(&stopped)?.ensure(&spec).expect_err("stops");
        killed += 1;
        net.ensure(&spec)?;
        assert!(net.plan(&spec)?.is_empty(), "not converged after a stop at step {n}");
        clean(host, a, b)?;
    }
    println!("stopped after each of {killed} steps of a plan of {steps}");
    assert_eq!(killed, steps);
    Ok(())
}

fn floating(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    net.ensure(&article(a, b))?;
    let storage = name(&format!("{a}.24"));
    for text in ["10.1.24.10/24", "fd00:24::10/64"] {
        let address = FloatingAddr::new(storage.clone(), text.parse()?);
        assert!(!address.is_held(host)?);
        assert!(address.claim(host)? && !address.claim(host)? && address.is_held(host)?);
        let second = FloatingAddr::new(storage.clone(), text.replace("10/", "20/").parse()?);
        assert!(second.claim(host)?);
        assert!(address.release(host)? && !address.release(host)? && !address.is_held(host)?);
        // The one that came second stays.
        assert!(second.is_held(host)? && second.release(host)?);
    }
    let nowhere = FloatingAddr::new(name("no-such-if"), "10.0.0.1/24".parse()?);
    assert!(!nowhere.release(host)?);
    let error = nowhere.claim(host).expect_err("no such link");
    assert!(error.to_string().contains("10.0.0.1/24 on no-such-if"), "{error}");
    Ok(())
}

fn bad_specs(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let before = picture(host)?;
    let bond = |mode| BondSpec::new(mode).with_port(a.clone());
    let link = |bond| NetSpec::default().with_link(LinkSpec::bond(name("bond9"), bond));
    let vlan = |mtu| {
        NetSpec::default()
            .with_link(LinkSpec::existing(a.clone()).with_mtu(1500))
            .with_link(LinkSpec::vlan(name("v9"), a.clone(), id(9)).with_mtu(mtu))
    };
    let twice = NetSpec::default()
        .with_link(LinkSpec::existing(a.clone()).with_address("10.0.0.1/24".parse()?))
        .with_link(LinkSpec::existing(b.clone()).with_address("10.0.0.1/24".parse()?));
    let cases = [
        (NetSpec::default().with_link(LinkSpec::existing(name("nope0"))), "there is no interface nope0"),
        (vlan(9000), "mtu 9000 is larger than the 1500"),
        (link(bond(BondMode::BalanceRr).with_primary(a.clone())), "mode balance-rr has no primary port"),
        (link(bond(BondMode::ActiveBackup).with_primary(b.clone())), "is none of its ports"),
        (
            link(bond(BondMode::ActiveBackup).with_delays(Duration::from_millis(150), Duration::ZERO)),
            "updelay of 150 ms is no multiple of miimon (100 ms)",
        ),
        (twice, "10.0.0.1: it is given to"),
        (
            NetSpec::default().with_link(LinkSpec::existing(a.clone()).with_mtu(70_000)),
            "out of its driver's range",
        ),
        (
            NetSpec::default()
                .with_link(LinkSpec::vlan(name("v1"), name("v2"), id(1)))
                .with_link(LinkSpec::vlan(name("v2"), name("v1"), id(1))),
            "it stands on itself",
        ),
    ];
    for (spec, expected) in cases {
        let error = net.ensure(&spec).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}\nexpected: {expected}");
    }
    assert_eq!(picture(host)?, before, "a refused spec changed something");
    Ok(())
}

/// A jumbo bond over VLANs, and somebody lowers the MTU of a card.
fn shrunken_port(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let sub = |card: &IfName| name(&format!("{card}.9"));
    let bond = BondSpec::new(BondMode::ActiveBackup).with_port(sub(a)).with_port(sub(b));
    let spec = NetSpec::default()
        .with_link(LinkSpec::existing(a.clone()).with_mtu(9000))
        .with_link(LinkSpec::existing(b.clone()).with_mtu(9000))
        .with_link(LinkSpec::vlan(sub(a), a.clone(), id(9)))
        .with_link(LinkSpec::vlan(sub(b), b.clone(), id(9)))
        .with_link(LinkSpec::bond(name("jumbo"), bond).with_mtu(9000));
    net.ensure(&spec)?;
    let ours = |rule| -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let found = net.lint()?.into_iter().filter(|f| f.rule == rule && f.object == "jumbo");
        Ok(found.map(|f| f.text).collect())
    };
    assert!(ours(Rule::MtuAboveLower)?.is_empty());
    let shrink = Step::SetMtu { name: a.clone(), from: 9000, to: 1500 };
    net.apply(Plan::new(vec![shrink]))?;
    let mtu = |state: &netcfg::NetState, link: &IfName| state.link(link).map(|l| l.mtu);
    let state = net.list()?;
    assert_eq!((mtu(&state, &sub(a)), mtu(&state, &name("jumbo"))), (Some(1500), Some(9000)));
    let found = ours(Rule::MtuAboveLower)?;
    assert!(
        matches!(&found[..], [one] if one.contains(&format!("that of its port {} is 1500", sub(a)))),
        "{found:?}"
    );
    assert!(net.ensure(&spec)? && !net.ensure(&spec)?);
    assert_eq!(mtu(&net.list()?, &sub(a)), Some(9000));
    assert!(ours(Rule::MtuAboveLower)?.is_empty() && ours(Rule::BondWithoutMonitor)?.is_empty());
    Ok(())
}

fn harmful(host: &Host, _: &IfName, _: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let key = "net.ipv4.tcp_window_scaling";
    let now = || host.tree().read("/proc/sys/net/ipv4/tcp_window_scaling");
    assert_eq!(now()?.trim(), "1");
    let off = SysctlSpec::exactly(key, "0")?;
    let error = net.ensure(&NetSpec::default().with_sysctl(off.clone())).expect_err("refused").to_string();
    assert!(error.starts_with("net.ipv4.tcp_window_scaling: setting it to 0 does harm"), "{error}");
    assert_eq!(now()?.trim(), "1");
    assert!(net.ensure(&NetSpec::default().with_sysctl(off.forced()))?);
    assert_eq!(now()?.trim(), "0");
    assert!(net.ensure(&NetSpec::default().with_sysctl(SysctlSpec::exactly(key, "1")?))?);
    Ok(())
}

fn removal(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let spec = article(a, b);
    net.ensure(&spec)?;
    net.apply(net.plan_removal(&spec)?)?;
    assert!(net.plan_removal(&spec)?.is_empty());
    let state = net.list()?;
    assert!(state.link(a).is_some() && state.link(&name("bond_vlan2")).is_none());
    Ok(())
}
