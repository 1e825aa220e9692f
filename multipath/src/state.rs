//! What is seen: maps with their paths, sessions with their portals.

mod map;

use std::net::SocketAddr;

use host::{Iqn, Wwid};

pub(crate) use map::maybe_bytes;
pub use map::{
    CheckerState, Counters, DeviceState, Failback, GroupPhase, GroupState, Hctl, MapState, PathInfo,
    PathState, Queueing,
};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// A word of a newer version.
            Other(String),
        }

        impl $name {
            /// Reads the word of a program or the kernel; an unknown one is kept.
            #[must_use]
            pub fn from_word(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)*
                    other => Self::Other(other.to_owned()),
                }
            }

            /// The word.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Other(word) => word,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Where a session stands (`/sys/class/iscsi_session/sessionN/state`).
    SessionPhase {
        /// It works.
        LoggedIn = "LOGGED_IN",
        /// Its connection is lost; the initiator reconnects.
        Failed = "FAILED",
        /// It is gone.
        Free = "FREE",
    }
}

/// An iSCSI session of the kernel's initiator.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct SessionState {
    /// Its number.
    pub id: u32,
    /// The target.
    #[serde(serialize_with = "as_text")]
    pub target: Iqn,
    /// The portal it was logged in to.
    pub portal: Option<SocketAddr>,
    /// Where it stands.
    pub phase: SessionPhase,
    /// How long its I/O waits after an error, in seconds; `None` for ever. This is what is in force, whatever the record says.
    pub recovery: Option<u32>,
    /// Its disks.
    pub disks: Vec<DiskState>,
    /// The portal group.
    pub tag: Option<u16>,
    /// The number of its SCSI host ("host3") and its target there: `H:0:T:L`.
    pub host: Option<u32>,
    /// The number of the target at the host; mostly 0.
    pub target_id: u32,
    /// The interface record it was made with: "default", or a name of `/etc/iscsi/ifaces`.
    pub iface: Option<String>,
    /// The network interface it is bound to; `None` where the route decides.
    pub interface: Option<String>,
    /// Our address of the connection.
    pub local: Option<std::net::IpAddr>,
    /// The name we logged in with.
    pub initiator: Option<String>,
    /// The CHAP user we logged in with.
    pub chap_user: Option<String>,
    /// The CHAP user that the target had to prove to be.
    pub target_chap_user: Option<String>,
    /// What target and initiator agreed on.
    pub negotiated: crate::session::Negotiated,
    /// How long commands and resets may take.
    pub timeouts: crate::session::SessionTimeouts,
    /// Its connections; open-iscsi makes one.
    pub connections: Vec<crate::session::ConnectionState>,
}

/// A SCSI disk of a session.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DiskState {
    /// Its device: "sdb".
    pub device: String,
    /// Its number at the target.
    pub lun: u64,
    /// Its identifier; `None` if the target gives none.
    #[serde(serialize_with = "maybe_text")]
    pub wwid: Option<Wwid>,
    /// Where the kernel has it: "3:0:0:1".
    pub address: String,
    /// "running", "offline", "transport-offline", "blocked": what the SCSI layer does with its commands.
    pub state: String,
    /// Its size in bytes; 0 if it is not known yet.
    pub size: u64,
    /// Who made it: "LIO-ORG".
    pub vendor: String,
    /// What it is called there.
    pub model: String,
}

fn as_text<S: serde::Serializer>(value: &Iqn, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.as_str())
}

fn maybe_text<S: serde::Serializer>(value: &Option<Wwid>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(wwid) => serializer.serialize_some(wwid.as_str()),
        None => serializer.serialize_none(),
    }
}

/// A target that a portal told of, and where it can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Discovered {
    /// The target.
    pub target: Iqn,
    /// Its portals with their portal group tags. A tag that was not told is 1; a target that told no portal is at the one that was asked.
    pub portals: Vec<(SocketAddr, u16)>,
    /// Portals that were told by name: name, port, portal group tag. Nobody has looked them up.
    pub names: Vec<(String, u16, u16)>,
}

impl Discovered {
    pub(crate) fn new(target: Iqn) -> Self {
        Self { target, portals: Vec::new(), names: Vec::new() }
    }

    /// The portals by portal group: those of one group may carry one session together, and belong to one node of a target with several.
    #[must_use]
    pub fn groups(&self) -> std::collections::BTreeMap<u16, Vec<SocketAddr>> {
        let mut groups = std::collections::BTreeMap::<u16, Vec<SocketAddr>>::new();
        self.portals.iter().for_each(|(portal, tag)| groups.entry(*tag).or_default().push(*portal));
        groups
    }
}

/// An attached disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attached {
    /// The map: `/dev/mapper/NAME`.
    pub device: std::path::PathBuf,
    /// The disk.
    pub wwid: Wwid,
    /// Its size in bytes.
    pub size: u64,
    /// Its paths: portal and device.
    pub paths: Vec<(SocketAddr, String)>,
    /// Portals that do not work, and why; empty unless fewer than all were required.
    pub missing: Vec<(SocketAddr, String)>,
}

impl Attached {
    pub(crate) fn new(
        device: std::path::PathBuf,
        wwid: Wwid,
        size: u64,
        paths: Vec<(SocketAddr, String)>,
    ) -> Self {
        Self { device, wwid, size, paths, missing: Vec::new() }
    }
}
