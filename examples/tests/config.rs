//! `node.toml`: what is in order is read as it is meant from both nodes, and each mistake names file, line and what to do.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)] // It is a test.

mod common;

use std::path::Path;

use common::{Keys, article};
use san_node::config::Config;

const FILE: &str = "/etc/sankit/node.toml";

fn parse(text: &str, node: &str) -> anyhow::Result<Config> {
    Config::parse(Path::new(FILE), text, node)
}

#[test]
fn a_file_with_everything_is_read_from_both_nodes() {
    let keys = Keys::new();
    let text = article(&keys);
    let [one, two] = ["n1", "n2"].map(|node| parse(&text, node).expect("is in order"));
    assert_eq!((one.node.as_str(), one.peer.as_str()), ("n1", "n2"));
    assert_eq!((two.node.as_str(), two.peer.as_str()), ("n2", "n1"));
    for config in [&one, &two] {
        assert_eq!(config.cluster, "san");
        assert_eq!(config.net.links.len(), 20);
        assert_eq!(config.net.sysctls.len(), 8);
        let irq = config.irq.as_ref().expect("asked for");
        assert_eq!((irq.links.len(), irq.cpus.to_string().as_str(), irq.xps), (6, "0-5", false));
        assert_eq!(config.units.iter().map(|u| u.addresses.len()).collect::<Vec<_>>(), [6, 3]);
        assert_eq!(config.unit("VM_STORAGE_2").expect("is there").home, "n2");
        assert!(config.passphrase().is_ok());
    }
    let address = |config: &Config, link: &str| {
        let link = config.net.link(&link.parse().expect("a name")).expect("is there");
        link.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(address(&one, "bond_vlan2"), ["10.1.0.100/24"]);
    assert_eq!(address(&two, "bond_vlan2"), ["10.1.0.200/24"]);
}

#[test]
fn both_nodes_agree_on_what_the_initiator_and_the_peer_see() {
    let keys = Keys::new();
    let text = article(&keys);
    let [one, two] = ["n1", "n2"].map(|node| parse(&text, node).expect("is in order"));
    for (here, there) in one.units.iter().zip(&two.units) {
        assert_eq!((here.resource.local, here.resource.peer), (there.resource.peer, there.resource.local));
        assert_ne!(here.mapping, there.mapping, "each node has its own disk");
        assert_eq!(format!("{:?}", here.target), format!("{:?}", there.target));
        assert_eq!(here.addresses, there.addresses);
    }
}

#[test]
fn the_options_of_replication_arrive() {
    let keys = Keys::new();
    let config = parse(&article(&keys), "n1").expect("is in order");
    let resource = &config.units[0].resource;
    for (name, value) in [
        ("protocol", "B"),
        ("sndbuf-size", "1048576"),
        ("rcvbuf-size", "1048576"),
        ("max-buffers", "8192"),
        ("max-epoch-size", "8192"),
        ("unplug-watermark", "8192"),
        ("ping-int", "15"),
        ("ping-timeout", "60"),
        ("connect-int", "15"),
        ("timeout", "50"),
        ("verify-alg", "sha1"),
        ("csums-alg", "sha1"),
        ("data-integrity-alg", "crc32c"),
        ("use-rle", "yes"),
        ("shared-secret", "***"),
    ] {
        assert_eq!(resource.net.get(name).as_deref(), Some(value), "{name}");
    }
    for (name, value) in [
        ("al-extents", "6433"),
        ("resync-rate", "409600"),
        ("c-plan-ahead", "0"),
        ("disk-barrier", "no"),
        ("disk-flushes", "no"),
        ("disk-drain", "yes"),
    ] {
        assert_eq!(resource.disk.get(name).as_deref(), Some(value), "{name}");
    }
}

/// One mistake: what of the good file is replaced, what is blamed, and what is said about it.
struct Mistake {
    from: &'static str,
    to: &'static str,
    /// The text whose line the error names.
    blamed: &'static str,
    says: &'static [&'static str],
}

