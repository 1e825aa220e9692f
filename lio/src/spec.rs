//! What is wanted: a target, its disks, its portals, who may log in.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use host::{Bytes, Iqn, Secret, Wwid};

use crate::error::{Error, Result};
use crate::name::{
    BackstoreName, ChapSecret, ChapUser, CompanyId, Lun, ProductId, Tag, UnitSerial, VendorId,
};

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

/// What a backstore's data are on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Backing {
    /// A block device, opened exclusively for as long as the backstore is there (`core/iblock_N`).
    Block {
        /// Its node, for example `/dev/drbd/by-res/r0/0`.
        device: PathBuf,
    },
    /// Memory, lost when the backstore is removed (`core/rd_mcp_N`). For tests and measurements.
    Ramdisk {
        /// Its size; rounded up to whole pages of 4 KiB.
        size: Bytes,
    },
}

impl Backing {
    /// The prefix of the directory in `core`.
    pub(crate) fn plugin(&self) -> &'static str {
        match self {
            Self::Block { .. } => "iblock",
            Self::Ramdisk { .. } => "rd_mcp",
        }
    }
}

/// A disk that a target exports: a backstore and how initiators know it.
///
/// A serial is mandatory: without one the disk has no identifier (LIO then shows no VPD pages) and multipath cannot tell it from others;
/// [`TargetSpec::validate`] refuses it.
///
/// ```
/// use lio::BackstoreSpec;
/// let disk = BackstoreSpec::block("r0".parse()?, "/dev/drbd0")
///     .with_serial("3221815080c24cdc938f1f56a0bb1234".parse()?)
///     .with_attribute("emulate_tpu", 1);
/// assert_eq!(disk.wwid().unwrap().as_str(), "360014053221815080c24cdc938f1f56a");
/// # Ok::<(), lio::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackstoreSpec {
    /// Its name, unique on the machine by convention of all tools.
    pub name: BackstoreName,
    /// What the data are on.
    pub backing: Backing,
    /// The unit serial number; equal on all nodes that export the disk.
    pub serial: Option<UnitSerial>,
    /// The vendor of the INQUIRY data; the kernel's default is `LIO-ORG`.
    pub vendor: Option<VendorId>,
    /// The product of the INQUIRY data; the kernel's default is the plugin's name.
    pub product: Option<ProductId>,
    /// The company of the NAA identifier; the kernel's default is 0x001405.
    pub company: Option<CompanyId>,
    /// Whether the device is opened for writing.
    pub access: Access,
    /// Values of `attrib/`, as the kernel reads them back: plain decimal numbers.
    pub attributes: BTreeMap<String, String>,
}

impl BackstoreSpec {
    fn new(name: BackstoreName, backing: Backing) -> Self {
        Self {
            name,
            backing,
            serial: None,
            vendor: None,
            product: None,
            company: None,
            access: Access::ReadWrite,
            attributes: BTreeMap::new(),
        }
    }

    /// Names a block device. Makes `core/iblock_N/NAME`; `targetcli /backstores/block create NAME DEVICE`.
    #[doc(alias = "targetcli")]
    #[must_use]
    pub fn block(name: BackstoreName, device: impl AsRef<Path>) -> Self {
        Self::new(name, Backing::Block { device: device.as_ref().to_path_buf() })
    }

    /// Names a disk in memory, for tests and measurements. Makes `core/rd_mcp_N/NAME`; `targetcli /backstores/ramdisk create NAME SIZE`.
    #[must_use]
    pub fn ramdisk(name: BackstoreName, size: Bytes) -> Self {
        Self::new(name, Backing::Ramdisk { size })
    }

    /// Sets the unit serial number (`wwn/vpd_unit_serial`), by which initiators know the disk.
    #[must_use]
    pub fn with_serial(mut self, serial: UnitSerial) -> Self {
        self.serial = Some(serial);
        self
    }

    /// Sets the vendor of the INQUIRY data (`wwn/vendor_id`).
    #[must_use]
    pub fn with_vendor(mut self, vendor: VendorId) -> Self {
        self.vendor = Some(vendor);
        self
    }

    /// Sets the product of the INQUIRY data (`wwn/product_id`). For VMware make its first 8 characters differ between LUNs.
    #[must_use]
    pub fn with_product(mut self, product: ProductId) -> Self {
        self.product = Some(product);
        self
    }

    /// Sets the company of the NAA identifier (`wwn/company_id`); changes the identifier that multipath sees.
    #[must_use]
    pub fn with_company(mut self, company: CompanyId) -> Self {
        self.company = Some(company);
        self
    }

