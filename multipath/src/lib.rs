//! The initiator side of a storage network: multipath maps, iSCSI discovery and sessions, attach and detach.
//!
//! ```no_run
//! use std::time::Duration;
//! use multipath::{AttachSpec, Chap, Deadline, Host, Initiator, Patience, Secret};
//! let initiator = Initiator::on(&Host::live())?;
//! let spec = AttachSpec::new(
//!     "iqn.2026-01.com.example:vm-storage-1".parse()?,
//!     ["10.1.24.10:3260".parse()?, "10.1.25.10:3260".parse()?],
//! )
//! .with_chap(Chap::new("hv1", Secret::read("/etc/sankit/chap")?)?)
//! .with_patience(Patience::failover());
//! let disk = initiator.attach(&spec, Deadline::after(Duration::from_secs(60)))?;
//! println!("{} over {} paths", disk.device.display(), disk.paths.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Maps are read through multipathd's own socket ([`Multipath`]) or from the kernel ([`Kernel`]), sessions from sysfs, targets by SendTargets in Rust. Logging in runs `iscsiadm`: iscsid's
//! interface is an unversioned C structure, and a request of the wrong size freezes it.
//!
//! Attaching needs root, running `multipathd` and `iscsid`; listing needs neither root nor iscsid; discovery needs nothing but TCP.
//! [`Initiator::topology`] joins maps, sessions and network cards and judges them; [`Kernel::watch`] tells what happens to them.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod attach;
mod chap;
mod check;
pub mod daemon;
mod discovery;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod kernel;
mod name;
mod operate;
mod records;
mod session;
#[cfg(feature = "lvm")]
pub mod shared;
mod spec;
mod state;
#[cfg(feature = "tokio")]
mod stream;
#[cfg(feature = "tokio")]
#[allow(unsafe_code)]
mod sys;
mod topology;
mod watch;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

pub use attach::{Detached, Holder, Orphan, Resized};
pub use check::{Finding, Profile};
pub use daemon::{Client, Command};
pub use discovery::{Authentication, LoginStatus, Probe, Redirect};
pub use error::{Error, Result};
pub use host::{Bytes, Deadline, DmName, Host, IfName, Iqn, ParseError, Secret, Watch, Wwid};
pub use kernel::{Kernel, WhenNoPath};
#[cfg(feature = "embedded")]
pub use kernel::{MapSpec, Paths};
pub use name::{Format, MapName, PathName, may_be_same};
pub use records::{IfaceState, NodeSpec, NodeState, Records, Scan, Startup};
pub use session::{ConnectionState, Negotiated, SessionTimeouts};
pub use spec::{
    AttachSpec, Chap, ChapDigest, DetachSpec, Force, Patience, Persistence, PortalSpec, Required,
};
pub use state::{
    Attached, CheckerState, Counters, DeviceState, Discovered, DiskState, Failback, GroupPhase, GroupState,
    Hctl, MapState, PathInfo, PathState, Queueing, SessionPhase, SessionState,
};
#[cfg(feature = "tokio")]
pub use stream::Events;
pub use topology::{
    ConnectionPhase, Difference, Health, IscsiRoute, Lack, MapTopology, Nic, Route, Topology, Transport,
    Warning,
};
pub use watch::{ConnectionError, Event};
pub use wire::reply::{DaemonPhase, DaemonState, DaemonStatus, Reply, Version};
pub use wire::table;

/// The multipath maps of a machine, as multipathd has them.
#[derive(Debug, Clone)]
pub struct Multipath {
    client: Client,
    timeout: Duration,
}

impl Multipath {
    /// The maps of this machine.
    ///
    /// # Errors
    /// As [`on`](Self::on).
    pub fn new() -> Result<Self> {
        Self::on(&Host::live())
    }

    /// The maps of a machine. The connection is made at the first question and kept.
    ///
    /// # Errors
    /// [`Error::Invalid`] on a captured tree: multipathd runs on live machines only.
    pub fn on(host: &Host) -> Result<Self> {
        if host.run_dir().is_none() {
            let reason = "multipathd runs on live machines; use multipath::fake in tests".to_owned();
            return Err(Error::Invalid { object: "host".to_owned(), reason });
        }
        Ok(Self { client: Client::live(), timeout: Duration::from_secs(5) })
    }

    /// Sets how long a question may take; default 5 s (multipathd itself gives up after 4).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Lists all maps with their paths: `multipathd show maps json`.
    ///
    /// # Errors
    /// [`Error::NoDaemon`] if multipathd does not run, [`Error::Daemon`] if it fails (it does so as a whole while one of its maps comes or goes),
    /// [`Error::Answer`] if it answers nonsense.
    pub fn list(&self) -> Result<Vec<MapState>> {
        self.ask_maps(Deadline::after(self.timeout))
    }

    fn ask_maps(&self, deadline: Deadline) -> Result<Vec<MapState>> {
        let answer = self.client.text(&Command::ShowMapsJson, deadline)?;
        match answer.is_empty() {
            true => Ok(Vec::new()),
            false => wire::maps::parse(&answer)
                .map_err(|reason| Error::Answer { command: Command::ShowMapsJson.to_string(), reason }),
        }
    }

