//! Looking whether a policy holds.

use std::fmt;

use host::CpuSet;

use crate::name::DeviceName;
use crate::plan::Step;
use crate::wire::role::Role;

/// Whether an interrupt is where a policy wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Verdict {
    /// Bound as asked, and it fires there.
    Holds,
    /// Bound as asked; it fires there from the next interrupt on. The kernel moves an interrupt when it comes
    /// (`irq_move_masked_irq`, kernel/irq/migration.c), so a queue without traffic stays in this state.
    Pending,
    /// Bound elsewhere: never bound, or undone since, by irqbalance or a processor that went offline.
    Differs,
    /// The kernel does not let it be moved: its driver manages it.
    NotMovable,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::Pending => "holds from the next interrupt on",
            Self::Differs => "differs",
            Self::NotMovable => "cannot be moved",
        })
    }
}

/// One interrupt of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Finding {
    /// The device.
    pub device: DeviceName,
    /// The interrupt.
    pub irq: u32,
    /// What it is for.
    pub role: Role,
    /// Where the policy wants it.
    pub wanted: CpuSet,
    /// Where it is bound.
    pub affinity: CpuSet,
    /// Where it fires.
    pub effective: Option<CpuSet>,
    /// The outcome.
    pub verdict: Verdict,
}

/// What [`Irqaff::verify`](crate::Irqaff::verify) found. `Display` is a line an interrupt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Report {
    /// Each interrupt that serves a queue of the policy's devices.
    pub findings: Vec<Finding>,
    /// What differs beside the interrupts: the steps that would make XPS, RPS and RFS as the policy wants them.
    pub steering: Vec<Step>,
    /// Devices without interrupts of their own: USB cards, virtual ones.
    pub without_queues: Vec<DeviceName>,
}

impl Report {
    /// Whether nothing differs. What is pending, cannot be moved or has no queues does not count against it.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.steering.is_empty() && self.findings.iter().all(|finding| finding.verdict != Verdict::Differs)
    }

    /// The findings of one verdict.
    pub fn of(&self, verdict: Verdict) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.verdict == verdict)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { device, irq, role, wanted, affinity, effective, verdict } in &self.findings {
            write!(f, "{device} {role}: interrupt {irq} wanted on {wanted}, bound to {affinity}")?;
            if let Some(effective) = effective {
                write!(f, ", fires on {effective}")?;
            }
            writeln!(f, ": {verdict}")?;
        }
        self.steering
            .iter()
            .try_for_each(|step| writeln!(f, "{}: differs, {} is wanted", step.path(), step.value()))?;
        self.without_queues
            .iter()
            .try_for_each(|device| writeln!(f, "{device}: has no interrupts of its own"))
    }
}
