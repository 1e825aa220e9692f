//! Headers restored from a backup: only onto the volume they are of, never onto one that is open, and so that a crash can be gone over.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::backup::{self, Backup, Marks};
use super::{Volume, format};
use crate::error::{Error, Result};
use crate::header::{Header, Version};
use crate::spec::Overwrite;

/// The part of a LUKS1 header that says where everything is: 592 bytes, in the first page.
const LUKS1_HEAD: usize = 4096;

impl Volume {
    /// Writes the header of a backup to the volume; `cryptsetup luksHeaderRestore`, which overwrites anything without a word.
    ///
    /// What is there is kept in `keep` first: a new file of mode 0600, or the one that an interrupted restore of the same volume made. Then the
    /// key slots are written, then the second copy of the metadata, then the first, each on stable storage before the next, and read back. Killed
    /// in between, one copy of the metadata names the volume at any time, and the same call made again finishes.
    ///
    /// **The passphrases of the backup are valid again afterwards**, also those that were removed or changed since; [`Backup::compare`] names the
    /// key slots.
    ///
    /// # Errors
    /// [`Error::Open`] if the volume is open, under whatever name. Unless [`Overwrite::Always`] is said: [`Error::OtherVolume`] if the device has
    /// another UUID, another version or data offset, or no header that could be read; [`Error::OtherKey`] if it was reencrypted since.
    pub fn restore(
        &self,
        from: impl AsRef<Path>,
        keep: impl AsRef<Path>,
        overwrite: Overwrite,
    ) -> Result<Header> {
        let (backup, bytes) = Backup::with_bytes(from.as_ref())?;
        let mappings = crate::state::mappings(&host::Host::live())?;
        self.must_be_closed("restore its header")?;
        if let Some(open) = mappings.into_iter().find(|m| m.uuid.as_ref() == Some(&backup.uuid)) {
            let device = self.device.clone();
            return Err(Error::Open { device, open_as: open.name, what: "restore its header" });
        }
        let place = self.header_place();
        // Held until the end: nobody mounts or maps it meanwhile.
        let mut file = format::open_alone(place, "open for restoring")?;
        if overwrite == Overwrite::Never {
            self.is_the_volume_of(&backup)?;
        }
        self.keep(&mut file, keep.as_ref(), &backup)?;
        let failed = |source| Error::Io { what: format!("write {}", place.display()), source };
        let all = bytes.len();
        let pieces = match backup.version {
            Version::Luks1 => vec![(LUKS1_HEAD, all, "key slots"), (0, LUKS1_HEAD, "header")],
            _ => {
                // Checked by the reader: one of the nine sizes.
                let size = bytes.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
                let size = usize::try_from(size.unwrap_or_default()).unwrap_or_default();
                vec![(2 * size, all, "key slots"), (size, 2 * size, "second copy"), (0, size, "first copy")]
            }
        };
        for (start, end, what) in pieces {
            file.seek(SeekFrom::Start(u64::try_from(start).unwrap_or(u64::MAX))).map_err(failed)?;
            file.write_all(bytes.get(start..end).unwrap_or_default()).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            self.say(&format!("restore: {what} written"));
        }
        drop(file);
        if backup::read_back(place, backup.size)? != bytes {
            let reason = "what was restored is not what is read".to_owned();
            return Err(Error::Damaged { device: place.to_path_buf(), reason });
        }
        self.say(&format!("header restored from {}", backup.path.display()));
        self.read()
    }

    /// Whether the device has the volume of a backup, with the same key at the same place.
    fn is_the_volume_of(&self, backup: &Backup) -> Result<()> {
        let other = |found: String| Error::OtherVolume {
            device: self.device.clone(),
            wanted: backup.uuid.clone(),
            found,
        };
        let header = self.read().map_err(|error| other(format!("what is there cannot be told ({error})")))?;
        if header.uuid != backup.uuid {
            return Err(other(format!("it is {}", header.uuid)));
        }
        let copy = Header::read(&backup.path)?;
        if header.version != copy.version || header.data_offset != copy.data_offset {
            return Err(other("its header has another version or another place of the data".to_owned()));
        }
        if Marks::of(self)?.digest != Marks::of(&Self::at(&backup.path))?.digest {
            return Err(Error::OtherKey { device: self.device.clone(), file: backup.path.clone() });
        }
        Ok(())
    }

    /// Keeps what is there, unless an interrupted restore of this volume has done so.
    fn keep(&self, file: &mut std::fs::File, keep: &Path, backup: &Backup) -> Result<()> {
        if keep.exists() {
            return match Header::read(keep) {
                Ok(header) if header.uuid == backup.uuid => Ok(()),
                _ => Err(Error::FileExists { path: keep.to_path_buf() }),
            };
        }
        let failed = |source| Error::Io { what: format!("read {}", self.header_place().display()), source };
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut there = Vec::new();
        file.take(backup.size).read_to_end(&mut there).map_err(failed)?;
        backup::write_new(keep, &there)?;
        self.say(&format!("what was there is kept in {}", keep.display()));
        Ok(())
    }
}
