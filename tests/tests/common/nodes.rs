//! Storage nodes in the lab, of the same file as the demo's, with plain disks: what tests and comparisons of `san-node` run on.
#![allow(dead_code)] // Each of them uses a part.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lab::{Cmd, Lab, Machine, Mode, Output};

/// The units: name, and the disk's UUID on both nodes.
pub(crate) const UNITS: [(&str, [&str; 2]); 2] = [
    ("VM_STORAGE_1", ["1bd1f798-d105-4150-841b-f2751f419efc", "1bd1f798-d105-4150-841b-f2751f419efd"]),
    ("VM_STORAGE_2", ["d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456", "d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc457"]),
];
/// The file of both nodes.
pub(crate) const CONFIG: &str = include_str!("../../src/bin/demo/node.toml");
/// The secrets on both nodes.
pub(crate) const SECRETS: [(&str, &str); 3] = [
    ("san", "written on the inside of the skull"),
    ("drbd", "a-replication-secret-of-the-lab"),
    ("chap", "a-chap-secret-of-the-lab"),
];
const PATIENCE: Duration = Duration::from_secs(180);

/// One or two nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) lab: Lab,
    pub(crate) machines: Vec<Machine>,
}

impl Nodes {
    /// Boots so many nodes, with secrets, file and encrypted disks, and nothing set up.
    pub(crate) fn boot(lab: &str, programs: &Path, count: usize) -> Result<Self> {
        let lab = Lab::new(lab)?;
        lab.install(&programs.join("san-node"))?;
        let segments = ["lan1", "lan2", "repl1", "repl2"].map(|name| lab.segment(name));
        let mut machines = Vec::new();
        for name in ["n1", "n2"].iter().take(count) {
            let mut builder = lab.machine(name).mode(Mode::Root).memory(1024).cpus(1);
            for segment in &segments {
                builder = builder.nic(segment);
            }
            for letter in ["a", "b"] {
                builder = builder.disk(&lab.plain_disk(&format!("{name}-{letter}"), 64 << 20)?);
            }
            machines.push(builder.build()?);
        }
        lab.boot_all(&machines)?;
        let nodes = Self { lab, machines };
        for (number, machine) in nodes.machines.iter().enumerate() {
            // On the share no page of a program is cached: each start would read all of it through the emulator.
            machine.sh("mkdir -p /etc/sankit /run/keys; chmod 700 /run/keys; install /lab/bin/san-node /usr/local/bin/")?;
            machine.push("/etc/sankit/node.toml", CONFIG, 0o644)?;
            for (name, secret) in SECRETS {
                machine.push(&format!("/run/keys/{name}"), secret, 0o600)?;
            }
            for ((_, uuids), letter) in UNITS.iter().zip(["a", "b"]) {
                let uuid = uuids.get(number).copied().unwrap_or_default();
                machine.sh(&format!(
                    "modprobe dm_crypt; cryptsetup luksFormat -q --type luks2 --sector-size 512 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
                     --uuid {uuid} --key-file /run/keys/san /dev/disk/by-id/virtio-{}-{letter}",
                    machine.name()
                ))?;
            }
        }
        Ok(nodes)
    }

    /// Runs `san-node`, whatever comes of it; what it printed and complained is in `stdout`.
    pub(crate) fn try_san_node(&self, node: usize, words: &str) -> Result<Output> {
        let Some(machine) = self.machines.get(node) else { bail!("there is no node {node}") };
        machine.run(Cmd::sh(&format!("san-node {words} 2>&1")).deadline(PATIENCE))
    }

    /// Runs `san-node`, which must succeed.
    pub(crate) fn san_node(&self, node: usize, words: &str) -> Result<String> {
        let output = self.try_san_node(node, words)?;
        ensure!(output.success(), "san-node {words} ended with code {}: {}", output.code, output.stdout);
        Ok(output.stdout)
    }
}
