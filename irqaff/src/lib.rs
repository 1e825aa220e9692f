//! Interrupts of network cards to processors.
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
//! irqbalance moves interrupts every ten seconds and knows nothing of a policy: stop it, or ban these devices
//! (`IRQBALANCE_ARGS=--banmod=...`). Not supported yet: the queue map of the netdev netlink family, numbers of queues (`ethtool -L`),
//! placement by memory node, and interrupts of disks (their drivers manage them).
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod apply;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod load;
pub mod plan;
mod spec;
pub mod state;
mod verify;
pub mod wire;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use error::{Error, ErrorKind, Result};
pub use host::plan::Undo;
pub use host::{CpuSet, Deadline, Host, IfName, ParseError, Plan};
pub use load::{Load, Sample, VectorLoad};
pub use plan::Step;
pub use spec::{Isolated, Policy, Xps};
pub use state::{DeviceState, VectorState};
pub use verify::{Finding, Report, Verdict};
pub use wire::role::Role;

use apply::Outcome;
use host::Tree;
use state::State;

/// What [`Irqaff::apply`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// The way back.
    pub undo: Undo<Step>,
    /// Steps that could not be done because the kernel lets nobody move these interrupts. No failure.
    pub not_movable: Vec<Step>,
}

/// The interrupts of a machine's network cards. Cheap to clone; holds nothing open.
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

    /// Lists all network cards with their interrupts. Virtual interfaces are none; USB cards have no interrupts of their own.
    /// `grep eth /proc/interrupts`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn list(&self) -> Result<Vec<DeviceState>> {
        let mut devices = Vec::new();
        for entry in self.tree().list("/sys/class/net")? {
            // Beside the interfaces stand files such as bonding_masters.
            let Ok(name) = entry.name.parse::<IfName>() else { continue };
            devices.extend(self.get(&name)?);
        }
        Ok(devices)
    }

    /// Gets one network card; `None` if there is none of this name, or it is a virtual one.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn get(&self, name: &IfName) -> Result<Option<DeviceState>> {
        match self.tree().exists(format!("/sys/class/net/{name}/device"))? {
            true => state::device(self.tree(), name, Xps::Follow).map(Some),
            false => Ok(None),
        }
    }

    /// The physical ports an interface stands for: itself, the slaves of a bond, the port under a VLAN.
    ///
    /// # Errors
    /// [`Error::NotFound`], or a file cannot be read.
    pub fn physical_ports(&self, name: &IfName) -> Result<Vec<IfName>> {
        state::physical(self.tree(), name)
    }

    /// Reads the counters of these cards' queues; two samples a moment apart give their [`Load`]. `watch cat /proc/interrupts`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn sample(&self, devices: &[DeviceState]) -> Result<Sample> {
        load::sample(self.tree(), devices)
    }

    fn state(&self, policy: &Policy) -> Result<State> {
        let mut state = state::read(self.tree(), policy)?;
        state.not_movable =
            self.stuck.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        Ok(state)
    }

    /// Plans the way to a policy; reads only. Empty if all is as it should be.
    ///
    /// # Errors
    /// [`Error::NotFound`] names a port that is not there, [`Error::Invalid`] processors that cannot be used.
    pub fn plan(&self, policy: &Policy) -> Result<Plan<Step>> {
        plan::diff(&self.state(policy)?, policy)
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
        for step in plan::diff(&state, policy)?.into_steps() {
            if let Step::Xps { device, queue, .. } = step {
                report.xps_differs.push((device, queue));
            }
        }
        Ok(report)
    }
}
