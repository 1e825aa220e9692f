//! The map over the paths: made through multipathd, proved to take I/O, resized.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant};

use host::{Deadline, Iqn, Wwid};

use super::Path;
use super::events::{Events, bounded};
use super::undo::Undo;
use crate::Initiator;
use crate::error::{Error, Result};
use crate::state::Attached;

/// The disks multipathd makes maps of by itself.
const WWIDS: &str = "/etc/multipath/wwids";

/// When multipathd was told of a path: once udev is done with it, then twice a second; and after 10 s whatever udev does.
#[derive(Debug, Default)]
struct Hints(BTreeMap<String, (Instant, Option<Instant>)>);

impl Hints {
    fn is_due(&mut self, device: &str, is_known: impl FnOnce() -> Result<bool>) -> Result<bool> {
        let now = Instant::now();
        let (first, last) = self.0.entry(device.to_owned()).or_insert((now, None));
        let is_early = last.is_some_and(|last| last.elapsed() < Duration::from_millis(500));
        if is_early || !(is_known()? || first.elapsed() > Duration::from_secs(10)) {
            return Ok(false);
        }
        *last = Some(now);
        Ok(true)
    }
}

/// A map as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelMap {
    pub(super) node: String,
    pub(super) name: String,
    pub(super) wwid: String,
    pub(super) paths: Vec<String>,
}

/// A map whose size was looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resized {
    /// Its size before, in bytes.
    pub before: u64,
    /// Its size now, in bytes.
    pub after: u64,
}

impl Initiator {
    /// Puts the disk on multipathd's list: with `find_multipaths strict`, the default, nothing else becomes a map. `multipath -a`; says whether
    /// it was not there.
    fn remember(&self, wwid: &Wwid, deadline: Deadline) -> Result<bool> {
        let tree = self.host.tree();
        let line = format!("/{wwid}/");
        let _lock = self.host.lock("multipath", deadline).map_err(Error::Locked)?;
        let mut list =
            tree.read_opt(WWIDS).map_err(Error::Tree)?.unwrap_or_else(|| "# Multipath wwids\n".to_owned());
        if list.lines().any(|l| l == line) {
            return Ok(false);
        }
        list.push_str(&line);
        list.push('\n');
        tree.ensure_dir("/etc/multipath").map_err(Error::Tree)?;
        tree.replace(WWIDS, list, 0o600).map_err(Error::Tree)?;
        Ok(true)
    }

    /// Takes the disk off multipathd's list. `multipath -w`
    pub(super) fn forget(&self, wwid: &Wwid, deadline: Deadline) -> Result<()> {
        let tree = self.host.tree();
        let line = format!("/{wwid}/");
        let _lock = self.host.lock("multipath", deadline).map_err(Error::Locked)?;
        let Some(list) = tree.read_opt(WWIDS).map_err(Error::Tree)? else { return Ok(()) };
        let kept: String = list.split_inclusive('\n').filter(|l| l.trim_end() != line).collect();
        if kept == list { Ok(()) } else { tree.replace(WWIDS, kept, 0o600).map_err(Error::Tree) }
    }

    /// Makes the map of these paths, or finds it, and waits until it takes I/O over all of them.
    pub(super) fn make_map(
        &self,
        wwid: &Wwid,
        paths: &[Path],
        target: &Iqn,
        events: &mut Events,
        deadline: Deadline,
        undo: &mut Undo,
    ) -> Result<Attached> {
        let before = self.kernel_maps()?;
        let is_path = |map: &&KernelMap| map.paths.iter().any(|p| paths.iter().any(|ours| &ours.device == p));
        // The disk behind a LUN was exchanged, and the old one's map still has its paths: whoever wrote through it would write to the new one.
        if let Some(other) = before.iter().filter(is_path).find(|map| map.wwid != wwid.as_str()) {
            let device = paths.iter().find(|ours| other.paths.contains(&ours.device));
            return Err(Error::WrongDisk {
                device: device.map_or_else(String::new, |path| path.device.clone()),
                target: target.clone(),
                found: wwid.clone(),
                expected: other.wwid.parse()?,
            });
        }
        if self.remember(wwid, deadline)? {
            undo.remembered = Some(wwid.clone());
        }
        if !before.iter().any(|map| map.wwid == wwid.as_str()) {
            undo.map = Some(wwid.clone());
        }
        let mut hints = Hints::default();
        let attached = events.until(
            &format!("a map of {wwid} with {} working paths", paths.len()),
            deadline,
            || self.map_of(wwid, paths, &mut hints, deadline),
            || self.map_seen(wwid, deadline),
        )?;
        self.takes_io(&attached.device, deadline)?;
        Ok(attached)
    }

