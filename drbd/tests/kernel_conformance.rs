//! The conformance suite on a real kernel, in a guest of the lab. Elsewhere each test reports itself as ignored.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::print_stdout, clippy::disallowed_types)]

mod conformance;
mod kernel;

use conformance::{Bench, Outcome};
use libtest_mimic::{Arguments, Completion, Trial};

fn run(name: &str, case: fn(&Bench) -> Outcome) -> Result<Completion, libtest_mimic::Failed> {
    let cmdline = host::Tree::live().read("/proc/cmdline").unwrap_or_default();
    if !cmdline.contains("lab.mode=") {
        return Ok(Completion::ignored_with("needs a lab guest: run `lab test drbd`"));
    }
    let bench = Bench::kernel();
    if let Some(reason) = kernel::skip(name, &bench) {
        return Ok(Completion::ignored_with(reason));
    }
    let outcome = case(&bench).and_then(|()| bench.clean());
    outcome.map(|()| Completion::Completed).map_err(|failure| failure.to_string().into())
}

fn main() {
    if std::env::args().next().is_some_and(|name| name == kernel::HELPER) {
        return kernel::as_helper();
    }
    let mut arguments = Arguments::from_args();
    // One kernel, one set of disks.
    arguments.test_threads = Some(1);
    let cases = conformance::all().into_iter().chain(kernel::ALL.iter().copied());
    let trials = cases.map(|(name, case)| Trial::ignorable_test(name, move || run(name, case))).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
