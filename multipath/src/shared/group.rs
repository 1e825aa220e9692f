//! The group: start, create, join, leave, stop, remove.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use host::Deadline;

use super::error::{Error, Result};
use super::spec::Overwrite;
use super::state::{SpacePhase, VgState, host_part};
use super::{Daemon, SharedVg};

/// How long undoing may take.
const UNDO: Duration = Duration::from_secs(120);

impl SharedVg {
    /// Starts the daemons that do not run, in order: wdmd (unless no watchdog is wanted), sanlock, lvmlockd. Says which it started; none of them is
    /// stopped when this value goes. If one does not come up, those started before it are stopped again.
    ///
    /// # Errors
    /// A program is missing, does not start, or does not answer within 30 s.
    pub fn start(&self, deadline: Deadline) -> Result<Vec<Daemon>> {
        self.tools.start(&self.manager, deadline)
    }

    /// Makes the group on a disk: `vgcreate --shared`, without a `pvcreate` before it, which would need the global lock that is only made here.
    /// Starts the daemons and joins the group. sanlock takes its time: about 70 s with its default I/O timeout of 10 s. Only one host may do this.
    ///
    /// What was done is undone if a step fails.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::Occupied`] if the disk holds anything and `overwrite` does not say that it is lost; no number for this host;
    /// what lvm refuses. An LVM physical volume of another group is refused in any case.
    pub fn create(&self, device: &Path, overwrite: Overwrite, deadline: Deadline) -> Result<VgState> {
        if self.get(deadline)?.is_some() {
            return Err(Error::AlreadyExists { object: format!("group {}", self.name) });
        }
        let Some(path) = device.to_str().filter(|path| path.starts_with("/dev/")) else {
            let reason = "a disk is given as its device, /dev/mapper/NAME".to_owned();
            return Err(Error::Invalid { object: device.display().to_string(), reason });
        };
        if overwrite == Overwrite::Never {
            empty(device)?;
        }
        let started = self.start(deadline)?;
        let mut command = vec!["vgcreate", "--shared", "--locktype", "sanlock"];
        if overwrite == Overwrite::Always {
            command.extend(["--yes", "--zero", "y"]);
        }
        command.extend([self.name.as_str(), path]);
        log::debug!("multipath: create group {} on {path}", self.name);
        match self.tools.change(self.name.as_str(), None, &command, deadline) {
            // Another host made it meanwhile: it is not ours to remove.
            Err(error @ Error::AlreadyExists { .. }) => return Err(self.tools.undone(error, &started)),
            Err(error) => return Err(self.uncreate(error, path, &started)),
            Ok(()) => {}
        }
        let outcome = self.joined(deadline).and_then(|()| self.existing(deadline));
        outcome.map_err(|error| self.uncreate(error, path, &started))
    }

    /// Removes what a failed creation left, which has no volumes.
    fn uncreate(&self, failed: Error, device: &str, started: &[Daemon]) -> Error {
        let (name, deadline) = (self.name.as_str(), Deadline::after(UNDO));
        let change = |command: &[&str]| self.tools.change(name, None, command, deadline);
        let undo = || -> Result<()> {
            if let Some(vg) = self.get(deadline)? {
                let ours = vg.lvs.is_empty() && matches!(&vg.pvs[..], [pv] if pv.device == Path::new(device));
                if !ours {
                    let reason = "it has volumes or other disks by now".to_owned();
                    return Err(Error::Invalid { object: format!("group {name}"), reason });
                }
                if vg.started {
                    change(&["vgremove", "--yes", name])?;
                } else {
                    // Its locks were never usable, and nobody else can have started it yet.
                    change(&["vgchange", "--yes", "--locktype", "none", "--lockopt", "force", name])?;
                    change(&["vgremove", "--yes", name])?;
                }
            }
            // lvm removes a group that it could not make by itself, and leaves the label.
            if empty(Path::new(device)).is_err() {
                change(&["pvremove", "--yes", device])?;
            }
            Ok(())
        };
        match undo() {
            Ok(()) => self.tools.undone(failed, started),
            Err(error) => Error::NotUndone {
                failed: Box::new(failed),
                left: format!("group {name} on {device}, to be removed by vgremove ({error})"),
            },
        }
    }

