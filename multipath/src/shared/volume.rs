//! The volumes: create, grow, remove, activate, deactivate.

use std::path::Path;
use std::time::Duration;

use host::{Bytes, Deadline, Tree};

use super::error::{Error, Result};
use super::spec::{Activation, LvSpec};
use super::state::{LvState, VgState};
use super::{LvName, SharedVg};

impl Activation {
    fn word(self) -> &'static str {
        match self {
            Self::Exclusive => "ey",
            Self::Shared => "sy",
        }
    }
}

impl SharedVg {
    /// Makes a volume: `lvcreate`. What its extents held before is not wiped, but file systems and the like in their place are no longer found.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::NotStarted`], [`Error::NoRoomForLocks`]; what lvm refuses (too little room). If it cannot be activated as
    /// wanted, it is removed again.
    pub fn create_lv(&self, spec: &LvSpec, deadline: Deadline) -> Result<LvState> {
        let vg = self.started(deadline)?;
        if vg.lvs.iter().any(|lv| lv.name == spec.name.as_str()) {
            return Err(Error::AlreadyExists { object: format!("volume {}/{}", self.name, spec.name) });
        }
        if spec.size.0 == 0 {
            return Err(Error::Invalid {
                object: format!("volume {}", spec.name),
                reason: "its size is 0".to_owned(),
            });
        }
        let (group, name, size) = (self.name.as_str(), spec.name.as_str(), format!("{}b", spec.size.0));
        log::debug!("multipath: create volume {group}/{name} of {}", spec.size);
        // Exclusive at first, whatever is wanted: signatures can be wiped on an active volume only.
        let command = [
            "lvcreate",
            "--yes",
            "--wipesignatures",
            "y",
            "--activate",
            "ey",
            "--name",
            name,
            "--size",
            &size,
            group,
        ];
        self.tools.change(group, Some(name), &command, deadline)?;
        let set = match spec.activation {
            Some(Activation::Exclusive) => Ok(()),
            Some(Activation::Shared) => self.activate(&spec.name, Activation::Shared, deadline).map(drop),
            None => self.deactivate(&spec.name, deadline).map(drop),
        };
        if let Err(failed) = set {
            return Err(match self.remove_lv(&spec.name, Deadline::after(Duration::from_secs(60))) {
                Ok(_) => failed,
                Err(error) => Error::NotUndone {
                    failed: Box::new(failed),
                    left: format!("volume {group}/{name} ({error})"),
                },
            });
        }
        let vg = self.existing(deadline)?;
        self.volume(&vg, &spec.name).cloned()
    }

    /// Grows a volume to a size, rounded up to whole extents: `lvextend`. `false` if it has that size or more. A file system in it is not grown.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotStarted`]; [`Error::Held`] if it is active on another host; what lvm refuses.
    pub fn grow_lv(&self, name: &LvName, size: Bytes, deadline: Deadline) -> Result<bool> {
        let vg = self.started(deadline)?;
        let lv = self.volume(&vg, name)?;
        if lv.size >= size {
            return Ok(false);
        }
        log::debug!("multipath: grow volume {}/{name} to {size}", self.name);
        let (target, size) = (format!("{}/{name}", self.name), format!("{}b", size.0));
        self.volume_change(&vg, lv, &["lvextend", "--size", &size, &target], deadline)?;
        Ok(true)
    }

    /// Grows the volume with the locks, `lvmlock`, to a size: `lvextend`. `false` if it has that size or more.
    ///
    /// A volume's lock takes 1 MiB of it (8 MiB on a disk with sectors of 4 KiB); LVM makes 256 MiB and adds 256 MiB by itself when a new volume
    /// finds no room (`global/sanlock_lv_extend`). Growing it beforehand spares that creation the wait. Whether hosts that
    /// have the group started see the new size before they join it anew was not tried.
    ///
    /// # Errors
    /// [`Error::NotStarted`]; what lvm refuses (too little room).
    pub fn grow_locks(&self, size: Bytes, deadline: Deadline) -> Result<bool> {
        let vg = self.started(deadline)?;
        let lock = vg
            .lvmlock
            .as_ref()
            .ok_or_else(|| Error::NotFound { object: format!("volume {}/lvmlock", self.name) })?;
        if lock.size >= size {
            return Ok(false);
        }
        log::debug!("multipath: grow volume {}/lvmlock to {size}", self.name);
        let (target, size) = (format!("{}/lvmlock", self.name), format!("{}b", size.0));
        self.volume_change(&vg, lock, &["lvextend", "--size", &size, &target], deadline)?;
        Ok(true)
    }

    /// Removes a volume and all that is in it: `lvremove`. `false` if it was not there.
    ///
    /// # Errors
    /// [`Error::Busy`] if a program uses it, [`Error::Held`] if it is active on another host, [`Error::NotStarted`].
    pub fn remove_lv(&self, name: &LvName, deadline: Deadline) -> Result<bool> {
        let vg = self.started(deadline)?;
        let Some(lv) = vg.lvs.iter().find(|lv| lv.name == name.as_str()) else { return Ok(false) };
        if lv.open {
            return Err(self.busy(lv));
        }
        log::debug!("multipath: remove volume {}/{name}", self.name);
        let target = format!("{}/{name}", self.name);
        self.volume_change(&vg, lv, &["lvremove", "--yes", &target], deadline)?;
        Ok(true)
    }

