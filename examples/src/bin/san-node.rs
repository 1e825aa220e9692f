//! The storage node: brings up network, interrupts, disks and replication from one file, and serves, releases and shows its units.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use host::plan::KillPoint;
use host::{Deadline, Host};
use netcfg::Netcfg;
use san_node::config::Config;
use san_node::helper;
use san_node::node::{FirstSync, NewMetadata, Node, Peer};

/// A storage node from one file: encrypted disks, replicated, exported over iSCSI on addresses that move.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Common {
    /// The file; the same on both nodes.
    #[arg(long, default_value = "/etc/sankit/node.toml")]
    config: PathBuf,
    /// Which node this is; default: its host name.
    #[arg(long)]
    node: Option<String>,
    /// Kill this process after so many steps, for tests of its crash safety.
    #[arg(long, hide = true)]
    kill_after: Option<usize>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check the file and whether this machine has what it asks for. Changes nothing.
    Check(Common),
    /// Print the steps that apply would take. Changes nothing.
    Plan(Common),
    /// Make this machine ready to serve: network, interrupts, disks, replication.
    Apply {
        #[command(flatten)]
        common: Common,
        /// Give new disks DRBD metadata, where nothing known is on them.
        #[arg(long)]
        create_metadata: bool,
        /// The network only, and on trial: it comes back as it was after so many seconds unless `san-node confirm` is called before, even if
        /// this program is killed or its connection is cut off.
        #[arg(long, value_name = "SECONDS", conflicts_with = "create_metadata", value_parser = clap::value_parser!(u64).range(1..=3600))]
        trial: Option<u64>,
    },
    /// Keep the network that is on trial.
    Confirm,
    /// Bring back the network that was before the trial, at once.
    RollBack,
    /// Show this node on one screen.
    Status {
        #[command(flatten)]
        common: Common,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Serve a unit here.
    Serve {
        /// The unit.
        unit: String,
        #[command(flatten)]
        common: Common,
        /// The peer does not answer and is known to be switched off.
        #[arg(long)]
        peer_is_dead: bool,
        /// The peer is releasing the unit or is about to: wait for it, at most so many seconds. Called a moment before the release, a move takes
        /// less time, as this program is there when the peer is done.
        #[arg(long, value_name = "SECONDS", conflicts_with_all = ["peer_is_dead", "first_sync"])]
        wait: Option<u64>,
        /// The first time of all: what is on this node's new disk becomes the truth.
        #[arg(long)]
        first_sync: bool,
    },
    /// Stop serving a unit here.
    Release {
        /// The unit.
        unit: String,
        #[command(flatten)]
        common: Common,
    },
    /// Wait until a unit's disks are the same on both nodes, with a progress bar.
    Wait {
        /// The unit.
        unit: String,
        #[command(flatten)]
        common: Common,
        /// Give up after so many seconds.
        #[arg(long, default_value_t = 3600)]
        timeout: u64,
    },
    /// Take everything down that this file set up. No data is lost.
    Destroy(Common),
    /// Answer a call of DRBD's helper, as the kernel makes it: HANDLER and minor-N or RESOURCE.
    DrbdHelper {
        /// What for, and about what.
        words: Vec<String>,
    },
}

/// Lines about steps that are not printed yet. While a writer waits for a takeover, every line on its own would wake whoever reads them.
static LINES: Mutex<(String, Option<Instant>)> = Mutex::new((String::new(), None));

/// Prints a line, together with others that come within a fifth of a second.
fn say(line: &str) {
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.0.push_str(line);
    lines.0.push('\n');
    if lines.1.is_none_or(|last| last.elapsed() > Duration::from_millis(200)) {
        print!("{}", std::mem::take(&mut lines.0));
        let _ = std::io::stdout().flush();
        lines.1 = Some(Instant::now());
    }
}

/// Prints what is left of the lines about steps.
fn said_all() {
    print!("{}", std::mem::take(&mut LINES.lock().unwrap_or_else(PoisonError::into_inner).0));
    let _ = std::io::stdout().flush();
}

fn main() -> ExitCode {
    netcfg::confirm::guard();
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    // Before anything else: the kernel waits for the answer.
    if helper::is_called(words.first().map(String::as_str)) {
        return helped(words.get(1..).unwrap_or_default());
    }
    let verb = Cli::parse().verb;
    if let Verb::DrbdHelper { words } = &verb {
        return helped(words);
    }
    let result = run(verb);
    said_all();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("san-node: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn helped(words: &[String]) -> ExitCode {
    ExitCode::from(helper::answer(&Host::live(), words, |name| std::env::var(name).ok()))
}

/// The error and its causes, each said once.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    text
}

fn open(common: &Common) -> Result<Node> {
    let mut host = Host::live();
    if let Some(steps) = common.kill_after {
        host = host.with_kill_point(KillPoint::KillAfter(steps));
    }
    let host = host.with_observer(|step| {
        let verdict = if step.ok { "" } else { "  FAILED" };
        let took = step.took.as_secs_f64() * 1000.0;
        say(&format!("  {:<8} {took:>7.1} ms  {}{verdict}", step.facility, step.text));
    });
    let node = match &common.node {
        Some(name) => name.clone(),
        None => host.tree().read("/proc/sys/kernel/hostname")?.trim().to_owned(),
    };
    let config = Config::read(&common.config, &node)?;
    Node::live(&host, config)
}

