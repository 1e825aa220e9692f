//! `make bench`: what we do against what Debian's tools do, in the same virtual machine and the same run, medians of at least five each.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

mod drbd;
mod initiator;
mod irqaff;
mod lio;
mod luks;
mod multipath;
mod netcfg;
mod node;
#[path = "../../../tests/common/nodes.rs"]
mod nodes;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use report::Row;

/// Comparisons with the tools of Debian.
#[derive(Debug, Parser)]
struct Cli {
    /// Only the comparisons of this crate ("node" is san-node as a whole).
    only: Option<String>,
    /// Where the programs for the guests are; default: beside this one.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Where summary and plots go.
    #[arg(long)]
    out: Option<PathBuf>,
    /// How often each side runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..))]
    runs: u32,
    /// This program is in a guest, for a part of a comparison.
    #[arg(long, hide = true)]
    guest: Option<String>,
}

/// The comparisons of a crate.
struct Group {
    name: &'static str,
    /// What it compares, even if it cannot be run: name and goal of each row.
    rows: &'static [Goal],
    run: fn(&Path, u32, &mut Vec<Row>) -> Result<()>,
}

/// What a row is to reach.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    /// Unit, number of objects, cold or warm are in it.
    pub(crate) name: &'static str,
    /// How many times faster than the peer.
    pub(crate) ratio: f64,
}

/// Whether a part of a group runs: all, unless `SANKIT_BENCH_PART` holds a piece of some names.
pub(crate) fn wanted(part: &str) -> bool {
    std::env::var("SANKIT_BENCH_PART").map_or(true, |piece| part.contains(&piece))
}

const GROUPS: &[Group] = &[
    Group { name: "node", rows: &node::GOALS, run: node::run },
    Group { name: "drbd", rows: &drbd::GOALS, run: drbd::run },
    Group { name: "lio", rows: &lio::GOALS, run: lio::run },
    Group { name: "luks", rows: &luks::GOALS, run: luks::run },
    Group { name: "netcfg", rows: &netcfg::GOALS, run: netcfg::run },
    Group { name: "initiator", rows: &initiator::GOALS, run: initiator::run },
    Group { name: "irqaff", rows: &irqaff::GOALS, run: irqaff::run },
    Group { name: "multipath", rows: &multipath::GOALS, run: multipath::run },
];

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    if let Some(what) = &cli.guest {
        let part = match what.split_once('-') {
            Some(("netcfg", _)) => netcfg::guest::run,
            Some(("lio", _)) => lio::guest::run,
            Some(("irqaff", _)) => irqaff::guest::run,
            Some(("multipath", _)) => multipath::guest::run,
            Some(("initiator", _)) => initiator::guest::run,
            _ => drbd::guest::run,
        };
        return part(what, cli.runs).map(|()| true);
    }
    let own = std::env::current_exe()?;
    let beside = own.parent().context("this program is in no directory")?;
    let programs = cli.programs.clone().unwrap_or_else(|| beside.to_path_buf());
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let out = cli.out.clone().unwrap_or_else(|| target.join("bench"));
    let groups: Vec<&Group> =
        GROUPS.iter().filter(|group| cli.only.as_ref().is_none_or(|only| only == group.name)).collect();
    if groups.is_empty() {
        let names: Vec<_> = GROUPS.iter().map(|group| group.name).collect();
        bail!("no comparisons of {:?}; there are those of {}", cli.only, names.join(", "));
    }
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut all = Vec::new();
    for group in groups {
        println!("{}: {} comparisons, {} runs of each side", group.name, group.rows.len(), cli.runs);
        let mut rows = Vec::new();
        if let Err(error) = (group.run)(&programs, cli.runs, &mut rows) {
            println!("{}: {error:#}", group.name);
        }
        // What did not run is a row too.
        let rows: Vec<Row> = group
            .rows
            .iter()
            .map(|goal| {
                rows.iter().find(|row| row.name == goal.name).cloned().unwrap_or_else(|| Row::failed(goal))
            })
            .collect();
        report::plot(&out.join(format!("{}.svg", group.name)), group.name, &rows)?;
        all.extend(rows);
    }
    report::summary(&out.join("summary.tsv"), &all)?;
    report::table(&all);
    println!("{}", out.join("summary.tsv").display());
    Ok(all.iter().all(|row| row.ok()))
}
