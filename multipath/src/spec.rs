//! What is wanted: a target's disk over several portals, and how patient the initiator is.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use host::{IfName, Iqn, Secret, Wwid};

/// A user and secret of CHAP.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chap {
    /// The user's name.
    pub user: String,
    /// The secret; RFC 7143 wants at least 12 bytes.
    pub secret: Secret,
}

impl Chap {
    /// A user and secret.
    ///
    /// # Errors
    /// The name is empty, or one of the two holds a control character or begins or ends with a space, which open-iscsi's record cannot.
    pub fn new(user: impl Into<String>, secret: Secret) -> Result<Self, host::ParseError> {
        let user = user.into();
        let is_held = user.trim() == user && !user.chars().any(char::is_control);
        if user.is_empty() || user.len() > 255 || !is_held {
            return Err(host::ParseError::new(
                "CHAP user",
                user,
                "1 to 255 bytes without control characters, and no space at either end",
            ));
        }
        let bytes = secret.expose();
        let is_held =
            bytes.trim_ascii().len() == bytes.len() && bytes.iter().all(|b| (0x20..0x7f).contains(b));
        if bytes.is_empty() || bytes.len() > 255 || !is_held {
            let reason = "1 to 255 printable characters, and no space at either end";
            return Err(host::ParseError::new("CHAP secret", "***", reason));
        }
        Ok(Self { user, secret })
    }

    /// Another owner of the same secret.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { user: self.user.clone(), secret: self.secret.share() }
    }
}

/// A digest of CHAP. The names are those of `node.session.auth.chap_algs`; LIO knows all four, where the kernel has the digest's module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChapDigest {
    /// MD5 (5), which every target knows.
    Md5,
    /// SHA-1 (6).
    Sha1,
    /// SHA-256 (7).
    Sha256,
    /// SHA3-256 (8).
    Sha3_256,
}

impl ChapDigest {
    /// Every digest, weakest first.
    pub const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha3_256];
    /// What is offered by default: strongest first, for a target takes the first that it knows.
    pub const DEFAULT: [Self; 4] = [Self::Sha3_256, Self::Sha256, Self::Sha1, Self::Md5];

    /// The word of `node.session.auth.chap_algs`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha3_256 => "SHA3-256",
        }
    }
}

impl fmt::Display for ChapDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A portal that is to be asked, and how it is talked to.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortalSpec {
    /// Its address; the port is mostly 3260.
    pub portal: SocketAddr,
    /// How the initiator proves who it is. With LIO, discovery has a user and secret of its own (`discovery_auth`).
    pub chap: Option<Chap>,
    /// How the portal proves who it is (mutual CHAP).
    pub target_chap: Option<Chap>,
    /// The digests of CHAP, the preferred one first. Default [`ChapDigest::DEFAULT`].
    pub digests: Vec<ChapDigest>,
    /// The interface that the connection leaves through, whatever the routes say. Needs root or `CAP_NET_RAW` before Linux 5.7.
    pub interface: Option<IfName>,
    /// The address that the connection comes from.
    pub source: Option<IpAddr>,
}

impl PortalSpec {
    /// A portal without CHAP, over the route the kernel chooses.
    #[must_use]
    pub fn new(portal: SocketAddr) -> Self {
        let digests = ChapDigest::DEFAULT.to_vec();
        Self { portal, chap: None, target_chap: None, digests, interface: None, source: None }
    }

    /// Proves who we are.
    #[must_use]
    pub fn with_chap(mut self, chap: Chap) -> Self {
        self.chap = Some(chap);
        self
    }

    /// Wants the portal to prove itself too. Its secret must differ from ours, or it could answer our challenge with our own answer.
    #[must_use]
    pub fn with_target_chap(mut self, chap: Chap) -> Self {
        self.target_chap = Some(chap);
        self
    }

    /// Sets the digests of CHAP, the preferred one first.
    #[must_use]
    pub fn with_digests(mut self, digests: impl IntoIterator<Item = ChapDigest>) -> Self {
        self.digests = digests.into_iter().collect();
        self
    }

    /// Binds to an interface: `iscsiadm -m discovery -I IFACE` with a record of `iface.net_ifacename`.
    #[must_use]
    pub fn with_interface(mut self, interface: IfName) -> Self {
        self.interface = Some(interface);
        self
    }

    /// Binds to an address of this machine.
    #[must_use]
    pub fn with_source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// What is wrong with it, before anything is sent.
    pub(crate) fn check(&self) -> Result<(), crate::Error> {
        let wrong = |reason: &str| {
            Err(crate::Error::Invalid { object: self.portal.to_string(), reason: reason.to_owned() })
        };
        match (&self.chap, &self.target_chap) {
            (None, Some(_)) => return wrong("mutual CHAP needs our own user and secret, too"),
            (Some(ours), Some(theirs)) if ours.secret == theirs.secret => {
                return wrong("the two secrets of mutual CHAP must differ (RFC 7143, 9.2.1)");
            }
            _ => {}
        }
        if self.chap.is_some() && self.digests.is_empty() {
            return wrong("give at least one digest for CHAP");
        }
        match self.source {
            Some(source) if source.is_ipv4() != self.portal.is_ipv4() => {
                wrong("source address and portal are of different families")
            }
            _ => Ok(()),
        }
    }
}

