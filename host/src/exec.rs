//! Child processes, only where no stable interface exists: absolute path, no shell, an environment of our own, a deadline, no secret in the
//! arguments.
#![allow(clippy::disallowed_types)] // The one place of the family that starts programs.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::{Deadline, Secret, Tree, sys};

/// A program that the family may start, and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Program {
    /// Its name, looked for in `/usr/sbin`, `/usr/bin`, `/sbin` and `/bin`.
    pub name: &'static str,
    /// The package to install.
    pub package: &'static str,
}

impl Program {
    /// Logs in to iSCSI targets: iscsid's own interface is an unversioned C structure.
    pub const ISCSIADM: Self = Self { name: "iscsiadm", package: "open-iscsi" };
    /// Decrypts what clevis encrypted for a TPM or a Tang server: its pins are programs, and there is no library.
    pub const CLEVIS: Self = Self { name: "clevis", package: "clevis" };
    /// Reads and changes volume groups: LVM has no library.
    pub const LVM: Self = Self { name: "lvm", package: "lvm2" };
    /// Asks a lock manager for LVM's locks.
    pub const LVMLOCKD: Self = Self { name: "lvmlockd", package: "lvm2-lockd" };
    /// Asks lvmlockd: its own protocol is private to LVM.
    pub const LVMLOCKCTL: Self = Self { name: "lvmlockctl", package: "lvm2-lockd" };
    /// Keeps leases on a shared disk, and tells of them.
    pub const SANLOCK: Self = Self { name: "sanlock", package: "sanlock" };
    /// Feeds the watchdog as long as its clients are well.
    pub const WDMD: Self = Self { name: "wdmd", package: "sanlock" };
    /// Loads kernel modules with what they depend on.
    pub const MODPROBE: Self = Self { name: "modprobe", package: "kmod" };
}

/// A kernel module that the family may load, with the options it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Module {
    /// Its name, with underscores.
    pub name: &'static str,
    /// Options on the command line of `modprobe`.
    pub options: &'static [&'static str],
}

impl Module {
    const fn plain(name: &'static str) -> Self {
        Self { name, options: &[] }
    }

    /// DRBD.
    pub const DRBD: Self = Self::plain("drbd");
    /// LIO's core.
    pub const TARGET_CORE: Self = Self::plain("target_core_mod");
    /// Packet sockets, for announcing addresses.
    pub const AF_PACKET: Self = Self::plain("af_packet");
    /// LIO's fabric for virtual machines.
    pub const VHOST_SCSI: Self = Self::plain("vhost_scsi");
    /// LIO's iSCSI fabric.
    pub const ISCSI_TARGET: Self = Self::plain("iscsi_target_mod");
    /// Device-mapper itself.
    pub const DM_MOD: Self = Self::plain("dm_mod");
    /// Encrypted devices.
    pub const DM_CRYPT: Self = Self::plain("dm_crypt");
    /// Multipath devices.
    pub const DM_MULTIPATH: Self = Self::plain("dm_multipath");
    /// Bonds; by itself the module makes a stray `bond0`, which nobody asked for.
    pub const BONDING: Self = Self { name: "bonding", options: &["max_bonds=0"] };
    /// Links that lead nowhere; by itself the module makes a stray `dummy0`.
    pub const DUMMY: Self = Self { name: "dummy", options: &["numdummies=0"] };
    /// VLANs.
    pub const VLAN: Self = Self::plain("8021q");
    /// The iSCSI initiator.
    pub const ISCSI_TCP: Self = Self::plain("iscsi_tcp");
}

/// What a program answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Output {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained.
    pub stderr: Vec<u8>,
}

