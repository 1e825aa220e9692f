//! The crate `lio` against `targetctl`, `targetcli` and plain system calls, in one machine. What a program does with the library it does in
//! its own process; what it would have to do otherwise is to start the tool and wait for it. Both are timed by the same program in the guest.
//!
//! All of it with ramdisks that keep nothing, one portal group, and one ACL that sees all LUNs. `rcu_expedited` is off unless a row says
//! otherwise. targetctl's mapped LUNs above 255 fail (`Creating MappedLUN object 256 failed, skipped`): at 512 it does less than we do.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Cmd, Lab, Mode};

use crate::Goal;
use crate::report::Row;

const fn goal(name: &'static str, ratio: f64) -> Goal {
    Goal { name, ratio }
}

const APPLY_255: Goal = goal("apply of 255 LUNs (ms): Lio::ensure vs targetctl restore", 100.0);
const APPLY_512: Goal = goal("apply of 512 LUNs (ms): Lio::ensure vs targetctl restore", 100.0);
const REMOVE_255: Goal = goal("removal of 255 LUNs, final (ms): Lio::remove vs targetctl clear", 4.0);
const REMOVE_512: Goal = goal("removal of 512 LUNs, final (ms): Lio::remove vs targetctl clear", 4.0);
const FAST_255: Goal =
    goal("removal of 255 LUNs, final, rcu_expedited on our side (ms): Lio::remove vs targetctl clear", 4.0);
const FAST_512: Goal =
    goal("removal of 512 LUNs, final, rcu_expedited on our side (ms): Lio::remove vs targetctl clear", 4.0);
const AGAIN_255: Goal = goal("nothing to change, 255 LUNs (ms): Lio::ensure vs start of targetcli", 50.0);
const AGAIN_512: Goal =
    goal("nothing to change, 512 LUNs (ms): Lio::ensure vs start of targetcli, which fails there", 50.0);
const FLOOR: Goal =
    goal("apply of 4096 LUNs (ms): Lio::ensure vs plain system calls on 16 threads, times 1.3", 1.0);
const CALLS: Goal = goal("system calls for each LUN of an apply (25 at most): Lio::ensure vs 25", 1.0);
pub(crate) const GOALS: [Goal; 10] =
    [CALLS, FLOOR, AGAIN_255, AGAIN_512, APPLY_255, REMOVE_255, FAST_255, APPLY_512, REMOVE_512, FAST_512];

/// How often what takes minutes is measured.
const FEW: u32 = 3;

/// Runs all comparisons; rows are added as they are done.
pub(crate) fn run(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    let lab = Lab::new("bench-lio")?;
    lab.install(&programs.join("bench"))?;
    let machine = lab.machine("l1").mode(Mode::Root).memory(2048).cpus(2).build()?;
    lab.boot_all(std::slice::from_ref(&machine))?;
    machine
        .sh("install /lab/bin/bench /usr/local/bin/; modprobe target_core_mod; modprobe iscsi_target_mod")?;
    // One restore of 512 takes targetctl five minutes: three times is enough.
    for (what, runs, goals) in [
        ("lio-calls", runs, &[CALLS][..]),
        ("lio-floor", runs, &[FLOOR]),
        ("lio-again-255", runs, &[AGAIN_255]),
        ("lio-again-512", runs, &[AGAIN_512]),
        ("lio-255", runs, &[APPLY_255, REMOVE_255, FAST_255]),
        ("lio-512", FEW, &[APPLY_512, REMOVE_512, FAST_512]),
    ]
    .into_iter()
    .filter(|(what, ..)| crate::wanted(what))
    {
        let command = format!("bench --guest {what} --runs {}", runs.max(5));
        let output = machine.run(Cmd::sh(&format!("{command} 2>&1")).deadline(Duration::from_secs(5400)))?;
        if !output.success() {
            println!("lio: {what} failed: {}", output.stdout);
        }
        for goal in goals {
            let values = |side: &str| -> Vec<f64> {
                let prefix = format!("{}\t{side}\t", goal.name);
                output
                    .stdout
                    .lines()
                    .filter_map(|line| line.strip_prefix(prefix.as_str())?.parse().ok())
                    .collect()
            };
            let (ours, peer) = (values("ours"), values("peer"));
            println!("lio: {}: {ours:?} against {peer:?}", goal.name);
            // A part that broke off has too few for a median.
            let enough = goal.name == CALLS.name || ours.len().min(peer.len()) >= usize::try_from(runs)?;
            rows.push(if enough { Row::new(goal, &ours, &peer) } else { Row::failed(goal) });
        }
    }
    Ok(())
}

