//! Where metadata lies on a disk, and what it leaves for data. Pure arithmetic.
//!
//! Internal: `data | bitmap | activity log | superblock`, the superblock in the last whole 4 KiB. External and indexed: `superblock | activity
//! log | bitmap`. A bit of the bitmap stands for 4 KiB; bits are rounded up to 64, the bitmap to 4 KiB (`drbd_md_set_sector_offsets`,
//! `drivers/block/drbd/drbd_nl.c`).

use host::{Bytes, Sectors};

use crate::MetaDisk;
use crate::wire::superblock::{Format, Metadata, MetadataFlags, PeerMetadata, SLOTS};

/// The size of the superblock, and what its place is aligned to.
pub(super) const PAGE: u64 = 4096;
const SECTOR: u64 = 512;
/// The superblock in sectors.
const PAGE_SECTORS: u64 = 8;
/// What a bit of the bitmap stands for.
const PER_BIT: u64 = 4096;
/// The place that each index of a shared metadata device has: 128 MiB (`MD_128MB_SECT`).
pub(super) const INDEXED: u64 = 128 << 20;
/// The largest device (`DRBD_MAX_SECTORS_FLEX`, `include/linux/drbd_limits.h`).
const LARGEST: u64 = 1 << 50;
/// drbdmeta looks at so much of a device, and takes none that is smaller.
const SMALLEST: u64 = 68 * 1024;
/// The generation of new metadata (`UUID_JUST_CREATED`).
const JUST_CREATED: u64 = 4;
/// What new metadata says of the activity log's size; the kernel writes the one it was told.
const LOG_EXTENTS: u32 = 257;

/// What new metadata shall be.
///
/// ```
/// use drbd::{Bytes, MetadataSpec};
/// let spec = MetadataSpec::v08();
/// // 100 MiB with metadata at its end: 40 KiB are lost.
/// assert_eq!(spec.loss(Bytes(100 << 20)), Some(Bytes(40 << 10)));
/// // A file system that was shrunk by 128 KiB makes room for it.
/// assert!(spec.fits(Bytes(100 << 20), Bytes((100 << 20) - (128 << 10))));
/// assert!(!spec.fits(Bytes(100 << 20), Bytes(100 << 20)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct MetadataSpec {
    /// Its version. The DRBD of the kernel (8.4) takes version 08 only.
    pub format: Format,
    /// For how many peers the bitmap has room, 1 to 31; version 08 has 1.
    pub max_peers: u8,
    /// The stripes of the activity log, 1 by default: more for a disk of several spindles. `--al-stripes`.
    pub stripes: u16,
    /// The pages of 4 KiB of a stripe, 8 by default: 919 extents of 4 MiB for each page but one. `--al-stripe-size-kB`, divided by 4.
    pub stripe_pages: u16,
    /// The largest request of the peer that is assumed until it is known, in bytes; 0 for the smallest there is. `--peer-max-bio-size`.
    pub peer_max_bio_size: u32,
}

impl Default for MetadataSpec {
    fn default() -> Self {
        Self::v08()
    }
}

impl MetadataSpec {
    /// Version 08, as DRBD 8.4 takes it.
    #[must_use]
    pub fn v08() -> Self {
        Self { format: Format::V08, max_peers: 1, stripes: 1, stripe_pages: 8, peer_max_bio_size: 0 }
    }

    /// Version 09, as DRBD 9 takes it, with room for so many peers: 1 to 31.
    #[must_use]
    pub fn v09(max_peers: u8) -> Self {
        Self { format: Format::V09, max_peers, ..Self::v08() }
    }

    /// Sets the size of the activity log.
    #[must_use]
    pub fn with_stripes(mut self, stripes: u16, pages: u16) -> Self {
        (self.stripes, self.stripe_pages) = (stripes, pages);
        self
    }

    /// Sets the largest request that is assumed of the peer.
    #[must_use]
    pub fn with_peer_max_bio_size(mut self, size: u32) -> Self {
        self.peer_max_bio_size = size;
        self
    }

