//! DRBD 9, the module from outside of the kernel (family `drbd` version 2): its commands, and resources with any number of peers.
//!
//! States and events of DRBD 9 come by the same calls as those of 8.4: [`Drbd::list`], [`Drbd::get`], [`Drbd::watch`]; [`Drbd::remove`] and what
//! waits are the same too. Its commands address peers by node ids and have parameters of their own, so they are a type of their own, carried
//! out by [`Drbd::run_9`], and so are specs and plans ([`Drbd::ensure_9`]) and the end of a split brain ([`Drbd::recover_9`]).
//! [`Drbd::promote`] and [`Drbd::demote`] are for both. What else moves 8.4 refuses DRBD 9 with [`Error::Unsupported`].
//!
//! # How far it is tested
//! Each kind of [`Command`] is compared byte for byte with what drbdsetup 9.22 sent to a DRBD 9.3.3, and the module's answers are read. Plans
//! are line for line those of drbdadm 9.22. **Untested**, for lack of a recording: of `invalidate` the choice between several peers that have
//! data, keys for TLS, RDMA, IPv6 paths, and options that no recording sets.
//!
//! By hand, on Linux 6.1 with a DRBD 9.3.3 built from LINBIT's sources, two machines: one set up by this crate and one by drbdadm, each seeing
//! nothing to adjust in the other's; used while the first sync ran; a planted difference found by verify; options changed behind its back
//! brought back; a second path added and taken away; a split brain told; the module unloaded.

mod plan;
mod recover;
mod spec;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use host::Deadline;
use host::nl::genl::Family;
use host::nl::{Message, NESTED};

use crate::link::About;
use crate::plan::Shown;
use crate::wire::{
    Command as Wire, Context, MANDATORY, NO_MINOR, SET_DEFAULTS, encode_address, nest, request,
};
use crate::{
    Bitmap, Detach, Dialect, DiskOptions, Drbd, Error, MetaDisk, Minor, NetOptions, ResourceName,
    ResourceOptions, Result, Sectors, Volume,
};

pub use plan::{Step, diff};
pub use spec::{PeerSpec, ResourceSpec};

/// The number of a node in a resource, 0 to 31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodeId(pub u8);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A peer of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Peer {
    /// The resource.
    pub resource: ResourceName,
    /// The peer's node id.
    pub node: NodeId,
}

impl Peer {
    /// A peer of a resource.
    #[must_use]
    pub fn new(resource: ResourceName, node: NodeId) -> Self {
        Self { resource, node }
    }

    fn context(&self) -> Context {
        Context::peer(self.resource.as_str(), self.node.0.into())
    }
}

/// Whether a command insists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Force {
    /// Only as it is safe.
    #[default]
    No,
    /// In any case.
    Yes,
}

/// How a connection is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Connecting {
    /// To stay.
    #[default]
    Usual,
    /// Only to find out which way a resync would go.
    Tentative,
    /// This node's changes are thrown away.
    DiscardMyData,
}

