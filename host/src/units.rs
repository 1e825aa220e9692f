//! Sizes with their unit in the type.

use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// A size in bytes. Displays exactly, with a binary unit where it divides evenly: `256 MiB`, `1536 KiB`, `513 B`.
///
/// Parses `512`, `512B`, `64K`, `64KiB`, `1G`, `1.5` is refused. Units are powers of 1024, as in every storage tool's `K M G T P`.
///
/// ```
/// let size: host::Bytes = "256M".parse()?;
/// assert_eq!(size.0, 268_435_456);
/// assert_eq!(size.to_string(), "256 MiB");
/// # Ok::<(), host::ParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Bytes(pub u64);

/// A size or position in sectors of 512 bytes, the kernel's unit whatever the disk's block size is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Sectors(pub u64);

impl Bytes {
    /// Whole sectors of 512 bytes, rounded down.
    #[must_use]
    pub fn sectors(self) -> Sectors {
        Sectors(self.0 / 512)
    }
}

impl Sectors {
    /// The same size in bytes; `None` above 16 EiB.
    #[must_use]
    pub fn bytes(self) -> Option<Bytes> {
        self.0.checked_mul(512).map(Bytes)
    }
}

const UNITS: [(&str, u64); 5] =
    [("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size)) {
            Some((unit, size)) => write!(f, "{} {unit}", self.0 / size),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sectors", self.0)
    }
}

impl FromStr for Bytes {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| ParseError::new("size", text, reason);
        let trimmed = text.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = trimmed.split_at_checked(digits).unwrap_or((trimmed, ""));
        let number: u64 =
            number.parse().map_err(|_| bad("write a whole number and a unit, for example 256M"))?;
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "s" => 512,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "p" | "pib" => 1 << 50,
            _ => return Err(bad("the unit is one of B, s (sectors), K, M, G, T, P")),
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| bad("larger than 16 EiB"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes, shown) in [
            ("1", 1, "1 B"),
            ("64K", 65536, "64 KiB"),
            ("1536KiB", 1_572_864, "1536 KiB"),
            ("8s", 4096, "4 KiB"),
        ] {
            let size: Bytes = text.parse().expect(text);
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_hint() {
        for text in ["", "M", "1.5G", "-1", "1X", "99999999P"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
