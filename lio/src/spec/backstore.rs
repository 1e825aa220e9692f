//! Backstores: what the data are on, how initiators know the disk, its asymmetric access groups.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use host::{Bytes, Wwid};

use super::{Access, known};
use crate::error::{Error, Result};
use crate::name::{BackstoreName, CompanyId, GroupName, ProductId, Revision, UnitSerial, VendorId};
use crate::wire::aptpl::Registration;
use crate::wire::attributes::{self, Table};

/// The access group that every backstore has.
pub(crate) const DEFAULT_GROUP: &str = "default_tg_pt_gp";

/// When a file's data are on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum WriteCache {
    /// Before the initiator is answered (`O_DSYNC`); the kernel's default.
    #[default]
    Through,
    /// When the initiator flushes: `fd_buffered_io=1`. A power cut loses what was not flushed.
    Back,
}

/// How a file is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum FileIo {
    /// One command after the other in a kernel thread; the kernel's default.
    #[default]
    Blocking,
    /// Asynchronously: `fd_async_io=1`.
    Async,
}

/// What a ramdisk does with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Memory {
    /// Keeps them.
    #[default]
    Kept,
    /// Throws them away and takes no memory: `rd_nullio=1`. For measurements.
    Null,
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
    /// A file, made if it is missing (`core/fileio_N`).
    File {
        /// Where it is.
        path: PathBuf,
        /// Its size; that of the device where the path is a block device.
        size: Bytes,
        /// When writes are on the disk.
        cache: WriteCache,
        /// How it is read and written.
        io: FileIo,
    },
    /// Memory, lost when the backstore is removed (`core/rd_mcp_N`). For tests and measurements.
    Ramdisk {
        /// Its size; rounded up to whole pages of 4 KiB.
        size: Bytes,
        /// What becomes of data.
        memory: Memory,
    },
    /// A SCSI device of this machine, commands passed through (`core/pscsi_N`). It brings its own identity: `wwn/` cannot be set.
    Scsi {
        /// The host adapter: the H of H:C:T:L in `/sys/bus/scsi/devices`.
        host: u32,
        /// The channel.
        channel: u32,
        /// The target.
        target: u32,
        /// The logical unit.
        lun: u32,
    },
    /// A process (`core/user_N`, TCMU); `tcmu-runner` or another handler must serve it.
    User {
        /// Which handler and what it shall open: `HANDLER/ANYTHING`, no comma.
        config: String,
        /// Its size.
        size: Bytes,
        /// The block size, 512 by default.
        block_size: Option<u32>,
        /// The memory that commands in flight may take, in MiB.
        data_area: Option<u32>,
    },
}

impl Backing {
    /// The prefix of the directory in `core`: `iblock`, `fileio`, `rd_mcp`, `pscsi`, `user`.
    #[must_use]
    pub fn plugin(&self) -> &'static str {
        match self {
            Self::Block { .. } => "iblock",
            Self::File { .. } => "fileio",
            Self::Ramdisk { .. } => "rd_mcp",
            Self::Scsi { .. } => "pscsi",
            Self::User { .. } => "user",
        }
    }

    /// The pages of 4 KiB of a ramdisk.
    pub(crate) fn pages(&self) -> Option<u64> {
        match self {
            Self::Ramdisk { size, .. } => Some(size.0.div_ceil(4096).max(1)),
            _ => None,
        }
    }

    /// The path that `udev_path` notes, for those on a path.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Block { device: path } | Self::File { path, .. } => Some(path),
            _ => None,
        }
    }

    /// What `control` is given.
    pub(crate) fn control(&self, access: Access) -> String {
        match self {
            Self::Block { device } => {
                let read_only = if access == Access::ReadOnly { ",readonly=1" } else { "" };
                format!("udev_path={}{read_only}", device.display())
            }
            Self::File { path, size, cache, io } => {
                let cache = if *cache == WriteCache::Back { ",fd_buffered_io=1" } else { "" };
                let io = if *io == FileIo::Async { ",fd_async_io=1" } else { "" };
                format!("fd_dev_name={},fd_dev_size={}{cache}{io}", path.display(), size.0)
            }
            Self::Ramdisk { memory, .. } => {
                let null = if *memory == Memory::Null { ",rd_nullio=1" } else { "" };
                format!("rd_pages={}{null}", self.pages().unwrap_or(1))
            }
            Self::Scsi { host, channel, target, lun } => format!(
                "scsi_host_id={host},scsi_channel_id={channel},scsi_target_id={target},scsi_lun_id={lun}"
            ),
            Self::User { config, size, block_size, data_area } => {
                let block = block_size.map_or_else(String::new, |size| format!(",hw_block_size={size}"));
                let area = data_area.map_or_else(String::new, |mib| format!(",max_data_area_mb={mib}"));
                format!("dev_config={config},dev_size={}{block}{area}", size.0)
            }
        }
    }

    /// Whether the kernel passes commands on instead of carrying them out itself.
    #[must_use]
    pub fn is_passthrough(&self) -> bool {
        matches!(self, Self::Scsi { .. } | Self::User { .. })
    }

    pub(crate) fn table(&self) -> Table {
        if self.is_passthrough() { attributes::PASSTHROUGH } else { attributes::DEVICE }
    }

    fn validate(&self) -> std::result::Result<(), String> {
        // control splits at commas and newlines and cuts what is too long (target_core_iblock.c, target_core_file.c).
        let path = |path: &Path, most: usize| {
            let text = path.to_string_lossy();
            match path.is_absolute()
                && text.len() <= most
                && !text.chars().any(|c| c == ',' || c.is_control())
            {
                true => Ok(()),
                false => {
                    Err(format!("{text:?} must be an absolute path of at most {most} bytes without commas"))
                }
            }
        };
        match self {
            Self::Block { device } => path(device, 511),
            Self::File { path: file, size, .. } => match size.0 {
                0 => Err("a file needs a size".to_owned()),
                _ => path(file, 255),
            },
            Self::User { config, .. }
                if config.is_empty()
                    || config.len() > 255
                    || config.chars().any(|c| c == ',' || c.is_control()) =>
            {
                Err(format!("{config:?} must be HANDLER/CONFIGURATION, at most 255 bytes without commas"))
            }
            _ => Ok(()),
        }
    }
}

