//! What is wanted: mappings, and how a volume is made.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use host::DmName;

use crate::Uuid;
use crate::header::Version;

/// Where a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Source {
    /// The disk whose header has this UUID, whatever its name is today.
    Uuid(Uuid),
    /// This device or image.
    Path(PathBuf),
    /// The disk whose LUKS2 header has this label.
    Label(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => write!(f, "UUID={uuid}"),
            Self::Path(path) => path.display().fmt(f),
            Self::Label(label) => write!(f, "LABEL={label}"),
        }
    }
}

/// A volume that is to be open under a name: one line of `crypttab`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct MappingSpec {
    /// Its name: `/dev/mapper/NAME`.
    pub name: DmName,
    /// The volume.
    pub source: Source,
    /// Whether discards reach the disk. They show which blocks are free; default no.
    pub discards: Discards,
}

impl MappingSpec {
    /// A volume under a name, found by UUID.
    #[must_use]
    pub fn by_uuid(name: DmName, uuid: Uuid) -> Self {
        Self::new(name, Source::Uuid(uuid))
    }

    /// A volume under a name.
    #[must_use]
    pub fn new(name: DmName, source: Source) -> Self {
        Self { name, source, discards: Discards::Blocked }
    }

    /// Lets discards through, or not.
    #[must_use]
    pub fn with_discards(mut self, discards: Discards) -> Self {
        self.discards = discards;
        self
    }
}

/// Whether discards reach the disk below; `cryptsetup open --allow-discards`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Discards {
    /// They end at the mapping.
    #[default]
    Blocked,
    /// They reach the disk; who has the disk sees which blocks are in use.
    Allowed,
}

/// Whether something may be destroyed. The default everywhere is no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Overwrite {
    /// Refuse if anything known is there.
    #[default]
    Never,
    /// Go ahead; what is there is lost.
    Always,
}

/// How a volume is made; `cryptsetup luksFormat`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormatSpec {
    /// The header's version; default LUKS2.
    pub version: Version,
    /// The cipher as "name-mode"; default "aes-xts-plain64". "aes-cbc-essiv:sha256" is what old volumes have.
    pub cipher: String,
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

impl FormatSpec {
    /// A volume as `cryptsetup` makes it by default: LUKS2, aes-xts-plain64, 512-bit key, Argon2id of 2 s and at most 1 GiB.
    #[must_use]
    pub fn luks2() -> Self {
        Self {
            version: Version::Luks2,
            cipher: "aes-xts-plain64".to_owned(),
            key_bits: 512,
            hash: "sha256".to_owned(),
            kdf: Kdf::Argon2id { time: Duration::from_secs(2), memory_kib: 1024 * 1024 },
            sector_size: None,
            label: String::new(),
            uuid: None,
        }
    }

    /// A LUKS1 volume, for kernels and boot loaders that know no LUKS2.
    #[must_use]
    pub fn luks1() -> Self {
        Self { version: Version::Luks1, kdf: Kdf::Pbkdf2 { time: Duration::from_secs(2) }, ..Self::luks2() }
    }

    /// Sets the cipher ("name-mode") and the size of its key in bits.
    #[must_use]
    pub fn with_cipher(mut self, cipher: impl Into<String>, key_bits: u32) -> Self {
        self.cipher = cipher.into();
        self.key_bits = key_bits;
        self
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
