//! Everything the checks look at.

use std::path::{Path, PathBuf};
use std::time::Duration;

use host::exec::Program;
use host::{Deadline, Tree};

use crate::shared::daemons::{Running, running};
use crate::shared::error::{Error, Result};
use crate::shared::spec::LockManager;
use crate::shared::state::{Lease, SanlockState};
use crate::shared::wire::lvm;
use crate::shared::{HostId, SharedVg};
use crate::{MapState, Multipath};

/// How long I/O waits when no path is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queueing {
    Off,
    For(Duration),
    Forever,
    Unknown,
}

/// Everything the checks look at.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) manager: LockManager,
    /// `local/host_id`; `None` for 0, which is unset.
    pub(super) configured_id: Option<HostId>,
    pub(super) use_lvmlockd: bool,
    pub(super) component_detection: bool,
    pub(super) missing: Vec<Program>,
    pub(super) running: Running,
    pub(super) sanlock: Option<SanlockState>,
    pub(super) watchdog_device: bool,
    pub(super) wdmd_enabled_by_debian: bool,
    /// The disks and the map of each, with what its I/O does.
    pub(super) devices: Vec<(PathBuf, Option<(String, Queueing)>)>,
    /// Who renews the lease on this host's number, if another host does.
    pub(super) taken: Option<String>,
    /// The hosts' leases.
    pub(super) leases: Vec<Lease>,
}

impl Facts {
    /// This host's number.
    pub(super) fn id(&self) -> Option<HostId> {
        self.manager.host_id.or(self.configured_id)
    }

    /// A number on the command line of the lvmlockd that runs.
    pub(super) fn lvmlockd_option(&self, short: &str, long: &str) -> Option<u64> {
        let words = self.running.lvmlockd.as_deref()?;
        let at = words.iter().position(|word| word == short || word == long)?;
        words.get(at + 1)?.parse().ok()
    }

    /// sanlock's I/O timeout: that in force, else that of the lvmlockd that runs, else the one that is wanted.
    pub(super) fn io_timeout(&self) -> Duration {
        let space =
            self.sanlock.iter().flat_map(|sanlock| &sanlock.spaces).find_map(|space| space.io_timeout);
        let option = self.lvmlockd_option("-o", "--sanlock-timeout").map(Duration::from_secs);
        let running = self.running.lvmlockd.is_some().then(|| option.unwrap_or(Duration::from_secs(10)));
        space.or(running).unwrap_or(self.manager.io_timeout)
    }
}

const PROGRAMS: [Program; 5] =
    [Program::LVM, Program::LVMLOCKCTL, Program::LVMLOCKD, Program::SANLOCK, Program::WDMD];

impl SharedVg {
    pub(super) fn facts(
        &self,
        multipath: &Multipath,
        device: Option<&Path>,
        deadline: Deadline,
    ) -> Result<Facts> {
        let tree = self.tools.host.tree();
        let installed = |program: &Program| {
            let dirs = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
            dirs.iter().any(|dir| tree.exists(format!("{dir}/{}", program.name)).unwrap_or(false))
        };
        let missing: Vec<_> = PROGRAMS.into_iter().filter(|program| !installed(program)).collect();
        let mut facts = Facts {
            manager: self.manager,
            configured_id: None,
            use_lvmlockd: false,
            component_detection: true,
            missing,
            running: running(tree)?,
            sanlock: None,
            watchdog_device: tree.exists("/dev/watchdog").map_err(Error::Tree)?,
            wdmd_enabled_by_debian: assigned(tree, "/etc/default/wdmd", "enabled")?.as_deref() == Some("1"),
            devices: Vec::new(),
            taken: None,
            leases: Vec::new(),
        };
        // Without the programs nothing else can be asked.
        if !facts.missing.is_empty() {
            return Ok(facts);
        }
        let text = self.settings(deadline)?;
        facts.use_lvmlockd = lvm::setting(&text, "global/use_lvmlockd").as_deref() == Some("1");
        facts.component_detection =
            lvm::setting(&text, "devices/multipath_component_detection").as_deref() != Some("0");
        facts.configured_id = configured(&text);
        if facts.running.sanlock.is_some() {
            facts.sanlock = self.sanlock(deadline)?;
        }
        let vg = self.get(deadline)?;
        let disks: Vec<_> = match (&vg, device) {
            (Some(vg), _) => vg.pvs.iter().map(|pv| pv.device.clone()).collect(),
            (None, Some(device)) => vec![device.to_owned()],
            (None, None) => Vec::new(),
        };
        let maps = multipath.list().map_err(Error::Multipath)?;
        let interval = polling_interval(tree)?;
        facts.devices = disks
            .into_iter()
            .map(|disk| {
                let map = map_of(tree, &maps, &disk).map(|map| (map.name.clone(), queueing(map, interval)));
                (disk, map)
            })
            .collect();
        if let Some(vg) = &vg {
            facts.leases = self.tools.host_leases(vg, deadline)?;
            if facts.id().is_some()
                && let Some(Error::HostIdTaken { owner, .. }) = self.taken(vg, deadline)?
            {
                facts.taken = Some(owner);
            }
        }
        Ok(facts)
    }
}

