//! Detach: nobody uses it, what was written is on the disk, the map goes, then the disks, then the sessions that have nothing else.

use std::fs::OpenOptions;
use std::time::Duration;

use host::{Deadline, Iqn};

use super::events::{Events, bounded};
use super::holders;
use super::map::KernelMap;
use crate::Initiator;
use crate::error::{Error, Result};
use crate::spec::{DetachSpec, Force};
use crate::state::{DiskState, SessionState};

/// How long scanners may have a map open before they are said to use it.
const SCAN: Duration = Duration::from_secs(3);

/// What a detach took away. Empty where nothing was there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detached {
    /// Maps, by name.
    pub maps: Vec<String>,
    /// SCSI disks.
    pub disks: Vec<String>,
    /// Sessions that were logged out.
    pub sessions: Vec<u32>,
    /// Node records of ours that were deleted.
    pub records: usize,
    /// Sessions that stay, because other disks of the target are in them.
    pub kept: Vec<u32>,
}

impl Detached {
    /// Whether nothing was there to take away.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.maps.is_empty() && self.disks.is_empty() && self.sessions.is_empty() && self.records == 0
    }
}

impl Initiator {
    /// Detaches all disks of a target: removes their maps, then the disks, then logs out, and deletes the records we made. `false` if nothing
    /// was there. Records of others stay. `multipath -f`, `iscsiadm -m node -u`, `-o delete`
    ///
    /// # Errors
    /// As [`detach_by`](Self::detach_by).
    pub fn detach(&self, target: &Iqn, deadline: Deadline) -> Result<bool> {
        Ok(!self.detach_by(&DetachSpec::new(target.clone()), deadline)?.is_empty())
    }

    /// Detaches one disk of a target, or all, and says what it took away. What is gone already is no error, so that a detach that was
    /// interrupted is finished by the same call. multipathd still knows the disk's identifier, so that it makes the map again should the disk
    /// come back.
    ///
    /// # Errors
    /// [`Error::Busy`] names who uses a map, [`Error::NoPath`] a map whose last writes cannot be kept; nothing is changed then.
    pub fn detach_by(&self, spec: &DetachSpec, deadline: Deadline) -> Result<Detached> {
        let _lock = self.lock_target(&spec.target, deadline)?;
        let mut events = Events::open(&self.host)?;
        let sessions: Vec<_> = self.sessions()?.into_iter().filter(|s| s.target == spec.target).collect();
        let is_meant = |disk: &DiskState| spec.lun.is_none_or(|lun| disk.lun == u64::from(lun));
        let disks: Vec<&DiskState> = sessions.iter().flat_map(|s| &s.disks).filter(|d| is_meant(d)).collect();
        let all = self.kernel_maps()?;
        let has = |map: &KernelMap, disk: &DiskState| map.paths.contains(&disk.device);
        let (maps, shared): (Vec<_>, Vec<_>) = all
            .into_iter()
            .filter(|map| disks.iter().any(|disk| has(map, disk)))
            // A disk that is reached through another target, too, keeps its map, and loses paths only.
            .partition(|map| map.paths.iter().all(|path| disks.iter().any(|disk| &disk.device == path)));
        // First everything that can refuse.
        for map in &maps {
            self.refuse_if_used(map, &mut events, deadline)?;
            if spec.force == Force::Never && !self.is_alive(map)? {
                return Err(Error::NoPath { object: format!("/dev/mapper/{}", map.name) });
            }
        }
        for map in &shared {
            let others: Vec<_> = map
                .paths
                .iter()
                .filter(|path| !disks.iter().any(|disk| &disk.device == *path))
                .cloned()
                .collect();
            let rest = KernelMap { paths: others, ..map.clone() };
            if !self.is_alive(&rest)? && !holders::of_map(&self.host, map)?.is_empty() {
                let holders = holders::line(&holders::of_map(&self.host, map)?);
                return Err(Error::Busy {
                    object: format!("the last working path of /dev/mapper/{}", map.name),
                    holders,
                });
            }
        }
        for disk in &disks {
            let holders = holders::of_disk(&self.host, &disk.device)?;
            if !holders.is_empty() {
                let object = format!("/dev/{}", disk.device);
                return Err(Error::Busy { object, holders: holders::line(&holders) });
            }
        }
        let mut done = Detached::default();
        for map in &maps {
            self.drop_map(map, &mut events, deadline)?;
            done.maps.push(map.name.clone());
        }
        self.delete_disks(&disks, &mut events, deadline)?;
        done.disks = disks.iter().map(|disk| disk.device.clone()).collect();
        self.leave(spec, &sessions, &mut done, &mut events, deadline)?;
        self.prove(&done, &maps, &mut events, deadline)?;
        Ok(done)
    }

    fn refuse_if_used(&self, map: &KernelMap, events: &mut Events, deadline: Deadline) -> Result<()> {
        let object = format!("/dev/mapper/{}", map.name);
        let mut found = Vec::new();
        let free = events.until(
            &object,
            deadline.or_after(SCAN),
            || {
                found = holders::of_map(&self.host, map)?;
                Ok((found.is_empty() || !found.iter().all(holders::Holder::is_passing)).then_some(()))
            },
            String::new,
        );
        match free {
            Err(Error::TimedOut { .. }) => {}
            other => other?,
        }
        if found.is_empty() { Ok(()) } else { Err(Error::Busy { object, holders: holders::line(&found) }) }
    }

