//! Plain dm-crypt: no header, the key is all there is.

use host::Sectors;

use crate::Cipher;

/// A plain dm-crypt mapping; `cryptsetup open --type plain`. There is no header: a wrong key opens it too, and reads noise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlainSpec {
    /// The cipher; default "aes-xts-plain64".
    pub cipher: Cipher,
    /// The size of the key in bits; default 512.
    pub key_bits: u32,
    /// The hash that makes a key of a passphrase ("ripemd160", "sha256"); `None` takes the key as it is. A hash is no key derivation: use a
    /// random key.
    pub hash: Option<String>,
    /// Where the data begins on the device; default 0.
    pub offset: Sectors,
    /// What is added to the sector's number for the initialisation vector; default 0.
    pub skip: Sectors,
    /// How large the mapping is; default 0, the whole device.
    pub size: Sectors,
    /// The size of an encryption sector in bytes; default 512.
    pub sector_size: u32,
}

impl PlainSpec {
    /// A whole device with a random key for this cipher.
    #[must_use]
    pub fn new(cipher: Cipher, key_bits: u32) -> Self {
        let zero = Sectors(0);
        Self { cipher, key_bits, hash: None, offset: zero, skip: zero, size: zero, sector_size: 512 }
    }

    /// Sets the hash.
    #[must_use]
    pub fn with_hash(mut self, hash: impl Into<String>) -> Self {
        self.hash = Some(hash.into());
        self
    }

    /// Takes a part of the device: where it begins, and how large it is (0: to the end).
    #[must_use]
    pub fn with_range(mut self, offset: Sectors, size: Sectors) -> Self {
        (self.offset, self.size) = (offset, size);
        self
    }

    /// Sets what is added to the sector's number.
    #[must_use]
    pub fn with_skip(mut self, skip: Sectors) -> Self {
        self.skip = skip;
        self
    }

    /// Sets the size of an encryption sector in bytes.
    #[must_use]
    pub fn with_sector_size(mut self, bytes: u32) -> Self {
        self.sector_size = bytes;
        self
    }
}

/// What a wipe writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WipePattern {
    /// Zeros. Through a mapping they are noise on the disk.
    #[default]
    Zero,
    /// Random bytes.
    Random,
}
