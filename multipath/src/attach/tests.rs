//! Attach and detach on a machine in memory: a target with disks behind portals, an iscsiadm, a multipathd. Every change can fail.

#![allow(clippy::expect_used, clippy::panic)] // It is a test.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host::exec::{Error as ExecError, Output, Program, Programs, Runner};
use host::fake::{Errno, Memory, Nodes, Rules, plain_write};
use host::nl::fake::{Answer, FakeKernel, Responder};
use host::nl::{Protocol, Reply};
use host::tree::Fault;
use host::{Deadline, Host, Iqn};

use crate::daemon::{Client, Daemon};
use crate::error::Error;
use crate::spec::{AttachSpec, DetachSpec, Persistence, Required};
use crate::{Initiator, Multipath, Orphan};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const TARGET: &str = "iqn.2026-01.a:one";
const DISKS: [&str; 2] = ["6001405aaaaaaaaaaaaaaaaaaaaaaaaa", "6001405bbbbbbbbbbbbbbbbbbbbbbbbb"];

/// What the target shows, and what is to go wrong.
#[derive(Debug, Default)]
struct World {
    /// Of a portal: its disks by number.
    luns: BTreeMap<String, Vec<String>>,
    /// Portals that refuse, with iscsiadm's code.
    refuse: BTreeMap<String, i32>,
    /// Sessions by number: portal.
    sessions: BTreeMap<u32, String>,
    is_busy: bool,
    next: u32,
}

#[derive(Debug, Clone)]
struct Machine {
    memory: Memory,
    world: Arc<Mutex<World>>,
}

#[derive(Debug)]
struct Sysfs(Arc<Mutex<World>>);

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

fn session_dir(id: u32) -> String {
    format!("/sys/devices/platform/host{id}/session{id}/iscsi_session/session{id}")
}

fn unit(id: u32, lun: usize) -> String {
    format!("{}/device/target{id}:0:0/{id}:0:0:{lun}", session_dir(id))
}

fn add_disk(nodes: &mut Nodes, world: &mut World, id: u32, lun: usize) {
    let portal = world.sessions.get(&id).cloned().unwrap_or_default();
    let Some(wwid) = world.luns.get(&portal).and_then(|luns| luns.get(lun)).cloned() else { return };
    let dir = unit(id, lun);
    if wwid.is_empty() || nodes.get(&dir).is_some() {
        return;
    }
    world.next += 1;
    let name = format!("sd{}", char::from(b'a' + u8::try_from(world.next).unwrap_or(0)));
    nodes.put(&format!("{dir}/wwid"), format!("naa.{wwid}\n"));
    nodes.put(&format!("{dir}/state"), "running\n");
    nodes.put(&format!("{dir}/block/{name}/size"), "131072\n");
    nodes.put(&format!("/sys/block/{name}/size"), "131072\n");
    nodes.put(&format!("/sys/block/{name}/dev"), format!("8:{}\n", world.next * 16));
    nodes.put(&format!("/sys/block/{name}/device/state"), "running\n");
    nodes.put(&format!("/sys/block/{name}/device/delete"), "");
    nodes.put(&format!("/sys/block/{name}/device/rescan"), "");
    nodes.put(&format!("/sys/block/{name}/unit"), dir);
}

fn remove_disk(nodes: &mut Nodes, name: &str) {
    if let Some(dir) = nodes.text(&format!("/sys/block/{name}/unit")) {
        take_all(nodes, &dir);
    }
    take_all(nodes, &format!("/sys/block/{name}"));
    let paths: Vec<_> = nodes.iter().map(|(path, _)| path.to_owned()).collect();
    for path in paths.iter().filter(|path| path.ends_with(&format!("/slaves/{name}"))) {
        nodes.take(path);
    }
}

fn take_all(nodes: &mut Nodes, dir: &str) {
    let below = format!("{dir}/");
    let paths: Vec<_> =
        nodes.iter().map(|(path, _)| path.to_owned()).filter(|p| p == dir || p.starts_with(&below)).collect();
    paths.iter().rev().for_each(|path| nodes.take(path));
}

