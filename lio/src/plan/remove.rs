//! What is too much: the steps that remove it, in the order the kernel needs them, each knowing how to bring it back.

use std::collections::BTreeSet;

use host::{Iqn, Plan};

use super::group::same;
use super::{Link, Step, note, refill, target_path};
use crate::name::Lun;
use crate::spec::{Fabric, TargetSpec};
use crate::state::{
    AclState, BackstoreId, BackstoreState, GroupState, MappedLunState, State, TARGET, TargetState,
};

/// Computes the steps that remove a target with all it has, and the backstores that nobody else exports. The state must have been read
/// with [`Focus::Removal`](crate::state::Focus::Removal). Pure: reads and writes nothing. Empty if there is no such target.
///
/// Backstores that could not be brought back are left: those of plugins this crate does not know. Adapters without a backstore, which only
/// a process that broke off leaves, are removed too.
#[must_use]
pub fn removal(state: &State, fabric: Fabric, iqn: &Iqn) -> Plan<Step> {
    let mut steps = Vec::new();
    let target = state.target(fabric, iqn);
    let dir = target_path(fabric, iqn);
    let ours = format!("{dir}/");
    let goes = |backstore: &BackstoreState| {
        let linked = target.is_some_and(|target| target.backstores.contains_key(&backstore.id));
        let noted = backstore.alias.as_deref() == Some(&note(iqn));
        (linked || noted) && backstore.users.iter().all(|user| user.starts_with(&ours))
    };
    let mut gone = BTreeSet::new();
    if let Some(target) = target {
        remove_target(state, target, goes, &mut gone, &mut steps);
    }
    for backstore in state.backstores.values() {
        if !gone.contains(&backstore.id) && goes(backstore) {
            steps.extend(remove_backstore(state, backstore));
            gone.insert(backstore.id.clone());
        }
    }
    remove_lu_groups(state, &gone, &mut steps);
    let empty = state.adapters.iter().filter(|(name, backstores)| {
        let plugin = name.rsplit_once('_').map_or(name.as_str(), |(plugin, _)| plugin);
        backstores.is_empty() && ["iblock", "fileio", "rd_mcp", "pscsi", "user"].contains(&plugin)
    });
    steps.extend(empty.map(|(name, _)| Step::remove(format!("{TARGET}/core/{name}"), Vec::new())));
    Plan::new(steps)
}

/// Removes targets and backstores that nobody wants any more; says which backstores go.
pub(super) fn others(
    state: &State,
    target_goes: impl Fn(&TargetState) -> bool,
    backstore_goes: impl Fn(&BackstoreState) -> bool,
    steps: &mut Vec<Step>,
) -> BTreeSet<BackstoreId> {
    let mut gone = BTreeSet::new();
    let targets: Vec<_> = state.targets.values().filter(|target| target_goes(target)).collect();
    let dirs: Vec<_> = targets.iter().map(|t| format!("{}/", target_path(t.fabric, &t.iqn))).collect();
    // Not what a target that stays exports: that it is not named any more there is that target's plan.
    let goes = |b: &BackstoreState| {
        backstore_goes(b) && b.users.iter().all(|user| dirs.iter().any(|dir| user.starts_with(dir)))
    };
    for target in targets {
        remove_target(state, target, goes, &mut gone, steps);
    }
    for backstore in state.backstores.values() {
        if !gone.contains(&backstore.id) && goes(backstore) {
            steps.extend(remove_backstore(state, backstore));
            gone.insert(backstore.id.clone());
        }
    }
    remove_lu_groups(state, &gone, steps);
    gone
}

