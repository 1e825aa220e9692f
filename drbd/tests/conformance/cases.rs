//! Life cycle, roles, syncs, events.

use std::time::{Duration, Instant};

use drbd::{
    ConnState, Deadline, DiskState, Drbd, Error, ErrorKind, Event, Holder, Minor, Promote, Refusal,
    ReplState, ResourceSpec, ResourceState, Role, Step, Volume, VolumeSpec,
};

use super::{Bench, Case, Failure, Outcome, address, later, seen, soon};

pub(crate) const ALL: &[Case] = &[
    ("what_is_not_there_is_an_answer", what_is_not_there_is_an_answer),
    ("a_pair_lives_from_new_disks_to_removal", a_pair_lives_from_new_disks_to_removal),
    ("the_helper_is_set_once", the_helper_is_set_once),
    ("a_second_ensure_changes_nothing", a_second_ensure_changes_nothing),
    ("a_resync_is_followed_to_its_end", a_resync_is_followed_to_its_end),
    ("roles_move_and_never_double", roles_move_and_never_double),
    ("a_device_in_use_is_not_demoted", a_device_in_use_is_not_demoted),
    ("a_primary_is_not_removed", a_primary_is_not_removed),
    ("a_failed_plan_leaves_nothing_behind", a_failed_plan_leaves_nothing_behind),
    ("addresses_change_by_reconnecting", addresses_change_by_reconnecting),
    ("a_disconnected_pair_connects_again", a_disconnected_pair_connects_again),
    ("several_volumes_have_one_role", several_volumes_have_one_role),
    ("a_disk_is_attached_again_after_removal", a_disk_is_attached_again_after_removal),
    ("a_disk_in_use_is_never_written_to", a_disk_in_use_is_never_written_to),
    ("existing_metadata_is_not_overwritten", existing_metadata_is_not_overwritten),
    ("a_watch_tells_what_get_says", a_watch_tells_what_get_says),
    ("different_secrets_do_not_connect", different_secrets_do_not_connect),
    ("waiting_ends_at_the_deadline", waiting_ends_at_the_deadline),
    ("a_list_says_what_get_says", a_list_says_what_get_says),
    (
        "thousands_of_queued_events_end_in_the_kernels_state",
        thousands_of_queued_events_end_in_the_kernels_state,
    ),
    ("a_conflict_is_named_and_nothing_done", a_conflict_is_named_and_nothing_done),
];

fn what_is_not_there_is_an_answer(bench: &Bench) -> Outcome {
    bench.clean()?;
    let (drbd, name) = (bench.drbd()?, "nobody".parse()?);
    assert_eq!(drbd.list()?, []);
    assert_eq!(drbd.get(&name)?, None);
    assert!(!drbd.remove(&name)?);
    for result in [
        drbd.promote(&name, Promote::Force),
        drbd.demote(&name),
        drbd.disconnect(&name).map(drop),
        drbd.wait_connected(&name, soon()),
    ] {
        assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}");
    }
    Ok(())
}

fn a_pair_lives_from_new_disks_to_removal(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.up(7100)?;
    assert!(matches!(drbd.create(&here), Err(Error::AlreadyExists { .. })));
    let state = seen(&drbd, &here.name)?;
    assert_eq!((state.role, state.peer_is_secondary()), (Role::Secondary, Some(true)));
    let volume = state.volume(Volume(0)).expect("one volume");
    assert_eq!((volume.minor, volume.disk), (Minor::new(0)?, DiskState::Inconsistent));
    assert_eq!(volume.disk_path.as_ref(), Some(&bench.disks[0]));
    assert_eq!(volume.size.bytes(), Some(drbd::Bytes(32 << 20)));
    let connection = &state.connections[0];
    assert_eq!((connection.local, connection.peer), (here.local, here.peer));
    assert!(state.is_connected() && !state.is_synced());
    // Nobody has usable data yet.
    let refused = drbd.promote(&here.name, Promote::IfSafe).expect_err("no data");
    assert_eq!(refused.refusal(), Some(Refusal::NoUpToDateData));
    assert!(refused.to_string().contains("Inconsistent"), "{refused}");
    // And nobody waits for a sync that will never begin.
    let refused = drbd.wait_synced(&here.name, later(), |_| {}).expect_err("no source");
    assert_eq!(refused.refusal(), Some(Refusal::NoUpToDateData), "{refused}");
    assert_eq!(drbd.list()?.len(), 2);
    for spec in [&here, &there] {
        assert!(drbd.remove(&spec.name)?);
        assert!(!drbd.remove(&spec.name)?);
    }
    assert_eq!(drbd.list()?, []);
    Ok(())
}

