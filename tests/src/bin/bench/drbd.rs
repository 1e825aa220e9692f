//! The crate `drbd` against `drbdadm`, `drbdsetup` and `drbdmeta`, in one machine. What a program does with the library it does in its own
//! process; what it would have to do otherwise is to start the tool and wait for it. Both are timed by the same program in the guest.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Cmd, Lab, Mode};

use crate::Goal;
use crate::report::Row;

const STATUS: Goal =
    Goal { name: "snapshot of 100 resources (ms, warm): Drbd::list vs drbdsetup status", ratio: 5.0 };
const ROLE: Goal =
    Goal { name: "role of 1 of 100 resources (ms, warm): Drbd::role vs drbdsetup role", ratio: 50.0 };
const ADJUST: Goal = Goal {
    name: "nothing to adjust, 100 resources (ms, warm): Drbd::ensure_all vs drbdadm adjust all",
    ratio: 20.0,
};
const UP: Goal =
    Goal { name: "up of 50 resources (ms, warm): Drbd::ensure_all vs drbdadm up all", ratio: 3.0 };
const CREATE: Goal =
    Goal { name: "create-md, sparse 1 TiB (ms, warm): Metadata::create vs drbdmeta create-md", ratio: 2.0 };
const CALLS: Goal =
    Goal { name: "syscalls of a snapshot of 100 resources (12 at most): Drbd::list vs 12", ratio: 1.0 };
const PARSE: Goal = Goal {
    name: "drbd.conf of 1000 resources (ms, warm): Conf::load, check and specs vs drbdadm dump",
    ratio: 3.0,
};
/// What is measured counts only if the watch ends in the kernel's state, with none lost or the loss told and made up for.
const EVENTS: Goal = Goal {
    name: "10,000 queued events (ms, warm): Watch takes all or reads the state again vs the kernel makes them",
    ratio: 1.0,
};
pub(crate) const GOALS: [Goal; 8] = [STATUS, ROLE, ADJUST, UP, CREATE, CALLS, PARSE, EVENTS];

/// Runs all comparisons; rows are added as they are done.
pub(crate) fn run(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    let lab = Lab::new("bench-drbd")?;
    lab.install(&programs.join("bench"))?;
    let machine = lab.machine("d1").mode(Mode::Root).memory(1536).cpus(2).build()?;
    lab.boot_all(std::slice::from_ref(&machine))?;
    machine.sh("install /lab/bin/bench /usr/local/bin/; modprobe drbd; modprobe loop; modprobe crc32c")?;
    for (what, goals) in [
        ("setup", &[][..]),
        ("parse", &[PARSE]),
        ("create", &[CREATE]),
        ("look", &[STATUS, ROLE, ADJUST]),
        ("calls", &[CALLS]),
        ("up", &[UP]),
        ("events", &[EVENTS]),
    ] {
        let command = format!("bench --guest {what} --runs {runs}");
        let output = machine.run(Cmd::sh(&format!("{command} 2>&1")).deadline(Duration::from_secs(2400)))?;
        if !output.success() {
            println!("drbd: {what} failed: {}", output.stdout);
            ensure!(what != "setup", "the resources could not be made");
            continue;
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
            println!("drbd: {}: {:?} against {:?}", goal.name, values("ours"), values("peer"));
            rows.push(Row::new(goal, &values("ours"), &values("peer")));
        }
    }
    Ok(())
}

/// The part that runs in the guest.
pub(crate) mod guest {
    use crate::report::{say, timed};
    use std::process::{Command, Stdio};

    use super::{
        ADJUST, CALLS, CREATE, Context, Duration, EVENTS, PARSE, ROLE, Result, STATUS, UP, bail, ensure,
    };
    use ::drbd::conf::Conf;
    use ::drbd::{
        Deadline, DiskOptions, Drbd, Event, Host, Metadata, Minor, NetOptions, Overwrite, ResourceSpec,
        ResourceState, Volume, VolumeSpec,
    };

    const COUNT: u16 = 100;
    const UPS: usize = 50;
    const DIR: &str = "/var/tmp/bench";

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

