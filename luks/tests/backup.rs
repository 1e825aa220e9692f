//! Headers kept and restored, on regular files.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types
)] // It is a test.

mod kit;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kit::{Outcome, image, quick1, quick2, slot};
use luks::{Backup, Error, FormatSpec, Key, Overwrite, Secret, SlotFate, Version, Volume};

struct Bench {
    dir: tempfile::TempDir,
    volume: Volume,
    a: Secret,
}

impl Bench {
    fn new(spec: &FormatSpec) -> Result<Self, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let volume = Volume::at(image(dir.path(), "disk")?);
        let a = Secret::from("a");
        volume.format(spec, &a, Overwrite::Never)?;
        Ok(Self { dir, volume, a })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).expect("a directory");
        let mut names: Vec<_> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn flip(path: &Path, at: usize) -> std::io::Result<()> {
    let mut bytes = std::fs::read(path)?;
    bytes[at] ^= 0xff;
    std::fs::write(path, bytes)
}

#[test]
fn a_backup_has_a_manifest_and_leaves_nothing_else() -> Outcome {
    for spec in [quick2(), quick1()] {
        let bench = Bench::new(&spec)?;
        let backup = bench.volume.backup(bench.path("b"))?;
        assert_eq!(bench.names(), ["b", "b.manifest", "disk"]);
        for name in ["b", "b.manifest"] {
            assert_eq!(std::fs::metadata(bench.path(name))?.permissions().mode() & 0o777, 0o600);
        }
        assert!(backup.manifest && backup.size == std::fs::metadata(bench.path("b"))?.len());
        assert_eq!(Backup::open(bench.path("b"))?, backup);
        let manifest = std::fs::read_to_string(bench.path("b.manifest"))?;
        assert!(manifest.contains(backup.uuid.as_str()) && manifest.contains(&backup.sha256), "{manifest}");
        assert!(matches!(bench.volume.backup(bench.path("b")), Err(Error::FileExists { .. })));
        // A directory that is not there: nothing is left either.
        assert!(bench.volume.backup(bench.path("none/b")).is_err());
        assert_eq!(bench.names(), ["b", "b.manifest", "disk"]);
        // Any changed byte is seen, also in the key slots, which have no checksum of their own.
        for at in [100, 0x8000 + 5000, 0x9000] {
            flip(&bench.path("b"), at)?;
            let error = Backup::open(bench.path("b")).expect_err("changed");
            assert!(matches!(error, Error::Damaged { .. }), "{at}: {error}");
            flip(&bench.path("b"), at)?;
        }
        Backup::open(bench.path("b"))?;
    }
    Ok(())
}

#[test]
fn a_backup_tells_which_keys_it_still_opens() -> Outcome {
    for spec in [quick2(), quick1()] {
        let bench = Bench::new(&spec)?;
        let (a, b, c) = (&bench.a, Secret::from("b"), Secret::from("c"));
        bench.volume.add_key(a, &b, &slot())?;
        let backup = bench.volume.backup(bench.path("b"))?;
        let fates = |backup: &Backup| -> luks::Result<Vec<_>> {
            Ok(backup.compare(&bench.volume)?.into_iter().map(|s| (s.number, s.fate)).collect())
        };
        assert_eq!(fates(&backup)?, [(0, SlotFate::Current), (1, SlotFate::Current)]);
        bench.volume.change_key(&b, &c, &slot())?;
        assert_eq!(fates(&backup)?, [(0, SlotFate::Current), (1, SlotFate::Revoked)]);
        // That is what revoked means: not through the disk, but through the copy.
        assert!(bench.volume.check(&b).is_err());
        assert_eq!(backup.check(&b)?, Some(1));
        assert!(backup.check(&c).expect_err("too new").is_wrong_passphrase());
        let other = Bench::new(&spec)?;
        assert!(matches!(backup.compare(&other.volume), Err(Error::OtherVolume { .. })));
    }
    Ok(())
}

#[test]
fn a_destroyed_header_is_restored() -> Outcome {
    for spec in [quick2(), quick1()] {
        let bench = Bench::new(&spec)?;
        let (a, b) = (&bench.a, Secret::from("b"));
        let backup = bench.volume.backup(bench.path("b"))?;
        let key = bench.volume.volume_key(a)?;
        bench.volume.change_key(a, &b, &slot())?;
        // Of the same volume: no force is needed. The old passphrase is valid again.
        let header = bench.volume.restore(bench.path("b"), bench.path("kept"), Overwrite::Never)?;
        assert_eq!(header.uuid, backup.uuid);
        assert!(bench.volume.volume_key(a)? == key && bench.volume.check(&b).is_err());
        // What was there is kept, and is a header that opens with the other.
        assert!(Volume::at(bench.path("kept")).check(&b)?.is_some());
        assert_eq!(std::fs::metadata(bench.path("kept"))?.permissions().mode() & 0o777, 0o600);
        // Nothing there that says which volume this is: only by force.
        let disk = bench.path("disk");
        let mut bytes = std::fs::read(&disk)?;
        bytes[..1 << 20].fill(0);
        std::fs::write(&disk, &bytes)?;
        let error = bench.volume.restore(bench.path("b"), bench.path("kept2"), Overwrite::Never);
        assert!(matches!(error, Err(Error::OtherVolume { .. })), "{error:?}");
        assert!(std::fs::read(&disk)? == bytes, "nothing was written");
        bench.volume.restore(bench.path("b"), bench.path("kept2"), Overwrite::Always)?;
        assert!(bench.volume.volume_key(a)? == key);
    }
    Ok(())
}