fn said(what: &str, took: Duration) {
    say(&format!("  {what:<11} {:>7.1} ms", took.as_secs_f64() * 1000.0));
}

fn run(verb: Verb) -> Result<bool> {
    let started = Instant::now();
    match verb {
        Verb::Check(common) => {
            let found = open(&common)?.check();
            found.iter().for_each(|finding| println!("{finding}"));
            return Ok(found.iter().all(|finding| finding.ok));
        }
        Verb::Plan(common) => {
            let steps = open(&common)?.plan()?;
            (1..).zip(&steps).for_each(|(n, step)| println!("{n:4}. {step}"));
            println!("{} steps", steps.len());
        }
        Verb::Apply { common, trial: Some(seconds), .. } => {
            match open(&common)?.try_network(Duration::from_secs(seconds))? {
                true => say(&format!("on trial for {seconds} s: \"san-node confirm\" keeps it")),
                false => say("the network is as the file says already"),
            }
        }
        Verb::Confirm => {
            if !Netcfg::new()?.confirm()? {
                bail!("nothing is on trial; if something was, it has been taken back");
            }
            say("confirmed");
        }
        Verb::RollBack => {
            if !Netcfg::new()?.roll_back()? {
                bail!("nothing is on trial");
            }
            say("the network is as it was before the trial");
        }
        Verb::Apply { common, create_metadata, trial: None } => {
            let node = open(&common)?;
            let policy = if create_metadata { NewMetadata::Create } else { NewMetadata::Refuse };
            let changed = node.apply(policy)?;
            let verdict = if changed { "applied" } else { "nothing to do" };
            let took = started.elapsed().as_secs_f64();
            say(&format!("{verdict}, {} steps in {took:.2} s", node.host.steps_done()));
        }
        Verb::Status { common, json } => {
            let status = open(&common)?.status()?;
            match json {
                true => println!("{}", serde_json::to_string_pretty(&status)?),
                false => print!("{status}"),
            }
        }
        Verb::Serve { unit, common, peer_is_dead, wait, first_sync } => {
            let node = open(&common)?;
            let unit = node.config.unit(&unit)?;
            let peer = match wait {
                Some(seconds) => Peer::Releasing(Duration::from_secs(seconds)),
                None if peer_is_dead => Peer::Dead,
                None => Peer::Unknown,
            };
            if peer == Peer::Dead {
                say(&format!("{} is said to be dead (--peer-is-dead)", node.config.peer));
            }
            let first = if first_sync { FirstSync::FromHere } else { FirstSync::Refuse };
            node.serve(unit, peer, first, &mut said)
                .with_context(|| format!("cannot serve {}", unit.name))?;
            say(&format!(
                "{} is served by {} after {:.3} s",
                unit.name,
                node.config.node,
                started.elapsed().as_secs_f64()
            ));
        }
        Verb::Release { unit, common } => {
            let node = open(&common)?;
            let unit = node.config.unit(&unit)?;
            node.release(unit, &mut said).with_context(|| format!("cannot release {}", unit.name))?;
            say(&format!("{} is released after {:.3} s", unit.name, started.elapsed().as_secs_f64()));
        }
        Verb::Wait { unit, common, timeout } => {
            let node = open(&common)?;
            let unit = node.config.unit(&unit)?;
            let mut last = Instant::now() - Duration::from_secs(1);
            let deadline = Deadline::after(Duration::from_secs(timeout));
            node.wait_synced(unit, deadline, |progress| {
                if last.elapsed() < Duration::from_millis(500) {
                    return;
                }
                last = Instant::now();
                let rate =
                    progress.rate.map_or_else(String::new, |r| format!(", {:.1} MiB/s", mebibytes(r.0)));
                let eta = progress.eta.map_or_else(String::new, |t| format!(", ETA {} s", t.as_secs()));
                let bar = san_node::status::bar(progress.done, 40);
                println!("{} {bar} {:5.1} %{rate}{eta}", unit.name, progress.done * 100.0);
                // A line that is not seen is no progress bar; a closed pipe is no reason to stop waiting.
                let _ = std::io::stdout().flush();
            })?;
            println!("{} is in sync after {:.1} s", unit.name, started.elapsed().as_secs_f64());
        }
        // Answered by main.
        Verb::DrbdHelper { .. } => return Ok(true),
        Verb::Destroy(common) => {
            let node = open(&common)?;
            if node.config.units.is_empty() {
                bail!("{} has no units", common.config.display());
            }
            node.destroy(&mut said)?;
            say(&format!("taken down in {:.2} s", started.elapsed().as_secs_f64()));
        }
    }
    Ok(true)
}

#[allow(clippy::cast_precision_loss)] // Shown with one digit.
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
