//! From what is open to what is to be open.

use std::fmt;
use std::path::PathBuf;

use host::{DmName, Impact, Plan};

use crate::Uuid;
use crate::error::{Error, Result};
use crate::spec::{MappingSpec, OpenFlags, Source};
use crate::state::{MappingState, VolumeState};

/// One change. `Display` is the `cryptsetup` line for it; it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Step {
    /// Opens a volume.
    Open {
        /// The name it gets.
        name: DmName,
        /// The volume.
        uuid: Uuid,
        /// The device it is on.
        device: PathBuf,
        /// Where its header is, if not on the device.
        header: Option<PathBuf>,
        /// How it is opened.
        flags: OpenFlags,
        /// The only key slot that a passphrase is tried on; `None`: all.
        keyslot: Option<u32>,
    },
    /// Closes a mapping.
    Close {
        /// Its name.
        name: DmName,
        /// The volume.
        uuid: Uuid,
        /// The device it is on.
        device: PathBuf,
        /// Where its header is, if not on the device.
        header: Option<PathBuf>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { name, device, header, flags, keyslot, .. } => {
                write!(f, "cryptsetup open{}", flags.options())?;
                if let Some(slot) = keyslot {
                    write!(f, " --key-slot {slot}")?;
                }
                if let Some(header) = header {
                    write!(f, " --header {}", header.display())?;
                }
                write!(f, " {} {name}", device.display())
            }
            Self::Close { name, .. } => write!(f, "cryptsetup close {name}"),
        }
    }
}

impl host::plan::Step for Step {
    fn undo(&self) -> Vec<Self> {
        vec![match self.clone() {
            Self::Open { name, uuid, device, header, .. } => Self::Close { name, uuid, device, header },
            Self::Close { name, uuid, device, header } => {
                Self::Open { name, uuid, device, header, flags: OpenFlags::empty(), keyslot: None }
            }
        }]
    }

    fn impact(&self) -> Impact {
        match self {
            Self::Open { .. } => Impact::Online,
            Self::Close { .. } => Impact::DropsSessions,
        }
    }
}

/// The steps that open what is not open yet. Pure.
///
/// # Errors
/// [`Error::NameTaken`], [`Error::OpenElsewhere`], [`Error::NoVolume`]: then nothing is to be done at all.
pub fn diff(mappings: &[MappingState], volumes: &[VolumeState], specs: &[MappingSpec]) -> Result<Plan<Step>> {
    let mut plan = Plan::default();
    for spec in specs {
        // Of a detached header there may be a stale one on the device, too: those read for the specs stand last.
        let volume = volumes.iter().rev().find(|v| match &spec.source {
            Source::Uuid(uuid) => &v.header.uuid == uuid,
            Source::Path(path) => &v.device == path,
            Source::Label(label) => &v.header.label == label,
        });
        let wanted = match (&spec.source, volume) {
            (_, Some(volume)) => &volume.header.uuid,
            (Source::Uuid(uuid), None) => uuid,
            (Source::Path(path), None) => return Err(Error::NotLuks { device: path.clone() }),
            (Source::Label(label), None) => return Err(Error::NoLabel { label: label.clone() }),
        };
        let by_name = mappings.iter().find(|m| m.name == spec.name.as_str());
        if let Some(open) = by_name {
            match (&open.uuid, &open.device) {
                (Some(uuid), Some(_)) if uuid == wanted => continue,
                (Some(uuid), None) if uuid == wanted => {
                    let what = "its disk is gone; close it with cryptsetup close --deferred".to_owned();
                    return Err(Error::NameTaken { name: spec.name.clone(), what });
                }
                (other, _) => {
                    let what = other
                        .as_ref()
                        .map_or("plain dm-crypt or another kind".to_owned(), |u| format!("volume {u}"));
                    return Err(Error::NameTaken { name: spec.name.clone(), what });
                }
            }
        }
        if let Some(elsewhere) = mappings.iter().find(|m| m.uuid.as_ref() == Some(wanted)) {
            return Err(Error::OpenElsewhere {
                uuid: wanted.clone(),
                name: spec.name.clone(),
                open_as: elsewhere.name.clone(),
            });
        }
        let Some(volume) = volume else {
            let have: Vec<_> =
                volumes.iter().map(|v| format!("{} on {}", v.header.uuid, v.device.display())).collect();
            let have = if have.is_empty() {
                "no disk has a LUKS header".to_owned()
            } else {
                format!("here: {}", have.join(", "))
            };
            return Err(Error::NoVolume { uuid: wanted.clone(), have });
        };
        plan.push(Step::Open {
            name: spec.name.clone(),
            uuid: wanted.clone(),
            device: volume.device.clone(),
            header: spec.header.clone(),
            flags: spec.flags,
            keyslot: spec.keyslot,
        });
    }
    Ok(plan)
}

/// Leaves out of a plan what has been done since it was made. Pure.
pub(crate) fn still_to_do(plan: Plan<Step>, mappings: &[MappingState]) -> Result<Plan<Step>> {
    let mut left = Plan::default();
    for step in plan.into_steps() {
        if let Step::Open { name, uuid, .. } = &step {
            let by_name = mappings.iter().find(|m| m.name == name.as_str());
            let by_uuid = mappings.iter().find(|m| m.uuid.as_ref() == Some(uuid));
            match (by_name, by_uuid) {
                (Some(open), _) if open.uuid.as_ref() == Some(uuid) => continue,
                (Some(_), _) => {
                    let what = "it was opened meanwhile".to_owned();
                    return Err(Error::NameTaken { name: name.clone(), what });
                }
                (None, Some(elsewhere)) => {
                    let (uuid, name, open_as) = (uuid.clone(), name.clone(), elsewhere.name.clone());
                    return Err(Error::OpenElsewhere { uuid, name, open_as });
                }
                (None, None) => {}
            }
        }
        left.push(step);
    }
    Ok(left)
}
