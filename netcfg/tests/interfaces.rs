//! `interfaces(5)`: what ifupdown would make of a file, as a spec, and back.

#![allow(clippy::expect_used, clippy::panic)] // It is a test.

use std::fmt::Write as _;

use host::fake::Memory;
use netcfg::interfaces::{Imported, export, import, import_file};
use netcfg::{BondAttribute, BondMode, LinkKind, NetSpec, RouteSpec};

/// A storage node of many cables: six cards with a management VLAN on each, those in a bond, a storage VLAN on each, and a replication bond of
/// four cards without stanzas. In the spelling of its time: `slaves`, underscores, MTUs in commands, `netmask`.
fn node() -> String {
    let mut text = String::from("auto lo\niface lo inet loopback\n# Interfaces\n");
    let mut vlan = |name: &str, mtu: u32, raw: &str| {
        let _ = write!(
            text,
            "auto {name}\niface {name} inet manual\n    up ip link set {name} mtu {mtu} up\n    down ip link set {name} down\n{raw}"
        );
    };
    for card in 1..=6 {
        vlan(&format!("int{card}"), 9000, "");
    }
    for card in 1..=6 {
        vlan(&format!("int{card}.2"), 1500, &format!("    vlan_raw_device int{card}\n"));
    }
    for card in 1..=6 {
        vlan(&format!("int{card}.{}", 23 + card), 9000, &format!("    vlan_raw_device int{card}\n"));
    }
    text.push_str(
        "auto bond_vlan2\niface bond_vlan2 inet static\n    address 10.1.0.100\n    netmask 255.255.255.0\n    gateway 10.1.0.1\n    \
         slaves int1.2 int2.2 int3.2 int4.2 int5.2 int6.2\n    bond-mode active-backup\n    bond-primary int1.2\n    bond-miimon 100\n    \
         bond-downdelay 200\n    bond-updelay 200\n    mtu 1500\n\
         # DRBD\nauto bond_drbd\niface bond_drbd inet static\n    address 192.168.123.100\n    netmask 255.255.255.0\n    \
         slaves drbd1 drbd2 drbd3 drbd4\n    bond-mode balance-rr\n    mtu 9216\n",
    );
    text
}

fn link<'a>(spec: &'a NetSpec, name: &str) -> &'a netcfg::LinkSpec {
    spec.link(&name.parse().expect("name")).unwrap_or_else(|| panic!("no {name}"))
}

fn prefix(text: &str) -> netcfg::Prefix {
    text.parse().expect("address")
}