impl Rules for Sysfs {
    fn write(&mut self, nodes: &mut Nodes, path: &str, data: &[u8]) -> Result<(), Errno> {
        let words: Vec<&str> = std::str::from_utf8(data).unwrap_or_default().split(' ').collect();
        let mut parts = path.split('/').rev();
        match (parts.next(), parts.next(), parts.next()) {
            (Some("scan"), Some(host), _) => {
                let id = host.trim_start_matches("host").parse().unwrap_or(0);
                let lun = words.get(2).and_then(|lun| lun.parse().ok()).unwrap_or(0);
                add_disk(nodes, &mut lock(&self.0), id, lun);
                Ok(())
            }
            (Some("delete"), Some("device"), Some(name)) => {
                remove_disk(nodes, name);
                Ok(())
            }
            (Some("rescan"), ..) => Ok(()),
            _ => plain_write(nodes, path, data),
        }
    }
}

impl Machine {
    fn new() -> Self {
        let world = Arc::new(Mutex::new(World::default()));
        let memory = Memory::new().with_rules("/sys", Sysfs(Arc::clone(&world)));
        memory.edit(|nodes| {
            nodes.put("/etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.2026-01.lab:hv\n");
            nodes.put("/etc/iscsi/iscsid.conf", "node.session.queue_depth = 32\n");
            for dir in [
                "/etc/iscsi/nodes",
                "/sys/module/iscsi_tcp",
                "/sys/module/dm_multipath",
                "/sys/block",
                "/dev/mapper",
            ] {
                nodes.put_dir(dir);
            }
            nodes.put("/etc/multipath/wwids", "# Multipath wwids\n");
        });
        let machine = Self { memory, world };
        for portal in portals() {
            lock(&machine.world).luns.insert(portal.to_string(), DISKS.map(str::to_owned).to_vec());
        }
        machine
    }

    fn initiator(&self, fault: Option<Fault>) -> Initiator {
        let tree = self.memory.tree();
        let tree = fault.map_or_else(|| tree.clone(), |fault| tree.with_fault(fault));
        // A machine of its own: the locks of another test's are not this one's.
        let run = std::env::temp_dir().join(format!(
            "sankit-attach-{}-{:p}",
            std::process::id(),
            Arc::as_ptr(&self.world)
        ));
        let host = Host::fake()
            .with_tree(tree)
            .with_nl(FakeKernel::new(Quiet).transport())
            .with_exec(Runner::of(self.clone()))
            .with_run_dir(run.join("sankit"));
        let multipath =
            Multipath { client: Client::of(self.clone()), ..Multipath::on(&host).expect("a host") };
        Initiator {
            multipath,
            reads: |_| Ok(()),
            flushes: |_| Ok(()),
            ..Initiator::on(&host).expect("a host")
        }
    }

    /// What an attach may leave: sessions, records, disks, maps, the list of disks. A configuration for multipathd may stay.
    fn traces(&self) -> Vec<String> {
        self.memory.edit(|nodes| {
            let mut left: Vec<String> = nodes
                .iter()
                .map(|(path, _)| path.to_owned())
                .filter(|path| {
                    [
                        "/sys/class/iscsi_session/",
                        "/etc/iscsi/nodes/",
                        "/sys/block/",
                        "/etc/iscsi/ifaces/",
                        "/dev/mapper/",
                    ]
                    .iter()
                    .any(|begin| path.starts_with(begin))
                })
                .collect();
            left.extend(nodes.text("/etc/multipath/wwids"));
            left
        })
    }

