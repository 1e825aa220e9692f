//! The daemons: wdmd (feeds the watchdog), sanlock (keeps the leases), lvmlockd (asks sanlock for LVM). Started in this order, stopped in the
//! other; none is started that runs. No service manager is needed, and where there is one, its own units may start them before us.

use std::time::Duration;

use host::exec::{self, Program};
use host::{Deadline, Tree};

use super::error::{Error, Result};
use super::run::Tools;
use super::spec::{LockManager, Watchdog};

/// A daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Daemon {
    /// Feeds the watchdog device as long as its clients are well.
    Wdmd,
    /// Keeps the leases on the disk.
    Sanlock,
    /// Asks the lock manager for LVM's commands.
    Lvmlockd,
}

impl std::fmt::Display for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.program().name)
    }
}

impl Daemon {
    fn program(self) -> Program {
        match self {
            Self::Wdmd => Program::WDMD,
            Self::Sanlock => Program::SANLOCK,
            Self::Lvmlockd => Program::LVMLOCKD,
        }
    }
}

/// The command lines of the running daemons; `None`: it does not run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Running {
    pub(super) wdmd: Option<Vec<String>>,
    pub(super) sanlock: Option<Vec<String>>,
    pub(super) lvmlockd: Option<Vec<String>>,
}

/// Which daemons run, by `/proc/PID/comm`. sanlock has a helper of the same name; either will do.
pub(super) fn running(tree: &Tree) -> Result<Running> {
    let mut found = Running::default();
    for pid in tree
        .dirs("/proc")
        .map_err(Error::Tree)?
        .into_iter()
        .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
    {
        // A process may end while it is looked at.
        let Some(name) = tree.read_opt(format!("/proc/{pid}/comm")).ok().flatten() else { continue };
        let slot = match name.trim() {
            "wdmd" => &mut found.wdmd,
            "sanlock" => &mut found.sanlock,
            "lvmlockd" => &mut found.lvmlockd,
            _ => continue,
        };
        let line = tree.read_opt(format!("/proc/{pid}/cmdline")).ok().flatten().unwrap_or_default();
        let words: Vec<_> = line.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        // `sanlock client ...` is no daemon.
        if name.trim() == "sanlock" && words.get(1).is_some_and(|word| word != "daemon") {
            continue;
        }
        *slot = Some(words);
    }
    Ok(found)
}

impl Tools {
    /// Starts what does not run. Says what it started; what it started is stopped again if a later one does not come up.
    pub(super) fn start(&self, manager: &LockManager, deadline: Deadline) -> Result<Vec<Daemon>> {
        let tree = self.host.tree();
        let now = running(tree)?;
        // The packages make them at boot by tmpfiles.d, which only systemd reads.
        for dir in ["/run/lvm", "/run/sanlock", "/run/lock", "/run/lock/lvm"] {
            tree.ensure_dir(dir).map_err(Error::Tree)?;
        }
        let mut started = Vec::new();
        let mut wanted = Vec::new();
        if now.wdmd.is_none() && manager.watchdog == Watchdog::Required {
            wanted.push(Daemon::Wdmd);
        }
        if now.sanlock.is_none() {
            wanted.push(Daemon::Sanlock);
        }
        if now.lvmlockd.is_none() {
            wanted.push(Daemon::Lvmlockd);
        }
        for daemon in wanted {
            log::debug!("multipath: start {daemon}");
            let outcome = self.start_one(daemon, manager, deadline);
            started.push(daemon);
            if let Err(error) = outcome {
                return Err(self.undone(error, &started));
            }
        }
        Ok(started)
    }

