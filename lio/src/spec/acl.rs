//! Who may log in, with which password, and what it sees.

use std::collections::BTreeMap;
use std::fmt::Display;

use host::{Iqn, Secret};

use super::chap::{Chap, Credentials};
use super::{Access, TargetSpec, known};
use crate::error::{Error, Result};
use crate::name::{AclTag, ChapUser, GroupName, Lun};
use crate::wire::attributes;

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
    /// What is proved in each direction.
    pub(crate) auth: Credentials,
    /// A label that tools group ACLs by (`tag`); the kernel only keeps it.
    pub tag: Option<AclTag>,
    /// Values of `attrib/`, as the kernel reads them back: plain decimal numbers.
    pub attributes: BTreeMap<String, String>,
    /// The number of commands the initiator may have in flight (`cmdsn_depth`), 1 to 512; the kernel's default is 64.
    pub queue_depth: Option<u16>,
    /// The LUNs it sees; `None` for all.
    pub luns: Option<BTreeMap<Lun, MappedLunSpec>>,
    /// What the links to them are called, by the number the initiator sees, where that is not `lun`; nobody but tools looks at it.
    pub link_names: BTreeMap<Lun, GroupName>,
}

impl AclSpec {
    /// Names an initiator that needs no password.
    #[must_use]
    pub fn new(initiator: Iqn) -> Self {
        let attributes = BTreeMap::new();
        Self {
            initiator,
            auth: Credentials::default(),
            tag: None,
            attributes,
            queue_depth: None,
            luns: None,
            link_names: BTreeMap::new(),
        }
    }

    /// Demands that the initiator proves a password (`auth/userid`, `auth/password`).
    #[doc(alias = "chap")]
    #[must_use]
    pub fn with_chap(mut self, user: ChapUser, secret: Secret) -> Self {
        self.auth.set(user, secret);
        self
    }

    /// Proves a password to the initiator in turn (`auth/userid_mutual`, `auth/password_mutual`). Must differ from the other one.
    #[must_use]
    pub fn with_mutual_chap(mut self, user: ChapUser, secret: Secret) -> Self {
        self.auth.set_mutual(user, secret);
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

    /// Labels the ACL (`tag`), by which targetcli groups initiators.
    #[must_use]
    pub fn with_tag(mut self, tag: AclTag) -> Self {
        self.tag = Some(tag);
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
        self.auth.chap()
    }

    /// What is proved to the initiator.
    #[must_use]
    pub fn mutual_chap(&self) -> Option<&Chap> {
        self.auth.mutual()
    }

    pub(super) fn validate(&self, target: &TargetSpec) -> Result<()> {
        let object = || format!("acl {} of target {}", self.initiator, target.iqn);
        self.auth.validate(&object())?;
        if self.queue_depth.is_some_and(|depth| !(1..=512).contains(&depth)) {
            return Err(Error::invalid(object(), "the queue depth is 1 to 512"));
        }
        let mut mapped = self.luns.iter().flatten();
        if let Some((_, mapped)) = mapped.find(|(_, m)| !target.luns.contains_key(&m.target_lun)) {
            return Err(Error::invalid(object(), format!("the target has no LUN {}", mapped.target_lun)));
        }
        known(&object(), attributes::ACL, &self.attributes)
    }
}
