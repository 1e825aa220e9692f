//! Maps without multipathd, for appliances and initramfs.

use std::collections::BTreeSet;
use std::time::Duration;

use host::dm::Target;
use host::{Deadline, DmName, Sectors, Wwid};

use super::{Kernel, OURS, WhenNoPath, failed, sysfs};
use crate::Client;
use crate::error::{Error, Result};
use crate::name::PathName;
use crate::state::MapState;
use crate::wire::table::{Selector, Table, TableGroup, TablePath};

/// The paths of one group, by device name ("sdb") or number ("8:16"), the better first.
pub type Paths = Vec<PathName>;

/// A map that is to be made without multipathd.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MapSpec {
    /// Its name: `/dev/mapper/NAME`.
    pub name: DmName,
    /// The disk.
    pub wwid: Wwid,
    /// Its path groups, the preferred one first.
    pub groups: Vec<Paths>,
    /// How a path of a group is chosen; service-time by default.
    pub selector: Selector,
    /// The handler of the target's commands to move LUNs: "alua". None by default: LIO needs none.
    pub handler: Option<String>,
    /// What happens to I/O when no path is left. `Fail` by default: nothing here ends the waiting.
    pub when_no_path: WhenNoPath,
}

impl MapSpec {
    /// A map of one group.
    #[must_use]
    pub fn new(name: DmName, wwid: Wwid, paths: impl IntoIterator<Item = PathName>) -> Self {
        Self {
            name,
            wwid,
            groups: vec![paths.into_iter().collect()],
            selector: Selector::ServiceTime,
            handler: None,
            when_no_path: WhenNoPath::Fail,
        }
    }

    /// The same map with another group, used when those before have no path left.
    #[must_use]
    pub fn with_group(mut self, paths: impl IntoIterator<Item = PathName>) -> Self {
        self.groups.push(paths.into_iter().collect());
        self
    }

    /// The same map with another way of choosing paths.
    #[must_use]
    pub fn with_selector(mut self, selector: Selector) -> Self {
        self.selector = selector;
        self
    }

    /// The same map with this handler: "alua".
    #[must_use]
    pub fn with_handler(mut self, handler: impl Into<String>) -> Self {
        self.handler = Some(handler.into());
        self
    }

    /// The same map that does this when no path is left.
    #[must_use]
    pub fn with_when_no_path(mut self, when_no_path: WhenNoPath) -> Self {
        self.when_no_path = when_no_path;
        self
    }
}

impl Kernel {
    /// Makes a map without multipathd; `dmsetup create`. For machines that have none: an appliance, an initramfs, a test.
    ///
    /// **What is lost.** The kernel fails a path at its first error and never reinstates it: that is up to the caller
    /// ([`reinstate_path`](Self::reinstate_path)). Nothing checks paths that carry no I/O, nothing follows ALUA's states to another group, nothing
    /// ends queueing but [`set_queue_timeout`](Self::set_queue_timeout), nothing takes up a path that appears or lets one go that vanishes, no
    /// partitions and no links in `/dev/disk` are made of the map, and udev still shows the paths themselves to LVM and to whoever scans disks.
    ///
    /// The UUID begins with `sankit-mpath-`: a multipathd that is started later leaves the map alone. Paths are checked first: all there, of one
    /// size, of the named disk as far as they tell, none twice.
    ///
    /// # Errors
    /// [`Error::Invalid`]: multipathd runs here (let it make the map), or the paths do not fit together. [`Error::Exists`]: there is a map of
    /// that name or disk. [`Error::Busy`] names what stands on a path. [`Error::Mapper`]: EBUSY if a path is mounted. Nothing is left of a map that could not be made.
    pub fn create(&self, spec: &MapSpec) -> Result<MapState> {
        self.refuse_beside_daemon(spec.name.as_str())?;
        let dm = self.host.dm();
        let taken = self.get(&spec.wwid)?.map(|map| map.name);
        let named = dm
            .info(&spec.name)
            .map_err(failed("look for", &spec.name))?
            .map(|info| info.device.name.to_string());
        if let Some(name) = taken.or(named) {
            return Err(Error::Exists { object: format!("/dev/mapper/{name}") });
        }
        let (table, size) = self.table_of(spec)?;
        log::debug!("multipath: create {}: 0 {} multipath {table}", spec.name, size.0);
        dm.create(&spec.name, &format!("{OURS}{}", spec.wwid)).map_err(failed("create", &spec.name))?;
        let line = Target::new(Sectors(0), size, "multipath", table.to_string());
        let made = dm
            .load(&spec.name, &[line])
            .map_err(failed("load the table of", &spec.name))
            .and_then(|()| dm.resume(&spec.name).map_err(failed("resume", &spec.name)))
            .and_then(|()| self.get(&spec.wwid));
        match made {
            Ok(Some(map)) => Ok(map),
            Ok(None) => Err(Error::Invalid {
                object: spec.name.path().display().to_string(),
                reason: "it was removed by somebody else as soon as it was made".to_owned(),
            }),
            Err(error) => {
                if let Err(left) = dm.remove(&spec.name) {
                    log::warn!("multipath: the unfinished map {} is left: {left}", spec.name);
                }
                Err(error)
            }
        }
    }

