//! One verb at a time, on the resources of `/etc/drbd.conf`, as drbdadm has it: `ctl VERB RESOURCE|all [...]`; `ctl` alone lists the verbs.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::process::ExitCode;
use std::time::Duration;

use drbd::conf::Conf;
use drbd::{
    ConnState, Deadline, Dialect, Drbd, Host, Metadata, MetadataSpec, Overwrite, Promote, ReplState, Resize,
    ResourceSpec, ResourceState, Role, Sectors, Side, Verify, Volume, nine,
};

type Done = Result<(), Box<dyn std::error::Error>>;

const VERBS: &str = "status NAME | plan NAME | up NAME | down NAME | create-md NAME | primary NAME [force] | secondary NAME | \
    connect NAME | disconnect NAME | wait-connected NAME | wait-synced NAME | pause-sync NAME | resume-sync NAME | verify NAME | \
    resize NAME [BYTES] | plan-recover NAME victim|survivor | recover NAME victim|survivor; NAME may be all";
const PATIENCE: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            eprintln!("ctl: {text}");
            ExitCode::FAILURE
        }
    }
}

/// All resources as the configuration has them for this node.
fn specs(host: &Host) -> Result<Vec<ResourceSpec>, Box<dyn std::error::Error>> {
    let node = host.tree().read("/proc/sys/kernel/hostname")?;
    Ok(Conf::load(host, Conf::PATH)?.specs(node.trim())?)
}

/// One of them.
fn spec(host: &Host, name: &str) -> Result<ResourceSpec, Box<dyn std::error::Error>> {
    let node = host.tree().read("/proc/sys/kernel/hostname")?;
    Ok(Conf::load(host, Conf::PATH)?.spec(&name.parse()?, node.trim())?)
}

/// Volumes as `/proc/drbd` shows them: `0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate oos:0`, the last in KiB.
fn shown(state: &ResourceState) -> Vec<String> {
    let connection = state.connections.first();
    let lines = state.volumes.iter().map(|volume| {
        let peer = connection.and_then(|c| c.volumes.iter().find(|peer| peer.volume == volume.volume));
        let cs = match (connection.map(|c| c.state), peer.map(|peer| peer.repl)) {
            (None, _) => "StandAlone".to_owned(),
            (Some(ConnState::Connecting), _) => "WFConnection".to_owned(),
            (Some(ConnState::Connected), Some(ReplState::Established)) => "Connected".to_owned(),
            (Some(ConnState::Connected), Some(ReplState::Off) | None) => "WFReportParams".to_owned(),
            (Some(ConnState::Connected), Some(repl)) => repl.to_string(),
            (Some(state), _) => state.to_string(),
        };
        let peer_role = connection.map_or(Role::Unknown, |c| c.peer_role);
        let peer_disk = peer.map_or("DUnknown".to_owned(), |peer| peer.peer_disk.to_string());
        // The kernel tells what differs by connection, and a StandAlone one is not told of.
        let differ = peer.map(|peer| format!(" oos:{}", peer.out_of_sync.0 / 2)).unwrap_or_default();
        let minor = volume.minor;
        format!("{minor}: cs:{cs} ro:{}/{peer_role} ds:{}/{peer_disk}{differ}", state.role, volume.disk)
    });
    lines.collect()
}

fn run(words: &[&str]) -> Done {
    let [verb, name, rest @ ..] = words else {
        println!("{VERBS}");
        return Ok(());
    };
    let host = Host::live();
    let drbd = Drbd::on(&host)?.with_timeout(PATIENCE);
    match (*verb, *name) {
        // What is made and read for all of them at once.
        ("status", "all") => {
            drbd.list()?.iter().flat_map(shown).for_each(|line| println!("{line}"));
            Ok(())
        }
        ("plan", "all") => {
            let plan = drbd.plan_all(&specs(&host)?)?;
            print!("{plan}");
            println!("{} steps", plan.len());
            Ok(())
        }
        ("up", "all") => {
            changed(drbd.ensure_all(&specs(&host)?)?);
            Ok(())
        }
        (_, "all") => {
            specs(&host)?.iter().try_for_each(|spec| one(&host, &drbd, verb, spec.name.as_str(), rest))
        }
        _ => one(&host, &drbd, verb, name, rest),
    }
}