    /// Whether at least one path of a map can take I/O: its SCSI device runs. A blocked one is waiting for its session.
    fn is_alive(&self, map: &KernelMap) -> Result<bool> {
        for path in &map.paths {
            let state =
                self.host.tree().read_opt(format!("/sys/block/{path}/device/state")).map_err(Error::Tree)?;
            // A captured or foreign device without a state is taken for one that works.
            if state.is_none_or(|state| state.trim() == "running") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Flushes a map and removes it. Without a path, what waits in it is let fail first: else the flush would wait with it.
    fn drop_map(&self, map: &KernelMap, events: &mut Events, deadline: Deadline) -> Result<()> {
        let object = format!("/dev/mapper/{}", map.name);
        if self.is_alive(map)? {
            let (flushes, device, what) =
                (self.flushes, object.clone(), format!("the last writes to {object}"));
            // A read-only or failing map has nothing that could still be written; multipathd refuses below if it is in use.
            if let Err(error) = bounded(&what, deadline, move || flushes(object.as_ref()))? {
                log::debug!("multipath: {device} does not flush: {error}");
                if error.raw_os_error() == Some(libc::EIO) {
                    return Err(Error::NoPath { object: device });
                }
            }
        } else {
            self.multipath.client.order(&format!("disablequeueing map {}", map.name), deadline)?;
        }
        log::debug!("multipath: remove map {} ({})", map.name, map.wwid);
        self.delete_map(map, events, deadline)
    }

    /// Deletes SCSI disks, each on a thread of its own: the kernel holds the call while a session is trying to come back.
    pub(super) fn delete_disks(
        &self,
        disks: &[&DiskState],
        events: &mut Events,
        deadline: Deadline,
    ) -> Result<()> {
        let calls: Vec<_> = disks
            .iter()
            .map(|disk| {
                let tree = self.host.tree().clone();
                let path = format!("/sys/block/{}/device/delete", disk.device);
                let (tell, hear) = std::sync::mpsc::channel();
                std::thread::spawn(move || tell.send(tree.write(path, "1")).unwrap_or_default());
                (disk.device.clone(), hear)
            })
            .collect();
        for (device, hear) in calls {
            let what = format!("the end of {device}");
            match hear.recv_timeout(deadline.left()) {
                Ok(Err(error)) if !error.is_not_found() && error.errno() != Some(libc::ENODEV) => {
                    return Err(Error::Tree(error));
                }
                Ok(_) => {}
                Err(_) => return Err(Error::TimedOut { what, seen: "the kernel holds it".to_owned() }),
            }
        }
        let is_there = |disk: &&&DiskState| self.host.tree().exists(format!("/sys/block/{}", disk.device));
        events.until(
            "the end of the disks",
            deadline,
            || {
                for disk in disks {
                    if is_there(&disk).map_err(Error::Tree)? {
                        return Ok(None);
                    }
                }
                Ok(Some(()))
            },
            || "the kernel has not let go of all".to_owned(),
        )
    }

    /// Logs out of the sessions that have no other disk, and deletes our records of them.
    fn leave(
        &self,
        spec: &DetachSpec,
        before: &[SessionState],
        done: &mut Detached,
        events: &mut Events,
        deadline: Deadline,
    ) -> Result<()> {
        let now: Vec<_> = self.sessions()?.into_iter().filter(|s| s.target == spec.target).collect();
        let had = |s: &SessionState| {
            let of = before.iter().find(|b| b.id == s.id);
            of.is_some_and(|b| b.disks.iter().any(|d| done.disks.contains(&d.device)))
        };
        // Asked for one disk, a session that never had it is somebody else's.
        let (leave, stay): (Vec<_>, Vec<_>) =
            now.iter().partition(|s| s.disks.is_empty() && (spec.lun.is_none() || had(s)));
        for (id, result) in self.logout_all(&leave, deadline) {
            result?;
            done.sessions.push(id);
        }
        done.kept = stay.iter().map(|s| s.id).collect();
        events.until(
            &format!("the end of the sessions to {}", spec.target),
            deadline,
            || Ok(self.sessions()?.iter().all(|s| !done.sessions.contains(&s.id)).then_some(())),
            || self.seen(&spec.target),
        )?;
        let records = self.records();
        for node in records.get(&spec.target)?.into_iter().filter(|node| node.is_ours) {
            let is_kept = stay.iter().any(|s| s.portal.is_some() && s.portal == node.portal());
            let is_left = leave.iter().any(|s| s.portal.is_some() && s.portal == node.portal());
            if !is_kept && (spec.lun.is_none() || is_left) && records.remove(&node, deadline)? {
                done.records += 1;
            }
        }
        records.tidy(&spec.target, deadline)
    }

    /// Looks whether really nothing is left of what was taken away.
    fn prove(
        &self,
        done: &Detached,
        maps: &[KernelMap],
        events: &mut Events,
        deadline: Deadline,
    ) -> Result<()> {
        events.until(
            "the end of the maps",
            deadline,
            || {
                let left = self.kernel_maps()?;
                Ok(maps.iter().all(|map| !left.iter().any(|l| l.wwid == map.wwid)).then_some(()))
            },
            || format!("{} came back", done.maps.join(", ")),
        )
    }
}

/// `fsync(2)` of a block device: everything in its cache is on the disk, and in the disk's own cache no more.
pub(crate) fn flush(device: &std::path::Path) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(device)?.sync_all()
}
