//! How a card's queues hand packets over: `/sys/class/net/IF/queues`.

use std::collections::BTreeMap;

use host::{CpuSet, IfName, Tree};

use crate::error::{Error, Result};
use crate::spec::{Policy, Rps, Xps};

/// Which of these files a caller needs: each is a read per queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) xps: bool,
    pub(crate) rps: bool,
    pub(crate) flows: bool,
}

impl Wanted {
    pub(crate) const ALL: Self = Self { xps: true, rps: true, flows: true };

    pub(crate) fn of(policy: &Policy) -> Self {
        Self { xps: policy.xps != Xps::AsIs, rps: policy.rps != Rps::AsIs, flows: policy.flows.is_some() }
    }
}

/// What the files of a card say.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) xps: BTreeMap<u32, CpuSet>,
    pub(super) rps: BTreeMap<u32, CpuSet>,
    pub(super) flows: BTreeMap<u32, u32>,
}

pub(super) fn read(tree: &Tree, name: &IfName, wanted: Wanted) -> Result<Queues> {
    let mut queues = Queues::default();
    if !(wanted.xps || wanted.rps || wanted.flows) {
        return Ok(queues);
    }
    let dir = format!("/sys/class/net/{name}/queues");
    let number = |queue: &str, kind: &str| queue.strip_prefix(kind).and_then(|number| number.parse().ok());
    for queue in tree.dirs(&dir)? {
        let at = format!("{dir}/{queue}");
        // Cards with one queue have xps_cpus, and answer ENOENT (net/core/net-sysfs.c).
        if let (true, Some(number)) = (wanted.xps, number(&queue, "tx-"))
            && let Some(mask) = tree.read_opt(format!("{at}/xps_cpus"))?
        {
            queues.xps.insert(number, CpuSet::from_mask(&mask)?);
        }
        let Some(number) = number(&queue, "rx-") else { continue };
        if let (true, Some(mask)) = (wanted.rps, tree.read_opt(format!("{at}/rps_cpus"))?) {
            queues.rps.insert(number, CpuSet::from_mask(&mask)?);
        }
        if let (true, Some(count)) = (wanted.flows, tree.read_opt(format!("{at}/rps_flow_cnt"))?) {
            queues.flows.insert(number, count_of(&at, &count)?);
        }
    }
    Ok(queues)
}

/// The number of flows the machine follows; `None` on a kernel without RPS.
pub(super) fn flow_table(tree: &Tree) -> Result<Option<u32>> {
    let path = "/proc/sys/net/core/rps_sock_flow_entries";
    tree.read_opt(path)?.map(|text| count_of(path, &text)).transpose()
}

fn count_of(path: &str, text: &str) -> Result<u32> {
    text.trim().parse().map_err(|_| Error::invalid(path, format!("{:?} is no number", text.trim())))
}
