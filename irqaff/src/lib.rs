//! Interrupts of network cards and disk controllers to processors.
//!
//! A card with several queues has an interrupt for each; where they fire decides whether one processor drowns while others sleep. A
//! [`Policy`] says how to spread them; [`Irqaff::ensure`] does it, and a second call writes nothing. The devices are named, interrupt
//! numbers are found; bonds and VLANs stand for the ports below them. What was before is kept and can be brought back.
//!
//! ```
//! use irqaff::{Irqaff, Policy};
//! # #[cfg(feature = "fake")] fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let memory = irqaff::fake::machine(4);
//! # irqaff::fake::add_virtio(&memory, "int1", 24, 2);
//! # let host = irqaff::Host::fake().with_tree(memory.tree());
//! let irqaff = Irqaff::on(&host)?; // Irqaff::new()? on a real machine
//! let policy = Policy::spread(["int1".parse()?]).over("0-3".parse()?);
//! print!("{}", irqaff.plan(&policy)?);
//! assert!(irqaff.ensure(&policy)?);
//! assert!(!irqaff.ensure(&policy)?);
//! println!("{}", irqaff.verify(&policy)?);
//! # Ok(()) }
//! # #[cfg(not(feature = "fake"))] fn main() {}
//! ```
//!
//! irqbalance moves interrupts every ten seconds and knows nothing of a policy: [`Irqaff::irqbalance`] finds it and tells it which ones to
//! leave alone. Controllers of disks whose drivers manage their queues' interrupts (NVMe, virtio, newer RAID controllers) are shown, and
//! reported as not movable. Not here: numbers of queues (`ethtool -L`), which is the crate netcfg's.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod apply;
mod balance;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod load;
mod name;
mod persist;
pub mod plan;
mod spec;
pub mod state;
mod sys;
mod verify;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use balance::{Irqbalance, policy_script};
pub use error::{Error, ErrorKind, Result};
pub use host::plan::Undo;
pub use host::{CpuSet, Deadline, Host, IfName, ParseError, Plan};
pub use load::{Load, Sample, VectorLoad};
pub use name::DeviceName;
pub use persist::{service, udev_rules};
pub use plan::Step;
pub use spec::{Isolated, Numa, Policy, Rps, Threads, Xps};
pub use state::{DeviceState, VectorState};
pub use verify::{Finding, Report, Verdict};
pub use wire::role::Role;

use apply::Outcome;
use host::Tree;
use state::{Napis, State, Wanted};

/// What [`Irqaff::apply`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// The way back.
    pub undo: Undo<Step>,
    /// Steps that could not be done because the kernel lets nobody move these interrupts. No failure.
    pub not_movable: Vec<Step>,
}

/// The interrupts of a machine's devices. Cheap to clone; holds nothing open.
#[doc(alias = "smp_affinity")]
#[derive(Debug, Clone)]
pub struct Irqaff {
    host: Host,
    lock_timeout: Duration,
    /// Interrupts that refused to be moved: nothing in the kernel says so beforehand.
    stuck: Arc<Mutex<BTreeSet<u32>>>,
}

impl Irqaff {
    /// Opens the interrupts of a machine.
    ///
    /// # Errors
    /// [`Error::NotSupported`] where there is no `/proc/irq`.
    pub fn on(host: &Host) -> Result<Self> {
        match host.tree().exists("/proc/irq")? {
            true => {
                Ok(Self { host: host.clone(), lock_timeout: Duration::from_secs(10), stuck: Arc::default() })
            }
            false => Err(Error::NotSupported),
        }
    }

    /// Opens the interrupts of this machine.
    ///
    /// # Errors
    /// As [`on`](Self::on).
    pub fn new() -> Result<Self> {
        Self::on(&Host::live())
    }

