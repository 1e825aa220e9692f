//! Sets of volumes: on the fake, and, up to the mapping, on regular files.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // It is a test.

mod common;
#[path = "common/unlock.rs"]
mod suite;

use std::time::Duration;

use host::Bytes;
use luks::fake::FakeCrypt;
use luks::header::Header;
use luks::unlock::{Budget, OnWrongKey, Outcome, Purpose, Tokens, UnlockSet};
use luks::{
    Error, FormatSpec, Host, Kdf, KeyslotSpec, Luks, MappingSpec, Overwrite, Priority, Secret, Sectors,
    Source, Uuid, Volume, WeakKdf,
};

type Done = Result<(), Box<dyn std::error::Error>>;

fn ids() -> [Uuid; 3] {
    [
        "1bd1f798-d105-4150-841b-f2751f419efc",
        "d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456",
        "00c0ffee-88fd-4d19-89f3-5bdf3ddcc456",
    ]
    .map(|id| id.parse().expect("a UUID"))
}

fn rig() -> (suite::Rig, FakeCrypt) {
    let [a, b, c] = ids();
    let fake = FakeCrypt::new()
        .with_volume("/dev/sdb", a.clone(), Secret::from("skull"))
        .with_volume("/dev/sdc", b.clone(), Secret::from("skull"))
        .with_volume("/dev/sdd", c.clone(), Secret::from("other"));
    let volumes = [("/dev/sdb".into(), a), ("/dev/sdc".into(), b), ("/dev/sdd".into(), c)];
    (suite::Rig { luks: fake.luks(&Host::fake()), volumes }, fake)
}

