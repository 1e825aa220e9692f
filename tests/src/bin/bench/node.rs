//! `san-node` against the same steps by `drbdadm`, `targetcli`, `ip` and `arping` in one script, as one writes it by hand.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Cmd, Machine};

use crate::Goal;
use crate::nodes::{Nodes, SECRETS, UNITS};
use crate::report::Row;

const SERVE: Goal =
    Goal { name: "serve (ms, 1 LUN, 2 portals, warm): san-node vs drbdadm+targetcli+ip+arping", ratio: 3.0 };
const RELEASE: Goal =
    Goal { name: "release (ms, 1 LUN, 2 portals, warm): san-node vs ip+targetcli+drbdadm", ratio: 3.0 };
const STATUS: Goal =
    Goal { name: "status (ms, 2 units, warm): san-node vs ip+cryptsetup+drbdadm+targetcli", ratio: 5.0 };
pub(crate) const GOALS: [Goal; 3] = [SERVE, RELEASE, STATUS];

const UNIT: &str = UNITS[0].0;
const TARGET: &str = "iqn.2026-01.lab.sankit:vm-storage-1";
const INITIATOR: &str = "iqn.2026-01.lab.sankit:hv";
/// Address and link.
const PORTALS: [(&str, &str); 2] = [("10.1.24.10", "eth0.24"), ("10.1.25.10", "eth1.25")];
const PATIENCE: Duration = Duration::from_secs(120);

/// The same steps with Debian's tools. One `targetcli` for all of its commands, as its manual shows: that is its fastest way by far.
/// `arping` goes to the background: it would wait a second.
fn serve_script() -> String {
    let chap = SECRETS.iter().find(|(name, _)| *name == "chap").map_or("", |(_, secret)| *secret);
    let portals: String = PORTALS
        .iter()
        .map(|(address, _)| format!("/iscsi/{TARGET}/tpg1/portals create {address} 3260\n"))
        .collect();
    let addresses: String = PORTALS
        .iter()
        .map(|(address, link)| {
            format!("ip addr add {address}/24 dev {link}\narping -q -U -c 1 -I {link} {address} >/dev/null 2>&1 &\n")
        })
        .collect();
    format!(
        "set -e\ndrbdadm primary {UNIT}\n\
         targetcli <<'EOF'\n\
         /backstores/block create name={UNIT} dev=/dev/drbd0 wwn=0a1b2c3d-4e5f-4a5b-8c6d-7e8f90a1b2c3\n\
         /iscsi create {TARGET}\n\
         /iscsi/{TARGET}/tpg1 set attribute authentication=1\n\
         /iscsi/{TARGET}/tpg1/luns create /backstores/block/{UNIT}\n\
         /iscsi/{TARGET}/tpg1/acls create {INITIATOR}\n\
         /iscsi/{TARGET}/tpg1/acls/{INITIATOR} set auth userid=hv password={chap}\n\
         {portals}\
         /iscsi/{TARGET}/tpg1 enable\n\
         exit\nEOF\n{addresses}"
    )
}

fn release_script() -> String {
    let addresses: String =
        PORTALS.iter().map(|(address, link)| format!("ip addr del {address}/24 dev {link}\n")).collect();
    format!(
        "set -e\n{addresses}targetcli <<'EOF'\n/iscsi delete {TARGET}\n/backstores/block delete {UNIT}\nexit\nEOF\ndrbdadm secondary {UNIT}\n"
    )
}

const STATUS_SCRIPT: &str = "set -e\nip -d addr\ncryptsetup status VM_STORAGE_1\ncryptsetup status VM_STORAGE_2\ndrbdadm status\ntargetcli ls\n";

/// What drbdadm needs to know of what `san-node` has set up.
fn drbd_conf() -> String {
    let resource = |(number, (name, _)): (usize, &(&str, [&str; 2]))| {
        format!(
            "resource {name} {{\n  net {{ protocol C; cram-hmac-alg sha1; shared-secret \"{}\"; }}\n  device /dev/drbd{number};\n  disk /dev/mapper/{name};\n  \
             meta-disk internal;\n  on n1 {{ address 192.168.123.100:{port}; }}\n  on n2 {{ address 192.168.123.200:{port}; }}\n}}\n",
            SECRETS.iter().find(|(secret, _)| *secret == "drbd").map_or("", |(_, secret)| *secret),
            port = 7801 + number
        )
    };
    UNITS.iter().enumerate().map(resource).collect()
}

/// Two nodes in sync, with all that both sides need.
struct Pair {
    nodes: Nodes,
}

impl Pair {
    fn new(programs: &Path) -> Result<Self> {
        let pair = Self { nodes: Nodes::boot("bench", programs, 2)? };
        for node in 0..2 {
            pair.nodes.san_node(node, "apply --create-metadata")?;
        }
        for (unit, _) in UNITS {
            pair.nodes.san_node(0, &format!("serve {unit} --first-sync"))?;
            pair.nodes.san_node(0, &format!("wait {unit}"))?;
            pair.nodes.san_node(0, &format!("release {unit}"))?;
        }
        let first = pair.first()?;
        first.push("/etc/drbd.d/lab.res", drbd_conf(), 0o600)?;
        for (name, script) in
            [("serve", serve_script()), ("release", release_script()), ("status", STATUS_SCRIPT.to_owned())]
        {
            first.push(&format!("/run/peer-{name}"), script, 0o700)?;
        }
        // targetcli asks dbus for other backends. What it would do on its own is switched off: it saves time, and so do we not do it.
        first.sh(
            "[ -e /run/dbus/pid ] || { mkdir -p /run/dbus; dbus-daemon --system --fork; }; \
             targetcli set global auto_save_on_exit=false auto_add_default_portal=false auto_enable_tpgt=false loglevel_file=critical; \
             drbdadm status",
        )?;
        Ok(pair)
    }

