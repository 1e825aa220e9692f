//! A whole node on fakes: `apply` stopped after each of its steps, `serve` and `release` in their order, and what is refused or fails, with
//! its message and with nothing changed.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

mod common;
#[path = "common/machine.rs"]
mod machine;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Keys, article};
use drbd::fake::FakeDrbd;
use drbd::{Deadline, Drbd};
use host::plan::KillPoint;
use machine::Machine;
use san_node::config::{Config, Unit};
use san_node::node::{FirstSync, NewMetadata, Node, Peer};

/// Two nodes of the article, booted, with a network between them.
struct Cluster {
    text: String,
    keys: Keys,
    machines: [Machine; 2],
}

impl Cluster {
    fn new() -> Self {
        let keys = Keys::new();
        let text = article(&keys);
        let (one, two) = FakeDrbd::pair();
        let machines = [Machine::new("n1", one, &text), Machine::new("n2", two, &text)];
        Self { text, keys, machines }
    }

    /// Both applied, and both units in sync, served by nobody.
    fn ready() -> Self {
        let cluster = Self::new();
        for machine in &cluster.machines {
            assert!(machine.node(&cluster.text).apply(NewMetadata::Refuse).expect("applies"));
        }
        let node = cluster.node(0);
        for unit in &node.config.units {
            serve_with(&node, unit, Peer::Unknown, FirstSync::FromHere).expect("the first sync begins");
            cluster.machines[0].drbd.finish_sync(&unit.resource.name);
            release(&node, unit).expect("is released");
        }
        cluster.machines.iter().for_each(|machine| drop(machine.take_log()));
        cluster
    }

    fn node(&self, number: usize) -> Node {
        self.machines[number].node(&self.text)
    }
}

fn serve(node: &Node, unit: &Unit) -> anyhow::Result<Vec<String>> {
    serve_with(node, unit, Peer::Unknown, FirstSync::Refuse)
}

fn serve_with(node: &Node, unit: &Unit, peer: Peer, first: FirstSync) -> anyhow::Result<Vec<String>> {
    let mut said = Vec::new();
    node.serve(unit, peer, first, &mut |what, _| said.push(what.to_owned()))?;
    Ok(said)
}

fn release(node: &Node, unit: &Unit) -> anyhow::Result<Vec<String>> {
    let mut said = Vec::new();
    node.release(unit, &mut |what, _| said.push(what.to_owned()))?;
    Ok(said)
}

/// The error and its causes in one line.
fn failure<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
    format!("{:#}", result.expect_err("must fail"))
}

fn is_primary(node: &Node, unit: &Unit) -> bool {
    let drbd = Drbd::on(&node.host).expect("a fake");
    drbd.get(&unit.resource.name).expect("a fake").is_some_and(|state| state.is_primary())
}

/// Nothing changed; if something did, only that is shown.
fn unchanged(before: &[String], machine: &Machine, what: &str) {
    let after = machine.picture();
    let gone = before.iter().filter(|line| !after.contains(line)).map(|line| format!("- {line}"));
    let new = after.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}"));
    let differ: Vec<_> = gone.chain(new).collect();
    assert!(differ.is_empty(), "{what}\n{}", differ.join("\n"));
}

#[test]
fn apply_stopped_after_each_step_converges_when_run_again() {
    let cluster = Cluster::new();
    let lines = cluster.node(0).plan().expect("plans");
    let total = lines.len();
    let mut done: Option<Vec<String>> = None;
    let mut stopped = 0;
    for step in 0..=total {
        let cluster = Cluster::new();
        let machine = &cluster.machines[0];
        let broken = machine.node_with(&cluster.text, KillPoint::StopAfter(step));
        // Stopped after its last step, a plan is done.
        let result = broken.apply(NewMetadata::Refuse);
        assert_eq!(result.is_ok(), step == total, "stopped after step {step}: {result:?}");
        assert_eq!(broken.host.steps_done(), step);
        stopped += usize::from(step > 0);
        let again = machine.node(&cluster.text);
        assert_eq!(again.apply(NewMetadata::Refuse).expect("converges"), step < total, "after step {step}");
        // Bringing the activity log to the disk leaves no trace that it was done.
        let twice = usize::from(step > 0 && lines[step - 1].contains(" apply-al"));
        assert_eq!(again.host.steps_done(), total - step + twice, "step {step}: nothing is done twice");
        assert_eq!(again.plan().expect("plans"), Vec::<String>::new(), "after step {step}");
        machine.take_log();
        assert!(!again.apply(NewMetadata::Refuse).expect("is done"), "after step {step}");
        assert_eq!(
            machine.take_log(),
            Vec::<String>::new(),
            "after step {step}: a second apply writes nothing"
        );
        let picture = machine.picture();
        assert_eq!(done.get_or_insert_with(|| picture.clone()), &picture, "after step {step}");
    }
    println!("stopped after each of {stopped} steps, plan has {total}");
    assert_eq!(stopped, total);
    assert!(total > 50, "the article has more steps than {total}");
}

