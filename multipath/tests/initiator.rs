//! Records and sessions on a machine in memory: both layouts, open-iscsi's lock, what the kernel tells of a session.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)] // It is a test.

use std::time::Duration;

use host::fake::Memory;
use multipath::{
    Chap, ConnectionPhase, Deadline, Error, Host, Initiator, Iqn, NodeSpec, Records, Scan, Secret, Startup,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const CONF: &str = "# a comment\niscsid.startup = x\nnode.startup = manual\nnode.session.queue_depth = 32\n";

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

fn target() -> Iqn {
    "iqn.2026-01.a:one".parse().expect("a name")
}

/// A machine with open-iscsi's configuration, and a lock of its own.
fn machine() -> std::io::Result<(Memory, Host, tempfile::TempDir)> {
    let memory = Memory::new();
    memory.edit(|nodes| {
        nodes.put("/etc/iscsi/iscsid.conf", CONF);
        nodes.put_dir("/etc/iscsi/nodes");
    });
    let run = tempfile::tempdir()?;
    let host = Host::fake().with_tree(memory.tree()).with_run_dir(run.path().join("sankit"));
    Ok((memory, host, run))
}

#[test]
fn a_record_of_ours_is_whole_written_once_and_goes_with_its_folders() -> Outcome {
    let (memory, host, _run) = machine()?;
    let records = Records::on(&host);
    let spec = NodeSpec::new(target(), "[fd00::10]:3260".parse()?)
        .with_chap(Chap::new("hv", Secret::from("a secret of ours"))?)
        .with_scan(Scan::Manual);
    assert!(records.ensure(&spec, soon())?);
    assert!(!records.ensure(&spec, soon())?, "the second time there is nothing to write");
    let path = "/etc/iscsi/nodes/iqn.2026-01.a:one/fd00::10,3260";
    let text = memory.edit(|nodes| nodes.text(path)).ok_or("no record")?;
    for line in [
        "node.name = iqn.2026-01.a:one",
        "node.conn[0].address = fd00::10",
        "node.session.auth.password = a secret of ours",
        "node.session.queue_depth = 32",
        "node.session.scan = manual",
    ] {
        assert_eq!(text.matches(&format!("\n{line}\n")).count(), 1, "{line} in\n{text}");
    }
    assert!(!text.contains("iscsid.startup"));
    let all = records.list()?;
    assert_eq!((all.len(), all[0].portal(), all[0].tag), (1, Some("[fd00::10]:3260".parse()?), None));
    assert!(all[0].is_ours && !format!("{all:?}").contains("a secret of ours"));
    assert!(records.remove(&all[0], soon())? && !records.remove(&all[0], soon())?);
    assert!(memory.edit(|nodes| nodes.get("/etc/iscsi/nodes/iqn.2026-01.a:one").is_none()));
    assert!(memory.edit(|nodes| nodes.get("/etc/iscsi/nodes").is_some()));
    Ok(())
}

#[test]
fn records_of_others_keep_what_is_not_named() -> Outcome {
    let (memory, host, _run) = machine()?;
    let base = "/etc/iscsi/nodes/iqn.2026-01.a:one";
    let theirs = "# BEGIN RECORD 2.1.8\nnode.name = iqn.2026-01.a:one\nnode.session.queue_depth = 99\nodd\nnode.discovery_type = send_targets\nnode.discovery_address = 10.0.0.1\nnode.discovery_port = 3260\n# END RECORD\n";
    let link = "/etc/iscsi/send_targets/10.0.0.1,3260/iqn.2026-01.a:one,10.0.0.1,3260,1,default";
    memory.edit(|nodes| {
        nodes.put(&format!("{base}/10.0.0.1,3260,1/default"), theirs);
        nodes.put(&format!("{base}/10.0.0.1,3260,1/vlan101"), "iface.iscsi_ifacename = vlan101\n");
        nodes.put(&format!("{base}/10.0.0.2,3260"), "node.startup = automatic\n");
        nodes.put(&format!("{base}/README"), "not a record");
        nodes.put_link(link, base);
    });
    let records = Records::on(&host);
    let all = records.get(&target())?;
    let seen: Vec<_> =
        all.iter().map(|n| (n.address.as_str(), n.tag, n.iface.as_str(), n.startup.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("10.0.0.1", Some(1), "default", "manual"),
            ("10.0.0.1", Some(1), "vlan101", "manual"),
            ("10.0.0.2", None, "default", "automatic")
        ]
    );
    let spec = NodeSpec::new(target(), "10.0.0.1:3260".parse()?).with_startup(Startup::Automatic);
    assert!(records.ensure(&spec, soon())?);
    let text = memory.edit(|nodes| nodes.text(&format!("{base}/10.0.0.1,3260,1/default"))).ok_or("gone")?;
    assert!(text.starts_with(
        "# BEGIN RECORD 2.1.8\nnode.name = iqn.2026-01.a:one\nnode.session.queue_depth = 99\nodd\n"
    ));
    assert!(text.contains("node.startup = automatic\n") && text.ends_with("# END RECORD\n"), "{text}");
    let all = records.get(&target())?;
    assert!(all.iter().all(|n| !n.is_ours));
    assert!(records.remove(&all[0], soon())?);
    assert!(memory.edit(|nodes| nodes.get(link).is_none()), "the discovery forgets it, too");
    assert_eq!(records.get(&target())?.len(), 2);
    Ok(())
}

#[test]
fn a_bound_record_has_its_interface_and_group() -> Outcome {
    let (memory, host, _run) = machine()?;
    memory.edit(|nodes| nodes.put("/etc/iscsi/ifaces/iface.example", "# only comments\n"));
    let records = Records::on(&host);
    let spec = NodeSpec::new(target(), "10.0.0.1:3260".parse()?).with_interface("vlan101".parse()?, 2);
    assert!(records.ensure(&spec, soon())? && !records.ensure(&spec, soon())?);
    let ifaces = records.ifaces()?;
    assert_eq!((ifaces.len(), ifaces[0].interface.as_deref()), (1, Some("vlan101")));
    let all = records.list()?;
    assert_eq!((all[0].tag, all[0].iface.as_str()), (Some(2), "vlan101"));
    assert_eq!(all[0].values["iface.net_ifacename"], "vlan101");
    let mut wrong = NodeSpec::new(target(), "10.0.0.1:3260".parse()?);
    wrong.interface = Some("vlan101".parse()?);
    assert!(matches!(records.ensure(&wrong, soon()), Err(Error::Invalid { .. })));
    let odd = NodeSpec::new(Iqn::from_kernel("../../passwd"), "10.0.0.1:3260".parse()?);
    assert!(matches!(records.ensure(&odd, soon()), Err(Error::Invalid { .. })));
    Ok(())
}

#[test]
fn open_iscsis_lock_is_waited_for_and_given_back() -> Outcome {
    let (memory, host, run) = machine()?;
    let dir = run.path().join("lock/iscsi");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("lock"), "")?;
    std::fs::hard_link(dir.join("lock"), dir.join("lock.write"))?;
    let records = Records::on(&host);
    let spec = NodeSpec::new(target(), "10.0.0.1:3260".parse()?);
    let error = records.ensure(&spec, Deadline::after(Duration::from_millis(50))).expect_err("locked");
    assert!(error.is_retryable() && matches!(error, Error::Locked(_)), "{error}");
    assert!(
        memory.edit(|nodes| nodes.get("/etc/iscsi/nodes/iqn.2026-01.a:one").is_none()),
        "nothing was written"
    );
    let lock = dir.join("lock.write");
    let free = std::thread::spawn(move || {
        let _ = soon().pause(Duration::from_millis(60));
        std::fs::remove_file(lock)
    });
    assert!(records.ensure(&spec, soon())?);
    free.join().expect("a thread")?;
    assert!(!dir.join("lock.write").exists(), "it is given back");
    Ok(())
}