    /// Starts the group on this host: the daemons, then its lockspace (`vgchange --lockstart`). `false` if it was started. sanlock takes 20 s and more
    /// with its default I/O timeout, and 140 s if this host did not leave in peace: its own old lease must end first.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotShared`]; [`Error::HostIdTaken`]; what lvm refuses. What was done is undone.
    pub fn join(&self, deadline: Deadline) -> Result<bool> {
        let vg = self.existing(deadline)?;
        if vg.started && self.phase(deadline)? == Some(SpacePhase::Joined) {
            return Ok(false);
        }
        if let Some(taken) = self.taken(&vg, deadline)? {
            return Err(taken);
        }
        let started = self.start(deadline)?;
        let name = self.name.as_str();
        log::debug!("multipath: start group {name}");
        let outcome = self
            .tools
            .change(name, None, &["vgchange", "--lockstart", name], deadline)
            .and_then(|()| self.joined(deadline));
        match outcome {
            Ok(()) => Ok(true),
            Err(failed) => {
                let stopped =
                    self.tools.change(name, None, &["vgchange", "--lockstop", name], Deadline::after(UNDO));
                if let Err(error) = stopped {
                    log::debug!("multipath: stop group {name}: {error}");
                }
                Err(self.tools.undone(failed, &started))
            }
        }
    }

    /// Leaves the group on this host: deactivates its volumes, stops its lockspace (`vgchange --activate n`, `--lockstop`). `false` if it was not
    /// started. The number of this host is given back, so that it joins quickly the next time.
    ///
    /// # Errors
    /// [`Error::Busy`] with who uses a volume; then all that were not in use are deactivated, and the group stays started.
    pub fn leave(&self, deadline: Deadline) -> Result<bool> {
        let Some(vg) = self.get(deadline)? else {
            return Err(Error::NotFound { object: format!("group {}", self.name) });
        };
        if !vg.started {
            return Ok(false);
        }
        for lv in vg.lvs.iter().filter(|lv| lv.active) {
            self.off(&vg, lv, deadline)?;
        }
        let name = self.name.as_str();
        log::debug!("multipath: stop group {name}");
        self.tools.change(name, None, &["vgchange", "--lockstop", name], deadline)?;
        let left = || Ok(self.phase(deadline)?.is_none().then_some(()));
        self.tools.until(&format!("the end of lockspace {}", self.name.lockspace()), deadline, left)?;
        Ok(true)
    }

