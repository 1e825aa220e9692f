//! What opens a volume.

use std::path::Path;

use host::Secret;

use crate::error::{Error, Result};

/// What opens a volume. A [`Secret`] is taken as a passphrase wherever a key is asked for.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Key {
    /// A passphrase, or the content of a key file, tried on all key slots but those of priority "ignore".
    Passphrase(Secret),
    /// A passphrase for one key slot; `cryptsetup --key-slot`.
    Slot(u32, Secret),
    /// The volume key itself; `cryptsetup --volume-key-file`.
    Volume(VolumeKey),
    /// A passphrase in the kernel's keyring: a key of type "user" with this description, in a keyring of this thread, process, session or user.
    Keyring(String),
    /// What a token of the header yields: the kernel's keyring, a TPM, a FIDO2 device; `cryptsetup open --token-id`.
    Token {
        /// Its number.
        number: u32,
        /// Its PIN, if it has one.
        pin: Option<Secret>,
    },
}

/// A key file, or a part of it.
pub(crate) fn read_part(path: &Path, offset: usize, size: Option<usize>) -> Result<Secret> {
    let whole = Secret::read_raw(path).map_err(Error::KeyFile)?;
    if (offset, size) == (0, None) {
        return Ok(whole);
    }
    let end = size.map_or(Some(whole.len()), |size| offset.checked_add(size));
    match end.and_then(|end| whole.expose().get(offset..end)).filter(|part| !part.is_empty()) {
        Some(part) => Ok(Secret::new(part.to_vec())),
        None => Err(Error::Io {
            what: format!(
                "read that part of the key file {}, which has {} bytes",
                path.display(),
                whole.len()
            ),
            source: std::io::ErrorKind::UnexpectedEof.into(),
        }),
    }
}

impl Key {
    /// Reads a key file, or a part of it: `cryptsetup --key-file --keyfile-offset --keyfile-size`. Every byte counts, a final newline too.
    ///
    /// # Errors
    /// The file cannot be read, is larger than 8 MiB, or has not that many bytes.
    pub fn file(path: impl AsRef<Path>, offset: usize, size: Option<usize>) -> Result<Self> {
        read_part(path.as_ref(), offset, size).map(Self::Passphrase)
    }

    /// A token without a PIN.
    #[must_use]
    pub fn token(number: u32) -> Self {
        Self::Token { number, pin: None }
    }

    /// Another owner of the same secret.
    #[must_use]
    pub fn share(&self) -> Self {
        match self {
            Self::Passphrase(secret) => Self::Passphrase(secret.share()),
            Self::Slot(slot, secret) => Self::Slot(*slot, secret.share()),
            Self::Volume(key) => Self::Volume(key.share()),
            Self::Keyring(description) => Self::Keyring(description.clone()),
            Self::Token { number, pin } => {
                Self::Token { number: *number, pin: pin.as_ref().map(Secret::share) }
            }
        }
    }
}

impl From<Secret> for Key {
    fn from(secret: Secret) -> Self {
        Self::Passphrase(secret)
    }
}

impl From<&Secret> for Key {
    fn from(secret: &Secret) -> Self {
        Self::Passphrase(secret.share())
    }
}

impl From<&Self> for Key {
    fn from(key: &Self) -> Self {
        key.share()
    }
}

impl From<VolumeKey> for Key {
    fn from(key: VolumeKey) -> Self {
        Self::Volume(key)
    }
}

impl From<&VolumeKey> for Key {
    fn from(key: &VolumeKey) -> Self {
        Self::Volume(key.share())
    }
}

/// The key with which the data is encrypted. Who has it needs no passphrase, for as long as the volume is not reencrypted.
#[derive(Debug, PartialEq, Eq)]
pub struct VolumeKey(Secret);

impl VolumeKey {
    /// Takes over a key: 32 or 64 bytes as a rule.
    #[must_use]
    pub fn new(key: Secret) -> Self {
        Self(key)
    }

    /// Its bytes.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.0
    }

    /// Another owner of the same key.
    #[must_use]
    pub fn share(&self) -> Self {
        Self(self.0.share())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn a_part_of_a_key_file_is_a_key() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), b"0123456789\n")?;
        assert_eq!(Key::file(file.path(), 0, None)?, Key::Passphrase(Secret::from("0123456789\n")));
        assert_eq!(Key::file(file.path(), 2, Some(3))?, Key::Passphrase(Secret::from("234")));
        for (offset, size) in [(11, None), (9, Some(3)), (usize::MAX, Some(2)), (3, Some(0))] {
            let error = Key::file(file.path(), offset, size).expect_err("too far");
            assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
        }
        Ok(())
    }

    #[test]
    fn keys_show_nothing() {
        let keys = [
            Key::from(Secret::from("hunter2")),
            Key::Slot(1, Secret::from("hunter2")),
            Key::from(VolumeKey::new(Secret::from("hunter2"))),
            Key::Token { number: 0, pin: Some(Secret::from("hunter2")) },
        ];
        assert!(!format!("{keys:?}").contains("hunter2"));
    }
}
