//! The file as it is written, before anything in it is checked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Raw {
    pub(super) cluster: Spanned<String>,
    pub(super) nodes: Spanned<Vec<String>>,
    #[serde(default)]
    pub(super) link: Vec<RawLink>,
    #[serde(default)]
    pub(super) sysctl: BTreeMap<Spanned<String>, toml::Value>,
    #[serde(default)]
    pub(super) sysctl_at_least: BTreeMap<Spanned<String>, toml::Value>,
    /// Set even though they are known to do harm.
    #[serde(default)]
    pub(super) sysctl_forced: BTreeMap<Spanned<String>, toml::Value>,
    pub(super) irq: Option<RawIrq>,
    pub(super) encryption: RawEncryption,
    pub(super) replication: Spanned<RawReplication>,
    #[serde(default)]
    pub(super) initiator: Vec<RawInitiator>,
    #[serde(default)]
    pub(super) unit: Vec<RawUnit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawLink {
    pub(super) name: Spanned<String>,
    pub(super) mtu: Option<u32>,
    pub(super) vlan: Option<RawVlan>,
    pub(super) bond: Option<RawBond>,
    #[serde(default)]
    pub(super) address: BTreeMap<String, Spanned<String>>,
    pub(super) gateway: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawVlan {
    pub(super) parent: Spanned<String>,
    pub(super) id: Spanned<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawBond {
    pub(super) mode: Spanned<String>,
    pub(super) ports: Vec<Spanned<String>>,
    pub(super) primary: Option<Spanned<String>>,
    #[serde(default = "hundred")]
    pub(super) miimon: u64,
    #[serde(default)]
    pub(super) updelay: u64,
    #[serde(default)]
    pub(super) downdelay: u64,
    pub(super) peer_notices: Option<u8>,
    /// Any other option by its name in `ip link`.
    #[serde(default)]
    pub(super) options: BTreeMap<Spanned<String>, toml::Value>,
}

fn hundred() -> u64 {
    100
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawIrq {
    pub(super) links: Vec<Spanned<String>>,
    pub(super) cpus: Spanned<String>,
    #[serde(default)]
    pub(super) xps: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawEncryption {
    pub(super) passphrase_file: Spanned<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawReplication {
    pub(super) link: Spanned<String>,
    #[serde(default)]
    pub(super) trusted: bool,
    pub(super) secret_file: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) net: BTreeMap<Spanned<String>, toml::Value>,
    #[serde(default)]
    pub(super) disk: BTreeMap<Spanned<String>, toml::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawInitiator {
    pub(super) name: Spanned<String>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) secret_file: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawUnit {
    pub(super) name: Spanned<String>,
    pub(super) home: Spanned<String>,
    pub(super) disk: BTreeMap<String, Spanned<String>>,
    pub(super) minor: Spanned<u32>,
    pub(super) port: Spanned<u16>,
    pub(super) target: Spanned<String>,
    #[serde(default)]
    pub(super) lun: u64,
    pub(super) serial: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) address: Vec<RawFloating>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawFloating {
    pub(super) link: Spanned<String>,
    pub(super) address: Spanned<String>,
    #[serde(default = "iscsi_port")]
    pub(super) port: u16,
}

/// The port every portal listens on unless the file says another.
fn iscsi_port() -> u16 {
    3260
}