/// The verbs that are others on DRBD 9; `None` for those that are the same.
fn one_of_9(
    host: &Host,
    drbd: &Drbd,
    verb: &str,
    name: &str,
    rest: &[&str],
) -> Result<Option<()>, Box<dyn std::error::Error>> {
    let node = host.tree().read("/proc/sys/kernel/hostname")?;
    let spec = || -> Result<nine::ResourceSpec, Box<dyn std::error::Error>> {
        Ok(Conf::load(host, Conf::PATH)?.spec_9(&name.parse()?, node.trim())?)
    };
    let force = if rest == ["force"] { nine::Force::Yes } else { nine::Force::No };
    match verb {
        "plan" => {
            let plan = drbd.plan_9(&spec()?)?;
            print!("{plan}");
            println!("{} steps", plan.len());
        }
        "up" => changed(drbd.ensure_9(&spec()?)?),
        "create-md" => {
            let spec = spec()?;
            let peers = u8::try_from(spec.peers.len())?;
            for volume in &spec.volumes {
                let metadata = MetadataSpec::v09(peers);
                println!("{:?}", Metadata::create_as(host, volume, &metadata, Overwrite::Never)?);
            }
        }
        "connect" | "disconnect" | "pause-sync" | "resume-sync" | "verify" => {
            for peer in spec()?.peers {
                let peer = nine::Peer::new(name.parse()?, peer.node);
                let command = match verb {
                    "connect" => nine::Command::Connect(peer, nine::Connecting::Usual),
                    "disconnect" => nine::Command::Disconnect(peer, force),
                    "pause-sync" => nine::Command::PauseSync(peer, Volume(0)),
                    "resume-sync" => nine::Command::ResumeSync(peer, Volume(0)),
                    _ => nine::Command::Verify(peer, Volume(0), Some(Sectors(0)), None),
                };
                changed(drbd.run_9(&command)?);
            }
        }
        "plan-recover" | "recover" => {
            let side = if rest == ["victim"] { Side::Victim } else { Side::Survivor };
            for peer in spec()?.peers {
                print!("{}", drbd.plan_recovery_9(&name.parse()?, peer.node, side)?);
                if verb == "recover" {
                    let deadline = Deadline::after(PATIENCE);
                    drbd.recover_9(&name.parse()?, peer.node, side, deadline, |seen| println!("{seen:?}"))?;
                }
            }
        }
        _ => return Ok(None),
    }
    Ok(Some(()))
}

fn changed(any: bool) {
    println!("{}", if any { "changed" } else { "nothing to do" });
}

fn one(host: &Host, drbd: &Drbd, verb: &str, name: &str, rest: &[&str]) -> Done {
    if drbd.dialect() == Dialect::Drbd9 && one_of_9(host, drbd, verb, name, rest)?.is_some() {
        return Ok(());
    }
    let (resource, deadline) = (name.parse()?, Deadline::after(PATIENCE));
    let side = || match rest {
        ["victim"] => Ok(Side::Victim),
        ["survivor"] => Ok(Side::Survivor),
        _ => Err("victim or survivor?"),
    };
    match verb {
        "status" => match drbd.get(&resource)? {
            None => println!("not there"),
            Some(state) => shown(&state).iter().for_each(|line| println!("{line}")),
        },
        "plan" => {
            let plan = drbd.plan(&spec(host, name)?)?;
            print!("{plan}");
            println!("{} steps", plan.len());
        }
        "up" => changed(drbd.ensure(&spec(host, name)?)?),
        "down" => changed(drbd.remove(&resource)?),
        "create-md" => {
            for volume in &spec(host, name)?.volumes {
                println!("{:?}", Metadata::create(host, volume, Overwrite::Never)?);
            }
        }
        "primary" => {
            drbd.promote(&resource, if rest == ["force"] { Promote::Force } else { Promote::IfSafe })?
        }
        "secondary" => drbd.demote(&resource)?,
        "connect" => changed(drbd.connect(&spec(host, name)?)?),
        "disconnect" => changed(drbd.disconnect(&resource)?),
        "wait-connected" => drbd.wait_connected(&resource, deadline)?,
        "wait-synced" => {
            let mut looks = 0;
            drbd.wait_synced(&resource, deadline, |_| looks += 1)?;
            println!("{looks} looks");
        }
        "pause-sync" => changed(drbd.pause_sync(&resource, Volume(0))?),
        "resume-sync" => changed(drbd.resume_sync(&resource, Volume(0))?),
        "verify" => {
            drbd.verify(&resource, Volume(0), Verify::all())?;
            for (volume, differ) in drbd.wait_verified(&resource, deadline)? {
                println!("volume {volume}: {} KiB differ", differ.0 / 2);
            }
        }
        "resize" => {
            let to = rest.first().map(|bytes| bytes.parse()).transpose()?;
            let to = to.map_or_else(Resize::to_fit, |bytes| Resize::to(drbd::Bytes(bytes)));
            println!("{}", drbd.resize(&resource, Volume(0), to)?.0.saturating_mul(512));
        }
        "plan-recover" => print!("{}", drbd.plan_recovery(&spec(host, name)?, side()?)?),
        "recover" => {
            drbd.recover(&spec(host, name)?, side()?, deadline, |seen| println!("{seen:?}"))?;
        }
        other => return Err(format!("there is no verb {other:?}: {VERBS}").into()),
    }
    Ok(())
}
