//! What is wanted: a resource with its volumes and its connection.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::{DiskOptions, Error, Minor, NetOptions, ResourceName, ResourceOptions, Volume};

/// A resource that shall be there: volumes with their disks, and the connection to the peer.
///
/// ```
/// use drbd::{DiskOptions, Minor, NetOptions, Protocol, ResourceSpec, Volume, VolumeSpec};
/// let r0 = ResourceSpec::new("r0".parse()?, "10.0.0.1:7801".parse()?, "10.0.0.2:7801".parse()?)
///     .with_volume(VolumeSpec::new(Volume(0), Minor::new(0)?, "/dev/mapper/crypt0"))
///     .with_net(NetOptions::new().with_protocol(Protocol::B))
///     .with_disk(DiskOptions::new().with("al-extents", "6433")?);
/// assert_eq!(r0.volumes[0].disk, std::path::Path::new("/dev/mapper/crypt0"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ResourceSpec {
    /// Its name.
    pub name: ResourceName,
    /// This node's address and port. Each resource has a port of its own.
    pub local: SocketAddr,
    /// The peer's.
    pub peer: SocketAddr,
    /// Its volumes.
    pub volumes: Vec<VolumeSpec>,
    /// Options of the connection.
    pub net: NetOptions,
    /// Options of the disks of all volumes that have none of their own.
    pub disk: DiskOptions,
    /// Options of the resource.
    pub options: ResourceOptions,
}

impl ResourceSpec {
    /// A resource between two addresses, without volumes.
    #[must_use]
    pub fn new(name: ResourceName, local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            name,
            local,
            peer,
            volumes: Vec::new(),
            net: NetOptions::new(),
            disk: DiskOptions::new(),
            options: ResourceOptions::new(),
        }
    }

    /// Adds a volume.
    #[must_use]
    pub fn with_volume(mut self, volume: VolumeSpec) -> Self {
        self.volumes.push(volume);
        self
    }

    /// Sets the options of the connection.
    #[must_use]
    pub fn with_net(mut self, net: NetOptions) -> Self {
        self.net = net;
        self
    }

    /// Sets the options of the disks of all volumes that have none of their own.
    #[must_use]
    pub fn with_disk(mut self, disk: DiskOptions) -> Self {
        self.disk = disk;
        self
    }

    /// Sets the options of the resource.
    #[must_use]
    pub fn with_resource_options(mut self, options: ResourceOptions) -> Self {
        self.options = options;
        self
    }

    /// The options of a volume's disk: its own, else the resource's.
    #[must_use]
    pub fn disk_options<'a>(&'a self, volume: &'a VolumeSpec) -> &'a DiskOptions {
        volume.options.as_ref().unwrap_or(&self.disk)
    }

    /// Checks what can be checked without a kernel: duplicate numbers, paths that are too long, addresses that do not fit, and
    /// combinations of options that the kernel refuses.
    ///
    /// # Errors
    /// [`Error::Spec`] says what is wrong and what would be right; [`Error::Option`] names an option that only DRBD 9 has.
    pub fn check(&self) -> Result<(), Error> {
        self.net.check_84()?;
        self.options.check_84()?;
        let disks = self.volumes.iter().filter_map(|volume| volume.options.as_ref());
        std::iter::once(&self.disk).chain(disks).try_for_each(DiskOptions::check_84)?;
        let wrong = |reason: String| Err(Error::Spec { name: self.name.clone(), reason });
        if self.local == self.peer {
            return wrong(format!("both ends have the address {}", self.local));
        }
        if self.local.is_ipv4() != self.peer.is_ipv4() {
            return wrong(format!("{} and {} are of different kinds", self.local, self.peer));
        }
        if self.local.port() == 0 || self.peer.port() == 0 {
            return wrong("an address has port 0; give each resource a port, for example 7788".to_owned());
        }
        check_volumes(&self.name, &self.volumes)?;
        for volume in &self.volumes {
            let fencing = self.disk_options(volume).get("fencing");
            if fencing.as_deref() == Some("resource-and-stonith")
                && self.net.get("protocol").as_deref() == Some("A")
            {
                return wrong("fencing resource-and-stonith needs protocol B or C".to_owned());
            }
        }
        self.check_net().or_else(wrong)
    }

    fn check_net(&self) -> Result<(), String> {
        let number = |name| self.net.get(name).and_then(|text| text.parse::<u32>().ok()).unwrap_or_default();
        let protocol = self.net.get("protocol").unwrap_or_default();
        let timeout = number("timeout");
        if self.net.two_primaries() && protocol != "C" {
            return Err("allow-two-primaries needs protocol C".to_owned());
        }
        if self.net.get("on-congestion").as_deref() == Some("pull-ahead") && protocol != "A" {
            return Err("on-congestion pull-ahead needs protocol A".to_owned());
        }
        // drbd.conf(5): the peer must not seem dead before it was asked for a sign of life.
        for name in ["connect-int", "ping-int"] {
            if timeout >= number(name).saturating_mul(10) {
                return Err(format!(
                    "timeout {timeout} (0.1 s) must be less than {name} {} (s)",
                    number(name)
                ));
            }
        }
        if self.net.shared_secret().is_some()
            && self.net.get("cram-hmac-alg").is_none_or(|alg| alg.is_empty())
        {
            return Err("shared-secret is not used without cram-hmac-alg; set that too, for example sha256"
                .to_owned());
        }
        Ok(())
    }
}

