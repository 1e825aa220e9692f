//! The lab: virtual machines with real kernels, disks that lose what was not flushed, links that can be cut.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use lab::{Lab, Mode};
//!
//! let lab = Lab::new("example")?;
//! let san = lab.segment("san1");
//! let disk = lab.disk("n1-a", 256 << 20)?;
//! let n1 = lab.machine("n1").nic(&san).disk(&disk).boot()?;
//! let n2 = lab.machine("n2").nic(&san).mode(Mode::Root).boot()?;
//! n1.sh("ip addr add 10.0.0.1/24 dev eth0; ip link set eth0 up")?;
//! n2.sh("ip addr add 10.0.0.2/24 dev eth0; ip link set eth0 up; ping -c 1 10.0.0.1")?;
//! n1.cable(0)?.cut();
//! n1.power_cut();
//! n1.boot()?;
//! # Ok(())
//! # }
//! ```
//!
//! Guests are Debian 12 with Debian's kernels, on KVM where a test boot shows that it works, else emulated.
//! A machine of [`Mode::Tiny`] answers after about 4 s of emulation, one of [`Mode::Root`] after about 10 s.
//!
//! | variable | meaning |
//! |---|---|
//! | `SANKIT_ACCEL` | `kvm` or `tcg`, instead of the test boot |
//! | `SANKIT_CACHE` | where images are kept; `/var/cache/sankit`, else `~/.cache/sankit` |
//! | `SANKIT_LAB_DIR` | where runs live; `target/lab-runs` of the workspace |
//! | `SANKIT_LAB_AGENT` | the guest agent, if it is not beside the running program |
//! | `SANKIT_LAB` | is 1 for test programs that `lab test` runs in a guest; `SANKIT_LAB_*` is passed on |
//!
//! Not there: links with several queues (they need a tap device), frames larger than 64 KiB, guests of another
//! suite than the host's.
//!
//! Everything a [`Lab`] has started ends with it: when it is dropped, when the process is interrupted, and
//! when it is killed.

// This is the library of programs: what it prints is meant for whoever runs the tests.
#![allow(clippy::print_stdout, clippy::print_stderr)]

pub mod agent;
pub mod cli;
pub mod deps;
pub mod image;

mod accel;
mod client;
mod command;
mod disk;
mod guard;
mod hub;
mod machine;
mod programs;
mod proto;
mod qmp;
mod run;
mod sys;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, anyhow, bail};

pub use accel::Accel;
pub use command::{Chunk, Cmd, DEADLINE, Exit, Output, Running};
pub use disk::{Disk, WriteCache};
pub use hub::{Cable, Counters, Impair, Segment, Tap};
pub use image::Kernel;
pub use machine::{DataPort, Machine, MachineBuilder, Mode, Nic};
pub use programs::programs;

/// A lab: machines, segments, disks, and the directory they live in.
///
/// Dropping it ends all machines and removes the directory. If a machine did not boot, a command of
/// [`Machine::run_ok`] failed, or the thread panics, the serial logs are kept beside it, and where is said.
#[derive(Debug)]
pub struct Lab {
    context: Arc<run::Context>,
    hub: hub::Hub,
    disks: AtomicUsize,
}

impl Lab {
    /// Makes an empty lab and sweeps what killed labs have left behind. Its directory is
    /// `target/lab-runs/NAME-PID-N` of the workspace, or in `$SANKIT_LAB_DIR`.
    ///
    /// # Errors
    /// If the directory or the hub cannot be made, or the host is of another Debian suite than the guests.
    pub fn new(name: &str) -> Result<Self> {
        image::check_host()?;
        let sound = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 40 || !name.chars().all(sound) {
            bail!("lab name {name:?} must be 1 to 40 letters, digits, hyphens and underscores");
        }
        let context = Arc::new(run::Context::create(name)?);
        let hub = hub::Hub::start(context.sockets())?;
        Ok(Self { context, hub, disks: AtomicUsize::new(0) })
    }

    /// The directory of the run.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.context.path()
    }

    /// The segment of this name, added if there is none.
    #[must_use]
    pub fn segment(&self, name: &str) -> Segment {
        self.hub.segment(name)
    }

    /// Adds a disk of `size` bytes, all zeros, with a write cache that a power cut empties.
    ///
    /// # Errors
    /// If the name is longer than 20 characters or taken.
    pub fn disk(&self, name: &str, size: u64) -> Result<Disk> {
        self.disk_with(name, size, WriteCache::Volatile)
    }

    /// Adds a disk of `size` bytes that loses nothing and is fast.
    ///
    /// # Errors
    /// As [`Lab::disk`].
    pub fn plain_disk(&self, name: &str, size: u64) -> Result<Disk> {
        self.disk_with(name, size, WriteCache::Plain)
    }

    /// Adds a disk.
    ///
    /// # Errors
    /// As [`Lab::disk`].
    pub fn disk_with(&self, name: &str, size: u64, cache: WriteCache) -> Result<Disk> {
        let number = self.disks.fetch_add(1, Ordering::Relaxed);
        Disk::create(name, size, cache, self.context.path(), self.context.sockets(), number)
    }

    /// Begins a machine.
    #[must_use]
    pub fn machine(&self, name: &str) -> MachineBuilder {
        MachineBuilder::new(Arc::clone(&self.context), name)
    }

    /// All machines made so far.
    #[must_use]
    pub fn machines(&self) -> Vec<Machine> {
        self.context.machines()
    }

    /// Boots machines at the same time.
    ///
    /// # Errors
    /// The first one that does not boot.
    pub fn boot_all(&self, machines: &[Machine]) -> Result<()> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = machines.iter().map(|m| scope.spawn(|| m.boot())).collect();
            let results =
                threads.into_iter().map(|t| t.join().map_err(|_| anyhow!("a boot thread panicked"))?);
            // All are waited for before the first error is reported.
            results.collect::<Vec<Result<()>>>().into_iter().collect()
        })
    }

    /// Gives a program of the host to all guests, at once, as `/lab/bin/NAME`. Its shared libraries go to
    /// `/lab/lib`, where the tiny mode finds them. Returns the path in the guest.
    ///
    /// # Errors
    /// If it cannot be read or a library is missing.
    pub fn install(&self, program: &Path) -> Result<String> {
        let name = program.file_name().context("program without name")?.to_string_lossy().into_owned();
        let share = self.context.share();
        run::link_or_copy(program, &share.join("bin").join(&name))?;
        for library in image::ldd::closure(program)? {
            let target = share.join("lib").join(library.file_name().unwrap_or_default());
            if !target.exists() {
                run::link_or_copy(&library, &target)?;
            }
        }
        Ok(format!("/lab/bin/{name}"))
    }

    /// The directory of the host that the guests see as `/lab` (tiny: `/lab/host`), read-only.
    #[must_use]
    pub fn share(&self) -> PathBuf {
        self.context.share()
    }

    /// Makes the logs be kept at the end.
    pub fn keep_logs(&self) {
        self.context.fail();
    }

    /// Says that the failures so far were expected: the logs need not be kept.
    pub fn forgive(&self) {
        self.context.forgive();
    }

    /// The directory of the sockets, for the control socket of `lab up`.
    pub(crate) fn sockets(&self) -> &Path {
        self.context.sockets()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.context.close();
    }
}
