//! Names as multipathd's commands take them, and whether two identifiers can be the same disk.

use std::fmt;
use std::str::FromStr;

use host::{DmName, ParseError, Wwid};

/// The most bytes of a `format` string: it shares the 511 bytes of a command with the words around it and a map's name.
const FORMAT: usize = 300;

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

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

/// What cannot be said to multipathd at all: it splits at white space, knows quotes and has no escapes (`libmultipath/vector.c`).
fn unsayable(text: &str) -> Option<&'static str> {
    match text {
        "" => Some("it is empty"),
        _ if text.contains('"') => Some("multipathd has no way to take a quote; rename it"),
        _ if text.chars().any(char::is_control) => Some("no control characters"),
        _ => None,
    }
}

/// How a map is named in a command: its alias, `dm-N`, or (multipathd 0.9.9 and later) its WWID. 1 to 127 bytes without quotes and control
/// characters; a name with blanks is sent in quotes.
///
/// `suspend map`, `resume map` and `reset map` take an alias only, in all versions.
///
/// ```
/// let map: multipath::MapName = "mpatha".parse()?;
/// assert!("a \"name\"".parse::<multipath::MapName>().is_err());
/// # Ok::<(), multipath::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapName(String);

impl FromStr for MapName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let reason = unsayable(text).or_else(|| (text.len() > 127).then_some("at most 127 bytes"));
        match reason {
            Some(reason) => Err(ParseError::new("multipath map", text, reason)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<&DmName> for MapName {
    type Error = ParseError;

    fn try_from(name: &DmName) -> Result<Self, ParseError> {
        name.as_str().parse()
    }
}

text_type!(MapName);

/// How a path is named in a command: its kernel name (`sdb`, without `/dev/`) or, multipathd 0.9.8 and later, its number (`8:16`).
/// 1 to 63 bytes without blanks, quotes and slashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathName(String);

impl FromStr for PathName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let reason = unsayable(text).or_else(|| match text {
            _ if text.contains(['/', ' ']) => Some("give the kernel's name, sdb, or its number, 8:16"),
            _ if text.len() > 63 => Some("at most 63 bytes"),
            _ => None,
        });
        match reason {
            Some(reason) => Err(ParseError::new("path", text, reason)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

text_type!(PathName);

/// A format of `show paths` and `show maps`: text with wildcards (`%n`, `%w`, ...; [`Command::ShowWildcards`](crate::Command::ShowWildcards)
/// lists them). 1 to 300 bytes without quotes and control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Format(String);

impl FromStr for Format {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let reason = unsayable(text).or_else(|| (text.len() > FORMAT).then_some("at most 300 bytes"));
        match reason {
            Some(reason) => Err(ParseError::new("format", text, reason)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

text_type!(Format);

/// Whether two identifiers can be those of one disk. Strict where the forms can be compared, loose only where they cannot.
///
/// A disk may have several identifiers, and the kernel (`/sys/block/sdX/device/wwid`) may prefer another one than udev and multipathd do: of
/// two forms (`3` NAA, `2` EUI-64, `1` T10, `S` and `0` vendor's, `8` name string) nothing follows. NAA and EUI-64 are compared as
/// hexadecimal numbers. T10 and vendor's texts are compared with each run of blanks and underscores as one, because udev writes underscores
/// where the kernel prints the blanks of the page.
///
/// ```
/// use multipath::{Wwid, may_be_same};
/// let kernel = Wwid::from_sysfs("t10.ATA     QEMU HARDDISK    QM00005")?;
/// assert!(may_be_same(&kernel, &"1ATA_QEMU_HARDDISK_QM00005".parse()?));
/// assert!(!may_be_same(&"36001405aa".parse()?, &"36001405ab".parse()?));
/// # Ok::<(), multipath::ParseError>(())
/// ```
#[must_use]
pub fn may_be_same(one: &Wwid, other: &Wwid) -> bool {
    let (Some((form, one)), Some((other_form, other))) = (split(one), split(other)) else { return true };
    match form {
        _ if form != other_form => true,
        '2' | '3' => one.eq_ignore_ascii_case(other),
        _ => words(one).eq(words(other)),
    }
}

fn split(wwid: &Wwid) -> Option<(char, &str)> {
    let form = wwid.as_str().chars().next()?;
    Some((form, wwid.as_str().get(form.len_utf8()..)?))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', '_']).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_multipathd_cannot_take_are_refused() {
        assert!("mpatha".parse::<MapName>().is_ok() && "a b".parse::<MapName>().is_ok());
        for bad in ["", "a\"b", "a\nb", &"x".repeat(128)] {
            assert!(bad.parse::<MapName>().is_err(), "{bad:?}");
        }
        assert!("sdb".parse::<PathName>().is_ok() && "8:16".parse::<PathName>().is_ok());
        for bad in ["", "/dev/sdb", "sd b", "sd\"b"] {
            assert!(bad.parse::<PathName>().is_err(), "{bad:?}");
        }
        assert!("%n|%w".parse::<Format>().is_ok() && "%".repeat(301).parse::<Format>().is_err());
    }

    #[test]
    fn identifiers_are_compared_where_they_can_be() {
        let same = |a: &str, b: &str| may_be_same(&a.parse().expect("one"), &b.parse().expect("other"));
        assert!(same("36001405A1", "36001405a1") && !same("36001405a1", "36001405a2"));
        assert!(same("1LIO-ORG  one", "1LIO-ORG_one") && !same("1LIO-ORG one", "1LIO-ORG two"));
        assert!(same("36001405a1", "1LIO-ORG_one") && !same("20011", "20012"));
    }
}
