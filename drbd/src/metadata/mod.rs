//! DRBD's metadata on disk: made, read, written as text and back, its activity log replayed. `drbdmeta` in Rust.

mod disk;
mod layout;
mod replay;
mod text;

use std::path::Path;

use host::{Bytes, Host};

use crate::wire::activity_log;
use crate::wire::superblock::{BLOCK, decode, encode, is_07};
pub use crate::wire::superblock::{Format, Metadata, MetadataFlags, PeerMetadata};
use crate::{Error, MetaDisk, Minor, Result, Signature, VolumeSpec};
use disk::Disk;
pub use layout::MetadataSpec;
use layout::{Layout, superblock};
pub use replay::Replayed;

/// What may happen to data that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Overwrite {
    /// It is left alone, and the call fails.
    #[default]
    Never,
    /// It is lost.
    Always,
}

/// How much was written to make metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Written {
    /// Bytes that went to the disk: superblock and activity log, and of a restored bitmap what is not zero.
    pub written: Bytes,
    /// Bytes of the bitmap that were zeroed, by the device itself where it can.
    pub zeroed: Bytes,
}

/// Metadata that was found, with its disk and place.
#[derive(Debug)]
struct Place {
    disk: Disk,
    layout: Layout,
    metadata: Metadata,
}

impl Metadata {
    /// Whether a disk has DRBD metadata at its end. Reads 4 KiB; `drbdmeta dump-md`.
    ///
    /// `minor` is the device the disk is for; it stands in logs only. For metadata elsewhere than at the disk's end use
    /// [`find`](Self::find).
    ///
    /// # Errors
    /// [`Error::Device`] if the disk cannot be read.
    pub fn exists(host: &Host, disk: &Path, minor: Minor) -> Result<bool> {
        log::trace!("looking for the metadata of minor {minor} on {}", disk.display());
        Self::find(host, disk, &MetaDisk::Internal).map(|found| found.is_some())
    }

    /// Reads the metadata of a disk; `None` if it has none. `drbdmeta dump-superblock`, `show-gi`.
    ///
    /// # Errors
    /// [`Error::Device`] if the disk cannot be read, [`Error::Metadata`] if it has metadata of version 07.
    #[doc(alias = "show-gi")]
    pub fn find(host: &Host, disk: &Path, meta: &MetaDisk) -> Result<Option<Self>> {
        read(&Disk::open(host, meta.device(disk))?, meta)
    }

    /// Makes new metadata of version 08, which declares the disk's data to be of no use: the first connect makes it a copy of the peer's, or
    /// [`Promote::Force`](crate::Promote::Force) makes it the source. `drbdmeta MINOR v08 DISK internal create-md`.
    ///
    /// As [`create_as`](Self::create_as) with [`MetadataSpec::v08`].
    ///
    /// # Errors
    /// As [`create_as`](Self::create_as).
    #[doc(alias = "drbdadm create-md")]
    pub fn create(host: &Host, volume: &VolumeSpec, overwrite: Overwrite) -> Result<Written> {
        Self::create_as(host, volume, &MetadataSpec::v08(), overwrite)
    }

    /// Makes new metadata of any kind. `drbdmeta MINOR FORMAT DEVICE INDEX create-md`.
    ///
    /// With [`Overwrite::Never`] it looks for known data first, at head and tail of the device that is to be written: file systems, LUKS,
    /// LVM, GPT, MBR, md, ZFS, DRBD itself and others (see [`Signature`]). drbdmeta knows a third of them, looks at the head only, and does
    /// not ask when it is not on a terminal. Unknown data, for example the random look of an encrypted device, is not taken for data. The
    /// metadata takes 32 KiB a GiB and 36 KiB more; [`MetadataSpec::loss`] says exactly.
    ///
    /// The bitmap is zeroed by the device where it can ([`Written::zeroed`]); the rest of the disk is not touched. The superblock is
    /// written last, when all else is on stable storage: a crash in between leaves a disk without metadata. It blocks for as long as the
    /// disk does.
    ///
    /// # Errors
    /// [`Error::ExistingData`] says what was found where; [`Error::DiskInUse`] if the device is mounted, attached or part of another one,
    /// whatever `overwrite` says; [`Error::Metadata`] if it has no room; [`Error::Device`] if it cannot be read or written.
    pub fn create_as(
        host: &Host,
        volume: &VolumeSpec,
        spec: &MetadataSpec,
        overwrite: Overwrite,
    ) -> Result<Written> {
        let (mut disk, layout) = prepare(host, volume, spec, overwrite)?;
        disk.zero(layout.bitmap, layout.bitmap_len)?;
        finish(&mut disk, &layout, &spec.fresh(&layout))?;
        log::debug!("drbd: new metadata {} on {}", spec.format, disk.path().display());
        let written = Bytes(layout.log_len + layout::PAGE);
        Ok(Written { written, zeroed: Bytes(layout.bitmap_len) })
    }

