//! Conversion and reencryption, offline, on regular files.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types
)] // It is a test.

mod kit;

use std::ops::ControlFlow;

use kit::{Outcome as Done, QUICK, image, quick1, quick2, slot};
use luks::{
    Bytes, Cipher, Error, Health, OtherKeys, Outcome, Overwrite, ReencryptSpec, Secret, SlotFate, Version,
    Volume, WeakKdf,
};

const HOTZONE: Option<Bytes> = Some(Bytes(1 << 20));

fn spec() -> ReencryptSpec {
    ReencryptSpec::new().with_kdf(QUICK).with_weak_kdf(WeakKdf::Allowed).with_hotzone(Bytes(1 << 20))
}

#[test]
fn both_versions_become_each_other_and_a_backup_is_kept() -> Done {
    let dir = tempfile::tempdir()?;
    let (volume, a) = (Volume::at(image(dir.path(), "disk")?), Secret::from("a"));
    volume.format(&quick1(), &a, Overwrite::Never)?;
    let key = volume.volume_key(&a)?;
    let header = volume.convert(Version::Luks2, dir.path().join("before"))?;
    assert_eq!((header.version, header.cipher.as_str()), (Version::Luks2, "aes-cbc-essiv:sha256"));
    assert!(volume.volume_key(&a)? == key);
    assert_eq!(Volume::at(dir.path().join("before")).read()?.version, Version::Luks1);
    // It is that already.
    volume.convert(Version::Luks2, dir.path().join("none"))?;
    assert!(!dir.path().join("none").exists());
    volume.convert(Version::Luks1, dir.path().join("before2"))?;
    assert!(volume.volume_key(&a)? == key);
    // A crash in the middle: the backup helps.
    let mut bytes = std::fs::read(volume.device())?;
    bytes[..8192].fill(0xee);
    std::fs::write(volume.device(), bytes)?;
    volume.restore(dir.path().join("before2"), dir.path().join("kept"), Overwrite::Always)?;
    assert!(volume.volume_key(&a)? == key);
    Ok(())
}

#[test]
fn an_old_volume_becomes_a_new_one() -> Done {
    let dir = tempfile::tempdir()?;
    let (volume, a, b) = (Volume::at(image(dir.path(), "disk")?), Secret::from("a"), Secret::from("b"));
    volume.format(&quick1(), &a, Overwrite::Never)?;
    volume.add_key(&a, &b, &slot())?;
    let to = spec().with_cipher(Cipher::aes_xts(), 512);
    assert!(matches!(
        volume.reencrypt(&to, &[&a, &b], |_| ControlFlow::Continue(())),
        Err(Error::Unsupported(_))
    ));
    volume.convert(Version::Luks2, dir.path().join("before"))?;
    let old_key = volume.volume_key(&a)?;
    let backup = volume.backup(dir.path().join("old"))?;
    // A key slot would be lost: refused, and nothing is left behind.
    let error = volume.reencrypt(&to, &[&a], |_| ControlFlow::Continue(())).expect_err("b would be lost");
    assert!(matches!(&error, Error::OtherKeys { slots, .. } if *slots == [1]), "{error:?}");
    let error =
        volume.reencrypt(&to, &[&Secret::from("no")], |_| ControlFlow::Continue(())).expect_err("wrong");
    assert!(error.is_wrong_passphrase(), "{error:?}");
    assert_eq!((volume.keyslots()?.len(), volume.reencryption()?), (2, None));
    let mut seen = Vec::new();
    let outcome = volume.reencrypt(&to, &[&a, &b], |p| {
        seen.push(p.done.0);
        assert!(p.done <= p.total);
        ControlFlow::Continue(())
    })?;
    assert_eq!(outcome, Outcome::Finished);
    assert!(seen.len() > 3 && seen.is_sorted(), "{seen:?}");
    let header = volume.read()?;
    assert_eq!((header.cipher.as_str(), header.keyslots.len()), ("aes-xts-plain64", 2));
    assert!(volume.volume_key(&a)? != old_key && volume.volume_key(&a)? == volume.volume_key(&b)?);
    assert_eq!(volume.keyslots()?[0].key_bits, 512);
    // Now, and only now, is the old backup worth nothing.
    assert!(backup.compare(&volume)?.iter().all(|slot| slot.fate == SlotFate::Dead));
    let error = volume.restore(dir.path().join("old"), dir.path().join("kept"), Overwrite::Never);
    assert!(matches!(error, Err(Error::OtherKey { .. })), "{error:?}");
    Ok(())
}

