//! `interfaces(5)`: what ifupdown brings up, read as a spec, and a spec written for it.

mod import;
mod read;
mod write;

use std::fmt;

use host::Tree;

use crate::NetSpec;
use crate::error::Result;

/// What a file of `interfaces(5)` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Imported {
    /// The network it describes.
    pub spec: NetSpec,
    /// What is in the file and not in the spec: commands that are no settings of the network, methods such as `dhcp`, keys of other
    /// programs. Nothing of it is ever run.
    pub left_out: Vec<Remark>,
}

/// A line of a file and what is to be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Remark {
    /// The file.
    pub file: String,
    /// The line, from 1 on.
    pub line: usize,
    /// The line's text.
    pub text: String,
    /// Why it is left out.
    pub reason: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.text, self.reason)
    }
}

/// Reads a text of `interfaces(5)`. Lines with `source` are left out, as there is nothing to read them from: see [`import_file`].
///
/// VLANs (by name, `vlan-raw-device`, `vlan-id`), bonds (`bond-*`, the old `slaves`, `bond-master` of the ports), MTUs, addresses, gateways,
/// and the commands that set such things (`ip link set X mtu N up`, `ip route add`, `sysctl -w`) become the spec. A bond without
/// `bond-miimon` has none: the kernel's default for balance-rr and active-backup is not to look at the carrier at all.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) names file and line: an unknown stanza, an address without a prefix length, a value out of range.
pub fn import(name: &str, text: &str) -> Result<Imported> {
    import::import(read::read(name, text, &mut |_, _| Ok(None))?)
}

/// Reads a file of `interfaces(5)`, usually `/etc/network/interfaces`, with all that it sources.
///
/// # Errors
/// As [`import`]; or a file cannot be read ([`Error::File`](crate::Error::File)).
pub fn import_file(tree: &Tree, path: &str) -> Result<Imported> {
    import::import(read::read_file(tree, path)?)
}

/// Writes a spec as `interfaces(5)`, for ifupdown with the packages `vlan` and `ifenslave`. Read again, it is the same spec. Kernel parameters
/// become a comment: they belong into `/etc/sysctl.d`.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid): the spec has what `interfaces(5)` cannot say.
pub fn export(spec: &NetSpec) -> Result<String> {
    write::write(spec)
}
