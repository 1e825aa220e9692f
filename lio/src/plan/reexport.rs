//! What the kernel changes only on a disk that nobody exports: the LUN is taken away, the disk changed, the LUN brought back.

use std::collections::BTreeSet;

use host::Plan;

use super::{Step, backstore, diff, group, remove};
use crate::error::Result;
use crate::name::Lun;
use crate::spec::{Fabric, TargetSpec};
use crate::state::State;

/// As [`diff`], and what would be a conflict because a LUN exports the disk is done with the LUN taken away: the target stops serving, the
/// LUNs concerned are unlinked, and all is made as specified. A disk that other targets export too stays a conflict.
///
/// `full` was read with [`Focus::Removal`](crate::state::Focus::Removal): what is made anew must be able to come back.
///
/// # Errors
/// As [`diff`].
pub fn diff_unexported(state: &State, full: &State, spec: &TargetSpec) -> Result<Plan<Step>> {
    match take_away(state, full, spec)? {
        None => diff(state, spec),
        Some((mut steps, without)) => {
            steps.extend(diff(&without, spec)?.into_steps());
            Ok(Plan::new(steps))
        }
    }
}

/// The steps that take away what cannot change while it is exported, and what is then left; `None` if nothing must be.
///
/// # Errors
/// As [`diff`]: what taking away does not help with is a conflict.
pub(super) fn take_away(
    state: &State,
    full: &State,
    spec: &TargetSpec,
) -> Result<Option<(Vec<Step>, State)>> {
    let conflict = match diff(state, spec) {
        Err(error) if error.kind() == crate::ErrorKind::Conflict => error,
        other => return other.map(|_| None),
    };
    let Some(is) = group::of(state, spec) else { return Err(conflict) };
    let path = group::path(spec, Some(is));
    let ours = format!("{path}/lun/");
    let mut without = state.clone();
    let mut steps = Vec::new();
    let (mut luns, mut gone) = (BTreeSet::<Lun>::new(), BTreeSet::new());
    for (lun, disk) in &spec.luns {
        let Some(id) = is.luns.get(lun).and_then(|is| is.backstore.as_ref()) else { continue };
        let Some(now) = state.backstores.get(id) else { continue };
        let other = (now.id.plugin(), now.id.name.as_str()) != (disk.backing.plugin(), disk.name.as_str());
        if !other && backstore::correct(now, disk, &mut Vec::new()).is_ok() {
            continue;
        }
        if !now.users.iter().all(|user| user.starts_with(&ours)) {
            return Err(conflict);
        }
        luns.insert(*lun);
        if other || backstore::differs(now, disk).is_some() {
            gone.insert(id.clone());
        }
    }
    if luns.is_empty() {
        return Err(conflict);
    }
    if is.enabled && spec.fabric == Fabric::Iscsi {
        steps.push(Step::write(format!("{path}/enable"), "0", Some("1".to_owned())));
    }
    remove::unexport(full, &path, is, &luns, &gone, &mut steps);
    let group = without.targets.get_mut(&(spec.fabric, spec.iqn.clone()));
    if let Some(group) = group.and_then(|target| target.groups.iter_mut().find(|group| group.tag == spec.tag))
    {
        group.enabled = spec.fabric != Fabric::Iscsi && group.enabled;
        group.luns.retain(|lun, _| !luns.contains(lun));
        for acl in group.acls.values_mut() {
            acl.luns.retain(|_, mapped| mapped.target_lun.is_none_or(|lun| !luns.contains(&lun)));
        }
    }
    let unlinked: Vec<String> = luns.iter().map(|lun| format!("{ours}lun_{lun}")).collect();
    for id in gone {
        without.backstores.remove(&id);
        without.adapters.remove(&id.adapter);
    }
    for backstore in without.backstores.values_mut() {
        backstore.users.retain(|user| !unlinked.contains(user));
    }
    Ok(Some((steps, without)))
}
