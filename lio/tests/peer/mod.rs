//! What targetcli sees of ours, and we of targetcli's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_types, unreachable_pub)]

mod config;
mod initiator;
mod reservations;

use std::process::{Command, Stdio};

use lio::{AclSpec, Deadline, Lio, Lun, Secret, Tag, TargetSpec, Wwid};

use crate::conformance::{Bench, Case, Outcome, iqn, ramdisk};

/// The case that takes minutes.
pub const LONG: &str = "no_test_of_libiscsi_fails_that_passes_on_targetclis_lun";

pub const CASES: &[(&str, Case)] = &[
    ("targetcli_shows_what_we_made", targetcli_shows_ours),
    ("we_read_and_remove_what_targetcli_made", we_read_theirs),
    ("targetcli_and_we_wait_for_each_other", one_lock),
    ("what_targetcli_made_goes_through_saveconfig_json_unchanged", config::theirs_through_us),
    ("what_we_made_goes_through_saveconfig_json_to_targetctl", config::ours_through_them),
    ("an_initiator_logs_in_and_is_seen_and_dropped", initiator),
    ("each_kind_of_chap_lets_in_whom_it_should_over_ipv4_and_ipv6", initiator::chap),
    ("both_sessions_of_one_initiator_are_seen", initiator::two_sessions),
    ("each_kind_of_chap_of_discovery_over_ipv4_and_ipv6", initiator::discovery),
    ("what_vmware_asks_of_a_disk_is_answered_and_counted", initiator::vmware),
    ("a_larger_device_is_seen_when_the_initiator_looks_again", initiator::resize),
    ("persistent_reservations_hold_on_the_next_node", reservations::carried),
    ("persistent_reservations_are_refused_where_a_node_cannot_have_the_others", reservations::refused),
    (LONG, initiator::conformance),
];

/// Whether targetcli is there.
pub fn find() -> Result<(), &'static str> {
    match std::path::Path::new("/usr/bin/targetcli").exists() {
        true => Ok(()),
        false => Err("there is no targetcli here: run `lab test lio --mode root`"),
    }
}

fn targetcli(arguments: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    tool("/usr/bin/targetcli", arguments)
}

fn tool(program: &str, arguments: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    let output = Command::new(program).args(arguments).output()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("{program} {arguments:?}: {text}").into()),
    }
}

fn targetcli_shows_ours(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let spec = crate::unit(2);
    lio.ensure(&spec)?;
    let text = targetcli(&["ls"])?;
    for word in [
        spec.iqn.as_str(),
        "127.0.0.1:13310",
        "timed0",
        iqn("host1").as_str(),
        "Mapped LUNs: 2",
        "ramdisk/timed1",
    ] {
        assert!(text.contains(word), "targetcli ls does not show {word}:\n{text}");
    }
    let saved = Command::new("targetctl").args(["save", "/tmp/saved.json"]).output()?;
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    let json: serde_json::Value = serde_json::from_str(&bench.host.tree().read("/tmp/saved.json")?)?;
    let target =
        json["targets"].as_array().unwrap().iter().find(|t| t["wwn"] == spec.iqn.as_str()).expect("saved");
    let group = &target["tpgs"][0];
    assert_eq!(group["node_acls"][0]["chap_password"], "a long secret");
    assert_eq!(group["parameters"]["DefaultTime2Wait"], "0");
    assert_eq!(group["enable"], true);
    let disk =
        json["storage_objects"].as_array().unwrap().iter().find(|d| d["name"] == "timed0").expect("saved");
    assert_eq!(disk["wwn"], lio::UnitSerial::derived_from("timed0").as_str());
    assert!(!lio.ensure(&spec)?, "looking changed nothing");
    lio.remove(&spec.iqn)?;
    let text = targetcli(&["ls"])?;
    assert!(!text.contains("timed"), "{text}");
    Ok(())
}

/// While it has its lock we change nothing, and the other way round.
fn one_lock(bench: &Bench) -> Outcome {
    let lio = bench.lio().with_lock_timeout(std::time::Duration::from_millis(200));
    let (file, soon) = (
        std::path::Path::new("/var/run/targetcli.lock"),
        Deadline::after(std::time::Duration::from_secs(10)),
    );
    let spec = TargetSpec::new(iqn("locked"));
    let theirs = host::Lock::take(file, soon)?;
    let error = lio.ensure(&spec).expect_err("somebody else is at it");
    assert!(error.kind() == lio::ErrorKind::Locked && error.is_retryable(), "{error}");
    assert!(lio.get(&spec.iqn)?.is_none(), "reading needs no lock");
    // It waits for the lock for as long as it takes.
    let mut child = Command::new("/usr/bin/targetcli").args(["/", "pwd"]).stdout(Stdio::null()).spawn()?;
    let waits = || -> Result<bool, Box<dyn std::error::Error>> {
        let (locks, pid) = (bench.host.tree().read("/proc/locks")?, child.id().to_string());
        Ok(locks.lines().any(|line| line.contains("->") && line.split(' ').any(|word| word == pid)))
    };
    let deadline = Deadline::after(std::time::Duration::from_secs(60));
    while !waits()? {
        assert!(deadline.pause(std::time::Duration::from_millis(50)), "targetcli does not wait for the lock");
    }
    drop(theirs);
    assert!(child.wait()?.success());
    assert!(lio.ensure(&spec)? && lio.remove(&spec.iqn)?);
    Ok(())
}

