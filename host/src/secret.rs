//! Passphrases, keys and CHAP secrets.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::error::{Operation, TreeError};

/// A passphrase, key or CHAP secret: shown nowhere, written nowhere by accident, overwritten when the last holder drops it.
///
/// It has no `Display`, no `Clone`, no `Serialize`; `Debug` prints `Secret(..)`. Use [`share`](Self::share) to hand the same secret
/// to another owner, and [`expose`](Self::expose) at the one place where the kernel must see the bytes.
///
/// ```
/// let secret = host::Secret::from("correct horse");
/// assert_eq!(format!("{secret:?}"), "Secret(..)");
/// assert_eq!(secret.expose(), b"correct horse");
/// ```
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

/// The largest secret that is read from a file: 8 MiB, the limit of cryptsetup's key files.
const MAX_SECRET: u64 = 8 * 1024 * 1024;

impl Secret {
    /// Takes over `bytes`. The caller's vector is moved, not copied.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    /// Reads a passphrase from a file: all of it but one trailing newline, which editors add and nobody means.
    ///
    /// Use [`read_raw`](Self::read_raw) for binary key files, where a final 0x0a byte is part of the key.
    ///
    /// # Errors
    /// The file cannot be read, is empty, or is larger than 8 MiB; the error names the path and never the content.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, TreeError> {
        let mut bytes = Self::slurp(path.as_ref())?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        Self::filled(path.as_ref(), bytes)
    }

    /// Reads a key file, every byte of it; `cryptsetup --key-file`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_raw(path: impl AsRef<Path>) -> Result<Self, TreeError> {
        let bytes = Self::slurp(path.as_ref())?;
        Self::filled(path.as_ref(), bytes)
    }

    fn filled(path: &Path, bytes: Zeroizing<Vec<u8>>) -> Result<Self, TreeError> {
        if bytes.is_empty() {
            return Err(fail(path, io::Error::new(io::ErrorKind::InvalidData, "the secret is empty")));
        }
        Ok(Self(Arc::new(bytes)))
    }

    fn slurp(path: &Path) -> Result<Zeroizing<Vec<u8>>, TreeError> {
        let mut file = std::fs::File::open(path).map_err(|e| fail(path, e))?;
        let size = file.metadata().map_err(|e| fail(path, e))?.len();
        if size > MAX_SECRET {
            return Err(fail(
                path,
                io::Error::new(io::ErrorKind::FileTooLarge, "a secret has at most 8 MiB"),
            ));
        }
        // One allocation large enough for all of it: a vector that grows leaves copies behind. A pipe or credential says size 0.
        let room = usize::try_from(size).unwrap_or(0).max(64 * 1024);
        let mut bytes = Zeroizing::new(vec![0; room]);
        let mut used = 0;
        while let Some(free) = bytes.get_mut(used..).filter(|b| !b.is_empty()) {
            match file.read(free) {
                Ok(0) => break,
                Ok(n) => used += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fail(path, e)),
            }
        }
        bytes.truncate(used);
        Ok(bytes)
    }

    /// The bytes, for the one call that hands them to the kernel or to a cipher.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Another owner of the same memory. Named so that nobody copies a secret by writing `.clone()` without thought.
    #[must_use]
    pub fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both hold the same bytes, in a time that does not depend on where they differ.
    #[must_use]
    pub fn same_as(&self, other: &[u8]) -> bool {
        self.0.len() == other.len() && self.0.iter().zip(other).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
    }
}

fn fail(path: &Path, source: io::Error) -> TreeError {
    TreeError { operation: Operation::Read, path: path.to_path_buf(), value: None, source }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.same_as(other.expose())
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::from("hunter2")), "Secret(..)");
    }

    #[test]
    fn read_drops_one_newline_and_read_raw_keeps_it() -> Result<(), Box<dyn std::error::Error>> {
        let file = tempfile::NamedTempFile::new()?;
        #[allow(clippy::disallowed_methods)]
        std::fs::write(file.path(), b"pass word\n\n")?;
        assert_eq!(Secret::read(file.path())?.expose(), b"pass word\n");
        assert_eq!(Secret::read_raw(file.path())?.expose(), b"pass word\n\n");
        Ok(())
    }

    #[test]
    fn an_empty_secret_is_refused_by_name() -> Result<(), Box<dyn std::error::Error>> {
        let file = tempfile::NamedTempFile::new()?;
        let error = Secret::read(file.path()).expect_err("an empty file is no secret");
        assert!(error.to_string().contains(&file.path().display().to_string()));
        Ok(())
    }
}
