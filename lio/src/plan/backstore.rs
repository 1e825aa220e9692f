//! The steps that make or correct backstores.

use std::collections::BTreeMap;

use super::{Planner, Step, conflict, note, values};
use crate::error::{Error, Result};
use crate::name::{CompanyId, GroupName, Lun};
use crate::spec::{Access, AluaGroupSpec, Backing, BackstoreSpec, DEFAULT_GROUP, TargetSpec};
use crate::state::{AluaGroupState, BackstoreId, BackstoreState, LuGroupState, TARGET};
use crate::wire::attributes::{self, ALUA};

/// The files of `wwn/` that a specification sets, and the values as they are read back.
fn identity(spec: &BackstoreSpec) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    out.extend(spec.company.map(|company| ("company_id", company.to_string())));
    out.extend(spec.vendor.as_ref().map(|vendor| ("vendor_id", vendor.to_string())));
    out.extend(spec.product.as_ref().map(|product| ("product_id", product.to_string())));
    out.extend(spec.revision.as_ref().map(|revision| ("revision", revision.to_string())));
    out.extend(spec.serial.as_ref().map(|serial| ("vpd_unit_serial", serial.to_string())));
    out
}

/// The steps after `mkdir` that open a backstore.
pub(super) fn open(path: &str, backing: &Backing, access: Access) -> Vec<Step> {
    let write = |file: &str, value: String| Step::write(format!("{path}/{file}"), value, None);
    let mut steps = vec![write("control", backing.control(access))];
    steps.extend(backing.path().map(|device| write("udev_path", device.display().to_string())));
    steps.push(write("enable", "1".to_owned()));
    steps
}

/// The files of an access group that differ, in the order the kernel needs: the number before all, the state after what allows it.
pub(super) fn alua_group(dir: &str, want: &AluaGroupSpec, is: Option<&AluaGroupState>) -> Vec<Step> {
    let mut steps = Vec::new();
    if want.id != 0 && is.is_none_or(|is| is.id.is_none()) {
        steps.push(Step::write(format!("{dir}/tg_pt_gp_id"), want.id.to_string(), None));
    }
    let mut rest = values(dir, &want.attributes, is.map(|is| &is.attributes), ALUA);
    rest.sort_by_key(|step| {
        let name = step.path().rsplit('/').next().unwrap_or_default();
        ALUA.iter().position(|row| row.name == name)
    });
    steps.extend(rest);
    steps
}

impl<'a> Planner<'a> {
    /// Makes or corrects all backstores; says where each LUN's is.
    pub(super) fn backstores(&mut self, spec: &'a TargetSpec) -> Result<BTreeMap<Lun, BackstoreId>> {
        let (mut disks, mut lanes) = (BTreeMap::new(), Vec::new());
        for (lun, disk) in &spec.luns {
            let key = (disk.backing.plugin(), disk.name.as_str());
            let id = match self.made.get(&key) {
                Some((id, same)) if *same == disk => id.clone(),
                Some(_) => {
                    let reason = "two targets describe it differently; one backstore has one description";
                    return Err(Error::invalid(format!("backstore {}", disk.name), reason));
                }
                None => {
                    self.refuse_twins(disk)?;
                    self.lu_group(disk)?;
                    let (id, lane) = self.backstore(disk, self.noting.then(|| note(&spec.iqn)).as_deref())?;
                    lanes.push(lane);
                    self.made.insert(key, (id.clone(), disk));
                    id
                }
            };
            disks.insert(*lun, id);
        }
        // To open a device takes the kernel some milliseconds, most of which it waits for a thread of its own.
        self.steps.extend(Step::together(lanes));
        Ok(disks)
    }

    pub(super) fn backstore(
        &mut self,
        disk: &'a BackstoreSpec,
        note: Option<&str>,
    ) -> Result<(BackstoreId, Vec<Step>)> {
        let mut steps = Vec::new();
        let found = self.known.get(&(disk.backing.plugin(), disk.name.as_str())).copied();
        let id = match found {
            Some(found) if found.enabled => {
                correct(found, disk, &mut steps)?;
                found.id.clone()
            }
            Some(shell) => {
                // A run that broke off before enable. What its control file was given cannot be read back: make it anew.
                let path = shell.id.path();
                steps.extend([Step::remove(&path, Vec::new()), Step::make(&path)]);
                fill(&path, disk, note, &mut steps);
                shell.id.clone()
            }
            None => {
                let (adapter, there) = self.free_adapter(disk.backing.plugin());
                if !there {
                    steps.push(Step::make(format!("{TARGET}/core/{adapter}")));
                }
                let id = BackstoreId::new(adapter, disk.name.as_str());
                let path = id.path();
                steps.push(Step::make(&path));
                fill(&path, disk, note, &mut steps);
                id
            }
        };
        Ok((id, steps))
    }

