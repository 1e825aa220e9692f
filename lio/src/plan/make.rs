//! What is missing or differs: the steps that make it, in the order the kernel needs them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use host::Secret;

use super::remove::shows_extra;
use super::{Link, Step, conflict, free_adapter, iqn_path, note};
use crate::error::{Error, Result};
use crate::name::{ChapSecret, Lun};
use crate::spec::{Access, AclSpec, Backing, BackstoreSpec, TargetSpec};
use crate::state::{AclState, AuthState, BackstoreId, BackstoreState, GroupState, State, TARGET};
use crate::wire::{defaults, portal_name};

type Table = &'static [(&'static str, &'static str)];

pub(super) fn group_path(spec: &TargetSpec, group: Option<&GroupState>) -> String {
    let dir = group.map_or_else(|| format!("tpgt_{}", spec.tag), |group| group.dir.clone());
    format!("{}/{dir}", iqn_path(&spec.iqn))
}

/// The writes that lead from `have` (of a fresh object: the kernel's defaults) to `want`. What is not in `have` is at its default.
pub(super) fn values(
    dir: &str,
    want: &BTreeMap<String, String>,
    have: Option<&BTreeMap<String, String>>,
    table: Table,
) -> Vec<Step> {
    let differs = |(name, value): (&String, &String)| {
        let is = have.and_then(|have| have.get(name)).map(String::as_str);
        let before = is.or(defaults::of(table, name));
        let step = || Step::write(format!("{dir}/{name}"), value, is.map(str::to_owned));
        (before != Some(value)).then(step)
    };
    want.iter().filter_map(differs).collect()
}

/// The pages of 4 KiB of a ramdisk.
fn pages(backing: &Backing) -> Option<u64> {
    match backing {
        Backing::Ramdisk { size } => Some(size.0.div_ceil(4096).max(1)),
        Backing::Block { .. } => None,
    }
}

/// The steps after `mkdir` that configure a backstore and give it its identity.
pub(super) fn fill_backstore(path: &str, spec: &BackstoreSpec, iqn: &host::Iqn) -> Vec<Step> {
    let write = |file: &str, value: String| Step::write(format!("{path}/{file}"), value, None);
    // First whose it is, so that a run that breaks off here leaves nothing nameless.
    let mut steps = vec![write("alias", note(iqn))];
    match &spec.backing {
        Backing::Block { device } => {
            let device = device.to_string_lossy();
            let read_only = if spec.access == Access::ReadOnly { ",readonly=1" } else { "" };
            steps.push(write("control", format!("udev_path={device}{read_only}")));
            steps.push(write("udev_path", device.into_owned()));
        }
        backing @ Backing::Ramdisk { .. } => {
            steps.push(write("control", format!("rd_pages={}", pages(backing).unwrap_or(1))));
        }
    }
    steps.push(write("enable", "1".to_owned()));
    steps.extend(identity(spec).into_iter().map(|(file, value)| write(&format!("wwn/{file}"), value)));
    steps.extend(values(&format!("{path}/attrib"), &spec.attributes, None, defaults::DEVICE));
    steps
}

/// The files of `wwn/` that a specification sets, and the values as they are read back.
fn identity(spec: &BackstoreSpec) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    out.extend(spec.company.map(|company| ("company_id", company.to_string())));
    out.extend(spec.vendor.as_ref().map(|vendor| ("vendor_id", vendor.to_string())));
    out.extend(spec.product.as_ref().map(|product| ("product_id", product.to_string())));
    out.extend(spec.serial.as_ref().map(|serial| ("vpd_unit_serial", serial.to_string())));
    out
}