/// Removes a target with the backstores that only it exports.
fn remove_target(
    state: &State,
    target: &TargetState,
    goes: impl Fn(&BackstoreState) -> bool,
    gone: &mut BTreeSet<BackstoreId>,
    steps: &mut Vec<Step>,
) {
    let (fabric, dir) = (target.fabric, target_path(target.fabric, &target.iqn));
    let path = |group: &GroupState| format!("{dir}/{}", group.dir);
    for group in target.groups.iter().filter(|group| group.enabled && fabric == Fabric::Iscsi) {
        steps.push(Step::write(format!("{}/enable", path(group)), "0", Some("1".to_owned())));
    }
    for group in &target.groups {
        let path = path(group);
        let acls: Vec<_> = group.acls.iter().collect();
        remove_mapped(&path, &acls, |_, _, _| true, steps);
        for (name, acl) in &acls {
            let dir = format!("{path}/acls/{name}");
            steps.push(Step::remove(&dir, refill::acl(&dir, acl)));
        }
        let luns = group.luns.keys().copied().collect();
        remove_luns(state, &path, group, &luns, &goes, gone, steps);
        for portal in &group.portals {
            let dir = format!("{path}/np/{}", portal.name);
            let restore = portal.transport.file().map(|file| Step::write(format!("{dir}/{file}"), "1", None));
            steps.push(Step::remove(dir, restore.into_iter().collect()));
        }
        steps.push(Step::remove(&path, refill::group(&path, group)));
    }
    steps.push(Step::remove(&dir, Vec::new()));
}

/// Removes the groups of backstores whose members all go.
fn remove_lu_groups(state: &State, gone: &BTreeSet<BackstoreId>, steps: &mut Vec<Step>) {
    let all_go = |members: &BTreeSet<BackstoreId>| !members.is_empty() && members.is_subset(gone);
    let empty = state.lu_groups.iter().filter(|(_, group)| group.members.as_ref().is_some_and(all_go));
    for (name, group) in empty {
        let dir = format!("{TARGET}/core/alua/lu_gps/{name}");
        let restore = group.id.map(|id| Step::write(format!("{dir}/lu_gp_id"), id.to_string(), None));
        // Brought back before the backstores that are in it, hence removed after them.
        steps.push(Step::remove(&dir, restore.into_iter().collect()));
    }
}

