//! From what is to what is wanted: ordered steps, computed without touching anything.
//!
//! The order is fixed here and nowhere else. Making: reservations' directories, backstores (control, enable, identity, attributes, access
//! groups), target, portal group with attributes and parameters, LUNs, ACLs with passwords, what they see, portals, and `enable=1` last: an
//! enabled group without its ACLs answers logins with "target forbidden", which initiators do not retry, while a disabled one answers
//! "service unavailable", which they do (`iscsi_target_nego.c`). Removing is the reverse, `enable=0` first.

mod acl;
mod backstore;
mod config;
mod group;
mod reexport;
mod refill;
mod remove;
mod step;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use host::{Iqn, Plan, Secret};

use crate::error::{Error, Result};
use crate::name::{ChapSecret, UnitSerial};
use crate::spec::{BackstoreSpec, Chap, Enabled, Fabric, IscsiSpec, TargetSpec};
use crate::state::{AuthState, BackstoreId, BackstoreState, IscsiState, State, TARGET};
use crate::wire::attributes::{self, Table};

pub use config::config;
pub use reexport::diff_unexported;
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
    diff_valid(state, spec)
}

/// The same for a specification that was found to be valid.
pub(crate) fn diff_valid(state: &State, spec: &TargetSpec) -> Result<Plan<Step>> {
    let mut planner = Planner::new(state);
    planner.clear(spec);
    planner.make(spec)?;
    planner.enable(spec);
    Ok(Plan::new(planner.steps))
}

/// Computes the steps that bring what all iSCSI targets share to a specification. Pure.
///
/// # Errors
/// [`Error::Invalid`], [`Error::Form`].
pub fn iscsi(state: &IscsiState, spec: &IscsiSpec) -> Result<Plan<Step>> {
    spec.validate()?;
    let dir = format!("{TARGET}/iscsi");
    let mut steps = Vec::new();
    let enforce = |to: bool| {
        let number = |flag: bool| u8::from(flag).to_string();
        Step::write(format!("{dir}/discovery_auth/enforce_discovery_auth"), number(to), Some(number(!to)))
    };
    let wanted = spec.discovery_chap().is_some();
    if state.enforced && !wanted {
        steps.push(enforce(false));
    }
    let directions = (spec.discovery_chap(), spec.mutual_discovery_chap());
    authentication(&format!("{dir}/discovery_auth"), directions, &state.discovery, &mut steps);
    if !state.enforced && wanted {
        steps.push(enforce(true));
    }
    if let Some(cpus) = &spec.cpus
        && state.cpus.as_ref() != Some(cpus)
    {
        let before = state.cpus.as_ref().map(ToString::to_string);
        steps.push(Step::write(format!("{dir}/cpus_allowed_list"), cpus.to_string(), before));
    }
    Ok(Plan::new(steps))
}

/// What is found while a plan is made, so that nothing is searched for twice.
struct Planner<'a> {
    state: &'a State,
    /// The backstores that are there, by plugin and name.
    known: HashMap<(&'a str, &'a str), &'a BackstoreState>,
    /// The same by the part of the identifier that comes from the serial.
    identities: HashMap<String, Vec<&'a BackstoreState>>,
    /// The adapter number of each plugin below which none is free.
    next: HashMap<&'static str, usize>,
    /// The backstores that are wanted, by plugin and name: one may stand behind LUNs of several targets.
    made: HashMap<(&'a str, &'a str), (BackstoreId, &'a BackstoreSpec)>,
    /// The groups of backstores that are made.
    lu_groups: BTreeSet<&'a str>,
    /// The fabrics that are made.
    fabrics: BTreeSet<Fabric>,
    /// Whether backstores get a note of whose they are.
    noting: bool,
    /// Whether the directories for reservations are made.
    prepared: bool,
    steps: Vec<Step>,
}

impl<'a> Planner<'a> {
    fn new(state: &'a State) -> Self {
        let known = state.backstores.values().map(|b| ((b.id.plugin(), b.id.name.as_str()), b)).collect();
        let mut identities = HashMap::<_, Vec<_>>::new();
        for backstore in state.backstores.values() {
            let serial = backstore.serial.as_deref().and_then(|serial| serial.parse::<UnitSerial>().ok());
            if let Some(serial) = serial {
                identities.entry(serial.digits()).or_default().push(backstore);
            }
        }
        Self {
            state,
            known,
            identities,
            next: HashMap::new(),
            made: HashMap::new(),
            lu_groups: BTreeSet::new(),
            fabrics: BTreeSet::new(),
            noting: true,
            prepared: false,
            steps: Vec::new(),
        }
    }