#[test]
fn a_step_that_fails_takes_its_facility_back_and_leaves_the_others() {
    let cluster = Cluster::new();
    let total = cluster.node(0).plan().expect("plans").len();
    // Where each facility ends: what is left must be what stood there when its first step was about to be done.
    let (net, irq, disks) = facilities(&cluster);
    let ends = [0, net, net + irq, net + irq + disks];
    let before: Vec<_> = ends.iter().map(|end| picture_after(KillPoint::StopAfter(*end))).collect();
    let units = (total - ends[3]) / 2;
    for step in 0..total {
        // The units' resources are two plans.
        let second = step >= ends[3] + units;
        let left = match ends.iter().rposition(|end| *end <= step) {
            Some(3) if second => picture_after(KillPoint::StopAfter(ends[3] + units)),
            Some(index) => before[index].clone(),
            None => panic!("the first facility begins at 0"),
        };
        let picture = picture_after(KillPoint::FailAfter(step));
        let differ: Vec<_> = left
            .iter()
            .filter(|l| !picture.contains(l))
            .chain(picture.iter().filter(|l| !left.contains(l)))
            .collect();
        assert!(differ.is_empty(), "step {} failed: {differ:#?}", step + 1);
    }
    println!("failed at each of {total} steps");
}

/// The steps of network, interrupts and disks.
fn facilities(cluster: &Cluster) -> (usize, usize, usize) {
    let node = cluster.node(0);
    let lines = node.plan().expect("plans");
    let count = |is: &dyn Fn(&str) -> bool| lines.iter().filter(|line| is(line)).count();
    let irq = count(&|line| line.contains("/proc/irq/"));
    let disks = count(&|line| line.starts_with("cryptsetup "));
    let drbd = count(&|line| line.starts_with("drbd"));
    (lines.len() - irq - disks - drbd, irq, disks)
}

fn machine_after(kill: KillPoint) -> Machine {
    let cluster = Cluster::new();
    let machine = cluster.machines[0].clone();
    assert!(machine.node_with(&cluster.text, kill).apply(NewMetadata::Refuse).is_err());
    machine
}

fn picture_after(kill: KillPoint) -> Vec<String> {
    machine_after(kill).picture()
}

#[test]
fn serve_enables_last_and_lets_nobody_in_before() {
    let cluster = Cluster::ready();
    let node = cluster.node(0);
    let unit = &node.config.units[0];
    let said = serve(&node, unit).expect("serves");
    assert_eq!(said.last().map(String::as_str), Some("announced"), "{said:?}");
    let log = cluster.machines[0].take_log();
    let place = |what: &str| log.iter().position(|line| line.starts_with(what));
    let promoted = place("promote").expect("is promoted");
    let configfs: Vec<usize> =
        (0..log.len()).filter(|index| log[*index].contains("/sys/kernel/config/target")).collect();
    let last = *configfs.last().expect("is exported");
    let enabled = log[last].as_str();
    assert!(
        enabled.starts_with("write 1 to") && enabled.ends_with("vm-storage-1/tpgt_1/enable"),
        "the last write of the target is {enabled}"
    );
    assert_eq!(log.iter().filter(|line| line.contains("/tpgt_1/enable")).count(), 1, "{log:#?}");
    let address = place("add an address").expect("takes its addresses");
    assert!(promoted < configfs[0] && last < address, "{log:#?}");
    assert_eq!(log.iter().filter(|line| *line == "add an address").count(), unit.addresses.len());
    let status = node.status().expect("is shown");
    assert!(status.units[0].serving && !status.units[1].serving, "{status}");
}

