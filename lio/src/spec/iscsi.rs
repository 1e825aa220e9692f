//! What all iSCSI targets of a machine share.

use host::{CpuSet, Secret};

use super::chap::{Chap, Credentials};
use crate::error::Result;
use crate::name::ChapUser;

/// What all iSCSI targets of a machine share: who may ask for the list of targets, and on which processors connections are served.
///
/// ```
/// use lio::{IscsiSpec, Secret};
/// let spec = IscsiSpec::new().with_discovery_chap("scout".parse()?, Secret::from("a good password"));
/// spec.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IscsiSpec {
    /// CHAP of discovery sessions.
    pub(crate) discovery: Credentials,
    /// The processors that the threads of connections run on (`cpus_allowed_list`); `None` leaves them as they are.
    pub cpus: Option<CpuSet>,
}

impl IscsiSpec {
    /// Discovery without a password, processors left as they are.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Demands a password for discovery (`discovery_auth/userid`, `password`, `enforce_discovery_auth`); `targetcli /iscsi set
    /// discovery_auth`.
    #[doc(alias = "discovery_auth")]
    #[must_use]
    pub fn with_discovery_chap(mut self, user: ChapUser, secret: Secret) -> Self {
        self.discovery.set(user, secret);
        self
    }

    /// Proves a password to those who ask in turn.
    #[must_use]
    pub fn with_mutual_discovery_chap(mut self, user: ChapUser, secret: Secret) -> Self {
        self.discovery.set_mutual(user, secret);
        self
    }

    /// Sets the processors that the threads of connections run on (`iscsi/cpus_allowed_list`).
    #[must_use]
    pub fn with_cpus(mut self, cpus: CpuSet) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// What must be proved for discovery.
    #[must_use]
    pub fn discovery_chap(&self) -> Option<&Chap> {
        self.discovery.chap()
    }

    /// What is proved to those who ask.
    #[must_use]
    pub fn mutual_discovery_chap(&self) -> Option<&Chap> {
        self.discovery.mutual()
    }

    /// Checks what can be checked without a kernel.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid), or [`Error::Form`](crate::Error::Form) for a password that LIO cannot store.
    pub fn validate(&self) -> Result<()> {
        self.discovery.validate("discovery")
    }
}
