//! The Linux iSCSI target (LIO) through configfs.
//!
//! A [`TargetSpec`] says what is wanted; [`Lio::ensure`] makes it so, and a second call writes nothing. [`Lio::plan`] shows beforehand,
//! as shell lines, what would be done. A failed step is undone with all before it. No `targetcli`, no Python, no child process but
//! `modprobe`, and that only where the modules are not loaded.
//!
//! ```
//! use lio::{AclSpec, BackstoreSpec, Lio, Secret, TargetSpec};
//! # #[cfg(feature = "fake")] fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let memory = lio::fake::configfs(); memory.edit(|nodes| nodes.put("/dev/drbd0", ""));
//! # let host = lio::Host::fake().with_tree(memory.tree());
//! let lio = Lio::on(&host)?; // Lio::new()? on a real machine
//! let target = TargetSpec::new("iqn.2026-01.com.example:r0".parse()?)
//!     .with_lun(0, BackstoreSpec::block("r0".parse()?, "/dev/drbd0").with_serial("0a1b2c3d4e5f".parse()?))
//!     .with_portal("10.1.24.10:3260".parse()?)
//!     .with_acl(AclSpec::new("iqn.2026-01.com.example:host1".parse()?)
//!         .with_chap("host1".parse()?, Secret::from("a good password")));
//! print!("{}", lio.plan(&target)?);
//! assert!(lio.ensure(&target)?);
//! assert!(!lio.ensure(&target)?);
//! assert!(lio.get(&target.iqn)?.is_some_and(|state| state.is_enabled()));
//! assert!(lio.remove(&target.iqn)?);
//! # Ok(()) }
//! # #[cfg(not(feature = "fake"))] fn main() {}
//! ```
//!
//! | what | replaces |
//! | --- | --- |
//! | [`Lio::ensure`] | `targetcli /backstores/block create`, `/iscsi create`, `luns`, `acls`, `portals create`, `set auth`, `enable` |
//! | [`Lio::list`], [`Lio::get`] | `targetcli ls` |
//! | [`Lio::sessions`], [`Lio::usage`], [`Lio::sampler`] | `targetcli sessions` |
//! | [`HaPair`], [`Lio::takeover`], [`Lio::standby`] | `ocf:heartbeat:iSCSITarget`, `iSCSILogicalUnit` |
//! | [`scst::read`] | rewriting `scst.conf` by hand |
//! | [`Lio::remove`] | `targetcli /iscsi delete`, `/backstores/block delete` |
//!
//! Not supported: fabrics other than iSCSI, loopback and vhost. LIO itself implements error recovery levels 1 and 2 only in part.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod apply;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod ha;
mod journal;
mod live;
mod name;
pub mod plan;
mod running;
#[cfg(feature = "saveconfig")]
#[cfg_attr(docsrs, doc(cfg(feature = "saveconfig")))]
pub mod saveconfig;
pub mod scst;
mod spec;
pub mod state;
#[allow(unsafe_code)]
mod sys;
mod vmware;
pub mod wire;

use std::path::Path;
use std::time::Duration;

pub use error::{Error, ErrorKind, Result};
pub use ha::{HaMode, HaNode, HaPair, HaState, Side};
pub use host::CpuSet;
pub use host::plan::{Impact, Undo};
pub use host::{Bytes, Deadline, Host, Iqn, ParseError, Plan, Secret, Wwid};
pub use journal::{Recovered, Recovery};
pub use live::{Counters, LoginFailure, LoginFault, Logins, Rates, Sample, Sampler, Usage};
pub use name::{
    AclTag, BackstoreName, ChapSecret, ChapUser, CompanyId, GroupName, Lun, ProductId, Revision, Tag,
    UnitSerial, VendorId,
};
pub use plan::Step;
pub use spec::{
    Access, AclSpec, AluaGroupSpec, AluaState, Backing, BackstoreSpec, Chap, ConfigSpec, DemoMode, Enabled,
    Fabric, FileIo, IscsiSpec, LuGroup, MappedLunSpec, Memory, Others, TargetSpec, Transport, WriteCache,
};
pub use state::{BackstoreId, BackstoreState, IscsiState, TargetState};
pub use wire::aptpl::Registration;
pub use wire::session::SessionState;

