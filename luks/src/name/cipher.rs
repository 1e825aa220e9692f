//! Ciphers, as dm-crypt and `cryptsetup --cipher` name them.

use std::fmt;
use std::str::FromStr;

use host::ParseError;

/// A cipher with its mode and initialisation vector: "aes-xts-plain64", "aes-cbc-essiv:sha256", "capi:xts(aes)-plain64".
///
/// ```
/// use luks::Cipher;
/// let cipher: Cipher = "aes-cbc-essiv:sha256".parse()?;
/// assert_eq!((cipher.name(), cipher.mode()), ("aes", "cbc-essiv:sha256"));
/// assert!(cipher.check_key_bits(512).is_err());
/// # Ok::<(), luks::ParseError>(())
/// ```
#[doc(alias = "--cipher")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cipher {
    name: String,
    mode: String,
}

impl Cipher {
    /// What `cryptsetup` takes by default: "aes-xts-plain64".
    #[must_use]
    pub fn aes_xts() -> Self {
        Self { name: "aes".to_owned(), mode: "xts-plain64".to_owned() }
    }

    /// The algorithm: "aes". For the kernel's own notation all but the vector: "capi:xts(aes)".
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Mode and vector: "xts-plain64". For the kernel's own notation the vector alone.
    #[must_use]
    pub fn mode(&self) -> &str {
        &self.mode
    }

    /// Whether the mode is XTS, which takes two keys.
    #[must_use]
    pub fn is_xts(&self) -> bool {
        self.mode == "xts" || self.mode.starts_with("xts-") || self.name.starts_with("capi:xts(")
    }

    /// Checks the size of a key in bits: 128, 192 or 256 for AES, Serpent, Twofish and Camellia, twice that in XTS mode, 256 for Adiantum. Other ciphers
    /// are left to the kernel, which knows them.
    ///
    /// # Errors
    /// The size is not among these; the error names those that are.
    pub fn check_key_bits(&self, bits: u32) -> Result<(), ParseError> {
        let bad = |reason: &str| Err(ParseError::new("key size", format!("{bits} bits for {self}"), reason));
        if bits == 0 || !bits.is_multiple_of(8) || bits > 4096 {
            return bad("a key has whole bytes, 8 to 4096 bits");
        }
        let inner = self.name.strip_prefix("capi:").unwrap_or(&self.name);
        let block = ["aes", "serpent", "twofish", "camellia"];
        let blocky = block.iter().any(|b| inner == *b || inner.ends_with(&format!("({b})")));
        match (blocky, self.is_xts()) {
            (true, true) if ![256, 384, 512].contains(&bits) => bad("XTS takes two keys: 256, 384 or 512"),
            (true, false) if ![128, 192, 256].contains(&bits) => bad("128, 192 or 256"),
            _ if self.mode.starts_with("adiantum") && bits != 256 => bad("Adiantum takes 256"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Cipher {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| Err(ParseError::new("cipher", text, reason));
        if text.len() > 63 {
            return bad("at most 63 characters"); // MAX_CIPHER_LEN of libcryptsetup is 32 a part, and the LUKS1 header has 32 each.
        }
        if text.bytes().any(|b| !b.is_ascii_graphic()) {
            return bad("only printable characters without spaces");
        }
        // In the kernel's notation dashes can be part of the algorithm: the vector is what follows the last one.
        let split = if text.starts_with("capi:") { text.rsplit_once('-') } else { text.split_once('-') };
        let Some((name, mode)) = split.filter(|(name, mode)| !name.is_empty() && !mode.is_empty()) else {
            return bad("the form is NAME-MODE-VECTOR, as in aes-xts-plain64");
        };
        if name == "cipher_null" || text.contains("ecb(cipher_null)") {
            return bad("it encrypts nothing");
        }
        let parts: Vec<_> = mode.split('-').collect();
        if !text.starts_with("capi:") && parts.len() < 2 && mode != "ecb" {
            return bad("the vector is missing, as plain64 in aes-xts-plain64");
        }
        if let Some(essiv) = parts.last().and_then(|vector| vector.strip_prefix("essiv"))
            && essiv.strip_prefix(':').is_none_or(str::is_empty)
        {
            return bad("essiv needs a hash: essiv:sha256");
        }
        Ok(Self { name: name.to_owned(), mode: mode.to_owned() })
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.name, self.mode))
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Cipher {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Cipher {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <String as serde::Deserialize>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ciphers_are_split_as_the_library_wants_them() {
        for (text, name, mode) in [
            ("aes-xts-plain64", "aes", "xts-plain64"),
            ("aes-cbc-essiv:sha256", "aes", "cbc-essiv:sha256"),
            ("xchacha12,aes-adiantum-plain64", "xchacha12,aes", "adiantum-plain64"),
            ("capi:xts(aes)-plain64", "capi:xts(aes)", "plain64"),
            ("capi:authenc(hmac(sha256),xts(aes))-random", "capi:authenc(hmac(sha256),xts(aes))", "random"),
            ("aes-ecb", "aes", "ecb"),
        ] {
            let cipher: Cipher = text.parse().expect(text);
            assert_eq!((cipher.name(), cipher.mode(), cipher.to_string().as_str()), (name, mode, text));
        }
    }

    #[test]
    fn what_is_no_cipher_or_no_protection_is_refused() {
        for text in ["", "aes", "-xts", "aes-", "aes-xts", "aes-cbc-essiv", "aes-cbc-essiv:", "a b-c-d"] {
            assert!(text.parse::<Cipher>().is_err(), "{text}");
        }
        assert!(
            "cipher_null-ecb".parse::<Cipher>().expect_err("null").to_string().contains("encrypts nothing")
        );
        let xts = Cipher::aes_xts();
        assert!([256, 384, 512].iter().all(|bits| xts.check_key_bits(*bits).is_ok()));
        assert!([0, 7, 128, 192, 1024].iter().all(|bits| xts.check_key_bits(*bits).is_err()));
        let capi: Cipher = "capi:xts(aes)-plain64".parse().expect("good");
        assert!(capi.is_xts() && capi.check_key_bits(192).is_err() && capi.check_key_bits(512).is_ok());
    }
}
