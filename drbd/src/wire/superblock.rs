//! The superblock of DRBD's metadata: 4096 bytes, big endian, versions 08 and 09.
//!
//! Version 08: `struct meta_data_on_disk` (`drivers/block/drbd/drbd_main.c`, Linux 6.1). Version 09: `struct meta_data_on_disk_9`
//! (`drbd_meta_data.h` of drbd-headers).

use std::fmt;

use host::Sectors;

/// The version of metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Format {
    /// Version 08: DRBD 8.0 to 8.4, one peer.
    #[default]
    V08,
    /// Version 09: DRBD 9, up to 31 peers.
    V09,
}

/// The word of drbdmeta.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V08 => "v08",
            Self::V09 => "v09",
        })
    }
}

/// DRBD's metadata as it stands on a disk: the superblock, version 08 or 09.
///
/// While the disk is attached the kernel keeps newer values in memory.
///
/// ```no_run
/// use drbd::{Host, Metadata, Minor, Overwrite, Volume, VolumeSpec};
/// let host = Host::live();
/// let volume = VolumeSpec::new(Volume(0), Minor::new(0)?, "/dev/mapper/crypt0");
/// if !Metadata::exists(&host, &volume.disk, volume.minor)? {
///     Metadata::create(&host, &volume, Overwrite::Never)?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Metadata {
    /// Its version.
    pub format: Format,
    /// The size of the replicated device when it was last attached; 0 for new metadata.
    pub size: Sectors,
    /// The generation of the data; 4 for new metadata.
    pub current_uuid: u64,
    /// Whether the activity log is clean, so that the kernel will attach the disk as it is.
    pub is_clean: bool,
    /// What was known when it was written last.
    pub flags: MetadataFlags,
    /// The number of the device; 0 until the kernel has given it one.
    pub device_uuid: u64,
    /// Which nodes have the data, one bit each; 0 in version 08.
    pub members: u64,
    /// What all of it takes.
    pub(crate) md_sectors: u32,
    /// Where the activity log is, in sectors from the superblock.
    pub(crate) log_at: i32,
    /// How many extents the activity log held last.
    pub log_extents: u32,
    /// Where the bitmap is, in sectors from the superblock.
    pub(crate) bitmap_at: i32,
    /// How many bytes a bit of the bitmap stands for.
    pub bytes_per_bit: u32,
    /// The largest request the peer took, in bytes; 0 if it was never connected.
    pub peer_max_bio_size: u32,
    /// How many peers the bitmap has room for; 1 in version 08.
    pub max_peers: u32,
    /// The node's number; -1 until it has one, and in version 08.
    pub node_id: i32,
    /// The stripes of the activity log, 1 by default.
    pub stripes: u32,
    /// The pages of 4 KiB of each stripe, 8 by default.
    pub stripe_pages: u32,
    /// What is known of the peers: one in version 08, else 32.
    pub peers: Vec<PeerMetadata>,
    /// Former generations: two in version 08, else 32.
    pub history: Vec<u64>,
}

/// What metadata knows of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PeerMetadata {
    /// The generation that the bitmap counts from; 0 if nothing is known to differ.
    pub bitmap_uuid: u64,
    /// The position in the stream of changes; version 09 only.
    pub dagtag: u64,
    /// Flags; version 09 only.
    pub flags: u32,
    /// The peer's bitmap, -1 for none; version 09 only.
    pub bitmap_index: i32,
}

impl Default for PeerMetadata {
    fn default() -> Self {
        Self { bitmap_uuid: 0, dagtag: 0, flags: 0, bitmap_index: -1 }
    }
}

/// Flags of metadata (`enum mdf_flag`, include/linux/drbd.h). Unknown ones stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct MetadataFlags(pub u32);

