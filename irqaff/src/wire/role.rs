//! What an interrupt is for, by the name its driver gave it.

use std::fmt;

/// What an interrupt is for. Queue numbers begin at 0, those of NVMe at 1: its queue 0 takes commands that are not I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Role {
    /// Received packets of a queue.
    Rx(u32),
    /// Sent packets of a queue.
    Tx(u32),
    /// Both.
    RxTx(u32),
    /// A queue of a controller of disks.
    Disk(u32),
    /// Link, configuration, management: never bound by a policy.
    Other,
}

impl Role {
    /// The queue, where it is for one.
    #[must_use]
    pub fn queue(self) -> Option<u32> {
        match self {
            Self::Rx(queue) | Self::Tx(queue) | Self::RxTx(queue) | Self::Disk(queue) => Some(queue),
            Self::Other => None,
        }
    }

    /// Whether it serves a transmit queue.
    #[must_use]
    pub fn is_tx(self) -> bool {
        matches!(self, Self::Tx(_) | Self::RxTx(_))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rx(queue) => write!(f, "rx {queue}"),
            Self::Tx(queue) => write!(f, "tx {queue}"),
            Self::RxTx(queue) => write!(f, "rx+tx {queue}"),
            Self::Disk(queue) => write!(f, "queue {queue}"),
            Self::Other => f.write_str("other"),
        }
    }
}

/// Makes a role of a queue's number.
type Make = fn(u32) -> Role;

/// What stands before a queue's number, in lower case, and what it means. The first that fits counts.
const NAMES: &[(&str, Make)] = &[
    ("fdir-txrx-", |_| Role::Other), // i40e, ixgbe: flow director, no queue
    ("-tx-rx-", Role::RxTx),         // ena
    ("-txrx-", Role::RxTx),          // ixgbe, i40e, ice, bnxt_en, igb, tg3
    ("-rxtx-", Role::RxTx),          // vmxnet3, nfp
    ("-rx-", Role::Rx),              // igb, tg3, e1000e
    ("-tx-", Role::Tx),              // igb, tg3, e1000e
    ("-fp-", Role::RxTx),            // bnx2x, qede
    ("-input.", Role::Rx),           // virtio_net
    ("-output.", Role::Tx),          // virtio_net
    ("mlx5_comp", Role::RxTx),       // mlx5_core
    ("mlx4-", Role::RxTx),           // mlx4_en
    ("mana_q", Role::RxTx),          // mana
    ("gve-ntfy-blk", Role::RxTx),    // gve
    (" (queue ", Role::RxTx),        // cxgb4
    ("-req.", Role::Disk),           // virtio_blk
    ("-msix", Role::Disk),           // megaraid_sas, mpt3sas, hpsa
];

/// Reads the name of an interrupt.
///
/// ```
/// use irqaff::wire::role::{Role, of};
/// assert_eq!(of("i40e-eth0-TxRx-5"), Role::RxTx(5));
/// assert_eq!(of("virtio3-output.1"), Role::Tx(1));
/// assert_eq!(of("i40e-0000:01:00.0:fdir-TxRx-0"), Role::Other);
/// ```
#[must_use]
pub fn of(action: &str) -> Role {
    let name = action.to_ascii_lowercase();
    if let Some((controller, queue)) = name.strip_prefix("nvme").and_then(|rest| rest.split_once('q'))
        && controller.chars().all(|c| c.is_ascii_digit())
        && let Ok(queue) = queue.parse()
    {
        return if queue == 0 { Role::Other } else { Role::Disk(queue) };
    }
    // A virtio device with too few vectors has one for all its queues (vp_find_vqs).
    if name.ends_with("-virtqueues") {
        return Role::RxTx(0);
    }
    for (before, role) in NAMES {
        let Some((_, rest)) = name.rsplit_once(before) else { continue };
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
        // After the number comes nothing, a PCI address or a bracket: "mlx5_comp3@pci:0000:01:00.0", "eth0 (queue 3)".
        if let (Ok(queue), true) = (digits.parse(), tail.is_empty() || tail.starts_with(['@', ')'])) {
            return role(queue);
        }
    }
    Role::Other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_many_drivers() {
        for (name, role) in [
            ("eth0-TxRx-11", Role::RxTx(11)),
            ("ice-ens1f0np0-TxRx-3", Role::RxTx(3)),
            ("eth0-rx-0", Role::Rx(0)),
            ("eth0-tx-0", Role::Tx(0)),
            ("eth2-rxtx-3", Role::RxTx(3)),
            ("eth2-event-4", Role::Other),
            ("eth0-Tx-Rx-7", Role::RxTx(7)),
            ("eth0-fp-2", Role::RxTx(2)),
            ("virtio0-config", Role::Other),
            ("virtio0-input.15", Role::Rx(15)),
            ("mlx5_comp12@pci:0000:5e:00.1", Role::RxTx(12)),
            ("mlx5_async0@pci:0000:5e:00.1", Role::Other),
            ("mlx4-3@0000:01:00.0", Role::RxTx(3)),
            ("mana_q1@pci:7870:00:00.0", Role::RxTx(1)),
            ("mana_hwc@pci:7870:00:00.0", Role::Other),
            ("gve-ntfy-blk4@pci:0000:00:04.0", Role::RxTx(4)),
            ("eth4 (queue 2)", Role::RxTx(2)),
            ("i40e-enP1s15-TxRx-3", Role::RxTx(3)),
            ("i40e-0001:00:0f.0:misc", Role::Other),
            ("virtio0-virtqueues", Role::RxTx(0)),
            ("nvme0q0", Role::Other),
            ("nvme1q64", Role::Disk(64)),
            ("virtio3-req.2", Role::Disk(2)),
            ("megasas0-msix12", Role::Disk(12)),
            ("mpt3sas1-msix0", Role::Disk(0)),
            ("ahci[0000:00:1f.2]", Role::Other),
            ("eth0", Role::Other),
            ("eth0-rx-", Role::Other),
            ("eth0-rx-99999999999", Role::Other),
        ] {
            assert_eq!(of(name), role, "{name}");
        }
    }
}