#[test]
fn release_takes_the_addresses_away_first_and_demotes_last() {
    let cluster = Cluster::ready();
    let node = cluster.node(0);
    let unit = &node.config.units[0];
    serve(&node, unit).expect("serves");
    cluster.machines[0].take_log();
    assert_eq!(release(&node, unit).expect("releases"), ["addresses", "target", "demoted"]);
    let log = cluster.machines[0].take_log();
    let count = unit.addresses.len();
    assert!(log.iter().take(count).all(|line| line == "remove an address"), "{log:#?}");
    let (first, last) = (&log[count], &log[log.len() - 1]);
    assert!(first.starts_with("write 0 to") && first.ends_with("tpgt_1/enable"), "{first}");
    assert_eq!(last, "demote");
    assert!(
        log[count..log.len() - 1].iter().all(|line| line.contains("/sys/kernel/config/target")),
        "{log:#?}"
    );
    // Again: there is nothing left to take away but what the kernel says is not there.
    let before = cluster.machines[0].picture();
    release(&node, unit).expect("releases");
    let log = cluster.machines[0].take_log();
    assert!(log.iter().all(|line| line == "remove an address"), "{log:#?}");
    unchanged(&before, &cluster.machines[0], "");
}

#[test]
fn a_second_serve_writes_nothing() {
    let cluster = Cluster::ready();
    let node = cluster.node(0);
    let unit = &node.config.units[0];
    serve(&node, unit).expect("serves");
    let machine = &cluster.machines[0];
    machine.take_log();
    let (before, changes) = (machine.picture(), machine.drbd.changes());
    serve(&node, unit).expect("still serves");
    // It asks for its addresses, which the kernel says are there: one request instead of a dump and none.
    let log: Vec<_> = machine.take_log().into_iter().filter(|line| line != "add an address").collect();
    assert_eq!((log, machine.drbd.changes()), (Vec::new(), changes));
    unchanged(&before, machine, "");
}

#[test]
fn a_unit_that_the_peer_serves_is_refused_and_moves_after_its_release() {
    let cluster = Cluster::ready();
    let [one, two] = [cluster.node(0), cluster.node(1)];
    let (unit, other) = (&one.config.units[0], &two.config.units[0]);
    serve(&one, unit).expect("serves");
    let before = cluster.machines[1].picture();
    let refused = failure(serve(&two, other));
    assert!(refused.contains("n1 serves VM_STORAGE_1; release it there first"), "{refused}");
    unchanged(&before, &cluster.machines[1], "");
    assert_eq!(cluster.machines[1].take_log(), Vec::<String>::new());
    // Whoever says that the peer is dead is wrong here, and DRBD, which sees it alive, says so.
    let lied = failure(serve_with(&two, other, Peer::Dead, FirstSync::Refuse));
    assert!(lied.contains("VM_STORAGE_1"), "{lied}");
    unchanged(&before, &cluster.machines[1], "");
    // The other unit is another matter.
    serve(&two, &two.config.units[1]).expect("serves");
    release(&one, unit).expect("releases");
    serve(&two, other).expect("serves");
    assert!(is_primary(&two, other) && !is_primary(&one, unit));
}

#[test]
fn a_node_that_waits_serves_as_soon_as_its_peer_has_released() {
    let cluster = Cluster::ready();
    let [one, two] = [cluster.node(0), cluster.node(1)];
    let (unit, other) = (&one.config.units[0], &two.config.units[0]);
    serve(&one, unit).expect("serves");
    let wait =
        |seconds| serve_with(&two, other, Peer::Releasing(Duration::from_secs(seconds)), FirstSync::Refuse);
    let before = cluster.machines[1].picture();
    let refused = failure(wait(0));
    assert!(refused.contains("n1 has not released it"), "{refused}");
    unchanged(&before, &cluster.machines[1], "");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| wait(60));
        release(&one, unit).expect("releases");
        let said = waiting.join().expect("no panic").expect("serves");
        assert!(said.contains(&"awaited".to_owned()), "{said:?}");
    });
    assert!(is_primary(&two, other) && !is_primary(&one, unit));
    // One that has been released already is not waited for.
    release(&two, other).expect("releases");
    wait(0).expect("serves");
}

