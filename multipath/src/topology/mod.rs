//! Maps joined with what they lead through: map, path group, path, SCSI device, iSCSI session, portal, network card.

mod health;
mod read;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use host::Iqn;

pub use health::{Difference, Health, Lack, Warning};

use crate::state::{MapState, PathInfo, SessionPhase, words};

words! {
    /// A connection of a session (`/sys/class/iscsi_connection/connectionN:0/state`).
    ConnectionPhase {
        /// It works.
        Up = "up",
        /// It is closed.
        Down = "down",
        /// It broke; the initiator reconnects.
        Failed = "failed",
        /// It belongs to a session and is not logged in yet.
        Bound = "bound",
    }
}

/// A network card, and what it stands on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[non_exhaustive]
pub struct Nic {
    /// Its name, as the address is on it: "bond0.24".
    pub name: String,
    /// The cards at the bottom of it: the ports of a bond, the card of a VLAN; itself if it stands on none. Sorted.
    pub ports: Vec<String>,
    /// The switches that the ports are on (`/sys/class/net/X/phys_switch_id`); empty unless all tell. Sorted. Cards seldom know.
    pub switches: Vec<String>,
}

impl Nic {
    /// A card that stands on none; for fakes.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { ports: vec![name.clone()], name, switches: Vec::new() }
    }
}

/// The way of a path over iSCSI.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct IscsiRoute {
    /// The session's number.
    pub session: u32,
    /// The target.
    #[serde(serialize_with = "iqn")]
    pub target: Iqn,
    /// The portal it was logged in to.
    pub portal: Option<SocketAddr>,
    /// Where the session stands.
    pub phase: SessionPhase,
    /// Its connection; `None` while it has none.
    pub connection: Option<ConnectionPhase>,
    /// The address it starts from.
    pub local: Option<IpAddr>,
    /// The card of that address.
    pub nic: Option<Nic>,
    /// How long I/O waits after an error before it goes over another path; `None` for ever. In force, whatever the record says.
    pub recovery: Option<Duration>,
    /// After how much silence the portal is asked whether it lives; `None` never.
    pub ping_interval: Option<Duration>,
    /// How long its answer may take; `None` for ever.
    pub ping_timeout: Option<Duration>,
}

impl IscsiRoute {
    /// A session of which nothing more is known; for fakes.
    #[must_use]
    pub fn new(session: u32, target: Iqn, portal: Option<SocketAddr>, nic: Option<Nic>) -> Self {
        Self {
            session,
            target,
            portal,
            phase: SessionPhase::LoggedIn,
            connection: None,
            local: None,
            nic,
            recovery: None,
            ping_interval: None,
            ping_timeout: None,
        }
    }

    /// How long after a silent loss I/O goes over another path, at most; `None` if never for sure.
    #[must_use]
    pub fn failover(&self) -> Option<Duration> {
        // libiscsi looks once the interval has passed without traffic, then waits for the answer; the recovery timer has a second's grain.
        Some(self.ping_interval? + self.ping_timeout? + self.recovery? + Duration::from_secs(1))
    }
}

/// What a path leads over.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub enum Transport {
    /// iSCSI.
    Iscsi(Box<IscsiRoute>),
    /// Something else, or a session that is gone.
    Other,
}

/// A path with its way.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Route {
    /// The path.
    pub path: PathInfo,
    /// Which group it is in, from 0.
    pub group: usize,
    /// The disk as this path shows it; `None` if it does not say.
    #[serde(serialize_with = "wwid")]
    pub wwid: Option<host::Wwid>,
    /// How large the disk is over this path.
    #[serde(serialize_with = "crate::state::maybe_bytes")]
    pub size: Option<host::Bytes>,
    /// Whether it refuses writes.
    pub read_only: Option<bool>,
    /// What stands on the path's device, beside the map: nothing should.
    pub used_by: Vec<String>,
    /// What it leads over.
    pub transport: Transport,
}

impl Route {
    /// A path of which only the map knows.
    #[must_use]
    pub fn new(path: PathInfo, group: usize) -> Self {
        let transport = Transport::Other;
        Self { path, group, wwid: None, size: None, read_only: None, used_by: Vec::new(), transport }
    }

    /// The same path that leads over this.
    #[must_use]
    pub fn with_transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Its way over iSCSI, if it is one.
    #[must_use]
    pub fn iscsi(&self) -> Option<&IscsiRoute> {
        match &self.transport {
            Transport::Iscsi(route) => Some(route),
            Transport::Other => None,
        }
    }

    /// Whether it carries I/O or would.
    #[must_use]
    pub fn works(&self) -> bool {
        use crate::{CheckerState, PathState};
        self.path.state == PathState::Active
            && !matches!(self.path.checker, CheckerState::Faulty | CheckerState::Disconnected)
    }
}

/// A map with all that it leads through.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct MapTopology {
    /// The map.
    pub map: MapState,
    /// What stands on it: partitions, volumes, encryption, by device name.
    pub used_by: Vec<String>,
    /// Its paths with their ways, in the order of the groups.
    pub routes: Vec<Route>,
    /// How it fares.
    pub health: Health,
    /// What will go wrong one day.
    pub warnings: Vec<Warning>,
}

impl MapTopology {
    /// Judges a map by its paths.
    #[must_use]
    pub fn new(map: MapState, used_by: Vec<String>, routes: Vec<Route>) -> Self {
        let health = health::judge(&map, &routes);
        let warnings = health::warnings(&map, &routes);
        Self { map, used_by, routes, health, warnings }
    }
}

/// All maps of a machine with all that they lead through. Made by [`Initiator::topology`](crate::Initiator::topology).
///
/// Prints as the tree of `multipath -ll`, with the way of each path behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct Topology {
    /// The maps, sorted by name.
    pub maps: Vec<MapTopology>,
}

impl Topology {
    /// The topology of these maps; for fakes.
    #[must_use]
    pub fn new(maps: impl IntoIterator<Item = MapTopology>) -> Self {
        Self { maps: maps.into_iter().collect() }
    }

    /// All of it as JSON: the field names of the types.
    ///
    /// # Errors
    /// Never for what the kernel says; the writer's own.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

fn iqn<S: serde::Serializer>(value: &Iqn, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.as_str())
}

fn wwid<S: serde::Serializer>(value: &Option<host::Wwid>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(wwid) => serializer.serialize_some(wwid.as_str()),
        None => serializer.serialize_none(),
    }
}
