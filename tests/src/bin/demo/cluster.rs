//! Two storage nodes and a hypervisor in the lab, set up as the file says.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use lab::{Cmd, Disk, Lab, Machine, Mode, Nic, Segment};

/// A unit: name, home, LUKS UUIDs on both nodes, target, portals.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub(crate) name: &'static str,
    pub(crate) home: usize,
    pub(crate) target: &'static str,
    pub(crate) portals: [&'static str; 2],
    /// What the LUKS header stands on, in a guest.
    disk: &'static str,
    uuids: [&'static str; 2],
}

pub(crate) const UNITS: [Unit; 2] = [
    Unit {
        name: "VM_STORAGE_1",
        home: 0,
        target: "iqn.2026-01.lab.sankit:vm-storage-1",
        portals: ["10.1.24.10:3260", "10.1.25.10:3260"],
        disk: "/dev/disk/by-id/virtio-{node}-a",
        uuids: ["1bd1f798-d105-4150-841b-f2751f419efc", "1bd1f798-d105-4150-841b-f2751f419efd"],
    },
    Unit {
        name: "VM_STORAGE_2",
        home: 1,
        target: "iqn.2026-01.lab.sankit:vm-storage-2",
        portals: ["10.1.24.20:3260", "10.1.25.20:3260"],
        disk: "/dev/md0",
        uuids: ["d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456", "d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc457"],
    },
];

const INITIATOR: &str = "iqn.2026-01.lab.sankit:hv";
const CHAP_SECRET: &str = "a-chap-secret-of-the-lab";
const PASSPHRASE: &str = "written on the inside of the skull";
/// Seconds a command of ours may take in a guest under an emulated processor.
const PATIENCE: Duration = Duration::from_secs(180);

/// The machines.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) lab: Lab,
    pub(crate) nodes: [Machine; 2],
    pub(crate) hv: Machine,
    config: String,
    /// Prints what machines say, with their names before it.
    verbose: bool,
}

impl Cluster {
    /// Makes the machines and boots them.
    pub(crate) fn boot(programs: &Path, disk_mib: u64) -> Result<Self> {
        let lab = Lab::new("demo")?;
        for program in ["san-node", "san-attach", "san-writer"] {
            lab.install(&programs.join(program))?;
        }
        let lan = [lab.segment("lan1"), lab.segment("lan2")];
        let cables = [lab.segment("repl1"), lab.segment("repl2")];
        let node = |name: &str| -> Result<Machine> {
            let disks: Vec<Disk> = ["a", "b", "c"]
                .iter()
                .map(|letter| lab.disk(&format!("{name}-{letter}"), disk_mib << 20))
                .collect::<Result<_>>()?;
            let nic = |segment: &Segment| Nic::on(segment);
            let mut builder = lab.machine(name).mode(Mode::Root).memory(1024).cpus(1);
            for segment in lan.iter().chain(&cables) {
                builder = builder.nic_with(nic(segment));
            }
            for disk in &disks {
                builder = builder.disk(disk);
            }
            builder.build()
        };
        let nodes = [node("n1")?, node("n2")?];
        let hv = lab
            .machine("hv")
            .mode(Mode::Root)
            .memory(1024)
            .cpus(1)
            .nic(&lan[0])
            .nic(&lan[1])
            .port("lab.ack")
            .build()?;
        lab.boot_all(&[nodes[0].clone(), nodes[1].clone(), hv.clone()])?;
        let config = include_str!("node.toml").to_owned();
        Ok(Self { lab, nodes, hv, config, verbose: true })
    }

