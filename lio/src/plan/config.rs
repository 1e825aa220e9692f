//! From what is to a whole configuration.

use std::collections::BTreeSet;

use host::Plan;

use super::{Planner, Step, reexport, remove};
use crate::Disruption;
use crate::error::Result;
use crate::spec::{ConfigSpec, Others};
use crate::state::State;

/// Computes the steps from a state to a configuration. The state must have been read with
/// [`Focus::Complete`](crate::state::Focus::Complete). Pure: reads and writes nothing.
///
/// What is too much goes first, in all targets; then all is made; then all targets serve. What all iSCSI targets share is
/// [`iscsi`](super::iscsi)'s. With [`Disruption::Unexport`] LUNs are taken away for what changes only then.
///
/// # Errors
/// As [`diff`](super::diff).
pub fn config(
    state: &State,
    spec: &ConfigSpec,
    others: Others,
    disruption: Disruption,
) -> Result<Plan<Step>> {
    spec.validate()?;
    let mut steps = Vec::new();
    let mut left = state.clone();
    if others == Others::Remove {
        let disks = spec.targets.iter().flat_map(|target| target.luns.values()).chain(&spec.backstores);
        let named: BTreeSet<_> = disks.map(|disk| (disk.backing.plugin(), disk.name.as_str())).collect();
        let wanted: BTreeSet<_> = spec.targets.iter().map(|target| (target.fabric, &target.iqn)).collect();
        let gone = remove::others(
            state,
            |target| !wanted.contains(&(target.fabric, &target.iqn)),
            |backstore| !named.contains(&(backstore.id.plugin(), backstore.id.name.as_str())),
            &mut steps,
        );
        left.targets.retain(|(fabric, name), _| wanted.contains(&(*fabric, name)));
        left.backstores.retain(|id, _| !gone.contains(id));
        for (adapter, names) in &mut left.adapters {
            names.retain(|name| !gone.iter().any(|id| id.adapter == *adapter && id.name == *name));
        }
        left.adapters.retain(|adapter, names| {
            !names.is_empty() || state.adapters.get(adapter).is_some_and(Vec::is_empty)
        });
        for backstore in left.backstores.values_mut() {
            let stays = |user: &String| {
                left.targets.values().any(|target| {
                    user.starts_with(&format!("{}/", super::target_path(target.fabric, &target.iqn)))
                })
            };
            backstore.users.retain(stays);
        }
    }
    if disruption == Disruption::Unexport {
        for target in &spec.targets {
            if let Some((more, without)) = reexport::take_away(&left, state, target)? {
                steps.extend(more);
                left = without;
            }
        }
    }
    let mut planner = Planner::new(&left);
    // A configuration is what was written down, with nothing of ours in it; the journal knows what was begun.
    planner.noting = false;
    for target in &spec.targets {
        planner.clear(target);
    }
    for target in &spec.targets {
        planner.make(target)?;
    }
    let mut lanes = Vec::new();
    for disk in &spec.backstores {
        planner.refuse_twins(disk)?;
        planner.lu_group(disk)?;
        lanes.push(planner.backstore(disk, None)?.1);
    }
    planner.steps.extend(Step::together(lanes));
    for target in &spec.targets {
        planner.enable(target);
    }
    steps.extend(planner.steps);
    Ok(Plan::new(steps))
}
