//! What must hold on every machine, be it the fake or a kernel. Plain functions, so that two test programs can run them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs
)]

use std::collections::BTreeMap;

use host::plan::KillPoint;
use irqaff::{CpuSet, DeviceName, ErrorKind, Host, Irqaff, Plan, Policy, Role, Rps, Step, Verdict};

pub type Outcome = Result<(), Box<dyn std::error::Error>>;
pub type Case = fn(&Bench) -> Outcome;

/// A machine with at least two processors and the virtio cards `eth0` and `eth1` on one segment.
pub struct Bench {
    pub host: Host,
    /// Makes `eth1` receive something.
    pub traffic: fn(&Self),
    /// Makes `bond9` over `eth1`.
    pub bond: fn(&Self),
    /// An interrupt that cannot be moved, and its name.
    pub managed: (u32, String),
}

pub const CASES: &[(&str, Case)] = &[
    ("cards_are_listed_with_their_queues", listed),
    ("a_policy_is_carried_out_and_a_second_run_only_reads", carried_out),
    ("the_undo_of_a_plan_leads_back", undo),
    ("every_failing_step_leaves_all_as_before", failing),
    ("after_every_stop_a_second_run_converges", stopped),
    ("processors_that_are_not_there_are_refused", offline),
    ("a_port_that_is_not_there_is_named", no_port),
    ("an_interrupt_nobody_can_move_is_reported", not_movable),
    ("an_interrupt_moves_when_it_comes", pending),
    ("a_bond_stands_for_its_ports", bond),
    ("a_stale_step_finds_its_interrupt_or_says_so", stale),
    ("packets_are_handed_on_and_flows_followed", steered),
    ("a_disk_controller_is_listed_and_its_managed_queues_stay", controller),
];

pub fn name(text: &str) -> DeviceName {
    text.parse().expect("a device's name")
}

fn cpus(text: &str) -> CpuSet {
    text.parse().expect("a processor list")
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(error) = at {
        text.push_str(&format!(": {error}"));
        at = error.source();
    }
    text
}

impl Bench {
    pub fn irqaff(&self) -> Irqaff {
        Irqaff::on(&self.host).expect("interrupts")
    }

    fn both(&self, over: &str) -> Policy {
        Policy::spread([name("eth0"), name("eth1")]).over(cpus(over))
    }

    fn bound(&self) -> BTreeMap<u32, CpuSet> {
        let devices = self.irqaff().list().expect("a list");
        devices
            .into_iter()
            .flat_map(|device| device.vectors)
            .map(|vector| (vector.irq, vector.affinity))
            .collect()
    }
}

fn listed(bench: &Bench) -> Outcome {
    let irqaff = bench.irqaff();
    let devices: Vec<_> = irqaff.list()?.into_iter().filter(|d| d.name.link().is_some()).collect();
    assert_eq!(devices.iter().map(|d| d.name.to_string()).collect::<Vec<_>>(), ["eth0", "eth1"]);
    for device in &devices {
        let roles: Vec<_> = device.vectors.iter().map(|vector| vector.role).collect();
        assert_eq!(roles, [Role::Other, Role::Rx(0), Role::Tx(0)], "{device:?}");
        assert!(device.vectors.iter().all(|v| !v.affinity.is_empty() && v.effective.is_some()), "{device:?}");
        assert_eq!((device.queues(), device.numa_node), (vec![0], None));
        assert_eq!(device.driver.as_deref(), Some("virtio_net"));
        assert!(
            device.vectors[1].action.starts_with("virtio") && device.vectors[1].action.ends_with("-input.0")
        );
    }
    assert!(irqaff.get(&name("lo"))?.is_none() && irqaff.get(&name("none"))?.is_none());
    Ok(())
}

fn carried_out(bench: &Bench) -> Outcome {
    let irqaff = bench.irqaff();
    irqaff.ensure(&bench.both("0"))?;
    let policy = bench.both("0-1");
    let plan = irqaff.plan(&policy)?;
    // Queue 0 of eth0 on processor 0, where it is; queue 0 of eth1 on the next.
    assert_eq!(plan.len(), 2, "{plan}");
    assert!(
        plan.to_string().contains("echo 1 > /proc/irq/") && plan.to_string().contains("# eth1 rx 0"),
        "{plan}"
    );
    assert!(irqaff.ensure(&policy)?);
    let (tree, record) = bench.host.tree().recording();
    let again = Irqaff::on(&bench.host.clone().with_tree(tree))?;
    assert!(!again.ensure(&policy)? && record.changes().is_empty());
    let report = irqaff.verify(&policy)?;
    assert!(report.holds() && report.findings.len() == 4, "{report}");
    let elsewhere = irqaff.verify(&bench.both("1"))?;
    assert_eq!((elsewhere.holds(), elsewhere.of(Verdict::Differs).count()), (false, 2), "{elsewhere}");
    let eth1 = irqaff.get(&name("eth1"))?.expect("eth1");
    assert_eq!(eth1.vectors[1].affinity, cpus("1"));
    Ok(())
}