    /// What metadata at the end of a disk of this size leaves for data; `None` if the disk is too small or too large for any.
    #[must_use]
    pub fn usable(&self, disk: Bytes) -> Option<Bytes> {
        self.layout(&MetaDisk::Internal, disk.0, disk.0)
            .ok()
            .map(|layout| Bytes(layout.bitmap / SECTOR * SECTOR))
    }

    /// What of a disk of this size is lost to metadata at its end.
    #[must_use]
    pub fn loss(&self, disk: Bytes) -> Option<Bytes> {
        self.usable(disk).map(|usable| Bytes(disk.0 - usable.0))
    }

    /// Whether so much data fits on a disk with its metadata at the end: asked before the metadata is made over a file system that was shrunk,
    /// and before a disk that holds both is shrunk.
    #[must_use]
    pub fn fits(&self, disk: Bytes, data: Bytes) -> bool {
        self.usable(disk).is_some_and(|usable| usable >= data)
    }

    /// The size of the smallest disk that has room for so much data with its metadata at the end; `None` if it is more than DRBD takes.
    #[must_use]
    pub fn disk_for(&self, data: Bytes) -> Option<Bytes> {
        // The metadata of the result takes no less than that of the data alone, and at most a page of bitmap for each peer more.
        let least = data.0.checked_next_multiple_of(PAGE)?;
        let fixed = PAGE + self.log_bytes();
        let mut size = least
            .checked_add(fixed)?
            .checked_add(self.bitmap_bytes(least)?)?
            .max(SMALLEST.next_multiple_of(PAGE));
        while !self.fits(Bytes(size), data) {
            size = size.checked_add(PAGE).filter(|size| *size <= LARGEST)?;
        }
        Some(Bytes(size))
    }

    /// The size that metadata on a device of its own needs for a disk of this size; `None` if the disk is larger than DRBD takes.
    #[must_use]
    pub fn external_size(&self, disk: Bytes) -> Option<Bytes> {
        Some(Bytes(
            (PAGE + self.log_bytes() + self.bitmap_bytes(disk.0)?).max(SMALLEST.next_multiple_of(PAGE)),
        ))
    }

    pub(super) fn log_bytes(&self) -> u64 {
        u64::from(self.stripes) * u64::from(self.stripe_pages) * PAGE
    }

    /// The bitmap for a device of this size.
    pub(super) fn bitmap_bytes(&self, size: u64) -> Option<u64> {
        (size <= LARGEST).then_some(())?;
        let bits = (size / SECTOR).div_ceil(PER_BIT / SECTOR).next_multiple_of(64);
        Some((bits / 8 * u64::from(self.max_peers)).next_multiple_of(PAGE))
    }

    /// What is wrong with it, if something is.
    fn check(&self) -> Result<(), String> {
        let peers = if self.format == Format::V08 { 1..=1 } else { 1..=31 };
        if !peers.contains(&self.max_peers) {
            return Err(format!(
                "{} peers; {} takes {} to {}",
                self.max_peers,
                self.format,
                peers.start(),
                peers.end()
            ));
        }
        // What drbdmeta takes; the kernel allows more (drbd_main.c, check_activity_log_stripe_size).
        let pages = u64::from(self.stripes) * u64::from(self.stripe_pages);
        if !(8..=8192).contains(&pages) {
            return Err(format!("an activity log of {pages} pages; it takes 8 to 8192"));
        }
        Ok(())
    }