/// A command of DRBD 9. `Display` is the line of drbdsetup that does the same; secrets are `***` in it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Command {
    /// Makes a resource; this node has the given id in it (`new-resource`).
    NewResource(ResourceName, NodeId, ResourceOptions),
    /// Deletes a resource (`del-resource`).
    DelResource(ResourceName),
    /// Gives a resource another name (`rename-resource`).
    Rename(ResourceName, ResourceName),
    /// Sets options of a resource; those that are not given stay (`resource-options`).
    ResourceOptions(ResourceName, ResourceOptions),
    /// As above; those that are not given become the defaults (`resource-options --set-defaults`).
    AllResourceOptions(ResourceName, ResourceOptions),
    /// Takes a resource down (`down`).
    Down(ResourceName),
    /// Makes this node Primary (`primary`).
    Primary(ResourceName, Force),
    /// Makes this node Secondary (`secondary`).
    Secondary(ResourceName, Force),
    /// Makes a volume; of the options those of the device count (`new-minor`).
    NewMinor(ResourceName, Volume, Minor, DiskOptions),
    /// Deletes a device (`del-minor`).
    DelMinor(Minor),
    /// Gives a device its disk (`attach`).
    Attach(Minor, PathBuf, MetaDisk, DiskOptions),
    /// Takes it away (`detach`).
    Detach(Minor, Detach),
    /// Sets options of a disk; those that are not given stay (`disk-options`).
    DiskOptions(Minor, DiskOptions),
    /// Takes the size of the disks over, or the given one (`resize`).
    Resize(Minor, Option<Sectors>),
    /// Declares this node's data of no use, and takes it from the given node or any (`invalidate`).
    Invalidate(Minor, Option<NodeId>),
    /// Declares a peer's data of no use (`invalidate-remote`).
    InvalidatePeer(Peer, Volume),
    /// Declares this node's data outdated (`outdate`).
    Outdate(Minor),
    /// Begins a new generation of the data (`new-current-uuid`).
    NewCurrentUuid(Minor, Bitmap),
    /// Lets I/O wait (`suspend-io`).
    SuspendIo(Minor),
    /// Lets it go on (`resume-io`).
    ResumeIo(Minor),
    /// Makes a peer: its name (`_name`), protocol and other options (`new-peer`).
    NewPeer(Peer, NetOptions),
    /// Deletes it (`del-peer`).
    DelPeer(Peer, Force),
    /// Sets options of a connection; those that are not given stay (`net-options`).
    NetOptions(Peer, NetOptions),
    /// Adds a way to a peer: this node's address and the peer's (`new-path`).
    NewPath(Peer, SocketAddr, SocketAddr),
    /// Removes it (`del-path`).
    DelPath(Peer, SocketAddr, SocketAddr),
    /// Sets the options of a volume at a peer: resync speed and the like (`peer-device-options`).
    PeerDeviceOptions(Peer, Volume, DiskOptions),
    /// Begins to connect (`connect`).
    Connect(Peer, Connecting),
    /// Ends the connection (`disconnect`).
    Disconnect(Peer, Force),
    /// Forgets a peer that will not come back: its bitmap becomes free (`forget-peer`).
    ForgetPeer(Peer),
    /// Begins a verify, from and to a sector (`verify`).
    Verify(Peer, Volume, Option<Sectors>, Option<Sectors>),
    /// Pauses a resync (`pause-sync`).
    PauseSync(Peer, Volume),
    /// Lets it go on (`resume-sync`).
    ResumeSync(Peer, Volume),
}

impl Command {
    pub(crate) fn wire(&self) -> Wire {
        match self {
            Self::NewResource(..) => Wire::NEW_RESOURCE,
            Self::DelResource(_) => Wire::DEL_RESOURCE,
            Self::Rename(..) => Wire::RENAME_RESOURCE,
            Self::ResourceOptions(..) | Self::AllResourceOptions(..) => Wire::RESOURCE_OPTS,
            Self::Down(_) => Wire::DOWN,
            Self::Primary(..) => Wire::PRIMARY,
            Self::Secondary(..) => Wire::SECONDARY,
            Self::NewMinor(..) => Wire::NEW_MINOR,
            Self::DelMinor(_) => Wire::DEL_MINOR,
            Self::Attach(..) => Wire::ATTACH,
            Self::Detach(..) => Wire::DETACH,
            Self::DiskOptions(..) => Wire::CHG_DISK_OPTS,
            Self::Resize(..) => Wire::RESIZE,
            Self::Invalidate(..) => Wire::INVALIDATE,
            Self::InvalidatePeer(..) => Wire::INVAL_PEER,
            Self::Outdate(_) => Wire::OUTDATE,
            Self::NewCurrentUuid(..) => Wire::NEW_C_UUID,
            Self::SuspendIo(_) => Wire::SUSPEND_IO,
            Self::ResumeIo(_) => Wire::RESUME_IO,
            Self::NewPeer(..) => Wire::NEW_PEER,
            Self::DelPeer(..) => Wire::DEL_PEER,
            Self::NetOptions(..) => Wire::CHG_NET_OPTS,
            Self::NewPath(..) => Wire::NEW_PATH,
            Self::DelPath(..) => Wire::DEL_PATH,
            Self::PeerDeviceOptions(..) => Wire::CHG_PEER_DEVICE_OPTS,
            Self::Connect(..) => Wire::CONNECT,
            Self::Disconnect(..) => Wire::DISCONNECT,
            Self::ForgetPeer(_) => Wire::FORGET_PEER,
            Self::Verify(..) => Wire::START_OV,
            Self::PauseSync(..) => Wire::PAUSE_SYNC,
            Self::ResumeSync(..) => Wire::RESUME_SYNC,
        }
    }

