//! What there is: groups, lockspaces, hosts, leases.

use std::path::{Path, PathBuf};

use host::exec::{self, Program};
use host::{Deadline, Host};

use super::error::{Error, Result};
use super::name::mapper_path;
use super::run::{Tools, explain};
use super::spec::{Activation, LockManager};
use super::state::{
    Holder, HostState, Lease, LockType, LockspaceState, LvState, PvState, SanlockState, VgState,
};
use super::wire::{lvm, lvmlockd, sanlock};
use super::{HostId, SharedVg};

/// Which fields: an explicit list, so that no configuration of LVM's reports changes what comes.
const REPORT: &[&str] = &[
    "--all",
    "--reportformat",
    "json",
    "--units",
    "b",
    "--nosuffix",
    "--configreport",
    "vg",
    "-o",
    "vg_name,vg_uuid,vg_size,vg_free,vg_extent_size,vg_lock_type",
    "--configreport",
    "pv",
    "-o",
    "pv_name,pv_size,pv_free,pe_start",
    "--configreport",
    "lv",
    "-o",
    "lv_name,lv_uuid,lv_size,lv_active,lv_device_open,lv_lockargs",
    "--configreport",
    "pvseg",
    "-o",
    "pvseg_start",
    "--configreport",
    "seg",
    "-o",
    "lv_uuid,seg_start,devices",
];
/// The size of a lease's area on disks with sectors of 512 bytes; 2000 hosts' leases fit, too.
const AREA: u64 = 1 << 20;

fn unread(program: &str) -> impl Fn(String) -> Error + '_ {
    move |reason| Error::Answer { program: program.to_owned(), reason }
}

/// The groups of a report: each is an element of its own.
fn groups(text: &str, spaces: &[LockspaceState]) -> std::result::Result<Vec<VgState>, String> {
    lvm::parts(text)?
        .into_iter()
        .filter(|part| !part.rows("vg").is_empty())
        .map(|part| group(&part, spaces))
        .collect()
}

fn group(part: &lvm::Part, spaces: &[LockspaceState]) -> std::result::Result<VgState, String> {
    let vg = part.rows("vg").first().ok_or("a report without a group")?;
    let name = vg.text("vg_name")?;
    let space = spaces.iter().find(|space| space.vg == name);
    let mut lvmlock = None;
    let mut lvs: Vec<LvState> = Vec::new();
    for row in part.rows("lv") {
        let shown = row.text("lv_name")?;
        let uuid = row.text("lv_uuid")?;
        // What is hidden is shown in brackets: "[lvmlock]".
        let hidden = shown.starts_with('[');
        let lv_name = shown.trim_matches(['[', ']']);
        let state = LvState {
            name: lv_name.to_owned(),
            uuid: uuid.to_owned(),
            size: row.bytes("lv_size")?,
            active: row.text("lv_active")? == "active",
            open: row.text("lv_device_open")? == "open",
            lock: space.and_then(|space| space.lv_mode(uuid)).cloned(),
            lock_args: row.text("lv_lockargs")?.to_owned(),
            devices: first_segment(part, uuid)?.to_owned(),
            path: PathBuf::from(mapper_path(name, lv_name)),
        };
        match (lv_name, hidden) {
            ("lvmlock", _) => lvmlock = Some(state),
            (_, true) => {}
            (_, false) => lvs.push(state),
        }
    }
    let pv = |row: &lvm::Row| -> std::result::Result<PvState, String> {
        Ok(PvState {
            device: row.text("pv_name")?.into(),
            size: row.bytes("pv_size")?,
            free: row.bytes("pv_free")?,
            start: row.bytes("pe_start")?,
        })
    };
    Ok(VgState {
        name: name.to_owned(),
        uuid: vg.text("vg_uuid")?.to_owned(),
        size: vg.bytes("vg_size")?,
        free: vg.bytes("vg_free")?,
        extent: vg.bytes("vg_extent_size")?,
        // LVM writes nothing for a group of one host.
        lock_type: match vg.text("vg_lock_type")? {
            "" => LockType::None,
            word => LockType::from_word(word),
        },
        started: space.is_some(),
        pvs: part.rows("pv").iter().map(pv).collect::<std::result::Result<_, _>>()?,
        lvs,
        lvmlock,
    })
}

