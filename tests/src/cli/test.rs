//! `lab test`: the kernel tests of a crate in a virtual machine.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{ModeName, TestArguments};
use crate::{Chunk, Cmd, Exit, Lab, Machine};

/// What one test program has said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u32,
    failed: u32,
    ignored: u32,
    /// Names and reasons of tests that could not run.
    skipped: Vec<(String, String)>,
    /// A test whose verdict has not come yet, because the test itself has printed something.
    open: Option<String>,
    /// Why tests failed: what stands between `failures:` and the sums.
    reasons: Vec<String>,
    /// Whether such lines are being read.
    explaining: bool,
}

/// Lines of reasons that are shown once more at the end; the kernel's own messages have pushed them out of sight.
const REASONS: usize = 30;

impl Tally {
    /// Takes one line of a libtest-like program: `test NAME ... ok`, `... FAILED`, `... ignored (REASON)`, and
    /// at the end `test result: ... 1 passed; 2 failed; 3 ignored; ...`.
    fn line(&mut self, line: &str) {
        if line.starts_with("test result: ") {
            self.explaining = false;
            return self.result(line);
        }
        if line == "failures:" {
            // It comes twice: with the reasons, then with the names alone.
            self.explaining = self.reasons.is_empty();
            return;
        }
        if self.explaining {
            if !line.trim().is_empty() {
                self.reasons.push(line.to_owned());
            }
            return;
        }
        let mut verdict = line;
        if let Some((name, rest)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            self.open = Some(name.trim().to_owned());
            verdict = rest;
        }
        let Some(name) = &self.open else { return };
        let (word, rest) = verdict.split_at(verdict.find([',', ' ', '<']).unwrap_or(verdict.len()));
        match word {
            "ok" => self.passed += 1,
            "FAILED" => self.failed += 1,
            "ignored" => {
                self.ignored += 1;
                let reason = rest.trim_matches([',', ' ', '<', '>', '(', ')']);
                self.skipped.push((name.clone(), reason.to_owned()));
            }
            _ => return,
        }
        self.open = None;
    }

    /// Takes the sums of the program itself: what a test prints can hide its own verdict, not these.
    fn result(&mut self, line: &str) {
        for part in line.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next().and_then(|n| n.parse().ok()), words.next()) else {
                continue;
            };
            match what {
                "passed" => self.passed = number,
                "failed" => self.failed = number,
                "ignored" => self.ignored = number,
                _ => {}
            }
        }
    }

    /// Adds the sums of another program.
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.skipped.extend(other.skipped);
        self.reasons.extend(other.reasons);
    }
}

/// Builds, boots, runs, sums up.
pub(super) fn run(arguments: &TestArguments) -> Result<ExitCode> {
    let start = Instant::now();
    let programs = if arguments.program.is_empty() { build(arguments)? } else { given(&arguments.program) };
    let package = &arguments.package;
    if programs.is_empty() {
        bail!("sankit-{package} has no kernel tests ({package}/tests/kernel_*.rs)");
    }
    println!("lab: built in {:.1} s", start.elapsed().as_secs_f64());
    let lab = Lab::new(&format!("test-{package}"))?;
    let segment = lab.segment("lab");
    let memory = if arguments.mode == ModeName::Root { 2048 } else { 1024 };
    let mut builder = lab.machine("lab").mode(arguments.mode.into()).kernel(arguments.kernel);
    builder = builder.memory(memory).cpus(2).nic(&segment).nic(&segment);
    for number in 0..4 {
        builder = builder.disk(&lab.plain_disk(&format!("t{number}"), 256 << 20)?);
    }
    let boot = Instant::now();
    let machine = builder.boot()?;
    println!("lab: booted in {:.1} s", boot.elapsed().as_secs_f64());
    let mut tally = Tally::default();
    for (name, program) in &programs {
        let path = lab.install(program)?;
        println!("\nlab: {name}");
        let one = run_program(&machine, &path, arguments)?;
        let failed = one.failed > 0;
        tally.add(one);
        if failed {
            lab.keep_logs();
            show_kernel(&machine);
            if machine.ping().is_err() {
                // Dead or hung; the next program deserves a fresh machine.
                machine.power_cut();
                machine.boot()?;
            }
        }
    }
    let release = machine.run(["uname", "-r"]).map(|o| o.stdout.trim().to_owned()).unwrap_or_default();
    for (name, reason) in &tally.skipped {
        println!("lab: skipped {name}: {}", if reason.is_empty() { "no reason given" } else { reason });
    }
    for line in tally.reasons.iter().take(REASONS) {
        println!("lab: failed: {line}");
    }
    let mode = if arguments.mode == ModeName::Root { "root" } else { "tiny" };
    let Tally { passed, failed, ignored: skipped, .. } = &tally;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "lab: {package} kernel {release} {mode}: {passed} passed, {failed} failed, {skipped} skipped in {seconds:.1} s"
    );
    Ok(if *failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The programs of the command line by name.
fn given(programs: &[PathBuf]) -> BTreeMap<String, PathBuf> {
    let name = |p: &PathBuf| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    programs.iter().map(|path| (name(path), path.clone())).collect()
}

/// Builds the kernel tests on the host. Returns name and path of each program.
fn build(arguments: &TestArguments) -> Result<BTreeMap<String, PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--no-run", "--profile", "lab", "--message-format=json-render-diagnostics"]);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?);
    command.args(["-p", &format!("sankit-{}", arguments.package), "--test", "kernel_*"]);
    match &arguments.features {
        Some(features) => command.args(["--features", features]),
        None => command.arg("--all-features"),
    };
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo test --no-run failed ({})", output.status);
    }
    let mut programs = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        let name = message.pointer("/target/name").and_then(Value::as_str);
        let program = message.get("executable").and_then(Value::as_str);
        if let (Some(name), Some(program)) = (name, program)
            && name.starts_with("kernel_")
        {
            programs.insert(name.to_owned(), PathBuf::from(program));
        }
    }
    Ok(programs)
}