    /// Removes a map that [`create`](Self::create) made; `dmsetup remove`. `false` if there was none. I/O that waits for a path is failed first.
    ///
    /// # Errors
    /// [`Error::Busy`] names what stands on it. [`Error::Invalid`]: it is multipathd's, which loses count of its paths when somebody else removes
    /// its maps.
    pub fn remove(&self, name: &DmName) -> Result<bool> {
        let dm = self.host.dm();
        let Some(info) = dm.info(name).map_err(failed("look for", name))? else { return Ok(false) };
        let object = name.path().display().to_string();
        if !info.device.uuid.as_deref().is_some_and(|uuid| uuid.starts_with(OURS)) {
            let reason = "it was not made here; remove a map of multipathd through multipathd".to_owned();
            return Err(Error::Invalid { object, reason });
        }
        if info.open_count > 0 {
            let path = format!("/sys/block/dm-{}/holders", info.device.number.minor);
            let holders = self.host.tree().list_opt(path).map_err(Error::Tree)?;
            let names: Vec<_> = holders.into_iter().map(|entry| entry.name).collect();
            let holders = match names.is_empty() {
                true => "an open file or mount".to_owned(),
                false => names.join(", "),
            };
            return Err(Error::Busy { object, holders });
        }
        let queued = self.table(name)?.is_some_and(|table| table.features.queue_if_no_path);
        if queued {
            self.set_when_no_path(name, WhenNoPath::Fail)?;
        }
        log::debug!("multipath: remove {name}");
        match dm.remove(name) {
            Ok(()) => Ok(true),
            Err(source) => {
                if queued && let Err(error) = self.set_when_no_path(name, WhenNoPath::Queue) {
                    log::warn!("multipath: {name} fails I/O without a path now: {error}");
                }
                Err(failed("remove", name)(source))
            }
        }
    }

    fn refuse_beside_daemon(&self, name: &str) -> Result<()> {
        // A captured or fake machine has no daemon.
        if self.host.run_dir().is_none() {
            return Ok(());
        }
        match Client::live().version(Deadline::after(Duration::from_secs(1))) {
            Err(Error::NoDaemon(_)) => Ok(()),
            _ => Err(Error::Invalid {
                object: name.to_owned(),
                reason: "multipathd runs here and would take the paths; let it make the map, or stop it"
                    .to_owned(),
            }),
        }
    }

    /// The table of a map, and its size: that of its paths.
    fn table_of(&self, spec: &MapSpec) -> Result<(Table, Sectors)> {
        let bad = |object: &str, reason: String| Err(Error::Invalid { object: object.to_owned(), reason });
        let mut seen = BTreeSet::new();
        let mut size: Option<u64> = None;
        let mut groups = Vec::new();
        for group in &spec.groups {
            if group.is_empty() {
                return bad(spec.name.as_str(), "each group has at least one path".to_owned());
            }
            let mut paths = Vec::new();
            for path in group {
                let (number, sectors) = self.block_device(path, &spec.wwid)?;
                if !seen.insert(number.clone()) {
                    return bad(path.as_str(), "it is named twice".to_owned());
                }
                match size {
                    Some(size) if size != sectors => {
                        return bad(
                            path.as_str(),
                            format!(
                                "it has {sectors} sectors and the path before {size}; rescan or leave it out"
                            ),
                        );
                    }
                    _ => size = Some(sectors),
                }
                paths.push(TablePath::new(number));
            }
            groups.push(TableGroup::new(spec.selector.clone(), paths));
        }
        let Some(size) = size.filter(|size| *size > 0) else {
            return bad(spec.name.as_str(), "give at least one path with a size".to_owned());
        };
        let mut table = Table::new(groups);
        table.features.queue_if_no_path = spec.when_no_path == WhenNoPath::Queue;
        if let Some(handler) = &spec.handler {
            table = table.with_handler(handler);
        }
        Ok((table, Sectors(size)))
    }

    /// Number and size, in sectors of 512 bytes, of a path; refused if it says that it is another disk.
    fn block_device(&self, path: &PathName, expected: &Wwid) -> Result<(String, u64)> {
        let tree = self.host.tree();
        let invalid = |reason: String| Error::Invalid { object: path.to_string(), reason };
        let name = match path.as_str().contains(':') {
            true => tree
                .read_link(format!("/sys/dev/block/{path}"))
                .ok()
                .and_then(|place| place.file_name().map(|name| name.to_string_lossy().into_owned())),
            false => Some(path.to_string()),
        };
        let name = name.ok_or_else(|| invalid("there is no such block device".to_owned()))?;
        let place = format!("/sys/class/block/{name}");
        let number = sysfs::fading(tree, &format!("{place}/dev"))?;
        let size = sysfs::fading(tree, &format!("{place}/size"))?.and_then(|size| size.parse().ok());
        let text = sysfs::fading(tree, &format!("{place}/device/wwid"))?;
        // The kernel lets two maps share a path: each would believe itself alone.
        let holders = tree.list_opt(format!("{place}/holders")).map_err(Error::Tree)?;
        if !holders.is_empty() {
            let names: Vec<_> = holders.into_iter().map(|entry| entry.name).collect();
            return Err(Error::Busy { object: path.to_string(), holders: names.join(", ") });
        }
        match text.and_then(|text| Wwid::from_sysfs(&text).ok()) {
            Some(found) if !crate::may_be_same(&found, expected) => {
                Err(invalid(format!("it is disk {found}, not {expected}")))
            }
            _ => number.zip(size).ok_or_else(|| invalid("there is no such block device".to_owned())),
        }
    }
}
