//! What is wanted: which queues' interrupts on which processors.

use host::{CpuSet, IfName};

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

/// One processor for each queue of some ports, in turn: queue 0 of the first port on the first processor, and so on; the next port goes on
/// where the one before ended. Receive and transmit interrupt of one queue are on the same processor. Hyperthreads of a core that has one
/// already come last. The same machine always gives the same result.
///
/// Interrupts that serve no queue (link, configuration) are left alone.
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
    /// The ports; a bond or VLAN stands for the physical ports below it.
    pub ports: Vec<IfName>,
    /// The processors; `None` for all that are online and not isolated.
    pub cpus: Option<CpuSet>,
    /// Whether isolated ones may be among them.
    pub isolated: Isolated,
    /// Whether sending follows the interrupts.
    pub xps: Xps,
}

impl Policy {
    /// Spreads the queues of these ports over all processors that are online and not isolated. Replaces `set_irq_affinity` scripts and
    /// `echo MASK > /proc/irq/N/smp_affinity`.
    #[doc(alias = "set_irq_affinity")]
    #[must_use]
    pub fn spread(ports: impl IntoIterator<Item = IfName>) -> Self {
        Self { ports: ports.into_iter().collect(), cpus: None, isolated: Isolated::Avoided, xps: Xps::AsIs }
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
}
