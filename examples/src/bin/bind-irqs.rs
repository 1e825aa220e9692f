//! Spreads the interrupts of network cards and disk controllers over processors, shows the map before and after and where they fire, and brings
//! back what was.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use host::{CpuSet, Deadline, Host, Plan};
use irqaff::{DeviceName, DeviceState, Irqaff, Numa, Policy, Rps, Step, Threads};

/// What was before, for --restore.
const BEFORE: &str = "/var/lib/sankit/bind-irqs.json";

/// What to do about irqbalance, which would move the interrupts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Balance {
    /// Tell it to leave these interrupts alone.
    Ban,
    /// Do nothing if it runs.
    Refuse,
    /// Go on all the same.
    Ignore,
}

/// Spread the queues of network cards and disk controllers over processors: bind-irqs --cpus 0-5 int1 int2 0000:03:00.0
#[derive(Debug, Parser)]
#[command(version)]
#[allow(clippy::struct_excessive_bools)] // Each is a switch of the command line.
struct Cli {
    /// The devices: links (bonds and VLANs stand for the cards below them), PCI addresses, nvme0, host2.
    #[arg(required_unless_present_any = ["restore", "list"])]
    devices: Vec<DeviceName>,
    /// The processors, as a list: 0-5,8. Default: all that are online and not isolated.
    #[arg(long)]
    cpus: Option<CpuSet>,
    /// Keep each device on its memory node.
    #[arg(long)]
    numa: bool,
    /// Leave the second threads of cores out.
    #[arg(long)]
    skip_threads: bool,
    /// Let the sending queues follow (XPS).
    #[arg(long)]
    xps: bool,
    /// Hand packets on where a card has fewer queues than there are processors (RPS).
    #[arg(long)]
    rps: bool,
    /// Follow so many flows to the programs that read them (RFS); 0 switches it off.
    #[arg(long, value_name = "FLOWS")]
    rfs: Option<u32>,
    /// What to do if irqbalance runs.
    #[arg(long, value_enum, default_value = "ban")]
    irqbalance: Balance,
    /// Say what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Show all devices with their interrupts.
    #[arg(long, conflicts_with_all = ["devices", "restore"])]
    list: bool,
    /// Bring back what was before the first change of this program.
    #[arg(long, conflicts_with_all = ["devices", "cpus", "numa", "skip_threads", "xps", "rps", "rfs", "watch"])]
    restore: bool,
    /// Then look for so many seconds where the interrupts fire.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// Write what --watch saw as a picture, too.
    #[arg(long, value_name = "FILE", requires = "watch")]
    svg: Option<PathBuf>,
    /// Print a systemd unit that does the same at every boot, and do nothing else.
    #[arg(long, conflicts_with_all = ["list", "restore"])]
    print_unit: bool,
    /// Print udev rules that start that unit again when interrupts may have moved, and do nothing else.
    #[arg(long, conflicts_with_all = ["list", "restore", "print_unit"])]
    print_udev: bool,
    /// Print a script for irqbalance's --policyscript that leaves these devices alone, and do nothing else.
    #[arg(long, conflicts_with_all = ["list", "restore", "print_unit", "print_udev"])]
    print_policyscript: bool,
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
    if cli.list {
        map(&irqaff.list()?);
        return Ok(true);
    }
    let policy = policy(&cli);
    let mut names = Vec::new();
    for name in &policy.devices {
        names.extend(irqaff.devices_of(name)?);
    }
    if cli.print_unit {
        print!("{}", irqaff::service(&command_line()?));
        return Ok(true);
    }
    if cli.print_udev {
        print!("{}", irqaff::udev_rules("bind-irqs.service"));
        return Ok(true);
    }
    if cli.print_policyscript {
        print!("{}", irqaff::policy_script(&names));
        return Ok(true);
    }
    let plan = irqaff.plan(&policy)?;
    let devices =
        names.iter().filter_map(|name| irqaff.get(name).transpose()).collect::<Result<Vec<_>, _>>()?;
    println!("before:");
    map(&devices);
    print!("{plan}");
    if cli.dry_run {
        println!("{} changes, none made", plan.len());
        return Ok(true);
    }
    let balance = irqaff.irqbalance()?;
    match (&balance, cli.irqbalance) {
        (Some(irqbalance), Balance::Refuse) => bail!(
            "irqbalance runs (process {}) and would move them again; stop it, or say --irqbalance ban",
            irqbalance.pid
        ),
        (Some(_), Balance::Ban) if irqaff.ban(&policy, Deadline::after(Duration::from_secs(5)))? => {
            println!(
                "irqbalance leaves them alone until it is started anew (for good: --print-policyscript)"
            );
        }
        _ => {}
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

fn policy(cli: &Cli) -> Policy {
    let mut policy = Policy::spread(cli.devices.clone());
    if let Some(cpus) = &cli.cpus {
        policy = policy.over(cpus.clone());
    }
    if cli.numa {
        policy = policy.with_numa(Numa::Local);
    }
    if cli.skip_threads {
        policy = policy.with_threads(Threads::Skipped);
    }
    if cli.xps {
        policy = policy.with_xps();
    }
    if cli.rps {
        policy = policy.with_rps(Rps::WhereFewQueues);
    }
    match cli.rfs {
        Some(flows) => policy.with_flows(flows),
        None => policy,
    }
}

/// This call without what only prints, for a unit.
fn command_line() -> Result<String> {
    let program = std::env::current_exe().context("cannot find this program's path")?;
    let words = std::env::args().skip(1).filter(|word| word != "--print-unit");
    Ok(std::iter::once(program.display().to_string()).chain(words).collect::<Vec<_>>().join(" "))
}

fn map(devices: &[DeviceState]) {
    for device in devices {
        let node = device.numa_node.map_or_else(|| "unknown".to_owned(), |node| node.to_string());
        println!(
            "  {} ({}, memory node {node})",
            device.name,
            device.driver.as_deref().unwrap_or("no driver")
        );
        for vector in &device.vectors {
            let effective = vector.effective.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
            println!(
                "    {}: interrupt {} ({}) bound to {}, fires on {effective}",
                vector.role, vector.irq, vector.action, vector.affinity
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
