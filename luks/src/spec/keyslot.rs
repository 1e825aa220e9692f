//! Key slots that are wanted.

use super::{Kdf, WeakKdf};
use crate::header::Priority;

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