    /// The device it is about, if its message names one.
    fn minor(&self) -> Option<Minor> {
        match self {
            Self::NewMinor(_, _, minor, _)
            | Self::DelMinor(minor)
            | Self::Attach(minor, ..)
            | Self::Detach(minor, _)
            | Self::DiskOptions(minor, _)
            | Self::Resize(minor, _)
            | Self::Invalidate(minor, _)
            | Self::Outdate(minor)
            | Self::NewCurrentUuid(minor, _)
            | Self::SuspendIo(minor)
            | Self::ResumeIo(minor) => Some(*minor),
            _ => None,
        }
    }

    /// What its message names as its object.
    pub(crate) fn context(&self) -> Option<Context> {
        Some(match self {
            Self::NewResource(name, ..)
            | Self::DelResource(name)
            | Self::Rename(name, _)
            | Self::ResourceOptions(name, _)
            | Self::AllResourceOptions(name, _)
            | Self::Down(name)
            | Self::Primary(name, _)
            | Self::Secondary(name, _) => Context::resource(name.as_str()),
            Self::NewMinor(name, volume, ..) => Context::volume(name.as_str(), volume.0),
            Self::NewPeer(peer, _)
            | Self::DelPeer(peer, _)
            | Self::NetOptions(peer, _)
            | Self::NewPath(peer, ..)
            | Self::DelPath(peer, ..)
            | Self::Connect(peer, _)
            | Self::Disconnect(peer, _) => peer.context(),
            // Its peer stands in the parameters: the connection is gone.
            Self::ForgetPeer(peer) => Context::resource(peer.resource.as_str()),
            Self::InvalidatePeer(peer, volume)
            | Self::PeerDeviceOptions(peer, volume, _)
            | Self::Verify(peer, volume, ..)
            | Self::PauseSync(peer, volume)
            | Self::ResumeSync(peer, volume) => Context { volume: Some(volume.0), ..peer.context() },
            _ => return None,
        })
    }

    /// The message.
    pub(crate) fn encode(&self, family: &Family) -> Result<Message> {
        let flags = if matches!(self, Self::AllResourceOptions(..)) { SET_DEFAULTS } else { 0 };
        let message = request(family, self.wire(), self.minor().map_or(NO_MINOR, Minor::get), flags);
        let message =
            self.context().iter().fold(message, |message, context| context.encode(message, MANDATORY));
        let flag =
            |message: Message, kind: u16| message.with_nest(kind | NESTED, |m| m.with_u8(1 | MANDATORY, 1));
        Ok(match self {
            Self::NewResource(_, node, options) => message.with_nest(nest::RESOURCE_OPTS | NESTED, |m| {
                // The node id is no option: it is set once, by itself.
                options.encode_9(nest::RESOURCE_OPTS, m.with_u32(4, node.0.into()))
            }),
            Self::ResourceOptions(_, options) | Self::AllResourceOptions(_, options) => {
                message.with_nest(nest::RESOURCE_OPTS | NESTED, |m| options.encode_9(nest::RESOURCE_OPTS, m))
            }
            Self::Rename(_, new) => message
                .with_nest(nest::RENAME_RESOURCE_PARMS | NESTED, |m| m.with_str(1 | MANDATORY, new.as_str())),
            Self::Primary(_, Force::Yes) | Self::Secondary(_, Force::Yes) => {
                flag(message, nest::SET_ROLE_PARMS)
            }
            Self::NewMinor(.., options) => {
                let conf = options.encode_9(nest::DEVICE_CONF, Message::new(0, 0));
                match conf.body() {
                    [] => message,
                    conf => message.with(nest::DEVICE_CONF | NESTED, conf),
                }
            }
            Self::Attach(_, disk, meta, options) => {
                let (path, device) = (text(disk)?, text(meta.device(disk))?);
                message.with_nest(nest::DISK_CONF | NESTED, |m| {
                    let m = options.encode_9(nest::DISK_CONF, m).with_str(1, path).with_str(2, device);
                    m.with_u32(3, meta.index().cast_unsigned())
                })
            }
            Self::Detach(_, Detach::Force) => flag(message, nest::DETACH_PARMS),
            Self::DiskOptions(_, options) => {
                message.with_nest(nest::DISK_CONF | NESTED, |m| options.encode_9(nest::DISK_CONF, m))
            }
            Self::Resize(_, Some(size)) => {
                message.with_nest(nest::RESIZE_PARMS | NESTED, |m| m.with_u64(1 | MANDATORY, size.0))
            }
            Self::Invalidate(_, Some(node)) => message
                .with_nest(nest::INVALIDATE_PARMS | NESTED, |m| m.with_u32(1 | MANDATORY, node.0.into())),
            Self::NewCurrentUuid(_, Bitmap::Clear) => flag(message, nest::NEW_C_UUID_PARMS),
            Self::NewPeer(_, options) | Self::NetOptions(_, options) => {
                message.with_nest(nest::NET_CONF | NESTED, |m| options.encode_9(nest::NET_CONF, m))
            }
            Self::DelPeer(_, Force::Yes) | Self::Disconnect(_, Force::Yes) => {
                flag(message, nest::DISCONNECT_PARMS)
            }
            Self::NewPath(_, local, remote) | Self::DelPath(_, local, remote) => {
                message.with_nest(nest::PATH_PARMS | NESTED, |m| {
                    let m = m.with(1 | MANDATORY, &encode_address(local));
                    m.with(2 | MANDATORY, &encode_address(remote))
                })
            }
            Self::PeerDeviceOptions(_, _, options) => message
                .with_nest(nest::PEER_DEVICE_OPTS | NESTED, |m| options.encode_9(nest::PEER_DEVICE_OPTS, m)),
            Self::Connect(_, Connecting::Tentative) => flag(message, nest::CONNECT_PARMS),
            Self::Connect(_, Connecting::DiscardMyData) => {
                message.with_nest(nest::CONNECT_PARMS | NESTED, |m| m.with_u8(2 | MANDATORY, 1))
            }
            Self::ForgetPeer(peer) => message.with_nest(nest::FORGET_PEER_PARMS | NESTED, |m| {
                m.with_u32(1 | MANDATORY, peer.node.0.into())
            }),
            Self::Verify(_, _, start, stop) if start.is_some() || stop.is_some() => {
                message.with_nest(nest::START_OV_PARMS | NESTED, |m| {
                    let m = start.iter().fold(m, |m, at| m.with_u64(1 | MANDATORY, at.0));
                    stop.iter().fold(m, |m, at| m.with_u64(2 | MANDATORY, at.0))
                })
            }
            _ => message,
        })
    }

