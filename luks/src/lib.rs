//! LUKS volumes of a storage node: what is on the disks, what is open, and how to get from one to the other.
//!
#![cfg_attr(feature = "libcryptsetup", doc = "```no_run")]
#![cfg_attr(not(feature = "libcryptsetup"), doc = "```ignore")]
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
//! [`Luks`] is about mappings: open, close, resize, suspend. [`Volume`] is about one volume on its disk: format, key slots, tokens, backup and
//! restore of the header, reencryption. What opens a volume is a [`Key`]; a [`Secret`] is taken as a passphrase.
//!
//! Opening and closing need root; listing needs only sysfs. All calls can be made from any thread. The library behind them cannot, so they wait for
//! each other, but not for each other's key derivation in [`Volume::check`] and [`Volume::volume_key`].
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod apply;
#[cfg(feature = "libcryptsetup")]
pub mod bench;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod header;
#[cfg(feature = "libcryptsetup")]
mod holders;
mod key;
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

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use host::Deadline;
use host::plan::Undo;

use apply::{Backend, Close, Opening};
pub use error::{Error, Result};
pub use header::{Header, Keyslot, Parsed, Priority, Version};
pub use host::{Bytes, DmName, Host, ParseError, Plan, Secret, Sectors};
pub use key::{Key, VolumeKey};
pub use name::{Cipher, Uuid};
pub use plan::{Step, diff};
pub use spec::{
    Discards, FormatSpec, Integrity, Kdf, KeyslotSpec, MappingSpec, OpenFlags, OtherKeys, Overwrite,
    PlainSpec, ReencryptSpec, Resilience, Source, WeakKdf, WipePattern,
};
pub use state::{ActiveState, KeyslotState, MappingState, TokenState, VolumeState};
#[cfg(feature = "libcryptsetup")]
pub use volume::{Backup, BackupSlot, Health, LogLevel, Outcome, Progress, ReencryptState, SlotFate, Volume};

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
        specs.iter().try_for_each(MappingSpec::check)?;
        let mappings = self.list()?;
        // Reading every disk's head is not needed where all is open: that is the state of nearly every call.
        let open = |spec: &MappingSpec| match &spec.source {
            Source::Uuid(uuid) => mappings
                .iter()
                .any(|m| m.name == spec.name.as_str() && m.uuid.as_ref() == Some(uuid) && m.device.is_some()),
            Source::Path(_) | Source::Label(_) => false,
        };
        let mut volumes = if specs.iter().all(open) { Vec::new() } else { self.volumes()? };
        for spec in specs {
            if let (Some(header), Source::Path(device)) = (&spec.header, &spec.source) {
                volumes.push(self.backend.detached(device, header)?);
            }
        }
        diff(&mappings, &volumes, specs)
    }

    /// Carries out a plan; closes again what it opened if a step fails. What another process has opened since the plan was made is left as it is.
    ///
    /// # Errors
    /// [`Error::Step`] names the step; [`Error::is_wrong_passphrase`] tells the most frequent cause. [`Error::NameTaken`],
    /// [`Error::OpenElsewhere`] if something came in between.
    pub fn apply(&self, plan: Plan<Step>, key: impl Into<Key>) -> Result<Undo<Step>> {
        let _lock = self.lock()?;
        let plan = plan::still_to_do(plan, &self.list()?)?;
        self.load_module(&plan)?;
        let key = key.into();
        let run = |step: &Step| apply::run(&*self.backend, &self.host, step, &key);
        Ok(host::plan::apply(&self.host, "luks", plan, run)?)
    }

    fn lock(&self) -> Result<host::Lock> {
        self.host.lock("luks", Deadline::after(self.timeout)).map_err(Error::Locked)
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
    pub fn ensure(&self, specs: &[MappingSpec], key: impl Into<Key>) -> Result<bool> {
        let plan = self.plan(specs)?;
        if plan.is_empty() {
            return Ok(false);
        }
        Ok(!self.apply(plan, key)?.into_plan().is_empty())
    }

    /// Opens one volume. `cryptsetup open`.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if it is open; else as [`ensure`](Self::ensure).
    pub fn create(&self, spec: &MappingSpec, key: impl Into<Key>) -> Result<()> {
        match self.get(&spec.name)?.is_none() && self.ensure(std::slice::from_ref(spec), key)? {
            true => Ok(()),
            false => Err(Error::AlreadyExists { name: spec.name.clone() }),
        }
    }

    /// Opens a device as plain dm-crypt, which has no header: `cryptsetup open --type plain`. A passphrase is hashed, or without a hash taken as the
    /// key itself. **A wrong key opens it too, and reads noise.**
    ///
    /// # Errors
    /// [`Error::HoldsData`] if anything known is on the device, unless [`Overwrite::Always`] is said; [`Error::AlreadyExists`], [`Error::Busy`],
    /// [`Error::Parse`] for a key size that the cipher has not.
    pub fn create_plain(
        &self,
        name: &DmName,
        device: impl AsRef<Path>,
        spec: &PlainSpec,
        key: impl Into<Key>,
        flags: OpenFlags,
        overwrite: Overwrite,
    ) -> Result<()> {
        spec.cipher.check_key_bits(spec.key_bits)?;
        let _lock = self.lock()?;
        if self.get(name)?.is_some() {
            return Err(Error::AlreadyExists { name: name.clone() });
        }
        let device = device.as_ref();
        if overwrite == Overwrite::Never
            && let Some(what) = self.backend.signature(device)?
        {
            return Err(Error::HoldsData { device: device.to_path_buf(), what });
        }
        self.load_dm_crypt()?;
        log::debug!("luks: cryptsetup open --type plain{} {} {name}", flags.options(), device.display());
        let opening = Opening { name: name.as_str(), device, header: None, flags };
        self.backend.open_plain(&opening, spec, &key.into())
    }

    /// Closes a mapping; `false` if there was none. `cryptsetup close`. Not deferred: a deferred mapping keeps the key in memory.
    ///
    /// # Errors
    /// [`Error::Busy`] names who holds it.
    pub fn remove(&self, name: &DmName) -> Result<bool> {
        self.close(name, Close::Now)
    }

    /// Closes a mapping as soon as its last user has gone; `false` if there was none. `cryptsetup close --deferred`. Until then it works, and its
    /// key is in memory: no way to hand a disk over.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_deferred(&self, name: &DmName) -> Result<bool> {
        self.close(name, Close::Deferred)
    }

    /// Takes a deferred closing back; `false` if there is no mapping. `cryptsetup close --cancel-deferred`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cancel_deferred(&self, name: &DmName) -> Result<bool> {
        self.close(name, Close::Cancel)
    }

    fn close(&self, name: &DmName, how: Close) -> Result<bool> {
        let _lock = self.lock()?;
        let Some(open) = self.get(name)? else { return Ok(false) };
        if how == Close::Now && !open.holders.is_empty() {
            return Err(Error::Busy {
                object: format!("/dev/mapper/{name}"),
                holders: open.holders.join(", "),
            });
        }
        log::debug!("luks: close {name} ({how:?})");
        self.backend.close(&self.host, name.as_str(), how).map(|()| true)
    }

    fn open_one(&self, name: &DmName) -> Result<MappingState> {
        self.get(name)?.ok_or_else(|| Error::NotOpen { name: name.clone() })
    }

    /// Reads how a mapping was opened: flags, size, offset. `cryptsetup status NAME`. Needs root, as [`get`](Self::get) does not.
    ///
    /// # Errors
    /// [`Error::NotOpen`].
    pub fn active(&self, name: &DmName) -> Result<ActiveState> {
        self.open_one(name)?;
        self.backend.active(name.as_str())
    }

    /// Stops a mapping's I/O and wipes its key from the kernel; `false` if it is suspended already. `cryptsetup luksSuspend`. Who uses it waits.
    ///
    /// # Errors
    /// [`Error::NotOpen`]; [`Error::Library`] for plain dm-crypt, whose key could not be had back.
    pub fn suspend(&self, name: &DmName) -> Result<bool> {
        let _lock = self.lock()?;
        if self.open_one(name)?.suspended {
            return Ok(false);
        }
        log::debug!("luks: cryptsetup luksSuspend {name}");
        self.backend.suspend(name.as_str()).map(|()| true)
    }

    /// Gives a suspended mapping its key back and lets its I/O go on; `false` if it is not suspended. `cryptsetup luksResume`. `header` is where the
    /// header is, if not on the device.
    ///
    /// # Errors
    /// [`Error::NotOpen`], [`Error::WrongPassphrase`]; [`Error::NameTaken`] if the header is of another volume by now.
    pub fn resume(&self, name: &DmName, header: Option<&Path>, key: impl Into<Key>) -> Result<bool> {
        let _lock = self.lock()?;
        let open = self.open_one(name)?;
        if !open.suspended {
            return Ok(false);
        }
        log::debug!("luks: cryptsetup luksResume {name}");
        self.backend.resume(&open, header, &key.into()).map(|()| true)
    }

    /// Changes the size of a mapping while it is in use; `None`: as large as its device is now. `cryptsetup resize`. For LUKS2 a key is needed, as the
    /// volume key is in the kernel's keyring only.
    ///
    /// # Errors
    /// [`Error::NotOpen`], [`Error::WrongPassphrase`]; [`Error::Unsupported`] if a key is needed; [`Error::Library`] for a size that cannot be.
    pub fn resize(&self, name: &DmName, size: Option<Bytes>, key: Option<&Key>) -> Result<()> {
        let _lock = self.lock()?;
        self.open_one(name)?;
        log::debug!("luks: cryptsetup resize {name} {size:?}");
        self.backend.resize(name.as_str(), size.map_or(Sectors(0), Bytes::sectors), key)
    }

    /// Gives a mapping other flags while it is in use: exactly these, of those that can change. `cryptsetup refresh`.
    ///
    /// # Errors
    /// [`Error::NotOpen`], [`Error::WrongPassphrase`].
    pub fn refresh(&self, name: &DmName, flags: OpenFlags, key: impl Into<Key>) -> Result<()> {
        let _lock = self.lock()?;
        self.open_one(name)?;
        log::debug!("luks: cryptsetup refresh{} {name}", flags.options());
        self.backend.refresh(name.as_str(), flags, &key.into())
    }
}
