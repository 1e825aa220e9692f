//! The conformance suite on the fake, and what only a fake can show.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod conformance;

use std::net::TcpListener;
use std::sync::Mutex;

use conformance::{Bench, Outcome, iqn};
use host::exec::{Output, Program, Programs, Runner};
use host::fake::Memory;
use lio::{AclSpec, BackstoreSpec, Deadline, ErrorKind, Host, Lio, Secret, TargetSpec};

static MEMORY: Mutex<Option<Memory>> = Mutex::new(None);

fn memory() -> Memory {
    memory_of(lio::fake::Kernel::V6_1)
}

fn memory_of(kernel: lio::fake::Kernel) -> Memory {
    let memory = lio::fake::configfs_of(kernel);
    memory.edit(|nodes| {
        for (number, disk) in ["vdb", "vdc"].iter().enumerate() {
            nodes.put(&format!("/dev/{disk}"), "");
            nodes.put(&format!("/sys/class/block/{disk}/dev"), format!("254:{number}\n"));
            nodes.put(&format!("/sys/class/block/{disk}/size"), "2048\n");
        }
        ["/var/target/pr", "/var/target/alua"].iter().for_each(|dir| nodes.put_dir(dir));
    });
    memory.tree().make_dir("/sys/kernel/config/target/iscsi").expect("the fabric");
    memory.tree().make_dir("/sys/kernel/config/target/vhost").expect("the fabric");
    memory
}

fn bench(memory: &Memory) -> Bench {
    Bench {
        host: Host::fake().with_tree(memory.tree()).with_dm(lio::fake::mapper(memory)),
        disks: vec!["/dev/vdb".into(), "/dev/vdc".into()],
        points: usize::MAX,
        take_port,
        has_module: |_, _| true,
        log_in: |_, target, initiator| {
            let memory = MEMORY.lock().expect("no panic").clone();
            lio::fake::log_in(&memory.expect("set"), target, initiator);
            true
        },
        run_dir: tempfile::tempdir().expect("a directory"),
        scsi: Some([0, 0, 1, 0]),
        real: false,
    }
}

fn take_port(_: &Bench, port: u16) -> Option<TcpListener> {
    let line = format!("   0: 0100007F:{port:04X} 00000000:0000 0A 00000000\n");
    let memory = MEMORY.lock().expect("no panic").clone();
    memory.expect("set").edit(|nodes| {
        let table = nodes.text("/proc/net/tcp").unwrap_or_default();
        nodes.put("/proc/net/tcp", table + &line);
    });
    None
}

#[test]
fn the_fake_conforms() {
    let kernels = [lio::fake::Kernel::V6_1, lio::fake::Kernel::V6_12];
    for (kernel, (name, case)) in
        kernels.into_iter().flat_map(|k| conformance::CASES.iter().map(move |c| (k, c)))
    {
        if !conformance::needs(name).is_empty() {
            eprintln!("{name} is skipped: it needs a real kernel");
            continue;
        }
        eprintln!("{name} {kernel:?}");
        let memory = memory_of(kernel);
        *MEMORY.lock().expect("no panic") = Some(memory.clone());
        case(&bench(&memory)).unwrap_or_else(|error| panic!("{name}: {}", conformance::chain(&*error)));
    }
}

#[test]
fn directories_for_reservations_are_made_and_taken_back() -> Outcome {
    let memory = lio::fake::configfs();
    let host = Host::fake().with_tree(memory.tree());
    let lio = Lio::on(&host)?;
    let spec = TargetSpec::new(iqn("dirs"));
    let plan = lio.plan(&spec)?;
    let lines: Vec<_> = plan.steps().iter().take(4).map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "mkdir /var/target",
            "mkdir /var/target/pr",
            "mkdir /var/target/alua",
            "mkdir /sys/kernel/config/target/iscsi"
        ]
    );
    let undo = lio.apply(plan)?;
    assert!(memory.tree().exists("/var/target/pr")?);
    lio.apply(undo.into_plan())?;
    assert!(!memory.tree().exists("/var/target")?);
    Ok(())
}

#[test]
fn sessions_are_shown_and_dropped() -> Outcome {
    let memory = memory();
    let lio = Lio::on(&Host::fake().with_tree(memory.tree()))?;
    let spec = TargetSpec::new(iqn("sessions")).with_acl(AclSpec::new(iqn("host1")));
    lio.ensure(&spec)?;
    lio::fake::log_in(&memory, &spec.iqn, &iqn("host1"));
    let sessions = lio.sessions(&spec.iqn)?;
    assert_eq!((sessions.len(), sessions[0].connections[0].address.as_str()), (1, "192.0.2.5"));
    assert_eq!(lio.get(&spec.iqn)?.expect("there").session_count, Some(1));
    lio.disable(&spec.iqn)?;
    assert!(lio.sessions(&spec.iqn)?.is_empty());
    Ok(())
}

#[test]
fn a_drbd_secondary_is_explained() -> Outcome {
    let memory = memory();
    memory.edit(|nodes| nodes.put("/dev/drbd0", "secondary"));
    let lio = Lio::on(&Host::fake().with_tree(memory.tree()))?;
    let disk = BackstoreSpec::block("r0".parse()?, "/dev/drbd0").with_serial("aa".parse()?);
    let error = lio.ensure(&TargetSpec::new(iqn("drbd")).with_lun(0, disk)).expect_err("Secondary");
    assert!(conformance::chain(&error).contains("must be Primary"), "{}", conformance::chain(&error));
    assert_eq!(error.errno(), Some(libc::EROFS));
    Ok(())
}