    /// Stops a target that shall not serve, and removes what is too much.
    fn clear(&mut self, spec: &TargetSpec) {
        let group = group::of(self.state, spec);
        if let Some(group) = group {
            if group.enabled && spec.enabled == Enabled::No && spec.fabric == Fabric::Iscsi {
                let path = group::path(spec, Some(group));
                self.steps.push(Step::write(format!("{path}/enable"), "0", Some("1".to_owned())));
            }
            self.steps.extend(remove::extras(self.state, spec, group));
        }
    }

    fn make(&mut self, spec: &'a TargetSpec) -> Result<()> {
        if !std::mem::replace(&mut self.prepared, true) {
            self.steps.extend(self.state.missing_dirs.iter().map(Step::make));
        }
        let group = group::of(self.state, spec);
        let path = group::path(spec, group);
        let disks = self.backstores(spec)?;
        self.group(spec, group)?;
        group::luns(spec, group, &path, &disks, &mut self.steps)?;
        acl::make(spec, group, &path, &mut self.steps);
        group::portals(self.state, spec, group, &path, &mut self.steps)
    }

    /// Lets a target serve, last of all.
    fn enable(&mut self, spec: &TargetSpec) {
        let group = group::of(self.state, spec);
        let serves = group.is_some_and(|group| group.enabled);
        if spec.fabric == Fabric::Iscsi && spec.enabled == Enabled::Yes && !serves {
            let path = group::path(spec, group);
            self.steps.push(Step::write(format!("{path}/enable"), "1", Some("0".to_owned())));
        }
    }

    /// The first adapter of a plugin that is free or has no backstore, and whether it is there: one backstore an adapter, as all tools
    /// have it.
    fn free_adapter(&mut self, plugin: &'static str) -> (String, bool) {
        let next = self.next.entry(plugin).or_default();
        loop {
            let adapter = format!("{plugin}_{next}");
            *next += 1;
            match self.state.adapters.get(&adapter) {
                None => return (adapter, false),
                Some(names) if names.is_empty() => return (adapter, true),
                Some(_) => {}
            }
        }
    }
}

/// The writes that lead from `have` (of a fresh object: the kernel's defaults) to `want`. What is not in `have` is at its default.
fn values(
    dir: &str,
    want: &BTreeMap<String, String>,
    have: Option<&BTreeMap<String, String>>,
    table: Table,
) -> Vec<Step> {
    let differs = |(name, value): (&String, &String)| {
        let is = have.and_then(|have| have.get(name)).map(String::as_str);
        let before = is.or(attributes::default_of(table, name));
        let step = || Step::write(format!("{dir}/{name}"), value, is.map(str::to_owned));
        (before != Some(value)).then(step)
    };
    want.iter().filter_map(differs).collect()
}

/// The writes that bring passwords to what is wanted in both directions; an absent one is taken away.
fn authentication(dir: &str, want: (Option<&Chap>, Option<&Chap>), is: &AuthState, steps: &mut Vec<Step>) {
    let directions = [
        (want.0, &is.user, &is.secret, ["userid", "password"]),
        (want.1, &is.mutual_user, &is.mutual_secret, ["userid_mutual", "password_mutual"]),
    ];
    for (want, user, secret, [name_file, secret_file]) in directions {
        let name_file = format!("{dir}/{name_file}");
        let secret_file = format!("{dir}/{secret_file}");
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

fn conflict(object: impl Into<String>, step: &Step, reason: impl Into<String>) -> Error {
    Error::Conflict { object: object.into(), step: step.to_string(), reason: reason.into() }
}

/// The note in a backstore's `alias` by which a second run knows whose it is, also when the first one broke off before it was exported.
pub(crate) fn note(iqn: &Iqn) -> String {
    format!("sankit {iqn}")
}

pub(crate) fn target_path(fabric: Fabric, name: &Iqn) -> String {
    format!("{TARGET}/{fabric}/{name}")
}
