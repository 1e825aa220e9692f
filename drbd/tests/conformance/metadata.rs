//! New metadata, written by hand: for guests without drbdmeta.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Writes new internal metadata of version 08 for a disk of any size, as `drbdmeta create-md` does.
///
/// From the end: the superblock, 32 KiB of activity log, the bitmap. The kernel writes the log itself when it attaches.
pub(crate) fn write(disk: &Path) -> std::io::Result<()> {
    const LOG: i64 = 64;
    let mut device = OpenOptions::new().read(true).write(true).open(disk)?;
    let size = device.seek(SeekFrom::End(0))?;
    let place = (size - 4096) & !4095;
    let bits = (size / 4096).next_multiple_of(64);
    let bitmap = (bits / 8).next_multiple_of(4096);
    let length = i64::try_from(bitmap / 512).map_err(std::io::Error::other)? + 8 + LOG;
    let mut block = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let word = |n: i64| i32::try_from(n).map(i32::to_be_bytes).map_err(std::io::Error::other);
    put(8, &4u64.to_be_bytes());
    put(56, &0x80u32.to_be_bytes());
    put(60, &0x8374_026bu32.to_be_bytes());
    put(64, &word(length)?);
    put(68, &word(-LOG)?);
    put(72, &257u32.to_be_bytes());
    put(76, &word(8 - length)?);
    put(80, &4096u32.to_be_bytes());
    put(88, &1u32.to_be_bytes());
    put(92, &8u32.to_be_bytes());
    let start = place.saturating_sub(bitmap + 64 * 512);
    let zeroes = vec![0; usize::try_from(place - start).map_err(std::io::Error::other)?];
    device.write_all_at(&zeroes, start)?;
    device.write_all_at(&block, place)?;
    device.sync_all()
}
