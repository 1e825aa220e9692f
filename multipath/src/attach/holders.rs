//! Who uses a map: mounts, swap, what lies on it, open files.

use std::collections::BTreeSet;
use std::fmt;

use host::{DmName, Host};

use super::map::KernelMap;
use crate::error::{Error, Result};

/// Somebody who uses a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Holder {
    /// A file system on it, mounted here.
    Mount {
        /// Where.
        at: String,
        /// The device that is mounted: the map, or what lies on it.
        device: String,
    },
    /// Swap space.
    Swap {
        /// The device.
        device: String,
    },
    /// Another device made of it: a logical volume, an encrypted device, a RAID.
    Device {
        /// Its name.
        name: String,
        /// "LVM", "CRYPT", "md", as its UUID or name begins.
        kind: String,
    },
    /// A process that has it open.
    Process {
        /// Its number.
        id: u32,
        /// Its name.
        name: String,
    },
    /// Somebody who has it open and is not seen: in another container, or inside the kernel (an exported LUN).
    Unseen {
        /// How many times it is open beyond those named.
        opens: u32,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount { at, device } => write!(f, "the mount {at} of {device}"),
            Self::Swap { device } => write!(f, "swap on {device}"),
            Self::Device { name, kind } => write!(f, "{name} ({kind})"),
            Self::Process { id, name } => write!(f, "process {id} ({name})"),
            Self::Unseen { opens: 1 } => f.write_str("an open file that is not seen from here"),
            Self::Unseen { opens } => write!(f, "{opens} open files that are not seen from here"),
        }
    }
}

impl Holder {
    /// Whether it may go away by itself: udev's helpers and scanners open each device that comes or changes.
    pub(super) fn is_passing(&self) -> bool {
        const SCANNERS: [&str; 8] =
            ["udev", "blkid", "multipath", "kpartx", "lvm", "pvscan", "dmsetup", "systemd-udevd"];
        match self {
            Self::Process { name, .. } => {
                SCANNERS.iter().any(|scanner| name.trim_start_matches('(').starts_with(scanner))
            }
            Self::Unseen { .. } => true,
            _ => false,
        }
    }
}

/// In one line, as an error names them.
pub(super) fn line(holders: &[Holder]) -> String {
    holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn text(host: &Host, path: &str) -> Result<String> {
    let text = host.tree().read_opt(path).map_err(Error::Tree)?;
    Ok(text.map(|text| text.trim().to_owned()).unwrap_or_default())
}

/// Everybody who uses a map, its partitions, and what lies on them.
pub(super) fn of_map(host: &Host, map: &KernelMap) -> Result<Vec<Holder>> {
    let mut search = Search { host, found: BTreeSet::new(), seen: BTreeSet::new() };
    let explained = search.device(&map.node, &map.name)?;
    let name = DmName::from_kernel(map.name.clone());
    // Without device-mapper behind it (a captured tree) nothing is known of opens.
    let opens = host.dm().info(&name).ok().flatten().map_or(0, |info| info.open_count);
    let opens = opens.saturating_sub(explained);
    if opens > 0 {
        search.processes(&[format!("/dev/{}", map.node), format!("/dev/mapper/{}", map.name)], opens)?;
    }
    Ok(search.found.into_iter().collect())
}

/// Everybody who uses a disk beside its map.
pub(super) fn of_disk(host: &Host, disk: &str) -> Result<Vec<Holder>> {
    let mut search = Search { host, found: BTreeSet::new(), seen: BTreeSet::new() };
    search.device(disk, disk)?;
    for entry in host.tree().list_opt(format!("/sys/block/{disk}")).map_err(Error::Tree)? {
        if entry.name.starts_with(disk) {
            search.device_at(&format!("/sys/block/{disk}/{}", entry.name), &entry.name, &entry.name)?;
        }
    }
    Ok(search.found.into_iter().collect())
}

struct Search<'a> {
    host: &'a Host,
    found: BTreeSet<Holder>,
    seen: BTreeSet<String>,
}

