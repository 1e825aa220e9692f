//! The conformance suite on a real kernel, in a guest of the lab.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::panic,
    clippy::disallowed_types
)]

mod capture;
mod conformance;

use std::process::Command;

use conformance::{Bench, Outcome, chain};
use host::fake::Memory;
use irqaff::{Host, Irqaff};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

fn tool(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

/// A question that nobody answers: eth1 hears it, being on the same segment.
fn traffic(bench: &Bench) {
    for port in ["eth0", "eth1"] {
        tool("ip", &["link", "set", port, "up"]);
    }
    let address = ["addr", "add", "10.9.9.1/24", "dev", "eth0"];
    let added = Command::new("ip").args(address).output().expect("ip runs");
    // "RTNETLINK answers: File exists", or with the newer kernel "ipv4: Address already assigned.".
    let said = String::from_utf8_lossy(&added.stderr);
    let there = said.contains("exists") || said.contains("already assigned");
    assert!(added.status.success() || there, "{said}");
    let received = || bench.host.tree().read("/sys/class/net/eth1/statistics/rx_packets").expect("a counter");
    let before: u64 = received().trim().parse().expect("a number");
    // It fails by design: nobody has this address.
    Command::new("ping").args(["-c", "3", "-W", "1", "10.9.9.2"]).output().expect("ping runs");
    let after: u64 = received().trim().parse().expect("a number");
    assert!(after >= before + 2, "eth1 received {before} and then {after} packets");
}

fn bond(bench: &Bench) {
    let tree = bench.host.tree();
    tool("modprobe", &["bonding", "max_bonds=0"]);
    if !tree.exists("/sys/class/net/bond9").expect("sysfs") {
        tree.write("/sys/class/net/bonding_masters", "+bond9").expect("a bond");
        tool("ip", &["link", "set", "eth1", "down"]);
        tree.write("/sys/class/net/bond9/bonding/slaves", "+eth1").expect("a slave");
    }
}

/// A queue of a virtio disk: its driver manages the interrupt.
fn managed(host: &Host) -> Option<(u32, String)> {
    let tree = host.tree();
    let irqs = tree.dirs("/sys/kernel/irq").ok()?;
    irqs.iter().find_map(|irq| {
        let action = tree.read_opt(format!("/sys/kernel/irq/{irq}/actions")).ok()??.trim().to_owned();
        action.ends_with("-req.0").then_some((irq.parse().ok()?, action))
    })
}

/// What this crate reads can be written down and read again; how the fixtures were made.
fn captured(bench: &Bench) -> Outcome {
    let memory = Memory::new();
    let text = capture::take(bench.host.tree());
    capture::load(&memory, &text);
    let there = Irqaff::on(&Host::fake().with_tree(memory.tree()))?.list()?;
    assert_eq!(there, bench.irqaff().list()?);
    if std::env::var_os("SANKIT_LAB_CAPTURE").is_some() {
        eprintln!("{text}");
    }
    Ok(())
}

fn main() {
    let arguments = Arguments::from_args();
    let host = Host::live();
    let command_line = host.tree().read("/proc/cmdline").unwrap_or_default();
    let two = host.tree().exists("/sys/devices/system/cpu/cpu1").unwrap_or(false);
    let reason = match command_line.contains("lab.mode=") {
        false => Some("needs a lab guest: run `lab test irqaff`"),
        true if !two => Some("needs two processors"),
        true => None,
    };
    let cases = conformance::CASES
        .iter()
        .copied()
        .chain([("what_is_read_can_be_captured", captured as conformance::Case)]);
    let mut cases: Vec<_> = cases.collect();
    // The bond changes the cards for good.
    cases.sort_by_key(|(title, _)| title.contains("bond"));
    let trials = cases.into_iter().map(|(title, case)| match reason {
        Some(reason) => Trial::ignorable_test(title, move || Ok(Completion::ignored_with(reason))),
        None => Trial::test(title, move || {
            let host = Host::live();
            let managed = managed(&host).ok_or_else(|| Failed::from("no virtio disk"))?;
            case(&Bench { host, traffic, bond, managed }).map_err(|error| Failed::from(chain(&*error)))
        }),
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
