//! The options of a bond: what the crate knows of them against what the kernel does.

use std::net::IpAddr;

use netcfg::{
    BondAttribute, BondMode, BondMoment, BondOptionInfo, BondOptions, BondSpec, BondState, BondValue,
    BondWire, Host, IfName, LinkKind, LinkKindState, LinkSpec, NetSpec, Netcfg, Plan, Prefix, Step,
};

use super::{Outcome, name};

const MODES: [BondMode; 7] = [
    BondMode::BalanceRr,
    BondMode::ActiveBackup,
    BondMode::BalanceXor,
    BondMode::Broadcast,
    BondMode::Lacp,
    BondMode::BalanceTlb,
    BondMode::BalanceAlb,
];

fn bond0() -> IfName {
    name("bond0")
}

fn seen(net: &Netcfg) -> Result<BondState, Box<dyn std::error::Error>> {
    match net.get(&bond0())?.map(|link| link.kind) {
        Some(LinkKindState::Bond(bond)) => Ok(bond),
        other => Err(format!("no bond: {other:?}").into()),
    }
}

/// Sets one option without any check of ours; the kernel's errno.
fn set(net: &Netcfg, option: BondAttribute, value: &BondValue) -> Option<i32> {
    let to = BondOptions::from([(option, value.clone())]);
    let step = Step::SetBond { name: bond0(), from: BondOptions::new(), to };
    net.apply(Plan::new(vec![step])).err().map(|error| error.errno().unwrap_or(0))
}

/// A value that differs from the default.
fn other(info: &BondOptionInfo) -> BondValue {
    let address = |text: &str| vec![text.parse::<IpAddr>().expect("address")];
    match (info.attribute, info.wire) {
        (BondAttribute::UseCarrier | BondAttribute::LacpActive | BondAttribute::TlbDynamic, _) => 0.into(),
        (BondAttribute::Miimon, _) => 200.into(),
        (BondAttribute::ArpInterval, _) => 1000.into(),
        (BondAttribute::LearnInterval | BondAttribute::MinLinks, _) => 2.into(),
        (BondAttribute::UpDelay | BondAttribute::DownDelay, _) => 400.into(),
        (BondAttribute::CoupledControl, _) => 0.into(),
        (BondAttribute::AdActorSystemPriority, _) => 7.into(),
        (_, BondWire::Mac) => [2, 0, 0, 0, 0, 9].into(),
        (_, BondWire::Targets4) => address("10.99.0.1").into(),
        (_, BondWire::Targets6) => address("fd00:99::1").into(),
        _ => info.range.1.into(),
    }
}

/// A value the kernel must refuse, where one can be sent.
fn wrong(info: &BondOptionInfo) -> Option<BondValue> {
    let most = match info.wire {
        BondWire::U8 => 255,
        BondWire::U16 => 65_535,
        BondWire::U32 => u32::MAX,
        _ => return None,
    };
    (info.range.1 < most).then(|| (info.range.1 + 1).into())
}

