//! A plan on trial: what is not confirmed in time is taken back, whatever happens to the process that applied it.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! // First thing in main: this program is its own guard.
//! netcfg::confirm::guard();
//! let net = netcfg::Netcfg::new()?;
//! # let spec = netcfg::NetSpec::default();
//! net.apply_on_trial(net.plan(&spec)?, Duration::from_secs(60))?;
//! // Still connected? Then, from here or from any other process:
//! assert!(net.confirm()?);
//! # Ok(())
//! # }
//! ```

use std::time::{Duration, SystemTime};

use host::{Deadline, Host, Plan};
use serde::{Deserialize, Serialize};

use crate::Netcfg;
use crate::apply::Executor;
use crate::error::{Error, Result};
use crate::plan::Step;

/// Says to a process of this program that it is the guard: the journal's number and the seconds.
const VARIABLE: &str = "SANKIT_NETCFG_GUARD";
/// How often the guard looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(100);
/// How long the guard waits for a process that is still applying.
const PATIENCE: Duration = Duration::from_secs(120);
const START: Duration = Duration::from_secs(10);

/// The way back, in a file of the run directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Journal {
    id: String,
    /// Seconds since 1970.
    until: u64,
    /// The undo of each step, in the plan's order.
    undo: Vec<Vec<Step>>,
}

/// A plan on trial.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trial {
    /// How long there is still time to confirm it.
    pub left: Duration,
    /// How many steps the plan has.
    pub steps: usize,
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Where the journal is, and how far the plan has come.
fn paths(host: &Host) -> (String, String) {
    let dir = host.run_dir().map_or_else(|| "/run/sankit".to_owned(), |dir| dir.display().to_string());
    (format!("{dir}/netcfg-trial.json"), format!("{dir}/netcfg-trial.done"))
}

fn journal(host: &Host) -> Result<Option<Journal>> {
    let (path, _) = paths(host);
    let Some(text) = host.tree().read_opt(&path).map_err(Error::File)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| Error::Invalid {
        object: path,
        reason: format!("it is no journal of a trial ({error}); remove it and look the network over"),
    })
}

fn forget(host: &Host) -> Result<()> {
    let (path, done) = paths(host);
    // The journal first: without it the other means nothing.
    host.tree().unlink(path).map_err(Error::File)?;
    host.tree().unlink(done).map(drop).map_err(Error::File)
}

impl Netcfg {
    /// Carries out a plan that is taken back after `time` unless [`confirm`](Self::confirm) is called before: by this process, or by the next
    /// one that still gets through. A guard, this program started once more by way of [`guard`], sees to it even if this process is killed.
    /// One trial at a time. The way back is in `/run/sankit/netcfg-trial.json`; a reboot brings back what is configured for the boot.
    ///
    /// On a machine in memory there is no guard: [`roll_back`](Self::roll_back) does what it would do.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); a trial is under way; the program does not call [`guard`], and then nothing is changed.
    pub fn apply_on_trial(&self, plan: Plan<Step>, time: Duration) -> Result<()> {
        let _lock = self.lock()?;
        let host = self.host();
        if let Some(trial) = self.trial()? {
            let reason = format!(
                "a trial is under way, with {} s to confirm it; confirm it or roll it back first",
                trial.left.as_secs()
            );
            return Err(Error::Invalid { object: "the network".to_owned(), reason });
        }
        let (path, done) = paths(host);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let journal = Journal {
            id: format!("{}-{}", std::process::id(), since.as_nanos()),
            until: seconds_now() + time.as_secs(),
            undo: plan.steps().iter().map(host::plan::Step::undo).collect(),
        };
        let text = serde_json::to_string(&journal).map_err(|error| Error::Invalid {
            object: path.clone(),
            reason: format!("the way back cannot be written down ({error}); nothing was changed"),
        })?;
        // What can fail before the first step fails before there is anything to take back.
        self.load_modules(&plan)?;
        let mut executor = Executor::new(host)?;
        let (dir, _) = path.rsplit_once('/').unwrap_or(("/", ""));
        host.tree().ensure_dir(dir).map_err(Error::File)?;
        host.tree().unlink(&done).map_err(Error::File)?;
        host.tree().replace(&path, text, 0o600).map_err(Error::File)?;
        if host.run_dir().is_some()
            && let Err(source) = start_guard(&journal.id, dir, time)
        {
            forget(host)?;
            return Err(Error::Guard { source });
        }
        let mut count = 0_usize;
        let applied = host::plan::apply(host, "netcfg", plan, |step| {
            executor.run(step)?;
            count += 1;
            // Before the next step: who takes over knows what was done, but for at most one step.
            host.tree().replace(&done, count.to_string(), 0o600).map_err(Error::File)
        });
        match applied {
            Ok(_) => Ok(()),
            Err(failed) => {
                // What was done is undone already, unless the process was stopped on purpose.
                if !matches!(failed.undone, host::plan::Undone::Stopped) {
                    forget(host)?;
                }
                Err(failed.into())
            }
        }
    }

