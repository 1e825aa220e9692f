//! drbd.conf: a published configuration and its mistakes, changes in place, the way to DRBD 9, and drbdadm as the oracle.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used, clippy::print_stderr)] // A test.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // It runs drbdadm, the oracle, and reads the corpus.

use std::path::Path;
use std::process::Command;

use drbd::conf::{Conf, Finding, Severity, resource_text};
use drbd::nine::diff;
use drbd::{
    DiskOptions, MetaDisk, Minor, NetOptions, Protocol, ResourceOptions, ResourceSpec, Volume, VolumeSpec,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The options of a published set-up of two storage nodes, which carries two mistakes and one dangerous combination.
const PUBLISHED: &str = r#"global {
    usage-count no;
}
common {
    protocol B;
    handlers {
    }
    startup {
        wfc-timeout 10;
    }
    disk {
        c-plan-ahead 0;
        al-extents 6433;
        resync-rate 400M;
        disk-barrier no;
        disk-flushes no;
        disk-drain yes;
    }
    net {
        sndbuf-size 1024k;
        rcvbuf-size 1024k;
        max-buffers 8192; # x PAGE_SIZE
        max-epoch-size 8192; # x PAGE_SIZE
        unplug-watermark 8192;
        timeout 100;
        ping-int 15;
        ping-timeout 60; # x 0.1sec
        connect-int 15;
        timeout 50; # x 0.1sec
        verify-alg sha1;
        csums-alg sha1;
        data-integrity-alg crc32c;
        cram-hmac-alg sha1;
        shared-secret "not the published one";
        use-rle;
    }
}
resource VM_STORAGE_1 {
    device /dev/drbd0;
    disk /dev/mapper/VM_STORAGE_1;
    meta-disk internal;
    on vmstor1 {
        address 192.168.123.100:7801;
    }
    on vmstor2 {
        address 192.168.123.200:7801;
    }
}
"#;

/// The corpus of the fuzz target `drbd_conf`: `good-` is accepted, `bad-` has an error. The good ones have the constructs of drbd-utils' own
/// tests (`tests/v9`, 9.34), in configurations of our own.
fn corpus() -> Vec<(String, String)> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/drbd_conf");
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .expect("the corpus is there")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("text"))
        })
        .collect();
    all.sort();
    assert!(all.len() >= 13, "{all:?}");
    all
}

fn errors(conf: &Conf) -> Vec<String> {
    let findings = conf.lint().into_iter().filter(|finding| finding.severity == Severity::Error);
    findings.map(|finding| finding.to_string()).collect()
}

fn found(findings: &[Finding], code: &str) -> Finding {
    findings
        .iter()
        .find(|finding| finding.code == code)
        .unwrap_or_else(|| panic!("{code}: {findings:?}"))
        .clone()
}

#[test]
fn two_mistakes_and_one_danger_of_the_published_configuration_are_named() -> Outcome {
    let conf = Conf::parse("/etc/drbd.conf", PUBLISHED)?;
    let findings = conf.lint();
    let twice = found(&findings, "option-twice");
    assert_eq!((twice.severity, twice.place.line), (Severity::Error, 29));
    assert_eq!(twice.also.as_ref().map(|place| place.line), Some(25));
    assert!(
        twice
            .to_string()
            .starts_with("/etc/drbd.conf:29:9: error: timeout is given twice in one section: 100 and 50")
    );
    let old = found(&findings, "only-in-84");
    assert_eq!((old.severity, old.place.line), (Severity::Warning, 24));
    assert!(old.what.contains("unplug-watermark") && old.fix.contains("remove it"));
    let danger = found(&findings, "no-flushes");
    assert_eq!((danger.severity, danger.place.line), (Severity::Danger, 16));
    assert!(
        danger.what.contains("protocol B with disk-flushes no and disk-barrier no")
            && danger.fix.contains("protocol C")
    );
    // No other error and no other danger.
    let bad: Vec<_> = findings.iter().filter(|f| f.severity >= Severity::Danger).map(|f| f.code).collect();
    assert_eq!(bad, ["no-flushes", "option-twice"]);
    for code in ["no-fencing", "secret-in-clear", "integrity-in-use"] {
        found(&findings, code);
    }
    assert!(!findings.iter().any(|finding| finding.to_string().contains("not the published one")));
    Ok(())
}