impl Output {
    /// An answer; for fakes.
    #[must_use]
    pub fn new(code: i32, stdout: impl Into<Vec<u8>>, stderr: impl Into<Vec<u8>>) -> Self {
        Self { code: Some(code), stdout: stdout.into(), stderr: stderr.into() }
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A program that could not be run to its end, or ended badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is not installed.
    #[error("{program} is not installed; install the package {package}")]
    NotInstalled {
        /// The program.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// It could not be started or read.
    #[error("cannot run {command}")]
    Io {
        /// The command line.
        command: String,
        /// The reason.
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{command} did not end before the deadline and was killed")]
    TimedOut {
        /// The command line.
        command: String,
    },
    /// It ended with an error.
    #[error("{command} ended with {}: {stderr}", code.map_or_else(|| "a signal".to_owned(), |c| format!("code {c}")))]
    Failed {
        /// The command line.
        command: String,
        /// The exit code; `None` if a signal ended it.
        code: Option<i32>,
        /// What it complained, in one line.
        stderr: String,
    },
}

impl Error {
    /// The exit code, where the program ended with one.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Failed { code, .. } => *code,
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anything being changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }
}

/// What runs programs.
pub trait Programs: fmt::Debug + Send + Sync {
    /// Runs a program with these arguments and this standard input, to its end or to the deadline.
    ///
    /// # Errors
    /// All but [`Error::Failed`].
    fn run(
        &self,
        program: Program,
        args: &[String],
        stdin: &[u8],
        deadline: Deadline,
    ) -> Result<Output, Error>;
}

/// The programs of a [`Host`](crate::Host). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runner(Arc<dyn Programs>);

impl Runner {
    /// This machine's.
    #[must_use]
    pub fn live() -> Self {
        Self::of(Live)
    }

    /// None: every program is "not installed".
    #[must_use]
    pub fn none() -> Self {
        Self::of(Nothing)
    }

    /// Any implementation.
    #[must_use]
    pub fn of(programs: impl Programs + 'static) -> Self {
        Self(Arc::new(programs))
    }

    /// Runs a program and returns what it answered, whatever its exit code.
    ///
    /// # Errors
    /// It is not installed, cannot be started, or does not end in time.
    pub fn run(&self, program: Program, args: &[&str], deadline: Deadline) -> Result<Output, Error> {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        log::debug!("run {}", shown(program, &args));
        self.0.run(program, &args, &[], deadline)
    }

    /// Runs a program and expects exit code 0.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Failed`] with the program's complaint.
    pub fn run_ok(&self, program: Program, args: &[&str], deadline: Deadline) -> Result<Output, Error> {
        let output = self.run(program, args, deadline)?;
        if output.code == Some(0) {
            return Ok(output);
        }
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Err(failed(program, &args, output.code, &output.stderr))
    }

    /// Runs a program on this standard input and takes what it prints, every byte of it, as a secret. Its exit code must be 0.
    ///
    /// # Errors
    /// As [`run_ok`](Self::run_ok).
    pub fn run_secret(
        &self,
        program: Program,
        args: &[&str],
        stdin: &[u8],
        deadline: Deadline,
    ) -> Result<Secret, Error> {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        log::debug!("run {}", shown(program, &args));
        let Output { code, stdout, stderr } = self.0.run(program, &args, stdin, deadline)?;
        let secret = Secret::new(stdout);
        if code == Some(0) { Ok(secret) } else { Err(failed(program, &args, code, &stderr)) }
    }

    /// Loads a module unless `/sys/module` has it; says whether it did. `modprobe NAME`.
    ///
    /// # Errors
    /// `modprobe` is missing (in a container: load the module on the host) or refuses.
    pub fn load(&self, module: Module, tree: &Tree, deadline: Deadline) -> Result<bool, Error> {
        let path = format!("/sys/module/{}", module.name);
        match tree.exists(&path) {
            Ok(true) => return Ok(false),
            Ok(false) => {}
            Err(error) => return Err(Error::Io { command: format!("stat {path}"), source: error.source }),
        }
        let args: Vec<_> = std::iter::once(module.name).chain(module.options.iter().copied()).collect();
        self.run_ok(Program::MODPROBE, &args, deadline)?;
        Ok(true)
    }
}

fn failed(program: Program, args: &[String], code: Option<i32>, stderr: &[u8]) -> Error {
    let stderr = String::from_utf8_lossy(stderr);
    let stderr = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    Error::Failed { command: shown(program, args), code, stderr }
}

fn shown(program: Program, args: &[String]) -> String {
    std::iter::once(program.name).chain(args.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
}

#[derive(Debug)]
struct Nothing;

impl Programs for Nothing {
    fn run(&self, program: Program, _: &[String], _: &[u8], _: Deadline) -> Result<Output, Error> {
        Err(Error::NotInstalled { program: program.name, package: program.package })
    }
}

#[derive(Debug)]
struct Live;

fn find(program: Program) -> Option<PathBuf> {
    let dirs = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    dirs.iter().map(|dir| Path::new(dir).join(program.name)).find(|path| path.exists())
}

impl Programs for Live {
    fn run(
        &self,
        program: Program,
        args: &[String],
        stdin: &[u8],
        deadline: Deadline,
    ) -> Result<Output, Error> {
        let path =
            find(program).ok_or(Error::NotInstalled { program: program.name, package: program.package })?;
        let failed = |source| Error::Io { command: shown(program, args), source };
        let mut child = Command::new(path)
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let outcome = converse(&mut child, stdin, deadline);
        if !matches!(outcome, Ok(Some(_))) {
            // It may have ended by itself in between; either way it is reaped.
            child.kill().and_then(|()| child.wait().map(drop)).map_err(failed)?;
        }
        match outcome.map_err(failed)? {
            None => Err(Error::TimedOut { command: shown(program, args) }),
            Some([mut stdout, mut stderr]) => {
                let code = child.wait().map_err(failed)?.code();
                // Moved, not copied: who takes it as a secret has all there is of it.
                let [stdout, stderr] = [&mut stdout, &mut stderr].map(|bytes| std::mem::take(&mut **bytes));
                Ok(Output { code, stdout, stderr })
            }
        }
    }
}

/// What a child has printed so far, wiped unless it is taken out: half a secret is one, too.
type Printed = Zeroizing<Vec<u8>>;

/// Feeds and reads the child until it ends; `None` at the deadline. Its end counts, not the end of its output: `iscsiadm` may start a daemon
/// that inherits the pipes.
fn converse(
    child: &mut std::process::Child,
    stdin: &[u8],
    deadline: Deadline,
) -> io::Result<Option<[Printed; 2]>> {
    if let Some(mut pipe) = child.stdin.take().filter(|_| !stdin.is_empty()) {
        // Small by contract (a pipe holds 64 KiB), so this does not block on a child that prints first.
        match pipe.write_all(stdin) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
            _ => {}
        }
    }
    let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    sys::set_nonblocking(out.as_fd())?;
    sys::set_nonblocking(err.as_fd())?;
    let end = sys::pidfd(child.id())?;
    let (mut stdout, mut stderr) = (Printed::default(), Printed::default());
    let (mut out_open, mut err_open) = (true, true);
    loop {
        let mut fds = vec![end.as_fd()];
        fds.extend(out_open.then(|| out.as_fd()));
        fds.extend(err_open.then(|| err.as_fd()));
        let ready = sys::poll_read(&fds, deadline.poll_millis())?;
        let ended = ready.first() == Some(&true);
        out_open = out_open && drain(&mut out, &mut stdout)?;
        err_open = err_open && drain(&mut err, &mut stderr)?;
        if ended {
            return Ok(Some([stdout, stderr]));
        }
        if deadline.is_over() {
            return Ok(None);
        }
    }
}

/// Reads what there is; `false` at the end of the stream.
fn drain(from: &mut impl Read, into: &mut Printed) -> io::Result<bool> {
    let mut chunk = Zeroizing::new([0; 4096]);
    loop {
        match from.read(&mut chunk[..]) {
            Ok(0) => return Ok(false),
            Ok(n) => {
                // A vector that grows by itself leaves a copy behind; the one that is replaced here is wiped.
                if into.capacity() - into.len() < n {
                    let mut larger = Printed::new(Vec::with_capacity((into.capacity() * 2).max(chunk.len())));
                    larger.extend_from_slice(into);
                    *into = larger;
                }
                into.extend_from_slice(chunk.get(..n).unwrap_or_default());
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Starts this very program once more with one environment variable set, in a process group of its own, and waits for the line by which it
/// says that it knows what it was started for. What ends this process (a signal to its group, a closed terminal, a kill) does not end that one.
/// Nobody waits for it: this process may end at once.
///
/// # Errors
/// [`Error::Io`] if it cannot be started; [`Error::TimedOut`] if it says another thing or nothing before the deadline: the program does not
/// look at the variable. It is killed then.
pub fn again(variable: &str, value: &str, line: &str, deadline: Deadline) -> Result<(), Error> {
    let command = || format!("this program again with {variable}={value}");
    let failed = |source: io::Error| Error::Io { command: command(), source };
    let mut child = Command::new("/proc/self/exe")
        .env(variable, value)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut said = String::new();
    let listened = (|| {
        let Some(out) = child.stdout.as_mut() else { return Ok(()) };
        let mut byte = [0_u8; 1];
        while said.len() <= line.len() && !deadline.is_over() {
            if !sys::poll_read(&[out.as_fd()], deadline.poll_millis())?.contains(&true) {
                continue;
            }
            match out.read(&mut byte)? {
                0 => break,
                _ if byte == *b"\n" => break,
                _ => said.push(char::from(byte[0])),
            }
        }
        Ok(())
    })();
    if listened.is_ok() && said == line {
        return Ok(());
    }
    let killed = child.kill().and_then(|()| child.wait().map(drop));
    listened.and(killed).map_err(failed)?;
    Err(Error::TimedOut { command: command() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    const SH: Program = Program { name: "sh", package: "dash" };

    #[test]
    fn output_and_code_come_back() {
        let output = Runner::live()
            .run(SH, &["-c", "echo out; echo err >&2; exit 3"], Deadline::after(Duration::from_secs(5)))
            .expect("runs");
        assert_eq!(output, Output::new(3, "out\n", "err\n"));
    }

    #[test]
    fn a_secret_is_every_byte_that_a_program_prints_and_none_of_a_failed_one() {
        let run = |script: &str| {
            let deadline = Deadline::after(Duration::from_secs(5));
            Runner::live().run_secret(SH, &["-c", script], b"from its input", deadline)
        };
        assert_eq!(run("cat; echo").expect("runs"), Secret::from("from its input\n"));
        let error = run("echo hunter2; echo why >&2; exit 1").expect_err("failed").to_string();
        assert!(error.ends_with("code 1: why"), "{error}");
    }

    #[test]
    fn a_hanging_program_is_killed_at_the_deadline() {
        let started = Instant::now();
        let error = Runner::live().run(SH, &["-c", "sleep 30"], Deadline::after(Duration::from_millis(100)));
        assert!(matches!(error, Err(Error::TimedOut { .. })));
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    /// Whether a text stands anywhere in this process's memory: given in two halves, so that the search does not find itself.
    #[allow(clippy::disallowed_methods, clippy::indexing_slicing)] // The files are the test's own process's.
    fn is_in_memory(halves: [&[u8]; 2]) -> bool {
        use std::os::unix::fs::FileExt;
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let memory = std::fs::File::open("/proc/self/mem").expect("memory");
        let [first, second] = halves;
        let mut bytes = Vec::new();
        maps.lines().any(|line| {
            let (from, rest) = line.split_once('-').expect("a range");
            let (to, rights) = rest.split_once(' ').expect("rights");
            let [from, to] = [from, to].map(|n| u64::from_str_radix(n, 16).expect("a number"));
            bytes.resize(usize::try_from(to - from).expect("fits"), 0);
            // [vvar] and the like cannot be read.
            let is_read = rights.starts_with('r') && memory.read_exact_at(&mut bytes, from).is_ok();
            is_read
                && (0..bytes.len()).any(|at| {
                    bytes[at] == first[0]
                        && bytes[at..].starts_with(first)
                        && bytes[at + first.len()..].starts_with(second)
                })
        })
    }

    #[test]
    fn what_a_program_printed_before_its_deadline_is_wiped() {
        // Made here: two texts of the program itself may stand side by side in it.
        let halves =
            |name: &str| [name, "later"].map(|half| format!("{half}-{:x}-", std::process::id() * 31));
        let find = |halves: &[String; 2]| is_in_memory([halves[0].as_bytes(), halves[1].as_bytes()]);
        let run = |[first, second]: &[String; 2], rest: &str, deadline: Duration| {
            // More than fits in the first buffer, and twice as much.
            let script = format!(
                "i=0; while [ $i -lt 400 ]; do printf '%s%s ' {first} {second}; i=$((i+1)); done; {rest}"
            );
            Runner::live().run(SH, &["-c", &script], Deadline::after(deadline))
        };
        let (kept, gone) = (halves("kept"), halves("gone"));
        assert!(!find(&kept) && !find(&gone), "they stand apart until a program joins them");
        let held = run(&kept, "", Duration::from_secs(60)).expect("ends");
        assert!(held.stdout.len() > 8192 && find(&kept), "what is held is found");
        let error = run(&gone, "sleep 30", Duration::from_secs(2));
        assert!(matches!(error, Err(Error::TimedOut { .. })), "{error:?}");
        assert!(!find(&gone));
    }

    #[test]
    fn a_daemon_that_keeps_the_pipe_does_not_hold_the_caller() {
        let started = Instant::now();
        let output = Runner::live().run_ok(
            SH,
            &["-c", "sleep 30 & echo ok"],
            Deadline::after(Duration::from_secs(10)),
        );
        assert_eq!(output.expect("ends").text(), "ok\n");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        const NONE: Program = Program { name: "no-such-program", package: "none" };
        let error = Runner::live().run(NONE, &[], Deadline::never()).expect_err("missing");
        assert_eq!(error.to_string(), "no-such-program is not installed; install the package none");
    }
}
