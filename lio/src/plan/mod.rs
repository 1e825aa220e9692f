//! From what is to what is wanted: ordered steps, computed without touching anything.
//!
//! The order is fixed here and nowhere else. Making: reservations' directories, backstores (control, enable, identity, attributes), target,
//! portal group with attributes and parameters, LUNs, ACLs with passwords, what they see, portals, and `enable=1` last: an enabled group
//! without its ACLs answers logins with "target forbidden", which initiators do not retry, while a disabled one answers "service
//! unavailable", which they do (`iscsi_target_nego.c`). Removing is the reverse, `enable=0` first.

mod make;
mod remove;
mod step;

use host::Plan;

use crate::error::{Error, Result};
use crate::spec::{Enabled, TargetSpec};
use crate::state::{BackstoreId, State, TARGET};

pub use remove::removal;
pub use step::{Link, Step, changes};

/// Computes the steps from a state to a specification. The state must have been read with [`Focus::Spec`](crate::state::Focus::Spec) of
/// the same specification. Pure: reads and writes nothing.
///
/// What the target has and the specification does not name (LUNs, portals, ACLs) is removed; attributes and parameters it does not name
/// are left alone, and so is everything outside the target and its disks.
///
/// # Errors
/// [`Error::Invalid`] for a specification no kernel can carry out, [`Error::Conflict`] naming the step that cannot be done on a target
/// in use.
pub fn diff(state: &State, spec: &TargetSpec) -> Result<Plan<Step>> {
    spec.validate()?;
    let group = state.targets.get(&spec.iqn).and_then(|target| target.group(spec.tag));
    let mut steps = Vec::new();
    let path = make::group_path(spec, group);
    if let Some(group) = group {
        if group.enabled && spec.enabled == Enabled::No {
            steps.push(Step::write(format!("{path}/enable"), "0", Some("1".to_owned())));
        }
        steps.extend(remove::extras(state, spec, group));
    }
    steps.extend(state.missing_dirs.iter().map(Step::make));
    let disks = make::backstores(state, spec, &mut steps)?;
    make::group(state, spec, group, &mut steps)?;
    make::luns(spec, group, &path, &disks, &mut steps)?;
    make::acls(spec, group, &path, &mut steps);
    make::portals(state, spec, group, &path, &mut steps)?;
    if spec.enabled == Enabled::Yes && !group.is_some_and(|group| group.enabled) {
        steps.push(Step::write(format!("{path}/enable"), "1", Some("0".to_owned())));
    }
    Ok(Plan::new(steps))
}

fn conflict(object: impl Into<String>, step: &Step, reason: impl Into<String>) -> Error {
    Error::Conflict { object: object.into(), step: step.to_string(), reason: reason.into() }
}

/// The note in a backstore's `alias` by which a second run knows whose it is, also when the first one broke off before it was exported.
pub(crate) fn note(iqn: &host::Iqn) -> String {
    format!("sankit {iqn}")
}

/// The first adapter number of a plugin that is free or has no backstore: one backstore an adapter, as all tools have it.
fn free_adapter(state: &State, plugin: &str, taken: &[BackstoreId]) -> (String, bool) {
    let mut index = 0_usize;
    loop {
        let adapter = format!("{plugin}_{index}");
        let (there, empty) = match state.adapters.get(&adapter) {
            Some(names) => (true, names.is_empty()),
            None => (false, true),
        };
        if empty && !taken.iter().any(|id| id.adapter == adapter) {
            return (adapter, there);
        }
        index += 1;
    }
}

pub(crate) fn iqn_path(iqn: &host::Iqn) -> String {
    format!("{TARGET}/iscsi/{iqn}")
}
