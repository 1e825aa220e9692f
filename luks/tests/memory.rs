//! What is left of passphrases and of a volume key in the memory of a process that has dropped them: nothing, and all that was logged on the way is
//! there to be searched, too. A child does the work and waits; this process reads the child's memory, all that a core dump would hold.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)] // It is a test.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;
mod guest;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;

use libtest_mimic::{Arguments, Failed, Trial};
use luks::unlock::{Outcome, Purpose, UnlockSet};
use luks::{
    FormatSpec, Header, Host, Kdf, Key, KeyslotSpec, Luks, MappingSpec, Overwrite, Secret, Source, Volume,
    WeakKdf,
};

/// What the child is to do: "drop" or "keep" the secret.
const CHILD: &str = "LUKS_TEST_CHILD";
const LENGTH: usize = 40;
const KDF: Kdf = Kdf::Argon2idFixed { passes: 4, memory_kib: 1024, lanes: 2 };

/// All that the crate and the library have logged, held in memory for this process's whole life.
static LOGGED: Mutex<String> = Mutex::new(String::new());

struct Logger;

impl Logger {
    fn add(text: &str) {
        LOGGED.lock().expect("no panic").push_str(text);
    }
}

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        Self::add(&format!("{}: {}\n", record.target(), record.args()));
    }

    fn flush(&self) {}
}

fn main() -> ExitCode {
    if let Ok(what) = std::env::var(CHILD) {
        child(&what).expect("the child does its work");
        return ExitCode::SUCCESS;
    }
    let trials = vec![
        Trial::test("a_dropped_passphrase_and_volume_key_are_nowhere_in_memory", || search("drop")),
        Trial::test("each_of_these_secrets_is_found_there_while_it_is_held", || search("keep")),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Uses the passphrases and the volume key in every way that needs no device-mapper, and waits.
fn child(what: &str) -> Result<(), Box<dyn std::error::Error>> {
    log::set_logger(&Logger).expect("the first one");
    log::set_max_level(log::LevelFilter::Trace);
    let dir = std::env::current_dir()?;
    let right = Secret::read(dir.join("passphrase"))?;
    unlock(&dir, &right)?;
    manage(&dir, &right)?;
    assert!(LOGGED.lock().expect("no panic").len() > 1000, "something was logged");
    let held = match what {
        "keep" => hold(&dir, right)?,
        _ => {
            drop(right);
            Vec::new()
        }
    };
    println!("ready");
    std::io::stdout().flush()?;
    std::io::stdin().read_exact(&mut [0])?;
    drop(held);
    Ok(())
}

/// Every secret that is looked for, alive, each from where the work above had it.
fn hold(dir: &Path, right: Secret) -> Result<Vec<Secret>, Box<dyn std::error::Error>> {
    let key = Volume::at(dir.join("one")).volume_key(&right)?;
    let mut held = vec![right, key.secret().share()];
    for name in ["other", "third", "made-up"] {
        // Clevis makes one up where it is installed.
        if dir.join(name).exists() {
            held.push(Secret::read(dir.join(name))?);
        }
    }
    Ok(held)
}

/// Unlocks two volumes with the second of two secrets.
fn unlock(dir: &Path, right: &Secret) -> Result<(), Box<dyn std::error::Error>> {
    let wrong = Secret::from("not this one");
    let spec = |name: &str| -> Result<_, luks::unlock::ParseError> {
        Ok(MappingSpec::new(name.parse()?, Source::Path(dir.join(name))))
    };
    let luks = Luks::on(&Host::live().with_run_dir(dir.join("run")))?;
    let set = UnlockSet::new([spec("one")?, spec("two")?]).with_purpose(Purpose::Check);
    let reports = set.run(&luks, &[wrong, right.share()])?;
    assert!(reports.iter().all(|r| matches!(r.outcome, Outcome::Opened { .. })), "{reports:?}");
    // What a program would log of all this.
    Logger::add(&format!("{right:?} {reports:?} {set:?} {luks:?}"));
    Ok(())
}

/// Changes and uses keys of all kinds, good ones and bad ones.
fn manage(dir: &Path, right: &Secret) -> Result<(), Box<dyn std::error::Error>> {
    let verbose = |name: &str| Volume::at(dir.join(name)).with_log(|_, text| Logger::add(text));
    let (volume, other) = (verbose("one"), Secret::read(dir.join("other"))?);
    let slot = KeyslotSpec::new().with_kdf(KDF).with_weak_kdf(WeakKdf::Allowed);
    let key = volume.volume_key(right)?;
    volume.check(&key)?;
    volume.add_key(&key, &other, &slot)?;
    volume.change_key(&other, &Secret::read(dir.join("third"))?, &slot)?;
    let part = Key::file(dir.join("passphrase"), 0, Some(30))?;
    let errors =
        [volume.check(&part).expect_err("half of it"), volume.check(&other).expect_err("the old one")];
    volume.backup(dir.join("backup"))?;
    guest::into_keyring("sankit:memory", right.expose());
    volume.add_keyring_token(0, "sankit:memory")?;
    volume.check(Key::token(0))?;
    volume.check(Key::Keyring("sankit:memory".to_owned()))?;
    // Clevis's, where it is installed.
    for token in verbose("two").tokens()? {
        verbose("two").check(Key::token(token.number))?;
    }
    let made = verbose("three");
    made.format(
        &FormatSpec::luks2().with_kdf(KDF).with_weak_kdf(WeakKdf::Allowed),
        &other,
        Overwrite::Never,
    )?;
    Logger::add(&format!("{volume:?} {key:?} {part:?} {errors:?} {:?}", slot));
    Ok(())
}

/// A passphrase that no other process and no program text has: made at run time, and known here only as what is to be looked for.
fn passphrase() -> Vec<u8> {
    let mut random = [0; LENGTH];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .expect("random bytes");
    b"skull".iter().copied().chain(random.iter().map(|b| b'a' + b % 26)).collect()
}

fn image(dir: &Path, name: &str, key: &Secret) {
    common::image(&dir.join(name), 20 << 20, &[]).expect("a file");
    Header::format(
        dir.join(name),
        &FormatSpec::luks2().with_kdf(KDF).with_weak_kdf(WeakKdf::Allowed),
        key,
        Overwrite::Never,
    )
    .expect("made");
}

/// The volume key, as cryptsetup tells it.
fn volume_key(dir: &Path) -> Option<Vec<u8>> {
    common::no_cryptsetup().is_none().then(|| {
        let (image, key) = (dir.join("one"), dir.join("volume-key"));
        let passphrase = dir.join("passphrase");
        let [image, key, passphrase] = [&image, &key, &passphrase].map(|path| path.to_str().expect("UTF-8"));
        common::must(&[
            "luksDump",
            "-q",
            "--dump-volume-key",
            "--volume-key-file",
            key,
            "--key-file",
            passphrase,
            image,
        ]);
        std::fs::read(key).expect("the key")
    })
}

/// Binds the volume "two" with clevis; the passphrase that it made up.
fn clevis(dir: &Path) -> Option<Vec<u8>> {
    let run = |args: &[&str]| {
        let output = Command::new("clevis").args(args).current_dir(dir).output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(output.stdout)
    };
    run(&["luks", "bind", "-y", "-k", "passphrase", "-d", "two", "null", "{}"])?;
    run(&["luks", "pass", "-d", "two", "-s", "1"]).filter(|passphrase| passphrase.len() >= LENGTH / 2)
}

fn search(what: &str) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let secret = passphrase();
    std::fs::write(dir.path().join("passphrase"), &secret)?;
    let others = [passphrase(), passphrase()];
    for (name, secret) in ["other", "third"].iter().zip(&others) {
        std::fs::write(dir.path().join(name), secret)?;
    }
    for name in ["one", "two"] {
        image(dir.path(), name, &Secret::new(secret.clone()));
    }
    common::image(&dir.path().join("three"), 20 << 20, &[])?;
    let key = volume_key(dir.path());
    let made_up = clevis(dir.path());
    if let Some(passphrase) = &made_up {
        std::fs::write(dir.path().join("made-up"), passphrase)?;
    }
    let mut child = Command::new(std::env::current_exe()?)
        .env(CHILD, what)
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line)?;
    assert_eq!(line.trim(), "ready");
    let id = child.id();
    let mut wanted = vec![("passphrase", secret.clone())];
    wanted.extend(["other", "third"].into_iter().zip(others));
    wanted.extend(key.map(|key| ("volume key", key)));
    wanted.extend(made_up.map(|passphrase| ("passphrase of clevis", passphrase)));
    let (found, size) = find(id, &wanted);
    child.stdin.take().expect("a pipe").write_all(b"x")?;
    assert!(child.wait()?.success());
    println!("{} MiB searched for {} secrets, found: {found:?}", size >> 20, wanted.len());
    assert!(size > 1 << 20);
    // What is held is found, each of them: without that it would say nothing that a dropped one is not.
    let mut expected: Vec<&str> =
        if what == "keep" { wanted.iter().map(|(name, _)| *name).collect() } else { vec![] };
    let mut names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    expected.sort_unstable();
    assert_eq!(names, expected, "{found:?}");
    Ok(())
}