fn undo(bench: &Bench) -> Outcome {
    let irqaff = bench.irqaff();
    irqaff.ensure(&bench.both("0"))?;
    let before = bench.bound();
    let applied = irqaff.apply(irqaff.plan(&bench.both("1"))?)?;
    assert!(applied.not_movable.is_empty());
    assert_ne!(bench.bound(), before);
    irqaff.apply(applied.undo.into_plan())?;
    assert_eq!(bench.bound(), before);
    Ok(())
}

fn failing(bench: &Bench) -> Outcome {
    bench.irqaff().ensure(&bench.both("0"))?;
    let before = bench.bound();
    let policy = bench.both("1");
    let steps = bench.irqaff().plan(&policy)?.len();
    for n in 0..steps {
        let host = bench.host.clone().with_kill_point(KillPoint::FailAfter(n));
        Irqaff::on(&host)?.ensure(&policy).expect_err("fails");
        assert_eq!(bench.bound(), before, "after {n} of {steps}");
    }
    eprintln!("{steps} steps failed one by one");
    Ok(())
}

fn stopped(bench: &Bench) -> Outcome {
    let policy = bench.both("1");
    bench.irqaff().ensure(&bench.both("0"))?;
    let steps = bench.irqaff().plan(&policy)?.len();
    for n in 0..steps {
        bench.irqaff().ensure(&bench.both("0"))?;
        let host = bench.host.clone().with_kill_point(KillPoint::StopAfter(n));
        let error = Irqaff::on(&host)?.ensure(&policy).expect_err("stops");
        assert_eq!((error.kind(), host.steps_done()), (ErrorKind::Stopped, n));
        assert!(bench.irqaff().ensure(&policy)? && bench.irqaff().verify(&policy)?.holds());
    }
    Ok(())
}

fn offline(bench: &Bench) -> Outcome {
    let error = bench.irqaff().plan(&bench.both("0-700")).expect_err("no such processors");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("-700 not online"), "{error}");
    let error = bench.irqaff().plan(&bench.both("")).expect_err("no processor");
    assert!(error.to_string().contains("none is left"), "{error}");
    // Past the planner.
    let vector = bench.irqaff().get(&name("eth0"))?.expect("eth0").vectors[1].clone();
    let step = Step::Affinity {
        device: name("eth0"),
        irq: vector.irq,
        index: vector.index,
        action: vector.action,
        role: vector.role,
        cpus: cpus("9000"),
        before: vector.affinity,
    };
    let error = bench.irqaff().apply(Plan::new(vec![step])).expect_err("no such processor");
    assert!(matches!(error.errno(), Some(libc::ERANGE | libc::EOVERFLOW)), "{}", chain(&error));
    assert!(chain(&error).contains("no such processor"), "{}", chain(&error));
    Ok(())
}

fn no_port(bench: &Bench) -> Outcome {
    let error = bench.irqaff().plan(&Policy::spread([name("eth77")])).expect_err("no such port");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("eth77"));
    let report = bench.irqaff().verify(&Policy::spread([name("lo")]))?;
    assert_eq!(report.without_queues, [name("lo")]);
    Ok(())
}

fn not_movable(bench: &Bench) -> Outcome {
    let (irq, action) = bench.managed.clone();
    let step = |cpu: &str| Step::Affinity {
        device: name("eth0"),
        irq,
        index: 0,
        action: action.clone(),
        role: Role::Other,
        cpus: cpus(cpu),
        before: cpus("0"),
    };
    let applied = bench.irqaff().apply(Plan::new(vec![step("1")]))?;
    assert_eq!(applied.not_movable, [step("1")]);
    // Its undo is as harmless.
    bench.irqaff().apply(applied.undo.into_plan())?;
    Ok(())
}

fn pending(bench: &Bench) -> Outcome {
    let irqaff = bench.irqaff();
    for cpu in ["0", "1"] {
        let policy = Policy::spread([name("eth1")]).over(cpus(cpu));
        irqaff.ensure(&policy)?;
        (bench.traffic)(bench);
        let report = irqaff.verify(&policy)?;
        let rx = report.findings.iter().find(|finding| finding.role == Role::Rx(0)).expect("a receive queue");
        assert_eq!((rx.verdict, rx.effective.clone()), (Verdict::Holds, Some(cpus(cpu))), "{report}");
    }
    let report = {
        let policy = Policy::spread([name("eth1")]).over(cpus("0"));
        irqaff.ensure(&policy)?;
        irqaff.verify(&policy)?
    };
    assert!(report.holds(), "{report}");
    eprint!("without traffic:\n{report}");
    Ok(())
}

