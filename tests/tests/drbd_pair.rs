//! Two nodes with DRBD: one runs this crate, the other drbd-utils, on the same drbd.conf. A disk in use while its first sync runs, a cable cut, a
//! planted difference found, a split brain and its recovery on both sides and in both directions, a larger size; then a hundred resources and a
//! storm of events. At each step both nodes say of themselves what `/proc/drbd` and drbdsetup say.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)] // It is a test.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{Cable, Chunk, Cmd, Kernel, Lab, Machine, Mode};
use serde_json::Value;

const CONF: &str = r#"# The same file on both nodes.
global { usage-count no; }
common {
    net { protocol C; verify-alg crc32c; cram-hmac-alg sha1; shared-secret "of the lab"; ping-int 7; connect-int 7; }
    disk { c-plan-ahead 0; resync-rate 16M; size 32M; }
}
resource r0 {
    device /dev/drbd0;
    meta-disk internal;
    on n1 { disk /dev/disk/by-id/virtio-n1-a; address 10.0.0.1:7788; }
    on n2 { disk /dev/disk/by-id/virtio-n2-a; address 10.0.0.2:7788; }
}
"#;
/// drbd-utils make the metadata of a hundred resources one process after the other.
const PATIENCE: Duration = Duration::from_secs(900);
/// How many resources "many" are.
const MANY: u32 = 100;
/// How often the resyncs of all of them are paused and resumed.
const ROUNDS: u32 = 10;

/// Many resources, each on a small disk of its own.
fn many() -> String {
    let mut text = String::from(
        "global { usage-count no; }\n\
         common { net { protocol C; cram-hmac-alg sha1; shared-secret \"of the lab\"; ping-int 7; connect-int 7; }\n\
         disk { c-plan-ahead 0; resync-rate 16M; } }\n",
    );
    for n in 0..MANY {
        let port = 7800 + n;
        text.push_str(&format!(
            "resource m{n} {{ device /dev/drbd{n}; disk /dev/loop{n}; meta-disk internal;\n\
             on n1 {{ address 10.0.0.1:{port}; }} on n2 {{ address 10.0.0.2:{port}; }} }}\n"
        ));
    }
    text
}

struct Pair {
    lab: Lab,
    nodes: [Machine; 2],
    started: Instant,
}

impl Pair {
    fn boot(kernel: Kernel, conf: &str) -> Result<Self> {
        let programs = lab::programs(&[
            &["-p", "sankit-examples", "--bin", "drbd-watch"],
            &["-p", "sankit-drbd", "--example", "ctl"],
        ])?;
        let lab = Lab::new("drbd-pair")?;
        lab.install(&programs.join("drbd-watch"))?;
        lab.install(&programs.join("examples").join("ctl"))?;
        let segment = lab.segment("repl");
        let machine = |name: &str| -> Result<Machine> {
            let disk = lab.plain_disk(&format!("{name}-a"), 64 << 20)?;
            lab.machine(name)
                .mode(Mode::Root)
                .kernel(kernel)
                .memory(768)
                .cpus(1)
                .nic(&segment)
                .disk(&disk)
                .build()
        };
        let nodes = [machine("n1")?, machine("n2")?];
        lab.boot_all(&nodes)?;
        for (number, node) in nodes.iter().enumerate() {
            let name = node.name();
            node.sh(&format!(
                "hostname {name}; modprobe drbd; modprobe crc32c; install /lab/bin/ctl /lab/bin/drbd-watch /usr/local/bin/; \
                 ip addr add 10.0.0.{}/24 dev eth0; ip link set eth0 up",
                number + 1
            ))?;
            node.push("/etc/drbd.conf", conf, 0o600)?;
        }
        Ok(Self { lab, nodes, started: Instant::now() })
    }

    fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.started.elapsed().as_secs_f64());
    }

    fn run(&self, node: usize, script: &str) -> Result<String> {
        let output = self.nodes[node].run(Cmd::sh(&format!("{script} 2>&1")).deadline(PATIENCE))?;
        let said = output.stdout.trim().to_owned();
        ensure!(output.success(), "n{}: {script}: code {}: {said}", node + 1, output.code);
        Ok(said)
    }

    fn refused(&self, node: usize, script: &str, says: &str) -> Result<()> {
        let output = self.nodes[node].run(Cmd::sh(&format!("{script} 2>&1")).deadline(PATIENCE))?;
        ensure!(
            !output.success() && output.stdout.contains(says),
            "n{}: {script}: {}",
            node + 1,
            output.stdout
        );
        Ok(())
    }

    /// Waits until the nodes say of themselves what is asked for.
    fn until(&self, what: &str, is_so: impl Fn(&[String; 2]) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let states = [self.run(0, "ctl status r0")?, self.run(1, "ctl status r0")?];
            if is_so(&states) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{what}: {states:?}");
        }
    }

    /// Takes a cable out and waits until both have noticed.
    fn cut(&self) -> Result<Cable> {
        let cable = self.nodes[0].cable(0)?;
        cable.cut();
        self.until("the cut is not noticed", |states| states.iter().all(|s| s.contains("cs:WFConnection")))?;
        Ok(cable)
    }

    /// The same of all resources, one exchange with each.
    fn same_all(&self, step: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = BTreeMap::<String, usize>::new();
        for node in 0..2 {
            loop {
                let views = self.run(
                    node,
                    "ctl status all; echo --; awk '/^ *[0-9]+: cs:/ {a=$1\" \"$2\" \"$3\" \"$4} / oos:/ {sub(/.* oos:/, \"oos:\"); print a\" \"$1}' \
                     /proc/drbd; echo --; drbdsetup sh-status all | awk -F= '/^_minor=/ {m=$2} /^_cstate=/ {c=$2} /^_role=/ {r=$2} /^_peer=/ {p=$2} \
                     /^_disk=/ {d=$2} /^_pdsk=/ {print m\": cs:\"c\" ro:\"r\"/\"p\" ds:\"d\"/\"$2}'",
                )?;
                let mut parts = views.split("--\n").map(|part| {
                    let mut lines: Vec<_> = part.lines().map(str::trim).collect();
                    lines.sort_unstable();
                    lines
                });
                let [ours, proc, setup] = [(); 3].map(|()| parts.next().unwrap_or_default());
                let is_whole = |lines: &[&str]| u32::try_from(lines.len()) == Ok(MANY);
                if is_whole(&ours) && ours == proc && is_whole(&setup) && {
                    ours.iter().zip(&setup).all(|(ours, setup)| ours.starts_with(&format!("{setup} ")))
                } {
                    for line in ours {
                        let what = line.split_once(' ').map_or(line, |(_, what)| what);
                        *seen.entry(format!("n{} {what}", node + 1)).or_default() += 1;
                    }
                    break;
                }
                ensure!(Instant::now() < deadline, "{step}: n{}: the views differ:\n{views}", node + 1);
            }
        }
        for (what, count) in seen {
            self.say(&format!("{step}: {count} x {what}"));
        }
        Ok(())
    }

    /// The live view on a terminal as ssh gives one, while a sync runs: redrawn within its size, with a bar and the time left.
    fn watched_on_a_terminal(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let command = Cmd::new(["drbd-watch", "--interval", "300"]).env("TERM", "xterm").terminal(20, 90);
        let mut running = self.nodes[0].spawn(command.deadline(PATIENCE))?;
        let mut shown = Vec::new();
        loop {
            let Some(chunk) = running.chunk(deadline)? else { bail!("drbd-watch ended by itself") };
            if let Chunk::Stdout(bytes) = chunk {
                shown.extend(bytes);
            }
            let text = String::from_utf8_lossy(&shown);
            // What came after the last beginning may not be whole.
            let frame = text.rsplit("\x1b[H").nth(1).unwrap_or_default();
            let plain = unpainted(frame);
            let bar =
                plain.lines().find(|line| line.trim_start().starts_with("[#") && line.contains("/s  0:"));
            if let Some(bar) = bar {
                ensure!(plain.lines().count() <= 20, "higher than the terminal: {plain}");
                ensure!(frame.contains("\x1b[32m"), "no colours: {frame:?}");
                self.say(&format!("drbd-watch: {}", bar.trim()));
                println!("{plain}");
                return running.kill();
            }
            ensure!(Instant::now() < deadline, "no bar with speed and time left: {plain}");
        }
    }

    /// The states that the events of a watch end in, by resource, and how many events there were.
    fn told(&self, node: usize) -> Result<(BTreeMap<String, Value>, usize, bool)> {
        let text = String::from_utf8(self.nodes[node].pull("/run/events")?)?;
        let (mut states, mut count, mut is_again) = (BTreeMap::new(), 0, false);
        // The last line may not be whole yet.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            count += 1;
            let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            is_again |= event == "Resynchronised";
            for state in event["Snapshot"].as_array().into_iter().flatten() {
                states.insert(name(state), picture(state));
            }
            for state in [&event["Created"], &event["Changed"]["new"]].into_iter().filter(|s| s.is_object()) {
                states.insert(name(state), picture(state));
            }
            if event["Removed"].is_object() {
                states.remove(&name(&event["Removed"]));
            }
        }
        Ok((states, count, is_again))
    }

    /// Waits until a watch has told what there is.
    fn told_all(&self, node: usize) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        let there: Vec<Value> = serde_json::from_str(&self.run(node, "drbd-watch --once --json")?)?;
        let there: BTreeMap<_, _> = there.iter().map(|state| (name(state), picture(state))).collect();
        loop {
            let (states, count, is_again) = self.told(node)?;
            if states == there {
                let lost = if is_again { "some were lost and made up for" } else { "none was lost" };
                self.say(&format!(
                    "n{} was told of {} resources in {count} events; {lost}",
                    node + 1,
                    there.len()
                ));
                return Ok(count);
            }
            let differs = there.iter().find(|(name, state)| states.get(*name) != Some(state));
            ensure!(Instant::now() < deadline, "n{} was not told of {differs:?}", node + 1);
        }
    }

    /// Our view, that of /proc/drbd, and drbdsetup's, on both nodes. What is changing is looked at again.
    fn same(&self, step: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for node in 0..2 {
            loop {
                let views = self.run(
                    node,
                    "ctl status r0; awk '/^ *0: cs:/ {a=$1\" \"$2\" \"$3\" \"$4} / oos:/ {sub(/.* oos:/, \"oos:\"); print a\" \"$1}' /proc/drbd; \
                     echo \"0: cs:$(drbdsetup cstate 0) ro:$(drbdsetup role 0) ds:$(drbdsetup dstate 0)\"",
                )?;
                let lines: Vec<_> = views.lines().collect();
                let [ours, proc, setup] = lines.as_slice() else { bail!("{step}: n{}: {views}", node + 1) };
                // drbdsetup has no numbers, and without a connection we have none.
                let proc = format!("{proc} ");
                if [ours, setup].iter().all(|view| proc.starts_with(&format!("{view} "))) {
                    self.say(&format!("{step}: n{} {ours}", node + 1));
                    break;
                }
                ensure!(Instant::now() < deadline, "{step}: n{}: the views differ:\n{views}", node + 1);
            }
        }
        Ok(())
    }

    /// Writes 4 KiB of a letter at a page of the device.
    fn write(&self, node: usize, device: &str, page: u32, letter: char) -> Result<()> {
        let script = format!(
            "head -c 4096 /dev/zero | tr '\\0' {letter} | dd of={device} bs=4096 count=1 seek={page} oflag=direct conv=notrunc status=none"
        );
        self.run(node, &script).map(drop)
    }

    /// The letter at a page of a disk, past all caches.
    fn read(&self, node: usize, device: &str, page: u32) -> Result<String> {
        self.run(
            node,
            &format!("dd if={device} bs=4096 count=1 skip={page} iflag=direct status=none | head -c 1"),
        )
    }

    fn synced(&self) -> Result<()> {
        (0..2).try_for_each(|node| self.run(node, "ctl wait-synced r0").map(drop))
    }

    /// Both write without the other; `victim` gives its changes up.
    fn split_brain(&self, victim: usize) -> Result<()> {
        let survivor = 1 - victim;
        let cable = self.cut()?;
        for (node, letter) in [(victim, 'v'), (survivor, 's')] {
            self.run(node, "ctl primary r0")?;
            self.write(node, "/dev/drbd0", 100, letter)?;
        }
        self.same("both Primary")?;
        cable.restore();
        // The one that notices first hangs up, and the other may not get to see why.
        self.until("no split brain", |states| {
            states.iter().any(|s| s.contains("cs:StandAlone"))
                && states.iter().all(|s| s.contains("cs:StandAlone") || s.contains("cs:WFConnection"))
        })?;
        self.same("split brain")?;
        // The data of a Primary is in use.
        self.refused(victim, "ctl recover r0 victim", "the victim is Primary")?;
        self.run(victim, "ctl secondary r0")?;
        let plan = self.run(victim, "ctl plan-recover r0 victim")?;
        ensure!(plan.contains("--discard-my-data=yes") && !plan.contains("of the lab"), "{plan}");
        self.same("planned, nothing done")?;
        // A survivor that still waits for its peer needs no more than a victim that agrees.
        let is_alone = self.run(survivor, "ctl status r0")?.contains("cs:StandAlone");
        let mut running =
            self.nodes[victim].spawn(Cmd::sh("ctl recover r0 victim 2>&1").deadline(PATIENCE))?;
        let first = running.line(Instant::now() + PATIENCE)?;
        ensure!(first.as_deref().map(str::trim) == Some("Waiting"), "the victim: {first:?}");
        if is_alone {
            self.run(survivor, "ctl recover r0 survivor")?;
        }
        let said = running.wait()?;
        ensure!(said.success() && said.stdout.contains("Done"), "the victim: {}", said.stdout);
        self.same("recovered")?;
        self.run(survivor, "ctl secondary r0")?;
        for node in 0..2 {
            let disk = format!("/dev/disk/by-id/virtio-n{}-a", node + 1);
            ensure!(self.read(node, &disk, 100)? == "s", "n{} has not the survivor's data", node + 1);
        }
        Ok(())
    }
}

