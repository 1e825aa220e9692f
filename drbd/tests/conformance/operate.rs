//! Commands on volumes that are up.

use std::time::Duration;

use drbd::{
    Bitmap, Bytes, Deadline, Detach, DiskState, Drbd, Error, Promote, Refusal, ReplState, Resize,
    ResourceSpec, Role, Sectors, StartKind, StartTimeouts, Verify, Volume,
};

use super::{Bench, Case, Outcome, later, seen, soon};

pub(crate) const ALL: &[Case] = &[
    ("a_primary_lives_without_its_disk", a_primary_lives_without_its_disk),
    ("invalid_data_is_synced_again", invalid_data_is_synced_again),
    ("a_verify_finds_what_differs", a_verify_finds_what_differs),
    ("a_verify_needs_an_algorithm_and_can_be_stopped", a_verify_needs_an_algorithm_and_can_be_stopped),
    ("a_resync_pauses_and_goes_on", a_resync_pauses_and_goes_on),
    ("suspended_io_is_told", suspended_io_is_told),
    ("a_volume_grows_and_shrinks", a_volume_grows_and_shrinks),
    ("sizes_in_quick_succession_hold", sizes_in_quick_succession_hold),
    ("new_disks_are_declared_the_same", new_disks_are_declared_the_same),
    ("an_outdated_disk_is_not_promoted", an_outdated_disk_is_not_promoted),
    ("options_are_set_one_group_at_a_time", options_are_set_one_group_at_a_time),
    ("a_start_waits_as_long_as_it_should", a_start_waits_as_long_as_it_should),
    ("roles_are_read_by_themselves", roles_are_read_by_themselves),
    ("a_planned_move_needs_a_peer_that_agrees", a_planned_move_needs_a_peer_that_agrees),
    ("a_disk_that_is_taken_is_refused_with_its_holder", a_disk_that_is_taken_is_refused_with_its_holder),
];

const V0: Volume = Volume(0);

fn repl(drbd: &Drbd, spec: &ResourceSpec) -> Result<ReplState, super::Failure> {
    Ok(seen(drbd, &spec.name)?.connections[0].volumes[0].repl)
}

fn a_primary_lives_without_its_disk(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(8100)?;
    assert!(drbd.detach(&here.name, V0, Detach::Graceful)?);
    assert!(!drbd.detach(&here.name, V0, Detach::Graceful)?);
    let state = seen(&drbd, &here.name)?;
    assert_eq!((state.is_primary(), state.volumes[0].disk), (true, DiskState::Diskless));
    // The peer's is the last good copy of a Primary.
    let refused = drbd.detach(&there.name, V0, Detach::Graceful).expect_err("the last copy");
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    assert!(drbd.attach(&here)?);
    assert!(!drbd.attach(&here)?);
    drbd.wait_synced(&here.name, later(), |_| {})?;
    let error = drbd.detach(&here.name, Volume(7), Detach::Force).expect_err("no such volume");
    assert!(error.to_string().contains("no volume 7"), "{error}");
    let error = drbd.detach(&"nobody".parse()?, V0, Detach::Graceful).expect_err("no such resource");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    Ok(())
}

/// Waits until what two nodes have to tell each other has been told.
pub(crate) fn until(what: impl Fn() -> Result<bool, super::Failure>) -> Outcome {
    let until = soon();
    while !what()? {
        if !until.pause(Duration::from_millis(20)) {
            return Err(drbd::ParseError::new("state", "", "it does not come").into());
        }
    }
    Ok(())
}

fn invalid_data_is_synced_again(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(8110)?;
    let inconsistent = || Ok(seen(&drbd, &there.name)?.volumes[0].disk == DiskState::Inconsistent);
    drbd.invalidate(&there.name, V0)?;
    until(inconsistent)?;
    drbd.wait_synced(&there.name, later(), |_| {})?;
    drbd.wait_synced(&here.name, later(), |_| {})?;
    drbd.invalidate_peer(&here.name, V0)?;
    until(inconsistent)?;
    drbd.wait_synced(&here.name, later(), |_| {})?;
    drbd.wait_synced(&there.name, later(), |_| {})?;
    drbd.disconnect(&there.name)?;
    let refused = drbd.invalidate_peer(&there.name, V0).expect_err("no peer");
    assert!(refused.refusal().is_some(), "{refused}");
    Ok(())
}