#[test]
fn a_header_is_not_restored_onto_another_volume() -> Outcome {
    let (one, two) = (Bench::new(&quick2())?, Bench::new(&quick2())?);
    one.volume.backup(one.path("b"))?;
    let before = std::fs::read(two.path("disk"))?;
    let error = two.volume.restore(one.path("b"), two.path("kept"), Overwrite::Never).expect_err("another");
    assert!(matches!(error, Error::OtherVolume { .. }), "{error}");
    // The same UUID with another key: formatted anew, or reencrypted since.
    let uuid = one.volume.read()?.uuid;
    two.volume.set_uuid(&uuid)?;
    let error =
        two.volume.restore(one.path("b"), two.path("kept"), Overwrite::Never).expect_err("another key");
    assert!(matches!(error, Error::OtherKey { .. }), "{error}");
    let backup = Backup::open(one.path("b"))?;
    assert_eq!(backup.compare(&two.volume)?[0].fate, SlotFate::Dead);
    let other = Bench::new(&quick2())?;
    two.volume.set_uuid(&other.volume.read()?.uuid)?;
    assert_eq!(std::fs::read(two.path("disk"))?.len(), before.len());
    assert_eq!(two.names(), ["disk"], "nothing is kept where nothing is written");
    // A damaged backup is not written at all.
    flip(&one.path("b"), 0x10000)?;
    let error = one.volume.restore(one.path("b"), one.path("kept"), Overwrite::Always).expect_err("damaged");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    Ok(())
}

/// The log hears of each piece as it is on the disk: there a copy of the image is taken, as a crash would leave it.
#[test]
fn a_restore_that_is_cut_off_can_be_made_again() -> Outcome {
    for spec in [quick2(), quick1()] {
        let bench = Bench::new(&spec)?;
        bench.volume.backup(bench.path("b"))?;
        bench.volume.change_key(&bench.a, &Secret::from("b"), &slot())?;
        let (disk, dir) = (bench.path("disk"), bench.dir.path().to_path_buf());
        let count = std::sync::Mutex::new(0);
        let watched = Volume::at(&disk).with_log(move |_, text| {
            if text.starts_with("restore:") {
                let mut count = count.lock().expect("not poisoned");
                std::fs::copy(dir.join("disk"), dir.join(format!("cut{count}"))).expect("copies");
                *count += 1;
            }
        });
        watched.restore(bench.path("b"), bench.path("kept"), Overwrite::Never)?;
        let cuts: Vec<_> = bench.names().into_iter().filter(|n| n.starts_with("cut")).collect();
        assert_eq!(cuts.len(), if spec.version == Version::Luks1 { 2 } else { 3 });
        for cut in cuts {
            let volume = Volume::at(bench.path(&cut));
            volume.restore(bench.path("b"), bench.path("kept"), Overwrite::Never)?;
            assert_eq!(volume.check(&bench.a)?, Some(0), "{cut}");
        }
        // The file is not another volume's to use.
        let error = bench.volume.restore(bench.path("b"), bench.path("disk.other"), Overwrite::Never);
        error?;
        std::fs::write(bench.path("taken"), "mine")?;
        let error = bench.volume.restore(bench.path("b"), bench.path("taken"), Overwrite::Never);
        assert!(matches!(error, Err(Error::FileExists { .. })), "{error:?}");
    }
    Ok(())
}

#[test]
fn backups_go_to_the_peer_and_come_from_it() -> Outcome {
    if !kit::has_peer() {
        println!("cryptsetup is not installed: nothing to compare with");
        return Ok(());
    }
    for spec in [quick2(), quick1()] {
        let bench = Bench::new(&spec)?;
        let text = |name: &str| bench.path(name).to_str().expect("text").to_owned();
        bench.volume.backup(bench.path("ours"))?;
        kit::peer(&["luksHeaderBackup", &text("disk"), "--header-backup-file", &text("theirs")], "")?;
        let theirs = Backup::open(bench.path("theirs"))?;
        assert!(!theirs.manifest);
        assert_eq!(theirs.sha256, Backup::open(bench.path("ours"))?.sha256, "{:?}", spec.version);
        bench.volume.change_key(&bench.a, &Secret::from("b"), &slot())?;
        bench.volume.restore(bench.path("theirs"), bench.path("kept"), Overwrite::Never)?;
        assert!(kit::peer_opens(&bench.path("disk"), "a"));
        bench.volume.change_key(&bench.a, &Secret::from("b"), &slot())?;
        kit::peer(&["luksHeaderRestore", "-q", &text("disk"), "--header-backup-file", &text("ours")], "")?;
        assert_eq!(bench.volume.check(Key::from(&bench.a))?, Some(0));
    }
    Ok(())
}
