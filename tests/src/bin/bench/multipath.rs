//! The crate `multipath` against `multipath` and `multipathd show`, in one machine with 200 maps of two paths each (`scsi_debug`). What a program
//! does with the library it does in its own process, on a connection that stays open; what it would have to do otherwise is to start the tool and
//! wait for it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Cmd, Lab, Mode};

use crate::Goal;
use crate::report::Row;

const SNAPSHOT: Goal =
    Goal { name: "snapshot of 200 maps (ms, warm): Kernel::list vs multipath -ll", ratio: 20.0 };
const QUERY: Goal = Goal {
    name: "one of 200 maps (ms, warm): Multipath::get_by_name on the open socket vs multipathd show map X json",
    ratio: 20.0,
};
const LIST: Goal = Goal {
    name: "200 maps through multipathd (ms, warm): Multipath::list vs multipathd show maps json",
    ratio: 1.0,
};
pub(crate) const GOALS: [Goal; 3] = [SNAPSHOT, QUERY, LIST];

/// Runs all comparisons; rows are added as they are done.
pub(crate) fn run(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    let lab = Lab::new("bench-multipath")?;
    lab.install(&programs.join("bench"))?;
    let machine = lab.machine("m1").mode(Mode::Root).memory(1536).cpus(2).build()?;
    lab.boot_all(std::slice::from_ref(&machine))?;
    machine.sh("install /lab/bin/bench /usr/local/bin/")?;
    let command = format!("bench --guest multipath-all --runs {runs} 2>&1");
    let output = machine.run(Cmd::sh(&command).deadline(Duration::from_secs(2400)))?;
    ensure!(output.success(), "{}", output.stdout);
    for goal in &GOALS {
        let values = |side: &str| -> Vec<f64> {
            let prefix = format!("{}\t{side}\t", goal.name);
            output
                .stdout
                .lines()
                .filter_map(|line| line.strip_prefix(prefix.as_str())?.parse().ok())
                .collect()
        };
        println!("multipath: {}: {:?} against {:?}", goal.name, values("ours"), values("peer"));
        rows.push(Row::new(goal, &values("ours"), &values("peer")));
    }
    Ok(())
}

/// The part that runs in the guest.
pub(crate) mod guest {
    use std::process::{Command, Stdio};

    use ::multipath::{Deadline, Kernel, MapName, MapState, Multipath};

    use super::{Context, Duration, LIST, QUERY, Result, SNAPSHOT, bail, ensure};
    use crate::report::{say, timed};

    const COUNT: usize = 200;

    fn tool(words: &[&str]) -> Result<String> {
        let (program, words) = words.split_first().context("no program")?;
        let output = Command::new(program).args(words).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{program} {words:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    fn setup(maps: &Multipath, kernel: &Kernel) -> Result<()> {
        std::fs::create_dir_all("/etc/multipath")?;
        std::fs::write(
            "/etc/multipath.conf",
            "defaults {\n find_multipaths greedy\n user_friendly_names yes\n path_checker directio\n}\n",
        )?;
        tool(&["modprobe", "-a", "dm_multipath", "dm_service_time"])?;
        let luns = format!("max_luns={COUNT}");
        tool(&[
            "modprobe",
            "scsi_debug",
            "add_host=2",
            "num_tgts=1",
            &luns,
            "vpd_use_hostno=0",
            "dev_size_mb=8",
            "delay=0",
        ])?;
        tool(&["udevadm", "settle", "--timeout=900"])?;
        tool(&["multipathd"])?;
        let deadline = Deadline::after(Duration::from_secs(900));
        let whole = |list: Vec<MapState>| list.len() == COUNT && list.iter().all(|map| map.working() == 2);
        // multipathd does not tell when it has taken all up. The kernel is asked first: each question keeps the daemon from its work.
        while !(whole(kernel.list()?) && maps.list().is_ok_and(whole)) {
            ensure!(deadline.pause(Duration::from_secs(2)), "there are no {COUNT} maps with two paths");
        }
        Ok(())
    }

    /// Everything; both sides see the same maps, or the numbers say nothing.
    pub(crate) fn run(what: &str, runs: u32) -> Result<()> {
        if what != "multipath-all" {
            bail!("there is no part {what:?}");
        }
        let (maps, kernel) = (Multipath::new()?.with_timeout(Duration::from_secs(30)), Kernel::new());
        setup(&maps, &kernel)?;
        let all = kernel.list()?;
        let drawn = tool(&["multipath", "-ll"])?;
        let named = all.iter().filter(|map| drawn.contains(&map.wwid)).count();
        ensure!(all.len() == COUNT && named == COUNT, "{} maps, {named} of them in multipath -ll", all.len());
        let name: MapName = all.get(COUNT / 2).context("no map")?.name.parse()?;
        for round in 0..=runs {
            let ours = timed(|| {
                let list = kernel.list()?;
                ensure!(list.len() == COUNT && list.iter().all(|map| map.working() == 2), "a map is missing");
                Ok(())
            })?;
            let peer = timed(|| tool(&["multipath", "-ll"]).map(drop))?;
            if round > 0 {
                say(&SNAPSHOT, "ours", ours);
                say(&SNAPSHOT, "peer", peer);
            }
        }
        // So short that a few say little.
        for round in 0..=runs * 8 {
            let ours = timed(|| maps.get_by_name(&name)?.map(drop).context("no such map"))?;
            let peer = timed(|| tool(&["multipathd", "show", "map", name.as_str(), "json"]).map(drop))?;
            if round > 0 {
                say(&QUERY, "ours", ours);
                say(&QUERY, "peer", peer);
            }
        }
        for round in 0..=runs {
            let ours = timed(|| {
                ensure!(maps.list()?.len() == COUNT, "a map is missing");
                Ok(())
            })?;
            let peer = timed(|| tool(&["multipathd", "show", "maps", "json"]).map(drop))?;
            if round > 0 {
                say(&LIST, "ours", ours);
                say(&LIST, "peer", peer);
            }
        }
        Ok(())
    }
}