use host::exec::Module;
use host::plan::Undone;
use host::{Lock, Tree};
use state::{Focus, TARGET};

/// The iSCSI target of a machine. Cheap to clone; holds nothing open.
#[doc(alias = "targetcli")]
#[derive(Debug, Clone)]
pub struct Lio {
    host: Host,
    fabric: Fabric,
    removal: Removal,
    disruption: Disruption,
    lock_timeout: Duration,
    grace_periods: GracePeriods,
}

/// How long the kernel takes for a grace period of RCU, of which it needs one to link a LUN and about four to remove a target with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum GracePeriods {
    /// As the machine is set: 10 to 30 ms each.
    #[default]
    Normal,
    /// While a plan is carried out `/sys/kernel/rcu_expedited` is 1: well below a millisecond each, at the price of an interrupt to every
    /// processor. Two more steps, first and last. A process that is killed in between leaves it at 1, which is slow for nobody but
    /// real-time work; a later run takes it for the administrator's choice.
    Expedited,
}

/// What making a target as specified may do to those who use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Disruption {
    /// Nothing. A change that would drop sessions is refused while somebody is logged in, and one that the kernel makes only on a disk that
    /// is not exported is a conflict.
    #[default]
    Refused,
    /// Sessions may be dropped: LUNs and ACLs that are not named any more go, queue depths change.
    Sessions,
    /// LUNs may be taken away and brought back too, for what the kernel changes only then: block size, serial, vendor, product, the device.
    Unexport,
}

/// Whether what is removed can be brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Removal {
    /// All that the target and its disks are set to is read before: a step that fails brings everything back.
    #[default]
    Reversible,
    /// No more is read than what is there. Four times faster to plan with many LUNs; what a failed step leaves is incomplete, and removing
    /// it again goes on from there.
    Final,
}

impl Lio {
    /// Opens the iSCSI target of a machine: loads `target_core_mod` and `iscsi_target_mod` and mounts configfs if
    /// needed.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] says what is missing and what to do about it.
    pub fn on(host: &Host) -> Result<Self> {
        let tree = host.tree();
        // Two looks when all is there: this is on the path of every takeover.
        let ready = tree.exists(TARGET).map_err(Error::unreadable)?
            && (tree.exists(format!("{TARGET}/iscsi")).map_err(Error::unreadable)?
                || tree.exists("/sys/module/iscsi_target_mod").map_err(Error::unreadable)?);
        if !ready {
            bring_up(host)?;
        }
        Ok(Self {
            host: host.clone(),
            fabric: Fabric::Iscsi,
            removal: Removal::Reversible,
            disruption: Disruption::Refused,
            lock_timeout: Duration::from_secs(10),
            grace_periods: GracePeriods::Normal,
        })
    }

    /// Opens the iSCSI target of this machine.
    ///
    /// # Errors
    /// As [`on`](Self::on).
    pub fn new() -> Result<Self> {
        Self::on(&Host::live())
    }

    /// The same, for targets of another fabric: what takes a name looks for it there. Specifications say themselves what they are of.
    #[must_use]
    pub fn of(mut self, fabric: Fabric) -> Self {
        self.fabric = fabric;
        self
    }

    /// Sets how long changes wait for another process that holds the lock (ours in `/run/sankit/lio.lock`, or targetcli's); 10 s by default.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// Sets what [`ensure`](Self::ensure) may do to those who use the target; nothing by default.
    #[must_use]
    pub fn with_disruption(mut self, disruption: Disruption) -> Self {
        self.disruption = disruption;
        self
    }

