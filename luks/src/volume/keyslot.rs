//! Key slots, changed so that a volume never is without a key that is known to open it.

use host::Secret;

use super::format::check_kdf;
use super::{Volume, number};
use crate::error::{Error, Result};
use crate::header::Priority;
use crate::key::Key;
use crate::spec::{Kdf, KeyslotSpec, WeakKdf};
use crate::state::KeyslotState;
use crate::sys::{self, Session, SlotStatus};

/// Where a key that opens a volume comes from, besides the slot that is to go.
struct Proof(Option<i32>);

impl Volume {
    /// The key slots in use, with what can be said of them without a passphrase. [`read`](Self::read) has their derivation.
    ///
    /// # Errors
    /// The header cannot be read.
    pub fn keyslots(&self) -> Result<Vec<KeyslotState>> {
        let mut session = self.load("list the key slots of")?;
        let mut found = Vec::new();
        for slot in 0..session.slot_limit() {
            let status = session.slot_status(slot);
            if matches!(status, SlotStatus::Invalid | SlotStatus::Inactive) {
                continue;
            }
            found.push(KeyslotState {
                number: u32::try_from(slot).unwrap_or_default(),
                bound: status != SlotStatus::Unbound,
                priority: Priority::of(session.slot_priority(slot)),
                key_bits: self
                    .explained("read the key slots of", session.slot_key_size(slot))
                    .map(|bytes| u32::try_from(bytes * 8).unwrap_or(u32::MAX))?,
            });
        }
        Ok(found)
    }

