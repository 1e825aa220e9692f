//! One verb at a time on a volume group that several hosts share: `shared_vg VG HOST_ID|- VERB [...]`; `shared_vg` alone lists the verbs.
//!
//! `SHARED_VG_IO_TIMEOUT` is sanlock's I/O timeout in seconds, `SHARED_VG_WATCHDOG=none` does without a watchdog.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use multipath::shared::{Activation, LockManager, LvSpec, Overwrite, SharedVg, Watchdog};
use multipath::{Deadline, Host, Multipath};

type Done = Result<(), Box<dyn std::error::Error>>;

const VERBS: &str = "status | preflight [DEVICE] | start | create DEVICE [overwrite] | join | leave | stop | remove | hosts | holders LV | \
    create-lv LV SIZE [ex|sh] | grow-lv LV SIZE | grow-locks SIZE | remove-lv LV | activate LV ex|sh | wait LV ex|sh | deactivate LV";

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let started = Instant::now();
    let outcome = run(&words);
    eprintln!("shared_vg: {:.1} s", started.elapsed().as_secs_f64());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            eprintln!("shared_vg: {text}");
            ExitCode::FAILURE
        }
    }
}

fn manager(id: &str) -> Result<LockManager, Box<dyn std::error::Error>> {
    let mut manager = LockManager::new();
    if id != "-" {
        manager = manager.with_host_id(id.parse()?);
    }
    if let Ok(seconds) = std::env::var("SHARED_VG_IO_TIMEOUT") {
        manager = manager.with_io_timeout(Duration::from_secs(seconds.parse()?))?;
    }
    if std::env::var("SHARED_VG_WATCHDOG").is_ok_and(|word| word == "none") {
        manager = manager.with_watchdog(Watchdog::None);
    }
    Ok(manager)
}

fn activation(word: &str) -> Result<Activation, String> {
    match word {
        "ex" => Ok(Activation::Exclusive),
        "sh" => Ok(Activation::Shared),
        other => Err(format!("{other:?} is neither ex nor sh")),
    }
}

fn run(words: &[&str]) -> Done {
    let [name, id, verb @ ..] = words else {
        return Err(format!("shared_vg VG HOST_ID|- VERB: {VERBS}").into());
    };
    let host = Host::live();
    let vg = SharedVg::on(&host, name.parse()?, manager(id)?);
    let deadline = Deadline::after(Duration::from_secs(600));
    match verb {
        ["status"] => {
            println!("{:#?}\n{:#?}", vg.get(deadline)?, vg.sanlock(deadline)?);
        }
        ["preflight", device @ ..] => {
            let device = device.first().map(Path::new);
            for finding in vg.preflight(&Multipath::on(&host)?, device, deadline)? {
                println!("{:?}: {finding}", finding.level);
            }
            vg.require_fit(&Multipath::on(&host)?, device, deadline)?;
        }
        ["start"] => println!("started {:?}", vg.start(deadline)?),
        ["create", device, overwrite @ ..] => {
            let overwrite = if overwrite.is_empty() { Overwrite::Never } else { Overwrite::Always };
            println!("{:#?}", vg.create(Path::new(device), overwrite, deadline)?);
        }
        ["join"] => println!("joined: {}", vg.join(deadline)?),
        ["leave"] => println!("left: {}", vg.leave(deadline)?),
        ["stop"] => println!("stopped {:?}", vg.stop(deadline)?),
        ["remove"] => println!("removed: {}", vg.remove(deadline)?),
        ["hosts"] => {
            for host in vg.hosts(deadline)? {
                println!("{} {} {}", host.id, host.liveness, host.name.unwrap_or_default());
            }
        }
        ["holders", lv] => {
            for holder in vg.holders(&lv.parse()?, deadline)? {
                println!("{holder}");
            }
        }
        ["create-lv", lv, size, how @ ..] => {
            let mut spec = LvSpec::new(lv.parse()?, size.parse()?);
            if let Some(how) = how.first() {
                spec = spec.with_activation(activation(how)?);
            }
            println!("{:#?}", vg.create_lv(&spec, deadline)?);
        }
        ["grow-lv", lv, size] => println!("grown: {}", vg.grow_lv(&lv.parse()?, size.parse()?, deadline)?),
        ["grow-locks", size] => println!("grown: {}", vg.grow_locks(size.parse()?, deadline)?),
        ["remove-lv", lv] => println!("removed: {}", vg.remove_lv(&lv.parse()?, deadline)?),
        ["activate", lv, how] => {
            println!("changed: {}", vg.activate(&lv.parse()?, activation(how)?, deadline)?)
        }
        ["wait", lv, how] => {
            println!("changed: {}", vg.activate_when_free(&lv.parse()?, activation(how)?, deadline)?);
        }
        ["deactivate", lv] => println!("changed: {}", vg.deactivate(&lv.parse()?, deadline)?),
        other => return Err(format!("{other:?} is none of {VERBS}").into()),
    }
    Ok(())
}