#[test]
fn the_fake_passes_the_suite_of_the_kernel() -> Done {
    for (name, case) in suite::CASES {
        case(&rig().0).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

#[test]
fn a_zombie_is_told_from_an_open_volume() -> Done {
    let (rig, fake) = rig();
    fake.put_mapping("set0", Some(ids()[0].clone()), None, &[]);
    fake.put_mapping("old", Some(ids()[1].clone()), None, &[]);
    let specs = [("set0", 0), ("set1", 1)].map(|(name, n): (&str, usize)| {
        MappingSpec::by_uuid(name.parse().expect("a name"), ids()[n].clone())
    });
    let reports = UnlockSet::new(specs).run(&rig.luks, &[Secret::from("skull")])?;
    for (report, name) in reports.iter().zip(["set0", "old"]) {
        assert!(matches!(&report.outcome, Outcome::Zombie { open_as } if open_as == name), "{report:?}");
        assert!(!report.outcome.is_open());
    }
    assert_eq!(fake.writes(), 0);
    Ok(())
}

/// An image with a volume and its key derivation.
fn volume(dir: &std::path::Path, name: &str, kdf: Kdf, key: &Secret) -> Source {
    let path = dir.join(name);
    common::image(&path, 20 << 20, &[]).expect("a file");
    Header::format(
        &path,
        &FormatSpec::luks2().with_kdf(kdf).with_weak_kdf(WeakKdf::Allowed),
        key,
        Overwrite::Never,
    )
    .expect("made");
    Source::Path(path)
}

fn set(sources: &[Source]) -> UnlockSet {
    let spec = |(n, source): (usize, &Source)| {
        MappingSpec::new(format!("v{n}").parse().expect("a name"), source.clone())
    };
    UnlockSet::new(sources.iter().enumerate().map(spec)).with_purpose(Purpose::Check)
}

fn argon(memory_kib: u32, lanes: u32) -> Kdf {
    Kdf::Argon2idFixed { passes: 4, memory_kib, lanes }
}

#[test]
fn keys_are_derived_by_several_threads_and_each_volume_has_its_own_outcome() -> Done {
    let dir = tempfile::tempdir()?;
    let (skull, other) = (Secret::from("skull"), Secret::from("other"));
    let mut sources: Vec<Source> = (0..6)
        .map(|n| {
            volume(
                dir.path(),
                &format!("image{n}"),
                argon(1024 << (n % 3), 1 + n % 2),
                if n == 4 { &other } else { &skull },
            )
        })
        .collect();
    let empty = dir.path().join("empty");
    common::image(&empty, 20 << 20, &[])?;
    sources.extend([Source::Path(empty), Source::Path(dir.path().join("none"))]);
    let budget = Budget::new(Bytes(6 << 20), 4);
    let luks = Luks::on(&Host::live().with_run_dir(dir.path().join("run")))?;
    for secrets in [vec![skull.share()], vec![other.share(), skull.share()]] {
        let reports = set(&sources).with_budget(budget).run(&luks, &secrets)?;
        let both = secrets.len() == 2;
        for (n, report) in reports.iter().enumerate() {
            let fits = match (n, &report.outcome) {
                (4, Outcome::WrongKey) => !both,
                (4, Outcome::Opened { .. }) => both,
                (0..6, Outcome::Opened { keyslot: Some(0) }) => true,
                (6, Outcome::NotLuks) | (7, Outcome::Missing { .. }) => true,
                _ => false,
            };
            assert!(fits, "{n}: {report:?}");
        }
    }
    Ok(())
}

#[test]
fn what_needs_more_memory_than_it_may_have_is_not_tried() -> Done {
    let dir = tempfile::tempdir()?;
    let key = Secret::from("skull");
    let sources =
        [volume(dir.path(), "large", argon(4096, 1), &key), volume(dir.path(), "small", argon(64, 1), &key)];
    let luks = Luks::on(&Host::live().with_run_dir(dir.path().join("run")))?;
    let reports = set(&sources).with_budget(Budget::new(Bytes(1 << 20), 2)).run(&luks, &[key.share()])?;
    assert!(
        matches!(reports[0].outcome, Outcome::TooLarge { needs, .. } if needs == Bytes(4 << 20)),
        "{reports:?}"
    );
    assert!(reports[1].outcome.is_open(), "{reports:?}");
    // More than all at once, not more than one may have: alone.
    let budget = Budget::new(Bytes(1 << 20), 2).with_limit(Bytes(8 << 20));
    let reports = set(&sources).with_budget(budget).run(&luks, &[key])?;
    assert!(reports.iter().all(|report| report.outcome.is_open()), "{reports:?}");
    Ok(())
}

#[test]
fn a_wrong_passphrase_can_end_the_rest_and_time_does() -> Done {
    let dir = tempfile::tempdir()?;
    let key = Secret::from("skull");
    let sources: Vec<Source> =
        (0..5).map(|n| volume(dir.path(), &format!("v{n}"), argon(64, 1), &key)).collect();
    let luks = Luks::on(&Host::live().with_run_dir(dir.path().join("run")))?;
    let one_lane = set(&sources).with_budget(Budget::new(Bytes(1 << 20), 1));
    let stopping = one_lane.clone().with_on_wrong_key(OnWrongKey::Stop);
    let reports = stopping.run(&luks, &[Secret::from("typo")])?;
    let wrong = reports.iter().filter(|r| matches!(r.outcome, Outcome::WrongKey)).count();
    let not_tried = reports.iter().filter(|r| matches!(r.outcome, Outcome::NotTried)).count();
    assert_eq!((wrong, not_tried), (1, 4));
    let late = one_lane.with_timeout(Duration::ZERO).run(&luks, &[key])?;
    assert!(late.iter().all(|r| matches!(r.outcome, Outcome::TimedOut)), "{late:?}");
    Ok(())
}

#[test]
fn key_slots_are_tried_by_priority_and_ignored_ones_are_not() -> Done {
    if let Some(reason) = common::no_cryptsetup() {
        return Err(reason.into());
    }
    let dir = tempfile::tempdir()?;
    let path = common::made(dir.path(), "image", &[&["--type", "luks2"][..], &common::CHEAP].concat());
    let key = common::key_file(dir.path(), "skull");
    let shown = path.to_str().expect("UTF-8");
    for name in ["other", "third"] {
        let other = common::key_file(dir.path(), name);
        common::must(
            &[&["luksAddKey", "-q", "--key-file", &key][..], &common::CHEAP, &[shown, &other]].concat(),
        );
    }
    for (slot, priority) in [("1", "prefer"), ("2", "ignore")] {
        common::must(&["config", "--key-slot", slot, "--priority", priority, shown]);
    }
    let luks = Luks::on(&Host::live().with_run_dir(dir.path().join("run")))?;
    let set = set(&[Source::Path(path)]);
    let planned = set.plan(&luks)?.remove(0).expect("to be opened");
    assert_eq!(planned.keyslots().map(|slot| slot.number).collect::<Vec<_>>(), [1, 0]);
    for (secret, expected) in [
        ("skull", "Opened { keyslot: Some(0) }"),
        ("other", "Opened { keyslot: Some(1) }"),
        ("third", "WrongKey"),
    ] {
        let reports = set.run(&luks, &[Secret::from(secret)])?;
        assert_eq!(format!("{:?}", reports[0].outcome), expected);
    }
    // A volume in reencryption has two keys: the passphrase is checked by the library itself.
    let shown = dir.path().join("image");
    let shown = shown.to_str().expect("UTF-8");
    common::must(&["config", "--key-slot", "2", "--priority", "normal", shown]);
    for name in ["other", "third"] {
        common::must(&["luksRemoveKey", "-q", shown, &common::key_file(dir.path(), name)]);
    }
    common::must(
        &[&["reencrypt", "--init-only", "-q", "--key-file", &key][..], &common::CHEAP, &[shown]].concat(),
    );
    assert!(Header::read(shown)?.reencryption.is_some());
    for (secret, expected) in [("skull", "Opened { keyslot: None }"), ("other", "WrongKey")] {
        let reports = set.run(&luks, &[Secret::from(secret)])?;
        assert_eq!(format!("{:?}", reports[0].outcome), expected);
    }
    Ok(())
}

#[test]
fn headers_elsewhere_and_named_key_slots_are_used_and_one_that_is_missing_keeps_nothing_closed() -> Done {
    let dir = tempfile::tempdir()?;
    let (skull, other) = (Secret::from("skull"), Secret::from("other"));
    let path = |name: &str| dir.path().join(name);
    common::image(&path("data"), 1 << 20, &[])?;
    common::image(&path("header"), 20 << 20, &[])?;
    let spec = FormatSpec::luks2().with_kdf(argon(64, 1)).with_weak_kdf(WeakKdf::Allowed);
    let volume = Volume::at(path("data")).with_header(path("header"));
    volume.format(&spec.with_data_offset(Sectors(0)), &skull, Overwrite::Never)?;
    let slot = KeyslotSpec::new().with_kdf(argon(64, 1)).with_weak_kdf(WeakKdf::Allowed);
    volume.add_key(&skull, &other, &slot.with_priority(Priority::Ignore))?;
    let of = |name: &str| MappingSpec::new(name.parse().expect("a name"), Source::Path(path("data")));
    let uuid = volume.read()?.uuid;
    let set = UnlockSet::new([
        of("bare"),
        of("apart").with_header(path("header")),
        of("lost").with_header(path("nowhere")),
        MappingSpec::by_uuid("unclear".parse()?, uuid).with_header(path("header")),
        of("slot").with_header(path("header")).with_keyslot(1),
        of("empty").with_header(path("header")).with_keyslot(7),
    ])
    .with_purpose(Purpose::Check);
    let luks = Luks::on(&Host::live().with_run_dir(path("run")))?;
    let reports = set.run(&luks, &[skull.share(), other.share()])?;
    let outcomes: Vec<&Outcome> = reports.iter().map(|report| &report.outcome).collect();
    assert!(matches!(outcomes[0], Outcome::NotLuks), "{outcomes:?}");
    assert!(matches!(outcomes[1], Outcome::Opened { keyslot: Some(0) }), "{outcomes:?}");
    assert!(outcomes[2].to_string().contains(&path("nowhere").display().to_string()), "{outcomes:?}");
    assert!(outcomes[3].to_string().contains("the header is elsewhere"), "{outcomes:?}");
    // Whatever its priority, and no other.
    assert!(matches!(outcomes[4], Outcome::Opened { keyslot: Some(1) }), "{outcomes:?}");
    let Outcome::Failed(error) = outcomes[5] else { panic!("{outcomes:?}") };
    assert!(matches!(**error, Error::NoKeyslot { slot: 7, .. }), "{error:?}");
    let planned: Vec<String> = set.plan(&luks)?.into_iter().flatten().map(|one| one.to_string()).collect();
    let shown = |name: &str| path(name).display().to_string();
    assert_eq!(planned[0], format!("cryptsetup open --header {} {} apart", shown("header"), shown("data")));
    assert!(planned[1].contains("--key-slot 1"), "{planned:?}");
    Ok(())
}

#[test]
fn tokens_that_yield_nothing_leave_it_to_a_passphrase_and_say_why() -> Done {
    let dir = tempfile::tempdir()?;
    let key = Secret::from("skull");
    let sources =
        [volume(dir.path(), "with", argon(64, 1), &key), volume(dir.path(), "without", argon(64, 1), &key)];
    let with = Volume::at(dir.path().join("with"));
    with.add_token(r#"{"type":"of-tomorrow","keyslots":["0"]}"#)?;
    with.add_keyring_token(0, "sankit:nobody put it there")?;
    let luks = Luks::on(&Host::live().with_run_dir(dir.path().join("run")))?;
    let set = set(&sources).with_tokens(Tokens::Try);
    let reports = set.run(&luks, &[])?;
    let said: Vec<String> = reports.iter().map(|report| report.outcome.to_string()).collect();
    assert!(reports.iter().all(|report| matches!(report.outcome, Outcome::NoToken { .. })), "{reports:?}");
    assert!(
        said[0].contains("of-tomorrow") && said[0].contains("\"sankit:nobody put it there\""),
        "{said:?}"
    );
    assert!(said[1].contains("it has none"), "{said:?}");
    let reports = set.run(&luks, &[key])?;
    assert!(reports.iter().all(|r| matches!(r.outcome, Outcome::Opened { keyslot: Some(0) })), "{reports:?}");
    Ok(())
}
