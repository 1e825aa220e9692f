//! Many volumes opened with few passphrases: keys derived in parallel within a budget, mappings made one after another.
//!
//! The key derivation is what takes the time: each key slot costs seconds of a processor and, with Argon2, up to 1 GiB of memory, and
//! `cryptsetup` does one volume a process. An [`UnlockSet`] reads the costs from the headers, runs as many derivations side by side as the
//! [`Budget`] has room for, the longest first, and hands the keys to device-mapper one by one: neither libdevmapper nor the rest of
//! libcryptsetup may be used by two threads. One volume that cannot be opened does not keep the others closed.
//!
#![cfg_attr(feature = "libcryptsetup", doc = "```no_run")]
#![cfg_attr(not(feature = "libcryptsetup"), doc = "```ignore")]
//! use luks::unlock::{Outcome, UnlockSet};
//! use luks::{Luks, Secret};
//! let crypttab = std::fs::read_to_string("/etc/crypttab")?;
//! let entries = luks::unlock::parse_crypttab(&crypttab)?;
//! let set = UnlockSet::new(entries.into_iter().map(|entry| entry.spec));
//! for report in set.run(&Luks::new()?, &[Secret::read("/run/keys/san")?])? {
//!     println!("{}: {}", report.name, report.outcome);
//!     assert!(!matches!(report.outcome, Outcome::WrongKey), "{} has another passphrase", report.name);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod budget;
mod crypttab;
mod outcome;
mod resolve;
mod run;

use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use host::{DmName, Secret};

use crate::Luks;
use crate::error::Result;
use crate::header::{Header, Keyslot, Priority, Token};
use crate::plan::Step;
use crate::spec::{MappingSpec, Place, Source};

pub use budget::Budget;
pub use crypttab::{CrypttabEntry, parse as parse_crypttab};
pub use host::ParseError;
pub use outcome::{Outcome, Report};

/// Reads where a volume is, as the second field of `crypttab` has it: `UUID=`, `LABEL=` (a LUKS2 label), `PARTUUID=`, `PARTLABEL=`, or a path.
///
/// # Errors
/// It is none of these.
pub fn parse_source(text: &str) -> std::result::Result<Source, ParseError> {
    crypttab::source(text)
}

/// What is done with a key that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Purpose {
    /// The volume is opened.
    #[default]
    Open,
    /// Nothing: it is only known that there is one. `cryptsetup open --test-passphrase`; needs no root.
    Check,
}

/// Whether a wrong passphrase ends the rest. One that is mistyped costs a derivation for each key slot of each volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnWrongKey {
    /// The others are tried all the same: they may have other passphrases.
    #[default]
    GoOn,
    /// No further derivation is begun; what was not tried is [`Outcome::NotTried`].
    Stop,
}

/// Whether the tokens of the headers are tried before any passphrase: what opens volumes while nobody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Tokens {
    /// No.
    #[default]
    PassOver,
    /// Yes, one after another: a TPM or a FIDO2 device through the plug-in of libcryptsetup's that its makers install (systemd's, say), a key
    /// of the kernel's keyring, and what `clevis` decrypts.
    Try,
}

/// Volumes that are to be open, each under its name.
#[derive(Debug, Clone)]
pub struct UnlockSet {
    specs: Vec<MappingSpec>,
    budget: Option<Budget>,
    purpose: Purpose,
    on_wrong_key: OnWrongKey,
    tokens: Tokens,
    timeout: Duration,
}

/// A volume that will be opened, and what that costs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Planned {
    /// The name it gets.
    pub name: DmName,
    /// The device it is on.
    pub device: PathBuf,
    /// How it is opened.
    pub flags: crate::OpenFlags,
    /// Its header.
    pub header: Header,
    /// Where that is, if not on the device.
    pub header_place: Option<PathBuf>,
    /// The only key slot that is tried, if there is but one.
    pub keyslot: Option<u32>,
}

impl fmt::Display for Planned {
    /// The `cryptsetup` line for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = Step::Open {
            name: self.name.clone(),
            uuid: self.header.uuid.clone(),
            device: self.device.clone(),
            header: self.header_place.clone(),
            flags: self.flags,
            keyslot: self.keyslot,
        };
        step.fmt(f)
    }
}