/// What a state says but for the counters, which change and of which a list has fewer.
fn picture(mut state: ResourceState) -> ResourceState {
    state.volumes.iter_mut().for_each(|volume| volume.counters = Default::default());
    for connection in &mut state.connections {
        connection.congested = None;
        connection.volumes.iter_mut().for_each(|volume| volume.counters = Default::default());
    }
    state
}

fn a_list_says_what_get_says(bench: &Bench) -> Outcome {
    // A connection that is being ended changes between two looks.
    let same = |drbd: &Drbd, when: &str| -> Outcome {
        let deadline = soon();
        for mut listed in drbd.list()? {
            let mut got = seen(drbd, &listed.name)?;
            while picture(listed.clone()) != picture(got.clone()) {
                assert!(deadline.pause(Duration::from_millis(50)), "{when}: {listed:?}, {got:?}");
                got = seen(drbd, &listed.name)?;
                listed = drbd.list()?.into_iter().find(|state| state.name == listed.name).expect("there");
            }
        }
        Ok(())
    };
    let (drbd, here, there) = bench.synced(7150)?;
    same(&drbd, "in sync")?;
    assert!(drbd.list()?.iter().all(|state| state.is_synced()));
    drbd.suspend_io(&here.name)?;
    same(&drbd, "suspended")?;
    drbd.resume_io(&here.name)?;
    drbd.disconnect(&there.name)?;
    same(&drbd, "one end StandAlone")?;
    super::demoted(&drbd, &here.name)?;
    drbd.detach(&here.name, Volume(0), drbd::Detach::Graceful)?;
    same(&drbd, "diskless")?;
    // A resource without volumes is told of, and does not hide the others.
    let bare = ResourceSpec::new("bare".parse()?, address(7152), address(7153));
    drbd.ensure(&bare)?;
    let names: Vec<_> = drbd.list()?.into_iter().map(|state| state.name.to_string()).collect();
    assert_eq!(names, ["bare", "here", "there"]);
    same(&drbd, "with a bare one")
}

/// None is lost; or the socket says that some were, and the state is read again.
fn thousands_of_queued_events_end_in_the_kernels_state(bench: &Bench) -> Outcome {
    // On an emulated processor ten thousand take two minutes: there in the full run only.
    let at_once = bench.host.run_dir().is_none() || std::env::var_os("SANKIT_LAB_LONG").is_some();
    let changes: usize = if at_once { 10_000 } else { 2_000 };
    bench.clean()?;
    let drbd = bench.drbd()?;
    let name = "storm".parse()?;
    let bare = ResourceSpec::new("storm".parse()?, address(7156), address(7157));
    let bare = bare.with_volume(VolumeSpec::new(Volume(0), Minor::new(0)?, &bench.disks[0]));
    bench.create_metadata(&bare)?;
    drbd.ensure(&bare)?;
    let mut watch = drbd.watch()?;
    let mut first = watch.next_before(soon())?;
    // Nobody reads meanwhile.
    for _ in 0..changes / 2 {
        drbd.suspend_io(&name)?;
        drbd.resume_io(&name)?;
    }
    drbd.suspend_io(&name)?;
    let (mut state, mut told, mut is_again) = (None, 0, false);
    let deadline = later();
    while let Some(event) = first.take() {
        match event {
            Event::Snapshot(states) => state = states.into_iter().next(),
            Event::Changed { old, new } => {
                if !is_again {
                    assert_eq!(
                        state.as_ref().map(|s| s.suspended),
                        Some(old.suspended),
                        "a hole after {told}"
                    );
                }
                told += usize::from(old.suspended != new.suspended);
                state = Some(*new);
            }
            Event::Resynchronised => is_again = true,
            _ => {}
        }
        let is_over = state.as_ref().is_some_and(|s| s.suspended.user) && (is_again || told > changes);
        // What is still queued comes at once.
        first = watch.next_before(if is_over {
            Deadline::after(Duration::from_millis(500))
        } else {
            deadline
        })?;
    }
    assert!(is_again || told == changes + 1, "{told} of {}", changes + 1);
    let state = state.expect("told");
    assert_eq!(state.suspended, seen(&drbd, &name)?.suspended);
    drbd.resume_io(&name)?;
    Ok(())
}