    fn login(&self, portal: &str) -> i32 {
        let has_record = self.memory.edit(|nodes| {
            let place = portal.replacen(':', ",", 1);
            nodes.iter().any(|(path, _)| path.starts_with(&format!("/etc/iscsi/nodes/{TARGET}/{place}")))
        });
        let mut world = lock(&self.world);
        if !has_record {
            return 21;
        }
        if let Some(code) = world.refuse.get(portal) {
            return *code;
        }
        if world.sessions.values().any(|p| p == portal) {
            return 15;
        }
        world.next += 1;
        let id = world.next;
        world.sessions.insert(id, portal.to_owned());
        drop(world);
        self.memory.edit(|nodes| {
            let dir = session_dir(id);
            nodes.put_link(&format!("/sys/class/iscsi_session/session{id}"), &dir);
            for (file, value) in
                [("targetname", TARGET), ("state", "LOGGED_IN"), ("target_id", "0"), ("recovery_tmo", "5")]
            {
                nodes.put(&format!("{dir}/{file}"), value);
            }
            nodes.put_dir(&format!("{dir}/device"));
            let (address, port) = portal.rsplit_once(':').unwrap_or((portal, "3260"));
            let connection = format!("/sys/class/iscsi_connection/connection{id}:0");
            nodes.put(&format!("{connection}/persistent_address"), address);
            nodes.put(&format!("{connection}/persistent_port"), port);
            nodes.put(&format!("/sys/class/scsi_host/host{id}/scan"), "");
        });
        0
    }

    fn logout(&self, id: u32) -> i32 {
        if lock(&self.world).sessions.remove(&id).is_none() {
            return 21;
        }
        self.memory.edit(|nodes| {
            let disks: Vec<_> = nodes
                .iter()
                .filter(|(path, _)| path.starts_with(&session_dir(id)) && path.contains("/block/sd"))
                .filter_map(|(path, _)| path.split("/block/").nth(1)?.split('/').next().map(str::to_owned))
                .collect();
            disks.iter().for_each(|disk| remove_disk(nodes, disk));
            take_all(nodes, &format!("/sys/devices/platform/host{id}"));
            nodes.take(&format!("/sys/class/iscsi_session/session{id}"));
            take_all(nodes, &format!("/sys/class/iscsi_connection/connection{id}:0"));
            take_all(nodes, &format!("/sys/class/scsi_host/host{id}"));
        });
        0
    }

    fn maps_json(nodes: &Nodes) -> String {
        let maps: Vec<_> = nodes
            .children("/sys/block")
            .into_iter()
            .filter(|(name, _)| name.starts_with("dm-"))
            .map(|(node, _)| {
                let text = |file: &str| nodes.text(&format!("/sys/block/{node}/{file}")).unwrap_or_default();
                let paths: Vec<_> = nodes
                    .children(&format!("/sys/block/{node}/slaves"))
                    .into_iter()
                    .map(|(dev, _)| {
                        serde_json::json!({ "dev": dev, "dm_st": "active", "chk_st": "ready", "checker": "directio" })
                    })
                    .collect();
                serde_json::json!({
                    "name": text("dm/name"), "uuid": text("dm/uuid").trim_start_matches("mpath-"), "sysfs": node,
                    "queueing": "120 chk", "dm_st": "active", "path_groups": [{ "pri": 50, "paths": paths }],
                })
            })
            .collect();
        serde_json::json!({ "major_version": 0, "maps": maps }).to_string()
    }

    fn add_path(nodes: &mut Nodes, disk: &str) {
        let unit = nodes.text(&format!("/sys/block/{disk}/unit")).unwrap_or_default();
        let wwid = nodes.text(&format!("{unit}/wwid")).unwrap_or_default().trim().replace("naa.", "3");
        if !nodes.text("/etc/multipath/wwids").unwrap_or_default().contains(&format!("/{wwid}/")) {
            return;
        }
        let node = format!("dm-{}", if wwid.contains('b') { 1 } else { 0 });
        nodes.put(&format!("/sys/block/{node}/dm/uuid"), format!("mpath-{wwid}\n"));
        nodes.put(&format!("/sys/block/{node}/dm/name"), format!("{wwid}\n"));
        nodes.put(&format!("/sys/block/{node}/dev"), "253:0\n");
        nodes.put(&format!("/sys/block/{node}/size"), "131072\n");
        nodes.put(&format!("/sys/block/{node}/slaves/{disk}"), "");
        nodes.put(&format!("/dev/mapper/{wwid}"), "");
    }
}

