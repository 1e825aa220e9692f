//! Exports a disk over iSCSI in one command, or takes it back: backstore, target, portals, who may log in. Running it again changes nothing.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use lio::{
    AclSpec, BackstoreSpec, Bytes, ChapUser, Deadline, DemoMode, Host, Iqn, Lio, Secret, TargetSpec,
    UnitSerial,
};

/// Export a block device or a file over iSCSI.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The block device, or with --size a file, which is made if it is missing.
    device: PathBuf,
    /// The target's name.
    #[arg(long)]
    iqn: Iqn,
    /// Where it listens: ADDRESS or ADDRESS:PORT, IPv6 as `[ADDRESS]:PORT`; several times for several. An address need not be there yet.
    #[arg(long = "portal", value_name = "ADDRESS", value_parser = portal, default_value = "0.0.0.0:3260")]
    portals: Vec<SocketAddr>,
    /// Who may log in; several times for several.
    #[arg(long = "initiator", value_name = "IQN")]
    initiators: Vec<Iqn>,
    /// Let anybody log in and write who reaches a portal.
    #[arg(long, conflicts_with_all = ["initiators", "user"])]
    anybody: bool,
    /// The name initiators must prove, with --secret-file.
    #[arg(long, requires = "secret_file")]
    user: Option<ChapUser>,
    /// The file with the password that goes with it.
    #[arg(long, requires = "user")]
    secret_file: Option<PathBuf>,
    /// The unit serial, by which initiators know the disk: the same on every node that exports it. Default: made of the target's name, so that
    /// it is the same after a reinstallation.
    #[arg(long)]
    serial: Option<UnitSerial>,
    /// The size of a file, in MiB.
    #[arg(long, value_name = "MIB")]
    size: Option<u64>,
    /// Only show what would be done, as shell lines.
    #[arg(long)]
    plan: bool,
    /// Take the target away, and the backstore with it; the data stay.
    #[arg(long, conflicts_with = "plan")]
    remove: bool,
}

fn portal(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 3260));
    bare.or_else(|_| text.parse()).map_err(|_| format!("{text} is no ADDRESS and no ADDRESS:PORT"))
}

fn main() -> ExitCode {
    match run(&Cli::parse(), &Host::live()) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("lio-export: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn spec(cli: &Cli) -> Result<TargetSpec> {
    if cli.initiators.is_empty() && !cli.anybody {
        bail!("nobody may log in; name --initiator, or say --anybody");
    }
    // What follows the colon, or all of it: names of backstores have no dots too many for anybody.
    let name: String = cli.iqn.as_str().rsplit(':').next().unwrap_or_default().chars().take(127).collect();
    let disk = match cli.size {
        Some(mib) => {
            let bytes = mib.checked_mul(1 << 20).context("the size is too large")?;
            BackstoreSpec::file(name.parse()?, &cli.device, Bytes(bytes))
        }
        None => BackstoreSpec::block(name.parse()?, &cli.device),
    };
    let serial = cli.serial.clone().unwrap_or_else(|| UnitSerial::derived_from(cli.iqn.as_str()));
    let mut target = TargetSpec::new(cli.iqn.clone()).with_lun(0, disk.with_serial(serial));
    for portal in &cli.portals {
        target = target.with_portal(*portal);
    }
    for initiator in &cli.initiators {
        let mut acl = AclSpec::new(initiator.clone());
        if let (Some(user), Some(file)) = (&cli.user, &cli.secret_file) {
            acl = acl.with_chap(user.clone(), Secret::read(file)?);
        }
        target = target.with_acl(acl);
    }
    Ok(if cli.anybody { target.with_demo_mode(DemoMode::Allowed) } else { target })
}

fn run(cli: &Cli, host: &Host) -> Result<String> {
    let lio = Lio::on(host)?;
    if cli.remove {
        let there = lio.remove_before(&cli.iqn, Deadline::after(Duration::from_secs(60)))?;
        return Ok(format!("{}: {}", cli.iqn, if there { "removed" } else { "was not there" }));
    }
    let spec = spec(cli)?;
    if cli.plan {
        return Ok(lio.plan(&spec)?.to_string().trim_end().to_owned());
    }
    let changed = lio.ensure(&spec)?;
    let wwid =
        spec.luns.values().find_map(BackstoreSpec::wwid).map(|wwid| wwid.to_string()).unwrap_or_default();
    let portals: Vec<_> = cli.portals.iter().map(ToString::to_string).collect();
    let what = if changed { "exported" } else { "nothing to do" };
    Ok(format!("{}: {what}; {} as {wwid} at {}", cli.iqn, cli.device.display(), portals.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(words: &[&str]) -> Cli {
        Cli::parse_from(["lio-export", "/dev/vdb", "--iqn", "iqn.2026-01.lab.x:disk"].iter().chain(words))
    }

    #[test]
    fn one_command_exports_a_device_and_takes_it_back() -> Result<()> {
        let memory = lio::fake::configfs();
        memory.edit(|nodes| nodes.put("/dev/vdb", ""));
        let host = Host::fake().with_tree(memory.tree());
        let words =
            ["--portal", "10.0.0.1", "--portal", "[fd00::1]:3261", "--initiator", "iqn.2026-01.lab.x:hv"];
        assert!(run(&cli(&["--plan", "--initiator", "iqn.2026-01.lab.x:hv"]), &host)?.contains("mkdir"));
        assert!(run(&cli(&words), &host)?.contains("exported; /dev/vdb as 36001405"));
        assert!(run(&cli(&words), &host)?.contains("nothing to do"));
        let state = Lio::on(&host)?.list()?.pop().context("a target")?;
        let portals: Vec<_> =
            state.groups.iter().flat_map(|group| group.portal_addresses()).map(|p| p.to_string()).collect();
        assert_eq!(portals, ["10.0.0.1:3260", "[fd00::1]:3261"]);
        assert!(run(&cli(&["--remove"]), &host)?.ends_with("removed"));
        assert!(run(&cli(&["--remove"]), &host)?.ends_with("was not there"));
        Ok(())
    }

    #[test]
    fn nobody_gets_in_unless_said() {
        let host = Host::fake().with_tree(lio::fake::configfs().tree());
        let error = run(&cli(&[]), &host).expect_err("nobody");
        assert!(error.to_string().contains("--anybody"), "{error}");
    }
}
