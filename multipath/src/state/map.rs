//! Maps, path groups, paths: the same types whether multipathd or the kernel was asked.

use std::fmt;
use std::str::FromStr;

use host::{Bytes, ParseError};

use super::words;

words! {
    /// Whether the kernel uses a path.
    PathState {
        /// It does.
        Active = "active",
        /// It failed.
        Failed = "failed",
        /// Not known yet.
        Undefined = "undef",
    }
}

words! {
    /// What multipathd's checker found.
    CheckerState {
        /// I/O passes.
        Ready = "ready",
        /// It does not.
        Faulty = "faulty",
        /// Usable when the better paths are gone (ALUA standby).
        Ghost = "ghost",
        /// It comes and goes.
        Shaky = "shaky",
        /// A check is under way.
        Pending = "i/o pending",
        /// A check did not end.
        TimedOut = "i/o timeout",
        /// Waiting to be used again.
        Delayed = "delayed",
        /// The target denies the LUN.
        Disconnected = "disconnected",
        /// Not known yet.
        Undefined = "undef",
    }
}

words! {
    /// Whether a path group takes I/O.
    GroupPhase {
        /// I/O goes there. The kernel says so only after the first I/O: on a fresh map all groups are enabled.
        Active = "active",
        /// I/O can go there.
        Enabled = "enabled",
        /// Passed over while another group works.
        Disabled = "disabled",
        /// Not known yet.
        Undefined = "undef",
    }
}

words! {
    /// A SCSI device as the kernel sees it (`/sys/block/sdX/device/state`, `drivers/scsi/scsi_sysfs.c`).
    DeviceState {
        /// It works.
        Running = "running",
        /// Taken offline: by the error handler or by hand.
        Offline = "offline",
        /// Its transport gave it up (an iSCSI session past its recovery time).
        TransportOffline = "transport-offline",
        /// Its transport is interrupted; I/O waits.
        Blocked = "blocked",
        /// I/O is held on purpose.
        Quiesced = "quiesce",
        /// Found, not yet usable.
        Created = "created",
        /// Found while its transport is interrupted.
        CreatedBlocked = "created-blocked",
        /// Being removed.
        Cancelled = "cancel",
        /// Removed, still held.
        Deleted = "deleted",
        /// Not known.
        Unknown = "unknown",
    }
}

/// What happens to I/O when no path is left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Queueing {
    /// It fails at once.
    Off,
    /// It waits until a path is back, however long that takes. Whatever uses the disk then hangs and cannot be killed.
    Forever,
    /// It waits this many checks (each `polling_interval` seconds, 5 by default) and fails then.
    Retries(u32),
    /// No path is left: it waits this many seconds more.
    Seconds(u32),
    /// multipathd does not decide: the table says (`features`).
    Undecided,
    /// What a newer version says.
    Other(String),
}

impl Queueing {
    /// Reads multipathd's word (`%Q`): `off`, `on`, `24 chk`, `110 sec`, `-`.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        let number = |unit| word.strip_suffix(unit).and_then(|number| number.trim_end().parse().ok());
        match word {
            "off" => Self::Off,
            "on" => Self::Forever,
            "-" | "" => Self::Undecided,
            _ => number("chk")
                .map(Self::Retries)
                .or_else(|| number("sec").map(Self::Seconds))
                .unwrap_or_else(|| Self::Other(word.to_owned())),
        }
    }
}

impl fmt::Display for Queueing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.pad("off"),
            Self::Forever => f.pad("on"),
            Self::Retries(n) => f.pad(&format!("{n} chk")),
            Self::Seconds(n) => f.pad(&format!("{n} sec")),
            Self::Undecided => f.pad("-"),
            Self::Other(word) => f.pad(word),
        }
    }
}

/// When multipathd goes back to a better path group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failback {
    /// As soon as it works.
    Immediate,
    /// Never by itself.
    Manual,
    /// When a path of it becomes usable for the first time (cluster-wide trespass is avoided).
    Followover,
    /// After this many seconds.
    Deferred(u32),
    /// Not decided.
    Undefined,
    /// What a newer version says, or how far a delay is (`XXXX...... 3/10`).
    Other(String),
}

impl Failback {
    /// Reads multipathd's word (`%F`).
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        match word {
            "immediate" => Self::Immediate,
            "manual" => Self::Manual,
            "followover" => Self::Followover,
            "undef" | "" => Self::Undefined,
            _ => match word.strip_prefix("deferred:").and_then(|n| n.trim().parse().ok()) {
                Some(seconds) => Self::Deferred(seconds),
                None => Self::Other(word.to_owned()),
            },
        }
    }
}