    /// Takes the metadata off a disk: its superblock is zeroed; says whether there was one. The data stays. `drbdmeta wipe-md`.
    ///
    /// # Errors
    /// [`Error::DiskInUse`] if the disk is attached or used otherwise; [`Error::Device`] if it cannot be read or written.
    #[doc(alias = "drbdadm wipe-md")]
    pub fn remove(host: &Host, disk: &Path, meta: &MetaDisk) -> Result<bool> {
        if Self::find(host, disk, meta)?.is_none() {
            return Ok(false);
        }
        let mut device = Disk::claim(host, meta.device(disk))?;
        let Some(place) = superblock(meta, device.size()) else { return Ok(false) };
        device.write(place, &[0; BLOCK])?;
        device.sync()?;
        log::debug!("drbd: metadata taken off {}", device.path().display());
        Ok(true)
    }
}

impl Metadata {
    /// What an attached disk has room for; `None` if that cannot be told.
    pub(crate) fn room(host: &Host, disk: &Path, meta: &MetaDisk) -> Result<Option<Bytes>> {
        let Some(found) = Self::find(host, disk, meta)? else { return Ok(None) };
        let size = Bytes(Disk::open(host, disk)?.size());
        // A fake's disk has only its ends.
        if host.run_dir().is_none() {
            return Ok(None);
        }
        let spec = MetadataSpec::of(&found).ok();
        Ok(match meta {
            MetaDisk::Internal => spec.and_then(|spec| spec.usable(size)),
            _ => Some(size),
        })
    }
}

/// The superblock of an open device, `None` if it has none.
fn read(device: &Disk, meta: &MetaDisk) -> Result<Option<Metadata>> {
    let place = superblock(meta, device.size());
    // Version 07 took 128 MiB at the end of a disk, and had its superblock first.
    let old = match meta {
        MetaDisk::Internal => place.and_then(|place| (place + layout::PAGE).checked_sub(layout::INDEXED)),
        _ => place,
    };
    if let Some(found) = place.map(|place| device.at(place, BLOCK)).transpose()?.and_then(|b| decode(&b)) {
        return Ok(Some(found));
    }
    match old.map(|place| device.at(place, BLOCK)).transpose()? {
        Some(block) if is_07(&block) => Err(Error::Metadata {
            path: device.path().to_path_buf(),
            reason: "it has metadata of version 07, of DRBD 0.7, which no newer DRBD takes; drbdmeta MINOR v08 DEVICE INDEX create-md \
                     converts it, Overwrite::Always makes new metadata in its place"
                .to_owned(),
        }),
        _ => Ok(None),
    }
}

/// Opens the device that is to get metadata, when nothing speaks against it.
fn prepare(
    host: &Host,
    volume: &VolumeSpec,
    spec: &MetadataSpec,
    overwrite: Overwrite,
) -> Result<(Disk, Layout)> {
    let (path, meta) = (volume.meta.device(&volume.disk), &volume.meta);
    let mut device = claim(host, path, meta)?;
    let disk_size = match meta {
        MetaDisk::Internal => device.size(),
        _ => Disk::open(host, &volume.disk)?.size(),
    };
    let layout = spec
        .layout(meta, device.size(), disk_size)
        .map_err(|reason| Error::Metadata { path: path.to_path_buf(), reason })?;
    if overwrite == Overwrite::Never {
        let mut found = device.signatures()?;
        if let MetaDisk::Indexed(..) = meta {
            // The device is shared: what counts of DRBD's is this place.
            found.retain(|found| found.signature != Signature::Drbd);
            let block = device.at(layout.superblock, BLOCK)?;
            if decode(&block).is_some() || is_07(&block) {
                found.push(host::signature::Found::new(Signature::Drbd, layout.superblock));
            }
        }
        if !found.is_empty() {
            return Err(Error::ExistingData { path: path.to_path_buf(), found });
        }
    }
    Ok((device, layout))
}