    /// Opens the device read-only (`readonly=1` in `control`) or, the default, for writing.
    #[must_use]
    pub fn with_access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Sets an attribute (`attrib/NAME`), for example `emulate_tpu` 1 for thin provisioning or `block_size` 4096. Values are integers.
    ///
    /// Written after the device is enabled and before it is exported: several are refused or, for `emulate_tpu` on kernel 6.1, crash the
    /// kernel at another time (`target_core_configfs.c`, `target_core_iblock.c`).
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.attributes.insert(name.into(), value.to_string());
        self
    }

    /// The identifier that multipath shows for the disk; `None` without a serial.
    #[must_use]
    pub fn wwid(&self) -> Option<Wwid> {
        self.serial.as_ref().map(|serial| serial.wwid_of(self.company.unwrap_or_default()))
    }

    fn validate(&self) -> Result<()> {
        let object = || format!("backstore {}", self.name);
        if self.serial.is_none() {
            return Err(Error::invalid(
                object(),
                "it has no unit serial; add one with with_serial, equal on all nodes",
            ));
        }
        if let Backing::Block { device } = &self.backing {
            let text = device.to_string_lossy();
            // control splits at commas and newlines and cuts paths at 511 bytes (target_core_iblock.c).
            if !device.is_absolute() || text.len() > 511 || text.chars().any(|c| c == ',' || c.is_control()) {
                let reason = format!("{text:?} must be an absolute path of at most 511 bytes without commas");
                return Err(Error::invalid(object(), reason));
            }
        }
        attributes(&object(), &self.attributes)
    }
}

/// A user name and its password.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chap {
    /// The name.
    pub user: ChapUser,
    /// The password.
    pub secret: ChapSecret,
}

/// One LUN that an initiator sees, if it shall not see all of them under their own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MappedLunSpec {
    /// Which LUN of the target.
    pub target_lun: Lun,
    /// Whether it may write.
    pub access: Access,
}

/// An initiator that may log in. Makes `acls/INITIATOR`; `targetcli acls create INITIATOR`.
///
/// By default it sees all LUNs of the target under their own numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AclSpec {
    /// The initiator's name.
    pub initiator: Iqn,
    /// What it must prove; as invalid as the secret was, for [`TargetSpec::validate`] to say.
    chap: Option<std::result::Result<Chap, host::ParseError>>,
    mutual: Option<std::result::Result<Chap, host::ParseError>>,
    /// Values of `attrib/`, as the kernel reads them back: plain decimal numbers.
    pub attributes: BTreeMap<String, String>,
    /// The number of commands the initiator may have in flight (`cmdsn_depth`), 1 to 512; the kernel's default is 64.
    pub queue_depth: Option<u16>,
    /// The LUNs it sees; `None` for all.
    pub luns: Option<BTreeMap<Lun, MappedLunSpec>>,
}

impl AclSpec {
    /// Names an initiator that needs no password.
    #[must_use]
    pub fn new(initiator: Iqn) -> Self {
        let attributes = BTreeMap::new();
        Self { initiator, chap: None, mutual: None, attributes, queue_depth: None, luns: None }
    }

    /// Demands that the initiator proves a password (`auth/userid`, `auth/password`).
    #[doc(alias = "chap")]
    #[must_use]
    pub fn with_chap(mut self, user: ChapUser, secret: Secret) -> Self {
        self.chap = Some(ChapSecret::new(secret).map(|secret| Chap { user, secret }));
        self
    }

    /// Proves a password to the initiator in turn (`auth/userid_mutual`, `auth/password_mutual`). Must differ from the other one.
    #[must_use]
    pub fn with_mutual_chap(mut self, user: ChapUser, secret: Secret) -> Self {
        self.mutual = Some(ChapSecret::new(secret).map(|secret| Chap { user, secret }));
        self
    }

