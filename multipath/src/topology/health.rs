//! How a map fares, and why.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use host::Bytes;

use super::Route;
use crate::state::{CheckerState, MapState, Queueing};

/// What keeps paths from replacing each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
#[non_exhaustive]
pub enum Lack {
    /// There is one path only.
    OnePath,
    /// All paths lead through one portal.
    SamePortal(String),
    /// All paths start at one network card: at this port, below VLANs and bonds.
    SameNic(String),
    /// All network cards are on one switch, as far as they tell.
    SameSwitch(String),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnePath => f.write_str("there is one path only"),
            Self::SamePortal(portal) => write!(f, "all paths lead to portal {portal}"),
            Self::SameNic(nic) => write!(f, "all paths start at {nic}"),
            Self::SameSwitch(switch) => write!(f, "all paths go through switch {switch}"),
        }
    }
}

/// How a path differs from its map, which it must not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
#[non_exhaustive]
pub enum Difference {
    /// It is another disk.
    Disk {
        /// The path's device.
        device: String,
        /// What it is.
        found: String,
    },
    /// It has another size: rescan it, then resize the map.
    Size {
        /// The path's device.
        device: String,
        /// Its size.
        #[serde(serialize_with = "bytes")]
        found: Bytes,
    },
    /// It refuses writes, the map does not.
    ReadOnly {
        /// The path's device.
        device: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk { device, found } => write!(f, "{device} is disk {found}"),
            Self::Size { device, found } => write!(f, "{device} has {} bytes", found.0),
            Self::ReadOnly { device } => write!(f, "{device} is read-only"),
        }
    }
}

/// How a map fares. Of several that hold the worst is told: the order is that of urgency.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
#[non_exhaustive]
pub enum Health {
    /// Its paths are not those of one disk: data is in danger.
    Inconsistent(Vec<Difference>),
    /// Somebody suspended it: all I/O waits.
    Suspended,
    /// No path is left; I/O fails.
    Failed,
    /// No path is left; I/O waits.
    Queueing {
        /// For how long still; `None`: for ever, or it is not known.
        left: Option<Duration>,
    },
    /// Some paths do not work.
    Degraded {
        /// How many.
        failed: usize,
        /// How many work.
        working: usize,
    },
    /// All paths work, and one fault would end them all.
    NoRedundancy(Vec<Lack>),
    /// All paths work, and they do not depend on one thing as far as it shows.
    Healthy,
}

impl Health {
    /// Whether I/O passes now.
    #[must_use]
    pub fn serves(&self) -> bool {
        !matches!(self, Self::Suspended | Self::Failed | Self::Queueing { .. })
    }
}

fn bytes<S: serde::Serializer>(value: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(value.0)
}

fn list(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inconsistent(differences) => write!(f, "inconsistent: {}", list(differences)),
            Self::Suspended => f.write_str("suspended, all I/O waits"),
            Self::Failed => f.write_str("failed, no path is left"),
            Self::Queueing { left: Some(left) } => {
                write!(f, "no path is left, I/O waits for {} s more", left.as_secs())
            }
            Self::Queueing { left: None } => f.write_str("no path is left, I/O waits"),
            Self::Degraded { failed, working } => {
                write!(f, "degraded, {failed} of {} paths failed", failed + working)
            }
            Self::NoRedundancy(lacks) => write!(f, "no redundancy: {}", list(lacks)),
            Self::Healthy => f.write_str("healthy"),
        }
    }
}

