//! Volumes on real dm-crypt, in a guest of the lab: what else opens them, what is refused while they are open, and what a kill leaves.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::indexing_slicing
)] // It is a test.

mod guest;
mod kills;
mod kit;
mod peers;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guest::{check, disk, fill};
use kit::{quick1, quick2, slot};
use libtest_mimic::{Arguments, Failed, Trial};
use luks::{
    Bytes, Cipher, Discards, DmName, Error, Host, Key, Luks, MappingSpec, OpenFlags, Outcome, Overwrite,
    PlainSpec, ReencryptSpec, Secret, Sectors, Source, Version, Volume, WeakKdf,
};

type Test = fn(&Bench) -> Result<(), Failed>;

/// A device with nothing on it, another for headers, and a name.
pub(crate) struct Bench {
    pub(crate) luks: Luks,
    pub(crate) device: String,
    pub(crate) other: String,
    pub(crate) a: Secret,
}

impl Bench {
    fn new() -> Result<Self, Failed> {
        let luks = Luks::on(&Host::live())?;
        guest::close_all(&luks)?;
        let (device, other) = (disk("t2")?, disk("t3")?);
        guest::clear(&device)?;
        guest::clear(&other)?;
        Ok(Self { luks, device, other, a: Secret::from("a") })
    }

    /// The same with a device of 48 MiB.
    pub(crate) fn small(&self) -> Result<Self, Failed> {
        let (other, a) = (self.other.clone(), self.a.share());
        Ok(Self { luks: self.luks.clone(), device: guest::small(&self.device)?, other, a })
    }

    pub(crate) fn volume(&self) -> Volume {
        Volume::at(&self.device)
    }

    pub(crate) fn spec(&self) -> MappingSpec {
        MappingSpec::new(Self::name(), Source::Path(self.device.clone().into()))
    }

    pub(crate) fn name() -> DmName {
        "crypt0".parse().expect("a name")
    }

    pub(crate) fn node() -> PathBuf {
        Self::name().path()
    }

    pub(crate) fn open(&self, key: impl Into<Key>) -> Result<(), Failed> {
        Ok(self.luks.create(&self.spec(), key)?)
    }

    pub(crate) fn close(&self) -> Result<(), Failed> {
        assert!(self.luks.remove(&Self::name())?);
        Ok(())
    }
}

fn main() -> ExitCode {
    if let Some(code) = kills::child() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // They use the same disks.
    arguments.test_threads = Some(1);
    let ready = guest::ready();
    let here: &[(&str, Test)] = &[
        ("every_kind_of_key_opens_the_same_data", keys),
        ("a_detached_header_opens_the_data", detached),
        ("what_is_refused_while_it_is_open", refused),
        ("a_header_never_lets_discards_through_unasked", discards),
        ("a_damaged_copy_is_found_and_repaired_while_the_volume_is_open", damaged),
        ("two_processes_race_and_one_opens", race),
        ("the_cipher_changes_while_data_is_written", online),
        ("a_volume_with_integrity_reads_after_its_wipe", integrity),
        ("plain_dm_crypt_reads_what_it_wrote", plain),
    ];
    // Minutes each on an emulated processor; `make test-full` asks for them.
    let has_time = std::env::var_os("SANKIT_LAB_LONG").is_some();
    if ready && !has_time {
        println!(
            "kills, and reencryption in use, are ignored here: they take minutes, set SANKIT_LAB_LONG=1"
        );
    }
    let is_long = |name: &str| {
        [
            "data_survives_ten_kills",
            "the_cipher_changes_while",
            "a_key_opens_after_each_kill",
            "a_restore_survives",
        ]
        .iter()
        .any(|long| name.starts_with(long))
    };
    let in_time = |name: &str| ready && (has_time || !is_long(name));
    let trials = here.iter().chain(kills::TESTS).map(|(name, test)| (*name, *test, in_time(name)));
    let has_peer = ready && kit::has_peer();
    if ready && !has_peer {
        println!(
            "comparisons with cryptsetup are ignored here: it is not in this guest, run `lab test luks --mode root`"
        );
    }
    let peers = peers::TESTS.iter().map(|(name, test)| (*name, *test, has_peer));
    let trial = |(name, test, ready): (&str, Test, bool)| {
        let run = move || test(&Bench::new()?).and_then(|()| guest::close_all(&Luks::on(&Host::live())?));
        Trial::test(name, run).with_ignored_flag(!ready)
    };
    libtest_mimic::run(&arguments, trials.chain(peers).map(trial).collect()).exit_code()
}