/// Looks through all memory of a process that can be read: which secret stands in which mapping; and how much was looked through.
fn find<'a>(id: u32, wanted: &[(&'a str, Vec<u8>)]) -> (Vec<(&'a str, String)>, u64) {
    let maps = std::fs::read_to_string(format!("/proc/{id}/maps")).expect("maps");
    let memory = std::fs::File::open(format!("/proc/{id}/mem")).expect("memory");
    let (mut found, mut size) = (Vec::new(), 0);
    // A part of it is as bad: half of a passphrase is guessed at once.
    let parts: Vec<_> = wanted.iter().map(|(name, secret)| (*name, &secret[..secret.len() / 2])).collect();
    // One look at each byte: this is not compiled to be fast.
    let mut begins = [false; 256];
    for (_, part) in &parts {
        begins[usize::from(part[0])] = true;
    }
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').expect("a range");
        let (from, to) = range.split_once('-').expect("two numbers");
        let [from, to] = [from, to].map(|n| u64::from_str_radix(n, 16).expect("a number"));
        let mut bytes = vec![0; usize::try_from(to - from).expect("fits")];
        // [vvar] and the like cannot be read, and a core dump does not hold them.
        if !rest.starts_with('r') || memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        size += to - from;
        for (at, byte) in bytes.iter().enumerate() {
            if begins[usize::from(*byte)] {
                let here = parts.iter().filter(|(_, part)| bytes[at..].starts_with(part));
                found.extend(here.map(|(name, _)| (*name, line.to_owned())));
            }
        }
    }
    (found, size)
}
