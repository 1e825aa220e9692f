//! Everything up to the mapping works on regular files: format, check, key slots, tokens, and the header reader against the library's own files.
#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, clippy::disallowed_types)] // It is a test.

mod kit;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use kit::{Outcome, image, quick1, quick2, slot};
use luks::{
    Discards, Error, FormatSpec, Header, Kdf, Key, KeyslotSpec, OpenFlags, Overwrite, Priority, Secret,
    Sectors, Version, Volume, VolumeKey, WeakKdf, WipePattern,
};

#[test]
fn both_versions_are_made_read_and_backed_up() -> Outcome {
    let dir = tempfile::tempdir()?;
    let key = Secret::from("written on the inside of the skull");
    let uuid: luks::Uuid = "1bd1f798-d105-4150-841b-f2751f419efc".parse()?;
    for (spec, version) in [
        (quick2().with_label("VM_STORAGE_1").with_sector_size(512), Version::Luks2),
        (quick1(), Version::Luks1),
    ] {
        let device = image(dir.path(), &format!("{version:?}"))?;
        let cipher = spec.cipher.to_string();
        let header = Header::format(&device, &spec.with_uuid(uuid.clone()), &key, Overwrite::Never)?;
        assert_eq!((header.version, &header.uuid, header.cipher.as_str()), (version, &uuid, cipher.as_str()));
        assert_eq!((header.keyslots.len(), header.sector_size, header.needs_repair), (1, 512, false));
        assert_eq!(header.keyslots[0].kdf, "pbkdf2");
        Header::check(&device, &key)?;
        let error = Header::check(&device, &Secret::from("wrong")).expect_err("wrong");
        assert!(error.is_wrong_passphrase(), "{error}");
        // A second format is refused and changes nothing.
        let before = std::fs::read(&device)?;
        let error = Header::format(&device, &quick2(), &key, Overwrite::Never);
        assert!(matches!(error, Err(Error::HoldsData { .. })));
        assert_eq!(std::fs::read(&device)?, before);
        let copy = dir.path().join(format!("{version:?}.header"));
        let backup = Header::backup(&device, &copy)?;
        assert_eq!((backup.uuid, backup.keyslots), (uuid.clone(), 1));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&copy)?.permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(Header::backup(&device, &copy), Err(Error::FileExists { .. })));
        // The copy opens with the same passphrase: what the warning in the documentation is about.
        Header::check(&copy, &key)?;
        if kit::has_peer() {
            let seen = kit::peer(&["luksUUID", device.to_str().expect("text")], "")?;
            assert_eq!(seen.trim(), header.uuid.as_str());
            assert!(kit::peer_opens(&device, "written on the inside of the skull"));
        }
    }
    Ok(())
}

#[test]
fn damage_is_told_from_absence_and_repaired() -> Outcome {
    let dir = tempfile::tempdir()?;
    let device = image(dir.path(), "disk")?;
    let volume = Volume::at(&device);
    assert!(matches!(volume.read(), Err(Error::NotLuks { .. })));
    volume.format(&quick2(), &Secret::from("x"), Overwrite::Never)?;
    assert!(!volume.repair()?, "nothing to repair");
    let good = std::fs::read(&device)?;
    let spoiled = |places: &[usize]| {
        let mut bytes = good.clone();
        places.iter().for_each(|at| bytes[*at] ^= 0xff);
        std::fs::write(&device, bytes)
    };
    // One copy: readable, said, and repaired. The first at 0, the second at 16 KiB; byte 5000 is in the JSON.
    for places in [&[5000][..], &[0], &[0x4000 + 5000], &[0x4000]] {
        spoiled(places)?;
        assert!(volume.read()?.needs_repair, "{places:?}");
        assert!(volume.repair()?, "{places:?}");
        let header = volume.read()?;
        assert!(!header.needs_repair && header.keyslots.len() == 1, "{places:?}");
        volume.check(Secret::from("x"))?;
    }
    spoiled(&[5000, 0x4000 + 5000])?;
    for error in [
        volume.read().expect_err("both"),
        volume.repair().expect_err("both"),
        volume.check(Secret::from("x")).expect_err("both"),
    ] {
        let text = error.to_string();
        assert!(matches!(error, Error::Damaged { .. }), "{text}");
        assert!(
            text.contains("first copy") && text.contains("second copy") && text.contains("wrong checksum"),
            "{text}"
        );
    }
    Ok(())
}