/// What will go wrong one day.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
#[non_exhaustive]
pub enum Warning {
    /// LIO answers "good" to TEST UNIT READY whatever state it is in: a dead path flaps, and queueing never ends. Use `directio` (multipathd
    /// does so since 0.9.5).
    WrongChecker {
        /// The checker.
        checker: String,
    },
    /// I/O waits for ever when the last path goes: whoever uses the disk then cannot even be killed.
    QueuesForever,
    /// Sessions give I/O back after different times.
    RecoveryDiffers {
        /// The times by path device.
        times: Vec<(String, Option<Duration>)>,
    },
    /// A session never gives I/O back: it does not go over the other paths.
    NoRecovery {
        /// The path's device.
        device: String,
    },
    /// A silent loss of the portal is not noticed: it is not asked whether it lives.
    NoPing {
        /// The path's device.
        device: String,
    },
    /// I/O waits for a path for a shorter time than one takes to fail: a short loss of both is an error.
    QueueingTooShort {
        /// How long it waits, with checks every 5 s.
        queueing: Duration,
        /// How long a path may take to fail.
        failover: Duration,
    },
    /// Something stands on a path directly: its I/O passes the map by.
    UsedDirectly {
        /// The path's device.
        device: String,
        /// What stands on it.
        by: Vec<String>,
    },
    /// A check of a path did not end.
    CheckTimedOut {
        /// The path's device.
        device: String,
    },
    /// A path of the map has no device any more.
    DeviceGone {
        /// Its number.
        number: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: &Duration| time.as_secs();
        match self {
            Self::WrongChecker { checker } => {
                write!(f, "checker {checker} cannot tell a dead path of LIO; set path_checker directio")
            }
            Self::QueuesForever => {
                f.write_str("I/O waits for ever when no path is left; set no_path_retry to a number")
            }
            Self::RecoveryDiffers { times } => {
                let times: Vec<_> = times
                    .iter()
                    .map(|(device, time)| match time {
                        Some(time) => format!("{device} {} s", seconds(time)),
                        None => format!("{device} never"),
                    })
                    .collect();
                write!(f, "sessions give I/O back after different times: {}", times.join(", "))
            }
            Self::NoRecovery { device } => {
                write!(f, "the session of {device} never gives I/O back; set fast_io_fail_tmo")
            }
            Self::NoPing { device } => {
                write!(
                    f,
                    "the session of {device} does not ask whether the portal lives; set noop_out_interval"
                )
            }
            Self::QueueingTooShort { queueing, failover } => write!(
                f,
                "I/O waits {} s for a path, and a path may take {} s to fail",
                seconds(queueing),
                seconds(failover)
            ),
            Self::UsedDirectly { device, by } => {
                write!(f, "{} uses {device} and not the map; exclude {device} from it", by.join(", "))
            }
            Self::CheckTimedOut { device } => write!(f, "a check of {device} did not end"),
            Self::DeviceGone { number } => write!(f, "path {number} has no device any more"),
        }
    }
}

/// The one value that all have; `None` if one has none or they differ.
fn common<'a, T: PartialEq + ?Sized>(mut values: impl Iterator<Item = Option<&'a T>>) -> Option<&'a T> {
    let first = values.next()??;
    values.all(|value| value == Some(first)).then_some(first)
}

fn lacks(routes: &[Route]) -> Vec<Lack> {
    if routes.len() < 2 {
        return vec![Lack::OnePath];
    }
    let mut lacks = Vec::new();
    let iscsi = || routes.iter().map(Route::iscsi);
    let portals: Vec<_> = iscsi().map(|route| Some(route?.portal?.to_string())).collect();
    if let Some(portal) = common(portals.iter().map(Option::as_deref)) {
        lacks.push(Lack::SamePortal(portal.to_owned()));
    }
    let nics = || iscsi().map(|route| route.and_then(|route| route.nic.as_ref()));
    // Without knowing every path's card nothing follows.
    if nics().all(|nic| nic.is_some()) {
        let ports: BTreeSet<_> = nics().flatten().flat_map(|nic| &nic.ports).collect();
        if let (1, Some(port)) = (ports.len(), ports.first()) {
            lacks.push(Lack::SameNic((*port).clone()));
        }
        let told = nics().flatten().all(|nic| !nic.switches.is_empty());
        let switches: BTreeSet<_> = nics().flatten().flat_map(|nic| &nic.switches).collect();
        if let (true, 1, Some(switch)) = (told && ports.len() > 1, switches.len(), switches.first()) {
            lacks.push(Lack::SameSwitch((*switch).clone()));
        }
    }
    lacks
}