fn name(state: &Value) -> String {
    state["name"].as_str().unwrap_or_default().to_owned()
}

/// What events tell of a resource, and a list too.
fn picture(state: &Value) -> Value {
    let part = |of: &Value, names: &[&str]| -> Value {
        names
            .iter()
            .map(|name| ((*name).to_owned(), of[name].clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let each = |of: &Value, f: &dyn Fn(&Value) -> Value| -> Value {
        of.as_array().into_iter().flatten().map(f).collect()
    };
    let volumes = each(&state["volumes"], &|volume| part(volume, &["volume", "minor", "disk", "size"]));
    let connections = each(&state["connections"], &|connection| {
        let peers = each(&connection["volumes"], &|peer| part(peer, &["repl", "peer_disk", "paused"]));
        serde_json::json!([part(connection, &["state", "peer_role", "peer"]), peers])
    });
    serde_json::json!([state["role"], volumes, connections])
}

/// A frame of a terminal without its colours and its cursor's ways.
fn unpainted(frame: &str) -> String {
    let mut pieces = frame.split('\x1b');
    let first = pieces.next().unwrap_or_default().to_owned();
    let text = pieces.fold(first, |text, piece| {
        let rest = piece.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, rest)| rest);
        text + rest
    });
    text.replace('\r', "")
}

fn scenario(kernel: Kernel) -> Result<()> {
    let pair = Pair::boot(kernel, CONF)?;
    pair.say("up: n1 by this crate, n2 by drbd-utils");
    pair.run(0, "ctl create-md r0")?;
    pair.run(1, "drbdadm create-md --force r0 && drbdadm up r0")?;
    ensure!(pair.run(1, "ctl plan r0")?.ends_with("0 steps"), "what drbdadm set up would be changed");
    ensure!(pair.run(0, "ctl up r0")? == "changed");
    let adjust = pair.run(0, "drbdadm -d adjust r0")?;
    ensure!(adjust.is_empty(), "drbdadm would change what we set up: {adjust}");
    let watch =
        |node: &Machine| node.spawn(Cmd::sh("drbd-watch --json > /run/events").deadline(PATIENCE * 3));
    let watches = [watch(&pair.nodes[0])?, watch(&pair.nodes[1])?];
    (0..2).try_for_each(|node| pair.run(node, "ctl wait-connected r0").map(drop))?;
    pair.same("connected, new")?;

    // A node used while its first sync still runs, and while it is held.
    pair.run(1, "drbdsetup disk-options 0 --resync-rate=512K")?;
    pair.run(0, "ctl primary r0 force")?;
    pair.write(0, "/dev/drbd0", 1, 'a')?;
    ensure!(pair.read(0, "/dev/drbd0", 1)? == "a");
    let state = pair.run(0, "ctl status r0")?;
    ensure!(state.contains("cs:SyncSource ro:Primary"), "{state}");
    pair.watched_on_a_terminal()?;
    pair.run(1, "drbdadm pause-sync r0")?;
    pair.until("the sync is not held", |states| states[0].contains("cs:PausedSyncS"))?;
    pair.write(0, "/dev/drbd0", 8000, 'b')?;
    pair.same("first sync, in use")?;
    ensure!(pair.run(1, "drbdadm resume-sync r0 && ctl up r0")? == "changed", "the rate stayed");
    ensure!(pair.run(1, "drbdadm -d adjust r0")?.is_empty(), "drbdadm would change what we adjusted");
    pair.synced()?;
    pair.same("in sync")?;
    for (page, letter) in [(1, "a"), (8000, "b")] {
        let there = pair.read(1, "/dev/disk/by-id/virtio-n2-a", page)?;
        ensure!(there == letter, "the peer has {there:?} where {letter:?} was written during the sync");
    }

    // One page of the peer's disk is spoiled behind DRBD's back.
    pair.write(1, "/dev/disk/by-id/virtio-n2-a", 2048, 'x')?;
    let found = pair.run(0, "ctl verify r0")?;
    ensure!(found == "volume 0: 4 KiB differ", "{found}");
    pair.same("verified")?;
    pair.run(0, "ctl disconnect r0 && ctl connect r0 && ctl wait-connected r0")?;
    pair.synced()?;
    ensure!(pair.run(0, "ctl verify r0")? == "volume 0: 0 KiB differ");

    let cable = pair.cut()?;
    pair.write(0, "/dev/drbd0", 7, 'c')?;
    pair.same("cable cut")?;
    cable.restore();
    pair.synced()?;
    pair.same("cable back")?;
    ensure!(pair.read(1, "/dev/disk/by-id/virtio-n2-a", 7)? == "c");

    // More than the spec's size, but less than the disk.
    let size = pair.run(0, "ctl resize r0 41943040")?;
    ensure!(size == "41943040", "{size}");
    pair.synced()?;
    for node in 0..2 {
        // In sectors; the device of a Secondary cannot be opened.
        let seen = pair.run(node, "cat /sys/block/drbd0/size")?;
        ensure!(seen == "81920", "n{} has {seen} sectors", node + 1);
    }
    pair.same("larger")?;
    pair.run(0, "ctl secondary r0")?;

    pair.split_brain(1)?;
    pair.split_brain(0)?;

    pair.run(0, "drbdadm down r0")?;
    ensure!(pair.run(1, "ctl down r0")? == "changed");
    let mut told = 0;
    for (node, watch) in watches.into_iter().enumerate() {
        let deadline = Instant::now() + PATIENCE;
        let events = loop {
            let events = pair.run(node, "cat /run/events")?;
            if events.contains("{\"Removed\"") {
                break events;
            }
            ensure!(Instant::now() < deadline, "the end was not told: {events}");
        };
        ensure!(events.starts_with("{\"Snapshot\"") && !events.contains("of the lab"), "{events}");
        let splits = events.matches("{\"SplitBrain\"").count();
        pair.say(&format!(
            "n{} was told of {splits} split brains in {} events",
            node + 1,
            events.lines().count()
        ));
        told += splits;
        watch.kill()?;
    }
    ensure!((2..=4).contains(&told), "two split brains, told {told} times");
    pair.say("down");
    drop(pair.lab);
    Ok(())
}

/// A hundred resources, made and used half by this crate and half by drbd-utils; all connections cut at once; and changes faster than a
/// watch that stands still can take them.
fn hundred(kernel: Kernel) -> Result<()> {
    let pair = Pair::boot(kernel, &many())?;
    for node in 0..2 {
        pair.run(
            node,
            &format!(
                "modprobe loop; mkdir /var/tmp/disks; for n in $(seq 0 {}); do truncate -s 1M /var/tmp/disks/$n && \
                 losetup /dev/loop$n /var/tmp/disks/$n || exit 1; done",
                MANY - 1
            ),
        )?;
    }
    pair.run(0, "ctl create-md all")?;
    ensure!(pair.run(0, "ctl up all")? == "changed");
    pair.say("n1 is up, by this crate");
    pair.run(1, "drbdadm create-md --force all && drbdadm up all")?;
    pair.say("n2 is up, by drbd-utils");
    ensure!(pair.run(1, "ctl plan all")? == "0 steps", "what drbdadm set up would be changed");
    let adjust = pair.run(0, "drbdadm -d adjust all")?;
    ensure!(adjust.is_empty(), "drbdadm would change what we set up: {adjust}");
    let watch =
        |node: &Machine| node.spawn(Cmd::sh("exec drbd-watch --json > /run/events").deadline(PATIENCE * 4));
    let watches = [watch(&pair.nodes[0])?, watch(&pair.nodes[1])?];
    (0..2).try_for_each(|node| pair.run(node, "ctl wait-connected all").map(drop))?;
    pair.same_all("connected, new")?;

    let half = MANY / 2;
    pair.run(0, &format!("for n in $(seq 0 {}); do ctl primary m$n force || exit 1; done", half - 1))?;
    pair.run(
        1,
        &format!("for n in $(seq {half} {}); do drbdadm primary --force m$n || exit 1; done", MANY - 1),
    )?;
    (0..2).try_for_each(|node| pair.run(node, "ctl wait-synced all").map(drop))?;
    pair.same_all("in sync")?;
    for node in 0..2 {
        pair.told_all(node)?;
    }

    // The storm, which n2's watch sleeps through.
    const STOP: i32 = 19;
    const CONTINUE: i32 = 18;
    watches[1].signal(STOP)?;
    let before = pair.told(0)?.1;
    let cable = pair.nodes[0].cable(0)?;
    cable.cut();
    for node in 0..2 {
        let script = format!("until [ $(grep -c cs:WFConnection /proc/drbd) = {MANY} ]; do sleep 0.2; done");
        pair.run(node, &script)?;
    }
    pair.same_all("cable cut")?;
    cable.restore();
    (0..2).try_for_each(|node| pair.run(node, "ctl wait-synced all").map(drop))?;
    pair.same_all("cable back")?;
    pair.run(
        0,
        &format!(
            "for n in $(seq {ROUNDS}); do ctl pause-sync all > /dev/null && ctl resume-sync all > /dev/null || exit 1; done"
        ),
    )?;
    pair.run(0, "ctl pause-sync all")?;
    pair.same_all("paused")?;
    watches[1].signal(CONTINUE)?;
    let after = pair.told_all(0)?;
    pair.told_all(1)?;
    pair.say(&format!("the storm was {} events on n1", after - before));
    ensure!(pair.told(0)?.2 || after - before >= usize::try_from(2 * ROUNDS * MANY)?, "{before} {after}");
    pair.run(0, "ctl resume-sync all")?;

    for (node, end) in
        [(0, "ctl secondary all && drbdadm down all"), (1, "drbdadm secondary all && ctl down all")]
    {
        pair.run(node, end)?;
    }
    for (node, watch) in watches.into_iter().enumerate() {
        ensure!(pair.run(node, "ctl status all")?.is_empty(), "something is left");
        pair.told_all(node)?;
        watch.kill()?;
    }
    drop(pair.lab);
    Ok(())
}

/// Two machines at a time, whatever the number of threads: the processor is emulated.
static ALONE: Mutex<()> = Mutex::new(());

fn alone(scenario: fn(Kernel) -> Result<()>, kernel: Kernel) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    scenario(kernel)
}

#[test]
fn two_nodes_go_through_all_of_it_and_say_what_the_kernel_says_on_6_1() -> Result<()> {
    alone(scenario, Kernel::V6_1)
}

#[test]
fn two_nodes_go_through_all_of_it_and_say_what_the_kernel_says_on_6_12() -> Result<()> {
    alone(scenario, Kernel::V6_12)
}

#[test]
fn a_hundred_resources_and_a_storm_end_in_the_kernels_state_on_6_1() -> Result<()> {
    alone(hundred, Kernel::V6_1)
}

#[test]
fn a_hundred_resources_and_a_storm_end_in_the_kernels_state_on_6_12() -> Result<()> {
    alone(hundred, Kernel::V6_12)
}
