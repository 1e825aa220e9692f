//! The whole configuration of a machine.

use std::collections::BTreeSet;

use super::{BackstoreSpec, IscsiSpec, TargetSpec};
use crate::error::{Error, Result};

/// What becomes of targets and backstores that a configuration does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Others {
    /// They are somebody else's, and stay.
    #[default]
    Keep,
    /// They go, all of them: `targetctl clear` and `restore`, without taking away what stays.
    Remove,
}

/// All targets of a machine, what they share, and backstores that none of them exports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConfigSpec {
    /// What all iSCSI targets share; `None` leaves it as it is.
    pub iscsi: Option<IscsiSpec>,
    /// The targets; one of several portal groups is there once for each.
    pub targets: Vec<TargetSpec>,
    /// Backstores without a LUN.
    pub backstores: Vec<BackstoreSpec>,
}

impl ConfigSpec {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a target, or another portal group of one.
    #[must_use]
    pub fn with_target(mut self, target: TargetSpec) -> Self {
        self.targets.push(target);
        self
    }

    /// Adds a backstore that no target exports.
    #[must_use]
    pub fn with_backstore(mut self, backstore: BackstoreSpec) -> Self {
        self.backstores.push(backstore);
        self
    }

    /// Sets what all iSCSI targets share.
    #[must_use]
    pub fn with_iscsi(mut self, iscsi: IscsiSpec) -> Self {
        self.iscsi = Some(iscsi);
        self
    }

    /// Checks what can be checked without a kernel.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the part and what would be right.
    pub fn validate(&self) -> Result<()> {
        self.iscsi.iter().try_for_each(IscsiSpec::validate)?;
        let mut groups = BTreeSet::new();
        for target in &self.targets {
            target.validate()?;
            if !groups.insert((target.fabric, &target.iqn, target.tag)) {
                let object = format!("target {}", target.iqn);
                return Err(Error::invalid(
                    object,
                    format!("portal group {} is described twice", target.tag),
                ));
            }
        }
        // A disk that nobody sees may be without a serial.
        let mut unseen = self.backstores.iter().filter(|disk| disk.serial.is_some());
        unseen.try_for_each(BackstoreSpec::validate)
    }
}
