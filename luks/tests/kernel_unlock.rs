//! Sets of volumes on a real kernel: the suite of the fake, and what only a kernel has.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods
)] // It is a test.
#![allow(clippy::indexing_slicing)]

mod common;
mod guest;
#[path = "common/unlock.rs"]
mod suite;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use luks::unlock::{Outcome, Tokens, UnlockSet};
use luks::{FormatSpec, Header, Host, Kdf, Luks, MappingSpec, Overwrite, Secret, Source, Uuid, Volume};

const IDS: [&str; 3] = [
    "1bd1f798-d105-4150-841b-f2751f419efc",
    "d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456",
    "00c0ffee-88fd-4d19-89f3-5bdf3ddcc456",
];
/// Set for a child that races with another one to open the same volume.
const RACE: &str = "LUKS_TEST_RACE";

fn main() -> ExitCode {
    if std::env::var_os(RACE).is_some() {
        return race();
    }
    let arguments = Arguments::from_args();
    let ready = Host::live().tree().read("/proc/cmdline").unwrap_or_default().contains("lab.mode=");
    if !ready {
        println!("kernel tests are ignored here: they need a lab guest, run `lab test luks`");
    }
    let suite = suite::CASES.map(|(name, case)| {
        let run = move || case(&rig()?).map_err(|error| Failed::from(error.to_string()));
        Trial::test(name, run).with_ignored_flag(!ready)
    });
    let own = [
        ("two_processes_race_and_the_volume_is_open_once", racing as fn() -> Result<(), Failed>),
        ("a_volume_without_its_disk_is_a_zombie", zombie),
        ("labels_and_paths_find_volumes_and_clones_are_ambiguous", labels),
        ("a_reencryption_begun_does_not_keep_a_volume_closed", reencrypting),
        ("dm_crypt_is_measured_over_a_scratch_device_and_over_no_other", measured),
        ("tokens_open_volumes_while_nobody_is_there", tokens),
        ("volumes_with_their_header_elsewhere_open_in_a_set", detached),
        ("a_table_has_the_flags_that_were_asked_for_and_no_key", table),
    ];
    let no_peer = if ready { common::no_cryptsetup() } else { None };
    if let Some(reason) = &no_peer {
        println!("a_reencryption_begun_does_not_keep_a_volume_closed is ignored here: {reason}");
    }
    let own = own.map(|(name, test)| {
        let needs_peer = name == "a_reencryption_begun_does_not_keep_a_volume_closed";
        Trial::test(name, test).with_ignored_flag(!ready || needs_peer && no_peer.is_some())
    });
    let trials = suite.into_iter().chain(own).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn disk(serial: &str) -> Result<PathBuf, Failed> {
    guest::disk(serial).map(PathBuf::from)
}

fn spec() -> FormatSpec {
    FormatSpec::luks2()
        .with_kdf(Kdf::Argon2idFixed { passes: 4, memory_kib: 64, lanes: 1 })
        .with_weak_kdf(luks::WeakKdf::Allowed)
}

fn rig() -> Result<suite::Rig, Failed> {
    let luks = Luks::on(&Host::live())?;
    for open in luks.list()? {
        luks.remove(&open.name.parse()?)?;
    }
    let mut volumes = Vec::new();
    for ((serial, id), key) in ["t0", "t1", "t2"].iter().zip(IDS).zip(["skull", "skull", "other"]) {
        let (device, uuid): (PathBuf, Uuid) = (disk(serial)?, id.parse()?);
        Header::format(&device, &spec().with_uuid(uuid.clone()), &Secret::from(key), Overwrite::Always)?;
        volumes.push((device, uuid));
    }
    Ok(suite::Rig { luks, volumes: volumes.try_into().map_err(|_| "three volumes")? })
}

fn one(rig: &suite::Rig, n: usize, name: &str) -> UnlockSet {
    UnlockSet::new([MappingSpec::by_uuid(name.parse().expect("a name"), rig.volumes[n].1.clone())])
}

/// One of two children: opens the volume and says what came of it.
fn race() -> ExitCode {
    let open = || -> Result<String, Box<dyn std::error::Error>> {
        let spec = MappingSpec::by_uuid("race".parse()?, IDS[0].parse()?);
        let reports = UnlockSet::new([spec]).run(&Luks::new()?, &[Secret::from("skull")])?;
        Ok(format!("{:?}", reports[0].outcome))
    };
    match open() {
        Ok(text) => println!("{text}"),
        Err(error) => println!("error: {error}"),
    }
    ExitCode::SUCCESS
}

fn racing() -> Result<(), Failed> {
    let rig = rig()?;
    let (mut opened, mut found) = (0, 0);
    for _ in 0..5 {
        let spawn = || {
            Command::new(std::env::current_exe()?).env(RACE, "1").stdout(std::process::Stdio::piped()).spawn()
        };
        let children = [spawn()?, spawn()?, spawn()?];
        let mut outcomes = Vec::new();
        for child in children {
            outcomes.push(String::from_utf8_lossy(&child.wait_with_output()?.stdout).trim().to_owned());
        }
        let count = |what: &str| outcomes.iter().filter(|o| o.starts_with(what)).count();
        assert_eq!((count("Opened"), count("AlreadyOpen")), (1, 2), "{outcomes:?}");
        opened += count("Opened");
        found += count("AlreadyOpen");
        assert_eq!(rig.luks.list()?.len(), 1);
        assert!(rig.luks.remove(&"race".parse()?)?);
    }
    println!("opened {opened} times, found open {found} times");
    Ok(())
}

fn zombie() -> Result<(), Failed> {
    let rig = rig()?;
    let set = one(&rig, 2, "zombie");
    assert!(set.run(&rig.luks, &[Secret::from("other")])?[0].outcome.is_open());
    // The disk goes away under the mapping, as an iSCSI disk does after a logout.
    let node = rig.volumes[2].0.file_name().expect("a node").to_string_lossy().into_owned();
    let tree = Host::live().tree().clone();
    let device = tree.read_link(format!("/sys/block/{node}/device"))?;
    let bus = device.file_name().expect("a device").to_string_lossy().into_owned();
    tree.write("/sys/bus/virtio/drivers/virtio_blk/unbind", &bus)?;
    let outcome = format!("{:?}", set.run(&rig.luks, &[Secret::from("other")])?[0].outcome);
    let removed = rig.luks.remove(&"zombie".parse()?);
    tree.write("/sys/bus/virtio/drivers/virtio_blk/bind", &bus)?;
    assert_eq!(outcome, "Zombie { open_as: \"zombie\" }");
    assert!(removed?);
    Ok(())
}

fn labels() -> Result<(), Failed> {
    let rig = rig()?;
    let key = Secret::from("skull");
    let format = |n: usize, label: &str, id: usize| -> Result<Header, Failed> {
        let spec = spec().with_label(label).with_uuid(IDS[id].parse()?);
        Ok(Header::format(&rig.volumes[n].0, &spec, &Secret::from("skull"), Overwrite::Always)?)
    };
    format(0, "first", 0)?;
    format(1, "clone", 1)?;
    format(2, "clone", 1)?;
    let by = |name: &str, source| MappingSpec::new(name.parse().expect("a name"), source);
    let label = |text: &str| Source::Label(text.to_owned());
    let set = [
        by("a", label("first")),
        by("b", label("clone")),
        by("c", Source::Uuid(IDS[1].parse()?)),
        by("d", Source::Path(rig.volumes[2].0.clone())),
    ];
    let reports = UnlockSet::new(set).run(&rig.luks, &[key])?;
    assert!(reports[0].outcome.is_open() && reports[3].outcome.is_open(), "{reports:?}");
    for n in [1, 2] {
        let Outcome::Ambiguous(devices) = &reports[n].outcome else { panic!("{reports:?}") };
        assert_eq!(devices.len(), 2);
    }
    for name in ["a", "d"] {
        assert!(rig.luks.remove(&name.parse()?)?);
    }
    Ok(())
}

fn reencrypting() -> Result<(), Failed> {
    let rig = rig()?;
    let dir = tempfile::tempdir()?;
    let key = common::key_file(dir.path(), "skull");
    let device = rig.volumes[0].0.to_str().expect("UTF-8");
    let cheap = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    common::must(&[&["reencrypt", "--init-only", "-q", "--key-file", &key][..], &cheap, &[device]].concat());
    let set = one(&rig, 0, "half");
    let wrong = set.run(&rig.luks, &[Secret::from("wrong")])?;
    assert!(matches!(wrong[0].outcome, Outcome::WrongKey), "{wrong:?}");
    let reports = set.run(&rig.luks, &[Secret::from("skull")])?;
    assert!(matches!(reports[0].outcome, Outcome::Opened { keyslot: None }), "{reports:?}");
    assert!(rig.luks.remove(&"half".parse()?)?);
    Ok(())
}

/// Two volumes whose key the kernel's keyring has, one of them in reencryption, and one that has no token.
fn tokens() -> Result<(), Failed> {
    let rig = rig()?;
    guest::into_keyring("sankit:unattended", b"skull");
    for n in [0, 1] {
        Volume::at(&rig.volumes[n].0).add_keyring_token(0, "sankit:unattended")?;
    }
    let reencryption = luks::ReencryptSpec::new()
        .with_kdf(Kdf::Pbkdf2Fixed { iterations: 1000 })
        .with_weak_kdf(luks::WeakKdf::Allowed)
        .with_hotzone(luks::Bytes(1 << 20));
    Volume::at(&rig.volumes[1].0)
        .reencrypt(&reencryption, &[&Secret::from("skull")], |_| std::ops::ControlFlow::Break(()))?;
    Volume::at(&rig.volumes[1].0).reencryption()?.ok_or("it has begun")?;
    let specs = ["a", "b", "c"]
        .iter()
        .zip(&rig.volumes)
        .map(|(name, (_, uuid))| MappingSpec::by_uuid(name.parse().expect("a name"), uuid.clone()));
    let set = UnlockSet::new(specs).with_tokens(Tokens::Try);
    let outcomes: Vec<_> = set.run(&rig.luks, &[])?.into_iter().map(|report| report.outcome).collect();
    assert!(matches!(outcomes[0], Outcome::Opened { keyslot: Some(0) }), "{outcomes:?}");
    assert!(outcomes[1].is_open(), "{outcomes:?}");
    assert!(matches!(outcomes[2], Outcome::NoToken { .. }), "{outcomes:?}");
    // With a passphrase for what no token opens.
    let outcomes: Vec<_> =
        set.run(&rig.luks, &[Secret::from("other")])?.into_iter().map(|report| report.outcome).collect();
    assert!(matches!(outcomes[..2], [Outcome::AlreadyOpen, Outcome::AlreadyOpen]), "{outcomes:?}");
    assert!(matches!(outcomes[2], Outcome::Opened { .. }), "{outcomes:?}");
    Ok(())
}

fn detached() -> Result<(), Failed> {
    let rig = rig()?;
    let dir = tempfile::tempdir()?;
    let (device, header) = (disk("t3")?, dir.path().join("header"));
    guest::clear(device.to_str().ok_or("UTF-8")?)?;
    let volume = Volume::at(&device).with_header(&header);
    volume.format(&spec().with_data_offset(luks::Sectors(0)), &Secret::from("skull"), Overwrite::Never)?;
    let apart = MappingSpec::new("apart".parse()?, Source::Path(device.clone())).with_header(&header);
    let whole = MappingSpec::by_uuid("whole".parse()?, rig.volumes[0].1.clone());
    let set = UnlockSet::new([apart, whole]);
    for expected in ["Opened", "AlreadyOpen"] {
        let outcomes: Vec<_> = set.run(&rig.luks, &[Secret::from("skull")])?;
        assert!(outcomes.iter().all(|r| format!("{:?}", r.outcome).starts_with(expected)), "{outcomes:?}");
    }
    let uuid = volume.read()?.uuid;
    let open = rig.luks.get(&"apart".parse()?)?.ok_or("open")?;
    assert_eq!(open.uuid, Some(uuid));
    Ok(())
}

fn table() -> Result<(), Failed> {
    let rig = rig()?;
    let spec = MappingSpec::by_uuid("flags".parse()?, rig.volumes[0].1.clone())
        .with_discards(luks::Discards::Allowed);
    UnlockSet::new([spec]).run(&rig.luks, &[Secret::from("skull")])?;
    let table = Host::live().dm().table(&"flags".parse()?)?;
    let params = &table[0].params;
    assert!(params.contains("allow_discards"), "{params}");
    // The key is in the kernel's keyring, where nobody can read it, and not in the table.
    assert!(params.contains(":64:logon:cryptsetup:"), "{params}");
    assert!(rig.luks.remove(&"flags".parse()?)?);
    Ok(())
}

fn measured() -> Result<(), Failed> {
    use luks::bench::{Cipher, Load, Queues, Way, device};
    let rig = rig()?;
    let path = &rig.volumes[0].0;
    let load = Load::default().with_threads(2).with_time(std::time::Duration::from_millis(100));
    let way = |queues| Way::new(Cipher::ALL[0], 4096, queues);
    let refused = device(path, &way(Queues::All), &load, Overwrite::Never);
    assert!(matches!(refused, Err(luks::Error::HoldsData { .. })), "{refused:?}");
    assert!(Header::read(path).is_ok());
    for queues in Queues::EACH {
        let seen = device(path, &way(queues), &load, Overwrite::Always)?;
        assert!(seen.write > 0.0 && seen.read > 0.0, "{seen:?}");
        println!("{queues:?}: {:.0} {:.0} MiB/s", seen.write, seen.read);
    }
    assert!(rig.luks.list()?.is_empty(), "nothing is left");
    // It was written over.
    assert!(matches!(Header::read(path), Err(luks::Error::NotLuks { .. })));
    Ok(())
}
