//! Volume groups that several hosts share, on programs in memory: a small LVM whose answers have the form of the recorded ones.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // It is a test.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use host::exec::{Error as ExecError, Output, Program, Programs, Runner};
use host::fake::Memory;
use multipath::fake::FakeMultipathd;
use multipath::shared::{
    Activation, Bytes, Check, Daemon, Error, Level, LockManager, LockMode, LvSpec, Overwrite, SharedVg,
    Watchdog,
};
use multipath::{Deadline, Host};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const REPORT: &str = include_str!("fixtures/shared/lvm-fullreport.json");
const INFO: &str = include_str!("fixtures/shared/lvmlockctl-info.txt");
const MAPS: &str = include_str!("fixtures/maps-0.9.4.json");
const VM1: &str = "sbEyIh-nWB7-fuYZ-tFN7-sJs5-UGrm-xq9y4S";

/// What the programs of a host know.
#[derive(Debug, Default)]
struct World {
    /// Command lines, without `--config`.
    ran: Vec<String>,
    /// How commands that begin so end: their code, what they print and complain. The longest beginning counts; others succeed in silence.
    answers: BTreeMap<String, Vec<(i32, String, String)>>,
    memory: Memory,
    daemons: u32,
}

#[derive(Debug, Clone)]
struct Scripted(Arc<Mutex<World>>);

impl Scripted {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no panic")
    }

    /// Sets how a command ends; the last one said stays.
    fn say(&self, command: &str, code: i32, stdout: &str, stderr: &str) {
        let mut world = self.lock();
        world.answers.insert(command.to_owned(), vec![(code, stdout.to_owned(), stderr.to_owned())]);
    }

    fn then(&self, command: &str, code: i32, stdout: &str, stderr: &str) {
        let mut world = self.lock();
        world.answers.entry(command.to_owned()).or_default().push((
            code,
            stdout.to_owned(),
            stderr.to_owned(),
        ));
    }

    /// The commands that change something, in order.
    fn changes(&self) -> Vec<String> {
        let reads = [
            "lvm fullreport",
            "lvm lvmconfig",
            "lvmlockctl --info",
            "sanlock client status",
            "sanlock client gets",
            "sanlock client host_status",
            "sanlock direct",
        ];
        let world = self.lock();
        world.ran.iter().filter(|line| !reads.iter().any(|read| line.starts_with(read))).cloned().collect()
    }

    /// A daemon appears or goes.
    fn daemon(&self, name: &str, runs: bool) {
        let mut world = self.lock();
        world.daemons += 1;
        let pid = format!("/proc/{}", 1000 + name.len());
        world.memory.edit(|nodes| {
            if runs {
                nodes.put(&format!("{pid}/comm"), format!("{name}\n"));
                nodes.put(&format!("{pid}/cmdline"), format!("/usr/sbin/{name}\0daemon\0"));
            } else {
                nodes.take(&format!("{pid}/comm"));
                nodes.take(&format!("{pid}/cmdline"));
                nodes.take(&pid);
            }
        });
    }
}