impl fmt::Display for Failback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Immediate => f.pad("immediate"),
            Self::Manual => f.pad("manual"),
            Self::Followover => f.pad("followover"),
            Self::Deferred(seconds) => f.pad(&format!("deferred:{seconds}")),
            Self::Undefined => f.pad("undef"),
            Self::Other(word) => f.pad(word),
        }
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {
        $(impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        })*
    };
}

as_text!(Queueing, Failback, Hctl);

/// The address of a SCSI device: host, channel, target, LUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Hctl {
    /// The host adapter; of iSCSI one per session.
    pub host: u32,
    /// The channel.
    pub channel: u32,
    /// The target on it.
    pub target: u32,
    /// The logical unit.
    pub lun: u64,
}

impl FromStr for Hctl {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut parts = text.split(':');
        let mut next = || parts.next().and_then(|part| part.parse::<u64>().ok());
        let small = |part: Option<u64>| part.and_then(|part| u32::try_from(part).ok());
        let (host, channel, target, lun) = (small(next()), small(next()), small(next()), next());
        match (host, channel, target, lun, parts.next()) {
            (Some(host), Some(channel), Some(target), Some(lun), None) => {
                Ok(Self { host, channel, target, lun })
            }
            _ => Err(ParseError::new("SCSI address", text, "it is four numbers: 2:0:0:1")),
        }
    }
}

impl fmt::Display for Hctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{}:{}:{}", self.host, self.channel, self.target, self.lun))
    }
}

/// What multipathd has counted of a map since it took it up or since [`ResetMapStats`](crate::Command::ResetMapStats).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Paths that failed.
    pub path_faults: u64,
    /// Changes of the path group.
    pub group_switches: u64,
    /// Tables loaded.
    pub loads: u64,
    /// Seconds in which I/O waited for a path.
    pub queued_seconds: u64,
    /// How often that ended in failed I/O.
    pub queueing_timeouts: u64,
}

/// A multipath map.
///
/// Who was asked decides what is known: multipathd has checkers, priorities and counters, the kernel has sizes, addresses and how often each
/// path failed. What the other one knows is empty, `None`, or `Undefined`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct MapState {
    /// Its name: `/dev/mapper/NAME`.
    pub name: String,
    /// The disk, as multipathd identifies it; the UUID without `mpath-`.
    pub wwid: String,
    /// Its node: "dm-3".
    pub node: String,
    /// What happens to I/O when no path is left. The kernel knows only whether it queues (`Forever`, `Off`), not for how long.
    pub queueing: Queueing,
    /// Features as the kernel has them: "1 `queue_if_no_path`".
    pub features: String,
    /// The handler of the target's commands to move LUNs: "1 alua"; "0" for none.
    pub handler: String,
    /// When multipathd goes back to a better group.
    pub failback: Failback,
    /// I/O waits because somebody suspended the map.
    pub suspended: bool,
    /// Writes are refused; `None` if not known.
    pub read_only: Option<bool>,
    /// Who made the disk; "LIO-ORG". Empty if not known.
    pub vendor: String,
    /// What it calls it; with LIO the name of the backstore.
    pub product: String,
    /// Its revision.
    pub revision: String,
    /// What multipathd counted; `None` from the kernel.
    pub counters: Option<Counters>,
    /// How large it is; `None` from multipathd.
    #[serde(serialize_with = "maybe_bytes")]
    pub size: Option<Bytes>,
    /// Who has it open, counted; `None` from multipathd.
    pub open_count: Option<u32>,
    /// Its path groups, the preferred one first.
    pub groups: Vec<GroupState>,
}

impl MapState {
    /// A map without groups; for fakes.
    #[must_use]
    pub fn new(name: impl Into<String>, wwid: impl Into<String>, node: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            wwid: wwid.into(),
            node: node.into(),
            queueing: Queueing::Undecided,
            features: "0".to_owned(),
            handler: "0".to_owned(),
            failback: Failback::Undefined,
            suspended: false,
            read_only: None,
            vendor: String::new(),
            product: String::new(),
            revision: String::new(),
            counters: None,
            size: None,
            open_count: None,
            groups: Vec::new(),
        }
    }

    /// The same map with this group behind those it has.
    #[must_use]
    pub fn with_group(mut self, group: GroupState) -> Self {
        self.groups.push(group);
        self
    }

    /// The same map that does this with I/O when no path is left.
    #[must_use]
    pub fn with_queueing(mut self, queueing: Queueing) -> Self {
        self.features = match queueing {
            Queueing::Off | Queueing::Undecided => "0".to_owned(),
            _ => "1 queue_if_no_path".to_owned(),
        };
        self.queueing = queueing;
        self
    }

    /// The same map of a disk of this vendor and product.
    #[must_use]
    pub fn with_product(mut self, vendor: &str, product: &str) -> Self {
        (self.vendor, self.product) = (vendor.to_owned(), product.to_owned());
        self
    }

    /// All paths of all groups.
    pub fn paths(&self) -> impl Iterator<Item = &PathInfo> {
        self.groups.iter().flat_map(|group| &group.paths)
    }

    /// How many paths work.
    #[must_use]
    pub fn working(&self) -> usize {
        self.paths().filter(|p| p.state == PathState::Active && p.checker != CheckerState::Faulty).count()
    }
}

