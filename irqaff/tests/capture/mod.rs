//! Captured machines: one line a file or link, `F PATH<tab>TEXT` with escapes, `L PATH<tab>TARGET`.
#![allow(dead_code, unreachable_pub, clippy::expect_used)]

use std::collections::HashSet;

use host::fake::Memory;
use host::tree::Kind;
use host::{CpuSet, Tree};

/// Puts a captured machine into a memory.
pub fn load(memory: &Memory, text: &str) {
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (kind, rest) = line.split_once(' ').expect("a kind");
        let (path, content) = rest.split_once('\t').expect("a tab");
        memory.edit(|nodes| match kind {
            "L" => nodes.put_link(path, content),
            _ => nodes.put(path, content.replace("\\n", "\n")),
        });
    }
}

/// Writes down what this crate reads of a machine.
pub fn take(tree: &Tree) -> String {
    let mut out = String::new();
    let mut file = |path: &str| {
        if let Ok(Some(text)) = tree.read_opt(path) {
            out.push_str(&format!("F {path}\t{}\n", text.replace('\n', "\\n")));
        }
    };
    ["online", "possible", "isolated", "nohz_full"]
        .iter()
        .for_each(|f| file(&format!("/sys/devices/system/cpu/{f}")));
    let present = tree.read("/sys/devices/system/cpu/possible").expect("the processors");
    for cpu in present.parse::<CpuSet>().expect("a list").iter() {
        file(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list"));
    }
    for node in tree.dirs("/sys/devices/system/node").unwrap_or_default() {
        file(&format!("/sys/devices/system/node/{node}/cpulist"));
    }
    file("/proc/interrupts");
    for irq in tree.dirs("/proc/irq").unwrap_or_default() {
        file(&format!("/proc/irq/{irq}/smp_affinity_list"));
        file(&format!("/proc/irq/{irq}/effective_affinity_list"));
        file(&format!("/sys/kernel/irq/{irq}/actions"));
    }
    for address in tree.links("/sys/bus/pci/devices").unwrap_or_default() {
        let link = format!("/sys/bus/pci/devices/{address}");
        // Mass storage.
        let class = tree.read_opt(format!("{link}/class")).ok().flatten();
        if class.is_some_and(|class| class.starts_with("0x01")) {
            let real = tree.read_link(&link).expect("a link").display().to_string();
            out.push_str(&format!("L {link}\t{real}\n"));
            device(tree, &real, &mut out);
        }
    }
    // A controller by the number of what it drives, and the way from there back to it.
    for class in ["/sys/class/nvme", "/sys/class/scsi_host"] {
        for name in tree.links(class).unwrap_or_default() {
            let real = tree.read_link(format!("{class}/{name}")).expect("a link").display().to_string();
            out.push_str(&format!("L {class}/{name}\t{real}\n"));
            if let Ok(below) = tree.read_link(format!("{real}/device")) {
                device(tree, &below.display().to_string(), &mut out);
                out.push_str(&format!("L {real}/device\t{}\n", below.display()));
            }
        }
    }
    for name in tree.links("/sys/class/net").unwrap_or_default() {
        let link = format!("/sys/class/net/{name}");
        let real = tree.read_link(&link).expect("a link").display().to_string();
        out.push_str(&format!("L {link}\t{real}\n"));
        for lower in tree.links(&real).unwrap_or_default().iter().filter(|l| l.starts_with("lower_")) {
            let to = tree.read_link(format!("{real}/{lower}")).expect("a link");
            out.push_str(&format!("L {real}/{lower}\t{}\n", to.display()));
        }
        let mut file = |path: String| {
            if let Ok(Some(text)) = tree.read_opt(&path) {
                out.push_str(&format!("F {path}\t{}\n", text.replace('\n', "\\n")));
            }
        };
        file(format!("{real}/address"));
        file(format!("{real}/ifindex"));
        for queue in tree.dirs(format!("{real}/queues")).unwrap_or_default() {
            file(format!("{real}/queues/{queue}/rps_cpus"));
            file(format!("{real}/queues/{queue}/rps_flow_cnt"));
            file(format!("{real}/queues/{queue}/xps_cpus"));
        }
        let Ok(below) = tree.read_link(format!("{real}/device")) else { continue };
        let below = below.display().to_string();
        let parent = below.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
        device(tree, &below, &mut out);
        device(tree, &parent, &mut out);
        out.push_str(&format!("L {real}/device\t{below}\n"));
    }
    // A controller is found by its address and by its number.
    let mut seen = HashSet::new();
    out.lines().filter(|line| seen.insert(*line)).map(|line| format!("{line}\n")).collect()
}

/// A device's directory.
fn device(tree: &Tree, dir: &str, out: &mut String) {
    if let Ok(driver) = tree.read_link(format!("{dir}/driver")) {
        out.push_str(&format!("L {dir}/driver\t{}\n", driver.display()));
    }
    let interrupts = tree.list_opt(format!("{dir}/msi_irqs")).unwrap_or_default();
    let interrupts = interrupts.iter().filter(|irq| irq.kind == Kind::File);
    let files = ["irq", "numa_node", "class"].map(str::to_owned).into_iter();
    for file in files.chain(interrupts.map(|irq| format!("msi_irqs/{}", irq.name))) {
        if let Ok(Some(text)) = tree.read_opt(format!("{dir}/{file}")) {
            out.push_str(&format!("F {dir}/{file}\t{}\n", text.replace('\n', "\\n")));
        }
    }
}
