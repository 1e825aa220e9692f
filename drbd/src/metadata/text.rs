//! Metadata written as text, and made from it.

use std::io::{self, Write};
use std::path::Path;

use host::{Bytes, Host};

use super::{Disk, Place, Written, finish, prepare};
use crate::wire::dump::{self, Run};
use crate::wire::superblock::Metadata;
use crate::{Error, MetaDisk, MetadataSpec, Overwrite, Result, VolumeSpec};

impl Metadata {
    /// Writes the metadata of a disk as text, with its bitmaps; `false` if there is none. `drbdmeta dump-md`, whose format it is.
    ///
    /// The text of a bitmap takes 5 bytes for each byte that is not in a long run of zeroes or ones.
    ///
    /// # Errors
    /// [`Error::Metadata`] if the activity log is not clean ([`apply_al`](Self::apply_al) first) or the superblock contradicts the disk;
    /// [`Error::Device`] if the disk cannot be read or `out` not be written.
    #[doc(alias = "drbdadm dump-md")]
    pub fn dump(host: &Host, disk: &Path, meta: &MetaDisk, out: &mut dyn Write) -> Result<bool> {
        let device = Disk::open(host, meta.device(disk))?;
        let Some(place) = Place::of(device, disk, host, meta)? else { return Ok(false) };
        let path = place.disk.path().to_path_buf();
        if !place.metadata.is_clean {
            let reason =
                "its activity log is not clean, so its bitmap is not true; replay it first (apply-al)"
                    .to_owned();
            return Err(Error::Metadata { path, reason });
        }
        let length = if place.metadata.size.0 == 0 { 0 } else { place.bitmap_bytes()? };
        let (layout, metadata) = (&place.layout, &place.metadata);
        let bytes = place.disk.at(layout.bitmap, usize::try_from(length).unwrap_or(usize::MAX))?;
        let written = |source: io::Error| Error::Device { path: path.clone(), source };
        dump::head(metadata, [layout.superblock, layout.log, layout.bitmap], length, out).map_err(written)?;
        let peers = usize::try_from(metadata.max_peers).unwrap_or(1);
        let mut set = 0;
        for peer in 0..peers {
            set = dump::bitmap(metadata.format, peer, peers, &words(&bytes, peer, peers), out)
                .map_err(written)?;
        }
        writeln!(out, "# bits-set {set};").and_then(|()| out.flush()).map_err(written)?;
        Ok(true)
    }

    /// Makes metadata from a text that [`dump`](Self::dump) or `drbdmeta dump-md` wrote, for the same disk or one of another size.
    /// `drbdmeta restore-md`.
    ///
    /// The activity log is new and clean, as that of the dump was. Otherwise as [`create_as`](Self::create_as), with its order of writing.
    ///
    /// # Errors
    /// As [`create_as`](Self::create_as); [`Error::Parse`] with the line if the text cannot be read.
    #[doc(alias = "drbdadm restore-md")]
    pub fn restore(host: &Host, volume: &VolumeSpec, text: &str, overwrite: Overwrite) -> Result<Written> {
        let dump = dump::parse(text)?;
        let bad =
            |reason: String| Error::Metadata { path: volume.meta.device(&volume.disk).to_path_buf(), reason };
        let spec = MetadataSpec::of(&dump.metadata).map_err(bad)?;
        let usable = |size: u64| {
            if volume.meta == MetaDisk::Internal { spec.usable(Bytes(size)) } else { Some(Bytes(size)) }
        };
        let disk_size = Disk::open(host, &volume.disk)?.size();
        let room = usable(disk_size)
            .ok_or_else(|| bad(format!("a disk of {} has no room for it", Bytes(disk_size))))?;
        if dump.metadata.size > room.sectors() {
            let (was, is) = (dump.metadata.size, room.sectors());
            return Err(bad(format!(
                "the dump is of a device of {was}, and the disk has room for {is} only"
            )));
        }
        let (mut disk, layout) = prepare(host, volume, &spec, overwrite)?;
        let fresh = spec.fresh(&layout);
        let metadata = Self {
            md_sectors: fresh.md_sectors,
            log_at: fresh.log_at,
            bitmap_at: fresh.bitmap_at,
            is_clean: true,
            ..dump.metadata
        };
        disk.zero(layout.bitmap, layout.bitmap_len)?;
        let peers = usize::from(spec.max_peers);
        let mut written = 0;
        for (peer, runs) in dump.bitmaps.iter().enumerate() {
            written += write(&mut disk, layout.bitmap, layout.bitmap_len, [peer, peers], runs)?;
        }
        finish(&mut disk, &layout, &metadata)?;
        log::debug!("drbd: metadata {} restored on {}", metadata.format, disk.path().display());
        Ok(Written { written: Bytes(written + layout.log_len + 4096), zeroed: Bytes(layout.bitmap_len) })
    }
}

