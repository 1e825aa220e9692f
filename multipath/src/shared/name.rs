//! Names and numbers of LVM and sanlock, checked where they enter.

use std::fmt;
use std::str::FromStr;

use host::ParseError;

/// What both kinds of names must be: lvm(8), "Valid names".
fn plain(what: &'static str, text: &str, longest: usize) -> Result<(), ParseError> {
    let bad = |reason: &str| Err(ParseError::new(what, text, reason));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+_.-".contains(&b);
    match text {
        "" => bad("it is empty"),
        "." | ".." => bad("LVM reserves this name"),
        _ if text.len() > longest => bad(&format!("at most {longest} bytes")),
        _ if text.starts_with('-') => bad("it must not begin with a hyphen"),
        _ if !text.bytes().all(allowed) => bad("only letters, digits and +_.-"),
        _ => Ok(()),
    }
}

macro_rules! name {
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

/// The name of a volume group: letters, digits and `+_.-`, not beginning with a hyphen, not `.` or `..`; 1 to 44 bytes.
///
/// LVM takes 127 bytes. sanlock names a lockspace in 48 (`SANLK_NAME_LEN`), and lvmlockd calls it `lvm_NAME`.
///
/// ```
/// let name: multipath::shared::VgName = "vms".parse()?;
/// assert!("-vms".parse::<multipath::shared::VgName>().is_err());
/// # Ok::<(), multipath::shared::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VgName(String);

impl FromStr for VgName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        plain("volume group name", text, 44)?;
        Ok(Self(text.to_owned()))
    }
}

name!(VgName);

impl VgName {
    /// The lockspace that lvmlockd makes for it: `lvm_NAME`.
    #[must_use]
    pub fn lockspace(&self) -> String {
        format!("lvm_{self}")
    }
}

/// The name of a logical volume: letters, digits and `+_.-`, not beginning with a hyphen; 1 to 110 bytes. What LVM keeps for itself is
/// refused: `snapshot...`, `pvmove...`, `lvmlock`, and names that contain `_mimage`, `_tdata` and the like (lvm(8), "Valid names").
///
/// ```
/// let name: multipath::shared::LvName = "vm-1_disk".parse()?;
/// assert!("vm_tdata".parse::<multipath::shared::LvName>().is_err());
/// # Ok::<(), multipath::shared::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LvName(String);

/// What LVM puts into the names of the parts it makes.
const RESERVED: &[&str] = &[
    "_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_iorig", "_mimage", "_mlog", "_pmspare", "_rimage",
    "_rmeta", "_tdata", "_tmeta", "_vdata", "_vorigin", "_wcorig",
];

impl FromStr for LvName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        plain("logical volume name", text, 110)?;
        let bad = |reason: &str| Err(ParseError::new("logical volume name", text, reason));
        if text.starts_with("snapshot") || text.starts_with("pvmove") {
            return bad("LVM reserves names that begin with snapshot or pvmove");
        }
        if text == "lvmlock" {
            return bad("lvmlock is where the group's locks are");
        }
        match RESERVED.iter().find(|part| text.contains(*part)) {
            Some(part) => bad(&format!("LVM reserves names that contain {part}")),
            None => Ok(Self(text.to_owned())),
        }
    }
}

name!(LvName);

/// The number of a host among those that share volume groups: 1 to 2000, another one on each host (`local/host_id` in
/// `/etc/lvm/lvmlocal.conf`). It is the host's place in sanlock's table on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct HostId(u16);

impl HostId {
    /// A number.
    ///
    /// # Errors
    /// It is not 1 to 2000.
    pub fn new(id: u16) -> Result<Self, ParseError> {
        match id {
            1..=2000 => Ok(Self(id)),
            _ => Err(ParseError::new("host number", id.to_string(), "sanlock takes 1 to 2000")),
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl FromStr for HostId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.trim().parse() {
            Ok(id) => Self::new(id),
            Err(_) => Err(ParseError::new("host number", text, "sanlock takes 1 to 2000")),
        }
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The node that device-mapper has for a volume: a hyphen within a name is doubled, one between the two is not.
pub(super) fn mapper_path(vg: &str, lv: &str) -> String {
    format!("/dev/mapper/{}-{}", vg.replace('-', "--"), lv.replace('-', "--"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_take_lvms_names_as_far_as_sanlock_does() {
        let longest = "v".repeat(44);
        for good in ["vms", "vm-storage_1", "A+b.c", "9", &longest] {
            assert!(good.parse::<VgName>().is_ok(), "{good}");
        }
        let too_long = "v".repeat(45);
        for bad in ["", ".", "..", "-v", "a b", "a/b", "a;b", "vé", "--help", &too_long] {
            assert!(bad.parse::<VgName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes_do_not_take_what_lvm_keeps_for_itself() {
        for good in ["vm1", "vm1_data", "root.img", "snap"] {
            assert!(good.parse::<LvName>().is_ok(), "{good}");
        }
        for bad in ["lvmlock", "snapshot1", "pvmove0", "a_rimage_0", "pool_tmeta", "-n", "a b"] {
            assert!(bad.parse::<LvName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_has_a_number_from_1_to_2000() {
        assert_eq!("7".parse::<HostId>().map(HostId::get), Ok(7));
        for bad in ["0", "2001", "-1", "70000", "one", ""] {
            assert!(bad.parse::<HostId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hyphens_are_doubled_in_the_node() {
        assert_eq!(mapper_path("vm-s", "a-b"), "/dev/mapper/vm--s-a--b");
    }
}
