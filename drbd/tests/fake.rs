//! The conformance suite on the fake, and what only a fake can show: counted requests, lost events, refusals on purpose.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::print_stdout, clippy::disallowed_types)]

mod conformance;

use std::time::Duration;

use conformance::{Bench, Failure, Outcome, seen, soon};
use drbd::fake::FakeDrbd;
use drbd::{
    Deadline, Drbd, Error, Event, HelperEvent, Host, KillPoint, Minor, Phase, Promote, Refusal, ResourceSpec,
    Role, Volume, VolumeSpec,
};

#[test]
fn the_conformance_suite_holds_on_the_fake() {
    for (name, case) in conformance::all() {
        let bench = Bench::fake();
        case(&bench).unwrap_or_else(|failure| panic!("{name}: {failure}"));
    }
}

#[test]
fn the_takeover_path_takes_two_requests() -> Outcome {
    let bench = Bench::fake();
    let (drbd, here, _) = bench.synced(7000)?;
    let fake = bench.fake.as_ref().expect("a fake");
    let requests = |f: &dyn Fn() -> drbd::Result<()>| -> Result<usize, Failure> {
        let before = fake.requests();
        f()?;
        Ok(fake.requests() - before)
    };
    assert_eq!(requests(&|| drbd.demote(&here.name))?, 2);
    assert_eq!(requests(&|| drbd.promote(&here.name, Promote::IfSafe))?, 2);
    assert_eq!(requests(&|| drbd.get(&here.name).map(drop))?, 4);
    assert_eq!(requests(&|| drbd.list().map(drop))?, 1);
    assert_eq!(requests(&|| drbd.get(&"nobody".parse()?).map(drop))?, 1);
    Ok(())
}

#[test]
fn a_transient_state_is_waited_for_and_no_longer_than_the_deadline() -> Outcome {
    let bench = Bench::fake();
    let (drbd, here, _) = bench.synced(7010)?;
    let fake = bench.fake.as_ref().expect("a fake");
    fake.refuse_next(&[-18, -18]);
    drbd.demote(&here.name)?;
    fake.refuse_next(&[-18; 50]);
    let impatient = drbd.with_timeout(Duration::from_millis(300));
    let refused = impatient.promote(&here.name, Promote::IfSafe).expect_err("for ever transient");
    assert_eq!(refused.refusal(), Some(Refusal::InTransientState));
    assert!(refused.is_retryable());
    Ok(())
}

