//! Metadata that this crate makes, as the kernel takes it.

use drbd::{
    Bytes, DiskState, Drbd, ErrorKind, MetaDisk, Metadata, MetadataSpec, Overwrite, Promote, Sectors, Volume,
};

use super::{Bench, Case, Outcome, seen};

pub(crate) const ALL: &[Case] = &[
    ("new_metadata_is_attached_and_used", new_metadata_is_attached_and_used),
    ("the_kernel_gives_the_size_that_was_calculated", the_kernel_gives_the_size_that_was_calculated),
    ("metadata_moves_to_another_disk_as_text", metadata_moves_to_another_disk_as_text),
    ("an_attached_disk_gets_no_metadata", an_attached_disk_gets_no_metadata),
];

/// One node alone, its disk without limits.
fn alone(
    bench: &Bench,
    port: u16,
    spec: &MetadataSpec,
) -> Result<(Drbd, drbd::ResourceSpec), super::Failure> {
    bench.clean()?;
    let (here, _) = bench.pair(port)?;
    let here = here.with_disk(drbd::DiskOptions::new());
    Metadata::create_as(&bench.host, &here.volumes[0], spec, Overwrite::Always)?;
    let drbd = bench.drbd()?;
    drbd.ensure(&here)?;
    Ok((drbd, here))
}

fn new_metadata_is_attached_and_used(bench: &Bench) -> Outcome {
    for spec in [MetadataSpec::v08(), MetadataSpec::v08().with_stripes(2, 8)] {
        let (drbd, here) = alone(bench, 7600, &spec)?;
        assert_eq!(seen(&drbd, &here.name)?.volumes[0].disk, DiskState::Inconsistent);
        drbd.promote(&here.name, Promote::Force)?;
        assert_eq!(seen(&drbd, &here.name)?.volumes[0].disk, DiskState::UpToDate);
        super::demoted(&drbd, &here.name)?;
        drbd.remove(&here.name)?;
        let volume = &here.volumes[0];
        let found = Metadata::find(&bench.host, &volume.disk, &volume.meta)?.expect("there");
        assert!(!found.is_clean && found.current_uuid != 4 && found.size.0 > 0, "{found:?}");
        assert_eq!(found.stripes, u32::from(spec.stripes));
        // The log must be replayed before the kernel takes the disk again; a Secondary's has nothing to say.
        let replayed =
            Metadata::apply_al(&bench.host, &volume.disk, &volume.meta)?.expect("it was not clean");
        assert_eq!(replayed.extents, 0);
        assert_eq!(Metadata::apply_al(&bench.host, &volume.disk, &volume.meta)?, None);
        drbd.ensure(&here)?;
        assert_eq!(seen(&drbd, &here.name)?.volumes[0].disk, DiskState::UpToDate);
    }
    Ok(())
}

fn the_kernel_gives_the_size_that_was_calculated(bench: &Bench) -> Outcome {
    let (drbd, here) = alone(bench, 7610, &MetadataSpec::v08())?;
    let volume = seen(&drbd, &here.name)?.volumes[0].clone();
    // The fake's disks are smaller than they say.
    let disk = Bytes(256 << 20);
    let usable = MetadataSpec::v08().usable(disk).expect("large enough");
    // A disk that has never met its peer has the size that its metadata leaves.
    drbd.promote(&here.name, Promote::Force)?;
    let size = seen(&drbd, &here.name)?.volumes[0].size;
    assert_eq!(size.bytes(), Some(usable), "{volume:?}");
    assert_eq!(MetadataSpec::v08().loss(disk), Some(Bytes(44 << 10)));
    Ok(())
}

fn metadata_moves_to_another_disk_as_text(bench: &Bench) -> Outcome {
    let (drbd, here) = alone(bench, 7620, &MetadataSpec::v08())?;
    drbd.promote(&here.name, Promote::Force)?;
    let uuid = seen(&drbd, &here.name)?.volumes[0].current_uuid & !1;
    super::demoted(&drbd, &here.name)?;
    drbd.remove(&here.name)?;
    let volume = &here.volumes[0];
    let mut text = Vec::new();
    let error = Metadata::dump(&bench.host, &volume.disk, &volume.meta, &mut text).expect_err("unclean");
    assert!(error.to_string().contains("replay it first"), "{error}");
    Metadata::apply_al(&bench.host, &volume.disk, &volume.meta)?;
    if bench.fake.is_some() {
        // The fake's disks have an image of their ends only, too small for what the superblock says.
        return Ok(());
    }
    assert!(Metadata::dump(&bench.host, &volume.disk, &volume.meta, &mut text)?);
    let text = String::from_utf8(text)?;
    let mut moved = here.clone();
    moved.volumes[0].disk = bench.disks[3].clone();
    Metadata::create(&bench.host, &moved.volumes[0], Overwrite::Always)?;
    let refused = Metadata::restore(&bench.host, &moved.volumes[0], &text, Overwrite::Never);
    assert_eq!(refused.expect_err("there is some").kind(), ErrorKind::ExistingData);
    Metadata::restore(&bench.host, &moved.volumes[0], &text, Overwrite::Always)?;
    drbd.ensure(&moved)?;
    let state = seen(&drbd, &here.name)?;
    assert_eq!((state.volumes[0].disk, state.volumes[0].current_uuid & !1), (DiskState::UpToDate, uuid));
    assert!(state.volume(Volume(0)).is_some_and(|v| v.size > Sectors(0)));
    drbd.remove(&here.name)?;
    assert!(Metadata::remove(&bench.host, &bench.disks[3], &MetaDisk::Internal)?);
    let error = drbd.ensure(&moved).expect_err("no metadata");
    assert_eq!(error.refusal(), Some(drbd::Refusal::NoMetaData), "{error}");
    Ok(())
}

fn an_attached_disk_gets_no_metadata(bench: &Bench) -> Outcome {
    if bench.fake.is_some() {
        return Ok(());
    }
    let (drbd, here) = alone(bench, 7630, &MetadataSpec::v08())?;
    let volume = &here.volumes[0];
    for refused in [
        Metadata::create(&bench.host, volume, Overwrite::Always).map(drop),
        Metadata::remove(&bench.host, &volume.disk, &volume.meta).map(drop),
        Metadata::apply_al(&bench.host, &volume.disk, &volume.meta).map(drop),
    ] {
        let error = refused.expect_err("attached");
        assert!(error.is_busy(), "{error}");
    }
    assert!(seen(&drbd, &here.name)?.volumes[0].disk_path.is_some());
    Ok(())
}
