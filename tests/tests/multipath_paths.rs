//! A hypervisor with two portals of one target: each path cut in every way there is, both cut, flapping, and the disk behind the LUN exchanged.
//! fio writes and verifies all the time and may see no error.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)] // It is a test.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::{Cmd, Kernel, Lab, Machine, Mode};
use serde_json::Value;

const TARGET: &str = "iqn.2026-01.lab.sankit:paths";
const INITIATOR: &str = "iqn.2026-01.lab.sankit:hv";
const PORTALS: [&str; 2] = ["10.1.24.10", "10.1.25.10"];
const PATIENCE: Duration = Duration::from_secs(300);
/// Ping interval, ping time-out, recovery, multipathd's look, and room for an emulated processor: a silent path is left in this time.
const SILENT: f64 = 1.0 + 3.0 + 5.0 + 1.0 + 5.0;

/// Who made the target.
#[derive(Debug, Clone, Copy)]
enum Maker {
    Sankit,
    Targetcli,
}

struct Bench {
    lab: Lab,
    maker: Maker,
    san: Machine,
    hv: Machine,
    device: String,
    started: Instant,
}

impl Bench {
    fn boot(kernel: Kernel, maker: Maker) -> Result<Self> {
        let names = ["san-attach", "multipath-ls", "lio-export"];
        let [attach, list, export] = names;
        let programs =
            lab::programs(&[&["-p", "sankit-examples", "--bin", attach, "--bin", list, "--bin", export]])?;
        let lab = Lab::new("multipath-paths")?;
        for name in names {
            lab.install(&programs.join(name))?;
        }
        let lan = [lab.segment("lan1"), lab.segment("lan2")];
        let machine = |name: &str| {
            lab.machine(name).mode(Mode::Root).kernel(kernel).memory(768).cpus(1).nic(&lan[0]).nic(&lan[1])
        };
        let disk = |name: &str| lab.plain_disk(name, 64 << 20);
        let san = machine("san").disk(&disk("one")?).disk(&disk("two")?).build()?;
        let hv = machine("hv").build()?;
        lab.boot_all(&[san.clone(), hv.clone()])?;
        Ok(Self { lab, maker, san, hv, device: String::new(), started: Instant::now() })
    }

    fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.started.elapsed().as_secs_f64());
    }

    fn run(&self, machine: &Machine, script: &str) -> Result<String> {
        let output = machine.run(Cmd::sh(&format!("{script} 2>&1")).deadline(PATIENCE))?;
        let said = output.stdout.trim().to_owned();
        ensure!(output.success(), "{}: {script}: code {}: {said}", machine.name(), output.code);
        Ok(said)
    }

    fn set_up(&mut self) -> Result<()> {
        for (machine, last) in [(&self.san, 10), (&self.hv, 1)] {
            self.run(
                machine,
                &format!("for i in 0 1; do ip addr add 10.1.2$((4+i)).{last}/24 dev eth$i; ip link set eth$i up; done"),
            )?;
        }
        let script = match self.maker {
            Maker::Sankit => self.export_by_sankit(),
            Maker::Targetcli => self.export_by_targetcli(),
        };
        self.run(&self.san, &format!("set -e; modprobe -a nf_tables nft_reject_ipv4; {script}"))?;
        self.run(
            &self.hv,
            "set -e; modprobe -a iscsi_tcp dm_multipath; echo InitiatorName=iqn.2026-01.lab.sankit:hv > /etc/iscsi/initiatorname.iscsi
             mkdir -p /run/lock/iscsi; iscsid; multipathd
             for i in $(seq 100); do multipathd show daemon 2>/dev/null | grep -q pid && break; sleep 0.1; done",
        )?;
        let said = self.attach()?;
        self.say(&said.replace('\n', ", "));
        self.device = said.split(' ').next().context("no device")?.to_owned();
        Ok(())
    }

    /// `lio-export` serves one disk; the other, which takes its place later, is put beside it by hand.
    fn export_by_sankit(&self) -> String {
        let portals = PORTALS.map(|portal| format!("--portal {portal}")).join(" ");
        format!(
            "/lab/bin/lio-export /dev/disk/by-id/virtio-one --iqn {TARGET} {portals} --initiator {INITIATOR}
             C=/sys/kernel/config/target; T=$C/iscsi/{TARGET}/tpgt_1; mkdir -p $C/core/iblock_9/two
             echo -n \"udev_path=$(readlink -f /dev/disk/by-id/virtio-two)\" > $C/core/iblock_9/two/control
             echo 1 > $C/core/iblock_9/two/enable; echo 2a5e01f2-0000-4000-8000-000000000002 > $C/core/iblock_9/two/wwn/vpd_unit_serial
             mkdir $T/lun/lun_1; ln -s $C/core/iblock_9/two $T/lun/lun_1/disk"
        )
    }

    fn export_by_targetcli(&self) -> String {
        let tpg = format!("/iscsi/{TARGET}/tpg1");
        let portals = PORTALS.map(|portal| format!("targetcli {tpg}/portals create {portal};")).join(" ");
        format!(
            "targetcli set global auto_add_default_portal=false auto_add_mapped_luns=false
             for d in one two; do targetcli /backstores/block create $d /dev/disk/by-id/virtio-$d; done
             targetcli /iscsi create {TARGET}
             for d in one two; do targetcli {tpg}/luns create /backstores/block/$d; done
             targetcli {tpg}/acls create {INITIATOR}
             targetcli {tpg}/acls/{INITIATOR} create mapped_lun=0 tpg_lun_or_backstore=0
             {portals}"
        )
    }

    fn attach(&self) -> Result<String> {
        let portals: Vec<_> = PORTALS.iter().map(|portal| format!("-p {portal}:3260")).collect();
        self.run(&self.hv, &format!("/lab/bin/san-attach {TARGET} {} --failover", portals.join(" ")))
    }

    fn paths(&self, wanted: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let seen = self.run(&self.hv, "multipathd show paths format '%d %t %T %o'")?;
            let ready = seen.lines().filter(|line| line.contains(" active ") && line.contains(" ready "));
            if ready.count() == wanted {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "wanted are {wanted} paths: {seen}\n{}",
                self.run(&self.hv, "multipath -ll; iscsiadm -m session -P1; dmesg | tail -n 40")?
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Lets fio write and verify for so long while something happens; the longest time that one I/O took, in seconds.
    fn under_io(&self, what: &str, seconds: u64, fault: impl FnOnce(&Self) -> Result<()>) -> Result<f64> {
        let script = format!(
            "fio --name=v --filename={} --ioengine=psync --direct=1 --rw=randwrite --bs=4k --size=8M --rate_iops=200 --verify=crc32c \
             --verify_backlog=64 --verify_fatal=1 --time_based --runtime={seconds} --output-format=json --output=/tmp/fio.json",
            self.device
        );
        let mut fio = self.hv.spawn(Cmd::sh(&script).deadline(PATIENCE))?;
        std::thread::sleep(Duration::from_secs(3));
        fault(self)?;
        let exit = fio.wait_with(|_| {})?;
        let report: Value = serde_json::from_slice(&self.hv.pull("/tmp/fio.json")?)?;
        let job = &report["jobs"][0];
        let longest = |kind: &str| job[kind]["clat_ns"]["max"].as_f64().unwrap_or(0.0) / 1e9;
        let gap = longest("write").max(longest("read"));
        let (written, verified) = (&job["write"]["total_ios"], &job["read"]["total_ios"]);
        self.say(&format!("{what}: longest I/O {gap:.2} s, {written} writes, {verified} verified"));
        ensure!(
            exit.code == 0 && job["error"] == 0,
            "{what}: fio ended with {exit:?}, error {}",
            job["error"]
        );
        ensure!(verified.as_u64().unwrap_or(0) > 0, "{what}: nothing was verified");
        self.paths(2)?;
        self.same_as_tools().with_context(|| what.to_owned())?;
        Ok(gap)
    }

    /// What `multipath-ls` says of the map, its paths, sessions and sizes is what multipathd, iscsiadm and lsblk say.
    fn same_as_tools(&self) -> Result<()> {
        let json = |script: &str| -> Result<Value> {
            let said = self.run(&self.hv, script)?;
            serde_json::from_str(&said).with_context(|| said)
        };
        let (mut maps, mut ways, mut disks) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        // Two cards and a healthy map: its exit code says so.
        let ours = json("/lab/bin/multipath-ls --json")?;
        for entry in list(&ours["maps"]) {
            let map = &entry["map"];
            for path in list(&map["groups"]).iter().flat_map(|group| list(&group["paths"])) {
                let states = format!("{} {}", word(&path["state"]), word(&path["checker"])).to_lowercase();
                maps.insert([word(&map["name"]), word(&map["wwid"]), word(&path["device"]), states]);
                disks.insert([word(&path["device"]), word(&map["name"]), word(&map["size"])]);
            }
            for route in list(&entry["routes"]) {
                let iscsi = &route["transport"]["Iscsi"];
                let device = word(&route["path"]["device"]);
                ways.insert([
                    word(&iscsi["target"]),
                    word(&iscsi["session"]),
                    word(&iscsi["portal"]),
                    device,
                ]);
            }
        }
        let mut theirs = BTreeSet::new();
        for map in list(&json("multipathd show maps json")?["maps"]) {
            for path in list(&map["path_groups"]).iter().flat_map(|group| list(&group["paths"])) {
                let states = format!("{} {}", word(&path["dm_st"]), word(&path["chk_st"]));
                theirs.insert([word(&map["name"]), word(&map["uuid"]), word(&path["dev"]), states]);
            }
        }
        ensure!(maps == theirs && maps.len() == 2, "multipathd: {theirs:?} and not {maps:?}");
        let (mut theirs, mut target, mut portal, mut session) =
            (BTreeSet::new(), String::new(), String::new(), String::new());
        for line in self.run(&self.hv, "iscsiadm -m session -P3")?.lines().map(str::trim) {
            let first = |text: &str| text.split([' ', ',']).next().unwrap_or_default().to_owned();
            if let Some(rest) = line.strip_prefix("Target: ") {
                target = first(rest);
            } else if let Some(rest) = line.strip_prefix("Current Portal: ") {
                portal = first(rest);
            } else if let Some(rest) = line.strip_prefix("SID: ") {
                session = first(rest);
            } else if let Some(rest) = line.strip_prefix("Attached scsi disk ") {
                let device = rest.split_whitespace().next().unwrap_or_default().to_owned();
                theirs.insert([target.clone(), session.clone(), portal.clone(), device]);
            }
        }
        ensure!(ways == theirs, "iscsiadm: {theirs:?} and not {ways:?}");
        let mut theirs = BTreeSet::new();
        for disk in list(&json("lsblk -J -b -o NAME,TYPE,SIZE")?["blockdevices"]) {
            for map in list(&disk["children"]).iter().filter(|child| child["type"] == "mpath") {
                theirs.insert([word(&disk["name"]), word(&map["name"]), word(&map["size"])]);
            }
        }
        ensure!(disks == theirs, "lsblk: {theirs:?} and not {disks:?}");
        Ok(())
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A text or number as text.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn wait(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

fn scenario(kernel: Kernel, maker: Maker) -> Result<()> {
    let mut bench = Bench::boot(kernel, maker)?;
    bench.set_up()?;
    bench.under_io("nothing", 8, |_| Ok(()))?;
    for (side, portal) in PORTALS.iter().enumerate() {
        let (cable, link) = (bench.hv.cable(side)?, format!("eth{side}"));
        let gap = bench.under_io(&format!("cable {side} pulled"), 30, |_| {
            cable.unplug()?;
            wait(SILENT);
            cable.plug()
        })?;
        ensure!(gap <= SILENT, "a pulled cable held I/O for {gap:.2} s");
        let gap = bench.under_io(&format!("frames of cable {side} dropped in silence"), 30, |_| {
            cable.cut();
            wait(SILENT);
            cable.restore();
            Ok(())
        })?;
        ensure!(gap <= SILENT, "a silent path held I/O for {gap:.2} s");
        let gap = bench.under_io(&format!("the target's port {side} down"), 30, |b| {
            b.run(&b.san, &format!("ip link set {link} down"))?;
            wait(SILENT);
            b.run(&b.san, &format!("ip link set {link} up")).map(drop)
        })?;
        ensure!(gap <= SILENT, "a port that is down held I/O for {gap:.2} s");
        let gap = bench.under_io(&format!("resets from portal {side}"), 25, |b| {
            b.run(
                &b.san,
                &format!(
                    "nft 'add table ip t; add chain ip t in {{ type filter hook input priority 0; }}; \
                     add rule ip t in ip daddr {portal} tcp dport 3260 reject with tcp reset'"
                ),
            )?;
            wait(10.0);
            b.run(&b.san, "nft delete table ip t").map(drop)
        })?;
        ensure!(gap <= SILENT, "a path that is reset held I/O for {gap:.2} s");
    }
    let gap = bench.under_io("both paths dropped in silence for 12 s", 35, |b| {
        let cables = [b.hv.cable(0)?, b.hv.cable(1)?];
        cables.iter().for_each(lab::Cable::cut);
        wait(12.0);
        cables.iter().for_each(lab::Cable::restore);
        Ok(())
    })?;
    ensure!((8.0..60.0).contains(&gap), "without any path I/O waits, and goes on: {gap:.2} s");
    bench.under_io("one path flaps ten times", 35, |b| {
        let cable = b.hv.cable(0)?;
        for _ in 0..10 {
            cable.cut();
            wait(0.7);
            cable.restore();
            wait(0.7);
        }
        Ok(())
    })?;
    exchanged(&bench)?;
    bench.run(&bench.hv, &format!("/lab/bin/san-attach {TARGET} --detach"))?;
    let left = bench
        .run(&bench.hv, "ls /sys/class/iscsi_session; dmsetup ls --target multipath; ls /etc/iscsi/nodes")?;
    ensure!(!left.contains("session") && !left.contains("mpath") && !left.contains(TARGET), "left: {left}");
    bench.lab.forgive();
    Ok(())
}

/// The disk behind the LUN is exchanged under the same name: it is refused, and nothing of the old one is touched.
fn exchanged(bench: &Bench) -> Result<()> {
    let swap = |lun: u8| {
        let group = format!("/sys/kernel/config/target/iscsi/{TARGET}/tpgt_1");
        let script = format!(
            "l=$(find {group}/acls/{INITIATOR}/lun_0 -maxdepth 1 -type l); rm $l; ln -s {group}/lun/lun_{lun} $l"
        );
        bench.run(&bench.san, &script)
    };
    swap(1)?;
    let refused = bench.attach();
    swap(0)?;
    let error = refused.expect_err("another disk").to_string();
    ensure!(error.contains("nothing was attached"), "{error}");
    bench.say(&format!("exchanged: {}", error.lines().last().unwrap_or_default()));
    bench.attach()?;
    bench.paths(2)
}

/// How long I/O waits when one path falls silent, by the timeouts in force.
#[test]
fn a_silent_path_holds_io_as_long_as_its_timeouts_say() -> Result<()> {
    let mut bench = Bench::boot(Kernel::V6_1, Maker::Sankit)?;
    bench.set_up()?;
    // Pings every so often, answered in so long, and so long to come back: whoever asks at the worst moment waits for all three.
    for (profile, (interval, timeout, recovery)) in
        [("--failover", (1_u32, 3, 5)), ("", (5, 5, 5)), ("--profile vmware", (15, 10, 10))]
    {
        bench.run(&bench.hv, &format!("/lab/bin/san-attach {TARGET} --detach"))?;
        let portals = PORTALS.map(|portal| format!("-p {portal}:3260")).join(" ");
        let said = bench.run(&bench.hv, &format!("/lab/bin/san-attach {TARGET} {portals} {profile}"))?;
        bench.device = said.split(' ').next().context("no device")?.to_owned();
        bench.paths(2)?;
        let longest = f64::from(interval + timeout + recovery);
        let cable = bench.hv.cable(0)?;
        let what = format!("{profile}: ping {interval} s, answer {timeout} s, recovery {recovery} s; silent");
        let gap = bench.under_io(&what, u64::from(interval + timeout + recovery) + 25, |_| {
            cable.cut();
            wait(longest + 6.0);
            cable.restore();
            Ok(())
        })?;
        // A second for the kernel's timers, and one for an emulated processor.
        ensure!(gap <= longest + 2.0, "{profile}: {gap:.2} s");
        ensure!(
            gap >= f64::from(timeout + recovery) - 1.0,
            "{profile}: {gap:.2} s is less than it has to be"
        );
    }
    bench.lab.forgive();
    Ok(())
}

#[test]
fn every_path_fails_in_every_way_and_no_byte_is_lost() -> Result<()> {
    scenario(Kernel::V6_1, Maker::Sankit)
}

#[test]
fn the_newer_kernel_keeps_every_byte_too() -> Result<()> {
    scenario(Kernel::V6_12, Maker::Targetcli)
}
