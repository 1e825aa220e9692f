//! What is seen: volumes on disks, mappings in the kernel.

use std::path::PathBuf;

use crate::Uuid;
use crate::header::{Header, Version};

/// A mapping of dm-crypt, made by us or by others.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MappingState {
    /// Its name, as device-mapper has it.
    pub name: String,
    /// Its node: "dm-3".
    pub node: String,
    /// The volume's UUID; `None` for plain dm-crypt.
    pub uuid: Option<Uuid>,
    /// The header's version; `None` for plain dm-crypt.
    pub version: Option<Version>,
    /// The device below ("vdb"); `None` if it has gone: the mapping is a zombie that fails every request.
    pub device: Option<String>,
    /// Who is on top of it, by kernel name: "drbd0", "dm-4".
    pub holders: Vec<String>,
    /// I/O waits.
    pub suspended: bool,
}

/// A disk with a LUKS header.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VolumeState {
    /// Its node: `/dev/vdb`.
    pub device: PathBuf,
    /// What its header says.
    pub header: Header,
}

#[cfg_attr(not(any(feature = "libcryptsetup", feature = "fake")), allow(dead_code))]
impl VolumeState {
    pub(crate) fn new(device: PathBuf, header: Header) -> Self {
        Self { device, header }
    }
}

/// Takes device-mapper's UUID of a crypt mapping apart: `CRYPT-LUKS2-<32 digits>-<name>`, `CRYPT-PLAIN-<name>`. `None` if it is none.
#[cfg_attr(not(feature = "libcryptsetup"), allow(dead_code))]
pub(crate) fn parse_dm_uuid(uuid: &str) -> Option<(Option<Version>, Option<Uuid>)> {
    let rest = uuid.strip_prefix("CRYPT-")?;
    let (kind, rest) = rest.split_once('-').unwrap_or((rest, ""));
    let version = match kind {
        "LUKS1" => Some(Version::Luks1),
        "LUKS2" => Some(Version::Luks2),
        _ => None,
    };
    let id = rest.split('-').next().and_then(Uuid::from_compact);
    Some((version, id.filter(|_| version.is_some())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_mappers_uuids_are_read() {
        let id = "1bd1f798d1054150841bf2751f419efc";
        let (version, uuid) = parse_dm_uuid(&format!("CRYPT-LUKS2-{id}-VM_STORAGE-1")).expect("crypt");
        assert_eq!((version, uuid), (Some(Version::Luks2), Uuid::from_compact(id)));
        assert_eq!(parse_dm_uuid("CRYPT-PLAIN-zerocrypt"), Some((None, None)));
        assert_eq!(parse_dm_uuid("mpath-3600"), None);
    }
}
