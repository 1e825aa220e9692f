//! Reading devices, `/proc/irq`, `/sys/kernel/irq` and the processors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use host::{CpuSet, Host, IfName, Tree};

use super::netdev::Napis;
use super::queues::{self, Wanted};
use super::{DeviceState, State, VectorState};
use crate::error::{Error, Result};
use crate::name::DeviceName;
use crate::spec::{Numa, Policy};
use crate::wire::role::Role;
use crate::wire::{interrupts, role};

const NET: &str = "/sys/class/net";
const CPU: &str = "/sys/devices/system/cpu";

fn cpus(tree: &Tree, path: &str) -> Result<CpuSet> {
    Ok(tree.read_opt(path)?.unwrap_or_default().parse()?)
}

/// Reads what a policy needs.
pub(crate) fn read(host: &Host, policy: &Policy) -> Result<State> {
    let tree = host.tree();
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
    let nodes = if policy.numa == Numa::Local { nodes(tree)? } else { BTreeMap::new() };
    let flow_table = if policy.flows.is_some() { queues::flow_table(tree)? } else { None };
    let napis = Napis::read(host);
    let (mut devices, mut virtual_ports, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for name in &policy.devices {
        let below = devices_of(tree, name)?;
        if below.is_empty() {
            virtual_ports.push(name.clone());
        }
        for name in below {
            if seen.insert(name.clone()) {
                devices.push(device(tree, &name, &napis, Wanted::of(policy))?);
            }
        }
    }
    Ok(State { online, isolated, cores, nodes, flow_table, devices, virtual_ports, not_movable: Vec::new() })
}

/// The processors of each memory node; empty on a kernel without NUMA.
fn nodes(tree: &Tree) -> Result<BTreeMap<u32, CpuSet>> {
    const NODES: &str = "/sys/devices/system/node";
    let mut nodes = BTreeMap::new();
    for entry in tree.list_opt(NODES)? {
        if let Some(number) = entry.name.strip_prefix("node").and_then(|number| number.parse().ok()) {
            nodes.insert(number, cpus(tree, &format!("{NODES}/{}/cpulist", entry.name))?);
        }
    }
    Ok(nodes)
}

/// The devices a name stands for: the physical ports below an interface, or the controller itself.
pub(crate) fn devices_of(tree: &Tree, name: &DeviceName) -> Result<Vec<DeviceName>> {
    match name {
        DeviceName::Link(link) => Ok(physical(tree, link)?.into_iter().map(DeviceName::Link).collect()),
        controller if tree.exists(controller.path())? => Ok(vec![controller.clone()]),
        _ => Err(Error::NotFound { name: name.clone() }),
    }
}

/// The controllers of disks on PCI, each once: NVMe by number, others by address.
pub(crate) fn controllers(tree: &Tree) -> Result<Vec<DeviceName>> {
    const PCI: &str = "/sys/bus/pci/devices";
    /// Mass storage (`PCI_BASE_CLASS_STORAGE`).
    const STORAGE: &str = "0x01";
    let mut found = Vec::new();
    for entry in tree.list_opt(PCI)? {
        let dir = format!("{PCI}/{}", entry.name);
        if !tree.read_opt(format!("{dir}/class"))?.is_some_and(|class| class.starts_with(STORAGE)) {
            continue;
        }
        let nvme = tree.list_opt(format!("{dir}/nvme"))?;
        let nvme = nvme.iter().find_map(|entry| entry.name.strip_prefix("nvme")?.parse().ok());
        found.push(nvme.map_or(DeviceName::Pci(entry.name), DeviceName::Nvme));
    }
    Ok(found)
}

/// The physical ports below an interface: itself, or what its `lower_*` links lead to (slaves of a bond, the port of a VLAN).
fn physical(tree: &Tree, name: &IfName) -> Result<Vec<IfName>> {
    let mut found = Vec::new();
    let mut open = vec![name.clone()];
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        let dir = format!("{NET}/{name}");
        if !tree.exists(&dir)? {
            return Err(Error::NotFound { name: DeviceName::Link(name) });
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

/// The directory of the device under a name. Resolved in two hops: `/sys/class/net/IF` is itself a link, and `device` is relative to
/// where that leads.
fn device_dir(tree: &Tree, name: &DeviceName) -> Result<Option<PathBuf>> {
    let link = name.path();
    let real = match tree.read_link(&link) {
        Ok(real) => real,
        // A captured tree may have a directory here.
        Err(error) if error.errno() == Some(libc::EINVAL) => PathBuf::from(link),
        Err(error) => return Err(error.into()),
    };
    if let DeviceName::Pci(_) = name {
        return Ok(Some(real));
    }
    match tree.read_link(real.join("device")) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A device's directory and those above it that are still the same device: a virtio device's PCI parent has its interrupts, a SCSI host's its
/// controller. Other parents are other devices: that of a USB card is the USB controller.
fn same_device(dir: &Path) -> impl Iterator<Item = &Path> {
    let is_part = |dir: &&Path| {
        let name = dir.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        ["virtio", "host", "ata"].iter().any(|prefix| {
            name.strip_prefix(prefix).is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
        })
    };
    std::iter::successors(Some(dir), move |dir| Some(*dir).filter(is_part)?.parent())
}

/// The numbers of a device's interrupts.
pub(crate) fn vectors_of(tree: &Tree, name: &DeviceName) -> Result<Vec<u32>> {
    match device_dir(tree, name)? {
        Some(dir) => interrupts_of(tree, &dir),
        None => Ok(Vec::new()),
    }
}

fn interrupts_of(tree: &Tree, dir: &Path) -> Result<Vec<u32>> {
    for dir in same_device(dir) {
        let found = numbers(tree, dir)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
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

/// Reads one device.
pub(crate) fn device(tree: &Tree, name: &DeviceName, napis: &Napis, wanted: Wanted) -> Result<DeviceState> {
    let (mut vectors, mut table) = (Vec::new(), None);
    let dir = device_dir(tree, name)?;
    let numbers = dir.as_deref().map(|dir| interrupts_of(tree, dir)).transpose()?.unwrap_or_default();
    for (index, irq) in numbers.into_iter().enumerate() {
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
    let mut queues = queues::Queues::default();
    match name {
        DeviceName::Link(link) => {
            roles_of_a_card(tree, link, napis, &mut vectors)?;
            queues = queues::read(tree, link, wanted)?;
        }
        _ => roles_of_a_controller(&mut vectors),
    }
    let numa_node = dir.as_deref().map(|dir| node(tree, dir)).transpose()?.flatten();
    let driver = dir.as_deref().map(|dir| driver(tree, dir)).transpose()?.flatten();
    let queues::Queues { xps, rps, flows } = queues;
    Ok(DeviceState { name: name.clone(), driver, vectors, xps, rps, flows, numa_node })
}

/// What the kernel says itself comes before what names say.
fn roles_of_a_card(tree: &Tree, name: &IfName, napis: &Napis, vectors: &mut [VectorState]) -> Result<()> {
    // Cards with one interrupt call it by their own name; on cards with more that name is the link's.
    if let [only] = vectors {
        if only.action.split(',').any(|action| action == name.as_str()) {
            only.role = Role::RxTx(0);
        }
        return Ok(());
    }
    let index = tree.read_opt(format!("/sys/class/net/{name}/ifindex"))?;
    let Some(index) = index.and_then(|text| text.trim().parse().ok()) else { return Ok(()) };
    for vector in vectors {
        // Some drivers have two interrupts for the one NAPI that is reported (e1000e): a name that says more is kept.
        if let Some(role) = napis.role(index, vector.irq)
            && vector.role.queue() != role.queue()
        {
            vector.role = role;
        }
    }
    Ok(())
}

/// Drivers that give all their queues one name (`virtio_scsi`, smartpqi), or have one interrupt for everything (ahci).
fn roles_of_a_controller(vectors: &mut [VectorState]) {
    if let [only] = vectors {
        only.role = Role::Disk(0);
        return;
    }
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for vector in vectors.iter_mut() {
        if let Role::RxTx(queue) = vector.role {
            vector.role = Role::Disk(queue);
        }
        *seen.entry(vector.action.clone()).or_default() += 1;
    }
    seen.retain(|_, times| *times > 1);
    let alike = vectors.iter_mut().filter(|v| v.role == Role::Other && seen.contains_key(&v.action));
    (0..).zip(alike).for_each(|(queue, vector)| vector.role = Role::Disk(queue));
}

fn driver(tree: &Tree, dir: &Path) -> Result<Option<String>> {
    for dir in same_device(dir) {
        match tree.read_link(dir.join("driver")) {
            Ok(driver) => return Ok(driver.file_name().map(|name| name.to_string_lossy().into_owned())),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
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
    for dir in same_device(dir) {
        if let Some(text) = tree.read_opt(dir.join("numa_node"))? {
            // -1 means that the firmware did not say, not node 0.
            return Ok(text.trim().parse().ok());
        }
    }
    Ok(None)
}
