//! Two nodes, of which one is here: the devices in front of the disks, takeover, hold, standby.

use std::time::Duration;

use lio::{BackstoreSpec, Deadline, ErrorKind, HaMode, HaNode, HaPair, HaState, Side, Tag, TargetSpec};

use super::{Bench, Outcome, TARGET, iqn};

pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

pub fn pair(name: &str, disks: &[BackstoreSpec]) -> HaPair {
    let nodes = [(1, 13400), (2, 13401)]
        .map(|(tag, port)| HaNode::new(Tag(tag)).with_portal(format!("127.0.0.1:{port}").parse().unwrap()));
    let target = disks.iter().cloned().enumerate().fold(TargetSpec::new(iqn(name)), |target, (lun, disk)| {
        target.with_lun(u8::try_from(lun).unwrap(), disk)
    });
    HaPair::alua(target, nodes)
}

fn states(bench: &Bench, spec: &TargetSpec) -> Vec<String> {
    let ours =
        |disk: &lio::BackstoreState| spec.luns.values().any(|wanted| wanted.name.as_str() == disk.id.name);
    let disks = bench.lio().backstores().expect("readable").into_iter().filter(ours);
    disks.map(|disk| disk.alua["ha"].attributes["alua_access_state"].clone()).collect()
}

pub fn alua(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let pair = pair("alua", &[bench.disk(0, "alua0"), bench.disk(1, "alua1")]);
    let spec = pair.render(Side::One)?;
    assert_eq!(lio.ha_state(&pair, Side::One)?, HaState::Absent);
    assert_eq!(lio.takeover(&pair, Side::One, soon()).expect_err("not there").kind(), ErrorKind::NotFound);

    assert!(lio.ensure_ha(&pair, Side::One)?);
    assert!(!lio.ensure_ha(&pair, Side::One)?);
    assert_eq!(lio.ha_state(&pair, Side::One)?, HaState::Standby);
    assert_eq!(states(bench, &spec), ["2", "2"]);
    if bench.real {
        // Initiators ask once, when they log in: also what leads nowhere must be flushed.
        let cache = |name: &str| {
            let node = bench.host.tree().read_link(format!("/dev/mapper/lio-{name}")).expect("a link");
            let node = node.file_name().expect("a name").to_string_lossy().into_owned();
            bench.host.tree().read(format!("/sys/class/block/{node}/queue/write_cache")).expect("readable")
        };
        assert_eq!((cache("alua0").trim(), cache("alua1").trim()), ("write back", "write back"));
    }
    let standby = bench.snapshot();

    assert!(lio.takeover(&pair, Side::One, soon())?);
    assert!(!lio.takeover(&pair, Side::One, soon())?);
    assert_eq!(
        (lio.ha_state(&pair, Side::One)?, states(bench, &spec)),
        (HaState::Active, vec!["0".into(), "0".into()])
    );
    // What serves goes on serving.
    assert!(!lio.ensure_ha(&pair, Side::One)?);
    if bench.real {
        through(bench, "alua0", b'a')?;
    }
    assert!(lio.hold(&pair, Side::One, soon())? && !lio.hold(&pair, Side::One, soon())?);
    assert_eq!(
        (lio.ha_state(&pair, Side::One)?, states(bench, &spec)),
        (HaState::Held, vec!["0".into(), "0".into()])
    );
    assert!(lio.standby(&pair, Side::One, soon())? && !lio.standby(&pair, Side::One, soon())?);
    assert_eq!(lio.ha_state(&pair, Side::One)?, HaState::Standby);
    // Nothing was made or removed.
    bench.same(&standby, "there and back");
    if bench.real {
        let front = std::fs::File::open("/dev/mapper/lio-alua0")?;
        let error = std::os::unix::fs::FileExt::read_at(&front, &mut [0; 512], 1 << 20)
            .expect_err("it leads nowhere");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }

    // A move that was called off.
    lio.takeover(&pair, Side::One, soon())?;
    lio.hold(&pair, Side::One, soon())?;
    assert!(lio.takeover(&pair, Side::One, soon())?);
    assert_eq!(lio.ha_state(&pair, Side::One)?, HaState::Active);
    if bench.real {
        through(bench, "alua0", b'b')?;
    }
    assert!(lio.standby(&pair, Side::One, soon())?);
    bench.same(&standby, "there and back without a hold");

    assert!(lio.remove_ha(&pair, Side::One, soon())? && !lio.remove_ha(&pair, Side::One, soon())?);
    bench.same(&before, "removed");
    assert!(!bench.host.tree().exists("/dev/mapper/lio-alua0")?);
    Ok(())
}

/// Writes through the device that LIO has and reads from the disk.
fn through(bench: &Bench, name: &str, letter: u8) -> Outcome {
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::unix::fs::OpenOptionsExt;
    let mut front = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_SYNC)
        .open(format!("/dev/mapper/lio-{name}"))?;
    front.write_all(&[letter; 4096])?;
    let mut disk =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&bench.disks[0])?;
    let mut buffer = vec![0; 3 * 4096];
    let skip = buffer.as_ptr().align_offset(4096);
    disk.seek(SeekFrom::Start(0))?;
    disk.read_exact(&mut buffer[skip..skip + 4096])?;
    assert_eq!(buffer[skip], letter);
    Ok(())
}

