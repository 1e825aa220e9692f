//! How a volume is made.

use std::time::Duration;

use host::{ParseError, Sectors};

use crate::header::Version;
use crate::{Cipher, Uuid};

/// How a volume is made; `cryptsetup luksFormat`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormatSpec {
    /// The header's version; default LUKS2.
    pub version: Version,
    /// The cipher; default "aes-xts-plain64". "aes-cbc-essiv:sha256" is what old volumes have.
    pub cipher: Cipher,
    /// The size of the volume key in bits; default 512 (AES-256 in XTS mode takes two keys).
    pub key_bits: u32,
    /// The hash of the header (LUKS1) and of PBKDF2; default "sha256".
    pub hash: String,
    /// How passphrases are made slow to guess.
    pub kdf: Kdf,
    /// The size of an encryption sector in bytes, 512 to 4096; `None` lets the library choose by the disk's. A volume exported over iSCSI
    /// to initiators that expect 512-byte blocks wants 512.
    pub sector_size: Option<u32>,
    /// A label (LUKS2), at most 47 bytes.
    pub label: String,
    /// A second label (LUKS2), for whole systems: all disks of one, say. At most 47 bytes.
    pub subsystem: String,
    /// Authentication of each sector (LUKS2); default none. The device must be wiped after formatting
    /// ([`Volume::wipe_data`](crate::Volume::wipe_data)): a sector that was never written reads as an error.
    pub integrity: Option<Integrity>,
    /// Where the data begins; `None` lets the library choose (16 MiB for LUKS2). 0 only for a detached header.
    pub data_offset: Option<Sectors>,
    /// Whether a key derivation that is easy to guess against is meant; default no.
    pub weak_kdf: WeakKdf,
    /// The volume's UUID; `None` makes a new one.
    pub uuid: Option<Uuid>,
}

/// A key derivation and its cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kdf {
    /// Argon2id, benchmarked to take this long here (2 s is cryptsetup's default), with at most this much memory in KiB.
    Argon2id {
        /// How long one try takes on this machine.
        time: Duration,
        /// The most memory it may take, in KiB: 32 to 4,194,304; cryptsetup's default is 1 GiB.
        memory_kib: u32,
    },
    /// Argon2id with fixed cost, the same on every machine.
    Argon2idFixed {
        /// Passes, at least 4.
        passes: u32,
        /// Memory in KiB, at least 32.
        memory_kib: u32,
        /// Lanes, 1 to 4.
        lanes: u32,
    },
    /// PBKDF2 with fixed iterations, at least 1000. Enough for a random key file, weak for a passphrase.
    Pbkdf2Fixed {
        /// Iterations.
        iterations: u32,
    },
    /// PBKDF2, benchmarked to take this long here: LUKS1 has no other.
    Pbkdf2 {
        /// How long one try takes on this machine.
        time: Duration,
    },
}

/// How each sector is authenticated; `cryptsetup luksFormat --integrity`. It takes dm-integrity below, which writes a journal: everything twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Integrity {
    /// HMAC with SHA-256.
    HmacSha256,
    /// HMAC with SHA-512.
    HmacSha512,
    /// CMAC with AES-128.
    CmacAes,
    /// What the cipher does itself: "aes-gcm-random" and its like.
    Aead,
    /// Poly1305, with "chacha20-random".
    Poly1305,
}

impl Integrity {
    /// What dm-crypt calls it.
    pub(crate) fn algorithm(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac(sha256)",
            Self::HmacSha512 => "hmac(sha512)",
            Self::CmacAes => "cmac(aes)",
            Self::Aead => "aead",
            Self::Poly1305 => "poly1305",
        }
    }

    /// The bytes of key that it takes beside the cipher's.
    #[cfg(feature = "libcryptsetup")]
    pub(crate) fn key_size(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha512 => 64,
            Self::CmacAes => 16,
            Self::Aead | Self::Poly1305 => 0,
        }
    }
}

/// Whether a key derivation below the limits of [`Kdf::is_weak`] is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeakKdf {
    /// No.
    #[default]
    Refused,
    /// Yes: the key is random (32 bytes or more from a generator need no slow derivation), or it is a test.
    Allowed,
}

impl Kdf {
    /// Whether guessing a passphrase is too cheap: PBKDF2 below 600,000 iterations, Argon2id below 19 MiB (the floors of OWASP's password
    /// storage rules), or less than half a second where the cost is measured.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        const LEAST: Duration = Duration::from_millis(500);
        const MEMORY: u32 = 19 * 1024;
        match *self {
            Self::Argon2id { time, memory_kib } => time < LEAST || memory_kib < MEMORY,
            Self::Argon2idFixed { memory_kib, .. } => memory_kib < MEMORY,
            Self::Pbkdf2 { time } => time < LEAST,
            Self::Pbkdf2Fixed { iterations } => iterations < 600_000,
        }
    }

    /// Checks the ranges that libcryptsetup has: PBKDF2 from 1000 iterations; Argon2id from 4 passes, 32 KiB to 4 GiB, 1 to 4 lanes.
    ///
    /// # Errors
    /// [`ParseError`] with the value and the range.
    pub fn check(&self) -> Result<(), ParseError> {
        let bad =
            |value: u32, reason: &str| Err(ParseError::new("key derivation cost", value.to_string(), reason));
        match *self {
            Self::Argon2id { memory_kib, .. } | Self::Argon2idFixed { memory_kib, .. }
                if !(32..=4_194_304).contains(&memory_kib) =>
            {
                bad(memory_kib, "Argon2id takes 32 to 4194304 KiB")
            }
            Self::Argon2idFixed { passes, .. } if passes < 4 => {
                bad(passes, "Argon2id takes at least 4 passes")
            }
            Self::Argon2idFixed { lanes, .. } if !(1..=4).contains(&lanes) => {
                bad(lanes, "Argon2id takes 1 to 4 lanes")
            }
            Self::Pbkdf2Fixed { iterations } if iterations < 1000 => {
                bad(iterations, "PBKDF2 takes at least 1000 iterations")
            }
            _ => Ok(()),
        }
    }
}