/// Where a volume begins. One that has no segments (none is known) begins nowhere.
fn first_segment<'a>(part: &'a lvm::Part, uuid: &str) -> std::result::Result<&'a str, String> {
    for row in part.rows("seg") {
        if row.text("lv_uuid")? == uuid && row.bytes("seg_start")?.0 == 0 {
            return row.text("devices");
        }
    }
    Ok("")
}

impl Tools {
    /// The lockspaces of lvmlockd; `None` if it does not run.
    pub(super) fn lockspaces(&self, deadline: Deadline) -> Result<Option<Vec<LockspaceState>>> {
        match self.host.exec().run_ok(Program::LVMLOCKCTL, &["--info"], deadline) {
            Ok(output) => Ok(Some(lvmlockd::info(&output.text()))),
            Err(exec::Error::Failed { .. }) => Ok(None),
            Err(error) => Err(Error::Exec(error)),
        }
    }

    /// The sanlock of this host; `None` if it does not run.
    pub(super) fn sanlock(&self, deadline: Deadline) -> Result<Option<SanlockState>> {
        match self.host.exec().run_ok(Program::SANLOCK, &["client", "status", "-D"], deadline) {
            Ok(output) => Ok(sanlock::status(&output.text())),
            Err(exec::Error::Failed { .. }) => Ok(None),
            Err(error) => Err(Error::Exec(error)),
        }
    }

    /// All groups, or the one of this name.
    pub(super) fn groups(&self, name: Option<&str>, deadline: Deadline) -> Result<Vec<VgState>> {
        let spaces = match self.lockspaces(deadline) {
            Ok(spaces) => spaces.unwrap_or_default(),
            // Who has no lvmlockd can read all the same.
            Err(Error::Exec(exec::Error::NotInstalled { .. })) => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut command = vec!["fullreport"];
        command.extend_from_slice(REPORT);
        command.extend(name);
        match self.lvm(&command, deadline) {
            Ok(text) => groups(&text, &spaces).map_err(unread("lvm fullreport")),
            Err(error) => match explain(name.unwrap_or_default(), None, error) {
                Error::NotFound { .. } => Ok(Vec::new()),
                error => Err(error),
            },
        }
    }

    /// Leases from the disk. No daemon is asked.
    pub(super) fn dump(&self, path: &Path, offset: u64, size: u64, deadline: Deadline) -> Result<Vec<Lease>> {
        let place = format!("{}:{offset}:{size}", path.display().to_string().replace(':', "\\:"));
        let output = self.host.exec().run_ok(Program::SANLOCK, &["direct", "dump", &place], deadline);
        Ok(sanlock::dump(&output.map_err(Error::Exec)?.text()))
    }

    /// Where the leases are: in `lvmlock` if it is active, else at its place on the disk, which can be read before the group is started.
    pub(super) fn place(vg: &VgState) -> Option<(PathBuf, u64)> {
        let lock = vg.lvmlock.as_ref()?;
        if lock.active {
            return Some((lock.path.clone(), 0));
        }
        let (device, extent) = lvm::place(&lock.devices)?;
        let pv = vg.pvs.iter().find(|pv| pv.device == Path::new(device))?;
        let offset = vg.extent.0.checked_mul(extent)?.checked_add(pv.start.0)?;
        Some((pv.device.clone(), offset))
    }

    /// The hosts' leases of a group, as they are on the disk.
    pub(super) fn host_leases(&self, vg: &VgState, deadline: Deadline) -> Result<Vec<Lease>> {
        let Some((path, offset)) = Self::place(vg) else { return Ok(Vec::new()) };
        let mut leases = self.dump(&path, offset, AREA, deadline)?;
        leases.retain(|lease| lease.is_host);
        Ok(leases)
    }

    /// Who holds a volume, by the leases on the disk.
    pub(super) fn holders(&self, vg: &VgState, lv: &LvState, deadline: Deadline) -> Result<Vec<Holder>> {
        let (Some((path, start)), Some(offset)) = (Self::place(vg), lv.lock_offset()) else {
            return Ok(Vec::new());
        };
        let at = start.checked_add(offset).ok_or_else(|| unread("lvm fullreport")(lv.lock_args.clone()))?;
        let leases = self.dump(&path, at, AREA, deadline)?;
        let Some(lease) = leases.iter().find(|lease| !lease.is_host && lease.resource == lv.uuid) else {
            return Ok(Vec::new());
        };
        let hosts = self.host_leases(vg, deadline)?;
        let activation = if lease.is_shared() { Activation::Shared } else { Activation::Exclusive };
        let holder = |id: HostId| {
            let name = hosts.iter().find(|host| host.owner == Some(id)).map(|host| host.resource.clone());
            Holder { id, name, activation }
        };
        Ok(lease.holders().into_iter().map(holder).collect())
    }

    /// Gives an error its holders, if they can be read: the error is the one that counts.
    pub(super) fn with_holders(&self, error: Error, vg: &VgState, lv: &LvState, deadline: Deadline) -> Error {
        match error {
            Error::Held { volume, .. } => {
                let holders = self.holders(vg, lv, deadline).unwrap_or_else(|error| {
                    log::debug!("multipath: who holds {volume}: {error}");
                    Vec::new()
                });
                Error::Held { volume, holders }
            }
            other => other,
        }
    }
}

impl SharedVg {
    /// Lists all groups of this host, also those of one host alone; `lvm fullreport` and `lvmlockctl --info`.
    ///
    /// # Errors
    /// lvm is missing, is not allowed to read the disks, or answers nonsense.
    pub fn list(host: &Host, deadline: Deadline) -> Result<Vec<VgState>> {
        Tools::new(host, &LockManager::new()).groups(None, deadline)
    }