fn good(text: &str) -> Imported {
    import("interfaces", text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_node_of_many_cables_is_read_whole_and_written_back() {
    let Imported { spec, left_out, .. } = good(&node());
    assert!(left_out.is_empty(), "{left_out:?}");
    assert_eq!(spec.links.len(), 6 + 6 + 6 + 2);
    assert_eq!(
        (link(&spec, "int3").mtu, link(&spec, "int3.2").mtu, link(&spec, "int3.26").mtu),
        (Some(9000), Some(1500), Some(9000))
    );
    let LinkKind::Vlan(vlan) = &link(&spec, "int6.29").kind else { panic!("no VLAN") };
    assert_eq!((vlan.parent.as_str(), vlan.id.get()), ("int6", 29));
    let management = link(&spec, "bond_vlan2");
    let LinkKind::Bond(bond) = &management.kind else { panic!("no bond") };
    assert_eq!((bond.mode, bond.ports.len()), (BondMode::ActiveBackup, 6));
    assert_eq!(bond.primary.as_ref().map(|p| p.as_str()), Some("int1.2"));
    let number = |option| bond.number(option);
    assert_eq!((number(BondAttribute::Miimon), number(BondAttribute::UpDelay)), (Some(100), Some(200)));
    assert_eq!(management.addresses, [prefix("10.1.0.100/24").into()]);
    assert_eq!(management.routes, [RouteSpec::default_via("10.1.0.1".parse().expect("address"))]);
    let LinkKind::Bond(replication) = &link(&spec, "bond_drbd").kind else { panic!("no bond") };
    assert_eq!((replication.mode, replication.options.len()), (BondMode::BalanceRr, 0));

    let written = export(&spec).expect("can be written");
    let again = good(&written);
    assert_eq!((again.spec, again.left_out), (spec, Vec::new()), "{written}");
}

#[test]
fn keys_of_all_ages_mean_the_same() {
    let text = "auto bond0\niface bond0 inet6 static\n  address fd00::1/64\n  bond-mode 4\n  bond-lacp-rate fast\n  bond_xmit_hash_policy layer3+4\n\
        auto a\niface a inet manual\n bond-master bond0\n bond-primary a\nallow-hotplug b\niface b inet manual\n bond-master bond0\n\
        auto vlan24\niface vlan24 inet static\n vlan-raw-device bond0\n address 10.1.24.1\n netmask 24\n\
        up ip route add 10.9.0.0/16 via 10.1.24.254 dev vlan24\n up /sbin/sysctl -w net.core.rmem_max=33554432\n\
        auto san25\niface san25 inet manual\n vlan-raw-device bond0\n vlan-id 25\n up ifconfig san25 mtu 9000 up\n\
        auto eth9.5\niface eth9.5 inet manual\n";
    let Imported { spec, left_out, .. } = good(text);
    assert!(left_out.is_empty(), "{left_out:?}");
    let LinkKind::Bond(bond) = &link(&spec, "bond0").kind else { panic!("no bond") };
    assert_eq!(bond.mode, BondMode::Lacp);
    assert_eq!(bond.number(BondAttribute::LacpRate), Some(1));
    assert_eq!(bond.number(BondAttribute::XmitHashPolicy), Some(1));
    assert_eq!(bond.ports.iter().map(|p| p.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(bond.primary.as_ref().map(|p| p.as_str()), Some("a"));
    assert_eq!(link(&spec, "vlan24").addresses, [prefix("10.1.24.1/24").into()]);
    assert_eq!(link(&spec, "vlan24").routes.len(), 1);
    assert_eq!(link(&spec, "san25").mtu, Some(9000));
    assert!(matches!(link(&spec, "eth9").kind, LinkKind::Existing), "the raw device comes up too");
    assert_eq!(spec.sysctls.len(), 1);
    let mut again = good(&export(&spec).expect("can be written")).spec;
    // Kernel parameters are written as a comment.
    again.sysctls.clone_from(&spec.sysctls);
    let sorted = |mut spec: NetSpec| {
        spec.links.sort_by(|a, b| a.name.cmp(&b.name));
        spec
    };
    assert_eq!(sorted(again), sorted(spec));
}

#[test]
fn what_is_no_network_is_named_and_not_run() {
    let text = "auto eth0\niface eth0 inet dhcp\n  up touch /tmp/x\n  hwaddress 02:00:00:00:00:01\n  post-up ethtool -K eth0 tso off\n\
        iface eth1 inet manual\nmapping eth2\n  script /bin/true\nsource /etc/network/interfaces.d/*\n";
    let imported = good(text);
    let lines: Vec<_> = imported.left_out.iter().map(|remark| remark.line).collect();
    assert_eq!(lines, [7, 9, 2, 3, 4, 5, 6]);
    let told = imported.left_out.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(told.contains("interfaces:3: up touch /tmp/x: a command that is no setting"), "{told}");
    assert!(told.contains("interfaces:6: iface eth1 inet manual: it is not brought up by itself"), "{told}");
}

#[test]
fn mistakes_are_named_with_file_and_line() {
    for (text, place, hint) in [
        ("auto a\niface a inet static\n address 10.0.0.1\n", "interfaces:3", "there is no netmask"),
        ("iface a inet static\n address 10.0.0.300/24\n", "interfaces:2", "not an IP address"),
        ("iface a inet static\n address fd00::1/64\n", "interfaces:2", "not an address of family inet"),
        (
            "iface a inet static\n address 10.0.0.1\n netmask 255.0.255.0\n",
            "interfaces:3",
            "not a network mask",
        ),
        ("iface a inet manual\n mtu many\n", "interfaces:2", "an MTU is a number"),
        ("iface a.5000 inet manual\n", "interfaces:1", "1 to 4094"),
        ("iface san inet manual\n vlan-raw-device eth0\n", "interfaces:1", "VLAN number"),
        ("iface b inet manual\n bond-mode quick\n", "interfaces:2", "balance-rr"),
        ("iface b inet manual\n bond-lacp-rate never\n", "interfaces:2", "one of slow, fast"),
        ("iface a\n", "interfaces:1", "a name, a family and a method"),
        ("mtu 9000\n", "interfaces:1", "outside of any iface stanza"),
        ("iface abcdefghijklmnopq inet manual\n", "interfaces:1", "abcdefghijklmnopq"),
    ] {
        let error = import("interfaces", text).expect_err(text).to_string();
        assert!(error.contains(place) && error.contains(hint), "{text:?}: {error}");
    }
}

#[test]
fn sourced_files_are_read_in_order() {
    let memory = Memory::new();
    memory.edit(|nodes| {
        nodes.put(
            "/etc/network/interfaces",
            "source /etc/network/interfaces.d/*\nsource-directory more\nauto eth0\niface eth0 inet manual\n",
        );
        nodes.put("/etc/network/interfaces.d/b", "auto eth2\niface eth2 inet manual\n");
        nodes.put("/etc/network/interfaces.d/a", "auto eth1\niface eth1 inet manual\n mtu 9000\n");
        nodes.put("/etc/network/more/c", "auto eth3\niface eth3 inet manual\n");
        nodes.put("/etc/network/more/c.dpkg-old", "nonsense\n");
    });
    let spec = import_file(&memory.tree(), "/etc/network/interfaces").expect("reads").spec;
    let names: Vec<_> = spec.links.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["eth1", "eth2", "eth3", "eth0"]);
    memory.edit(|nodes| nodes.put("/etc/network/interfaces", "source interfaces\n"));
    let error = import_file(&memory.tree(), "/etc/network/interfaces").expect_err("a circle").to_string();
    assert!(error.contains("source each other in a circle"), "{error}");
}

#[test]
fn other_programs_get_the_same_network() {
    let spec = good(&node()).spec;
    let files = netcfg::export::networkd(&spec).expect("can be written");
    let text = |name: &str| {
        let file = files.iter().find(|file| file.name == name);
        file.unwrap_or_else(|| panic!("no {name}")).text.clone()
    };
    assert_eq!(
        text("10-bond_vlan2.netdev"),
        "[NetDev]\nName=bond_vlan2\nKind=bond\nMTUBytes=1500\n\n[Bond]\nMode=active-backup\nMIIMonitorSec=100ms\nUpDelaySec=200ms\n\
         DownDelaySec=200ms\n"
    );
    assert!(text("20-int1.2.network").contains("Bond=bond_vlan2\nPrimarySlave=yes\n"));
    assert!(
        text("20-int1.network").contains("MTUBytes=9000\n")
            && text("20-int1.network").contains("VLAN=int1.24\n")
    );
    assert!(text("20-drbd4.network").contains("Bond=bond_drbd\n"));
    assert!(text("20-bond_vlan2.network").contains("Address=10.1.0.100/24\n\n[Route]\nGateway=10.1.0.1\n"));
    let plan = netcfg::export::netplan(&spec).expect("can be written").text;
    assert!(plan.contains("    int6.29:\n      id: 29\n      link: int6\n      mtu: 9000\n"), "{plan}");
    assert!(
        plan.contains(
            "        mode: active-backup\n        primary: int1.2\n        mii-monitor-interval: 100\n"
        ),
        "{plan}"
    );
    // What they cannot say is an error, not left out.
    let text = "auto b\niface b inet manual\n bond-slaves a\n bond-mode 4\n bond-lacp-active on\n";
    let spec = good(text).spec;
    let error = netcfg::export::netplan(&spec).expect_err("no word for it").to_string();
    assert!(error.contains("b: netplan has no word for the bond option lacp_active"), "{error}");
    assert!(netcfg::export::networkd(&spec).is_err());
}