#[test]
fn a_silent_peer_is_not_dead_until_somebody_says_so() {
    let cluster = Cluster::ready();
    let node = cluster.node(1);
    let unit = &node.config.units[0];
    cluster.machines[0].drbd.power_cut();
    let before = cluster.machines[1].picture();
    let refused = failure(serve(&node, unit));
    for part in ["n1 does not answer", "does not mean it is dead", "--peer-is-dead"] {
        assert!(refused.contains(part), "{refused}");
    }
    unchanged(&before, &cluster.machines[1], "");
    assert_eq!(cluster.machines[1].take_log(), Vec::<String>::new());
    serve_with(&node, unit, Peer::Dead, FirstSync::Refuse).expect("serves");
    assert!(is_primary(&node, unit));
}

#[test]
fn a_unit_that_was_never_applied_is_told_what_to_do() {
    let cluster = Cluster::new();
    let node = cluster.node(0);
    let refused = failure(serve(&node, &node.config.units[0]));
    assert!(refused.contains("VM_STORAGE_1 is not up here; run san-node apply first"), "{refused}");
    assert_eq!(cluster.machines[0].take_log(), Vec::<String>::new());
}

#[test]
fn a_first_sync_over_good_data_is_refused() {
    let cluster = Cluster::ready();
    let node = cluster.node(0);
    let before = cluster.machines[0].picture();
    let refused = failure(serve_with(&node, &node.config.units[0], Peer::Unknown, FirstSync::FromHere));
    assert!(refused.contains("--first-sync would overwrite it"), "{refused}");
    unchanged(&before, &cluster.machines[0], "");
}

/// A node whose network and interrupts are set up, as after a boot where the disks were not opened yet.
fn with_network(cluster: &Cluster) -> Vec<String> {
    let (net, irq, _) = facilities(cluster);
    let stopped = cluster.machines[0].node_with(&cluster.text, KillPoint::StopAfter(net + irq));
    assert!(stopped.apply(NewMetadata::Refuse).is_err());
    cluster.machines[0].take_log();
    cluster.machines[0].picture()
}

#[test]
fn a_wrong_passphrase_is_named_by_disk_and_opens_nothing() {
    let cluster = Cluster::new();
    let machine = &cluster.machines[0];
    let before = with_network(&cluster);
    let wrong = Keys::new().with("san", "not written anywhere");
    let text = cluster.text.replace(&cluster.keys.path("san"), &wrong.path("san"));
    let refused = failure(machine.node(&text).apply(NewMetadata::Refuse));
    assert!(refused.contains("/dev/md0: no key slot opens with this passphrase"), "{refused}");
    assert!(
        refused.contains("nothing had been changed") && !refused.contains("not written anywhere"),
        "{refused}"
    );
    unchanged(&before, machine, "");
}

#[test]
fn a_second_disk_with_another_passphrase_closes_the_first_again() {
    let cluster = Cluster::new();
    let machine = &cluster.machines[0];
    let before = with_network(&cluster);
    let node = machine.node(&cluster.text);
    let luks::Source::Uuid(uuid) = &node.config.units[1].mapping.source else { panic!("by UUID") };
    let crypt = machine.crypt.clone();
    drop(crypt.with_volume("/dev/md1", uuid.clone(), machine::wrong_passphrase()));
    let refused = failure(machine.node(&cluster.text).apply(NewMetadata::Refuse));
    assert!(refused.contains("/dev/md1: no key slot opens"), "{refused}");
    assert!(refused.contains("the 1 steps before it were undone"), "{refused}");
    unchanged(&before, machine, "");
}

#[test]
fn a_disk_that_is_open_under_another_name_is_left_alone() {
    let cluster = Cluster::new();
    let machine = &cluster.machines[0];
    with_network(&cluster);
    let node = machine.node(&cluster.text);
    let luks::Source::Uuid(uuid) = &node.config.units[0].mapping.source else { panic!("by UUID") };
    machine.crypt.put_mapping("old_name", Some(uuid.clone()), Some("md0"), &[]);
    let before = machine.picture();
    let refused = failure(node.apply(NewMetadata::Refuse));
    for part in
        [uuid.to_string().as_str(), "/dev/mapper/old_name", "VM_STORAGE_1", "cryptsetup close old_name"]
    {
        assert!(refused.contains(part), "{part} is not in: {refused}");
    }
    unchanged(&before, machine, "");
    // The name is taken by something else: the same.
    machine.crypt.put_mapping("VM_STORAGE_1", None, Some("sdz"), &[]);
    machine.crypt.luks(&node.host).remove(&"old_name".parse().expect("a name")).expect("closes");
    let before = machine.picture();
    let refused = failure(node.apply(NewMetadata::Refuse));
    assert!(refused.contains("/dev/mapper/VM_STORAGE_1 is there and is not this volume"), "{refused}");
    unchanged(&before, machine, "");
    assert_eq!(machine.take_log(), Vec::<String>::new());
}

