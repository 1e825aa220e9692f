//! What is on a block device already: asked before anything is written over it.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

/// Something a block device holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signature {
    /// A LUKS header, or the second copy of one.
    Luks,
    /// DRBD metadata at the end.
    Drbd,
    /// A GUID partition table (its backup at the end counts too).
    Gpt,
    /// A master boot record with partitions.
    Mbr,
    /// A member of a Linux software RAID.
    MdRaid,
    /// A physical volume.
    Lvm,
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// A swap area.
    Swap,
    /// A ZFS label.
    Zfs,
    /// Bcache.
    Bcache,
    /// NTFS.
    Ntfs,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Luks => "a LUKS header",
            Self::Drbd => "DRBD metadata",
            Self::Gpt => "a GPT partition table",
            Self::Mbr => "an MBR partition table",
            Self::MdRaid => "a software RAID member",
            Self::Lvm => "an LVM physical volume",
            Self::Ext => "an ext file system",
            Self::Xfs => "an XFS file system",
            Self::Btrfs => "a Btrfs file system",
            Self::Swap => "a swap area",
            Self::Zfs => "a ZFS label",
            Self::Bcache => "a bcache super block",
            Self::Ntfs => "an NTFS file system",
        })
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
}

const TABLE: &[(Signature, From, &[u8])] = &[
    (Signature::Luks, From::Head(0), b"LUKS\xba\xbe"),
    (Signature::Luks, From::Head(0x4000), b"SKUL\xba\xbe"),
    (Signature::Luks, From::Head(0x8000), b"SKUL\xba\xbe"),
    // The magic stands at byte 60 of the super block, big endian: v08, v08 unclean, v09 (drbd_int.h, DRBD_MD_MAGIC_*).
    (Signature::Drbd, From::Page(4096 - 60), b"\x83\x74\x02\x6b"),
    (Signature::Drbd, From::Page(4096 - 60), b"\x83\x74\x02\x6c"),
    (Signature::Drbd, From::Page(4096 - 60), b"\x83\x74\x02\x6d"),
    (Signature::Gpt, From::Head(512), b"EFI PART"),
    (Signature::Gpt, From::Head(4096), b"EFI PART"),
    (Signature::Gpt, From::Tail(512), b"EFI PART"),
    (Signature::Gpt, From::Tail(4096), b"EFI PART"),
    // 1.1 at 0, 1.2 at 4 KiB; 1.0 8 to 12 KiB before the end; 0.90 in the last whole 64 KiB.
    (Signature::MdRaid, From::Head(0), b"\xfc\x4e\x2b\xa9"),
    (Signature::MdRaid, From::Head(4096), b"\xfc\x4e\x2b\xa9"),
    (Signature::MdRaid, From::Page(8192), b"\xfc\x4e\x2b\xa9"),
    (Signature::Lvm, From::Head(512), b"LABELONE"),
    (Signature::Lvm, From::Head(0), b"LABELONE"),
    (Signature::Ext, From::Head(0x438), b"\x53\xef"),
    (Signature::Xfs, From::Head(0), b"XFSB"),
    (Signature::Btrfs, From::Head(0x1_0040), b"_BHRfS_M"),
    (Signature::Swap, From::Head(4086), b"SWAPSPACE2"),
    (Signature::Swap, From::Head(4086), b"SWAP-SPACE"),
    (Signature::Zfs, From::Head(0x2_0000), b"\x0c\xb1\xba\x00"),
    (Signature::Zfs, From::Head(0x2_0000), b"\x00\xba\xb1\x0c"),
    (Signature::Bcache, From::Head(4096 + 24), b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    (Signature::Ntfs, From::Head(3), b"NTFS    "),
    // Last: a boot sector's mark alone says little, a GPT's protective one is said above.
    (Signature::Mbr, From::Head(510), b"\x55\xaa"),
];

/// Looks for known signatures at head and tail of a device or image. Reads some 20 small pieces; writes nothing.
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
    let size = device.seek(SeekFrom::End(0))?;
    for (signature, from, magic) in TABLE {
        let at = match from {
            From::Head(at) => Some(*at),
            From::Tail(before) => size.checked_sub(*before),
            From::Page(before) => (size & !4095).checked_sub(*before),
        };
        let length = u64::try_from(magic.len()).unwrap_or(u64::MAX);
        let Some(at) = at.filter(|at| at.checked_add(length).is_some_and(|end| end <= size)) else {
            continue;
        };
        let mut found = vec![0; magic.len()];
        device.seek(SeekFrom::Start(at))?;
        device.read_exact(&mut found)?;
        if found == *magic {
            return Ok(Some(*signature));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signature_is_found_where_it_stands() {
        for (signature, from, magic) in TABLE {
            let mut image = vec![0; 1 << 20];
            let at = match from {
                From::Head(at) => *at,
                From::Tail(before) | From::Page(before) => (1 << 20) - before,
            };
            let at = usize::try_from(at).expect("small");
            image[at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(find(&mut io::Cursor::new(image)).expect("reads"), Some(*signature), "{signature}");
        }
    }

    #[test]
    fn a_tiny_device_is_no_error() {
        for size in [0, 1, 511, 4096, 5000] {
            assert_eq!(find(&mut io::Cursor::new(vec![0; size])).expect("reads"), None);
        }
    }
}