/// A path group.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct GroupState {
    /// Whether it takes I/O.
    pub state: GroupPhase,
    /// Its priority: the greatest is used. -1 if not known.
    pub priority: i64,
    /// How I/O is spread over its paths: "service-time 0".
    pub selector: String,
    /// It holds paths that come and go, and is used only when no other is left.
    pub marginal: bool,
    /// Its paths.
    pub paths: Vec<PathInfo>,
}

impl GroupState {
    /// A group of normal paths.
    #[must_use]
    pub fn new(
        state: GroupPhase,
        priority: i64,
        selector: impl Into<String>,
        paths: impl IntoIterator<Item = PathInfo>,
    ) -> Self {
        let paths = paths.into_iter().collect();
        Self { state, priority, selector: selector.into(), marginal: false, paths }
    }
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PathInfo {
    /// Its device: "sdb".
    pub device: String,
    /// Its number: "8:16".
    pub number: String,
    /// Whether the kernel uses it.
    pub state: PathState,
    /// The SCSI device under it.
    pub device_state: DeviceState,
    /// What the checker found.
    pub checker: CheckerState,
    /// Which checker that is: "directio"; "tur" is wrong for LIO.
    pub checker_name: String,
    /// Its priority; -1 if not known.
    pub priority: i64,
    /// It comes and goes.
    pub marginal: bool,
    /// The target it leads to.
    pub target: String,
    /// The address of the adapter it starts at, as multipathd has it; of iSCSI the local IP address.
    pub adapter: String,
    /// The logical unit.
    pub lun: Option<u64>,
    /// Its SCSI address; `None` from multipathd.
    pub hctl: Option<Hctl>,
    /// How often it failed since the table was loaded; `None` from multipathd.
    pub failures: Option<u32>,
}

impl PathInfo {
    /// A path of which nothing more is known.
    #[must_use]
    pub fn new(device: impl Into<String>, number: impl Into<String>, state: PathState) -> Self {
        Self {
            device: device.into(),
            number: number.into(),
            state,
            device_state: DeviceState::Unknown,
            checker: CheckerState::Undefined,
            checker_name: String::new(),
            priority: -1,
            marginal: false,
            target: String::new(),
            adapter: String::new(),
            lun: None,
            hctl: None,
            failures: None,
        }
    }

    /// The same path that leads to this target.
    #[must_use]
    pub fn with_target(mut self, target: impl Into<String>) -> Self {
        self.target = target.into();
        self
    }

    /// The same path, watched by this checker, which found this.
    #[must_use]
    pub fn with_checker(mut self, name: impl Into<String>, state: CheckerState) -> Self {
        (self.checker_name, self.checker) = (name.into(), state);
        self
    }
}

/// A size as a number of bytes.
pub(crate) fn maybe_bytes<S: serde::Serializer>(
    value: &Option<Bytes>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(Bytes(bytes)) => serializer.serialize_some(bytes),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queueing_and_failback_are_read_and_said_alike() {
        for word in ["off", "on", "-", "24 chk", "110 sec", "something new"] {
            assert_eq!(Queueing::from_word(word).to_string(), word);
        }
        assert_eq!(Queueing::from_word("24 chk"), Queueing::Retries(24));
        assert_eq!(Queueing::from_word("110 sec"), Queueing::Seconds(110));
        for word in ["immediate", "manual", "followover", "undef", "deferred:30", "XX........ 2/10"] {
            assert_eq!(Failback::from_word(word).to_string(), word);
        }
    }

    #[test]
    fn scsi_addresses() {
        let hctl: Hctl = "2:0:1:18446744073709551615".parse().expect("an address");
        assert_eq!((hctl.host, hctl.target, hctl.lun), (2, 1, u64::MAX));
        for bad in ["#:#:#:#", "1:2:3", "1:2:3:4:5", "1:2:3:-4"] {
            assert!(bad.parse::<Hctl>().is_err(), "{bad}");
        }
    }
}
