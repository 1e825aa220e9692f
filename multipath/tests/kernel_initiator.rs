//! The initiator in a lab guest (the full root file system): real iscsid, real multipathd, and LIO in the same kernel as the target.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::indexing_slicing
)] // It is a test.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use multipath::{
    AttachSpec, Authentication, Chap, ChapDigest, ConnectionPhase, Deadline, DetachSpec, Error, Force, Host,
    Initiator, Iqn, NodeSpec, Orphan, Patience, Persistence, PortalSpec, Required, Secret, Startup,
};

type Outcome = Result<(), Failed>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tree = Host::live().tree().clone();
    let guest = tree.read("/proc/cmdline").unwrap_or_default().contains("lab.mode=");
    let tools = ["/usr/sbin/iscsid", "/usr/sbin/multipathd", "/usr/sbin/dmsetup"];
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
        ("discovery_with_chap_of_all_kinds", discovery_chap as fn() -> Outcome),
        ("a_probe_tells_why_a_login_fails", probes),
        ("attached_twice_is_attached_once", attach_twice),
        ("sessions_are_what_iscsiadm_shows", sessions_equal),
        ("two_disks_of_one_target_come_and_go_alone", two_disks),
        ("a_wrong_disk_is_refused_and_nothing_is_left", wrong_disk),
        ("a_detach_names_who_uses_the_map", busy),
        ("what_others_left_is_adopted_and_theirs_stays", adopted),
        ("leftovers_are_told_and_cleaned", orphans),
        ("a_map_grows_with_its_disk", resize),
        ("a_dead_portal_is_left_out_or_refused", dead_portal),
        ("sessions_with_chap_of_all_kinds", attach_chap),
        ("a_session_is_bound_to_an_interface_and_comes_back", bound_and_persistent),
        ("a_map_without_paths_goes_by_force_only", dead_paths),
    ];
    if std::env::var_os("SANKIT_LAB_TRACE").is_some() {
        log::set_logger(Box::leak(Box::new(Trace(Instant::now())))).expect("the first logger");
        log::set_max_level(log::LevelFilter::Debug);
    }
    let has_time = std::env::var_os("SANKIT_LAB_LONG").is_some();
    if !has_time && reason.is_none() {
        println!("{} tests are ignored here: together they take minutes, set SANKIT_LAB_LONG=1", LONG.len());
    }
    let trials = trials.map(|(name, test)| {
        let is_ignored = reason.is_some() || (!has_time && LONG.contains(&name));
        Trial::test(name, test).with_ignored_flag(is_ignored)
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

/// Those that wait for something, or attach again and again.
const LONG: [&str; 8] = [
    "sessions_are_what_iscsiadm_shows",
    "what_others_left_is_adopted_and_theirs_stays",
    "leftovers_are_told_and_cleaned",
    "a_map_grows_with_its_disk",
    "a_dead_portal_is_left_out_or_refused",
    "sessions_with_chap_of_all_kinds",
    "a_session_is_bound_to_an_interface_and_comes_back",
    "a_map_without_paths_goes_by_force_only",
];

/// Tells what the crate does, and when, with `SANKIT_LAB_TRACE=1`.
#[derive(Debug)]
struct Trace(Instant);

impl log::Log for Trace {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        println!("{:8.3} {}", self.0.elapsed().as_secs_f64(), record.args());
    }

    fn flush(&self) {}
}

const TARGET: &str = "iqn.2026-01.lab.sankit:initiator";
const TPG: &str = "/sys/kernel/config/target/iscsi/iqn.2026-01.lab.sankit:initiator/tpgt_1";
const PORTALS: [&str; 2] = ["127.0.0.11:3260", "127.0.0.12:3260"];

fn sh(script: &str) -> Result<String, Failed> {
    let output = Command::new("/bin/sh").args(["-ec", script]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("{script}\n{text}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

fn soon(seconds: u64) -> Deadline {
    Deadline::after(Duration::from_secs(seconds))
}

fn target() -> Iqn {
    TARGET.parse().expect("a name")
}

fn portals() -> [SocketAddr; 2] {
    PORTALS.map(|portal| portal.parse().expect("an address"))
}

fn spec() -> AttachSpec {
    AttachSpec::new(target(), portals()).with_patience(Patience::failover())
}

fn chap(user: &str, secret: &str) -> Chap {
    Chap::new(user, Secret::from(secret)).expect("fine")
}

/// A target with two disks of 64 MiB behind two portals, one ACL, no CHAP; the daemons; and no session.
fn prepare() -> Result<Initiator, Failed> {
    sh(&format!(
        r#"
        ip link set lo up
        modprobe -a target_core_mod target_core_iblock iscsi_target_mod iscsi_tcp dm_multipath dm_mod
        C=/sys/kernel/config/target
        if ! [ -d {TPG} ]; then
            disk=$(readlink -f /dev/disk/by-id/virtio-t1)
            for n in 0 1; do
                dmsetup create ini$n --table "0 131072 linear $disk $((n * 262144))"
                mkdir -p $C/core/iblock_7$n/ini$n
                echo -n "udev_path=/dev/mapper/ini$n" > $C/core/iblock_7$n/ini$n/control
                echo 1 > $C/core/iblock_7$n/ini$n/enable
                echo -n "17${{n}}a0000-0000-4000-8000-000000000000" > $C/core/iblock_7$n/ini$n/wwn/vpd_unit_serial
            done
            mkdir -p $C/iscsi/{TARGET} {TPG}
            for n in 0 1; do
                mkdir {TPG}/lun/lun_$n
                ln -s $C/core/iblock_7$n/ini$n {TPG}/lun/lun_$n/disk
            done
            for portal in {portals}; do mkdir {TPG}/np/$portal; done
            name=$(sed -n s/InitiatorName=//p /etc/iscsi/initiatorname.iscsi)
            mkdir {TPG}/acls/$name
            for n in 0 1; do
                mkdir {TPG}/acls/$name/lun_$n
                ln -s {TPG}/lun/lun_$n {TPG}/acls/$name/lun_$n/disk
            done
            echo 0 > {TPG}/attrib/authentication
            echo 1 > {TPG}/enable
        fi
        pidof iscsid >/dev/null || iscsid
        pidof multipathd >/dev/null || multipathd
        for i in $(seq 50); do multipathd show daemon 2>/dev/null | grep -q pid && break; sleep 0.1; done
        "#,
        portals = PORTALS.join(" ")
    ))?;
    let initiator = Initiator::on(&Host::live())?;
    initiator.detach(&target(), soon(30))?;
    assert_eq!(left_over()?, "", "a test left something");
    Ok(initiator)
}

/// What is there of our target: sessions, records, maps of its disks.
fn left_over() -> Result<String, Failed> {
    sh(&format!(
        "grep -ls {TARGET} /sys/class/iscsi_session/*/targetname || :; ls -d /etc/iscsi/nodes/{TARGET} 2>/dev/null || :; \
         dmsetup ls --target multipath | grep -v '^No devices' || :"
    ))
}

fn acl() -> Result<String, Failed> {
    Ok(sh(&format!("ls -d {TPG}/acls/*"))?.trim().to_owned())
}

fn discovery_chap() -> Outcome {
    let initiator = prepare()?;
    let auth = "/sys/kernel/config/target/iscsi/discovery_auth";
    sh(&format!(
        "echo -n us > {auth}/userid; echo -n our-secret-of-16 > {auth}/password; echo -n them > {auth}/userid_mutual; \
         echo -n their-secret-of-18 > {auth}/password_mutual; echo 1 > {auth}/enforce_discovery_auth"
    ))?;
    let outcome = (|| {
        let portal = portals()[0];
        let find = |spec: &PortalSpec| initiator.discover_by(spec, soon(10));
        let error = find(&PortalSpec::new(portal)).expect_err("it wants CHAP");
        assert!(error.to_string().contains("it wants CHAP"), "{error}");
        let mut known = Vec::new();
        for digest in ChapDigest::ALL {
            let one_way =
                PortalSpec::new(portal).with_chap(chap("us", "our-secret-of-16")).with_digests([digest]);
            match find(&one_way) {
                Ok(found) => {
                    assert!(found.iter().any(|t| t.target == target() && t.portals.len() == 2), "{found:?}")
                }
                // The kernel may have no SHA3.
                Err(Error::Login { .. }) if digest == ChapDigest::Sha3_256 => continue,
                Err(error) => return Err(format!("{digest}: {error}").into()),
            }
            let mutual = one_way.with_target_chap(chap("them", "their-secret-of-18"));
            assert!(!find(&mutual)?.is_empty(), "{digest}");
            let stranger = PortalSpec::new(portal)
                .with_chap(chap("us", "our-secret-of-16"))
                .with_digests([digest])
                .with_target_chap(chap("them", "another-secret-18"));
            let error = find(&stranger).expect_err("the target does not know this secret");
            assert!(error.to_string().contains("does not know the secret"), "{error}");
            known.push(digest.as_str());
        }
        println!("LIO took CHAP with {}", known.join(", "));
        assert!(known.len() >= 3);
        let wrong = PortalSpec::new(portal).with_chap(chap("us", "a-wrong-secret-16"));
        let error = find(&wrong).expect_err("wrong secret");
        assert!(error.to_string().contains("wrong CHAP user or secret"), "{error}");
        Ok(())
    })();
    sh(&format!(
        "echo 0 > {auth}/enforce_discovery_auth; echo NULL > {auth}/userid_mutual; echo NULL > {auth}/password_mutual"
    ))?;
    outcome
}

fn probes() -> Outcome {
    let initiator = prepare()?;
    let portal = PortalSpec::new(portals()[1]);
    let good = initiator.probe(&portal, &target(), soon(10))?;
    assert!(good.status.is_success(), "{good}");
    assert_eq!((good.tag, good.authentication), (Some(1), Some(Authentication::None)));
    println!("probe: connected in {:?}, answered in {:?}", good.connected, good.answered);
    let stranger = "iqn.2026-01.lab.sankit:stranger".parse()?;
    let refused = multipath::probe(&portal, &stranger, &target(), soon(10))?;
    assert_eq!((refused.status.class, refused.status.detail), (2, 2), "{refused}");
    let nothing = initiator.probe(&portal, &"iqn.2026-01.lab.sankit:nothing".parse()?, soon(10))?;
    // RFC 7143 has 2/3 for it; LIO says what it says of a target that is not enabled.
    assert!(matches!((nothing.status.class, nothing.status.detail), (2, 3) | (3, 1)), "{nothing}");
    sh(&format!("echo 0 > {TPG}/enable"))?;
    let disabled = initiator.probe(&portal, &target(), soon(10));
    sh(&format!("echo 1 > {TPG}/enable"))?;
    match disabled {
        Ok(probe) => assert!(!probe.status.is_success() && probe.status.is_retryable(), "{probe}"),
        Err(error) => assert!(error.is_retryable(), "{error}"),
    }
    assert!(initiator.sessions()?.iter().all(|s| s.target != target()), "a probe leaves no session");
    Ok(())
}

fn attach_twice() -> Outcome {
    let initiator = prepare()?;
    let started = Instant::now();
    let disk = initiator.attach(&spec(), soon(60))?;
    println!("attached {} in {:?}", disk.device.display(), started.elapsed());
    assert_eq!((disk.paths.len(), disk.size, disk.missing.len()), (2, 64 << 20, 0));
    let again = Instant::now();
    assert_eq!(initiator.attach(&spec(), soon(30))?, disk);
    println!("found it in {:?}", again.elapsed());
    assert_eq!(initiator.sessions()?.iter().filter(|s| s.target == target()).count(), 2);
    // Only the disk that was asked for is there.
    let disks: Vec<_> = initiator.sessions()?.iter().flat_map(|s| s.disks.clone()).map(|d| d.lun).collect();
    assert_eq!(disks, [0, 0]);
    let shown = sh(&format!("iscsiadm -m node -T {TARGET} -p {}", PORTALS[0]))?;
    for line in [
        "node.session.scan = manual",
        "node.startup = manual",
        "node.conn[0].timeo.noop_out_interval = 1",
        "node.conn[0].timeo.noop_out_timeout = 3",
        "node.session.timeo.replacement_timeout = 5",
        "node.session.iscsi.DefaultTime2Wait = 0",
        "node.session.queue_depth = 32",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    let gone = Instant::now();
    assert!(initiator.detach(&target(), soon(30))?);
    println!("detached in {:?}", gone.elapsed());
    assert_eq!(left_over()?, "");
    assert!(!initiator.detach(&target(), soon(30))?);
    Ok(())
}

fn sessions_equal() -> Outcome {
    let initiator = prepare()?;
    let target_chap = chap("them", "their-secret-of-18");
    set_chap(true)?;
    let outcome = (|| {
        let spec = spec().with_chap(chap("us", "our-secret-of-16")).with_target_chap(target_chap);
        initiator.attach(&spec, soon(60))?;
        let sessions: Vec<_> = initiator.sessions()?.into_iter().filter(|s| s.target == target()).collect();
        assert_eq!(sessions.len(), 2);
        for session in sessions {
            let shown = sh(&format!("iscsiadm -m session -r {} -P3", session.id))?;
            let connection = session.connections.first().ok_or("no connection")?;
            assert_eq!(connection.phase, Some(ConnectionPhase::Up));
            let number = |value: Option<u32>| value.map_or_else(String::new, |v| v.to_string());
            let seconds =
                |value: Option<Duration>| value.map_or_else(String::new, |v| v.as_secs().to_string());
            let yes = |value: Option<bool>| if value == Some(true) { "Yes" } else { "No" }.to_owned();
            let digest = |value: Option<bool>| if value == Some(true) { "CRC32C" } else { "None" }.to_owned();
            let agreed = &session.negotiated;
            let portal = session.portal.ok_or("no portal")?;
            let disk = session.disks.first().ok_or("no disk")?;
            for (name, ours) in [
                (
                    "Current Portal",
                    format!("{},{}", connection.address.ok_or("no address")?, session.tag.ok_or("no tag")?),
                ),
                ("Persistent Portal", format!("{portal},{}", session.tag.ok_or("no tag")?)),
                ("Iface Name", session.iface.clone().unwrap_or_default()),
                ("Iface Initiatorname", session.initiator.clone().unwrap_or_default()),
                ("Iface IPaddress", session.local.map_or_else(String::new, |ip| ip.to_string())),
                ("SID", session.id.to_string()),
                ("iSCSI Session State", session.phase.to_string()),
                ("Recovery Timeout", number(session.recovery)),
                ("Target Reset Timeout", seconds(session.timeouts.target_reset)),
                ("LUN Reset Timeout", seconds(session.timeouts.disk_reset)),
                ("Abort Timeout", seconds(session.timeouts.abort)),
                ("username", session.chap_user.clone().unwrap_or_default()),
                ("username_in", session.target_chap_user.clone().unwrap_or_default()),
                ("HeaderDigest", digest(connection.header_digest)),
                ("DataDigest", digest(connection.data_digest)),
                ("MaxRecvDataSegmentLength", number(connection.max_recv)),
                ("MaxXmitDataSegmentLength", number(connection.max_xmit)),
                ("FirstBurstLength", number(agreed.first_burst)),
                ("MaxBurstLength", number(agreed.max_burst)),
                ("ImmediateData", yes(agreed.immediate_data)),
                ("InitialR2T", yes(agreed.initial_r2t)),
                ("MaxOutstandingR2T", number(agreed.max_outstanding_r2t)),
            ] {
                let theirs = shown.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}: ")));
                let theirs = theirs.ok_or(format!("iscsiadm does not show {name}:\n{shown}"))?;
                assert_eq!(theirs, ours, "{name} of session {}\n{shown}", session.id);
            }
            let host = session.host.ok_or("no host")?;
            assert!(shown.contains(&format!("Host Number: {host}\tState: running")), "{shown}");
            assert!(
                shown.contains(&format!("scsi{host} Channel 00 Id {} Lun: {}", session.target_id, disk.lun))
            );
            assert!(
                shown.contains(&format!("Attached scsi disk {}\t\tState: {}", disk.device, disk.state)),
                "{shown}"
            );
            assert_eq!(
                (connection.ping_interval, connection.ping_timeout),
                (Some(Duration::from_secs(1)), Some(Duration::from_secs(3)))
            );
        }
        initiator.detach(&target(), soon(30))?;
        Ok(())
    })();
    set_chap(false)?;
    outcome
}

fn two_disks() -> Outcome {
    let initiator = prepare()?;
    let first = initiator.attach(&spec(), soon(60))?;
    let second = initiator.attach(&spec().with_lun(1), soon(60))?;
    assert_ne!(first.wwid, second.wwid);
    assert_eq!(
        initiator.sessions()?.iter().filter(|s| s.target == target()).count(),
        2,
        "they share sessions"
    );
    let gone = initiator.detach_by(&DetachSpec::new(target()).with_lun(0), soon(30))?;
    assert_eq!(
        (gone.maps.len(), gone.disks.len(), gone.sessions.len(), gone.kept.len()),
        (1, 2, 0, 2),
        "{gone:?}"
    );
    assert!(initiator.multipath().get(&first.wwid)?.is_none());
    assert_eq!(initiator.multipath().get(&second.wwid)?.map(|map| map.working()), Some(2));
    assert_eq!(initiator.attach(&spec().with_lun(1), soon(30))?, second, "the other is untouched");
    let error = initiator.attach(&spec().with_lun(7), soon(60)).expect_err("there is no LUN 7");
    assert!(matches!(error, Error::NoLun { lun: 7, .. }), "{error}");
    assert_eq!(initiator.multipath().get(&second.wwid)?.map(|map| map.working()), Some(2), "nor is it now");
    let gone = initiator.detach_by(&DetachSpec::new(target()).with_lun(1), soon(30))?;
    assert_eq!((gone.sessions.len(), gone.records), (2, 2), "{gone:?}");
    assert_eq!(left_over()?, "");
    Ok(())
}

fn wrong_disk() -> Outcome {
    let initiator = prepare()?;
    let list = || sh("cat /etc/multipath/wwids 2>/dev/null || :");
    let before = list()?;
    let other = "36001405000000000000000000000000".parse()?;
    let error = initiator.attach(&spec().with_wwid(other), soon(60)).expect_err("another disk");
    assert!(matches!(error, Error::WrongDisk { .. }), "{error}");
    assert_eq!((left_over()?.as_str(), list()?), ("", before));
    // The disk behind the LUN is exchanged while its map is there.
    let disk = initiator.attach(&spec(), soon(60))?;
    let acl = acl()?;
    let swap = |a: u8, b: u8| {
        sh(&format!(
            "rm {acl}/lun_0/disk {acl}/lun_1/disk; ln -s {TPG}/lun/lun_{a} {acl}/lun_0/disk; ln -s {TPG}/lun/lun_{b} {acl}/lun_1/disk"
        ))
    };
    swap(1, 0)?;
    let refused = initiator.attach(&spec(), soon(30));
    swap(0, 1)?;
    let error = refused.expect_err("the old disk's map has the new disk's paths");
    assert!(matches!(&error, Error::WrongDisk { expected, .. } if *expected == disk.wwid), "{error}");
    assert_eq!(initiator.attach(&spec(), soon(30))?.wwid, disk.wwid, "the right disk is back");
    initiator.detach(&target(), soon(30))?;
    Ok(())
}

fn busy() -> Outcome {
    let initiator = prepare()?;
    let disk = initiator.attach(&spec(), soon(60))?;
    let device = disk.device.display();
    let refused = |words: &str| -> Outcome {
        let started = Instant::now();
        let error = initiator.detach(&target(), soon(20)).expect_err(words);
        assert!(error.is_busy() && error.to_string().contains(words), "{words}: {error}");
        assert!(started.elapsed() < Duration::from_secs(10));
        Ok(())
    };
    sh(&format!("mkfs.ext4 -q -F {device}; mkdir -p /mnt; mount {device} /mnt"))?;
    refused("the mount /mnt of ")?;
    sh("umount /mnt")?;
    let held = std::fs::File::open(&disk.device)?;
    refused(&format!("process {} (", std::process::id()))?;
    assert!(held.as_raw_fd() >= 0);
    drop(held);
    sh(&format!("dmsetup create upper --table \"0 8192 linear {device} 0\""))?;
    refused("upper (")?;
    sh("dmsetup remove --retry upper")?;
    assert_eq!(
        initiator.multipath().get(&disk.wwid)?.map(|map| map.working()),
        Some(2),
        "nothing was changed"
    );
    assert!(initiator.detach(&target(), soon(30))?);
    assert_eq!(left_over()?, "");
    Ok(())
}

fn adopted() -> Outcome {
    let initiator = prepare()?;
    // By hand: one portal, its record, all disks of the target; no map, for nobody put them on multipathd's list.
    sh(&format!(
        "sed -i '/6001405170a/d' /etc/multipath/wwids 2>/dev/null || :; \
         iscsiadm -m node -T {TARGET} -p {p} -o new >/dev/null; \
         iscsiadm -m node -T {TARGET} -p {p} -o update -n node.session.queue_depth -v 64; \
         iscsiadm -m node -T {TARGET} -p {p} --login >/dev/null",
        p = PORTALS[0]
    ))?;
    let disk = initiator.attach(&spec(), soon(60))?;
    assert_eq!(disk.paths.len(), 2);
    let theirs: Vec<_> = initiator.records().get(&target())?.into_iter().filter(|n| !n.is_ours).collect();
    assert_eq!(theirs.len(), 1);
    assert_eq!(theirs[0].values["node.session.queue_depth"], "64");
    assert!(initiator.detach(&target(), soon(30))?);
    let left = initiator.records().get(&target())?;
    assert_eq!(left.len(), 1, "the record of others stays: {left:?}");
    assert!(initiator.records().remove(&left[0], soon(10))?);
    assert_eq!(left_over()?, "");
    // A record that a spec names is changed in place where it is another's, and whole where it is ours.
    let node = NodeSpec::new(target(), portals()[0]).with_startup(Startup::Automatic);
    assert!(initiator.records().ensure(&node, soon(10))? && !initiator.records().ensure(&node, soon(10))?);
    let ours = initiator.records().get(&target())?;
    assert!(ours[0].is_ours && ours[0].startup == Startup::Automatic);
    let mode = sh(&format!("stat -c %a '{}'", ours[0].path().display()))?;
    assert_eq!(mode.trim(), "600");
    initiator.records().remove(&ours[0], soon(10))?;
    Ok(())
}

fn orphans() -> Outcome {
    let initiator = prepare()?;
    assert_eq!(initiator.orphans()?, []);
    initiator.attach(&spec(), soon(60))?;
    assert_eq!(initiator.orphans()?, []);
    let sessions: Vec<_> = initiator.sessions()?.into_iter().filter(|s| s.target == target()).collect();
    sh("multipathd del maps >/dev/null")?;
    for disk in sessions.iter().flat_map(|s| &s.disks) {
        sh(&format!("echo 1 > /sys/block/{}/device/delete", disk.device))?;
    }
    let found = initiator.orphans()?;
    assert_eq!(found.iter().filter(|o| matches!(o, Orphan::Session { .. })).count(), 2, "{found:?}");
    for orphan in found {
        assert!(initiator.clean(&orphan, soon(20))?, "{orphan}");
    }
    let found = initiator.orphans()?;
    assert_eq!(found.iter().filter(|o| matches!(o, Orphan::Record { .. })).count(), 2, "{found:?}");
    for orphan in found {
        assert!(initiator.clean(&orphan, soon(20))? && !initiator.clean(&orphan, soon(20))?, "{orphan}");
    }
    assert_eq!((initiator.orphans()?, left_over()?.as_str()), (vec![], ""));
    Ok(())
}

fn resize() -> Outcome {
    let initiator = prepare()?;
    let disk = initiator.attach(&spec(), soon(60))?;
    let same = initiator.resize(&disk.wwid, soon(20))?;
    assert_eq!((same.before, same.after), (64 << 20, 64 << 20));
    let table = |sectors: u32| {
        sh(&format!(
            "disk=$(readlink -f /dev/disk/by-id/virtio-t1); dmsetup suspend ini0; \
             dmsetup reload ini0 --table \"0 {sectors} linear $disk 0\"; dmsetup resume ini0"
        ))
    };
    table(196_608)?;
    let grown = initiator.resize(&disk.wwid, soon(20))?;
    assert_eq!((grown.before, grown.after), (64 << 20, 96 << 20));
    let size = sh(&format!("blockdev --getsize64 {}", disk.device.display()))?;
    assert_eq!(size.trim(), (96 << 20).to_string());
    table(131_072)?;
    let smaller = initiator.resize(&disk.wwid, soon(20));
    // Else whoever looks at the map's end gets no answer that it understands, and asks for ever.
    table(196_608)?;
    let error = smaller.expect_err("smaller");
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    assert_eq!(initiator.resize(&disk.wwid, soon(20))?.after, 96 << 20);
    initiator.detach(&target(), soon(30))?;
    table(131_072)?;
    Ok(())
}

fn dead_portal() -> Outcome {
    let initiator = prepare()?;
    let nobody: SocketAddr = "127.0.0.13:3260".parse()?;
    let three =
        AttachSpec::new(target(), portals().into_iter().chain([nobody])).with_patience(Patience::failover());
    let disk = initiator.attach(&three.with_required(Required::AtLeast(2)), soon(60))?;
    assert_eq!((disk.paths.len(), disk.missing.len()), (2, 1));
    assert!(
        disk.missing[0].0 == nobody && disk.missing[0].1.contains("cannot be reached"),
        "{:?}",
        disk.missing
    );
    initiator.detach(&target(), soon(30))?;
    let both = AttachSpec::new(target(), [portals()[0], nobody]).with_patience(Patience::failover());
    let started = Instant::now();
    let error = initiator.attach(&both, soon(30)).expect_err("nobody is there");
    println!("a portal without anybody is refused after {:?}: {error}", started.elapsed());
    assert!(matches!(&error, Error::Iscsiadm { portal, .. } if *portal == nobody), "{error}");
    assert_eq!(left_over()?, "", "the session to the other portal is logged out again");
    Ok(())
}

/// Sets CHAP of the target's ACL, mutual, or none.
fn set_chap(on: bool) -> Outcome {
    let acl = acl()?;
    let (us, ours, them, theirs) = if on {
        ("us", "our-secret-of-16", "them", "their-secret-of-18")
    } else {
        ("NULL", "NULL", "NULL", "NULL")
    };
    sh(&format!(
        "echo -n {us} > {acl}/auth/userid; echo -n {ours} > {acl}/auth/password; echo -n {them} > {acl}/auth/userid_mutual; \
         echo -n {theirs} > {acl}/auth/password_mutual; echo {} > {TPG}/attrib/authentication",
        u8::from(on)
    ))?;
    Ok(())
}

fn attach_chap() -> Outcome {
    let initiator = prepare()?;
    set_chap(true)?;
    let outcome = (|| {
        let ours = || chap("us", "our-secret-of-16");
        let theirs = || chap("them", "their-secret-of-18");
        for (name, spec) in [
            ("one-way, iscsid's digests", spec().with_chap(ours())),
            (
                "mutual, SHA-256",
                spec().with_chap(ours()).with_target_chap(theirs()).with_digests([ChapDigest::Sha256]),
            ),
        ] {
            let disk = initiator.attach(&spec, soon(60)).map_err(|error| format!("{name}: {error}"))?;
            assert_eq!(disk.paths.len(), 2, "{name}");
            let files = sh(&format!(
                "find /etc/iscsi/nodes/{TARGET} -type f ! -perm 600; ps axww | grep -c '[s]ecret-of' || :"
            ))?;
            assert_eq!(
                files.trim(),
                "0",
                "records are private, and no process has a secret among its arguments"
            );
            initiator.detach(&target(), soon(30))?;
        }
        for (name, spec) in [
            ("wrong secret", spec().with_chap(chap("us", "a-wrong-secret-16"))),
            ("no secret", spec()),
            (
                "wrong target's secret",
                spec().with_chap(ours()).with_target_chap(chap("them", "another-secret-18")),
            ),
        ] {
            let error = initiator.attach(&spec, soon(60)).expect_err(name);
            assert!(matches!(error, Error::Iscsiadm { .. }), "{name}: {error}");
            assert_eq!(left_over()?, "", "{name}");
        }
        Ok(())
    })();
    set_chap(false)?;
    outcome
}

fn bound_and_persistent() -> Outcome {
    let initiator = prepare()?;
    let lo: multipath::IfName = "lo".parse()?;
    let mut spec = spec().with_persistence(Persistence::Always);
    for portal in portals() {
        spec = spec.with_interface(portal, lo.clone());
    }
    let disk = initiator.attach(&spec, soon(60))?;
    assert_eq!(disk.paths.len(), 2);
    let sessions: Vec<_> = initiator.sessions()?.into_iter().filter(|s| s.target == target()).collect();
    assert!(sessions.iter().all(|s| s.interface.as_deref() == Some("lo")), "{sessions:?}");
    let shown = sh("iscsiadm -m node")?;
    assert!(PORTALS.iter().all(|portal| shown.contains(&format!("{portal},1 {TARGET}"))), "{shown}");
    let ifaces = initiator.records().ifaces()?;
    assert!(ifaces.iter().any(|i| i.interface.as_deref() == Some("lo") && i.is_ours), "{ifaces:?}");
    let records = initiator.records().get(&target())?;
    assert_eq!(records.len(), 2);
    assert!(
        records.iter().all(|n| n.startup == Startup::Automatic && n.values["node.session.scan"] == "auto")
    );
    // What happens at a start: everything that is automatic is logged in to, multipathd finds the disk on its list.
    sh(&format!(
        "for n in $(seq 100); do multipathd del map {} | grep -q ok && break; sleep 0.1; done; iscsiadm -m node -T {TARGET} -u >/dev/null",
        disk.device.file_name().unwrap_or_default().to_string_lossy()
    ))?;
    sh("iscsiadm -m node --loginall=automatic >/dev/null")?;
    let started = Instant::now();
    while initiator.multipath().get(&disk.wwid)?.map(|map| map.working()) != Some(2) {
        assert!(started.elapsed() < Duration::from_secs(20), "it does not come back");
        let _ = soon(1).pause(Duration::from_millis(100));
    }
    assert_eq!(initiator.attach(&spec, soon(30))?.wwid, disk.wwid);
    assert!(initiator.detach(&target(), soon(30))?);
    assert_eq!(left_over()?, "");
    Ok(())
}

fn dead_paths() -> Outcome {
    let initiator = prepare()?;
    let disk = initiator.attach(&spec(), soon(60))?;
    let devices: Vec<_> = disk.paths.iter().map(|(_, device)| device.clone()).collect();
    for device in &devices {
        sh(&format!("echo offline > /sys/block/{device}/device/state"))?;
    }
    // A write that waits for a path.
    let mut writer = Command::new("/bin/dd")
        .args([
            "if=/dev/zero",
            &format!("of={}", disk.device.display()),
            "bs=4k",
            "count=1",
            "oflag=direct",
            "status=none",
        ])
        .spawn()?;
    let started = Instant::now();
    while !sh(&format!("ls -l /proc/{}/fd || :", writer.id()))?.contains("/dev/dm-") {
        assert!(started.elapsed() < Duration::from_secs(10), "dd does not open the map");
    }
    let error = initiator.detach(&target(), soon(20)).expect_err("in use, and without a path");
    assert!(error.is_busy(), "{error}");
    writer.kill()?;
    // Killed or not, it waits in the kernel until its write ends.
    sh(&format!(
        "multipathd disablequeueing map {} >/dev/null",
        disk.device.file_name().unwrap_or_default().to_string_lossy()
    ))?;
    writer.wait()?;
    sh(&format!(
        "multipathd restorequeueing map {} >/dev/null",
        disk.device.file_name().unwrap_or_default().to_string_lossy()
    ))?;
    let error = initiator.detach(&target(), soon(20)).expect_err("no path");
    assert!(matches!(error, Error::NoPath { .. }), "{error}");
    assert!(initiator.multipath().get(&disk.wwid)?.is_some(), "nothing was changed");
    let gone = initiator.detach_by(&DetachSpec::new(target()).with_force(Force::DeadPaths), soon(30))?;
    assert_eq!((gone.maps.len(), gone.disks.len(), gone.sessions.len()), (1, 2, 2), "{gone:?}");
    assert_eq!(left_over()?, "");
    Ok(())
}
