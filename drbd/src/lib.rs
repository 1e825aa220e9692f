//! DRBD, the replicated block device of the Linux kernel, by netlink: no forks, typed answers.
//!
//! A resource is a set of volumes (`/dev/drbd0`, ...) that two nodes keep equal over a TCP connection. One node is Primary and may use
//! the devices; the other receives every write. This crate sets resources up ([`Drbd::ensure`]), moves the role
//! ([`Drbd::promote`], [`Drbd::demote`]), reads states and progress ([`Drbd::get`]), waits ([`Drbd::wait_synced`]) and watches
//! ([`Drbd::watch`]). It talks to the DRBD 8.4 that is in the kernel, by generic netlink (`drivers/block/drbd/drbd_nl.c`), in the place
//! of `drbdsetup` and `drbdadm`.
//!
//! ```no_run
//! use drbd::{Drbd, Minor, NetOptions, Promote, Protocol, ResourceSpec, Secret, Volume, VolumeSpec};
//! let drbd = Drbd::new()?;
//! let r0 = ResourceSpec::new("r0".parse()?, "10.0.0.1:7801".parse()?, "10.0.0.2:7801".parse()?)
//!     .with_volume(VolumeSpec::new(Volume(0), Minor::new(0)?, "/dev/mapper/crypt0"))
//!     .with_net(
//!         NetOptions::new()
//!             .with_protocol(Protocol::C)
//!             .with("cram-hmac-alg", "sha256")?
//!             .with_shared_secret(&Secret::read("/run/keys/r0")?)?,
//!     );
//! print!("{}", drbd.plan(&r0)?); // what would be done, as drbdsetup lines
//! drbd.ensure(&r0)?;
//! drbd.promote(&r0.name, Promote::IfSafe)?; // /dev/drbd0 can be used now
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Time
//! Every call ends within 30 seconds, or what [`Drbd::with_timeout`] says, or takes a [`Deadline`]. A command that the kernel has begun
//! cannot be called back: after [`Error::Timeout`] look at the state.
//!
//! # Privileges
//! `CAP_NET_ADMIN` in the initial network namespace (8.4 has no other). Reading the shared secret back takes `CAP_SYS_ADMIN`.
//!
//! # The helper
//! Where drbd-utils is installed and no drbd.conf names the resources, the kernel's default helper breaks every resync: see
//! [`Drbd::set_helper`].
//!
//! # Not supported
//! Verbs other than `list`, `get`, `watch`, `remove` and those of [`nine`] on DRBD 9; stacked and diskless resources, SDP and SSOCKS addresses.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod apply;
pub mod conf;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod helper;
mod holders;
mod link;
mod metadata;
mod name;
pub mod nine;
mod operate;
mod options;
mod plan;
mod read;
mod refusal;
mod role;
mod spec;
mod split_brain;
mod state;
#[cfg(feature = "tokio")]
mod stream;
#[allow(unsafe_code)]
mod sys;
mod wait;
mod watch;
mod wire;

use std::sync::Arc;
use std::time::Duration;

pub use error::{Error, ErrorKind, Result};
pub use holders::Holder;
pub use host::plan::{Failed, KillPoint, Step as PlanStep, StepEvent, Undo, Undone};
pub use host::signature::{Found, Signature};
pub use host::{Bytes, Deadline, Host, Impact, ParseError, Plan, Secret, Sectors, Watch};
pub use metadata::{
    Format, Metadata, MetadataFlags, MetadataSpec, Overwrite, PeerMetadata, Replayed, Written,
};
pub use name::{Minor, ResourceName, Volume};
pub use operate::{Bitmap, Detach, Resize, Verify};
pub use options::{DiskOptions, Fencing, Kind, NetOptions, OptionRow, Protocol, ResourceOptions, Unit};
pub use plan::{Step, diff};
pub use refusal::Refusal;
pub use role::Promote;
pub use spec::{MetaDisk, ResourceSpec, VolumeSpec};
pub use split_brain::{Generations, Recovery, Relation, Side, SplitBrain};
pub use state::{
    ConnState, ConnectionState, Dialect, DiskState, PathState, Paused, PeerVolumeCounters, PeerVolumeState,
    Progress, ReplState, ResourceState, Role, Suspended, VolumeCounters, VolumeState,
};
#[cfg(feature = "tokio")]
pub use stream::Events;
pub use wait::{StartKind, StartTimeouts};
pub use watch::{Event, HelperEvent, Phase};

use host::exec::Module;
use link::{About, FAMILY, Link};
use wire::Command;

/// The name of the facility's lock and of its steps in logs.
pub(crate) const FACILITY: &str = "drbd";

/// DRBD on a machine. Cheap to clone; clones share one netlink socket, which stays open.
#[derive(Debug, Clone)]
#[doc(alias = "drbdsetup")]
#[doc(alias = "drbdadm")]
pub struct Drbd {
    host: Host,
    link: Arc<Link>,
    dialect: Dialect,
    timeout: Duration,
}

impl Drbd {
    /// How long a call may take, unless [`with_timeout`](Self::with_timeout) says otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(30);

    /// DRBD on this machine: [`on`](Self::on) a live host.
    ///
    /// # Errors
    /// As [`on`](Self::on).
    pub fn new() -> Result<Self> {
        Self::on(&Host::live())
    }

    /// DRBD on a host. Loads the module if the kernel does not have it yet (`modprobe drbd`).
    ///
    /// # Errors
    /// [`Error::NotLoaded`] if there is no DRBD and the module cannot be loaded, [`Error::Unsupported`] if it speaks a dialect
    /// that is not known.
    pub fn on(host: &Host) -> Result<Self> {
        let link = Arc::new(Link::new(host));
        let deadline = Deadline::after(Self::TIMEOUT);
        let about = About { command: Command(0, "find the netlink family"), object: FAMILY, deadline };
        let family = match link.resolve(about)? {
            Some(family) => family,
            None => {
                let source = host.exec().load(Module::DRBD, host.tree(), deadline).err();
                let found = if source.is_none() { link.resolve(about)? } else { None };
                found.ok_or(Error::NotLoaded { source })?
            }
        };
        let version = family.version;
        let dialect = Dialect::of_version(version).ok_or(Error::Unsupported { version })?;
        Ok(Self { host: host.clone(), link, dialect, timeout: Self::TIMEOUT })
    }

    /// The same DRBD with another limit for calls that take no deadline. Default: 30 seconds.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The machine.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Which of DRBD's interfaces the kernel has.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