    /// Sets whether what is removed can be brought back; it can by default.
    #[must_use]
    pub fn with_removal(mut self, removal: Removal) -> Self {
        self.removal = removal;
        self
    }

    /// Sets how the kernel waits while plans of this handle are carried out; as the machine is set by default.
    #[doc(alias = "rcu_expedited")]
    #[must_use]
    pub fn with_grace_periods(mut self, grace_periods: GracePeriods) -> Self {
        self.grace_periods = grace_periods;
        self
    }

    fn tree(&self) -> &Tree {
        self.host.tree()
    }

    /// Lists all targets, also those others made. Reads configfs once; `targetcli ls /iscsi`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn list(&self) -> Result<Vec<TargetState>> {
        Ok(state::read(self.tree(), Focus::Everything)?.targets.into_values().collect())
    }

    /// Lists all backstores, also those no target exports; `targetcli ls /backstores`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn backstores(&self) -> Result<Vec<BackstoreState>> {
        Ok(state::read(self.tree(), Focus::Everything)?.backstores.into_values().collect())
    }

    /// Gets one target, with its backstores, LUNs, portals, ACLs and all attributes; `None` if there is none.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn get(&self, iqn: &Iqn) -> Result<Option<TargetState>> {
        Ok(state::read(self.tree(), Focus::Target(self.fabric, iqn))?
            .targets
            .remove(&(self.fabric, iqn.clone())))
    }

    /// Plans the way to a specification; reads only. Empty if all is as it should be. Print it to see shell lines.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a specification no kernel can carry out; [`Error::Conflict`] names the step that is impossible on a target
    /// in use.
    pub fn plan(&self, spec: &TargetSpec) -> Result<Plan<Step>> {
        // Before anything is read: a wrong specification is wrong on every machine.
        spec.validate()?;
        self.load(spec.fabric)?;
        let state = state::read(self.tree(), Focus::Spec(spec))?;
        let plan = match (plan::diff_valid(&state, spec), self.disruption) {
            (Err(conflict), Disruption::Unexport) if conflict.kind() == ErrorKind::Conflict => {
                let full = state::read(self.tree(), Focus::Removal(spec.fabric, &spec.iqn))?;
                plan::diff_unexported(&state, &full, spec)?
            }
            (plan, _) => plan?,
        };
        self.hurried(plan)
    }

    /// Reads the whole running configuration as a specification, passwords too; applied on an empty machine it gives the same. The second part
    /// names what a specification cannot say.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn running(&self) -> Result<(ConfigSpec, Vec<String>)> {
        let state = state::read(self.tree(), Focus::Complete)?;
        Ok(running::config(&state, &state::read_iscsi(self.tree())?))
    }

    /// Plans the way to a whole configuration; reads only.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_config(&self, spec: &ConfigSpec, others: Others) -> Result<Plan<Step>> {
        spec.validate()?;
        spec.targets.iter().try_for_each(|target| self.load(target.fabric))?;
        let state = state::read(self.tree(), Focus::Complete)?;
        let mut plan = match &spec.iscsi {
            Some(iscsi) if self.tree().exists(format!("{TARGET}/iscsi")).map_err(Error::unreadable)? => {
                plan::iscsi(&state::read_iscsi(self.tree())?, iscsi)?
            }
            Some(iscsi) => {
                let fabric = Step::make(format!("{TARGET}/iscsi"));
                let rest = plan::iscsi(&IscsiState::default(), iscsi)?;
                Plan::new(std::iter::once(fabric).chain(rest.into_steps()).collect())
            }
            None => Plan::default(),
        };
        plan.append(plan::config(&state, spec, others, self.disruption)?);
        self.hurried(plan)
    }

    /// Makes the whole configuration be as specified, in one plan that is undone as a whole if a step fails; says whether anything had to
    /// be changed. `targetctl restore`. Targets that are removed lose their sessions; those that stay only where that is
    /// [allowed](Self::with_disruption).
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    #[doc(alias = "targetctl")]
    pub fn ensure_config(&self, spec: &ConfigSpec, others: Others) -> Result<bool> {
        let _locks = self.lock()?;
        let plan = self.plan_config(spec, others)?;
        let changes = !plan.is_empty();
        spec.targets.iter().try_for_each(|target| self.refuse_disruption(target, &plan))?;
        self.carry_out(plan)?;
        Ok(changes)
    }

    /// Plans the way to what all iSCSI targets share; reads only.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_iscsi(&self, spec: &IscsiSpec) -> Result<Plan<Step>> {
        spec.validate()?;
        plan::iscsi(&state::read_iscsi(self.tree())?, spec)
    }

    /// Makes what all iSCSI targets share be as specified: CHAP of discovery, processors. Says whether anything had to be changed.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub fn ensure_iscsi(&self, spec: &IscsiSpec) -> Result<bool> {
        let _locks = self.lock()?;
        let plan = self.plan_iscsi(spec)?;
        let changes = !plan.is_empty();
        self.carry_out(plan)?;
        Ok(changes)
    }

    /// Gets what all iSCSI targets share.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn get_iscsi(&self) -> Result<IscsiState> {
        state::read_iscsi(self.tree())
    }

    /// Plans the removal of a target and of the backstores that only it exports; reads only. Empty if there is none.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn plan_removal(&self, iqn: &Iqn) -> Result<Plan<Step>> {
        let focus = match self.removal {
            Removal::Reversible => Focus::Removal(self.fabric, iqn),
            Removal::Final => Focus::Final(self.fabric, iqn),
        };
        self.hurried(plan::removal(&state::read(self.tree(), focus)?, self.fabric, iqn))
    }

    /// Puts the two steps around a plan that make grace periods short, if that was asked for and is not so already.
    fn hurried(&self, plan: Plan<Step>) -> Result<Plan<Step>> {
        const FILE: &str = "/sys/kernel/rcu_expedited";
        if plan.is_empty() || self.grace_periods == GracePeriods::Normal {
            return Ok(plan);
        }
        // The file is missing in kernels without SMP, and reads 1 where somebody else has set it.
        match self.tree().read_opt(FILE).map_err(Error::unreadable)? {
            Some(now) if now.trim() == "0" => {
                let mut steps = vec![Step::write(FILE, "1", Some("0".to_owned()))];
                steps.extend(plan.into_steps());
                steps.push(Step::write(FILE, "0", Some("1".to_owned())));
                Ok(Plan::new(steps))
            }
            _ => Ok(plan),
        }
    }

    /// Carries out a plan under the lock. A step that fails is undone with all before it.
    ///
    /// The result takes the plan back: `lio.apply(undo.into_plan())`.
    ///
    /// # Errors
    /// [`Error::Plan`] says which step failed, why, and what came of the undoing; [`Error::Locked`] if another process is at it.
    pub fn apply(&self, plan: Plan<Step>) -> Result<Undo<Step>> {
        let _locks = self.lock()?;
        self.carry_out(plan)
    }

    /// Makes a target that is not there yet.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], or as [`ensure`](Self::ensure).
    pub fn create(&self, spec: &TargetSpec) -> Result<()> {
        spec.validate()?;
        let _locks = self.lock()?;
        let state = state::read(self.tree(), Focus::Spec(spec))?;
        if state.target(spec.fabric, &spec.iqn).is_some() {
            return Err(Error::AlreadyExists { iqn: spec.iqn.to_string() });
        }
        self.carry_out(self.hurried(plan::diff(&state, spec)?)?).map(drop)
    }

    /// Makes a target be as specified; says whether anything had to be changed. The portal group is enabled last of all writes.
    ///
    /// Already as specified: only reads. What the target has and the specification does not name (LUNs, portals, ACLs) is removed;
    /// attributes it does not name are left. What cannot change while the target serves is a conflict, and nothing is done.
    ///
    /// # Errors
    /// As [`plan`](Self::plan) and [`apply`](Self::apply).
    pub fn ensure(&self, spec: &TargetSpec) -> Result<bool> {
        let _locks = self.lock()?;
        let plan = self.plan(spec)?;
        let changes = !plan.is_empty();
        self.refuse_disruption(spec, &plan)?;
        self.carry_out(plan)?;
        Ok(changes)
    }

    /// Refuses what would drop sessions, if there are any and it was not allowed.
    fn refuse_disruption(&self, spec: &TargetSpec, plan: &Plan<Step>) -> Result<()> {
        let dir = plan::target_path(spec.fabric, &spec.iqn);
        let drops = |step: &&Step| {
            host::plan::Step::impact(*step) >= Impact::DropsSessions
                && step.path().strip_prefix(&dir).is_some_and(|rest| rest.starts_with('/'))
        };
        let Some(step) = plan.steps().iter().find(drops).filter(|_| self.disruption == Disruption::Refused)
        else {
            return Ok(());
        };
        let file = format!("{dir}/fabric_statistics/iscsi_instance/sessions");
        let sessions = self.tree().read_opt(file).map_err(Error::unreadable)?.unwrap_or_default();
        match sessions.trim() {
            "" | "0" => Ok(()),
            count => Err(Error::Conflict {
                object: format!("target {}", spec.iqn),
                step: step.to_string(),
                reason: format!(
                    "it would drop sessions, of which there are {count}; allow it with Disruption::Sessions"
                ),
            }),
        }
    }

    /// Plans what a process that died in the middle of a change had begun; `None` if none has. A new change replaces what is noted of it:
    /// [`ensure`](Self::ensure) with the same specification gets to the end too, and needs no [`recover`](Self::recover).
    ///
    /// # Errors
    /// The note cannot be read.
    pub fn interrupted(&self) -> Result<Option<Plan<Step>>> {
        journal::left(&self.host)
    }

    /// Undoes, or does to the end, what a process that died in the middle of a change had begun; `None` if none has. Passwords are not
    /// noted, and neither way brings them: the result says which are missing.
    ///
    /// # Errors
    /// [`Error::Locked`], or the note cannot be read. What the kernel refuses is in the result, and the rest is done.
    pub fn recover(&self, way: Recovery) -> Result<Option<Recovered>> {
        let _locks = self.lock()?;
        match journal::left(&self.host)? {
            Some(plan) => journal::recover(&self.host, plan, way).map(Some),
            None => Ok(None),
        }
    }

    /// Removes a target and the backstores that only it exports; says whether it was there. Sessions are dropped first (`enable=0`), then
    /// all goes in the order the kernel needs. What a run that broke off left of it goes too.
    ///
    /// Unlinking a LUN waits for its commands in flight: with a frozen disk (DRBD without quorum) it hangs until the disk is thawed.
    ///
    /// # Errors
    /// [`Error::Plan`], with everything brought back as far as possible.
    pub fn remove(&self, iqn: &Iqn) -> Result<bool> {
        let _locks = self.lock()?;
        let plan = self.plan_removal(iqn)?;
        let there = !plan.is_empty();
        self.carry_out(plan)?;
        Ok(there)
    }

    /// Lets a target serve (`tpgt_N/enable` = 1, all portal groups); says whether it did not before.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the kernel refuses.
    pub fn enable(&self, iqn: &Iqn) -> Result<bool> {
        self.switch(iqn, Enabled::Yes)
    }

    /// Stops a target from serving (`tpgt_N/enable` = 0, all portal groups): drops all sessions and waits for them, in one write; logins
    /// are answered with "service unavailable", which initiators retry. Says whether it served before.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the kernel refuses.
    pub fn disable(&self, iqn: &Iqn) -> Result<bool> {
        self.switch(iqn, Enabled::No)
    }

    fn switch(&self, iqn: &Iqn, to: Enabled) -> Result<bool> {
        let _locks = self.lock()?;
        let dir = plan::target_path(self.fabric, iqn);
        if !self.tree().exists(&dir).map_err(Error::unreadable)? {
            return Err(Error::NotFound { iqn: iqn.to_string() });
        }
        let (value, other) = match to {
            Enabled::Yes => ("1", "0"),
            Enabled::No => ("0", "1"),
        };
        let mut plan = Plan::default();
        for group in self.tree().dirs(&dir).map_err(Error::unreadable)? {
            let path = format!("{dir}/{group}/enable");
            let is = if group.starts_with("tpgt_") { self.tree().read_opt(&path) } else { Ok(None) };
            if is.map_err(Error::unreadable)?.is_some_and(|is| is.trim() == other) {
                plan.push(Step::write(path, value, Some(other.to_owned())));
            }
        }
        let changes = !plan.is_empty();
        self.carry_out(plan)?;
        Ok(changes)
    }

    /// Loads the module of a fabric that the kernel does not load by itself at the first `mkdir` (`target_core_register_fabric`).
    fn load(&self, fabric: Fabric) -> Result<()> {
        if fabric != Fabric::Vhost
            || self.tree().exists(format!("{TARGET}/vhost")).map_err(Error::unreadable)?
        {
            return Ok(());
        }
        load(&self.host, Module::VHOST_SCSI)
    }

    fn carry_out(&self, plan: Plan<Step>) -> Result<Undo<Step>> {
        let tree = self.tree();
        let noted = journal::begin(&self.host, &plan)?;
        let outcome = host::plan::apply(&self.host, "lio", plan, |step| apply::run(tree, step));
        // What could not be undone stays noted, for a recovery when the cause is gone.
        let over = match &outcome {
            Ok(_) => true,
            Err(failed) => matches!(failed.undone, Undone::All(_) | Undone::Nothing),
        };
        if noted && over {
            journal::end(&self.host)?;
        }
        outcome.map_err(|failed| Error::Plan { source: Box::new(failed) })
    }

    /// Our lock, and targetcli's, which it takes for each command (`/var/run/targetcli.lock`): neither sees half of the other's work.
    fn lock(&self) -> Result<(Lock, Option<Lock>)> {
        let deadline = Deadline::after(self.lock_timeout);
        let ours = self.host.lock("lio", deadline)?;
        let theirs = match self.host.run_dir() {
            Some(_) if self.tree().exists("/var/run").map_err(Error::unreadable)? => {
                Some(Lock::take(Path::new("/var/run/targetcli.lock"), deadline)?)
            }
            _ => None,
        };
        Ok((ours, theirs))
    }
}

