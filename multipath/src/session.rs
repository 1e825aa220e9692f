//! The kernel's iSCSI sessions, from sysfs: no daemon, no fork, no text of iscsiadm's.

use std::net::{IpAddr, SocketAddr};

use host::{Iqn, Tree, Wwid};

use crate::error::{Error, Result};
use crate::state::{DiskState, SessionPhase, SessionState};

const SESSIONS: &str = "/sys/class/iscsi_session";

/// All sessions, sorted by number.
pub(crate) fn list(tree: &Tree) -> Result<Vec<SessionState>> {
    let mut found = Vec::new();
    for entry in tree.list_opt(SESSIONS).map_err(Error::Tree)? {
        let Some(id) = entry.name.strip_prefix("session").and_then(|n| n.parse().ok()) else { continue };
        found.extend(read(tree, id)?);
    }
    found.sort_by_key(|session| session.id);
    Ok(found)
}

/// One session; `None` if it went away while it was read.
fn read(tree: &Tree, id: u32) -> Result<Option<SessionState>> {
    let base = format!("{SESSIONS}/session{id}");
    let value = |file: &str| -> Result<Option<String>> {
        match tree.read_opt(format!("{base}/{file}")) {
            Ok(text) => Ok(text.map(|t| t.trim().to_owned())),
            // A session that is being torn down answers so.
            Err(error) if matches!(error.errno(), Some(libc::ENOTCONN | libc::EINVAL | libc::ENODEV)) => {
                Ok(None)
            }
            Err(error) => Err(Error::Tree(error)),
        }
    };
    let (Some(target), Some(phase)) = (value("targetname")?, value("state")?) else { return Ok(None) };
    let recovery = value("recovery_tmo")?.and_then(|t| t.parse().ok());
    Ok(Some(SessionState {
        id,
        target: Iqn::from_kernel(target),
        portal: portal(tree, id)?,
        phase: SessionPhase::from_word(&phase),
        recovery,
        disks: disks(tree, &format!("{base}/device"))?,
    }))
}

fn portal(tree: &Tree, id: u32) -> Result<Option<SocketAddr>> {
    let base = format!("/sys/class/iscsi_connection/connection{id}:0");
    let value = |file: &str| match tree.read_opt(format!("{base}/{file}")) {
        Err(error) if matches!(error.errno(), Some(libc::ENOTCONN | libc::EINVAL | libc::ENODEV)) => Ok(None),
        other => other.map_err(Error::Tree),
    };
    let address = value("persistent_address")?.and_then(|a| a.trim().parse::<IpAddr>().ok());
    let port = value("persistent_port")?.and_then(|p| p.trim().parse().ok());
    Ok(address.zip(port).map(|(address, port)| SocketAddr::new(address, port)))
}

/// The disks below `.../device/targetH:C:T/H:C:T:L/block/sdX`.
fn disks(tree: &Tree, device: &str) -> Result<Vec<DiskState>> {
    let mut found = Vec::new();
    for target in tree.dirs(device).map_err(Error::Tree)? {
        if !target.starts_with("target") {
            continue;
        }
        for unit in tree.dirs(format!("{device}/{target}")).map_err(Error::Tree)? {
            let Some(lun) = unit.rsplit(':').next().and_then(|l| l.parse().ok()) else { continue };
            let base = format!("{device}/{target}/{unit}");
            for disk in tree.dirs(format!("{base}/block")).map_err(Error::Tree)? {
                let wwid = match tree.read_opt(format!("{base}/wwid")) {
                    Ok(text) => text.and_then(|t| Wwid::from_sysfs(&t).ok()),
                    Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENXIO | libc::EIO)) => {
                        None
                    }
                    Err(error) => return Err(Error::Tree(error)),
                };
                found.push(DiskState { device: disk, lun, wwid });
            }
        }
    }
    Ok(found)
}