    fn object(&self) -> String {
        match (self.context(), self.minor()) {
            (Some(Context { resource: Some(name), node_id: Some(node), .. }), _) => {
                format!("{name}, peer {node}")
            }
            (Some(Context { resource: Some(name), .. }), _) => name,
            (_, Some(minor)) => format!("minor {minor}"),
            _ => String::new(),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// `NAME NODE`
        struct To<'a>(&'a Peer);
        impl fmt::Display for To<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} {}", self.0.resource, self.0.node)
            }
        }
        let force = |force: &Force| if *force == Force::Yes { " --force" } else { "" };
        let sectors = |name: &str, at: &Option<Sectors>| {
            at.map_or_else(String::new, |at| format!(" --{name}={}s", at.0))
        };
        f.write_str("drbdsetup ")?;
        match self {
            Self::NewResource(name, node, options) => {
                write!(f, "new-resource {name} {node}{}", options.arguments_9(nest::RESOURCE_OPTS))
            }
            Self::DelResource(name) => write!(f, "del-resource {name}"),
            Self::Rename(name, new) => write!(f, "rename-resource {name} {new}"),
            Self::ResourceOptions(name, options) => {
                write!(f, "resource-options {name}{}", options.arguments_9(nest::RESOURCE_OPTS))
            }
            Self::AllResourceOptions(name, options) => {
                let options = options.arguments_9(nest::RESOURCE_OPTS);
                write!(f, "resource-options {name} --set-defaults{options}")
            }
            Self::Down(name) => write!(f, "down {name}"),
            Self::Primary(name, how) => write!(f, "primary {name}{}", force(how)),
            Self::Secondary(name, how) => write!(f, "secondary {name}{}", force(how)),
            Self::NewMinor(name, volume, minor, options) => {
                write!(f, "new-minor {name} {minor} {volume}{}", options.arguments_9(nest::DEVICE_CONF))
            }
            Self::DelMinor(minor) => write!(f, "del-minor {minor}"),
            Self::Attach(minor, disk, meta, options) => {
                let (device, index) = meta.words(disk);
                let (disk, options) = (disk.display(), options.arguments_9(nest::DISK_CONF));
                write!(f, "attach {minor} {disk} {device} {index}{options}")
            }
            Self::Detach(minor, Detach::Graceful) => write!(f, "detach {minor}"),
            Self::Detach(minor, Detach::Force) => write!(f, "detach {minor} --force"),
            Self::DiskOptions(minor, options) => {
                write!(f, "disk-options {minor}{}", options.arguments_9(nest::DISK_CONF))
            }
            Self::Resize(minor, size) => write!(f, "resize {minor}{}", sectors("size", size)),
            Self::Invalidate(minor, None) => write!(f, "invalidate {minor}"),
            Self::Invalidate(minor, Some(node)) => {
                write!(f, "invalidate {minor} --sync-from-peer-node-id={node}")
            }
            Self::InvalidatePeer(peer, volume) => write!(f, "invalidate-remote {} {volume}", To(peer)),
            Self::Outdate(minor) => write!(f, "outdate {minor}"),
            Self::NewCurrentUuid(minor, Bitmap::Keep) => write!(f, "new-current-uuid {minor}"),
            Self::NewCurrentUuid(minor, Bitmap::Clear) => {
                write!(f, "new-current-uuid {minor} --clear-bitmap")
            }
            Self::SuspendIo(minor) => write!(f, "suspend-io {minor}"),
            Self::ResumeIo(minor) => write!(f, "resume-io {minor}"),
            Self::NewPeer(peer, options) => {
                write!(f, "new-peer {}{}", To(peer), options.arguments_9(nest::NET_CONF))
            }
            Self::DelPeer(peer, how) => write!(f, "del-peer {}{}", To(peer), force(how)),
            Self::NetOptions(peer, options) => {
                write!(f, "net-options {}{}", To(peer), options.arguments_9(nest::NET_CONF))
            }
            Self::NewPath(peer, local, remote) => {
                write!(f, "new-path {} {} {}", To(peer), Shown(*local), Shown(*remote))
            }
            Self::DelPath(peer, local, remote) => {
                write!(f, "del-path {} {} {}", To(peer), Shown(*local), Shown(*remote))
            }
            Self::PeerDeviceOptions(peer, volume, options) => {
                let options = options.arguments_9(nest::PEER_DEVICE_OPTS);
                write!(f, "peer-device-options {} {volume}{options}", To(peer))
            }
            Self::Connect(peer, how) => {
                let how = match how {
                    Connecting::Usual => "",
                    Connecting::Tentative => " --tentative",
                    Connecting::DiscardMyData => " --discard-my-data",
                };
                write!(f, "connect {}{how}", To(peer))
            }
            Self::Disconnect(peer, how) => write!(f, "disconnect {}{}", To(peer), force(how)),
            Self::ForgetPeer(peer) => write!(f, "forget-peer {}", To(peer)),
            Self::Verify(peer, volume, start, stop) => {
                let (start, stop) = (sectors("start", start), sectors("stop", stop));
                write!(f, "verify {} {volume}{start}{stop}", To(peer))
            }
            Self::PauseSync(peer, volume) => write!(f, "pause-sync {} {volume}", To(peer)),
            Self::ResumeSync(peer, volume) => write!(f, "resume-sync {} {volume}", To(peer)),
        }
    }
}

