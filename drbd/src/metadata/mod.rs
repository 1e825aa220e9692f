//! DRBD's metadata on disk: found natively, made and replayed by drbdmeta.

mod disk;
mod probe;

use std::path::Path;
use std::time::Duration;

use host::exec::Program;
use host::{Deadline, Host, Sectors};

use crate::{Error, MetaDisk, Minor, Result, VolumeSpec};
use disk::Disk;
pub use probe::{ExistingData, Signature};

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

/// The superblock of DRBD 8.4's metadata (`struct meta_data_on_disk`, `drivers/block/drbd/drbd_main.c`), version 08.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Metadata {
    /// The size of the replicated device when it was last attached; 0 for new metadata.
    pub size: Sectors,
    /// The generation of the data; 4 for new metadata.
    pub current_uuid: u64,
    /// Whether the activity log is clean, so that the kernel will attach the disk as it is.
    pub is_clean: bool,
}

/// `DRBD_MD_MAGIC_08` (include/linux/drbd.h).
const MAGIC_08: u32 = 0x8374_026b;
/// `DRBD_MD_MAGIC_84_UNCLEAN`: what the kernel writes while the disk is attached.
const MAGIC_UNCLEAN: u32 = 0x8374_026c;
/// `MDF_AL_CLEAN`.
const AL_CLEAN: u32 = 0x80;
/// The size of the superblock and what its place is aligned to.
const BLOCK: u64 = 4096;
/// The place that each index of a shared metadata device has: 128 MiB.
const INDEXED_STRIDE: u64 = 128 << 20;

impl Metadata {
    /// Whether a disk has DRBD 8.4 metadata at its end. Reads 4 KiB; `drbdmeta dump-md`.
    ///
    /// `minor` is the device the disk is for; it stands in errors only. For metadata elsewhere than at the disk's end use
    /// [`find`](Self::find).
    ///
    /// # Errors
    /// [`Error::Device`] if the disk cannot be read.
    pub fn exists(host: &Host, disk: &Path, minor: Minor) -> Result<bool> {
        log::trace!("looking for the metadata of minor {minor} on {}", disk.display());
        Self::find(host, disk, &MetaDisk::Internal).map(|found| found.is_some())
    }

    /// Reads the metadata of a disk; `None` if it has none. `drbdmeta dump-md`.
    ///
    /// While the disk is attached the kernel keeps newer values in memory.
    ///
    /// # Errors
    /// [`Error::Device`] if the disk cannot be read.
    pub fn find(host: &Host, disk: &Path, meta: &MetaDisk) -> Result<Option<Self>> {
        let device = Disk::open(host, meta.device(disk))?;
        let place = match meta {
            MetaDisk::Internal => device.size().checked_sub(BLOCK).map(|last| last & !(BLOCK - 1)),
            MetaDisk::External(_) => Some(0),
            MetaDisk::Indexed(_, index) => u64::from(*index).checked_mul(INDEXED_STRIDE),
        };
        let Some(place) = place else { return Ok(None) };
        Ok(Self::parse(&device.at(place, 4096)?))
    }

    /// Reads a superblock: big endian, the magic at byte 60.
    fn parse(block: &[u8]) -> Option<Self> {
        let long = |at: usize| Some(u64::from_be_bytes(block.get(at..at + 8)?.try_into().ok()?));
        let word = |at: usize| Some(u32::from_be_bytes(block.get(at..at + 4)?.try_into().ok()?));
        let magic = word(60).filter(|magic| [MAGIC_08, MAGIC_UNCLEAN].contains(magic))?;
        // Both are needed (drbd_md_read, drbd_main.c).
        let is_clean = magic == MAGIC_08 && word(56)? & AL_CLEAN != 0;
        Some(Self { size: Sectors(long(0)?), current_uuid: long(8)?, is_clean })
    }

    /// Makes new metadata, which declares the disk's data to be of no use: the first connect makes it a copy of the peer's, or
    /// [`Promote::Force`](crate::Promote::Force) makes it the source. `drbdmeta MINOR v08 DISK internal create-md`.
    ///
    /// With [`Overwrite::Never`] it looks for known data first, on the disk and on the metadata's device: LUKS, ext, XFS, Btrfs, swap,
    /// LVM, GPT, MBR, md and DRBD itself among others; drbdmeta knows a third of these and does not ask when it is not on a terminal.
    /// Unknown data, for example the random look of an encrypted device, is not taken for data. The metadata takes about 32 KiB per
    /// GiB at the end of the disk; drbdmeta refuses, whatever is said here, when a file system it knows would not fit before it.
    ///
    /// Needs the package drbd-utils. Ends within two minutes.
    ///
    /// # Errors
    /// [`Error::ExistingData`] says what was found where; [`Error::DiskInUse`] if the disk is mounted, attached or part of another device,
    /// whatever `overwrite` says; [`Error::Meta`] if drbdmeta is missing or fails.
    #[doc(alias = "drbdadm create-md")]
    pub fn create(host: &Host, volume: &VolumeSpec, overwrite: Overwrite) -> Result<()> {
        let (disk, device) = (volume.disk.as_path(), volume.meta.device(&volume.disk));
        for path in [Some(disk), Some(device).filter(|device| *device != disk)].into_iter().flatten() {
            Disk::check_unused(host, path)?;
            if overwrite == Overwrite::Never {
                let found = probe::probe(&Disk::open(host, path)?)?;
                if !found.is_empty() {
                    return Err(Error::ExistingData { path: path.to_path_buf(), found });
                }
            }
        }
        let deadline = Deadline::after(Duration::from_secs(120));
        drbdmeta(
            host,
            "create metadata",
            volume.minor,
            disk,
            &volume.meta,
            &["--force"],
            "create-md",
            deadline,
        )?;
        match Self::find(host, disk, &volume.meta)? {
            Some(_) => Ok(()),
            None => Err(Error::NotWritten { path: device.to_path_buf() }),
        }
    }

