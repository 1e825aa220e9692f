//! From what is to what is wanted, computed without touching anything.

use std::collections::BTreeMap;
use std::fmt;

use host::{CpuSet, IfName, Plan};

use crate::error::{Error, Result};
use crate::spec::{Isolated, Policy, Xps};
use crate::state::{DeviceState, State, VectorState};
use crate::wire::role::Role;

/// One change. `Display` is the shell line that does the same.
///
/// Interrupt numbers change when a driver is loaded anew; a step knows its interrupt by device, place and name too, so that an undo kept for
/// later finds it again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Step {
    /// Binds an interrupt (`/proc/irq/N/smp_affinity_list`).
    Affinity {
        /// The network card.
        device: IfName,
        /// The interrupt's number when the plan was made.
        irq: u32,
        /// Its place among the device's interrupts.
        index: usize,
        /// Its name.
        action: String,
        /// What it is for.
        role: Role,
        /// Where it shall fire.
        cpus: CpuSet,
        /// Where it fired before.
        before: CpuSet,
    },
    /// Says which processors send by a transmit queue (`/sys/class/net/IF/queues/tx-N/xps_cpus`).
    Xps {
        /// The network card.
        device: IfName,
        /// The queue.
        queue: u32,
        /// The processors.
        cpus: CpuSet,
        /// The processors before.
        before: CpuSet,
    },
}

impl host::plan::Step for Step {
    fn undo(&self) -> Vec<Self> {
        let mut back = self.clone();
        match &mut back {
            Self::Affinity { cpus, before, .. } | Self::Xps { cpus, before, .. } => {
                std::mem::swap(cpus, before)
            }
        }
        vec![back]
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affinity { device, irq, role, cpus, .. } => {
                write!(f, "echo {cpus} > /proc/irq/{irq}/smp_affinity_list   # {device} {role}")
            }
            Self::Xps { device, queue, cpus, .. } => {
                write!(f, "echo {} > /sys/class/net/{device}/queues/tx-{queue}/xps_cpus", cpus.to_mask())
            }
        }
    }
}

/// Which processor each queue of each device gets.
pub(crate) fn assign(state: &State, policy: &Policy) -> Result<BTreeMap<(IfName, u32), u32>> {
    let pool = pool(state, policy)?;
    let mut next = pool.iter().cycle();
    let queues =
        state.devices.iter().flat_map(|device| device.queues().into_iter().map(|q| (device.name.clone(), q)));
    Ok(queues.filter_map(|queue| Some((queue, *next.next()?))).collect())
}

/// The processors to use, one hyperthread of each core first.
fn pool(state: &State, policy: &Policy) -> Result<Vec<u32>> {
    let avoided = match policy.isolated {
        Isolated::Avoided => state.isolated.clone(),
        Isolated::Allowed => CpuSet::new(),
    };
    let cpus = match &policy.cpus {
        None => state.online.difference(&avoided),
        Some(cpus) => {
            let (offline, isolated) = (cpus.difference(&state.online), cpus.intersection(&avoided));
            let what = format!("processors {cpus}");
            if !offline.is_empty() {
                let reason =
                    format!("{offline} not online (online: {}); leave out or switch on", state.online);
                return Err(Error::invalid(what, reason));
            }
            if !isolated.is_empty() {
                let reason =
                    format!("{isolated} isolated from scheduling; leave out or say Isolated::Allowed");
                return Err(Error::invalid(what, reason));
            }
            cpus.clone()
        }
    };
    if cpus.is_empty() {
        return Err(Error::invalid("processors", "none is left to bind interrupts to"));
    }
    let rank = |cpu: &u32| {
        let core = state.cores.iter().find(|core| core.contains(*cpu));
        let thread =
            core.map_or(0, |core| core.iter().filter(|other| other < cpu && cpus.contains(*other)).count());
        (thread, *cpu)
    };
    let mut pool: Vec<u32> = cpus.iter().collect();
    pool.sort_by_key(rank);
    Ok(pool)
}

/// Computes the steps from a state to a policy. Pure: reads and writes nothing.
///
/// # Errors
/// [`Error::Invalid`] if the policy names processors that are offline, or isolated without being allowed to.
pub fn diff(state: &State, policy: &Policy) -> Result<Plan<Step>> {
    let assigned = assign(state, policy)?;
    let mut steps = Vec::new();
    for device in &state.devices {
        for (vector, cpus) in wanted(device, &assigned) {
            if vector.affinity != cpus && !state.not_movable.contains(&vector.irq) {
                steps.push(Step::Affinity {
                    device: device.name.clone(),
                    irq: vector.irq,
                    index: vector.index,
                    action: vector.action.clone(),
                    role: vector.role,
                    cpus,
                    before: vector.affinity.clone(),
                });
            }
        }
        if policy.xps == Xps::Follow {
            steps.extend(xps(device, &assigned));
        }
    }
    Ok(Plan::new(steps))
}

/// The interrupts of a device that the policy binds, and where.
pub(crate) fn wanted<'a>(
    device: &'a DeviceState,
    assigned: &'a BTreeMap<(IfName, u32), u32>,
) -> impl Iterator<Item = (&'a VectorState, CpuSet)> {
    device.vectors.iter().filter_map(|vector| {
        let cpu = assigned.get(&(device.name.clone(), vector.role.queue()?))?;
        Some((vector, CpuSet::single(*cpu)))
    })
}

fn xps(device: &DeviceState, assigned: &BTreeMap<(IfName, u32), u32>) -> Vec<Step> {
    let serving = |queue: u32| device.vectors.iter().any(|v| v.role.is_tx() && v.role.queue() == Some(queue));
    let step = |(queue, before): (&u32, &CpuSet)| {
        let cpu = assigned.get(&(device.name.clone(), *queue)).filter(|_| serving(*queue))?;
        let cpus = CpuSet::single(*cpu);
        (cpus != *before).then(|| Step::Xps {
            device: device.name.clone(),
            queue: *queue,
            cpus,
            before: before.clone(),
        })
    };
    device.xps.iter().filter_map(step).collect()
}
