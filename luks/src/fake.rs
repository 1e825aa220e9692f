//! Encrypted volumes in memory: what a test or a program without root opens and closes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host::{Host, Secret};

use crate::apply::Backend;
use crate::error::{Error, Result};
use crate::header::{Found, Header, Keyslot, Version};
use crate::spec::Discards;
use crate::state::{MappingState, VolumeState};
use crate::{Luks, Uuid};

#[derive(Debug, Default)]
struct Inner {
    volumes: BTreeMap<String, (Uuid, Secret)>,
    mappings: BTreeMap<String, MappingState>,
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

    fn open(&self, device: &Path, name: &str, passphrase: &Secret, _: Discards) -> Result<()> {
        let mut inner = self.lock();
        inner.writes += 1;
        let shown = device.display().to_string();
        let Some((uuid, right)) = inner.volumes.get(&shown) else {
            return Err(Error::NotLuks { device: device.to_path_buf() });
        };
        if right != passphrase {
            return Err(Error::WrongPassphrase { device: device.to_path_buf() });
        }
        let uuid = uuid.clone();
        drop(inner);
        self.put_mapping(name, Some(uuid), Some(shown.trim_start_matches("/dev/")), &[]);
        Ok(())
    }

    fn scan(&self, host: &Host) -> Result<Vec<Found>> {
        let volumes = self.volumes(host)?;
        Ok(volumes.into_iter().map(|volume| Found::free(volume.device, volume.header)).collect())
    }

    fn look(&self, host: &Host, device: &Path) -> Result<Option<Found>> {
        Ok(self.scan(host)?.into_iter().find(|found| found.device == device))
    }

    fn check(&self, device: &Path, passphrase: &Secret) -> Result<()> {
        match self.lock().volumes.get(&device.display().to_string()) {
            None => Err(Error::NotLuks { device: device.to_path_buf() }),
            Some((_, right)) if right == passphrase => Ok(()),
            Some(_) => Err(Error::WrongPassphrase { device: device.to_path_buf() }),
        }
    }

    fn derive(&self, device: &Path, _: &Keyslot, passphrase: &Secret) -> Result<Secret> {
        // The volume key of a fake is its passphrase.
        self.check(device, passphrase).map(|()| passphrase.share())
    }

    fn open_with_key(&self, device: &Path, name: &str, key: &Secret, discards: Discards) -> Result<()> {
        self.open(device, name, key, discards)
    }

    fn close(&self, _: &Host, name: &str) -> Result<()> {
        let mut inner = self.lock();
        inner.writes += 1;
        match inner.mappings.get(name) {
            Some(mapping) if !mapping.holders.is_empty() => Err(Error::Busy {
                object: format!("/dev/mapper/{name}"),
                holders: mapping.holders.join(", "),
            }),
            _ => {
                inner.mappings.remove(name);
                Ok(())
            }
        }
    }
}
