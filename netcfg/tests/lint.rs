//! What a spec should not have is told, with what would be better.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // It is a test.

use std::collections::BTreeMap;

use netcfg::lint::{Rule, spec as lint};
use netcfg::{
    BondAttribute, BondMode, BondSpec, IfName, LinkSpec, NetSpec, SysctlSpec, VlanId, sysctl::Profile,
};

fn name(text: &str) -> IfName {
    text.parse().expect("an interface name")
}

fn machine(values: &[(&str, &str)]) -> BTreeMap<String, String> {
    values
        .iter()
        .map(|(key, value)| (format!("/proc/sys/{}", key.replace('.', "/")), (*value).to_owned()))
        .collect()
}

fn rules(spec: &NetSpec, sysctls: &BTreeMap<String, String>, portals: &[IfName]) -> Vec<(Rule, String)> {
    lint(spec, sysctls, portals).into_iter().map(|found| (found.rule, found.object)).collect()
}

#[test]
fn a_replication_bond_without_more_words_has_two_faults() {
    let mut bond = BondSpec::new(BondMode::BalanceRr);
    bond.options.clear();
    let spec = NetSpec::default().with_link(LinkSpec::bond(name("bond_drbd"), bond).with_mtu(9216));
    let stock = machine(&[("net.ipv4.tcp_reordering", "3\n")]);
    let at = |rule| (rule, "bond_drbd".to_owned());
    let expected = [Rule::BondWithoutMonitor, Rule::ReorderingTooSmall, Rule::MtuNotPortable].map(at);
    assert_eq!(rules(&spec, &stock, &[]), expected);
    // tcp_reordering in the spec counts, and miimon mends the other.
    let mended = NetSpec::default()
        .with_link(LinkSpec::bond(name("bond_drbd"), BondSpec::new(BondMode::BalanceRr)).with_mtu(9000))
        .with_sysctl(SysctlSpec::exactly("net.ipv4.tcp_reordering", "127").expect("good"));
    assert_eq!(rules(&mended, &stock, &[]), []);
}

#[test]
fn a_portal_on_a_bond_that_hashes_is_told() {
    let vlan = |on: &str| LinkSpec::vlan(name("san"), name(on), VlanId::new(24).expect("id"));
    for (mode, told) in
        [(BondMode::Lacp, true), (BondMode::BalanceXor, true), (BondMode::ActiveBackup, false)]
    {
        let spec = NetSpec::default()
            .with_link(LinkSpec::bond(name("bond0"), BondSpec::new(mode)))
            .with_link(vlan("bond0"));
        let expected = if told { vec![(Rule::PortalOnHashingBond, "san".to_owned())] } else { vec![] };
        assert_eq!(rules(&spec, &BTreeMap::new(), &[name("san")]), expected, "{mode}");
    }
    // LACP has a monitor by itself, unless it is switched off.
    let off = BondSpec::new(BondMode::Lacp).with_option(BondAttribute::Miimon, 0);
    let spec = NetSpec::default().with_link(LinkSpec::bond(name("b"), off));
    assert_eq!(rules(&spec, &BTreeMap::new(), &[]), [(Rule::BondWithoutMonitor, "b".to_owned())]);
}

#[test]
fn two_links_in_one_network_need_three_parameters() {
    let link = |card: &str, address: &str| {
        LinkSpec::existing(name(card)).with_address(address.parse().expect("address"))
    };
    let spec =
        NetSpec::default().with_link(link("eth1", "10.0.0.1/24")).with_link(link("eth2", "10.0.0.2/24"));
    let stock = machine(&[("net.ipv4.conf.all.arp_ignore", "0\n"), ("net.ipv4.conf.all.rp_filter", "2\n")]);
    let found = lint(&spec, &stock, &[]);
    assert!(
        matches!(&found[..], [one] if one.rule == Rule::SharedNetwork && one.object == "eth2"),
        "{found:?}"
    );
    let text = found[0].to_string();
    assert!(
        text.contains(
            "set net.ipv4.conf.all.arp_ignore=1, net.ipv4.conf.all.arp_announce=2 [shared-network]"
        ),
        "{text}"
    );
    let mut good = spec.clone();
    good.sysctls = Profile::IscsiTarget.specs();
    assert_eq!(rules(&good, &stock, &[]), []);
    let apart =
        NetSpec::default().with_link(link("eth1", "10.0.0.1/24")).with_link(link("eth2", "10.0.1.2/24"));
    assert_eq!(rules(&apart, &stock, &[]), []);
}

#[test]
fn parameters_of_no_use_are_told_with_their_reason() {
    let spec = NetSpec::default()
        .with_sysctl(SysctlSpec::exactly("net.ipv4.tcp_sack", "0").expect("good").forced())
        .with_sysctl(SysctlSpec::exactly("net.ipv4.tcp_fin_timeout", "15").expect("good"))
        .with_sysctl(SysctlSpec::at_least("net.core.rmem_max", "33554432").expect("good"));
    let found: Vec<String> = lint(&spec, &BTreeMap::new(), &[]).iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("net.ipv4.tcp_sack: 0 is harmful: without selective"), "{found:?}");
    assert!(found[1].starts_with("net.ipv4.tcp_fin_timeout: 15 is useless"), "{found:?}");
}

#[test]
fn a_vlan_above_its_parent_is_told() {
    let spec = NetSpec::default()
        .with_link(LinkSpec::existing(name("eth0")).with_mtu(1500))
        .with_link(LinkSpec::vlan(name("v"), name("eth0"), VlanId::new(5).expect("id")).with_mtu(9000));
    assert_eq!(rules(&spec, &BTreeMap::new(), &[]), [(Rule::MtuAboveLower, "v".to_owned())]);
}