fn keys(bench: &Bench) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    for spec in [quick2(), quick1()] {
        let volume = bench.volume();
        volume.format(&spec, &bench.a, Overwrite::Always)?;
        std::fs::File::create(dir.path().join("key"))
            .and_then(|mut f| std::io::Write::write_all(&mut f, b"xx\0y\nz"))?;
        let file = || Key::file(dir.path().join("key"), 2, Some(3));
        volume.add_key(&bench.a, &Secret::new(b"\0y\n".to_vec()), &slot())?;
        bench.open(&bench.a)?;
        // Few pages: an emulated processor under load reads two hundred a second, and all keys read them.
        fill(&Bench::node(), 128)?;
        bench.close()?;
        guest::into_keyring("sankit:test", b"a");
        let mut keys = vec![
            Key::from(&bench.a),
            Key::Slot(0, bench.a.share()),
            file()?,
            Key::from(volume.volume_key(&bench.a)?),
            Key::Keyring("sankit:test".to_owned()),
        ];
        if spec.version == Version::Luks2 {
            keys.push(Key::token(volume.add_keyring_token(0, "sankit:test")?));
        }
        for key in keys {
            bench.open(&key).map_err(|e| format!("{key:?}: {e:?}"))?;
            check(&Bench::node(), 128)?;
            // All of them resume, too.
            assert!(bench.luks.suspend(&Bench::name())?);
            assert!(bench.luks.resume(&Bench::name(), None, &key)?, "{key:?}");
            check(&Bench::node(), 512)?;
            bench.close()?;
        }
        if spec.version == Version::Luks2 {
            let token = volume.add_keyring_token(0, "sankit:nobody put it there")?;
            let error = bench.luks.create(&bench.spec(), Key::token(token)).expect_err("no key");
            assert!(!error.to_string().is_empty() && bench.luks.list()?.is_empty(), "{error:?}");
            let other = volume.add_token(r#"{"type":"nobody's","keyslots":["0"]}"#)?;
            let error = bench.luks.create(&bench.spec(), Key::token(other)).expect_err("no plug-in");
            assert!(format!("{error:?}").contains("TokenUnhandled"), "{error:?}");
        }
    }
    Ok(())
}

fn detached(bench: &Bench) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    for header in [dir.path().join("header"), PathBuf::from(&bench.other)] {
        let volume = bench.volume().with_header(&header);
        volume.format(&quick2().with_data_offset(Sectors(0)), &bench.a, Overwrite::Never)?;
        let spec = bench.spec().with_header(&header);
        assert!(bench.luks.plan(std::slice::from_ref(&spec))?.to_string().contains("--header"));
        assert!(bench.luks.ensure(std::slice::from_ref(&spec), &bench.a)?);
        assert!(!bench.luks.ensure(std::slice::from_ref(&spec), &bench.a)?);
        fill(&Bench::node(), 64)?;
        assert_eq!(bench.luks.active(&Bench::name())?.offset, Sectors(0));
        assert!(
            bench.luks.suspend(&Bench::name())?
                && bench.luks.resume(&Bench::name(), Some(&header), &bench.a)?
        );
        assert!(volume.volume_key(&bench.a).is_ok());
        bench.close()?;
        bench.luks.create(&spec, &bench.a)?;
        check(&Bench::node(), 64)?;
        bench.close()?;
        guest::clear(&bench.device)?;
    }
    Ok(())
}