    /// Where it lies: on a device of `device` bytes, for a disk of `disk` bytes, which is the same if the metadata is internal.
    pub(super) fn layout(&self, meta: &MetaDisk, device: u64, disk: u64) -> Result<Layout, String> {
        self.check()?;
        let shown = Bytes(device);
        if device < SMALLEST {
            return Err(format!("it has {shown}; metadata needs {} at least", Bytes(SMALLEST)));
        }
        let log_len = self.log_bytes();
        let bitmap_len = self
            .bitmap_bytes(disk)
            .ok_or_else(|| format!("the disk has {}; DRBD takes 1 PiB at most", Bytes(disk)))?;
        let sectors = |bytes: u64| {
            u32::try_from(bytes / SECTOR).map_err(|_| "its metadata would be too large".to_owned())
        };
        let small = |needed: u64| format!("it has {shown}; its metadata needs {}", Bytes(needed));
        if *meta == MetaDisk::Internal {
            let superblock = (device - PAGE) & !(PAGE - 1);
            let all = bitmap_len + log_len + PAGE;
            let bitmap = (superblock + PAGE).checked_sub(all).ok_or_else(|| small(all))?;
            let md_sectors = sectors(all)?;
            let log = bitmap + bitmap_len;
            return Ok(Layout { superblock, log, log_len, bitmap, bitmap_len, room: bitmap_len, md_sectors });
        }
        let (superblock, all) = match meta {
            MetaDisk::Indexed(_, index) => (u64::from(*index) * INDEXED, INDEXED),
            _ => (0, device / SECTOR * SECTOR),
        };
        let (log, bitmap) = (superblock + PAGE, superblock + PAGE + log_len);
        let room = all.saturating_sub(PAGE + log_len);
        if bitmap_len > room {
            return Err(match meta {
                MetaDisk::Indexed(..) => {
                    format!("the disk has {}; a place of 128 MiB is too small for it", Bytes(disk))
                }
                _ => small(PAGE + log_len + bitmap_len),
            });
        }
        if superblock + PAGE + log_len + bitmap_len > device {
            return Err(small(superblock + PAGE + log_len + bitmap_len));
        }
        // drbdmeta writes the whole device here, cut to 32 bits.
        let md_sectors = sectors(all).unwrap_or(u32::MAX);
        Ok(Layout { superblock, log, log_len, bitmap, bitmap_len, room, md_sectors })
    }

    /// New metadata.
    pub(super) fn fresh(&self, layout: &Layout) -> Metadata {
        let (peers, history) = if self.format == Format::V09 { (SLOTS, SLOTS) } else { (1, 2) };
        Metadata {
            format: self.format,
            size: Sectors(0),
            current_uuid: JUST_CREATED,
            is_clean: true,
            flags: MetadataFlags::AL_CLEAN,
            device_uuid: 0,
            members: 0,
            md_sectors: layout.md_sectors,
            log_at: layout.in_sectors(layout.log),
            log_extents: LOG_EXTENTS,
            bitmap_at: layout.in_sectors(layout.bitmap),
            bytes_per_bit: 4096,
            peer_max_bio_size: self.peer_max_bio_size,
            max_peers: u32::from(self.max_peers),
            node_id: -1,
            stripes: u32::from(self.stripes),
            stripe_pages: u32::from(self.stripe_pages),
            peers: vec![PeerMetadata::default(); peers],
            history: vec![0; history],
        }
    }

    /// What existing metadata was made by; what is out of range is the reason why it is damaged.
    pub(super) fn of(metadata: &Metadata) -> Result<Self, String> {
        let short =
            |n: u32, what: &str| u16::try_from(n).map_err(|_| format!("{n} {what} of the activity log"));
        let spec = Self {
            format: metadata.format,
            max_peers: u8::try_from(metadata.max_peers)
                .map_err(|_| format!("{} peers", metadata.max_peers))?,
            stripes: short(metadata.stripes, "stripes")?,
            stripe_pages: short(metadata.stripe_pages, "pages")?,
            peer_max_bio_size: metadata.peer_max_bio_size,
        };
        if metadata.bytes_per_bit != 4096 {
            return Err(format!(
                "{} bytes a bit of the bitmap; only 4096 is supported",
                metadata.bytes_per_bit
            ));
        }
        spec.check().map(|()| spec)
    }
}

