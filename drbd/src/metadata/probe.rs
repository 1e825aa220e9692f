//! What data a disk holds, by its signatures at the head and at the tail.
//!
//! Places and bytes are those of the on-disk formats, as in the kernel's headers and in libblkid's documentation.

use std::fmt;

use super::disk::Disk;
use crate::Result;

/// A kind of data that is known by its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Signature {
    /// A LUKS header, version 1 or 2.
    Luks,
    /// The second header of LUKS version 2.
    LuksSecond,
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// F2FS.
    F2fs,
    /// JFS.
    Jfs,
    /// NTFS.
    Ntfs,
    /// FAT or exFAT.
    Fat,
    /// Swap space.
    Swap,
    /// A physical volume of LVM.
    Lvm,
    /// A GUID partition table.
    Gpt,
    /// A boot sector or partition table of the old kind.
    Mbr,
    /// A member of an md array.
    Md,
    /// A cache or backing device of bcache.
    Bcache,
    /// DRBD's metadata.
    Drbd,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Luks => "a LUKS header",
            Self::LuksSecond => "a second LUKS header",
            Self::Ext => "an ext2/3/4 file system",
            Self::Xfs => "an XFS file system",
            Self::Btrfs => "a Btrfs file system",
            Self::F2fs => "an F2FS file system",
            Self::Jfs => "a JFS file system",
            Self::Ntfs => "an NTFS file system",
            Self::Fat => "a FAT file system",
            Self::Swap => "swap space",
            Self::Lvm => "an LVM physical volume",
            Self::Gpt => "a GPT partition table",
            Self::Mbr => "a boot sector or MBR partition table",
            Self::Md => "an md array member",
            Self::Bcache => "a bcache device",
            Self::Drbd => "DRBD metadata",
        })
    }
}

/// Data that was found on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ExistingData {
    /// What it is.
    pub signature: Signature,
    /// Where its signature is, in bytes from the start of the disk.
    pub offset: u64,
}

impl fmt::Display for ExistingData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.signature, self.offset)
    }
}