    /// Replays the activity log if it is not clean. The kernel leaves it unclean always while a disk is attached, and attaches clean ones
    /// only. Without metadata it does nothing: the attach that follows says so better.
    pub(crate) fn apply_al(
        host: &Host,
        minor: Minor,
        disk: &Path,
        meta: &MetaDisk,
        deadline: Deadline,
    ) -> Result<()> {
        match Self::find(host, disk, meta)? {
            Some(found) if !found.is_clean => {
                drbdmeta(host, "replay the activity log", minor, disk, meta, &[], "apply-al", deadline)
            }
            _ => Ok(()),
        }
    }

    /// The bytes of a new superblock, for the fake's disks.
    #[cfg(feature = "fake")]
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = block.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        put(0, &self.size.0.to_be_bytes());
        put(8, &self.current_uuid.to_be_bytes());
        put(56, &(if self.is_clean { AL_CLEAN } else { 0 }).to_be_bytes());
        put(60, &(if self.is_clean { MAGIC_08 } else { MAGIC_UNCLEAN }).to_be_bytes());
        block
    }
}

#[allow(clippy::too_many_arguments)] // Each is a word of one command line.
fn drbdmeta(
    host: &Host,
    command: &'static str,
    minor: Minor,
    disk: &Path,
    meta: &MetaDisk,
    options: &[&str],
    verb: &str,
    deadline: Deadline,
) -> Result<()> {
    let number = minor.to_string();
    let (device, index) = meta.words(disk);
    let mut words: Vec<&str> = options.to_vec();
    words.extend([number.as_str(), "v08", &device, &index, verb]);
    let path = meta.device(disk).to_path_buf();
    host.exec().run_ok(Program::DRBDMETA, &words, deadline).map(drop).map_err(|source| Error::Meta {
        command,
        path,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Volume;
    use std::os::unix::fs::FileExt;

    fn image(size: u64) -> std::io::Result<tempfile::NamedTempFile> {
        let file = tempfile::NamedTempFile::new()?;
        file.as_file().set_len(size)?;
        Ok(file)
    }

    fn superblock(flags: u32, magic: u32) -> Vec<u8> {
        let mut block = vec![0; 4096];
        block[8..16].copy_from_slice(&4u64.to_be_bytes());
        block[56..60].copy_from_slice(&flags.to_be_bytes());
        block[60..64].copy_from_slice(&magic.to_be_bytes());
        block
    }

    #[test]
    fn internal_metadata_is_found_at_the_last_whole_block() -> Result<(), Box<dyn std::error::Error>> {
        // 100 MiB and a part of a block: the place of a 100 MiB device is 104853504.
        let file = image((100 << 20) + 512)?;
        let host = Host::live();
        let minor = Minor::new(0)?;
        assert!(!Metadata::exists(&host, file.path(), minor)?);
        for (flags, magic, clean) in
            [(AL_CLEAN, MAGIC_08, true), (0, MAGIC_08, false), (AL_CLEAN, MAGIC_UNCLEAN, false)]
        {
            file.as_file().write_all_at(&superblock(flags, magic), 104_853_504)?;
            let found = Metadata::find(&host, file.path(), &MetaDisk::Internal)?.expect("there");
            assert_eq!((found.current_uuid, found.is_clean), (4, clean));
        }
        assert!(Metadata::exists(&host, file.path(), minor)?);
        Ok(())
    }

    #[test]
    fn existing_data_is_refused_by_name_before_anything_runs() -> Result<(), Box<dyn std::error::Error>> {
        let file = image(1 << 20)?;
        file.as_file().write_all_at(b"LUKS\xba\xbe\0\x02", 0)?;
        let volume = VolumeSpec::new(Volume(0), Minor::new(0)?, file.path());
        let host = Host::live().with_exec(host::exec::Runner::none());
        let error = Metadata::create(&host, &volume, Overwrite::Never).expect_err("LUKS");
        assert!(matches!(&error, Error::ExistingData { found, .. } if found[0].signature == Signature::Luks));
        assert!(error.to_string().contains("LUKS header at byte 0"), "{error}");
        // Said aloud, it goes on to drbdmeta, which is not there.
        let error = Metadata::create(&host, &volume, Overwrite::Always).expect_err("no program");
        assert!(matches!(error, Error::Meta { .. }));
        Ok(())
    }

    #[test]
    fn a_device_that_is_too_small_has_none() -> Result<(), Box<dyn std::error::Error>> {
        let file = image(100)?;
        assert_eq!(Metadata::find(&Host::live(), file.path(), &MetaDisk::Internal)?, None);
        Ok(())
    }
}
