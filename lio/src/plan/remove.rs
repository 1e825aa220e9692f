//! What is too much: the steps that remove it, in the order the kernel needs them, each knowing how to bring it back.

use std::collections::BTreeSet;

use host::{Iqn, Plan};

use super::make::{refill_acl, refill_backstore, refill_group, same};
use super::{Link, Step, iqn_path, note};
use crate::name::Lun;
use crate::spec::TargetSpec;
use crate::state::{AclState, BackstoreState, GroupState, MappedLunState, State, TARGET};

/// Computes the steps that remove a target with all it has, and the backstores that nobody else exports. The state must have been read
/// with [`Focus::Removal`](crate::state::Focus::Removal). Pure: reads and writes nothing. Empty if there is no such target.
///
/// Backstores of plugins that this crate does not make (fileio, pscsi, user) are left, since they could not be brought back. Adapters
/// without a backstore, which only a process that broke off leaves, are removed too.
#[must_use]
pub fn removal(state: &State, iqn: &Iqn) -> Plan<Step> {
    let mut steps = Vec::new();
    let target = state.targets.get(iqn);
    if let Some(target) = target {
        let path = |group: &GroupState| format!("{}/{}", iqn_path(iqn), group.dir);
        for group in target.groups.iter().filter(|group| group.enabled) {
            steps.push(Step::write(format!("{}/enable", path(group)), "0", Some("1".to_owned())));
        }
        for group in &target.groups {
            let path = path(group);
            let acls: Vec<_> = group.acls.iter().collect();
            remove_mapped(&path, &acls, |_, _, _| true, &mut steps);
            for (name, acl) in &acls {
                let dir = format!("{path}/acls/{name}");
                steps.push(Step::remove(&dir, refill_acl(&dir, acl)));
            }
            remove_luns(&path, group, &group.luns.keys().copied().collect(), &mut steps);
            steps.extend(
                group
                    .portals
                    .iter()
                    .map(|portal| Step::remove(format!("{path}/np/{}", portal.name), Vec::new())),
            );
            steps.push(Step::remove(&path, refill_group(&path, group)));
        }
        steps.push(Step::remove(iqn_path(iqn), Vec::new()));
    }
    let ours = format!("{}/", iqn_path(iqn));
    for backstore in state.backstores.values() {
        let linked = target.is_some_and(|target| target.backstores.contains_key(&backstore.id));
        let noted = backstore.alias.as_deref() == Some(&note(iqn));
        if (linked || noted) && backstore.users.iter().all(|user| user.starts_with(&ours)) {
            remove_backstore(state, backstore, &mut steps);
        }
    }
    let empty = state.adapters.iter().filter(|(name, backstores)| {
        backstores.is_empty() && (name.starts_with("iblock_") || name.starts_with("rd_mcp_"))
    });
    steps.extend(empty.map(|(name, _)| Step::remove(format!("{TARGET}/core/{name}"), Vec::new())));
    Plan::new(steps)
}

/// Removes what a portal group has and its specification does not name.
pub(super) fn extras(state: &State, spec: &TargetSpec, group: &GroupState) -> Vec<Step> {
    let path = format!("{}/{}", iqn_path(&spec.iqn), group.dir);
    let mut steps = Vec::new();
    let luns: BTreeSet<Lun> = group.luns.keys().filter(|lun| !spec.luns.contains_key(lun)).copied().collect();
    let acls: Vec<_> = group.acls.iter().collect();
    let unwanted = |name: &Iqn, seen: Lun, mapped: &MappedLunState| match spec.acls.get(name) {
        None => true,
        Some(acl) => !spec.mapped(acl).contains_key(&seen) || shows_extra(mapped, spec),
    };
    remove_mapped(&path, &acls, unwanted, &mut steps);
    for (name, acl) in acls.iter().filter(|(name, _)| !spec.acls.contains_key(*name)) {
        let dir = format!("{path}/acls/{name}");
        steps.push(Step::remove(&dir, refill_acl(&dir, acl)));
    }
    remove_luns(&path, group, &luns, &mut steps);
    let wanted = |portal: &crate::state::PortalState| {
        portal.address.is_some_and(|address| spec.portals.iter().any(|wanted| same(wanted, &address)))
    };
    let portals = group.portals.iter().filter(|portal| !wanted(portal));
    steps.extend(portals.map(|portal| Step::remove(format!("{path}/np/{}", portal.name), Vec::new())));
    let ours = format!("{}/lun/", path);
    for lun in luns {
        let id = group.luns.get(&lun).and_then(|lun| lun.backstore.as_ref());
        let backstore = id.and_then(|id| state.backstores.get(id));
        let named = |b: &BackstoreState| spec.luns.values().any(|disk| disk.name.as_str() == b.id.name);
        let only_here = |b: &BackstoreState| b.users.iter().all(|user| user.starts_with(&ours));
        if let Some(backstore) = backstore.filter(|b| !named(b) && only_here(b)) {
            remove_backstore(state, backstore, &mut steps);
        }
    }
    steps
}