impl MetadataFlags {
    /// The data is whole.
    pub const CONSISTENT: Self = Self(1);
    /// The node was Primary.
    pub const PRIMARY: Self = Self(2);
    /// The peer was connected.
    pub const CONNECTED: Self = Self(4);
    /// All of it is to be synced.
    pub const FULL_SYNC: Self = Self(8);
    /// The data was the newest.
    pub const WAS_UP_TO_DATE: Self = Self(0x10);
    /// The peer's data is old.
    pub const PEER_OUTDATED: Self = Self(0x20);
    /// The node was Primary and crashed.
    pub const CRASHED_PRIMARY: Self = Self(0x40);
    /// The activity log is clean.
    pub const AL_CLEAN: Self = Self(0x80);
    /// The activity log is not kept.
    pub const AL_DISABLED: Self = Self(0x100);

    /// Whether all of these flags are set.
    #[must_use]
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// `DRBD_MD_MAGIC_07`: metadata of DRBD 0.7, which no kernel takes any more.
const MAGIC_07: u32 = 0x8374_026a;
/// Where it stands, as drbdmeta 9.22 writes it.
const MAGIC_07_AT: usize = 28;
/// `DRBD_MD_MAGIC_08` (include/linux/drbd.h).
const MAGIC_08: u32 = 0x8374_026b;
/// `DRBD_MD_MAGIC_84_UNCLEAN`: what 8.4 writes while the disk is attached.
const MAGIC_UNCLEAN: u32 = 0x8374_026c;
/// `DRBD_MD_MAGIC_09`.
const MAGIC_09: u32 = 0x8374_026d;
/// The size of the superblock.
pub(crate) const BLOCK: usize = 4096;
/// How many slots for peers, and for former generations, a superblock of version 09 has (`DRBD_PEERS_MAX`, `HISTORY_UUIDS`).
pub(crate) const SLOTS: usize = 32;
const PEERS: usize = 112;
const HISTORY: usize = 1136;

/// A block with a cursor for each field by its place.
struct Block<'a>(&'a mut [u8]);

impl Block<'_> {
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        if let Some(place) = self.0.get_mut(at..at + N) {
            place.copy_from_slice(&bytes);
        }
    }
}

fn long(block: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(block.get(at..at + 8)?.try_into().ok()?))
}

fn word(block: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(block.get(at..at + 4)?.try_into().ok()?))
}

/// Whether a block is a superblock of version 07.
pub(crate) fn is_07(block: &[u8]) -> bool {
    word(block, MAGIC_07_AT) == Some(MAGIC_07)
}

/// Reads a superblock; `None` if the magic is not there.
pub(crate) fn decode(block: &[u8]) -> Option<Metadata> {
    let (format, magic_is_clean) = match word(block, 60)? {
        MAGIC_08 => (Format::V08, true),
        MAGIC_UNCLEAN => (Format::V08, false),
        MAGIC_09 => (Format::V09, true),
        _ => return None,
    };
    let flags = MetadataFlags(word(block, 56)?);
    let is_nine = format == Format::V09;
    let (stripes, pages) = if is_nine { (96, 100) } else { (88, 92) };
    let (stripes, pages) = match (word(block, stripes)?, word(block, pages)?) {
        // Written before stripes were invented.
        (0, 0) => (1, 8),
        other => other,
    };
    let mut peers = Vec::new();
    let mut history = Vec::new();
    if is_nine {
        for slot in 0..SLOTS {
            let at = PEERS + slot * 32;
            peers.push(PeerMetadata {
                bitmap_uuid: long(block, at)?,
                dagtag: long(block, at + 8)?,
                flags: word(block, at + 16)?,
                bitmap_index: word(block, at + 20)?.cast_signed(),
            });
            history.push(long(block, HISTORY + slot * 8)?);
        }
    } else {
        peers.push(PeerMetadata { bitmap_uuid: long(block, 16)?, ..PeerMetadata::default() });
        history.extend([long(block, 24)?, long(block, 32)?]);
    }
    Some(Metadata {
        format,
        size: Sectors(long(block, 0)?),
        current_uuid: long(block, 8)?,
        // Both are needed (drbd_md_read, drbd_main.c); version 09 has the flag alone.
        is_clean: magic_is_clean && flags.has(MetadataFlags::AL_CLEAN),
        flags,
        device_uuid: if is_nine { long(block, 48)? } else { long(block, 40)? },
        members: if is_nine { long(block, 16)? } else { 0 },
        md_sectors: word(block, 64)?,
        log_at: word(block, 68)?.cast_signed(),
        log_extents: word(block, 72)?,
        bitmap_at: word(block, 76)?.cast_signed(),
        bytes_per_bit: word(block, 80)?,
        peer_max_bio_size: word(block, 84)?,
        max_peers: if is_nine { word(block, 88)? } else { 1 },
        node_id: if is_nine { word(block, 92)?.cast_signed() } else { -1 },
        stripes,
        stripe_pages: pages,
        peers,
        history,
    })
}