/// Opens a device for writing. The kernel holds a device with places for several as long as one of them is attached: then the place must be
/// free, which it is without a superblock.
fn claim(host: &Host, path: &Path, meta: &MetaDisk) -> Result<Disk> {
    match (Disk::claim(host, path), meta) {
        (Err(Error::DiskInUse { path, source }), MetaDisk::Indexed(..)) => {
            let device = Disk::share(host, &path)?;
            match read(&device, meta)? {
                Some(_) => Err(Error::DiskInUse { path, source }),
                None => Ok(device),
            }
        }
        (other, _) => other,
    }
}

/// Writes what goes with any metadata: a clean log, and, when all is on stable storage, the superblock.
fn finish(disk: &mut Disk, layout: &Layout, metadata: &Metadata) -> Result<()> {
    let pages = usize::try_from(layout.log_len / layout::PAGE).unwrap_or_default();
    disk.write(layout.log, &activity_log::new(pages))?;
    disk.sync()?;
    disk.write(layout.superblock, &encode(metadata))?;
    disk.sync()
}

impl Place {
    /// The metadata of an open device; an error if its places are not those that follow from the device.
    fn of(disk: Disk, data: &Path, host: &Host, meta: &MetaDisk) -> Result<Option<Self>> {
        let Some(metadata) = read(&disk, meta)? else { return Ok(None) };
        let size = match meta {
            MetaDisk::Internal => disk.size(),
            // What it was made for; the disk may have grown since.
            _ => metadata
                .size
                .bytes()
                .filter(|size| size.0 > 0)
                .map_or_else(|| Disk::open(host, data).map(|d| d.size()), |s| Ok(s.0))?,
        };
        let bad = |reason: String| Error::Metadata { path: disk.path().to_path_buf(), reason };
        let spec = MetadataSpec::of(&metadata).map_err(bad)?;
        let layout = spec.layout(meta, disk.size(), size).map_err(bad)?;
        let places = [layout.in_sectors(layout.log), layout.in_sectors(layout.bitmap)];
        if places != [metadata.log_at, metadata.bitmap_at] {
            let is = [metadata.log_at, metadata.bitmap_at];
            return Err(bad(format!(
                "its superblock says log and bitmap are at {is:?} sectors from it, where {places:?} would be right; was the device resized?"
            )));
        }
        Ok(Some(Self { disk, layout, metadata }))
    }