fn the_helper_is_set_once(bench: &Bench) -> Outcome {
    let drbd = bench.drbd()?;
    let (none, other) = (std::path::Path::new("/nonexistent"), std::path::Path::new("/usr/bin/my-helper"));
    assert!(drbd.set_helper(other)?);
    assert_eq!(drbd.helper()?, other);
    assert!(!drbd.set_helper(other)?);
    assert!(drbd.set_helper(std::path::Path::new("relative")).is_err());
    assert!(drbd.set_helper(none)?);
    Ok(())
}

fn a_second_ensure_changes_nothing(bench: &Bench) -> Outcome {
    let (drbd, here, _) = bench.up(7110)?;
    let before = bench.changes();
    let plan = drbd.plan(&here)?;
    assert!(plan.is_empty(), "{plan}");
    assert!(!drbd.ensure(&here)?);
    assert_eq!(bench.changes(), before);
    Ok(())
}

fn a_resync_is_followed_to_its_end(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.up(7120)?;
    drbd.promote(&here.name, Promote::Force)?;
    let mut looks = Vec::new();
    let mut roles = Vec::new();
    drbd.wait_synced(&here.name, later(), |progress| looks.push(*progress))?;
    roles.push(seen(&drbd, &here.name)?.peer_is_secondary());
    roles.push(seen(&drbd, &there.name)?.peer_is_secondary());
    assert_eq!(roles, [Some(true), Some(false)]);
    assert!(looks.len() >= 2, "{looks:?}");
    for pair in looks.windows(2) {
        assert!(pair[0].done <= pair[1].done && pair[0].left >= pair[1].left, "{pair:?}");
        assert!((0.0..=1.0).contains(&pair[1].done));
        assert_eq!(pair[0].total, pair[1].total);
    }
    if bench.fake.is_none() {
        assert!(looks.iter().any(|look| look.rate.is_some() && look.eta.is_some()), "{looks:?}");
    }
    drbd.wait_synced(&there.name, later(), |_| {})?;
    let state = seen(&drbd, &there.name)?;
    assert!(state.is_synced() && state.resync().is_none());
    let peer = &state.connections[0].volumes[0];
    assert_eq!((peer.repl, peer.out_of_sync.0), (ReplState::Established, 0));
    Ok(())
}

fn roles_move_and_never_double(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(7130)?;
    drbd.promote(&here.name, Promote::IfSafe)?; // It is already.
    let refused = drbd.promote(&there.name, Promote::IfSafe).expect_err("two");
    assert_eq!((refused.refusal(), refused.kind()), (Some(Refusal::TwoPrimaries), ErrorKind::Refused));
    super::demoted(&drbd, &here.name)?;
    super::demoted(&drbd, &here.name)?;
    let started = Instant::now();
    drbd.promote(&there.name, Promote::IfSafe)?;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(seen(&drbd, &there.name)?.is_primary());
    assert!(!seen(&drbd, &here.name)?.is_primary());
    Ok(())
}

