//! Names and numbers of DRBD's objects, validated at the border.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use host::ParseError;

/// The name of a resource: 1 to 127 bytes of letters, digits, `.`, `_`, `-` and `+`.
///
/// The kernel takes any bytes but `/` (`drbd_check_resource_name`, `drivers/block/drbd/drbd_nl.c`); the narrower rule is that of
/// drbd.conf, so that a name made here can be written there. `all` is refused: drbdadm and drbdsetup take it for every resource.
/// What other programs made is listed whatever its name is ([`from_kernel`](Self::from_kernel)).
///
/// ```
/// let name: drbd::ResourceName = "r0".parse()?;
/// assert!("a/b".parse::<drbd::ResourceName>().is_err());
/// # Ok::<(), host::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "drbdsetup new-resource")]
pub struct ResourceName(String);

impl ResourceName {
    /// Takes a name that a kernel object already bears, without the rules that hold for new names.
    #[must_use]
    pub fn from_kernel(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ResourceName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| Err(ParseError::new("DRBD resource name", text, reason));
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
        match text {
            "" => bad("it is empty"),
            "all" => bad("drbdadm takes \"all\" for every resource"),
            _ if text.len() > 127 => bad("at most 127 bytes"),
            _ if text.starts_with(['-', '.']) => bad("it begins with a letter, a digit or '_'"),
            _ if !text.bytes().all(allowed) => bad("only letters, digits, '.', '_', '-' and '+'"),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<&str> for ResourceName {
    type Error = ParseError;

    fn try_from(text: &str) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl AsRef<str> for ResourceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for ResourceName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for ResourceName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The number of a replicated device: N of `/dev/drbdN`, 0 to 1,048,575 (`MINORMASK`, `include/linux/kdev_t.h`).
///
/// ```
/// let minor: drbd::Minor = "/dev/drbd7".parse()?;
/// assert_eq!((minor, minor.path()), (drbd::Minor::new(7)?, "/dev/drbd7".into()));
/// assert!(drbd::Minor::new(1 << 20).is_err());
/// # Ok::<(), host::ParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "u32", into = "u32"))]
pub struct Minor(u32);

impl Minor {
    /// The largest number a device can have.
    pub const MAX: Self = Self((1 << 20) - 1);

    /// Takes a number.
    ///
    /// # Errors
    /// It is above 1,048,575.
    pub fn new(number: u32) -> Result<Self, ParseError> {
        match number <= Self::MAX.0 {
            true => Ok(Self(number)),
            false => Err(ParseError::new("DRBD minor number", number.to_string(), "0 to 1048575")),
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The device node that devtmpfs makes for it: `/dev/drbdN`.
    #[must_use]
    pub fn path(self) -> PathBuf {
        PathBuf::from(format!("/dev/drbd{}", self.0))
    }

    /// What a kernel object already bears.
    pub(crate) fn from_kernel(number: u32) -> Self {
        Self(number)
    }
}

impl TryFrom<u32> for Minor {
    type Error = ParseError;

    fn try_from(number: u32) -> Result<Self, ParseError> {
        Self::new(number)
    }
}

impl From<Minor> for u32 {
    fn from(minor: Minor) -> Self {
        minor.0
    }
}

impl FromStr for Minor {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = text.strip_prefix("/dev/drbd").unwrap_or(text);
        let number = digits.parse();
        number
            .map_err(|_| ParseError::new("DRBD minor number", text, "write a number or /dev/drbdN"))
            .and_then(Self::new)
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The number of a volume inside its resource, 0 to 65,535 (`DRBD_VOLUME_MAX`, `include/linux/drbd_limits.h`). Both nodes use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Volume(pub u16);

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<u16> for Volume {
    fn from(number: u16) -> Self {
        Self(number)
    }
}

impl FromStr for Volume {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(Self).map_err(|_| ParseError::new("DRBD volume number", text, "0 to 65535"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_drbd_conf() {
        for good in ["r0", "vm-storage_1.a", "0", "_x", "a+b"] {
            assert!(good.parse::<ResourceName>().is_ok(), "{good}");
        }
        let long = "x".repeat(128);
        for bad in ["", "all", "a/b", "a b", "-r", ".r", "ü", long.as_str()] {
            assert!(bad.parse::<ResourceName>().is_err(), "{bad}");
        }
        assert_eq!(ResourceName::from_kernel("a b").as_str(), "a b");
    }

    #[test]
    fn minors_and_volumes_have_their_ranges() {
        assert_eq!("1048575".parse(), Ok(Minor::MAX));
        for bad in ["1048576", "", "-1", "/dev/sda"] {
            assert!(bad.parse::<Minor>().is_err(), "{bad}");
        }
        assert!("65536".parse::<Volume>().is_err());
    }
}
