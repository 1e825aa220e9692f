//! Steps carried out: by libcryptsetup on a live machine, in memory on a fake.

use std::fmt;
use std::path::Path;

use host::{Host, Secret, Sectors, Signature};

use crate::error::Result;
use crate::header::Found;
use crate::key::{Key, VolumeKey};
use crate::plan::Step;
use crate::spec::{OpenFlags, Place, PlainSpec};
use crate::state::{ActiveState, MappingState, VolumeState};

#[cfg(feature = "libcryptsetup")]
pub(crate) use live::Live;

/// How a mapping is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// Now, or not at all.
    Now,
    /// When its last user has gone.
    Deferred,
    /// Not deferred any more.
    Cancel,
}

/// What is opened, and how.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(any(feature = "libcryptsetup", feature = "fake")), allow(dead_code))]
pub(crate) struct Opening<'a> {
    pub(crate) name: &'a str,
    pub(crate) device: &'a Path,
    pub(crate) header: Option<&'a Path>,
    pub(crate) flags: OpenFlags,
}

/// What knows and changes volumes and mappings.
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    fn mappings(&self, host: &Host) -> Result<Vec<MappingState>>;
    fn volumes(&self, host: &Host) -> Result<Vec<VolumeState>>;
    /// What a device holds.
    fn signature(&self, device: &Path) -> Result<Option<Signature>>;
    /// The volume of a device whose header is elsewhere.
    fn detached(&self, device: &Path, header: &Path) -> Result<VolumeState>;
    fn open(&self, opening: &Opening<'_>, key: &Key) -> Result<()>;
    fn open_plain(&self, opening: &Opening<'_>, spec: &PlainSpec, key: &Key) -> Result<()>;
    fn close(&self, host: &Host, name: &str, how: Close) -> Result<()>;
    fn active(&self, name: &str) -> Result<ActiveState>;
    fn suspend(&self, name: &str) -> Result<()>;
    fn resume(&self, open: &MappingState, header: Option<&Path>, key: &Key) -> Result<()>;
    fn resize(&self, name: &str, size: Sectors, key: Option<&Key>) -> Result<()>;
    fn refresh(&self, name: &str, flags: OpenFlags, key: &Key) -> Result<()>;
    /// All disks with a header, damaged ones too.
    fn scan(&self, host: &Host) -> Result<Vec<Found>>;
    /// One disk or image; `None` if this backend does not know of it.
    fn look(&self, host: &Host, place: Place<'_>) -> Result<Option<Found>>;
    /// Whether a passphrase opens the volume.
    fn check(&self, place: Place<'_>, passphrase: &Secret) -> Result<()>;
    /// The volume key that a key yields, and the key slot it came from. May be called by several threads at once.
    fn derive(&self, place: Place<'_>, key: &Key) -> Result<(Option<u32>, VolumeKey)>;
}

/// Carries out one step. A close finds "gone already" in order.
pub(crate) fn run(backend: &dyn Backend, host: &Host, step: &Step, key: &Key) -> Result<()> {
    match step {
        Step::Open { name, device, header, flags, keyslot, .. } => {
            let header = header.as_deref();
            let opening = Opening { name: name.as_str(), device, header, flags: *flags };
            match (keyslot, key) {
                (Some(slot), Key::Passphrase(secret)) => {
                    backend.open(&opening, &Key::Slot(*slot, secret.share()))
                }
                _ => backend.open(&opening, key),
            }
        }
        Step::Close { name, .. } => backend.close(host, name.as_str(), Close::Now),
    }
}

#[cfg(feature = "libcryptsetup")]
mod live {
    use std::path::{Path, PathBuf};

    use host::{Host, Secret, Sectors, Signature};

    use super::{Backend, Close, Opening};
    use crate::error::{Error, Result};
    use crate::header::{self, Found, Header, Parsed};
    use crate::key::{Key, VolumeKey};
    use crate::spec::{OpenFlags, Place, PlainSpec};
    use crate::state::{self, ActiveState, MappingState, VolumeState};
    use crate::sys::{self, Session};
    use crate::volume::{Means, Volume, explain};
    use crate::{DmName, holders};

    /// This machine's disks and kernel.
    #[derive(Debug)]
    pub(crate) struct Live;

    impl Backend for Live {
        fn mappings(&self, host: &Host) -> Result<Vec<MappingState>> {
            state::mappings(host)
        }

        /// Reads the first bytes of every block device that is no mapping itself.
        fn volumes(&self, host: &Host) -> Result<Vec<VolumeState>> {
            let mut volumes = Vec::new();
            for found in header::scan(host)? {
                match found.parsed {
                    Parsed::Header(header) => volumes.push(VolumeState::new(found.device, header)),
                    other => log::debug!("luks: {}: {other:?}", found.device.display()),
                }
            }
            Ok(volumes)
        }

        fn signature(&self, device: &Path) -> Result<Option<Signature>> {
            let failed = |source| Error::Io { what: format!("read {}", device.display()), source };
            let mut file = std::fs::File::open(device).map_err(failed)?;
            host::signature::find(&mut file).map_err(failed)
        }

        fn detached(&self, device: &Path, header: &Path) -> Result<VolumeState> {
            Ok(VolumeState::new(device.to_path_buf(), Header::read(header)?))
        }

        fn open(&self, opening: &Opening<'_>, key: &Key) -> Result<()> {
            let Opening { name, device, header, flags } = *opening;
            let what = || format!("open {} as {name}", device.display());
            need_root(what)?;
            let refused = |refused| explained(name, header.unwrap_or(device), what(), refused);
            let mut session = Session::load(Place { device, header }, None).map_err(refused)?;
            let mut flags = flags;
            if session.is_luks2() && !flags.contains(OpenFlags::ALLOW_DISCARDS) {
                let kept = OpenFlags::from_bits_retain(session.persistent_flags().map_err(refused)?);
                // A header may come from anybody; what shows which blocks are in use is the caller's to say.
                if kept.contains(OpenFlags::ALLOW_DISCARDS) {
                    flags |= (kept - OpenFlags::ALLOW_DISCARDS) | OpenFlags::IGNORE_PERSISTENT;
                }
            }
            unlock(&mut session, Place { device, header }, Some(name), key, flags, &what)
        }

        fn open_plain(&self, opening: &Opening<'_>, spec: &PlainSpec, key: &Key) -> Result<()> {
            let Opening { name, device, flags, .. } = *opening;
            let what = || format!("open {} as {name}", device.display());
            need_root(what)?;
            let refused = |refused| explained(name, device, what(), refused);
            let mut session = Session::init(Place::on(device), None).map_err(refused)?;
            session.plain(spec).map_err(refused)?;
            match key {
                Key::Passphrase(secret) if spec.hash.is_none() => {
                    session.by_volume_key(Some(name), secret.expose(), flags.bits()).map_err(refused)
                }
                _ => unlock(&mut session, Place::on(device), Some(name), key, flags, &what),
            }
        }

        fn scan(&self, host: &Host) -> Result<Vec<Found>> {
            header::scan(host)
        }

        fn look(&self, host: &Host, place: Place<'_>) -> Result<Option<Found>> {
            Found::look_at(host, place).map(Some)
        }

        fn check(&self, place: Place<'_>, passphrase: &Secret) -> Result<()> {
            Volume::of(place).check(passphrase).map(drop)
        }

        fn derive(&self, place: Place<'_>, key: &Key) -> Result<(Option<u32>, VolumeKey)> {
            Volume::of(place).derive("derive the key of", key)
        }

        fn close(&self, host: &Host, name: &str, how: Close) -> Result<()> {
            let what = || format!("close {name}");
            need_root(what)?;
            let flags = match how {
                Close::Now => 0,
                Close::Deferred => sys::DEFERRED,
                Close::Cancel => sys::DEFERRED_CANCEL,
            };
            match sys::deactivate(name, flags) {
                Err(r) if r.errno() == libc::EBUSY => {
                    let node = Path::new("/dev/mapper").join(name);
                    let holders = holders::of(host, &node);
                    Err(Error::Busy { object: node.display().to_string(), holders })
                }
                // Gone already.
                Err(r) if r.errno() == libc::ENODEV && how != Close::Cancel => Ok(()),
                other => other.map_err(|r| explained(name, Path::new(name), what(), r)),
            }
        }

        fn active(&self, name: &str) -> Result<ActiveState> {
            let what = || format!("read the mapping {name}");
            need_root(what)?;
            let refused = |r| explained(name, Path::new(name), what(), r);
            let mut session = Session::by_name(name, None, None).map_err(refused)?;
            let seen = session.active(name).map_err(refused)?;
            let flags = OpenFlags::from_bits_retain(seen.flags);
            Ok(ActiveState::new(Sectors(seen.offset), Sectors(seen.size), flags))
        }

        fn suspend(&self, name: &str) -> Result<()> {
            let what = || format!("suspend {name}");
            need_root(what)?;
            let refused = |r| explained(name, Path::new(name), what(), r);
            Session::by_name(name, None, None).and_then(|mut s| s.suspend(name)).map_err(refused)
        }

        fn resume(&self, open: &MappingState, header: Option<&Path>, key: &Key) -> Result<()> {
            let name = open.name.as_str();
            let what = || format!("resume {name}");
            need_root(what)?;
            let device = PathBuf::from("/dev").join(open.device.as_deref().unwrap_or(name));
            let refused = |r| explained(name, header.unwrap_or(&device), what(), r);
            let mut session = Session::by_name(name, header, None).map_err(refused)?;
            // libcryptsetup compares them only since 2.8.5: with another volume's key everything would read as noise.
            let there = session.uuid();
            if there.as_deref() != open.uuid.as_ref().map(crate::Uuid::as_str) {
                let what = format!("its header is of volume {}", there.unwrap_or_default());
                return Err(Error::NameTaken { name: DmName::from_kernel(name), what });
            }
            let volume = Volume::of(Place { device: &device, header });
            match volume.means(&mut session, key)? {
                Means::Passphrase(slot, secret) => {
                    session.resume_by_passphrase(name, slot, secret.expose()).map(drop).map_err(refused)
                }
                Means::Volume(key) => session.resume_by_volume_key(name, key.expose()).map_err(refused),
                Means::Token(token, pin) => {
                    let pin = pin.as_ref().map(Secret::expose);
                    let resumed = session.resume_by_token(name, token, pin).map(drop);
                    resumed.map_err(|refused| volume.token_refused(&mut session, token, refused))
                }
            }
        }

        fn resize(&self, name: &str, size: Sectors, key: Option<&Key>) -> Result<()> {
            let what = || format!("resize {name}");
            need_root(what)?;
            let refused = |r: sys::Refused| match r.errno() {
                libc::EPERM if key.is_none() => Error::Unsupported(
                    "the volume key is in the kernel's keyring and not in this process: give a key to resize with",
                ),
                _ => explained(name, Path::new(name), what(), r),
            };
            let mut session = Session::by_name(name, None, None).map_err(refused)?;
            if let Some(key) = key {
                // Puts the volume key into this thread's keyring, from where the new table takes it.
                unlock(&mut session, Place::on(Path::new(name)), None, key, OpenFlags::KEYRING_KEY, &what)?;
            }
            session.resize(name, size.0).map_err(refused)
        }

        fn refresh(&self, name: &str, flags: OpenFlags, key: &Key) -> Result<()> {
            let what = || format!("refresh {name}");
            need_root(what)?;
            let refused = |r| explained(name, Path::new(name), what(), r);
            let mut session = Session::by_name(name, None, None).map_err(refused)?;
            let flags = flags | OpenFlags::REFRESH | OpenFlags::IGNORE_PERSISTENT;
            unlock(&mut session, Place::on(Path::new(name)), Some(name), key, flags, &what)
        }
    }

    /// Opens, or refreshes, or only brings the key here if there is no name.
    fn unlock(
        session: &mut Session,
        place: Place<'_>,
        name: Option<&str>,
        key: &Key,
        flags: OpenFlags,
        what: &dyn Fn() -> String,
    ) -> Result<()> {
        let (bits, volume) = (flags.bits(), Volume::of(place));
        let answer = match volume.means(session, key)? {
            Means::Passphrase(slot, secret) => {
                session.by_passphrase(name, slot, secret.expose(), bits).map(drop)
            }
            Means::Volume(key) => session.by_volume_key(name, key.expose(), bits),
            Means::Token(token, pin) => {
                let pin = pin.as_ref().map(Secret::expose);
                match session.by_token(name, token, pin, bits) {
                    Err(refused) if ![libc::EEXIST, libc::EBUSY].contains(&refused.errno()) => {
                        return Err(volume.token_refused(session, token, refused));
                    }
                    other => other.map(drop),
                }
            }
        };
        answer.map_err(|refused| match (key, refused.errno()) {
            (Key::Slot(slot, _), libc::ENOENT) => {
                Error::NoKeyslot { device: place.device.to_path_buf(), slot: *slot }
            }
            _ => explained(name.unwrap_or_default(), place.of_header(), what(), refused),
        })
    }

    /// As [`explain`], with what concerns the mapping's name.
    fn explained(name: &str, device: &Path, what: String, refused: sys::Refused) -> Error {
        match refused.errno() {
            libc::EEXIST => Error::AlreadyExists { name: DmName::from_kernel(name) },
            libc::ENODEV => Error::NotOpen { name: DmName::from_kernel(name) },
            _ => explain(device, what, refused),
        }
    }

    fn need_root(what: impl Fn() -> String) -> Result<()> {
        if sys::is_root() { Ok(()) } else { Err(Error::Permission { what: what() }) }
    }
}
