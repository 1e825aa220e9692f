//! Volumes on disks: making one, checking a passphrase, keeping a copy of the header.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use host::{Secret, signature};
use sha2::Digest;

use crate::apply::explain;
use crate::error::{Error, Result};
use crate::header::Header;
use crate::spec::{FormatSpec, Overwrite};
use crate::sys;

/// What was written by [`Header::backup`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The file.
    pub path: PathBuf,
    /// The volume's UUID.
    pub uuid: crate::Uuid,
    /// Its size in bytes: 16 MiB for LUKS2, 1 to 2 MiB for LUKS1.
    pub size: u64,
    /// The SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// The key slots whose passphrases open the data through this copy, **for ever**: changing a passphrase on the disk does not change it
    /// here.
    pub keyslots: usize,
}

impl Header {
    /// Makes a volume: writes a new LUKS header with one passphrase. `cryptsetup luksFormat`.
    ///
    /// # Errors
    /// [`Error::HoldsData`] if anything known is on the device, [`Error::Busy`] if somebody uses it, unless in the first case
    /// [`Overwrite::Always`] is said. Data in the place of the header is lost then.
    pub fn format(
        device: impl AsRef<Path>,
        spec: &FormatSpec,
        passphrase: &Secret,
        overwrite: Overwrite,
    ) -> Result<Self> {
        let device = device.as_ref();
        let failed = |what: &str| {
            let what = format!("{what} {}", device.display());
            move |source: std::io::Error| match source.raw_os_error() {
                Some(libc::EBUSY) => {
                    let holders = "a mount, mapping, RAID or other holder (see lsblk)".to_owned();
                    Error::Busy { object: what.clone(), holders }
                }
                _ => Error::Io { what: what.clone(), source },
            }
        };
        // O_EXCL on a block device: refused if it is mounted or held.
        let flags = if is_block(device) { libc::O_EXCL } else { 0 };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(device)
            .map_err(failed("open for formatting"))?;
        if overwrite == Overwrite::Never
            && let Some(what) = signature::find(&mut file).map_err(failed("read"))?
        {
            return Err(Error::HoldsData { device: device.to_path_buf(), what });
        }
        drop(file);
        let what = format!("format {}", device.display());
        sys::format(device, spec, passphrase.expose()).map_err(|r| explain(device, what, r))?;
        Self::read(device)
    }

    /// Checks a passphrase without opening the volume; `cryptsetup open --test-passphrase`. Takes as long as the key derivation.
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`].
    pub fn check(device: impl AsRef<Path>, passphrase: &Secret) -> Result<()> {
        let device = device.as_ref();
        let what = format!("check a passphrase of {}", device.display());
        sys::check(device, passphrase.expose()).map(drop).map_err(|r| explain(device, what, r))
    }

    /// Keeps a copy of the header in a new file of mode 0600, on stable storage and read back. `cryptsetup luksHeaderBackup`.
    ///
    /// Whoever has the copy and one of its passphrases can open the volume, whatever was changed on the disk since: keep it as you keep the
    /// passphrase, and make a new one after each change.
    ///
    /// # Errors
    /// [`Error::FileExists`]; [`Error::Damaged`] if what was read back is not what was written.
    pub fn backup(device: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Backup> {
        let (device, to) = (device.as_ref(), to.as_ref());
        if to.exists() {
            return Err(Error::FileExists { path: to.to_path_buf() });
        }
        let name = to.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let temporary = to.with_file_name(format!(".{name}.{}", std::process::id()));
        let failed = |source| Error::Io { what: format!("write {}", to.display()), source };
        let result = (|| {
            let what = format!("back up the header of {}", device.display());
            sys::backup(device, &temporary).map_err(|r| explain(device, what, r))?;
            let mut file = File::open(&temporary).map_err(failed)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(failed)?;
            let copy = Self::read(&temporary)?;
            let original = Self::read(device)?;
            if copy.uuid != original.uuid || copy.keyslots != original.keyslots {
                let reason = "the copy does not say what the disk says".to_owned();
                return Err(Error::Damaged { device: to.to_path_buf(), reason });
            }
            // A link, not a rename: a file that has come up meanwhile is not overwritten.
            std::fs::hard_link(&temporary, to).map_err(failed)?;
            let dir = to.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(dir).and_then(|d| d.sync_all()).map_err(failed)?;
            let sum = sha2::Sha256::digest(&bytes);
            Ok(Backup {
                path: to.to_path_buf(),
                uuid: copy.uuid,
                size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                sha256: sum.iter().map(|b| format!("{b:02x}")).collect(),
                keyslots: copy.keyslots.len(),
            })
        })();
        if let Err(error) = std::fs::remove_file(&temporary) {
            log::debug!("luks: {}: {error}", temporary.display());
        }
        result
    }
}

fn is_block(device: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(device).is_ok_and(|m| m.file_type().is_block_device())
}