fn a_device_in_use_is_not_demoted(bench: &Bench) -> Outcome {
    let (drbd, here, _) = bench.synced(7140)?;
    let minor = here.volumes[0].minor;
    let open = match &bench.fake {
        Some(fake) => {
            fake.hold(minor);
            None
        }
        None => Some(std::fs::File::open(minor.path())?),
    };
    let busy = drbd.demote(&here.name).expect_err("held open");
    assert!(busy.is_busy(), "{busy}");
    if bench.fake.is_none() {
        let us = std::process::id();
        let named = matches!(&busy, Error::Busy { holders, .. }
            if holders.iter().any(|h| matches!(h, Holder::Process { pid, .. } if *pid == us)));
        assert!(named, "{busy}");
    }
    assert!(seen(&drbd, &here.name)?.is_primary());
    drop(open);
    if let Some(fake) = &bench.fake {
        fake.release(minor);
    }
    Ok(drbd.demote(&here.name)?)
}

fn a_primary_is_not_removed(bench: &Bench) -> Outcome {
    let (drbd, here, _) = bench.synced(7150)?;
    let busy = drbd.remove(&here.name).expect_err("Primary");
    assert!(busy.is_busy() && busy.to_string().contains("Primary"), "{busy}");
    assert!(seen(&drbd, &here.name)?.is_primary());
    super::demoted(&drbd, &here.name)?;
    assert!(drbd.remove(&here.name)?);
    Ok(())
}

fn a_failed_plan_leaves_nothing_behind(bench: &Bench) -> Outcome {
    bench.clean()?;
    let (here, there) = bench.pair(7160)?;
    bench.create_metadata(&here)?;
    bench.create_metadata(&there)?;
    let drbd = bench.drbd()?;
    drbd.ensure(&here)?;
    // The last step fails: the address is taken.
    let mut clash = there;
    (clash.local, clash.peer) = (here.local, address(7169));
    let error = drbd.ensure(&clash).expect_err("address in use");
    assert_eq!(error.refusal(), Some(Refusal::LocalAddressInUse), "{error}");
    assert!(
        matches!(&error, Error::Apply { failed }
        if failed.number == failed.total && matches!(failed.undone, drbd::Undone::All(_))),
        "{error:?}"
    );
    assert_eq!(drbd.get(&clash.name)?, None);
    assert!(drbd.get(&here.name)?.is_some());
    Ok(())
}

fn addresses_change_by_reconnecting(bench: &Bench) -> Outcome {
    let (drbd, mut here, mut there) = bench.up(7170)?;
    (here.local, here.peer) = (address(7172), address(7173));
    (there.local, there.peer) = (here.peer, here.local);
    let plan = drbd.plan(&here)?;
    let steps: Vec<_> = plan.steps().iter().collect();
    assert!(matches!(steps.as_slice(), [Step::Disconnect { .. }, Step::Connect { .. }]), "{plan}");
    let undo = drbd.apply(plan)?;
    assert_eq!(undo.into_plan().len(), 2);
    assert!(drbd.ensure(&there)?);
    drbd.wait_connected(&here.name, soon())?;
    assert_eq!(seen(&drbd, &here.name)?.connections[0].local, here.local);
    Ok(())
}

fn a_disconnected_pair_connects_again(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(7180)?;
    assert!(drbd.disconnect(&there.name)?);
    assert!(!drbd.disconnect(&there.name)?);
    let alone = seen(&drbd, &there.name)?;
    assert_eq!((alone.connections.len(), alone.peer_is_secondary()), (0, None));
    let ended = drbd.wait_connected(&there.name, soon()).expect_err("StandAlone");
    assert!(matches!(ended, Error::Disconnected { .. }), "{ended}");
    // The other end tries on.
    let until = soon();
    while seen(&drbd, &here.name)?.connections[0].state != ConnState::Connecting {
        assert!(until.pause(Duration::from_millis(50)), "never Connecting");
    }
    assert_eq!(seen(&drbd, &here.name)?.peer_is_secondary(), None);
    assert!(drbd.ensure(&there)?);
    assert!(!drbd.connect(&there)?);
    drbd.wait_synced(&there.name, later(), |_| {})?;
    assert!(seen(&drbd, &here.name)?.is_primary());
    Ok(())
}

