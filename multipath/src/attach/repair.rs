//! What others left half-made: maps without paths, disks without a session that works, sessions without a disk, records without a session.

use std::fmt;

use host::{Deadline, Iqn};

use super::events::Events;
use super::holders;
use crate::Initiator;
use crate::error::{Error, Result};
use crate::records::Startup;
use crate::state::SessionPhase;

/// Something that is left over and serves nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Orphan {
    /// A multipath map without any path: what waits in it waits for nothing.
    Map {
        /// Its name.
        name: String,
        /// The disk.
        wwid: String,
    },
    /// A disk of a session that works, which the target does not have any more or refuses.
    Disk {
        /// Its device.
        device: String,
        /// The target.
        target: Iqn,
        /// What the SCSI layer says of it: "offline".
        state: String,
    },
    /// A session without any disk.
    Session {
        /// Its number.
        id: u32,
        /// The target.
        target: Iqn,
    },
    /// A node record of ours without a session, which is not meant for the next start either.
    Record {
        /// The target.
        target: Iqn,
        /// The portal.
        portal: String,
    },
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map { name, wwid } => write!(f, "map {name} of {wwid} has no path"),
            Self::Disk { device, target, state } => write!(f, "disk {device} of {target} is {state}"),
            Self::Session { id, target } => write!(f, "session {id} to {target} has no disk"),
            Self::Record { target, portal } => write!(f, "our record of {target} at {portal} has no session"),
        }
    }
}

impl Initiator {
    /// Lists what is left over of attaches and detaches that were interrupted, ours and others'. Nothing is changed.
    ///
    /// An attach that is under way in another process looks the same for a moment: ask twice before acting.
    ///
    /// # Errors
    /// sysfs or the records cannot be read.
    pub fn orphans(&self) -> Result<Vec<Orphan>> {
        let mut found = Vec::new();
        for map in self.kernel_maps()?.into_iter().filter(|map| map.paths.is_empty()) {
            found.push(Orphan::Map { name: map.name, wwid: map.wwid });
        }
        let sessions = self.sessions()?;
        for session in sessions.iter().filter(|s| s.phase == SessionPhase::LoggedIn) {
            if session.disks.is_empty() {
                found.push(Orphan::Session { id: session.id, target: session.target.clone() });
            }
            for disk in
                session.disks.iter().filter(|d| matches!(d.state.as_str(), "offline" | "transport-offline"))
            {
                found.push(Orphan::Disk {
                    device: disk.device.clone(),
                    target: session.target.clone(),
                    state: disk.state.clone(),
                });
            }
        }
        for node in self.records().list()?.into_iter().filter(|n| n.is_ours && n.startup == Startup::Manual) {
            let has = |s: &&crate::SessionState| s.target == node.target && s.portal == node.portal();
            if !sessions.iter().any(|s| has(&s)) {
                let portal = format!("{},{}", node.address, node.port);
                found.push(Orphan::Record { target: node.target, portal });
            }
        }
        Ok(found)
    }

    /// Takes one of them away; `false` if it is gone, or is no orphan any more.
    ///
    /// # Errors
    /// [`Error::Busy`] if somebody uses it, and what the steps of a detach answer.
    pub fn clean(&self, orphan: &Orphan, deadline: Deadline) -> Result<bool> {
        if !self.orphans()?.contains(orphan) {
            return Ok(false);
        }
        let mut events = Events::open(&self.host)?;
        match orphan {
            Orphan::Map { wwid, .. } => {
                let Some(map) = self.kernel_maps()?.into_iter().find(|map| &map.wwid == wwid) else {
                    return Ok(false);
                };
                let holders = holders::of_map(&self.host, &map)?;
                if holders.iter().any(|holder| !holder.is_passing()) {
                    let object = format!("/dev/mapper/{}", map.name);
                    return Err(Error::Busy { object, holders: holders::line(&holders) });
                }
                self.multipath.client.order(&format!("disablequeueing map {}", map.name), deadline)?;
                self.delete_map(&map, &mut events, deadline)?;
            }
            Orphan::Disk { device, target, .. } => {
                let _lock = self.lock_target(target, deadline)?;
                let holders = holders::of_disk(&self.host, device)?;
                if !holders.is_empty() {
                    let object = format!("/dev/{device}");
                    return Err(Error::Busy { object, holders: holders::line(&holders) });
                }
                let sessions = self.sessions()?;
                let disks: Vec<_> =
                    sessions.iter().flat_map(|s| &s.disks).filter(|d| &d.device == device).collect();
                self.delete_disks(&disks, &mut events, deadline)?;
            }
            Orphan::Session { id, target } => {
                let _lock = self.lock_target(target, deadline)?;
                let sessions = self.sessions()?;
                let ours: Vec<_> = sessions.iter().filter(|s| s.id == *id && s.disks.is_empty()).collect();
                for (_, result) in self.logout_all(&ours, deadline) {
                    result?;
                }
            }
            Orphan::Record { target, portal } => {
                let _lock = self.lock_target(target, deadline)?;
                let records = self.records();
                let all = records.get(target)?.into_iter().filter(|n| n.is_ours);
                for node in all.filter(|n| &format!("{},{}", n.address, n.port) == portal) {
                    records.remove(&node, deadline)?;
                }
            }
        }
        Ok(true)
    }
}