#[test]
fn a_mistake_that_is_known_beforehand_changes_nothing_at_all() {
    let cluster = Cluster::new();
    let machine = &cluster.machines[0];
    machine.crypt.put_mapping("VM_STORAGE_1", None, Some("sdz"), &[]);
    let before = machine.picture();
    let refused = failure(machine.node(&cluster.text).apply(NewMetadata::Refuse));
    assert!(refused.contains("/dev/mapper/VM_STORAGE_1 is there and is not this volume"), "{refused}");
    unchanged(&before, machine, "");
}

#[test]
fn interrupts_of_a_bond_can_be_planned_before_it_is_made() {
    let cluster = Cluster::new();
    let text = cluster.text.replace("links = [\"int1\",", "links = [\"bond_drbd\", \"int1.24\",");
    assert_ne!(text, cluster.text);
    let lines = cluster.machines[0].node(&text).plan().expect("plans");
    // Five cards are named by their own names, the first by its VLAN, and four are in the bond; two queues each, both ways.
    assert_eq!(lines.iter().filter(|line| line.contains("/proc/irq/")).count(), 40);
}

#[test]
fn a_missing_disk_is_named_with_what_is_there() {
    let cluster = Cluster::new();
    let machine = &cluster.machines[0];
    let before = with_network(&cluster);
    let absent = "00000000-0000-4000-8000-000000000000";
    let text = cluster.text.replacen("1bd1f798-d105-4150-841b-f2751f419efc", absent, 1);
    let refused = failure(machine.node(&text).apply(NewMetadata::Refuse));
    assert!(refused.contains(absent) && refused.contains("on /dev/md1"), "{refused}");
    unchanged(&before, machine, "");
}

#[test]
fn an_address_whose_link_is_gone_is_named_and_nothing_is_served() {
    let cluster = Cluster::ready();
    let node = cluster.node(0);
    let unit = &node.config.units[0];
    // What `ip link del int3.26` does.
    let text = cluster.text.replace("vlan = { parent = \"int3\", id = 26 }", "");
    let config = Config::parse("node.toml".as_ref(), &cluster.text, "n1").expect("is in order");
    let gone = config.net.links.iter().filter(|link| link.name.as_str() == "int3.26").cloned();
    let net = netcfg::Netcfg::on(&node.host).expect("a fake");
    let spec = gone.fold(netcfg::NetSpec::default(), netcfg::NetSpec::with_link);
    net.apply(net.plan_removal(&spec).expect("plans")).expect("is removed");
    assert_ne!(text, cluster.text);
    cluster.machines[0].take_log();
    let before = cluster.machines[0].picture();
    let refused = failure(serve(&node, unit));
    assert!(refused.contains("10.1.26.10/24 on int3.26"), "{refused}");
    assert!(refused.contains("no interface of this name"), "{refused}");
    unchanged(&before, &cluster.machines[0], "");
}

#[test]
fn a_target_that_cannot_be_loaded_is_named_before_anything_is_promoted() {
    let cluster = Cluster::ready();
    cluster.machines[0].lio.edit(|nodes| {
        for path in
            ["/sys/kernel/config/target", "/sys/module/target_core_mod", "/sys/module/iscsi_target_mod"]
        {
            nodes.take(path);
        }
    });
    let node = cluster.node(0);
    let before = cluster.machines[0].picture();
    let refused = failure(serve(&node, &node.config.units[0]));
    assert!(refused.contains("the kernel module target_core_mod is not loaded"), "{refused}");
    assert!(refused.contains("modprobe target_core_mod"), "{refused}");
    unchanged(&before, &cluster.machines[0], "");
}

