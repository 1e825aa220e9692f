//! Copies of headers that can be trusted.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use host::Secret;
use serde::{Deserialize, Serialize};
use sha2::Digest;

use super::Volume;
use crate::error::{Error, Result};
use crate::header::{Header, Version};
use crate::{Uuid, sys};

/// The largest header there is: 2 x 4 MiB of metadata and 128 MiB of key slots (LUKS2 specification).
const LARGEST: u64 = 160 << 20;

/// A copy of a header in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The file.
    pub path: PathBuf,
    /// The volume's UUID.
    pub uuid: Uuid,
    /// The header's version.
    pub version: Version,
    /// Its size in bytes: 16 MiB for LUKS2, 1 to 2 MiB for LUKS1.
    pub size: u64,
    /// The SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// The header's sequence number when it was copied (LUKS2).
    pub sequence: u64,
    /// The key slots whose passphrases open the data through this copy, **for ever**: changing a passphrase on the disk does not change it
    /// here. See [`compare`](Self::compare).
    pub keyslots: usize,
    /// Whether the file beside it (`FILE.manifest`) vouches for it. A backup that `cryptsetup` made has none.
    pub manifest: bool,
}

/// What stands beside a backup, as JSON: enough to tell whether it is whole, and of which volume.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Manifest {
    uuid: String,
    version: u16,
    sequence: u64,
    size: u64,
    sha256: String,
    keyslots: Vec<u32>,
}

/// What became of a key slot of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupSlot {
    /// Its number in the backup.
    pub number: u32,
    /// What became of it.
    pub fate: SlotFate,
}

/// What became of a key slot since a backup was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlotFate {
    /// It is on the disk as it is in the backup: its passphrase is in use.
    Current,
    /// It is on the disk no more, or not with this passphrase; **through the backup it still opens the data**. Destroy the backup, or reencrypt.
    Revoked,
    /// The volume key is another one since: it opens nothing any more.
    Dead,
}

fn failed(what: &str, path: &Path) -> impl Fn(std::io::Error) -> Error {
    let what = format!("{what} {}", path.display());
    move |source| Error::Io { what: what.clone(), source }
}

fn manifest_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".manifest");
    name.into()
}

pub(super) fn digest(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads a file from the medium: what the page cache has of it is dropped first.
pub(super) fn read_back(path: &Path, length: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(failed("open", path))?;
    sys::drop_cache(&file).map_err(failed("drop the cache of", path))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).map_err(failed("read", path))?;
    Ok(bytes)
}

/// Writes a new file of mode 0600 so that it is whole or absent, on stable storage, and reads it back.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed("make", &temporary))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", &temporary))?;
        if read_back(&temporary, LARGEST)? != bytes {
            let reason = "what was written is not what is read".to_owned();
            return Err(Error::Damaged { device: path.to_path_buf(), reason });
        }
        // A link, not a rename: a file that has come up meanwhile is not overwritten.
        std::fs::hard_link(&temporary, path).map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => Error::FileExists { path: path.to_path_buf() },
            _ => failed("make", path)(source),
        })
    })();
    if let Err(error) = std::fs::remove_file(&temporary) {
        log::debug!("luks: {}: {error}", temporary.display());
    }
    written?;
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|d| d.sync_all()).map_err(failed("write", dir))
}

