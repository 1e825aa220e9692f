//! The conformance suite on real dm-crypt, in a guest of the lab.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)] // It is a test.

mod conformance;
mod guest;
mod kit;

use std::process::ExitCode;

use conformance::{Bench, CASES, Case, IDS, Outcome, key};
use libtest_mimic::{Arguments, Failed, Trial};
use luks::{DmName, Host, Luks, Overwrite, Volume};

fn bench() -> Result<Bench, Failed> {
    let luks = Luks::on(&Host::live())?;
    guest::close_all(&luks)?;
    let devices = [guest::disk("t0")?, guest::disk("t1")?, guest::disk("t2")?];
    for (device, id) in devices.iter().zip(IDS) {
        Volume::at(device).format(&kit::quick2().with_uuid(id.parse()?), &key(), Overwrite::Always)?;
    }
    guest::clear(&devices[2])?;
    let hold = |name: &DmName| -> Box<dyn FnOnce()> {
        let file = std::fs::File::open(name.path()).expect("it is open");
        Box::new(move || {
            drop(file);
            guest::settle();
        })
    };
    Ok(Bench { luks, devices, hold: Box::new(hold) })
}

fn run(case: fn(&Bench) -> Outcome) -> Result<(), Failed> {
    let bench = bench()?;
    case(&bench)?;
    guest::close_all(&bench.luks)
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let ready = guest::ready();
    let trial = |(name, case): &Case| {
        let case = *case;
        Trial::test(*name, move || run(case)).with_ignored_flag(!ready)
    };
    let mut arguments = arguments;
    // They use the same disks.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, CASES.iter().map(trial).collect()).exit_code()
}