    /// As `ask_maps`, but a passing refusal ("timeout", "fail" while a map comes or goes) is no maps: the caller looks again.
    fn list_or_none(&self, deadline: Deadline) -> Result<Vec<MapState>> {
        match self.ask_maps(deadline) {
            Err(Error::Daemon { .. }) => Ok(Vec::new()),
            other => other,
        }
    }

    /// The map of a disk; `None` if there is none.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn get(&self, wwid: &Wwid) -> Result<Option<MapState>> {
        Ok(self.list()?.into_iter().find(|map| map.wwid == wwid.as_str()))
    }
}

/// The iSCSI initiator of a machine.
#[derive(Debug, Clone)]
pub struct Initiator {
    host: Host,
    multipath: Multipath,
    /// How a map is read for a test, and flushed: a fake machine has no devices.
    reads: fn(&Path) -> io::Result<()>,
    flushes: fn(&Path) -> io::Result<()>,
}

impl Initiator {
    /// The initiator of this machine.
    ///
    /// # Errors
    /// As [`on`](Self::on).
    pub fn new() -> Result<Self> {
        Self::on(&Host::live())
    }

    /// The initiator of a machine.
    ///
    /// # Errors
    /// As [`Multipath::on`].
    pub fn on(host: &Host) -> Result<Self> {
        let (reads, flushes) = (attach::read_direct, attach::flush);
        Ok(Self { host: host.clone(), multipath: Multipath::on(host)?, reads, flushes })
    }

    /// The maps of the same machine.
    #[must_use]
    pub fn multipath(&self) -> &Multipath {
        &self.multipath
    }

    /// The same initiator with these maps; for tests, with those of a fake multipathd.
    #[must_use]
    pub fn with_multipath(mut self, multipath: Multipath) -> Self {
        self.multipath = multipath;
        self
    }

    /// This machine's iSCSI name, from `/etc/iscsi/initiatorname.iscsi`.
    ///
    /// # Errors
    /// open-iscsi is not set up here.
    pub fn name(&self) -> Result<Iqn> {
        const FILE: &str = "/etc/iscsi/initiatorname.iscsi";
        let bad = |reason: &str| Error::Invalid { object: FILE.to_owned(), reason: reason.to_owned() };
        let text = self.host.tree().read_opt(FILE).map_err(Error::Tree)?;
        let text = text.ok_or_else(|| {
            bad("it is not there, so this machine has no iSCSI name; install open-iscsi, which makes one")
        })?;
        let name = text.lines().find_map(|line| line.trim().strip_prefix("InitiatorName="));
        let name = name.ok_or_else(|| {
            bad("it has no line InitiatorName=; add one with this machine's name (iscsi-iname makes one)")
        })?;
        Ok(Iqn::from_kernel(name.trim()))
    }

    /// Asks a portal which targets it has: three round trips. `iscsiadm -m discovery -t st -p PORTAL`.
    ///
    /// # Errors
    /// [`Error::Portal`], [`Error::Login`] with what the status means, [`Error::Protocol`].
    pub fn discover(
        &self,
        portal: SocketAddr,
        chap: Option<&Chap>,
        deadline: Deadline,
    ) -> Result<Vec<Discovered>> {
        discover(portal, &self.name()?, chap, deadline)
    }

    /// Asks a portal which targets it has, as the spec says: with mutual CHAP, chosen digests, over an interface or from an address.
    ///
    /// # Errors
    /// As [`discover`](Self::discover); [`Error::Invalid`] for a spec that contradicts itself.
    pub fn discover_by(&self, spec: &PortalSpec, deadline: Deadline) -> Result<Vec<Discovered>> {
        discovery::discover(spec, &self.name()?, deadline)
    }

    /// Logs in to a target in user space and out again, beside the sessions of the kernel, and tells what the portal answered and how fast.
    /// No disk appears, and no record is written.
    ///
    /// # Errors
    /// [`Error::Portal`] (nobody answers), [`Error::Protocol`]. A login that is refused is an answer: [`Probe::status`].
    pub fn probe(&self, spec: &PortalSpec, target: &Iqn, deadline: Deadline) -> Result<Probe> {
        discovery::probe(spec, &self.name()?, target, deadline)
    }
}

/// Asks a portal which targets it has, under any initiator's name: needs neither root nor open-iscsi.
///
/// # Errors
/// As [`Initiator::discover`].
pub fn discover(
    portal: SocketAddr,
    initiator: &Iqn,
    chap: Option<&Chap>,
    deadline: Deadline,
) -> Result<Vec<Discovered>> {
    let spec = PortalSpec { chap: chap.map(Chap::share), ..PortalSpec::new(portal) };
    discovery::discover(&spec, initiator, deadline)
}

/// Asks a portal which targets it has, as the spec says, under any initiator's name.
///
/// # Errors
/// As [`Initiator::discover_by`].
pub fn discover_by(spec: &PortalSpec, initiator: &Iqn, deadline: Deadline) -> Result<Vec<Discovered>> {
    discovery::discover(spec, initiator, deadline)
}

/// Logs in to a target in user space and out again, under any initiator's name.
///
/// # Errors
/// As [`Initiator::probe`].
pub fn probe(spec: &PortalSpec, initiator: &Iqn, target: &Iqn, deadline: Deadline) -> Result<Probe> {
    discovery::probe(spec, initiator, target, deadline)
}
