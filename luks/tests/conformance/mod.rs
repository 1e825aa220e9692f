//! What mappings do, in memory and on a real kernel alike.
#![allow(dead_code, clippy::expect_used, clippy::indexing_slicing)] // It is for tests.

use luks::{
    Bytes, DmName, Error, Key, Luks, MappingSpec, OpenFlags, Overwrite, PlainSpec, Secret, Sectors, Source,
    Uuid,
};

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

pub(crate) const IDS: [&str; 2] =
    ["1bd1f798-d105-4150-841b-f2751f419efc", "d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456"];

/// The passphrase of both volumes.
pub(crate) const PASSPHRASE: &str = "skull";

/// Lets go of what was held.
pub(crate) type Release = Box<dyn FnOnce()>;

/// Two volumes of 256 MiB with headers of 16 MiB, closed, and a third device with nothing on it.
pub(crate) struct Bench {
    pub(crate) luks: Luks,
    pub(crate) devices: [String; 3],
    /// Holds a mapping, so that it is busy.
    pub(crate) hold: Box<dyn Fn(&DmName) -> Release>,
}

pub(crate) type Case = (&'static str, fn(&Bench) -> Outcome);

pub(crate) const CASES: &[Case] = &[
    ("a_set_opens_by_uuid_and_a_second_ensure_writes_nothing", set),
    ("a_wrong_passphrase_leaves_nothing_open", wrong),
    ("opening_twice_is_refused", twice),
    ("what_is_not_open_is_said_to_be_so", absent),
    ("a_held_mapping_is_busy_and_names_its_holder", held),
    ("a_deferred_closing_waits_for_the_last_user", deferred),
    ("a_suspended_mapping_wants_its_key_back", suspended),
    ("a_mapping_changes_its_size_and_flags_in_use", changed),
    ("plain_dm_crypt_takes_an_empty_device_only", plain),
    ("a_key_slot_that_is_not_there_is_no_wrong_passphrase", slots),
];

pub(crate) fn key() -> Secret {
    Secret::from(PASSPHRASE)
}

pub(crate) fn name(n: usize) -> DmName {
    format!("VM_STORAGE_{n}").parse().expect("name")
}

pub(crate) fn specs() -> Vec<MappingSpec> {
    (1..).zip(IDS).map(|(n, id)| MappingSpec::by_uuid(name(n), id.parse::<Uuid>().expect("UUID"))).collect()
}

fn set(bench: &Bench) -> Outcome {
    let luks = &bench.luks;
    let plan = luks.plan(&specs())?.to_string();
    assert!(plan.contains("VM_STORAGE_1") && !plan.contains(PASSPHRASE), "{plan}");
    assert!(luks.ensure(&specs(), key())?);
    assert!(!luks.ensure(&specs(), Secret::from("not looked at"))?);
    let open = luks.list()?;
    assert_eq!(open.len(), 2);
    assert!(open.iter().all(|m| m.device.is_some() && m.holders.is_empty() && !m.suspended), "{open:?}");
    for spec in specs() {
        assert!(luks.remove(&spec.name)? && !luks.remove(&spec.name)?);
    }
    assert!(luks.list()?.is_empty());
    Ok(())
}

fn wrong(bench: &Bench) -> Outcome {
    let error = bench.luks.ensure(&specs(), Secret::from("wrong")).expect_err("wrong");
    assert!(error.is_wrong_passphrase(), "{error}");
    assert!(bench.luks.list()?.is_empty());
    Ok(())
}

fn twice(bench: &Bench) -> Outcome {
    let luks = &bench.luks;
    let [one, two] = [0, 1].map(|n| specs()[n].clone());
    luks.create(&one, key())?;
    assert!(matches!(luks.create(&one, key()), Err(Error::AlreadyExists { .. })));
    let elsewhere = MappingSpec::new("elsewhere".parse()?, one.source.clone());
    assert!(matches!(luks.create(&elsewhere, key()), Err(Error::OpenElsewhere { .. })));
    let taken = MappingSpec::new(one.name.clone(), two.source);
    assert!(matches!(luks.ensure(&[taken], key()), Err(Error::NameTaken { .. })));
    // A plan that was made before: what has been opened since is left as it is, or is in the way.
    luks.remove(&one.name)?;
    let (first, second) = (luks.plan(std::slice::from_ref(&one))?, luks.plan(&[elsewhere])?);
    luks.create(&one, key())?;
    assert!(luks.apply(first, Secret::from("not looked at"))?.is_empty());
    assert!(matches!(luks.apply(second, key()), Err(Error::OpenElsewhere { .. })));
    assert_eq!(luks.list()?.len(), 1);
    Ok(())
}

fn absent(bench: &Bench) -> Outcome {
    let (luks, none) = (&bench.luks, "none".parse()?);
    assert!(luks.get(&none)?.is_none());
    assert!(!luks.remove(&none)? && !luks.remove_deferred(&none)? && !luks.cancel_deferred(&none)?);
    for error in [
        luks.suspend(&none).expect_err("none"),
        luks.resume(&none, None, key()).expect_err("none"),
        luks.resize(&none, None, None).expect_err("none"),
        luks.refresh(&none, OpenFlags::empty(), key()).expect_err("none"),
        luks.active(&none).expect_err("none"),
    ] {
        assert!(matches!(error, Error::NotOpen { .. }), "{error:?}");
    }
    Ok(())
}

fn held(bench: &Bench) -> Outcome {
    let luks = &bench.luks;
    luks.ensure(&specs(), key())?;
    let release = (bench.hold)(&name(2));
    let error = luks.remove(&name(2)).expect_err("held");
    assert!(error.is_busy() && error.is_retryable(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("/dev/mapper/VM_STORAGE_2 is in use by") && text.contains("process"), "{text}");
    release();
    assert!(luks.remove(&name(2))?);
    Ok(())
}

fn deferred(bench: &Bench) -> Outcome {
    let luks = &bench.luks;
    luks.ensure(&specs(), key())?;
    let release = (bench.hold)(&name(1));
    assert!(luks.remove_deferred(&name(1))?);
    assert!(luks.get(&name(1))?.is_some(), "it works until its user goes");
    release();
    assert!(luks.get(&name(1))?.is_none());
    let release = (bench.hold)(&name(2));
    assert!(luks.remove_deferred(&name(2))? && luks.cancel_deferred(&name(2))?);
    release();
    assert!(luks.get(&name(2))?.is_some(), "it was taken back");
    Ok(())
}

fn suspended(bench: &Bench) -> Outcome {
    let luks = &bench.luks;
    luks.ensure(&specs(), key())?;
    let one = name(1);
    assert!(!luks.resume(&one, None, key())?, "it is not suspended");
    assert!(luks.suspend(&one)? && !luks.suspend(&one)?);
    assert!(luks.get(&one)?.expect("open").suspended);
    let error = luks.resume(&one, None, Secret::from("wrong")).expect_err("wrong");
    assert!(error.is_wrong_passphrase(), "{error:?}");
    assert!(luks.get(&one)?.expect("open").suspended);
    assert!(luks.resume(&one, None, key())?);
    assert!(!luks.get(&one)?.expect("open").suspended);
    Ok(())
}

fn changed(bench: &Bench) -> Outcome {
    let luks = &bench.luks;
    let fast = OpenFlags::NO_READ_WORKQUEUE | OpenFlags::NO_WRITE_WORKQUEUE;
    luks.create(&specs()[0].clone().with_flags(fast), key())?;
    let (one, key) = (name(1), Key::from(key()));
    let before = luks.active(&one)?;
    assert_eq!((before.offset, before.size), (Sectors(32768), Sectors(240 * 2048)));
    assert!(before.flags.contains(fast) && !before.flags.contains(OpenFlags::ALLOW_DISCARDS), "{before:?}");
    let error = luks.resize(&one, Some(Bytes(64 << 20)), None).expect_err("the key is in the keyring");
    assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
    luks.resize(&one, Some(Bytes(64 << 20)), Some(&key))?;
    assert_eq!(luks.active(&one)?.size, Sectors(64 * 2048));
    luks.resize(&one, None, Some(&key))?;
    assert_eq!(luks.active(&one)?.size, before.size);
    luks.refresh(&one, OpenFlags::SAME_CPU, &key)?;
    let after = luks.active(&one)?.flags;
    assert!(after.contains(OpenFlags::SAME_CPU) && !after.intersects(fast), "{after:?}");
    let error = luks.refresh(&one, fast, Secret::from("wrong")).expect_err("wrong");
    assert!(error.is_wrong_passphrase(), "{error:?}");
    Ok(())
}

fn plain(bench: &Bench) -> Outcome {
    let luks = &bench.luks;
    let [volume, _, empty] = &bench.devices;
    let (one, spec) = ("plain".parse()?, PlainSpec::new("aes-cbc-essiv:sha256".parse()?, 256));
    let key = || Secret::new(vec![7; 32]);
    let open = |device: &str, spec: &PlainSpec| {
        luks.create_plain(&one, device, spec, key(), OpenFlags::empty(), Overwrite::Never)
    };
    assert!(matches!(open(volume, &spec), Err(Error::HoldsData { .. })));
    let long = PlainSpec::new("aes-cbc-essiv:sha256".parse()?, 512);
    assert!(matches!(open(empty, &long), Err(Error::Parse(_))));
    open(empty, &spec)?;
    assert!(matches!(open(empty, &spec), Err(Error::AlreadyExists { .. })));
    let seen = luks.get(&one)?.expect("open");
    assert_eq!((seen.uuid, seen.version), (None, None));
    assert!(luks.suspend(&one).is_err(), "its key could not be had back");
    assert!(luks.remove(&one)?);
    Ok(())
}

fn slots(bench: &Bench) -> Outcome {
    let spec = MappingSpec::new(name(1), Source::Path(bench.devices[0].clone().into()));
    let error = bench.luks.create(&spec, Key::Slot(7, key())).expect_err("empty");
    assert!(!error.is_wrong_passphrase() && error.to_string().contains("1 of 1"), "{error}");
    let source = std::error::Error::source(&error).expect("the step's").to_string();
    assert!(source.contains("key slot 7"), "{source}");
    let error = bench.luks.create(&spec, Key::Slot(0, Secret::from("wrong"))).expect_err("wrong");
    assert!(error.is_wrong_passphrase(), "{error}");
    bench.luks.create(&spec, Key::Slot(0, key()))?;
    Ok(())
}