/// How fast a lost connection is noticed and how long I/O waits; written into the node records and multipathd's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Patience {
    /// An idle connection is pinged this often; 1 s to hours, 0 never. Default 5 s.
    pub ping_interval: Duration,
    /// A ping must be answered in this time. Default 5 s.
    pub ping_timeout: Duration,
    /// After an error a connection may take this long to come back before its I/O fails over to another path
    /// (`fast_io_fail_tmo`, which multipathd writes over `replacement_timeout`). Default 5 s.
    pub recovery: Duration,
    /// With no path left, I/O waits this long before it fails. Default 120 s.
    pub queueing: Duration,
    /// How often multipathd looks at a path. Default 5 s.
    pub polling: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            ping_interval: seconds(5),
            ping_timeout: seconds(5),
            recovery: seconds(5),
            queueing: seconds(120),
            polling: seconds(5),
        }
    }
}

impl Patience {
    /// For targets that move between two nodes: pings every second, answered within 3 s, paths looked at every second; I/O waits 120 s for a
    /// path.
    ///
    /// The node that takes over announces the address and answers the next retransmission with a reset, which makes the initiator log in at
    /// once. A shorter `ping_timeout` lets the initiator give up a connection in the middle of a move: its new connection attempt meets no
    /// node, and iscsid looks at attempts once a second only, so the move takes seconds longer (seen in the lab with 1 s). What notices a
    /// single dead path, where no other node answers, is the ping: within 4 s.
    #[must_use]
    pub fn failover() -> Self {
        let seconds = Duration::from_secs;
        Self { ping_interval: seconds(1), ping_timeout: seconds(3), polling: seconds(1), ..Self::default() }
    }

    /// The configuration of multipathd for LIO targets: one file of ours, `/etc/multipath/conf.d/sankit.conf`.
    ///
    /// `directio`: multipathd before 0.9.5 (Debian 12) checks LIO's paths with TEST UNIT READY, which LIO always answers, so a dead path
    /// flaps and the queueing never ends. `no_path_retry` counts polls: queueing time by polling interval, rounded up.
    /// `max_polling_interval`: healthy paths would else be looked at four times less often, and a path's return seen so much later.
    #[must_use]
    pub fn multipath_conf(&self) -> String {
        let polling = self.polling.as_secs().max(1);
        let retries = self.queueing.as_secs().div_ceil(polling);
        let recovery = self.recovery.as_secs().max(1);
        format!(
            "# Written by sankit.\n\
             defaults {{\n    polling_interval {polling}\n    max_polling_interval {polling}\n}}\n\
             devices {{\n    device {{\n        vendor \"(LIO-ORG|SUSE)\"\n        product \".*\"\n        path_checker directio\n        \
             detect_checker no\n        hardware_handler \"1 alua\"\n        path_grouping_policy group_by_prio\n        prio alua\n        \
             failback immediate\n        no_path_retry {retries}\n        fast_io_fail_tmo {recovery}\n    }}\n}}\n"
        )
    }
}

/// A disk of a target that is to be attached over several portals.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachSpec {
    /// The target.
    pub target: Iqn,
    /// Its portals; each gives one path.
    pub portals: Vec<SocketAddr>,
    /// The number of the disk at the target; default 0.
    pub lun: u16,
    /// How the initiator proves who it is.
    pub chap: Option<Chap>,
    /// How the target proves who it is (mutual CHAP).
    pub target_chap: Option<Chap>,
    /// The disk's identifier, if it is known: anything else found there is refused.
    pub wwid: Option<Wwid>,
    /// How patient the initiator is.
    pub patience: Patience,
    /// How many portals must work; default all.
    pub required: Required,
    /// The digests of CHAP, the preferred one first; default those of `iscsid.conf` (Debian: MD5).
    pub digests: Option<Vec<ChapDigest>>,
    /// The interfaces that sessions are bound to, by portal; default none, the kernel's routes.
    pub interfaces: BTreeMap<SocketAddr, IfName>,
    /// Whether it is attached again after a restart; default not.
    pub persistence: Persistence,
}

/// Whether an attached disk comes back after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Persistence {
    /// Until the machine is restarted. Only the disk that was asked for appears.
    #[default]
    ThisBoot,
    /// Again at each start: `node.startup` is automatic, the disk's identifier is in multipathd's list, and the order is that of the
    /// distribution's units (multipathd before iscsid, both before `remote-fs`). At a start nobody asks for single disks, so all that the target
    /// shows appear.
    Always,
}

/// A disk, or all disks of a target, that are to be detached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DetachSpec {
    /// The target.
    pub target: Iqn,
    /// The number of the disk at the target; default all of them.
    pub lun: Option<u16>,
    /// What to do where no path works any more.
    pub force: Force,
}