fn several_volumes_have_one_role(bench: &Bench) -> Outcome {
    bench.clean()?;
    let (here, there) = bench.pair(7190)?;
    let more = |minor, disk: usize| -> Result<_, Failure> {
        Ok(VolumeSpec::new(Volume(1), Minor::new(minor)?, &bench.disks[disk]))
    };
    let (here, there) = (here.with_volume(more(2, 2)?), there.with_volume(more(3, 3)?));
    bench.create_metadata(&here)?;
    bench.create_metadata(&there)?;
    let drbd = bench.drbd()?;
    drbd.ensure(&here)?;
    drbd.ensure(&there)?;
    drbd.wait_connected(&here.name, soon())?;
    drbd.promote(&here.name, Promote::Force)?;
    drbd.wait_synced(&here.name, later(), |_| {})?;
    let state = seen(&drbd, &there.name)?;
    let minors: Vec<_> = state.volumes.iter().map(|v| v.minor.get()).collect();
    assert_eq!(minors, [1, 3]);
    // The filtered table's header says the volume where it should say the minor.
    assert_eq!(state.connections[0].volumes.len(), 2);
    assert!(!drbd.ensure(&here)? && !drbd.ensure(&there)?);
    super::demoted(&drbd, &here.name)?;
    drbd.promote(&there.name, Promote::IfSafe)?;
    assert!(!seen(&drbd, &here.name)?.is_primary());
    Ok(())
}

fn a_disk_is_attached_again_after_removal(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(7200)?;
    super::demoted(&drbd, &here.name)?;
    assert!(drbd.remove(&there.name)?);
    // What the kernel had attached has an unclean log until it is replayed.
    assert!(drbd.plan(&there)?.to_string().contains("apply-al"));
    assert!(drbd.ensure(&there)?);
    drbd.wait_synced(&there.name, later(), |_| {})?;
    Ok(())
}

fn a_disk_in_use_is_never_written_to(bench: &Bench) -> Outcome {
    if bench.fake.is_some() {
        return Ok(());
    }
    let (drbd, here, _) = bench.up(7215)?;
    // The kernel has it open exclusively: and so may nobody else.
    let refused =
        drbd::Metadata::create(&bench.host, &here.volumes[0], drbd::Overwrite::Always).expect_err("attached");
    assert!(refused.is_busy(), "{refused}");
    assert!(seen(&drbd, &here.name)?.is_connected());
    Ok(())
}

fn existing_metadata_is_not_overwritten(bench: &Bench) -> Outcome {
    bench.clean()?;
    let (here, _) = bench.pair(7210)?;
    bench.create_metadata(&here)?;
    let volume = &here.volumes[0];
    assert!(drbd::Metadata::exists(&bench.host, &volume.disk, volume.minor)?);
    let found = drbd::Metadata::find(&bench.host, &volume.disk, &volume.meta)?.expect("just made");
    assert_eq!((found.current_uuid, found.is_clean), (4, true));
    let refused =
        drbd::Metadata::create(&bench.host, volume, drbd::Overwrite::Never).expect_err("there is some");
    assert_eq!(refused.kind(), ErrorKind::ExistingData);
    assert!(refused.to_string().contains("DRBD metadata at byte"), "{refused}");
    Ok(())
}

