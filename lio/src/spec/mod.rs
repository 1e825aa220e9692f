//! What is wanted: a target, its disks, its portals, who may log in.

mod acl;
mod backstore;
mod chap;
mod config;
mod iscsi;

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::SocketAddr;

use host::{Iqn, Secret};

use crate::error::{Error, Result};
use crate::name::{ChapUser, GroupName, Lun, Tag};
use crate::wire::attributes::{self, Table};

pub use acl::{AclSpec, MappedLunSpec};
pub(crate) use backstore::DEFAULT_GROUP;
pub use backstore::{AluaGroupSpec, AluaState, Backing, BackstoreSpec, FileIo, LuGroup, Memory, WriteCache};
pub use chap::Chap;
pub(crate) use chap::Credentials;
pub use config::{ConfigSpec, Others};
pub use iscsi::IscsiSpec;

/// Over what a target is reached: a directory of `/sys/kernel/config/target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Fabric {
    /// iSCSI: `iscsi`.
    #[default]
    Iscsi,
    /// SCSI disks of this machine itself: `loopback`. Targets are called `naa.` and 16 hexadecimal digits.
    Loopback,
    /// Virtual machines with vhost-scsi: `vhost`. Targets are called `naa.` and 16 hexadecimal digits.
    Vhost,
}

impl Fabric {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Iscsi, Self::Loopback, Self::Vhost];

    /// The name of its directory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Iscsi => "iscsi",
            Self::Loopback => "loopback",
            Self::Vhost => "vhost",
        }
    }
}

impl Display for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What carries the bytes of a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// iSER over RDMA: `iser` = 1. Needs an RDMA device at the address.
    Iser,
    /// A Chelsio adapter that does iSCSI itself: `cxgbit` = 1.
    Cxgbit,
}

impl Transport {
    /// The file of the portal that is 1.
    pub(crate) fn file(self) -> Option<&'static str> {
        match self {
            Self::Tcp => None,
            Self::Iser => Some("iser"),
            Self::Cxgbit => Some("cxgbit"),
        }
    }
}

/// Whether a target portal group serves (`tpgt_N/enable`). A disabled one answers logins with "service unavailable" (0x0301), which
/// initiators retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Enabled {
    /// It serves; written last of all changes.
    #[default]
    Yes,
    /// It does not: everything is made, nobody can log in. Written first of all changes.
    No,
}

/// Whether initiators without an ACL may log in (`attrib/generate_node_acls`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum DemoMode {
    /// They are refused with "target forbidden" (0x0202).
    #[default]
    Refused,
    /// Anybody who reaches a portal may log in and write: `generate_node_acls=1`, `demo_mode_write_protect=0`.
    Allowed,
}

/// Whether a disk may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Access {
    /// Reads and writes.
    #[default]
    ReadWrite,
    /// Reads only.
    ReadOnly,
}

/// An iSCSI target: what `targetcli /iscsi create` and the twenty commands after it make.
///
/// ```
/// use lio::{AclSpec, BackstoreSpec, Secret, TargetSpec};
/// let disk = BackstoreSpec::block("r0".parse()?, "/dev/drbd0").with_serial("0a1b2c3d".parse()?);
/// let target = TargetSpec::new("iqn.2026-01.com.example:r0".parse()?)
///     .with_lun(0, disk)
///     .with_portal("10.1.24.10:3260".parse()?)
///     .with_portal("[fd00::10]:3260".parse()?)
///     .with_acl(AclSpec::new("iqn.2026-01.com.example:host1".parse()?)
///         .with_chap("host1".parse()?, Secret::from("a good password"))
///         .with_attribute("nopin_timeout", 5))
///     .with_parameter("DefaultTime2Wait", 0);
/// target.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TargetSpec {
    /// Its name.
    pub iqn: Iqn,
    /// The tag of its portal group; 1 by default.
    pub tag: Tag,
    /// Its disks.
    pub luns: BTreeMap<Lun, BackstoreSpec>,
    /// Where it listens. An address need not be there yet: LIO binds with `IP_FREEBIND`.
    pub portals: Vec<SocketAddr>,
    /// Who may log in.
    pub acls: BTreeMap<Iqn, AclSpec>,
    /// Values of `tpgt_N/param/`, the keys of RFC 7143, as the kernel reads them back.
    pub parameters: BTreeMap<String, String>,
    /// Values of `tpgt_N/attrib/`, as the kernel reads them back: plain decimal numbers.
    pub attributes: BTreeMap<String, String>,
    /// Whether it serves.
    pub enabled: Enabled,
    /// Whether initiators without an ACL may log in.
    pub demo_mode: DemoMode,
    /// Over what it is reached.
    pub fabric: Fabric,
    /// Portals that are not plain TCP.
    pub transports: BTreeMap<SocketAddr, Transport>,
    /// The access groups that LUNs are in, of those their backstores have; the others are in the kernel's own.
    pub lun_groups: BTreeMap<Lun, GroupName>,
    /// What the links of LUNs to their backstores are called, where that is not `backstore`; nobody but tools looks at it.
    pub link_names: BTreeMap<Lun, GroupName>,
    /// The relative target port identifier, 1 to 65535; `None` for the kernel's choice.
    pub port_id: Option<u16>,
    /// The initiator's name, where the fabric has one and only one: loopback and vhost.
    pub nexus: Option<Iqn>,
    /// CHAP of initiators without an ACL.
    pub(crate) auth: Credentials,
}