#[test]
fn the_published_configuration_becomes_one_of_drbd_9() -> Outcome {
    let conf = Conf::parse("/etc/drbd.conf", PUBLISHED)?;
    let (nine, changes) = conf.to_9()?;
    let told: Vec<_> =
        changes.iter().map(|change| (change.place.line, change.what.split(' ').next().unwrap())).collect();
    assert_eq!(
        told,
        [
            (5, "protocol"),
            (24, "unplug-watermark"),
            (29, "timeout"),
            (42, "vmstor1"),
            (45, "vmstor2"),
            (38, "on")
        ]
    );
    let text = nine.text(0).expect("one");
    let expected = PUBLISHED
        .replace("    protocol B;\n", "")
        .replace("        unplug-watermark 8192;\n", "")
        .replace("        timeout 50; # x 0.1sec\n", "")
        .replace("        use-rle;\n", "        use-rle;\n        protocol B;\n")
        .replace("100:7801;\n", "100:7801;\n        node-id 0;\n")
        .replace("200:7801;\n", "200:7801;\n        node-id 1;\n");
    assert_eq!(text, expected);
    assert_eq!(errors(&nine), [""; 0]);
    // A second time there is nothing to do.
    assert_eq!(nine.to_9()?.1, []);
    Ok(())
}