#[test]
fn errors_name_the_device_and_the_kind() -> Outcome {
    let error = Header::read("/no/such/disk").expect_err("missing");
    assert_eq!(error.to_string(), "cannot read /no/such/disk");
    let dir = tempfile::tempdir()?;
    let device = image(dir.path(), "empty")?;
    let volume = Volume::at(&device);
    let key = Secret::from("x");
    let error = volume.check(&key).expect_err("no LUKS");
    assert!(matches!(error, Error::NotLuks { .. }), "{error:?}");
    volume.format(&quick2(), &key, Overwrite::Never)?;
    for number in [5, 31, 32, 99, u32::MAX] {
        let error = volume.check(Key::Slot(number, key.share())).expect_err("empty");
        assert!(matches!(error, Error::NoKeyslot { slot, .. } if slot == number), "{number}: {error:?}");
    }
    let error = volume.check(Key::Slot(0, Secret::from("y"))).expect_err("wrong");
    assert!(error.is_wrong_passphrase() && error.to_string().contains("empty"), "{error}");
    let error = volume.check(VolumeKey::new(Secret::new(vec![7; 64]))).expect_err("wrong");
    assert!(error.is_wrong_passphrase(), "{error:?}");
    let error = volume.check(Key::token(3)).expect_err("none");
    assert!(matches!(error, Error::NoToken { token: 3, .. }), "{error:?}");
    let error = volume.check(Key::Keyring("sankit-no-such-key".to_owned())).expect_err("none");
    assert!(matches!(error, Error::NoKeyringKey { .. }) && error.errno().is_some(), "{error:?}");
    // A path that is no device: the library's words are kept.
    let error = Volume::at("/dev/null").check(&key).expect_err("no disk");
    assert!(
        matches!(&error, Error::Library { log: Some(log), .. } if log.contains("/dev/null")),
        "{error:?}"
    );
    Ok(())
}

#[test]
fn what_would_weaken_or_destroy_is_refused() -> Outcome {
    let dir = tempfile::tempdir()?;
    let device = image(dir.path(), "disk")?;
    let (volume, key) = (Volume::at(&device), Secret::from("x"));
    let refused = |spec: &FormatSpec| volume.format(spec, &key, Overwrite::Always).expect_err("refused");
    for kdf in [
        Kdf::Pbkdf2Fixed { iterations: 599_999 },
        Kdf::Argon2idFixed { passes: 4, memory_kib: 64, lanes: 1 },
        Kdf::Argon2id { time: std::time::Duration::from_millis(10), memory_kib: 1 << 20 },
    ] {
        let error = refused(&FormatSpec::luks2().with_kdf(kdf));
        assert!(matches!(error, Error::WeakKdf { .. }), "{kdf:?}: {error}");
    }
    // Not even when weak is meant: the library could not do it.
    let error = refused(&quick2().with_kdf(Kdf::Pbkdf2Fixed { iterations: 10 }));
    assert!(error.to_string().contains("at least 1000"), "{error}");
    let error = refused(&quick2().with_cipher("aes-xts-plain64".parse()?, 128));
    assert!(error.to_string().contains("256, 384 or 512"), "{error}");
    for (spec, said) in [
        (quick1().with_label("x"), "LUKS1 has none"),
        (quick1().with_sector_size(4096), "512 only"),
        (quick1().with_kdf(FormatSpec::luks2().kdf), "PBKDF2 only"),
        (quick2().with_sector_size(1000), "512, 1024"),
        (quick2().with_label("x".repeat(48)), "47 bytes"),
    ] {
        let error = refused(&spec).to_string();
        assert!(error.contains(said), "{error}");
    }
    assert!(std::fs::read(&device)?.iter().all(|b| *b == 0), "nothing was written");
    // Any known signature.
    for (at, magic) in [(0x438, &b"\x53\xef"[..]), (512, b"EFI PART"), (0, b"XFSB")] {
        let mut bytes = vec![0; 32 << 20];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        std::fs::write(&device, &bytes)?;
        let error = volume.format(&quick2(), &key, Overwrite::Never).expect_err("holds data");
        assert!(matches!(error, Error::HoldsData { .. }), "{error}");
        let error = volume
            .wipe(WipePattern::Zero, None, Overwrite::Never, |_| std::ops::ControlFlow::Continue(()))
            .expect_err("holds data");
        assert!(matches!(error, Error::HoldsData { .. }), "{error}");
        assert!(std::fs::read(&device)? == bytes, "nothing was written");
    }
    Ok(())
}