impl TargetSpec {
    /// Names a target without disks, portals and ACLs: enabled, tag 1, nobody gets in.
    #[must_use]
    pub fn new(iqn: Iqn) -> Self {
        Self {
            iqn,
            tag: Tag::default(),
            luns: BTreeMap::new(),
            portals: Vec::new(),
            acls: BTreeMap::new(),
            parameters: BTreeMap::new(),
            attributes: BTreeMap::new(),
            enabled: Enabled::Yes,
            demo_mode: DemoMode::Refused,
            fabric: Fabric::Iscsi,
            transports: BTreeMap::new(),
            lun_groups: BTreeMap::new(),
            link_names: BTreeMap::new(),
            port_id: None,
            nexus: None,
            auth: Credentials::default(),
        }
    }

    /// Names a target whose LUNs are SCSI disks of this machine; `targetcli /loopback create NAA`. `naa` is its name, and by default the
    /// initiator's too.
    #[must_use]
    pub fn loopback(naa: Iqn) -> Self {
        Self { fabric: Fabric::Loopback, nexus: Some(naa.clone()), ..Self::new(naa) }
    }

    /// Names a target for virtual machines (`vhost-scsi-pci,wwpn=NAA`); `targetcli /vhost create NAA`.
    #[must_use]
    pub fn vhost(naa: Iqn) -> Self {
        Self { fabric: Fabric::Vhost, nexus: Some(naa.clone()), ..Self::new(naa) }
    }

    /// Names the initiator of a loopback or vhost target (`nexus`).
    #[must_use]
    pub fn with_nexus(mut self, initiator: Iqn) -> Self {
        self.nexus = Some(initiator);
        self
    }

    /// Adds a portal that is not plain TCP (`np/ADDR:PORT/iser` or `cxgbit`).
    #[must_use]
    pub fn with_portal_over(mut self, portal: SocketAddr, transport: Transport) -> Self {
        self.transports.insert(portal, transport);
        self.with_portal(portal)
    }

    /// Puts a LUN in an access group of its backstore (`alua_tg_pt_gp`).
    #[doc(alias = "alua")]
    #[must_use]
    pub fn with_lun_group(mut self, lun: impl Into<Lun>, group: GroupName) -> Self {
        self.lun_groups.insert(lun.into(), group);
        self
    }

    /// Sets the relative target port identifier (`tpgt_N/rtpi`, Linux 6.4 and newer). Two nodes that export one disk need different ones.
    #[doc(alias = "rtpi")]
    #[must_use]
    pub fn with_port_id(mut self, id: u16) -> Self {
        self.port_id = Some(id);
        self
    }

    /// Demands a password of initiators without an ACL (`tpgt_N/auth`); they get in only in [demo mode](Self::with_demo_mode).
    #[must_use]
    pub fn with_chap(mut self, user: ChapUser, secret: Secret) -> Self {
        self.auth.set(user, secret);
        self
    }