#[test]
fn a_secondary_cannot_take_over_and_stays_on_standby() -> Outcome {
    let memory = memory();
    let lio = Lio::on(&Host::fake().with_tree(memory.tree()).with_dm(lio::fake::mapper(&memory)))?;
    let disk = |name: &str| {
        BackstoreSpec::block(name.parse().unwrap(), format!("/dev/{name}"))
            .with_serial(lio::UnitSerial::derived_from(name))
    };
    let node =
        |tag: u16| lio::HaNode::new(lio::Tag(tag)).with_portal(format!("10.0.0.{tag}:3260").parse().unwrap());
    let target = TargetSpec::new(iqn("pair")).with_lun(0, disk("vdb")).with_lun(1, disk("vdc"));
    let pair = lio::HaPair::alua(target, [node(1), node(2)]);
    let soon = || Deadline::after(std::time::Duration::from_secs(60));
    memory.edit(|nodes| nodes.put("/dev/vdc", "secondary"));
    lio.ensure_ha(&pair, lio::Side::Two)?;
    let error = lio.takeover(&pair, lio::Side::Two, soon()).expect_err("one is Secondary");
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Refused, Some(libc::EROFS)));
    assert!(error.to_string().contains("make the DRBD resource Primary"), "{error}");
    assert_eq!(lio.ha_state(&pair, lio::Side::Two)?, lio::HaState::Standby);
    // A larger disk is seen by the next ensure, closed or open.
    memory.edit(|nodes| nodes.put("/sys/class/block/vdb/size", "4096\n"));
    assert!(lio.ensure_ha(&pair, lio::Side::Two)? && !lio.ensure_ha(&pair, lio::Side::Two)?);
    memory.edit(|nodes| nodes.put("/dev/vdc", ""));
    assert!(lio.takeover(&pair, lio::Side::Two, soon())?);
    memory.edit(|nodes| nodes.put("/sys/class/block/vdc/size", "8192\n"));
    assert!(lio.ensure_ha(&pair, lio::Side::Two)? && !lio.ensure_ha(&pair, lio::Side::Two)?);
    assert_eq!(lio.ha_state(&pair, lio::Side::Two)?, lio::HaState::Active);
    // The disk is gone; what stood in front of it can still be removed.
    memory.edit(|nodes| nodes.take("/sys/class/block/vdb"));
    assert!(lio.remove_ha(&pair, lio::Side::Two, soon())?);
    Ok(())
}

#[derive(Debug)]
struct Modprobe(Memory);

impl Programs for Modprobe {
    fn run(
        &self,
        program: Program,
        args: &[String],
        _: &[u8],
        _: Deadline,
    ) -> Result<Output, host::exec::Error> {
        assert_eq!(program, Program::MODPROBE);
        if args[0] == "target_core_mod" {
            self.0.edit(|nodes| nodes.put_dir("/sys/kernel/config/target/core"));
        }
        Ok(Output::new(0, "", ""))
    }
}

#[test]
fn missing_modules_are_loaded_or_named() -> Outcome {
    let empty = Memory::new();
    let host = Host::fake().with_tree(empty.tree());
    let error = Lio::on(&host).expect_err("no LIO and no modprobe");
    assert_eq!(error.kind(), ErrorKind::NotLoaded);
    assert!(error.to_string().contains("modprobe target_core_mod"), "{error}");
    let loaded = host.with_exec(Runner::of(Modprobe(empty)));
    Lio::on(&loaded)?;
    Ok(())
}

#[test]
fn reading_does_not_look_at_anything_twice() -> Outcome {
    let memory = memory();
    let mut counts = Vec::new();
    for luns in [8_u8, 16, 32] {
        let mut spec = TargetSpec::new(iqn("many")).with_acl(AclSpec::new(iqn("host1")));
        for lun in 0..luns {
            spec = spec.with_lun(lun, conformance::ramdisk(&format!("many{lun}")));
        }
        Lio::on(&Host::fake().with_tree(memory.tree()))?.ensure(&spec)?;
        let (tree, record) = memory.tree().recording();
        assert!(!Lio::on(&Host::fake().with_tree(tree))?.ensure(&spec)?);
        counts.push(record.reads());
    }
    assert_eq!(counts[2] - counts[1], 2 * (counts[1] - counts[0]), "reads grow with the LUNs: {counts:?}");
    eprintln!("reads of ensure with 8, 16, 32 LUNs: {counts:?}");
    Ok(())
}

#[cfg(feature = "serde")]
#[test]
fn the_undo_of_a_plan_is_a_journal_without_passwords() -> Outcome {
    let memory = memory();
    let lio = Lio::on(&Host::fake().with_tree(memory.tree()))?;
    let acl = AclSpec::new(iqn("host1")).with_chap("u".parse()?, Secret::from("hunter2hunter2"));
    let spec = TargetSpec::new(iqn("journal")).with_lun(0, conformance::ramdisk("journal")).with_acl(acl);
    let undo = lio.apply(lio.plan(&spec)?)?;
    let text = serde_json::to_string(&undo.into_plan())?;
    assert!(!text.contains("hunter2"));
    lio.apply(serde_json::from_str(&text)?)?;
    assert!(lio.get(&spec.iqn)?.is_none() && lio.backstores()?.is_empty());
    Ok(())
}

#[cfg(not(feature = "serde"))]
#[allow(dead_code)]
fn unused(_: Secret) {}
