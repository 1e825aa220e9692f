//! `saveconfig.json`, the file of targetcli and targetctl: read and written, of both generations of rtslib.
//!
//! What rtslib loses when it saves (queue depths, vendor and product, access groups' every file, relative port identifiers, processors) is
//! kept under the key `x_lio`, which rtslib does not look at. In what rtslib reads nothing is added: an unknown key of a backstore would
//! make it skip the backstore.
//!
//! The text holds passwords, and is a [`Secret`](host::Secret) for that: write it with
//! [`Tree::replace`](host::Tree::replace) and mode 0600.
//!
//! ```
//! use lio::{BackstoreSpec, Bytes, ConfigSpec, TargetSpec, saveconfig};
//! let disk = BackstoreSpec::ramdisk("r0".parse()?, Bytes(1 << 20)).with_serial("0a1b".parse()?);
//! let config = ConfigSpec::new().with_target(TargetSpec::new("iqn.2026-01.com.example:r0".parse()?).with_lun(0, disk));
//! let text = saveconfig::write(&config)?;
//! let (read, notes) = saveconfig::read(text.expose())?;
//! assert!(read == config && notes.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod file;
mod read;
mod write;

pub use read::read;
pub use write::write;

/// Where targetcli and `target.service` have it.
pub const PATH: &str = "/etc/rtslib-fb-target/saveconfig.json";
