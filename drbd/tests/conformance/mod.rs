//! What holds on the fake and on a real kernel alike: plain functions over a [`Bench`].
//!
//! Two resources of one kernel are each other's peers over 127.0.0.1: `here` and `there`.
#![allow(dead_code)] // Two test programs include this, and each uses a part.

pub(crate) mod cases;
pub(crate) mod metadata;
pub(crate) mod operate;
pub(crate) mod options;
pub(crate) mod split_brain;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use drbd::fake::FakeDrbd;
use drbd::{
    Deadline, DiskOptions, Drbd, Host, Metadata, Minor, NetOptions, Overwrite, Promote, ResourceName,
    ResourceSpec, ResourceState, Volume, VolumeSpec,
};

/// Why a test failed: the whole chain of causes.
pub(crate) struct Failure(String);

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            text.push_str(": ");
            text.push_str(&source.to_string());
            next = source.source();
        }
        Self(text)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) type Outcome = Result<(), Failure>;

/// A machine to test on.
pub(crate) struct Bench {
    pub(crate) host: Host,
    /// Four disks of the same size whose content may be lost.
    pub(crate) disks: Vec<PathBuf>,
    /// The fake, if it is one.
    pub(crate) fake: Option<FakeDrbd>,
    /// Whether drbd-utils is installed.
    pub(crate) has_tools: bool,
}

/// A test: its name and what it does.
pub(crate) type Case = (&'static str, fn(&Bench) -> Outcome);

impl Bench {
    /// A machine in memory.
    pub(crate) fn fake() -> Self {
        let fake = FakeDrbd::new();
        fake.set_sync_steps(10);
        let disks: Vec<_> = (b'a'..=b'd').map(|c| format!("/dev/vd{}", char::from(c))).collect();
        disks.iter().for_each(|path| fake.add_disk(path, drbd::Bytes(256 << 20)));
        let disks = disks.into_iter().map(PathBuf::from).collect();
        Self { host: fake.host(), disks, fake: Some(fake), has_tools: false }
    }

    /// This machine.
    pub(crate) fn kernel() -> Self {
        // By the lab's names: what /dev/vda is differs between its guests, and in some it holds the root file system.
        let disks = (0..4).map(|n| PathBuf::from(format!("/dev/disk/by-id/virtio-t{n}"))).collect();
        let host = Host::live();
        let has_tools = std::path::Path::new("/usr/sbin/drbdmeta").exists();
        Self { host, disks, fake: None, has_tools }
    }

    pub(crate) fn drbd(&self) -> drbd::Result<Drbd> {
        let drbd = Drbd::on(&self.host)?;
        // No drbd.conf names these resources: drbdadm would fail, and the kernel drop the connection.
        drbd.set_helper(std::path::Path::new("/nonexistent"))?;
        Ok(drbd)
    }

    /// Takes everything down.
    pub(crate) fn clean(&self) -> Outcome {
        let drbd = self.drbd()?;
        for state in drbd.list()? {
            if state.is_primary() {
                drbd.demote(&state.name)?;
            }
            drbd.remove(&state.name)?;
        }
        Ok(())
    }

    /// New metadata on the disks of a resource.
    pub(crate) fn create_metadata(&self, spec: &ResourceSpec) -> Outcome {
        for volume in &spec.volumes {
            Metadata::create(&self.host, volume, Overwrite::Always)?;
        }
        Ok(())
    }

    /// The two ends of a pair of resources with one volume each.
    pub(crate) fn pair(&self, port: u16) -> Result<(ResourceSpec, ResourceSpec), Failure> {
        let (here, there) = (address(port), address(port + 1));
        let volume = |minor: u32, disk: usize| -> Result<_, Failure> {
            Ok(VolumeSpec::new(Volume(0), Minor::new(minor)?, &self.disks[disk]))
        };
        let make = |name: &str, local, peer| -> Result<_, Failure> {
            Ok(ResourceSpec::new(name.parse()?, local, peer).with_net(net()?).with_disk(disk()?))
        };
        let here_spec = make("here", here, there)?.with_volume(volume(0, 0)?);
        let there_spec = make("there", there, here)?.with_volume(volume(1, 1)?);
        Ok((here_spec, there_spec))
    }

    /// A pair that is up and connected, with new disks.
    pub(crate) fn up(&self, port: u16) -> Result<(Drbd, ResourceSpec, ResourceSpec), Failure> {
        self.clean()?;
        let (here, there) = self.pair(port)?;
        self.create_metadata(&here)?;
        self.create_metadata(&there)?;
        let drbd = self.drbd()?;
        assert!(drbd.ensure(&here)?);
        assert!(drbd.ensure(&there)?);
        drbd.wait_connected(&here.name, soon())?;
        drbd.wait_connected(&there.name, soon())?;
        Ok((drbd, here, there))
    }

    /// A pair in sync, `here` Primary.
    pub(crate) fn synced(&self, port: u16) -> Result<(Drbd, ResourceSpec, ResourceSpec), Failure> {
        let (drbd, here, there) = self.up(port)?;
        drbd.promote(&here.name, Promote::Force)?;
        drbd.wait_synced(&here.name, later(), |_| {})?;
        drbd.wait_synced(&there.name, later(), |_| {})?;
        Ok((drbd, here, there))
    }

    /// Changes asked of the fake; a kernel does not count.
    pub(crate) fn changes(&self) -> usize {
        self.fake.as_ref().map_or(0, FakeDrbd::changes)
    }
}

pub(crate) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Options that make tests quick.
pub(crate) fn net() -> drbd::Result<NetOptions> {
    NetOptions::new()
        .with("ping-int", "7")?
        .with("connect-int", "7")?
        .with("cram-hmac-alg", "sha1")?
        .with_shared_secret(&drbd::Secret::from("lab"))
}

/// A resync of a part of the disk that takes a few seconds.
pub(crate) fn disk() -> drbd::Result<DiskOptions> {
    DiskOptions::new().with("size", "32M")?.with("c-plan-ahead", "0")?.with("resync-rate", "8M")
}

/// Makes a node Secondary; udev may look at a device for a moment after its size changed or a writer closed it.
pub(crate) fn demoted(drbd: &Drbd, name: &ResourceName) -> Outcome {
    operate::until(|| match drbd.demote(name) {
        Ok(()) => Ok(true),
        Err(error) if error.is_busy() => Ok(false),
        Err(error) => Err(error.into()),
    })
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

pub(crate) fn later() -> Deadline {
    Deadline::after(Duration::from_secs(150))
}

/// A resource that must be there.
pub(crate) fn seen(drbd: &Drbd, name: &ResourceName) -> Result<ResourceState, Failure> {
    Ok(drbd
        .get(name)?
        .ok_or_else(|| drbd::ParseError::new("resource", name.to_string(), "it is not there"))?)
}

/// All cases, in the order to run them.
pub(crate) fn all() -> Vec<Case> {
    let mut all = cases::ALL.to_vec();
    all.extend_from_slice(options::ALL);
    all.extend_from_slice(metadata::ALL);
    all.extend_from_slice(operate::ALL);
    all.extend_from_slice(split_brain::ALL);
    all
}