    /// Leaves the group and stops lvmlockd and sanlock, unless another group needs them. Says which it stopped. wdmd goes on: it only feeds the
    /// watchdog, which no service manager's unit stops either while the machine runs.
    ///
    /// # Errors
    /// As [`leave`](Self::leave); a daemon does not end.
    pub fn stop(&self, deadline: Deadline) -> Result<Vec<Daemon>> {
        match self.leave(deadline) {
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let others = self.lockspaces(deadline)?.unwrap_or_default();
        if !others.is_empty() {
            return Ok(Vec::new());
        }
        self.tools.stop(&[Daemon::Sanlock, Daemon::Lvmlockd], deadline)
    }

    /// Removes the group and its label from the disks: `vgremove`, `pvremove`. `false` if it was not there.
    ///
    /// # Errors
    /// [`Error::Busy`] if it has volumes: they are removed one by one, by their names. [`Error::Held`] if another host has it started; that it
    /// has just left is seen at the next renewal of this host's lease, which is waited for.
    pub fn remove(&self, deadline: Deadline) -> Result<bool> {
        let Some(vg) = self.get(deadline)? else { return Ok(false) };
        let name = self.name.as_str();
        if !vg.lvs.is_empty() {
            let names: Vec<_> = vg.lvs.iter().map(|lv| lv.name.as_str()).collect();
            return Err(Error::Busy {
                volume: format!("group {name}"),
                users: format!("its volumes {}", names.join(", ")),
            });
        }
        log::debug!("multipath: remove group {name}");
        let renewed = deadline.or_after(self.manager.times().renewal + Duration::from_secs(5));
        while let Err(error) = self.tools.change(name, None, &["vgremove", "--yes", name], deadline) {
            if !matches!(error, Error::Held { .. }) || !renewed.pause(Duration::from_secs(2)) {
                return Err(error);
            }
        }
        for pv in &vg.pvs {
            let device = pv.device.display().to_string();
            let command = ["pvremove", "--yes", &device];
            match self.tools.change(name, None, &command, deadline) {
                // The lock that protects disks of no group was in this group, and has gone with it.
                Err(Error::GlobalLockElsewhere { .. }) => {
                    self.tools.change_unlocked(name, &command, deadline)?;
                }
                other => other?,
            }
        }
        Ok(true)
    }

    /// Where this host stands in the group's lockspace.
    fn phase(&self, deadline: Deadline) -> Result<Option<SpacePhase>> {
        let name = self.name.lockspace();
        let spaces = self.sanlock(deadline)?.map(|sanlock| sanlock.spaces).unwrap_or_default();
        Ok(spaces.into_iter().find(|space| space.name == name).map(|space| space.phase))
    }

    /// Waits until sanlock has this host's lease. `vgchange` ends with 0 as soon as lvmlockd has taken the order in some cases.
    fn joined(&self, deadline: Deadline) -> Result<()> {
        let look = || Ok((self.phase(deadline)? == Some(SpacePhase::Joined)).then_some(()));
        self.tools.until(&format!("this host's lease in lockspace {}", self.name.lockspace()), deadline, look)
    }

    /// Whether another host renews the lease on this host's number. It is watched for as long as a renewal takes, if there is one that was not given
    /// back: this host's own, of before a reset, looks the same at first.
    pub(super) fn taken(&self, vg: &VgState, deadline: Deadline) -> Result<Option<Error>> {
        let id = match self.manager.host_id {
            Some(id) => id,
            None => match self.configured_id(deadline)? {
                Some(id) => id,
                None => {
                    let reason =
                        "this host has no number: set local/host_id in /etc/lvm/lvmlocal.conf, or give it";
                    return Err(Error::Invalid {
                        object: format!("group {}", self.name),
                        reason: reason.to_owned(),
                    });
                }
            },
        };
        let mine = self.sanlock(deadline).ok().flatten().map(|sanlock| sanlock.name);
        let seen = || -> Result<Option<(String, u64)>> {
            let leases = self.tools.host_leases(vg, deadline)?;
            let lease = leases.into_iter().find(|lease| lease.owner == Some(id) && lease.timestamp != 0);
            Ok(lease
                .map(|lease| (lease.resource, lease.timestamp))
                .filter(|(name, _)| Some(name) != mine.as_ref()))
        };
        let Some(first) = seen()? else { return Ok(None) };
        // A renewal, and the time its I/O may take.
        let within = self.manager.times().renewal + self.manager.io_timeout;
        let end = deadline.or_after(within);
        while end.pause(Duration::from_millis(500)) {
            match seen()? {
                Some(now) if now != first => {
                    return Ok(Some(Error::HostIdTaken {
                        id,
                        owner: host_part(&now.0).to_owned(),
                        vg: self.name.to_string(),
                        within,
                    }));
                }
                Some(_) => {}
                None => break,
            }
        }
        Ok(None)
    }
}

/// Refuses a disk that holds anything.
fn empty(device: &Path) -> Result<()> {
    let failed = |source| Error::Device { device: device.to_owned(), source };
    let mut file = File::open(device).map_err(failed)?;
    let found = host::signature::scan(&mut file).map_err(failed)?;
    match found.is_empty() {
        true => Ok(()),
        false => Err(Error::Occupied { device: device.to_owned(), found }),
    }
}
