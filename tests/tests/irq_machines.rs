//! Interrupts on machines of several shapes: memory nodes and hyperthreads, 40 and 128 processors, cards and disk controllers of different
//! drivers, a processor that leaves, irqbalance. What `bind-irqs` says is compared with the kernel's own files, read by a shell.
#![allow(clippy::indexing_slicing, clippy::print_stdout)] // It is a test.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Cmd, Kernel, Lab, Machine, MachineBuilder, Nic, Segment};

const PATIENCE: Duration = Duration::from_secs(300);

struct Guest {
    machine: Machine,
    _lab: Lab,
}

impl Guest {
    fn boot(kernel: Kernel, shape: impl FnOnce(MachineBuilder, &Segment) -> MachineBuilder) -> Result<Self> {
        let programs = lab::programs(&[&["-p", "sankit-examples", "--bin", "bind-irqs"]])?;
        let lab = Lab::new("irq-machines")?;
        lab.install(&programs.join("bind-irqs"))?;
        let cable = lab.segment("s");
        let builder = lab.machine("n1").kernel(kernel).memory(1024).boot_deadline(Duration::from_secs(600));
        let machine = shape(builder, &cable).boot()?;
        let guest = Self { machine, _lab: lab };
        guest.run("cp /lab/bin/bind-irqs /bin/ && chmod 755 /bin/bind-irqs")?;
        guest.run("for m in e1000e vmxnet3 nvme virtio_scsi sd_mod; do modprobe $m; done")?;
        Ok(guest)
    }

    fn run(&self, script: &str) -> Result<String> {
        let output = self.machine.run(Cmd::sh(&format!("{script} 2>&1")).deadline(PATIENCE))?;
        ensure!(output.success(), "{script}: {}", output.stdout);
        Ok(output.stdout.trim().to_owned())
    }

    /// The cards of a driver, in the order of their PCI addresses.
    fn cards(&self, driver: &str) -> Result<Vec<String>> {
        let script = format!(
            "for d in /sys/bus/pci/drivers/{driver}/*:*; do ls $d/net 2>/dev/null || ls $d/virtio*/net; done"
        );
        Ok(self.run(&script)?.lines().map(str::to_owned).collect())
    }

    /// Where the kernel has bound the interrupts of a PCI device whose names match, read by the shell.
    fn bound(&self, card: &str, like: &str) -> Result<Vec<String>> {
        let script = format!(
            "for i in $(ls /sys/class/net/{card}/device/msi_irqs | sort -n); do \
             grep -qE -e '{like}' /sys/kernel/irq/$i/actions && cat /proc/irq/$i/smp_affinity_list; done; true"
        );
        Ok(self.run(&script)?.lines().map(str::to_owned).collect())
    }
}

fn range(from: u32, to: u32) -> Vec<String> {
    (from..=to).map(|cpu| cpu.to_string()).collect()
}

/// Two sockets of one core with two threads, a memory node each; a card and a disk controller on the second node.
fn shape(builder: MachineBuilder, cable: &Segment) -> MachineBuilder {
    let nodes = [
        "-cpu",
        "max,vendor=GenuineIntel",
        "-object",
        "memory-backend-ram,id=m0,size=512M",
        "-object",
        "memory-backend-ram,id=m1,size=512M",
        "-numa",
        "node,nodeid=0,cpus=0-1,memdev=m0",
        "-numa",
        "node,nodeid=1,cpus=2-3,memdev=m1",
        "-device",
        "pxb-pcie,id=pxb1,bus_nr=64,numa_node=1,bus=pcie.0",
        "-device",
        "pcie-root-port,id=rp1,bus=pxb1,chassis=9",
        "-device",
        "pcie-root-port,id=rp2,bus=pxb1,chassis=10",
        "-device",
        "vmxnet3,bus=rp1,romfile=",
        "-drive",
        "driver=null-co,if=none,id=nv,size=64M,read-zeroes=on",
        "-device",
        "nvme,drive=nv,serial=lab,max_ioqpairs=4,bus=rp2",
        "-device",
        "virtio-scsi-pci,num_queues=4,id=vs,bus=pcie.0",
        "-drive",
        "driver=null-co,if=none,id=sd,size=64M,read-zeroes=on",
        "-device",
        "scsi-hd,drive=sd,bus=vs.0",
    ];
    builder
        .smp("4,sockets=2,cores=1,threads=2")
        .nic_with(Nic::on(cable).model("vmxnet3"))
        .nic_with(Nic::on(cable).model("e1000e"))
        .qemu(nodes)
}