#[test]
fn a_reencryption_stops_between_two_parts_and_goes_on() -> Done {
    let dir = tempfile::tempdir()?;
    let (volume, a, b) = (Volume::at(image(dir.path(), "disk")?), Secret::from("a"), Secret::from("b"));
    volume.format(&quick2(), &a, Overwrite::Never)?;
    volume.add_key(&a, &b, &slot())?;
    let error = volume.resume_reencrypt(&a, HOTZONE, |_| ControlFlow::Continue(())).expect_err("none");
    assert!(matches!(error, Error::Unfinished { .. }), "{error:?}");
    let to = spec().with_other_keys(OtherKeys::Drop);
    let mut parts = 0;
    let stop_after = |n: i32, parts: &mut i32| {
        *parts += 1;
        if *parts >= n { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert_eq!(volume.reencrypt(&to, &[&a], |_| stop_after(3, &mut parts))?, Outcome::Stopped);
    let state = volume.reencryption()?.expect("under way");
    assert_eq!((state.health, state.resilience.as_str()), (Health::Clean, "checksum"));
    let error = volume.reencrypt(&to, &[&a], |_| ControlFlow::Continue(())).expect_err("one is under way");
    assert!(matches!(error, Error::Unfinished { .. }), "{error:?}");
    assert!(volume.resume_reencrypt(&Secret::from("no"), HOTZONE, |_| ControlFlow::Continue(())).is_err());
    let mut parts = 0;
    assert_eq!(volume.resume_reencrypt(&a, HOTZONE, |_| stop_after(2, &mut parts))?, Outcome::Stopped);
    assert_eq!(volume.resume_reencrypt(&a, HOTZONE, |_| ControlFlow::Continue(()))?, Outcome::Finished);
    assert_eq!(volume.reencryption()?, None);
    assert_eq!(volume.keyslots()?.len(), 1, "b was dropped, as said");
    volume.check(&a)?;
    if kit::has_peer() {
        assert!(kit::peer_opens(volume.device(), "a") && !kit::peer_opens(volume.device(), "b"));
    }
    Ok(())
}

#[test]
fn a_progress_that_panics_stops_in_order() -> Done {
    let dir = tempfile::tempdir()?;
    let (volume, a) = (Volume::at(image(dir.path(), "disk")?), Secret::from("a"));
    volume.format(&quick2(), &a, Overwrite::Never)?;
    let outcome = volume.reencrypt(&spec(), &[&a], |_| panic!("in a callback from C"))?;
    assert_eq!(outcome, Outcome::Stopped);
    assert_eq!(volume.resume_reencrypt(&a, HOTZONE, |_| ControlFlow::Continue(()))?, Outcome::Finished);
    Ok(())
}

/// In the progress of a long call other threads get the library.
#[test]
fn a_long_call_lets_others_in() -> Done {
    let dir = tempfile::tempdir()?;
    let (volume, a) = (Volume::at(image(dir.path(), "disk")?), Secret::from("a"));
    let other = Volume::at(image(dir.path(), "other")?);
    volume.format(&quick2(), &a, Overwrite::Never)?;
    other.format(&quick2(), &a, Overwrite::Never)?;
    let mut checked = 0;
    volume.reencrypt(&spec(), &[&a], |_| {
        let opened = std::thread::scope(|scope| scope.spawn(|| other.check(&a)).join().expect("no panic"));
        checked += usize::from(opened.is_ok());
        ControlFlow::Continue(())
    })?;
    assert!(checked > 3, "{checked}");
    Ok(())
}

#[test]
fn a_wipe_tells_how_far_it_is_and_stops() -> Done {
    let dir = tempfile::tempdir()?;
    let device = image(dir.path(), "disk")?;
    let volume = Volume::at(&device);
    let range = Some((Bytes(1 << 20), Bytes(4 << 20)));
    let mut seen = Vec::new();
    let outcome = volume.wipe(luks::WipePattern::Random, range, Overwrite::Never, |p| {
        seen.push(p.done.0);
        ControlFlow::Continue(())
    })?;
    assert_eq!(outcome, Outcome::Finished);
    assert!(!seen.is_empty(), "{seen:?}");
    let bytes = std::fs::read(&device)?;
    let zero = |part: &[u8]| part.iter().all(|b| *b == 0);
    assert!(zero(&bytes[..1 << 20]) && !zero(&bytes[1 << 20..2 << 20]) && !zero(&bytes[4 << 20..5 << 20]));
    assert!(zero(&bytes[5 << 20..]));
    let outcome =
        volume.wipe(luks::WipePattern::Zero, None, Overwrite::Always, |_| ControlFlow::Break(()))?;
    assert_eq!(outcome, Outcome::Stopped);
    Ok(())
}