/// A pair in sync that can be verified.
fn verifiable(bench: &Bench, port: u16) -> Result<(Drbd, ResourceSpec, ResourceSpec), super::Failure> {
    let (drbd, here, there) = bench.synced(port)?;
    let net = here.net.clone().with("verify-alg", "sha1")?;
    assert!(drbd.set_net_options(&here.name, &net)?);
    // While connected, a node tells its peer (drbd_adm_net_opts, SyncParam).
    drbd.set_net_options(&there.name, &net)?;
    Ok((drbd, here.with_net(net.clone()), there.with_net(net)))
}

fn a_verify_finds_what_differs(bench: &Bench) -> Outcome {
    let (drbd, here, there) = verifiable(bench, 8120)?;
    drbd.verify(&here.name, V0, Verify::all())?;
    assert_eq!(drbd.wait_verified(&here.name, later())?, [(V0, Sectors(0))]);
    // Something writes past DRBD: 8 KiB in the middle of two blocks.
    match &bench.fake {
        Some(fake) => fake.plant_difference(here.volumes[0].minor, Bytes(8192)),
        None => {
            use std::os::unix::fs::FileExt;
            let disk = std::fs::OpenOptions::new().write(true).open(&there.volumes[0].disk)?;
            disk.write_all_at(&[0x5a; 8192], 1 << 20)?;
            disk.sync_all()?;
        }
    }
    drbd.verify(&here.name, V0, Verify::all())?;
    assert_eq!(drbd.wait_verified(&here.name, later())?, [(V0, Sectors(16))]);
    assert_eq!(seen(&drbd, &there.name)?.connections[0].volumes[0].out_of_sync, Sectors(16));
    if bench.fake.is_none() {
        // What was found is synced after the next connect.
        drbd.disconnect(&there.name)?;
        drbd.ensure(&there)?;
        drbd.wait_synced(&there.name, later(), |_| {})?;
        assert_eq!(seen(&drbd, &here.name)?.connections[0].volumes[0].out_of_sync, Sectors(0));
    }
    Ok(())
}

fn a_verify_needs_an_algorithm_and_can_be_stopped(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(8130)?;
    let refused = drbd.verify(&here.name, V0, Verify::all()).expect_err("no algorithm");
    assert_eq!(refused.refusal(), Some(Refusal::NoVerifyAlg), "{refused}");
    assert!(!drbd.stop_verify(&here.name, V0)?);
    if bench.fake.is_some() {
        return Ok(());
    }
    for spec in [&here, &there] {
        drbd.set_net_options(&spec.name, &spec.net.clone().with("verify-alg", "sha1")?)?;
        // 32 MiB at 1 MiB/s.
        drbd.set_disk_options(&spec.name, V0, &super::disk()?.with("resync-rate", "1M")?)?;
    }
    drbd.verify(&here.name, V0, Verify::all())?;
    assert_eq!(repl(&drbd, &here)?, ReplState::VerifyS);
    let refused = drbd.invalidate_peer(&here.name, V0).expect_err("verify runs");
    assert!(refused.refusal().is_some(), "{refused}");
    assert!(drbd.stop_verify(&here.name, V0)?);
    drbd.wait_verified(&here.name, Deadline::after(Duration::from_secs(10)))?;
    assert_eq!(repl(&drbd, &here)?, ReplState::Established);
    Ok(())
}

fn a_resync_pauses_and_goes_on(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(8140)?;
    assert!(drbd.pause_sync(&here.name, V0)?);
    assert!(!drbd.pause_sync(&here.name, V0)?);
    drbd.invalidate_peer(&here.name, V0)?;
    if bench.fake.is_none() {
        // The fake begins a sync without looking who pauses.
        until(|| Ok(repl(&drbd, &here)? == ReplState::PausedSyncS))?;
    }
    assert!(seen(&drbd, &here.name)?.connections[0].volumes[0].paused.user);
    assert!(seen(&drbd, &there.name)?.connections[0].volumes[0].paused.peer);
    assert!(drbd.resume_sync(&here.name, V0)?);
    assert!(!drbd.resume_sync(&here.name, V0)?);
    assert!(!seen(&drbd, &here.name)?.connections[0].volumes[0].paused.user);
    drbd.wait_synced(&here.name, later(), |_| {}).map_err(Into::into)
}

