//! Writes archives in the format the kernel unpacks as initramfs ("newc").

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// An archive being written. All entries belong to root.
#[derive(Debug)]
pub(crate) struct Archive {
    out: BufWriter<File>,
    inode: u32,
    present: BTreeSet<String>,
}

impl Archive {
    /// Creates the archive file.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { out: BufWriter::new(file), inode: 1, present: BTreeSet::new() })
    }

    /// Adds a directory and the directories above it. Paths have no leading slash.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        if path.is_empty() || self.present.contains(path) {
            return Ok(());
        }
        self.parent(path)?;
        self.entry(path, 0o040_755, (0, 0), &[])
    }

    /// Adds a file with that content. A second file of the same name is left out.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        if self.present.contains(path) {
            return Ok(());
        }
        self.parent(path)?;
        self.entry(path, 0o100_000 | mode, (0, 0), content)
    }

    /// Adds a copy of a file of the host.
    pub(crate) fn copy(&mut self, path: &str, mode: u32, source: &Path) -> Result<()> {
        let mut content = Vec::new();
        let mut file = File::open(source).with_context(|| format!("cannot open {}", source.display()))?;
        file.read_to_end(&mut content).with_context(|| format!("cannot read {}", source.display()))?;
        Ok(self.file(path, mode, &content)?)
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        if self.present.contains(path) {
            return Ok(());
        }
        self.parent(path)?;
        self.entry(path, 0o120_777, (0, 0), target.as_bytes())
    }

    /// Adds a character device.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.parent(path)?;
        self.entry(path, 0o020_600, (major, minor), &[])
    }

    /// Writes the end of the archive.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()
    }

    fn parent(&mut self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| io::Error::other("file too large for cpio"))?;
        let name = u32::try_from(path.len() + 1).map_err(|_| io::Error::other("name too long for cpio"))?;
        self.inode += 1;
        self.present.insert(path.to_owned());
        write!(self.out, "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}", self.inode, 0, 0, 1, 0)?;
        write!(self.out, "{size:08x}{:08x}{:08x}{:08x}{:08x}{name:08x}{:08x}", 0, 0, device.0, device.1, 0)?;
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(&[0])?;
        // Header (110 bytes) plus name, and the content, are each padded to four bytes.
        self.pad(110 + path.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.out.write_all([0; 3].get(..(4 - length % 4) % 4).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn cpio_lists_what_was_put_in() {
        let path = std::env::temp_dir().join(format!("lab-cpio-{}", std::process::id()));
        let mut archive = Archive::create(&path).unwrap();
        archive.file("a/b/c", 0o755, b"12345").unwrap();
        archive.file("a/b/c", 0o755, b"again").unwrap();
        archive.link("a/l", "b/c").unwrap();
        archive.directory("a/b").unwrap();
        archive.finish().unwrap();
        let list = Command::new("cpio").arg("-t").stdin(File::open(&path).unwrap()).output();
        std::fs::remove_file(&path).unwrap();
        if let Ok(list) = list {
            assert_eq!(String::from_utf8_lossy(&list.stdout), "a\na/b\na/b/c\na/l\n");
        }
    }
}
