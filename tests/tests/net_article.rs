//! The network of the first article on two nodes: its whole `interfaces(5)`, traffic over every VLAN, each cable pulled in turn. Six cards to a
//! switch, a management bond over a VLAN of each, a storage VLAN on each; four cards straight to the other node for replication.
#![allow(clippy::indexing_slicing, clippy::print_stdout)] // It is a test.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Cmd, Kernel, Lab, Machine};

const PATIENCE: Duration = Duration::from_secs(240);
const CARDS: usize = 6;
const DIRECT: usize = 4;

fn interfaces(node: usize, monitored: bool) -> String {
    let mut text = String::from("auto lo\niface lo inet loopback\n");
    let mut link = |name: &str, mtu: u32, raw: Option<usize>| {
        let _ = write!(
            text,
            "auto {name}\niface {name} inet manual\n    up ip link set {name} mtu {mtu} up\n    down ip link set {name} down\n"
        );
        if let Some(card) = raw {
            let _ = writeln!(text, "    vlan_raw_device int{card}");
        }
    };
    (1..=CARDS).for_each(|card| link(&format!("int{card}"), 9000, None));
    (1..=CARDS).for_each(|card| link(&format!("int{card}.2"), 1500, Some(card)));
    (1..=CARDS).for_each(|card| link(&format!("int{card}.{}", 23 + card), 9000, Some(card)));
    let host = 99 + node;
    let _ = write!(
        text,
        "auto bond_vlan2\niface bond_vlan2 inet static\n    address 10.1.0.{host}\n    netmask 255.255.255.0\n    gateway 10.1.0.1\n    \
         slaves int1.2 int2.2 int3.2 int4.2 int5.2 int6.2\n    bond-mode active-backup\n    bond-primary int1.2\n    bond-miimon 100\n    \
         bond-downdelay 200\n    bond-updelay 200\n    mtu 1500\n\
         auto bond_drbd\niface bond_drbd inet static\n    address 192.168.123.{host}\n    netmask 255.255.255.0\n    \
         slaves drbd1 drbd2 drbd3 drbd4\n    bond-mode balance-rr\n{}    mtu 9216\n",
        if monitored { "    bond-miimon 100\n" } else { "" }
    );
    text
}

struct Pair {
    nodes: [Machine; 2],
    started: Instant,
    _lab: Lab,
}

fn run(node: &Machine, script: &str) -> Result<String> {
    let output = node.run(Cmd::sh(&format!("{script} 2>&1")).deadline(PATIENCE))?;
    ensure!(output.success(), "{}: {script}: {}", node.name(), output.stdout);
    Ok(output.stdout.trim().to_owned())
}

impl Pair {
    fn boot(kernel: Kernel) -> Result<Self> {
        let programs = lab::programs(&[&["-p", "sankit-netcfg", "--example", "apply"]])?;
        let lab = Lab::new("net-article")?;
        lab.install(&programs.join("examples").join("apply"))?;
        let switch = lab.segment("switch");
        let direct: Vec<_> = (1..=DIRECT).map(|n| lab.segment(&format!("d{n}"))).collect();
        let build = |name: &str| {
            let mut machine = lab.machine(name).kernel(kernel).memory(512);
            for _ in 0..CARDS {
                machine = machine.nic(&switch);
            }
            direct.iter().fold(machine, |machine, cable| machine.nic(cable)).build()
        };
        let nodes = [build("n1")?, build("n2")?];
        lab.boot_all(&nodes)?;
        let pair = Self { nodes, started: Instant::now(), _lab: lab };
        let mut names = String::from("cp /lab/bin/apply /bin/; mkdir -p /etc/network; ");
        for n in 0..CARDS + DIRECT {
            let name = if n < CARDS { format!("int{}", n + 1) } else { format!("drbd{}", n + 1 - CARDS) };
            let _ = write!(names, "ip link set eth{n} name {name} && ");
        }
        for node in &pair.nodes {
            run(node, &format!("{names} true"))?;
        }
        Ok(pair)
    }

    fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.started.elapsed().as_secs_f64());
    }

    /// Both nodes as the file says; the second time there is nothing to do.
    fn apply(&self, monitored: bool) -> Result<[String; 2]> {
        let mut said = [String::new(), String::new()];
        for (n, node) in (1..).zip(&self.nodes) {
            node.push("/etc/network/interfaces", interfaces(n, monitored), 0o644)?;
            said[n - 1] = run(node, "apply")?;
            let again = run(node, "apply")?;
            ensure!(again.ends_with("nothing to do"), "{again}");
        }
        Ok(said)
    }

    /// How many of so many packets of n1 were answered.
    fn answered(&self, address: &str, bytes: usize, packets: usize) -> Result<usize> {
        let script = format!("ping -q -c {packets} -i 0.1 -W 2 -s {bytes} {address} || true");
        let said = run(&self.nodes[0], &script)?;
        let line = said.lines().find(|line| line.contains("packets received")).context(said.clone())?;
        let words: Vec<&str> = line.split(", ").collect();
        Ok(words[1].split(' ').next().context("a number")?.parse()?)
    }

    fn active(&self) -> Result<String> {
        run(&self.nodes[0], "cat /sys/class/net/bond_vlan2/bonding/active_slave")
    }

    fn wait_active(&self, good: impl Fn(&str) -> bool) -> Result<String> {
        let since = Instant::now();
        loop {
            let now = self.active()?;
            if good(&now) {
                return Ok(now);
            }
            ensure!(since.elapsed() < Duration::from_secs(30), "the active port is still {now}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn management_and_storage(&self) -> Result<()> {
        for card in 1..=CARDS {
            for (n, node) in (1..).zip(&self.nodes) {
                run(node, &format!("ip addr add 10.0.{}.{n}/24 dev int{card}.{}", 23 + card, 23 + card))?;
            }
        }
        let storage = |card: usize| format!("10.0.{}.2", 23 + card);
        for card in 1..=CARDS {
            // 9000 without the headers of IP and ICMP.
            ensure!(self.answered(&storage(card), 8972, 3)? == 3, "VLAN {} carries 9000", 23 + card);
        }
        ensure!(self.answered("10.1.0.101", 1472, 3)? == 3, "management");
        ensure!(self.active()? == "int1.2", "the preferred port");
        self.say("traffic over every VLAN, 9000 bytes on the storage VLANs");
        for card in 1..=CARDS {
            let cable = self.nodes[0].cable(card - 1)?;
            cable.unplug()?;
            let cut = format!("int{card}.2");
            let now = self.wait_active(|now| now != cut && !now.is_empty())?;
            ensure!(
                self.answered("10.1.0.101", 1000, 3)? >= 2,
                "management with int{card} unplugged, over {now}"
            );
            for other in 1..=CARDS {
                let got = self.answered(&storage(other), 8972, 2)?;
                ensure!((got == 2) == (other != card), "int{card} unplugged: {got} of 2 on int{other}");
            }
            cable.plug()?;
            self.wait_active(|now| now == "int1.2")?;
            self.say(&format!(
                "int{card} unplugged: management over {now}, its storage VLAN alone is away; back on int1.2"
            ));
        }
        // Only one cable is left.
        for card in 1..CARDS {
            self.nodes[0].cable(card - 1)?.unplug()?;
        }
        self.wait_active(|now| now == "int6.2")?;
        ensure!(self.answered("10.1.0.101", 1000, 3)? >= 2, "one cable is enough");
        for card in 1..CARDS {
            self.nodes[0].cable(card - 1)?.plug()?;
        }
        self.wait_active(|now| now == "int1.2")?;
        self.say("five of six unplugged: the sixth serves");
        Ok(())
    }

    /// A direct cable is pulled: both ends see it.
    fn pull(&self, number: usize, out: bool) -> Result<()> {
        for node in &self.nodes {
            let cable = node.cable(CARDS + number - 1)?;
            if out { cable.unplug()? } else { cable.plug()? }
        }
        Ok(())
    }

    fn replication(&self) -> Result<()> {
        const PEER: &str = "192.168.123.101";
        ensure!(self.answered(PEER, 9188, 8)? == 8, "9216 over four cables");
        // As the article has it, without a monitor. A port without carrier is passed over all the same (bond_slave_can_tx); what goes over a
        // cable that is dead and shows it to nobody is lost.
        self.pull(2, true)?;
        let got = self.answered(PEER, 1000, 24)?;
        ensure!(got == 24, "{got} of 24 with a cable pulled at both ends");
        self.pull(2, false)?;
        self.nodes[0].cable(CARDS + 1)?.cut();
        let got = self.answered(PEER, 1000, 24)?;
        ensure!((1..24).contains(&got), "{got} of 24 over a dead cable");
        self.nodes[0].cable(CARDS + 1)?.restore();
        self.say(&format!(
            "balance-rr without a monitor: a cable pulled, 24 of 24 answered; dead in silence, {got} of 24"
        ));
        let said = self.apply(true)?;
        ensure!(said.iter().all(|said| said.contains("miimon 100")), "{said:?}");
        for cable in 1..=DIRECT {
            self.pull(cable, true)?;
            std::thread::sleep(Duration::from_secs(1));
            ensure!(self.answered(PEER, 9188, 12)? == 12, "drbd{cable} pulled");
            self.pull(cable, false)?;
            std::thread::sleep(Duration::from_secs(1));
        }
        ensure!(self.answered(PEER, 9188, 8)? == 8);
        self.say("with miimon 100: each cable pulled in turn, nothing lost");
        Ok(())
    }
}

fn all(kernel: Kernel) -> Result<()> {
    let pair = Pair::boot(kernel)?;
    let said = pair.apply(false)?;
    for line in ["bond_drbd: neither miimon nor arp_interval is set", "[mtu-not-portable]"] {
        ensure!(said[0].contains(line), "{line} is not said:\n{}", said[0]);
    }
    pair.say("both nodes as the file says");
    pair.management_and_storage()?;
    pair.replication()
}

#[test]
fn the_network_of_the_first_article() -> Result<()> {
    all(Kernel::V6_1)?;
    all(Kernel::V6_12)
}