    /// The trial that is under way, whichever process began it.
    ///
    /// # Errors
    /// Its journal cannot be read.
    pub fn trial(&self) -> Result<Option<Trial>> {
        let left = |until: u64| Duration::from_secs(until.saturating_sub(seconds_now()));
        Ok(journal(self.host())?.map(|j| Trial { left: left(j.until), steps: j.undo.len() }))
    }

    /// Keeps what is on trial; `false` if there is nothing, or it has been taken back already.
    ///
    /// # Errors
    /// The journal cannot be removed: then it will still be taken back.
    pub fn confirm(&self) -> Result<bool> {
        let _lock = self.lock()?;
        let there = journal(self.host())?.is_some();
        forget(self.host()).map(|()| there)
    }

    /// Takes back what is on trial, at once; `false` if there is nothing.
    ///
    /// # Errors
    /// [`Error::NotTaken`] names the steps back that failed; the others were done.
    pub fn roll_back(&self) -> Result<bool> {
        let _lock = self.lock()?;
        match journal(self.host())? {
            Some(journal) => self.take_back(&journal).map(|()| true),
            None => Ok(false),
        }
    }

    fn take_back(&self, journal: &Journal) -> Result<()> {
        let host = self.host();
        let (_, done) = paths(host);
        let done = host.tree().read_opt(done).map_err(Error::File)?.and_then(|text| text.trim().parse().ok());
        let done: usize = done.unwrap_or(0);
        let mut executor = Executor::new(host)?;
        let mut left = Vec::new();
        // One more than is known to be done may be: its step back may have nothing to do.
        for (number, steps) in journal.undo.iter().enumerate().take(done + 1).rev() {
            for step in steps {
                match executor.run(step) {
                    Err(error) if number < done => left.push(format!("{step} ({error})")),
                    Err(error) => log::debug!("netcfg: {step}: not done before, so not undone: {error}"),
                    Ok(()) => log::debug!("netcfg: taken back: {step}"),
                }
            }
        }
        forget(host)?;
        if left.is_empty() { Ok(()) } else { Err(Error::NotTaken { steps: left.join("; ") }) }
    }

    fn lock(&self) -> Result<host::Lock> {
        self.host().lock("netcfg", Deadline::after(self.timeout)).map_err(Error::Locked)
    }
}

fn ready(id: &str) -> String {
    format!("guarding {id}")
}

fn start_guard(id: &str, dir: &str, time: Duration) -> std::result::Result<(), host::exec::Error> {
    let value = format!("{id} {} {dir}", time.as_millis());
    host::exec::again(VARIABLE, &value, &ready(id), Deadline::after(START))
}

/// Makes this process the guard of a trial if it was started as one, and then does not return; else does nothing. Call it first thing in
/// `main`, before threads are started and arguments are read.
#[allow(clippy::exit, clippy::print_stdout)] // The guard is a program of its own.
pub fn guard() {
    let Ok(value) = std::env::var(VARIABLE) else { return };
    let mut words = value.splitn(3, ' ');
    let (Some(id), Some(Ok(millis)), Some(dir)) = (words.next(), words.next().map(str::parse), words.next())
    else {
        std::process::exit(2)
    };
    println!("{}", ready(id));
    let host = Host::live().with_run_dir(dir);
    std::process::exit(i32::from(keep_watch(&host, id, Duration::from_millis(millis)).is_err()))
}

/// Waits until the trial is over one way or the other.
fn keep_watch(host: &Host, id: &str, time: Duration) -> Result<()> {
    let deadline = Deadline::after(time);
    let mine = || -> Result<Option<Journal>> { Ok(journal(host)?.filter(|journal| journal.id == id)) };
    while mine()?.is_some() {
        if !deadline.pause(LOOK) {
            let net = Netcfg::on(host)?.with_timeout(PATIENCE);
            let _lock = net.lock()?;
            // Confirmed while we waited for the lock, perhaps.
            return mine()?.map_or(Ok(()), |journal| net.take_back(&journal));
        }
    }
    Ok(())
}