/// The stock initiator on the same machine, with CHAP in both directions.
fn initiator(bench: &Bench) -> Outcome {
    let before = bench.snapshot();
    let lio = bench.lio();
    let acl = AclSpec::new(iqn("host1"))
        .with_chap("user".parse()?, Secret::from("a long secret"))
        .with_mutual_chap("target".parse()?, Secret::from("another secret"));
    let spec = TargetSpec::new(iqn("login"))
        .with_lun(3, ramdisk("login"))
        .with_portal("127.0.0.1:13330".parse()?)
        .with_acl(acl);
    lio.ensure(&spec)?;
    tool("/sbin/modprobe", &["iscsi_tcp"])?;
    let name = format!("InitiatorName={}\n", iqn("host1"));
    bench.host.tree().replace("/etc/iscsi/initiatorname.iscsi", name, 0o600)?;
    bench.host.tree().ensure_dir("/run/lock/iscsi")?;
    let mut daemon = Command::new("/sbin/iscsid").arg("-f").spawn()?;
    let target = ["-m", "node", "-T", spec.iqn.as_str(), "-p", "127.0.0.1:13330"];
    let iscsiadm = |more: &[&str]| tool("/usr/sbin/iscsiadm", &[&target[..], more].concat());
    let logged_in = (|| -> Outcome {
        let deadline = Deadline::after(std::time::Duration::from_secs(20));
        while let Err(error) = iscsiadm(&["-o", "new"]) {
            if !deadline.pause(std::time::Duration::from_millis(200)) {
                return Err(error);
            }
        }
        for (key, value) in [
            ("authmethod", "CHAP"),
            ("username", "user"),
            ("password", "a long secret"),
            ("username_in", "target"),
            ("password_in", "another secret"),
        ] {
            iscsiadm(&["-o", "update", "-n", &format!("node.session.auth.{key}"), "-v", value])?;
        }
        iscsiadm(&["--login"])?;
        let sessions = lio.sessions(&spec.iqn)?;
        let [session] = &sessions[..] else { return Err(format!("{sessions:?}").into()) };
        assert_eq!((session.initiator.clone(), session.state.as_deref()), (iqn("host1"), Some("LOGGED_IN")));
        assert!(
            session.id.is_some() && session.isid.as_ref().is_some_and(|isid| isid.len() == 12),
            "{session:?}"
        );
        let [connection] = &session.connections[..] else { return Err(format!("{session:?}").into()) };
        assert_eq!((connection.address.as_str(), connection.state.as_str()), ("127.0.0.1", "LOGGED_IN"));
        assert_eq!(lio.get(&spec.iqn)?.and_then(|state| state.session_count), Some(1));
        // The initiator's identifier of the disk is the one we computed.
        let wwid = ramdisk("login").wwid().expect("it has a serial");
        let tree = bench.host.tree();
        let seen = || {
            let found = tree.list("/sys/class/block").unwrap_or_default().into_iter().find_map(|disk| {
                let text =
                    tree.read_opt(format!("/sys/class/block/{}/device/wwid", disk.name)).ok().flatten()?;
                Wwid::from_sysfs(&text).ok().filter(|seen| *seen == wwid)
            });
            found.is_some()
        };
        let deadline = Deadline::after(std::time::Duration::from_secs(20));
        while !seen() {
            assert!(deadline.pause(std::time::Duration::from_millis(200)), "no disk {wwid}");
        }
        assert!(lio.disable(&spec.iqn)?);
        assert!(lio.sessions(&spec.iqn)?.is_empty(), "disabling drops the sessions");
        assert!(lio.enable(&spec.iqn)?);
        while lio.sessions(&spec.iqn)?.is_empty() {
            assert!(
                deadline.pause(std::time::Duration::from_millis(200)),
                "the initiator does not come back"
            );
        }
        Ok(())
    })();
    // With the session up: disabling drops it, and nothing waits.
    let removed = lio.remove(&spec.iqn);
    let out = iscsiadm(&["--logout"]).and_then(|_| iscsiadm(&["-o", "delete"]));
    daemon.kill()?;
    daemon.wait()?;
    logged_in?;
    assert!(removed?);
    out?;
    bench.same(&before, "removed");
    Ok(())
}

fn we_read_theirs(bench: &Bench) -> Outcome {
    let lio = Lio::on(&bench.host)?;
    let before = bench.snapshot();
    let name = iqn("theirs");
    let target = format!("/iscsi/{name}");
    let group = format!("{target}/tpg1");
    let disk = bench.disks[0].display().to_string();
    targetcli(&["set", "global", "auto_add_default_portal=false", "auto_save_on_exit=false"])?;
    targetcli(&["/backstores/block", "create", "theirs", &disk])?;
    targetcli(&["/iscsi", "create", name.as_str()])?;
    targetcli(&[&format!("{group}/luns"), "create", "/backstores/block/theirs"])?;
    targetcli(&[&format!("{group}/portals"), "create", "127.0.0.1", "13320"])?;
    targetcli(&[&format!("{group}/acls"), "create", iqn("host1").as_str()])?;
    targetcli(&[
        &format!("{group}/acls/{}", iqn("host1")),
        "set",
        "auth",
        "userid=them",
        "password=theirsecret12",
    ])?;
    let state = lio.get(&name)?.expect("we see it");
    let seen = state.group(Tag(1)).expect("its group");
    assert!(seen.enabled);
    assert_eq!(seen.portal_addresses().collect::<Vec<_>>(), ["127.0.0.1:13320".parse().unwrap()]);
    assert_eq!(seen.acls[&iqn("host1")].auth.user.as_deref(), Some("them"));
    let backstore = state.backstore(Tag(1), Lun::from(0)).expect("its disk");
    assert_eq!(backstore.device(), Some(bench.disks[0].as_path()));
    assert!(lio.remove(&name)?);
    bench.same(&before, "removed");
    Ok(())
}
