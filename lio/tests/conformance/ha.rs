//! Two nodes, of which one is here: the devices in front of the disks, takeover, hold, standby.

use std::time::{Duration, Instant};

use host::dm::{Inflight, Target};
use lio::{
    BackstoreSpec, Deadline, ErrorKind, Fabric, HaMode, HaNode, HaPair, HaState, Lio, Removal, Side, Tag,
    TargetSpec, UnitSerial,
};

use super::{Bench, Outcome, TARGET, chain, iqn};

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn pair(name: &str, disks: &[BackstoreSpec]) -> HaPair {
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

/// A disk that does not answer, as DRBD without quorum: a suspended device-mapper device.
struct Frozen<'a> {
    bench: &'a Bench,
    name: host::DmName,
}

impl<'a> Frozen<'a> {
    fn new(bench: &'a Bench, disk: usize) -> Result<Self, Box<dyn std::error::Error>> {
        let node = std::fs::canonicalize(&bench.disks[disk])?;
        let node = node.file_name().expect("a name").to_string_lossy().into_owned();
        let read = |file: &str| bench.host.tree().read(format!("/sys/class/block/{node}/{file}"));
        // A name of its own: udev may be about to remove the node of the one before.
        let name: host::DmName = format!("frozen{disk}").parse()?;
        let (dm, length) = (bench.host.dm(), host::Sectors(read("size")?.trim().parse()?));
        dm.create(&name, &format!("TEST-{name}"))?;
        dm.load(
            &name,
            &[Target::new(host::Sectors(0), length, "linear", format!("{} 0", read("dev")?.trim()))],
        )?;
        dm.resume(&name)?;
        let minor = dm.info(&name)?.expect("made").device.number.minor;
        bench.host.tree().unlink(name.path())?;
        bench.host.tree().link(format!("/dev/dm-{minor}"), name.path())?;
        Ok(Self { bench, name })
    }

    fn freeze(&self) -> Outcome {
        Ok(self.bench.host.dm().suspend(&self.name, Inflight::Left)?)
    }

    fn thaw(&self) -> Outcome {
        Ok(self.bench.host.dm().resume(&self.name)?)
    }

    fn remove(self) -> Outcome {
        self.bench.host.dm().remove(&self.name)?;
        self.bench.host.tree().unlink(self.name.path())?;
        Ok(())
    }
}

/// Writes a page in a thread.
fn write_page(device: &str) -> std::io::Result<std::thread::JoinHandle<std::io::Result<()>>> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let file = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(device)?;
    Ok(std::thread::spawn(move || {
        let buffer = vec![b'z'; 2 * 4096];
        let skip = buffer.as_ptr().align_offset(4096);
        file.write_all_at(&buffer[skip..skip + 4096], 0)
    }))
}

pub fn a_frozen_disk_is_not_waited_for(bench: &Bench) -> Outcome {
    let (lio, before, frozen) = (bench.lio(), bench.snapshot(), Frozen::new(bench, 0)?);
    let disk = |name: &str| {
        BackstoreSpec::block(name.parse().unwrap(), frozen.name.path())
            .with_serial(UnitSerial::derived_from(name))
    };
    let pair = pair("frozen", &[disk("frozen0")]);
    lio.ensure_ha(&pair, Side::One)?;
    lio.takeover(&pair, Side::One, soon())?;
    frozen.freeze()?;
    let write = write_page("/dev/mapper/lio-frozen0")?;
    let began = Instant::now();
    let in_flight = || -> Outcome {
        let node = std::fs::canonicalize("/dev/mapper/lio-frozen0")?;
        let file =
            format!("/sys/class/block/{}/inflight", node.file_name().expect("a name").to_string_lossy());
        while bench.host.tree().read(&file)?.split_whitespace().all(|n| n == "0") {
            assert!(soon().pause(Duration::from_millis(20)) && began.elapsed().as_secs() < 60);
        }
        Ok(())
    };
    in_flight()?;
    let began = Instant::now();
    let error = lio.hold(&pair, Side::One, Deadline::after(Duration::from_secs(1))).expect_err("frozen");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Late, true));
    assert!(error.to_string().contains("does not answer") && began.elapsed().as_secs() < 30, "{error}");
    frozen.thaw()?;
    write.join().expect("no panic")?;
    let deadline = soon();
    while lio.ha_state(&pair, Side::One)? != HaState::Held {
        assert!(deadline.pause(Duration::from_millis(50)), "{:?}", lio.ha_state(&pair, Side::One)?);
    }
    lio.standby(&pair, Side::One, soon())?;
    lio.remove_ha(&pair, Side::One, soon())?;
    bench.same(&before, "removed");
    frozen.remove()
}

pub fn a_removal_gives_up_in_time_and_goes_on(bench: &Bench) -> Outcome {
    let (before, frozen) = (bench.snapshot(), Frozen::new(bench, 1)?);
    let lio = bench.lio().of(Fabric::Loopback).with_removal(Removal::Final);
    let naa: lio::Iqn = "naa.5001405000000077".parse()?;
    let serial = UnitSerial::derived_from("frozen1");
    let disk = BackstoreSpec::block("frozen1".parse()?, frozen.name.path()).with_serial(serial.clone());
    lio.ensure(&TargetSpec::loopback(naa.clone()).with_lun(0, disk))?;
    let wwid = serial.naa(lio::CompanyId::default());
    let deadline = soon();
    let device = loop {
        let found =
            bench.host.tree().dirs("/sys/class/block")?.into_iter().chain(links(bench)?).find(|name| {
                let text =
                    bench.host.tree().read_opt(format!("/sys/class/block/{name}/device/wwid")).ok().flatten();
                text.is_some_and(|text| text.contains(&wwid))
            });
        if let Some(name) = found.filter(|name| std::path::Path::new(&format!("/dev/{name}")).exists()) {
            break format!("/dev/{name}");
        }
        assert!(deadline.pause(Duration::from_millis(100)), "no disk {wwid}");
    };
    frozen.freeze()?;
    let write = write_page(&device)?;
    let node = device.rsplit('/').next().expect("a name").to_owned();
    while bench
        .host
        .tree()
        .read(format!("/sys/class/block/{node}/inflight"))?
        .split_whitespace()
        .all(|n| n == "0")
    {
        assert!(deadline.pause(Duration::from_millis(20)), "no command under way");
    }
    let began = Instant::now();
    let error = lio.remove_before(&naa, Deadline::after(Duration::from_secs(2))).expect_err("frozen");
    assert_eq!(error.kind(), ErrorKind::Late, "{}", chain(&error));
    assert!(error.to_string().contains("under way") && began.elapsed().as_secs() < 30, "{error}");
    // Other targets can be made meanwhile: no lock of the kernel is held.
    let other = format!("{TARGET}/iscsi/{}", iqn("meanwhile"));
    bench.host.tree().make_dir(&other)?;
    bench.host.tree().remove_dir(&other)?;
    frozen.thaw()?;
    // Answered, or failed when its disk went.
    drop(write.join().expect("no panic"));
    while Lio::on(&bench.host)?.of(Fabric::Loopback).get(&naa)?.is_some() || bench.snapshot() != before {
        assert!(deadline.pause(Duration::from_millis(50)), "the removal did not go on");
    }
    frozen.remove()
}

fn links(bench: &Bench) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    Ok(bench.host.tree().links("/sys/class/block")?)
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