impl Daemon for Machine {
    fn ask(&self, command: &str, _: Deadline) -> io::Result<String> {
        let is_busy = lock(&self.world).is_busy;
        let answer = self.memory.edit(|nodes| match command.split(' ').collect::<Vec<_>>().as_slice() {
            ["show", "daemon"] => "pid 7 idle\n".to_owned(),
            ["show", "config", "local"] => {
                nodes.text("/etc/multipath/conf.d/sankit.conf").unwrap_or_default()
            }
            ["show", "maps", "json"] => Self::maps_json(nodes),
            ["add", "path", disk] => {
                Self::add_path(nodes, disk);
                "ok\n".to_owned()
            }
            ["del", "map", _] if is_busy => "fail\n".to_owned(),
            ["del", "map", name] => {
                let holds = |(node, _): &(String, _)| {
                    nodes.text(&format!("/sys/block/{node}/dm/name")).is_some_and(|text| text.trim() == *name)
                };
                let node = nodes.children("/sys/block").into_iter().find(holds);
                if let Some((node, _)) = node {
                    take_all(nodes, &format!("/sys/block/{node}"));
                    nodes.take(&format!("/dev/mapper/{name}"));
                }
                "ok\n".to_owned()
            }
            _ => "ok\n".to_owned(),
        });
        Ok(answer)
    }
}

impl Programs for Machine {
    fn run(&self, program: Program, args: &[String], _: &[u8], _: Deadline) -> Result<Output, ExecError> {
        assert_eq!(program.name, "iscsiadm");
        let code = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["-m", "node", "-T", TARGET, "-p", portal, "--login"] => self.login(portal),
            ["-m", "session", "-r", id, "-u"] => self.logout(id.parse().unwrap_or(0)),
            other => panic!("iscsiadm {other:?}"),
        };
        Ok(Output::new(code, "", if code == 0 { "" } else { "refused" }))
    }
}

/// A kernel without events.
#[derive(Debug)]
struct Quiet;

impl Responder for Quiet {
    fn answer(&mut self, _: Protocol, _: &Reply) -> Answer {
        Answer::default()
    }
}

fn target() -> Iqn {
    Iqn::from_kernel(TARGET)
}

fn portals() -> [SocketAddr; 2] {
    ["10.0.0.1:3260", "10.0.1.1:3260"].map(|portal| portal.parse().expect("an address"))
}

