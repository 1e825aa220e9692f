//! Two nodes that are always logged in, of which one works: ten planned moves and three power cuts under a writer (4 KiB, `O_DIRECT|O_SYNC`,
//! every 20 ms) that may see no error. DRBD between the nodes, LIO over device-mapper in front of it, multipathd and open-iscsi on the
//! hypervisor.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)] // It is a test.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{Cmd, Kernel, Lab, Machine, Mode};

const CONF: &str = r#"
global { usage-count no; }
common {
    net { protocol C; cram-hmac-alg sha1; shared-secret "of the lab"; ping-int 1; ping-timeout 5; timeout 9; connect-int 1; after-sb-0pri discard-zero-changes; after-sb-1pri discard-secondary; }
    disk { c-plan-ahead 0; resync-rate 16M; }
}
resource r0 {
    device /dev/drbd0;
    meta-disk internal;
    on n1 { disk /dev/disk/by-id/virtio-n1-a; address 10.0.0.1:7788; }
    on n2 { disk /dev/disk/by-id/virtio-n2-a; address 10.0.0.2:7788; }
}
"#;
/// `tur`: on standby it is answered with "standby", which is a path that lives.
const MULTIPATH: &str = r#"
defaults {
    polling_interval 1
    max_polling_interval 1
    find_multipaths greedy
    user_friendly_names no
}
devices {
    device {
        vendor "(LIO-ORG|SUSE)"
        product ".*"
        path_checker tur
        detect_checker no
        hardware_handler "1 alua"
        path_grouping_policy group_by_prio
        prio alua
        failback immediate
        no_path_retry 120
        fast_io_fail_tmo 1
    }
}
"#;
/// What there is to see of the paths.
const LOOK: &str = "multipath -ll; multipathd show paths format '%d %i %t %T %o %p %c'; iscsiadm -m session -P 1; \
                    for d in /sys/block/sd*; do echo $d $(cat $d/device/state $d/device/access_state); done; journalctl -n 40 --no-pager; dmesg | tail -n 60";
const PATIENCE: Duration = Duration::from_secs(300);
const BLOCKS: usize = 256;
/// How long the writer may wait, in seconds; the median.
const MOVE: f64 = 1.0;
const CUT: f64 = 3.0;

/// When each write was acknowledged, and how many failed.
#[derive(Debug, Default)]
struct Journal {
    acknowledged: Vec<Instant>,
    /// The last acknowledged write of each block.
    last: std::collections::BTreeMap<u64, u64>,
    errors: Vec<u64>,
}

struct Pair {
    lab: Lab,
    nodes: [Machine; 2],
    hv: Machine,
    journal: Arc<Mutex<Journal>>,
    started: Instant,
    active: usize,
}

