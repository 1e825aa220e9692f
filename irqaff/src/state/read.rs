//! Reading `/sys/class/net`, `/proc/irq`, `/sys/kernel/irq` and the processors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use host::{CpuSet, IfName, Tree};

use super::{DeviceState, State, VectorState};
use crate::error::{Error, Result};
use crate::spec::{Policy, Xps};
use crate::wire::{interrupts, role};

const NET: &str = "/sys/class/net";
const CPU: &str = "/sys/devices/system/cpu";

fn cpus(tree: &Tree, path: &str) -> Result<CpuSet> {
    Ok(tree.read_opt(path)?.unwrap_or_default().parse()?)
}

/// Reads what a policy needs.
pub(crate) fn read(tree: &Tree, policy: &Policy) -> Result<State> {
    let online = cpus(tree, &format!("{CPU}/online"))?;
    let isolated = cpus(tree, &format!("{CPU}/isolated"))?.union(&cpus(tree, &format!("{CPU}/nohz_full"))?);
    let mut cores: Vec<CpuSet> = Vec::new();
    for cpu in online.iter().filter(|cpu| policy.cpus.as_ref().is_none_or(|wanted| wanted.contains(*cpu))) {
        if cores.iter().any(|core| core.contains(cpu)) {
            continue;
        }
        let core = cpus(tree, &format!("{CPU}/cpu{cpu}/topology/core_cpus_list"))?;
        cores.push(if core.contains(cpu) { core } else { CpuSet::single(cpu) });
    }
    let (mut devices, mut virtual_ports, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for port in &policy.ports {
        let below = physical(tree, port)?;
        if below.is_empty() {
            virtual_ports.push(port.clone());
        }
        for name in below {
            if seen.insert(name.clone()) {
                devices.push(device(tree, &name, policy.xps)?);
            }
        }
    }
    Ok(State { online, isolated, cores, devices, virtual_ports, not_movable: Vec::new() })
}

/// The physical ports below an interface: itself, or what its `lower_*` links lead to (slaves of a bond, the port of a VLAN).
pub(crate) fn physical(tree: &Tree, name: &IfName) -> Result<Vec<IfName>> {
    let mut found = Vec::new();
    let mut open = vec![name.clone()];
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        let dir = format!("{NET}/{name}");
        if !tree.exists(&dir)? {
            return Err(Error::NotFound { name: name.to_string() });
        }
        if !seen.insert(name.clone()) {
            continue;
        }
        if tree.exists(format!("{dir}/device"))? {
            found.push(name);
            continue;
        }
        let mut lower = Vec::new();
        for link in tree.links(&dir)? {
            if let Some(below) = link.strip_prefix("lower_") {
                lower.push(below.parse::<IfName>()?);
            }
        }
        // Last in, first out: keep their order.
        open.extend(lower.into_iter().rev());
    }
    Ok(found)
}

/// The directory of the device under an interface. Resolved in two hops: `/sys/class/net/IF` is itself a link, and `device` is relative to
/// where that leads.
fn device_dir(tree: &Tree, name: &IfName) -> Result<Option<PathBuf>> {
    let link = format!("{NET}/{name}");
    let real = match tree.read_link(&link) {
        Ok(real) => real,
        // A captured tree may have a directory here.
        Err(error) if error.errno() == Some(libc::EINVAL) => PathBuf::from(link),
        Err(error) => return Err(error.into()),
    };
    match tree.read_link(real.join("device")) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The numbers of a device's interrupts. A virtio device has them in its PCI parent; other parents are other devices: that of a USB card is
/// the USB controller.
pub(crate) fn vectors_of(tree: &Tree, name: &IfName) -> Result<Vec<u32>> {
    let Some(dir) = device_dir(tree, name)? else { return Ok(Vec::new()) };
    let mut found = numbers(tree, &dir)?;
    let is_child = dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("virtio"));
    if let (true, true, Some(parent)) = (found.is_empty(), is_child, dir.parent()) {
        found = numbers(tree, parent)?;
    }
    Ok(found)
}

