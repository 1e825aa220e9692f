//! Who holds a replicated device open. Looked for only when the kernel has refused a demotion, never on the good path.

use std::fmt;
use std::path::{Path, PathBuf};

use host::{Tree, TreeError};

use crate::Minor;

/// Somebody who uses a replicated device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Holder {
    /// The resource's own role: it is Primary.
    Primary,
    /// A device made of it: a volume group, an encrypted device, an array (`/sys/class/block/NAME/holders`).
    Device(String),
    /// A file system mounted here (`/proc/self/mountinfo`).
    Mount(PathBuf),
    /// Swap space (`/proc/swaps`).
    Swap,
    /// A backstore of the iSCSI target (`/sys/kernel/config/target/core`).
    Backstore(String),
    /// A process that has the device open (`/proc/PID/fd`).
    Process {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("its role, which is Primary (demote it)"),
            Self::Device(name) => write!(f, "the device {name}"),
            Self::Mount(path) => write!(f, "the file system mounted on {}", path.display()),
            Self::Swap => f.write_str("swap"),
            Self::Backstore(name) => write!(f, "the target's backstore {name}"),
            Self::Process { pid, name } => write!(f, "process {pid} ({name})"),
        }
    }
}

/// A block device, by the names it goes by.
struct Device {
    /// Of the kernel: `drbd0`, `dm-3`.
    name: String,
    /// `major:minor`.
    number: String,
    path: PathBuf,
}

/// Finds who holds a replicated device.
///
/// What cannot be read is passed over: this only explains a refusal that stands anyway.
pub(crate) fn of(tree: &Tree, minor: Minor) -> Vec<Holder> {
    // DRBD's major is 147.
    let device = Device { name: format!("drbd{minor}"), number: format!("147:{minor}"), path: minor.path() };
    all(tree, &device)
}

/// Finds who holds a disk that DRBD was to take.
pub(crate) fn of_disk(tree: &Tree, path: &Path) -> Vec<Holder> {
    let path = resolved(tree, path);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let number = tree.read(format!("/sys/class/block/{name}/dev")).unwrap_or_default().trim().to_owned();
    all(tree, &Device { name, number, path })
}

fn all(tree: &Tree, device: &Device) -> Vec<Holder> {
    let mut found = Vec::new();
    for part in [devices, mounts, swaps, backstores] {
        match part(tree, device) {
            Ok(holders) => found.extend(holders),
            Err(error) => log::debug!("holders of {}: {error}", device.path.display()),
        }
    }
    if found.is_empty() {
        found.extend(processes(tree, &device.path));
    }
    found
}

fn devices(tree: &Tree, device: &Device) -> Result<Vec<Holder>, TreeError> {
    let entries = tree.list_opt(format!("/sys/class/block/{}/holders", device.name))?;
    Ok(entries.into_iter().map(|entry| Holder::Device(entry.name)).collect())
}

fn mounts(tree: &Tree, device: &Device) -> Result<Vec<Holder>, TreeError> {
    Ok(mounted(&tree.read_opt("/proc/self/mountinfo")?.unwrap_or_default(), &device.number))
}

/// Mount points of the device: the third field is `major:minor`, the fifth the mount point (proc(5)).
fn mounted(mountinfo: &str, number: &str) -> Vec<Holder> {
    mountinfo
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields.get(2) == Some(&number))
        .filter_map(|fields| {
            fields.get(4).map(|path| Holder::Mount(PathBuf::from(path.replace("\\040", " "))))
        })
        .collect()
}

fn swaps(tree: &Tree, device: &Device) -> Result<Vec<Holder>, TreeError> {
    let text = tree.read_opt("/proc/swaps")?.unwrap_or_default();
    let mut used = text.lines().filter_map(|line| line.split_whitespace().next());
    Ok(if used.any(|path| Path::new(path) == device.path) { vec![Holder::Swap] } else { Vec::new() })
}

fn backstores(tree: &Tree, device: &Device) -> Result<Vec<Holder>, TreeError> {
    const CORE: &str = "/sys/kernel/config/target/core";
    let mut found = Vec::new();
    for hba in tree.dirs(CORE)?.iter().filter(|name| *name != "alua") {
        for name in tree.dirs(format!("{CORE}/{hba}"))? {
            let dir = format!("{CORE}/{hba}/{name}");
            let info = tree.read_opt(format!("{dir}/info"))?.unwrap_or_default();
            let udev_path = tree.read_opt(format!("{dir}/udev_path"))?.unwrap_or_default();
            // "iBlock device: drbd0  UDEV PATH: ..." (target_core_iblock.c); udev_path may be a link that udev made.
            let named = info.split_whitespace().any(|word| word == device.name);
            if named || same_device(tree, Path::new(udev_path.trim()), &device.path) {
                found.push(Holder::Backstore(format!("{hba}/{name}")));
            }
        }
    }
    Ok(found)
}

fn processes(tree: &Tree, device: &Path) -> Vec<Holder> {
    let mut found = Vec::new();
    let numbers = tree.dirs("/proc").unwrap_or_default();
    for pid in numbers.iter().filter_map(|name| name.parse::<u32>().ok()) {
        // Processes end while they are looked at.
        let fds = tree.links(format!("/proc/{pid}/fd")).unwrap_or_default();
        let open = |fd: &String| tree.read_link(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|to| to == device);
        if fds.iter().any(open) {
            let name = tree.read(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
            found.push(Holder::Process { pid, name });
        }
    }
    found
}

/// Whether two paths are the same device, links followed. Paths that cannot be looked at are the same only if they are equal.
pub(crate) fn same_device(tree: &Tree, a: &Path, b: &Path) -> bool {
    a == b || resolved(tree, a) == resolved(tree, b)
}

fn resolved(tree: &Tree, path: &Path) -> PathBuf {
    let mut at = path.to_path_buf();
    for _ in 0..16 {
        match tree.kind(&at) {
            Ok(Some(host::tree::Kind::Link)) => match tree.read_link(&at) {
                Ok(target) => at = target,
                Err(_) => return at,
            },
            _ => return at,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_device_number() {
        let text = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            40 22 147:1 / /srv/my\\040data rw shared:1 - xfs /dev/drbd1 rw\n";
        assert_eq!(mounted(text, "147:1"), [Holder::Mount("/srv/my data".into())]);
        assert!(mounted(text, "147:0").is_empty());
    }
}