    /// Activates a volume on this host, or converts how it is activated: `lvchange --activate ey|sy`. `false` if it was active so.
    ///
    /// A live migration converts from exclusive to shared on the host that has it, activates shared on the other, moves the machine, deactivates on
    /// the first, and converts to exclusive on the other.
    ///
    /// # Errors
    /// [`Error::Held`] with who has it, if the two do not go together; [`Error::NotFound`], [`Error::NotStarted`]. A refused conversion leaves it
    /// active as it was.
    pub fn activate(&self, name: &LvName, how: Activation, deadline: Deadline) -> Result<bool> {
        let vg = self.started(deadline)?;
        let lv = self.volume(&vg, name)?;
        if lv.activation() == Some(how) {
            return Ok(false);
        }
        log::debug!("multipath: activate volume {}/{name} {how}", self.name);
        let target = format!("{}/{name}", self.name);
        self.volume_change(&vg, lv, &["lvchange", "--activate", how.word(), &target], deadline)?;
        let now = self.existing(deadline)?;
        let now = self.volume(&now, name)?.activation();
        if now != Some(how) {
            let seen = now.map_or_else(|| "not active".to_owned(), |now| now.to_string());
            return Err(Error::Lock { volume: target, wanted: how, seen });
        }
        Ok(true)
    }

    /// As [`activate`](Self::activate), but waits until other hosts are free of the volume, or dead: sanlock gives the volume of a dead host away
    /// 140 s after its last renewal, with its default I/O timeout ([`LeaseTimes::taken_over`](super::LeaseTimes::taken_over)). Never sooner.
    ///
    /// # Errors
    /// The last refusal, when the deadline passes; any other error at once.
    pub fn activate_when_free(&self, name: &LvName, how: Activation, deadline: Deadline) -> Result<bool> {
        loop {
            match self.activate(name, how, deadline) {
                // sanlock tells nobody when a lease ends; asking costs a run of lvm.
                Err(Error::Held { .. } | Error::Contended { .. })
                    if deadline.pause(Duration::from_secs(1)) => {}
                other => return other,
            }
        }
    }

    /// Deactivates a volume on this host and gives its lock back: `lvchange --activate n`. `false` if it was not active.
    ///
    /// # Errors
    /// [`Error::Busy`] with who uses it.
    pub fn deactivate(&self, name: &LvName, deadline: Deadline) -> Result<bool> {
        let vg = self.existing(deadline)?;
        let lv = self.volume(&vg, name)?;
        if !lv.active && lv.lock.is_none() {
            return Ok(false);
        }
        self.off(&vg, lv, deadline)?;
        Ok(true)
    }

    pub(super) fn off(&self, vg: &VgState, lv: &LvState, deadline: Deadline) -> Result<()> {
        if lv.open {
            return Err(self.busy(lv));
        }
        log::debug!("multipath: deactivate volume {}/{}", self.name, lv.name);
        let target = format!("{}/{}", self.name, lv.name);
        self.volume_change(vg, lv, &["lvchange", "--activate", "n", &target], deadline)
    }

    /// Runs lvm on a volume; a refusal says who uses it, here or elsewhere.
    fn volume_change(&self, vg: &VgState, lv: &LvState, command: &[&str], deadline: Deadline) -> Result<()> {
        let outcome = self.tools.change(self.name.as_str(), Some(&lv.name), command, deadline);
        outcome.map_err(|error| match error {
            Error::Held { .. } => {
                self.tools.with_holders(error, vg, lv, deadline.or_after(Duration::from_secs(20)))
            }
            Error::Busy { .. } => self.busy(lv),
            other => other,
        })
    }

    /// The group, if it is started here.
    fn started(&self, deadline: Deadline) -> Result<VgState> {
        let vg = self.existing(deadline)?;
        match vg.started {
            true => Ok(vg),
            false => Err(Error::NotStarted { vg: vg.name }),
        }
    }

    fn busy(&self, lv: &LvState) -> Error {
        let users = users(self.tools.host.tree(), &lv.path);
        let users = if users.is_empty() { "a program that has it open".to_owned() } else { users.join(", ") };
        Error::Busy { volume: format!("{}/{}", self.name, lv.name), users }
    }
}

/// Who uses a device: the devices on top of it and the places where it is mounted. Best effort: it is for an error's text.
fn users(tree: &Tree, path: &Path) -> Vec<String> {
    let Ok(target) = tree.read_link(path) else { return Vec::new() };
    let Some(node) = target.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let holders = tree.list_opt(format!("/sys/block/{node}/holders")).unwrap_or_default();
    let mut users: Vec<_> = holders.into_iter().map(|entry| format!("device {}", entry.name)).collect();
    let number = tree.read_opt(format!("/sys/block/{node}/dev")).ok().flatten().unwrap_or_default();
    let mounts = tree.read_opt("/proc/self/mountinfo").ok().flatten().unwrap_or_default();
    for line in mounts.lines() {
        let words: Vec<_> = line.split(' ').collect();
        if let (Some(device), Some(place)) = (words.get(2), words.get(4))
            && !number.trim().is_empty()
            && *device == number.trim()
        {
            users.push(format!("the mount {place}"));
        }
    }
    users
}
