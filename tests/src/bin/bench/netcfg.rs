//! The crate `netcfg` against `ip`, in one machine: a thousand VLANs on a card that is none (dummy), whose removal takes them all along.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Cmd, Lab};

use crate::Goal;
use crate::report::Row;

const BATCH: Goal = Goal {
    name: "create 1000 VLANs (ms, warm; 1.25x of the peer at most): Netcfg::ensure vs ip -batch",
    ratio: 0.8,
};
const EACH: Goal =
    Goal { name: "create 1000 VLANs (ms, warm): Netcfg::ensure vs one ip process each", ratio: 8.0 };
const DUMP: Goal = Goal {
    name: "nothing to do, 1000 VLANs (ms, warm; 2x of the peer at most): Netcfg::ensure vs one dump of the links",
    ratio: 0.5,
};
const CHECK: Goal = Goal {
    name: "nothing to do, 1000 VLANs (ms, warm): Netcfg::ensure vs ip -d -j link compared by python3",
    ratio: 10.0,
};
/// The same look by the tool that has one: it compares what `/etc/network/interfaces` says with what is.
const IFQUERY: Goal = Goal {
    name: "nothing to do, 1000 VLANs (ms, warm): Netcfg::ensure vs ifquery --check of ifupdown2",
    ratio: 20.0,
};
pub(crate) const GOALS: [Goal; 5] = [BATCH, EACH, DUMP, CHECK, IFQUERY];

/// Runs all comparisons; rows are added as they are done.
pub(crate) fn run(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    let lab = Lab::new("bench-netcfg")?;
    lab.install(&programs.join("bench"))?;
    let machine = lab.machine("n1").root("ifupdown2").memory(1024).cpus(2).build()?;
    lab.boot_all(std::slice::from_ref(&machine))?;
    // udevd would work for minutes on the events of what has been removed again.
    machine.sh("install /lab/bin/bench /usr/local/bin/; modprobe -a dummy 8021q; pkill -x systemd-udevd")?;
    // Creations differ more from run to run than anything else here.
    let most = runs.max(9);
    for (what, goals, runs) in [
        ("netcfg-create", &[BATCH][..], most),
        ("netcfg-same", &[DUMP, CHECK], most),
        ("netcfg-ifquery", &[IFQUERY], runs),
        ("netcfg-each", &[EACH], runs),
    ]
    .into_iter()
    .filter(|(what, ..)| crate::wanted(what))
    {
        let command = format!("bench --guest {what} --runs {runs} 2>&1");
        let output = machine.run(Cmd::sh(&command).deadline(Duration::from_secs(2400)))?;
        if !output.success() {
            println!("netcfg: {what} failed: {}", output.stdout);
            continue;
        }
        for goal in goals {
            let values = |side: &str| -> Vec<f64> {
                let prefix = format!("{}\t{side}\t", goal.name);
                let lines = output.stdout.lines();
                lines.filter_map(|line| line.strip_prefix(prefix.as_str())?.parse().ok()).collect()
            };
            rows.push(Row::new(goal, &values("ours"), &values("peer")));
        }
    }
    Ok(())
}

/// The part that runs in the guest.
pub(crate) mod guest {
    use crate::report::{say, timed};
    use std::process::{Command, Stdio};

    use super::{BATCH, CHECK, Context, DUMP, EACH, IFQUERY, Result, bail, ensure};
    use ::netcfg::{Deadline, Host, LinkSpec, NetSpec, Netcfg};
    use host::nl::{Message, Protocol};

    const COUNT: u16 = 1000;
    const BATCH_FILE: &str = "/var/tmp/vlans.batch";

    fn tool(words: &[&str]) -> Result<()> {
        let (program, words) = words.split_first().context("no program")?;
        let output = Command::new(program).args(words).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {words:?}: {said}");
        Ok(())
    }

    fn spec() -> Result<NetSpec> {
        let mut spec = NetSpec::default();
        for id in 1..=COUNT {
            let vlan = LinkSpec::vlan(format!("p0.{id}").parse()?, "p0".parse()?, id.try_into()?);
            spec = spec.with_link(vlan);
        }
        Ok(spec)
    }

    fn words(id: u16) -> String {
        format!("link add link p0 name p0.{id} up type vlan id {id}")
    }

    /// The card without any VLAN.
    fn fresh() -> Result<()> {
        let _ = tool(&["ip", "link", "del", "p0"]);
        tool(&["ip", "link", "add", "p0", "up", "type", "dummy"])
    }

    fn all_there(net: &Netcfg) -> Result<()> {
        let there = net.list()?.links.values().filter(|l| l.name.starts_with("p0.") && l.up).count();
        ensure!(there == usize::from(COUNT), "{there} VLANs");
        Ok(())
    }

