//! Real sessions in a lab guest, against a target in the same guest: maps joined down to portals and cards, and what is told when a target goes.
//! Logs in with iscsiadm, as somebody else would have done.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    clippy::disallowed_methods
)] // It is a test.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use multipath::{Deadline, Event, Health, Host, Initiator, Kernel, Lack, Topology, Warning};

type Outcome = Result<(), Failed>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tree = Host::live().tree().clone();
    let guest = tree.read("/proc/cmdline").unwrap_or_default().contains("lab.mode=");
    let tools = ["targetcli", "iscsid", "multipathd"];
    let there = |tool: &str| {
        ["/usr/bin", "/usr/sbin", "/sbin"].iter().any(|dir| std::path::Path::new(dir).join(tool).exists())
    };
    let reason = match (guest, tools.iter().find(|tool| !there(tool))) {
        (false, _) => Some("they need a lab guest, run `lab test multipath --mode root`".to_owned()),
        (true, Some(tool)) => Some(format!("there is no {tool} in this guest, use --mode root")),
        (true, None) => None,
    };
    if let Some(reason) = &reason {
        println!("kernel tests are ignored here: {reason}");
    }
    let trials = [
        ("a_maps_are_joined_down_to_portals_and_cards", joined as fn() -> Outcome),
        ("b_a_connection_that_breaks_is_told_before_its_path", broken),
        ("c_nothing_is_left", ended),
    ];
    let trials = trials.map(|(name, test)| Trial::test(name, test).with_ignored_flag(reason.is_some()));
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

const TARGET: &str = "iqn.2026-01.lab.sankit:topology";
const WAYS: [&str; 2] = ["127.0.0.11:3260", "127.0.0.12:3260"];