    /// Makes the group of backstores that a disk is in, if nobody has it.
    pub(super) fn lu_group(&mut self, disk: &'a BackstoreSpec) -> Result<()> {
        let Some(group) = &disk.lu_group else { return Ok(()) };
        let dir = format!("{TARGET}/core/alua/lu_gps/{}", group.name);
        let number = Step::write(format!("{dir}/lu_gp_id"), group.id.to_string(), None);
        match self.state.lu_groups.get(group.name.as_str()) {
            Some(LuGroupState { id: Some(id), .. }) if *id == group.id => {}
            Some(LuGroupState { id: None, .. }) => self.steps.push(number),
            Some(LuGroupState { id: Some(id), .. }) => {
                let reason = format!(
                    "it has the number {id}, which the kernel sets once; use that one or another name"
                );
                return Err(conflict(format!("group of backstores {}", group.name), &number, reason));
            }
            None if self.lu_groups.contains(group.name.as_str()) => {}
            None => {
                self.steps.extend([Step::make(&dir), number]);
                self.lu_groups.insert(group.name.as_str());
            }
        }
        Ok(())
    }

    /// Two disks of one identifier would be one disk to every initiator.
    pub(super) fn refuse_twins(&self, disk: &BackstoreSpec) -> Result<()> {
        let Some(serial) = &disk.serial else { return Ok(()) };
        let company = disk.company.unwrap_or_default();
        let twin = |other: &&&BackstoreState| {
            let same_place =
                other.id.name == disk.name.as_str() && other.id.plugin() == disk.backing.plugin();
            let theirs = other.company.and_then(|id| CompanyId::try_from(id).ok()).unwrap_or_default();
            !same_place && theirs == company
        };
        let Some(other) = self.identities.get(&serial.digits()).and_then(|others| others.iter().find(twin))
        else {
            return Ok(());
        };
        Err(Error::invalid(
            format!("backstore {}", disk.name),
            format!(
                "its unit serial {serial} gives the identifier {} that {}/{} has too; initiators would take both for one disk",
                serial.wwid_of(company),
                other.id.adapter,
                other.id.name
            ),
        ))
    }
}

/// The steps after `mkdir` that configure a backstore and give it its identity.
fn fill(path: &str, disk: &BackstoreSpec, note: Option<&str>, steps: &mut Vec<Step>) {
    // First whose it is, so that a run that breaks off here leaves nothing nameless.
    steps.extend(note.map(|note| Step::write(format!("{path}/alias"), note, None)));
    steps.extend(open(path, &disk.backing, disk.access));
    let wwn = identity(disk).into_iter();
    steps.extend(wwn.map(|(file, value)| Step::write(format!("{path}/wwn/{file}"), value, None)));
    steps.extend(values(&format!("{path}/attrib"), &disk.attributes, None, disk.backing.table()));
    // Taken only while nobody exports the disk (target_pr_res_aptpl_metadata_store).
    let metadata = disk
        .reservations
        .iter()
        .map(|one| Step::write(format!("{path}/pr/res_aptpl_metadata"), one.metadata(), None));
    steps.extend(metadata);
    for (name, group) in &disk.alua {
        let dir = format!("{path}/alua/{name}");
        steps.extend((name.as_str() != DEFAULT_GROUP).then(|| Step::make(&dir)));
        steps.extend(alua_group(&dir, group, None));
    }
    if let Some(group) = &disk.lu_group {
        steps.push(Step::write(format!("{path}/alua_lu_gp"), group.name.as_str(), None));
    }
}

