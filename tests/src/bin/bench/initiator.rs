//! The initiator of the crate `multipath` against `iscsiadm` and `multipath` in a script as article 2 has it, in one machine that is target and
//! initiator: LIO behind two addresses of its own.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Cmd, Impair, Lab, Mode};

use crate::Goal;
use crate::report::Row;

const ATTACH: Goal = Goal {
    name: "attach over two portals to a map that reads (ms, warm): Initiator::attach vs iscsiadm+multipath with the shortest sleeps",
    ratio: 1.43,
};
const DETACH: Goal = Goal {
    name: "detach over two portals (ms, warm): Initiator::detach vs multipath -f+iscsiadm with the shortest sleeps",
    ratio: 1.43,
};
const DISCOVERY: Goal = Goal {
    name: "discovery of 300 targets (ms, warm): multipath::discover vs iscsiadm -m discovery -o nonpersistent",
    ratio: 5.0,
};
/// Article 2's own finding: it is sessions that make it faster, not ports of a bond.
const TWO_PORTALS: Goal =
    Goal { name: "32 MiB read, links of 4 MB/s each (ms): a map over two portals vs one portal", ratio: 1.8 };
const BOND: Goal = Goal {
    name: "32 MiB read, links of 4 MB/s each (ms; no gain is what is expected): one portal over a bond of both links vs one link",
    ratio: 0.9,
};
pub(crate) const GOALS: [Goal; 5] = [ATTACH, DETACH, DISCOVERY, TWO_PORTALS, BOND];

/// Runs all comparisons; rows are added as they are done.
pub(crate) fn run(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    if crate::wanted("initiator-attach") || crate::wanted("initiator-discovery") {
        in_one_machine(programs, runs, rows)?;
    }
    if crate::wanted("initiator-throughput") {
        throughput(programs, runs.min(3), rows)?;
    }
    Ok(())
}

fn in_one_machine(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    let lab = Lab::new("bench-initiator")?;
    lab.install(&programs.join("bench"))?;
    let disk = lab.plain_disk("disk", 64 << 20)?;
    let machine = lab.machine("hv").mode(Mode::Root).memory(1536).cpus(2).disk(&disk).build()?;
    lab.boot_all(std::slice::from_ref(&machine))?;
    machine.sh("install /lab/bin/bench /usr/local/bin/")?;
    for (what, goals) in [("initiator-attach", &[ATTACH, DETACH][..]), ("initiator-discovery", &[DISCOVERY])]
        .into_iter()
        .filter(|(what, _)| crate::wanted(what))
    {
        let command = format!("bench --guest {what} --runs {runs} 2>&1");
        let output = machine.run(Cmd::sh(&command).deadline(Duration::from_secs(1800)))?;
        if !output.success() {
            println!("initiator: {what} failed: {}", output.stdout);
            continue;
        }
        // Where the time goes, told apart by the guest.
        output
            .stdout
            .lines()
            .filter(|line| line.starts_with("share: "))
            .for_each(|line| println!("initiator: {line}"));
        for goal in goals {
            let values = |side: &str| -> Vec<f64> {
                let prefix = format!("{}\t{side}\t", goal.name);
                let lines = output.stdout.lines();
                lines.filter_map(|line| line.strip_prefix(prefix.as_str())?.parse().ok()).collect()
            };
            println!("initiator: {}: {:?} against {:?}", goal.name, values("ours"), values("peer"));
            rows.push(Row::new(goal, &values("ours"), &values("peer")));
        }
    }
    machine.shutdown()?;
    Ok(())
}

