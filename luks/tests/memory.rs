//! What is left of a passphrase and of a volume key in the memory of a process that has dropped them: nothing. A child does the work and waits;
//! this process reads the child's memory, all that a core dump would hold.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)] // It is a test.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use luks::unlock::{Outcome, Purpose, UnlockSet};
use luks::{FormatSpec, Header, Host, Kdf, Luks, MappingSpec, Overwrite, Secret, Source};

/// What the child is to do: "drop" or "keep" the secret.
const CHILD: &str = "LUKS_TEST_CHILD";
const LENGTH: usize = 40;

fn main() -> ExitCode {
    if let Ok(what) = std::env::var(CHILD) {
        child(&what).expect("the child does its work");
        return ExitCode::SUCCESS;
    }
    let trials = vec![
        Trial::test("a_dropped_passphrase_and_volume_key_are_nowhere_in_memory", || search("drop")),
        Trial::test("a_passphrase_that_is_held_is_found_there", || search("keep")),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Unlocks two volumes, one of them with the second secret, and waits.
fn child(what: &str) -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::current_dir()?;
    let wrong = Secret::from("not this one");
    let right = Secret::read(dir.join("passphrase"))?;
    {
        let spec = |name: &str| -> Result<_, luks::unlock::ParseError> {
            Ok(MappingSpec::new(name.parse()?, Source::Path(dir.join(name))))
        };
        let luks = Luks::on(&Host::live().with_run_dir(dir.join("run")))?;
        let set = UnlockSet::new([spec("one")?, spec("two")?]).with_purpose(Purpose::Check);
        let reports = set.run(&luks, &[wrong, right.share()])?;
        assert!(reports.iter().all(|r| matches!(r.outcome, Outcome::Opened { .. })), "{reports:?}");
        // What a program would log of all this.
        let shown = format!("{right:?} {reports:?} {set:?} {luks:?}");
        assert!(!shown.contains("skull"), "{shown}");
    }
    let held = (what == "keep").then_some(right);
    println!("ready");
    std::io::stdout().flush()?;
    std::io::stdin().read_exact(&mut [0])?;
    drop(held);
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
    let kdf = Kdf::Argon2idFixed { passes: 4, memory_kib: 1024, lanes: 2 };
    Header::format(
        dir.join(name),
        &FormatSpec::luks2().with_kdf(kdf).with_weak_kdf(luks::WeakKdf::Allowed),
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

fn search(what: &str) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let secret = passphrase();
    std::fs::write(dir.path().join("passphrase"), &secret)?;
    for name in ["one", "two"] {
        image(dir.path(), name, &Secret::new(secret.clone()));
    }
    let key = volume_key(dir.path());
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
    wanted.extend(key.map(|key| ("volume key", key)));
    let (found, size) = find(id, &wanted);
    child.stdin.take().expect("a pipe").write_all(b"x")?;
    assert!(child.wait()?.success());
    println!("{} MiB searched for {} secrets, found: {found:?}", size >> 20, wanted.len());
    assert!(size > 1 << 20);
    let expected: &[&str] = if what == "keep" { &["passphrase"] } else { &[] };
    let mut names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    names.dedup();
    assert_eq!(names, expected, "{found:?}");
    Ok(())
}

/// Looks through all memory of a process that can be read: which secret stands in which mapping; and how much was looked through.
fn find<'a>(id: u32, wanted: &[(&'a str, Vec<u8>)]) -> (Vec<(&'a str, String)>, u64) {
    let maps = std::fs::read_to_string(format!("/proc/{id}/maps")).expect("maps");
    let memory = std::fs::File::open(format!("/proc/{id}/mem")).expect("memory");
    let (mut found, mut size) = (Vec::new(), 0);
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
        for (name, secret) in wanted {
            // A part of it is as bad: half of a passphrase is guessed at once.
            let part = &secret[..secret.len() / 2];
            if bytes.windows(part.len()).any(|window| window == part) {
                found.push((*name, line.to_owned()));
            }
        }
    }
    (found, size)
}