#[test]
fn old_spellings_become_new_ones() -> Outcome {
    let old =
        corpus().into_iter().find(|(name, _)| name == "good-of-the-time-of-8-3-and-8-4").expect("there");
    let conf = Conf::parse("old", old.1)?;
    let (nine, changes) = conf.to_9()?;
    let text = nine.text(0).expect("one");
    for part in [
        "resync-rate 25M;",
        "csums-alg md5;",
        "fence-peer \"/bin/fence it\";",
        "disk-flushes no;",
        "net { fencing resource-and-stonith; }",
        "meta-disk /dev/m [3];",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for part in ["syncer", "become-primary-on", "outdate-peer", "no-md-flushes"] {
        assert!(!text.contains(part), "{part}: {text}");
    }
    assert!(changes.len() >= 7, "{changes:?}");
    assert_eq!(errors(&nine), [""; 0]);
    Ok(())
}

#[test]
fn every_configuration_of_the_corpus_is_judged_as_its_name_says() -> Outcome {
    for (name, text) in corpus() {
        let errors = match Conf::parse(name.as_str(), text.as_str()) {
            Ok(conf) => {
                assert_eq!(conf.text(0), Some(text.as_str()));
                errors(&conf)
            }
            Err(error) => vec![error.to_string()],
        };
        assert_eq!(errors.is_empty(), name.starts_with("good-"), "{name}: {errors:?}");
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_the_fix() -> Outcome {
    let resource = |body: &str| format!("resource r0 {{\n{body}\n}}");
    for (body, code, line, what) in [
        ("net { timeout 601; }", "bad-value", 2, "1 to 600 tenths of a second"),
        ("net { tiemout 60; }", "unknown-option", 2, "tiemout"),
        ("disk { on-io-error panic; }", "bad-value", 2, "pass_on, call-local-io-error, detach"),
        ("on a { address 10.0.0.1; }", "bad-value", 2, "IPV4:PORT"),
        ("on a { device /dev/drbd1 minor 2; }", "bad-value", 2, "to be the same"),
        ("net { allow-two-primaries; protocol B; }", "two-primaries-protocol", 2, "protocol C"),
        ("net { on-congestion pull-ahead; }", "pull-ahead-protocol", 2, "protocol A"),
        ("disk { fencing resource-only; }", "no-fence-handler", 2, "nobody fences"),
        ("net { ping-int 5; timeout 50; }", "timeouts", 2, "not less than ping-int 5"),
        ("nett { }", "unexpected", 2, "may not stand here"),
        ("\nnet { shared-secret x; }", "unused-secret", 3, "cram-hmac-alg"),
    ] {
        let conf = Conf::parse("f", resource(body))?;
        let finding = found(&conf.lint(), code);
        assert_eq!(finding.place.line, line, "{body}: {finding}");
        assert!(finding.to_string().contains(what), "{body}: {finding}");
    }
    Ok(())
}

#[test]
fn options_change_in_place_and_nothing_else_does() -> Outcome {
    let mut conf = Conf::parse("f", PUBLISHED)?;
    conf.set_option(None, "net", "ping-int", "20")?;
    conf.set_option(None, "net", "use-rle", "no")?;
    conf.set_option(Some(&"VM_STORAGE_1".parse()?), "disk", "resync-rate", "100M")?;
    assert!(conf.remove_option(None, "net", "data-integrity-alg")?);
    assert!(!conf.remove_option(None, "net", "data-integrity-alg")?);
    let expected = PUBLISHED
        .replace("ping-int 15;", "ping-int 20;")
        .replace("use-rle;", "use-rle no;")
        .replace("        data-integrity-alg crc32c;\n", "")
        .replace("200:7801;\n    }\n}\n", "200:7801;\n    }\n    disk { resync-rate 100M; }\n}\n");
    assert_eq!(conf.text(0), Some(expected.as_str()));
    let error = conf.set_option(None, "net", "ping-int", "0").expect_err("too small").to_string();
    assert!(error.contains("1 to 120 seconds"), "{error}");
    let error =
        conf.set_option(None, "net", "shared-secret", &"x".repeat(64)).expect_err("too long").to_string();
    assert!(error.contains("***") && !error.contains("xxx"), "{error}");
    assert!(!format!("{conf:?}").contains("published"));
    Ok(())
}

fn specs() -> drbd::Result<[ResourceSpec; 2]> {
    let make = |local: &str, peer: &str, disk: &str| -> drbd::Result<ResourceSpec> {
        let address = |text: &str| text.parse().expect("an address");
        let volume = VolumeSpec::new(Volume(0), Minor::new(3)?, disk);
        let second = VolumeSpec::new(Volume(1), Minor::new(4)?, "/dev/second")
            .with_meta(MetaDisk::Indexed("/dev/meta".into(), 2))
            .with_options(DiskOptions::new().with("resync-rate", "8M")?.with("al-extents", "1000")?);
        Ok(ResourceSpec::new("r0".parse()?, address(local), address(peer))
            .with_volume(volume)
            .with_volume(second)
            .with_disk(DiskOptions::new().with("al-extents", "1000")?)
            .with_net(
                NetOptions::new()
                    .with_protocol(Protocol::C)
                    .with("cram-hmac-alg", "sha1")?
                    .with("shared-secret", "a \"b\" c")?
                    .with("congestion-fill", "1M")?,
            ))
    };
    Ok([
        make("10.0.0.1:7801", "[fe80::1]:7801", "/dev/a")
            .or_else(|_| make("10.0.0.1:7801", "10.0.0.2:7801", "/dev/a"))?,
        make("10.0.0.2:7801", "10.0.0.1:7801", "/dev/b")?,
    ])
}

#[test]
fn what_is_written_is_read_as_it_was() -> Outcome {
    let [mut a, b] = specs()?;
    a.peer = b.local;
    let text = resource_text([("n1", &a), ("n2", &b)])?;
    let conf = Conf::parse("f", text)?;
    assert_eq!(errors(&conf), [""; 0]);
    assert_eq!(conf.spec(&a.name, "n1")?, a);
    assert_eq!(conf.spec(&a.name, "n2")?, b);
    assert!(conf.spec(&a.name, "n3").expect_err("no such host").to_string().contains("no host \"n3\""));
    assert!(resource_text([("n1", &a), ("n2", &a)]).is_err());
    Ok(())
}

#[test]
fn what_is_inherited_counts_in_the_spec() -> Outcome {
    let conf = Conf::parse("f", PUBLISHED)?;
    let spec = conf.specs("vmstor2")?.remove(0);
    assert_eq!(
        (spec.local.to_string(), spec.peer.to_string()),
        ("192.168.123.200:7801".into(), "192.168.123.100:7801".into())
    );
    // The first of two, as drbdadm of 8.4 takes it.
    assert_eq!(spec.net.get("timeout").as_deref(), Some("100"));
    assert_eq!(spec.disk.get("resync-rate").as_deref(), Some("409600"));
    assert_eq!((spec.volumes.len(), spec.volumes[0].minor.get()), (1, 0));
    Ok(())
}

#[test]
fn two_nodes_that_differ_are_told_apart() -> Outcome {
    let ours = Conf::parse("a", PUBLISHED)?;
    assert_eq!(ours.compare(&ours), []);
    let reordered = PUBLISHED.replace(
        "        verify-alg sha1;\n        csums-alg sha1;\n",
        "  csums-alg \"sha1\";# x\n verify-alg sha1;\n",
    );
    assert_eq!(ours.compare(&Conf::parse("b", reordered)?), []);
    let other = PUBLISHED
        .replace("protocol B", "protocol C")
        .replace("not the", "the")
        .replace("200:7801", "201:7801");
    let told: Vec<_> = ours.compare(&Conf::parse("b", other)?).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(
        told.iter().any(|text| text.contains("protocol is B here and C on the other node (see b:5:5)")),
        "{told:?}"
    );
    assert!(!told.iter().any(|text| text.contains("published")), "{told:?}");
    Ok(())
}

/// What drbdadm makes of a configuration on a node: what it prints, if it takes it.
fn drbdadm(text: &str, node: &str, version: &str, words: &[&str]) -> Option<Result<String, String>> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    let output = Command::new("/usr/sbin/drbdadm")
        .args(["-c", file.path().to_str()?])
        .args(words)
        .env("__DRBD_NODE__", node)
        .env("DRBD_DRIVER_VERSION_OVERRIDE", version)
        .output()
        .ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) })
}