/// Whether an initiator is shown a LUN that the specification does not have: it goes before the LUN can.
pub(super) fn shows_extra(mapped: &MappedLunState, spec: &TargetSpec) -> bool {
    mapped.target_lun.is_some_and(|lun| !spec.luns.contains_key(&lun))
}

/// Removes what initiators see: all links at once, then the directories.
fn remove_mapped(
    path: &str,
    acls: &[(&Iqn, &AclState)],
    which: impl Fn(&Iqn, Lun, &MappedLunState) -> bool,
    steps: &mut Vec<Step>,
) {
    let (mut links, mut restore, mut dirs) = (Vec::new(), Vec::new(), Vec::new());
    for (name, acl) in acls {
        for (seen, mapped) in acl.luns.iter().filter(|(seen, mapped)| which(name, **seen, mapped)) {
            let dir = format!("{path}/acls/{name}/lun_{seen}");
            if let (Some(link), Some(lun)) = (&mapped.link, mapped.target_lun) {
                links.push(Link::new(format!("{path}/lun/lun_{lun}"), format!("{dir}/{link}")));
                if mapped.write_protected {
                    restore.push(Step::write(format!("{dir}/write_protect"), "1", None));
                }
            }
            dirs.push(Step::remove(dir, Vec::new()));
        }
    }
    if !links.is_empty() {
        steps.push(Step::Unlink { links, restore });
    }
    steps.extend(dirs);
}

/// Removes LUNs: all links at once, then the directories. An unlink waits for the commands in flight (`transport_clear_lun_ref`), and no
/// directory may be removed before: that would wait holding the lock that all of LIO's directories need.
fn remove_luns(path: &str, group: &GroupState, luns: &BTreeSet<Lun>, steps: &mut Vec<Step>) {
    let (mut links, mut dirs) = (Vec::new(), Vec::new());
    for (lun, is) in group.luns.iter().filter(|(lun, _)| luns.contains(lun)) {
        let dir = format!("{path}/lun/lun_{lun}");
        if let (Some(link), Some(backstore)) = (&is.link, &is.backstore) {
            links.push(Link::new(backstore.path(), format!("{dir}/{link}")));
        }
        dirs.push(Step::remove(dir, Vec::new()));
    }
    if !links.is_empty() {
        steps.push(Step::Unlink { links, restore: Vec::new() });
    }
    steps.extend(dirs);
}

fn remove_backstore(state: &State, backstore: &BackstoreState, steps: &mut Vec<Step>) {
    let Some(refill) = refill_backstore(backstore) else { return };
    let path = backstore.id.path();
    for (group, id) in &backstore.alua_groups {
        let dir = format!("{path}/alua/{group}");
        let restore = (!id.is_empty()).then(|| Step::write(format!("{dir}/tg_pt_gp_id"), id, None));
        steps.push(Step::remove(dir, restore.into_iter().collect()));
    }
    steps.push(Step::remove(&path, refill));
    let alone = state.adapters.get(&backstore.id.adapter).is_some_and(|names| names.len() == 1);
    if alone {
        steps.push(Step::remove(format!("{TARGET}/core/{}", backstore.id.adapter), Vec::new()));
    }
}