/// Duplicate numbers and disks, and paths that are too long.
pub(crate) fn check_volumes(name: &ResourceName, volumes: &[VolumeSpec]) -> Result<(), Error> {
    let wrong = |reason: String| Err(Error::Spec { name: name.clone(), reason });
    for (index, volume) in volumes.iter().enumerate() {
        let before = volumes.get(..index).unwrap_or_default();
        if before.iter().any(|v| v.volume == volume.volume) {
            return wrong(format!("volume {} is given twice", volume.volume));
        }
        if before.iter().any(|v| v.minor == volume.minor) {
            return wrong(format!("minor {} is given twice", volume.minor));
        }
        if before.iter().any(|v| v.disk == volume.disk) {
            return wrong(format!("the disk {} is given twice", volume.disk.display()));
        }
        for path in [volume.disk.as_path(), volume.meta.device(&volume.disk)] {
            let bytes = path.as_os_str().len();
            if !path.is_absolute() || bytes > 127 || path.to_str().is_none() {
                let path = path.display();
                return wrong(format!("{path} is no absolute path of at most 127 bytes of UTF-8"));
            }
        }
    }
    Ok(())
}

/// A volume of a resource: a device `/dev/drbdN` over a disk of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct VolumeSpec {
    /// Its number, the same on both nodes.
    pub volume: Volume,
    /// Its device. May differ between the nodes.
    pub minor: Minor,
    /// Its disk, an absolute path.
    pub disk: PathBuf,
    /// Where its metadata is.
    pub meta: MetaDisk,
    /// Options of its disk, instead of the resource's.
    pub options: Option<DiskOptions>,
}

impl VolumeSpec {
    /// A volume with its metadata at the end of its disk.
    #[must_use]
    pub fn new(volume: Volume, minor: Minor, disk: impl Into<PathBuf>) -> Self {
        Self { volume, minor, disk: disk.into(), meta: MetaDisk::Internal, options: None }
    }

    /// Puts the metadata elsewhere.
    #[must_use]
    pub fn with_meta(mut self, meta: MetaDisk) -> Self {
        self.meta = meta;
        self
    }

    /// Gives its disk options of its own, instead of the resource's.
    #[must_use]
    pub fn with_options(mut self, options: DiskOptions) -> Self {
        self.options = Some(options);
        self
    }
}

/// Where a volume's metadata is (`meta-disk` of drbd.conf).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum MetaDisk {
    /// At the end of the disk itself.
    #[default]
    Internal,
    /// On a device of its own, as large as it needs.
    External(PathBuf),
    /// On a device that several share, in the n-th piece of 128 MiB.
    Indexed(PathBuf, u16),
}

impl MetaDisk {
    /// `DRBD_MD_INDEX_FLEX_INT` (include/linux/drbd.h).
    pub(crate) const INTERNAL: i32 = -3;
    /// `DRBD_MD_INDEX_FLEX_EXT`.
    const EXTERNAL: i32 = -2;

    pub(crate) fn from_index(device: PathBuf, index: i32) -> Self {
        match u16::try_from(index) {
            Ok(index) => Self::Indexed(device, index),
            Err(_) if index == Self::EXTERNAL => Self::External(device),
            Err(_) => Self::Internal,
        }
    }

    pub(crate) fn index(&self) -> i32 {
        match self {
            Self::Internal => Self::INTERNAL,
            Self::External(_) => Self::EXTERNAL,
            Self::Indexed(_, index) => i32::from(*index),
        }
    }

    /// The device that holds the metadata of this disk.
    pub(crate) fn device<'a>(&'a self, disk: &'a Path) -> &'a Path {
        match self {
            Self::Internal => disk,
            Self::External(device) | Self::Indexed(device, _) => device,
        }
    }

    /// The words that drbdmeta and drbdsetup take for it: device and index.
    pub(crate) fn words(&self, disk: &Path) -> (String, String) {
        match self {
            Self::Internal => (disk.display().to_string(), "internal".to_owned()),
            Self::External(device) => (device.display().to_string(), "flex-external".to_owned()),
            Self::Indexed(device, index) => (device.display().to_string(), index.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ResourceSpec {
        let minor = Minor::new(0).expect("small");
        let address = |text: &str| text.parse().expect("an address");
        ResourceSpec::new("r0".parse().expect("a name"), address("10.0.0.1:7801"), address("10.0.0.2:7801"))
            .with_volume(VolumeSpec::new(Volume(0), minor, "/dev/vda"))
    }

    #[test]
    fn a_good_spec_passes() {
        spec().check().expect("good");
    }

    #[test]
    fn mistakes_are_named() -> Result<(), Error> {
        let again = spec().volumes.remove(0);
        let net = |name: &str, value: &str| spec().net.with(name, value);
        for (bad, expected) in [
            (spec().with_volume(again), "volume 0 is given twice"),
            (ResourceSpec { peer: spec().local, ..spec() }, "both ends"),
            (
                ResourceSpec { volumes: vec![VolumeSpec::new(Volume(0), Minor::MAX, "vda")], ..spec() },
                "absolute path",
            ),
            (spec().with_net(net("timeout", "100")?), "less than connect-int 10"),
            (spec().with_net(net("protocol", "A")?.with("allow-two-primaries", "yes")?), "needs protocol C"),
            (spec().with_net(net("shared-secret", "x")?), "cram-hmac-alg"),
        ] {
            let error = bad.check().expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        Ok(())
    }

    #[test]
    fn metadata_indexes_are_the_kernels() {
        for meta in
            [MetaDisk::Internal, MetaDisk::External("/dev/m".into()), MetaDisk::Indexed("/dev/m".into(), 2)]
        {
            assert_eq!(MetaDisk::from_index("/dev/m".into(), meta.index()), meta);
        }
    }
}
