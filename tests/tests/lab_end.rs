//! Nothing of a lab is left when it ends, however it ends; and the `lab` program.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Lab;

const LAB: &str = env!("CARGO_BIN_EXE_lab");

/// Command lines of the processes that mention a text.
fn processes(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(text) && (line.contains("qemu") || line.contains("nbdkit"))).collect()
}

/// Waits until no such process is left.
fn gone(text: &str) -> bool {
    let start = Instant::now();
    while !processes(text).is_empty() {
        if start.elapsed() > Duration::from_secs(10) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// Whether something comes to hold within a minute.
fn eventually(mut holds: impl FnMut() -> Result<bool>) -> Result<bool> {
    let start = Instant::now();
    while !holds()? {
        if start.elapsed() > Duration::from_secs(60) {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(true)
}

/// A `lab up` that does not outlive a failed test.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory for runs of its own, so that labs of other tests are not seen.
struct Base(PathBuf);

impl Base {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("lab-end-{}-{name}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Runs the `lab` program to its end.
    fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(Command::new(LAB).args(arguments).env("SANKIT_LAB_DIR", &self.0).stdin(Stdio::null()).output()?)
    }

    /// Starts `lab up` with one machine and waits until it answers.
    fn up(&self) -> Result<Up> {
        let file = self.0.join("one.toml");
        let text = "name = 'one'\n[[segment]]\nname = 's'\n[[machine]]\nname = 'n1'\nmode = 'tiny'\n\
                    nics = [{ segment = 's' }]\ndisks = [{ name = 'd', size_mib = 16 }]\nrun = ['ip link set eth0 up']\n";
        fs::write(&file, text)?;
        let mut command = Command::new(LAB);
        command
            .arg("up")
            .arg(&file)
            .env("SANKIT_LAB_DIR", &self.0)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut up = Up(command.spawn()?);
        let start = Instant::now();
        while !self.run(&["exec", "n1", "--", "true"])?.status.success() {
            if let Some(status) = up.0.try_wait()? {
                anyhow::bail!("lab up ended: {status}");
            }
            ensure!(start.elapsed() < Duration::from_secs(60), "lab up does not come up");
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(up)
    }

    /// The run directories.
    fn runs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.map(|e| e.path()).filter(|p| p.is_dir()).collect()
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_dropped_lab_leaves_no_process_and_no_directory() -> Result<()> {
    let (path, text);
    {
        let lab = Lab::new("drop")?;
        path = lab.path().to_owned();
        text = path.display().to_string();
        let vm = lab.machine("n1").disk(&lab.disk("d", 16 << 20)?).boot()?;
        ensure!(vm.is_on() && processes(&text).len() == 2, "{:?}", processes(&text));
    }
    ensure!(processes(&text).is_empty(), "{:?}", processes(&text));
    ensure!(!path.exists(), "{text} is left");
    Ok(())
}

#[test]
fn the_program_serves_commands_and_a_killed_lab_is_cleared_away() -> Result<()> {
    let base = Base::new("up")?;
    let text = base.0.display().to_string();
    let mut up = base.up()?;
    let output = base.run(&["exec", "n1", "--", "sh", "-c", "hostname; echo e >&2; exit 5"])?;
    ensure!(
        output.status.code() == Some(5) && output.stdout == b"n1\n" && output.stderr == b"e\n",
        "{output:?}"
    );
    let mut shell = Command::new(LAB);
    shell.args(["shell", "n1"]).env("SANKIT_LAB_DIR", &base.0).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = shell.spawn()?;
    shell.stdin.take().context("stdin")?.write_all(b"echo $((6*7)) $(tty)\nexit\n")?;
    let output = String::from_utf8_lossy(&shell.wait_with_output()?.stdout).into_owned();
    ensure!(output.contains("42 /dev/pts/"), "{output}");
    let output = base.run(&["exec", "n9", "--", "true"])?;
    ensure!(
        String::from_utf8_lossy(&output.stderr).contains("no machine \"n9\", there are n1"),
        "{output:?}"
    );

    // What happens to machines happens by command, too.
    let ok = |arguments: &[&str]| -> Result<String> {
        let output = base.run(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let carrier = || ok(&["exec", "n1", "--", "cat", "/sys/class/net/eth0/carrier"]);
    ok(&["cable", "n1", "0", "unplug"])?;
    ensure!(eventually(|| Ok(carrier()? == "0\n"))?, "the carrier stays");
    ok(&["cable", "n1", "0", "plug"])?;
    ensure!(eventually(|| Ok(carrier()? == "1\n"))?, "the carrier does not return");
    let count = ok(&["cable", "n1", "0", "count"])?;
    ensure!(count.contains(" on s: ") && count.contains(" from the machine"), "{count}");
    for (arguments, text) in [
        (&["cable", "n1", "3", "cut"][..], "3"),
        (&["cable", "n1", "0", "impair", "--loss", "1.5"][..], "not between 0.0 and 1.0"),
        (&["power", "n1", "on"][..], "n1 is on already"),
    ] {
        let output = base.run(arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && error.contains(text), "{arguments:?}: {output:?}");
    }
    ok(&["exec", "n1", "--", "touch", "/tmp/of-this-life"])?;
    ok(&["power", "n1", "cut"])?;
    ensure!(!base.run(&["exec", "n1", "--", "true"])?.status.success(), "it runs without power");
    ok(&["power", "n1", "on"])?;
    ok(&["exec", "n1", "--", "sh", "-c", "! test -e /tmp/of-this-life"])?;

    // SIGKILL: the kernel ends the children, the next lab removes the directories.
    ensure!(processes(&text).len() == 2);
    up.0.kill()?;
    up.0.wait()?;
    ensure!(gone(&text), "{:?}", processes(&text));
    let [dead] = base.runs().try_into().ok().context("one directory is left")?;
    let sockets = fs::read_to_string(dead.join("sockets"))?;
    ensure!(Path::new(&sockets).exists());
    // SIGINT: everything goes at once.
    let mut up = base.up()?;
    ensure!(!dead.exists() && !Path::new(&sockets).exists(), "the dead run was not swept");
    let [run] = base.runs().try_into().ok().context("one run")?;
    let sockets = fs::read_to_string(run.join("sockets"))?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(up.0.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    ensure!(up.0.wait()?.code() == Some(130));
    ensure!(gone(&text) && !run.exists() && !Path::new(&sockets).exists());
    Ok(())
}

#[test]
fn a_failing_guest_test_shows_its_output_and_fails() -> Result<()> {
    let base = Base::new("test")?;
    let program = base.0.join("kernel_fake");
    let script = "#!/bin/sh\necho running 3 tests\necho 'test good ... ok'\necho 'test bad ... FAILED'\n\
                  echo 'test odd ... ignored, no such device'\necho 'what went wrong'\n\
                  echo '<2>oops of the kernel' >/dev/kmsg\nexit 101\n";
    fs::write(&program, script)?;
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let output = base.run(&["test", "fake", "--program", &program.display().to_string()])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1), "{output:?}");
    for part in [
        "what went wrong",
        "oops of the kernel",
        "skipped odd: no such device",
        "lab: fake kernel 6.1.",
        "tiny: 1 passed, 1 failed, 1 skipped in",
    ] {
        ensure!(text.contains(part), "no {part:?} in {text}");
    }
    // The machine dies under the test, when what it said is out: a word that is on its way dies with it.
    fs::write(
        &program,
        "#!/bin/sh\necho 'test good ... ok'\nsleep 3\necho c >/proc/sysrq-trigger\nsleep 60\n",
    )?;
    let output = base.run(&["test", "fake", "--program", &program.display().to_string()])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1), "{output:?}");
    for part in ["sysrq triggered crash", "1 passed, 1 failed, 0 skipped"] {
        ensure!(text.contains(part), "no {part:?} in {text}");
    }
    Ok(())
}