fn median(gaps: &[f64]) -> f64 {
    let mut sorted = gaps.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

impl Pair {
    fn boot(kernel: Kernel) -> Result<Self> {
        let programs = lab::programs(&[
            &["-p", "sankit-tests", "--bin", "ha-node", "--bin", "san-writer"],
            &["-p", "sankit-drbd", "--example", "ctl"],
        ])?;
        let lab = Lab::new("lio-alua")?;
        for program in ["ha-node", "san-writer", "examples/ctl"] {
            lab.install(&programs.join(program))?;
        }
        let lan = [lab.segment("lan1"), lab.segment("lan2")];
        let cable = lab.segment("repl");
        let machine = |name: &str| {
            lab.machine(name).mode(Mode::Root).kernel(kernel).memory(768).cpus(1).nic(&lan[0]).nic(&lan[1])
        };
        let node =
            |name: &str| machine(name).nic(&cable).disk(&lab.disk(&format!("{name}-a"), 64 << 20)?).build();
        let nodes = [node("n1")?, node("n2")?];
        let hv = machine("hv").port("lab.ack").build()?;
        lab.boot_all(&[nodes[0].clone(), nodes[1].clone(), hv.clone()])?;
        let journal = Arc::default();
        Ok(Self { lab, nodes, hv, journal, started: Instant::now(), active: 0 })
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

    /// What a node has after a boot.
    fn equip(&self, node: usize) -> Result<()> {
        let (machine, number) = (&self.nodes[node], node + 1);
        self.run(
            machine,
            &format!(
                "hostname n{number}; modprobe -a drbd dm_mod; install /lab/bin/ctl /lab/bin/ha-node /usr/local/bin/; mkdir -p /etc/target/pr; \
                 for i in 0 1; do ip addr add 10.1.2$((4+i)).1{number}/24 dev eth$i; ip link set eth$i up; done; \
                 ip addr add 10.0.0.{number}/24 dev eth2; ip link set eth2 up"
            ),
        )?;
        machine.push("/etc/drbd.conf", CONF, 0o600)
    }

    fn ha(&self, node: usize, verb: &str) -> Result<String> {
        let said = self.run(&self.nodes[node], &format!("ha-node {verb} {}", node + 1))?;
        self.say(&format!("n{} {verb}: {}", node + 1, said.replace('\n', ", ")));
        Ok(said)
    }

    fn set_up(&self) -> Result<()> {
        for node in 0..2 {
            self.equip(node)?;
            self.run(&self.nodes[node], "ctl create-md r0")?;
            self.ha(node, "ready")?;
            ensure!(self.ha(node, "state")?.starts_with("Standby"), "n{} is not on standby", node + 1);
        }
        self.run(&self.nodes[0], "ctl wait-connected r0 && ctl primary r0 force && ctl wait-synced r0")?;
        self.ha(0, "takeover")?;
        self.hv.push("/etc/multipath.conf", MULTIPATH, 0o644)?;
        self.run(
            &self.hv,
            "set -e; modprobe -a iscsi_tcp dm_multipath dm_service_time scsi_dh_alua
             for i in 0 1; do ip addr add 10.1.2$((4+i)).1/24 dev eth$i; ip link set eth$i up; done
             echo InitiatorName=iqn.2026-01.lab.sankit:hv > /etc/iscsi/initiatorname.iscsi
             sed -i -e 's/^node.session.timeo.replacement_timeout.*/node.session.timeo.replacement_timeout = 1/' \
                 -e 's/^node.conn\\[0\\].timeo.noop_out_interval.*/node.conn[0].timeo.noop_out_interval = 1/' \
                 -e 's/^node.conn\\[0\\].timeo.noop_out_timeout.*/node.conn[0].timeo.noop_out_timeout = 3/' /etc/iscsi/iscsid.conf
             echo 1 > /proc/sys/net/ipv4/tcp_thin_linear_timeouts
             printf 'node.session.auth.authmethod = CHAP\\nnode.session.auth.username = hv\\nnode.session.auth.password = a-chap-secret-of-the-lab\\n' >> /etc/iscsi/iscsid.conf
             mkdir -p /run/lock/iscsi; iscsid; multipathd",
        )?;
        for node in 0..2 {
            self.run(&self.hv, &format!("iscsiadm -m discovery -t st -p 10.1.24.{}", 11 + node))?;
        }
        self.run(&self.hv, "iscsiadm -m node --login")?;
        self.paths([2, 2])
    }

    /// Waits until multipathd sees as many paths that work and that are on standby.
    fn paths(&self, wanted: [usize; 2]) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let seen = self.run(&self.hv, "multipathd show paths format '%d %t %T %o'")?;
            let count = |word: &str| {
                seen.lines().filter(|line| line.contains(word) && line.contains(" active ")).count()
            };
            if [count(" ready "), count(" ghost ")] == wanted {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "wanted are {wanted:?} paths that are ready and on standby: {seen}\n{}",
                self.run(&self.hv, LOOK)?
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The SCSI disks that are paths of a kind, `ready` or `ghost`.
    fn disks(&self, kind: &str) -> Result<Vec<String>> {
        let seen = self.run(&self.hv, "multipathd show paths raw format '%d %T'")?;
        let found = seen.lines().filter_map(|line| line.split_once(' ').filter(|(_, is)| is.trim() == kind));
        Ok(found.map(|(disk, _)| format!("/dev/{disk}")).collect())
    }

    /// What initiators, `VMware` among them, know the disk by is the same on all paths; the port groups are the nodes'.
    fn one_disk_on_two_nodes(&self) -> Result<()> {
        let disks = [self.disks("ready")?, self.disks("ghost")?];
        let [ready, ghost] = &disks;
        ensure!(ready.len() == 2 && ghost.len() == 2, "paths: {disks:?}");
        let mut inquiries = std::collections::BTreeSet::new();
        let mut groups = Vec::new();
        for disk in disks.iter().flatten() {
            let id = self.run(&self.hv, &format!("sg_vpd --page=di {disk}"))?;
            let line = |words: &str| id.lines().find(|line| line.contains(words)).map(str::trim);
            let naa = line("0x6001405").with_context(|| format!("no NAA identifier: {id}"))?;
            let standard = self.run(&self.hv, &format!("sg_inq {disk}"))?;
            inquiries.insert(format!("{naa}\n{standard}"));
            groups.push(
                line("Target port group: ").with_context(|| format!("no port group: {id}"))?.to_owned(),
            );
        }
        ensure!(inquiries.len() == 1, "the nodes say different things: {inquiries:#?}");
        let same = |at: usize| groups[at] == groups[at + 1];
        ensure!(same(0) && same(2) && groups[0] != groups[2], "port groups: {groups:?}");
        Ok(())
    }

    /// Compare-and-write, `ATS` of `VMware`, of a block that nobody else writes; what it should find and what it shall leave. Says how it ended.
    fn compare_and_write(&self, disk: &str, from: u8, to: u8) -> Result<u8> {
        let page = [[from; 512], [to; 512]].concat();
        self.hv.push("/tmp/caw", &page, 0o600)?;
        let script =
            format!("sg_compare_and_write --lba=65536 --num=1 --xferlen=1024 --in=/tmp/caw {disk} 2>&1");
        let code = loop {
            let output = self.hv.run(Cmd::sh(&script).deadline(PATIENCE))?;
            // Six is news that is told first, once: that the access state has changed.
            if output.code != 6 {
                break output.code;
            }
        };
        self.say(&format!("compare and write {from} {to} on {disk}: code {code}"));
        u8::try_from(code).context("an exit code")
    }

    /// A lock that `VMware` takes on one node is taken on the other: each command is carried out by the node that serves, after those before.
    fn locks_hold_over_a_move(&mut self) -> Result<f64> {
        const DONE: u8 = 0;
        const NOT_READY: u8 = 2;
        const MISCOMPARE: u8 = 14;
        let (ready, ghost) = (self.disks("ready")?, self.disks("ghost")?);
        let ends = |pair: &Self, disk: &[String], from, to, how| -> Result<()> {
            let code = pair.compare_and_write(disk.first().context("no path")?, from, to)?;
            ensure!(code == how, "compare and write {from} {to} on {disk:?}: code {code}, should be {how}");
            Ok(())
        };
        ends(self, &ready, 0, 1, DONE)?;
        ends(self, &ghost, 1, 9, NOT_READY)?;
        let gap = self.planned_move()?;
        ensure!(self.disks("ready")? == ghost, "the other paths work now");
        ends(self, &ghost, 0, 9, MISCOMPARE)?;
        ends(self, &ghost, 1, 0, DONE)?;
        ends(self, &ready, 0, 9, NOT_READY)?;
        Ok(gap)
    }

    fn start_writer(&self, device: &str) -> Result<lab::Running> {
        let mut port = self.hv.port("lab.ack")?;
        let journal = Arc::clone(&self.journal);
        std::thread::spawn(move || {
            let mut record = [0_u8; 32];
            while port.read_exact(&mut record).is_ok() {
                let now = Instant::now();
                let word =
                    |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().expect("eight bytes"));
                let mut journal = journal.lock().expect("no panic");
                match word(0) & 0xffff_ffff {
                    1 => {
                        journal.acknowledged.push(now);
                        journal.last.insert(word(16), word(8));
                    }
                    2 => journal.errors.push(word(24)),
                    _ => {}
                }
            }
        });
        let find = "for p in /sys/class/virtio-ports/*; do [ \"$(cat $p/name)\" = lab.ack ] && echo /dev/${p##*/}; done";
        let port = self.run(&self.hv, find)?;
        let script = format!("exec /lab/bin/san-writer write {device} 1 0 20 {BLOCKS} > {port}");
        let writer = self.hv.spawn(Cmd::sh(&script).deadline(Duration::from_secs(7200)))?;
        self.writes(50)?;
        Ok(writer)
    }

    fn count(&self) -> usize {
        self.journal.lock().expect("no panic").acknowledged.len()
    }

    /// Waits for so many more writes.
    fn writes(&self, more: usize) -> Result<()> {
        let (wanted, deadline) = (self.count() + more, Instant::now() + Duration::from_secs(150));
        while self.count() < wanted {
            ensure!(
                Instant::now() < deadline,
                "the writer does not go on: {}",
                self.run(&self.hv, "multipath -ll; dmesg | tail -n 60")?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The longest time without an acknowledgement since then.
    fn gap(&self, since: Instant) -> f64 {
        let journal = self.journal.lock().expect("no panic");
        let times: Vec<_> = journal.acknowledged.iter().collect();
        let overlaps = times.windows(2).filter(|pair| *pair[1] >= since);
        overlaps.map(|pair| (*pair[1] - *pair[0]).as_secs_f64()).fold(0.0, f64::max)
    }

    fn errors(&self) -> Vec<u64> {
        self.journal.lock().expect("no panic").errors.clone()
    }

    /// Moves to the other node; how long the writer waited.
    fn planned_move(&mut self) -> Result<f64> {
        let (from, to) = (self.active, 1 - self.active);
        let since = Instant::now();
        std::thread::scope(|scope| -> Result<()> {
            let takes = scope.spawn(|| self.ha(to, "takeover"));
            let gives = scope.spawn(|| self.ha(from, "standby"));
            takes.join().expect("no panic")?;
            gives.join().expect("no panic")?;
            Ok(())
        })?;
        self.writes(30)?;
        self.active = to;
        let gap = self.gap(since);
        self.say(&format!("move to n{}: the writer waited {gap:.2} s, errors {:?}", to + 1, self.errors()));
        self.paths([2, 2])?;
        Ok(gap)
    }

    fn power_cut(&mut self) -> Result<f64> {
        let (dead, heir) = (self.active, 1 - self.active);
        let since = Instant::now();
        self.nodes[dead].power_cut();
        self.ha(heir, "takeover-dead")?;
        self.writes(30)?;
        self.active = heir;
        let gap = self.gap(since);
        self.say(&format!(
            "power cut of n{}: the writer waited {gap:.2} s, errors {:?}",
            dead + 1,
            self.errors()
        ));
        self.ha(heir, "give-back")?;
        self.nodes[dead].boot()?;
        self.equip(dead)?;
        self.ha(dead, "ready")?;
        self.run(&self.nodes[dead], "ctl wait-synced r0")?;
        self.paths([2, 2])?;
        Ok(gap)
    }

    /// Every acknowledged write is there, through the device.
    fn nothing_lost(&self, device: &str) -> Result<()> {
        let text = self.run(&self.hv, &format!("/lab/bin/san-writer read {device} 1 {BLOCKS}"))?;
        let journal = self.journal.lock().expect("no panic");
        let mut checked = 0;
        for line in text.lines() {
            let Some((block, found)) = line.split_once(' ') else { continue };
            let Some(wanted) = block.parse::<u64>().ok().and_then(|block| journal.last.get(&block)) else {
                continue;
            };
            let found: u64 = found.parse().with_context(|| format!("block {block} holds {found}"))?;
            ensure!(found >= *wanted, "block {block} holds write {found}, acknowledged was {wanted}");
            checked += 1;
        }
        ensure!(checked > 0 && checked == journal.last.len(), "{checked} blocks of {}", journal.last.len());
        Ok(())
    }
}

fn scenario(kernel: Kernel, moves: usize, cuts: usize) -> Result<()> {
    let mut pair = Pair::boot(kernel)?;
    pair.set_up()?;
    let device = pair.run(&pair.hv, "ls /dev/mapper/3*")?;
    // What is on standby said so when it was asked at login.
    let caches = pair.run(&pair.hv, "cat /sys/block/sd?/queue/write_cache")?;
    ensure!(caches.lines().count() == 4 && caches.lines().all(|line| line == "write back"), "{caches}");
    let mut writer = pair.start_writer(&device)?;
    let outcome = (|| -> Result<(Vec<f64>, Vec<f64>)> {
        pair.one_disk_on_two_nodes()?;
        let mut moved = vec![pair.locks_hold_over_a_move()?];
        for _ in 1..moves {
            moved.push(pair.planned_move()?);
        }
        pair.one_disk_on_two_nodes()?;
        let cut = (0..cuts).map(|_| pair.power_cut()).collect::<Result<Vec<_>>>()?;
        Ok((moved, cut))
    })();
    let (moved, cut) = match outcome {
        Ok(gaps) => gaps,
        Err(error) => {
            for machine in pair.nodes.iter().chain([&pair.hv]) {
                println!(
                    "{}: {:?}",
                    machine.name(),
                    pair.run(
                        machine,
                        "dmesg | tail -n 40; dmsetup table; dmsetup info; cat /proc/drbd; true"
                    )
                );
            }
            return Err(error);
        }
    };
    pair.run(&pair.hv, "pkill -TERM -x san-writer")?;
    if let Err(error) = writer.wait_with(|_| {}) {
        bail!("the writer: {error:#}");
    }
    pair.nothing_lost(&device)?;
    let errors = pair.errors();
    println!(
        "alua on {kernel}: {moves} moves, median {:.2} s, longest {:.2} s; {cuts} power cuts, median {:.2} s, longest {:.2} s; {} acknowledged, errors {errors:?}",
        median(&moved),
        moved.iter().copied().fold(0.0, f64::max),
        median(&cut),
        cut.iter().copied().fold(0.0, f64::max),
        pair.count(),
    );
    ensure!(errors.is_empty(), "the writer saw errors: {errors:?}");
    ensure!(median(&moved) <= MOVE, "a move took {:.2} s, should be {MOVE} s", median(&moved));
    ensure!(median(&cut) <= CUT, "a power cut took {:.2} s, should be {CUT} s", median(&cut));
    pair.lab.forgive();
    Ok(())
}

#[test]
fn ten_moves_and_three_power_cuts_without_an_error_at_the_writer() -> Result<()> {
    scenario(Kernel::V6_1, 10, 3)
}

#[test]
fn the_newer_kernel_moves_too() -> Result<()> {
    scenario(Kernel::V6_12, 3, 1)
}