/// The words of one peer: low halves and high halves of all peers take turns.
fn words(bytes: &[u8], peer: usize, peers: usize) -> Vec<u64> {
    let mut halves = bytes.chunks_exact(4).skip(peer).step_by(peers.max(1));
    let mut half = || Some(u32::from_le_bytes(halves.next()?.try_into().ok()?));
    std::iter::from_fn(|| Some(u64::from(half()?) | u64::from(half()?) << 32)).collect()
}

/// Writes one peer's words into a bitmap of zeroes; what is behind its end is lost, as with drbdmeta.
fn write(disk: &mut Disk, start: u64, length: u64, [peer, peers]: [usize; 2], runs: &[Run]) -> Result<u64> {
    // A page of each peer at a time, so that the words of the others are read once.
    const PIECE: usize = 512;
    let stride = 8 * peers;
    let mut sum = 0;
    let mut at: u64 = 0;
    for (count, word) in runs {
        let mut left = *count;
        while left > 0 && *word != 0 {
            let place = at.saturating_mul(u64::try_from(stride).unwrap_or(u64::MAX));
            if place >= length {
                return Ok(sum);
            }
            let many = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
            let bytes = (many * stride).min(usize::try_from(length - place).unwrap_or(usize::MAX));
            let mut piece = disk.at(start + place, bytes)?;
            for (number, half) in piece.chunks_exact_mut(4).skip(peer).step_by(peers).enumerate() {
                let (low, high) = (word & 0xffff_ffff, word >> 32);
                let value = u32::try_from(if number % 2 == 0 { low } else { high }).unwrap_or_default();
                half.copy_from_slice(&value.to_le_bytes());
            }
            disk.write(start + place, &piece)?;
            sum += u64::try_from(bytes).unwrap_or_default();
            (at, left) =
                (at + u64::try_from(many).unwrap_or_default(), left - u64::try_from(many).unwrap_or(left));
        }
        at = at.saturating_add(left);
    }
    Ok(sum)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Whole images are compared.
mod tests {
    use super::*;
    use crate::{Minor, Volume};
    use host::Sectors;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_was_dumped_is_restored_bit_by_bit() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let host = Host::live();
        for spec in [MetadataSpec::v08(), MetadataSpec::v09(1), MetadataSpec::v09(3).with_stripes(2, 8)] {
            let file = tempfile::NamedTempFile::new()?;
            file.as_file().set_len(300 << 20)?;
            let volume = VolumeSpec::new(Volume(0), Minor::MAX, file.path());
            Metadata::create_as(&host, &volume, &spec, Overwrite::Never)?;
            let device = Disk::open(&host, file.path())?;
            let place = Place::of(device, file.path(), &host, &MetaDisk::Internal)?.expect("made");
            let used = Metadata {
                size: Sectors((299 << 20) / 512),
                current_uuid: 0x1234_5678_9abc_def0,
                device_uuid: 77,
                ..place.metadata
            };
            file.as_file().write_all_at(&crate::wire::superblock::encode(&used), place.layout.superblock)?;
            let length = spec.bitmap_bytes(299 << 20).expect("small");
            let pattern: Vec<u8> = (0..length)
                .map(|n| (n / 5 * 37).to_le_bytes()[0] & if n / 2000 % 2 == 0 { 0xff } else { 0 })
                .collect();
            file.as_file().write_all_at(&pattern, place.layout.bitmap)?;
            // What is behind the last whole word of a peer is padding.
            let before = std::fs::read(file.path())?;
            let mut text = Vec::new();
            assert!(Metadata::dump(&host, file.path(), &MetaDisk::Internal, &mut text)?);
            let text = String::from_utf8(text)?;
            Metadata::create_as(&host, &volume, &spec, Overwrite::Always)?;
            Metadata::restore(&host, &volume, &text, Overwrite::Always)?;
            let after = std::fs::read(file.path())?;
            let padding = usize::try_from(length)? % (8 * usize::from(spec.max_peers));
            let bitmap = usize::try_from(place.layout.bitmap)?;
            let end = bitmap + usize::try_from(length)? - padding;
            assert!(before[..end] == after[..end], "{spec:?}");
            let log = usize::try_from(place.layout.log)?;
            assert!(before[log..] == after[log..], "{spec:?}");
        }
        Ok(())
    }
}
