//! What is wanted of DRBD 9: a resource with its volumes, and any number of peers.

use std::net::SocketAddr;

use super::NodeId;
use crate::spec::check_volumes;
use crate::{DiskOptions, Error, NetOptions, ResourceName, ResourceOptions, VolumeSpec};

/// A resource of DRBD 9 that shall be there.
///
/// ```
/// use drbd::nine::{NodeId, PeerSpec, ResourceSpec, diff};
/// use drbd::{DiskOptions, Minor, Volume, VolumeSpec};
/// let path = ("10.0.0.1:7000".parse()?, "10.0.0.2:7000".parse()?);
/// let r0 = ResourceSpec::new("r0".parse()?, NodeId(0))
///     .with_volume(VolumeSpec::new(Volume(0), Minor::new(0)?, "/dev/vdb"))
///     .with_disk(DiskOptions::new().with("c-max-rate", "40M")?)
///     .with_peer(PeerSpec::new(NodeId(1), "n2").with_path(path.0, path.1));
/// let plan = diff(None, &r0)?.to_string();
/// assert_eq!(plan.lines().nth(4), Some("  5. drbdsetup peer-device-options r0 1 0 --c-max-rate=40960"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ResourceSpec {
    /// Its name.
    pub name: ResourceName,
    /// This node's number in it.
    pub node: NodeId,
    /// Its volumes.
    pub volumes: Vec<VolumeSpec>,
    /// The other nodes.
    pub peers: Vec<PeerSpec>,
    /// Options of the disks of all volumes that have none of their own, and of these volumes at all peers: DRBD 9 keeps the speed of a
    /// resync by peer, drbd.conf has it here.
    pub disk: DiskOptions,
    /// Options of the resource.
    pub options: ResourceOptions,
}

/// Another node of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PeerSpec {
    /// Its number.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// The ways to it: this node's address, and the peer's.
    pub paths: Vec<(SocketAddr, SocketAddr)>,
    /// Options of the connection.
    pub net: NetOptions,
    /// Options of the volumes at this peer; those that are set count more than the resource's and the volumes'.
    pub disk: DiskOptions,
}

impl ResourceSpec {
    /// A resource without volumes and peers.
    #[must_use]
    pub fn new(name: ResourceName, node: NodeId) -> Self {
        Self {
            name,
            node,
            volumes: Vec::new(),
            peers: Vec::new(),
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

    /// Adds a peer.
    #[must_use]
    pub fn with_peer(mut self, peer: PeerSpec) -> Self {
        self.peers.push(peer);
        self
    }

    /// Sets the options of the disks, here and at the peers.
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
    pub(super) fn disk_options<'a>(&'a self, volume: &'a VolumeSpec) -> &'a DiskOptions {
        volume.options.as_ref().unwrap_or(&self.disk)
    }

    /// Checks what can be checked without a module: numbers given twice or out of range, paths that do not fit, options that only 8.4 has.
    ///
    /// # Errors
    /// [`Error::Spec`] says what is wrong, [`Error::Option`] names an option that DRBD 9 does not have.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |reason: String| Err(Error::Spec { name: self.name.clone(), reason });
        self.options.check_9()?;
        let own = self.volumes.iter().filter_map(|volume| volume.options.as_ref());
        let peers = self.peers.iter().map(|peer| &peer.disk);
        std::iter::once(&self.disk).chain(own).chain(peers).try_for_each(DiskOptions::check_9)?;
        check_volumes(&self.name, &self.volumes)?;
        let mut nodes = vec![self.node];
        for peer in &self.peers {
            peer.net.check_9()?;
            let node = peer.node;
            if nodes.contains(&node) {
                return wrong(format!("the node id {node} is given twice"));
            }
            nodes.push(node);
            if peer.paths.is_empty() {
                return wrong(format!("the peer {node} ({}) has no path", peer.name));
            }
            if let Some((local, remote)) = peer.paths.iter().find(|(a, b)| a.is_ipv4() != b.is_ipv4()) {
                return wrong(format!("{local} and {remote} are of different kinds"));
            }
        }
        match nodes.iter().find(|node| node.0 > 31) {
            Some(node) => wrong(format!("the node id {node}: it takes 0 to 31")),
            None => Ok(()),
        }
    }
}

impl PeerSpec {
    /// A peer without paths.
    #[must_use]
    pub fn new(node: NodeId, name: impl Into<String>) -> Self {
        Self { node, name: name.into(), paths: Vec::new(), net: NetOptions::new(), disk: DiskOptions::new() }
    }

    /// Adds a way to it: this node's address, and the peer's.
    #[must_use]
    pub fn with_path(mut self, local: SocketAddr, peer: SocketAddr) -> Self {
        self.paths.push((local, peer));
        self
    }

    /// Sets the options of the connection.
    #[must_use]
    pub fn with_net(mut self, net: NetOptions) -> Self {
        self.net = net;
        self
    }

    /// Gives the volumes options of their own at this peer.
    #[must_use]
    pub fn with_disk(mut self, disk: DiskOptions) -> Self {
        self.disk = disk;
        self
    }
}
