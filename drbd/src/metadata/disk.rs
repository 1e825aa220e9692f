//! Reading block devices. They are no kernel files: a disk is read at a few places, never as a whole, so [`Tree`](host::Tree) does not fit.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use host::Host;

use crate::{Error, Result};

/// A disk, open for reading.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    content: Content,
    size: u64,
}

#[derive(Debug)]
enum Content {
    Device(File),
    /// The image that stands for it on a machine in memory.
    Image(Vec<u8>),
}

impl Disk {
    pub(super) fn open(host: &Host, path: &Path) -> Result<Self> {
        let failed = |source| Error::Device { path: path.to_path_buf(), source };
        // A machine without a directory for locks is captured or fake, and so are its disks.
        if host.run_dir().is_none() {
            let image = host.tree().read_bytes(path).map_err(|error| failed(error.source))?;
            let size = u64::try_from(image.len()).map_err(|e| failed(io::Error::other(e)))?;
            return Ok(Self { path: path.to_path_buf(), content: Content::Image(image), size });
        }
        let mut file = File::open(path).map_err(failed)?;
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { path: path.to_path_buf(), content: Content::Device(file), size })
    }

    /// Fails if somebody uses the device: an exclusive open of a block device is refused while it is mounted, attached, or part of another
    /// device (block/bdev.c). drbdmeta looks too, but not when it is told `--force`.
    pub(super) fn check_unused(host: &Host, path: &Path) -> Result<()> {
        if host.run_dir().is_none() {
            return Ok(());
        }
        match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path) {
            Ok(_) => Ok(()),
            Err(source) if source.raw_os_error() == Some(libc::EBUSY) => {
                Err(Error::DiskInUse { path: path.to_path_buf(), source })
            }
            Err(source) => Err(Error::Device { path: path.to_path_buf(), source }),
        }
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reads at a place; what lies behind the end is missing from the answer.
    pub(super) fn at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let failed = |source| Error::Device { path: self.path.clone(), source };
        match &self.content {
            Content::Image(image) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(image.len());
                let to = from.saturating_add(length).min(image.len());
                Ok(image.get(from..to).unwrap_or_default().to_vec())
            }
            Content::Device(file) => {
                let mut buffer = vec![0; length];
                let mut filled = 0;
                while let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) {
                    let here = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
                    match file.read_at(free, here) {
                        Ok(0) => break,
                        Ok(n) => filled += n,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(failed(e)),
                    }
                }
                buffer.truncate(filled);
                Ok(buffer)
            }
        }
    }
}