    fn start_one(&self, daemon: Daemon, manager: &LockManager, deadline: Deadline) -> Result<()> {
        let seconds = manager.io_timeout.as_secs().to_string();
        let watchdog = if manager.watchdog == Watchdog::Required { "1" } else { "0" };
        let host_id = manager.host_id.map(|id| id.to_string());
        let mut args: Vec<&str> = match daemon {
            Daemon::Wdmd => vec![],
            Daemon::Sanlock => vec!["daemon", "-w", watchdog],
            Daemon::Lvmlockd => vec!["--gl-type", "sanlock", "--sanlock-timeout", &seconds],
        };
        if let (Daemon::Lvmlockd, Some(id)) = (daemon, &host_id) {
            args.extend(["--host-id", id]);
        }
        // All three leave their parent once they know their arguments.
        self.host
            .exec()
            .run_ok(daemon.program(), &args, deadline.or_after(Duration::from_secs(30)))
            .map_err(Error::Exec)?;
        self.until(&format!("the start of {daemon}"), deadline.or_after(Duration::from_secs(30)), || {
            self.answers(daemon)
        })
    }

    /// Whether a daemon does its work: it answers, or, as wdmd has no question to be asked, has its socket.
    fn answers(&self, daemon: Daemon) -> Result<Option<()>> {
        let soon = Deadline::after(Duration::from_secs(10));
        let answers = match daemon {
            Daemon::Wdmd => self.host.tree().exists("/run/wdmd/wdmd.sock").map_err(Error::Tree)?,
            Daemon::Sanlock => self.sanlock(soon)?.is_some(),
            Daemon::Lvmlockd => self.lockspaces(soon)?.is_some(),
        };
        Ok(answers.then_some(()))
    }

    /// Waits for what no daemon tells of: their sockets answer or not, and there is nothing to subscribe to.
    pub(super) fn until<T>(
        &self,
        what: &str,
        deadline: Deadline,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if !deadline.pause(Duration::from_millis(100)) {
                let seen = "it is not there yet; its messages are in the system's log".to_owned();
                return Err(Error::TimedOut { what: what.to_owned(), seen });
            }
        }
    }

    /// Stops these daemons, the last one first. Says which of them ran. A daemon that keeps a lock refuses.
    pub(super) fn stop(&self, daemons: &[Daemon], deadline: Deadline) -> Result<Vec<Daemon>> {
        let now = running(self.host.tree())?;
        let mut stopped = Vec::new();
        for daemon in daemons.iter().rev() {
            let runs = match daemon {
                Daemon::Wdmd => now.wdmd.is_some(),
                Daemon::Sanlock => now.sanlock.is_some(),
                Daemon::Lvmlockd => now.lvmlockd.is_some(),
            };
            if !runs {
                continue;
            }
            log::debug!("multipath: stop {daemon}");
            let command: (Program, &[&str]) = match daemon {
                // It ends by itself: it has no command, and a signal is not ours to send to what others may have started.
                Daemon::Wdmd => continue,
                // Without force: it refuses while it is in a lockspace.
                Daemon::Sanlock => (Program::SANLOCK, &["client", "shutdown", "-f", "0", "-w", "1"]),
                Daemon::Lvmlockd => (Program::LVMLOCKCTL, &["--quit"]),
            };
            match self.host.exec().run_ok(command.0, command.1, deadline) {
                // sanlock's client ends with 1 when its server went away under it.
                Ok(_) | Err(exec::Error::Failed { .. }) => {}
                Err(error) => return Err(Error::Exec(error)),
            }
            self.until(&format!("the end of {daemon}"), deadline.or_after(Duration::from_secs(30)), || {
                let now = running(self.host.tree())?;
                let runs = if *daemon == Daemon::Sanlock { now.sanlock } else { now.lvmlockd };
                Ok(runs.is_none().then_some(()))
            })?;
            stopped.push(*daemon);
        }
        Ok(stopped)
    }

    /// Stops what a failed step had started, and makes the error tell if that failed, too.
    pub(super) fn undone(&self, failed: Error, started: &[Daemon]) -> Error {
        match self.stop(started, Deadline::after(Duration::from_secs(60))) {
            Ok(_) => failed,
            Err(error) => {
                let names: Vec<_> = started.iter().map(ToString::to_string).collect();
                Error::NotUndone {
                    failed: Box::new(failed),
                    left: format!("{} still runs ({error})", names.join(", ")),
                }
            }
        }
    }
}
