//! Network cards and their interrupts in memory, for tests without root.
//!
//! It answers what `write_irq_affinity` (kernel/irq/proc.c) answers, and like a kernel it moves an interrupt only when it comes:
//! [`fire`] makes it come.

use std::collections::BTreeSet;

use host::CpuSet;
use host::fake::{Errno, Memory, Nodes, Rules, plain_write};

/// Which errno a kernel answers to who wants to move what cannot be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// EIO, as 6.1 does.
    Eio,
    /// EPERM, as 6.12 does.
    Eperm,
}

/// The rules of `/proc/irq`.
#[derive(Debug)]
struct Interrupts {
    refusal: Refusal,
}

impl Rules for Interrupts {
    fn write(&mut self, nodes: &mut Nodes, path: &str, data: &[u8]) -> Result<(), Errno> {
        let Some(dir) = path.strip_suffix("/smp_affinity_list") else {
            return plain_write(nodes, path, data);
        };
        nodes.text(path).ok_or(libc::ENOENT)?;
        if nodes.text(&format!("{dir}/managed")).is_some() {
            return Err(if self.refusal == Refusal::Eio { libc::EIO } else { libc::EPERM });
        }
        let text = String::from_utf8_lossy(data);
        let cpus: CpuSet = text.parse().map_err(|_| libc::EINVAL)?;
        let read =
            |file: &str| nodes.text(file).and_then(|text| text.parse::<CpuSet>().ok()).unwrap_or_default();
        let possible = read("/sys/devices/system/cpu/possible");
        let online = read("/sys/devices/system/cpu/online");
        match () {
            () if !cpus.difference(&possible).is_empty() => Err(libc::ERANGE),
            () if cpus.intersection(&online).is_empty() => Err(libc::EINVAL),
            () => plain_write(nodes, path, format!("{cpus}\n").as_bytes()),
        }
    }
}

/// A machine of 6.1 with that many processors and no network card.
#[must_use]
pub fn machine(cpus: u32) -> Memory {
    machine_of(cpus, Refusal::Eio)
}

/// The same with the errno of another kernel.
#[must_use]
pub fn machine_of(cpus: u32, refusal: Refusal) -> Memory {
    let memory = Memory::new().with_rules("/proc/irq", Interrupts { refusal });
    let all: CpuSet = (0..cpus).collect();
    memory.edit(|nodes| {
        nodes.put_dir("/sys/class/net");
        nodes.put_dir("/sys/kernel/irq");
        nodes.put("/proc/sys/net/core/rps_sock_flow_entries", "0\n");
        nodes.put("/proc/irq/default_smp_affinity", format!("{}\n", all.to_mask()));
        for file in ["online", "possible", "present"] {
            nodes.put(&format!("/sys/devices/system/cpu/{file}"), format!("{all}\n"));
        }
        nodes.put("/sys/devices/system/cpu/isolated", "\n");
        nodes.put("/sys/devices/system/cpu/nohz_full", "(null)\n");
        for cpu in 0..cpus {
            nodes.put(
                &format!("/sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list"),
                format!("{cpu}\n"),
            );
        }
    });
    memory
}

/// Adds an interrupt, allowed everywhere and firing on processor 0.
pub fn add_interrupt(memory: &Memory, irq: u32, action: &str) {
    memory.edit(|nodes| {
        let online = nodes.text("/sys/devices/system/cpu/online").unwrap_or_default();
        nodes.put(&format!("/proc/irq/{irq}/smp_affinity_list"), online);
        nodes.put(&format!("/proc/irq/{irq}/effective_affinity_list"), "0\n");
        nodes.put(&format!("/sys/kernel/irq/{irq}/actions"), format!("{action}\n"));
        for user in action.split(',') {
            nodes.put_dir(&format!("/proc/irq/{irq}/{user}"));
        }
    });
}

/// Adds a virtio card with `queues` queues: interrupts `first` (configuration), then receive and transmit of each queue.
pub fn add_virtio(memory: &Memory, name: &str, first: u32, queues: u32) {
    let pci = format!("/sys/devices/pci0000:00/0000:00:{first:02x}.0");
    let actions = std::iter::once(format!("virtio{first}-config")).chain(
        (0..queues).flat_map(|q| [format!("virtio{first}-input.{q}"), format!("virtio{first}-output.{q}")]),
    );
    for (irq, action) in (first..).zip(actions) {
        add_interrupt(memory, irq, &action);
        memory.edit(|nodes| nodes.put(&format!("{pci}/msi_irqs/{irq}"), "msix\n"));
    }
    let device = format!("{pci}/virtio{first}");
    memory.edit(|nodes| {
        nodes.put(&format!("{pci}/numa_node"), "-1\n");
        nodes.put_link(&format!("{device}/driver"), "/sys/bus/virtio/drivers/virtio_net");
        put_interface(nodes, name, &device);
        for queue in 0..queues {
            let dir = format!("{device}/net/{name}/queues/rx-{queue}");
            nodes.put(&format!("{dir}/rps_cpus"), "0\n");
            nodes.put(&format!("{dir}/rps_flow_cnt"), "0\n");
            let dir = format!("{device}/net/{name}/queues/tx-{queue}");
            nodes.put_dir(&dir);
            if queues > 1 {
                nodes.put(&format!("{dir}/xps_cpus"), "0\n");
            }
        }
    });
}