/// Removes what a portal group has and its specification does not name.
pub(super) fn extras(state: &State, spec: &TargetSpec, group: &GroupState) -> Vec<Step> {
    let path = format!("{}/{}", target_path(spec.fabric, &spec.iqn), group.dir);
    let mut steps = Vec::new();
    let luns: BTreeSet<Lun> = group.luns.keys().filter(|lun| !spec.luns.contains_key(lun)).copied().collect();
    let acls: Vec<_> = group.acls.iter().collect();
    let unwanted = |name: &Iqn, seen: Lun, mapped: &MappedLunState| match spec.acls.get(name) {
        None => true,
        Some(acl) => !spec.shows(acl, seen) || shows_extra(mapped, spec),
    };
    remove_mapped(&path, &acls, unwanted, &mut steps);
    for (name, acl) in acls.iter().filter(|(name, _)| !spec.acls.contains_key(*name)) {
        let dir = format!("{path}/acls/{name}");
        steps.push(Step::remove(&dir, refill::acl(&dir, acl)));
    }
    let ours = format!("{path}/lun/");
    let named: BTreeSet<&str> = spec.luns.values().map(|disk| disk.name.as_str()).collect();
    let goes = |b: &BackstoreState| {
        // All its LUNs are among those that go: a backstore may have two numbers in one group.
        let unwanted = |user: &String| {
            let lun = user.strip_prefix(&ours).and_then(|name| crate::wire::numbered(name, "lun_"));
            lun.and_then(|lun| Lun::try_from(lun).ok()).is_some_and(|lun| luns.contains(&lun))
        };
        !named.contains(b.id.name.as_str()) && b.users.iter().all(unwanted)
    };
    let mut gone = BTreeSet::new();
    remove_luns(state, &path, group, &luns, goes, &mut gone, &mut steps);
    let wanted = |portal: &crate::state::PortalState| {
        portal.address.is_some_and(|address| spec.portals.iter().any(|wanted| same(wanted, &address)))
    };
    let portals = group.portals.iter().filter(|portal| !wanted(portal));
    steps.extend(portals.map(|portal| Step::remove(format!("{path}/np/{}", portal.name), Vec::new())));
    for lun in &luns {
        let id = group.luns.get(lun).and_then(|lun| lun.backstore.as_ref());
        let backstore = id.filter(|id| !gone.contains(*id)).and_then(|id| state.backstores.get(id));
        if let Some(backstore) = backstore.filter(|b| goes(b)) {
            steps.extend(remove_backstore(state, backstore));
            gone.insert(backstore.id.clone());
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
    let (mut links, mut dirs) = (Vec::new(), Vec::new());
    for (name, acl) in acls {
        for (seen, mapped) in acl.luns.iter().filter(|(seen, mapped)| which(name, **seen, mapped)) {
            let dir = format!("{path}/acls/{name}/lun_{seen}");
            if let (Some(link), Some(lun)) = (&mapped.link, mapped.target_lun) {
                let link = Link::new(format!("{path}/lun/lun_{lun}"), format!("{dir}/{link}"));
                let protect = || Step::write(format!("{dir}/write_protect"), "1", None);
                let restore = mapped.write_protected.then(protect).into_iter().collect();
                links.push(vec![Step::Unlink { link, restore }]);
            }
            dirs.push(Step::remove(dir, Vec::new()));
        }
    }
    steps.extend(Step::together(links));
    steps.extend(dirs);
}

/// Takes LUNs of a portal group away with all that initiators see of them, and some of their backstores.
pub(super) fn unexport(
    state: &State,
    path: &str,
    group: &GroupState,
    luns: &BTreeSet<Lun>,
    backstores: &BTreeSet<BackstoreId>,
    steps: &mut Vec<Step>,
) {
    let acls: Vec<_> = group.acls.iter().collect();
    let shown = |mapped: &MappedLunState| mapped.target_lun.is_some_and(|lun| luns.contains(&lun));
    remove_mapped(path, &acls, |_, _, mapped| shown(mapped), steps);
    let mut gone = BTreeSet::new();
    remove_luns(state, path, group, luns, |b| backstores.contains(&b.id), &mut gone, steps);
    for backstore in backstores.difference(&gone).filter_map(|id| state.backstores.get(id)) {
        steps.extend(remove_backstore(state, backstore));
    }
}

/// Removes LUNs, side by side, each with the backstore that only it exports.
///
/// An unlink waits for the commands in flight (`transport_clear_lun_ref`) and then for a grace period under the group's lock, the removal of
/// a backstore for one under the lock that all directories share: done one after the other that is two for each LUN, side by side it is one.
/// What is behind an unlink in its lane is removed only when that has come back: a directory that would have to wait for commands would do so
/// holding the lock that all of LIO's directories need.
fn remove_luns(
    state: &State,
    path: &str,
    group: &GroupState,
    luns: &BTreeSet<Lun>,
    goes: impl Fn(&BackstoreState) -> bool,
    gone: &mut BTreeSet<BackstoreId>,
    steps: &mut Vec<Step>,
) {
    let mut lanes = Vec::new();
    for (lun, is) in group.luns.iter().filter(|(lun, _)| luns.contains(lun)) {
        let dir = format!("{path}/lun/lun_{lun}");
        let mut lane = Vec::new();
        if let (Some(link), Some(backstore)) = (&is.link, &is.backstore) {
            let link = Link::new(backstore.path(), format!("{dir}/{link}"));
            let grouped = is.alua_group.as_deref().filter(|name| *name != "default_tg_pt_gp");
            let restore = grouped.map(|name| Step::write(format!("{dir}/alua_tg_pt_gp"), name, None));
            lane.push(Step::Unlink { link, restore: restore.into_iter().collect() });
        }
        lane.push(Step::remove(&dir, Vec::new()));
        let backstore = is.backstore.as_ref().and_then(|id| state.backstores.get(id));
        if let Some(backstore) = backstore.filter(|b| b.users.len() == 1 && goes(b)) {
            lane.extend(remove_backstore(state, backstore));
            gone.insert(backstore.id.clone());
        }
        lanes.push(lane);
    }
    steps.extend(Step::together(lanes));
}

fn remove_backstore(state: &State, backstore: &BackstoreState) -> Vec<Step> {
    let Some(mut restore) = refill::backstore(backstore) else { return Vec::new() };
    let path = backstore.id.path();
    let groups = refill::alua(&path, backstore);
    let mut steps: Vec<_> = groups.into_iter().map(|(dir, restore)| Step::remove(dir, restore)).collect();
    restore.extend(
        backstore.lu_group.as_ref().map(|name| Step::write(format!("{path}/alua_lu_gp"), name, None)),
    );
    steps.push(Step::remove(&path, restore));
    let alone = state.adapters.get(&backstore.id.adapter).is_some_and(|names| names.len() == 1);
    if alone {
        steps.push(Step::remove(format!("{TARGET}/core/{}", backstore.id.adapter), Vec::new()));
    }
    steps
}
