//! Encrypted volumes in memory: what a test or a program without root opens and closes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host::{Host, Secret, Sectors, Signature};

use crate::apply::{Backend, Close, Opening};
use crate::error::{Error, Result};
use crate::header::{Found, Header, Version};
use crate::key::{Key, VolumeKey};
use crate::spec::{OpenFlags, Place, PlainSpec};
use crate::state::{ActiveState, MappingState, VolumeState};
use crate::{Luks, Uuid};

#[derive(Debug, Default)]
struct Inner {
    volumes: BTreeMap<String, (Uuid, Secret)>,
    mappings: BTreeMap<String, MappingState>,
    /// Size and flags of what was opened here.
    active: BTreeMap<String, (Sectors, OpenFlags)>,
    /// What goes when its holder does.
    deferred: BTreeSet<String>,
    writes: usize,
}

/// Disks and mappings in memory; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct FakeCrypt(Arc<Mutex<Inner>>);

impl FakeCrypt {
    /// No disks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a disk (`/dev/vdb`) with a volume.
    #[must_use]
    pub fn with_volume(self, device: &str, uuid: Uuid, passphrase: Secret) -> Self {
        self.lock().volumes.insert(device.to_owned(), (uuid, passphrase));
        self
    }

    /// The handle of these volumes.
    #[must_use]
    pub fn luks(&self, host: &Host) -> Luks {
        Luks::with_backend(host, Arc::new(self.clone()))
    }

