//! What a machine is made of.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use super::Machine;
use crate::disk::Disk;
use crate::hub::{Cable, Segment};
use crate::image::Kernel;
use crate::run::Context;

/// What a machine boots into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// busybox, kmod and the storage and network modules, in memory; a few seconds. The default.
    #[default]
    Tiny,
    /// A Debian with drbd-utils, targetcli, open-iscsi and so on; changes are lost at the end.
    Root,
}

/// A network card.
#[derive(Debug, Clone)]
pub struct Nic {
    pub(super) segment: Segment,
    pub(super) model: String,
    pub(super) mtu: Option<u32>,
    pub(super) options: String,
}

impl Nic {
    /// A virtio card on a segment. Its driver lets the guest set any MTU up to 65535.
    #[must_use]
    pub fn on(segment: &Segment) -> Self {
        let (model, options) = ("virtio-net-pci".to_owned(), String::new());
        Self { segment: segment.clone(), model, mtu: None, options }
    }

    /// Another model: `e1000e`, `vmxnet3`, ... `igb` came with a later QEMU.
    #[must_use]
    pub fn model(mut self, model: &str) -> Self {
        model.clone_into(&mut self.model);
        self
    }

    /// Makes the card announce an MTU in bytes (`host_mtu`, virtio only): the guest starts with it and cannot
    /// set a larger one.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// More properties of QEMU's device, `name=value` separated by commas.
    #[must_use]
    pub fn options(mut self, options: &str) -> Self {
        options.clone_into(&mut self.options);
        self
    }
}

/// Builds a machine. [`crate::Lab::machine`] makes it.
#[derive(Debug, Clone)]
pub struct MachineBuilder {
    pub(super) context: Arc<Context>,
    pub(super) name: String,
    pub(super) memory: u32,
    pub(super) smp: String,
    pub(super) kernel: Kernel,
    pub(super) mode: Mode,
    pub(super) variant: String,
    pub(super) nics: Vec<Nic>,
    pub(super) disks: Vec<Disk>,
    pub(super) ports: Vec<String>,
    pub(super) append: String,
    pub(super) qemu: Vec<String>,
    pub(super) deadline: Duration,
}

impl MachineBuilder {
    pub(crate) fn new(context: Arc<Context>, name: &str) -> Self {
        Self {
            context,
            name: name.to_owned(),
            memory: 0,
            smp: "1".to_owned(),
            kernel: Kernel::default(),
            mode: Mode::default(),
            variant: "base".to_owned(),
            nics: Vec::new(),
            disks: Vec::new(),
            ports: Vec::new(),
            append: String::new(),
            qemu: Vec::new(),
            deadline: Duration::from_secs(180),
        }
    }

    /// Sets the memory in MiB; 512 by default, 1024 with a root file system.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory = mib;
        self
    }

    /// Sets the number of processors, 1 by default.
    #[must_use]
    pub fn cpus(mut self, count: u32) -> Self {
        self.smp = count.to_string();
        self
    }

    /// Sets QEMU's whole `-smp` value, such as `2,sockets=2,cores=2,threads=2,maxcpus=8`.
    #[must_use]
    pub fn smp(mut self, value: &str) -> Self {
        value.clone_into(&mut self.smp);
        self
    }

    /// Sets the kernel, 6.1 by default.
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// Sets what it boots into, [`Mode::Tiny`] by default.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Boots into a root file system of another variant than `base` (see [`crate::image::rootfs::VARIANTS`]).
    #[must_use]
    pub fn root(mut self, variant: &str) -> Self {
        variant.clone_into(&mut self.variant);
        self.mode(Mode::Root)
    }

    /// Adds a virtio network card on a segment. Cards are `eth0`, `eth1`, ... in their order as long as all
    /// have one driver; with several drivers find them by [`Cable::mac`].
    #[must_use]
    pub fn nic(self, segment: &Segment) -> Self {
        self.nic_with(Nic::on(segment))
    }

    /// Adds a network card.
    #[must_use]
    pub fn nic_with(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Adds a virtio disk: `vda`, `vdb`, ... in the tiny mode; with a root file system that and its modules
    /// come first, so the first of these is `vdc`. `/dev/disk/by-id/virtio-NAME` names it in both modes.
    #[must_use]
    pub fn disk(mut self, disk: &Disk) -> Self {
        self.disks.push(disk.clone());
        self
    }

    /// Adds a data port, `/dev/virtio-ports/NAME` in the guest; see [`Machine::port`].
    #[must_use]
    pub fn port(mut self, name: &str) -> Self {
        self.ports.push(name.to_owned());
        self
    }

    /// Adds words to the kernel command line.
    #[must_use]
    pub fn append(mut self, words: &str) -> Self {
        self.append.push(' ');
        self.append.push_str(words);
        self
    }

    /// Lets systemd be the first process, with `lab.target` for its goal. What is to happen at boot is laid out by the program
    /// `NAME.boot` among those of [`Lab::install`](crate::Lab::install), which runs before systemd and may put units below
    /// `/run/systemd/system` and links into its `lab.target.wants`.
    #[must_use]
    pub fn systemd(self) -> Self {
        self.append("lab.systemd")
    }

    /// Adds arguments to QEMU's command line.
    #[must_use]
    pub fn qemu<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.qemu.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets how long booting may take, 180 s by default.
    #[must_use]
    pub fn boot_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Makes the machine, switched off, with its cables in place.
    ///
    /// # Errors
    /// If the name is not made of letters, digits and hyphens, or a socket cannot be made.
    pub fn build(mut self) -> Result<Machine> {
        let sound = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.name.is_empty() || self.name.len() > 40 || !self.name.chars().all(sound) {
            bail!("machine name {:?} must be 1 to 40 letters, digits and hyphens", self.name);
        }
        if self.memory == 0 {
            self.memory = if self.mode == Mode::Tiny { 512 } else { 1024 };
        }
        let mut cables = Vec::new();
        for (index, nic) in self.nics.iter().enumerate() {
            let mut cable = nic.segment.cable(&self.name)?;
            cable.attach(mac(&self.name, index)?);
            cables.push(cable);
        }
        Machine::new(self, cables)
    }

    /// Makes the machine and boots it.
    ///
    /// # Errors
    /// As [`MachineBuilder::build`] and [`Machine::boot`].
    pub fn boot(self) -> Result<Machine> {
        let machine = self.build()?;
        machine.boot()?;
        Ok(machine)
    }
}

/// A hardware address that is the same in every run.
fn mac(name: &str, index: usize) -> Result<String> {
    let hash = Sha256::digest(name.as_bytes());
    let [a, b, c] = hash.first_chunk::<3>().copied().unwrap_or_default();
    // 52:54 is QEMU's locally administered prefix.
    Ok(format!("52:54:{a:02x}:{b:02x}:{c:02x}:{:02x}", u8::try_from(index)?))
}

/// The cables of a machine by number.
pub(super) fn nth(cables: &[Cable], index: usize, name: &str) -> Result<Cable> {
    match cables.get(index) {
        Some(cable) => Ok(cable.clone()),
        None => bail!("{name} has {} network cards, there is no number {index}", cables.len()),
    }
}
