//! What is on a block device already: asked before anything is written over it. One table for all crates.
//!
//! Places and bytes are those of the on-disk formats, as in the kernel's headers and in libblkid's documentation.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

macro_rules! signatures {
    ($($(#[$doc:meta])* $name:ident $text:literal,)*) => {
        /// Something a block device holds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[non_exhaustive]
        pub enum Signature { $($(#[$doc])* $name,)* }

        impl fmt::Display for Signature {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $text,)* })
            }
        }
    };
}

signatures! {
    /// A LUKS header, or the second copy of one.
    Luks "a LUKS header",
    /// DRBD metadata, at the end or at the start.
    Drbd "DRBD metadata",
    /// A GUID partition table (its backup at the end counts too).
    Gpt "a GPT partition table",
    /// A boot sector, or a master boot record with partitions.
    Mbr "an MBR partition table",
    /// A member of a Linux software RAID.
    MdRaid "a software RAID member",
    /// A physical volume.
    Lvm "an LVM physical volume",
    /// ext2, ext3 or ext4.
    Ext "an ext file system",
    /// XFS.
    Xfs "an XFS file system",
    /// Btrfs.
    Btrfs "a Btrfs file system",
    /// F2FS.
    F2fs "an F2FS file system",
    /// JFS.
    Jfs "a JFS file system",
    /// `ReiserFS`.
    Reiser "a ReiserFS file system",
    /// A swap area.
    Swap "a swap area",
    /// A ZFS label, of the two at the start or the two at the end.
    Zfs "a ZFS label",
    /// Bcache.
    Bcache "a bcache super block",
    /// Bcachefs.
    Bcachefs "a bcachefs super block",
    /// NTFS.
    Ntfs "an NTFS file system",
    /// FAT or exFAT.
    Fat "a FAT file system",
}

/// A signature that was found, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Found {
    /// What it is.
    pub signature: Signature,
    /// Where its magic is, in bytes from the start.
    pub offset: u64,
}

impl Found {
    /// A signature at a place; for those who know of one that is not in the table.
    #[must_use]
    pub fn new(signature: Signature, offset: u64) -> Self {
        Self { signature, offset }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.signature, self.offset)
    }
}

/// Where a signature counts from.
#[derive(Clone, Copy)]
enum From {
    Head(u64),
    /// Bytes before the end of the device.
    Tail(u64),
    /// Bytes before the end rounded down to 4 KiB.
    Page(u64),
    /// Bytes before the end rounded down to 64 KiB.
    Chunk(u64),
}

impl From {
    fn place(self, size: u64) -> Option<u64> {
        match self {
            Self::Head(at) => Some(at),
            Self::Tail(before) => size.checked_sub(before),
            Self::Page(before) => (size & !0xfff).checked_sub(before),
            Self::Chunk(before) => (size & !0xffff).checked_sub(before),
        }
    }
}