impl SharedVg {
    /// LVM's settings as its files have them: `--config` would hide what commands typed by hand see.
    fn settings(&self, deadline: Deadline) -> Result<String> {
        let names = ["global/use_lvmlockd", "local/host_id", "devices/multipath_component_detection"];
        let command = [&["lvmconfig", "--typeconfig", "full"], names.as_slice()].concat();
        let output = self.tools.host.exec().run_ok(Program::LVM, &command, deadline);
        Ok(output.map_err(Error::Exec)?.text())
    }

    /// This host's number in `/etc/lvm/lvmlocal.conf`; `None` if it is not set.
    pub(in crate::shared) fn configured_id(&self, deadline: Deadline) -> Result<Option<HostId>> {
        Ok(configured(&self.settings(deadline)?))
    }
}

fn configured(settings: &str) -> Option<HostId> {
    lvm::setting(settings, "local/host_id").and_then(|id| id.parse().ok())
}

/// The map that a device is: by its name, or by the node its link leads to.
fn map_of<'a>(tree: &Tree, maps: &'a [MapState], device: &Path) -> Option<&'a MapState> {
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let target = tree.read_link(device).ok().as_deref().and_then(last);
    let name = last(device)?;
    let is = |word: &str| word == name || target.as_deref() == Some(word);
    maps.iter().find(|map| is(&map.name) || is(&map.node) || is(&map.wwid))
}

/// How long a map queues: a number of checks, one each interval, or seconds.
fn queueing(map: &MapState, interval: Duration) -> Queueing {
    match &map.queueing {
        crate::Queueing::Off => Queueing::Off,
        crate::Queueing::Forever => Queueing::Forever,
        crate::Queueing::Retries(checks) => Queueing::For(interval * *checks),
        crate::Queueing::Seconds(left) => Queueing::For(Duration::from_secs(u64::from(*left))),
        crate::Queueing::Undecided | crate::Queueing::Other(_) => Queueing::Unknown,
    }
}

/// multipathd's `polling_interval`, in the order in which it reads its files; 5 s if none sets it. A path that failed is looked at this often.
fn polling_interval(tree: &Tree) -> Result<Duration> {
    let mut files = vec![PathBuf::from("/etc/multipath.conf")];
    let mut parts: Vec<_> = tree
        .list_opt("/etc/multipath/conf.d")
        .map_err(Error::Tree)?
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    parts.retain(|name| name.ends_with(".conf"));
    parts.sort();
    files.extend(parts.into_iter().map(|name| Path::new("/etc/multipath/conf.d").join(name)));
    let mut seconds = 5;
    for file in files {
        let text = tree.read_opt(file).map_err(Error::Tree)?.unwrap_or_default();
        let value = |line: &str| {
            let mut words = line.split_whitespace();
            let is = words.next() == Some("polling_interval");
            words.next().filter(|_| is).and_then(|word| word.trim_matches('"').parse::<u64>().ok())
        };
        seconds = text.lines().filter_map(value).next_back().unwrap_or(seconds);
    }
    Ok(Duration::from_secs(seconds.max(1)))
}

/// A variable of a file in `/etc/default`.
fn assigned(tree: &Tree, file: &str, name: &str) -> Result<Option<String>> {
    let text = tree.read_opt(file).map_err(Error::Tree)?.unwrap_or_default();
    let value = |line: &str| {
        line.trim().strip_prefix(name)?.strip_prefix('=').map(|v| v.trim_matches('"').to_owned())
    };
    Ok(text.lines().filter_map(value).next_back())
}