fn load(host: &Host, module: Module) -> Result<()> {
    let deadline = Deadline::after(Duration::from_secs(20));
    match host.exec().load(module, host.tree(), deadline) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::NotLoaded {
            missing: format!("the kernel module {} is not loaded", module.name),
            fix: format!(
                "run \"modprobe {}\" on the machine itself (in a container: on its host)",
                module.name
            ),
            source: Some(Box::new(error)),
        }),
    }
}

/// Loads what is missing, and says what still is.
fn bring_up(host: &Host) -> Result<()> {
    for module in [Module::TARGET_CORE, Module::ISCSI_TARGET] {
        load(host, module)?;
    }
    let there = || host.tree().exists(TARGET).map_err(Error::unreadable);
    if !there()? && host.run_dir().is_some() {
        // systemd does it when the module appears; not every machine has systemd, and the mount of a container is its own.
        match sys::mount_configfs() {
            Ok(()) => log::debug!("mount -t configfs configfs /sys/kernel/config"),
            Err(error) => log::debug!("cannot mount configfs: {error}"),
        }
    }
    match there()? {
        true => Ok(()),
        false => Err(Error::NotLoaded {
            missing: format!("there is no {TARGET}"),
            fix: "run \"mount -t configfs none /sys/kernel/config\"".to_owned(),
            source: None,
        }),
    }
}
