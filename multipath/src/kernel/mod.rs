//! The maps as the kernel has them: device-mapper's ioctls and sysfs. Neither multipathd nor the lock it holds while a path hangs is in the way.

#[cfg(feature = "embedded")]
mod create;
pub(crate) mod sysfs;

use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

use host::dm::{Device, Info, Lines, Target};
use host::{Bytes, DmName, Host, Sectors, Wwid};

#[cfg(feature = "embedded")]
pub use create::{MapSpec, Paths};

use crate::error::{Error, Result};
use crate::name::PathName;
use crate::state::{GroupState, MapState, PathInfo, PathState, Queueing};
use crate::wire::table::{Status, Table};

/// How long the kernel lets I/O wait by itself, whatever multipathd does (since 5.6).
const QUEUE_TIMEOUT: &str = "/sys/module/dm_multipath/parameters/queue_if_no_path_timeout_secs";
/// What the UUIDs of maps begin with: multipathd's, and those made here, which multipathd leaves alone.
const PREFIXES: [&str; 2] = ["mpath-", OURS];
const OURS: &str = "sankit-mpath-";

/// What a map does with I/O when no path is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhenNoPath {
    /// It fails.
    Fail,
    /// It waits, until a path is back or this is set to `Fail`.
    Queue,
}

/// The multipath maps in the kernel. Needs `CAP_SYS_ADMIN`, and no daemon.
///
/// ```no_run
/// for map in multipath::Kernel::new().list()? {
///     println!("{} {} of {} paths", map.name, map.working(), map.paths().count());
/// }
/// # Ok::<(), multipath::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Kernel {
    pub(crate) host: Host,
}

impl Kernel {
    /// The maps of this machine.
    #[must_use]
    pub fn new() -> Self {
        Self::on(&Host::live())
    }

    /// The maps of a machine.
    #[must_use]
    pub fn on(host: &Host) -> Self {
        Self { host: host.clone() }
    }

    /// Lists all maps with their paths, sorted by name; `dmsetup table`, `dmsetup status`, and what sysfs says of each path. One ioctl for the
    /// list and two a map. A map that goes away meanwhile is left out.
    ///
    /// Checkers, priorities, counters and the time that I/O waits are multipathd's and not known here.
    ///
    /// # Errors
    /// [`Error::Mapper`]: not root; a table that cannot be read.
    pub fn list(&self) -> Result<Vec<MapState>> {
        let mut maps = Vec::new();
        for device in self.devices()? {
            maps.extend(self.map(&device)?);
        }
        maps.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(maps)
    }