#[test]
fn drbdadm_agrees() -> Outcome {
    if !Path::new("/usr/sbin/drbdadm").exists() {
        eprintln!("skipped: drbd-utils is not installed");
        return Ok(());
    }
    // It refuses what we say it refuses, and takes what we make of it.
    let local = "global { disable-ip-verification; }";
    let published = PUBLISHED.replace("global {", "global { disable-ip-verification;");
    let refused = drbdadm(&published, "vmstor1", "9.2.0", &["dump"]).expect("runs");
    assert!(refused.as_ref().is_err_and(|text| text.contains("Parse error")), "{refused:?}");
    let nine = Conf::parse("f", published)?.to_9()?.0;
    let taken = drbdadm(nine.text(0).expect("one"), "vmstor1", "9.2.0", &["dump"]).expect("runs");
    assert!(taken.as_ref().is_ok_and(|text| text.contains("node-id")), "{taken:?}");
    // What it prints we read as what we wrote.
    let [mut a, b] = specs()?;
    a.peer = b.local;
    let text = format!("{local}\n{}", resource_text([("n1", &a), ("n2", &b)])?);
    let dump = drbdadm(&text, "n1", "9.2.0", &["dump"]).expect("runs")?;
    assert_eq!(Conf::parse("dump", dump)?.spec(&a.name, "n1")?, a);
    Ok(())
}

/// Three hosts in a mesh, connections with options and paths of their own, and two hosts without a word about their connection.
const THREE: &str = r#"global { usage-count no; disable-ip-verification; }
common { net { protocol C; max-buffers 8000; } options { quorum majority; } }
resource r0 {
  disk { c-max-rate 40M; on-io-error pass_on; }
  net { ping-timeout 7; }
  volume 0 { device minor 0; disk /dev/vdb; meta-disk internal; disk { resync-rate 5M; c-plan-ahead 0; } }
  volume 1 { device minor 1; disk /dev/vdc; meta-disk /dev/vdd[0]; }
  on n1 { address 10.0.0.1:7000; node-id 0; }
  on n2 { address 10.0.0.2:7000; node-id 1; }
  on n3 { address 10.0.0.3:7000; node-id 2; }
  connection-mesh { hosts n1 n2 n3; net { max-epoch-size 4000; } }
}
resource r1 {
  device minor 5; disk /dev/vde; meta-disk internal;
  on n1 { address 10.0.0.1:7001; node-id 0; }
  on n2 { address 10.0.0.2:7001; node-id 1; }
  on n3 { address 10.0.0.3:7001; node-id 2; }
  connection { host n2; host n1; net { protocol A; } disk { c-fill-target 1M; } }
  connection {
    net { protocol B; rr-conflict retry-connect; }
    path { host n1 address 10.1.0.1:7001; host n3 address 10.1.0.3:7001; }
    path { host n3 address 10.2.0.3:7001; host n1 address 10.2.0.1:7001; }
  }
  connection { host n2; host n3; }
}
resource r2 {
  device minor 6; disk /dev/vdf; meta-disk internal;
  on n1 { address 10.0.0.1:7002; node-id 4; }
  on n2 { address 10.0.0.2:7002; node-id 3; }
}
"#;

