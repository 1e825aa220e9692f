//! `make demo`: two storage nodes and a hypervisor in the lab, the whole chain, moves and power cuts under load, and a judge.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::indexing_slicing)] // It is a program; the indices are those of two nodes.

mod cluster;
mod judge;
mod report;
mod wire;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::{Parser, ValueEnum};
use lab::{Cmd, Running};

use cluster::{Cluster, UNITS};
use judge::Journal;

/// The blocks a writer goes round over: 1 MiB, so that each is written anew every few seconds.
const BLOCKS: u64 = 256;

/// The whole chain in the lab, judged.
#[derive(Debug, Parser)]
struct Cli {
    /// Where the programs for the guests are.
    #[arg(long)]
    programs: PathBuf,
    /// Where the report goes.
    #[arg(long, default_value = "target/demo")]
    out: PathBuf,
    /// How many planned moves.
    #[arg(long, default_value_t = 3)]
    moves: usize,
    /// How many power cuts.
    #[arg(long, default_value_t = 3)]
    cuts: usize,
    /// Size of each disk in MiB.
    #[arg(long, default_value_t = 96)]
    disk: u64,
    /// Spoil something, to prove that the judge sees it.
    #[arg(long)]
    plant: Option<Plant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Plant {
    /// A block that was acknowledged is emptied.
    Lost,
    /// An older version of a block comes back.
    Stale,
    /// A write fails.
    Error,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the writers reported, by unit; filled by a thread as it comes.
type Journals = Arc<Mutex<BTreeMap<u64, Journal>>>;

/// An event at a writer.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) what: String,
    pub(crate) at: Instant,
    pub(crate) gap: f64,
}

struct Demo {
    cluster: Cluster,
    captures: Vec<PathBuf>,
    journals: Journals,
    writers: Vec<Running>,
    devices: Vec<String>,
    run: u64,
    started: Instant,
    /// Which node serves each unit.
    serving: [usize; 2],
    moves: Vec<Event>,
    kills: Vec<Event>,
}

fn phase(started: Instant, text: &str) {
    println!("[{:6.1} s] {text}", started.elapsed().as_secs_f64());
}

fn run(cli: &Cli) -> Result<bool> {
    let started = Instant::now();
    std::fs::create_dir_all(&cli.out)?;
    phase(started, "booting n1, n2 and hv");
    let cluster = Cluster::boot(&cli.programs, cli.disk)?;
    phase(started, "captures of both storage networks begin");
    let captures = cluster.capture(&cli.out)?;
    let mut demo = Demo {
        cluster,
        captures,
        journals: Journals::default(),
        writers: Vec::new(),
        devices: Vec::new(),
        run: std::process::id().into(),
        started,
        serving: [UNITS[0].home, UNITS[1].home],
        moves: Vec::new(),
        kills: Vec::new(),
    };
    let machines = [demo.cluster.nodes[0].clone(), demo.cluster.nodes[1].clone(), demo.cluster.hv.clone()];
    let result = demo.all(cli);
    if result.is_err() {
        // The machines still run: `demo` holds them.
        machines.iter().for_each(cluster::show_state);
    }
    result
}

/// Does it for each at the same time; the first that fails.
fn each<T: Copy + Send>(of: &[T], f: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let f = &f;
        let threads: Vec<_> = of.iter().map(|&one| scope.spawn(move || f(one))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

impl Demo {
    fn phase(&self, text: &str) {
        phase(self.started, text);
    }

    fn all(&mut self, cli: &Cli) -> Result<bool> {
        self.set_up()?;
        self.start_writers()?;
        std::thread::sleep(Duration::from_secs(2));
        for _ in 0..cli.moves {
            self.planned_move(0)?;
        }
        for n in 0..cli.cuts {
            self.power_cut(n)?;
        }
        if cli.plant == Some(Plant::Error) {
            self.phase("a write that must fail is planted");
            self.cluster.hv.sh("pkill -USR1 san-writer")?;
            std::thread::sleep(Duration::from_secs(1));
        }
        self.stop_writers()?;
        if let Some(what) = cli.plant.filter(|p| *p != Plant::Error) {
            self.plant(what)?;
        }
        let complaints = self.judge()?;
        self.finish(cli, &complaints)
    }

    fn set_up(&mut self) -> Result<()> {
        for node in 0..2 {
            self.cluster.equip(node)?;
        }
        self.phase("RAID and encrypted disks are made on both nodes");
        self.on_both(|c, n| c.make_disks(n))?;
        self.phase("san-node check");
        self.cluster.san_node(0, &["check"])?;
        self.phase("san-node apply on both: network, interrupts, disks, replication");
        self.on_both(|c, n| c.san_node(n, &["apply", "--create-metadata"]).map(drop))?;
        self.phase("each unit is served by its home; its first sync begins");
        for unit in &UNITS {
            self.cluster.san_node(unit.home, &["serve", unit.name, "--first-sync"])?;
        }
        for unit in &UNITS {
            self.cluster.san_node(unit.home, &["wait", unit.name])?;
        }
        self.phase("the hypervisor attaches both disks over both portals");
        self.cluster.prepare_hypervisor()?;
        for unit in &UNITS {
            let device = self.cluster.attach(unit)?;
            self.devices.push(device);
        }
        self.phase("both nodes, as san-node status shows them");
        for node in 0..2 {
            self.cluster.san_node(node, &["status"])?;
        }
        Ok(())
    }

    fn on_both(&self, f: impl Fn(&Cluster, usize) -> Result<()> + Sync) -> Result<()> {
        let cluster = &self.cluster;
        each(&[0, 1], |node| f(cluster, node))
    }

    fn start_writers(&mut self) -> Result<()> {
        self.phase("writers: 4 KiB, O_DIRECT|O_SYNC, every 20 ms, each acknowledgement logged here");
        let mut port = self.cluster.hv.port("lab.ack")?;
        let journals = Arc::clone(&self.journals);
        std::thread::spawn(move || {
            let mut record = [0; 32];
            // Ends when the hypervisor does.
            while port.read_exact(&mut record).is_ok() {
                let now = Instant::now();
                if let Some((unit, record)) = Journal::decode(&record) {
                    let mut journals = journals.lock().unwrap_or_else(PoisonError::into_inner);
                    journals.entry(unit).or_default().records.push((now, record));
                }
            }
        });
        let node = "for p in /sys/class/virtio-ports/*; do [ \"$(cat $p/name)\" = lab.ack ] && echo /dev/${p##*/}; done";
        let port = self.cluster.hv.sh(node)?.trim().to_owned();
        // The port can be opened once: both writers share it, a record is one write.
        let write = |n: usize, device: &str| {
            format!("/lab/bin/san-writer write {device} {} {n} 20 {BLOCKS} & ", self.run)
        };
        let script: String = self.devices.iter().enumerate().map(|(n, d)| write(n, d)).collect();
        let script = format!("{{ {script} wait; }} > {port}");
        self.writers.push(self.cluster.hv.spawn(Cmd::sh(&script).deadline(Duration::from_secs(3600)))?);
        let limit = Instant::now() + Duration::from_secs(20);
        while (0..2).any(|unit| self.journal(unit).acknowledged().count() < 20) {
            if Instant::now() > limit {
                return Err(anyhow!("the writers do not write"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn journal(&self, unit: usize) -> Journal {
        let journals = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
        journals.get(&(unit as u64)).cloned().unwrap_or_default()
    }

    /// Waits until the writers of these units go on, at most a minute; the longest any of them waited since `since`. Called when the other
    /// node serves: what was acknowledged before that says nothing.
    fn gap_since(&self, since: Instant, units: &[usize]) -> f64 {
        let (served, limit) = (Instant::now(), since + Duration::from_secs(60));
        // Twenty more: it does not stutter.
        let goes_on =
            |unit: &usize| self.journal(*unit).acknowledged().filter(|(at, ..)| *at > served).count() > 20;
        while !units.iter().all(goes_on) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(Duration::from_secs(1));
        let until = Instant::now();
        units.iter().map(|unit| self.journal(*unit).gap(since, until)).fold(0.0, f64::max)
    }

    /// Nobody moves a unit whose hypervisor has not got both its paths back from the last move.
    fn both_paths(&self) -> Result<()> {
        const FAILED: &str = "! dmsetup status --target multipath | grep -q ' F '";
        let limit = Instant::now() + Duration::from_secs(30);
        while !self.cluster.hv.run(["sh", "-c", FAILED])?.success() {
            if Instant::now() > limit {
                return Err(anyhow!(
                    "a path did not come back in 30 s:\n{}",
                    self.cluster.hv.sh("multipath -ll")?
                ));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Moves a unit to the other node.
    fn planned_move(&mut self, index: usize) -> Result<()> {
        let unit = &UNITS[index];
        let (from, to) = (self.serving[index], 1 - self.serving[index]);
        let names = [self.cluster.nodes[from].name().to_owned(), self.cluster.nodes[to].name().to_owned()];
        let n = self.moves.len() + 1;
        self.phase(&format!("move {n}: {} from {} to {}", unit.name, names[0], names[1]));
        let at = Instant::now();
        let verbs: [(usize, &[&str]); 2] =
            [(to, &["serve", unit.name, "--wait", "30"]), (from, &["release", unit.name])];
        let cluster = &self.cluster;
        each(&verbs, |(node, verb)| cluster.san_node(node, verb).map(drop))?;
        self.serving[index] = to;
        let gap = self.gap_since(at, &[index]);
        self.phase(&format!("move {n}: the writer waited {gap:.2} s"));
        self.moves.push(Event { what: format!("move {n}, {} to {}", unit.name, names[1]), at, gap });
        self.both_paths()
    }

    fn power_cut(&mut self, n: usize) -> Result<()> {
        let (dead, heir) = (self.serving[0], 1 - self.serving[0]);
        let mine: Vec<usize> = (0..2).filter(|unit| self.serving[*unit] == dead).collect();
        let names: Vec<&str> = mine.iter().map(|unit| UNITS[*unit].name).collect();
        let name = self.cluster.nodes[dead].name().to_owned();
        self.phase(&format!("power cut {}: {name}, which serves {}", n + 1, names.join(" and ")));
        let at = Instant::now();
        self.cluster.nodes[dead].power_cut();
        if self.cluster.nodes[dead].is_on() {
            return Err(anyhow!("{name} is still on"));
        }
        // All at once, as a cluster manager does it.
        let cluster = &self.cluster;
        each(&names, |unit| cluster.san_node(heir, &["serve", unit, "--peer-is-dead"]).map(drop))?;
        for unit in &mine {
            self.serving[*unit] = heir;
        }
        let gap = self.gap_since(at, &mine);
        self.phase(&format!("power cut {}: the writer waited {gap:.2} s", n + 1));
        self.kills.push(Event { what: format!("power cut {} of {name}", n + 1), at, gap });
        self.both_paths()?;
        self.phase(&format!("{name} comes back and catches up"));
        self.cluster.bring_back(dead)?;
        // As before: each node serves its own.
        for unit in (0..2).filter(|unit| UNITS[*unit].home == dead) {
            self.planned_move(unit)?;
        }
        Ok(())
    }

    fn stop_writers(&mut self) -> Result<()> {
        self.cluster
            .hv
            .sh("pkill -TERM -x san-writer; while pidof san-writer >/dev/null; do sleep 0.1; done; true")?;
        // What is on its way through the port arrives within this.
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    fn plant(&self, what: Plant) -> Result<()> {
        let word = if what == Plant::Lost { "lost" } else { "stale" };
        self.phase(&format!("a {word} block is planted"));
        let run = self.run.to_string();
        // Block 7 was written more than once; "stale" puts its first version back.
        self.cluster.hv.run_ok([
            "/lab/bin/san-writer",
            "plant",
            word,
            self.devices[0].as_str(),
            run.as_str(),
            "7",
        ])?;
        Ok(())
    }

    /// Reads everything back through each leg in turn.
    fn judge(&mut self) -> Result<Vec<String>> {
        let mut complaints = Vec::new();
        for leg in 0..2 {
            for (index, unit) in UNITS.iter().enumerate() {
                let node = self.cluster.nodes[self.serving[index]].name().to_owned();
                self.phase(&format!("every acknowledged block of {} is read back through {node}", unit.name));
                let (run, blocks) = (self.run.to_string(), BLOCKS.to_string());
                let command = [
                    "/lab/bin/san-writer",
                    "read",
                    self.devices[index].as_str(),
                    run.as_str(),
                    blocks.as_str(),
                ];
                let output = self.cluster.hv.run_ok(command)?;
                let lost = judge::lost(&self.journal(index), &judge::parse_blocks(&output.stdout));
                complaints.extend(lost.into_iter().map(|c| format!("{} through {node}: {c}", unit.name)));
            }
            if leg == 0 {
                for (index, unit) in UNITS.iter().enumerate() {
                    let (from, to) = (self.serving[index], 1 - self.serving[index]);
                    self.cluster.san_node(from, &["release", unit.name])?;
                    self.cluster.san_node(to, &["serve", unit.name])?;
                    self.serving[index] = to;
                }
            }
        }
        Ok(complaints)
    }

    fn finish(&mut self, cli: &Cli, complaints: &[String]) -> Result<bool> {
        for writer in self.writers.drain(..) {
            writer.wait().context("the writers")?;
        }
        let journals: Vec<Journal> = (0..2).map(|unit| self.journal(unit)).collect();
        let errors: Vec<(Instant, String)> = journals.iter().flat_map(Journal::errors).collect();
        // An error is of what happened last before it.
        let last = |events: &[Event], at: &Instant| events.iter().map(|e| e.at).filter(|e| e <= at).max();
        let (killed_errors, move_errors): (Vec<_>, Vec<_>) =
            errors.iter().partition(|(at, _)| last(&self.kills, at) > last(&self.moves, at));
        let wire = wire::judge(&self.captures)?;
        self.phase(&format!(
            "wire: {} logins, {} complaints; {} connections of the node before were ended by the node that serves",
            wire.logins,
            wire.complaints.len(),
            wire.stale
        ));
        let acknowledged: usize = journals.iter().map(|j| j.acknowledged().count()).sum();
        complaints
            .iter()
            .chain(errors.iter().map(|(_, text)| text))
            .chain(&wire.complaints)
            .take(20)
            .for_each(|line| println!("    JUDGE | {line}"));
        let versions = report::versions(&self.cluster)?;
        let page = report::write(&cli.out, &journals, &self.moves, &self.kills, &versions, self.started)?;
        self.phase(&format!("report: {}", page.display()));
        let gaps = |events: &[Event]| judge::median_max(&events.iter().map(|e| e.gap).collect::<Vec<_>>());
        let ((moved, moved_max), (killed, killed_max)) = (gaps(&self.moves), gaps(&self.kills));
        self.cluster.lab.forgive();
        println!(
            "demo: move gap {moved:.2} s max {moved_max:.2}, errors {}; kill gap {killed:.2} s max {killed_max:.2}, errors {}; acknowledged \
             {acknowledged}, lost {}",
            move_errors.len(),
            killed_errors.len(),
            complaints.len()
        );
        // Each unit logs in over both portals at the beginning: fewer logins and the captures are worth nothing.
        let seen = wire.complaints.is_empty() && wire.logins >= 4;
        Ok(complaints.is_empty() && errors.is_empty() && acknowledged > 0 && seen)
    }
}