    /// The group with its volumes; `None` if no disk of this host has it. Reading needs no lock manager.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn get(&self, deadline: Deadline) -> Result<Option<VgState>> {
        Ok(self.tools.groups(Some(self.name.as_str()), deadline)?.into_iter().next())
    }

    /// The group, or an error that says that it is not there.
    pub(super) fn existing(&self, deadline: Deadline) -> Result<VgState> {
        let vg =
            self.get(deadline)?.ok_or_else(|| Error::NotFound { object: format!("group {}", self.name) })?;
        match vg.lock_type {
            LockType::Sanlock => Ok(vg),
            other => Err(Error::NotShared { vg: vg.name, lock_type: other.to_string() }),
        }
    }

    /// The lockspaces of this host; `None` if lvmlockd does not run. `lvmlockctl --info`
    ///
    /// # Errors
    /// lvm2-lockd is not installed.
    pub fn lockspaces(&self, deadline: Deadline) -> Result<Option<Vec<LockspaceState>>> {
        self.tools.lockspaces(deadline)
    }

    /// The sanlock of this host; `None` if it does not run. `sanlock client status -D`
    ///
    /// # Errors
    /// sanlock is not installed.
    pub fn sanlock(&self, deadline: Deadline) -> Result<Option<SanlockState>> {
        self.tools.sanlock(deadline)
    }

    /// The hosts of the group's lockspace, as the sanlock of this host sees them; none if the group is not started here.
    /// `sanlock client gets -h 1` and `host_status -D`
    ///
    /// # Errors
    /// sanlock is not installed or does not run.
    pub fn hosts(&self, deadline: Deadline) -> Result<Vec<HostState>> {
        let ask = |args: &[&str]| {
            let output = self.tools.host.exec().run_ok(Program::SANLOCK, args, deadline);
            output.map(|output| output.text()).map_err(Error::Exec)
        };
        let hosts = ask(&["client", "gets", "-h", "1"])?;
        let names = ask(&["client", "host_status", "-D"])?;
        Ok(sanlock::hosts(&hosts, &names, &self.name.lockspace()))
    }

    /// Who holds a volume on any host, by the leases on the disk. A host that died holds it until another one takes it over.
    ///
    /// # Errors
    /// There is no such group or volume; the disk or sanlock's program cannot be used.
    pub fn holders(&self, lv: &super::LvName, deadline: Deadline) -> Result<Vec<Holder>> {
        let vg = self.existing(deadline)?;
        let state = self.volume(&vg, lv)?;
        self.tools.holders(&vg, state, deadline)
    }

    /// A volume of the group.
    pub(super) fn volume<'a>(&self, vg: &'a VgState, lv: &super::LvName) -> Result<&'a LvState> {
        let found = vg.lvs.iter().find(|state| state.name == lv.as_str());
        found.ok_or_else(|| Error::NotFound { object: format!("volume {}/{lv}", self.name) })
    }
}