impl Search<'_> {
    /// Looks at a device and what lies on it; returns how many opens of it that explains.
    fn device(&mut self, node: &str, name: &str) -> Result<u32> {
        self.device_at(&format!("/sys/block/{node}"), node, name)
    }

    fn device_at(&mut self, sys: &str, node: &str, name: &str) -> Result<u32> {
        if !self.seen.insert(node.to_owned()) {
            return Ok(0);
        }
        let mut explained = 0;
        let number = text(self.host, &format!("{sys}/dev"))?;
        for at in self.mounts(&number)? {
            explained += 1;
            self.found.insert(Holder::Mount { at, device: name.to_owned() });
        }
        if self.is_swap(node, name)? {
            explained += 1;
            self.found.insert(Holder::Swap { device: name.to_owned() });
        }
        let holders = self.host.tree().list_opt(format!("{sys}/holders")).map_err(Error::Tree)?;
        for holder in holders.into_iter().map(|entry| entry.name) {
            explained += 1;
            let uuid = text(self.host, &format!("/sys/block/{holder}/dm/uuid"))?;
            let held = match text(self.host, &format!("/sys/block/{holder}/dm/name"))? {
                name if name.is_empty() => holder.clone(),
                name => name,
            };
            // A partition of the map goes with it, unless somebody uses it; the map of a disk is no user of it.
            let is_part = uuid.starts_with("part") && uuid.contains("-mpath-");
            let is_map = uuid.starts_with("mpath-");
            if !is_part && !is_map {
                let kind = match uuid.split('-').next() {
                    Some(kind) if !kind.is_empty() => kind.to_owned(),
                    _ => holder.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
                };
                self.found.insert(Holder::Device { name: held.clone(), kind });
            }
            if !is_map {
                let inside = self.device(&holder, &held)?;
                if is_part {
                    let opens = self.host.dm().info(&DmName::from_kernel(held.clone())).ok().flatten();
                    let opens = opens.map_or(0, |info| info.open_count).saturating_sub(inside);
                    if opens > 0 {
                        self.processes(&[format!("/dev/{holder}"), format!("/dev/mapper/{held}")], opens)?;
                    }
                }
            }
        }
        Ok(explained)
    }

    /// Where a device is mounted, for us and for the first process: `/proc/PID/mountinfo`, third word the device, fifth the place.
    fn mounts(&self, number: &str) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for file in ["/proc/self/mountinfo", "/proc/1/mountinfo"] {
            let text = self.host.tree().read_opt(file).ok().flatten().unwrap_or_default();
            for line in text.lines() {
                let mut words = line.split(' ');
                if words.nth(2) == Some(number)
                    && let Some(place) = words.nth(1)
                {
                    found.insert(place.replace("\\040", " "));
                }
            }
        }
        Ok(found)
    }

    fn is_swap(&self, node: &str, name: &str) -> Result<bool> {
        let swaps = text(self.host, "/proc/swaps")?;
        let words = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        Ok(words.filter_map(|path| path.rsplit('/').next()).any(|last| last == node || last == name))
    }

    /// The processes that have one of these device nodes open. What is open beyond them is told as unseen.
    fn processes(&mut self, nodes: &[String], opens: u32) -> Result<()> {
        let tree = self.host.tree();
        let mut seen = 0;
        for process in tree.list_opt("/proc").map_err(Error::Tree)? {
            let Ok(id) = process.name.parse::<u32>() else { continue };
            // A process may end, or not let us look.
            let Ok(files) = tree.list_opt(format!("/proc/{id}/fd")) else { continue };
            let open = files
                .iter()
                .filter_map(|file| tree.read_link(format!("/proc/{id}/fd/{}", file.name)).ok())
                .filter(|target| nodes.iter().any(|node| target.as_os_str() == node.as_str()))
                .count();
            if open > 0 {
                seen += u32::try_from(open).unwrap_or(u32::MAX);
                let name = text(self.host, &format!("/proc/{id}/comm")).unwrap_or_default();
                self.found.insert(Holder::Process { id, name });
            }
        }
        if seen < opens {
            self.found.insert(Holder::Unseen { opens: opens - seen });
        }
        Ok(())
    }
}