    /// drbdadm for DRBD 9: that of 8.4 has room for some hundred resources in its table of names, and then ends.
    fn dump(file: &str) -> Result<String> {
        let output = Command::new("drbdadm")
            .args(["-c", file, "dump"])
            .env("DRBD_DRIVER_VERSION_OVERRIDE", "9.2.0")
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The resources: each a loop device of 8 MiB, and a peer that never answers.
    fn specs() -> Result<Vec<ResourceSpec>> {
        (0..COUNT)
            .map(|n| {
                let (local, peer) = (7000 + n, 8000 + n);
                let volume = VolumeSpec::new(Volume(0), Minor::new(n.into())?, format!("/dev/loop{n}"));
                Ok(ResourceSpec::new(
                    format!("r{n}").parse()?,
                    format!("127.0.0.1:{local}").parse()?,
                    format!("127.0.0.1:{peer}").parse()?,
                )
                .with_net(NetOptions::new().with("max-buffers", "8000")?)
                .with_disk(DiskOptions::new().with("resync-rate", "10M")?)
                .with_volume(volume))
            })
            .collect()
    }

    /// The same for drbdadm.
    fn conf(count: usize) -> String {
        let mut text = "global { usage-count no; disable-ip-verification; }\n".to_owned();
        for n in 0..count {
            text.push_str(&format!(
                "resource r{n} {{ net {{ protocol C; max-buffers 8000; }} disk {{ resync-rate 10M; }}\n\
                 on d1 {{ device /dev/drbd{n}; disk /dev/loop{n}; meta-disk internal; address 127.0.0.1:{}; }}\n\
                 on d2 {{ device /dev/drbd{n}; disk /dev/loop{n}; meta-disk internal; address 127.0.0.1:{}; }} }}\n",
                7000 + n,
                8000 + n
            ));
        }
        text
    }

    fn drbd() -> Result<Drbd> {
        let drbd = Drbd::new()?.with_timeout(Duration::from_secs(300));
        drbd.set_helper(std::path::Path::new("/nonexistent"))?;
        Ok(drbd)
    }

    fn take_down(drbd: &Drbd) -> Result<()> {
        for state in drbd.list()? {
            drbd.remove(&state.name)?;
        }
        Ok(())
    }

    fn setup() -> Result<()> {
        std::fs::create_dir_all(DIR)?;
        tool(&["hostname", "d1"])?;
        std::fs::write(format!("{DIR}/all.conf"), conf(COUNT.into()))?;
        std::fs::write(format!("{DIR}/some.conf"), conf(UPS))?;
        for (n, spec) in specs()?.iter().enumerate() {
            let file = format!("{DIR}/{n}.img");
            std::fs::File::create(&file)?.set_len(8 << 20)?;
            tool(&["losetup", &format!("/dev/loop{n}"), &file])?;
            Metadata::create(&Host::live(), spec.volumes.first().context("no volume")?, Overwrite::Always)?;
        }
        drbd()?.ensure_all(&specs()?)?;
        Ok(())
    }

    /// Read, checked, and made into what would be set up, against read and printed.
    fn parse(runs: u32) -> Result<()> {
        const MANY: usize = 1000;
        let file = format!("{DIR}/many.conf");
        // drbdadm makes node ids of the addresses, and needs two that differ.
        let other = |line: &str| match line.starts_with("on d2") {
            true => line.replace("127.0.0.1", "127.0.0.2"),
            false => line.to_owned(),
        };
        let text: Vec<_> = conf(MANY).lines().map(other).collect();
        std::fs::write(&file, text.join("\n"))?;
        for round in 0..=runs {
            let mut count = 0;
            let ours = timed(|| {
                let conf = Conf::load(&Host::live(), &file)?;
                ensure!(conf.check().is_empty(), "{:?}", conf.check());
                count = conf.specs("d1")?.len();
                Ok(())
            })?;
            let mut text = String::new();
            let peer = timed(|| {
                text = dump(&file)?;
                Ok(())
            })?;
            let theirs = text.lines().filter(|line| line.starts_with("resource ")).count();
            ensure!(count == MANY && theirs == MANY, "{count} and {theirs} resources");
            if round > 0 {
                say(&PARSE, "ours", ours);
                say(&PARSE, "peer", peer);
            }
        }
        Ok(())
    }

    fn create(runs: u32) -> Result<()> {
        let file = format!("{DIR}/large.img");
        std::fs::File::create(&file)?.set_len(1 << 40)?;
        tool(&["losetup", "/dev/loop200", &file])?;
        let volume = VolumeSpec::new(Volume(0), Minor::new(999)?, "/dev/loop200");
        // As new each time, and what the last run wrote is on the disk.
        let fresh = || -> Result<()> {
            Metadata::remove(&Host::live(), &volume.disk, &volume.meta)?;
            tool(&[
                "fallocate",
                "-p",
                "-o",
                &((1_u64 << 40) - (64 << 20)).to_string(),
                "-l",
                &(64 << 20).to_string(),
                &file,
            ])?;
            tool(&["sync"]).map(drop)
        };
        for round in 0..=runs {
            fresh()?;
            let ours = timed(|| Ok(Metadata::create(&Host::live(), &volume, Overwrite::Never).map(drop)?))?;
            fresh()?;
            let peer = timed(|| {
                tool(&["drbdmeta", "--force", "999", "v08", "/dev/loop200", "internal", "create-md"])
                    .map(drop)
            })?;
            ensure!(Metadata::exists(&Host::live(), &volume.disk, volume.minor)?, "drbdmeta made none");
            if round > 0 {
                say(&CREATE, "ours", ours);
                say(&CREATE, "peer", peer);
            }
        }
        tool(&["losetup", "-d", "/dev/loop200"]).map(drop)
    }

    fn look(runs: u32) -> Result<()> {
        let (drbd, specs) = (drbd()?, specs()?);
        let name = specs.get(57).context("no spec")?.name.clone();
        let all = format!("{DIR}/all.conf");
        // Both sides see the same, and have nothing to do.
        ensure!(drbd.list()?.len() == usize::from(COUNT) && !drbd.ensure_all(&specs)?, "not as set up");
        let planned = tool(&["drbdadm", "-c", &all, "-d", "adjust", "all"])?;
        let steps = planned.lines().filter(|line| line.starts_with("drbdsetup")).count();
        ensure!(steps == 0, "drbdadm would change {steps} things: {planned}");
        // So short that a few say little.
        for round in 0..=runs * 8 {
            let ours = timed(|| Ok(drbd.role(&name).map(drop)?))?;
            // That of 8.4 takes the minor.
            let peer = timed(|| tool(&["drbdsetup", "role", "57"]).map(drop))?;
            if round > 0 {
                say(&ROLE, "ours", ours);
                say(&ROLE, "peer", peer);
            }
        }
        for round in 0..=runs {
            let pairs = [
                (
                    &STATUS,
                    timed(|| Ok(drbd.list().map(drop)?))?,
                    timed(|| tool(&["drbdsetup", "status"]).map(drop))?,
                ),
                (
                    &ADJUST,
                    timed(|| Ok(drbd.ensure_all(&specs).map(drop)?))?,
                    timed(|| tool(&["drbdadm", "-c", &all, "adjust", "all"]).map(drop))?,
                ),
            ];
            for (goal, ours, peer) in pairs.iter().filter(|_| round > 0) {
                say(goal, "ours", *ours);
                say(goal, "peer", *peer);
            }
        }
        Ok(())
    }

    /// Pauses and resumes the resyncs of ten resources until 10,000 events are queued in a watch that nobody reads, then reads them.
    fn events(runs: u32) -> Result<()> {
        const EACH: usize = 1000;
        let (drbd, specs) = (drbd()?, specs()?);
        let specs = specs.get(..10).context("fewer")?;
        take_down(&drbd)?;
        drbd.ensure_all(specs)?;
        let pauses = |states: &[ResourceState]| -> Vec<(String, bool)> {
            let peers = |state: &ResourceState| {
                state.connections.iter().flat_map(|c| &c.volumes).any(|v| v.paused.user)
            };
            states.iter().map(|state| (state.name.to_string(), peers(state))).collect()
        };
        for round in 0..=runs {
            let mut watch = drbd.watch()?;
            let Some(Event::Snapshot(mut states)) =
                watch.next_before(Deadline::after(Duration::from_secs(60)))?
            else {
                bail!("no snapshot");
            };
            let peer = timed(|| {
                for n in 0..EACH {
                    for spec in specs {
                        let changed = match n % 2 {
                            0 => drbd.pause_sync(&spec.name, Volume(0))?,
                            _ => drbd.resume_sync(&spec.name, Volume(0))?,
                        };
                        ensure!(changed, "round {n}: {} was so already", spec.name);
                    }
                }
                // The last word is one that no other state has.
                drbd.pause_sync(&specs.last().context("no spec")?.name, Volume(0))?;
                Ok(())
            })?;
            let wanted = pauses(&drbd.list()?);
            let (mut told, mut is_again) = (0, false);
            let ours = timed(|| {
                let deadline = Deadline::after(Duration::from_secs(120));
                while !(is_again || told > EACH * specs.len()) || pauses(&states) != wanted {
                    match watch.next_before(deadline)?.context("not all was told")? {
                        Event::Changed { new, .. } => {
                            told += 1;
                            let place = states.iter_mut().find(|state| state.name == new.name);
                            *place.context("of no resource")? = *new;
                        }
                        Event::Resynchronised => is_again = true,
                        _ => {}
                    }
                }
                Ok(())
            })?;
            println!("{told} told, {}", if is_again { "the state was read again" } else { "none was lost" });
            drbd.resume_sync(&specs.last().context("no spec")?.name, Volume(0))?;
            if round > 0 {
                say(&EVENTS, "ours", ours);
                say(&EVENTS, "peer", peer);
            }
        }
        Ok(())
    }

    /// Runs itself under strace: once with one snapshot, once with eleven; a tenth of what is more is one.
    fn calls() -> Result<()> {
        let own = std::env::current_exe()?;
        let count = |times: &str| -> Result<f64> {
            let file = format!("{DIR}/strace-{times}");
            tool(&[
                "strace",
                "-f",
                "-o",
                &file,
                own.to_str().context("a path")?,
                "--guest",
                "list",
                "--runs",
                times,
            ])?;
            // A call that was interrupted by another thread's takes two lines.
            let text = std::fs::read_to_string(&file)?;
            let lines = text.lines().filter(|line| {
                !line.contains("<unfinished") && !line.contains("+++") && !line.contains("---")
            });
            u32::try_from(lines.count()).map(f64::from).context("few")
        };
        let (few, many) = (count("5")?, count("15")?);
        say(&CALLS, "ours", (many - few) / 10.0);
        say(&CALLS, "peer", 12.0);
        Ok(())
    }

    fn list(runs: u32) -> Result<()> {
        let drbd = Drbd::new()?;
        for _ in 0..runs {
            ensure!(drbd.list()?.len() == usize::from(COUNT), "not all");
        }
        Ok(())
    }

    fn up(runs: u32) -> Result<()> {
        let (drbd, specs) = (drbd()?, specs()?);
        let specs = specs.get(..UPS).context("fewer")?;
        let some = format!("{DIR}/some.conf");
        for round in 0..=runs {
            take_down(&drbd)?;
            let ours = timed(|| Ok(drbd.ensure_all(specs).map(drop)?))?;
            ensure!(drbd.list()?.len() == UPS, "not all are up");
            take_down(&drbd)?;
            let peer = timed(|| tool(&["drbdadm", "-c", &some, "up", "all"]).map(drop))?;
            ensure!(
                drbd.list()?.iter().all(|state| state.connections.len() == 1) && !drbd.ensure_all(specs)?,
                "drbdadm did other things"
            );
            if round > 0 {
                say(&UP, "ours", ours);
                say(&UP, "peer", peer);
            }
        }
        Ok(())
    }

    /// One part.
    pub(crate) fn run(what: &str, runs: u32) -> Result<()> {
        match what {
            "setup" => setup(),
            "parse" => parse(runs),
            "create" => create(runs),
            "look" => look(runs),
            "calls" => calls(),
            "events" => events(runs),
            "list" => list(runs),
            "up" => up(runs),
            other => bail!("there is no part {other}"),
        }
    }
}