/// The state of an asymmetric access group: what an initiator may do on the paths through its LUNs (SPC-4, 5.15.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum AluaState {
    /// 0: use these paths.
    #[default]
    Optimized,
    /// 1: these work, others are better.
    NonOptimized,
    /// 2: no reads and writes (04/0B), but the paths stay logged in.
    Standby,
    /// 3: hardly anything (04/0C).
    Unavailable,
    /// 14: not there (04/12).
    Offline,
    /// 15: about to change (04/0A).
    Transitioning,
    /// Another one.
    Other(u8),
}

impl AluaState {
    /// The number that is written to `alua_access_state`.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Optimized => 0,
            Self::NonOptimized => 1,
            Self::Standby => 2,
            Self::Unavailable => 3,
            Self::Offline => 14,
            Self::Transitioning => 15,
            Self::Other(n) => n,
        }
    }

    /// The state of a number.
    #[must_use]
    pub fn of(number: u8) -> Self {
        match number {
            0 => Self::Optimized,
            1 => Self::NonOptimized,
            2 => Self::Standby,
            3 => Self::Unavailable,
            14 => Self::Offline,
            15 => Self::Transitioning,
            n => Self::Other(n),
        }
    }
}

/// An asymmetric access group of a backstore (`core/*/*/alua/GROUP`); `targetcli .../alua create`.
///
/// A group without a LUN in it is not reported to initiators.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AluaGroupSpec {
    /// Its number, 1 to 65535, once and for all; initiators see it. 0 is the kernel's own group, `default_tg_pt_gp`.
    pub id: u16,
    /// The files of the group, as numbers: see [`ALUA`](crate::wire::attributes::ALUA).
    pub attributes: BTreeMap<String, String>,
}

impl AluaGroupSpec {
    /// Names a group by its number.
    #[must_use]
    pub fn new(id: u16) -> Self {
        Self { id, attributes: BTreeMap::new() }
    }

    /// Sets its state (`alua_access_state`).
    #[must_use]
    pub fn with_state(self, state: AluaState) -> Self {
        self.with_attribute("alua_access_state", state.number())
    }

    /// Sets another file of the group, for example `alua_access_type` 1 (implicit only) or `nonop_delay_msecs` 0: by default the kernel
    /// makes each command on a non-optimized path wait 100 ms.
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.attributes.insert(name.into(), value.to_string());
        self
    }
}

/// A group of backstores whose access groups of equal numbers change together (`core/alua/lu_gps/NAME`): one write flips all.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LuGroup {
    /// Its name.
    pub name: GroupName,
    /// Its number, 1 to 65535.
    pub id: u16,
}