fn a_watch_tells_what_get_says(bench: &Bench) -> Outcome {
    bench.clean()?;
    let drbd = bench.drbd()?;
    let mut watch = drbd.watch()?;
    assert_eq!(watch.next_before(soon())?, Some(Event::Snapshot(Vec::new())));
    let (drbd, here, there) = bench.synced(7220)?;
    let mut roles = vec![];
    let mut replication = vec![];
    let mut last = None;
    let until = soon();
    // Ends when nothing is told for a second.
    while let Some(event) = watch.next_before(Deadline::after(Duration::from_secs(1)).min(until))? {
        let state = match event {
            Event::Created(state) => *state,
            Event::Changed { old, new } => {
                assert_eq!(old.name, new.name);
                assert_ne!(old, new);
                *new
            }
            Event::Helper(_) => continue,
            other => return Err(drbd::ParseError::new("event", format!("{other:?}"), "not expected").into()),
        };
        if state.name == here.name {
            roles.push(state.role);
            replication.extend(state.connections.iter().flat_map(|c| &c.volumes).map(|v| v.repl));
            last = Some(state);
        }
    }
    roles.dedup();
    assert_eq!(roles, [Role::Secondary, Role::Primary]);
    assert!(replication.contains(&ReplState::SyncSource), "{replication:?}");
    let (told, read) = (last.expect("events"), seen(&drbd, &here.name)?);
    assert_eq!(told.is_synced(), read.is_synced());
    assert_eq!((told.role, told.volumes[0].disk), (read.role, read.volumes[0].disk));
    assert_eq!(told.connections[0].peer_role, read.connections[0].peer_role);
    super::demoted(&drbd, &here.name)?;
    drbd.remove(&here.name)?;
    drbd.remove(&there.name)?;
    let mut removed = 0;
    while let Some(event) = watch.next_before(Deadline::after(Duration::from_secs(1)))? {
        removed += usize::from(matches!(event, Event::Removed(_)));
    }
    assert_eq!(removed, 2);
    Ok(())
}

fn different_secrets_do_not_connect(bench: &Bench) -> Outcome {
    bench.clean()?;
    let (here, there) = bench.pair(7230)?;
    let net = there.net.clone().with_shared_secret(&drbd::Secret::from("another"))?;
    let there = there.with_net(net);
    bench.create_metadata(&here)?;
    bench.create_metadata(&there)?;
    let drbd = bench.drbd()?;
    drbd.ensure(&here)?;
    drbd.ensure(&there)?;
    let outcomes =
        [&here, &there].map(|spec| drbd.wait_connected(&spec.name, soon().or_after(Duration::from_secs(10))));
    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    assert!(outcomes.iter().any(|o| matches!(o, Err(Error::Disconnected { .. }))), "{outcomes:?}");
    // With the right secret the one that gave up comes back.
    let right = there.clone().with_net(here.net.clone());
    assert!(drbd.ensure(&right)?);
    drbd.ensure(&here)?;
    drbd.wait_connected(&right.name, soon())?;
    Ok(())
}

fn waiting_ends_at_the_deadline(bench: &Bench) -> Outcome {
    bench.clean()?;
    let (here, _) = bench.pair(7240)?;
    bench.create_metadata(&here)?;
    let drbd = bench.drbd()?;
    drbd.create(&here)?;
    let started = Instant::now();
    let late =
        drbd.wait_connected(&here.name, Deadline::after(Duration::from_millis(700))).expect_err("no peer");
    assert!(matches!(late, Error::Timeout { .. }) && late.is_retryable(), "{late}");
    assert!(late.to_string().contains("state: Secondary"), "{late}");
    assert!((600..5000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    Ok(())
}

fn a_conflict_is_named_and_nothing_done(bench: &Bench) -> Outcome {
    let (drbd, here, _) = bench.up(7250)?;
    let before = bench.changes();
    let mut other = here.clone();
    other.volumes[0].disk = bench.disks[3].clone();
    let error = drbd.ensure(&other).expect_err("another disk");
    assert!(
        matches!(&error, Error::Conflict { what, .. } if what.contains(&*bench.disks[3].to_string_lossy())),
        "{error}"
    );
    let mut other = here;
    other.volumes[0].minor = Minor::new(9)?;
    assert_eq!(drbd.ensure(&other).expect_err("another minor").kind(), ErrorKind::Conflict);
    assert_eq!(bench.changes(), before);
    Ok(())
}
