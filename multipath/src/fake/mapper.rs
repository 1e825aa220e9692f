//! A device-mapper in memory with multipath maps, and faults for paths, in memory or real.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host::dm::{DevNum, Device, Inflight, Info, Mapper, Target};
use host::{DmName, Host, Sectors};

use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::name::PathName;
use crate::state::{GroupPhase, PathState};
use crate::wire::table::{Status, StatusGroup, StatusPath, Table};

#[derive(Debug, Clone)]
struct Map {
    number: u32,
    uuid: String,
    event: u32,
    open_count: u32,
    suspended: bool,
    active: Vec<Target>,
    loaded: Option<Vec<Target>>,
    failed: BTreeMap<String, u32>,
    down: BTreeSet<String>,
}

/// A device-mapper in memory; clones are the same. Its maps answer messages as the kernel's do, and count failures.
///
/// ```
/// use host::Host;
/// use multipath::fake::FakeMapper;
/// let mapper = FakeMapper::new().with_map("mpatha", "mpath-36001405aa", 2048, "0 0 1 1 service-time 0 2 1 8:16 1 8:32 1");
/// let host = Host::fake().with_dm(host::dm::Backend::of(mapper));
/// assert_eq!(multipath::Kernel::on(&host).list()?.first().map(|map| map.working()), Some(2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct FakeMapper(Arc<Mutex<BTreeMap<String, Map>>>);

fn errno<T>(number: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}

impl FakeMapper {
    /// A device-mapper without devices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives it a map with this table, of so many sectors.
    #[must_use]
    pub fn with_map(self, name: &str, uuid: &str, sectors: u64, table: &str) -> Self {
        let line = Target::new(Sectors(0), Sectors(sectors), "multipath", table);
        self.insert(name, uuid, vec![line]);
        self
    }

    /// Somebody opens a map, or closes it: how many have it open.
    pub fn hold(&self, name: &str, count: u32) {
        if let Some(map) = self.maps().get_mut(name) {
            map.open_count = count;
        }
    }

    fn insert(&self, name: &str, uuid: &str, active: Vec<Target>) {
        let mut maps = self.maps();
        let number = (0..).find(|n| maps.values().all(|map| map.number != *n)).unwrap_or_default();
        let map = Map {
            number,
            uuid: uuid.to_owned(),
            event: 0,
            open_count: 0,
            suspended: false,
            active,
            loaded: None,
            failed: BTreeMap::new(),
            down: BTreeSet::new(),
        };
        maps.insert(name.to_owned(), map);
    }

    fn maps(&self) -> MutexGuard<'_, BTreeMap<String, Map>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: &DmName, act: impl FnOnce(&mut Map) -> io::Result<T>) -> io::Result<T> {
        self.maps().get_mut(name.as_str()).map_or_else(|| errno(libc::ENXIO), act)
    }
}

impl Map {
    fn device(&self, name: &str) -> Device {
        let number = DevNum { major: 254, minor: self.number };
        let uuid = Some(self.uuid.clone()).filter(|uuid| !uuid.is_empty());
        let mut device = Device::new(DmName::from_kernel(name), number, uuid);
        device.event = self.event;
        device
    }

    fn status(&self, params: &str) -> String {
        let Ok(table) = params.parse::<Table>() else { return String::new() };
        let path = |path: &crate::table::TablePath| StatusPath {
            device: path.device.clone(),
            state: if self.down.contains(&path.device) { PathState::Failed } else { PathState::Active },
            failures: self.failed.get(&path.device).copied().unwrap_or_default(),
            selector: Vec::new(),
        };
        let groups = table.groups.iter().map(|group| StatusGroup {
            state: GroupPhase::Enabled,
            selector: Vec::new(),
            paths: group.paths.iter().map(path).collect(),
        });
        let status = Status {
            holds_io: false,
            initialising: 0,
            next_group: table.initial_group,
            groups: groups.collect(),
        };
        status.to_string()
    }

    fn message(&mut self, words: &[&str]) -> io::Result<()> {
        let Some(line) = self.active.first_mut() else { return errno(libc::EINVAL) };
        let Ok(mut table) = line.params.parse::<Table>() else { return errno(libc::EINVAL) };
        let known = |path: &str| table.groups.iter().flat_map(|group| &group.paths).any(|p| p.device == path);
        match words {
            ["fail_path", path] if known(path) => {
                if self.down.insert((*path).to_owned()) {
                    *self.failed.entry((*path).to_owned()).or_default() += 1;
                }
            }
            ["reinstate_path", path] if known(path) => {
                self.down.remove(*path);
            }
            ["queue_if_no_path" | "fail_if_no_path"] => {
                table.features.queue_if_no_path = words.first() == Some(&"queue_if_no_path");
                line.params = table.to_string();
            }
            ["switch_group" | "enable_group" | "disable_group", group] => {
                let group: usize = group.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
                if group == 0 || group > table.groups.len() {
                    return errno(libc::EINVAL);
                }
            }
            _ => return errno(libc::EINVAL),
        }
        self.event += 1;
        Ok(())
    }
}