const MISTAKES: &[Mistake] = &[
    Mistake {
        from: "gateway = \"10.1.0.1\"",
        to: "gatewy = \"10.1.0.1\"",
        blamed: "gatewy",
        says: &["unknown field `gatewy`", "`gateway`"],
    },
    Mistake {
        from: "id = 24",
        to: "id = \"24\"",
        blamed: "id = \"24\"",
        says: &["invalid type", "string \"24\"", "u16"],
    },
    Mistake { from: "[encryption]", to: "[encryption", blamed: "[encryption", says: &["expected `]`"] },
    Mistake {
        from: "n2 = \"10.1.0.200/24\"",
        to: "n3 = \"10.1.0.200/24\"",
        blamed: "n3 =",
        says: &["\"n3\"", "n1, n2"],
    },
    Mistake {
        from: "nodes = [\"n1\", \"n2\"]",
        to: "nodes = [\"n1\"]",
        blamed: "nodes =",
        says: &["two nodes", "nodes = [\"n1\", \"n2\"]"],
    },
    Mistake {
        from: "home = \"n2\"",
        to: "home = \"n4\"",
        blamed: "home = \"n4\"",
        says: &["\"n4\"", "n1, n2"],
    },
    Mistake {
        from: "name = \"int2.25\"",
        to: "name = \"int1.24\" # again",
        blamed: "name = \"int1.24\" # again",
        says: &["int1.24 is described twice", "merge"],
    },
    Mistake {
        from: "n2 = \"10.1.0.200/24\"",
        to: "n2 = \"10.1.0.100/24\"",
        blamed: "n2 = \"10.1.0.100/24\"",
        says: &["10.1.0.100", "bond_vlan2 of n1", "bond_vlan2 of n2", "its own"],
    },
    Mistake {
        from: "n1 = \"192.168.123.100/24\"",
        to: "n1 = \"10.1.0.200/24\"",
        blamed: "n1 = \"10.1.0.200/24\"",
        says: &["10.1.0.200", "bond_vlan2 of n2", "bond_drbd of n1"],
    },
    Mistake {
        from: "address = \"10.1.25.20/24\"",
        to: "address = \"10.1.0.100/24\"",
        blamed: "address = \"10.1.0.100/24\" }",
        says: &["10.1.0.100", "link bond_vlan2", "unit VM_STORAGE_2"],
    },
    Mistake {
        from: "address = \"10.1.25.20/24\"",
        to: "address = \"10.1.26.10/24\"",
        blamed: "{ link = \"int2.25\", address = \"10.1.26.10/24\" }",
        says: &["10.1.26.10", "unit VM_STORAGE_1", "unit VM_STORAGE_2"],
    },
    Mistake {
        from: "address = \"10.1.24.10/24\"",
        to: "address = \"10.1.24.10/33\"",
        blamed: "10.1.24.10/33",
        says: &["10.1.24.10/33", "at most 32"],
    },
    Mistake {
        from: "address = \"10.1.24.10/24\"",
        to: "address = \"10.1.24.x/24\"",
        blamed: "10.1.24.x/24",
        says: &["10.1.24.x/24", "address"],
    },
    Mistake { from: "id = 24", to: "id = 4095", blamed: "id = 4095", says: &["4095", "4094"] },
    Mistake {
        from: "primary = \"int1.2\"",
        to: "primary = \"int1.24\"",
        blamed: "primary = \"int1.24\"",
        says: &["primary int1.24", "bond's ports"],
    },
    Mistake {
        from: "mode = \"balance-rr\"",
        to: "mode = \"balance-rt\"",
        blamed: "balance-rt",
        says: &["balance-rt", "balance-rr"],
    },
    Mistake {
        from: "vlan = { parent = \"int3\", id = 26 }",
        to: "vlan = { parent = \"int3\", id = 26 }\nbond = { mode = \"balance-rr\", ports = [] }",
        blamed: "name = \"int3.26\"",
        says: &["VLAN or a bond, not both"],
    },
    Mistake {
        from: "gateway = \"10.1.0.1\"",
        to: "gateway = \"10.9.0.1\"",
        blamed: "10.9.0.1",
        says: &["10.9.0.1", "bond_vlan2", "beside it"],
    },
    Mistake {
        from: "trusted = true",
        to: "trusted = false",
        blamed: "[replication]",
        says: &["not declared trusted", "clear text", "say trusted = true"],
    },
    Mistake {
        from: "address = { n1 = \"192.168.123.100/24\", n2 = \"192.168.123.200/24\" }",
        to: "",
        blamed: "name = \"bond_drbd\"",
        says: &["bond_drbd has no address on n1", "both nodes"],
    },
    Mistake {
        from: "link = \"bond_drbd\"",
        to: "link = \"bond_drdb\"",
        blamed: "link = \"bond_drdb\"",
        says: &["bond_drdb", "none of the links"],
    },
    Mistake {
        from: "\"net.ipv4.tcp_reordering\" = 127",
        to: "\"net.ipv4.tcp_reordering; rm\" = 127",
        blamed: "; rm",
        says: &["net.ipv4.tcp_reordering; rm"],
    },
    Mistake {
        from: "\"net.ipv4.tcp_reordering\" = 127",
        to: "\"net.ipv4.tcp_reordering\" = [127]",
        blamed: "[127]",
        says: &["a number or a text of numbers"],
    },
    Mistake {
        from: "\"net.ipv4.tcp_reordering\" = 127",
        to: "\"net.ipv4.tcp_sack\" = 0",
        blamed: "tcp_sack",
        says: &["does harm", "without selective", "[sysctl-forced]"],
    },
    Mistake {
        from: "mode = \"active-backup\",",
        to: "mode = \"active-backup\", options = { lacp_rates = \"fast\" },",
        blamed: "lacp_rates",
        says: &["no option of a bond", "lacp_rate"],
    },
    Mistake {
        from: "mode = \"active-backup\",",
        to: "mode = \"active-backup\", options = { xmit-hash-policy = \"layer9\" },",
        blamed: "layer9",
        says: &["one of layer2, layer3+4"],
    },
    Mistake {
        from: "\"net.ipv4.tcp_reordering\" = 127",
        to: "\"net.ipv4.tcp_reordering\" = \"many\"",
        blamed: "\"many\"",
        says: &["many"],
    },
    Mistake {
        from: "unplug-watermark = 8192",
        to: "unplug-watermarks = 8192",
        blamed: "unplug-watermarks",
        says: &["unplug-watermarks", "no option of this name in net"],
    },
    Mistake {
        from: "ping-int = 15",
        to: "ping-int = 121",
        blamed: "ping-int = 121",
        says: &["ping-int", "121", "1 to 120"],
    },
    Mistake {
        from: "al-extents = 6433",
        to: "al-extents = 70000",
        blamed: "al-extents = 70000",
        says: &["al-extents", "70000", "65534"],
    },
    Mistake {
        from: "protocol = \"B\"",
        to: "protocol = \"D\"",
        blamed: "protocol = \"D\"",
        says: &["protocol", "one of A, B, C"],
    },
    Mistake {
        from: "disk-drain = true",
        to: "disk-drain = [true]",
        blamed: "disk-drain",
        says: &["number, text or true/false"],
    },
    Mistake {
        from: "1bd1f798-d105-4150-841b-f2751f419efc",
        to: "1bd1f798-d105-4150-841b",
        blamed: "n1 = \"1bd1f798-d105-4150-841b\"",
        says: &["1bd1f798-d105-4150-841b", "UUID"],
    },
    Mistake {
        from: "d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456",
        to: "1bd1f798-d105-4150-841b-f2751f419efc",
        blamed: "n2 = \"d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc457\"",
        says: &["1bd1f798-d105-4150-841b-f2751f419efc", "unit VM_STORAGE_1", "unit VM_STORAGE_2"],
    },
    Mistake {
        from: "n2 = \"d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc457\"",
        to: "n9 = \"d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc457\"",
        blamed: "n9 =",
        says: &["\"n9\"", "n1, n2"],
    },
    Mistake {
        from: "disk = { n1 = \"d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456\", ",
        to: "disk = { ",
        blamed: "name = \"VM_STORAGE_2\"",
        says: &["VM_STORAGE_2 has no disk on n1", "add its LUKS UUID"],
    },
    Mistake {
        from: "target = \"iqn.2026-01.com.example:vm-storage-1\"",
        to: "target = \"vm-storage-1\"",
        blamed: "target = \"vm-storage-1\"",
        says: &["vm-storage-1", "iSCSI name"],
    },
    Mistake {
        from: "name = \"iqn.2026-01.com.example:hv2\"",
        to: "name = \"hv2\"",
        blamed: "name = \"hv2\"",
        says: &["hv2", "iSCSI name"],
    },
    Mistake {
        from: "user = \"hv1\"",
        to: "",
        blamed: "name = \"iqn.2026-01.com.example:hv1\"",
        says: &["CHAP needs both user and secret-file"],
    },
    Mistake {
        from: "target = \"iqn.2026-01.com.example:vm-storage-2\"",
        to: "target = \"iqn.2026-01.com.example:vm-storage-1\" # again",
        blamed: "# again",
        says: &["vm-storage-1", "unit VM_STORAGE_1", "unit VM_STORAGE_2"],
    },
    Mistake {
        from: "minor = 1",
        to: "minor = 0 # again",
        blamed: "# again",
        says: &["minor 0", "unit VM_STORAGE_1", "unit VM_STORAGE_2"],
    },
    Mistake { from: "minor = 1", to: "minor = 1048576", blamed: "minor = 1048576", says: &["1048576"] },
    Mistake {
        from: "port = 7802",
        to: "port = 7801 # again",
        blamed: "# again",
        says: &["replication port 7801", "unit VM_STORAGE_1", "unit VM_STORAGE_2"],
    },
    Mistake {
        from: "name = \"VM_STORAGE_2\"",
        to: "name = \"VM_STORAGE_1\" # again",
        blamed: "# again",
        says: &["VM_STORAGE_1"],
    },
    Mistake {
        from: "{ link = \"bond_vlan2\", address",
        to: "{ link = \"bond_drbd\", address",
        blamed: "{ link = \"bond_drbd\", address",
        says: &["bond_drbd", "balance-rr", "one portal a card"],
    },
    Mistake {
        from: "{ link = \"bond_vlan2\", address",
        to: "{ link = \"int7.30\", address",
        blamed: "int7.30",
        says: &["int7.30", "none of the links"],
    },
    Mistake {
        from: "links = [\"int1\", \"int2\"",
        to: "links = [\"int1\", \"int9\"",
        blamed: "links = [\"int1\", \"int9\"",
        says: &["int9", "none of the links above"],
    },
    Mistake { from: "cpus = \"0-5\"", to: "cpus = \"\"", blamed: "cpus = \"\"", says: &["processor"] },
    Mistake { from: "cpus = \"0-5\"", to: "cpus = \"5-0\"", blamed: "cpus = \"5-0\"", says: &["5-0"] },
    Mistake {
        from: "name = \"int1.24\"\n",
        to: "name = \"a-name-that-is-too-long\"\n",
        blamed: "a-name-that-is-too-long",
        says: &["a-name-that-is-too-long", "15"],
    },
];