fn put_interface(nodes: &mut Nodes, name: &str, device: &str) {
    nodes.put(&format!("{device}/net/{name}/address"), "52:54:00:00:00:01\n");
    nodes.put_link(&format!("{device}/net/{name}/device"), device);
    nodes.put_link(&format!("/sys/class/net/{name}"), &format!("{device}/net/{name}"));
}

/// Adds a controller of disks at a PCI address, with that driver, on a memory node (-1: not known): interrupts `first` and following, of these
/// names.
pub fn add_controller(memory: &Memory, address: &str, driver: &str, node: i32, first: u32, actions: &[&str]) {
    let device = format!("/sys/devices/pci0000:00/{address}");
    for (irq, action) in (first..).zip(actions) {
        add_interrupt(memory, irq, action);
        memory.edit(|nodes| nodes.put(&format!("{device}/msi_irqs/{irq}"), "msix\n"));
    }
    memory.edit(|nodes| {
        nodes.put(&format!("{device}/class"), "0x010400\n");
        nodes.put(&format!("{device}/numa_node"), format!("{node}\n"));
        nodes.put_link(&format!("{device}/driver"), &format!("/sys/bus/pci/drivers/{driver}"));
        nodes.put_link(&format!("/sys/bus/pci/devices/{address}"), &device);
    });
}

/// Makes a controller the one of SCSI host `number`.
pub fn add_scsi_host(memory: &Memory, address: &str, number: u32) {
    let host = format!("/sys/devices/pci0000:00/{address}/host{number}");
    memory.edit(|nodes| {
        let class = format!("{host}/scsi_host/host{number}");
        nodes.put_link(&format!("{class}/device"), &host);
        nodes.put_link(&format!("/sys/class/scsi_host/host{number}"), &class);
    });
}

/// Makes a controller the NVMe controller `number`.
pub fn add_nvme(memory: &Memory, address: &str, number: u32) {
    let device = format!("/sys/devices/pci0000:00/{address}");
    memory.edit(|nodes| {
        let class = format!("{device}/nvme/nvme{number}");
        nodes.put_link(&format!("{class}/device"), &device);
        nodes.put_link(&format!("/sys/class/nvme/nvme{number}"), &class);
    });
}

/// Puts processors on a memory node.
pub fn add_node(memory: &Memory, node: u32, cpus: &CpuSet) {
    memory.edit(|nodes| {
        nodes.put(&format!("/sys/devices/system/node/node{node}/cpulist"), format!("{cpus}\n"))
    });
}

/// Adds a USB card: its controller has interrupts, it has none.
pub fn add_usb(memory: &Memory, name: &str) {
    let pci = "/sys/devices/pci0000:00/0000:00:14.0";
    memory.edit(|nodes| {
        nodes.put(&format!("{pci}/msi_irqs/200"), "msi\n");
        put_interface(nodes, name, &format!("{pci}/usb1/1-1/1-1:1.0"));
    });
}

/// Adds a bond or VLAN on top of other interfaces.
pub fn add_upper(memory: &Memory, name: &str, lower: &[&str]) {
    memory.edit(|nodes| {
        let dir = format!("/sys/devices/virtual/net/{name}");
        nodes.put(&format!("{dir}/address"), "52:54:00:00:00:02\n");
        nodes.put_link(&format!("/sys/class/net/{name}"), &dir);
        for below in lower {
            nodes.put_link(&format!("{dir}/lower_{below}"), &format!("/sys/class/net/{below}"));
        }
    });
}

/// Makes an interrupt one that its driver manages: nobody can move it.
pub fn manage(memory: &Memory, irq: u32) {
    memory.edit(|nodes| nodes.put(&format!("/proc/irq/{irq}/managed"), ""));
}

/// Lets an interrupt come: from now on it fires where it is bound, on the first of the processors.
pub fn fire(memory: &Memory, irq: u32) {
    memory.edit(|nodes| {
        let bound = nodes.text(&format!("/proc/irq/{irq}/smp_affinity_list")).unwrap_or_default();
        let first = bound.parse::<CpuSet>().ok().and_then(|cpus| cpus.iter().next()).unwrap_or_default();
        nodes.put(&format!("/proc/irq/{irq}/effective_affinity_list"), format!("{first}\n"));
    });
}

/// Takes processors offline: interrupts bound to them alone go back to all that are left, as the kernel does it.
pub fn take_offline(memory: &Memory, cpus: &CpuSet) {
    memory.edit(|nodes| {
        let file = "/sys/devices/system/cpu/online";
        let online = nodes
            .text(file)
            .and_then(|text| text.parse::<CpuSet>().ok())
            .unwrap_or_default()
            .difference(cpus);
        nodes.put(file, format!("{online}\n"));
        let bound: BTreeSet<String> = nodes
            .iter()
            .map(|(path, _)| path.to_owned())
            .filter(|p| p.ends_with("/smp_affinity_list"))
            .collect();
        for path in bound {
            let now = nodes.text(&path).and_then(|text| text.parse::<CpuSet>().ok()).unwrap_or_default();
            if now.intersection(&online).is_empty() {
                nodes.put(&path, format!("{online}\n"));
            }
        }
    });
}
