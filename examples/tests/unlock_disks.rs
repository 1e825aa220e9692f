//! `unlock-disks` as a program: its exit codes, where it takes a passphrase from, and that nobody else sees it. On images, without root's mappings.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)] // It is a test.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::termios::LocalFlags;

use luks::{FormatSpec, Header, Kdf, Overwrite, Secret};

type Done = Result<(), Box<dyn std::error::Error>>;

/// Nothing else on this machine has these bytes.
const PASSPHRASE: &str = "written-on-the-inside-of-the-skull-7f3a";

struct Images {
    dir: tempfile::TempDir,
}

impl Images {
    fn new(kdf: Kdf) -> Self {
        let images = Self { dir: tempfile::tempdir().expect("a directory") };
        for (name, passphrase) in [("one", PASSPHRASE), ("two", PASSPHRASE), ("three", "another")] {
            let file = File::create(images.path(name)).expect("a file");
            file.set_len(20 << 20).expect("a size");
            let spec = FormatSpec::luks2().with_kdf(kdf).with_weak_kdf(luks::WeakKdf::Allowed);
            Header::format(images.path(name), &spec, &Secret::from(passphrase), Overwrite::Never)
                .expect("made");
        }
        std::fs::write(images.path("key"), format!("{PASSPHRASE}\n")).expect("a file");
        images
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn disk(&self, name: &str) -> String {
        format!("{}={name}", self.path(name).display())
    }

    fn command(&self, disks: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unlock-disks"));
        command.args(["--test-passphrase", "--ask-dir", "/nowhere"]);
        command.args(disks.iter().map(|name| self.disk(name))).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, disks: &[&str], arguments: &[&str]) -> (i32, String) {
        seen(&self.command(disks, arguments).output().expect("runs"))
    }
}

fn seen(output: &Output) -> (i32, String) {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    // Volumes are told of as they are opened, in whatever order that is.
    let mut lines: Vec<&str> = text.iter().flat_map(|text| text.lines()).collect();
    lines.sort_unstable();
    (output.status.code().expect("ends by itself"), lines.iter().map(|line| format!("{line}\n")).collect())
}

fn cheap() -> Kdf {
    Kdf::Argon2idFixed { passes: 4, memory_kib: 64, lanes: 1 }
}

#[test]
fn exit_codes_are_those_of_cryptsetup() -> Done {
    let images = Images::new(cheap());
    let key = images.path("key");
    let key = ["--key-file", key.to_str().expect("UTF-8")];
    assert_eq!(
        images.run(&["one", "two"], &key),
        (0, "one: opened with key slot 0\ntwo: opened with key slot 0\n".to_owned())
    );
    assert_eq!(images.run(&["three"], &key).0, 2);
    // With the final newline it is another passphrase.
    assert_eq!(images.run(&["one"], &[&key[..], &["--raw"]].concat()).0, 2);
    std::fs::write(images.path("none"), vec![0; 1 << 20])?;
    let mut damaged = std::fs::read(images.path("one"))?;
    [4200, 0x4000 + 4200].into_iter().for_each(|at| damaged[at] ^= 0xff);
    std::fs::write(images.path("damaged"), damaged)?;
    assert_eq!(images.run(&["missing"], &key).0, 4);
    // In the same cases the same.
    let theirs = |disk: &str, options: &[&str]| {
        let mut command = Command::new("cryptsetup");
        command.args(["open", "--test-passphrase"]).args(options).arg(images.path(disk));
        command.stdin(Stdio::null()).output().ok().map(|output| seen(&output).0)
    };
    let nothing = images.path("nothing").display().to_string();
    for (disk, options) in [
        ("one", &key[..]),
        ("three", &key),
        ("none", &key),
        ("damaged", &key),
        ("missing", &key),
        ("one", &["--key-file", &nothing]),
        ("one", &["--no-such-option"]),
    ] {
        // Theirs takes every byte of a key file.
        let (ours, theirs) =
            (images.run(&[disk], options).0, theirs(disk, &[&["--keyfile-size", "39"], options].concat()));
        println!("{disk} {options:?}: {ours}, cryptsetup {theirs:?}");
        assert!(
            theirs.is_none_or(|theirs| theirs == ours),
            "{disk} {options:?}: {ours}, cryptsetup {theirs:?}"
        );
    }
    // Of several what asking again could mend.
    assert_eq!(images.run(&["none", "three", "one"], &key).0, 2);
    assert_eq!(images.run(&["one"], &["--memory", "1K", "--key-file", key[1]]).0, 3);
    assert_eq!(images.run(&[], &key).0, 1, "no disk is a wrong parameter");
    assert_eq!(images.run(&["one"], &["--no-such-option"]).0, 1);
    assert_eq!(images.run(&["one"], &[]).0, 1, "nobody can be asked");
    Ok(())
}

#[test]
fn missing_memory_and_missing_rights_are_told_as_such() -> Done {
    let images = Images::new(Kdf::Argon2idFixed { passes: 4, memory_kib: 256 * 1024, lanes: 1 });
    let key = images.path("key");
    let key = ["--key-file", key.to_str().expect("UTF-8")];
    // A program that may have 300 MiB of addresses derives no key with 256 MiB.
    let ours = images.command(&["one"], &key);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -v 307200; exec \"$0\" \"$@\""])
        .arg(ours.get_program())
        .args(ours.get_args());
    let (code, said) = seen(&limited.stdin(Stdio::null()).output()?);
    assert!(code == 3 && said.contains("not enough memory"), "{code}: {said}");
    // Nobody but root opens.
    for (path, mode) in
        [(images.dir.path().to_path_buf(), 0o755), (images.path("key"), 0o644), (images.path("one"), 0o666)]
    {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    }
    // Where nobody may look: the build may be in a directory of root's.
    std::fs::copy(env!("CARGO_BIN_EXE_unlock-disks"), images.path("unlock-disks"))?;
    let nobody = |options: &[&str]| -> std::io::Result<(i32, String)> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(images.path("unlock-disks"));
        Ok(seen(&command.args(options).args(key).arg(images.disk("one")).stdin(Stdio::null()).output()?))
    };
    let (code, said) = nobody(&["--test-passphrase"])?;
    assert_eq!((code, said.as_str()), (0, "one: opened with key slot 0\n"));
    let (code, said) = nobody(&[])?;
    // On a machine whose kernel has no dm-crypt that is told.
    let told = said.contains("root") || said.contains("modprobe dm_crypt");
    assert!(code == 1 && told, "{code}: {said}");
    Ok(())
}