fn sh(script: &str) -> Result<String, Failed> {
    let output = Command::new("/bin/sh").args(["-ec", script]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("{script}\n{text}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// A target with a disk behind two portals, logged in to at both, with a map.
fn prepare() -> Result<Topology, Failed> {
    sh(&format!(
        r#"
        ip link set lo up
        modprobe -a target_core_mod iscsi_target_mod iscsi_tcp dm_multipath dm_service_time
        if ! [ -d /sys/kernel/config/target/iscsi/{TARGET} ]; then
            targetcli set global auto_add_default_portal=false >/dev/null
            targetcli /backstores/ramdisk create top0 64M >/dev/null
            targetcli /iscsi create {TARGET} >/dev/null
            targetcli /iscsi/{TARGET}/tpg1/luns create /backstores/ramdisk/top0 >/dev/null
            targetcli /iscsi/{TARGET}/tpg1 set attribute generate_node_acls=1 demo_mode_write_protect=0 authentication=0 >/dev/null
            targetcli /iscsi/{TARGET}/tpg1/portals create 127.0.0.11 >/dev/null
            targetcli /iscsi/{TARGET}/tpg1/portals create 127.0.0.12 >/dev/null
        fi
        mkdir -p /etc/multipath /run/lock/iscsi
        printf 'defaults {{\n find_multipaths greedy\n user_friendly_names yes\n polling_interval 2\n}}\n' > /etc/multipath.conf
        pidof iscsid >/dev/null || iscsid
        pidof multipathd >/dev/null || multipathd
        for way in {}; do
            iscsiadm -m session 2>/dev/null | grep -q "$way.*{TARGET}" && continue
            iscsiadm -m node -T {TARGET} -p $way -o new >/dev/null
            iscsiadm -m node -T {TARGET} -p $way --login >/dev/null
        done
        "#,
        WAYS.join(" ")
    ))?;
    let initiator = Initiator::new()?;
    let deadline = Deadline::after(Duration::from_secs(60));
    loop {
        // multipathd may be starting.
        if let Ok(topology) = initiator.topology() {
            let ours = topology.maps.iter().find(|map| is_ours(map));
            if ours.is_some_and(|map| map.routes.iter().filter(|route| route.works()).count() == 2) {
                return Ok(topology);
            }
        }
        if !deadline.pause(Duration::from_millis(100)) {
            return Err(format!("no map with two paths:\n{}", initiator.topology()?).into());
        }
    }
}

fn is_ours(map: &multipath::MapTopology) -> bool {
    map.routes.iter().any(|route| route.iscsi().is_some_and(|iscsi| iscsi.target.as_str() == TARGET))
}

fn joined() -> Outcome {
    let topology = prepare()?;
    let map = topology.maps.iter().find(|map| is_ours(map)).ok_or("no map")?;
    print!("{topology}");
    // As iscsiadm has it: "tcp: [1] 127.0.0.11:3260,1 iqn... (non-flash)".
    let mut theirs = BTreeMap::new();
    for line in sh("iscsiadm -m session")?.lines().filter(|line| line.contains(TARGET)) {
        let words: Vec<_> = line.split_whitespace().collect();
        let session: u32 = words[1].trim_matches(['[', ']']).parse()?;
        theirs.insert(session, words[2].split(',').next().unwrap_or_default().to_owned());
    }
    let mut ours = BTreeMap::new();
    for route in &map.routes {
        let iscsi = route.iscsi().ok_or("a path without a session")?;
        ours.insert(iscsi.session, iscsi.portal.map(|portal| portal.to_string()).unwrap_or_default());
        assert_eq!(iscsi.phase, multipath::SessionPhase::LoggedIn);
        assert_eq!(iscsi.nic.as_ref().map(|nic| nic.name.as_str()), Some("lo"), "{iscsi:?}");
        assert!(iscsi.local.is_some_and(|local| local.is_loopback()));
        let file = |file: &str| {
            let path = format!("/sys/class/iscsi_connection/connection{}:0/{file}", iscsi.session);
            std::fs::read_to_string(path)
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .map(Duration::from_secs)
        };
        assert_eq!((iscsi.ping_interval, iscsi.ping_timeout), (file("recv_tmo"), file("ping_tmo")));
        // What is in force is multipathd's, whatever iscsid.conf says.
        assert_eq!(iscsi.recovery, Some(Duration::from_secs(5)));
    }
    assert_eq!(ours, theirs);
    assert_eq!(ours.values().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(WAYS));
    assert_eq!(map.health, Health::NoRedundancy(vec![Lack::SameNic("lo".to_owned())]));
    assert_eq!(map.map.size, Some(multipath::Bytes(64 << 20)));
    // Debian 12's multipathd takes the wrong checker by itself, and that is told.
    let wrong = map.routes.iter().any(|route| route.path.checker_name == "tur");
    let told = map.warnings.iter().any(|warning| matches!(warning, Warning::WrongChecker { .. }));
    assert_eq!(wrong, told, "{:?}", map.warnings);
    Ok(())
}

fn broken() -> Outcome {
    let topology = prepare()?;
    let map = topology.maps.iter().find(|map| is_ours(map)).ok_or("no map")?;
    let sessions: BTreeSet<_> = map.routes.iter().filter_map(|route| Some(route.iscsi()?.session)).collect();
    let name = map.map.name.clone();
    // A checker that can tell, or the paths would come back at once.
    sh(
        r#"printf 'devices {\n device {\n vendor "LIO-ORG"\n product ".*"\n path_checker directio\n detect_checker no\n no_path_retry 24\n }\n}\n' >> /etc/multipath.conf"#,
    )?;
    multipath::Multipath::new()?.reconfigure(Deadline::after(Duration::from_secs(60)))?;
    let mut watch = Kernel::new().watch()?;
    let enable =
        |value: u8| sh(&format!("echo {value} > /sys/kernel/config/target/iscsi/{TARGET}/tpgt_1/enable"));
    let begun = Instant::now();
    enable(0)?;
    let (mut broke, mut failed, mut lost) = (BTreeMap::new(), BTreeMap::new(), false);
    let deadline = Deadline::after(Duration::from_secs(60));
    while !lost {
        match watch.next_before(deadline)?.ok_or("not all was told")? {
            Event::ConnectionFailed { session, .. } if sessions.contains(&session) => {
                broke.entry(session).or_insert_with(|| begun.elapsed());
            }
            Event::PathFailed { map, device, .. } if map == name => {
                failed.entry(device).or_insert_with(|| begun.elapsed());
            }
            Event::LastPathLost { map } if map == name => lost = true,
            _ => {}
        }
    }
    println!("connections broke after {broke:?}, paths failed after {failed:?}");
    assert_eq!(broke.keys().copied().collect::<BTreeSet<_>>(), sessions);
    assert_eq!(failed.len(), 2);
    assert!(broke.values().max() < failed.values().min(), "the connections are the earlier warning");
    let now = Initiator::new()?.topology()?;
    let seen = now.maps.iter().find(|map| map.map.name == name).ok_or("no map")?;
    assert!(matches!(seen.health, Health::Queueing { .. }), "{now}");
    enable(1)?;
    let begun = Instant::now();
    let deadline = Deadline::after(Duration::from_secs(90));
    loop {
        match watch.next_before(deadline)?.ok_or("the paths did not come back")? {
            Event::PathReinstated { map, left: 2, .. } if map == name => break,
            _ => {}
        }
    }
    println!("both paths back {:?} after the target", begun.elapsed());
    Ok(())
}

fn ended() -> Outcome {
    prepare()?;
    sh(&format!(
        "multipathd del maps >/dev/null || multipathd del maps >/dev/null
        iscsiadm -m node -T {TARGET} -u >/dev/null; iscsiadm -m node -T {TARGET} -o delete"
    ))?;
    let left = Initiator::new()?.topology()?;
    assert!(!left.maps.iter().any(is_ours), "{left}");
    sh("targetcli clearconfig confirm=True >/dev/null; rm -f /etc/multipath.conf").map(drop)
}
