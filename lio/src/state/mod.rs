//! What is seen: one pass over the configfs tree.

mod read;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use host::{Iqn, Secret};

use crate::name::{Lun, Tag};
use crate::wire::session::SessionState;

pub use read::{Focus, read};

/// Where LIO is.
pub(crate) const TARGET: &str = "/sys/kernel/config/target";

/// A backstore's place: the directory of its adapter (`iblock_0`) and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BackstoreId {
    /// The directory of the adapter, plugin and index: `iblock_0`.
    pub adapter: String,
    /// The backstore's name.
    pub name: String,
}

impl BackstoreId {
    pub(crate) fn new(adapter: impl Into<String>, name: impl Into<String>) -> Self {
        Self { adapter: adapter.into(), name: name.into() }
    }

    /// What holds the data: `iblock`, `fileio`, `rd_mcp`, `pscsi`, `user`.
    #[must_use]
    pub fn plugin(&self) -> &str {
        self.adapter.rsplit_once('_').map_or(&self.adapter, |(plugin, _)| plugin)
    }

    pub(crate) fn path(&self) -> String {
        format!("{TARGET}/core/{}/{}", self.adapter, self.name)
    }
}

/// A backstore.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BackstoreState {
    /// Where it is.
    pub id: BackstoreId,
    /// Whether it is configured (`enable`): before that it is an empty shell.
    pub enabled: bool,
    /// The device or file it was made from (`udev_path`, which is only a note, or else what `info` says).
    pub device: Option<PathBuf>,
    /// Whether it was opened read-only.
    pub read_only: bool,
    /// The size in pages of 4 KiB, for a ramdisk.
    pub pages: Option<u64>,
    /// The unit serial number.
    pub serial: Option<String>,
    /// The vendor of the INQUIRY data, where it was read.
    pub vendor: Option<String>,
    /// The product of the INQUIRY data, where it was read.
    pub product: Option<String>,
    /// The company of the NAA identifier as the kernel prints it, where it was read.
    pub company: Option<u32>,
    /// The values of `attrib/` that were read.
    pub attributes: BTreeMap<String, String>,
    /// The note in `alias`; this crate writes there for which target it made the backstore.
    pub alias: Option<String>,
    /// ALUA groups besides the default one, and their ids.
    pub alua_groups: BTreeMap<String, String>,
    /// The LUN directories that export it, of any fabric.
    pub users: Vec<String>,
}

/// A LUN of a portal group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LunState {
    /// The name of the link to the backstore; `None` for an empty LUN.
    pub link: Option<String>,
    /// The backstore it exports.
    pub backstore: Option<BackstoreId>,
}

/// A portal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PortalState {
    /// Its directory's name.
    pub name: String,
    /// The address, where the name is one.
    pub address: Option<SocketAddr>,
}

/// A LUN as an initiator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct MappedLunState {
    /// The name of the link; `None` for an empty one.
    pub link: Option<String>,
    /// The target's LUN it shows.
    pub target_lun: Option<Lun>,
    /// Whether the initiator may only read.
    pub write_protected: bool,
}

/// CHAP as it is set. Passwords are in it only where a plan needs to compare them; they are never serialised.
#[derive(Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AuthState {
    /// The user name the initiator must prove.
    pub user: Option<String>,
    /// Its password.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub secret: Option<Secret>,
    /// The user name that is proved to the initiator.
    pub mutual_user: Option<String>,
    /// Its password.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub mutual_secret: Option<Secret>,
}

impl Clone for AuthState {
    fn clone(&self) -> Self {
        Self {
            user: self.user.clone(),
            secret: self.secret.as_ref().map(Secret::share),
            mutual_user: self.mutual_user.clone(),
            mutual_secret: self.mutual_secret.as_ref().map(Secret::share),
        }
    }
}

/// An initiator that may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AclState {
    /// CHAP.
    pub auth: AuthState,
    /// The number of commands it may have in flight.
    pub queue_depth: Option<u16>,
    /// The values of `attrib/` that were read.
    pub attributes: BTreeMap<String, String>,
    /// What it sees.
    pub luns: BTreeMap<Lun, MappedLunState>,
    /// Its newest session. LIO shows one, although a multipath initiator has several; see [`TargetState::session_count`].
    pub session: Option<SessionState>,
}

/// A target portal group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct GroupState {
    /// The directory's name; the kernel also accepts `tpgt_01`.
    pub dir: String,
    /// The tag.
    pub tag: Tag,
    /// Whether it serves.
    pub enabled: bool,
    /// The values of `attrib/` that were read.
    pub attributes: BTreeMap<String, String>,
    /// The values of `param/` that were read.
    pub parameters: BTreeMap<String, String>,
    /// Where it listens.
    pub portals: Vec<PortalState>,
    /// Its disks.
    pub luns: BTreeMap<Lun, LunState>,
    /// Who may log in.
    pub acls: BTreeMap<Iqn, AclState>,
    /// Initiators that are logged in without an ACL, one entry a session.
    pub dynamic_sessions: Vec<Iqn>,
}

impl GroupState {
    /// The addresses it listens on.
    pub fn portal_addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.portals.iter().filter_map(|portal| portal.address)
    }
}

/// An iSCSI target.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct TargetState {
    /// Its name.
    pub iqn: Iqn,
    /// Its portal groups, by tag.
    pub groups: Vec<GroupState>,
    /// The backstores its LUNs export.
    pub backstores: BTreeMap<BackstoreId, BackstoreState>,
    /// How many sessions there are in all (`fabric_statistics/iscsi_instance/sessions`), where it was read.
    pub session_count: Option<u32>,
}

impl TargetState {
    /// The portal group of this tag.
    #[must_use]
    pub fn group(&self, tag: Tag) -> Option<&GroupState> {
        self.groups.iter().find(|group| group.tag == tag)
    }

    /// Whether any portal group serves.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.groups.iter().any(|group| group.enabled)
    }

    /// The backstore that a LUN exports.
    #[must_use]
    pub fn backstore(&self, tag: Tag, lun: Lun) -> Option<&BackstoreState> {
        let lun = self.group(tag)?.luns.get(&lun)?;
        self.backstores.get(lun.backstore.as_ref()?)
    }
}

/// All that one pass saw: the input of [`diff`](crate::plan::diff).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct State {
    /// Whether `target/iscsi` is there.
    pub fabric: bool,
    /// Where the kernel keeps persistent reservations; `None` where it was not looked at.
    pub dbroot: Option<String>,
    /// Directories of it that are not there, outermost first.
    pub missing_dirs: Vec<String>,
    /// The adapters (`core/PLUGIN_N`) and the names of their backstores.
    pub adapters: BTreeMap<String, Vec<String>>,
    /// The backstores that were looked at.
    pub backstores: BTreeMap<BackstoreId, BackstoreState>,
    /// The targets that were looked at.
    pub targets: BTreeMap<Iqn, TargetState>,
}