    /// The bitmap for the size that was agreed, in bytes.
    fn bitmap_bytes(&self) -> Result<u64> {
        let bad = |reason: String| Error::Metadata { path: self.disk.path().to_path_buf(), reason };
        let spec = MetadataSpec::of(&self.metadata).map_err(bad)?;
        let needed = self.metadata.size.bytes().and_then(|size| spec.bitmap_bytes(size.0));
        Ok(needed.unwrap_or(self.layout.room).min(self.layout.room))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Whole images are compared.
mod tests {
    use super::*;
    use crate::Volume;
    use std::os::unix::fs::FileExt;

    fn image(size: u64) -> std::io::Result<tempfile::NamedTempFile> {
        let file = tempfile::NamedTempFile::new()?;
        file.as_file().set_len(size)?;
        Ok(file)
    }

    type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

    fn volume(path: &Path) -> VolumeSpec {
        VolumeSpec::new(Volume(0), Minor::MAX, path)
    }

    #[test]
    fn internal_metadata_is_found_at_the_last_whole_block() -> Outcome {
        // 100 MiB and a part of a block: the place of a 100 MiB device is 104853504.
        let file = image((100 << 20) + 512)?;
        let host = Host::live();
        assert!(!Metadata::exists(&host, file.path(), Minor::MAX)?);
        assert!(!Metadata::remove(&host, file.path(), &MetaDisk::Internal)?);
        let written = Metadata::create(&host, &volume(file.path()), Overwrite::Never)?;
        assert_eq!((written.written, written.zeroed), (Bytes(36 << 10), Bytes(4 << 10)));
        let mut block = vec![0; 4096];
        file.as_file().read_exact_at(&mut block, 104_853_504)?;
        assert_eq!(decode(&block), Metadata::find(&host, file.path(), &MetaDisk::Internal)?);
        let unclean = Metadata { is_clean: false, ..decode(&block).expect("there") };
        file.as_file().write_all_at(&encode(&unclean), 104_853_504)?;
        let found = Metadata::find(&host, file.path(), &MetaDisk::Internal)?.expect("there");
        assert_eq!((found.current_uuid, found.is_clean), (4, false));
        assert!(Metadata::remove(&host, file.path(), &MetaDisk::Internal)?);
        assert!(!Metadata::exists(&host, file.path(), Minor::MAX)?);
        Ok(())
    }

    #[test]
    fn existing_data_at_either_end_is_refused_by_name_and_nothing_written() -> Outcome {
        let host = Host::live();
        for (bytes, offset, signature) in [
            (&b"LUKS\xba\xbe\0\x02"[..], 0, Signature::Luks),
            (b"EFI PART", (1 << 20) - 512, Signature::Gpt),
            (b"\xfc\x4e\x2b\xa9", (1 << 20) - 8192, Signature::MdRaid),
        ] {
            let file = image(1 << 20)?;
            file.as_file().write_all_at(bytes, offset)?;
            let before = std::fs::read(file.path())?;
            let volume = volume(file.path());
            let error = Metadata::create(&host, &volume, Overwrite::Never).expect_err("holds data");
            assert!(
                matches!(&error, Error::ExistingData { found, .. } if found[0].signature == signature),
                "{error}"
            );
            assert!(error.to_string().contains(&format!("{signature} at byte {offset}")), "{error}");
            assert!(std::fs::read(file.path())? == before);
            Metadata::create(&host, &volume, Overwrite::Always)?;
            let error = Metadata::create(&host, &volume, Overwrite::Never).expect_err("holds metadata");
            assert!(error.to_string().contains("DRBD metadata at byte"), "{error}");
        }
        Ok(())
    }

    #[test]
    fn the_bitmap_is_zeroed_and_the_data_before_it_stays() -> Outcome {
        let file = image(0)?;
        std::fs::write(file.path(), vec![0xa5; 1 << 20])?;
        Metadata::create(&Host::live(), &volume(file.path()), Overwrite::Never)?;
        let bytes = std::fs::read(file.path())?;
        let data = usize::try_from(MetadataSpec::v08().usable(Bytes(1 << 20)).expect("fits").0)?;
        assert!(bytes[..data].iter().all(|byte| *byte == 0xa5));
        assert!(bytes[data..data + 4096].iter().all(|byte| *byte == 0));
        Ok(())
    }

    #[test]
    fn places_on_a_shared_device_do_not_stand_in_each_others_way() -> Outcome {
        let (data, shared) = (image(1 << 30)?, image(256 << 20)?);
        let host = Host::live();
        for index in 0..2 {
            let meta = MetaDisk::Indexed(shared.path().to_path_buf(), index);
            let volume = volume(data.path()).with_meta(meta.clone());
            Metadata::create(&host, &volume, Overwrite::Never)?;
            assert!(Metadata::find(&host, data.path(), &meta)?.is_some());
            let error = Metadata::create(&host, &volume, Overwrite::Never).expect_err("there is some");
            assert!(error.to_string().contains(&format!("at byte {}", u64::from(index) << 27)), "{error}");
        }
        let meta = MetaDisk::Indexed(shared.path().to_path_buf(), 2);
        let volume = volume(data.path()).with_meta(meta);
        assert!(matches!(Metadata::create(&host, &volume, Overwrite::Never), Err(Error::Metadata { .. })));
        Ok(())
    }

    #[test]
    fn a_device_that_is_too_small_has_none_and_gets_none() -> Outcome {
        let file = image(100)?;
        assert_eq!(Metadata::find(&Host::live(), file.path(), &MetaDisk::Internal)?, None);
        let error =
            Metadata::create(&Host::live(), &volume(file.path()), Overwrite::Always).expect_err("small");
        assert!(matches!(error, Error::Metadata { .. }), "{error}");
        Ok(())
    }
}