impl LuGroup {
    /// Names a group.
    #[must_use]
    pub fn new(name: GroupName, id: u16) -> Self {
        Self { name, id }
    }
}

/// A disk that a target exports: a backstore and how initiators know it.
///
/// A serial is mandatory: without one the disk has no identifier (LIO then shows no VPD pages) and multipath cannot tell it from others;
/// [`TargetSpec::validate`](super::TargetSpec::validate) refuses it. Only a disk that is [passed through](Backing::Scsi) has its own.
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
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
    /// The revision of the INQUIRY data; the kernel's default is its own version (`4.0`).
    pub revision: Option<Revision>,
    /// The company of the NAA identifier; the kernel's default is 0x001405.
    pub company: Option<CompanyId>,
    /// Whether the device is opened for writing.
    pub access: Access,
    /// Values of `attrib/`, as the kernel reads them back: plain decimal numbers.
    pub attributes: BTreeMap<String, String>,
    /// Asymmetric access groups besides the kernel's own.
    pub alua: BTreeMap<GroupName, AluaGroupSpec>,
    /// The group of backstores that change their access state together.
    pub lu_group: Option<LuGroup>,
    /// Persistent reservations that the disk begins with.
    #[cfg_attr(feature = "serde", serde(default))]
    pub reservations: Vec<Registration>,
}

impl BackstoreSpec {
    /// Names a backstore of any backing.
    #[must_use]
    pub fn new(name: BackstoreName, backing: Backing) -> Self {
        Self {
            name,
            backing,
            serial: None,
            vendor: None,
            product: None,
            revision: None,
            company: None,
            access: Access::ReadWrite,
            attributes: BTreeMap::new(),
            alua: BTreeMap::new(),
            lu_group: None,
            reservations: Vec::new(),
        }
    }

    /// Names a block device. Makes `core/iblock_N/NAME`; `targetcli /backstores/block create NAME DEVICE`.
    #[doc(alias = "targetcli")]
    #[must_use]
    pub fn block(name: BackstoreName, device: impl AsRef<Path>) -> Self {
        Self::new(name, Backing::Block { device: device.as_ref().to_path_buf() })
    }

    /// Names a file, written through to the disk. Makes `core/fileio_N/NAME`; `targetcli /backstores/fileio create NAME FILE SIZE`.
    #[must_use]
    pub fn file(name: BackstoreName, path: impl AsRef<Path>, size: Bytes) -> Self {
        let path = path.as_ref().to_path_buf();
        Self::new(name, Backing::File { path, size, cache: WriteCache::Through, io: FileIo::Blocking })
    }