/// The part that runs in the guest.
pub(crate) mod guest {
    use crate::report::{say, timed};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ::lio::{
        AclSpec, Backing, BackstoreSpec, Bytes, GracePeriods, Iqn, Lio, Lun, Memory, Removal, TargetSpec,
        UnitSerial,
    };

    use super::{
        AGAIN_255, AGAIN_512, APPLY_255, APPLY_512, CALLS, Context, FAST_255, FAST_512, FEW, FLOOR, Goal,
        REMOVE_255, REMOVE_512, Result, bail, ensure,
    };

    const TARGET: &str = "/sys/kernel/config/target";
    const NAME: &str = "iqn.2026-01.org.sankit.bench:lio";
    const HOST: &str = "iqn.2026-01.org.sankit.bench:host";
    const FILE: &str = "/var/tmp/saveconfig.json";

    fn tool(words: &[&str]) -> Result<String> {
        let (program, words) = words.split_first().context("no program")?;
        let output = Command::new(program).args(words).stdin(Stdio::null()).output()?;
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {words:?}: {said}");
        Ok(said)
    }

    fn serial(n: u64) -> String {
        format!("{n:08x}-0000-4000-8000-000000000000")
    }

    fn spec(luns: u64) -> Result<TargetSpec> {
        let mut spec = TargetSpec::new(NAME.parse()?).with_acl(AclSpec::new(HOST.parse()?));
        for n in 0..luns {
            let backing = Backing::Ramdisk { size: Bytes(1 << 20), memory: Memory::Null };
            let serial: UnitSerial = serial(n).parse()?;
            let disk = BackstoreSpec::new(format!("disk{n}").parse()?, backing).with_serial(serial);
            spec = spec.with_lun(Lun::try_from(n)?, disk);
        }
        Ok(spec)
    }

    /// The same for targetctl.
    fn saveconfig(luns: u64) -> String {
        let disk = |n| {
            serde_json::json!({"name": format!("disk{n}"), "plugin": "ramdisk", "size": 1 << 20, "nullio": true,
                "wwn": serial(n), "attributes": {}})
        };
        let lun = |n| serde_json::json!({"index": n, "alias": format!("{n:010x}"), "storage_object": format!("/backstores/ramdisk/disk{n}")});
        let mapped = |n| serde_json::json!({"index": n, "tpg_lun": n, "alias": format!("{n:010x}"), "write_protect": false});
        serde_json::json!({
            "fabric_modules": [],
            "storage_objects": (0..luns).map(disk).collect::<Vec<_>>(),
            "targets": [{"fabric": "iscsi", "wwn": NAME, "tpgs": [{
                "tag": 1, "enable": true, "attributes": {"authentication": 0}, "parameters": {}, "portals": [],
                "luns": (0..luns).map(lun).collect::<Vec<_>>(),
                "node_acls": [{"node_wwn": HOST, "attributes": {}, "mapped_luns": (0..luns).map(mapped).collect::<Vec<_>>()}],
            }]}],
        })
        .to_string()
    }

    fn count(luns: usize) -> Result<()> {
        let dir = format!("{TARGET}/iscsi/{NAME}/tpgt_1");
        let names = fs::read_dir(format!("{dir}/lun"))?.count();
        ensure!(names == luns, "{names} LUNs are there, {luns} should be");
        ensure!(fs::read_to_string(format!("{dir}/enable"))?.trim() == "1", "the target does not serve");
        Ok(())
    }

