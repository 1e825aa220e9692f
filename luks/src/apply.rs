//! Steps carried out: by libcryptsetup on a live machine, in memory on a fake.

use std::fmt;
use std::path::Path;

use host::Host;

use crate::error::Result;
use crate::header::{Found, Keyslot};
use crate::plan::Step;
use crate::spec::Discards;
use crate::state::{MappingState, VolumeState};

#[cfg(feature = "libcryptsetup")]
pub(crate) use live::Live;

/// What knows and changes volumes and mappings.
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    fn mappings(&self, host: &Host) -> Result<Vec<MappingState>>;
    fn volumes(&self, host: &Host) -> Result<Vec<VolumeState>>;
    fn open(&self, device: &Path, name: &str, passphrase: &host::Secret, discards: Discards) -> Result<()>;
    fn close(&self, host: &Host, name: &str) -> Result<()>;
    /// All disks with a header, damaged ones too.
    fn scan(&self, host: &Host) -> Result<Vec<Found>>;
    /// One disk or image; `None` if this backend does not know of it.
    fn look(&self, host: &Host, device: &Path) -> Result<Option<Found>>;
    /// Whether a passphrase opens the volume.
    fn check(&self, device: &Path, passphrase: &host::Secret) -> Result<()>;
    /// The volume key in a key slot. May be called by several threads at once.
    fn derive(&self, device: &Path, slot: &Keyslot, passphrase: &host::Secret) -> Result<host::Secret>;
    /// As `open`, with the volume key.
    fn open_with_key(&self, device: &Path, name: &str, key: &host::Secret, discards: Discards) -> Result<()>;
}

/// Carries out one step. A close finds "gone already" in order.
pub(crate) fn run(backend: &dyn Backend, host: &Host, step: &Step, passphrase: &host::Secret) -> Result<()> {
    match step {
        Step::Open { name, device, discards, .. } => {
            backend.open(device, name.as_str(), passphrase, *discards)
        }
        Step::Close { name, .. } => backend.close(host, name.as_str()),
    }
}

#[cfg(feature = "libcryptsetup")]
mod live {
    use std::path::Path;

    use host::{Host, Secret};

    use super::Backend;
    use crate::error::{Error, Result};
    use crate::header::{self, Found, Header, Keyslot, Parsed};
    use crate::spec::Discards;
    use crate::state::{MappingState, VolumeState, parse_dm_uuid};
    use crate::sys;

    /// This machine's disks and kernel.
    #[derive(Debug)]
    pub(crate) struct Live;

