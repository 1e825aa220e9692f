//! A new key for the data, while it is in use if need be.

use std::ops::ControlFlow;

use host::{Bytes, Secret};

use super::Volume;
use super::format::check_kdf;
use crate::error::{Error, Result};
use crate::header::Version;
use crate::name::Cipher;
use crate::spec::{OtherKeys, ReencryptSpec};
use crate::sys::{self, Ended, ReencryptRequest, Session, SlotStatus};

/// How far a long call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is done.
    pub done: Bytes,
    /// All there is to do.
    pub total: Bytes,
}

impl Progress {
    pub(crate) fn new(done: u64, total: u64) -> Self {
        Self { done: Bytes(done), total: Bytes(total) }
    }
}

/// How a long call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// All is done.
    Finished,
    /// The progress said stop; what was begun is in order.
    Stopped,
}

impl From<Ended> for Outcome {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Finished => Self::Finished,
            Ended::Stopped => Self::Stopped,
        }
    }
}

/// A reencryption that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReencryptState {
    /// Whether it stopped in order.
    pub health: Health,
    /// What protects the part in work: "checksum", "journal", "datashift", "none".
    pub resilience: String,
}

/// How a reencryption was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Health {
    /// Between two parts; the volume can be used, and the reencryption resumed.
    Clean,
    /// In a part. Opening the volume or resuming recovers that.
    Crashed,
    /// Its metadata do not fit together, or something that this crate does not know.
    Other(u32),
}

impl Volume {
    /// The reencryption that is under way; `None` if there is none. `cryptsetup luksDump`.
    ///
    /// # Errors
    /// The header cannot be read.
    pub fn reencryption(&self) -> Result<Option<ReencryptState>> {
        let mut session = self.load("read the reencryption of")?;
        if !session.is_luks2() {
            return Ok(None);
        }
        Ok(session.reencryption().map(|seen| ReencryptState {
            health: match seen.health {
                sys::CLEAN => Health::Clean,
                sys::CRASH => Health::Crashed,
                other => Health::Other(other),
            },
            resilience: seen.resilience,
        }))
    }

