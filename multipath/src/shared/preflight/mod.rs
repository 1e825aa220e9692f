//! Whether this host is fit to share a group: what is there, what is wanted, why, and what to do.

mod facts;
mod judge;

use std::fmt;
use std::path::Path;

use host::Deadline;

use super::SharedVg;
use super::error::{Error, Result};
use crate::Multipath;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Check {
    /// The programs are installed.
    Programs,
    /// This host has a number.
    HostId,
    /// No other host has it.
    HostIdUnique,
    /// LVM's own commands use lvmlockd, too.
    UseLvmlockd,
    /// sanlock and lvmlockd run.
    Daemons,
    /// A host that loses its leases is reset.
    Watchdog,
    /// The disk is a multipath map.
    Device,
    /// I/O waits shorter than the leases last.
    Queueing,
    /// LVM leaves the paths alone.
    ComponentDetection,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Programs => "programs",
            Self::HostId => "host number",
            Self::HostIdUnique => "host number is free",
            Self::UseLvmlockd => "use_lvmlockd",
            Self::Daemons => "lock managers",
            Self::Watchdog => "watchdog",
            Self::Device => "disk",
            Self::Queueing => "queueing",
            Self::ComponentDetection => "multipath_component_detection",
        })
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Level {
    /// As it should be.
    Fit,
    /// It works, and is worth a change.
    Advice,
    /// Sharing would not work, or could lose data.
    Refused,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Finding {
    /// What.
    pub check: Check,
    /// How bad it is.
    pub level: Level,
    /// What is there.
    pub value: String,
    /// What should be.
    pub wanted: String,
    /// Why.
    pub reason: String,
    /// What to do; empty if it is fit.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Level::Fit => write!(f, "{}: {}", self.check, self.value),
            _ => write!(
                f,
                "{} is {}, should be {}: {}. {}",
                self.check, self.value, self.wanted, self.reason, self.fix
            ),
        }
    }
}

impl SharedVg {
    /// Looks whether this host is fit to share the group, on this disk (that it shall be made on) or else on its own. Changes nothing and waits
    /// for nothing; what is fit is listed, too.
    ///
    /// # Errors
    /// LVM, the maps or the leases cannot be read.
    pub fn preflight(
        &self,
        multipath: &Multipath,
        device: Option<&Path>,
        deadline: Deadline,
    ) -> Result<Vec<Finding>> {
        Ok(judge::judge(&self.facts(multipath, device, deadline)?))
    }

    /// Refuses a host that is not fit.
    ///
    /// # Errors
    /// [`Error::Unfit`] with what is wrong; else as [`preflight`](Self::preflight).
    pub fn require_fit(
        &self,
        multipath: &Multipath,
        device: Option<&Path>,
        deadline: Deadline,
    ) -> Result<()> {
        let mut findings = self.preflight(multipath, device, deadline)?;
        findings.retain(|finding| finding.level == Level::Refused);
        if findings.is_empty() { Ok(()) } else { Err(Error::Unfit { findings }) }
    }
}