fn nodes_and_threads(kernel: Kernel) -> Result<()> {
    let guest = Guest::boot(kernel, shape)?;
    let cards = guest.cards("vmxnet3")?;
    let [near, far] = &cards[..] else { anyhow::bail!("two cards of vmxnet3 and not {cards:?}") };
    let intel = guest.cards("e1000e")?.pop().context("an e1000e")?;
    for card in [near, far, &intel] {
        // The drivers ask for their interrupts when the card is switched on.
        guest.run(&format!("ip link set {card} up"))?;
    }
    let list = guest.run("bind-irqs --list")?;
    println!("{list}");
    let line = |start: &str| list.lines().any(|line| line.trim_start().starts_with(start));
    ensure!(line(&format!("{far} (vmxnet3, memory node 1)")) && line("nvme0 (nvme, memory node 1)"));
    ensure!(
        line(&format!("{intel} (e1000e, memory node unknown)")) && list.contains("(virtio-pci, memory node")
    );
    ensure!(
        list.matches("(virtio3-request)").count() + list.matches("-request)").count() >= 4,
        "four queues of one name"
    );
    let before: Vec<_> = [near, far].iter().map(|card| guest.bound(card, "rxtx")).collect::<Result<_>>()?;
    ensure!(before.iter().all(|queues| queues.len() == 4), "{before:?}");

    // Everything, one after the other; what drivers manage is reported and nothing else.
    let said = guest.run(&format!("bind-irqs --cpus 0-3 {near} {far} {intel} nvme0"))?;
    ensure!(guest.bound(near, "rxtx")? == ["0", "2", "1", "3"], "first one thread of each core: {said}");
    ensure!(guest.bound(far, "rxtx")? == ["0", "2", "1", "3"], "{said}");
    ensure!(guest.bound(&intel, "-[rt]x-")? == ["0", "0"], "both directions of a queue on one processor");
    let stuck: Vec<_> = said.lines().filter(|line| line.starts_with("cannot be moved by anybody")).collect();
    ensure!(stuck.iter().all(|line| line.contains("nvme0")), "{stuck:?}");
    ensure!(guest.run(&format!("bind-irqs --cpus 0-3 {near} {far} {intel}"))?.contains("nothing to do"));

    guest.run(&format!("bind-irqs --numa --skip-threads {near} {far}"))?;
    ensure!(guest.bound(far, "rxtx")? == ["2"; 4], "the far card's node has one core");
    ensure!(guest.bound(near, "rxtx")? == ["0", "2", "0", "2"], "the near card's node is not known");

    // A processor leaves and takes bindings along.
    guest.run(&format!("bind-irqs --cpus 3 {near}; echo 0 >/sys/devices/system/cpu/cpu3/online"))?;
    ensure!(!guest.bound(near, "rxtx")?.contains(&"3".to_owned()));
    let refused = guest.run(&format!("! bind-irqs --cpus 3 {near}"))?;
    ensure!(refused.contains("3 not online"), "{refused}");
    guest.run(&format!("bind-irqs {near}"))?;
    ensure!(guest.bound(near, "rxtx")? == ["0", "2", "1", "0"]);
    guest.run(&format!("echo 1 >/sys/devices/system/cpu/cpu3/online; bind-irqs {near}"))?;
    ensure!(guest.bound(near, "rxtx")? == ["0", "2", "1", "3"]);

    guest.run("bind-irqs --restore")?;
    let after: Vec<_> = [near, far].iter().map(|card| guest.bound(card, "rxtx")).collect::<Result<_>>()?;
    ensure!(after == before, "{after:?} and not {before:?}");
    Ok(())
}