    /// Proves a password to initiators without an ACL in turn.
    #[must_use]
    pub fn with_mutual_chap(mut self, user: ChapUser, secret: Secret) -> Self {
        self.auth.set_mutual(user, secret);
        self
    }

    /// Sets the tag of the portal group (`tpgt_TAG`). Nodes that serve the same disk at the same time have different tags.
    #[must_use]
    pub fn with_tag(mut self, tag: Tag) -> Self {
        self.tag = tag;
        self
    }

    /// Adds a disk. Makes `lun/lun_N`; `targetcli luns create`.
    #[must_use]
    pub fn with_lun(mut self, lun: impl Into<Lun>, backstore: BackstoreSpec) -> Self {
        self.luns.insert(lun.into(), backstore);
        self
    }

    /// Adds a portal. Makes `np/ADDR:PORT`; `targetcli portals create ADDR PORT`.
    #[must_use]
    pub fn with_portal(mut self, portal: SocketAddr) -> Self {
        if !self.portals.contains(&portal) {
            self.portals.push(portal);
        }
        self
    }

    /// Adds an initiator that may log in.
    #[must_use]
    pub fn with_acl(mut self, acl: AclSpec) -> Self {
        self.acls.insert(acl.initiator.clone(), acl);
        self
    }

    /// Sets a negotiation key (`param/NAME`), for example `DefaultTime2Wait` 0, `MaxBurstLength` 262144, `InitialR2T` No.
    #[must_use]
    pub fn with_parameter(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.parameters.insert(name.into(), value.to_string());
        self
    }