    /// Sets an attribute (`acls/INITIATOR/attrib/NAME`), for example `nopin_timeout` (seconds, 0 or 3 to 60, default 15) and
    /// `nopin_response_timeout` (3 to 60, default 30), by which the target notices a dead initiator.
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.attributes.insert(name.into(), value.to_string());
        self
    }

    /// Sets the number of commands in flight (`cmdsn_depth`), 1 to 512. Changing it later drops the initiator's sessions.
    #[must_use]
    pub fn with_queue_depth(mut self, depth: u16) -> Self {
        self.queue_depth = Some(depth);
        self
    }

    /// Shows the initiator this LUN of the target, under the number `seen`. Once called, it sees only what is said by such calls.
    #[must_use]
    pub fn with_lun(mut self, seen: impl Into<Lun>, target_lun: impl Into<Lun>, access: Access) -> Self {
        let mapped = MappedLunSpec { target_lun: target_lun.into(), access };
        self.luns.get_or_insert_default().insert(seen.into(), mapped);
        self
    }

    /// What the initiator must prove.
    #[must_use]
    pub fn chap(&self) -> Option<&Chap> {
        self.chap.as_ref().and_then(|chap| chap.as_ref().ok())
    }

    /// What is proved to the initiator.
    #[must_use]
    pub fn mutual_chap(&self) -> Option<&Chap> {
        self.mutual.as_ref().and_then(|chap| chap.as_ref().ok())
    }

    fn validate(&self, target: &TargetSpec) -> Result<()> {
        let object = || format!("acl {} of target {}", self.initiator, target.iqn);
        for chap in [&self.chap, &self.mutual].into_iter().flatten() {
            if let Err(error) = chap {
                return Err(Error::Form { source: error.clone() });
            }
        }
        match (self.chap(), self.mutual_chap()) {
            (None, Some(_)) => {
                return Err(Error::invalid(object(), "mutual CHAP needs CHAP; add with_chap"));
            }
            (Some(one), Some(other)) if one.secret == other.secret => {
                let reason =
                    "both directions have the same password (RFC 7143, 12.1.3 forbids it); choose two";
                return Err(Error::invalid(object(), reason));
            }
            _ => {}
        }
        if self.queue_depth.is_some_and(|depth| !(1..=512).contains(&depth)) {
            return Err(Error::invalid(object(), "the queue depth is 1 to 512"));
        }
        let mapped = self.luns.iter().flatten();
        if let Some((_, mapped)) = mapped.clone().find(|(_, m)| !target.luns.contains_key(&m.target_lun)) {
            return Err(Error::invalid(object(), format!("the target has no LUN {}", mapped.target_lun)));
        }
        let mut targets: Vec<_> = mapped.map(|(_, m)| m.target_lun).collect();
        targets.sort_unstable();
        // target_fabric_mappedlun_link answers EINVAL to a LUN that is mapped twice (target_core_fabric_configfs.c).
        if targets.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(Error::invalid(
                object(),
                "a LUN of the target is mapped twice; the kernel maps each once",
            ));
        }
        attributes(&object(), &self.attributes)
    }
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
        }
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
        for (name, value) in &self.parameters {
            let ok = !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric())
                && !value.is_empty()
                && value.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
                && value.trim() == value;
            if !ok {
                let reason =
                    format!("parameter {name:?} = {value:?}: a key of RFC 7143 and its value in one line");
                return Err(Error::invalid(object(), reason));
            }
        }
        attributes(&object(), &self.attributes)?;
        self.acls.values().try_for_each(|acl| acl.validate(self))
    }

    /// The attributes of the portal group with those that follow from ACLs and demo mode.
    pub(crate) fn all_attributes(&self) -> BTreeMap<String, String> {
        let (demo, with, all) = (
            self.demo_mode == DemoMode::Allowed,
            self.acls.values().filter(|acl| acl.chap().is_some()).count(),
            self.acls.len(),
        );
        let mut out = BTreeMap::new();
        out.insert("generate_node_acls".to_owned(), u8::from(demo).to_string());
        if demo {
            out.insert("demo_mode_write_protect".to_owned(), "0".to_owned());
        }
        // With nobody who has a password, a login without one must be possible; where some have, those without say so themselves.
        let authentication = with > 0 || (all == 0 && !demo);
        out.insert("authentication".to_owned(), u8::from(authentication).to_string());
        out.extend(self.attributes.clone());
        out
    }

    /// The attributes of an ACL with the one that follows from the others.
    pub(crate) fn acl_attributes(&self, acl: &AclSpec) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let some = self.acls.values().any(|acl| acl.chap().is_some());
        if some && acl.chap().is_none() {
            out.insert("authentication".to_owned(), "0".to_owned());
        }
        out.extend(acl.attributes.clone());
        out
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

/// Attribute values are integers that the kernel parses with base 0: `010` would be 8, and `on` would never compare equal to what is read.
fn attributes(object: &str, attributes: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in attributes {
        let named = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !named || value.parse::<i64>().map(|n| n.to_string()).as_ref() != Ok(value) {
            let reason =
                format!("attribute {name:?} = {value:?}: a name of attrib/ and a plain decimal number");
            return Err(Error::invalid(object, reason));
        }
    }
    Ok(())
}