    /// How often something was opened or closed.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.lock().writes
    }

    /// Puts a mapping, as others would have made it.
    pub fn put_mapping(&self, name: &str, uuid: Option<Uuid>, device: Option<&str>, holders: &[&str]) {
        let mapping = MappingState {
            name: name.to_owned(),
            node: "dm-9".to_owned(),
            version: uuid.as_ref().map(|_| Version::Luks2),
            uuid,
            device: device.map(str::to_owned),
            holders: holders.iter().map(|h| (*h).to_owned()).collect(),
            suspended: false,
        };
        self.lock().mappings.insert(name.to_owned(), mapping);
    }

    /// Lets the holders of a mapping go, as closing or unmounting would: what was to go with them goes.
    pub fn release(&self, name: &str) {
        let mut inner = self.lock();
        if inner.deferred.remove(name) {
            inner.mappings.remove(name);
        } else if let Some(mapping) = inner.mappings.get_mut(name) {
            mapping.holders.clear();
        }
    }

    /// Puts a device on top of a mapping.
    pub fn hold(&self, name: &str, holder: &str) {
        if let Some(mapping) = self.lock().mappings.get_mut(name) {
            mapping.holders.push(holder.to_owned());
        }
    }

    fn put(&self, opening: &Opening<'_>, uuid: Option<Uuid>) {
        let device = opening.device.display().to_string();
        self.put_mapping(opening.name, uuid, Some(device.trim_start_matches("/dev/")), &[]);
        self.lock().active.insert(opening.name.to_owned(), (SIZE, opening.flags));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for FakeCrypt {
    fn mappings(&self, _: &Host) -> Result<Vec<MappingState>> {
        Ok(self.lock().mappings.values().cloned().collect())
    }

    fn volumes(&self, _: &Host) -> Result<Vec<VolumeState>> {
        let inner = self.lock();
        Ok(inner
            .volumes
            .iter()
            .map(|(device, (uuid, _))| VolumeState::new(device.into(), Header::fake(uuid.clone())))
            .collect())
    }

    fn signature(&self, device: &Path) -> Result<Option<Signature>> {
        let holds = self.lock().volumes.contains_key(&device.display().to_string());
        Ok(holds.then_some(Signature::Luks))
    }

    fn detached(&self, device: &Path, header: &Path) -> Result<VolumeState> {
        let volumes = self.volumes(&Host::fake())?;
        let found = volumes.into_iter().find(|v| v.device == header);
        let found = found.ok_or_else(|| Error::NotLuks { device: header.to_path_buf() })?;
        Ok(VolumeState::new(device.to_path_buf(), found.header))
    }

    fn open(&self, opening: &Opening<'_>, key: &Key) -> Result<()> {
        let header = opening.header.unwrap_or(opening.device);
        let mut inner = self.lock();
        inner.writes += 1;
        let uuid = inner.unlock(header, key)?;
        drop(inner);
        self.put(opening, Some(uuid));
        Ok(())
    }

    fn open_plain(&self, opening: &Opening<'_>, _: &PlainSpec, _: &Key) -> Result<()> {
        self.lock().writes += 1;
        self.put(opening, None);
        Ok(())
    }

    fn scan(&self, host: &Host) -> Result<Vec<Found>> {
        let volumes = self.volumes(host)?;
        Ok(volumes.into_iter().map(|volume| Found::free(volume.device, volume.header)).collect())
    }

    fn look(&self, host: &Host, place: Place<'_>) -> Result<Option<Found>> {
        let found = self.scan(host)?.into_iter().find(|found| found.device == place.of_header());
        let header = place.header.map(Path::to_path_buf);
        Ok(found.map(|found| Found { device: place.device.to_path_buf(), header, ..found }))
    }

    fn check(&self, place: Place<'_>, passphrase: &Secret) -> Result<()> {
        self.lock().unlock(place.of_header(), &passphrase.into()).map(drop)
    }

    fn derive(&self, place: Place<'_>, key: &Key) -> Result<(Option<u32>, VolumeKey)> {
        let inner = self.lock();
        inner.unlock(place.of_header(), key)?;
        // The volume key of a fake is its passphrase.
        let right =
            inner.volumes.get(&place.of_header().display().to_string()).map(|(_, right)| right.share());
        Ok((Some(0), VolumeKey::new(right.unwrap_or_else(|| Secret::new(Vec::new())))))
    }

    fn close(&self, _: &Host, name: &str, how: Close) -> Result<()> {
        let mut inner = self.lock();
        inner.writes += 1;
        let held = inner.mappings.get(name).is_some_and(|m| !m.holders.is_empty());
        match (how, held) {
            (Close::Now, true) => {
                let holders = inner.mappings.get(name).map(|m| m.holders.join(", ")).unwrap_or_default();
                return Err(Error::Busy { object: format!("/dev/mapper/{name}"), holders });
            }
            (Close::Deferred, true) => {
                inner.deferred.insert(name.to_owned());
            }
            (Close::Cancel, _) => {
                inner.deferred.remove(name);
            }
            (_, false) => {
                inner.mappings.remove(name);
            }
        }
        Ok(())
    }

    fn active(&self, name: &str) -> Result<ActiveState> {
        let inner = self.lock();
        let (size, flags) = inner.active.get(name).copied().unwrap_or((SIZE, OpenFlags::empty()));
        Ok(ActiveState::new(Sectors(32768), size, flags))
    }

    fn suspend(&self, name: &str) -> Result<()> {
        let mut inner = self.lock();
        inner.writes += 1;
        match inner.mappings.get_mut(name) {
            Some(mapping) if mapping.uuid.is_some() => mapping.suspended = true,
            _ => return Err(Error::Unsupported("plain dm-crypt cannot be suspended")),
        }
        Ok(())
    }

    fn resume(&self, open: &MappingState, header: Option<&Path>, key: &Key) -> Result<()> {
        let mut inner = self.lock();
        inner.writes += 1;
        let device = format!("/dev/{}", open.device.as_deref().unwrap_or_default());
        inner.unlock(header.unwrap_or(Path::new(&device)), key)?;
        if let Some(mapping) = inner.mappings.get_mut(&open.name) {
            mapping.suspended = false;
        }
        Ok(())
    }

    fn resize(&self, name: &str, size: Sectors, key: Option<&Key>) -> Result<()> {
        let mut inner = self.lock();
        inner.writes += 1;
        let device = inner.device_of(name);
        match key {
            Some(key) => drop(inner.unlock(Path::new(&device), key)?),
            None => return Err(Error::Unsupported("give a key to resize with")),
        }
        let entry = inner.active.entry(name.to_owned()).or_insert((SIZE, OpenFlags::empty()));
        entry.0 = if size == Sectors(0) { SIZE } else { size };
        Ok(())
    }

    fn refresh(&self, name: &str, flags: OpenFlags, key: &Key) -> Result<()> {
        let mut inner = self.lock();
        inner.writes += 1;
        let device = inner.device_of(name);
        inner.unlock(Path::new(&device), key)?;
        inner.active.entry(name.to_owned()).or_insert((SIZE, flags)).1 = flags;
        Ok(())
    }
}

/// The size of a mapping that nobody resized: that of a disk of 256 MiB without its header.
const SIZE: Sectors = Sectors((256 - 16) * 2048);

impl Inner {
    fn device_of(&self, name: &str) -> String {
        let device = self.mappings.get(name).and_then(|m| m.device.clone());
        format!("/dev/{}", device.unwrap_or_default())
    }

    fn unlock(&self, device: &Path, key: &Key) -> Result<Uuid> {
        let Some((uuid, right)) = self.volumes.get(&device.display().to_string()) else {
            return Err(Error::NotLuks { device: device.to_path_buf() });
        };
        let device = device.to_path_buf();
        match key {
            Key::Passphrase(secret) | Key::Slot(0, secret) if secret == right => Ok(uuid.clone()),
            Key::Passphrase(_) | Key::Slot(0, _) => Err(Error::WrongPassphrase { device }),
            Key::Slot(slot, _) => Err(Error::NoKeyslot { device, slot: *slot }),
            Key::Token { number, .. } => Err(Error::NoToken { device, token: *number }),
            // The volume key of a volume in memory is its passphrase.
            Key::Volume(key) if key.secret() == right => Ok(uuid.clone()),
            Key::Volume(_) => Err(Error::WrongPassphrase { device }),
            Key::Keyring(_) => Err(Error::Unsupported("volumes in memory know no keyring")),
        }
    }
}
