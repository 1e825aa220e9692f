//! The machine under the sankit crates.
//!
//! Six crates drive six Linux facilities (`drbd`, `lio`, `luks`, `netcfg`, `irqaff`, `multipath`). For them to compose
//! they must agree on a few types: where the machine is ([`Host`]), how a change is described and carried out
//! ([`Plan`]), what a passphrase is ([`Secret`]) and what a name is ([`Iqn`], [`IfName`]). Those types, and the four
//! ways of talking to a kernel that at least two of the crates need, live here; nothing else does.
//!
//! | module | what | feature |
//! | --- | --- | --- |
//! | [`tree`] | kernel files (configfs, sysfs, procfs): live, under another root, recording, failing on purpose | |
//! | [`plan`] | ordered steps with undo, impact, kill points | |
//! | [`nl`] | one synchronous netlink socket: deadlines, extended acknowledgements, dumps | `nl` |
//! | [`dm`] | device-mapper: list with UUIDs, tables, status | `dm` |
//! | [`exec`] | child processes: absolute path, no shell, deadline | `exec` |
//! | [`signature`] | what a block device holds already | |
//! | [`fake`] | the in-memory tree with a rule hook | `fake` |
//!
//! You will rarely depend on this crate directly: each of the six re-exports what its callers need
//! (`lio::Host`, `luks::Secret`, ...).
//!
//! ```
//! use host::Host;
//! let host = Host::live();
//! let online: host::CpuSet = host.tree().read("/sys/devices/system/cpu/online")?.trim().parse()?;
//! assert!(!online.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod cpuset;
mod deadline;
#[cfg(feature = "dm")]
pub mod dm;
mod error;
#[cfg(feature = "exec")]
pub mod exec;
#[cfg(feature = "fake")]
pub mod fake;
mod lock;
mod machine;
mod name;
#[cfg(feature = "nl")]
pub mod nl;
pub mod plan;
mod secret;
pub mod signature;
#[allow(unsafe_code)]
mod sys;
pub mod tree;
mod units;
mod watch;

pub use cpuset::CpuSet;
pub use deadline::Deadline;
pub use error::{LockError, Operation, ParseError, Stopped, TreeError};
pub use lock::Lock;
pub use machine::Host;
pub use name::{DmName, IfName, Iqn, Wwid};
pub use plan::{Impact, Plan};
pub use secret::Secret;
pub use signature::Signature;
pub use tree::Tree;
pub use units::{Bytes, Sectors};
pub use watch::{Source, Watch};
