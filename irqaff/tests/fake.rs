//! The conformance suite on the fake, what only a fake can show, and captured machines.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::panic
)]

mod capture;
mod conformance;

use std::sync::Mutex;

use conformance::{Bench, Outcome, name};
use host::fake::Memory;
use irqaff::fake::{self, Refusal};
use irqaff::{CpuSet, Host, Irqaff, Isolated, Numa, Policy, Role, Threads, Verdict};

static MEMORY: Mutex<Option<Memory>> = Mutex::new(None);

fn with_memory(f: impl FnOnce(&Memory)) {
    let memory = MEMORY.lock().expect("no panic").clone();
    f(&memory.expect("set"));
}

fn cpus(text: &str) -> CpuSet {
    text.parse().expect("a processor list")
}

fn on(memory: &Memory) -> Irqaff {
    Irqaff::on(&Host::fake().with_tree(memory.tree())).expect("interrupts")
}

#[test]
fn the_fake_conforms() {
    for refusal in [Refusal::Eio, Refusal::Eperm] {
        for (name, case) in conformance::CASES {
            let memory = fake::machine_of(2, refusal);
            fake::add_virtio(&memory, "eth0", 24, 1);
            fake::add_virtio(&memory, "eth1", 27, 1);
            fake::add_upper(&memory, "lo", &[]);
            fake::add_controller(
                &memory,
                "0000:00:09.0",
                "virtio-pci",
                -1,
                39,
                &["virtio9-config", "virtio9-req.0"],
            );
            fake::manage(&memory, 40);
            *MEMORY.lock().expect("no panic") = Some(memory.clone());
            let bench = Bench {
                host: Host::fake().with_tree(memory.tree()),
                traffic: |_| with_memory(|memory| (27..30).for_each(|irq| fake::fire(memory, irq))),
                bond: |_| with_memory(|memory| fake::add_upper(memory, "bond9", &["eth1"])),
                managed: (40, "virtio9-req.0".to_owned()),
            };
            case(&bench).unwrap_or_else(|error| panic!("{name}: {}", conformance::chain(&*error)));
        }
    }
}

#[test]
fn many_queues_are_spread_without_overlap() -> Outcome {
    let memory = fake::machine(8);
    fake::add_virtio(&memory, "int1", 24, 3);
    fake::add_virtio(&memory, "int2", 40, 3);
    let policy = Policy::spread([name("int1"), name("int2")]).over(cpus("2-7")).with_xps();
    let irqaff = on(&memory);
    // Receive, transmit and xps_cpus of six queues.
    assert_eq!(irqaff.plan(&policy)?.len(), 18);
    assert!(irqaff.ensure(&policy)? && !irqaff.ensure(&policy)?);
    let seen: Vec<_> = irqaff
        .list()?
        .iter()
        .flat_map(|d| d.vectors.clone())
        .map(|v| (v.role, v.affinity.to_string()))
        .collect();
    assert_eq!(
        seen[1..7],
        [
            (Role::Rx(0), "2".to_owned()),
            (Role::Tx(0), "2".to_owned()),
            (Role::Rx(1), "3".to_owned()),
            (Role::Tx(1), "3".to_owned()),
            (Role::Rx(2), "4".to_owned()),
            (Role::Tx(2), "4".to_owned()),
        ]
    );
    assert_eq!(seen[8].1, "5");
    assert_eq!(seen[0], (Role::Other, "0-7".to_owned()), "the configuration interrupt is left alone");
    assert_eq!(memory.tree().read("/sys/class/net/int2/queues/tx-2/xps_cpus")?, "80");
    assert!(irqaff.verify(&policy)?.steering.is_empty());
    Ok(())
}