    fn create(runs: u32) -> Result<()> {
        let (net, spec) = (Netcfg::on(&Host::live())?, spec()?);
        let batch: Vec<String> = (1..=COUNT).map(words).collect();
        std::fs::write(BATCH_FILE, batch.join("\n") + "\n")?;
        for round in 0..=runs {
            fresh()?;
            let ours = timed(|| Ok(net.ensure(&spec).map(drop)?))?;
            all_there(&net)?;
            fresh()?;
            let peer = timed(|| tool(&["ip", "-batch", BATCH_FILE]))?;
            all_there(&net)?;
            if round > 0 {
                say(&BATCH, "ours", ours);
                say(&BATCH, "peer", peer);
            }
        }
        Ok(())
    }

    fn each(runs: u32) -> Result<()> {
        let (net, spec) = (Netcfg::on(&Host::live())?, spec()?);
        for _ in 0..runs {
            fresh()?;
            let ours = timed(|| Ok(net.ensure(&spec).map(drop)?))?;
            fresh()?;
            let peer = timed(|| {
                (1..=COUNT).try_for_each(|id| {
                    let line = words(id);
                    tool(&std::iter::once("ip").chain(line.split(' ')).collect::<Vec<_>>())
                })
            })?;
            all_there(&net)?;
            say(&EACH, "ours", ours);
            say(&EACH, "peer", peer);
        }
        Ok(())
    }

    fn same(runs: u32) -> Result<()> {
        // What a script does: read all, look at each.
        const LOOK: &str = "import json,subprocess\n\
            links={l['ifname']:l for l in json.loads(subprocess.check_output(['ip','-d','-j','link','show']))}\n\
            for n in range(1,1001):\n\
            \x20l=links['p0.%d'%n]\n\
            \x20assert l['linkinfo']['info_data']['id']==n and 'UP' in l['flags'] and l['link']=='p0'\n";
        let (host, spec) = (Host::live(), spec()?);
        let net = Netcfg::on(&host)?;
        fresh()?;
        net.ensure(&spec)?;
        all_there(&net)?;
        for round in 0..=runs {
            let ours = timed(|| {
                ensure!(!net.ensure(&spec)?, "there was something to do");
                Ok(())
            })?;
            let dump = timed(|| {
                let deadline = Deadline::after(std::time::Duration::from_secs(60));
                let mut socket = host.nl().open(Protocol::Route)?;
                // RTM_GETLINK, no counters (IFLA_EXT_MASK 29, RTEXT_FILTER_SKIP_STATS 8).
                let links =
                    socket.dump(&Message::new(18, 0).with_header(&[0; 16]).with_u32(29, 8), deadline)?;
                ensure!(links.len() > usize::from(COUNT), "{} links", links.len());
                Ok(())
            })?;
            let script = timed(|| tool(&["python3", "-c", LOOK]))?;
            if round > 0 {
                say(&DUMP, "ours", ours);
                say(&DUMP, "peer", dump);
                say(&CHECK, "ours", ours);
                say(&CHECK, "peer", script);
            }
        }
        Ok(())
    }

    fn ifquery(runs: u32) -> Result<()> {
        // Of a VLAN with a dot in its name ifupdown2 looks only whether it is there (addons/vlan.py).
        let net = Netcfg::on(&Host::live())?;
        let mut spec = NetSpec::default();
        for id in 1..=COUNT {
            spec = spec.with_link(LinkSpec::vlan(format!("v{id}").parse()?, "p0".parse()?, id.try_into()?));
        }
        fresh()?;
        net.ensure(&spec)?;
        let stanza =
            |id| format!("auto v{id}\niface v{id} inet manual\n\tvlan-raw-device p0\n\tvlan-id {id}\n");
        std::fs::write("/var/tmp/interfaces", (1..=COUNT).map(stanza).collect::<Vec<_>>().join("\n"))?;
        const QUERY: [&str; 5] = ["ifquery", "--check", "-a", "-i", "/var/tmp/interfaces"];
        let found = Command::new("ifquery").args(&QUERY[1..]).stdin(Stdio::null()).output()?;
        let passed = String::from_utf8_lossy(&found.stdout).matches("[pass]").count();
        ensure!(
            found.status.success() && passed >= usize::from(COUNT),
            "ifquery finds {passed} to be as they should"
        );
        for round in 0..=runs {
            let ours = timed(|| {
                ensure!(!net.ensure(&spec)?, "there was something to do");
                Ok(())
            })?;
            let peer = timed(|| tool(&QUERY))?;
            if round > 0 {
                say(&IFQUERY, "ours", ours);
                say(&IFQUERY, "peer", peer);
            }
        }
        Ok(())
    }

    /// One part.
    pub(crate) fn run(what: &str, runs: u32) -> Result<()> {
        match what {
            "netcfg-create" => create(runs),
            "netcfg-each" => each(runs),
            "netcfg-same" => same(runs),
            "netcfg-ifquery" => ifquery(runs),
            other => bail!("there is no part {other}"),
        }
    }
}