#[test]
fn a_kernel_that_hangs_does_not_hold_the_caller() -> Outcome {
    let bench = Bench::fake();
    let (drbd, here, _) = bench.synced(7015)?;
    let fake = bench.fake.as_ref().expect("a fake");
    fake.hang_next(Duration::from_secs(2));
    let impatient = drbd.clone().with_timeout(Duration::from_millis(200));
    let started = std::time::Instant::now();
    // The second call waits behind the first in the kernel, on a thread of its own.
    for _ in 0..2 {
        let late = impatient.demote(&here.name).expect_err("hangs");
        assert!(matches!(late, Error::Timeout { .. }) && late.is_retryable(), "{late}");
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    // Patience is rewarded; what timed out before it began was not begun later.
    drbd.demote(&here.name)?;
    assert_eq!(seen(&drbd, &here.name)?.role, Role::Secondary);
    Ok(())
}

#[test]
fn one_volume_that_refuses_takes_the_others_back() -> Outcome {
    let bench = Bench::fake();
    let (here, _) = bench.pair(7020)?;
    let here = here.with_volume(VolumeSpec::new(Volume(1), Minor::new(2)?, "/dev/vdc"));
    bench.create_metadata(&here)?;
    let drbd = bench.drbd()?;
    drbd.ensure(&here)?;
    bench.fake.as_ref().expect("a fake").refuse_next(&[101, -7]);
    let refused = drbd.promote(&here.name, Promote::Force).expect_err("the second");
    assert_eq!(refused.refusal(), Some(Refusal::PeerNotOutdated));
    assert_eq!(seen(&drbd, &here.name)?.role, Role::Secondary);
    Ok(())
}

#[test]
fn each_broken_plan_is_taken_back_or_completed_by_the_next() -> Outcome {
    for n in 0..5 {
        let bench = Bench::fake();
        let (here, _) = bench.pair(7030)?;
        bench.create_metadata(&here)?;
        // The kernel refuses step n + 1: nothing stays.
        let broken = Drbd::on(&bench.host.clone().with_kill_point(KillPoint::FailAfter(n)))?;
        assert!(matches!(broken.ensure(&here), Err(Error::Apply { .. })), "step {n}");
        assert_eq!(bench.drbd()?.list()?, []);
        // The process dies after step n: the next run completes the work.
        let killed = Drbd::on(&bench.host.clone().with_kill_point(KillPoint::StopAfter(n)))?;
        assert!(killed.ensure(&here).is_err(), "step {n}");
        let drbd = bench.drbd()?;
        assert!(drbd.ensure(&here)?);
        assert!(!drbd.ensure(&here)?);
    }
    Ok(())
}

#[test]
fn lost_events_are_made_up_for() -> Outcome {
    let bench = Bench::fake();
    let (drbd, here, _) = bench.synced(7040)?;
    let fake = bench.fake.as_ref().expect("a fake");
    let mut watch = drbd.watch()?;
    assert!(matches!(watch.next_before(soon())?, Some(Event::Snapshot(all)) if all.len() == 2));
    // The first event tells where the numbers stand.
    fake.call_helper(&here.name, "out-of-sync");
    for phase in [Phase::Call, Phase::Response(0xffff_fffe)] {
        let event = watch.next_before(soon())?;
        let Some(Event::Helper(HelperEvent { name, phase: told, .. })) = event else { panic!("{event:?}") };
        assert_eq!((name.as_str(), told), ("out-of-sync", phase));
    }
    fake.lose_events(1);
    drbd.demote(&here.name)?;
    let mut events = Vec::new();
    while let Some(event) = watch.next_before(Deadline::after(Duration::from_millis(600)))? {
        events.push(event);
    }
    assert!(events.contains(&Event::Resynchronised), "{events:?}");
    let demoted = |event: &Event| {
        matches!(event, Event::Changed { old, new }
        if new.name == here.name && old.is_primary() && !new.is_primary())
    };
    assert!(events.iter().any(demoted), "{events:?}");
    Ok(())
}

#[test]
fn an_unloaded_module_is_told_and_loaded_again() -> Outcome {
    let bench = Bench::fake();
    let (drbd, here, _) = bench.up(7050)?;
    let mut watch = drbd.watch()?;
    assert!(matches!(watch.next_before(soon())?, Some(Event::Snapshot(_))));
    let fake = bench.fake.as_ref().expect("a fake");
    fake.unload();
    let mut told = Vec::new();
    while let Some(event) = watch.next_before(Deadline::after(Duration::from_millis(300)))? {
        told.push(event);
    }
    assert!(told.contains(&Event::ModuleUnloaded), "{told:?}");
    assert!(matches!(drbd.get(&here.name), Err(Error::NotLoaded { .. })));
    assert_eq!(bench.drbd()?.list()?, []);
    assert_eq!(drbd.get(&here.name)?, None);
    Ok(())
}

#[test]
fn two_nodes_survive_a_power_cut() -> Outcome {
    let (alpha, beta) = FakeDrbd::pair();
    let (a, b) = ("10.0.0.1:7801".parse()?, "10.0.0.2:7801".parse()?);
    let mut nodes = Vec::new();
    for (fake, local, peer) in [(&alpha, a, b), (&beta, b, a)] {
        fake.add_disk("/dev/vda", drbd::Bytes(256 << 20));
        let volume = VolumeSpec::new(Volume(0), Minor::new(0)?, "/dev/vda");
        drbd::Metadata::create(&fake.host(), &volume, drbd::Overwrite::Never)?;
        let spec = ResourceSpec::new("r0".parse()?, local, peer).with_volume(volume);
        let drbd = Drbd::on(&fake.host())?;
        drbd.ensure(&spec)?;
        nodes.push((drbd, spec));
    }
    let [(here, spec), (there, theirs)] = nodes.as_slice() else { panic!("two nodes") };
    here.promote(&spec.name, Promote::Force)?;
    alpha.finish_sync(&spec.name);
    there.wait_synced(&spec.name, soon(), |_| {})?;
    assert_eq!(seen(there, &spec.name)?.peer_is_secondary(), Some(false));
    alpha.power_cut();
    assert_eq!(seen(there, &spec.name)?.peer_is_secondary(), None);
    there.promote(&spec.name, Promote::IfSafe)?;
    // The one that died comes back as the sync's target: it replays its log and takes what it missed.
    assert!(here.ensure(spec)?);
    assert_eq!(seen(here, &spec.name)?.role, Role::Secondary);
    alpha.finish_sync(&spec.name);
    here.wait_synced(&spec.name, soon(), |_| {})?;
    assert!(!there.ensure(theirs)?);
    Ok(())
}

#[test]
fn a_split_brain_ends_in_standalone_and_discarding_heals_it() -> Outcome {
    let bench = Bench::fake();
    let (drbd, here, there) = bench.synced(7060)?;
    assert!(drbd.disconnect(&there.name)?);
    drbd.promote(&there.name, Promote::IfSafe)?;
    drbd.demote(&there.name)?;
    drbd.demote(&here.name)?;
    drbd.ensure(&there)?;
    let split = drbd.wait_connected(&there.name, soon()).expect_err("split brain");
    assert!(matches!(split, Error::Disconnected { .. }), "{split}");
    let victim = there.clone().with_net(there.net.clone().with_discard_my_data());
    assert!(drbd.connect(&victim)?);
    drbd.ensure(&here)?;
    drbd.wait_synced(&here.name, soon(), |_| {})?;
    Ok(())
}

#[test]
fn a_host_without_a_kernel_says_so() {
    let error = Drbd::on(&Host::at("/nonexistent")).expect_err("no netlink");
    assert!(matches!(error, Error::Netlink { .. }), "{error}");
}

#[cfg(feature = "tokio")]
#[test]
fn events_come_to_tokio_without_blocking_it() -> Outcome {
    let bench = Bench::fake();
    bench.clean()?;
    let (drbd, (here, _)) = (bench.drbd()?, bench.pair(7040)?);
    bench.create_metadata(&here)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut events = drbd::Events::new(drbd.watch()?)?;
        assert!(matches!(events.next().await?, Event::Snapshot(all) if all.is_empty()));
        // One thread: what is waited for can only come if waiting does not hold it.
        let (drbd, spec) = (drbd.clone(), here.clone());
        let making = async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drbd.ensure(&spec)
        };
        let until_made = async {
            loop {
                if let Event::Created(state) = events.next().await? {
                    return Ok::<_, Error>(state.name);
                }
            }
        };
        let (made, seen) = tokio::join!(making, until_made);
        assert!(made?);
        assert_eq!(seen?, here.name);
        Ok(())
    })
}
