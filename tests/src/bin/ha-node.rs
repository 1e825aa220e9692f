//! A node of an ALUA pair, in a guest: DRBD by `/etc/drbd.conf`, and the target in front of it.
//!
//! `ha-node VERB NODE`, NODE being 1 or 2: `ready` sets up what both nodes have; `takeover` waits until the other node lets go and serves;
//! `takeover-dead` serves without waiting, for a peer that is switched off, and answers for its portals; `give-back` stops answering for
//! them; `standby` lets go and waits until the other one serves; `state` says what it does. Each prints how long its parts took.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use drbd::conf::Conf;
use drbd::{Drbd, Promote, Role};
use host::{Deadline, Host};
use lio::{AclSpec, BackstoreSpec, HaNode, HaPair, Lio, Secret, Side, Tag, TargetSpec};
use netcfg::FloatingAddr;

const PATIENCE: Duration = Duration::from_secs(20);

fn pair() -> Result<HaPair> {
    let disk = BackstoreSpec::block("r0".parse()?, "/dev/drbd0")
        .with_serial("9d5c1bafe3f04a8f8d0e2b1c0a1b2c3d".parse()?);
    let acl = AclSpec::new("iqn.2026-01.lab.sankit:hv".parse()?)
        .with_chap("hv".parse()?, Secret::from("a-chap-secret-of-the-lab"))
        .with_attribute("nopin_timeout", 5)
        .with_attribute("nopin_response_timeout", 5);
    let target = TargetSpec::new("iqn.2026-01.lab.sankit:r0".parse()?).with_lun(0, disk).with_acl(acl);
    let node = |number: u16| -> Result<HaNode> {
        let portal = |net: u16| Ok::<_, anyhow::Error>(format!("10.1.{net}.{}:3260", 10 + number).parse()?);
        Ok(HaNode::new(Tag(number)).with_portal(portal(24)?).with_portal(portal(25)?))
    };
    Ok(HaPair::alua(target, [node(1)?, node(2)?]))
}

/// The addresses of a node's portals. Nothing listens at them on the other one, so that its kernel answers what still comes for a dead node
/// with a reset: the fastest way to tell an initiator that these connections are over.
fn portals(side: Side) -> Result<[FloatingAddr; 2]> {
    let number = if side == Side::One { 11 } else { 12 };
    Ok([
        FloatingAddr::new("eth0".parse()?, format!("10.1.24.{number}/24").parse()?),
        FloatingAddr::new("eth1".parse()?, format!("10.1.25.{number}/24").parse()?),
    ])
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ha-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [verb, node @ ("1" | "2")] = words.as_slice() else { bail!("usage: ha-node VERB 1|2") };
    let side = if *node == "1" { Side::One } else { Side::Two };
    let (host, pair, name) = (Host::live(), pair()?, "r0".parse()?);
    let (drbd, lio) = (Drbd::on(&host)?, Lio::on(&host)?);
    let soon = || Deadline::after(PATIENCE);
    let began = Instant::now();
    let did = |what: &str| println!("{what} after {:.3} s", began.elapsed().as_secs_f64());
    let promote = || -> Result<()> {
        did("told");
        drbd.promote(&name, Promote::IfSafe)?;
        did("promoted");
        Ok(())
    };
    match *verb {
        "ready" => {
            drbd.ensure(&Conf::load(&host, Conf::PATH)?.spec(&name, &format!("n{node}"))?)?;
            lio.ensure_ha(&pair, side)?;
            // Somebody may think that the other node has them.
            FloatingAddr::announce_all(&host, &portals(side)?)?;
        }
        "takeover" => {
            drbd.wait_released(&name, soon())?;
            did("awaited");
            lio.takeover_with(&pair, side, soon(), promote)?;
        }
        "takeover-dead" => {
            let theirs = portals(side.other())?;
            lio.takeover_with(&pair, side, soon(), || -> Result<()> {
                did("told");
                theirs.iter().try_for_each(|address| address.claim(&host).map(drop))?;
                FloatingAddr::announce_all(&host, &theirs)?;
                did("answers for it");
                // DRBD finds out by itself that the other node is dead; until then it refuses a second Primary.
                let deadline = Deadline::after(Duration::from_secs(10));
                while let Err(error) = drbd.promote(&name, Promote::IfSafe) {
                    if !deadline.pause(Duration::from_millis(20)) {
                        return Err(error.into());
                    }
                }
                did("promoted");
                Ok(())
            })?;
            FloatingAddr::announce_all(&host, &theirs)?;
        }
        "give-back" => {
            portals(side.other())?.iter().try_for_each(|address| address.release(&host).map(drop))?;
        }
        "standby" => {
            lio.standby_with(&pair, side, soon(), || -> Result<()> {
                did("held");
                drbd.demote(&name)?;
                did("demoted");
                let deadline = Deadline::after(Duration::from_secs(10));
                let served = || -> Result<bool> {
                    let state = drbd.get(&name)?.context("the resource is gone")?;
                    Ok(state.connections.iter().any(|peer| peer.peer_role == Role::Primary))
                };
                while !served()? {
                    if !deadline.pause(Duration::from_millis(5)) {
                        bail!("the other node did not take over");
                    }
                }
                did("seen");
                Ok(())
            })?;
        }
        "state" => println!("{:?}", lio.ha_state(&pair, side)?),
        other => bail!("there is no verb {other}"),
    }
    did("done");
    Ok(())
}
