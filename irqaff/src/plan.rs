//! From what is to what is wanted, computed without touching anything.

use std::collections::BTreeMap;
use std::fmt;

use host::{CpuSet, IfName, Plan};

use crate::error::{Error, Result};
use crate::name::DeviceName;
use crate::spec::{Isolated, Numa, Policy, Rps, Threads, Xps};
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
        /// The device.
        device: DeviceName,
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
    /// Says to which processors a receive queue hands packets on (`/sys/class/net/IF/queues/rx-N/rps_cpus`).
    Rps {
        /// The network card.
        device: IfName,
        /// The queue.
        queue: u32,
        /// The processors; empty for none.
        cpus: CpuSet,
        /// The processors before.
        before: CpuSet,
    },
    /// Says how many flows a receive queue follows (`/sys/class/net/IF/queues/rx-N/rps_flow_cnt`).
    Flows {
        /// The network card.
        device: IfName,
        /// The queue.
        queue: u32,
        /// How many.
        count: u32,
        /// How many before.
        before: u32,
    },
    /// Says how many flows the machine follows (`/proc/sys/net/core/rps_sock_flow_entries`).
    FlowTable {
        /// How many.
        count: u32,
        /// How many before.
        before: u32,
    },
}

impl host::plan::Step for Step {
    fn undo(&self) -> Vec<Self> {
        let mut back = self.clone();
        match &mut back {
            Self::Affinity { cpus, before, .. }
            | Self::Xps { cpus, before, .. }
            | Self::Rps { cpus, before, .. } => std::mem::swap(cpus, before),
            Self::Flows { count, before, .. } | Self::FlowTable { count, before } => {
                std::mem::swap(count, before)
            }
        }
        vec![back]
    }
}

impl Step {
    /// The file it writes; an interrupt's number is that of the plan.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Affinity { irq, .. } => format!("/proc/irq/{irq}/smp_affinity_list"),
            Self::Xps { device, queue, .. } => format!("/sys/class/net/{device}/queues/tx-{queue}/xps_cpus"),
            Self::Rps { device, queue, .. } => format!("/sys/class/net/{device}/queues/rx-{queue}/rps_cpus"),
            Self::Flows { device, queue, .. } => {
                format!("/sys/class/net/{device}/queues/rx-{queue}/rps_flow_cnt")
            }
            Self::FlowTable { .. } => "/proc/sys/net/core/rps_sock_flow_entries".to_owned(),
        }
    }

    /// What it writes.
    pub(crate) fn value(&self) -> String {
        match self {
            Self::Affinity { cpus, .. } => cpus.to_string(),
            Self::Xps { cpus, .. } | Self::Rps { cpus, .. } => cpus.to_mask(),
            Self::Flows { count, .. } | Self::FlowTable { count, .. } => count.to_string(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "echo {} > {}", self.value(), self.path())?;
        match self {
            Self::Affinity { device, role, .. } => write!(f, "   # {device} {role}"),
            _ => Ok(()),
        }
    }
}

/// Which processor each queue of each device gets, and which processors take part at all.
#[derive(Debug)]
pub(crate) struct Assigned {
    queues: BTreeMap<(DeviceName, u32), u32>,
    /// The device that a shared line counts for.
    owners: BTreeMap<u32, DeviceName>,
    pool: Vec<u32>,
}

impl Assigned {
    /// The processor of a queue.
    fn cpu(&self, device: &DeviceName, queue: u32) -> Option<u32> {
        self.queues.get(&(device.clone(), queue)).copied()
    }

    /// The processors that get interrupts of these devices.
    pub(crate) fn by_device(self) -> BTreeMap<DeviceName, CpuSet> {
        let mut found: BTreeMap<DeviceName, CpuSet> = BTreeMap::new();
        for ((device, _), cpu) in self.queues {
            found.entry(device).or_default().insert(cpu);
        }
        found
    }
}

/// Which processor each queue of each device gets.
pub(crate) fn assign(state: &State, policy: &Policy) -> Result<Assigned> {
    let pool = pool(state, policy)?;
    let mut owners = BTreeMap::new();
    let mut queues = BTreeMap::new();
    // How many queues each memory node has got; `None` counts for devices that may go anywhere.
    let mut given: BTreeMap<Option<u32>, usize> = BTreeMap::new();
    for device in &state.devices {
        for vector in device.vectors.iter().filter(|vector| vector.role.queue().is_some()) {
            owners.entry(vector.irq).or_insert_with(|| device.name.clone());
        }
        let local = match (policy.numa, device.numa_node.and_then(|node| state.nodes.get(&node))) {
            (Numa::Local, Some(node)) => pool.iter().copied().filter(|cpu| node.contains(*cpu)).collect(),
            _ => Vec::new(),
        };
        let (node, cpus) = if local.is_empty() { (None, &pool) } else { (device.numa_node, &local) };
        let next = given.entry(node).or_default();
        for queue in device.queues() {
            let mine =
                |v: &VectorState| v.role.queue() == Some(queue) && owners.get(&v.irq) == Some(&device.name);
            if !device.vectors.iter().any(mine) {
                continue;
            }
            if let Some(cpu) = cpus.get(*next % cpus.len().max(1)) {
                queues.insert((device.name.clone(), queue), *cpu);
            }
            *next += 1;
        }
    }
    Ok(Assigned { queues, owners, pool })
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
    let rank = |cpu: u32| {
        let core = state.cores.iter().find(|core| core.contains(cpu));
        let thread =
            core.map_or(0, |core| core.iter().filter(|other| *other < cpu && cpus.contains(*other)).count());
        (thread, cpu)
    };
    let mut pool: Vec<(usize, u32)> = cpus.iter().map(rank).collect();
    pool.sort_unstable();
    if policy.threads == Threads::Skipped {
        pool.retain(|(thread, _)| *thread == 0);
    }
    Ok(pool.into_iter().map(|(_, cpu)| cpu).collect())
}

