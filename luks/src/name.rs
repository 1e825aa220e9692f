//! The UUID of a volume, and the name of a cipher.

mod cipher;

use std::fmt;
use std::str::FromStr;

use host::ParseError;

pub use cipher::Cipher;

/// The UUID in a LUKS header: 36 characters, lower case, with dashes. `cryptsetup luksUUID`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(String);

impl Uuid {
    /// The UUID as text with dashes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The UUID as device-mapper's UUIDs have it: without dashes.
    #[must_use]
    pub fn compact(&self) -> String {
        self.0.replace('-', "")
    }

    /// Puts the dashes back into a UUID of 32 hexadecimal digits.
    #[must_use]
    pub fn from_compact(digits: &str) -> Option<Self> {
        let part = |a, b| digits.get(a..b);
        let text = [part(0, 8)?, part(8, 12)?, part(12, 16)?, part(16, 20)?, part(20, 32)?].join("-");
        text.parse().ok().filter(|_| digits.len() == 32)
    }
}

impl FromStr for Uuid {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let dashes = [8, 13, 18, 23];
        let fits = text.len() == 36
            && text
                .bytes()
                .enumerate()
                .all(|(i, b)| if dashes.contains(&i) { b == b'-' } else { b.is_ascii_hexdigit() });
        match fits {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(ParseError::new("UUID", text, "the form is 1bd1f798-d105-4150-841b-f2751f419efc")),
        }
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Uuid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Uuid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <String as serde::Deserialize>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_with_and_without_dashes() {
        let uuid: Uuid = "1BD1F798-d105-4150-841b-f2751f419efc".parse().expect("good");
        assert_eq!(uuid.as_str(), "1bd1f798-d105-4150-841b-f2751f419efc");
        assert_eq!(Uuid::from_compact(&uuid.compact()), Some(uuid));
        for bad in
            ["", "1bd1f798", "1bd1f798-d105-4150-841b-f2751f419ef", "1bd1f798+d105-4150-841b-f2751f419efc"]
        {
            assert!(bad.parse::<Uuid>().is_err(), "{bad}");
        }
    }
}