fn spec() -> AttachSpec {
    AttachSpec::new(target(), portals())
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

#[test]
fn attached_twice_is_attached_once_and_nothing_is_left_after() -> Outcome {
    let machine = Machine::new();
    let clean = machine.traces();
    let initiator = machine.initiator(None);
    let disk = initiator.attach(&spec(), soon())?;
    assert_eq!((disk.paths.len(), disk.size, disk.missing.len()), (2, 64 << 20, 0));
    let before = machine.traces();
    assert_eq!(initiator.attach(&spec(), soon())?, disk);
    assert_eq!(machine.traces(), before);
    assert!(initiator.orphans()?.is_empty());
    assert!(initiator.detach(&target(), soon())? && !initiator.detach(&target(), soon())?);
    let left: Vec<_> = machine.traces().into_iter().filter(|line| !clean.contains(line)).collect();
    assert_eq!(left, [format!("# Multipath wwids\n/3{}/\n", DISKS[0])], "multipathd knows the disk still");
    Ok(())
}

#[test]
fn whatever_fails_is_taken_back() -> Outcome {
    for (what, persistence) in [("for this boot", Persistence::ThisBoot), ("for good", Persistence::Always)] {
        let mut is_done = false;
        for nth in 1..60 {
            let machine = Machine::new();
            let clean = machine.traces();
            let initiator = machine.initiator(Some(Fault::Fail { nth, errno: libc::EIO }));
            match initiator.attach(&spec().with_persistence(persistence), soon()) {
                Ok(disk) => {
                    assert_eq!(disk.paths.len(), 2);
                    is_done = true;
                    break;
                }
                Err(error) => {
                    assert!(!matches!(error, Error::NotUndone { .. }), "{what}, change {nth}: {error}");
                    assert_eq!(machine.traces(), clean, "{what}, change {nth}: {error}");
                }
            }
        }
        assert!(is_done, "more changes than were tried");
    }
    Ok(())
}

#[test]
fn an_attach_that_was_killed_is_finished_by_the_next() -> Outcome {
    for nth in 1..60 {
        let machine = Machine::new();
        let initiator = machine.initiator(Some(Fault::Stop { nth }));
        let was_done = initiator.attach(&spec(), soon()).is_ok();
        assert_eq!(machine.initiator(None).attach(&spec(), soon())?.paths.len(), 2, "after change {nth}");
        assert!(machine.initiator(None).detach(&target(), soon())?);
        assert!(machine.initiator(None).records().list()?.is_empty());
        if was_done {
            return Ok(());
        }
    }
    Err("more changes than were tried".into())
}

#[test]
fn a_detach_that_was_killed_is_finished_by_the_next() -> Outcome {
    for nth in 1..60 {
        let machine = Machine::new();
        machine.initiator(None).attach(&spec(), soon())?;
        let was_done = machine.initiator(Some(Fault::Stop { nth })).detach(&target(), soon()).is_ok();
        machine.initiator(None).detach(&target(), soon())?;
        let left = machine.traces();
        assert!(
            !left
                .iter()
                .any(|path| path.contains("/sd") || path.contains("session") || path.contains(TARGET)),
            "{left:?}"
        );
        if was_done {
            return Ok(());
        }
    }
    Err("more changes than were tried".into())
}

#[test]
fn a_portal_that_refuses_undoes_the_other() -> Outcome {
    let machine = Machine::new();
    let clean = machine.traces();
    lock(&machine.world).refuse.insert(portals()[1].to_string(), 24);
    let error = machine.initiator(None).attach(&spec(), soon()).expect_err("refused");
    assert!(matches!(&error, Error::Iscsiadm { portal, .. } if *portal == portals()[1]), "{error}");
    assert_eq!(machine.traces(), clean);
    Ok(())
}

#[test]
fn another_disk_on_one_path_is_refused() -> Outcome {
    let machine = Machine::new();
    let clean = machine.traces();
    lock(&machine.world).luns.insert(portals()[1].to_string(), vec![DISKS[1].to_owned()]);
    let error = machine.initiator(None).attach(&spec(), soon()).expect_err("two disks");
    assert!(matches!(error, Error::WrongDisk { .. }), "{error}");
    assert_eq!(machine.traces(), clean);
    let expected = spec().with_wwid("36001405cccccccccccccccccccccccc".parse()?);
    let error = machine.initiator(None).attach(&expected, soon()).expect_err("not the expected one");
    assert!(matches!(error, Error::WrongDisk { .. }), "{error}");
    assert_eq!(machine.traces(), clean);
    Ok(())
}

#[test]
fn a_disk_exchanged_under_its_map_is_refused() -> Outcome {
    let machine = Machine::new();
    let initiator = machine.initiator(None);
    let disk = initiator.attach(&spec(), soon())?;
    let before = machine.traces();
    machine.memory.edit(|nodes| {
        let units: Vec<_> =
            nodes.iter().map(|(p, _)| p.to_owned()).filter(|p| p.ends_with(":0/wwid")).collect();
        assert_eq!(units.len(), 2);
        units.iter().for_each(|unit| nodes.put(unit, format!("naa.{}\n", DISKS[1])));
    });
    let error = initiator.attach(&spec(), soon()).expect_err("exchanged");
    assert!(matches!(&error, Error::WrongDisk { expected, .. } if *expected == disk.wwid), "{error}");
    assert_eq!(machine.traces(), before, "the old map is not touched");
    Ok(())
}

#[test]
fn disks_of_one_target_come_and_go_alone() -> Outcome {
    let machine = Machine::new();
    let initiator = machine.initiator(None);
    let first = initiator.attach(&spec(), soon())?;
    let one = machine.traces();
    // A failed attach of another disk takes neither session nor disk of the first.
    let error = initiator.attach(&spec().with_lun(9), soon()).expect_err("no such LUN");
    assert!(matches!(&error, Error::NoLun { lun: 9, seen, .. } if seen == "LUN 0"), "{error}");
    assert_eq!(machine.traces(), one);
    let second = initiator.attach(&spec().with_lun(1), soon())?;
    assert_ne!(first.wwid, second.wwid);
    let gone = initiator.detach_by(&DetachSpec::new(target()).with_lun(0), soon())?;
    assert_eq!((gone.disks.len(), gone.sessions.len(), gone.kept.len(), gone.records), (2, 0, 2, 0));
    assert_eq!(initiator.attach(&spec().with_lun(1), soon())?, second);
    let gone = initiator.detach_by(&DetachSpec::new(target()).with_lun(1), soon())?;
    assert_eq!((gone.disks.len(), gone.sessions.len(), gone.records), (2, 2, 2));
    Ok(())
}

#[test]
fn a_map_in_use_is_not_touched() -> Outcome {
    let machine = Machine::new();
    let initiator = machine.initiator(None);
    initiator.attach(&spec(), soon())?;
    machine.memory.edit(|nodes| {
        nodes.put("/proc/self/mountinfo", "30 1 253:0 / /srv/a\\040b rw - ext4 /dev/mapper/x rw\n");
        nodes.put("/proc/swaps", "Filename Type Size\n/dev/dm-0 partition 1 0 -2\n");
        nodes.put_dir("/sys/block/dm-0/holders/dm-5");
        nodes.put("/sys/block/dm-5/dm/name", "vg-lv\n");
        nodes.put("/sys/block/dm-5/dm/uuid", "LVM-abc\n");
    });
    let before = machine.traces();
    let error = initiator.detach(&target(), soon()).expect_err("in use").to_string();
    for holder in ["the mount /srv/a b of", "swap on", "vg-lv (LVM)"] {
        assert!(error.contains(holder), "{holder}: {error}");
    }
    assert_eq!(machine.traces(), before);
    Ok(())
}

#[test]
fn a_dead_portal_is_left_out_where_that_is_enough() -> Outcome {
    let machine = Machine::new();
    let nobody = ["127.0.0.1:1".parse()?, "127.0.0.2:1".parse()?];
    let spec = AttachSpec::new(target(), nobody).with_required(Required::AtLeast(1));
    let error =
        machine.initiator(None).attach(&spec, Deadline::after(Duration::from_secs(2))).expect_err("none");
    assert!(matches!(error, Error::Portal { .. }), "{error}");
    Ok(())
}

#[test]
fn what_others_made_is_adopted_and_stays_theirs() -> Outcome {
    let machine = Machine::new();
    let record = format!("/etc/iscsi/nodes/{TARGET}/10.0.0.1,3260,1/default");
    machine.memory.edit(|nodes| nodes.put(&record, "# BEGIN RECORD 2.1.8\nnode.name = x\n# END RECORD\n"));
    assert_eq!(machine.login("10.0.0.1:3260"), 0);
    let initiator = machine.initiator(None);
    assert!(matches!(initiator.orphans()?.as_slice(), [Orphan::Session { .. }]));
    assert_eq!(initiator.attach(&spec(), soon())?.paths.len(), 2);
    assert!(initiator.orphans()?.is_empty());
    assert!(initiator.detach(&target(), soon())?);
    let left = initiator.records().list()?;
    assert!(left.len() == 1 && !left[0].is_ours, "{left:?}");
    Ok(())
}