#[test]
fn key_slots_are_added_changed_and_removed_and_the_last_one_stays() -> Outcome {
    let dir = tempfile::tempdir()?;
    for (spec, name) in [(quick2(), "two"), (quick1(), "one")] {
        let device = image(dir.path(), name)?;
        let volume = Volume::at(&device);
        let (a, b, c) = (Secret::from("a"), Secret::from("b"), Secret::from("c"));
        volume.format(&spec, &a, Overwrite::Never)?;
        let key = volume.volume_key(&a)?;
        // The only one stays.
        let before = std::fs::read(&device)?;
        assert!(matches!(volume.remove_key(0, &a), Err(Error::LastKey { slot: 0, .. })), "{name}");
        assert!(matches!(volume.remove_key(0, &key), Err(Error::LastKey { slot: 0, .. })), "{name}");
        assert!(!volume.remove_key(1, &a)?, "{name}: an empty one");
        assert!(std::fs::read(&device)? == before, "{name}: nothing was written");
        assert_eq!(volume.add_key(&a, &b, &slot())?, 1);
        assert_eq!(volume.add_key(&key, &c, &slot().with_slot(5))?, 5);
        assert!(matches!(
            volume.add_key(&a, &c, &slot().with_slot(5)),
            Err(Error::SlotTaken { slot: 5, .. })
        ));
        assert!(matches!(volume.add_key(&a, &c, &slot().with_slot(40)), Err(Error::NoKeyslot { .. })));
        assert!(volume.add_key(Secret::from("no"), &c, &slot()).expect_err("wrong").is_wrong_passphrase());
        assert_eq!([&a, &b, &c].map(|s| volume.check(s).expect("opens")), [Some(0), Some(1), Some(5)]);
        assert!(volume.volume_key(&c)? == key);
        let numbers: Vec<_> = volume.keyslots()?.into_iter().map(|s| (s.number, s.bound)).collect();
        assert_eq!(numbers, [(0, true), (1, true), (5, true)]);
        // A key does not vouch for its own removal.
        assert!(matches!(volume.remove_key(1, &b), Err(Error::LastKey { .. })));
        assert!(volume.remove_key(1, &a)?);
        assert!(volume.check(&b).expect_err("removed").is_wrong_passphrase());
        // Changed: the old one is gone, the new one opens, in another slot.
        let new = volume.change_key(&c, &b, &slot())?;
        assert_ne!(new, 5);
        assert!(volume.check(&c).is_err());
        assert_eq!(volume.check(&b)?, Some(new));
        // A second time: it is done already.
        assert_eq!(volume.change_key(&c, &b, &slot())?, new);
        assert!(
            volume.change_key(&c, &Secret::from("d"), &slot()).expect_err("neither").is_wrong_passphrase()
        );
        assert_eq!(volume.keyslots()?.len(), 2);
        if kit::has_peer() {
            assert!(kit::peer_opens(&device, "a") && kit::peer_opens(&device, "b"));
            assert!(!kit::peer_opens(&device, "c"));
        }
    }
    Ok(())
}

#[test]
fn a_full_header_says_so() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (volume, a) = (Volume::at(image(dir.path(), "disk")?), Secret::from("a"));
    volume.format(&quick1(), &a, Overwrite::Never)?;
    for _ in 1..8 {
        volume.add_key(&a, &Secret::from("b"), &slot())?;
    }
    let error = volume.add_key(&a, &Secret::from("c"), &slot()).expect_err("full");
    assert!(matches!(error, Error::NoRoom { .. }), "{error:?}");
    // The same passphrase in another slot is a proof.
    assert!(volume.remove_key(3, Secret::from("b"))?);
    Ok(())
}