    fn again(luns: u64, runs: u32, goal: &Goal) -> Result<()> {
        let (spec, lio) = (spec(luns)?, Lio::new()?.with_removal(Removal::Final));
        lio.ensure(&spec)?;
        count(usize::try_from(luns)?)?;
        for round in 0..=runs {
            let ours = timed(|| {
                ensure!(!lio.ensure(&spec)?, "a second ensure changed something");
                Ok(())
            })?;
            // Above 255 mapped LUNs it starts, reads all, and fails: that takes its time too.
            let start = timed(|| {
                Command::new("targetcli").args(["/", "pwd"]).stdin(Stdio::null()).output()?;
                Ok(())
            })?;
            if round > 0 {
                say(goal, "ours", ours);
                say(goal, "peer", start);
            }
        }
        Ok(lio.with_grace_periods(GracePeriods::Expedited).remove(&spec.iqn).map(drop)?)
    }

    fn compare(luns: u64, runs: u32, goals: [&Goal; 3]) -> Result<()> {
        let [apply, remove, fast] = goals;
        // The first round warms up, where it does not take longer than all others of a smaller number.
        let first = u32::from(runs == FEW);
        let (spec, lio) = (spec(luns)?, Lio::new()?.with_removal(Removal::Final));
        let expedited = lio.clone().with_grace_periods(GracePeriods::Expedited);
        let all = usize::try_from(luns)?;
        fs::write(FILE, saveconfig(luns))?;
        for round in first..=runs {
            let ours = timed(|| Ok(lio.ensure(&spec).map(drop)?))?;
            count(all)?;
            let gone = timed(|| Ok(lio.remove(&spec.iqn).map(drop)?))?;
            lio.ensure(&spec)?;
            let quick = timed(|| Ok(expedited.remove(&spec.iqn).map(drop)?))?;
            // What it cannot do it says and goes on; its code is 1 then.
            let restored = timed(|| {
                Command::new("targetctl").args(["restore", FILE]).stdin(Stdio::null()).output()?;
                Ok(())
            })?;
            count(all)?;
            let cleared = timed(|| tool(&["targetctl", "clear"]).map(drop))?;
            if round > 0 {
                for (goal, ours, peer) in
                    [(apply, ours, restored), (remove, gone, cleared), (fast, quick, cleared)]
                {
                    say(goal, "ours", ours);
                    say(goal, "peer", peer);
                }
            }
        }
        Ok(())
    }

    /// The least there is to do, without a library: directories and values one after the other, links on 16 threads.
    fn plain(luns: u64) -> Result<()> {
        let group = format!("{TARGET}/iscsi/{NAME}/tpgt_1");
        let acl = format!("{group}/acls/{HOST}");
        for dir in [format!("{TARGET}/iscsi/{NAME}"), group.clone(), acl.clone()] {
            fs::create_dir(dir)?;
        }
        // Backstores on threads too: it is the faster way, and the other side has it.
        beside(luns, |n| {
            let dir = format!("{TARGET}/core/rd_mcp_{n}/disk{n}");
            fs::create_dir(format!("{TARGET}/core/rd_mcp_{n}"))?;
            fs::create_dir(&dir)?;
            fs::write(format!("{dir}/control"), "rd_pages=256,rd_nullio=1")?;
            fs::write(format!("{dir}/enable"), "1")?;
            fs::write(format!("{dir}/wwn/vpd_unit_serial"), serial(n))?;
            Ok(())
        })?;
        for n in 0..luns {
            fs::create_dir(format!("{group}/lun/lun_{n}"))?;
        }
        beside(luns, |n| {
            let device = format!("{TARGET}/core/rd_mcp_{n}/disk{n}");
            Ok(symlink(device, format!("{group}/lun/lun_{n}/backstore"))?)
        })?;
        for n in 0..luns {
            fs::create_dir(format!("{acl}/lun_{n}"))?;
            symlink(format!("{group}/lun/lun_{n}"), format!("{acl}/lun_{n}/lun"))?;
        }
        fs::write(format!("{group}/attrib/authentication"), "0")?;
        fs::write(format!("{group}/enable"), "1")?;
        Ok(())
    }