/// A node and a hypervisor with two links, each of them slow: how long a read takes over one portal, over two, over a bond.
fn throughput(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    const RATE: u64 = 4_000_000;
    const TARGET: &str = "iqn.2026-01.lab.sankit:rate";
    let lab = Lab::new("bench-throughput")?;
    for program in ["san-attach", "lio-export"] {
        lab.install(&programs.join(program))?;
    }
    let lan = [lab.segment("lan1"), lab.segment("lan2")];
    let [first, second] = &lan;
    let machine = |name: &str| lab.machine(name).mode(Mode::Root).memory(768).cpus(1).nic(first).nic(second);
    let san = machine("san").disk(&lab.plain_disk("disk", 64 << 20)?).build()?;
    let hv = machine("hv").build()?;
    lab.boot_all(&[san.clone(), hv.clone()])?;
    // At one end: a frame that waits for its turn twice only comes later.
    for cable in 0..2 {
        san.cable(cable)?.impair(Impair { rate: Some(RATE), ..Impair::default() });
    }
    san.sh("modprobe -a iscsi_target_mod target_core_iblock")?;
    san.sh(&format!("/lab/bin/lio-export /dev/disk/by-id/virtio-disk --iqn {TARGET} --anybody"))?;
    hv.sh("modprobe -a iscsi_tcp dm_multipath; mkdir -p /run/lock/iscsi; iscsid; multipathd
           for i in $(seq 300); do multipathd show daemon 2>/dev/null | grep -q pid && break; sleep 0.1; done")?;
    let apart = "ip addr add 10.1.24.$N/24 dev eth0; ip addr add 10.1.25.$N/24 dev eth1; ip link set eth0 up; ip link set eth1 up";
    let bonded = "ip addr flush dev eth0; ip addr flush dev eth1; ip link set eth0 down; ip link set eth1 down
        ip link add bond0 type bond mode balance-xor xmit_hash_policy layer3+4 miimon 100
        ip link set eth0 master bond0; ip link set eth1 master bond0; ip link set bond0 up; ip addr add 10.1.26.$N/24 dev bond0";
    let lay = |script: &str| -> Result<()> {
        for (machine, last) in [(&san, 10), (&hv, 1)] {
            machine.sh(&format!("N={last}; {script}"))?;
        }
        Ok(())
    };
    let read = |portals: &[&str]| -> Result<f64> {
        let portals: String = portals.iter().map(|portal| format!(" -p {portal}:3260")).collect();
        let attached = hv.run_ok(
            Cmd::sh(&format!("/lab/bin/san-attach {TARGET}{portals}")).deadline(Duration::from_secs(120)),
        )?;
        let device = attached.stdout.split(' ').next().context("no device")?.to_owned();
        // Less in flight than a link holds back before it drops (a quarter of a second), or TCP's recovery is what is measured.
        let fio = format!(
            "fio --name=r --filename={device} --direct=1 --ioengine=libaio --iodepth=8 --rw=read --bs=64k --size=32M --output-format=json"
        );
        let said = hv.run_ok(Cmd::sh(&fio).deadline(Duration::from_secs(120)))?;
        let report: serde_json::Value = serde_json::from_str(&said.stdout)?;
        let time = report
            .pointer("/jobs/0/read/runtime")
            .and_then(serde_json::Value::as_f64)
            .context("no runtime")?;
        hv.run_ok(Cmd::sh(&format!("/lab/bin/san-attach {TARGET} -d")).deadline(Duration::from_secs(120)))?;
        Ok(time)
    };
    let (mut one, mut two, mut bond) = (Vec::new(), Vec::new(), Vec::new());
    lay(apart)?;
    for _ in 0..runs {
        one.push(read(&["10.1.24.10"])?);
        two.push(read(&["10.1.24.10", "10.1.25.10"])?);
    }
    println!("initiator: 32 MiB over one portal {one:?} ms, over two {two:?}");
    lay(bonded)?;
    hv.sh("for i in $(seq 30); do ping -c 1 -W 1 10.1.26.10 >/dev/null && exit 0; done; cat /proc/net/bonding/bond0; exit 1")?;
    for _ in 0..runs {
        bond.push(read(&["10.1.26.10"])?);
    }
    println!(
        "initiator: 32 MiB over one portal {one:?} ms, over two {two:?}, over a bond of two links {bond:?}"
    );
    rows.push(Row::new(&TWO_PORTALS, &two, &one));
    rows.push(Row::new(&BOND, &bond, &one));
    Ok(())
}

/// The part that runs in the guest.
pub(crate) mod guest {
    use std::net::SocketAddr;
    use std::process::{Command, Stdio};

    use multipath::{AttachSpec, Deadline, Host, Initiator, Patience};

    use super::{ATTACH, Context, DETACH, DISCOVERY, Duration, Result, bail, ensure};
    use crate::report::{say, timed};

    const TARGET: &str = "iqn.2026-01.lab.sankit:bench";
    const PORTALS: [&str; 2] = ["127.0.0.21:3260", "127.0.0.22:3260"];
    const COUNT: usize = 300;

    /// As one writes it by hand after article 2, without a sleep that is longer than it must be.
    const ATTACH_SCRIPT: &str = r#"set -e
        t0=$(date +%s%N)
        iscsiadm -m discovery -t st -p 127.0.0.21 >/dev/null
        t1=$(date +%s%N)
        iscsiadm -m node -T iqn.2026-01.lab.sankit:bench -p 127.0.0.21:3260 --login >/dev/null
        iscsiadm -m node -T iqn.2026-01.lab.sankit:bench -p 127.0.0.22:3260 --login >/dev/null
        t2=$(date +%s%N)
        disks() { ls -d /sys/class/iscsi_session/session*/device/target*/*/block/* 2>/dev/null; }
        until [ "$(disks | wc -l)" = 2 ]; do sleep 0.05; done
        t3=$(date +%s%N)
        for d in $(disks); do multipath -a /dev/${d##*/} >/dev/null || true; multipathd add path ${d##*/} >/dev/null || true; done
        until [ "$(multipath -ll | grep -c 'active ready running')" = 2 ]; do sleep 0.05; done
        map=$(multipath -l -v1)
        until dd if=/dev/mapper/$map of=/dev/null bs=4k count=1 iflag=direct status=none; do sleep 0.05; done
        t4=$(date +%s%N)
        echo "share: script: discovery $(((t1-t0)/1000000)) ms, login $(((t2-t1)/1000000)), disks $(((t3-t2)/1000000)), map $(((t4-t3)/1000000))"
    "#;
    const DETACH_SCRIPT: &str = r#"set -e
        map=$(multipath -l -v1)
        blockdev --flushbufs /dev/mapper/$map
        until multipath -f $map >/dev/null 2>&1; do sleep 0.05; done
        iscsiadm -m node -T iqn.2026-01.lab.sankit:bench -u >/dev/null
        iscsiadm -m node -T iqn.2026-01.lab.sankit:bench -o delete
        until ! grep -qs bench /sys/class/iscsi_session/*/targetname; do sleep 0.05; done
    "#;

    fn sh(script: &str) -> Result<String> {
        let output = Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{script}: {said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    }

    fn portals() -> Result<Vec<SocketAddr>> {
        PORTALS.iter().map(|portal| portal.parse().context("an address")).collect()
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    /// The target, and the daemons with the same configuration for both sides.
    fn initiator() -> Result<Initiator> {
        sh(&format!(
            r#"set -e
            ip link set lo up
            modprobe -a target_core_mod target_core_iblock iscsi_target_mod iscsi_tcp dm_multipath
            C=/sys/kernel/config/target; T=$C/iscsi/{TARGET}/tpgt_1
            if ! [ -d $T ]; then
                mkdir -p $C/core/iblock_0/bench
                echo -n "udev_path=$(readlink -f /dev/disk/by-id/virtio-disk)" > $C/core/iblock_0/bench/control
                echo 1 > $C/core/iblock_0/bench/enable
                echo 5a11da7a-0000-4000-8000-000000000001 > $C/core/iblock_0/bench/wwn/vpd_unit_serial
                mkdir -p $C/iscsi/{TARGET} $T $T/lun/lun_0
                ln -s $C/core/iblock_0/bench $T/lun/lun_0/disk
                for p in {portals}; do mkdir $T/np/$p; done
                echo 0 > $T/attrib/authentication; echo 1 > $T/attrib/generate_node_acls; echo 0 > $T/attrib/demo_mode_write_protect
                echo 1 > $T/enable
            fi
            pidof iscsid >/dev/null || iscsid
            pidof multipathd >/dev/null || multipathd
            for i in $(seq 100); do multipathd show daemon 2>/dev/null | grep -q pid && break; sleep 0.1; done
            "#,
            portals = PORTALS.join(" ")
        ))?;
        let initiator = Initiator::on(&Host::live())?;
        initiator.configure(&Patience::failover(), soon())?;
        Ok(initiator)
    }

    fn attach(runs: u32) -> Result<()> {
        let initiator = initiator()?;
        let target = TARGET.parse()?;
        let spec = AttachSpec::new(TARGET.parse()?, portals()?).with_patience(Patience::failover());
        for round in 0..=runs {
            let mut map = None;
            let ours = timed(|| {
                // What the script does first, too: it has to know the portals.
                let first = *portals()?.first().context("no portal")?;
                let found = initiator.discover(first, None, soon())?;
                ensure!(found.iter().any(|t| t.portals.len() == 2), "{found:?}");
                map = Some(initiator.attach(&spec, soon())?);
                Ok(())
            })?;
            ensure!(map.is_some_and(|map| map.paths.len() == 2), "not over both");
            let ours_gone = timed(|| Ok(initiator.detach(&target, soon()).map(drop)?))?;
            let mut said = String::new();
            let peer = timed(|| {
                said = sh(ATTACH_SCRIPT)?;
                Ok(())
            })?;
            ensure!(initiator.sessions()?.len() == 2, "the script attached nothing");
            let peer_gone = timed(|| sh(DETACH_SCRIPT).map(drop))?;
            ensure!(
                initiator.sessions()?.is_empty() && initiator.records().get(&target)?.is_empty(),
                "left over"
            );
            print!("{said}");
            if round > 0 {
                say(&ATTACH, "ours", ours);
                say(&ATTACH, "peer", peer);
                say(&DETACH, "ours", ours_gone);
                say(&DETACH, "peer", peer_gone);
            }
        }
        Ok(())
    }

    fn discovery(runs: u32) -> Result<()> {
        let initiator = initiator()?;
        sh(&format!(
            r#"set -e
            C=/sys/kernel/config/target/iscsi
            for n in $(seq {COUNT}); do
                T=$C/iqn.2026-01.lab.sankit:many$n/tpgt_1
                mkdir -p ${{T%/*}} $T; mkdir $T/np/127.0.0.21:3260 $T/np/127.0.0.22:3260
                echo 0 > $T/attrib/authentication; echo 1 > $T/attrib/generate_node_acls; echo 1 > $T/enable
            done"#
        ))?;
        let portal = *portals()?.first().context("no portal")?;
        for round in 0..=runs * 2 {
            let mut count = 0;
            let ours = timed(|| {
                count = initiator.discover(portal, None, soon())?.len();
                Ok(())
            })?;
            let mut said = String::new();
            let peer = timed(|| {
                said = sh("iscsiadm -m discovery -t st -p 127.0.0.21 -o nonpersistent")?;
                Ok(())
            })?;
            // Each target of the peer's is a line a portal.
            ensure!(
                count == COUNT + 1 && said.lines().count() == 2 * count,
                "{count}, {}",
                said.lines().count()
            );
            if round > 0 {
                say(&DISCOVERY, "ours", ours);
                say(&DISCOVERY, "peer", peer);
            }
        }
        Ok(())
    }

    /// One part.
    pub(crate) fn run(what: &str, runs: u32) -> Result<()> {
        match what {
            "initiator-attach" => attach(runs),
            "initiator-discovery" => discovery(runs),
            other => bail!("there is no part {other}"),
        }
    }
}