    /// The map of a disk; `None` if there is none.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn get(&self, wwid: &Wwid) -> Result<Option<MapState>> {
        match self.devices()?.iter().find(|device| self::wwid(device) == Some(wwid.as_str())) {
            Some(device) => self.map(device),
            None => Ok(None),
        }
    }

    /// The map of this name; `None` if there is none, or it is no multipath map.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn get_by_name(&self, name: &DmName) -> Result<Option<MapState>> {
        match self.host.dm().look(name, Lines::Table).map_err(failed("read the table of", name))? {
            Some((info, table)) => self.state(&info, &table),
            None => Ok(None),
        }
    }

    /// The table of a map; `dmsetup table`. `None` if there is no such map.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn table(&self, name: &DmName) -> Result<Option<Table>> {
        let found = self.host.dm().look(name, Lines::Table).map_err(failed("read the table of", name))?;
        found.and_then(|(_, lines)| line(lines)).map(|line| read(&line.params)).transpose()
    }

    /// The status of a map; `dmsetup status`. `None` if there is no such map.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn status(&self, name: &DmName) -> Result<Option<Status>> {
        let found = self.host.dm().look(name, Lines::Status).map_err(failed("read the status of", name))?;
        found.and_then(|(_, lines)| line(lines)).map(|line| read(&line.params)).transpose()
    }

    /// Fails a path: I/O goes over the others; `dmsetup message MAP 0 "fail_path 8:16"`. `path` is a number ("8:16"). A multipathd that runs
    /// reinstates it at its next check, if that succeeds: [`Multipath::fail_path`](crate::Multipath::fail_path) stops it from that.
    ///
    /// # Errors
    /// [`Error::Mapper`]: EINVAL if the path is not in the map.
    pub fn fail_path(&self, map: &DmName, path: &PathName) -> Result<()> {
        self.message(map, &format!("fail_path {path}"))
    }

    /// Uses a path again; `dmsetup message MAP 0 "reinstate_path 8:16"`. The kernel never does so by itself.
    ///
    /// # Errors
    /// As [`fail_path`](Self::fail_path).
    pub fn reinstate_path(&self, map: &DmName, path: &PathName) -> Result<()> {
        self.message(map, &format!("reinstate_path {path}"))
    }

    /// Makes a group, counted from 1, the one in use.
    ///
    /// # Errors
    /// [`Error::Mapper`]: EINVAL if there is no such group.
    pub fn switch_group(&self, map: &DmName, group: NonZeroU32) -> Result<()> {
        self.message(map, &format!("switch_group {group}"))
    }

    /// Lets a group, counted from 1, be used again.
    ///
    /// # Errors
    /// As [`switch_group`](Self::switch_group).
    pub fn enable_group(&self, map: &DmName, group: NonZeroU32) -> Result<()> {
        self.message(map, &format!("enable_group {group}"))
    }

    /// Passes a group, counted from 1, over while another one works.
    ///
    /// # Errors
    /// As [`switch_group`](Self::switch_group).
    pub fn disable_group(&self, map: &DmName, group: NonZeroU32) -> Result<()> {
        self.message(map, &format!("disable_group {group}"))
    }

    /// Says what happens to I/O when no path is left; what waits already is failed by `Fail`. `dmsetup message MAP 0 fail_if_no_path`.
    ///
    /// # Errors
    /// [`Error::Mapper`].
    pub fn set_when_no_path(&self, map: &DmName, what: WhenNoPath) -> Result<()> {
        self.message(
            map,
            match what {
                WhenNoPath::Fail => "fail_if_no_path",
                WhenNoPath::Queue => "queue_if_no_path",
            },
        )
    }

    /// How long I/O of any map waits for a path before the kernel itself fails it; `None`, the kernel's default: for ever.
    /// `queue_if_no_path_timeout_secs` of the module `dm_multipath`.
    ///
    /// # Errors
    /// [`Error::Tree`]: the module is not loaded.
    pub fn queue_timeout(&self) -> Result<Option<Duration>> {
        let text = self.host.tree().read(QUEUE_TIMEOUT).map_err(Error::Tree)?;
        let seconds = text.trim().parse().map_err(|_| Error::Invalid {
            object: QUEUE_TIMEOUT.to_owned(),
            reason: format!("{text:?} is no number"),
        })?;
        Ok(Some(Duration::from_secs(seconds)).filter(|time| !time.is_zero()))
    }

    /// Sets how long I/O waits for a path, in whole seconds; `None`: for ever. A safety net for all maps of the machine: where multipathd ends or
    /// hangs, nothing else ends the waiting. Takes effect when the last path of a map fails.
    ///
    /// # Errors
    /// [`Error::Tree`]; [`Error::Invalid`] for less than a second.
    pub fn set_queue_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        let seconds = timeout.map_or(0, |time| time.as_secs());
        if timeout.is_some() && seconds == 0 {
            let reason = "give at least a second, or None for no limit".to_owned();
            return Err(Error::Invalid { object: QUEUE_TIMEOUT.to_owned(), reason });
        }
        self.host.tree().write(QUEUE_TIMEOUT, seconds.to_string()).map_err(Error::Tree)
    }

    fn message(&self, map: &DmName, text: &str) -> Result<()> {
        log::debug!("multipath: {map}: {text}");
        self.host.dm().message(map, Sectors(0), text).map_err(failed("tell the target of", map))
    }

    pub(crate) fn devices(&self) -> Result<Vec<Device>> {
        let devices = self.host.dm().list().map_err(|source| Error::Mapper {
            what: "list the devices of".to_owned(),
            object: "/dev/mapper/control".to_owned(),
            source,
        })?;
        Ok(devices.into_iter().filter(|device| wwid(device).is_some()).collect())
    }

    fn map(&self, device: &Device) -> Result<Option<MapState>> {
        let found = self.host.dm().look(&device.name, Lines::Table);
        match found.map_err(failed("read the table of", &device.name))? {
            Some((info, table)) => self.state(&info, &table),
            None => Ok(None),
        }
    }

    /// A map of its table, its status and its paths in sysfs.
    fn state(&self, info: &Info, table: &[Target]) -> Result<Option<MapState>> {
        let name = &info.device.name;
        let Some(wwid) = wwid(&info.device) else { return Ok(None) };
        let mut map = MapState::new(name.as_str(), wwid, format!("dm-{}", info.device.number.minor));
        map.suspended = info.suspended;
        map.read_only = Some(info.read_only);
        map.open_count = Some(info.open_count);
        // A map that was made and has not got its table yet.
        let Some(line) = table.iter().find(|line| line.kind == "multipath") else { return Ok(Some(map)) };
        let table: Table = read(&line.params)?;
        let found = self.host.dm().look(name, Lines::Status).map_err(failed("read the status of", name))?;
        let Some((_, lines)) = found else { return Ok(None) };
        let status: Option<Status> = self::line(lines).map(|line| read(&line.params)).transpose()?;
        map.size = Some(Bytes(line.length.0.saturating_mul(512)));
        map.features = table.features.to_string();
        map.queueing = if table.features.queue_if_no_path { Queueing::Forever } else { Queueing::Off };
        map.handler = match table.handler.as_slice() {
            [] => "0".to_owned(),
            words => format!("{} {}", words.len(), words.join(" ")),
        };
        self.groups(&mut map, &table, status.as_ref())?;
        Ok(Some(map))
    }

    fn groups(&self, map: &mut MapState, table: &Table, status: Option<&Status>) -> Result<()> {
        for (n, group) in table.groups.iter().enumerate() {
            let seen = status.and_then(|status| status.groups.get(n));
            let mut paths = Vec::new();
            for path in &group.paths {
                // A table that was loaded between the two looks has other paths.
                let seen = seen.and_then(|group| group.paths.iter().find(|p| p.device == path.device));
                let state = seen.map_or(PathState::Undefined, |seen| seen.state.clone());
                let mut info = PathInfo::new("", path.device.as_str(), state);
                info.failures = seen.map(|seen| seen.failures);
                sysfs::complete(self.host.tree(), &mut info)?;
                paths.push(info);
            }
            let state = seen.map_or(crate::GroupPhase::Undefined, |group| group.state.clone());
            map.groups.push(GroupState::new(state, -1, group.selector.to_string(), paths));
        }
        let first = map.paths().find(|path| !path.device.is_empty()).map(|path| path.device.clone());
        if let Some(device) = first {
            (map.vendor, map.product, map.revision) = sysfs::product(self.host.tree(), &device)?;
        }
        Ok(())
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

/// The disk of a multipath map; `None` for another kind of device.
fn wwid(device: &Device) -> Option<&str> {
    let uuid = device.uuid.as_deref()?;
    PREFIXES.iter().find_map(|prefix| uuid.strip_prefix(prefix))
}

fn line(lines: Vec<Target>) -> Option<Target> {
    lines.into_iter().find(|line| line.kind == "multipath")
}

fn read<T: std::str::FromStr<Err = host::ParseError>>(text: &str) -> Result<T> {
    Ok(text.parse()?)
}

fn failed(what: &'static str, map: &DmName) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Mapper { what: what.to_owned(), object: map.path().display().to_string(), source }
}