/// A line with its options in order, each value as our tables print it.
fn normal(line: &str) -> String {
    let (mut plain, mut options) = (Vec::new(), Vec::new());
    for word in line.split_whitespace() {
        let Some((name, value)) = word.strip_prefix("--").and_then(|option| option.split_once('=')) else {
            // It shows its own programs by their paths.
            plain.push(word.trim_start_matches("/usr/sbin/").to_owned());
            continue;
        };
        let printed = [
            NetOptions::new().with(name, value).ok().and_then(|options| options.get(name)),
            DiskOptions::new().with(name, value).ok().and_then(|options| options.get(name)),
            ResourceOptions::new().with(name, value).ok().and_then(|options| options.get(name)),
        ];
        let printed = printed.into_iter().flatten().next().expect("an option of ours");
        options.push(format!("--{name}={printed}"));
    }
    options.sort();
    plain.extend(options);
    plain.join(" ")
}

#[test]
fn plans_for_drbd_9_are_those_of_drbdadm() -> Outcome {
    let conf = Conf::parse("f", THREE)?;
    for (name, node, peers) in
        [("r0", "n1", 2), ("r0", "n3", 2), ("r1", "n1", 2), ("r1", "n2", 2), ("r2", "n1", 1), ("r2", "n2", 1)]
    {
        let spec = conf.spec_9(&name.parse()?, node)?;
        assert_eq!(spec.peers.len(), peers, "{name} on {node}");
        if !Path::new("/usr/sbin/drbdadm").exists() {
            eprintln!("not compared: drbd-utils is not installed");
            continue;
        }
        let plan = diff(None, &spec)?;
        let ours: Vec<_> = plan.steps().iter().map(|step| normal(&step.to_string())).collect();
        let theirs = drbdadm(THREE, node, "9.2.0", &["-d", "up", name]).expect("runs")?;
        let theirs: Vec<_> = theirs.lines().map(normal).collect();
        assert_eq!(ours, theirs, "{name} on {node}");
    }
    let two = conf.spec_9(&"r1".parse()?, "n4").expect_err("no such host").to_string();
    assert!(two.contains("it has no host \"n4\""), "{two}");
    let old = Conf::parse("old", PUBLISHED)?.spec_9(&"VM_STORAGE_1".parse()?, "vmstor1").expect_err("no ids");
    assert!(old.to_string().contains("no node-id"), "{old}");
    Ok(())
}

mod soup {
    use drbd::conf::Conf;
    use proptest::prelude::*;

    const WORDS: &[&str] = &[
        "resource",
        "r0",
        "common",
        "net",
        "disk",
        "syncer",
        "startup",
        "on",
        "a",
        "b",
        "volume",
        "0",
        "protocol",
        "B",
        "fencing",
        "resource-only",
        "no-disk-flushes",
        "unplug-watermark",
        "128",
        "timeout",
        "50",
        "become-primary-on",
        "outdate-peer",
        "\"x y\"",
        "device",
        "minor",
        "/dev/drbd1",
        "meta-disk",
        "internal",
        "address",
        "10.0.0.1:7000",
        "handlers",
        "rate",
        "#c\n",
        "\n",
        "  ",
        "connection",
        "host",
        "floating",
        "node-id",
        "skip",
        "use-rle",
        "on-congestion",
        "pull-ahead",
    ];

    fn statement() -> impl Strategy<Value = String> {
        let words = || {
            proptest::collection::vec(proptest::sample::select(WORDS), 1..5).prop_map(|words| words.join(" "))
        };
        let leaf = words().prop_map(|words| format!("{words} ;"));
        leaf.prop_recursive(4, 40, 6, move |inner| {
            let block = proptest::collection::vec(inner, 0..6);
            (words(), block, proptest::sample::select(&[" ", "\n", ""][..]))
                .prop_map(|(words, block, gap)| format!("{words} {{{gap}{}{gap}}}", block.join(gap)))
        })
    }

    proptest! {
        #[test]
        fn no_soup_of_statements_makes_it_panic_and_what_is_converted_needs_no_more(
            statements in proptest::collection::vec(statement(), 0..5)
        ) {
            let text = format!("common {{ {} }}\nresource r0 {{\n{}\n}}\n", statements.join("\n"), statements.join(" "));
            let Ok(conf) = Conf::parse("soup", text.as_str()) else { return Ok(()) };
            prop_assert_eq!(conf.text(0), Some(text.as_str()));
            let _ = (conf.lint(), conf.specs("a"), conf.compare(&conf));
            let (nine, _) = conf.to_9().expect("converts");
            let (again, _) = nine.to_9().expect("converts");
            if conf.check().is_empty() {
                prop_assert_eq!(nine.text(0), again.text(0));
            }
        }
    }
}
