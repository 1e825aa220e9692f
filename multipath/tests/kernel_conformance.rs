//! A real initiator in a lab guest (the full root file system) against a target made by targetcli in the same guest.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods
)] // It is a test.

use std::process::{Command, ExitCode};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use multipath::{AttachSpec, Chap, Deadline, Host, Initiator, Patience, Secret};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tree = Host::live().tree().clone();
    let guest = tree.read("/proc/cmdline").unwrap_or_default().contains("lab.mode=");
    let tools = ["/usr/bin/targetcli", "/usr/sbin/iscsid", "/usr/sbin/multipathd"];
    let missing = tools.iter().find(|tool| {
        !std::path::Path::new(tool).exists() && !std::path::Path::new(&tool.replace("/usr", "")).exists()
    });
    let reason = match (guest, missing) {
        (false, _) => Some("they need a lab guest, run `lab test multipath --mode root`".to_owned()),
        (true, Some(tool)) => Some(format!("there is no {tool} in this guest, use --mode root")),
        (true, None) => None,
    };
    if let Some(reason) = &reason {
        println!("kernel tests are ignored here: {reason}");
    }
    let trials = [
        ("discovery_finds_what_iscsiadm_finds", discovery as fn() -> Result<(), Failed>),
        ("attach_and_detach_over_two_portals", attach_detach),
        ("a_wrong_secret_leaves_no_session", wrong_secret),
    ];
    let trials = trials.map(|(name, test)| Trial::test(name, test).with_ignored_flag(reason.is_some()));
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

const TARGET: &str = "iqn.2026-01.lab.sankit:multipath";
const PORTALS: [&str; 2] = ["127.0.0.1:3260", "127.0.0.2:3260"];

fn sh(script: &str) -> Result<String, Failed> {
    let output = Command::new("/bin/sh").args(["-ec", script]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("{script}\n{text}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// A target with one disk behind two portals, and the daemons of the initiator.
fn prepare() -> Result<Initiator, Failed> {
    sh(&format!(
        r"
        ip link set lo up
        modprobe -a target_core_mod iscsi_target_mod iscsi_tcp dm_multipath
        if ! [ -d /sys/kernel/config/target/iscsi/{TARGET} ]; then
            targetcli set global auto_add_default_portal=false >/dev/null
            targetcli /backstores/block create mp0 /dev/disk/by-id/virtio-t0 >/dev/null
            targetcli /iscsi create {TARGET} >/dev/null
            targetcli /iscsi/{TARGET}/tpg1/luns create /backstores/block/mp0 >/dev/null
            targetcli /iscsi/{TARGET}/tpg1/portals create 127.0.0.1 >/dev/null
            targetcli /iscsi/{TARGET}/tpg1/portals create 127.0.0.2 >/dev/null
            name=$(sed -n s/InitiatorName=//p /etc/iscsi/initiatorname.iscsi)
            targetcli /iscsi/{TARGET}/tpg1/acls create $name >/dev/null
            targetcli /iscsi/{TARGET}/tpg1/acls/$name set auth userid=hv password=twelve-bytes-at-least >/dev/null
            targetcli /iscsi/{TARGET}/tpg1 set attribute authentication=1 >/dev/null
        fi
        pidof iscsid >/dev/null || iscsid
        pidof multipathd >/dev/null || multipathd
        for i in 1 2 3 4 5 6 7 8 9 10; do multipathd show daemon 2>/dev/null | grep -q pid && break; sleep 0.5; done
        "
    ))?;
    Ok(Initiator::on(&Host::live())?)
}

fn soon(seconds: u64) -> Deadline {
    Deadline::after(Duration::from_secs(seconds))
}

fn spec(secret: &str) -> Result<AttachSpec, Failed> {
    let portals: Result<Vec<_>, _> = PORTALS.iter().map(|p| p.parse()).collect();
    Ok(AttachSpec::new(TARGET.parse()?, portals?)
        .with_chap(Chap::new("hv", Secret::from(secret))?)
        .with_patience(Patience::failover()))
}

fn discovery() -> Result<(), Failed> {
    let initiator = prepare()?;
    let found = initiator.discover(PORTALS[0].parse()?, None, soon(10))?;
    let target = found.iter().find(|t| t.target.as_str() == TARGET).ok_or("our target is not found")?;
    let theirs = sh("iscsiadm -m discovery -t st -p 127.0.0.1 -o nonpersistent")?;
    let ours: Vec<_> = target.portals.iter().map(|(p, tag)| format!("{p},{tag} {TARGET}")).collect();
    for line in &ours {
        assert!(theirs.contains(line), "{line} is not in {theirs}");
    }
    assert_eq!(ours.len(), 2);
    Ok(())
}

fn attach_detach() -> Result<(), Failed> {
    let initiator = prepare()?;
    let target = TARGET.parse()?;
    initiator.detach(&target, soon(30))?;
    let started = std::time::Instant::now();
    let disk = initiator.attach(&spec("twelve-bytes-at-least")?, soon(60))?;
    println!("attached {} in {:?}", disk.device.display(), started.elapsed());
    assert_eq!((disk.paths.len(), disk.size, disk.missing.len()), (2, 256 << 20, 0));
    let map = initiator.multipath().get(&disk.wwid)?.ok_or("no map")?;
    assert_eq!(map.working(), 2);
    assert!(map.paths().all(|p| p.checker_name == "directio"), "{map:?}");
    assert!(sh("multipath -ll")?.contains(disk.wwid.as_str()));
    // A second attach finds what is there.
    assert_eq!(initiator.attach(&spec("twelve-bytes-at-least")?, soon(30))?, disk);
    assert_eq!(initiator.sessions()?.len(), 2);
    let held = std::fs::File::open(&disk.device)?;
    let error = initiator.detach(&target, soon(5)).expect_err("held");
    assert!(error.is_busy(), "{error}");
    drop(held);
    assert!(initiator.detach(&target, soon(30))?);
    assert!(initiator.sessions()?.is_empty() && initiator.multipath().get(&disk.wwid)?.is_none());
    assert!(!initiator.detach(&target, soon(30))?);
    Ok(())
}

fn wrong_secret() -> Result<(), Failed> {
    let initiator = prepare()?;
    initiator.detach(&TARGET.parse()?, soon(30))?;
    let error = initiator.attach(&spec("not-the-right-secret")?, soon(60)).expect_err("wrong secret");
    assert!(error.to_string().contains("cannot log in"), "{error}");
    assert!(initiator.sessions()?.is_empty());
    Ok(())
}
