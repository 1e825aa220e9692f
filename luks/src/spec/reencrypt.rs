//! Reencryption that is wanted.

use host::Bytes;

use super::{Kdf, WeakKdf};
use crate::Cipher;

/// A new volume key, and with it a new cipher or sector size; `cryptsetup reencrypt`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReencryptSpec {
    /// The new cipher and the size of its key in bits; `None` keeps both and changes the key.
    pub cipher: Option<(Cipher, u32)>,
    /// The new sector size in bytes; `None` keeps it. Above 512 what uses the volume must be made for it.
    pub sector_size: Option<u32>,
    /// What protects the part in work from a crash; default checksums.
    pub resilience: Resilience,
    /// The most that is in work at once; `None` leaves it to the library. Smaller loses less time when cancelled, and is slower.
    pub hotzone: Option<Bytes>,
    /// The derivation of the new key slots; `None` as the library does by default.
    pub kdf: Option<Kdf>,
    /// Whether a weak derivation is meant; default no.
    pub weak_kdf: WeakKdf,
    /// What becomes of key slots whose passphrase is not given: their new key cannot be stored, so they are lost at the end; default refuse.
    pub other_keys: OtherKeys,
}

impl ReencryptSpec {
    /// A new key for the same cipher.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the cipher and the size of its key in bits.
    #[must_use]
    pub fn with_cipher(mut self, cipher: Cipher, key_bits: u32) -> Self {
        self.cipher = Some((cipher, key_bits));
        self
    }

    /// Sets the sector size in bytes.
    #[must_use]
    pub fn with_sector_size(mut self, bytes: u32) -> Self {
        self.sector_size = Some(bytes);
        self
    }

    /// Sets what protects from a crash.
    #[must_use]
    pub fn with_resilience(mut self, resilience: Resilience) -> Self {
        self.resilience = resilience;
        self
    }

    /// Sets the most that is in work at once.
    #[must_use]
    pub fn with_hotzone(mut self, bytes: Bytes) -> Self {
        self.hotzone = Some(bytes);
        self
    }

    /// Sets the derivation of the new key slots.
    #[must_use]
    pub fn with_kdf(mut self, kdf: Kdf) -> Self {
        self.kdf = Some(kdf);
        self
    }

    /// Says that a weak derivation is meant.
    #[must_use]
    pub fn with_weak_kdf(mut self, weak: WeakKdf) -> Self {
        self.weak_kdf = weak;
        self
    }

    /// Sets what becomes of other key slots.
    #[must_use]
    pub fn with_other_keys(mut self, other: OtherKeys) -> Self {
        self.other_keys = other;
        self
    }
}

/// What protects the part that is in work when the machine stops; `cryptsetup reencrypt --resilience`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Resilience {
    /// Checksums of each sector, which tell old from new. Fast, and safe where a sector is written whole.
    #[default]
    Checksum,
    /// A copy of the part in work. Slower; safe on every disk.
    Journal,
}

#[cfg(feature = "libcryptsetup")]
impl Resilience {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Checksum => "checksum",
            Self::Journal => "journal",
        }
    }
}

/// What becomes of key slots whose passphrase is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OtherKeys {
    /// Refuse, naming them.
    #[default]
    Refuse,
    /// They are lost when the reencryption ends.
    Drop,
}
