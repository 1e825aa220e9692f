//! Key slots that are wanted.

use super::{Kdf, WeakKdf};

/// How a key slot is made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KeyslotSpec {
    /// Its number; `None` takes the first free one. LUKS2 has 32, LUKS1 has 8.
    pub slot: Option<u32>,
    /// How the passphrase is made slow to guess; `None` as the library does by default (LUKS2: Argon2id of 2 s and at most 1 GiB).
    pub kdf: Option<Kdf>,
    /// When it is tried; default as all others.
    pub priority: Priority,
    /// Whether a weak derivation is meant; default no.
    pub weak_kdf: WeakKdf,
}

impl KeyslotSpec {
    /// A key slot as the library makes it by default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets its number.
    #[must_use]
    pub fn with_slot(mut self, slot: u32) -> Self {
        self.slot = Some(slot);
        self
    }

    /// Sets the key derivation.
    #[must_use]
    pub fn with_kdf(mut self, kdf: Kdf) -> Self {
        self.kdf = Some(kdf);
        self
    }

    /// Sets the priority.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Says that a weak derivation is meant.
    #[must_use]
    pub fn with_weak_kdf(mut self, weak: WeakKdf) -> Self {
        self.weak_kdf = weak;
        self
    }
}

/// When a key slot is tried; `cryptsetup config --priority`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Priority {
    /// Only when it is asked for by its number.
    Ignore,
    /// After those preferred.
    #[default]
    Normal,
    /// First.
    Prefer,
    /// One that this crate does not know.
    Other(i32),
}

#[cfg(feature = "libcryptsetup")]
impl Priority {
    /// The number in a LUKS2 header and of libcryptsetup (`crypt_keyslot_priority`): 0, 1, 2.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Self::Ignore => 0,
            Self::Normal => 1,
            Self::Prefer => 2,
            Self::Other(n) => n,
        }
    }

    pub(crate) fn of(number: i32) -> Self {
        match number {
            0 => Self::Ignore,
            1 => Self::Normal,
            2 => Self::Prefer,
            n => Self::Other(n),
        }
    }
}
