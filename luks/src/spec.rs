//! What is wanted: mappings, and how a volume is made.

mod flags;
mod format;
mod keyslot;
mod plain;
mod reencrypt;

use std::fmt;
use std::path::{Path, PathBuf};

use host::{DmName, ParseError};

use crate::Uuid;

pub use flags::OpenFlags;
pub use format::{FormatSpec, Integrity, Kdf, WeakKdf};
pub use keyslot::KeyslotSpec;
pub use plain::{PlainSpec, WipePattern};
pub use reencrypt::{OtherKeys, ReencryptSpec, Resilience};

/// Where a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Source {
    /// The disk whose header has this UUID, whatever its name is today.
    Uuid(Uuid),
    /// This device or image.
    Path(PathBuf),
    /// The disk whose LUKS2 header has this label.
    Label(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => write!(f, "UUID={uuid}"),
            Self::Path(path) => path.display().fmt(f),
            Self::Label(label) => write!(f, "LABEL={label}"),
        }
    }
}

/// Where a volume is: its data, and its header if that is elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) device: &'a Path,
    pub(crate) header: Option<&'a Path>,
}

impl<'a> Place<'a> {
    pub(crate) fn on(device: &'a Path) -> Self {
        Self { device, header: None }
    }

    /// Where the header is.
    #[allow(dead_code)] // Without libcryptsetup and fake nobody asks.
    pub(crate) fn of_header(&self) -> &'a Path {
        self.header.unwrap_or(self.device)
    }
}

/// A volume that is to be open under a name: one line of `crypttab`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct MappingSpec {
    /// Its name: `/dev/mapper/NAME`.
    pub name: DmName,
    /// The volume.
    pub source: Source,
    /// How it is opened; default none. Discards reach the disk only with [`OpenFlags::ALLOW_DISCARDS`], whatever the header says.
    pub flags: OpenFlags,
    /// The header, if it is not on the volume's own device; then the source is [`Source::Path`].
    pub header: Option<PathBuf>,
    /// The only key slot that a passphrase is tried on, whatever its priority; `None`: all but those of priority "ignore".
    pub keyslot: Option<u32>,
}

impl MappingSpec {
    /// A volume under a name, found by UUID.
    #[must_use]
    pub fn by_uuid(name: DmName, uuid: Uuid) -> Self {
        Self::new(name, Source::Uuid(uuid))
    }

    /// A volume under a name.
    #[must_use]
    pub fn new(name: DmName, source: Source) -> Self {
        Self { name, source, flags: OpenFlags::empty(), header: None, keyslot: None }
    }

    /// Lets discards through, or not.
    #[must_use]
    pub fn with_discards(mut self, discards: Discards) -> Self {
        self.flags.set(OpenFlags::ALLOW_DISCARDS, discards == Discards::Allowed);
        self
    }

    /// Adds flags.
    #[must_use]
    pub fn with_flags(mut self, flags: OpenFlags) -> Self {
        self.flags |= flags;
        self
    }

    /// Says where the header is; `cryptsetup --header`.
    #[must_use]
    pub fn with_header(mut self, header: impl Into<PathBuf>) -> Self {
        self.header = Some(header.into());
        self
    }

    /// Says which key slot a passphrase is of; `cryptsetup --key-slot`. The others are not tried, which saves their derivations.
    #[must_use]
    pub fn with_keyslot(mut self, slot: u32) -> Self {
        self.keyslot = Some(slot);
        self
    }

    /// Refuses what cannot be found: nothing but its path tells a device that has no header of its own.
    pub(crate) fn check(&self) -> Result<(), ParseError> {
        match (&self.header, &self.source) {
            (None, _) | (_, Source::Path(_)) => Ok(()),
            (_, other) => Err(ParseError::new(
                "device",
                other.to_string(),
                "the header is elsewhere, so the device is told by its path or PARTUUID=",
            )),
        }
    }
}

/// Whether discards reach the disk below; `cryptsetup open --allow-discards`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Discards {
    /// They end at the mapping.
    #[default]
    Blocked,
    /// They reach the disk; who has the disk sees which blocks are in use.
    Allowed,
}

/// Whether something may be destroyed. The default everywhere is no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Overwrite {
    /// Refuse if anything known is there.
    #[default]
    Never,
    /// Go ahead; what is there is lost.
    Always,
}