    fn beside(luns: u64, work: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
        let next = AtomicUsize::new(0);
        let lane = || -> Result<()> {
            loop {
                let n = u64::try_from(next.fetch_add(1, Ordering::Relaxed))?;
                if n >= luns {
                    return Ok(());
                }
                work(n)?;
            }
        };
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..16).map(|_| scope.spawn(lane)).collect();
            lanes.into_iter().try_for_each(|lane| lane.join().unwrap_or_else(|_| bail!("a thread panicked")))
        })
    }

    fn floor(runs: u32) -> Result<()> {
        const LUNS: u64 = 4096;
        let spec = spec(LUNS)?;
        let lio = Lio::new()?.with_removal(Removal::Final).with_grace_periods(GracePeriods::Expedited);
        // Applying is timed as it is by default; only the clearing up in between is hurried.
        let plainly = Lio::new()?;
        for round in 0..=runs {
            let ours = timed(|| Ok(plainly.ensure(&spec).map(drop)?))?;
            count(usize::try_from(LUNS)?)?;
            lio.remove(&spec.iqn)?;
            let peer = timed(|| plain(LUNS))?;
            count(usize::try_from(LUNS)?)?;
            lio.remove(&spec.iqn)?;
            for n in 0..LUNS {
                // What nobody noted as ours stays with its adapter.
                fs::remove_dir(format!("{TARGET}/core/rd_mcp_{n}/disk{n}")).ok();
                fs::remove_dir(format!("{TARGET}/core/rd_mcp_{n}")).ok();
            }
            if round > 0 {
                say(&FLOOR, "ours", ours);
                say(&FLOOR, "peer", peer * 1.3);
            }
        }
        Ok(())
    }

    /// Runs itself under strace, with 10 LUNs and with 110: a hundredth of what is more is one.
    fn calls() -> Result<()> {
        let own = std::env::current_exe()?;
        let lio = Lio::new()?;
        let name: Iqn = NAME.parse()?;
        let count = |luns: u32| -> Result<f64> {
            let (file, times) = (format!("/var/tmp/strace-{luns}"), luns.to_string());
            let own = own.to_str().context("a path")?;
            tool(&["strace", "-f", "-o", &file, own, "--guest", "lio-apply", "--runs", &times])?;
            lio.remove(&name)?;
            let text = fs::read_to_string(&file)?;
            // A call that was interrupted by another thread's takes two lines.
            let lines = text.lines().filter(|line| {
                !line.contains("<unfinished") && !line.contains("+++") && !line.contains("---")
            });
            u32::try_from(lines.count()).map(f64::from).context("few")
        };
        let (few, many) = (count(10)?, count(110)?);
        say(&CALLS, "ours", (many - few) / 100.0);
        say(&CALLS, "peer", 25.0);
        Ok(())
    }

    /// One part.
    pub(crate) fn run(what: &str, runs: u32) -> Result<()> {
        match what {
            "lio-255" => compare(255, runs, [&APPLY_255, &REMOVE_255, &FAST_255]),
            "lio-512" => compare(512, FEW, [&APPLY_512, &REMOVE_512, &FAST_512]),
            "lio-again-255" => again(255, runs, &AGAIN_255),
            "lio-again-512" => again(512, runs, &AGAIN_512),
            "lio-floor" => floor(runs),
            "lio-calls" => calls(),
            "lio-apply" => Ok(Lio::new()?.ensure(&spec(runs.into())?).map(drop)?),
            other => bail!("there is no part {other}"),
        }
    }
}
