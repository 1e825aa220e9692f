//! What is seen: one pass over the configfs tree.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use host::{CpuSet, Iqn, Secret, Wwid};

use crate::name::{CompanyId, Lun, Tag, UnitSerial};
use crate::spec::{Access, AluaState, Backing, Fabric, Transport};
use crate::wire::session::SessionState;

pub(crate) use read::read_iscsi;
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
    /// What the data are on, as far as `info` and `attrib` say it; `None` for a shell and for plugins this crate does not know.
    pub backing: Option<Backing>,
    /// Whether the device was opened for writing.
    pub access: Access,
    /// The unit serial number.
    pub serial: Option<String>,
    /// The vendor of the INQUIRY data, where it was read.
    pub vendor: Option<String>,
    /// The product of the INQUIRY data, where it was read.
    pub product: Option<String>,
    /// The revision of the INQUIRY data, where it was read.
    pub revision: Option<String>,
    /// The company of the NAA identifier as the kernel prints it, where it was read.
    pub company: Option<u32>,
    /// The values of `attrib/` that were read.
    pub attributes: BTreeMap<String, String>,
    /// The note in `alias`; this crate writes there for which target it made the backstore.
    pub alias: Option<String>,
    /// Asymmetric access groups, where they were read; the kernel's own (`default_tg_pt_gp`) only if it differs from how it was made.
    pub alua: BTreeMap<String, AluaGroupState>,
    /// The group of backstores it is in, if it is not the kernel's own.
    pub lu_group: Option<String>,
    /// The LUN directories that export it, of any fabric.
    pub users: Vec<String>,
}

impl BackstoreState {
    /// The device or file it is on.
    #[must_use]
    pub fn device(&self) -> Option<&Path> {
        self.backing.as_ref()?.path()
    }

    /// The identifier that multipath shows for the disk; `None` without a serial.
    #[must_use]
    pub fn wwid(&self) -> Option<Wwid> {
        let serial: UnitSerial = self.serial.as_ref()?.parse().ok()?;
        Some(serial.wwid_of(self.company.and_then(|id| CompanyId::try_from(id).ok()).unwrap_or_default()))
    }
}

/// An asymmetric access group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AluaGroupState {
    /// Its number; `None` before it has one.
    pub id: Option<u16>,
    /// Its files that were read, words turned into the numbers that are written.
    pub attributes: BTreeMap<String, String>,
}

impl AluaGroupState {
    /// What initiators may do on its paths.
    #[must_use]
    pub fn state(&self) -> Option<AluaState> {
        self.attributes.get("alua_access_state")?.parse().ok().map(AluaState::of)
    }
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
    /// The access group it is in, where that was read.
    pub alua_group: Option<String>,
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
    /// What carries its bytes.
    pub transport: Transport,
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AclState {
    /// CHAP.
    pub auth: AuthState,
    /// Its label, where that was read.
    pub tag: Option<String>,
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
    /// The relative target port identifier, where the kernel shows it (6.4 and newer).
    pub port_id: Option<u16>,
    /// The one initiator of a loopback or vhost target.
    pub nexus: Option<Iqn>,
    /// CHAP of initiators without an ACL, where it was read.
    pub auth: AuthState,
    /// Initiators that are logged in without an ACL, one entry a session.
    pub dynamic_sessions: Vec<Iqn>,
}

impl GroupState {
    /// The addresses it listens on.
    pub fn portal_addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.portals.iter().filter_map(|portal| portal.address)
    }
}

/// A target.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct TargetState {
    /// Over what it is reached.
    pub fabric: Fabric,
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

/// A group of backstores that change their access state together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LuGroupState {
    /// Its number; `None` before it has one.
    pub id: Option<u16>,
    /// Who is in it; `None` where the kernel's page is too short for the list.
    pub members: Option<BTreeSet<BackstoreId>>,
}

/// All that one pass saw: the input of [`diff`](crate::plan::diff).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct State {
    /// The fabrics that are there.
    pub fabrics: BTreeSet<Fabric>,
    /// Where the kernel keeps persistent reservations; `None` where it was not looked at.
    pub dbroot: Option<String>,
    /// Directories of it that are not there, outermost first.
    pub missing_dirs: Vec<String>,
    /// The adapters (`core/PLUGIN_N`) and the names of their backstores.
    pub adapters: BTreeMap<String, Vec<String>>,
    /// The backstores that were looked at.
    pub backstores: BTreeMap<BackstoreId, BackstoreState>,
    /// The groups of backstores, where they were looked at.
    pub lu_groups: BTreeMap<String, LuGroupState>,
    /// The targets that were looked at.
    pub targets: BTreeMap<(Fabric, Iqn), TargetState>,
}

impl State {
    /// The target of this name.
    #[must_use]
    pub fn target(&self, fabric: Fabric, name: &Iqn) -> Option<&TargetState> {
        self.targets.get(&(fabric, name.clone()))
    }
}

/// What all iSCSI targets share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct IscsiState {
    /// CHAP of discovery.
    pub discovery: AuthState,
    /// Whether discovery without a password is refused (`enforce_discovery_auth`).
    pub enforced: bool,
    /// The processors that connections are served on, where the kernel says.
    pub cpus: Option<CpuSet>,
}