#[test]
fn priorities_and_derivations_change_and_tokens_follow() -> Outcome {
    let dir = tempfile::tempdir()?;
    let device = image(dir.path(), "disk")?;
    let (volume, a, b) = (Volume::at(&device), Secret::from("a"), Secret::from("b"));
    volume.format(&quick2(), &a, Overwrite::Never)?;
    volume.add_key(&a, &b, &slot().with_priority(Priority::Prefer))?;
    volume.set_priority(0, Priority::Ignore)?;
    let seen: Vec<_> = volume.keyslots()?.into_iter().map(|s| (s.number, s.priority, s.key_bits)).collect();
    assert_eq!(seen, [(0, Priority::Ignore, 512), (1, Priority::Prefer, 512)]);
    // Ignored: only by its number.
    assert!(volume.check(&a).is_err());
    assert_eq!(volume.check(Key::Slot(0, a.share()))?, Some(0));
    assert!(matches!(volume.set_priority(9, Priority::Normal), Err(Error::NoKeyslot { slot: 9, .. })));
    let token = volume.add_keyring_token(1, "sankit:disk")?;
    let argon = Kdf::Argon2idFixed { passes: 4, memory_kib: 32, lanes: 1 };
    let spec = KeyslotSpec::new().with_kdf(argon).with_weak_kdf(WeakKdf::Allowed);
    let new = volume.convert_kdf(&b, &spec)?;
    let header = volume.read()?;
    let slot = header.keyslots.iter().find(|s| s.number == new).expect("it is there");
    assert_eq!((slot.kdf.as_str(), slot.cost, slot.memory_kib), ("argon2id", 4, 32));
    assert_eq!(volume.tokens()?[0].slots, [new], "token {token} went along");
    assert_eq!(
        volume.keyslots()?.iter().find(|s| s.number == new).map(|s| s.priority),
        Some(Priority::Prefer)
    );
    // Its passphrase changed: what the token yields would be the old one.
    volume.change_key(&b, &Secret::from("c"), &kit::slot())?;
    assert!(volume.tokens()?[0].slots.is_empty());
    Ok(())
}