fn text(path: &std::path::Path) -> Result<&str> {
    let bad = || crate::ParseError::new("device path", path.display().to_string(), "it is no UTF-8");
    Ok(path.to_str().ok_or_else(bad)?)
}

impl Drbd {
    /// Carries out a command of DRBD 9, and waits while the state is transient; says whether it changed anything. `drbdsetup` of 9.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on 8.4, [`Error::Refused`] with the module's reason and words.
    #[doc(alias = "drbdsetup")]
    pub fn run_9(&self, command: &Command) -> Result<bool> {
        self.needs_9()?;
        let deadline = self.deadline();
        let _lock = self.host.lock(crate::FACILITY, deadline)?;
        self.carry_out(command, deadline)
    }

    pub(crate) fn needs_9(&self) -> Result<()> {
        match self.dialect {
            Dialect::Drbd9 => Ok(()),
            Dialect::Drbd84 => Err(Error::Unsupported { version: 1 }),
        }
    }

    pub(crate) fn carry_out(&self, command: &Command, deadline: Deadline) -> Result<bool> {
        const NOTHING_TO_DO: i32 = 2;
        let object = command.object();
        let about = About { command: command.wire(), object: &object, deadline };
        // A command that cannot be written is told before anything is sent.
        command.encode(&self.link.family(about)?)?;
        let code = self.link.change_9(about, |family| {
            command.encode(family).unwrap_or_else(|_| request(family, about.command, NO_MINOR, 0))
        })?;
        log::debug!("{}: {command}", crate::FACILITY);
        Ok(code != NOTHING_TO_DO)
    }
}