#[test]
fn a_dry_run_says_what_it_costs_and_needs_no_passphrase() {
    let images = Images::new(cheap());
    let (code, text) = images.run(&["one", "missing"], &["--dry-run"]);
    assert_eq!(code, 4);
    assert!(
        text.contains("cryptsetup open") && text.contains("one  # key slots 0, 64 KiB of memory"),
        "{text}"
    );
    assert!(text.contains("missing: no disk here has it"), "{text}");
}

#[test]
fn crypttab_says_which_disks_and_which_key_files() -> Done {
    let images = Images::new(cheap());
    let raw = images.path("raw");
    std::fs::write(&raw, PASSPHRASE)?;
    let line = |name: &str, rest: &str| format!("{name} {} {rest}\n", images.path(name).display());
    let text = line("one", &format!("{} luks", raw.display()))
        + &line("three", "none luks,noauto")
        + &line("two", "none luks,discard")
        + "swap /dev/none /dev/urandom swap\n";
    std::fs::write(images.path("crypttab"), &text)?;
    let crypttab = format!("--crypttab={}", images.path("crypttab").display());
    let key = images.path("key");
    let arguments = [crypttab.as_str(), "--key-file", key.to_str().expect("UTF-8")];
    let (code, said) = images.run(&[], &arguments);
    assert_eq!((code, said.as_str()), (0, "one: opened with key slot 0\ntwo: opened with key slot 0\n"));
    // A line that asks for what is not carried out is not opened some other way, and what is missing keeps nothing else closed.
    let gone = images.path("gone").display().to_string();
    let text = line("one", "none luks,keyscript=/bin/x")
        + &line("two", "none")
        + &line("three", &gone)
        + &format!("apart {} none header={gone}\n", images.path("one").display());
    std::fs::write(images.path("crypttab"), text)?;
    let (code, said) = images.run(&[], &arguments);
    assert_eq!(code, 1, "{said}");
    for part in ["one: not opened, unlock-disks has no keyscript=/bin/x", "two: opened"] {
        assert!(said.contains(part), "{said}");
    }
    for name in ["three", "apart"] {
        let own = said.lines().find(|text| text.starts_with(&format!("{name}: "))).expect("a line");
        assert!(own.contains(&gone), "{said}");
    }
    // A part of a key file, a key slot, and a token that nothing here opens, after which the key file is taken.
    std::fs::write(&raw, format!("xx{PASSPHRASE}yy"))?;
    let part = format!("{} keyfile-offset=2,keyfile-size={},key-slot=0", raw.display(), PASSPHRASE.len());
    std::fs::write(images.path("crypttab"), line("one", &part) + &line("two", "- tpm2-device=auto"))?;
    let (code, said) = images.run(&[], &arguments);
    assert_eq!(code, 0, "{said}");
    let (code, said) = images.run(&[], &[arguments[0], "--tokens"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("two: no token opens it (it has none); give a passphrase"), "{said}");
    Ok(())
}

#[test]
fn a_credential_of_systemd_and_standard_input_are_taken() -> Done {
    let images = Images::new(cheap());
    std::fs::write(images.path("cred"), PASSPHRASE)?;
    let mut command = images.command(&["one"], &["--credential", "cred"]);
    assert_eq!(seen(&command.env("CREDENTIALS_DIRECTORY", images.dir.path()).output()?).0, 0);
    assert_eq!(images.run(&["one"], &["--credential", "cred"]).0, 1);
    let mut child = images.command(&["one"], &["--key-file", "-"]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().expect("a pipe").write_all(PASSPHRASE.as_bytes())?;
    assert_eq!(child.wait()?.code(), Some(0));
    Ok(())
}

/// A terminal: the side where somebody types and reads, and the side of a program.
struct Terminal {
    ours: File,
    program: OwnedFd,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn new() -> std::io::Result<Self> {
        let pair = nix::pty::openpty(None, None)?;
        let (ours, seen) = (File::from(pair.master), Arc::new(Mutex::new(Vec::new())));
        let (mut reader, into) = (ours.try_clone()?, Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(n @ 1..) = reader.read(&mut bytes) {
                into.lock().expect("no panic").extend_from_slice(&bytes[..n]);
            }
        });
        Ok(Self { ours, program: pair.slave, seen })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("no panic")).into_owned()
    }

    /// Whether what is typed is shown.
    fn echoes(&self) -> bool {
        nix::sys::termios::tcgetattr(&self.program)
            .expect("a terminal")
            .local_flags
            .contains(LocalFlags::ECHO)
    }

    fn wait(&self, until: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !until(self) {
            assert!(Instant::now() < deadline, "in vain, on the terminal stands {:?}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn type_line(&mut self, line: &str) -> std::io::Result<()> {
        self.ours.write_all(format!("{line}\n").as_bytes())
    }

    /// Starts a program of which this is the terminal.
    fn start(&self, command: &Command) -> std::io::Result<Child> {
        let side = || self.program.try_clone().map(Stdio::from);
        let mut child = Command::new("setsid");
        child.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        child.stdin(side()?).stdout(side()?).stderr(side()?).spawn()
    }
}

#[test]
fn a_terminal_shows_the_question_and_not_the_answer() -> Done {
    let images = Images::new(cheap());
    let mut other = Terminal::new()?;
    other.type_line("this is shown")?;
    other.wait(|other| other.text().contains("this is shown"));
    let mut terminal = Terminal::new()?;
    assert!(terminal.echoes());
    let mut child = terminal.start(&images.command(&["one"], &[]))?;
    let asked = |times: usize| {
        move |t: &Terminal| {
            !t.echoes() && t.text().matches("Passphrase of the encrypted disks: ").count() == times
        }
    };
    terminal.wait(asked(1));
    terminal.type_line("mistyped-51c2")?;
    terminal.wait(asked(2));
    terminal.type_line(PASSPHRASE)?;
    assert_eq!(child.wait()?.code(), Some(0), "{}", terminal.text());
    terminal.wait(|t| t.text().contains("one: opened with key slot 0"));
    assert!(terminal.echoes(), "the terminal is left as it was");
    // As often as was said.
    let mut child = terminal.start(&images.command(&["one"], &["--tries", "1"]))?;
    terminal.wait(asked(3));
    terminal.type_line("mistyped-51c2")?;
    assert_eq!(child.wait()?.code(), Some(2), "{}", terminal.text());
    let text = terminal.text();
    assert!(!text.contains("mistyped") && !text.contains(PASSPHRASE), "{text:?}");
    Ok(())
}

/// A password request: its text, and when it was made.
#[derive(Debug, Clone, PartialEq)]
struct Request {
    text: String,
    made: SystemTime,
}

/// Waits for a request that is another than the one before.
fn request(agents: &Path, before: Option<&Request>) -> std::io::Result<Request> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        for entry in std::fs::read_dir(agents)?.flatten() {
            if !entry.file_name().to_string_lossy().starts_with("ask.") {
                continue;
            }
            // It may be withdrawn while it is read.
            let read = std::fs::read_to_string(entry.path())
                .and_then(|text| Ok(Request { text, made: entry.metadata()?.modified()? }));
            if let Ok(request) = read
                && before.is_none_or(|before| before.made != request.made)
            {
                return Ok(request);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(std::io::ErrorKind::TimedOut.into())
}

/// Answers a password request as an agent of systemd's does.
fn answer(agents: &Path, before: Option<&Request>, with: &[u8]) -> std::io::Result<Request> {
    let request = request(agents, before)?;
    let socket = request.text.lines().find_map(|line| line.strip_prefix("Socket=")).expect("a socket");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(Path::new(socket).parent().expect("a directory"))?.permissions(),
    );
    assert_eq!(mode & 0o777, 0o700, "only root may answer");
    UnixDatagram::unbound()?.send_to(with, socket)?;
    Ok(request)
}

#[test]
fn agents_of_systemd_are_asked_until_it_is_right() -> Done {
    let images = Images::new(cheap());
    let agents = images.path("agents");
    std::fs::create_dir(&agents)?;
    let ask = ["--askpass", "--ask-dir", agents.to_str().expect("UTF-8")];
    let start = |tries: &str| -> std::io::Result<Child> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unlock-disks"));
        command.args(["--test-passphrase", "--tries", tries]).args(ask).arg(images.disk("one"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    let child = start("3")?;
    let first = answer(&agents, None, b"+wrong")?;
    let text = &first.text;
    for field in [
        format!("PID={}", child.id()),
        "Echo=0".to_owned(),
        "Message=Passphrase of the encrypted disks".to_owned(),
    ] {
        assert!(text.contains(&field), "{text}");
    }
    // The first request is withdrawn before the second is made, under the same name.
    answer(&agents, Some(&first), format!("+{PASSPHRASE}\0another").as_bytes())?;
    let (code, said) = seen(&child.wait_with_output()?);
    assert_eq!((code, said.contains("one: opened with key slot 0")), (0, true), "{said}");
    let child = start("1")?;
    answer(&agents, None, b"-")?;
    let (code, said) = seen(&child.wait_with_output()?);
    assert_eq!((code, said.contains("was refused")), (1, true), "{said}");
    assert_eq!(std::fs::read_dir(&agents)?.count(), 0, "requests are withdrawn");
    Ok(())
}

/// All memory of a process that can be read: what a core dump would hold.
fn memory(id: u32) -> Vec<u8> {
    let maps = std::fs::read_to_string(format!("/proc/{id}/maps")).expect("maps");
    let memory = File::open(format!("/proc/{id}/mem")).expect("memory");
    let mut all = Vec::new();
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').expect("a range");
        let (from, to) = range.split_once('-').expect("two numbers");
        let [from, to] = [from, to].map(|n| u64::from_str_radix(n, 16).expect("a number"));
        let mut bytes = vec![0; usize::try_from(to - from).expect("fits")];
        // [vvar] and the like cannot be read.
        if rest.starts_with('r') && memory.read_exact_at(&mut bytes, from).is_ok() {
            all.append(&mut bytes);
        }
    }
    all
}

/// The core file of a process that is made to dump one; `None` where this machine gives them to a program.
fn core_dump(child: &mut Child, dir: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    let limit = shell("ulimit -H -c")?;
    shell(&format!("kill -ABRT {}", child.id()))?;
    child.wait()?;
    if pattern.starts_with(['|', '/']) || limit == "0" {
        println!("core dumps go to {} here, limit {limit}: the memory alone was searched", pattern.trim());
        return Ok(None);
    }
    let is_core = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("core");
    let file = std::fs::read_dir(dir)?.flatten().find(is_core).expect("a core file");
    std::fs::read(file.path()).map(Some)
}

/// What a shell says, without its line break: it has `kill` and `ulimit` where procps is not installed.
fn shell(line: &str) -> std::io::Result<String> {
    let output = Command::new("sh").args(["-c", line]).output()?;
    assert!(output.status.success(), "{line}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn a_passphrase_that_was_used_is_in_no_core_dump_of_the_running_program() -> Done {
    let images = Images::new(cheap());
    let agents = images.path("agents");
    std::fs::create_dir(&agents)?;
    let program = env!("CARGO_BIN_EXE_unlock-disks");
    // A core file may be as large as it gets; the shell becomes the program.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "ulimit -S -c \"$(ulimit -H -c)\"; exec \"$0\" \"$@\"",
        program,
        "--test-passphrase",
        "--askpass",
    ]);
    command.arg("--ask-dir").arg(&agents).args([images.disk("one"), images.disk("three")]);
    command.current_dir(images.dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    // It opens the one and not the other: the program asks again, and waits.
    let first = answer(&agents, None, format!("+{PASSPHRASE}").as_bytes())?;
    request(&agents, Some(&first))?;
    // Half of it is as bad: the rest is guessed.
    let half = &PASSPHRASE.as_bytes()[PASSPHRASE.len() / 2..];
    let has = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    let known = images.disk("three").into_bytes();
    let seen = memory(child.id());
    assert!(has(&seen, &known), "what is in memory is found there");
    assert!(!has(&seen, half), "the passphrase is in memory");
    for file in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{}/{file}", child.id()))?;
        assert!(!bytes.is_empty() && !has(&bytes, half), "{file}");
    }
    if let Some(core) = core_dump(&mut child, images.dir.path())? {
        assert!(has(&core, &known) && !has(&core, half), "the passphrase is in the core dump");
    }
    Ok(())
}

#[test]
fn nobody_sees_the_passphrase_in_arguments_environment_or_output() -> Done {
    // About a second on a slow processor: time enough to look.
    let images = Images::new(Kdf::Argon2idFixed { passes: 6, memory_kib: 128 * 1024, lanes: 1 });
    let key = images.path("key");
    let arguments = ["--verbose", "--key-file", key.to_str().expect("UTF-8")];
    let mut command = images.command(&["one", "two", "three"], &arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let has = |bytes: &[u8]| bytes.windows(PASSPHRASE.len()).any(|window| window == PASSPHRASE.as_bytes());
    let mut looks = 0;
    while child.try_wait()?.is_none() {
        for file in ["cmdline", "environ", "comm", "status", "maps"] {
            let bytes = std::fs::read(format!("/proc/{}/{file}", child.id())).unwrap_or_default();
            assert!(!has(&bytes), "{file}");
            looks += usize::from(!bytes.is_empty());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(looks > 20, "it was looked at {looks} times only");
    let output = child.wait_with_output()?;
    assert!(!has(&output.stdout) && !has(&output.stderr));
    assert_eq!(output.status.code(), Some(2));
    // That the search finds what is there.
    assert!(has(&std::fs::read(&key)?));
    Ok(())
}
