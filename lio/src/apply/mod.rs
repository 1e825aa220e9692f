//! Carrying out steps, and saying what a refusal means.

mod explain;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use host::tree::Tree;

use crate::error::{ErrorKind, Result};
use crate::plan::Step;
use explain::explain;

/// How many lanes are worked on at once. The grace periods of more than 16 hardly overlap better, and threads cost too.
const THREADS: usize = 16;

/// Carries out one step. What an undo finds already gone is accepted.
pub(crate) fn run(tree: &Tree, step: &Step) -> Result<()> {
    let done = match step {
        Step::MakeDir { path } => tree.make_dir(path),
        Step::RemoveDir { path, .. } => tree.remove_dir(path).map(drop),
        Step::Write { path, value, .. } => tree.write(path, value),
        // Without a line break: the kernel would keep it as part of the password (__DEF_NACL_AUTH_STR).
        Step::WriteSecret { path, secret, .. } => tree.write_secret(path, secret.secret()),
        Step::ClearSecret { path, .. } => tree.write(path, "NULL"),
        Step::Link { link } => tree.link(&link.target, &link.path),
        Step::Unlink { link, .. } => tree.unlink(&link.path).map(drop),
        Step::Together { lanes } => return together(tree, lanes),
    };
    done.map_err(|error| explain(tree, step, error))
}

/// Works on several lanes at a time; if a step fails, takes back what was done in all of them: as a whole or not at all.
fn together(tree: &Tree, lanes: &[Vec<Step>]) -> Result<()> {
    // What an initiator sees of a LUN is a list entry and costs no grace period (core_enable_device_list_for_node): threads would only
    // get in each other's way.
    let cheap = lanes.iter().flatten().all(|step| step.path().contains("/acls/"));
    let threads = if cheap { 1 } else { THREADS };
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut outcomes = Vec::new();
        while let Some(lane) = lanes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut done = 0;
            let mut outcome = Ok(());
            for step in lane {
                // Nobody begins anything once it is known that all of it must be taken back.
                if failed.load(Ordering::Relaxed) {
                    break;
                }
                outcome = run(tree, step);
                if outcome.is_err() {
                    failed.store(true, Ordering::Relaxed);
                    break;
                }
                done += 1;
            }
            outcomes.push((lane, done, outcome));
        }
        outcomes
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..lanes.len().min(threads)).map(|_| scope.spawn(work)).collect();
        let mut outcomes = work();
        for worker in workers {
            match worker.join() {
                Ok(more) => outcomes.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcomes
    });
    if !failed.load(Ordering::Relaxed) {
        return Ok(());
    }
    let (mut cause, mut back) = (Ok(()), Vec::new());
    for (lane, done, outcome) in outcomes {
        back.extend(lane.iter().take(done).rev().flat_map(host::plan::Step::undo));
        cause = cause.and(outcome);
    }
    let stopped = cause.as_ref().is_err_and(|error| error.kind() == ErrorKind::Stopped);
    for step in back.iter().filter(|_| !stopped) {
        if let Err(stuck) = run(tree, step) {
            log::debug!("cannot take back with {step}: {stuck}");
        }
    }
    cause
}
