//! The file of `lab up`: segments, disks and machines.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::hub::{Impair, Segment};
use crate::machine::{Machine, Mode, Nic};
use crate::{Lab, WriteCache};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Topology {
    /// Name of the lab.
    pub(super) name: String,
    #[serde(default)]
    segment: Vec<SegmentEntry>,
    #[serde(default)]
    machine: Vec<MachineEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SegmentEntry {
    name: String,
    #[serde(default)]
    delay_ms: f64,
    #[serde(default)]
    loss: f64,
    #[serde(default)]
    pcap: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineEntry {
    name: String,
    #[serde(default)]
    memory: u32,
    #[serde(default)]
    cpus: Option<u32>,
    #[serde(default)]
    kernel: Option<String>,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    append: String,
    #[serde(default)]
    nics: Vec<NicEntry>,
    #[serde(default)]
    disks: Vec<DiskEntry>,
    #[serde(default)]
    run: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NicEntry {
    segment: String,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    mtu: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskEntry {
    name: String,
    size_mib: u64,
    #[serde(default)]
    plain: bool,
}

impl Topology {
    /// Reads the text of a file.
    pub(super) fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// Makes the machines, switched off, and the scripts each shall run when it is up.
    pub(super) fn build(&self, lab: &Lab) -> Result<Vec<(Machine, Vec<String>)>> {
        let mut segments = HashMap::new();
        for entry in &self.segment {
            let segment = lab.segment(&entry.name);
            let delay = Duration::try_from_secs_f64(entry.delay_ms / 1000.0).context("delay_ms")?;
            segment.impair(Impair { delay, loss: entry.loss, rate: None });
            if let Some(path) = &entry.pcap {
                segment.capture(path.as_ref())?;
            }
            segments.insert(entry.name.as_str(), segment);
        }
        self.machine.iter().map(|entry| Ok((machine(lab, entry, &segments)?, entry.run.clone()))).collect()
    }
}

fn machine(lab: &Lab, entry: &MachineEntry, segments: &HashMap<&str, Segment>) -> Result<Machine> {
    let mut builder = lab.machine(&entry.name).memory(entry.memory).append(&entry.append);
    builder = match entry.mode.as_deref() {
        Some("tiny") => builder.mode(Mode::Tiny),
        None | Some("root") => builder.mode(Mode::Root),
        Some(other) => bail!("machine {}: mode {other:?} is neither tiny nor root", entry.name),
    };
    if let Some(cpus) = entry.cpus {
        builder = builder.cpus(cpus);
    }
    if let Some(kernel) = &entry.kernel {
        builder = builder.kernel(kernel.parse()?);
    }
    if let Some(variant) = &entry.variant {
        builder = builder.root(variant);
    }
    for nic in &entry.nics {
        let segment = segments.get(nic.segment.as_str());
        let segment = segment.with_context(|| format!("{}: no segment {:?}", entry.name, nic.segment))?;
        let mut card = Nic::on(segment);
        if let Some(model) = &nic.model {
            card = card.model(model);
        }
        if let Some(mtu) = nic.mtu {
            card = card.mtu(mtu);
        }
        builder = builder.nic_with(card);
    }
    for disk in &entry.disks {
        let cache = if disk.plain { WriteCache::Plain } else { WriteCache::Volatile };
        builder = builder.disk(&lab.disk_with(&disk.name, disk.size_mib << 20, cache)?);
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_read_and_unknown_fields_are_refused() {
        let example = Topology::parse(include_str!("../../labs/two-nodes.toml")).unwrap();
        assert_eq!(example.machine.len(), 3);
        assert!(Topology::parse("name = 'x'\ncolour = 'red'").is_err());
    }
}
