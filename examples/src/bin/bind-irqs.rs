//! Spreads the interrupts of network cards over processors, and shows the map before and after.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use host::{CpuSet, Host, IfName};
use irqaff::{Irqaff, Policy};

/// Spread the queues of network cards over processors: bind-irqs --cpus 0-5 int1 int2 ...
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The links; bonds and VLANs stand for the cards below them.
    #[arg(required = true)]
    links: Vec<IfName>,
    /// The processors, as a list: 0-5,8.
    #[arg(long)]
    cpus: CpuSet,
    /// Let the sending queues follow (XPS).
    #[arg(long)]
    xps: bool,
    /// Say what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
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
    let irqaff = Irqaff::on(&Host::live())?;
    let policy = Policy::spread(cli.links).over(cli.cpus);
    let policy = if cli.xps { policy.with_xps() } else { policy };
    let plan = irqaff.plan(&policy)?;
    print!("{plan}");
    if cli.dry_run {
        println!("{} changes, none made", plan.len());
        return Ok(true);
    }
    let changed = irqaff.ensure(&policy)?;
    let report = irqaff.verify(&policy)?;
    println!("{}", if changed { "placed" } else { "nothing to do" });
    print!("{report}");
    Ok(report.holds())
}