impl DetachSpec {
    /// All disks of a target, the safe way.
    #[must_use]
    pub fn new(target: Iqn) -> Self {
        Self { target, lun: None, force: Force::Never }
    }

    /// Detaches one disk only, and logs out only where none is left.
    #[must_use]
    pub fn with_lun(mut self, lun: u16) -> Self {
        self.lun = Some(lun);
        self
    }

    /// Sets what to do where no path works.
    #[must_use]
    pub fn with_force(mut self, force: Force) -> Self {
        self.force = force;
        self
    }
}

/// Whether a disk without a working path is detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Force {
    /// No: what was written last waits in the map for a path.
    #[default]
    Never,
    /// Yes: what waits in the map fails, and is lost. A map that somebody uses is not detached even so.
    DeadPaths,
}

/// How many portals must work for an attach to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Required {
    /// Every one.
    #[default]
    All,
    /// This many.
    AtLeast(usize),
}

impl AttachSpec {
    /// A target's disk 0 over these portals.
    #[must_use]
    pub fn new(target: Iqn, portals: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            target,
            portals: portals.into_iter().collect(),
            lun: 0,
            chap: None,
            target_chap: None,
            wwid: None,
            patience: Patience::default(),
            required: Required::All,
            digests: None,
            interfaces: BTreeMap::new(),
            persistence: Persistence::ThisBoot,
        }
    }

    /// Chooses another disk of the target.
    #[must_use]
    pub fn with_lun(mut self, lun: u16) -> Self {
        self.lun = lun;
        self
    }

    /// Logs in with CHAP.
    #[must_use]
    pub fn with_chap(mut self, chap: Chap) -> Self {
        self.chap = Some(chap);
        self
    }

    /// Wants the target to prove itself too.
    #[must_use]
    pub fn with_target_chap(mut self, chap: Chap) -> Self {
        self.target_chap = Some(chap);
        self
    }

    /// Accepts this disk only.
    #[must_use]
    pub fn with_wwid(mut self, wwid: Wwid) -> Self {
        self.wwid = Some(wwid);
        self
    }

    /// Sets the timeouts.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Sets how many portals must work.
    #[must_use]
    pub fn with_required(mut self, required: Required) -> Self {
        self.required = required;
        self
    }

    /// Sets the digests of CHAP, the preferred one first.
    #[must_use]
    pub fn with_digests(mut self, digests: impl IntoIterator<Item = ChapDigest>) -> Self {
        self.digests = Some(digests.into_iter().collect());
        self
    }

    /// Binds the session through a portal to a network interface.
    #[must_use]
    pub fn with_interface(mut self, portal: SocketAddr, interface: IfName) -> Self {
        self.interfaces.insert(portal, interface);
        self
    }

    /// Sets whether it is attached again after a restart.
    #[must_use]
    pub fn with_persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    /// What is wrong with it, before anything is done.
    pub(crate) fn check(&self) -> Result<(), crate::Error> {
        let wrong = |reason: String| Err(crate::Error::Invalid { object: self.to_string(), reason });
        if self.portals.is_empty() {
            return wrong("give at least one portal".to_owned());
        }
        for (n, portal) in self.portals.iter().enumerate() {
            if self.portals.iter().skip(n + 1).any(|other| other == portal) {
                return wrong(format!(
                    "the portal {portal} is given twice; a second path needs a portal of its own"
                ));
            }
        }
        if let Some(portal) = self.interfaces.keys().find(|portal| !self.portals.contains(portal)) {
            return wrong(format!("an interface is given for {portal}, which is none of the portals"));
        }
        match (&self.chap, &self.target_chap) {
            (None, Some(_)) => wrong("mutual CHAP needs our own user and secret, too".to_owned()),
            (Some(ours), Some(theirs)) if ours.secret == theirs.secret => {
                wrong("the two secrets of mutual CHAP must differ (RFC 7143, 9.2.1)".to_owned())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn needed(&self) -> usize {
        match self.required {
            Required::All => self.portals.len(),
            Required::AtLeast(n) => n.clamp(1, self.portals.len().max(1)),
        }
    }
}

impl fmt::Display for AttachSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} LUN {}", self.target, self.lun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queueing_time_becomes_polls() {
        let conf = Patience::failover().multipath_conf();
        assert!(conf.contains("no_path_retry 120") && conf.contains("max_polling_interval 1"), "{conf}");
        let conf = Patience::default().multipath_conf();
        assert!(conf.contains("no_path_retry 24") && conf.contains("path_checker directio"), "{conf}");
        assert_eq!(conf.matches('{').count(), conf.matches('}').count());
    }

    #[test]
    fn a_secret_that_a_record_cannot_hold_is_refused_unseen() {
        let error = Chap::new("user", Secret::from("line\nbreak")).expect_err("newline");
        assert!(!error.to_string().contains("break"), "{error}");
    }
}
