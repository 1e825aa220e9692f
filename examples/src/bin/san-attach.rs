//! Attaches a target's disk over several portals, or detaches it: the hypervisor's half.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

#[path = "san-attach/vg.rs"]
mod vg;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use multipath::{
    AttachSpec, Chap, Deadline, DetachSpec, Force, Host, Initiator, Iqn, Patience, Persistence, Profile,
    Secret,
};

/// Attach a disk of an iSCSI target over all its portals, as one multipath device; or detach it.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The target's name.
    target: Iqn,
    /// A portal (address, or address:port; 3260 without), once for each path. With one portal only, the others are discovered through it.
    #[arg(long = "portal", short = 'p', value_parser = portal)]
    portals: Vec<SocketAddr>,
    /// The disk's number at the target; without it, disk 0 is attached, or all disks are detached.
    #[arg(long)]
    lun: Option<u16>,
    /// CHAP user.
    #[arg(long, requires = "secret_file")]
    user: Option<String>,
    /// File with the CHAP secret.
    #[arg(long, requires = "user")]
    secret_file: Option<PathBuf>,
    /// Settings for a target that moves between two nodes: pings every second, steady retransmission, a connection given time to be made.
    #[arg(long, conflicts_with = "profile")]
    failover: bool,
    /// How long I/O waits for what: failover (as --failover), vmware (as its hosts wait), sanlock (a lease must outlast it; --vg
    /// chooses this).
    #[arg(long)]
    profile: Option<Profile>,
    /// Attach again at each start of this machine.
    #[arg(long)]
    persistent: bool,
    /// Detach instead.
    #[arg(long, short = 'd')]
    detach: bool,
    /// With --detach: also where no path works any more; what is not written yet is lost.
    #[arg(long, requires = "detach")]
    force: bool,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    #[command(flatten)]
    vg: vg::Words,
}

/// A portal as iscsiadm takes it: without a port it is the one that IANA gave iSCSI.
fn portal(text: &str) -> Result<SocketAddr, String> {
    const PORT: u16 = 3260;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match (text.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
        (Ok(portal), _) if portal.port() > 0 => Ok(portal),
        (_, Ok(address)) => Ok(SocketAddr::new(address, PORT)),
        _ => Err(format!(
            "{text:?} is no portal: an address, or an address and a port of 1 to 65535, as 10.1.24.10:3260 or [fd00::10]:3260"
        )),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("san-attach: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    if let Some(unit) = cli.vg.unit() {
        print!("{unit}");
        return Ok(());
    }
    let started = Instant::now();
    let deadline = Deadline::after(Duration::from_secs(cli.timeout));
    let host = Host::live();
    let initiator = Initiator::on(&host)?;
    if cli.detach {
        cli.vg.leave(&host)?;
        let mut spec = DetachSpec::new(cli.target.clone());
        if let Some(lun) = cli.lun {
            spec = spec.with_lun(lun);
        }
        if cli.force {
            spec = spec.with_force(Force::DeadPaths);
        }
        let was = !initiator.detach_by(&spec, deadline)?.is_empty();
        println!("{} {}", cli.target, if was { "detached" } else { "was not attached" });
        return Ok(());
    }
    let chap = match (&cli.user, &cli.secret_file) {
        (Some(user), Some(file)) => Some(Chap::new(user, Secret::read(file)?)?),
        _ => None,
    };
    let mut portals = cli.portals.clone();
    if let [one] = cli.portals.as_slice() {
        let found = initiator.discover(*one, None, deadline)?;
        if let Some(found) = found.into_iter().find(|found| found.target == cli.target) {
            portals = found.portals.into_iter().map(|(portal, _)| portal).collect();
        }
    }
    let mut spec = AttachSpec::new(cli.target.clone(), portals).with_lun(cli.lun.unwrap_or(0));
    if let Some(chap) = chap {
        spec = spec.with_chap(chap);
    }
    if cli.persistent {
        spec = spec.with_persistence(Persistence::Always);
    }
    let patience = cli.profile.map(Profile::patience).or_else(|| cli.vg.patience());
    if let Some(patience) = patience.or_else(|| cli.failover.then(Patience::failover)) {
        spec = spec.with_patience(patience);
        // These times are for whoever waits as ESXi does.
        if cli.profile != Some(Profile::Vmware) {
            retransmit_steadily(&host)?;
            let_connections_be_made(&host)?;
        }
    }
    let disk = initiator.attach(&spec, deadline)?;
    println!(
        "{} ({}, {} MiB) in {:.2} s",
        disk.device.display(),
        disk.wwid,
        disk.size >> 20,
        started.elapsed().as_secs_f64()
    );
    disk.paths.iter().for_each(|(portal, device)| println!("  {device} through {portal}"));
    disk.missing.iter().for_each(|(portal, why)| println!("  nothing through {portal}: {why}"));
    cli.vg.share(&host, initiator.multipath(), &disk.device)
}

/// Makes the kernel repeat what is not acknowledged every 0.2 s, six times, before it begins to double the time (for connections with few
/// packets under way, `tcp_retransmit_timer`, `net/ipv4/tcp_timer.c`). The node that takes over knows nothing of the old connection and resets
/// it at the first packet it gets, so this is when the initiator learns that it can log in again: within 0.2 s instead of up to as long again
/// as the outage lasted.
fn retransmit_steadily(host: &Host) -> Result<()> {
    const KNOB: &str = "/proc/sys/net/ipv4/tcp_thin_linear_timeouts";
    match host.tree().read_opt(KNOB)? {
        Some(now) if now.trim() == "0" => Ok(host.tree().write(KNOB, "1")?),
        _ => Ok(()),
    }
}

/// Gives iscsid 10 ms more to see that a connection was made. It looks for 1 ms only, and if the answer takes longer it looks again a whole
/// second later (open-iscsi, `usr/initiator.c`, `session_conn_poll`); that second is most of what a writer would wait when a target moves.
/// `poll` may be late by its process's timer slack (`fs/select.c`), so the slack is the knob: `/proc/PID/timerslack_ns`, as `TimerSlackNSec=`
/// of a systemd unit sets it. It lasts as long as this iscsid does. The price: a portal that does not answer costs iscsid 11 ms a try.
fn let_connections_be_made(host: &Host) -> Result<()> {
    const SLACK: u64 = 10_000_000;
    let tree = host.tree();
    for process in tree.dirs("/proc")?.into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
        // A process may end while it is looked at.
        let name = tree.read_opt(format!("/proc/{process}/comm")).ok().flatten();
        if name.as_deref().map(str::trim) != Some("iscsid") {
            continue;
        }
        let knob = format!("/proc/{process}/timerslack_ns");
        let now = tree.read_opt(&knob)?.and_then(|text| text.trim().parse::<u64>().ok());
        if now.is_some_and(|now| now < SLACK) {
            tree.write(&knob, SLACK.to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_may_leave_out_its_port() {
        for (text, wanted) in [
            ("10.1.24.10", "10.1.24.10:3260"),
            ("10.1.24.10:860", "10.1.24.10:860"),
            ("fd00::10", "[fd00::10]:3260"),
            ("[fd00::10]", "[fd00::10]:3260"),
            ("[fd00::10]:860", "[fd00::10]:860"),
        ] {
            assert_eq!(portal(text).map(|portal| portal.to_string()), Ok(wanted.to_owned()));
        }
        for bad in ["", "10.1.24", "10.1.24.10:0", "10.1.24.10:99999", "node1:3260", "[10.1.24.10"] {
            assert!(portal(bad).is_err_and(|said| said.contains("as 10.1.24.10:3260")), "{bad}");
        }
    }
}