/// Where metadata lies, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) superblock: u64,
    pub(super) log: u64,
    pub(super) log_len: u64,
    pub(super) bitmap: u64,
    /// What the disk needs.
    pub(super) bitmap_len: u64,
    /// What there is.
    pub(super) room: u64,
    pub(super) md_sectors: u32,
}

impl Layout {
    /// A place as the superblock says it: in sectors from itself.
    pub(super) fn in_sectors(&self, place: u64) -> i32 {
        let sectors = (place / SECTOR).cast_signed() - (self.superblock / SECTOR).cast_signed();
        i32::try_from(sectors).unwrap_or(i32::MIN)
    }
}

/// Where the superblock of a device's metadata is.
pub(super) fn superblock(meta: &MetaDisk, device: u64) -> Option<u64> {
    match meta {
        MetaDisk::Internal => device.checked_sub(PAGE).map(|last| last & !(PAGE - 1)),
        MetaDisk::External(_) => Some(0),
        MetaDisk::Indexed(_, index) => u64::from(*index).checked_mul(INDEXED),
    }
}

const _: () = assert!(PAGE == PAGE_SECTORS * SECTOR);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn internal_metadata_lies_where_drbdmeta_puts_it() {
        // drbdmeta 9.22.0: create-md on 100 MiB says super 104853504, v08 size 80 and bitmap -72, v09 with three peers 96 and -88.
        for (spec, size, at) in [(MetadataSpec::v08(), 80, -72), (MetadataSpec::v09(3), 96, -88)] {
            let layout = spec.layout(&MetaDisk::Internal, 100 << 20, 100 << 20).expect("large enough");
            let new = spec.fresh(&layout);
            assert_eq!(layout.superblock, 104_853_504);
            assert_eq!((new.md_sectors, new.log_at, new.bitmap_at), (size, -64, at));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_sizes() {
        let external = MetaDisk::External("/dev/m".into());
        for (meta, device, disk, expected) in [
            (MetaDisk::Internal, 60_000, 60_000, "68 KiB at least"),
            (MetaDisk::Internal, 1 << 51, 1 << 51, "1 PiB at most"),
            (external.clone(), 1 << 20, 1 << 40, "needs 32804 KiB"),
            (MetaDisk::Indexed("/dev/m".into(), 1), 128 << 20, 1 << 30, "needs"),
            (MetaDisk::Indexed("/dev/m".into(), 0), 128 << 20, 5 << 40, "128 MiB is too small"),
        ] {
            let error = MetadataSpec::v08().layout(&meta, device, disk).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
        let layout = MetadataSpec::v08().layout(&external, 1 << 26, 1 << 40).expect("large enough");
        assert_eq!((layout.bitmap_len, layout.md_sectors), (32 << 20, 1 << 17));
        for bad in [MetadataSpec::v09(0), MetadataSpec::v09(32), MetadataSpec::v08().with_stripes(1, 1)] {
            assert!(bad.layout(&MetaDisk::Internal, 1 << 30, 1 << 30).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn the_arithmetic_agrees_with_itself(mebibytes in 1..1_u64 << 24, odd in 0..4096_u64, peers in 1..32_u8) {
            let disk = Bytes((mebibytes << 20) + odd);
            for spec in [MetadataSpec::v08(), MetadataSpec::v09(peers)] {
                let Some(usable) = spec.usable(disk) else { continue };
                prop_assert!(spec.fits(disk, usable) && !spec.fits(disk, Bytes(usable.0 + 1)));
                prop_assert_eq!(usable.0 + spec.loss(disk).expect("usable").0, disk.0);
                let least = spec.disk_for(usable).expect("in range");
                prop_assert!(least <= disk, "{} {}", least, disk);
                prop_assert!(spec.fits(least, usable));
                let external = MetaDisk::External("/dev/m".into());
                let size = spec.external_size(disk).expect("in range");
                prop_assert!(spec.layout(&external, size.0, disk.0).is_ok());
            }
        }
    }
}