fn suspended_io_is_told(bench: &Bench) -> Outcome {
    let (drbd, here, _) = bench.synced(8150)?;
    assert!(!drbd.resume_io(&here.name)?);
    assert!(drbd.suspend_io(&here.name)?);
    assert!(!drbd.suspend_io(&here.name)?);
    assert!(seen(&drbd, &here.name)?.suspended.user);
    assert!(drbd.resume_io(&here.name)?);
    assert!(!seen(&drbd, &here.name)?.suspended.any());
    Ok(())
}

fn a_volume_grows_and_shrinks(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(8160)?;
    // What is new is written to both disks, which takes a while on a busy machine.
    let drbd = drbd.with_timeout(Duration::from_secs(120));
    let size = |drbd: &Drbd, spec: &ResourceSpec| seen(drbd, &spec.name).map(|s| s.volumes[0].size.bytes());
    // The limit of the test's disks is an option of the attach; a size that is said goes beyond it.
    let grown = drbd.resize(&here.name, V0, Resize::to(Bytes(48 << 20)).assuming_clean())?;
    assert_eq!(grown.bytes(), Some(Bytes(48 << 20)));
    until(|| Ok(size(&drbd, &there)? == Some(Bytes(48 << 20))))?;
    drbd.wait_synced(&here.name, later(), |_| {})?;
    let shrunk = drbd.resize(&here.name, V0, Resize::to(Bytes(24 << 20)))?;
    assert_eq!(shrunk.bytes(), Some(Bytes(24 << 20)));
    until(|| Ok(size(&drbd, &there)? == Some(Bytes(24 << 20))))?;
    let refused = drbd.resize(&here.name, V0, Resize::to(Bytes(1 << 40))).expect_err("no such disk");
    assert!(refused.refusal().is_some() || refused.to_string().contains("1 TiB"), "{refused}");
    super::demoted(&drbd, &here.name)?;
    let refused = drbd.resize(&here.name, V0, Resize::to(Bytes(32 << 20))).expect_err("no Primary");
    assert_eq!(refused.refusal(), Some(Refusal::ResizeNeedsPrimary), "{refused}");
    Ok(())
}

/// An answer of the peer to an earlier size must not bring that size back.
fn sizes_in_quick_succession_hold(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(8240)?;
    let drbd = drbd.with_timeout(Duration::from_secs(60));
    let size = |spec: &ResourceSpec| seen(&drbd, &spec.name).map(|s| s.volumes[0].size.bytes());
    for mebibytes in [48, 24, 48, 24, 48, 24] {
        let wanted = Bytes(mebibytes << 20);
        let is = drbd.resize(&here.name, V0, Resize::to(wanted).assuming_clean())?;
        assert_eq!(is.bytes(), Some(wanted));
    }
    until(|| Ok(size(&there)? == Some(Bytes(24 << 20))))?;
    assert_eq!(size(&here)?, Some(Bytes(24 << 20)));
    Ok(())
}

fn new_disks_are_declared_the_same(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.up(8170)?;
    assert_eq!(seen(&drbd, &here.name)?.volumes[0].current_uuid & !1, 4);
    drbd.new_current_uuid(&here.name, V0, Bitmap::Clear)?;
    drbd.wait_synced(&here.name, soon(), |_| panic!("it syncs"))?;
    drbd.wait_synced(&there.name, soon(), |_| panic!("it syncs"))?;
    let uuid = |spec: &ResourceSpec| seen(&drbd, &spec.name).map(|s| s.volumes[0].current_uuid & !1);
    assert!(uuid(&here)? != 4 && uuid(&here)? == uuid(&there)?);
    drbd.promote(&here.name, Promote::IfSafe)?;
    Ok(())
}

fn an_outdated_disk_is_not_promoted(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(8180)?;
    let refused = drbd.outdate(&there.name, V0).expect_err("connected");
    assert!(matches!(refused, Error::Precondition { .. }), "{refused}");
    drbd.disconnect(&there.name)?;
    // The kernel may have outdated it as it disconnected from a Primary; to say it again is no error.
    drbd.outdate(&there.name, V0)?;
    assert_eq!(seen(&drbd, &there.name)?.volumes[0].disk, DiskState::Outdated);
    assert!(!drbd.outdate(&there.name, V0)?);
    super::demoted(&drbd, &here.name)?;
    let refused = drbd.promote(&there.name, Promote::IfSafe).expect_err("old data");
    assert_eq!(refused.refusal(), Some(Refusal::NoUpToDateData), "{refused}");
    Ok(())
}

