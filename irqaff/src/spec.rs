//! What is wanted: which queues' interrupts on which processors.

use host::CpuSet;

use crate::name::DeviceName;

/// Whether processors that were taken out of scheduling (`isolcpus`, `nohz_full`) may get interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Isolated {
    /// No: without [`Policy::over`] they are left out, named there they are refused.
    #[default]
    Avoided,
    /// Yes.
    Allowed,
}

/// Whether the processor that serves a transmit queue's interrupt also sends by it (`queues/tx-N/xps_cpus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Xps {
    /// The files are left alone.
    #[default]
    AsIs,
    /// Each transmit queue is given the processor of its interrupt.
    Follow,
}

/// Whether hyperthreads of a core that has a queue already get queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Threads {
    /// After one thread of every core.
    #[default]
    Last,
    /// Never: the queues begin again at the first core.
    Skipped,
}

/// Whether a device's queues stay on the memory node it is attached to (`numa_node` of its PCI device).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Numa {
    /// No.
    #[default]
    Ignored,
    /// Yes, as long as the node has a processor of the policy; a device whose node the firmware does not tell gets all of them.
    Local,
}

/// Whether packets are handed on to other processors than the one their interrupt comes to (`queues/rx-N/rps_cpus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Rps {
    /// The files are left alone.
    #[default]
    AsIs,
    /// Nowhere.
    Off,
    /// From cards that have fewer queues than the policy has processors, USB cards among them, to all of these; nowhere else, where it would
    /// cost and give nothing.
    WhereFewQueues,
}

/// One processor for each queue of some ports, in turn: queue 0 of the first port on the first processor, and so on; the next port goes on
/// where the one before ended. Receive and transmit interrupt of one queue are on the same processor. Hyperthreads of a core that has one
/// already come last. The same machine always gives the same result.
///
/// Interrupts that serve no queue (link, configuration) are left alone; so is a line shared with a device that comes earlier.
///
/// ```
/// use irqaff::Policy;
/// let policy = Policy::spread(["int1".parse()?, "bond_drbd".parse()?]).over("0-5".parse()?).with_xps();
/// # Ok::<(), irqaff::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Policy {
    /// The devices; a bond or VLAN stands for the physical ports below it.
    pub devices: Vec<DeviceName>,
    /// The processors; `None` for all that are online and not isolated.
    pub cpus: Option<CpuSet>,
    /// Whether isolated ones may be among them.
    pub isolated: Isolated,
    /// Whether second hyperthreads are used.
    pub threads: Threads,
    /// Whether devices stay on their memory node.
    pub numa: Numa,
    /// Whether sending follows the interrupts.
    pub xps: Xps,
    /// Whether packets are handed on to other processors.
    pub rps: Rps,
    /// How many flows are followed to the processor of the program that reads them (RFS), of the whole machine; `None` leaves it as it is, 0
    /// is off.
    pub flows: Option<u32>,
}

impl Policy {
    /// Spreads the queues of these devices over all processors that are online and not isolated. Replaces `set_irq_affinity` scripts and
    /// `echo MASK > /proc/irq/N/smp_affinity`.
    #[doc(alias = "set_irq_affinity")]
    #[must_use]
    pub fn spread(devices: impl IntoIterator<Item = DeviceName>) -> Self {
        Self {
            devices: devices.into_iter().collect(),
            cpus: None,
            isolated: Isolated::default(),
            threads: Threads::default(),
            numa: Numa::default(),
            xps: Xps::default(),
            rps: Rps::default(),
            flows: None,
        }
    }

    /// Uses these processors only. An offline one among them is refused, an isolated one unless
    /// [`with_isolated`](Self::with_isolated) allows it.
    #[must_use]
    pub fn over(mut self, cpus: CpuSet) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// Says whether isolated processors may get interrupts.
    #[must_use]
    pub fn with_isolated(mut self, isolated: Isolated) -> Self {
        self.isolated = isolated;
        self
    }

    /// Lets each processor send by the queue whose interrupt it serves (`xps_cpus`). Cards with one queue have no such file and are passed
    /// over.
    #[doc(alias = "xps")]
    #[must_use]
    pub fn with_xps(mut self) -> Self {
        self.xps = Xps::Follow;
        self
    }

    /// Says whether second hyperthreads are used.
    #[must_use]
    pub fn with_threads(mut self, threads: Threads) -> Self {
        self.threads = threads;
        self
    }

    /// Says whether devices stay on their memory node. `set_irq_affinity local`.
    #[must_use]
    pub fn with_numa(mut self, numa: Numa) -> Self {
        self.numa = numa;
        self
    }

    /// Says whether packets are handed on to other processors than the one their interrupt comes to (`rps_cpus`).
    #[doc(alias = "rps_cpus")]
    #[must_use]
    pub fn with_rps(mut self, rps: Rps) -> Self {
        self.rps = rps;
        self
    }

    /// Follows this many flows to the processor of the program that reads them: `net.core.rps_sock_flow_entries`, and an equal share in each
    /// receive queue's `rps_flow_cnt`. The kernel rounds up to a power of two; 32768 is its documentation's example, 0 is off.
    #[doc(alias = "rfs")]
    #[must_use]
    pub fn with_flows(mut self, flows: u32) -> Self {
        self.flows = Some(flows);
        self
    }
}