#[test]
fn an_unloaded_drbd_is_named() {
    let cluster = Cluster::new();
    let machine = &cluster.machines[0];
    machine.drbd.unload();
    let host = machine.host().with_exec(host::exec::Runner::none());
    let config = Config::parse("node.toml".as_ref(), &cluster.text, "n1").expect("is in order");
    let node = Node::with_luks(&host, config, machine.crypt.luks(&host));
    let before = machine.net.picture();
    let refused = failure(node.apply(NewMetadata::Refuse));
    assert!(refused.contains("modprobe"), "{refused}");
    assert_eq!(machine.net.picture(), before);
}

#[test]
fn without_rights_nothing_is_changed_and_the_reason_is_said() {
    let cluster = Cluster::new();
    let machine = &cluster.machines[0];
    machine.powerless.store(true, Ordering::SeqCst);
    let before = machine.picture();
    let refused = failure(machine.node(&cluster.text).apply(NewMetadata::Refuse));
    assert!(refused.contains("/proc/sys/net/ipv4/tcp_fin_timeout: Permission denied"), "{refused}");
    unchanged(&before, machine, "");
    let begin = cluster.text.find("[sysctl]").expect("there are some");
    let end = cluster.text.find("[irq]").expect("there is one");
    let without_sysctls = format!("{}{}", &cluster.text[..begin], &cluster.text[end..]);
    let refused = failure(machine.node(&without_sysctls).apply(NewMetadata::Refuse));
    assert!(refused.contains("it needs CAP_NET_ADMIN"), "{refused}");
    unchanged(&before, machine, "");
    assert_eq!(machine.take_log(), Vec::<String>::new());
    // Set up by root, looked at and served by somebody else.
    let cluster = Cluster::ready();
    let machine = &cluster.machines[0];
    machine.powerless.store(true, Ordering::SeqCst);
    let before = machine.picture();
    let node = cluster.node(0);
    assert!(node.status().is_ok());
    let refused = failure(serve(&node, &node.config.units[0]));
    assert!(refused.contains("Operation not permitted"), "{refused}");
    unchanged(&before, machine, "");
    assert_eq!(machine.take_log(), Vec::<String>::new());
}

#[test]
fn a_port_that_somebody_else_has_leaves_nothing_exported() {
    let cluster = Cluster::ready();
    let node = cluster.node(0);
    let table = "  sl  local_address rem_address   st\n   0: 00000000:0CBC 00000000:0000 0A\n";
    cluster.machines[0].lio.edit(|nodes| nodes.put("/proc/net/tcp", table));
    let before = cluster.machines[0].picture();
    let refused = failure(serve(&node, &node.config.units[0]));
    assert!(refused.contains("10.1.24.10:3260"), "{refused}");
    unchanged(&before, &cluster.machines[0], "");
}

#[test]
fn destroy_leads_back_to_a_fresh_machine() {
    let fresh = Cluster::new().machines[0].net.picture();
    let cluster = Cluster::ready();
    let node = cluster.node(0);
    serve(&node, &node.config.units[0]).expect("serves");
    node.destroy(&mut |_, _| {}).expect("is taken down");
    let drbd = Drbd::on(&node.host).expect("a fake");
    assert!(drbd.list().expect("a fake").is_empty());
    assert!(cluster.machines[0].crypt.luks(&node.host).list().expect("a fake").is_empty());
    // Cards keep their MTU and state: they were there before.
    let links = |picture: &[String]| {
        picture
            .iter()
            .filter_map(|l| l.split(' ').next())
            .filter(|n| *n != "route")
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(links(&cluster.machines[0].net.picture()), links(&fresh));
    node.destroy(&mut |_, _| {}).expect("is down already");
}

#[test]
fn both_units_wait_until_they_are_in_sync() {
    let cluster = Cluster::new();
    for machine in &cluster.machines {
        machine.node(&cluster.text).apply(NewMetadata::Refuse).expect("applies");
    }
    let node = cluster.node(0);
    let unit = &node.config.units[0];
    serve_with(&node, unit, Peer::Unknown, FirstSync::FromHere).expect("serves");
    cluster.machines[0].drbd.set_sync_steps(4);
    let mut seen = 0;
    let deadline = Deadline::after(Duration::from_secs(20));
    node.wait_synced(unit, deadline, |_| seen += 1).expect("gets there");
    assert!(seen > 0);
}