    /// Adds a key slot and checks that it opens the volume; its number. `cryptsetup luksAddKey`.
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`] if `existing` opens nothing; [`Error::SlotTaken`], [`Error::NoRoom`], [`Error::WeakKdf`]. Then nothing changed.
    pub fn add_key(&self, existing: impl Into<Key>, new: &Secret, spec: &KeyslotSpec) -> Result<u32> {
        let mut session = self.load("add a key to")?;
        let (_, key) = self.key_in(&mut session, &existing.into())?;
        self.add_in(session, &key, new, spec)
    }

    fn add_in(&self, mut session: Session, key: &Secret, new: &Secret, spec: &KeyslotSpec) -> Result<u32> {
        if let Some(slot) = spec.slot {
            match session.slot_status(number(slot)) {
                SlotStatus::Inactive => {}
                SlotStatus::Invalid => return Err(Error::NoKeyslot { device: self.device.clone(), slot }),
                _ => return Err(Error::SlotTaken { device: self.device.clone(), slot }),
            }
        }
        self.use_kdf(&mut session, spec.kdf.as_ref(), spec.weak_kdf)?;
        let slot = spec.slot.map_or(sys::ANY, number);
        let slot =
            self.explained("add a key to", session.add_slot(slot, Some(key.expose()), new.expose()))?;
        self.say(&format!("key slot {slot} added"));
        if spec.priority != Priority::Normal {
            self.explained("set a priority of", session.set_slot_priority(slot, spec.priority.number()))?;
        }
        drop(session);
        // From the disk, by a context that has not seen the key.
        let mut again = self.load("check the new key of")?;
        match again.volume_key(slot, new.expose()) {
            Ok((_, seen)) if seen == *key => {}
            other => {
                self.explained("take back the key slot of", again.destroy_slot(slot))?;
                let reason = match other {
                    Ok(_) => "the new key slot yields another key than it was given".to_owned(),
                    Err(refused) => format!("the new key slot cannot be opened: {}", refused.source),
                };
                return Err(Error::Damaged { device: self.device.clone(), reason });
            }
        }
        self.say(&format!("key slot {slot} checked"));
        Ok(u32::try_from(slot).unwrap_or_default())
    }

    pub(super) fn use_kdf(&self, session: &mut Session, kdf: Option<&Kdf>, weak: WeakKdf) -> Result<()> {
        let Some(kdf) = kdf else { return Ok(()) };
        check_kdf(kdf, weak)?;
        if !session.is_luks2() && matches!(kdf, Kdf::Argon2id { .. } | Kdf::Argon2idFixed { .. }) {
            return Err(Error::Unsupported("LUKS1 has PBKDF2 only; convert the volume to LUKS2 first"));
        }
        // The hash of PBKDF2 and of LUKS2's anti-forensic splitter; LUKS1 takes that of its header.
        self.explained("set the key derivation of", session.set_kdf(kdf, "sha256"))
    }

    /// Wipes a key slot; `false` if it was empty. `cryptsetup luksKillSlot`. `stays` is a key that opens the volume without this slot: it is tried
    /// before and after.
    ///
    /// # Errors
    /// [`Error::LastKey`] if `stays` opens the volume through no other slot. Then nothing changed.
    pub fn remove_key(&self, slot: u32, stays: impl Into<Key>) -> Result<bool> {
        let stays = stays.into();
        let mut session = self.load("remove a key of")?;
        match session.slot_status(number(slot)) {
            SlotStatus::Inactive => return Ok(false),
            SlotStatus::Invalid => return Err(Error::NoKeyslot { device: self.device.clone(), slot }),
            SlotStatus::ActiveLast => return Err(Error::LastKey { device: self.device.clone(), slot }),
            SlotStatus::Active | SlotStatus::Unbound => {}
        }
        let proof = self.proof_without(&mut session, slot, &stays)?;
        self.remove_in(session, slot, &proof, &stays)?;
        Ok(true)
    }

    /// Finds out through which other slot a key opens the volume.
    fn proof_without(&self, session: &mut Session, slot: u32, stays: &Key) -> Result<Proof> {
        let last = || Error::LastKey { device: self.device.clone(), slot };
        let (first, _) = self.key_in(session, stays)?;
        match (first, stays) {
            (Some(other), _) if other != slot => Ok(Proof(Some(number(other)))),
            // Who has the volume key can make a slot at any time, and the slot is not the last.
            (_, Key::Volume(_)) => Ok(Proof(None)),
            // The same passphrase may be in several slots.
            (_, Key::Passphrase(secret)) => {
                let others = (0..session.slot_limit()).filter(|other| *other != number(slot));
                let active: Vec<_> =
                    others.filter(|other| session.slot_status(*other) == SlotStatus::Active).collect();
                active
                    .into_iter()
                    .find(|other| session.volume_key(*other, secret.expose()).is_ok())
                    .map(|other| Proof(Some(other)))
                    .ok_or_else(last)
            }
            _ => Err(last()),
        }
    }

    fn remove_in(&self, mut session: Session, slot: u32, proof: &Proof, stays: &Key) -> Result<()> {
        self.explained("remove a key of", session.destroy_slot(number(slot)))?;
        self.say(&format!("key slot {slot} removed"));
        drop(session);
        let mut again = self.load("check the key that stays of")?;
        match (proof.0, stays) {
            (Some(other), Key::Passphrase(secret) | Key::Slot(_, secret)) => self
                .explained("check the key that stays of", again.volume_key(other, secret.expose()))
                .map(drop),
            _ => self.key_in(&mut again, stays).map(drop),
        }
    }

    /// Changes a passphrase: adds a slot for the new one, checks it, and only then removes the old one's; the new slot's number, which is another
    /// than the old one's. `cryptsetup luksChangeKey`. Killed at any point, the volume opens with the old passphrase, the new one, or both, and the
    /// same call made again finishes. Only a slot that was being wiped in that moment may be left: it opens with nothing, which nobody can tell from
    /// a slot of somebody else's; [`remove_key`](Self::remove_key) takes it away.
    ///
    /// The new slot has the old one's priority unless the spec says another, and its tokens only if the passphrase stays (a token yields the old one).
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`] if neither opens the volume; [`Error::NoRoom`]: there must be room for one more slot; [`Error::WeakKdf`].
    pub fn change_key(&self, old: impl Into<Key>, new: &Secret, spec: &KeyslotSpec) -> Result<u32> {
        let old = match old.into() {
            Key::Keyring(description) => Key::Passphrase(super::keyring(&description)?),
            key @ (Key::Passphrase(_) | Key::Slot(..)) => key,
            _ => return Err(Error::Unsupported("a passphrase is changed: volume keys and tokens have none")),
        };
        let (Key::Passphrase(secret) | Key::Slot(_, secret)) = &old else {
            return Err(Error::Unsupported("a passphrase is changed"));
        };
        let same = secret == new;
        let mut session = self.load("change a key of")?;
        let (old_slot, key) = match self.key_in(&mut session, &old) {
            Ok((Some(slot), key)) => (slot, key),
            Ok((None, _)) => return Err(Error::WrongPassphrase { device: self.device.clone() }),
            // A call before this one may have come to its end without being able to say so.
            Err(error @ (Error::WrongPassphrase { .. } | Error::NoKeyslot { .. })) => {
                let done = session.volume_key(sys::ANY, new.expose());
                return done.ok().and_then(|(slot, _)| u32::try_from(slot).ok()).ok_or(error);
            }
            Err(error) => return Err(error),
        };
        let limit = session.slot_limit();
        let active = (0..limit).filter(|slot| session.slot_status(*slot) == SlotStatus::Active).count();
        // Or it was killed between the new slot and the end of the old one.
        let begun = (!same && active > 1)
            .then(|| session.volume_key(sys::ANY, new.expose()).ok())
            .flatten()
            .and_then(|(slot, _)| u32::try_from(slot).ok());
        let mut spec = spec.clone();
        if spec.priority == Priority::Normal {
            spec.priority = Priority::of(session.slot_priority(number(old_slot)));
        }
        let slot = match begun {
            Some(slot) => {
                // There is one session at a time, and the next one begins below.
                drop(session);
                slot
            }
            None => self.add_in(session, &key, new, &spec)?,
        };
        let mut session = self.load("change a key of")?;
        if same {
            self.move_tokens(&mut session, old_slot, slot)?;
        }
        self.remove_in(session, old_slot, &Proof(Some(number(slot))), &Key::from(new))?;
        Ok(slot)
    }

    /// Gives a passphrase another key derivation, in a new slot; its number. `cryptsetup luksConvertKey`. As safe as
    /// [`change_key`](Self::change_key).
    ///
    /// # Errors
    /// As [`change_key`](Self::change_key).
    pub fn convert_kdf(&self, passphrase: &Secret, spec: &KeyslotSpec) -> Result<u32> {
        self.change_key(passphrase, passphrase, spec)
    }

    /// Sets when a key slot is tried (LUKS2); `cryptsetup config --priority`.
    ///
    /// # Errors
    /// [`Error::NoKeyslot`]; [`Error::Unsupported`] for LUKS1.
    pub fn set_priority(&self, slot: u32, priority: Priority) -> Result<()> {
        let mut session = self.load("set a priority of")?;
        if !session.is_luks2() {
            return Err(Error::Unsupported("LUKS1 has no priorities; convert the volume to LUKS2 first"));
        }
        if matches!(session.slot_status(number(slot)), SlotStatus::Invalid | SlotStatus::Inactive) {
            return Err(Error::NoKeyslot { device: self.device.clone(), slot });
        }
        self.explained("set a priority of", session.set_slot_priority(number(slot), priority.number()))?;
        self.say(&format!("key slot {slot} has priority {priority:?}"));
        Ok(())
    }
}
