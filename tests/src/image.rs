//! Guest images made from Debian packages: kernels, the tiny initramfs, the root file system.
//!
//! Images live in a cache directory under names that contain a hash of everything they are made of, so a
//! changed package list or recipe makes a new image and an unchanged one is found at once. An image is built
//! under a temporary name and renamed when it is complete; a file lock keeps two processes from building the
//! same one twice.

pub mod initramfs;
pub mod kernel;
pub mod rootfs;

pub(crate) mod cpio;
pub(crate) mod ldd;

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, SystemTime};
use std::{env, fs, io};

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

/// The Debian suite of the guests. It must be the suite of the host, because test binaries built on the host
/// run in the guest with the guest's C library.
pub const SUITE: &str = "bookworm";

/// A Debian kernel for the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Kernel {
    /// `linux-image-amd64`, the suite's own kernel. The default.
    #[default]
    V6_1,
    /// `linux-image-6.12-amd64`, the newer kernel of bookworm-security.
    V6_12,
}

impl Kernel {
    /// Every kernel the lab knows.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// The Debian metapackage that names the newest build of this kernel.
    #[must_use]
    pub fn metapackage(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-amd64",
            Self::V6_12 => "linux-image-6.12-amd64",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        })
    }
}

impl FromStr for Kernel {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|k| k.to_string() == text);
        known.ok_or_else(|| anyhow!("unknown kernel {text:?}, known are 6.1 and 6.12"))
    }
}

/// Returns the image cache: `$SANKIT_CACHE`, else `/var/cache/sankit` if it can be written, else
/// `~/.cache/sankit`. Creates it.
///
/// # Errors
/// If none of them can be created.
pub fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("SANKIT_CACHE") {
        let dir = PathBuf::from(dir);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create $SANKIT_CACHE {}", dir.display()))?;
        return Ok(dir);
    }
    let system = PathBuf::from("/var/cache/sankit");
    if fs::create_dir_all(&system).is_ok()
        && nix::unistd::access(&system, nix::unistd::AccessFlags::W_OK).is_ok()
    {
        return Ok(system);
    }
    let home = env::var_os("HOME").context("neither /var/cache/sankit can be written nor is $HOME set")?;
    let dir = PathBuf::from(home).join(".cache/sankit");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Refuses a host whose Debian suite is not the guests' suite.
///
/// # Errors
/// Says which system the host is.
pub fn check_host() -> Result<()> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    if field("ID") == "debian" && field("VERSION_CODENAME") == SUITE {
        return Ok(());
    }
    bail!(
        "the lab needs a host with Debian 12 ({SUITE}), this is {:?}: the guests are {SUITE}, and test binaries \
         built here run there with {SUITE}'s C library. Run it in a {SUITE} container or machine",
        field("PRETTY_NAME")
    )
}

/// A hash of what an image is made of: 16 hexadecimal digits of SHA-256 over the parts.
pub(crate) fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns `cache/NAME`, after `build` has made it if it was not there. `build` gets a temporary path of its
/// own to create, a file or a directory; `what` is said while it works.
pub(crate) fn cached(name: &str, what: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache_dir()?;
    let path = cache.join(name);
    if path.exists() {
        // Says that it is in use, for prune().
        let _ = fs::File::open(&path).and_then(|f| f.set_modified(SystemTime::now()));
        return Ok(path);
    }
    check_host()?;
    let _lock = lock(&cache.join(format!("{name}.lock")))?;
    if path.exists() {
        return Ok(path);
    }
    // The process id: a killed builder may have left a child that still writes to its own name.
    let temporary = cache.join(format!("{name}.{}.tmp", std::process::id()));
    remove(&temporary)?;
    eprintln!("lab: making {what} ({})", path.display());
    if let Err(error) = build(&temporary).with_context(|| format!("cannot make {what}")) {
        let _ = remove(&temporary);
        return Err(error);
    }
    fs::rename(&temporary, &path).with_context(|| format!("cannot rename to {}", path.display()))?;
    Ok(path)
}

/// Removes from the cache what was not used for 30 days: images of old kernels and recipes, remains of
/// killed builders. Returns what was removed.
///
/// # Errors
/// If the cache cannot be read or something not be removed.
pub fn prune() -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(cache_dir()?).context("cannot read the cache")? {
        let path = entry?.path();
        let used = fs::symlink_metadata(&path).and_then(|m| m.modified()).ok();
        let age = used.and_then(|t| t.elapsed().ok()).unwrap_or_default();
        // Locks are empty and somebody may wait for one at this moment.
        if age > Duration::from_secs(30 * 24 * 3600) && path.extension().is_none_or(|e| e != "lock") {
            remove(&path)?;
            removed.push(path);
        }
    }
    Ok(removed)
}

/// Takes an exclusive lock on a file, creating it; waits for whoever holds it.
pub(crate) fn lock(path: &Path) -> Result<Flock<fs::File>> {
    let file = fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, e)| anyhow!(e))
        .with_context(|| format!("cannot lock {}", path.display()))
}

/// Removes a file or a directory tree, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Runs a program of the host to its end and returns its standard output.
pub(crate) fn tool<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Result<String> {
    let mut command = Command::new(program);
    // Not every environment has the administrator's directories in its PATH; mke2fs and depmod live there.
    let path = env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")).env("LC_ALL", "C");
    command.args(arguments);
    let output = match command.output() {
        Ok(output) => output,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            bail!("the host has no program {program:?}; {}", crate::deps::hint(program))
        }
        Err(e) => return Err(e).with_context(|| format!("cannot run {program}")),
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let mut tail: Vec<&str> = text.lines().rev().take(15).collect();
        tail.reverse();
        bail!("{command:?} failed ({}):\n{}", output.status, tail.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_depends_on_every_part_and_on_their_borders() {
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["a", "b"]), key(&["ab"]));
        assert_ne!(key(&["a", "b"]), key(&["b", "a"]));
        assert_eq!(key(&[]).len(), 16);
    }

    #[test]
    fn kernels_are_read_as_they_are_written() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.to_string().parse::<Kernel>().unwrap(), kernel);
        }
        assert!("6.2".parse::<Kernel>().is_err());
    }
}