fn many(kernel: Kernel, smp: &str, cpus: (u32, u32)) -> Result<()> {
    let guest = Guest::boot(kernel, |builder, cable| {
        let cards = (0..2).fold(builder.smp(smp), |b, _| b.nic_with(Nic::on(cable).model("vmxnet3")));
        cards.qemu(["-cpu", "max,vendor=GenuineIntel"])
    })?;
    let cards = guest.cards("vmxnet3")?;
    ensure!(cards.len() == 2, "{cards:?}");
    for card in &cards {
        guest.run(&format!("ip link set {card} up"))?;
    }
    let list = cards.join(" ");
    let (first, last) = cpus;
    let started = std::time::Instant::now();
    guest.run(&format!("bind-irqs --cpus {first}-{last} --xps --rfs 4096 {list}"))?;
    println!("{smp}: bind-irqs in {:.2} s", started.elapsed().as_secs_f64());
    let bound: Vec<String> =
        cards.iter().map(|card| guest.bound(card, "rxtx")).collect::<Result<Vec<_>>>()?.concat();
    ensure!(bound.len() == 16, "eight queues each: {bound:?}");
    let distinct: BTreeSet<&String> = bound.iter().collect();
    ensure!(distinct.len() == 16, "{bound:?}");
    ensure!(bound.iter().all(|cpu| range(first, last).contains(cpu)), "{bound:?}");
    // The masks have more than one group; the kernel's own list of the same bits is the judge.
    for (queue, cpu) in bound.iter().take(8).enumerate() {
        let mask = guest.run(&format!("cat /sys/class/net/{}/queues/tx-{queue}/xps_cpus", cards[0]))?;
        let cpu: usize = cpu.parse()?;
        let digits = mask.replace(',', "");
        let digit = digits.chars().rev().nth(cpu / 4).and_then(|c| c.to_digit(16)).context("a digit")?;
        ensure!(
            digit == 1 << (cpu % 4) && digits.chars().filter(|c| *c != '0').count() == 1,
            "{cpu}: {mask}"
        );
    }
    ensure!(guest.run("cat /proc/sys/net/core/rps_sock_flow_entries")? == "4096");
    ensure!(guest.run(&format!("cat /sys/class/net/{}/queues/rx-7/rps_flow_cnt", cards[1]))? == "512");
    ensure!(
        guest
            .run(&format!("bind-irqs --cpus {first}-{last} --xps --rfs 4096 {list}"))?
            .contains("nothing to do")
    );
    guest.run("bind-irqs --restore")?;
    ensure!(guest.run("cat /proc/sys/net/core/rps_sock_flow_entries")? == "0");
    Ok(())
}

fn beside_irqbalance() -> Result<()> {
    let guest = Guest::boot(Kernel::default(), |builder, cable| {
        builder.root("irqbalance").cpus(4).nic_with(Nic::on(cable).model("vmxnet3"))
    })?;
    let card = guest.cards("vmxnet3")?.pop().context("a card")?;
    guest.run(&format!("ip link set {card} up; mkdir -p /run/irqbalance; irqbalance --interval=1 --pid=/run/irqbalance.pid; sleep 2"))?;
    let refused = guest.run(&format!("! bind-irqs --irqbalance refuse --cpus 3 {card}"))?;
    ensure!(refused.contains("irqbalance runs (process "), "{refused}");
    let said = guest.run(&format!("bind-irqs --cpus 3 {card}"))?;
    ensure!(said.contains("irqbalance leaves them alone"), "{said}");
    // Several of its rounds later.
    guest.run("sleep 5")?;
    ensure!(guest.bound(&card, "rxtx")? == ["3"; 4]);
    let again = guest.run(&format!("bind-irqs --cpus 3 {card}"))?;
    ensure!(again.contains("nothing to do") && !again.contains("leaves them alone"), "{again}");
    // For good, by a script that knows devices and no numbers; its own word on what it has read is the judge.
    guest.run(&format!(
        "pkill -x irqbalance; mkdir -p /usr/local/libexec; \
         bind-irqs --print-policyscript {card} >/usr/local/libexec/irqbalance-policy; chmod 755 /usr/local/libexec/irqbalance-policy"
    ))?;
    let device = guest.run(&format!("readlink -f /sys/class/net/{card}/device"))?;
    let place = device.rsplit('/').next().context("a place")?;
    let ask = |path: &str| guest.run(&format!("/usr/local/libexec/irqbalance-policy {path} 30"));
    ensure!(ask(&format!("/sys/bus/pci/devices/{place}"))? == "ban=true");
    ensure!(ask("/sys/bus/pci/devices/0000:00:1f.2")?.is_empty());
    let said = guest.run(
        "irqbalance --oneshot --debug --policyscript=/usr/local/libexec/irqbalance-policy 2>&1 | grep -c 'is banned\\|Banning\\|ban' || true",
    )?;
    ensure!(said.parse::<u32>()? > 0, "irqbalance says nothing of a ban");
    ensure!(guest.bound(&card, "rxtx")? == ["3"; 4]);
    Ok(())
}

#[test]
fn nodes_threads_and_a_processor_that_leaves() -> Result<()> {
    nodes_and_threads(Kernel::V6_1)?;
    nodes_and_threads(Kernel::V6_12)
}

#[test]
fn forty_and_128_processors() -> Result<()> {
    many(Kernel::V6_1, "40", (24, 39))?;
    many(Kernel::V6_1, "128,sockets=2,cores=32,threads=2", (100, 127))?;
    // QEMU 7.2 without KVM crashes this kernel with 128 processors while it patches its own code (sched_clock_idle_wakeup_event).
    many(Kernel::V6_12, "40", (24, 39))
}

#[test]
fn irqbalance_leaves_them_alone() -> Result<()> {
    beside_irqbalance()
}