impl Programs for Scripted {
    fn run(&self, program: Program, args: &[String], _: &[u8], _: Deadline) -> Result<Output, ExecError> {
        let config = args.iter().position(|arg| arg == "--config").unwrap_or(args.len());
        let line = std::iter::once(program.name)
            .chain(args[..config].iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join(" ");
        let answer = {
            let mut world = self.lock();
            world.ran.push(line.clone());
            let found = world
                .answers
                .iter_mut()
                .filter(|(begin, _)| line.starts_with(begin.as_str()))
                .max_by_key(|(begin, _)| begin.len());
            found.map_or((0, String::new(), String::new()), |(_, said)| {
                if said.len() > 1 { said.remove(0) } else { said[0].clone() }
            })
        };
        if answer.0 == 0 {
            match line.split(' ').take(2).collect::<Vec<_>>().as_slice() {
                ["wdmd", ..] => {
                    self.daemon("wdmd", true);
                    self.lock().memory.edit(|nodes| nodes.put("/run/wdmd/wdmd.sock", ""));
                }
                ["sanlock", "daemon"] => self.daemon("sanlock", true),
                ["lvmlockd", ..] => self.daemon("lvmlockd", true),
                ["lvmlockctl", "--quit"] => self.daemon("lvmlockd", false),
                _ if line.starts_with("sanlock client shutdown") => self.daemon("sanlock", false),
                _ => {}
            }
        }
        Ok(Output::new(answer.0, answer.1, answer.2))
    }
}

const JOINED: &str =
    "daemon d3b1.hv1\n    use_watchdog=1\ns lvm_vms:1:/dev/mapper/vms-lvmlock:0\n    io_timeout=10\n";
const ALONE: &str = "daemon d3b1.hv1\n    use_watchdog=1\n";
const NO_GROUP: (i32, &str, &str) =
    (5, "{\"report\": []}", "Volume group \"vms\" not found Cannot process volume group vms");

/// A host on which the group is started, or is there and not started, or is not there.
fn host(started: Option<bool>) -> (Host, Scripted) {
    let memory = Memory::new();
    memory.edit(|nodes| {
        nodes.put_dir("/proc");
        nodes.put_dir("/run");
        nodes.put("/dev/watchdog", "");
        for program in ["lvm", "lvmlockctl", "lvmlockd", "sanlock", "wdmd"] {
            nodes.put(&format!("/usr/sbin/{program}"), "");
        }
    });
    let programs = Scripted(Arc::new(Mutex::new(World { memory: memory.clone(), ..World::default() })));
    programs.say("lvm lvmconfig", 0, "use_lvmlockd=1\nhost_id=1\nmultipath_component_detection=1\n", "");
    match started {
        Some(started) => {
            programs.say("lvm fullreport", 0, REPORT, "");
            programs.say("lvmlockctl --info", 0, if started { INFO } else { "" }, "");
            programs.say("sanlock client status", 0, if started { JOINED } else { ALONE }, "");
            if started {
                ["wdmd", "sanlock", "lvmlockd"].iter().for_each(|daemon| programs.daemon(daemon, true));
            }
        }
        None => {
            programs.say("lvm fullreport", NO_GROUP.0, NO_GROUP.1, NO_GROUP.2);
            programs.say("sanlock client status", 0, ALONE, "");
        }
    }
    let host = Host::fake().with_tree(memory.tree()).with_exec(Runner::of(programs.clone()));
    (host, programs)
}

fn group(host: &Host) -> SharedVg {
    SharedVg::on(
        host,
        "vms".parse().expect("a name"),
        LockManager::new().with_host_id("1".parse().expect("a number")),
    )
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

#[test]
fn a_group_is_read_with_its_volumes_and_their_locks() -> Outcome {
    let (host, _) = host(Some(true));
    let vg = group(&host).get(soon())?.expect("a group");
    assert_eq!(
        (vg.name.as_str(), vg.size, vg.extent, vg.started),
        ("vms", Bytes(1_069_547_520), Bytes(4 << 20), true)
    );
    let names: Vec<_> = vg.lvs.iter().map(|lv| lv.name.as_str()).collect();
    assert_eq!(names, ["vm1", "vm2"]);
    let vm1 = &vg.lvs[0];
    assert_eq!((vm1.active, vm1.open, &vm1.lock), (true, false, &Some(LockMode::Exclusive)));
    assert_eq!((vm1.activation(), vm1.lock_offset()), (Some(Activation::Exclusive), Some(70_254_592)));
    assert_eq!(vm1.path.to_str(), Some("/dev/mapper/vms-vm1"));
    assert!(vm1.devices.ends_with("(64)"));
    assert_eq!((vg.lvs[1].active, &vg.lvs[1].lock), (false, &None));
    assert_eq!(vg.lvmlock.map(|lock| lock.size), Some(Bytes(256 << 20)));
    Ok(())
}

#[test]
fn what_is_not_there_is_an_answer_to_a_question_and_an_error_to_an_order() -> Outcome {
    let (host, programs) = host(None);
    let vg = group(&host);
    assert!(vg.get(soon())?.is_none());
    assert!(!vg.remove(soon())?);
    assert!(matches!(vg.join(soon()), Err(Error::NotFound { object }) if object == "group vms"));
    assert!(matches!(vg.leave(soon()), Err(Error::NotFound { .. })));
    assert!(programs.changes().is_empty());
    Ok(())
}

#[test]
fn the_daemons_start_in_order_once() -> Outcome {
    let (host, programs) = host(None);
    let vg = group(&host);
    assert_eq!(vg.start(soon())?, [Daemon::Wdmd, Daemon::Sanlock, Daemon::Lvmlockd]);
    let wanted =
        ["wdmd", "sanlock daemon -w 1", "lvmlockd --gl-type sanlock --sanlock-timeout 10 --host-id 1"];
    assert_eq!(programs.changes(), wanted);
    assert!(vg.start(soon())?.is_empty());
    assert_eq!(programs.changes().len(), 3);
    Ok(())
}

#[test]
fn without_a_watchdog_sanlock_is_told_so() -> Outcome {
    let (host, programs) = host(None);
    let manager =
        LockManager::new().with_watchdog(Watchdog::None).with_io_timeout(Duration::from_secs(21))?;
    let vg = SharedVg::on(&host, "vms".parse()?, manager);
    assert_eq!(vg.start(soon())?, [Daemon::Sanlock, Daemon::Lvmlockd]);
    assert_eq!(
        programs.changes(),
        ["sanlock daemon -w 0", "lvmlockd --gl-type sanlock --sanlock-timeout 21"]
    );
    Ok(())
}

#[test]
fn a_daemon_that_does_not_come_up_takes_those_before_it_down() {
    let (host, programs) = host(None);
    programs.say("lvmlockd", 1, "", "no memory");
    let error = group(&host).start(soon()).expect_err("lvmlockd fails");
    assert!(matches!(&error, Error::Exec(_)), "{error}");
    assert_eq!(programs.changes().last().map(String::as_str), Some("sanlock client shutdown -f 0 -w 1"));
}

#[test]
fn joining_starts_the_daemons_and_the_lockspace_and_a_second_time_nothing() -> Outcome {
    let (host, programs) = host(Some(false));
    // Not joined while sanlock acquires the lease.
    programs.say("sanlock client status", 0, ALONE, "");
    programs.then("sanlock client status", 0, ALONE, "");
    programs.then("sanlock client status", 0, &JOINED.replace(":0\n", ":0 ADD\n"), "");
    programs.then("sanlock client status", 0, JOINED, "");
    let vg = group(&host);
    assert!(vg.join(soon())?);
    let changes = programs.changes();
    assert_eq!(changes.last().map(String::as_str), Some("lvm vgchange --lockstart vms"), "{changes:?}");
    assert_eq!(changes.len(), 4);
    programs.say("lvmlockctl --info", 0, INFO, "");
    assert!(!vg.join(soon())?);
    assert_eq!(programs.changes().len(), 4);
    Ok(())
}

#[test]
fn a_join_that_fails_is_undone() {
    let (host, programs) = host(Some(false));
    programs.say(
        "lvm vgchange --lockstart",
        5,
        "",
        "VG vms start failed: invalid sanlock host_id, set in lvmlocal.conf",
    );
    let error = group(&host).join(soon()).expect_err("refused");
    assert!(error.to_string().contains("invalid sanlock host_id"), "{error}");
    let changes = programs.changes();
    assert_eq!(
        changes[4..],
        ["lvm vgchange --lockstop vms", "lvmlockctl --quit", "sanlock client shutdown -f 0 -w 1"]
    );
}

/// The lease on number 1, renewed at such a time.
fn lease(name: &str, timestamp: u64) -> String {
    format!("00000000 lvm_vms {name} {timestamp:010} 0001 0001\n")
}

#[test]
fn a_number_that_another_host_renews_is_refused_before_anything_is_started() {
    let (host, programs) = host(Some(false));
    let dump = "sanlock direct dump /dev/mapper/";
    programs.say(dump, 0, &lease("77aa.hv2", 50), "");
    programs.then(dump, 0, &lease("77aa.hv2", 50), "");
    programs.then(dump, 0, &lease("77aa.hv2", 70), "");
    let error = group(&host).join(soon()).expect_err("taken");
    assert!(matches!(&error, Error::HostIdTaken { owner, .. } if owner == "hv2"), "{error}");
    assert!(programs.changes().is_empty());
}

#[test]
fn a_number_that_nobody_renews_or_that_was_given_back_is_taken() -> Outcome {
    for left in [lease("old.hv1", 0), lease("d3b1.hv1", 50), String::new()] {
        let (host, programs) = host(Some(false));
        programs.say("sanlock direct dump", 0, &left, "");
        programs.say("sanlock client status", 0, ALONE, "");
        // Asked whether it is joined, whose lease that is, whether it answers, and after the start.
        (0..2).for_each(|_| programs.then("sanlock client status", 0, ALONE, ""));
        programs.then("sanlock client status", 0, JOINED, "");
        assert!(group(&host).join(soon())?, "{left}");
    }
    Ok(())
}

#[test]
fn a_disk_that_holds_something_is_refused_and_left_alone() {
    let (host, programs) = host(None);
    let error = group(&host).create("/tmp/disk".as_ref(), Overwrite::Never, soon()).expect_err("no device");
    assert!(matches!(error, Error::Invalid { .. }));
    let error =
        group(&host).create("/dev/zero/none".as_ref(), Overwrite::Never, soon()).expect_err("no device");
    assert!(matches!(error, Error::Device { .. }), "{error}");
    assert!(programs.changes().is_empty());
}

#[test]
fn a_group_that_could_not_be_made_is_removed_again() {
    let (host, programs) = host(None);
    programs.say(
        "lvm vgcreate",
        5,
        "",
        "VG vms init failed: -19 Failed to initialize lock args for lock type sanlock",
    );
    let error =
        group(&host).create("/dev/mapper/mpatha".as_ref(), Overwrite::Always, soon()).expect_err("refused");
    assert!(matches!(&error, Error::NoAccess { .. }), "{error}");
    let changes = programs.changes();
    assert_eq!(changes[3], "lvm vgcreate --shared --locktype sanlock --yes --zero y vms /dev/mapper/mpatha");
    assert_eq!(
        changes[4..],
        ["lvm pvremove --yes /dev/mapper/mpatha", "lvmlockctl --quit", "sanlock client shutdown -f 0 -w 1"]
    );
}

#[test]
fn a_group_that_is_there_is_not_made() {
    let (host, programs) = host(Some(true));
    let error =
        group(&host).create("/dev/mapper/mpatha".as_ref(), Overwrite::Always, soon()).expect_err("there");
    assert!(matches!(error, Error::AlreadyExists { .. }));
    assert!(programs.changes().is_empty());
}

#[test]
fn what_is_active_as_wanted_is_left_and_what_is_not_is_converted() -> Outcome {
    let (host, programs) = host(Some(true));
    let (vg, vm1) = (group(&host), "vm1".parse()?);
    assert!(!vg.activate(&vm1, Activation::Exclusive, soon())?);
    assert!(programs.changes().is_empty());
    programs.then("lvmlockctl --info", 0, &INFO.replace("LK LV ex", "LK LV sh"), "");
    assert!(vg.activate(&vm1, Activation::Shared, soon())?);
    assert_eq!(programs.changes(), ["lvm lvchange --activate sy vms/vm1"]);
    Ok(())
}

#[test]
fn a_lock_that_lvm_did_not_convert_is_told() -> Outcome {
    let (host, _) = host(Some(true));
    let error = group(&host).activate(&"vm1".parse()?, Activation::Shared, soon()).expect_err("as before");
    assert_eq!(error.to_string(), "volume vms/vm1 should be active shared and is exclusive");
    Ok(())
}

#[test]
fn a_volume_of_another_host_is_refused_with_who_has_it() -> Outcome {
    let (host, programs) = host(Some(true));
    programs.say(
        "lvm lvchange",
        5,
        "",
        "LV locked by other host: vms/vm2 Failed to lock logical volume vms/vm2.",
    );
    let vm2 = "Kij31w-OJ94-TnR4-Ac2Q-eI7e-6Edj-xjRLnK";
    let held = format!("71303168 lvm_vms {vm2} 0000000000 0002 0001 4\n 0002 0001 SH\n 0003 0001 SH\n");
    programs.say("sanlock direct dump /dev/mapper/vms-lvmlock:71303168:1048576", 0, &held, "");
    let hosts = "00000512 lvm_vms 77aa.hv2.example.com 0000000099 0002 0001\n";
    programs.say("sanlock direct dump /dev/mapper/vms-lvmlock:0:1048576", 0, hosts, "");
    let vg = group(&host);
    let error = vg.activate(&"vm2".parse()?, Activation::Exclusive, soon()).expect_err("held");
    assert!(error.is_busy() && error.is_retryable());
    let wanted = "vms/vm2 is in use by host 2 (hv2.example.com, shared) and host 3 (shared); deactivate it there, or let that host become free of it";
    assert_eq!(error.to_string(), wanted);
    // Waiting ends with the same words at the deadline.
    let error = vg.activate_when_free(
        &"vm2".parse()?,
        Activation::Exclusive,
        Deadline::after(Duration::from_millis(50)),
    );
    assert_eq!(error.expect_err("held").to_string(), wanted);
    Ok(())
}

#[test]
fn a_volume_in_use_here_is_refused_before_lvm_is_asked() -> Outcome {
    let (host, programs) = host(Some(true));
    let open = REPORT.replacen("\"lv_device_open\":\"\"", "\"lv_device_open\":\"open\"", 1);
    programs.say("lvm fullreport", 0, &open, "");
    programs.lock().memory.edit(|nodes| {
        nodes.put_link("/dev/mapper/vms-vm1", "../dm-7");
        nodes.put_dir("/sys/block/dm-7/holders/dm-9");
        nodes.put("/sys/block/dm-7/dev", "253:7\n");
        nodes.put("/proc/self/mountinfo", "30 1 253:7 / /srv/vm1 rw - ext4 /dev/mapper/vms-vm1 rw\n");
    });
    let vg = group(&host);
    let wanted = "vms/vm1 is in use on this host by device dm-9, the mount /srv/vm1; stop that first";
    assert_eq!(vg.deactivate(&"vm1".parse()?, soon()).expect_err("open").to_string(), wanted);
    assert_eq!(vg.remove_lv(&"vm1".parse()?, soon()).expect_err("open").to_string(), wanted);
    assert_eq!(vg.leave(soon()).expect_err("open").to_string(), wanted);
    assert!(programs.changes().is_empty());
    Ok(())
}

#[test]
fn leaving_and_stopping_go_in_order() -> Outcome {
    let (host, programs) = host(Some(true));
    programs.then("lvmlockctl --info", 0, "", "");
    programs.say("sanlock client status", 0, ALONE, "");
    assert_eq!(group(&host).stop(soon())?, [Daemon::Lvmlockd, Daemon::Sanlock]);
    let wanted = [
        "lvm lvchange --activate n vms/vm1",
        "lvm vgchange --lockstop vms",
        "lvmlockctl --quit",
        "sanlock client shutdown -f 0 -w 1",
    ];
    assert_eq!(programs.changes(), wanted);
    Ok(())
}

#[test]
fn the_daemons_stay_for_another_group() -> Outcome {
    let (host, programs) = host(Some(false));
    programs.say("lvmlockctl --info", 0, &INFO.replace("VG vms", "VG other"), "");
    assert!(group(&host).stop(soon())?.is_empty());
    assert!(programs.changes().is_empty());
    Ok(())
}

#[test]
fn a_group_with_volumes_is_not_removed() {
    let (host, programs) = host(Some(true));
    let error = group(&host).remove(soon()).expect_err("volumes");
    assert!(error.is_busy() && error.to_string().contains("vm1, vm2"), "{error}");
    assert!(programs.changes().is_empty());
}

#[test]
fn volumes_are_made_grown_and_removed_once() -> Outcome {
    let (host, programs) = host(Some(true));
    let vg = group(&host);
    let vm1 = "vm1".parse()?;
    let error = vg.create_lv(&LvSpec::new("vm1".parse()?, Bytes(1 << 20)), soon()).expect_err("there");
    assert!(matches!(error, Error::AlreadyExists { .. }));
    assert!(!vg.grow_lv(&vm1, Bytes(104_857_600), soon())?);
    assert!(!vg.grow_locks(Bytes(1 << 20), soon())?);
    assert!(!vg.remove_lv(&"vm3".parse()?, soon())?);
    assert!(programs.changes().is_empty());
    assert!(vg.grow_lv(&vm1, Bytes(104_857_601), soon())?);
    assert!(vg.grow_locks(Bytes(300 << 20), soon())?);
    assert!(vg.remove_lv(&vm1, soon())?);
    let wanted = [
        "lvm lvextend --size 104857601b vms/vm1",
        "lvm lvextend --size 314572800b vms/lvmlock",
        "lvm lvremove --yes vms/vm1",
    ];
    assert_eq!(programs.changes(), wanted);
    Ok(())
}

#[test]
fn a_group_that_is_not_started_says_so() -> Outcome {
    let (host, programs) = host(Some(false));
    let error =
        group(&host).activate(&"vm1".parse()?, Activation::Exclusive, soon()).expect_err("not started");
    assert!(error.to_string().contains("join it first"), "{error}");
    assert!(programs.changes().is_empty());
    Ok(())
}

#[test]
fn the_preflight_asks_everything_and_changes_nothing() -> Outcome {
    let (host, programs) = host(Some(true));
    let daemon = FakeMultipathd::new().with_answer("show maps json", MAPS);
    let vg = group(&host);
    let findings = vg.preflight(&daemon.multipath(), None, soon())?;
    let refused: Vec<_> = findings.iter().filter(|f| f.level == Level::Refused).map(|f| f.check).collect();
    // The group's disk is none of the maps of this multipathd.
    assert_eq!(refused, [Check::Device]);
    let error = vg.require_fit(&daemon.multipath(), None, soon()).expect_err("not fit");
    assert!(error.to_string().contains("no multipath map"), "{error}");
    assert!(programs.changes().is_empty());
    let renamed = MAPS.replace("mpatha", "360014053bcb5ef9a580490caa0c27e1a");
    let daemon = FakeMultipathd::new().with_answer("show maps json", &renamed);
    let findings = vg.preflight(&daemon.multipath(), None, soon())?;
    assert!(findings.iter().any(|f| f.check == Check::Device && f.level == Level::Fit), "{findings:?}");
    assert!(findings.iter().any(|f| f.check == Check::Queueing), "{findings:?}");
    Ok(())
}

#[test]
fn who_holds_a_volume_is_read_from_the_disk() -> Outcome {
    let (host, programs) = host(Some(true));
    let held = format!("70254592 lvm_vms {VM1} 0000000123 0001 0001 4\n");
    programs.say("sanlock direct dump /dev/mapper/vms-lvmlock:70254592:1048576", 0, &held, "");
    programs.say("sanlock direct dump /dev/mapper/vms-lvmlock:0:1048576", 0, &lease("d3b1.hv1", 120), "");
    let holders = group(&host).holders(&"vm1".parse()?, soon())?;
    assert_eq!(holders.iter().map(ToString::to_string).collect::<Vec<_>>(), ["host 1 (hv1, exclusive)"]);
    Ok(())
}