pub fn floating(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let target = TargetSpec::new(iqn("floating"))
        .with_lun(0, bench.disk(0, "floating0"))
        .with_portal("127.0.0.1:13402".parse()?);
    let pair = HaPair::floating(target);
    assert_eq!((pair.mode(), lio.ha_state(&pair, Side::Two)?), (HaMode::Floating, HaState::Absent));
    assert!(!lio.ensure_ha(&pair, Side::Two)?);
    assert!(lio.takeover(&pair, Side::Two, soon())? && !lio.takeover(&pair, Side::Two, soon())?);
    assert_eq!(lio.ha_state(&pair, Side::Two)?, HaState::Active);
    assert!(!lio.hold(&pair, Side::Two, soon())?);
    assert!(lio.standby(&pair, Side::Two, soon())? && !lio.standby(&pair, Side::Two, soon())?);
    bench.same(&before, "away");
    Ok(())
}

pub fn moves(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let pair = pair("moves", &[bench.disk(0, "moves0")]);
    let spec = pair.render(Side::One)?;
    lio.ensure_ha(&pair, Side::One)?;
    let standby = bench.snapshot();
    // While the disk is being made usable initiators are told that the node works, and their commands wait.
    let promoted = lio.takeover_with(&pair, Side::One, soon(), || {
        assert_eq!(
            (lio.ha_state(&pair, Side::One)?, states(bench, &spec)),
            (HaState::Held, vec!["0".to_owned()])
        );
        Ok::<_, lio::Error>(())
    })?;
    assert!(promoted);
    assert_eq!(lio.ha_state(&pair, Side::One)?, HaState::Active);
    let handed = lio.standby_with(&pair, Side::One, soon(), || {
        assert_eq!(
            (lio.ha_state(&pair, Side::One)?, states(bench, &spec)),
            (HaState::Held, vec!["0".to_owned()])
        );
        Ok::<_, lio::Error>(())
    })?;
    assert!(handed);
    assert_eq!(lio.ha_state(&pair, Side::One)?, HaState::Standby);
    bench.same(&standby, "there and back");
    // What fails in between leaves the node on standby, and its error is the caller's.
    type Failed = Box<dyn std::error::Error>;
    let no = || Err(Failed::from("not today"));
    for error in [
        lio.takeover_with(&pair, Side::One, soon(), no).expect_err("it fails"),
        lio.takeover(&pair, Side::One, soon())
            .map_err(Failed::from)
            .and_then(|_| lio.standby_with(&pair, Side::One, soon(), no))
            .expect_err("it fails"),
    ] {
        assert_eq!(error.to_string(), "not today");
        assert_eq!(lio.ha_state(&pair, Side::One)?, HaState::Standby);
        bench.same(&standby, "failed");
    }
    lio.remove_ha(&pair, Side::One, soon())?;
    Ok(())
}

pub fn reservations(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let (target, host) = (iqn("reserved"), iqn("host1"));
    let file = format!(
        "PR_REG_START: 0\ninitiator_fabric=iSCSI\ninitiator_node={host}\nsa_res_key=4660\nres_holder=1\nres_type=08\nres_scope=00\n\
         res_all_tg_pt=0\nmapped_lun=0\ntarget_fabric=iSCSI\ntarget_node={target}\ntpgt=1\nport_rtpi=1\ntarget_lun=0\nPR_REG_END: 0\n"
    );
    let carried = lio::wire::aptpl::parse(&file)?;
    let disk = bench.disk(0, "reserved0").with_reservations(carried.clone());
    let spec = TargetSpec::new(target).with_lun(0, disk.clone()).with_acl(lio::AclSpec::new(host));
    assert!(lio.ensure(&spec)? && !lio.ensure(&spec)?);
    if bench.real {
        // The kernel has it as if the initiator had registered here.
        let id = lio.backstores()?.into_iter().find(|disk| disk.id.name == "reserved0").expect("there").id;
        let read = |file: &str| {
            bench.host.tree().read(format!("{TARGET}/core/{}/{}/pr/{file}", id.adapter, id.name))
        };
        assert!(
            read("res_pr_registered_i_pts")?.contains("0x0000000000001234"),
            "{}",
            read("res_pr_registered_i_pts")?
        );
        assert!(
            read("res_holder")?.contains("host1")
                && read("res_pr_type")?.contains("Exclusive Access, All Registrants"),
            "{}",
            read("res_pr_type")?
        );
    }
    // Nothing was written by an initiator yet, here or there.
    assert_eq!(lio.reservations(disk.serial.as_ref().expect("a serial"))?, []);
    assert!(lio.remove(&spec.iqn)?);
    let without = disk.with_attribute("emulate_pr", 0);
    let error = lio.plan(&TargetSpec::new(iqn("reserved")).with_lun(0, without)).expect_err("none to be had");
    assert!(error.to_string().contains("emulate_pr 0"), "{error}");
    bench.same(&before, "removed");
    Ok(())
}