#[test]
fn tokens_are_listed_added_and_removed() -> Outcome {
    let dir = tempfile::tempdir()?;
    let device = image(dir.path(), "disk")?;
    let (volume, a) = (Volume::at(&device), Secret::from("a"));
    volume.format(&quick2(), &a, Overwrite::Never)?;
    assert!(volume.tokens()?.is_empty());
    assert_eq!(volume.add_keyring_token(0, "sankit:disk")?, 0);
    assert!(matches!(volume.add_keyring_token(7, "x"), Err(Error::NoKeyslot { slot: 7, .. })));
    let clevis = r#"{"type":"clevis","keyslots":["0"],"jwe":{"protected":"x"}}"#;
    assert_eq!(volume.add_token(clevis)?, 1);
    assert!(volume.add_token("no JSON").is_err());
    let tokens = volume.tokens()?;
    let seen: Vec<_> =
        tokens.iter().map(|t| (t.number, t.kind.as_str(), t.handled, t.slots.clone())).collect();
    assert_eq!(seen, [(0, "luks2-keyring", true, vec![0]), (1, "clevis", false, vec![0])]);
    assert!(tokens[0].json.contains("sankit:disk"), "{}", tokens[0].json);
    // Clevis has no plug-in and a program of its own, which is not installed here, or cannot read this.
    let error = volume.check(Key::token(1)).expect_err("no message of clevis");
    assert!(matches!(&error, Error::Damaged { reason, .. } if reason.contains("clevis")), "{error:?}");
    let jwe = r#"{"type":"clevis","keyslots":["0"],"jwe":{"protected":"e30","ciphertext":"x"}}"#;
    let token = volume.add_token(jwe)?;
    let error = volume.check(Key::token(token)).expect_err("nothing of clevis's");
    assert!(matches!(&error, Error::TokenProgram { .. }), "{error:?}");
    assert!(volume.remove_token(token)?);
    let token = volume.add_token(r#"{"type":"of-tomorrow","keyslots":["0"]}"#)?;
    let error = volume.check(Key::token(token)).expect_err("no plug-in");
    assert!(matches!(&error, Error::TokenUnhandled { kind, .. } if kind == "of-tomorrow"), "{error:?}");
    assert!(error.to_string().contains("libcryptsetup-token-of-tomorrow.so"), "{error}");
    assert!(volume.remove_token(token)?);
    assert!(matches!(volume.assign_token(9, 0), Err(Error::NoToken { token: 9, .. })));
    assert!(matches!(volume.assign_token(0, 9), Err(Error::NoKeyslot { slot: 9, .. })));
    if kit::has_peer() {
        let text = kit::peer(&["luksDump", device.to_str().expect("text")], "")?;
        assert!(text.contains("0: luks2-keyring") && text.contains("1: clevis"), "{text}");
        // One that the peer made is read here.
        kit::peer(&["token", "add", "--key-description", "theirs", device.to_str().expect("text")], "")?;
        assert!(volume.tokens()?.iter().any(|t| t.json.contains("theirs")));
        assert!(volume.remove_token(2)?);
    }
    assert!(volume.remove_token(0)? && volume.remove_token(1)? && !volume.remove_token(1)?);
    assert!(volume.tokens()?.is_empty());
    // LUKS1 has none.
    let old = Volume::at(image(dir.path(), "old")?);
    old.format(&quick1(), &a, Overwrite::Never)?;
    assert!(old.tokens()?.is_empty() && matches!(old.check(Key::token(0)), Err(Error::NoToken { .. })));
    Ok(())
}

#[test]
fn what_clevis_bound_opens_with_its_tokens_while_nobody_is_there() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (device, key_file) = (image(dir.path(), "disk")?, dir.path().join("key"));
    let (volume, a) = (Volume::at(&device), Secret::from("a"));
    volume.format(&quick2(), &a, Overwrite::Never)?;
    std::fs::write(&key_file, "a")?;
    // The pin "null" binds to nothing; what is around the message is the same for a TPM and for a Tang server.
    let pins = [("null", "{}"), ("sss", r#"{"t":2,"pins":{"null":[{},{}]}}"#)];
    for (n, (pin, config)) in (0..).zip(pins) {
        let mut bind = Command::new("clevis");
        bind.args(["luks", "bind", "-y", "-k"]).arg(&key_file).arg("-d").arg(&device).args([pin, config]);
        let output = match bind.output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            output => output?,
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let slots = volume.tokens()?.into_iter().find(|token| token.number == n).map(|token| token.slots);
        let slot = slots.and_then(|slots| slots.first().copied());
        assert_eq!((slot, volume.check(Key::token(n))?), (Some(n + 1), slot), "{pin}");
        assert_eq!(volume.volume_key(Key::token(n))?, volume.volume_key(&a)?);
    }
    // Bound to another passphrase: it yields one, which opens nothing.
    volume.remove_key(1, &a)?;
    volume.add_key(&a, &Secret::from("b"), &slot())?;
    volume.assign_token(0, 1)?;
    assert!(volume.check(Key::token(0)).expect_err("another").is_wrong_passphrase());
    Ok(())
}

#[test]
fn labels_flags_and_identity_are_changed() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (volume, a) = (Volume::at(image(dir.path(), "disk")?), Secret::from("a"));
    volume.format(&quick2().with_subsystem("node1"), &a, Overwrite::Never)?;
    volume.set_label("VM_STORAGE_1", "node2")?;
    assert_eq!(volume.read()?.label, "VM_STORAGE_1");
    let uuid: luks::Uuid = "1bd1f798-d105-4150-841b-f2751f419efc".parse()?;
    volume.set_uuid(&uuid)?;
    assert_eq!(volume.read()?.uuid, uuid);
    assert_eq!(volume.persistent_flags()?, OpenFlags::empty());
    let fast = OpenFlags::NO_READ_WORKQUEUE | OpenFlags::NO_WRITE_WORKQUEUE;
    volume.set_persistent_flags(fast, Discards::Blocked)?;
    assert_eq!(volume.persistent_flags()?, fast);
    let leaky = fast | OpenFlags::ALLOW_DISCARDS;
    assert!(volume.set_persistent_flags(leaky, Discards::Blocked).is_err(), "discards must be said");
    volume.set_persistent_flags(leaky, Discards::Allowed)?;
    assert_eq!(volume.persistent_flags()?, leaky);
    assert!(volume.set_persistent_flags(OpenFlags::READ_ONLY, Discards::Blocked).is_err());
    Ok(())
}

#[test]
fn a_detached_header_is_made_and_used() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (device, header) = (image(dir.path(), "disk")?, dir.path().join("header"));
    let (volume, a) = (Volume::at(&device).with_header(&header), Secret::from("a"));
    for spec in [quick2().with_data_offset(Sectors(0)), quick1().with_data_offset(Sectors(0))] {
        let made = volume.format(&spec, &a, Overwrite::Never)?;
        assert_eq!(made.data_offset, 0, "{:?}", spec.version);
        assert!(std::fs::read(&device)?.iter().all(|b| *b == 0), "the data's device is untouched");
        volume.add_key(&a, &Secret::from("b"), &slot())?;
        assert_eq!(volume.check(Secret::from("b"))?, Some(1));
        if kit::has_peer() {
            let (header, device) = (header.to_str().expect("text"), device.to_str().expect("text"));
            kit::peer(&["open", "--test-passphrase", "--key-file", "-", "--header", header, device], "b")?;
        }
        assert!(matches!(volume.format(&spec, &a, Overwrite::Never), Err(Error::HoldsData { .. })));
        std::fs::remove_file(&header)?;
    }
    Ok(())
}