/// Runs one program and shows its output as it comes.
fn run_program(machine: &Machine, path: &str, arguments: &TestArguments) -> Result<Tally> {
    // From memory: pages of a program on the shared directory would come over 9p one by one.
    let local = format!("/run/lab/{}", path.rsplit('/').next().unwrap_or("test"));
    machine.run_ok(["cp", path, &local])?;
    let mut argv = vec![local.clone(), "--test-threads=1".to_owned()];
    argv.extend(arguments.filter.clone());
    argv.extend(arguments.arguments.iter().cloned());
    let command = Cmd::new(argv).deadline(Duration::from_secs(arguments.deadline)).env("RUST_BACKTRACE", "1");
    // The tests know by SANKIT_LAB that they may change the system; what begins like it is passed on.
    let mut command = command.env("SANKIT_LAB", "1");
    for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with("SANKIT_LAB_")) {
        command = command.env(&name, &value);
    }
    let mut running = machine.spawn(command)?;
    let (mut pending, mut tally) = (Vec::new(), Tally::default());
    let result = running.wait_with(|chunk| {
        let bytes = match chunk {
            Chunk::Stdout(bytes) => bytes,
            Chunk::Stderr(bytes) => return show(&bytes),
        };
        show(&bytes);
        pending.extend(bytes);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            tally.line(String::from_utf8_lossy(&line).trim_end());
        }
    });
    let trouble = match result {
        Ok(Exit { code: 0, .. }) => {
            // Best effort: a machine of 1 GiB has no room for many programs.
            let _ = machine.run(["rm", "-f", &local]);
            return Ok(tally);
        }
        Ok(Exit { signal: Some(signal), .. }) => format!("{local} ended with signal {signal}"),
        Ok(Exit { code, .. }) => format!("{local} ended with exit code {code}"),
        Err(error) => format!("{error:#}"),
    };
    println!("lab: {trouble}");
    if let Some(name) = &tally.open {
        println!("lab: it was running {name}");
    }
    // A program that dies before it reports a failed test has failed once all the same.
    tally.failed = tally.failed.max(1);
    Ok(tally)
}

fn show(bytes: &[u8]) {
    let _ = std::io::stdout().write_all(bytes);
    let _ = std::io::stdout().flush();
}

/// Shows what the kernel said last.
fn show_kernel(machine: &Machine) {
    println!("--- serial log of {}\n{}", machine.name(), machine.serial_tail(80));
    if machine.is_on()
        && let Ok(output) = machine.run(Cmd::sh("dmesg | tail -n 40").deadline(Duration::from_secs(20)))
    {
        println!("--- dmesg\n{}", output.stdout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_test_program_are_counted() {
        let mut tally = Tally::default();
        let lines = [
            "running 4 tests",
            "test a_b ... ok",
            "test c ... FAILED",
            "test [kernel] d ... ignored, no drbd module",
            "test e ... ignored",
            "test g ... ignored (needs ... a disk)",
            "test f ... ok <0.031s>",
            "test talks ... what a test prints",
            "okay, more of it",
            "ok",
            "ok",
        ];
        lines.iter().for_each(|line| tally.line(line));
        assert_eq!((tally.passed, tally.failed, tally.ignored), (3, 1, 3));
        ["", "failures:", "", "---- c ----", "disk full", "", "failures:", "    c", ""]
            .iter()
            .for_each(|l| tally.line(l));
        assert_eq!(tally.reasons, ["---- c ----", "disk full"]);
        let skipped = [("[kernel] d", "no drbd module"), ("e", ""), ("g", "needs ... a disk")];
        assert_eq!(tally.skipped, skipped.map(|(a, b)| (a.to_owned(), b.to_owned())));
        tally.line("test result: FAILED. 12 passed; 2 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.1s");
        assert_eq!((tally.passed, tally.failed, tally.ignored), (12, 2, 3));
    }
}