/// Writes a superblock.
pub(crate) fn encode(metadata: &Metadata) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    let mut block = Block(&mut bytes);
    let is_nine = metadata.format == Format::V09;
    block.put(0, metadata.size.0.to_be_bytes());
    block.put(8, metadata.current_uuid.to_be_bytes());
    let mut flags = metadata.flags.0 & !MetadataFlags::AL_CLEAN.0;
    if metadata.is_clean {
        flags |= MetadataFlags::AL_CLEAN.0;
    }
    block.put(56, flags.to_be_bytes());
    let magic = match (metadata.format, metadata.is_clean) {
        (Format::V09, _) => MAGIC_09,
        (Format::V08, true) => MAGIC_08,
        (Format::V08, false) => MAGIC_UNCLEAN,
    };
    block.put(60, magic.to_be_bytes());
    block.put(64, metadata.md_sectors.to_be_bytes());
    block.put(68, metadata.log_at.to_be_bytes());
    block.put(72, metadata.log_extents.to_be_bytes());
    block.put(76, metadata.bitmap_at.to_be_bytes());
    block.put(80, metadata.bytes_per_bit.to_be_bytes());
    block.put(84, metadata.peer_max_bio_size.to_be_bytes());
    if !is_nine {
        block.put(16, metadata.peers.first().map_or(0, |peer| peer.bitmap_uuid).to_be_bytes());
        (24..40).step_by(8).zip(&metadata.history).for_each(|(at, uuid)| block.put(at, uuid.to_be_bytes()));
        block.put(40, metadata.device_uuid.to_be_bytes());
        block.put(88, metadata.stripes.to_be_bytes());
        block.put(92, metadata.stripe_pages.to_be_bytes());
        return bytes;
    }
    block.put(16, metadata.members.to_be_bytes());
    block.put(48, metadata.device_uuid.to_be_bytes());
    block.put(88, metadata.max_peers.to_be_bytes());
    block.put(92, metadata.node_id.to_be_bytes());
    block.put(96, metadata.stripes.to_be_bytes());
    block.put(100, metadata.stripe_pages.to_be_bytes());
    for (at, peer) in (PEERS..HISTORY).step_by(32).zip(&metadata.peers) {
        block.put(at, peer.bitmap_uuid.to_be_bytes());
        block.put(at + 8, peer.dagtag.to_be_bytes());
        block.put(at + 16, peer.flags.to_be_bytes());
        block.put(at + 20, peer.bitmap_index.to_be_bytes());
    }
    (HISTORY..BLOCK)
        .step_by(8)
        .zip(metadata.history.iter().take(SLOTS))
        .for_each(|(at, uuid)| block.put(at, uuid.to_be_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic_and_what_was_read_is_written_back(
            mut bytes in proptest::collection::vec(any::<u8>(), 4096), magic in 0..4_u32
        ) {
            bytes[60..64].copy_from_slice(&(0x8374_026a + magic).to_be_bytes());
            if let Some(read) = decode(&bytes) {
                let again = decode(&encode(&read)).map(|again| Metadata { flags: read.flags, ..again });
                prop_assert_eq!(again, Some(read));
            } else {
                prop_assert_eq!(magic, 0);
            }
            let is_eight = |read: Metadata| read.format == Format::V08;
            prop_assert_eq!(decode(&bytes[..1136]).is_some(), decode(&bytes).is_some_and(is_eight));
        }
    }
}