/// Why a backstore that is there cannot become the one that is wanted without being made anew.
pub(super) fn differs(is: &BackstoreState, disk: &BackstoreSpec) -> Option<String> {
    let Some(now) = &is.backing else { return Some("what it is on cannot be read".to_owned()) };
    let path = |backing: &Backing| backing.path().map(|path| path.display().to_string()).unwrap_or_default();
    match (now, &disk.backing) {
        (now, wanted) if now.path() != wanted.path() => {
            Some(format!("it is on {} and shall be on {}", path(now), path(wanted)))
        }
        _ if is.access != disk.access => Some("its device was opened with another access mode".to_owned()),
        (Backing::Ramdisk { memory: a, .. }, Backing::Ramdisk { memory: b, .. }) => {
            let (now, wanted) = (now.pages().unwrap_or(0), disk.backing.pages().unwrap_or(0));
            (now != wanted || a != b)
                .then(|| format!("it has {now} pages and shall have {wanted}, or keeps data and shall not"))
        }
        (
            Backing::File { path, size: a, cache, io },
            Backing::File { size: b, cache: other_cache, io: other_io, .. },
        ) => {
            // Of a device the size is the device's.
            let size = a == b || path.starts_with("/dev");
            (!size || cache != other_cache || io != other_io).then(|| {
                format!("it has {} bytes and shall have {}, or is cached or read in another way", a.0, b.0)
            })
        }
        (
            Backing::User { config, size, block_size, data_area },
            Backing::User { config: other, size: other_size, block_size: block, data_area: area },
        ) => {
            let set = |wanted: &Option<u32>, is: &Option<u32>| wanted.is_none() || wanted == is;
            let same =
                config == other && size == other_size && set(block, block_size) && set(area, data_area);
            (!same).then(|| {
                format!("it is {config} of {} bytes and shall be {other} of {}", size.0, other_size.0)
            })
        }
        (now, wanted) => (now != wanted).then(|| format!("it is {now:?} and shall be {wanted:?}")),
    }
}

/// Brings an enabled backstore to its specification, as far as that can be done.
pub(super) fn correct(is: &BackstoreState, disk: &BackstoreSpec, steps: &mut Vec<Step>) -> Result<()> {
    let object = format!("backstore {}", disk.name);
    let path = is.id.path();
    if let Some(what) = differs(is, disk) {
        let step = Step::remove(&path, Vec::new());
        let reason = format!("{what}; remove the target that exports it and make it anew");
        return Err(conflict(&object, &step, reason));
    }
    let has = |file: &str| match file {
        "company_id" => is.company.map(|company| format!("{company:#08x}")),
        "vendor_id" => is.vendor.clone(),
        "product_id" => is.product.clone(),
        "revision" => is.revision.clone(),
        _ => is.serial.clone(),
    };
    let exported = !is.users.is_empty();
    let in_use = |step: &Step| {
        let users = is.users.join(", ");
        let reason = format!("the kernel changes this only while it is not exported (now by {users})");
        conflict(&object, step, reason)
    };
    for (file, value) in identity(disk) {
        let before = has(file);
        if before.as_deref() == Some(&value) {
            continue;
        }
        let step = Step::write(format!("{path}/wwn/{file}"), value, before);
        if exported {
            return Err(in_use(&step));
        }
        steps.push(step);
    }
    let table = disk.backing.table();
    for step in values(&format!("{path}/attrib"), &disk.attributes, Some(&is.attributes), table) {
        let name = step.path().rsplit('/').next().unwrap_or_default();
        if exported && attributes::of(table, name).is_some_and(|row| !row.while_exported) {
            return Err(in_use(&step));
        }
        steps.push(step);
    }
    for (name, group) in &disk.alua {
        correct_group(&object, &path, name, group, is.alua.get(name.as_str()), steps)?;
    }
    if let Some(group) = &disk.lu_group
        && is.lu_group.as_deref() != Some(group.name.as_str())
    {
        let before = is.lu_group.clone().unwrap_or_else(|| "default_lu_gp".to_owned());
        steps.push(Step::write(format!("{path}/alua_lu_gp"), group.name.as_str(), Some(before)));
    }
    Ok(())
}

fn correct_group(
    object: &str,
    path: &str,
    name: &GroupName,
    want: &AluaGroupSpec,
    is: Option<&AluaGroupState>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let dir = format!("{path}/alua/{name}");
    match is {
        None if want.id == 0 => {}
        None => steps.push(Step::make(&dir)),
        Some(AluaGroupState { id: Some(id), .. }) if *id != want.id => {
            let step = Step::write(format!("{dir}/tg_pt_gp_id"), want.id.to_string(), None);
            let reason = format!(
                "access group {name} has the number {id}, which the kernel sets once; use that one or another name"
            );
            return Err(conflict(object, &step, reason));
        }
        Some(_) => {}
    }
    steps.extend(alua_group(&dir, want, is));
    Ok(())
}