#[test]
fn a_log_hears_what_is_said_of_its_volume_only() -> Outcome {
    let dir = tempfile::tempdir()?;
    let device = image(dir.path(), "disk")?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&heard);
    let volume = Volume::at(&device).with_log(move |level, text| {
        into.lock().expect("not poisoned").push(format!("{level:?} {text}"));
        assert!(!text.contains("panic"), "a log that panics must not harm");
    });
    let a = Secret::from("hunter2");
    volume.format(&quick2(), &a, Overwrite::Never)?;
    Volume::at(&device).add_key(&a, &Secret::from("b"), &slot())?;
    let lines = std::mem::take(&mut *heard.lock().expect("not poisoned"));
    assert_eq!(lines, ["Normal formatted"]);
    // The library's own words.
    let spec = quick2().with_cipher("nonsense-xts-plain64".parse()?, 512);
    let error = volume.format(&spec, &a, Overwrite::Always).expect_err("no such cipher");
    let lines = heard.lock().expect("not poisoned").join("\n");
    assert!(lines.contains("Error "), "{lines}: {error}");
    assert!(!lines.contains("hunter2"));
    Ok(())
}

/// The library's state is global: what the lock keeps from falling apart.
#[test]
fn many_threads_work_at_once() -> Outcome {
    let dir = tempfile::tempdir()?;
    let work = |path: &Path, round: usize| -> luks::Result<()> {
        let volume = Volume::at(path);
        let (a, b) = (Secret::from("a"), Secret::from(format!("b{round}").as_str()));
        volume.add_key(&a, &b, &slot())?;
        assert!(volume.check(Secret::from("wrong")).expect_err("wrong").is_wrong_passphrase());
        assert!(volume.volume_key(&b)? == volume.volume_key(&a)?);
        assert!(Volume::at("/dev/null").check(&a).is_err());
        let other = volume.change_key(&b, &Secret::from("c"), &slot())?;
        assert!(volume.remove_key(other, &a)?);
        volume.tokens().map(drop)
    };
    let disks: Vec<_> = (0..4)
        .map(|n| {
            let device = image(dir.path(), &format!("disk{n}"))?;
            Volume::at(&device).format(&quick2(), &Secret::from("a"), Overwrite::Never)?;
            Ok(device)
        })
        .collect::<Result<_, Box<dyn std::error::Error>>>()?;
    std::thread::scope(|scope| {
        for device in &disks {
            scope.spawn(move || {
                for round in 0..5 {
                    work(device, round).expect("works");
                }
            });
        }
    });
    for device in &disks {
        assert_eq!(Volume::at(device).keyslots()?.len(), 1);
    }
    Ok(())
}