fn options_are_set_one_group_at_a_time(bench: &Bench) -> Outcome {
    let (drbd, here, _) = bench.up(8190)?;
    let net = here.net.clone().with("max-buffers", "8000")?;
    let disk = super::disk()?.with("al-extents", "257")?;
    let resource = drbd::ResourceOptions::new().with("on-no-data-accessible", "suspend-io")?;
    assert!(drbd.set_net_options(&here.name, &net)? && !drbd.set_net_options(&here.name, &net)?);
    assert!(drbd.set_disk_options(&here.name, V0, &disk)? && !drbd.set_disk_options(&here.name, V0, &disk)?);
    assert!(drbd.set_resource_options(&here.name, &resource)?);
    assert!(!drbd.set_resource_options(&here.name, &resource)?);
    let wanted = here.clone().with_net(net).with_disk(disk).with_resource_options(resource);
    assert!(drbd.plan(&wanted)?.is_empty());
    assert!(drbd.set_disk_options(&here.name, Volume(3), &super::disk()?).is_err());
    Ok(())
}

fn a_start_waits_as_long_as_it_should(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.up(8200)?;
    assert_eq!(drbd.start_kind(&here.name, V0)?, StartKind::Normal);
    drbd.remove(&there.name)?;
    let short = Duration::from_millis(300);
    let timeouts = StartTimeouts::forever().with_normal(short);
    let started = std::time::Instant::now();
    let error =
        drbd.wait_connected(&here.name, drbd.start_deadline(&here.name, &timeouts)?).expect_err("alone");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(started.elapsed() >= short && started.elapsed() < Duration::from_secs(10));
    assert_eq!(timeouts.of(StartKind::Degraded), Duration::MAX);
    Ok(())
}

fn roles_are_read_by_themselves(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(8230)?;
    assert_eq!((drbd.role(&here.name)?, drbd.role(&there.name)?), (Role::Primary, Role::Secondary));
    let error = drbd.role(&"nobody".parse()?).expect_err("no such resource");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    // And several resources are compared with one look.
    let both = [here.clone(), there.clone()];
    assert!(!drbd.ensure_all(&both)?);
    super::demoted(&drbd, &here.name)?;
    drbd.remove(&here.name)?;
    drbd.remove(&there.name)?;
    assert!(drbd.ensure_all(&both)? && !drbd.ensure_all(&both)?);
    assert_eq!(drbd.role(&here.name)?, Role::Secondary);
    Ok(())
}

fn a_planned_move_needs_a_peer_that_agrees(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(8210)?;
    let refused = drbd.promote(&there.name, Promote::IfPeerAgrees).expect_err("two");
    assert!(
        matches!(&refused, Error::Precondition { .. }) && refused.to_string().contains("Primary"),
        "{refused}"
    );
    super::demoted(&drbd, &here.name)?;
    drbd.promote(&there.name, Promote::IfPeerAgrees)?;
    drbd.promote(&there.name, Promote::IfPeerAgrees)?;
    super::demoted(&drbd, &there.name)?;
    drbd.disconnect(&here.name)?;
    let refused = drbd.promote(&there.name, Promote::IfPeerAgrees).expect_err("alone");
    assert!(refused.to_string().contains("not connected"), "{refused}");
    Ok(())
}

fn a_disk_that_is_taken_is_refused_with_its_holder(bench: &Bench) -> Outcome {
    let (drbd, _, there) = bench.up(8220)?;
    let mut thief = there.clone();
    thief.name = "thief".parse()?;
    (thief.local, thief.peer) = (super::address(8228), super::address(8229));
    thief.volumes[0].minor = drbd::Minor::new(9)?;
    let error = drbd.ensure(&thief).expect_err("attached elsewhere");
    assert!(error.is_busy(), "{error}");
    assert_eq!(drbd.get(&thief.name)?, None);
    Ok(())
}