    impl Backend for Live {
        /// From sysfs, without root and without the library: `/sys/block/dm-N/dm/{name,uuid,suspended}`, `slaves`, `holders`.
        fn mappings(&self, host: &Host) -> Result<Vec<MappingState>> {
            let tree = host.tree();
            let mut found = Vec::new();
            for entry in tree.list_opt("/sys/block").map_err(Error::Tree)? {
                let base = format!("/sys/block/{}", entry.name);
                if !entry.name.starts_with("dm-") {
                    continue;
                }
                let Some(uuid) = tree.read_opt(format!("{base}/dm/uuid")).map_err(Error::Tree)? else {
                    continue;
                };
                let Some((version, uuid)) = parse_dm_uuid(uuid.trim()) else { continue };
                let names = |dir: &str| -> Result<Vec<String>> {
                    let list = tree.list_opt(format!("{base}/{dir}")).map_err(Error::Tree)?;
                    Ok(list.into_iter().map(|e| e.name).collect())
                };
                // The link stays when the disk has gone, and leads nowhere.
                let slave = names("slaves")?.into_iter().next();
                let device = match slave {
                    Some(slave) => tree
                        .read_opt(format!("{base}/slaves/{slave}/dev"))
                        .map_err(Error::Tree)?
                        .map(|_| slave),
                    None => None,
                };
                found.push(MappingState {
                    name: tree.read(format!("{base}/dm/name")).map_err(Error::Tree)?.trim().to_owned(),
                    node: entry.name.clone(),
                    uuid,
                    version,
                    device,
                    holders: names("holders")?,
                    suspended: tree.read(format!("{base}/dm/suspended")).map_err(Error::Tree)?.trim() == "1",
                });
            }
            Ok(found)
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

        fn open(&self, device: &Path, name: &str, passphrase: &Secret, discards: Discards) -> Result<()> {
            let what = || format!("open {} as {name}", device.display());
            need_root(what)?;
            sys::activate(device, name, passphrase.expose(), discards).map_err(|r| explain(device, what(), r))
        }

        fn scan(&self, host: &Host) -> Result<Vec<Found>> {
            header::scan(host)
        }

        fn look(&self, host: &Host, device: &Path) -> Result<Option<Found>> {
            Found::look(host, device).map(Some)
        }

        fn check(&self, device: &Path, passphrase: &Secret) -> Result<()> {
            Header::check(device, passphrase)
        }

        fn derive(&self, device: &Path, slot: &Keyslot, passphrase: &Secret) -> Result<Secret> {
            let what = || format!("derive the key of {} from key slot {}", device.display(), slot.number);
            // These two the library does itself; for others it may map a device under a name that is the same for the whole process.
            let is_own = ["aes-xts-", "aes-cbc-"].iter().any(|known| slot.cipher.starts_with(known));
            let how = if is_own { sys::Derivation::Parallel } else { sys::Derivation::Alone };
            sys::volume_key(device, slot.number, passphrase.expose(), how)
                .map_err(|r| explain(device, what(), r))
        }

        fn open_with_key(&self, device: &Path, name: &str, key: &Secret, discards: Discards) -> Result<()> {
            let what = || format!("open {} as {name}", device.display());
            need_root(what)?;
            sys::activate_with_key(device, name, key, discards).map_err(|r| explain(device, what(), r))
        }

        fn close(&self, host: &Host, name: &str) -> Result<()> {
            let what = || format!("close {name}");
            need_root(what)?;
            match sys::deactivate(name) {
                Err(r) if r.source.raw_os_error() == Some(libc::EBUSY) => {
                    let holders =
                        self.mappings(host)?.into_iter().find(|m| m.name == name).map(|m| m.holders);
                    let holders = match holders.unwrap_or_default() {
                        none if none.is_empty() => "an open file or mount (see lsof and findmnt)".to_owned(),
                        some => some.join(", "),
                    };
                    Err(Error::Busy { object: format!("/dev/mapper/{name}"), holders })
                }
                // Gone already.
                Err(r) if r.source.raw_os_error() == Some(libc::ENODEV) => Ok(()),
                other => other.map_err(|r| explain(Path::new(name), what(), r)),
            }
        }
    }

    fn need_root(what: impl Fn() -> String) -> Result<()> {
        if sys::is_root() { Ok(()) } else { Err(Error::Permission { what: what() }) }
    }

    /// One errno of the library means several things; operation and log tell them apart.
    pub(crate) fn explain(device: &Path, what: String, refused: sys::Refused) -> Error {
        let device = device.to_path_buf();
        match refused.source.raw_os_error() {
            Some(libc::EPERM) if refused.log.is_none() => Error::WrongPassphrase { device },
            Some(libc::ENOENT) if refused.log.is_none() => Error::WrongPassphrase { device },
            Some(libc::ENOMEM) => Error::NoMemory { device },
            Some(libc::EINVAL) if refused.log.is_none() => Error::NotLuks { device },
            Some(libc::EBUSY) => {
                let holders = refused.log.unwrap_or_else(|| "another mapping or a mount".to_owned());
                Error::Busy { object: device.display().to_string(), holders }
            }
            _ => Error::Library { what, log: refused.log, source: refused.source },
        }
    }
}

#[cfg(feature = "libcryptsetup")]
pub(crate) use live::explain;