/// What to look for: the kind, the place from the start, the bytes.
const HEAD: &[(Signature, usize, &[u8])] = &[
    (Signature::Luks, 0, b"LUKS\xba\xbe"),
    (Signature::Xfs, 0, b"XFSB"),
    (Signature::Ntfs, 3, b"NTFS    "),
    (Signature::Fat, 3, b"EXFAT   "),
    (Signature::Fat, 54, b"FAT1"),
    (Signature::Fat, 82, b"FAT32"),
    (Signature::Ext, 0x438, b"\x53\xef"),
    (Signature::F2fs, 0x400, b"\x10\x20\xf5\xf2"),
    (Signature::Lvm, 0, b"LABELONE"),
    (Signature::Lvm, 512, b"LABELONE"),
    (Signature::Lvm, 1024, b"LABELONE"),
    (Signature::Lvm, 1536, b"LABELONE"),
    (Signature::Gpt, 512, b"EFI PART"),
    (Signature::Gpt, 4096, b"EFI PART"),
    (Signature::Mbr, 510, b"\x55\xaa"),
    (Signature::Md, 0, b"\xfc\x4e\x2b\xa9"),
    (Signature::Md, 4096, b"\xfc\x4e\x2b\xa9"),
    (Signature::Bcache, 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    // The signature ends the first page, whatever the page's size is.
    (Signature::Swap, 4096 - 10, b"SWAPSPACE2"),
    (Signature::Swap, 4096 - 10, b"SWAP-SPACE"),
    (Signature::Swap, 8192 - 10, b"SWAPSPACE2"),
    (Signature::Swap, 16_384 - 10, b"SWAPSPACE2"),
    (Signature::Swap, 65_536 - 10, b"SWAPSPACE2"),
    (Signature::Jfs, 0x8000, b"JFS1"),
    (Signature::Btrfs, 0x1_0040, b"_BHRfS_M"),
];

/// The magics of DRBD's metadata, versions 07, 08, 08 unclean, 09; at byte 60 of the superblock.
const DRBD_MAGICS: [[u8; 4]; 4] =
    [[0x83, 0x74, 0x02, 0x6a], [0x83, 0x74, 0x02, 0x6b], [0x83, 0x74, 0x02, 0x6c], [0x83, 0x74, 0x02, 0x6d]];

/// Looks for known data.
pub(super) fn probe(disk: &Disk) -> Result<Vec<ExistingData>> {
    let mut found = Vec::new();
    let head = disk.at(0, 72 * 1024)?;
    for (signature, offset, bytes) in HEAD {
        if head.get(*offset..).is_some_and(|rest| rest.starts_with(bytes)) {
            found.push(ExistingData {
                signature: *signature,
                offset: u64::try_from(*offset).unwrap_or(u64::MAX),
            });
        }
    }
    // The second header of LUKS 2 stands behind the first one's area, of 16 KiB to 4 MiB.
    for shift in 14..=22 {
        check(disk, Signature::LuksSecond, 1 << shift, |b| b.starts_with(b"SKUL\xba\xbe"), &mut found)?;
    }
    let drbd = |block: &[u8]| block.get(60..64).is_some_and(|magic| DRBD_MAGICS.iter().any(|m| m == magic));
    check(disk, Signature::Drbd, 0, drbd, &mut found)?;
    tail(disk, drbd, &mut found)?;
    Ok(found)
}

fn tail(disk: &Disk, drbd: impl Fn(&[u8]) -> bool, found: &mut Vec<ExistingData>) -> Result<()> {
    let size = disk.size();
    let md = |block: &[u8]| block.starts_with(b"\xfc\x4e\x2b\xa9") || block.starts_with(b"\xa9\x2b\x4e\xfc");
    if let Some(last) = size.checked_sub(4096).filter(|last| *last > 0) {
        check(disk, Signature::Drbd, last & !4095, drbd, found)?;
    }
    if let Some(last) = size.checked_sub(512).filter(|last| *last > 512) {
        check(disk, Signature::Gpt, last & !511, |b| b.starts_with(b"EFI PART"), found)?;
    }
    // md version 1.0 stands 8 to 12 KiB before the end, version 0.90 64 to 128 KiB (drivers/md/md.c).
    let one = (size / 512).checked_sub(16).map(|sector| (sector & !7) * 512);
    let old = (size & !0xffff).checked_sub(0x1_0000);
    for place in [one, old].into_iter().flatten().filter(|place| *place > 4096) {
        check(disk, Signature::Md, place, md, found)?;
    }
    Ok(())
}

fn check(
    disk: &Disk,
    signature: Signature,
    offset: u64,
    is: impl Fn(&[u8]) -> bool,
    found: &mut Vec<ExistingData>,
) -> Result<()> {
    if is(&disk.at(offset, 512)?) {
        found.push(ExistingData { signature, offset });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::Host;
    use std::os::unix::fs::FileExt;

    fn found_with(size: u64, offset: u64, bytes: &[u8]) -> Vec<ExistingData> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(size).expect("a size");
        file.as_file().write_all_at(bytes, offset).expect("written");
        probe(&Disk::open(&Host::live(), file.path()).expect("opens")).expect("reads")
    }

    #[test]
    fn an_empty_disk_holds_nothing_and_random_data_is_none() {
        assert!(found_with(8 << 20, 0, &[0]).is_empty());
        assert!(found_with(8 << 20, 0, &[0x37; 4096]).is_empty());
        assert!(found_with(300, 0, &[1; 300]).is_empty());
    }

    #[test]
    fn each_signature_is_found_at_its_place() {
        for (signature, offset, bytes) in HEAD {
            let offset = u64::try_from(*offset).expect("small");
            let found = found_with(8 << 20, offset, bytes);
            assert!(
                found.contains(&ExistingData { signature: *signature, offset }),
                "{signature:?} {found:?}"
            );
        }
    }

    #[test]
    fn the_tail_is_looked_at() {
        const SIZE: u64 = (8 << 20) + 512;
        for (signature, offset, bytes) in [
            (Signature::Gpt, SIZE - 512, &b"EFI PART"[..]),
            (Signature::Md, (8 << 20) - 8192, b"\xfc\x4e\x2b\xa9"),
            (Signature::Md, (8 << 20) - 65536, b"\xfc\x4e\x2b\xa9"),
            (Signature::LuksSecond, 4 << 20, b"SKUL\xba\xbe"),
        ] {
            let found = found_with(SIZE, offset, bytes);
            assert_eq!(found, [ExistingData { signature, offset }], "{signature:?}");
        }
        let found = found_with(SIZE, (8 << 20) - 4096 + 60, &DRBD_MAGICS[1]);
        assert_eq!(found, [ExistingData { signature: Signature::Drbd, offset: (8 << 20) - 4096 }]);
    }
}