    /// Gives the data a new key, and with it a new cipher or sector size: `cryptsetup reencrypt` (LUKS2). If the volume is open, it stays in use.
    ///
    /// All passphrases that shall open the volume afterwards must be given: for each of them a key slot with the new key is made. The old slots are
    /// gone at the end, and so are the passphrases of old backups of the header. `progress` is called after each part; if it says stop, the call
    /// ends with [`Outcome::Stopped`] and [`resume_reencrypt`](Self::resume_reencrypt) goes on. Killed at any point, the data is whole: opening
    /// the volume recovers the part that was in work. Killed while the volume is open, that part's device may stay suspended, and closing the
    /// mapping waits until the machine is restarted.
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`], [`Error::OtherKeys`], [`Error::NoRoom`], [`Error::WeakKdf`]: then nothing changed. [`Error::Unfinished`] if one is
    /// under way. [`Error::Unsupported`] for LUKS1: [`convert`](Self::convert) it first.
    pub fn reencrypt(
        &self,
        spec: &ReencryptSpec,
        passphrases: &[&Secret],
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        let header = self.read()?;
        if header.version == Version::Luks1 {
            return Err(Error::Unsupported("LUKS1 cannot be reencrypted; convert the volume to LUKS2 first"));
        }
        if let Some(kdf) = &spec.kdf {
            check_kdf(kdf, spec.weak_kdf)?;
        }
        let mut session = self.load("reencrypt")?;
        if session.reencryption().is_some() {
            let what = "a reencryption is under way; resume it (Volume::resume_reencrypt)".to_owned();
            return Err(Error::Unfinished { device: self.device.clone(), what });
        }
        let now: Cipher = header.cipher.parse()?;
        let (cipher, key_size) = match &spec.cipher {
            Some((cipher, bits)) => {
                cipher.check_key_bits(*bits)?;
                (cipher, usize::try_from(bits / 8).unwrap_or_default())
            }
            None => (&now, self.explained("reencrypt", session.volume_key_size())?),
        };
        let Some(first) = passphrases.first() else {
            return Err(Error::WrongPassphrase { device: self.device.clone() });
        };
        self.remove_leftovers(&mut session, passphrases)?;
        let old = self.covered(&mut session, passphrases, spec.other_keys)?;
        self.use_kdf(&mut session, spec.kdf.as_ref(), spec.weak_kdf)?;
        let new = self.add_new_slots(&mut session, passphrases, key_size)?;
        let name = self.open_as()?;
        let request = ReencryptRequest {
            name: name.as_deref(),
            passphrase: first.expose(),
            slots: (old, new.first().copied().unwrap_or(sys::ANY)),
            cipher: Some(cipher),
            sector_size: spec.sector_size.unwrap_or(header.sector_size),
            resilience: spec.resilience.word(),
            hotzone: spec.hotzone.map_or(0, |bytes| bytes.sectors().0),
            flags: 0,
        };
        if let Err(refused) = session.reencrypt_init(&request) {
            let error = self.explained::<()>("reencrypt", Err(refused)).map(|()| Outcome::Stopped);
            if session.reencryption().is_none() {
                for slot in new {
                    self.explained("take back a key slot of", session.destroy_slot(slot))?;
                }
            }
            return error;
        }
        self.say("reencryption begun");
        self.run(&mut session, progress)
    }

    /// Goes on with a reencryption that was stopped or killed; the passphrase may be any that was given to
    /// [`reencrypt`](Self::reencrypt). `cryptsetup reencrypt --resume-only`. `hotzone` is the most that is in work at once; `None` leaves it to the
    /// library.
    ///
    /// # Errors
    /// [`Error::Unfinished`] if there is none; [`Error::WrongPassphrase`].
    pub fn resume_reencrypt(
        &self,
        passphrase: &Secret,
        hotzone: Option<Bytes>,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        let mut session = self.load("resume the reencryption of")?;
        if session.reencryption().is_none() {
            let what = "no reencryption is under way".to_owned();
            return Err(Error::Unfinished { device: self.device.clone(), what });
        }
        let name = self.open_as()?;
        let request = ReencryptRequest {
            name: name.as_deref(),
            passphrase: passphrase.expose(),
            slots: (sys::ANY, sys::ANY),
            cipher: None,
            sector_size: 0,
            // The one it was begun with is in the header; the library reads this one only to change it.
            resilience: "",
            hotzone: hotzone.map_or(0, |bytes| bytes.sectors().0),
            flags: sys::RESUME_ONLY,
        };
        self.explained("resume the reencryption of", session.reencrypt_init(&request))?;
        self.say("reencryption resumed");
        self.run(&mut session, progress)
    }

    fn run(
        &self,
        session: &mut Session,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        let mut told = |done, total| progress(Progress::new(done, total));
        let ended = self.explained("reencrypt", session.reencrypt_run(&mut told))?;
        self.say(&format!("reencryption: {ended:?}"));
        // The progress may say stop after the last part.
        let over = ended == Ended::Stopped && session.reencryption().is_none();
        Ok(if over { Outcome::Finished } else { ended.into() })
    }

    fn slots(session: &mut Session, status: &[SlotStatus]) -> Vec<i32> {
        (0..session.slot_limit()).filter(|slot| status.contains(&session.slot_status(*slot))).collect()
    }

    /// Removes unbound key slots of these passphrases: a call before this one was killed before it began.
    fn remove_leftovers(&self, session: &mut Session, passphrases: &[&Secret]) -> Result<()> {
        for slot in Self::slots(session, &[SlotStatus::Unbound]) {
            if passphrases.iter().any(|p| session.volume_key(slot, p.expose()).is_ok()) {
                self.explained("remove a leftover key slot of", session.destroy_slot(slot))?;
                self.say(&format!("leftover key slot {slot} removed"));
            }
        }
        Ok(())
    }

    /// Which slot the first passphrase opens; and that no slot is left without a passphrase.
    fn covered(&self, session: &mut Session, passphrases: &[&Secret], other: OtherKeys) -> Result<i32> {
        let mut lost = Self::slots(session, &[SlotStatus::Active, SlotStatus::ActiveLast]);
        let mut first = None;
        for passphrase in passphrases {
            let opened = session.volume_key(sys::ANY, passphrase.expose());
            let (slot, _) = self.explained("check a passphrase of", opened)?;
            first = first.or(Some(slot));
            lost.retain(|other| *other != slot);
        }
        // The same passphrase may be in several slots.
        lost.retain(|slot| !passphrases.iter().any(|p| session.volume_key(*slot, p.expose()).is_ok()));
        if other == OtherKeys::Refuse && !lost.is_empty() {
            let slots = lost.into_iter().filter_map(|slot| u32::try_from(slot).ok()).collect();
            return Err(Error::OtherKeys { device: self.device.clone(), slots });
        }
        first.ok_or_else(|| Error::WrongPassphrase { device: self.device.clone() })
    }

    /// A slot of the new key for each passphrase: the first draws the key, the others share it.
    fn add_new_slots(
        &self,
        session: &mut Session,
        passphrases: &[&Secret],
        key_size: usize,
    ) -> Result<Vec<i32>> {
        let mut new: Vec<i32> = Vec::new();
        let mut key: Option<Secret> = None;
        for passphrase in passphrases {
            let secret = passphrase.expose();
            let added = session.add_unbound_slot(key.as_ref().map(Secret::expose), key_size, secret);
            let added = added.and_then(|slot| {
                new.push(slot);
                if key.is_none() {
                    key = Some(session.volume_key(slot, secret)?.1);
                }
                Ok(())
            });
            if let Err(refused) = added {
                for slot in new {
                    self.explained("take back a key slot of", session.destroy_slot(slot))?;
                }
                return self.explained("add a key slot to", Err(refused));
            }
        }
        Ok(new)
    }
}
