//! Names that two or more crates share, validated at the border.

use std::fmt;
use std::str::FromStr;

use crate::ParseError;

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = ParseError;
            fn try_from(text: &str) -> Result<Self, ParseError> {
                text.parse()
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// An iSCSI name: `iqn.yyyy-mm.reversed.domain[:string]`, `eui.` with 16 or `naa.` with 16 or 32 hexadecimal digits.
///
/// Parsing applies RFC 3720 section 3.2.6, RFC 3722 and RFC 3980: at most 223 bytes, lower case (LIO lower-cases the initiator's name
/// and compares bytes, so a name with a capital letter never matches), `a-z 0-9 - . :` only. [`from_kernel`](Self::from_kernel)
/// takes what a kernel already has, which no rule of ours can change.
///
/// ```
/// let iqn: host::Iqn = "iqn.2026-01.com.example:vm-storage-1".parse()?;
/// assert!("iqn.2026-13.com.example:x".parse::<host::Iqn>().is_err());
/// # Ok::<(), host::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Iqn(String);

impl Iqn {
    /// Takes a name that a kernel object already bears, without the rules that hold for new names.
    #[must_use]
    pub fn from_kernel(name: impl Into<String>) -> Self {
        Self(name.into())
    }
}

impl FromStr for Iqn {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| Err(ParseError::new("iSCSI name", text, reason));
        if text.len() > 223 {
            return bad("at most 223 bytes (RFC 3720, 3.2.6.1)");
        }
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return bad("write it in lower case; a name with a capital letter never matches in LIO");
        }
        if let Some(rest) = text.strip_prefix("iqn.") {
            if !rest.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b':')) {
                return bad("only a-z, 0-9, '-', '.' and ':' (RFC 3722)");
            }
            let (date, domain) = match rest.split_once('.') {
                Some(pair) => pair,
                None => return bad("the form is iqn.yyyy-mm.reversed.domain:string"),
            };
            let month_ok = date
                .split_once('-')
                .filter(|(year, month)| year.len() == 4 && month.len() == 2)
                .filter(|(year, _)| year.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|(_, month)| month.parse::<u8>().ok())
                .is_some_and(|month| (1..=12).contains(&month));
            if !month_ok {
                return bad("after \"iqn.\" stand year and month as yyyy-mm, with a month of 01 to 12");
            }
            let authority = domain.split(':').next().unwrap_or_default();
            if authority.is_empty() || authority.split('.').any(str::is_empty) {
                return bad("after the date stands a reversed domain name, for example com.example");
            }
            return Ok(Self(text.to_owned()));
        }
        for (prefix, lengths) in [("eui.", &[16][..]), ("naa.", &[16, 32][..])] {
            if let Some(digits) = text.strip_prefix(prefix) {
                return match lengths.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
                {
                    true => Ok(Self(text.to_owned())),
                    false => bad("eui. takes 16 hexadecimal digits, naa. takes 16 or 32"),
                };
            }
        }
        bad("it begins with iqn., eui. or naa.")
    }
}

text_type!(Iqn);

/// The name of a network interface: 1 to 15 bytes, no slash, colon or white space, not `.` or `..` (`dev_valid_name`, net/core/dev.c).
///
/// ```
/// let name: host::IfName = "bond_vlan2".parse()?;
/// assert!("a-name-that-is-too-long".parse::<host::IfName>().is_err());
/// # Ok::<(), host::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

impl FromStr for IfName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| Err(ParseError::new("interface name", text, reason));
        match text {
            "" => bad("it is empty"),
            "." | ".." => bad("the kernel refuses this name"),
            _ if text.len() > 15 => bad("at most 15 bytes"),
            _ if text.bytes().any(|b| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace()) => {
                bad("no '/', ':' or white space")
            }
            _ if text.contains('%') => bad("'%' makes the kernel choose a number; write the number"),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

text_type!(IfName);

/// The name of a device-mapper device: 1 to 127 bytes, printable ASCII without `/`, white space and quotes, not `control`.
///
/// libdevmapper rewrites other bytes as `\xNN` in `/dev/mapper`; refusing them keeps the name and the node the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DmName(String);

impl DmName {
    /// Takes a name that a kernel object already bears.
    #[must_use]
    pub fn from_kernel(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The node udev makes for it: `/dev/mapper/NAME`.
    #[must_use]
    pub fn path(&self) -> std::path::PathBuf {
        std::path::Path::new("/dev/mapper").join(&self.0)
    }
}

impl FromStr for DmName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| Err(ParseError::new("device-mapper name", text, reason));
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&b);
        match text {
            "" => bad("it is empty"),
            "control" | "." | ".." => bad("this name is reserved"),
            _ if text.len() > 127 => bad("at most 127 bytes"),
            _ if !text.bytes().all(allowed) => bad("only letters, digits and #+-.:=@_"),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

text_type!(DmName);

/// The world wide identifier of a SCSI disk, as multipath and `/lib/udev/scsi_id` show it: `3` + NAA, `2` + EUI-64, `1` + T10.
///
/// lio computes it from the unit serial it sets; multipath finds it on every path: both sides speak of the same disk by this type.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wwid(String);

impl Wwid {
    /// Reads `/sys/block/sdX/device/wwid`: `naa.6001405...` becomes `36001405...`, `eui.` becomes `2...`, `t10.` becomes `1...`.
    ///
    /// # Errors
    /// The text has none of the three forms.
    pub fn from_sysfs(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        let forms = [("naa.", '3'), ("eui.", '2'), ("t10.", '1')];
        match forms.iter().find_map(|(prefix, digit)| text.strip_prefix(prefix).map(|rest| (digit, rest))) {
            Some((digit, rest)) => format!("{digit}{}", rest.trim()).parse(),
            None => Err(ParseError::new("SCSI identifier", text, "it begins with naa., eui. or t10.")),
        }
    }
}

impl FromStr for Wwid {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let ok = (2..=127).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
            && !text.contains('/');
        match ok {
            true => Ok(Self(text.to_owned())),
            false => Err(ParseError::new("WWID", text, "2 to 127 printable characters without '/'")),
        }
    }
}

text_type!(Wwid);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iscsi_names() {
        for good in [
            "iqn.2003-01.org.linux-iscsi.nuc.x8664:sn.a8ff70fddc94",
            "iqn.2026-12.lab.x",
            "eui.02004567a425678d",
            "naa.52004567ba64678d",
        ] {
            assert!(good.parse::<Iqn>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "iqn.",
            "iqn.2026-00.a.b",
            "iqn.26-01.a.b",
            "iqn.2026-01..a",
            "iqn.2026-01.com.Example:x",
            "iqn.2026-01.a:b_c",
            "eui.02",
            "disk",
        ] {
            assert!(bad.parse::<Iqn>().is_err(), "{bad}");
        }
        assert!(format!("iqn.2026-01.a:{}", "x".repeat(223)).parse::<Iqn>().is_err());
    }

    #[test]
    fn interface_names() {
        for good in ["eth0", "bond_vlan2", "int1.24", "a"] {
            assert!(good.parse::<IfName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "0123456789abcdef", "a/b", "a b", "a:b", "eth%d"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn wwid_from_sysfs() {
        let wwid = Wwid::from_sysfs("naa.60014053221815080c24cdc938f1f56a\n").expect("NAA");
        assert_eq!(wwid.as_str(), "360014053221815080c24cdc938f1f56a");
        assert!(Wwid::from_sysfs("scsi.x").is_err());
    }
}
