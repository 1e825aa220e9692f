//! What is seen: network cards, their interrupts, the processors.

mod read;

use std::collections::BTreeMap;

use host::{CpuSet, IfName};

use crate::wire::role::Role;

pub(crate) use read::{device, physical, read, vectors_of};

/// An interrupt of a network card.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct VectorState {
    /// Its number. It changes with drivers, kernels and slots; [`index`](Self::index) and [`action`](Self::action) do not.
    pub irq: u32,
    /// Its place among the interrupts of the device, from 0.
    pub index: usize,
    /// What the driver calls it; several names where a line is shared.
    pub action: String,
    /// What it is for.
    pub role: Role,
    /// Where it may fire (`smp_affinity_list`).
    pub affinity: CpuSet,
    /// Where it does fire (`effective_affinity_list`): follows the affinity at the next interrupt, not at once. `None` where the kernel
    /// does not say.
    pub effective: Option<CpuSet>,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct DeviceState {
    /// Its name.
    pub name: IfName,
    /// Its interrupts, by number. Empty for cards that have none of their own (USB).
    pub vectors: Vec<VectorState>,
    /// Which processors send by which transmit queue. Empty for cards with one queue.
    pub xps: BTreeMap<u32, CpuSet>,
    /// The memory node it is attached to; `None` where the kernel does not know (-1).
    pub numa_node: Option<u32>,
}

impl DeviceState {
    /// The numbers of its queues that have an interrupt.
    #[must_use]
    pub fn queues(&self) -> Vec<u32> {
        let mut queues: Vec<_> = self.vectors.iter().filter_map(|vector| vector.role.queue()).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }
}

/// All that one pass saw: the input of [`diff`](crate::plan::diff).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct State {
    /// Processors that run.
    pub online: CpuSet,
    /// Processors taken out of scheduling (`isolcpus`, `nohz_full`).
    pub isolated: CpuSet,
    /// The hyperthreads of one core each, where they were looked at.
    pub cores: Vec<CpuSet>,
    /// The physical ports of the policy, in its order, each once.
    pub devices: Vec<DeviceState>,
    /// Ports of the policy that stand for no physical port (veth, dummy, a bond without slaves).
    pub virtual_ports: Vec<IfName>,
    /// Interrupts that are known to refuse to be moved.
    pub not_movable: Vec<u32>,
}