    /// Sets an attribute of the portal group (`attrib/NAME`), for example `login_timeout` (seconds, 5 to 30, default 15).
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.attributes.insert(name.into(), value.to_string());
        self
    }

    /// Says whether it serves; it does by default.
    #[must_use]
    pub fn enabled(mut self, enabled: Enabled) -> Self {
        self.enabled = enabled;
        self
    }

    /// Says whether initiators without an ACL may log in; by default they may not.
    #[must_use]
    pub fn with_demo_mode(mut self, demo_mode: DemoMode) -> Self {
        self.demo_mode = demo_mode;
        self
    }

    /// Checks what can be checked without a kernel.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the part and what would be right.
    pub fn validate(&self) -> Result<()> {
        let object = || format!("target {}", self.iqn);
        let (mut names, mut wwids) = (BTreeMap::new(), BTreeMap::new());
        for (lun, backstore) in &self.luns {
            backstore.validate()?;
            if let Some(other) = names.insert(&backstore.name, lun) {
                let reason = format!("LUN {other} and LUN {lun} are both backstore {}", backstore.name);
                return Err(Error::invalid(object(), reason));
            }
            if let Some(other) = backstore.wwid().and_then(|wwid| wwids.insert(wwid, lun)) {
                let reason = format!(
                    "LUN {other} and LUN {lun} have the same identifier; initiators would take them for one disk"
                );
                return Err(Error::invalid(object(), reason));
            }
        }
        for portal in &self.portals {
            if let SocketAddr::V6(v6) = portal
                && (v6.scope_id() != 0 || v6.flowinfo() != 0)
            {
                let reason = format!("portal {portal}: LIO takes no scope; use an address that needs none");
                return Err(Error::invalid(object(), reason));
            }
            if portal.port() == 0 {
                return Err(Error::invalid(object(), format!("portal {portal}: the port is 1 to 65535")));
            }
        }
        let unused = self.transports.keys().find(|portal| !self.portals.contains(portal));
        if let Some(portal) = unused {
            return Err(Error::invalid(object(), format!("it has no portal {portal}; use with_portal_over")));
        }
        if self.port_id == Some(0) {
            return Err(Error::invalid(object(), "the relative port identifier is 1 to 65535"));
        }
        for (lun, group) in &self.lun_groups {
            let disk = self.luns.get(lun);
            if !disk.is_some_and(|disk| disk.alua.contains_key(group)) {
                let reason = format!(
                    "LUN {lun} has no access group {group}; add it to its backstore with with_alua_group"
                );
                return Err(Error::invalid(object(), reason));
            }
        }
        self.validate_fabric()?;
        known(&object(), attributes::PARAMETER, &self.parameters)?;
        known(&object(), attributes::GROUP, &self.attributes)?;
        self.auth.validate(&object())?;
        self.acls.values().try_for_each(|acl| acl.validate(self))
    }

    /// The fabrics that are no network have nothing of a network.
    fn validate_fabric(&self) -> Result<()> {
        let bad = |reason: &str| Err(Error::invalid(format!("target {}", self.iqn), reason));
        let naa = |name: &Iqn| name.as_str().starts_with("naa.");
        match self.fabric {
            Fabric::Iscsi if self.nexus.is_some() => bad("an iSCSI target has ACLs, no nexus"),
            Fabric::Iscsi => Ok(()),
            _ if !naa(&self.iqn) || !self.nexus.as_ref().is_some_and(naa) => {
                bad("targets of this fabric and their initiators are called naa. and 16 hexadecimal digits")
            }
            _ if !self.portals.is_empty()
                || !self.acls.is_empty()
                || !self.parameters.is_empty()
                || !self.attributes.is_empty()
                || self.auth != Credentials::default() =>
            {
                bad("only iSCSI targets have portals, ACLs, parameters, attributes and passwords")
            }
            _ => Ok(()),
        }
    }

    /// The attributes of the portal group with those that follow from ACLs and demo mode.
    pub(crate) fn all_attributes(&self) -> BTreeMap<String, String> {
        let (demo, with, all) = (
            self.demo_mode == DemoMode::Allowed,
            self.acls.values().filter(|acl| acl.chap().is_some()).count(),
            self.acls.len(),
        );
        let mut out = BTreeMap::new();
        if self.fabric != Fabric::Iscsi {
            return out;
        }
        out.insert("generate_node_acls".to_owned(), u8::from(demo).to_string());
        if demo {
            out.insert("demo_mode_write_protect".to_owned(), "0".to_owned());
        }
        // With nobody who has a password, a login without one must be possible; where some have, those without say so themselves.
        let authentication = with > 0 || self.auth.chap().is_some() || (all == 0 && !demo);
        out.insert("authentication".to_owned(), u8::from(authentication).to_string());
        out.extend(self.attributes.clone());
        out
    }

    /// The attributes of an ACL with the one that follows from the others.
    pub(crate) fn acl_attributes(&self, acl: &AclSpec) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let some = self.auth.chap().is_some() || self.acls.values().any(|acl| acl.chap().is_some());
        if some && acl.chap().is_none() {
            out.insert("authentication".to_owned(), "0".to_owned());
        }
        out.extend(acl.attributes.clone());
        out
    }

    /// Whether an initiator sees a LUN of this number.
    pub(crate) fn shows(&self, acl: &AclSpec, seen: Lun) -> bool {
        match &acl.luns {
            Some(luns) => luns.contains_key(&seen),
            None => self.luns.contains_key(&seen),
        }
    }

    /// The LUNs an initiator sees.
    pub(crate) fn mapped(&self, acl: &AclSpec) -> BTreeMap<Lun, MappedLunSpec> {
        match &acl.luns {
            Some(luns) => luns.clone(),
            None => {
                let all = |lun: &Lun| (*lun, MappedLunSpec { target_lun: *lun, access: Access::ReadWrite });
                self.luns.keys().map(all).collect()
            }
        }
    }
}

/// Checks values against what the kernels are known to take. What is in no table may be of a newer kernel: only its form is checked.
/// Numbers are plain decimals, since the kernel parses them with base 0 (`010` would be 8), and `on` would never equal what is read.
pub(crate) fn known(object: &str, table: Table, values: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in values {
        let plain = value.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
            && value.trim() == value
            && !value.is_empty();
        let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let decimal = !value.starts_with(['0', '+', '-'])
            || value.parse::<i64>().map_or(true, |number| number.to_string() == *value);
        if !named || !plain || !decimal {
            let reason =
                format!("{name:?} = {value:?}: the name of a file and one line; numbers in plain decimal");
            return Err(Error::invalid(object, reason));
        }
        if let Some(row) = attributes::of(table, name)
            && !row.range.allows(value)
        {
            return Err(Error::invalid(object, format!("{name} = {value}: LIO takes {}", row.range)));
        }
    }
    Ok(())
}
