//! What is seen: devices, their interrupts, the processors.

mod netdev;
mod queues;
mod read;

use std::collections::BTreeMap;

use host::CpuSet;

use crate::name::DeviceName;
use crate::wire::role::Role;

pub(crate) use netdev::Napis;
pub(crate) use queues::Wanted;
pub(crate) use read::{controllers, device, devices_of, read, vectors_of};

/// An interrupt of a device.
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

/// A network card or a controller of disks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct DeviceState {
    /// Its name.
    pub name: DeviceName,
    /// The driver it is bound to; `None` if to none, or a virtual device.
    pub driver: Option<String>,
    /// Its interrupts, by number. Empty for cards that have none of their own (USB).
    pub vectors: Vec<VectorState>,
    /// Which processors send by which transmit queue (`xps_cpus`). Empty for cards with one queue and for disks.
    pub xps: BTreeMap<u32, CpuSet>,
    /// To which processors each receive queue hands packets on (`rps_cpus`); empty sets: to none.
    pub rps: BTreeMap<u32, CpuSet>,
    /// How many flows each receive queue follows (`rps_flow_cnt`).
    pub flows: BTreeMap<u32, u32>,
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
    /// The processors of each memory node, where the policy asks for them.
    pub nodes: BTreeMap<u32, CpuSet>,
    /// How many flows the machine follows (`net.core.rps_sock_flow_entries`), where the policy asks for it.
    pub flow_table: Option<u32>,
    /// The devices of the policy, in its order, each once; bonds and VLANs are their physical ports.
    pub devices: Vec<DeviceState>,
    /// Interfaces of the policy that stand for no physical port (veth, dummy, a bond without slaves).
    pub virtual_ports: Vec<DeviceName>,
    /// Interrupts that are known to refuse to be moved.
    pub not_movable: Vec<u32>,
}
