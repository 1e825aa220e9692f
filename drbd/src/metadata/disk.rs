//! Block devices. They are no kernel files: a disk is read and written at a few places, never as a whole, so [`Tree`](host::Tree) does not
//! fit.

use std::fs::{File, OpenOptions};
use std::io::{self, Cursor, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use host::signature::{self, Found};
use host::{Host, Tree};

use crate::sys::{self, Zeroing};
use crate::{Error, Result};

/// A disk, open.
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
    Image(Tree, Vec<u8>),
}

impl Disk {
    /// Opens a disk for reading.
    pub(super) fn open(host: &Host, path: &Path) -> Result<Self> {
        Self::with(host, path, OpenOptions::new().read(true))
    }

    /// Opens a disk for writing. Fails if somebody uses it: an exclusive open of a block device is refused while it is mounted, attached,
    /// or part of another device (block/bdev.c).
    pub(super) fn claim(host: &Host, path: &Path) -> Result<Self> {
        let is_block =
            host.run_dir().is_some() && path.metadata().is_ok_and(|m| m.file_type().is_block_device());
        let flags = if is_block { libc::O_EXCL } else { 0 };
        Self::with(host, path, OpenOptions::new().read(true).write(true).custom_flags(flags))
    }

    /// Opens a disk for writing that others may write to as well, at other places.
    pub(super) fn share(host: &Host, path: &Path) -> Result<Self> {
        Self::with(host, path, OpenOptions::new().read(true).write(true))
    }

    fn with(host: &Host, path: &Path, options: &OpenOptions) -> Result<Self> {
        let path = path.to_path_buf();
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::EBUSY) => Error::DiskInUse { path: path.clone(), source },
            _ => Error::Device { path: path.clone(), source },
        };
        // A machine without a directory for locks is captured or fake, and so are its disks.
        if host.run_dir().is_none() {
            let image = host.tree().read_bytes(&path).map_err(|error| failed(error.source))?;
            let size = u64::try_from(image.len()).map_err(|e| failed(io::Error::other(e)))?;
            return Ok(Self { content: Content::Image(host.tree().clone(), image), size, path });
        }
        let mut file = options.open(&path).map_err(failed)?;
        sys::drop_cache(file.as_fd());
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { content: Content::Device(file), size, path })
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Device { path: self.path.clone(), source }
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks for known data.
    pub(super) fn signatures(&mut self) -> Result<Vec<Found>> {
        let found = match &mut self.content {
            Content::Device(file) => signature::scan(file),
            Content::Image(_, image) => signature::scan(&mut Cursor::new(image)),
        };
        found.map_err(|source| self.failed(source))
    }

    /// Reads at a place; what lies behind the end is missing from the answer.
    pub(super) fn at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        match &self.content {
            Content::Image(_, image) => {
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
                        Err(e) => return Err(self.failed(e)),
                    }
                }
                buffer.truncate(filled);
                Ok(buffer)
            }
        }
    }

    /// Writes at a place.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let done = match &mut self.content {
            Content::Device(file) => file.write_all_at(bytes, offset),
            Content::Image(_, image) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                match image.get_mut(from..from.saturating_add(bytes.len())) {
                    Some(place) => {
                        place.copy_from_slice(bytes);
                        Ok(())
                    }
                    None => Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
        };
        done.map_err(|source| self.failed(source))
    }

    /// Zeroes a range: as a hole, else by the device, else by writing.
    pub(super) fn zero(&mut self, offset: u64, length: u64) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        if let Content::Device(file) = &self.content
            && [Zeroing::Punch, Zeroing::Fill]
                .into_iter()
                .any(|how| sys::zero(file.as_fd(), how, offset, length).is_ok())
        {
            return Ok(());
        }
        const PIECE: u64 = 1 << 20;
        let (mut at, end) = (offset, offset.saturating_add(length));
        while at < end {
            let piece = usize::try_from((end - at).min(PIECE)).unwrap_or_default();
            self.write(at, &vec![0; piece])?;
            at = at.saturating_add(PIECE);
        }
        Ok(())
    }

    /// Brings what was written to stable storage.
    pub(super) fn sync(&self) -> Result<()> {
        match &self.content {
            Content::Device(file) => file.sync_all().map_err(|source| self.failed(source)),
            Content::Image(tree, image) => Ok(tree.write(&self.path, image)?),
        }
    }
}