    /// Names a disk in memory, for tests and measurements. Makes `core/rd_mcp_N/NAME`; `targetcli /backstores/ramdisk create NAME SIZE`.
    #[must_use]
    pub fn ramdisk(name: BackstoreName, size: Bytes) -> Self {
        Self::new(name, Backing::Ramdisk { size, memory: Memory::Kept })
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

    /// Sets the revision of the INQUIRY data (`wwn/revision`).
    #[must_use]
    pub fn with_revision(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
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

    /// Sets an attribute (`attrib/NAME`), for example `emulate_tpu` 1 for thin provisioning or `block_size` 4096. Values are integers;
    /// names, defaults and ranges are in [`DEVICE`](crate::wire::attributes::DEVICE).
    ///
    /// Written after the device is enabled and before it is exported: several are refused or, for `emulate_tpu` on kernel 6.1, crash the
    /// kernel at another time (`target_core_configfs.c`, `target_core_iblock.c`).
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.attributes.insert(name.into(), value.to_string());
        self
    }

    /// Adds an asymmetric access group; LUNs get into it by [`TargetSpec::with_lun_group`](super::TargetSpec::with_lun_group).
    #[doc(alias = "alua")]
    #[must_use]
    pub fn with_alua_group(mut self, name: GroupName, group: AluaGroupSpec) -> Self {
        self.alua.insert(name, group);
        self
    }

    /// Puts the backstore in a group of backstores (`alua_lu_gp`), which is made if it is missing.
    #[must_use]
    pub fn with_lu_group(mut self, group: LuGroup) -> Self {
        self.lu_group = Some(group);
        self
    }

    /// Gives a disk that is made the persistent reservations that another node had ([`Lio::reservations`](crate::Lio::reservations)), before
    /// anybody sees it (`pr/res_aptpl_metadata`). Each comes into force when its initiator is shown the LUN it came through. On a disk that is
    /// there already nothing is changed: it has its own.
    #[doc(alias = "APTPL")]
    #[must_use]
    pub fn with_reservations(mut self, reservations: impl IntoIterator<Item = Registration>) -> Self {
        self.reservations.extend(reservations);
        self
    }

    /// The product that initiators are shown.
    pub(crate) fn shown_product(&self) -> String {
        // The kernel shows the backstore's name then (dev_set_t10_wwn_model_alias, target_core_configfs.c).
        if self.attributes.get("emulate_model_alias").is_some_and(|on| on == "1") {
            return self.name.as_str().chars().take(15).collect();
        }
        let own = match &self.backing {
            Backing::Block { .. } => "IBLOCK",
            Backing::File { .. } => "FILEIO",
            Backing::Ramdisk { .. } => "RAMDISK-MCP",
            // The device's own, which nobody here knows.
            Backing::Scsi { .. } | Backing::User { .. } => self.name.as_str(),
        };
        self.product.as_ref().map_or_else(|| own.to_owned(), ToString::to_string)
    }

    /// The identifier that multipath shows for the disk; `None` without a serial.
    #[must_use]
    pub fn wwid(&self) -> Option<Wwid> {
        self.serial.as_ref().map(|serial| serial.wwid_of(self.company.unwrap_or_default()))
    }

    pub(super) fn validate(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::invalid(format!("backstore {}", self.name), reason));
        if let Err(reason) = self.backing.validate() {
            return bad(reason);
        }
        let identity = self.serial.is_some()
            || self.vendor.is_some()
            || self.product.is_some()
            || self.revision.is_some()
            || self.company.is_some();
        match &self.backing {
            Backing::Scsi { .. } if identity => {
                return bad("a SCSI device brings its own identity; leave serial, vendor, product, revision and company out".into());
            }
            Backing::Scsi { .. } => {}
            _ if self.serial.is_none() => {
                return bad("it has no unit serial; add one with with_serial, equal on all nodes".into());
            }
            _ => {}
        }
        if self.access == Access::ReadOnly && !matches!(self.backing, Backing::Block { .. }) {
            return bad(
                "only block devices are opened read-only; write-protect the mapped LUNs instead".into()
            );
        }
        let emulated = self.attributes.get("emulate_pr").is_none_or(|on| on != "0");
        if !self.reservations.is_empty() && (!emulated || self.backing.is_passthrough()) {
            return bad(
                "it has no persistent reservations of the kernel's (emulate_pr 0, or commands are passed through), and can be given none".into(),
            );
        }
        if self.reservations.iter().any(|one| one.key == 0 || one.metadata().contains(['\n', ' '])) {
            return bad("a registration has a key other than 0 and names without blanks".into());
        }
        let mut ids = BTreeMap::new();
        for (name, group) in &self.alua {
            // The kernel's own group is there, with the number 0.
            if (group.id == 0) != (name.as_str() == DEFAULT_GROUP) {
                return bad(format!(
                    "access group {name}: its number is 1 to 65535; 0 is that of the kernel's own, {DEFAULT_GROUP}"
                ));
            }
            if let Some(other) = ids.insert(group.id, name) {
                return bad(format!(
                    "the access groups {other} and {name} have the same number {}",
                    group.id
                ));
            }
            known(
                &format!("access group {name} of backstore {}", self.name),
                attributes::ALUA,
                &group.attributes,
            )?;
            let value = |name: &str| group.attributes.get(name).map(String::as_str);
            // target_tg_pt_gp_alua_access_state_store answers EINVAL without the implicit bit (target_core_configfs.c).
            if matches!(value("alua_access_type"), Some("0" | "2")) && value("alua_access_state").is_some() {
                return bad(format!(
                    "access group {name}: a state can be set only with implicit access (alua_access_type 1 or 3)"
                ));
            }
        }
        if self.lu_group.as_ref().is_some_and(|group| group.id == 0 || group.name.as_str() == "default_lu_gp")
        {
            return bad(
                "the number of a group of backstores is 1 to 65535; default_lu_gp is the kernel's own".into(),
            );
        }
        known(&format!("backstore {}", self.name), self.backing.table(), &self.attributes)
    }

    /// Drops attributes that a device says of itself, and those that only read 0, from values that were read.
    pub(crate) fn forget_device(&mut self) {
        self.attributes.remove("pi_prot_format");
        if matches!(self.backing, Backing::Block { .. }) {
            // Of a block device the kernel asks the device (iblock_get_write_cache).
            self.attributes.remove("emulate_write_cache");
        }
    }
}
