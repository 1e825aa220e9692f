//! What is seen: volumes on disks, mappings in the kernel.

use std::path::PathBuf;

use host::Sectors;

use crate::Uuid;
use crate::header::Priority;
use crate::header::{Header, Version};
use crate::spec::OpenFlags;

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

/// A key slot in use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct KeyslotState {
    /// Its number.
    pub number: u32,
    /// Whether it holds the volume's key; else one that is not in use, of a reencryption under way for example.
    pub bound: bool,
    /// When it is tried.
    pub priority: Priority,
    /// The size in bits of the key in it.
    pub key_bits: u32,
}

/// A token of a LUKS2 header.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TokenState {
    /// Its number.
    pub number: u32,
    /// Its type: "luks2-keyring", "systemd-tpm2", "clevis".
    pub kind: String,
    /// Whether something here can open it: the library, or a plug-in of it that is installed.
    pub handled: bool,
    /// The key slots it opens.
    pub slots: Vec<u32>,
    /// All of it, as it stands in the header.
    pub json: String,
}

/// A mapping as the kernel has it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ActiveState {
    /// Where its data begins on the device.
    pub offset: Sectors,
    /// How large it is.
    pub size: Sectors,
    /// How it was opened.
    pub flags: OpenFlags,
}

#[cfg_attr(not(any(feature = "libcryptsetup", feature = "fake")), allow(dead_code))]
impl ActiveState {
    pub(crate) fn new(offset: Sectors, size: Sectors, flags: OpenFlags) -> Self {
        Self { offset, size, flags }
    }
}

/// All mappings of dm-crypt, from sysfs, without root and without the library: `/sys/block/dm-N/dm/{name,uuid,suspended}`, `slaves`, `holders`.
#[cfg(feature = "libcryptsetup")]
pub(crate) fn mappings(host: &host::Host) -> crate::Result<Vec<MappingState>> {
    use crate::Error;
    let tree = host.tree();
    let mut found = Vec::new();
    for entry in tree.list_opt("/sys/block").map_err(Error::Tree)? {
        let base = format!("/sys/block/{}", entry.name);
        if !entry.name.starts_with("dm-") {
            continue;
        }
        let Some(uuid) = tree.read_opt(format!("{base}/dm/uuid")).map_err(Error::Tree)? else {
            continue;
        };
        let Some((version, uuid)) = parse_dm_uuid(uuid.trim()) else { continue };
        let names = |dir: &str| -> crate::Result<Vec<String>> {
            let list = tree.list_opt(format!("{base}/{dir}")).map_err(Error::Tree)?;
            Ok(list.into_iter().map(|e| e.name).collect())
        };
        // It may have been closed since the list was read.
        let Some(name) = tree.read_opt(format!("{base}/dm/name")).map_err(Error::Tree)? else { continue };
        let suspended = tree.read_opt(format!("{base}/dm/suspended")).map_err(Error::Tree)?;
        // The link stays when the disk has gone, and leads nowhere.
        let device = match names("slaves")?.into_iter().next() {
            Some(disk) => {
                tree.read_opt(format!("{base}/slaves/{disk}/dev")).map_err(Error::Tree)?.map(|_| disk)
            }
            None => None,
        };
        found.push(MappingState {
            name: name.trim().to_owned(),
            node: entry.name.clone(),
            uuid,
            version,
            device,
            holders: names("holders")?,
            suspended: suspended.is_some_and(|s| s.trim() == "1"),
        });
    }
    Ok(found)
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