fn numbers(tree: &Tree, dir: &Path) -> Result<Vec<u32>> {
    let entries = tree.list_opt(dir.join("msi_irqs"))?;
    let mut found: Vec<u32> = entries.iter().filter_map(|entry| entry.name.parse().ok()).collect();
    found.sort_unstable();
    if found.is_empty() {
        // The line of a card without message interrupts. With them this file still has the unused line, hence second.
        let line = tree.read_opt(dir.join("irq"))?.and_then(|text| text.trim().parse::<u32>().ok());
        found.extend(line.filter(|irq| *irq > 0));
    }
    Ok(found)
}

/// Reads one network card.
pub(crate) fn device(tree: &Tree, name: &IfName, xps: Xps) -> Result<DeviceState> {
    let mut vectors = Vec::new();
    let mut table = None;
    for (index, irq) in vectors_of(tree, name)?.into_iter().enumerate() {
        let dir = format!("/proc/irq/{irq}");
        // A number without a directory: allocated and not requested by the driver.
        let Some(affinity) = tree.read_opt(format!("{dir}/smp_affinity_list"))? else { continue };
        let effective = tree.read_opt(format!("{dir}/effective_affinity_list"))?;
        let action = match tree.read_opt(format!("/sys/kernel/irq/{irq}/actions"))? {
            Some(actions) => actions.trim().to_owned(),
            None => from_table(tree, &mut table, irq)?,
        };
        vectors.push(VectorState {
            irq,
            index,
            role: role::of(&action),
            action,
            affinity: affinity.parse()?,
            effective: effective
                .map(|text| text.parse())
                .transpose()?
                .filter(|cpus: &CpuSet| !cpus.is_empty()),
        });
    }
    // Cards with one interrupt call it by their own name; on cards with more that name is the link's.
    if let [only] = &mut vectors[..]
        && only.action.split(',').any(|action| action == name.as_str())
    {
        only.role = role::Role::RxTx(0);
    }
    let node = device_dir(tree, name)?.map(|dir| node(tree, &dir)).transpose()?.flatten();
    let xps = if xps == Xps::Follow { read_xps(tree, name)? } else { BTreeMap::new() };
    Ok(DeviceState { name: name.clone(), vectors, xps, numa_node: node })
}

/// The names in `/proc/interrupts`, read once, for kernels without `/sys/kernel/irq`.
fn from_table(tree: &Tree, table: &mut Option<Vec<interrupts::Line>>, irq: u32) -> Result<String> {
    if table.is_none() {
        *table = Some(interrupts::parse(&tree.read("/proc/interrupts")?)?);
    }
    let line = table.iter().flatten().find(|line| line.irq == Some(irq));
    Ok(line.map(|line| line.actions.join(",")).unwrap_or_default())
}

fn node(tree: &Tree, dir: &Path) -> Result<Option<u32>> {
    for dir in [Some(dir), dir.parent()].into_iter().flatten() {
        if let Some(text) = tree.read_opt(dir.join("numa_node"))? {
            // -1 means that the firmware did not say, not node 0.
            return Ok(text.trim().parse().ok());
        }
    }
    Ok(None)
}

fn read_xps(tree: &Tree, name: &IfName) -> Result<BTreeMap<u32, CpuSet>> {
    let dir = format!("{NET}/{name}/queues");
    let mut xps = BTreeMap::new();
    for queue in tree.dirs(&dir)? {
        let Some(number) = queue.strip_prefix("tx-").and_then(|number| number.parse().ok()) else { continue };
        // Cards with one queue have the file, and answer ENOENT (net/core/net-sysfs.c).
        if let Some(mask) = tree.read_opt(format!("{dir}/{queue}/xps_cpus"))? {
            xps.insert(number, CpuSet::from_mask(&mask)?);
        }
    }
    Ok(xps)
}