fn differences(map: &MapState, routes: &[Route]) -> Vec<Difference> {
    let mut found = Vec::new();
    let expected: Option<host::Wwid> = map.wwid.parse().ok();
    for route in routes {
        let device = || route.path.device.clone();
        if let (Some(expected), Some(wwid)) = (&expected, &route.wwid)
            && !crate::may_be_same(expected, wwid)
        {
            found.push(Difference::Disk { device: device(), found: wwid.to_string() });
        }
        if let (Some(size), Some(other)) = (map.size, route.size)
            && size != other
        {
            found.push(Difference::Size { device: device(), found: other });
        }
        if route.read_only == Some(true) && map.read_only == Some(false) {
            found.push(Difference::ReadOnly { device: device() });
        }
    }
    found
}

pub(super) fn judge(map: &MapState, routes: &[Route]) -> Health {
    let differences = differences(map, routes);
    if !differences.is_empty() {
        return Health::Inconsistent(differences);
    }
    if map.suspended {
        return Health::Suspended;
    }
    let working = routes.iter().filter(|route| route.works()).count();
    let failed = routes.len() - working;
    if working == 0 {
        return match &map.queueing {
            Queueing::Seconds(left) => Health::Queueing { left: Some(Duration::from_secs((*left).into())) },
            Queueing::Forever => Health::Queueing { left: None },
            // multipathd's word may be older than the kernel's.
            _ if map.features.contains("queue_if_no_path") => Health::Queueing { left: None },
            _ => Health::Failed,
        };
    }
    if failed > 0 {
        return Health::Degraded { failed, working };
    }
    match lacks(routes) {
        lacks if lacks.is_empty() => Health::Healthy,
        lacks => Health::NoRedundancy(lacks),
    }
}

/// multipathd's default `polling_interval`.
const POLLING: u32 = 5;

pub(super) fn warnings(map: &MapState, routes: &[Route]) -> Vec<Warning> {
    let mut found = Vec::new();
    if let Some(route) = routes.iter().find(|r| map.vendor == "LIO-ORG" && r.path.checker_name == "tur") {
        found.push(Warning::WrongChecker { checker: route.path.checker_name.clone() });
    }
    // Only multipathd knows: to the kernel every queueing is without end.
    if map.queueing == Queueing::Forever && map.counters.is_some() {
        found.push(Warning::QueuesForever);
    }
    let sessions: Vec<_> =
        routes.iter().filter_map(|route| Some((route.path.device.clone(), route.iscsi()?))).collect();
    let times: Vec<_> = sessions.iter().map(|(device, route)| (device.clone(), route.recovery)).collect();
    if times.iter().any(|(_, time)| Some(time) != times.first().map(|(_, first)| first)) {
        found.push(Warning::RecoveryDiffers { times });
    }
    for (device, route) in &sessions {
        if route.recovery.is_none() {
            found.push(Warning::NoRecovery { device: device.clone() });
        }
        if route.ping_interval.is_none() && route.connection.is_some() {
            found.push(Warning::NoPing { device: device.clone() });
        }
    }
    if let (Queueing::Retries(checks), Some(failover)) =
        (&map.queueing, sessions.iter().filter_map(|(_, route)| route.failover()).max())
    {
        let queueing = Duration::from_secs(checks.saturating_mul(POLLING).into());
        if queueing < failover {
            found.push(Warning::QueueingTooShort { queueing, failover });
        }
    }
    for route in routes {
        let device = route.path.device.clone();
        if !route.used_by.is_empty() {
            found.push(Warning::UsedDirectly { device: device.clone(), by: route.used_by.clone() });
        }
        if route.path.checker == CheckerState::TimedOut {
            found.push(Warning::CheckTimedOut { device: device.clone() });
        }
        if device.is_empty() || device == "-" {
            found.push(Warning::DeviceGone { number: route.path.number.clone() });
        }
    }
    found
}
