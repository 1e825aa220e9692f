//! The conformance suite on a real kernel, in a guest of the lab.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::panic,
    clippy::disallowed_types
)]

mod conformance;
mod peer;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use conformance::{Bench, Outcome, chain, iqn, ramdisk};
use libtest_mimic::{Arguments, Failed, Trial};
use lio::{AclSpec, Host, Lio, Secret, TargetSpec};

fn take_port(_: &Bench, port: u16) -> Option<TcpListener> {
    Some(TcpListener::bind(("127.0.0.1", port)).expect("a free port"))
}

fn bench() -> Bench {
    let found = |serial: &str| {
        let path = PathBuf::from(format!("/dev/disk/by-id/virtio-{serial}"));
        path.exists().then_some(path)
    };
    let disks: Vec<_> = ["t0", "t1", "t2", "t3"].iter().filter_map(|serial| found(serial)).collect();
    let disks = if disks.len() >= 2 { disks } else { vec!["/dev/vda".into(), "/dev/vdb".into()] };
    let has_module = |bench: &Bench, name: &str| {
        let loaded = format!("/sys/module/{name}");
        std::process::Command::new("/sbin/modprobe").arg(name).output().ok();
        bench.host.tree().exists(loaded).unwrap_or(false)
    };
    Bench {
        host: Host::live(),
        disks,
        points: 10,
        take_port,
        has_module,
        log_in: |_, _, _| false,
        run_dir: tempfile::tempdir().expect("a directory"),
        scsi: None,
        real: true,
    }
}

/// One LUN, two portals, one ACL: what a takeover makes.
fn unit(luns: u8) -> TargetSpec {
    let acl = AclSpec::new(iqn("host1")).with_chap("user".parse().unwrap(), Secret::from("a long secret"));
    let spec = TargetSpec::new(iqn("timed"))
        .with_portal("127.0.0.1:13310".parse().unwrap())
        .with_portal("127.0.0.2:13310".parse().unwrap())
        .with_acl(acl)
        .with_parameter("DefaultTime2Wait", 0);
    (0..luns).fold(spec, |spec, lun| spec.with_lun(lun, ramdisk(&format!("timed{lun}"))))
}

fn main() {
    let arguments = Arguments::from_args();
    let command_line = Host::live().tree().read("/proc/cmdline").unwrap_or_default();
    let in_lab = command_line.contains("lab.mode=");
    let mut trials = Vec::new();
    let mut add = |name: &str,
                   run: Box<dyn Fn(&Bench) -> Outcome + Send + Sync>,
                   ready: Result<(), &'static str>| {
        let reason = match (in_lab, ready) {
            (false, _) => Some("needs a lab guest: run `lab test lio`"),
            (true, Err(reason)) => Some(reason),
            (true, Ok(())) => None,
        };
        trials.push(match reason {
            None => Trial::test(name, move || run(&bench()).map_err(|error| Failed::from(chain(&*error)))),
            Some(reason) => {
                Trial::ignorable_test(name, move || Ok(libtest_mimic::Completion::ignored_with(reason)))
            }
        });
    };
    let long = std::env::var_os("SANKIT_LAB_LONG").is_some();
    if in_lab {
        // Once, so that every case finds and leaves the same tree: the fabric and the directories stay.
        let lio = Lio::new().unwrap_or_else(|error| panic!("{}", chain(&error)));
        let disk = lio::BackstoreSpec::block("warm1".parse().unwrap(), &bench().disks[0])
            .with_serial("a1".parse().unwrap());
        let spec = TargetSpec::new(iqn("warm")).with_lun(0, ramdisk("warm")).with_lun(1, disk);
        let warm = lio.ensure(&spec).and_then(|_| lio.remove(&spec.iqn));
        warm.unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
    for (name, case) in conformance::CASES {
        let there = |module: &&str| (bench().has_module)(&bench(), module);
        let missing = in_lab && !conformance::needs(name).iter().all(there);
        let ready = match missing {
            true => Err("this guest has not the modules"),
            false => Ok(()),
        };
        add(name, Box::new(*case), ready);
    }
    let tool = Arc::new(peer::find());
    for (name, case) in peer::CASES {
        let ready = tool.as_ref().as_ref().map(|_| ()).map_err(|reason| *reason);
        let ready =
            if *name == peer::LONG && !long { Err("takes minutes: set SANKIT_LAB_LONG=1") } else { ready };
        add(name, Box::new(*case), ready);
    }
    libtest_mimic::run(&arguments, trials).exit();
}