impl Planned {
    /// The key slots in the order in which they are tried: the preferred ones first; not those of priority "ignore", and none without a key
    /// of the data. Only the one that was named, if one was.
    pub fn keyslots(&self) -> impl Iterator<Item = &Keyslot> {
        let bound = || self.header.keyslots.iter().filter(|slot| !slot.unbound);
        let of = move |priority| {
            bound().filter(move |slot| match self.keyslot {
                Some(named) => slot.number == named && slot.priority == priority,
                None => slot.priority == priority && priority != Priority::Ignore,
            })
        };
        of(Priority::Prefer).chain(of(Priority::Normal)).chain(of(Priority::Ignore))
    }

    /// The tokens that may open it: those of a key slot that is tried.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        let opens = |token: &&Token| match self.keyslot {
            Some(named) => token.keyslots.contains(&named),
            None => !token.keyslots.is_empty(),
        };
        self.header.tokens.iter().filter(opens)
    }

    fn place(&self) -> Place<'_> {
        Place { device: &self.device, header: self.header_place.as_deref() }
    }

    /// The most memory that one of its key slots takes, in KiB.
    #[must_use]
    pub fn memory_kib(&self) -> u64 {
        self.keyslots().map(|slot| slot.memory_kib).max().unwrap_or_default()
    }

    /// How long it takes, compared with others: passes times memory. PBKDF2's iterations count as little as they cost.
    fn weight(&self) -> u64 {
        let weight = |slot: &Keyslot| match slot.memory_kib {
            0 => slot.cost / 1000,
            memory => slot.cost.saturating_mul(memory),
        };
        self.keyslots().map(weight).fold(0, u64::saturating_add)
    }
}

/// What happens to a volume while the set is being unlocked.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A key is being derived from a key slot.
    Deriving {
        /// The volume's name.
        name: &'a DmName,
        /// The key slot.
        keyslot: u32,
    },
    /// A token is being asked for a key.
    Asking {
        /// The volume's name.
        name: &'a DmName,
        /// The token.
        token: &'a Token,
    },
    /// It is known what came of a volume.
    Finished {
        /// The volume and its outcome.
        report: &'a Report,
        /// How many are finished.
        finished: usize,
        /// How many there are.
        total: usize,
    },
}

impl UnlockSet {
    /// These volumes.
    #[must_use]
    pub fn new(specs: impl IntoIterator<Item = MappingSpec>) -> Self {
        Self {
            specs: specs.into_iter().collect(),
            budget: None,
            purpose: Purpose::Open,
            on_wrong_key: OnWrongKey::GoOn,
            tokens: Tokens::PassOver,
            timeout: Duration::from_secs(300),
        }
    }

    /// Sets what derivations may take at once; default [`Budget::of`] this machine.
    #[must_use]
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Sets what is done with the keys.
    #[must_use]
    pub fn with_purpose(mut self, purpose: Purpose) -> Self {
        self.purpose = purpose;
        self
    }

    /// Sets whether a wrong passphrase ends the rest.
    #[must_use]
    pub fn with_on_wrong_key(mut self, on_wrong_key: OnWrongKey) -> Self {
        self.on_wrong_key = on_wrong_key;
        self
    }

    /// Sets whether tokens are tried first.
    #[must_use]
    pub fn with_tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = tokens;
        self
    }

    /// Sets after how long no further derivation is begun; default five minutes. One that has begun cannot be interrupted.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What would be done: for each volume what it costs to open it, or why that is not to be done. Reads headers and sysfs, changes nothing.
    ///
    /// # Errors
    /// The mappings or the list of disks cannot be read.
    pub fn plan(&self, luks: &Luks) -> Result<Vec<std::result::Result<Planned, Report>>> {
        let mappings = luks.backend.mappings(&luks.host)?;
        let (found, mut failed) = resolve::inventory(luks, &mappings, &self.specs)?;
        let one = |(number, spec)| match failed.remove(&number) {
            Some(error) => Err(Report::failed(spec, error)),
            None => resolve::one(spec, &mappings, &found, self.purpose),
        };
        Ok(self.specs.iter().enumerate().map(one).collect())
    }

    /// Opens the volumes with whichever of the secrets fits each, and says what came of each, in the order of the set.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); the lock of the mappings cannot be had, or the module `dm_crypt` cannot be loaded. What is wrong with one
    /// volume is its [`Outcome`].
    pub fn run(&self, luks: &Luks, secrets: &[Secret]) -> Result<Vec<Report>> {
        self.run_with(luks, secrets, |_| ControlFlow::Continue(()))
    }

    /// As [`run`](Self::run), telling what happens as it does. A break ends it: what has not been tried is not.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_with(
        &self,
        luks: &Luks,
        secrets: &[Secret],
        progress: impl FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Report>> {
        run::run(self, luks, secrets, progress)
    }
}