#[test]
fn each_mistake_names_file_line_and_fix() {
    let keys = Keys::new();
    let good = article(&keys);
    let mut wrong = Vec::new();
    for Mistake { from, to, blamed, says } in MISTAKES {
        assert!(good.contains(from), "{from:?} is not in the fixture");
        let bad = good.replacen(from, to, 1);
        let at = bad.find(blamed).unwrap_or_else(|| panic!("{blamed:?} is not in the changed file"));
        let line = bad[..at].matches('\n').count() + 1;
        match parse(&bad, "n1") {
            Ok(_) => wrong.push(format!("{to:?} was accepted")),
            Err(error) => {
                let text = format!("{error:#}");
                if !text.starts_with(&format!("{FILE}:{line}: ")) {
                    wrong.push(format!("{to:?}: not line {line}: {text}"));
                }
                wrong.extend(
                    says.iter()
                        .filter(|s| !text.contains(**s))
                        .map(|s| format!("{to:?}: no {s:?} in: {text}")),
                );
                if text.contains('\n') {
                    wrong.push(format!("{to:?}: more than one line: {text}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_unit_without_an_address_is_refused() {
    let keys = Keys::new();
    let good = article(&keys);
    let unit = good.rfind("address = [").expect("the second unit has addresses");
    let error = parse(&good[..unit], "n1").expect_err("nobody could reach it").to_string();
    assert!(
        error.contains("VM_STORAGE_2 has no address") && error.contains("nobody could reach it"),
        "{error}"
    );
}

#[test]
fn a_node_that_is_not_listed_is_told_which_are() {
    let keys = Keys::new();
    let error = parse(&article(&keys), "n3").expect_err("is no node of it").to_string();
    assert_eq!(
        error,
        format!("{FILE}:3: this node is \"n3\" and not one of n1, n2; name it here, or say --node NAME")
    );
}

#[test]
fn an_unknown_unit_is_answered_with_those_there_are() {
    let keys = Keys::new();
    let config = parse(&article(&keys), "n1").expect("is in order");
    let error = config.unit("VM_STORAGE_3").expect_err("is none of it").to_string();
    assert_eq!(error, format!("{FILE} has no unit \"VM_STORAGE_3\"; it has VM_STORAGE_1, VM_STORAGE_2"));
}

#[test]
fn a_missing_secret_is_named_and_a_present_one_never_shown() {
    let keys = Keys::new();
    let good = article(&keys);
    for file in ["drbd", "chap"] {
        let path = keys.path(file);
        let bad = good.replace(&path, "/no/such/secret");
        let error = format!("{:#}", parse(&bad, "n1").expect_err("has no secret"));
        let line = bad[..bad.find("/no/such/secret").expect("was put there")].matches('\n').count() + 1;
        assert!(error.starts_with(&format!("{FILE}:{line}: ")), "{error}");
        assert!(error.contains("/no/such/secret") && error.contains("No such file"), "{error}");
    }
    let config = parse(&good.replace(&keys.path("san"), "/no/such/passphrase"), "n1").expect("is in order");
    let error = format!("{:#}", config.passphrase().expect_err("is not there"));
    assert!(error.contains(FILE) && error.contains("/no/such/passphrase"), "{error}");
    // Wrong for its purpose: the error names the file, and neither it nor what is printed of a good one holds the content.
    let long = "a secret that is far too long for DRBD, which takes sixty-three bytes of it and no more";
    let told = Keys::new().with("drbd", long);
    let error = format!("{:#}", parse(&article(&told), "n1").expect_err("is too long"));
    assert!(error.contains("1 to 63 bytes") && !error.contains("far too long"), "{error}");
    let empty = Keys::new().with("chap", "");
    let error = format!("{:#}", parse(&article(&empty), "n1").expect_err("is empty"));
    assert!(error.contains(&empty.path("chap")) && error.contains("empty"), "{error}");
    let shown = format!("{:?}", parse(&good, "n1").expect("is in order"));
    for (_, secret) in common::SECRETS {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error =
        format!("{:#}", Config::read(Path::new("/no/such/node.toml"), "n1").expect_err("is not there"));
    assert!(error.contains("/no/such/node.toml") && error.contains("No such file"), "{error}");
}