/// Copies the header of a volume into a new file, with its manifest.
pub(super) fn write(volume: &Volume, to: &Path) -> Result<Backup> {
    let manifest_path = manifest_of(to);
    for path in [to, &manifest_path] {
        if path.exists() {
            return Err(Error::FileExists { path: path.to_path_buf() });
        }
    }
    let name = to.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = to.with_file_name(format!(".{name}.copy.{}", std::process::id()));
    // The library writes the file under its own lock of the header, so that nobody changes that meanwhile; but it neither syncs nor reads back.
    let copied = volume
        .load("back up the header of")
        .and_then(|mut session| volume.explained("back up the header of", session.backup(&temporary)))
        .and_then(|()| read_back(&temporary, LARGEST));
    if let Err(error) = std::fs::remove_file(&temporary) {
        log::debug!("luks: {}: {error}", temporary.display());
    }
    let bytes = copied?;
    let copy = parse(to, &bytes)?;
    let original = volume.read()?;
    if copy.uuid != original.uuid || copy.keyslots != original.keyslots {
        let reason = "the copy does not say what the disk says".to_owned();
        return Err(Error::Damaged { device: to.to_path_buf(), reason });
    }
    let manifest = Manifest {
        uuid: copy.uuid.to_string(),
        version: if copy.version == Version::Luks1 { 1 } else { 2 },
        sequence: copy.sequence,
        size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        sha256: digest(&bytes),
        keyslots: copy.keyslots.iter().map(|slot| slot.number).collect(),
    };
    // The manifest first: a backup without one would be taken for a foreign one, a manifest without a backup for nothing.
    let json = serde_json::to_vec_pretty(&manifest)
        .map_err(|source| failed("write", &manifest_path)(source.into()))?;
    write_new(&manifest_path, &json)?;
    if let Err(error) = write_new(to, &bytes) {
        if let Err(error) = std::fs::remove_file(&manifest_path) {
            log::debug!("luks: {}: {error}", manifest_path.display());
        }
        return Err(error);
    }
    volume.say(&format!("header backed up to {}", to.display()));
    Backup::open(to)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Header> {
    match Header::parse(&mut std::io::Cursor::new(bytes)).map_err(failed("read", path))? {
        crate::header::Parsed::Header(header) if header.needs_repair => {
            let reason = "one of the two copies in this backup is damaged".to_owned();
            Err(Error::Damaged { device: path.to_path_buf(), reason })
        }
        crate::header::Parsed::Header(header) => Ok(header),
        crate::header::Parsed::Damaged(copies) => {
            Err(Error::Damaged { device: path.to_path_buf(), reason: copies.to_string() })
        }
        _ => Err(Error::NotLuks { device: path.to_path_buf() }),
    }
}

impl Volume {
    /// Keeps a copy of the header in a new file of mode 0600, on stable storage and read back, with a manifest beside it (`FILE.manifest`: UUID,
    /// SHA-256, key slots). `cryptsetup luksHeaderBackup`, which can read it too.
    ///
    /// **Whoever has the copy and one of its passphrases can open the volume, whatever was changed on the disk since**: an old backup revives old
    /// passphrases. Keep it as you keep the passphrase, make a new one after each change and destroy the old one; [`Backup::compare`] tells which
    /// passphrases a backup still has. Only reencryption ends that.
    ///
    /// # Errors
    /// [`Error::FileExists`]; [`Error::Damaged`] if the copy does not say what the disk says. Nothing is left then.
    pub fn backup(&self, to: impl AsRef<Path>) -> Result<Backup> {
        write(self, to.as_ref())
    }
}

impl Backup {
    /// Opens a backup and checks it: both copies of the header, and the manifest if there is one.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not what the manifest says, or a copy in it is not whole; [`Error::NotLuks`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::with_bytes(path).map(|(backup, _)| backup)
    }

    /// The backup and its content, checked.
    pub(super) fn with_bytes(path: &Path) -> Result<(Self, Vec<u8>)> {
        let bytes = read_back(path, LARGEST)?;
        let header = parse(path, &bytes)?;
        let sha256 = digest(&bytes);
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let manifest_path = manifest_of(path);
        let manifest = match File::open(&manifest_path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            opened => {
                let file = opened.map_err(failed("open", &manifest_path))?.take(1 << 20);
                let read: std::result::Result<Manifest, _> = serde_json::from_reader(file);
                Some(read.map_err(|source| failed("read", &manifest_path)(source.into()))?)
            }
        };
        if let Some(manifest) = &manifest
            && (manifest.sha256 != sha256 || manifest.size != size || manifest.uuid != header.uuid.as_str())
        {
            let reason = format!("it is not what {} says", manifest_path.display());
            return Err(Error::Damaged { device: path.to_path_buf(), reason });
        }
        let backup = Self {
            path: path.to_path_buf(),
            uuid: header.uuid,
            version: header.version,
            size,
            sha256,
            sequence: header.sequence,
            keyslots: header.keyslots.len(),
            manifest: manifest.is_some(),
        };
        Ok((backup, bytes))
    }

    /// The key slot that a passphrase opens **through this backup**, whatever is on the disk. Takes as long as the key derivation.
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`].
    pub fn check(&self, passphrase: &Secret) -> Result<Option<u32>> {
        Volume::at(&self.path).check(passphrase)
    }

    /// Which keys this backup still opens, beside those that are in use: for each of its key slots whether the disk has it too, or whether it was
    /// removed there and lives on here. Needs no passphrase: it compares salts.
    ///
    /// # Errors
    /// [`Error::OtherVolume`]; one of the headers cannot be read.
    pub fn compare(&self, volume: &Volume) -> Result<Vec<BackupSlot>> {
        let header = volume.read()?;
        if header.uuid != self.uuid {
            return Err(Error::OtherVolume {
                device: volume.device().to_path_buf(),
                wanted: self.uuid.clone(),
                found: format!("it is {}", header.uuid),
            });
        }
        let (here, there) = (Marks::of(&Volume::at(&self.path))?, Marks::of(volume)?);
        // The digests of two versions of a header cannot be compared as texts: after a conversion the slots decide.
        let same_key = here.digest == there.digest || self.version != header.version;
        let fate = |salt: &String| match there.slots.iter().any(|(_, other)| other == salt) {
            _ if !same_key => SlotFate::Dead,
            true => SlotFate::Current,
            false => SlotFate::Revoked,
        };
        Ok(here.slots.iter().map(|(number, salt)| BackupSlot { number: *number, fate: fate(salt) }).collect())
    }
}

/// What tells volume keys and key slots apart without opening them: the digest of the volume key and the salts of the slots.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) digest: String,
    slots: Vec<(u32, String)>,
}

impl Marks {
    pub(super) fn of(volume: &Volume) -> Result<Self> {
        let mut session = volume.load("read the key slots of")?;
        if session.is_luks2() {
            let json = volume.explained("read the header of", session.json())?;
            return Self::luks2(&json).ok_or_else(|| Error::Damaged {
                device: volume.header_place().to_path_buf(),
                reason: "its metadata lacks digests".to_owned(),
            });
        }
        drop(session);
        let place = volume.header_place();
        let mut bytes = Vec::new();
        let file = File::open(place).map_err(failed("open", place))?;
        file.take(592).read_to_end(&mut bytes).map_err(failed("read", place))?;
        Ok(Self::luks1(&bytes))
    }

    /// The digest is that of the key of the data's segment.
    fn luks2(json: &str) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_str(json).ok()?;
        let of_data = |digest: &&serde_json::Value| {
            let segments = digest.get("segments").and_then(|s| s.as_array());
            segments.is_some_and(|segments| segments.iter().any(|s| s.as_str() == Some("0")))
        };
        let digests = json.get("digests")?.as_object()?;
        let digest = digests.values().find(of_data)?;
        let text = |value: &serde_json::Value, key: &str| Some(value.get(key)?.as_str()?.to_owned());
        let digest_text = format!("{} {}", text(digest, "salt")?, text(digest, "digest")?);
        let slots = json
            .get("keyslots")?
            .as_object()?
            .iter()
            .filter_map(|(number, slot)| Some((number.parse().ok()?, text(slot.get("kdf")?, "salt")?)));
        let mut slots: Vec<_> = slots.collect();
        slots.sort();
        Some(Self { digest: digest_text, slots })
    }

    /// The digest at 112 with its salt at 132 (20 and 32 bytes), the slots from 208, 48 bytes each: mark, iterations, salt (LUKS1
    /// specification, 1.2.3).
    fn luks1(bytes: &[u8]) -> Self {
        let hex = |from: usize, length: usize| -> String {
            let part = bytes.get(from..from + length).unwrap_or_default();
            part.iter().map(|b| format!("{b:02x}")).collect()
        };
        let slots = (0_u32..8).zip((208_usize..).step_by(48));
        let active = slots.filter(|(_, at)| bytes.get(*at..at + 4) == Some(&[0, 0xac, 0x71, 0xf3]));
        Self { digest: hex(112, 52), slots: active.map(|(number, at)| (number, hex(at + 8, 32))).collect() }
    }
}