    fn first(&self) -> Result<&Machine> {
        self.nodes.machines.first().context("there is no node")
    }

    /// How long a command takes on the first node, by that node's clock, in milliseconds.
    fn time(&self, command: &str) -> Result<f64> {
        let script = format!(
            "a=$EPOCHREALTIME; {command} >/tmp/out 2>&1; code=$?; b=$EPOCHREALTIME; echo $code $a $b; [ $code = 0 ] || cat /tmp/out"
        );
        let output = self.first()?.run(Cmd::new(["bash", "-c", script.as_str()]).deadline(PATIENCE))?;
        let mut words = output.stdout.split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse::<f64>().ok());
        match (number(), number(), number()) {
            (Some(0.0), Some(from), Some(to)) => Ok((to - from) * 1000.0),
            _ => bail!("{command} failed: {}{}", output.stdout, output.stderr),
        }
    }

    /// Shows what our last run said of its steps, where the time went.
    fn show(&self, side: usize, is_last: bool) -> Result<()> {
        if side == 0 && is_last {
            let said = self.first()?.sh("grep -v '^  lio ' /tmp/out")?;
            said.lines().for_each(|line| println!("    {line}"));
        }
        Ok(())
    }

    /// That both sides have done the same.
    fn must_be(&self, served: bool, by: &str) -> Result<()> {
        let look = format!(
            "drbdsetup role {UNIT} 2>/dev/null || drbdsetup status {UNIT} | sed -n '1s/.*role://p'; \
             cat /sys/kernel/config/target/iscsi/{TARGET}/tpgt_1/enable 2>/dev/null || echo absent; \
             ls /sys/kernel/config/target/iscsi/{TARGET}/tpgt_1/np /sys/kernel/config/target/iscsi/{TARGET}/tpgt_1/acls 2>/dev/null | grep -c '^10[.]\\|^iqn' || true; \
             ip -o addr | grep -c '10[.]1[.]2[45][.]10/' || true"
        );
        let seen = self.first()?.sh(&look)?;
        let words: Vec<&str> = seen.split_whitespace().collect();
        let is_served = matches!(words.as_slice(), [role, "1", "3", "2"] if role.starts_with("Primary"));
        let is_released =
            matches!(words.as_slice(), [role, "absent", "0", "0"] if role.starts_with("Secondary"));
        ensure!(
            if served { is_served } else { is_released },
            "{by} left {words:?} (role, enable, portals and ACLs, addresses)"
        );
        Ok(())
    }
}

/// Runs all comparisons; rows are added as they are done.
pub(crate) fn run(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    let started = Instant::now();
    let pair = Pair::new(programs)?;
    println!("node: two nodes in sync after {:.0} s", started.elapsed().as_secs_f64());
    let ours = |verb: &str| format!("san-node {verb} {UNIT}");
    let peer = |verb: &str| format!("bash /run/peer-{verb}");
    // One round that does not count: modules, caches.
    pair.time(&ours("serve"))?;
    pair.time(&ours("release"))?;
    let mut times: [Vec<f64>; 4] = Default::default();
    let result = (0..=runs).try_for_each(|round| -> Result<()> {
        let serve = [ours("serve"), peer("serve")].map(Some);
        for (side, (serve, release)) in
            serve.into_iter().flatten().zip([ours("release"), peer("release")]).enumerate()
        {
            let by = if side == 0 { "san-node" } else { "the script" };
            let up = pair.time(&serve)?;
            pair.show(side, round == runs)?;
            pair.must_be(true, by)?;
            let down = pair.time(&release)?;
            pair.show(side, round == runs)?;
            pair.must_be(false, by)?;
            // The peer's first round does not count either.
            if round > 0 {
                times.iter_mut().skip(side * 2).zip([up, down]).for_each(|(times, time)| times.push(time));
            }
        }
        Ok(())
    });
    let [serve, release, peer_serve, peer_release] = &times;
    if result.is_ok() {
        rows.push(Row::new(&SERVE, serve, peer_serve));
        rows.push(Row::new(&RELEASE, release, peer_release));
    }
    let status = status(&pair, runs);
    if let Ok(row) = &status {
        rows.push(row.clone());
    }
    result.and(status.map(drop))
}

fn status(pair: &Pair, runs: u32) -> Result<Row> {
    pair.nodes.san_node(0, &format!("serve {UNIT}"))?;
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for round in 0..=runs {
        let times = (pair.time("san-node status")?, pair.time("bash /run/peer-status")?);
        if round > 0 {
            ours.push(times.0);
            peer.push(times.1);
        }
    }
    Ok(Row::new(&STATUS, &ours, &peer))
}