    fn map_seen(&self, wwid: &Wwid, deadline: Deadline) -> String {
        // The deadline is over by now; the daemon gets a moment all the same.
        let deadline = deadline.max(Deadline::after(Duration::from_secs(1)));
        match self.multipath.list_or_none(deadline) {
            Err(error) => error.to_string(),
            Ok(maps) => match maps.iter().find(|map| map.wwid == wwid.as_str()) {
                None => "multipathd has no such map; is the disk on its blacklist?".to_owned(),
                Some(map) => {
                    let paths: Vec<_> = map
                        .paths()
                        .map(|p| format!("{} is {} and {}", p.device, p.state, p.checker))
                        .collect();
                    format!("{} has {}", map.name, paths.join(", "))
                }
            },
        }
    }

    /// The map, once it has all paths working and their size.
    fn map_of(
        &self,
        wwid: &Wwid,
        paths: &[Path],
        hints: &mut Hints,
        deadline: Deadline,
    ) -> Result<Option<Attached>> {
        let maps = self.multipath.list_or_none(deadline)?;
        let map = maps.iter().find(|map| map.wwid == wwid.as_str());
        for path in paths {
            let is_in_map = map.is_some_and(|m| m.paths().any(|p| p.device == path.device));
            if !is_in_map && hints.is_due(&path.device, || self.udev_knows(&path.device))? {
                // It may know the path and not its disk yet; the answer says nothing that the next look does not.
                self.multipath.client.ask(&format!("add path {}", path.device), deadline)?;
            }
        }
        let Some(map) = map.filter(|m| !m.suspended && m.working() >= paths.len()) else { return Ok(None) };
        if !paths.iter().all(|ours| map.paths().any(|p| p.device == ours.device)) {
            return Ok(None);
        }
        let size = self.size_of(&map.node)?;
        let device = PathBuf::from("/dev/mapper").join(&map.name);
        // udev makes the node a moment after the map.
        if size == 0 || !self.host.tree().exists(&device).map_err(Error::Tree)? {
            return Ok(None);
        }
        if let Some(path) = paths.iter().find(|path| path.size < size) {
            return Err(Error::Invalid {
                object: format!("/dev/mapper/{}", map.name),
                reason: format!(
                    "it has {size} bytes and its path {} has {}; resize one of them",
                    path.device, path.size
                ),
            });
        }
        let paths = paths.iter().map(|p| (p.portal, p.device.clone())).collect();
        Ok(Some(Attached::new(device, wwid.clone(), size, paths)))
    }

    /// Whether udev is done with a disk, or there is no udev. A path that multipathd is told of before, it looks at again only after
    /// `retrigger_delay`, 10 s.
    fn udev_knows(&self, device: &str) -> Result<bool> {
        let tree = self.host.tree();
        let number =
            tree.read_opt(format!("/sys/block/{device}/dev")).map_err(Error::Tree)?.unwrap_or_default();
        if !tree.exists("/run/udev/data").map_err(Error::Tree)? {
            return Ok(true);
        }
        let entry = tree.read_opt(format!("/run/udev/data/b{}", number.trim())).map_err(Error::Tree)?;
        Ok(entry.is_some_and(|text| text.contains("\nE:ID_SERIAL=")))
    }

    /// A block device's size in bytes; 0 if it is not there.
    pub(super) fn size_of(&self, node: &str) -> Result<u64> {
        let size = self.host.tree().read_opt(format!("/sys/block/{node}/size")).map_err(Error::Tree)?;
        Ok(size.and_then(|s| s.trim().parse::<u64>().ok()).map_or(0, |sectors| sectors.saturating_mul(512)))
    }

    /// Reads the first 4 KiB of a device past all caches: a map may be there and hold its I/O.
    fn takes_io(&self, device: &FilePath, deadline: Deadline) -> Result<()> {
        let (reads, path) = (self.reads, device.to_path_buf());
        let what = format!("a first read of {}", device.display());
        match bounded(&what, deadline, move || reads(&path))? {
            Ok(()) => Ok(()),
            Err(error) => Err(Error::TimedOut { what, seen: error.to_string() }),
        }
    }

    /// Removes a map that an attach made and that did not come to be used.
    pub(super) fn remove_new_map(&self, wwid: &Wwid, deadline: Deadline) -> Result<()> {
        let maps = self.kernel_maps()?;
        let Some(map) = maps.into_iter().find(|map| map.wwid == wwid.as_str()) else { return Ok(()) };
        let mut events = Events::open(&self.host)?;
        self.delete_map(&map, &mut events, deadline)
    }