    /// Sets how long changes wait for another process that holds the lock; 10 s by default.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    fn tree(&self) -> &Tree {
        self.host.tree()
    }

    /// Lists all network cards and disk controllers with their interrupts. Virtual interfaces are none; USB cards have no interrupts of their
    /// own. `cat /proc/interrupts`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn list(&self) -> Result<Vec<DeviceState>> {
        let mut names = Vec::new();
        for entry in self.tree().list("/sys/class/net")? {
            // Beside the interfaces stand files such as bonding_masters.
            let Ok(name) = entry.name.parse::<IfName>() else { continue };
            if self.is_physical(&name)? {
                names.push(DeviceName::Link(name));
            }
        }
        names.extend(state::controllers(self.tree())?);
        let napis = Napis::read(&self.host);
        names.iter().map(|name| state::device(self.tree(), name, &napis, Wanted::ALL)).collect()
    }

    /// Gets one device; `None` if there is none of this name, or it is a virtual interface.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn get(&self, name: &DeviceName) -> Result<Option<DeviceState>> {
        let there = match name.link() {
            Some(link) => self.is_physical(link)?,
            None => self.tree().exists(name.path())?,
        };
        let napis = if there { Napis::read(&self.host) } else { return Ok(None) };
        state::device(self.tree(), name, &napis, Wanted::ALL).map(Some)
    }

    fn is_physical(&self, name: &IfName) -> Result<bool> {
        Ok(self.tree().exists(format!("/sys/class/net/{name}/device"))?)
    }

    /// The devices a name stands for: of an interface itself, the slaves of a bond, the port under a VLAN; a controller is one itself.
    ///
    /// # Errors
    /// [`Error::NotFound`], or a file cannot be read.
    pub fn devices_of(&self, name: &DeviceName) -> Result<Vec<DeviceName>> {
        state::devices_of(self.tree(), name)
    }

    /// Reads the counters of these devices' queues; two samples a moment apart give their [`Load`]. `watch cat /proc/interrupts`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn sample(&self, devices: &[DeviceState]) -> Result<Sample> {
        load::sample(self.tree(), devices)
    }

    fn state(&self, policy: &Policy) -> Result<State> {
        let mut state = state::read(&self.host, policy)?;
        state.not_movable =
            self.stuck.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        Ok(state)
    }

    /// Plans the way to a policy; reads only. Empty if all is as it should be.
    ///
    /// # Errors
    /// [`Error::NotFound`] names a device that is not there, [`Error::Invalid`] processors that cannot be used.
    pub fn plan(&self, policy: &Policy) -> Result<Plan<Step>> {
        plan::diff(&self.state(policy)?, policy)
    }

    /// Finds a running irqbalance, which would move interrupts away again. Reads the names of all processes where its socket is not in
    /// `/run/irqbalance`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn irqbalance(&self) -> Result<Option<Irqbalance>> {
        balance::find(self.tree())
    }

    /// Makes a running irqbalance leave the interrupts of a policy alone; says whether it had to be told. None running: `false`.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), and [`Error::Irqbalance`].
    pub fn ban(&self, policy: &Policy, deadline: Deadline) -> Result<bool> {
        let Some(irqbalance) = self.irqbalance()? else { return Ok(false) };
        let state = self.state(policy)?;
        let assigned = plan::assign(&state, policy)?;
        let irqs = state.devices.iter().flat_map(|device| plan::wanted(device, &assigned));
        irqbalance.ban(&irqs.map(|(vector, _)| vector.irq).collect(), deadline)
    }

    /// Which processors get interrupts of which device under a policy; reads only. What else shall run there, or shall not, can be bound by it:
    /// LIO's threads (`iscsi/cpus_allowed_list`), for one.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn placement(&self, policy: &Policy) -> Result<BTreeMap<DeviceName, CpuSet>> {
        Ok(plan::assign(&self.state(policy)?, policy)?.by_device())
    }

    /// Carries out a plan under the lock. A step that fails is undone with all before it; an interrupt that nobody can move is reported.
    ///
    /// # Errors
    /// [`Error::Plan`] says which step failed, why, and what came of the undoing; [`Error::Locked`] if another process is at it.
    pub fn apply(&self, plan: Plan<Step>) -> Result<Applied> {
        let _lock = self.host.lock("irqaff", Deadline::after(self.lock_timeout))?;
        self.carry_out(plan)
    }

    fn carry_out(&self, plan: Plan<Step>) -> Result<Applied> {
        let mut not_movable = Vec::new();
        let undo = host::plan::apply(&self.host, "irqaff", plan, |step| {
            if let Outcome::NotMovable(irq) = apply::run(self.tree(), step)? {
                self.stuck.lock().unwrap_or_else(PoisonError::into_inner).insert(irq);
                not_movable.push(step.clone());
            }
            Ok(())
        })
        .map_err(|failed| Error::Plan { source: Box::new(failed) })?;
        Ok(Applied { undo, not_movable })
    }

    /// Makes a policy hold; says whether any interrupt or queue had to be changed. Already so: only reads. What cannot be moved is tried once
    /// by each handle, since nothing in the kernel tells beforehand, and counts as no change.
    ///
    /// # Errors
    /// As [`plan`](Self::plan) and [`apply`](Self::apply).
    pub fn ensure(&self, policy: &Policy) -> Result<bool> {
        let _lock = self.host.lock("irqaff", Deadline::after(self.lock_timeout))?;
        let plan = self.plan(policy)?;
        let steps = plan.len();
        let applied = self.carry_out(plan)?;
        Ok(steps > applied.not_movable.len())
    }

    /// Looks whether a policy holds; reads only. Where an interrupt fires follows its binding at the next interrupt: until then it is
    /// [`Verdict::Pending`].
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn verify(&self, policy: &Policy) -> Result<Report> {
        let state = self.state(policy)?;
        let assigned = plan::assign(&state, policy)?;
        let mut report = Report { without_queues: state.virtual_ports.clone(), ..Report::default() };
        for device in &state.devices {
            if device.queues().is_empty() {
                report.without_queues.push(device.name.clone());
            }
            for (vector, wanted) in plan::wanted(device, &assigned) {
                let fires_there =
                    vector.effective.as_ref().is_none_or(|cpus| cpus.difference(&wanted).is_empty());
                let verdict = match vector.affinity == wanted {
                    true if fires_there => Verdict::Holds,
                    true => Verdict::Pending,
                    false if state.not_movable.contains(&vector.irq) => Verdict::NotMovable,
                    false => Verdict::Differs,
                };
                report.findings.push(Finding {
                    device: device.name.clone(),
                    irq: vector.irq,
                    role: vector.role,
                    wanted,
                    affinity: vector.affinity.clone(),
                    effective: vector.effective.clone(),
                    verdict,
                });
            }
        }
        let steps = plan::diff(&state, policy)?.into_steps();
        report.steering = steps.into_iter().filter(|step| !matches!(step, Step::Affinity { .. })).collect();
        Ok(report)
    }
}