fn bond(bench: &Bench) -> Outcome {
    (bench.bond)(bench);
    let irqaff = bench.irqaff();
    assert_eq!(irqaff.devices_of(&name("bond9"))?, [name("eth1")]);
    let policy = Policy::spread([name("bond9"), name("eth1"), name("eth0")]).over(cpus("0-1"));
    irqaff.ensure(&policy)?;
    let report = irqaff.verify(&policy)?;
    assert_eq!(report.findings.len(), 4, "each port once: {report}");
    assert_eq!(irqaff.get(&name("eth1"))?.expect("eth1").vectors[1].affinity, cpus("0"));
    assert_eq!(irqaff.get(&name("eth0"))?.expect("eth0").vectors[1].affinity, cpus("1"));
    Ok(())
}

fn stale(bench: &Bench) -> Outcome {
    let irqaff = bench.irqaff();
    let vector = irqaff.get(&name("eth0"))?.expect("eth0").vectors[1].clone();
    let step = |irq: u32, action: &str| Step::Affinity {
        device: name("eth0"),
        irq,
        index: vector.index,
        action: action.to_owned(),
        role: vector.role,
        cpus: cpus("1"),
        before: cpus("0"),
    };
    // The number is another's now; place and name find it.
    irqaff.ensure(&bench.both("0"))?;
    irqaff.apply(Plan::new(vec![step(bench.managed.0, &vector.action)]))?;
    assert_eq!(irqaff.get(&name("eth0"))?.expect("eth0").vectors[1].affinity, cpus("1"));
    let error =
        irqaff.apply(Plan::new(vec![step(vector.irq, "virtio99-input.0")])).expect_err("no such name");
    assert!(chain(&error).contains("make a new plan"), "{}", chain(&error));
    Ok(())
}

fn steered(bench: &Bench) -> Outcome {
    let irqaff = bench.irqaff();
    // One queue, two processors: the other one helps.
    let policy = bench.both("0-1").with_rps(Rps::WhereFewQueues).with_flows(1000);
    assert!(irqaff.ensure(&policy)? && !irqaff.ensure(&policy)?);
    let eth0 = irqaff.get(&name("eth0"))?.expect("eth0");
    assert_eq!((eth0.rps[&0].to_string(), eth0.flows[&0]), ("0-1".to_owned(), 1024));
    let tree = bench.host.tree();
    assert_eq!(tree.read("/proc/sys/net/core/rps_sock_flow_entries")?.trim(), "1024");
    assert!(irqaff.verify(&policy)?.holds());
    let off = bench.both("0-1").with_rps(Rps::Off).with_flows(0);
    let report = irqaff.verify(&off)?;
    assert!(!report.holds() && report.steering.len() == 5, "{report}");
    assert!(report.to_string().contains("/sys/class/net/eth0/queues/rx-0/rps_cpus: differs"), "{report}");
    assert!(irqaff.ensure(&off)? && !irqaff.ensure(&off)?);
    assert!(irqaff.get(&name("eth0"))?.expect("eth0").rps[&0].is_empty());
    let error = irqaff.plan(&bench.both("0").with_flows(u32::MAX)).expect_err("too many");
    assert!(error.to_string().contains("at most 536870912"), "{error}");
    Ok(())
}

fn controller(bench: &Bench) -> Outcome {
    let irqaff = bench.irqaff();
    let (managed, _) = bench.managed.clone();
    let devices = irqaff.list()?;
    let disk = devices.iter().find(|device| device.vectors.iter().any(|v| v.irq == managed)).expect("a disk");
    assert!(disk.name.link().is_none() && disk.name.to_string().ends_with(".0"), "{disk:?}");
    assert_eq!(disk.driver.as_deref(), Some("virtio-pci"), "the PCI device's own driver");
    assert_eq!(disk.vectors.iter().find(|v| v.irq == managed).expect("seen").role, Role::Disk(0));
    assert_eq!(irqaff.get(&disk.name)?.as_ref(), Some(disk));
    assert_eq!(irqaff.devices_of(&disk.name)?, std::slice::from_ref(&disk.name));
    let policy = Policy::spread([disk.name.clone()]).over(cpus("1"));
    irqaff.ensure(&policy)?;
    let report = irqaff.verify(&policy)?;
    let verdicts: Vec<_> = report.findings.iter().map(|f| f.verdict).collect();
    // Where the driver has put it is where it was wanted by chance, or it cannot be moved there.
    assert!(report.holds() && !verdicts.contains(&Verdict::Differs) && !verdicts.is_empty(), "{report}");
    let error = irqaff.plan(&Policy::spread([name("0000:ff:1f.7")])).expect_err("no such device");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("/sys/bus/pci/devices/0000:ff:1f.7"), "{error}");
    Ok(())
}
