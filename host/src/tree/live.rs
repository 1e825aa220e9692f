//! The kernel's own files, or a directory that stands for `/`.
#![allow(clippy::disallowed_methods)] // This is the one place that uses them.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use super::{Entry, Files, Kind};

thread_local! {
    /// Values are a few bytes long: what is kept of them is as long as they are, not a page each.
    static PAGE: RefCell<[u8; 4096]> = const { RefCell::new([0; 4096]) };
}

/// Files under a root; the empty root is the machine itself.
#[derive(Debug)]
pub(super) struct Live {
    root: PathBuf,
}

impl Live {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn real(&self, path: &Path) -> PathBuf {
        if self.root.as_os_str().is_empty() {
            return path.to_path_buf();
        }
        // Only the names: a path from outside must not climb out of the root.
        let names = path.components().filter(|c| matches!(c, Component::Normal(_)));
        names.fold(self.root.clone(), |real, name| real.join(name))
    }

    fn shown(&self, real: &Path) -> PathBuf {
        match real.strip_prefix(&self.root) {
            Ok(rest) if !self.root.as_os_str().is_empty() => Path::new("/").join(rest),
            _ => real.to_path_buf(),
        }
    }
}

impl Files for Live {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // Not fs::read: it asks for the size first, which kernel files do not have. One page holds nearly all of them.
        let mut file = File::open(self.real(path))?;
        let (mut data, length) = PAGE.with_borrow_mut(|page| {
            let length = file.read(page)?;
            io::Result::Ok((page.get(..length).unwrap_or_default().to_vec(), length))
        })?;
        // sysfs and configfs give a value in one piece: less than a page is all of it. procfs may give less and have more.
        if length == 4096 || (length > 0 && !path.as_os_str().as_encoded_bytes().starts_with(b"/sys/")) {
            file.read_to_end(&mut data)?;
        }
        Ok(data)
    }

    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.real(path))?;
        // One call: a store may say that it took fewer bytes than it was given (alias, udev_path, dbroot of LIO return the length of
        // what they printed), and the rest must not be sent as a second value.
        match file.write(data)? {
            0 if !data.is_empty() => Err(io::ErrorKind::WriteZero.into()),
            _ => Ok(()),
        }
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(self.real(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(self.real(path))
    }

    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(self.real(target), self.real(path))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.real(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        fs::read_dir(self.real(path))?
            .map(|entry| {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                Ok(Entry::new(name, kind_of(entry.file_type()?)))
            })
            .collect()
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let real = self.real(path);
        let target = fs::read_link(&real)?;
        let base = real.parent().unwrap_or(Path::new("/"));
        Ok(self.shown(&joined(base, &target)))
    }

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        match fs::symlink_metadata(self.real(path)) {
            Ok(meta) => Ok(Some(kind_of(meta.file_type()))),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn replace(&self, path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
        let real = self.real(path);
        let dir = real.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let name = real.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let temporary = dir.join(format!(".{name}.{}", std::process::id()));
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(data)?;
            file.sync_all()?;
            fs::rename(&temporary, &real)?;
            File::open(dir)?.sync_all()
        })();
        if written.is_err() {
            // The old file is what counts; a leftover that cannot be removed either is reported by the next attempt.
            fs::remove_file(&temporary).ok();
        }
        written
    }
}

fn kind_of(file_type: fs::FileType) -> Kind {
    match file_type {
        t if t.is_dir() => Kind::Dir,
        t if t.is_symlink() => Kind::Link,
        t if t.is_block_device() || t.is_char_device() || t.is_fifo() || t.is_socket() => Kind::Other,
        _ => Kind::File,
    }
}

/// Where a link in `base` leads. The kernel's own are as many `..` as it takes and then plain names: what there are thousands of is not
/// taken apart name by name.
fn joined(base: &Path, target: &Path) -> PathBuf {
    let (mut up, mut rest) = (Some(base), target.as_os_str().as_encoded_bytes());
    while let Some(shorter) = rest.strip_prefix(b"../") {
        (up, rest) = (up.and_then(Path::parent), shorter);
    }
    let dots = |path: &[u8]| path.starts_with(b".") || path.windows(2).any(|two| two == b"/.");
    let plain = !rest.is_empty() && !rest.starts_with(b"/") && !dots(rest);
    match up.filter(|up| plain && !dots(up.as_os_str().as_encoded_bytes())) {
        Some(up) => up.join(OsStr::from_bytes(rest)),
        None => without_dots(&base.join(target)),
    }
}

/// Takes `.` and `..` out by name: configfs links are relative, and their targets have no links above them.
pub(crate) fn without_dots(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::Tree;
    use crate::tree::Kind;

    #[test]
    fn a_link_leads_where_its_dots_say() {
        let cases = [
            ("/a/b/c", "../../x/y", "/a/x/y"),
            ("/a/b/c", "d", "/a/b/c/d"),
            ("/a/b/c", "/x", "/x"),
            ("/a", "../../../x", "/x"),
            ("/a/b", "../c/../d", "/a/d"),
            ("/a/./b", "../c", "/a/c"),
            ("/a/.b", "./c", "/a/.b/c"),
            ("/a/b", "..", "/a"),
            ("/a/b", "../", "/a"),
        ];
        for (base, target, leads) in cases {
            let is = super::joined(std::path::Path::new(base), std::path::Path::new(target));
            assert_eq!(is.as_os_str(), leads, "{target} in {base}");
        }
    }

    #[test]
    fn a_rooted_tree_shows_paths_without_its_root() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let tree = Tree::rooted(dir.path());
        tree.make_dir("/a")?;
        tree.make_dir("/a/b")?;
        tree.link("/a/b", "/a/link")?;
        assert_eq!(tree.read_link("/a/link")?, std::path::Path::new("/a/b"));
        assert_eq!(tree.kind("/a/link")?, Some(Kind::Link));
        assert_eq!(tree.dirs("/a")?, ["b"]);
        assert_eq!(tree.links("/a")?, ["link"]);
        tree.replace("/a/file", "text", 0o600)?;
        assert_eq!(tree.read("/a/file")?, "text");
        assert!(tree.unlink("/a/file")? && !tree.unlink("/a/file")?);
        assert!(tree.unlink("/a/link")? && tree.remove_dir("/a/b")? && !tree.remove_dir("/a/b")?);
        let error = tree.write("/a/none", "7").expect_err("no such file");
        assert_eq!(error.to_string(), "cannot write \"7\" to /a/none");
        assert!(error.is_not_found() && !tree.exists("/../../etc/passwd")?);
        Ok(())
    }
}