    /// Captures both storage networks, so that it can be shown that no reset and no login reject reached the initiator.
    pub(crate) fn capture(&self, to: &Path) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for name in ["lan1", "lan2"] {
            let file = to.join(format!("{name}.pcap"));
            self.lab.segment(name).capture(&file)?;
            files.push(file);
        }
        Ok(files)
    }

    /// Runs a program in a guest, its lines shown as they come.
    pub(crate) fn run(&self, machine: &Machine, command: &[&str]) -> Result<String> {
        let started = Instant::now();
        // One stream: a line of complaint in its place among the others.
        let words = ["sh", "-c", "exec \"$@\" 2>&1", "sh"].iter().chain(command).copied();
        let mut running = machine.spawn(Cmd::new(words).deadline(PATIENCE))?;
        let mut text = String::new();
        while let Some(line) = running.line(started + PATIENCE)? {
            if self.verbose {
                println!("    {} | {line}", machine.name());
            }
            text.push_str(&line);
            text.push('\n');
        }
        let output = running.wait()?;
        if output.code != 0 {
            bail!(
                "{} on {} ended with code {}: {}{}",
                command.join(" "),
                machine.name(),
                output.code,
                text,
                output.stderr
            );
        }
        Ok(text)
    }

    pub(crate) fn san_node(&self, node: usize, verb: &[&str]) -> Result<String> {
        let mut command = vec!["/usr/local/sbin/san-node"];
        command.extend(verb);
        command.extend(["--config", "/etc/sankit/node.toml"]);
        self.run(&self.nodes[node], &command)
    }

    /// What an administrator has done once: secrets and the file on both nodes. Guests forget it at each power cut, as it is not on a disk.
    pub(crate) fn equip(&self, node: usize) -> Result<()> {
        let machine = &self.nodes[node];
        // Installed as on a real node: /lab is a slow share.
        machine.sh("mkdir -p /etc/sankit /run/keys; chmod 700 /run/keys; cp /lab/bin/san-node /usr/local/sbin/; sync")?;
        machine.push("/etc/sankit/node.toml", &self.config, 0o644)?;
        machine.push("/run/keys/san", PASSPHRASE, 0o600)?;
        machine.push("/run/keys/drbd", "a-replication-secret-of-the-lab", 0o600)?;
        machine.push("/run/keys/chap", CHAP_SECRET, 0o600)?;
        Ok(())
    }

    /// Makes the RAID and the encrypted disks: the one thing that is done once in a disk's life.
    pub(crate) fn make_disks(&self, node: usize) -> Result<()> {
        let machine = &self.nodes[node];
        let name = machine.name();
        machine.sh(&format!(
            "modprobe -a raid1 dm_crypt; yes | mdadm --create /dev/md0 --run --quiet --level=1 --raid-devices=2 --assume-clean --metadata=1.2 \
             /dev/disk/by-id/virtio-{name}-b /dev/disk/by-id/virtio-{name}-c 2>&1"
        ))?;
        for unit in &UNITS {
            let disk = unit.disk.replace("{node}", name);
            machine.sh(&format!(
                "cryptsetup luksFormat -q --type luks2 --sector-size 512 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --uuid {} --key-file /run/keys/san {disk}",
                unit.uuids[node]
            ))?;
        }
        Ok(())
    }

    /// After a boot with disks that are made already.
    pub(crate) fn assemble(&self, node: usize) -> Result<()> {
        let machine = &self.nodes[node];
        let name = machine.name();
        machine.sh(&format!(
            "modprobe raid1; mdadm --stop --scan 2>/dev/null; mdadm --assemble --run /dev/md0 /dev/disk/by-id/virtio-{name}-b \
             /dev/disk/by-id/virtio-{name}-c 2>&1; udevadm settle"
        ))?;
        Ok(())
    }

    /// The hypervisor's network and daemons.
    pub(crate) fn prepare_hypervisor(&self) -> Result<()> {
        self.hv.sh(&format!(
            "set -e
             modprobe -a 8021q iscsi_tcp dm_multipath dm_service_time scsi_dh_alua
             for i in 0 1; do
                 ip link set eth$i mtu 9000 up
                 ip link add link eth$i name eth$i.2$((4+i)) type vlan id 2$((4+i))
                 ip link set eth$i.2$((4+i)) up
                 ip addr add 10.1.2$((4+i)).1/24 dev eth$i.2$((4+i))
             done
             echo InitiatorName={INITIATOR} > /etc/iscsi/initiatorname.iscsi
             mkdir -p /run/lock/iscsi /run/keys
             iscsid
             multipathd"
        ))?;
        self.hv.push("/run/keys/chap", CHAP_SECRET, 0o600)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.hv.run(["multipathd", "show", "daemon"])?.stdout.starts_with("pid") {
            if Instant::now() > deadline {
                bail!("multipathd did not start on hv");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Attaches a unit's disk over both portals; its device.
    pub(crate) fn attach(&self, unit: &Unit) -> Result<String> {
        let command = [
            "/lab/bin/san-attach",
            unit.target,
            "--portal",
            unit.portals[0],
            "--portal",
            unit.portals[1],
            "--user",
            "hv",
            "--secret-file",
            "/run/keys/chap",
            "--failover",
        ];
        let text = self.run(&self.hv, &command)?;
        let device = text.lines().find_map(|line| line.split_once(' ').map(|(device, _)| device));
        device
            .filter(|d| d.starts_with("/dev/"))
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("no device in {text:?}"))
    }

    /// Boots a node that was cut off, brings it up, and waits until it has caught up.
    pub(crate) fn bring_back(&self, node: usize) -> Result<()> {
        self.nodes[node].boot().with_context(|| format!("booting {}", self.nodes[node].name()))?;
        self.equip(node)?;
        self.assemble(node)?;
        self.san_node(node, &["apply"])?;
        for unit in &UNITS {
            self.san_node(node, &["wait", unit.name])?;
        }
        Ok(())
    }
}

/// Prints what helps to understand a failure: addresses, replication, sessions, the kernel's last words.
pub(crate) fn show_state(machine: &Machine) {
    const LOOK: &str = "set +e; ip -br addr; ip neigh; cat /proc/drbd; multipath -ll; dmesg | tail -n 60";
    match machine.run(Cmd::sh(LOOK).deadline(Duration::from_secs(10))) {
        Ok(output) => output.stdout.lines().for_each(|line| println!("    {} | {line}", machine.name())),
        Err(error) => println!("    {} | {error:#}", machine.name()),
    }
}