impl Mapper for FakeMapper {
    fn list(&self) -> io::Result<Vec<Device>> {
        Ok(self.maps().iter().map(|(name, map)| map.device(name)).collect())
    }

    fn info(&self, name: &DmName) -> io::Result<Option<Info>> {
        Ok(self.maps().get(name.as_str()).map(|map| {
            let mut info = Info::new(map.device(name.as_str()), map.suspended, !map.active.is_empty());
            info.open_count = map.open_count;
            info
        }))
    }

    fn table(&self, name: &DmName) -> io::Result<Vec<Target>> {
        self.with(name, |map| Ok(map.active.clone()))
    }

    fn status(&self, name: &DmName) -> io::Result<Vec<Target>> {
        self.with(name, |map| {
            let line = |line: &Target| {
                Target::new(line.start, line.length, line.kind.as_str(), map.status(&line.params))
            };
            Ok(map.active.iter().map(line).collect())
        })
    }

    fn message(&self, name: &DmName, _: Sectors, text: &str) -> io::Result<()> {
        let words: Vec<_> = text.split(' ').collect();
        self.with(name, |map| map.message(&words))
    }

    fn create(&self, name: &DmName, uuid: &str) -> io::Result<()> {
        let taken = self.maps().iter().any(|(n, map)| n == name.as_str() || map.uuid == uuid);
        match taken {
            true => errno(libc::EBUSY),
            false => {
                self.insert(name.as_str(), uuid, Vec::new());
                Ok(())
            }
        }
    }

    fn load(&self, name: &DmName, table: &[Target]) -> io::Result<()> {
        let fits = |line: &Target| line.kind != "multipath" || line.params.parse::<Table>().is_ok();
        self.with(name, |map| match table.iter().all(fits) {
            true => {
                map.loaded = Some(table.to_vec());
                Ok(())
            }
            false => errno(libc::EINVAL),
        })
    }

    fn suspend(&self, name: &DmName, _: Inflight) -> io::Result<()> {
        self.with(name, |map| {
            map.suspended = true;
            Ok(())
        })
    }

    fn resume(&self, name: &DmName) -> io::Result<()> {
        self.with(name, |map| {
            map.suspended = false;
            if let Some(loaded) = map.loaded.take() {
                map.active = loaded;
                map.failed.clear();
                map.down.clear();
            }
            Ok(())
        })
    }

    fn remove(&self, name: &DmName) -> io::Result<()> {
        self.with(name, |map| if map.open_count > 0 { errno(libc::EBUSY) } else { Ok(()) })?;
        self.maps().remove(name.as_str());
        Ok(())
    }
}

/// Breaks paths and mends them, to see what stands on them bear it: real ones on a live machine, those of a [`FakeMapper`] in memory.
#[derive(Debug, Clone)]
pub struct Faults {
    host: Host,
}

impl Faults {
    /// Faults on a machine.
    #[must_use]
    pub fn on(host: &Host) -> Self {
        Self { host: host.clone() }
    }

    /// Makes the kernel fail a path, by number ("8:16"): `dmsetup message MAP 0 "fail_path 8:16"`. A multipathd reinstates it at its next check.
    ///
    /// # Errors
    /// As [`Kernel::fail_path`].
    pub fn fail(&self, map: &DmName, path: &PathName) -> Result<()> {
        Kernel::on(&self.host).fail_path(map, path)
    }

    /// Makes the kernel use a path again.
    ///
    /// # Errors
    /// As [`Kernel::reinstate_path`].
    pub fn reinstate(&self, map: &DmName, path: &PathName) -> Result<()> {
        Kernel::on(&self.host).reinstate_path(map, path)
    }

    /// Takes a SCSI disk ("sdb") offline: all its I/O fails from now on, and every checker sees it.
    ///
    /// # Errors
    /// [`Error::Tree`]: it is no SCSI disk, or not running.
    pub fn offline(&self, device: &str) -> Result<()> {
        self.set(device, "offline")
    }

    /// Lets a SCSI disk run again.
    ///
    /// # Errors
    /// As [`offline`](Self::offline).
    pub fn online(&self, device: &str) -> Result<()> {
        self.set(device, "running")
    }

    fn set(&self, device: &str, state: &str) -> Result<()> {
        self.host.tree().write(format!("/sys/block/{device}/device/state"), state).map_err(Error::Tree)
    }
}
