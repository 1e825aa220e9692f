//! LUKS volumes of a storage node: what is on the disks, what is open, and how to get from one to the other.
//!
//! ```no_run
//! use luks::{Host, Luks, MappingSpec, Secret};
//! let luks = Luks::on(&Host::live())?;
//! let disks = [
//!     MappingSpec::by_uuid("VM_STORAGE_1".parse()?, "1bd1f798-d105-4150-841b-f2751f419efc".parse()?),
//!     MappingSpec::by_uuid("VM_STORAGE_2".parse()?, "d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456".parse()?),
//! ];
//! let opened = luks.ensure(&disks, &Secret::read("/run/keys/san")?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`unlock`] opens many volumes with few passphrases, their keys derived in parallel within a budget; `bench` measures.
//!
//! The header reader ([`header`], [`Header::read`]) is pure Rust and needs nothing. The rest goes through libcryptsetup (feature `libcryptsetup`, on by
//! default). This crate is its own safe layer on `libcryptsetup-rs-sys`, raw bindings generated from the installed header; it uses neither
//! `cryptsetup-rs` nor `libcryptsetup-rs`, for reasons that the README gives.
//!
//! Opening and closing need root; listing needs only sysfs. Not yet: key slot changes, tokens, reencryption, restore of a header.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod apply;
#[cfg(feature = "libcryptsetup")]
pub mod bench;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod header;
mod name;
mod plan;
mod spec;
mod state;
#[cfg(feature = "libcryptsetup")]
#[allow(unsafe_code)]
mod sys;
pub mod unlock;
#[cfg(feature = "libcryptsetup")]
mod volume;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use host::Deadline;
use host::plan::Undo;

use apply::Backend;
pub use error::{Error, Result};
pub use header::{Header, Keyslot, Parsed, Version};
pub use host::{DmName, Host, Plan, Secret};
pub use name::Uuid;
pub use plan::{Step, diff};
pub use spec::{Discards, FormatSpec, Kdf, MappingSpec, Overwrite, Source};
pub use state::{MappingState, VolumeState};
#[cfg(feature = "libcryptsetup")]
pub use volume::Backup;

/// The encrypted volumes of a machine; the handle of this crate.
#[derive(Debug, Clone)]
pub struct Luks {
    host: Host,
    backend: Arc<dyn Backend>,
    timeout: Duration,
}

impl Luks {
    /// The volumes of this machine.
    ///
    /// # Errors
    /// As [`on`](Self::on).
    #[cfg(feature = "libcryptsetup")]
    pub fn new() -> Result<Self> {
        Self::on(&Host::live())
    }

    /// The volumes of a machine.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on a captured tree: a mapping is made by the kernel. Use `luks::fake` for tests.
    #[cfg(feature = "libcryptsetup")]
    pub fn on(host: &Host) -> Result<Self> {
        if host.run_dir().is_none() {
            return Err(Error::Unsupported(
                "mappings need a live machine; use luks::fake::FakeCrypt in tests",
            ));
        }
        Ok(Self::with_backend(host, Arc::new(apply::Live)))
    }

    #[allow(dead_code)] // Without libcryptsetup and fake nobody calls it.
    pub(crate) fn with_backend(host: &Host, backend: Arc<dyn Backend>) -> Self {
        Self { host: host.clone(), backend, timeout: Duration::from_secs(60) }
    }