fn refused(bench: &Bench) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let volume = bench.volume();
    volume.format(&quick2(), &bench.a, Overwrite::Always)?;
    volume.backup(dir.path().join("b"))?;
    bench.open(&bench.a)?;
    fill(&Bench::node(), 64)?;
    let on = || ControlFlow::Continue(());
    let errors = [
        volume.format(&quick2(), &bench.a, Overwrite::Always).map(drop).expect_err("open"),
        volume
            .restore(dir.path().join("b"), dir.path().join("kept"), Overwrite::Always)
            .map(drop)
            .expect_err("open"),
        volume.convert(Version::Luks1, dir.path().join("c")).map(drop).expect_err("open"),
        volume.set_uuid(&"1bd1f798-d105-4150-841b-f2751f419efc".parse()?).expect_err("open"),
        volume.wipe(luks::WipePattern::Zero, None, Overwrite::Always, |_| on()).map(drop).expect_err("open"),
        volume.wipe_data(&bench.a, |_| on()).map(drop).expect_err("open"),
        bench
            .luks
            .create_plain(
                &"plain".parse()?,
                &bench.device,
                &PlainSpec::new(Cipher::aes_xts(), 512),
                Secret::new(vec![1; 64]),
                OpenFlags::empty(),
                Overwrite::Always,
            )
            .expect_err("open"),
    ];
    for error in errors {
        let text = error.to_string();
        assert!(error.is_busy() && text.contains("/dev/mapper/crypt0"), "{error:?}");
    }
    // The volume of the backup is open, though elsewhere than where it is to go.
    let error =
        Volume::at(&bench.other).restore(dir.path().join("b"), dir.path().join("kept"), Overwrite::Always);
    assert!(matches!(error, Err(Error::Open { .. })), "{error:?}");
    assert!(!dir.path().join("kept").exists());
    check(&Bench::node(), 64)?;
    // Key slots can change while it is open, and the header be kept.
    volume.change_key(&bench.a, &Secret::from("b"), &slot())?;
    volume.backup(dir.path().join("b2"))?;
    bench.close()?;
    bench.open(Secret::from("b"))?;
    check(&Bench::node(), 64)
}

fn discards(bench: &Bench) -> Result<(), Failed> {
    let volume = bench.volume();
    volume.format(&quick2(), &bench.a, Overwrite::Always)?;
    let kept = OpenFlags::ALLOW_DISCARDS | OpenFlags::NO_READ_WORKQUEUE;
    volume.set_persistent_flags(kept, Discards::Allowed)?;
    bench.open(&bench.a)?;
    let flags = bench.luks.active(&Bench::name())?.flags;
    assert!(!flags.contains(OpenFlags::ALLOW_DISCARDS), "{flags:?}");
    assert!(flags.contains(OpenFlags::NO_READ_WORKQUEUE), "the other one holds: {flags:?}");
    bench.close()?;
    bench.luks.create(&bench.spec().with_discards(Discards::Allowed), &bench.a)?;
    let flags = bench.luks.active(&Bench::name())?.flags;
    assert!(flags.contains(kept), "{flags:?}");
    bench.close()
}

fn damaged(bench: &Bench) -> Result<(), Failed> {
    let volume = bench.volume();
    volume.format(&quick2(), &bench.a, Overwrite::Always)?;
    bench.open(&bench.a)?;
    fill(&Bench::node(), 64)?;
    for at in [0_u64, 5000, 0x4000, 0x4000 + 5000] {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = std::fs::OpenOptions::new().write(true).open(&bench.device)?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&[0xee; 64])?;
        file.sync_all()?;
        drop(file);
        assert!(volume.read()?.needs_repair, "at {at}");
        assert!(volume.repair()? && !volume.repair()?, "at {at}");
        assert!(!volume.read()?.needs_repair && volume.check(&bench.a)? == Some(0), "at {at}");
    }
    bench.close()?;
    bench.open(&bench.a)?;
    check(&Bench::node(), 64)
}

fn race(bench: &Bench) -> Result<(), Failed> {
    bench.volume().format(&quick2(), &bench.a, Overwrite::Always)?;
    let program = std::env::current_exe()?;
    for round in 0..5 {
        let start =
            || Command::new(&program).env("SANKIT_LUKS_CHILD", "open").env("DEVICE", &bench.device).spawn();
        let children = [start()?, start()?, start()?];
        let mut codes = Vec::new();
        for mut child in children {
            codes.push(child.wait()?.code().ok_or("killed")?);
        }
        codes.sort_unstable();
        // One makes it, the others find it made: no error, no second mapping.
        assert_eq!(codes, [0, 10, 10], "round {round}");
        assert_eq!(bench.luks.list()?.len(), 1);
        bench.close()?;
    }
    Ok(())
}

