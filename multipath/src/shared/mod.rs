//! A volume group that several hosts share: LVM with lvmlockd and sanlock on a multipath disk.
//!
//! Each volume of the group is activated by one host at a time, or for the moment of a live migration by two. sanlock keeps who has what on the disk
//! itself, in the hidden volume `lvmlock`; no network and no cluster manager is needed. This module runs LVM's own programs and invents no lock of
//! its own. What it adds: a [preflight](SharedVg::preflight) that says what would go wrong later, the daemons in the right order, refusals as typed
//! errors with who holds a volume, undoing of failed steps, deadlines.
//!
//! ```no_run
//! use std::time::Duration;
//! use multipath::{Deadline, Host, Multipath};
//! use multipath::shared::{LockManager, SharedVg};
//! let host = Host::live();
//! let vg = SharedVg::on(&host, "vms".parse()?, LockManager::new().with_host_id("1".parse()?));
//! let deadline = Deadline::after(Duration::from_secs(60));
//! for finding in vg.preflight(&Multipath::on(&host)?, None, deadline)? {
//!     println!("{finding}");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Needs root and the packages lvm2, lvm2-lockd and sanlock. Settings are given to LVM with each command; of its files only
//! `/etc/lvm/lvmlocal.conf` is read for the host's number. Not supported: the lock managers dlm and idm; volumes that hosts cannot share (thin,
//! cache, snapshots) can be activated exclusively only.

mod daemons;
mod error;
mod group;
mod name;
mod preflight;
mod read;
mod run;
mod spec;
mod state;
mod volume;
mod wire;

pub use daemons::Daemon;
pub use error::{Error, Result};
pub use host::{Bytes, Deadline, Host, ParseError};
pub use name::{HostId, LvName, VgName};
pub use preflight::{Check, Finding, Level};
pub use spec::{Activation, LeaseTimes, LockManager, LvSpec, Overwrite, Watchdog};
pub use state::{
    Holder, HostLiveness, HostState, Lease, LockHeld, LockKind, LockMode, LockType, LockspaceState, LvState,
    PvState, SanlockSpace, SanlockState, SpacePhase, VgState,
};

/// A volume group that several hosts share.
#[derive(Debug, Clone)]
pub struct SharedVg {
    name: VgName,
    manager: LockManager,
    tools: run::Tools,
}

impl SharedVg {
    /// A group of a machine, there or not, and how the lock managers run here.
    #[must_use]
    pub fn on(host: &Host, name: VgName, manager: LockManager) -> Self {
        Self { tools: run::Tools::new(host, &manager), name, manager }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &VgName {
        &self.name
    }

    /// How the lock managers run here.
    #[must_use]
    pub fn manager(&self) -> &LockManager {
        &self.manager
    }
}