#[test]
fn a_second_hyperthread_of_a_core_comes_last() -> Outcome {
    let memory = fake::machine(4);
    memory.edit(|nodes| {
        for (cpu, core) in [(0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")] {
            nodes.put(
                &format!("/sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list"),
                format!("{core}\n"),
            );
        }
    });
    fake::add_virtio(&memory, "int1", 24, 4);
    let irqaff = on(&memory);
    irqaff.ensure(&Policy::spread([name("int1")]))?;
    let int1 = irqaff.get(&name("int1"))?.expect("int1");
    let rx: Vec<_> = int1
        .vectors
        .iter()
        .filter(|v| matches!(v.role, Role::Rx(_)))
        .map(|v| v.affinity.to_string())
        .collect();
    assert_eq!(rx, ["0", "2", "1", "3"]);
    Ok(())
}

#[test]
fn isolated_processors_are_left_out_unless_allowed() -> Outcome {
    let memory = fake::machine(4);
    memory.edit(|nodes| nodes.put("/sys/devices/system/cpu/isolated", "3\n"));
    fake::add_virtio(&memory, "int1", 24, 4);
    let irqaff = on(&memory);
    let all = Policy::spread([name("int1")]);
    irqaff.ensure(&all)?;
    assert!(
        irqaff.list()?[0].vectors.iter().filter(|v| v.role != Role::Other).all(|v| !v.affinity.contains(3))
    );
    let error = irqaff.plan(&all.clone().over(cpus("0-3"))).expect_err("isolated");
    assert!(error.to_string().contains("3 isolated"), "{error}");
    assert!(irqaff.ensure(&all.over(cpus("3")).with_isolated(Isolated::Allowed))?);
    Ok(())
}

#[test]
fn vlans_over_bonds_and_cards_without_queues() -> Outcome {
    let memory = fake::machine(4);
    fake::add_virtio(&memory, "int1", 24, 2);
    fake::add_virtio(&memory, "int2", 40, 2);
    fake::add_usb(&memory, "usb0");
    fake::add_upper(&memory, "bond0", &["int1", "int2"]);
    fake::add_upper(&memory, "bond0.24", &["bond0"]);
    fake::add_upper(&memory, "dummy0", &[]);
    let irqaff = on(&memory);
    assert_eq!(irqaff.devices_of(&name("bond0.24"))?, [name("int1"), name("int2")]);
    let policy = Policy::spread([name("bond0.24"), name("usb0"), name("dummy0")]);
    assert!(irqaff.ensure(&policy)?);
    let report = irqaff.verify(&policy)?;
    assert_eq!(report.without_queues, [name("dummy0"), name("usb0")]);
    assert!(report.holds() && report.of(Verdict::Pending).count() > 0, "{report}");
    assert!(
        irqaff.get(&name("usb0"))?.expect("usb0").vectors.is_empty(),
        "the controller's interrupts are not the card's"
    );
    Ok(())
}

#[test]
fn a_managed_queue_is_tried_once_and_reported() -> Outcome {
    let memory = fake::machine_of(4, Refusal::Eperm);
    fake::add_virtio(&memory, "int1", 24, 1);
    fake::manage(&memory, 25);
    let policy = Policy::spread([name("int1")]).over(cpus("2"));
    let irqaff = on(&memory);
    let applied = irqaff.apply(irqaff.plan(&policy)?)?;
    assert_eq!((applied.not_movable.len(), irqaff.plan(&policy)?.len()), (1, 0));
    assert!(!irqaff.ensure(&policy)?);
    let report = irqaff.verify(&policy)?;
    assert!(report.holds() && report.of(Verdict::NotMovable).count() == 1, "{report}");
    // A handle that does not know it yet tries it, changes nothing, and says so.
    assert!(!on(&memory).ensure(&policy)?);
    Ok(())
}

#[test]
fn what_a_processor_took_along_is_seen_and_mended() -> Outcome {
    let memory = fake::machine(4);
    fake::add_virtio(&memory, "int1", 24, 4);
    let irqaff = on(&memory);
    irqaff.ensure(&Policy::spread([name("int1")]))?;
    fake::take_offline(&memory, &cpus("3"));
    let policy = Policy::spread([name("int1")]);
    let report = irqaff.verify(&policy)?;
    assert!(!report.holds() && report.of(Verdict::Differs).count() == 2, "{report}");
    assert!(irqaff.ensure(&policy)? && irqaff.verify(&policy)?.holds());
    Ok(())
}

#[test]
fn a_card_with_one_interrupt_is_bound_by_its_own_name() -> Outcome {
    let memory = fake::machine(2);
    memory.edit(|nodes| {
        let device = "/sys/devices/pci0000:00/0000:00:05.0";
        nodes.put(&format!("{device}/irq"), "11\n");
        nodes.put(&format!("{device}/net/eth0/address"), "\n");
        nodes.put_link(&format!("{device}/net/eth0/device"), device);
        nodes.put_link("/sys/class/net/eth0", &format!("{device}/net/eth0"));
    });
    fake::add_interrupt(&memory, 11, "eth0,uhci_hcd:usb1");
    let irqaff = on(&memory);
    irqaff.ensure(&Policy::spread([name("eth0")]).over(cpus("1")))?;
    let eth0 = irqaff.get(&name("eth0"))?.expect("eth0");
    assert_eq!((eth0.vectors[0].role, eth0.vectors[0].affinity.to_string()), (Role::RxTx(0), "1".to_owned()));
    Ok(())
}

#[test]
fn names_come_from_proc_interrupts_where_sysfs_has_none() -> Outcome {
    let memory = fake::machine(2);
    fake::add_virtio(&memory, "eth0", 24, 1);
    memory.edit(|nodes| {
        nodes.take("/sys/kernel/irq");
        let text = "  CPU0 CPU1\n 24: 0 0 PCI-MSI 1-edge virtio24-config\n 25: 1 0 PCI-MSI 2-edge virtio24-input.0\n 26: 0 1 PCI-MSI 3-edge virtio24-output.0\n";
        nodes.put("/proc/interrupts", text);
    });
    let irqaff = on(&memory);
    assert!(irqaff.ensure(&Policy::spread([name("eth0")]).over(cpus("1")))?);
    assert_eq!(irqaff.list()?[0].queues(), [0]);
    Ok(())
}

#[test]
fn controllers_are_found_by_address_number_and_host() -> Outcome {
    let memory = fake::machine(8);
    fake::add_controller(
        &memory,
        "0000:03:00.0",
        "megaraid_sas",
        0,
        30,
        &["megasas0-msix0", "megasas0-msix1"],
    );
    fake::add_scsi_host(&memory, "0000:03:00.0", 4);
    fake::add_controller(&memory, "0000:05:00.0", "nvme", 1, 40, &["nvme0q0", "nvme0q1", "nvme0q2"]);
    fake::add_nvme(&memory, "0000:05:00.0", 0);
    fake::add_controller(&memory, "0000:06:00.0", "smartpqi", -1, 50, &["smartpqi", "smartpqi", "smartpqi"]);
    fake::add_controller(&memory, "0000:00:1f.2", "ahci", -1, 60, &["ahci[0000:00:1f.2]"]);
    let irqaff = on(&memory);
    let seen: Vec<_> = irqaff.list()?.iter().map(|d| (d.name.to_string(), d.queues())).collect();
    let wanted = [
        ("0000:00:1f.2", vec![0]),
        ("0000:03:00.0", vec![0, 1]),
        ("nvme0", vec![1, 2]),
        ("0000:06:00.0", vec![0, 1, 2]),
    ];
    assert_eq!(seen, wanted.map(|(name, queues)| (name.to_owned(), queues)));
    // The SCSI host is the same controller.
    let by_host = irqaff.get(&name("host4"))?.expect("host4");
    assert_eq!(
        (by_host.queues(), by_host.driver.as_deref(), by_host.numa_node),
        (vec![0, 1], Some("megaraid_sas"), Some(0))
    );
    irqaff.ensure(&Policy::spread([name("host4"), name("nvme0")]).over(cpus("2-5")))?;
    let bound = |device: &str| -> Vec<String> {
        let device = irqaff.get(&name(device)).expect("read").expect("there");
        device.vectors.iter().map(|v| v.affinity.to_string()).collect()
    };
    assert_eq!(
        (bound("0000:03:00.0"), bound("nvme0")),
        (vec!["2".to_owned(), "3".to_owned()], vec!["0-7".to_owned(), "4".to_owned(), "5".to_owned()])
    );
    Ok(())
}

#[test]
fn devices_stay_on_their_memory_node() -> Outcome {
    let memory = fake::machine(8);
    fake::add_node(&memory, 0, &cpus("0-3"));
    fake::add_node(&memory, 1, &cpus("4-7"));
    for (address, node, first) in [("0000:03:00.0", 1, 30), ("0000:04:00.0", 1, 40), ("0000:05:00.0", -1, 50)]
    {
        let names: Vec<String> = (0..3).map(|n| format!("mpt3sas{first}-msix{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        fake::add_controller(&memory, address, "mpt3sas", node, first, &names);
    }
    let irqaff = on(&memory);
    let devices = [name("0000:03:00.0"), name("0000:04:00.0"), name("0000:05:00.0")];
    let policy = Policy::spread(devices.clone()).with_numa(Numa::Local);
    let placed = irqaff.placement(&policy)?;
    let shown: Vec<_> = devices.iter().map(|name| placed[name].to_string()).collect();
    // The second device of node 1 goes on where the first ended; who knows no node has all.
    assert_eq!(shown, ["4-6", "4-5,7", "0-2"]);
    // No processor of the node in the policy: better a far one than none.
    let placed = irqaff.placement(&policy.clone().over(cpus("0-1")))?;
    assert_eq!(placed[&devices[0]].to_string(), "0-1");
    let placed = irqaff.placement(&Policy::spread(devices.clone()))?;
    assert_eq!(placed[&devices[1]].to_string(), "3-5", "the node is of no interest by default");
    Ok(())
}

#[test]
fn second_hyperthreads_can_be_left_out() -> Outcome {
    let memory = fake::machine(4);
    memory.edit(|nodes| {
        for cpu in 0..4 {
            let core = if cpu < 2 { "0-1\n" } else { "2-3\n" };
            nodes.put(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list"), core);
        }
    });
    fake::add_virtio(&memory, "int1", 24, 4);
    let policy = Policy::spread([name("int1")]).with_threads(Threads::Skipped);
    assert_eq!(on(&memory).placement(&policy)?[&name("int1")].to_string(), "0,2");
    Ok(())
}

#[test]
fn a_shared_line_counts_for_the_first_device() -> Outcome {
    let memory = fake::machine(4);
    fake::add_interrupt(&memory, 11, "eth0,eth1");
    memory.edit(|nodes| {
        for (name, slot) in [("eth0", 5), ("eth1", 6)] {
            let device = format!("/sys/devices/pci0000:00/0000:00:{slot:02}.0");
            nodes.put(&format!("{device}/irq"), "11\n");
            nodes.put_link(&format!("{device}/net/{name}/device"), &device);
            nodes.put_link(&format!("/sys/class/net/{name}"), &format!("{device}/net/{name}"));
        }
    });
    let policy = Policy::spread([name("eth0"), name("eth1")]).over(cpus("2-3"));
    let irqaff = on(&memory);
    // Else each call would move it to and fro.
    assert!(irqaff.ensure(&policy)? && !irqaff.ensure(&policy)?);
    assert_eq!(irqaff.get(&name("eth1"))?.expect("eth1").vectors[0].affinity, cpus("2"));
    assert!(irqaff.verify(&policy)?.holds());
    Ok(())
}

/// Each device of a captured machine with its queues (NVMe's queue 0 is the administrator's), and one action that has to be in its `/proc/interrupts`.
#[test]
fn captured_machines_are_understood() -> Outcome {
    for (text, devices, action) in [
        (
            include_str!("fixtures/qemu-7.2-virtio-linux-6.1.txt"),
            vec![("eth0", 0..1), ("eth1", 0..1)],
            "-input.0",
        ),
        (include_str!("fixtures/virtio-pci-linux-6.18.txt"), vec![("eth0", 0..1)], "-input.0"),
        (
            include_str!("fixtures/nvme-vmxnet3-e1000e-linux-6.1.txt"),
            vec![
                ("eth0", 0..8),
                ("eth1", 0..1),
                ("0000:00:04.0", 0..16),
                ("0000:00:08.0", 0..4),
                ("nvme0", 1..17),
            ],
            "nvme0q16",
        ),
        (
            include_str!("fixtures/255-processors-linux-6.1.txt"),
            vec![
                ("eth0", 0..8),
                ("eth1", 0..1),
                ("0000:00:04.0", 0..255),
                ("0000:00:08.0", 0..4),
                ("nvme0", 1..33),
            ],
            "nvme0q32",
        ),
    ] {
        let memory = Memory::new();
        capture::load(&memory, text);
        let irqaff = on(&memory);
        let seen: Vec<_> = irqaff.list()?.into_iter().map(|d| (d.name.to_string(), d.queues())).collect();
        let wanted: Vec<_> =
            devices.iter().map(|(name, queues)| ((*name).to_owned(), queues.clone().collect())).collect();
        assert_eq!(seen, wanted);
        let last = memory.tree().read("/sys/devices/system/cpu/online")?.parse::<CpuSet>()?.iter().last();
        let policy = Policy::spread([name("eth0")]).over(CpuSet::single(last.expect("a processor")));
        irqaff.ensure(&policy)?;
        assert!(irqaff.verify(&policy)?.holds());
        let lines = irqaff::wire::interrupts::parse(&memory.tree().read("/proc/interrupts")?)?;
        assert!(lines.iter().any(|line| line.actions.iter().any(|found| found.ends_with(action))));
    }
    Ok(())
}

#[cfg(feature = "serde")]
#[test]
fn an_undo_kept_as_text_leads_back() -> Outcome {
    let memory = fake::machine(2);
    fake::add_virtio(&memory, "eth0", 24, 1);
    let irqaff = on(&memory);
    let applied = irqaff.apply(irqaff.plan(&Policy::spread([name("eth0")]).over(cpus("1")))?)?;
    let text = serde_json::to_string(&applied.undo.into_plan())?;
    irqaff.apply(serde_json::from_str(&text)?)?;
    assert_eq!(irqaff.list()?[0].vectors[1].affinity, cpus("0-1"));
    Ok(())
}
