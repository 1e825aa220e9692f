//! The conformance checks on the fake, and what only a fake can show.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_types)] // It is a test.

mod conformance;

use netcfg::fake::FakeNet;
use netcfg::lint::Rule;
use netcfg::{LinkSpec, NetSpec, Netcfg, SysctlSpec};

#[test]
fn the_fake_conforms() {
    for (name, check) in conformance::ALL {
        let fake = FakeNet::new(&["int1", "int2"]);
        let (a, b) = ("int1".parse().expect("name"), "int2".parse().expect("name"));
        check(&fake.host(), &a, &b).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn a_second_ensure_writes_nothing() -> conformance::Outcome {
    let fake = FakeNet::new(&["int1", "int2"]);
    let host = fake.host();
    let spec = conformance::article(&"int1".parse()?, &"int2".parse()?)
        .with_sysctl(SysctlSpec::at_least("net.core.rmem_max", "33554432")?);
    let net = Netcfg::on(&host)?;
    assert!(net.ensure(&spec)?);
    let writes = fake.writes();
    let (tree, record) = host.tree().recording();
    assert!(!Netcfg::on(&host.clone().with_tree(tree))?.ensure(&spec)?);
    assert_eq!((fake.writes(), record.changes().len()), (writes, 0));
    Ok(())
}

#[test]
fn an_unknown_sysctl_is_refused_before_anything_is_changed() -> conformance::Outcome {
    let fake = FakeNet::new(&["int1", "int2"]);
    let spec = conformance::article(&"int1".parse()?, &"int2".parse()?)
        .with_sysctl(SysctlSpec::exactly("net.ipv4.tcp_no_such", "1")?);
    let error = Netcfg::on(&fake.host())?.ensure(&spec).expect_err("unknown");
    assert!(error.to_string().contains("net.ipv4.tcp_no_such"), "{error}");
    assert_eq!(fake.writes(), 0);
    Ok(())
}

#[test]
fn the_plan_reads_as_a_person_would_type_it() -> conformance::Outcome {
    let fake = FakeNet::new(&["int1", "int2"]);
    let plan = Netcfg::on(&fake.host())?.plan(&conformance::article(&"int1".parse()?, &"int2".parse()?))?;
    let text = plan.to_string();
    for line in [
        "ip link set int1 mtu 9000",
        "ip link add bond_vlan2 address 52:54:00:00:00:02 mtu 1500 type bond mode active-backup miimon 100 updelay 200 downdelay 200",
        "ip link add link int1 name int1.2 mtu 1500 master bond_vlan2 type vlan id 2",
        "ip link set bond_vlan2 type bond primary int1.2",
        "ip addr add 10.1.0.100/24 dev bond_vlan2",
        "ip route add default via 10.1.0.1 dev bond_vlan2",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let empty: NetSpec = NetSpec::default();
    assert!(Netcfg::on(&fake.host())?.plan(&empty)?.is_empty());
    Ok(())
}

#[test]
fn pause_frames_that_are_off_are_told() -> conformance::Outcome {
    let fake = FakeNet::new(&["int1", "int2"]);
    let net = Netcfg::on(&fake.host())?;
    net.ensure(&NetSpec::default().with_link(LinkSpec::existing("int1".parse()?)))?;
    fake.set_pause("int1", true);
    fake.set_pause("int2", false);
    assert!(net.lint()?.iter().all(|found| found.rule != Rule::PauseOff), "int2 is not in use");
    fake.set_pause("int1", false);
    let found = net.lint()?;
    assert!(
        found.iter().any(|found| found.rule == Rule::PauseOff
            && found.object == "int1"
            && found.text.contains("ethtool -A int1 rx on tx on")),
        "{found:?}"
    );
    Ok(())
}
