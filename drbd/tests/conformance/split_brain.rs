//! Both nodes write without each other, and what comes of it.

use std::time::Duration;

use drbd::{Drbd, Error, Event, Impact, Promote, Recovery, Relation, ResourceSpec, Side, SplitBrain, Volume};

use super::{Bench, Case, Failure, Outcome, later, seen, soon};

pub(crate) const ALL: &[Case] = &[
    ("a_split_brain_is_told_and_both_sides_recover", a_split_brain_is_told_and_both_sides_recover),
    ("a_primary_is_no_victim", a_primary_is_no_victim),
    ("a_recovery_without_a_split_brain_is_refused", a_recovery_without_a_split_brain_is_refused),
];

/// Writes a block of this byte to the volume of a Primary.
fn write(bench: &Bench, spec: &ResourceSpec, byte: u8) -> Outcome {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    if bench.fake.is_some() {
        return Ok(());
    }
    let path = spec.volumes[0].minor.path();
    let device = std::fs::OpenOptions::new().write(true).custom_flags(0o4000).open(path)?;
    device.write_all_at(&[byte; 4096], 1 << 20)?;
    Ok(device.sync_all()?)
}

fn read(bench: &Bench, spec: &ResourceSpec) -> Result<u8, Failure> {
    use std::os::unix::fs::FileExt;
    if bench.fake.is_some() {
        return Ok(1);
    }
    let mut byte = [0];
    std::fs::File::open(spec.volumes[0].minor.path())?.read_exact_at(&mut byte, 1 << 20)?;
    Ok(byte[0])
}

/// Two nodes that have both written alone and are not connected, both Secondary.
fn split(bench: &Bench, port: u16) -> Result<(Drbd, ResourceSpec, ResourceSpec), Failure> {
    let (drbd, here, there) = bench.synced(port)?;
    drbd.disconnect(&there.name)?;
    drbd.disconnect(&here.name)?;
    write(bench, &here, 1)?;
    // Disconnected from a Primary, its data is old (drbd_disconnect): a person says that it is not.
    drbd.promote(&there.name, Promote::Force)?;
    write(bench, &there, 2)?;
    super::demoted(&drbd, &there.name)?;
    super::demoted(&drbd, &here.name)?;
    Ok((drbd, here, there))
}

fn relation(drbd: &Drbd, here: &ResourceSpec, there: &ResourceSpec) -> Result<Relation, Failure> {
    let (mine, theirs) = (drbd.generations(&here.name)?, drbd.generations(&there.name)?);
    assert_eq!((mine.len(), theirs.len()), (1, 1));
    Ok(mine[0].relation(&theirs[0]))
}

fn a_split_brain_is_told_and_both_sides_recover(bench: &Bench) -> Outcome {
    let (drbd, here, there) = split(bench, 8300)?;
    assert_eq!(relation(&drbd, &here, &there)?, Relation::SplitBrain);
    // One side alone can only suspect it.
    assert_eq!(drbd.suspected_split_brain(&here.name)?.len(), 1);
    let mut watch = drbd.watch()?;
    assert!(matches!(watch.next_before(soon())?, Some(Event::Snapshot(_))));
    drbd.connect(&here)?;
    drbd.connect(&there)?;
    let mut told: Vec<SplitBrain> = Vec::new();
    while told.len() < 2 {
        match watch.next_before(soon())? {
            Some(Event::SplitBrain(split)) => told.push(split),
            Some(_) => {}
            None => panic!("not told: {told:?}"),
        }
    }
    told.sort_by_key(|split| split.resource.to_string());
    assert_eq!((&told[0].resource, told[0].volume), (&here.name, Some(Volume(0))));
    assert_eq!(told[1].resource, there.name);
    for spec in [&here, &there] {
        let until = soon();
        while !seen(&drbd, &spec.name)?.connections.is_empty() {
            assert!(until.pause(Duration::from_millis(20)), "still has a connection");
        }
        assert_eq!(drbd.suspected_split_brain(&spec.name)?.len(), 1);
    }
    // The dry run, then both sides at once. The configuration of the connection is gone, and that is no obstacle.
    let plan = drbd.plan_recovery(&there, Side::Victim)?;
    assert_eq!(plan.impact(), Impact::DestroysData);
    assert!(plan.to_string().contains("discard-my-data"), "{plan}");
    assert_ne!(drbd.plan_recovery(&here, Side::Survivor)?.impact(), Impact::DestroysData);
    std::thread::scope(|scope| -> Outcome {
        let victim = scope.spawn(|| drbd.recover(&there, Side::Victim, later(), |_| {}));
        let mut phases = Vec::new();
        drbd.recover(&here, Side::Survivor, later(), |phase| phases.push(*phase))?;
        assert_eq!((phases.first(), phases.last()), (Some(&Recovery::Waiting), Some(&Recovery::Done)));
        Ok(victim.join().expect("no panic")?)
    })?;
    assert_eq!(relation(&drbd, &here, &there)?, Relation::Same);
    assert!(drbd.suspected_split_brain(&here.name)?.is_empty());
    drbd.promote(&there.name, Promote::IfSafe)?;
    assert_eq!(read(bench, &there)?, 1, "the survivor's data");
    Ok(())
}

fn a_primary_is_no_victim(bench: &Bench) -> Outcome {
    let (drbd, here, there) = split(bench, 8310)?;
    drbd.promote(&there.name, Promote::IfSafe)?;
    let before = bench.changes();
    let refused = drbd.recover(&there, Side::Victim, soon(), |_| {}).expect_err("Primary");
    assert!(
        matches!(&refused, Error::Precondition { .. }) && refused.to_string().contains("demote"),
        "{refused}"
    );
    assert_eq!(bench.changes(), before);
    assert!(seen(&drbd, &there.name)?.is_primary());
    // A survivor may be.
    assert!(!drbd.plan_recovery(&there, Side::Survivor)?.is_empty());
    // Two survivors do not agree.
    let connected = drbd.connect(&here)?;
    let error = drbd.recover(&there, Side::Survivor, soon(), |_| {}).expect_err("no victim");
    assert!(connected && matches!(error, Error::Disconnected { .. }), "{error}");
    Ok(())
}

fn a_recovery_without_a_split_brain_is_refused(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.synced(8320)?;
    assert!(drbd.suspected_split_brain(&here.name)?.is_empty());
    let refused = drbd.recover(&there, Side::Victim, soon(), |_| {}).expect_err("all is well");
    assert!(refused.to_string().contains("no split brain"), "{refused}");
    assert_eq!(relation(&drbd, &here, &there)?, Relation::Same);
    Ok(())
}