/// Makes or corrects all backstores; says where each LUN's is.
pub(super) fn backstores(
    state: &State,
    spec: &TargetSpec,
    steps: &mut Vec<Step>,
) -> Result<BTreeMap<Lun, BackstoreId>> {
    let mut disks = BTreeMap::new();
    let mut taken = Vec::new();
    for (lun, disk) in &spec.luns {
        refuse_twins(state, disk)?;
        let plugin = disk.backing.plugin();
        let found =
            state.backstores.values().find(|b| b.id.name == disk.name.as_str() && b.id.plugin() == plugin);
        let id = match found {
            Some(found) if found.enabled => {
                correct(found, disk, steps)?;
                found.id.clone()
            }
            Some(shell) => {
                // A run that broke off before enable. What its control file was given cannot be read back: make it anew.
                let path = shell.id.path();
                steps.push(Step::remove(&path, Vec::new()));
                steps.push(Step::make(&path));
                steps.extend(fill_backstore(&path, disk, &spec.iqn));
                shell.id.clone()
            }
            None => {
                let (adapter, there) = free_adapter(state, plugin, &taken);
                if !there {
                    steps.push(Step::make(format!("{TARGET}/core/{adapter}")));
                }
                let id = BackstoreId::new(adapter, disk.name.as_str());
                steps.push(Step::make(id.path()));
                steps.extend(fill_backstore(&id.path(), disk, &spec.iqn));
                taken.push(id.clone());
                id
            }
        };
        disks.insert(*lun, id);
    }
    Ok(disks)
}

/// Two disks of one serial would be one disk to every initiator.
fn refuse_twins(state: &State, disk: &BackstoreSpec) -> Result<()> {
    let Some(serial) = &disk.serial else { return Ok(()) };
    let twin = |other: &&BackstoreState| {
        let same_place = other.id.name == disk.name.as_str() && other.id.plugin() == disk.backing.plugin();
        !same_place && other.serial.as_deref() == Some(serial.as_str())
    };
    match state.backstores.values().find(twin) {
        None => Ok(()),
        Some(other) => Err(Error::invalid(
            format!("backstore {}", disk.name),
            format!(
                "its unit serial {serial} is that of {}/{} too; initiators would take both for one disk",
                other.id.adapter, other.id.name
            ),
        )),
    }
}