#[test]
fn a_session_is_read_in_full() -> Outcome {
    let (memory, host, _run) = machine()?;
    memory.edit(|nodes| {
        let real = "/sys/devices/platform/host3/session7/iscsi_session/session7";
        nodes.put_link("/sys/class/iscsi_session/session7", real);
        for (file, value) in [
            ("targetname", "iqn.2026-01.a:one"),
            ("state", "LOGGED_IN"),
            ("recovery_tmo", "off"),
            ("tpgt", "2"),
            ("target_id", "0"),
            ("ifacename", "vlan101"),
            ("initiatorname", "iqn.2026-01.lab:hv"),
            ("username", "hv"),
            ("username_in", "(null)"),
            ("initial_r2t", "0"),
            ("immediate_data", "1"),
            ("first_burst_len", "65536"),
            ("max_burst_len", "262144"),
            ("max_outstanding_r2t", "1"),
            ("erl", "0"),
            ("abort_tmo", "15"),
            ("lu_reset_tmo", "30"),
            ("tgt_reset_tmo", "30"),
        ] {
            nodes.put(&format!("{real}/{file}"), format!("{value}\n"));
        }
        let connection = "/sys/class/iscsi_connection/connection7:0";
        for (file, value) in [
            ("persistent_address", "fd00::10"),
            ("persistent_port", "3260"),
            ("address", "fd00::11"),
            ("port", "3260"),
            ("state", "failed"),
            ("ping_tmo", "3"),
            ("recv_tmo", "1"),
            ("header_digest", "1"),
            ("data_digest", "0"),
            ("max_recv_dlength", "262144"),
        ] {
            nodes.put(&format!("{connection}/{file}"), format!("{value}\n"));
        }
        for (file, value) in [("netdev", "vlan101"), ("ipaddress", "fd00::2")] {
            nodes.put(&format!("/sys/class/iscsi_host/host3/{file}"), format!("{value}\n"));
        }
        let unit = format!("{real}/device/target3:0:0/3:0:0:5");
        for (file, value) in [
            ("wwid", "naa.6001405a1b2c3d4e5f60718293a4b5c6"),
            ("state", "running"),
            ("vendor", "LIO-ORG "),
            ("block/sdc/size", "131072"),
        ] {
            nodes.put(&format!("{unit}/{file}"), format!("{value}\n"));
        }
    });
    let sessions = Initiator::on(&host)?.sessions()?;
    let [session] = sessions.as_slice() else { panic!("{sessions:?}") };
    assert_eq!((session.host, session.tag, session.recovery), (Some(3), Some(2), None));
    assert_eq!(session.portal, Some("[fd00::10]:3260".parse()?));
    assert_eq!((session.interface.as_deref(), session.local), (Some("vlan101"), Some("fd00::2".parse()?)));
    assert_eq!((session.chap_user.as_deref(), session.target_chap_user.as_deref()), (Some("hv"), None));
    assert_eq!(session.negotiated.max_burst, Some(262_144));
    assert_eq!(
        (session.negotiated.initial_r2t, session.negotiated.immediate_data),
        (Some(false), Some(true))
    );
    assert_eq!(session.timeouts.disk_reset, Some(Duration::from_secs(30)));
    let connection = &session.connections[0];
    assert_eq!(
        (connection.phase.clone(), connection.header_digest),
        (Some(ConnectionPhase::Failed), Some(true))
    );
    assert_eq!(connection.address, Some("[fd00::11]:3260".parse()?), "after a redirect");
    assert_eq!((connection.ping_interval, connection.max_xmit), (Some(Duration::from_secs(1)), None));
    let disk = &session.disks[0];
    assert_eq!((disk.device.as_str(), disk.lun, disk.address.as_str()), ("sdc", 5, "3:0:0:5"));
    assert_eq!((disk.size, disk.vendor.as_str(), disk.state.as_str()), (64 << 20, "LIO-ORG", "running"));
    Ok(())
}