fn online(bench: &Bench) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let bench = &bench.small()?;
    let (volume, b) = (bench.volume(), Secret::from("b"));
    // Article 1's volumes: LUKS1 with aes-cbc-essiv, to LUKS2 with aes-xts.
    volume.format(&quick1(), &bench.a, Overwrite::Always)?;
    volume.add_key(&bench.a, &b, &slot())?;
    bench.open(&bench.a)?;
    fill(&Bench::node(), 4)?;
    bench.close()?;
    volume.convert(Version::Luks2, dir.path().join("before"))?;
    bench.open(&b)?;
    check(&Bench::node(), 16)?;
    let spec = ReencryptSpec::new()
        .with_cipher(Cipher::aes_xts(), 512)
        .with_kdf(kit::QUICK)
        .with_weak_kdf(WeakKdf::Allowed)
        .with_hotzone(Bytes(2 << 20));
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut rounds = 0;
            while !stop.load(Ordering::SeqCst) {
                fill(&Bench::node(), 96).expect("writes go on");
                check(&Bench::node(), 192).expect("and reads");
                rounds += 1;
            }
            rounds
        })
    };
    let mut parts = 0;
    let outcome = volume.reencrypt(&spec, &[&bench.a, &b], |_| {
        parts += 1;
        if parts == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    assert_eq!(outcome, Outcome::Stopped);
    assert!(volume.reencryption()?.is_some());
    // Cancelled between two parts: the mapping works, can be closed, opened, and the work goes on.
    let outcome = volume.resume_reencrypt(&b, Some(Bytes(2 << 20)), |_| ControlFlow::Continue(()))?;
    assert_eq!(outcome, Outcome::Finished);
    stop.store(true, Ordering::SeqCst);
    let rounds: u32 = writer.join().map_err(|_| "the writer failed")?;
    assert!(rounds > 0);
    check(&Bench::node(), 8)?;
    bench.close()?;
    assert_eq!(volume.read()?.cipher, "aes-xts-plain64");
    bench.open(&b)?;
    check(&Bench::node(), 8)
}

fn integrity(bench: &Bench) -> Result<(), Failed> {
    let bench = &bench.small()?;
    let spec = quick2().with_integrity(luks::Integrity::HmacSha256).with_cipher(Cipher::aes_xts(), 512);
    let volume = bench.volume();
    volume.format(&spec, &bench.a, Overwrite::Always)?;
    let mut last = 0;
    let outcome = volume.wipe_data(&bench.a, |p| {
        last = p.done.0;
        ControlFlow::Continue(())
    })?;
    assert!(outcome == Outcome::Finished && last > 0, "{last}");
    bench.open(&bench.a)?;
    fill(&Bench::node(), 64)?;
    bench.close()?;
    bench.open(&bench.a)?;
    check(&Bench::node(), 64)
}

fn plain(bench: &Bench) -> Result<(), Failed> {
    let spec = PlainSpec::new("aes-cbc-essiv:sha256".parse()?, 256);
    let open = |key: u8| {
        let key = Secret::new(vec![key; 32]);
        bench.luks.create_plain(
            &Bench::name(),
            &bench.device,
            &spec,
            key,
            OpenFlags::empty(),
            Overwrite::Never,
        )
    };
    open(7)?;
    fill(&Bench::node(), 64)?;
    bench.close()?;
    open(8)?;
    assert!(check(&Bench::node(), 64).is_err(), "another key opens it, and reads noise");
    bench.close()?;
    open(7)?;
    check(&Bench::node(), 64)
}

/// For the modules.
pub(crate) fn opened(device: &Path) -> MappingSpec {
    MappingSpec::new(Bench::name(), Source::Path(device.to_path_buf()))
}