/// Every option in every mode, with the bond down, up, and up with a port: 28 options, 7 modes, 3 moments.
pub(super) fn every_option(host: &Host, a: &IfName, _: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let (mut tried, mut refused, mut differences) = (0, 0, Vec::new());
    for mode in MODES {
        for (up, ports) in [(false, false), (true, false), (true, true)] {
            let spec = BondSpec::new(mode);
            let (mtu, mac, controller) = (None, None, None);
            let kind = LinkKind::Bond(spec.clone());
            let create = Step::CreateLink { name: bond0(), kind, mtu, mac, controller, up: false };
            net.apply(Plan::new(vec![create]))?;
            if ports {
                let down = Step::SetUp { name: a.clone(), up: false };
                let join = Step::SetController { name: a.clone(), from: None, to: Some(bond0()) };
                net.apply(Plan::new(vec![down, join]))?;
            }
            if up {
                net.apply(Plan::new(vec![Step::SetUp { name: bond0(), up: true }]))?;
            }
            let moment = BondMoment::new(mode, up, ports);
            for info in BondAttribute::all() {
                let before = seen(&net)?;
                let unknown = |state: &BondState| !state.options.contains_key(&info.attribute);
                if info.attribute == BondAttribute::CoupledControl && unknown(&before) {
                    // Kernels before 6.6, and other modes, where one cannot see.
                    continue;
                }
                let what = format!("{} in {mode}, up {up}, ports {ports}", info.ip);
                let value = other(info);
                let expected = info.refusal(moment).map(|(errno, _)| errno);
                let answer = set(&net, info.attribute, &value);
                tried += 1;
                if answer != expected {
                    differences.push(format!("{what}: {answer:?} instead of {expected:?}"));
                }
                if answer.is_some() {
                    refused += 1;
                    assert_eq!(seen(&net)?, before, "{what}: refused, and yet something changed");
                    continue;
                }
                let read = seen(&net)?.options.get(&info.attribute).cloned();
                if read.as_ref() != Some(&value) {
                    differences.push(format!("{what}: {value:?} is read back as {read:?}"));
                }
                if let Some(wrong) = wrong(info) {
                    assert!(info.check(&wrong).is_err(), "{what}: we take {wrong:?}");
                    // By the option's own code, or by netlink's policy of its attribute.
                    let answer = set(&net, info.attribute, &wrong);
                    let good = matches!(answer, Some(libc::EINVAL | libc::ERANGE));
                    differences
                        .extend((!good).then(|| format!("{what}: {wrong:?} is answered with {answer:?}")));
                    tried += 1;
                }
                // As it was, so that no option meets what another left.
                let restore = before.options.get(&info.attribute).cloned();
                let restore = restore.unwrap_or(BondValue::Addresses(Vec::new()));
                if !matches!(restore, BondValue::Mac(_)) {
                    assert_eq!(set(&net, info.attribute, &restore), None, "{what}: back to {restore:?}");
                }
                if info.attribute == BondAttribute::ArpInterval {
                    assert_eq!(set(&net, BondAttribute::Miimon, &100.into()), None, "{what}: miimon again");
                }
            }
            net.remove(&bond0())?;
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    println!("{tried} settings tried, {refused} refused as known");
    assert!(tried > 400 && refused > 100, "{tried} tried, {refused} refused");
    Ok(())
}

/// What a new bond has, and that the crate's default is what the kernel says it is.
pub(super) fn defaults(host: &Host, _: &IfName, _: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    for mode in MODES {
        let mut spec = BondSpec::new(mode);
        spec.options.clear();
        net.ensure(&NetSpec::default().with_link(LinkSpec::bond(bond0(), spec)))?;
        let bond = seen(&net)?;
        let lacp = mode == BondMode::Lacp;
        for (option, value) in [
            (BondAttribute::Miimon, if matches!(mode.number(), 4..=6) { 100 } else { 0 }),
            (BondAttribute::UpDelay, 0),
            (BondAttribute::DownDelay, 0),
            (BondAttribute::PeerNoticeDelay, 0),
            (BondAttribute::UseCarrier, 1),
            (BondAttribute::ArpInterval, 0),
            (BondAttribute::ArpValidate, 0),
            (BondAttribute::ArpAllTargets, 0),
            (BondAttribute::PrimaryReselect, 0),
            (BondAttribute::FailOverMac, 0),
            (BondAttribute::XmitHashPolicy, 0),
            (BondAttribute::ResendIgmp, 1),
            (BondAttribute::PeerNotices, 1),
            (BondAttribute::AllPortsActive, 0),
            (BondAttribute::MinLinks, 0),
            (BondAttribute::LearnInterval, 1),
            (BondAttribute::PacketsPerPort, 1),
            (BondAttribute::LacpActive, 1),
            (BondAttribute::LacpRate, 0),
            (BondAttribute::AdSelect, 0),
            (BondAttribute::TlbDynamic, 1),
            (BondAttribute::MissedMax, 2),
        ] {
            assert_eq!(bond.number(option), Some(value), "{option} in {mode}");
        }
        let priority = bond.number(BondAttribute::AdActorSystemPriority);
        assert_eq!(priority, lacp.then_some(65_535), "{mode}");
        net.remove(&bond0())?;
    }
    Ok(())
}

/// An option that needs the bond down is changed on a living one, whose addresses and routes are there afterwards.
pub(super) fn changes_on_a_living_bond(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let v6: Prefix = "fd00:77::1/64".parse()?;
    let spec = |bond: BondSpec| {
        let bond = bond.with_port(a.clone()).with_port(b.clone());
        let route = netcfg::RouteSpec::new("10.88.0.0/16".parse()?, Some("10.77.0.9".parse()?));
        let link = LinkSpec::bond(bond0(), bond).with_address("10.77.0.1/24".parse()?).with_address(v6);
        Ok::<_, Box<dyn std::error::Error>>(NetSpec::default().with_link(link.with_route(route)))
    };
    let lacp = || BondSpec::new(BondMode::Lacp).with_option(BondAttribute::XmitHashPolicy, 1);
    assert!(net.ensure(&spec(lacp())?)?);
    let fast = spec(lacp().with_option(BondAttribute::LacpRate, 1).with_option(BondAttribute::MinLinks, 1))?;
    let plan = net.plan(&fast)?;
    let steps: Vec<String> = plan.steps().iter().map(ToString::to_string).collect();
    assert!(
        steps.contains(&"ip link set bond0 type bond min_links 1 lacp_rate fast".to_owned()),
        "{steps:?}"
    );
    for n in 0..plan.len() {
        let broken = host.clone().with_kill_point(host::plan::KillPoint::FailAfter(n));
        Netcfg::on(&broken)?.ensure(&fast).expect_err("breaks");
        assert!(!net.ensure(&spec(lacp())?)?, "not as before after a failure at step {}", n + 1);
    }
    assert!(net.ensure(&fast)? && !net.ensure(&fast)?);
    let state = net.list()?;
    let bond = state.link(&bond0()).expect("bond");
    assert!(bond.up && bond.addresses.iter().any(|address| address.prefix == v6));
    assert!(state.routes.iter().any(|route| route.route.gateway == Some("10.77.0.9".parse().expect("v4"))));
    // A monitor of another kind, and back; delays keep their time when miimon changes.
    let targets = vec!["10.77.0.9".parse()?];
    let backup = || BondSpec::new(BondMode::ActiveBackup);
    net.remove(&bond0())?;
    let millis = std::time::Duration::from_millis;
    for bond in [
        backup().with_delays(millis(200), millis(400)),
        backup().with_delays(millis(200), millis(400)).with_miimon(millis(50)),
        backup().with_arp_monitor(millis(500), targets),
        backup(),
    ] {
        assert!(net.ensure(&spec(bond.clone())?)? && !net.ensure(&spec(bond)?)?);
    }
    // Hardware addresses are chosen before there are ports.
    let active = backup().with_option(BondAttribute::FailOverMac, 1);
    let error = net.ensure(&spec(active)?).expect_err("has ports").to_string();
    assert!(error.contains("its fail_over_mac cannot change while it has ports"), "{error}");
    for (bond, hint) in [
        (backup().with_option(BondAttribute::LacpRate, 1), "lacp_rate is not for mode active-backup"),
        (backup().with_option(BondAttribute::XmitHashPolicy, 9), "one of layer2, layer3+4"),
        (backup().with_option(BondAttribute::ArpInterval, 100), "exclude each other"),
        (backup().with_arp_monitor(millis(100), Vec::new()), "without arp_ip_target"),
    ] {
        let error = net.ensure(&spec(bond)?).expect_err(hint).to_string();
        assert!(error.contains(hint), "{error}");
    }
    net.remove(&bond0())?;
    Ok(())
}