impl FormatSpec {
    /// A volume as `cryptsetup` makes it by default: LUKS2, aes-xts-plain64, 512-bit key, Argon2id of 2 s and at most 1 GiB.
    #[must_use]
    pub fn luks2() -> Self {
        Self {
            version: Version::Luks2,
            cipher: Cipher::aes_xts(),
            key_bits: 512,
            hash: "sha256".to_owned(),
            kdf: Kdf::Argon2id { time: Duration::from_secs(2), memory_kib: 1024 * 1024 },
            sector_size: None,
            label: String::new(),
            subsystem: String::new(),
            integrity: None,
            data_offset: None,
            weak_kdf: WeakKdf::Refused,
            uuid: None,
        }
    }

    /// A LUKS1 volume, for kernels and boot loaders that know no LUKS2.
    #[must_use]
    pub fn luks1() -> Self {
        Self { version: Version::Luks1, kdf: Kdf::Pbkdf2 { time: Duration::from_secs(2) }, ..Self::luks2() }
    }

    /// Sets the cipher and the size of its key in bits.
    #[must_use]
    pub fn with_cipher(mut self, cipher: Cipher, key_bits: u32) -> Self {
        self.cipher = cipher;
        self.key_bits = key_bits;
        self
    }

    /// Sets the hash.
    #[must_use]
    pub fn with_hash(mut self, hash: impl Into<String>) -> Self {
        self.hash = hash.into();
        self
    }

    /// Sets the subsystem.
    #[must_use]
    pub fn with_subsystem(mut self, subsystem: impl Into<String>) -> Self {
        self.subsystem = subsystem.into();
        self
    }

    /// Adds authentication of each sector.
    #[must_use]
    pub fn with_integrity(mut self, integrity: Integrity) -> Self {
        self.integrity = Some(integrity);
        self
    }

    /// Sets where the data begins.
    #[must_use]
    pub fn with_data_offset(mut self, offset: Sectors) -> Self {
        self.data_offset = Some(offset);
        self
    }

    /// Says that a weak key derivation is meant: the key is random, or it is a test.
    #[must_use]
    pub fn with_weak_kdf(mut self, weak: WeakKdf) -> Self {
        self.weak_kdf = weak;
        self
    }

    /// Checks what can be checked without the device: key size, label sizes, sector size, what LUKS1 has not.
    ///
    /// # Errors
    /// [`ParseError`] with the value and what is possible.
    pub fn check(&self) -> Result<(), ParseError> {
        self.cipher.check_key_bits(self.key_bits)?;
        let bad = |what, value: String, reason: &str| Err(ParseError::new(what, value, reason));
        for (what, text) in [("label", &self.label), ("subsystem", &self.subsystem)] {
            if text.len() > 47 || text.contains('\0') {
                return bad(what, text.clone(), "at most 47 bytes, no NUL");
            }
            if self.version == Version::Luks1 && !text.is_empty() {
                return bad(what, text.clone(), "LUKS1 has none; use LUKS2");
            }
        }
        if let Some(size) = self.sector_size
            && ![512, 1024, 2048, 4096].contains(&size)
        {
            return bad("sector size", size.to_string(), "512, 1024, 2048 or 4096 bytes");
        }
        if self.version == Version::Luks1 {
            if let Some(integrity) = &self.integrity {
                return bad("integrity", integrity.algorithm().to_owned(), "LUKS1 has none; use LUKS2");
            }
            if self.sector_size.is_some_and(|size| size != 512) {
                return bad("sector size", "not 512".to_owned(), "LUKS1 has 512 only; use LUKS2");
            }
            if matches!(self.kdf, Kdf::Argon2id { .. } | Kdf::Argon2idFixed { .. }) {
                return bad("key derivation", "argon2id".to_owned(), "LUKS1 has PBKDF2 only; use LUKS2");
            }
        }
        Ok(())
    }

    /// Sets the key derivation.
    #[must_use]
    pub fn with_kdf(mut self, kdf: Kdf) -> Self {
        self.kdf = kdf;
        self
    }

    /// Sets the sector size in bytes.
    #[must_use]
    pub fn with_sector_size(mut self, bytes: u32) -> Self {
        self.sector_size = Some(bytes);
        self
    }

    /// Sets the label.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Sets the UUID.
    #[must_use]
    pub fn with_uuid(mut self, uuid: Uuid) -> Self {
        self.uuid = Some(uuid);
        self
    }
}