/// Brings an enabled backstore to its specification, as far as that can be done.
fn correct(is: &BackstoreState, disk: &BackstoreSpec, steps: &mut Vec<Step>) -> Result<()> {
    let object = format!("backstore {}", disk.name);
    let path = is.id.path();
    let anew = |what: String| {
        let step = Step::remove(&path, Vec::new());
        conflict(&object, &step, format!("{what}; remove the target that exports it and make it anew"))
    };
    match &disk.backing {
        Backing::Block { device } if is.device.as_deref() != Some(device) => {
            let now = is.device.as_ref().map_or_else(|| "nothing".into(), |d| d.display().to_string());
            return Err(anew(format!("it is on {now} and shall be on {}", device.display())));
        }
        Backing::Block { .. } if is.read_only != (disk.access == Access::ReadOnly) => {
            return Err(anew("its device was opened with another access mode".to_owned()));
        }
        backing @ Backing::Ramdisk { .. } if is.pages != pages(backing) => {
            return Err(anew(format!("it has {:?} pages and shall have {:?}", is.pages, pages(backing))));
        }
        _ => {}
    }
    let has = |file: &str| match file {
        "company_id" => is.company.map(|company| format!("{company:#08x}")),
        "vendor_id" => is.vendor.clone(),
        "product_id" => is.product.clone(),
        _ => is.serial.clone(),
    };
    let exported = !is.users.is_empty();
    let in_use = |step: &Step| {
        let users = is.users.join(", ");
        conflict(
            &object,
            step,
            format!("the kernel changes this only while it is not exported (now by {users})"),
        )
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
    for step in values(&format!("{path}/attrib"), &disk.attributes, Some(&is.attributes), defaults::DEVICE) {
        let name = step.path().rsplit('/').next().unwrap_or_default();
        if exported && defaults::DEVICE_UNEXPORTED.contains(&name) {
            return Err(in_use(&step));
        }
        steps.push(step);
    }
    Ok(())
}

/// Makes fabric, target and portal group as far as missing, with attributes and parameters.
pub(super) fn group(
    state: &State,
    spec: &TargetSpec,
    group: Option<&GroupState>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let path = group_path(spec, group);
    if !state.fabric {
        // The kernel loads iscsi_target_mod for this name (target_core_register_fabric).
        steps.push(Step::make(format!("{TARGET}/iscsi")));
    }
    if !state.targets.contains_key(&spec.iqn) {
        steps.push(Step::make(iqn_path(&spec.iqn)));
    }
    if group.is_none() {
        steps.push(Step::make(&path));
    }
    let (attributes, parameters) = (group.map(|g| &g.attributes), group.map(|g| &g.parameters));
    // Attributes first: "authentication" edits AuthMethod (iscsi_target_tpg.c).
    steps.extend(values(&format!("{path}/attrib"), &spec.all_attributes(), attributes, defaults::GROUP));
    steps.extend(values(&format!("{path}/param"), &spec.parameters, parameters, defaults::PARAMETER));
    Ok(())
}

/// Makes the LUNs' directories, then all their links at once.
pub(super) fn luns(
    spec: &TargetSpec,
    group: Option<&GroupState>,
    path: &str,
    disks: &BTreeMap<Lun, BackstoreId>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let mut links = Vec::new();
    for (lun, id) in disks {
        let dir = format!("{path}/lun/lun_{lun}");
        let link = Link::new(id.path(), format!("{dir}/backstore"));
        match group.and_then(|group| group.luns.get(lun)) {
            None => {
                steps.push(Step::make(&dir));
                links.push(link);
            }
            Some(is) => match &is.backstore {
                None => links.push(link),
                Some(other) if other != id => {
                    let reason = format!(
                        "it exports {}/{} and shall export {}; initiators would find another disk under the same number. \
                         Remove the target, or use another LUN number",
                        other.adapter, other.name, id.name
                    );
                    return Err(conflict(
                        format!("LUN {lun} of {}", spec.iqn),
                        &Step::Link { links: vec![link] },
                        reason,
                    ));
                }
                Some(_) => {}
            },
        }
    }
    if !links.is_empty() {
        steps.push(Step::Link { links });
    }
    Ok(())
}

/// Makes the ACLs with their passwords, then what they see, with all links at once.
pub(super) fn acls(spec: &TargetSpec, group: Option<&GroupState>, path: &str, steps: &mut Vec<Step>) {
    let (mut stale, mut links, mut protect) = (Vec::new(), Vec::new(), Vec::new());
    // A LUN that lost its backstore lost what initiators saw of it too, although their links are still there.
    let relinked =
        |lun: Lun| group.and_then(|group| group.luns.get(&lun)).is_none_or(|lun| lun.backstore.is_none());
    for acl in spec.acls.values() {
        let dir = format!("{path}/acls/{}", acl.initiator);
        let is = group.and_then(|group| group.acls.get(&acl.initiator));
        if is.is_none() {
            steps.push(Step::make(&dir));
        }
        let attributes = is.map(|is| &is.attributes);
        steps.extend(values(&format!("{dir}/attrib"), &spec.acl_attributes(acl), attributes, defaults::ACL));
        let none = AuthState::default();
        authentication(&dir, acl, is.map_or(&none, |is| &is.auth), steps);
        if let Some(depth) = acl.queue_depth {
            // A fresh ACL has what default_cmdsn_depth says.
            let before = is.and_then(|is| is.queue_depth);
            if before != Some(depth) {
                let before = before.map(|depth| depth.to_string());
                steps.push(Step::write(format!("{dir}/cmdsn_depth"), depth.to_string(), before));
            }
        }
        for (seen, mapped) in spec.mapped(acl) {
            let mapped_dir = format!("{dir}/lun_{seen}");
            let target = format!("{path}/lun/lun_{}", mapped.target_lun);
            let link = Link::new(target, format!("{mapped_dir}/lun"));
            let now = is.and_then(|is| is.luns.get(&seen)).filter(|now| !shows_extra(now, spec));
            let mut protected = false;
            match now.map(|now| (&now.link, now.target_lun)) {
                None => {
                    steps.push(Step::make(&mapped_dir));
                    links.push(link);
                }
                Some((None, _)) => links.push(link),
                Some((Some(_), at)) if at == Some(mapped.target_lun) && !relinked(mapped.target_lun) => {
                    protected = now.is_some_and(|now| now.write_protected);
                }
                Some((Some(name), at)) => {
                    let at = at.unwrap_or(mapped.target_lun);
                    stale.push(Link::new(format!("{path}/lun/lun_{at}"), format!("{mapped_dir}/{name}")));
                    links.push(link);
                }
            }
            let wanted = mapped.access == Access::ReadOnly;
            if wanted != protected {
                let number = |flag: bool| u8::from(flag).to_string();
                let file = format!("{mapped_dir}/write_protect");
                protect.push(Step::write(file, number(wanted), Some(number(protected))));
            }
        }
    }
    if !stale.is_empty() {
        steps.push(Step::Unlink { links: stale, restore: Vec::new() });
    }
    if !links.is_empty() {
        steps.push(Step::Link { links });
    }
    // After the links: before them the file has no LUN to speak of (ENODEV).
    steps.extend(protect);
}

fn authentication(dir: &str, acl: &AclSpec, is: &AuthState, steps: &mut Vec<Step>) {
    let directions = [
        (acl.chap(), &is.user, &is.secret, ["userid", "password"]),
        (acl.mutual_chap(), &is.mutual_user, &is.mutual_secret, ["userid_mutual", "password_mutual"]),
    ];
    for (want, user, secret, [name_file, secret_file]) in directions {
        let name_file = format!("{dir}/auth/{name_file}");
        let secret_file = format!("{dir}/auth/{secret_file}");
        let before = || secret.as_ref().map(|secret| ChapSecret::from_kernel(Secret::share(secret)));
        match want {
            Some(chap) => {
                if user.as_deref() != Some(chap.user.as_str()) {
                    let before = user.clone().unwrap_or_else(|| "NULL".to_owned());
                    steps.push(Step::write(name_file, chap.user.as_str(), Some(before)));
                }
                if secret.as_ref() != Some(chap.secret.secret()) {
                    let secret = chap.secret.clone();
                    steps.push(Step::WriteSecret { path: secret_file, secret, before: before() });
                }
            }
            None => {
                if let Some(user) = user {
                    steps.push(Step::write(name_file, "NULL", Some(user.clone())));
                }
                if secret.is_some() {
                    steps.push(Step::ClearSecret { path: secret_file, before: before() });
                }
            }
        }
    }
}

/// Makes the portals.
pub(super) fn portals(
    state: &State,
    spec: &TargetSpec,
    group: Option<&GroupState>,
    path: &str,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let siblings = state.targets.get(&spec.iqn).map(|target| target.groups.as_slice()).unwrap_or_default();
    for portal in &spec.portals {
        let here = |group: &GroupState| group.portal_addresses().any(|address| same(&address, portal));
        if group.is_some_and(here) {
            continue;
        }
        let step = Step::make(format!("{path}/np/{}", portal_name(portal)));
        if let Some(other) = siblings.iter().find(|sibling| sibling.tag != spec.tag && here(sibling)) {
            let reason =
                format!("it is a portal of {} of the same target; a portal is in one group only", other.dir);
            return Err(conflict(format!("portal {portal}"), &step, reason));
        }
        steps.push(step);
    }
    Ok(())
}

pub(super) fn same(a: &SocketAddr, b: &SocketAddr) -> bool {
    a.ip() == b.ip() && a.port() == b.port()
}

/// The steps after `mkdir` that give an ACL what it had.
pub(super) fn refill_acl(dir: &str, is: &AclState) -> Vec<Step> {
    let mut steps = values(&format!("{dir}/attrib"), &is.attributes, None, defaults::ACL);
    let write = |file: &str, value: &Option<String>| {
        value.as_ref().map(|value| Step::write(format!("{dir}/auth/{file}"), value, None))
    };
    let secret = |file: &str, secret: &Option<Secret>| {
        secret.as_ref().map(|secret| Step::WriteSecret {
            path: format!("{dir}/auth/{file}"),
            secret: ChapSecret::from_kernel(secret.share()),
            before: None,
        })
    };
    steps.extend(write("userid", &is.auth.user));
    steps.extend(secret("password", &is.auth.secret));
    steps.extend(write("userid_mutual", &is.auth.mutual_user));
    steps.extend(secret("password_mutual", &is.auth.mutual_secret));
    let depth =
        is.queue_depth.map(|depth| Step::write(format!("{dir}/cmdsn_depth"), depth.to_string(), None));
    steps.extend(depth);
    steps
}

/// The steps after `mkdir` that give a portal group what it had.
pub(super) fn refill_group(path: &str, is: &GroupState) -> Vec<Step> {
    let mut steps = values(&format!("{path}/attrib"), &is.attributes, None, defaults::GROUP);
    let mut parameters = is.parameters.clone();
    // "authentication" and enable write this one themselves.
    parameters.retain(|name, value| name != "AuthMethod" || !matches!(value.as_str(), "CHAP,None" | "None"));
    steps.extend(values(&format!("{path}/param"), &parameters, None, defaults::PARAMETER));
    steps
}

/// The steps after `mkdir` that give a backstore what it had; `None` for one of a plugin that this crate does not make.
pub(super) fn refill_backstore(is: &BackstoreState) -> Option<Vec<Step>> {
    let path = is.id.path();
    let write = |file: &str, value: String| Step::write(format!("{path}/{file}"), value, None);
    let mut steps: Vec<_> = is.alias.iter().map(|alias| write("alias", alias.clone())).collect();
    match (is.id.plugin(), &is.device, is.pages) {
        _ if !is.enabled => return Some(steps),
        ("iblock", Some(device), _) => {
            let read_only = if is.read_only { ",readonly=1" } else { "" };
            steps.push(write("control", format!("udev_path={}{read_only}", device.display())));
            steps.push(write("udev_path", device.display().to_string()));
        }
        ("rd_mcp", _, Some(pages)) => steps.push(write("control", format!("rd_pages={pages}"))),
        _ => return None,
    }
    steps.push(write("enable", "1".to_owned()));
    let company = is.company.filter(|id| *id != u32::from(crate::CompanyId::default()));
    steps.extend(company.map(|id| write("wwn/company_id", format!("{id:#08x}"))));
    steps.extend(
        is.vendor.clone().filter(|v| v != "LIO-ORG" && !v.is_empty()).map(|v| write("wwn/vendor_id", v)),
    );
    let plugins_own = |product: &String| matches!(product.as_str(), "" | "IBLOCK" | "RAMDISK-MCP");
    steps.extend(is.product.clone().filter(|p| !plugins_own(p)).map(|p| write("wwn/product_id", p)));
    steps.extend(is.serial.clone().map(|serial| write("wwn/vpd_unit_serial", serial)));
    let own = |name: &str| defaults::DEVICE_OWN.contains(&name);
    let unchanged = |name: &str, value: &str| {
        let hardware = defaults::of(defaults::DEVICE_FROM_HARDWARE, name);
        hardware.and_then(|hardware| is.attributes.get(hardware)).is_some_and(|hardware| hardware == value)
    };
    let mut attributes = is.attributes.clone();
    attributes.retain(|name, value| !own(name) && !unchanged(name, value));
    steps.extend(values(&format!("{path}/attrib"), &attributes, None, defaults::DEVICE));
    Some(steps)
}