/// Computes the steps from a state to a policy. Pure: reads and writes nothing.
///
/// # Errors
/// [`Error::Invalid`] if the policy names processors that are offline, or isolated without being allowed to.
pub fn diff(state: &State, policy: &Policy) -> Result<Plan<Step>> {
    let assigned = assign(state, policy)?;
    let mut steps = Vec::new();
    let flows = policy.flows.map(flow_count).transpose()?;
    if let (Some(count), Some(before)) = (flows, state.flow_table)
        && count != before
    {
        steps.push(Step::FlowTable { count, before });
    }
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
        let Some(link) = device.name.link() else { continue };
        if policy.xps == Xps::Follow {
            steps.extend(xps(device, link, &assigned));
        }
        steps.extend(rps(device, link, policy.rps, &assigned.pool));
        let queues = u32::try_from(device.flows.len()).unwrap_or(u32::MAX);
        if let Some(flows) = flows {
            let count = share(flows, queues);
            let differing = device.flows.iter().filter(|(_, before)| **before != count);
            steps.extend(differing.map(|(queue, before)| Step::Flows {
                device: link.clone(),
                queue: *queue,
                count,
                before: *before,
            }));
        }
    }
    Ok(Plan::new(steps))
}

/// The number of flows as the kernel will keep it: a power of two (`rps_sock_flow_sysctl` in `net/core/sysctl_net_core.c`).
fn flow_count(flows: u32) -> Result<u32> {
    const MOST: u32 = 1 << 29;
    match flows {
        0 => Ok(0),
        flows if flows > MOST => Err(Error::invalid(format!("{flows} flows"), format!("at most {MOST}"))),
        flows => Ok(flows.next_power_of_two()),
    }
}

/// A queue's share of the flows, as the kernel will keep it (`store_rps_dev_flow_table_cnt`, net/core/net-sysfs.c).
fn share(flows: u32, queues: u32) -> u32 {
    match flows / queues.max(1) {
        0 if flows > 0 => 1,
        0 => 0,
        share => share.next_power_of_two(),
    }
}

/// The interrupts of a device that the policy binds, and where.
pub(crate) fn wanted<'a>(
    device: &'a DeviceState,
    assigned: &'a Assigned,
) -> impl Iterator<Item = (&'a VectorState, CpuSet)> {
    let mine = |irq: u32| assigned.owners.get(&irq) == Some(&device.name);
    device.vectors.iter().filter(move |vector| mine(vector.irq)).filter_map(|vector| {
        let cpu = assigned.cpu(&device.name, vector.role.queue()?)?;
        Some((vector, CpuSet::single(cpu)))
    })
}

fn xps(device: &DeviceState, link: &IfName, assigned: &Assigned) -> Vec<Step> {
    let serving = |queue: u32| device.vectors.iter().any(|v| v.role.is_tx() && v.role.queue() == Some(queue));
    let step = |(queue, before): (&u32, &CpuSet)| {
        let cpu = assigned.cpu(&device.name, *queue).filter(|_| serving(*queue))?;
        let cpus = CpuSet::single(cpu);
        (cpus != *before).then(|| Step::Xps {
            device: link.clone(),
            queue: *queue,
            cpus,
            before: before.clone(),
        })
    };
    device.xps.iter().filter_map(step).collect()
}

fn rps(device: &DeviceState, link: &IfName, rps: Rps, pool: &[u32]) -> Vec<Step> {
    let cpus: CpuSet = match rps {
        Rps::AsIs => return Vec::new(),
        Rps::WhereFewQueues if device.rps.len() < pool.len() => pool.iter().copied().collect(),
        Rps::WhereFewQueues | Rps::Off => CpuSet::new(),
    };
    let differing = device.rps.iter().filter(|(_, before)| **before != cpus);
    differing
        .map(|(queue, before)| Step::Rps {
            device: link.clone(),
            queue: *queue,
            cpus: cpus.clone(),
            before: before.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_flows_are_the_kernels() {
        for (asked, kept) in [(0, 0), (1, 1), (32_768, 32_768), (32_769, 65_536), (1 << 29, 1 << 29)] {
            assert_eq!(flow_count(asked).ok(), Some(kept));
        }
        assert!(flow_count((1 << 29) + 1).is_err());
        assert_eq!((share(32_768, 4), share(32_768, 6), share(2, 4), share(0, 4)), (8192, 8192, 1, 0));
    }
}