const TABLE: &[(Signature, From, &[u8])] = &[
    (Signature::Luks, From::Head(0), b"LUKS\xba\xbe"),
    // The magic stands at byte 60 of the super block, big endian: v08, v08 unclean, v09 (drbd.h, DRBD_MD_MAGIC_*); internal at the last
    // whole page, external at the start. That of v07 stands at byte 28, internal 128 MiB before the end (seen in what drbdmeta 9.22 writes).
    (Signature::Drbd, From::Page(4096 - 60), b"\x83\x74\x02\x6b"),
    (Signature::Drbd, From::Page(4096 - 60), b"\x83\x74\x02\x6c"),
    (Signature::Drbd, From::Page(4096 - 60), b"\x83\x74\x02\x6d"),
    (Signature::Drbd, From::Page((128 << 20) - 28), b"\x83\x74\x02\x6a"),
    (Signature::Drbd, From::Head(28), b"\x83\x74\x02\x6a"),
    (Signature::Drbd, From::Head(60), b"\x83\x74\x02\x6b"),
    (Signature::Drbd, From::Head(60), b"\x83\x74\x02\x6c"),
    (Signature::Drbd, From::Head(60), b"\x83\x74\x02\x6d"),
    (Signature::Gpt, From::Head(512), b"EFI PART"),
    (Signature::Gpt, From::Head(4096), b"EFI PART"),
    (Signature::Gpt, From::Tail(512), b"EFI PART"),
    (Signature::Gpt, From::Tail(4096), b"EFI PART"),
    // 1.1 at 0, 1.2 at 4 KiB; 1.0 8 to 12 KiB before the end; 0.90 in the last whole 64 KiB, in the machine's byte order.
    (Signature::MdRaid, From::Head(0), b"\xfc\x4e\x2b\xa9"),
    (Signature::MdRaid, From::Head(4096), b"\xfc\x4e\x2b\xa9"),
    (Signature::MdRaid, From::Page(8192), b"\xfc\x4e\x2b\xa9"),
    (Signature::MdRaid, From::Chunk(0x1_0000), b"\xfc\x4e\x2b\xa9"),
    (Signature::MdRaid, From::Chunk(0x1_0000), b"\xa9\x2b\x4e\xfc"),
    (Signature::Lvm, From::Head(0), b"LABELONE"),
    (Signature::Lvm, From::Head(512), b"LABELONE"),
    (Signature::Lvm, From::Head(1024), b"LABELONE"),
    (Signature::Lvm, From::Head(1536), b"LABELONE"),
    (Signature::Ext, From::Head(0x438), b"\x53\xef"),
    (Signature::Xfs, From::Head(0), b"XFSB"),
    (Signature::Btrfs, From::Head(0x1_0040), b"_BHRfS_M"),
    (Signature::F2fs, From::Head(0x400), b"\x10\x20\xf5\xf2"),
    (Signature::Jfs, From::Head(0x8000), b"JFS1"),
    (Signature::Reiser, From::Head(0x1_0034), b"ReIsEr"),
    (Signature::Reiser, From::Head(0x2034), b"ReIsEr"),
    // It ends the first page, whatever the page's size is.
    (Signature::Swap, From::Head(4096 - 10), b"SWAPSPACE2"),
    (Signature::Swap, From::Head(4096 - 10), b"SWAP-SPACE"),
    (Signature::Swap, From::Head(8192 - 10), b"SWAPSPACE2"),
    (Signature::Swap, From::Head(16_384 - 10), b"SWAPSPACE2"),
    (Signature::Swap, From::Head(65_536 - 10), b"SWAPSPACE2"),
    (Signature::Bcache, From::Head(4096 + 24), b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    (Signature::Bcachefs, From::Head(4096 + 24), b"\xc6\x85\x73\xf6\x66\xce\x90\xa9"),
    (Signature::Ntfs, From::Head(3), b"NTFS    "),
    (Signature::Fat, From::Head(3), b"EXFAT   "),
    (Signature::Fat, From::Head(54), b"FAT1"),
    (Signature::Fat, From::Head(82), b"FAT32"),
    // The second header of LUKS 2 stands behind the first one's area, of 16 KiB to 4 MiB.
    (Signature::Luks, From::Head(1 << 14), b"SKUL\xba\xbe"),
    (Signature::Luks, From::Head(1 << 15), b"SKUL\xba\xbe"),
    (Signature::Luks, From::Head(1 << 16), b"SKUL\xba\xbe"),
    (Signature::Luks, From::Head(1 << 17), b"SKUL\xba\xbe"),
    (Signature::Luks, From::Head(1 << 18), b"SKUL\xba\xbe"),
    (Signature::Luks, From::Head(1 << 19), b"SKUL\xba\xbe"),
    (Signature::Luks, From::Head(1 << 20), b"SKUL\xba\xbe"),
    (Signature::Luks, From::Head(1 << 21), b"SKUL\xba\xbe"),
    (Signature::Luks, From::Head(1 << 22), b"SKUL\xba\xbe"),
    // Last: a boot sector's mark alone says little, a GPT's protective one is said above.
    (Signature::Mbr, From::Head(510), b"\x55\xaa"),
];

/// How much of the start is read at once.
const HEAD: u64 = 72 * 1024;
/// A label of ZFS, and the ring of uber blocks in its second half.
const ZFS_LABEL: u64 = 256 * 1024;
const ZFS_RING: u64 = 128 * 1024;

/// Looks for known signatures at head and tail of a device or image: the first that was found, the most telling ones first. Writes
/// nothing.
///
/// ```
/// use host::signature::{Signature, find};
/// let mut image = std::io::Cursor::new(vec![0; 1 << 20]);
/// assert_eq!(find(&mut image)?, None);
/// image.get_mut()[..6].copy_from_slice(b"LUKS\xba\xbe");
/// assert_eq!(find(&mut image)?, Some(Signature::Luks));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// The device cannot be read.
pub fn find(device: &mut (impl Read + Seek)) -> io::Result<Option<Signature>> {
    Ok(scan(device)?.first().map(|found| found.signature))
}

/// Looks for known signatures at head and tail of a device or image: all of them, with their places. Reads some 700 KiB in 25 pieces
/// at most; writes nothing.
///
/// # Errors
/// The device cannot be read.
pub fn scan(device: &mut (impl Read + Seek)) -> io::Result<Vec<Found>> {
    let size = device.seek(SeekFrom::End(0))?;
    let head = piece(device, 0, HEAD.min(size))?;
    let mut found: Vec<Found> = Vec::new();
    for (signature, from, magic) in TABLE {
        let length = u64::try_from(magic.len()).unwrap_or(u64::MAX);
        let Some(at) = from.place(size).filter(|at| at.checked_add(length).is_some_and(|end| end <= size))
        else {
            continue;
        };
        let in_head = usize::try_from(at).ok().and_then(|at| head.get(at..at.checked_add(magic.len())?));
        let is = match in_head {
            Some(bytes) => bytes == *magic,
            None => piece(device, at, length)? == *magic,
        };
        let known = Found { signature: *signature, offset: at };
        // Two rules may mean the same place on a small device.
        if is && !found.contains(&known) {
            found.push(known);
        }
    }
    let labels = size & !(ZFS_LABEL - 1);
    let last = [labels.checked_sub(2 * ZFS_LABEL), labels.checked_sub(ZFS_LABEL)];
    for label in [Some(0), Some(ZFS_LABEL)].into_iter().chain(last).flatten() {
        found.extend(zfs(device, label, size)?);
    }
    Ok(found)
}

/// An uber block in the ring of a ZFS label: one each KiB at most, its magic in the byte order of the machine that wrote it.
fn zfs(device: &mut (impl Read + Seek), label: u64, size: u64) -> io::Result<Option<Found>> {
    let from = label.saturating_add(ZFS_RING);
    if from.saturating_add(ZFS_RING) > size {
        return Ok(None);
    }
    let ring = piece(device, from, ZFS_RING)?;
    let magic = |block: &[u8]| {
        block.starts_with(b"\x0c\xb1\xba\0\0\0\0\0") || block.starts_with(b"\0\0\0\0\0\xba\xb1\x0c")
    };
    let mut blocks = (from..).step_by(1024).zip(ring.chunks(1024));
    Ok(blocks.find(|(_, block)| magic(block)).map(|(offset, _)| Found { signature: Signature::Zfs, offset }))
}

fn piece(device: &mut (impl Read + Seek), at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    device.seek(SeekFrom::Start(at))?;
    device.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = (8 << 20) + 512;

    fn with(size: u64, places: &[(u64, &[u8])]) -> Vec<Found> {
        let mut image = vec![0; usize::try_from(size).expect("small")];
        for (at, bytes) in places {
            let at = usize::try_from(*at).expect("small");
            image[at..at + bytes.len()].copy_from_slice(bytes);
        }
        scan(&mut io::Cursor::new(image)).expect("reads")
    }

    #[test]
    fn each_signature_is_found_where_it_stands() {
        for (signature, from, magic) in TABLE {
            // Version 07 of DRBD is looked for 128 MiB before the end.
            let size = if matches!(from, From::Page(before) if *before > SIZE) { 130 << 20 } else { SIZE };
            let offset = from.place(size).expect("large enough");
            let found = with(size, &[(offset, magic)]);
            assert!(found.contains(&Found { signature: *signature, offset }), "{signature} {found:?}");
        }
    }

    #[test]
    fn zfs_is_found_by_any_of_its_labels() {
        for (label, magic) in [
            (0, &b"\x0c\xb1\xba\0\0\0\0\0"[..]),
            (7 << 20, b""),
            ((8 << 20) - ZFS_LABEL, b"\0\0\0\0\0\xba\xb1\x0c"),
        ] {
            // The ring begins anywhere.
            let offset = label + ZFS_RING + 5 * 1024;
            let found = with(SIZE, &[(offset, magic)]);
            let expected = (!magic.is_empty()).then_some(Found { signature: Signature::Zfs, offset });
            assert_eq!(found, Vec::from_iter(expected));
        }
    }

    #[test]
    fn nothing_and_random_data_are_no_signature() {
        assert_eq!(with(SIZE, &[]), []);
        assert_eq!(with(SIZE, &[(0, &[0x37; 4096]), (SIZE - 8192, &[0xa5; 8192])]), []);
    }

    #[test]
    fn all_are_told_and_the_most_telling_first() {
        let all = with(SIZE, &[(510, b"\x55\xaa"), (512, b"EFI PART"), (SIZE - 512, b"EFI PART")]);
        let signatures: Vec<_> = all.iter().map(|found| found.signature).collect();
        assert_eq!(signatures, [Signature::Gpt, Signature::Gpt, Signature::Mbr]);
        assert_eq!(all[0].to_string(), "a GPT partition table at byte 512");
    }

    #[test]
    fn a_tiny_device_is_no_error() {
        for size in [0, 1, 511, 4096, 5000, 300_000] {
            assert_eq!(with(size, &[]), []);
        }
    }
}