    /// Has multipathd remove a map. Never device-mapper behind its back: it would go on with the map as it was.
    pub(super) fn delete_map(&self, map: &KernelMap, events: &mut Events, deadline: Deadline) -> Result<()> {
        let command = format!("del map {}", map.name);
        // udev may hold the map open for a moment after it appeared.
        let deadline = deadline.or_after(Duration::from_secs(10));
        let mut last = String::new();
        let done = events.until(
            &command,
            deadline,
            || {
                last = self.multipath.client.ask(&command, deadline)?.trim().replace('\n', " ");
                let is_done = last == "ok" || !self.has_map(&map.wwid)?;
                Ok(is_done.then_some(()))
            },
            String::new,
        );
        match done {
            Err(Error::TimedOut { .. }) => Err(Error::Busy {
                object: format!("/dev/mapper/{}", map.name),
                holders: format!("an open file or mount (multipathd: {last})"),
            }),
            other => other,
        }
    }

    /// Whether the kernel has a map of a disk: multipathd may have forgotten one that is there.
    pub(super) fn has_map(&self, wwid: &str) -> Result<bool> {
        Ok(self.kernel_maps()?.iter().any(|map| map.wwid == wwid))
    }

    /// The multipath maps as the kernel has them, from sysfs: no lock of multipathd's is in the way, and no map of another's that cannot be read.
    pub(super) fn kernel_maps(&self) -> Result<Vec<KernelMap>> {
        let tree = self.host.tree();
        let mut found = Vec::new();
        for node in tree.list_opt("/sys/block").map_err(Error::Tree)?.into_iter().map(|entry| entry.name) {
            if !node.starts_with("dm-") {
                continue;
            }
            let text = |file: &str| {
                let text = tree.read_opt(format!("/sys/block/{node}/{file}")).map_err(Error::Tree)?;
                Ok::<_, Error>(text.map(|text| text.trim().to_owned()).unwrap_or_default())
            };
            if let Some(wwid) = text("dm/uuid")?.strip_prefix("mpath-") {
                let slaves = tree.list_opt(format!("/sys/block/{node}/slaves")).map_err(Error::Tree)?;
                let (name, wwid) = (text("dm/name")?, wwid.to_owned());
                let paths = slaves.into_iter().map(|entry| entry.name).collect();
                found.push(KernelMap { node, name, wwid, paths });
            }
        }
        Ok(found)
    }

    /// Makes a map as large as its disk has become: asks every path again, waits until they agree, and has multipathd resize the map.
    /// `echo 1 > /sys/block/sdX/device/rescan` for each path, `multipathd resize map`.
    ///
    /// What lies on the map (a file system, a physical volume) is resized by whoever uses it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such map, or the disk became smaller than the map in use; [`Error::TimedOut`] if the paths do not
    /// agree.
    pub fn resize(&self, wwid: &Wwid, deadline: Deadline) -> Result<Resized> {
        let invalid = |reason: String| Err(Error::Invalid { object: wwid.to_string(), reason });
        let Some(map) = self.multipath.list()?.into_iter().find(|map| map.wwid == wwid.as_str()) else {
            return invalid("there is no map of this disk; attach it first".to_owned());
        };
        let before = self.size_of(&map.node)?;
        let mut events = Events::open(&self.host)?;
        let devices: Vec<String> = map.paths().map(|path| path.device.clone()).collect();
        for device in &devices {
            let (tree, path) = (self.host.tree().clone(), format!("/sys/block/{device}/device/rescan"));
            let what = format!("{device} to tell its size");
            bounded(&what, deadline, move || tree.write(path, "1").map_err(|error| error.source))?
                .map_err(|error| Error::TimedOut { what, seen: error.to_string() })?;
        }
        let size = events.until(
            &format!("all paths of {} to have one size", map.name),
            deadline,
            || {
                let sizes = devices.iter().map(|device| self.size_of(device)).collect::<Result<Vec<_>>>()?;
                Ok(sizes
                    .first()
                    .copied()
                    .filter(|first| *first > 0 && sizes.iter().all(|size| size == first)))
            },
            || format!("paths {}", devices.join(", ")),
        )?;
        if size < before {
            return invalid(format!(
                "the disk has {size} bytes now, less than the map's {before}; nothing was changed, make what lies on it smaller first"
            ));
        }
        if size == before {
            return Ok(Resized { before, after: size });
        }
        self.multipath.client.order(&format!("resize map {}", map.name), deadline)?;
        let after = events.until(
            &format!("{} to have {size} bytes", map.name),
            deadline,
            || Ok(Some(self.size_of(&map.node)?).filter(|now| *now == size)),
            || format!("it has {} bytes", self.size_of(&map.node).unwrap_or_default()),
        )?;
        Ok(Resized { before, after })
    }
}

/// The read of `takes_io`: 4 KiB with `O_DIRECT`, into memory that is aligned as the device wants it.
pub(crate) fn read_direct(device: &FilePath) -> io::Result<()> {
    const BLOCK: usize = 4096;
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(device)?;
    let mut memory = vec![0_u8; 2 * BLOCK];
    let begin = memory.as_ptr().align_offset(BLOCK);
    let block = memory.get_mut(begin..begin.saturating_add(BLOCK)).ok_or(io::ErrorKind::OutOfMemory)?;
    file.read_exact(block)
}