    /// Sets how long the wait for another process's lock may take; default 60 s. A key derivation cannot be interrupted.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Lists all mappings of dm-crypt, also those others made: `dmsetup ls --target crypt`.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn list(&self) -> Result<Vec<MappingState>> {
        self.backend.mappings(&self.host)
    }

    /// Lists all disks with a LUKS header: `blkid -t TYPE=crypto_LUKS`, without its cache.
    ///
    /// # Errors
    /// The list of block devices cannot be read. A disk that cannot be read is passed over.
    pub fn volumes(&self) -> Result<Vec<VolumeState>> {
        self.backend.volumes(&self.host)
    }

    /// Reads one mapping; `None` if there is none of this name. `cryptsetup status NAME`.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn get(&self, name: &DmName) -> Result<Option<MappingState>> {
        Ok(self.list()?.into_iter().find(|m| m.name == name.as_str()))
    }

    /// The steps that open what is not open yet; empty if all is.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::OpenElsewhere`], [`Error::NoVolume`].
    pub fn plan(&self, specs: &[MappingSpec]) -> Result<Plan<Step>> {
        let mappings = self.list()?;
        // Reading every disk's head is not needed where all is open: that is the state of nearly every call.
        let open = |spec: &MappingSpec| match &spec.source {
            Source::Uuid(uuid) => mappings
                .iter()
                .any(|m| m.name == spec.name.as_str() && m.uuid.as_ref() == Some(uuid) && m.device.is_some()),
            Source::Path(_) | Source::Label(_) => false,
        };
        let volumes = if specs.iter().all(open) { Vec::new() } else { self.volumes()? };
        diff(&mappings, &volumes, specs)
    }

    /// Carries out a plan; closes again what it opened if a step fails.
    ///
    /// # Errors
    /// [`Error::Step`] names the step; [`Error::is_wrong_passphrase`] tells the most frequent cause.
    pub fn apply(&self, plan: Plan<Step>, passphrase: &Secret) -> Result<Undo<Step>> {
        let _lock = self.host.lock("luks", Deadline::after(self.timeout)).map_err(Error::Locked)?;
        self.load_module(&plan)?;
        let run = |step: &Step| apply::run(&*self.backend, &self.host, step, passphrase);
        Ok(host::plan::apply(&self.host, "luks", plan, run)?)
    }

    fn load_module(&self, plan: &Plan<Step>) -> Result<()> {
        if plan.is_empty() { Ok(()) } else { self.load_dm_crypt() }
    }

    fn load_dm_crypt(&self) -> Result<()> {
        if self.host.run_dir().is_none() {
            return Ok(());
        }
        let deadline = Deadline::after(self.timeout);
        match self.host.exec().load(host::exec::Module::DM_CRYPT, self.host.tree(), deadline) {
            Ok(_) | Err(host::exec::Error::NotInstalled { .. }) => Ok(()),
            Err(error) => Err(Error::Module(error)),
        }
    }

    /// Opens what is not open yet, all with one passphrase; `false` if all was, and then nothing is written.
    ///
    /// # Errors
    /// As [`plan`](Self::plan) and [`apply`](Self::apply).
    pub fn ensure(&self, specs: &[MappingSpec], passphrase: &Secret) -> Result<bool> {
        let plan = self.plan(specs)?;
        Ok(!plan.is_empty() && self.apply(plan, passphrase).map(|_| true)?)
    }

    /// Opens one volume.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if it is open; else as [`ensure`](Self::ensure).
    pub fn create(&self, spec: &MappingSpec, passphrase: &Secret) -> Result<()> {
        if self.get(&spec.name)?.is_some() {
            return Err(Error::AlreadyExists { name: spec.name.clone() });
        }
        self.ensure(std::slice::from_ref(spec), passphrase).map(drop)
    }

    /// Closes a mapping; `false` if there was none. `cryptsetup close`. Never deferred: a deferred mapping keeps the key in memory.
    ///
    /// # Errors
    /// [`Error::Busy`] names who holds it.
    pub fn remove(&self, name: &DmName) -> Result<bool> {
        let _lock = self.host.lock("luks", Deadline::after(self.timeout)).map_err(Error::Locked)?;
        let Some(open) = self.get(name)? else { return Ok(false) };
        if !open.holders.is_empty() {
            return Err(Error::Busy {
                object: format!("/dev/mapper/{name}"),
                holders: open.holders.join(", "),
            });
        }
        self.backend.close(&self.host, name.as_str()).map(|()| true)
    }
}
