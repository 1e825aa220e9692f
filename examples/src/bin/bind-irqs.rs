//! Spreads the interrupts of network cards over processors, shows the map before and after and where they fire, and brings back what was.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use host::{CpuSet, Host, IfName, Plan};
use irqaff::{DeviceState, Irqaff, Policy, Step};

/// What was before, for --restore.
const BEFORE: &str = "/var/lib/sankit/bind-irqs.json";

/// Spread the queues of network cards over processors: bind-irqs --cpus 0-5 int1 int2 ...
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The links; bonds and VLANs stand for the cards below them.
    #[arg(required_unless_present = "restore")]
    links: Vec<IfName>,
    /// The processors, as a list: 0-5,8. Default: all that are online and not isolated.
    #[arg(long)]
    cpus: Option<CpuSet>,
    /// Let the sending queues follow (XPS).
    #[arg(long)]
    xps: bool,
    /// Say what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Bring back what was before the first change of this program.
    #[arg(long, conflicts_with_all = ["links", "cpus", "xps", "watch"])]
    restore: bool,
    /// Then look for so many seconds where the interrupts fire.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// Write what --watch saw as a picture, too.
    #[arg(long, value_name = "FILE", requires = "watch")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bind-irqs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<bool> {
    let host = Host::live();
    let irqaff = Irqaff::on(&host)?;
    if cli.restore {
        return restore(&host, &irqaff, cli.dry_run);
    }
    let mut policy = Policy::spread(cli.links);
    if let Some(cpus) = cli.cpus {
        policy = policy.over(cpus);
    }
    if cli.xps {
        policy = policy.with_xps();
    }
    let plan = irqaff.plan(&policy)?;
    let mut devices = Vec::new();
    for link in &policy.ports {
        for port in irqaff.physical_ports(link)? {
            devices.extend(irqaff.get(&port)?);
        }
    }
    println!("before:");
    map(&devices);
    print!("{plan}");
    if cli.dry_run {
        println!("{} changes, none made", plan.len());
        return Ok(true);
    }
    // Written before the first change: a program that is killed in between has left the way back.
    let steps: Vec<Step> = plan.steps().iter().flat_map(host::plan::Step::undo).rev().collect();
    if !steps.is_empty() {
        let all: Vec<Step> = steps.into_iter().chain(read(&host)?).collect();
        host.tree().ensure_dir("/var/lib/sankit")?;
        host.tree().replace(BEFORE, serde_json::to_vec(&all)?, 0o600)?;
    }
    let changes = plan.len();
    let applied = irqaff.apply(plan)?;
    for step in &applied.not_movable {
        println!("cannot be moved by anybody: {step}");
    }
    let report = irqaff.verify(&policy)?;
    println!(
        "{}",
        if changes > applied.not_movable.len() {
            "placed (bind-irqs --restore takes it back)"
        } else {
            "nothing to do"
        }
    );
    print!("{report}");
    if let Some(seconds) = cli.watch {
        let first = irqaff.sample(&devices)?;
        std::thread::sleep(Duration::from_secs(seconds));
        let load = irqaff.sample(&devices)?.since(&first, &devices);
        print!("{load}");
        if let Some(file) = &cli.svg {
            std::fs::write(file, load.to_svg())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(report.holds())
}

fn map(devices: &[DeviceState]) {
    for device in devices {
        for vector in &device.vectors {
            let effective = vector.effective.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
            println!(
                "  {} {}: interrupt {} ({}) bound to {}, fires on {effective}",
                device.name, vector.role, vector.irq, vector.action, vector.affinity
            );
        }
    }
}

fn read(host: &Host) -> Result<Vec<Step>> {
    match host.tree().read_opt(BEFORE)? {
        Some(text) => serde_json::from_str(&text).with_context(|| {
            format!("{BEFORE} cannot be understood; move it away to go on without --restore")
        }),
        None => Ok(Vec::new()),
    }
}

fn restore(host: &Host, irqaff: &Irqaff, dry_run: bool) -> Result<bool> {
    let steps = read(host)?;
    ensure!(!steps.is_empty(), "there is nothing to bring back: {BEFORE} is not there");
    let plan = Plan::new(steps);
    print!("{plan}");
    if dry_run {
        println!("{} changes, none made", plan.len());
        return Ok(true);
    }
    irqaff.apply(plan)?;
    host.tree().unlink(BEFORE)?;
    println!("as it was before");
    Ok(true)
}
