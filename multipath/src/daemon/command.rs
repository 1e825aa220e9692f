//! Every command of multipathd, as it is said.

use std::fmt;
use std::num::NonZeroU32;

use crate::name::{Format, MapName, PathName};

/// The longest command, with its NUL (`MAX_CMD_LEN`, `multipathd/uxlsnr.c`): one byte more and the daemon drops the connection.
pub(crate) const MAX_COMMAND: usize = 512;

/// Whether a formatted list begins with a line of column names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Columns {
    /// With a header, padded to columns.
    Named,
    /// Values only, unpadded: `raw`.
    Raw,
}

/// The key of persistent reservations: 64 bits, and whether it is kept over a power loss of the target (APTPL).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[non_exhaustive]
pub struct ReservationKey {
    /// The key; 0 is "none" to a target.
    pub key: u64,
    /// Activate persist through power loss.
    pub aptpl: bool,
}

impl ReservationKey {
    /// A key that a power loss of the target ends.
    #[must_use]
    pub fn new(key: u64) -> Self {
        Self { key, aptpl: false }
    }

    /// The same key, kept over a power loss.
    #[must_use]
    pub fn with_aptpl(mut self) -> Self {
        self.aptpl = true;
        self
    }

    /// Reads the daemon's `0x1234` or `0x1234:aptpl`; `None` for `none` and for what is no key.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (number, aptpl) = text.strip_suffix(":aptpl").map_or((text, false), |number| (number, true));
        let key = u64::from_str_radix(number.strip_prefix("0x")?, 16).ok()?;
        Some(Self { key, aptpl })
    }
}

impl fmt::Display for ReservationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:x}{}", self.key, if self.aptpl { ":aptpl" } else { "" })
    }
}

/// A command of multipathd (multipathd/callbacks.c; the same from 0.9.4 to 0.14 but where said). Prints as it is sent and as one would type it
/// after `multipathd`.
///
/// All but the `Show` ones need root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// All paths with the checker's times.
    ShowPaths,
    /// All paths, by a format.
    ShowPathsFormat(Columns, Format),
    /// Whether a path is offline or running (`/sys/block/X/device/state`).
    ShowPath(PathName),
    /// All maps: name, node, WWID.
    ShowMaps,
    /// All maps with failback, queueing, number of paths.
    ShowMapsStatus,
    /// All maps with their counters.
    ShowMapsStats,
    /// All maps as a tree, foreign ones (native NVMe) too. `show topology` is the same.
    ShowTopology,
    /// All maps as JSON. Fails as a whole while one of them cannot be read.
    ShowMapsJson,
    /// All maps, by a format.
    ShowMapsFormat(Columns, Format),
    /// One map as a tree. multipathd 0.9.4 answers `fail` while the map changes.
    ShowMapTopology(MapName),
    /// One map as JSON.
    ShowMapJson(MapName),
    /// One map, by a format.
    ShowMapFormat(MapName, Columns, Format),
    /// The configuration in force, with all built-in devices.
    ShowConfig,
    /// The configuration in force, with the devices of this machine only.
    ShowConfigLocal,
    /// What is excluded, and why.
    ShowBlacklist,
    /// All block devices, and whether they are excluded.
    ShowDevices,
    /// The wildcards of formats.
    ShowWildcards,
    /// How many paths are in which state, and whether uevents wait.
    ShowStatus,
    /// The daemon's process and what it does.
    ShowDaemon,
    /// Sets the counters of all maps to 0.
    ResetMapsStats,
    /// Sets the counters of a map to 0.
    ResetMapStats(MapName),
    /// Gives the devices that stand on a path directly to its map. By alias only.
    ReassignMap(MapName),
    /// Takes a path up; a map is made of it if its WWID is known (`find_multipaths`).
    AddPath(PathName),
    /// Lets a path go; the map goes with its last one.
    RemovePath(PathName),
    /// Takes a map up. By WWID since 0.10.0 only.
    AddMap(MapName),
    /// Flushes and removes a map that nobody has open.
    RemoveMap(MapName),
    /// Flushes and removes all maps that nobody has open.
    RemoveMaps,
    /// Makes a path group, counted from 1, the one in use.
    SwitchGroup(MapName, NonZeroU32),
    /// Reads the configuration again; maps that it leaves as they are are not touched (since 0.9.0). Answers before it is done: wait until
    /// [`ShowDaemon`](Self::ShowDaemon) says idle or running.
    Reconfigure,
    /// Reads the configuration again and reloads all maps.
    ReconfigureAll,
    /// Loads a map's table again.
    ReloadMap(MapName),
    /// Takes the new size of a map's paths; rescan each of them before (`/sys/block/sdX/device/rescan`).
    ResizeMap(MapName),
    /// Holds all I/O of a map. By alias only.
    SuspendMap(MapName),
    /// Lets I/O of a map go on. By alias only.
    ResumeMap(MapName),
    /// Fails a path and stops its checker: it stays failed until [`ReinstatePath`](Self::ReinstatePath).
    FailPath(PathName),
    /// Uses a path again. 0.9.4 may fail it once more at the next check; repeat then.
    ReinstatePath(PathName),
    /// Fails I/O at once when a map has no path, until [`RestoreQueueing`](Self::RestoreQueueing).
    DisableQueueing(MapName),
    /// The same for all maps.
    DisableQueueingAll,
    /// Queues again as configured. Since 0.9.8 only after it was disabled.
    RestoreQueueing(MapName),
    /// The same for all maps.
    RestoreQueueingAll,
    /// Keeps queueing when the daemon ends.
    ForceQueueingDaemon,
    /// Stops queueing when the daemon ends (the configuration's `queue_without_daemon no`).
    RestoreQueueingDaemon,
    /// Whether a map's reservation is registered on new paths.
    ShowReservation(MapName),
    /// Registers the map's key on new paths from now on.
    SetReservation(MapName),
    /// The same, of which these paths have it already. Since 0.14.
    SetReservationPaths(MapName, Vec<PathName>),
    /// No longer registers it.
    UnsetReservation(MapName),
    /// The key of a map in `/etc/multipath/prkeys`.
    ShowReservationKey(MapName),
    /// Sets the key of a map.
    SetReservationKey(MapName, ReservationKey),
    /// Removes the key of a map.
    UnsetReservationKey(MapName),
    /// Whether a map's reservation is held. Since 0.13.
    ShowReservationHold(MapName),
    /// Marks a map's reservation as held. Since 0.13.
    SetReservationHold(MapName),
    /// Marks it as not held. Since 0.13.
    UnsetReservationHold(MapName),
    /// Moves a path to a group that is used only when no other is left.
    SetMarginal(PathName),
    /// Moves it back.
    UnsetMarginal(PathName),
    /// Moves all marginal paths of a map back.
    UnsetMarginalMap(MapName),
    /// Ends the daemon. Maps stay.
    Shutdown,
}

impl Command {
    /// Whether it only asks: needs no root, changes nothing, and may be asked twice.
    #[must_use]
    pub fn is_question(&self) -> bool {
        let text = self.to_string();
        text.starts_with("show ") || text.starts_with("getpr")
    }
}

/// A word, in quotes if it has blanks.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.contains(char::is_whitespace) {
            true => write!(f, "\"{}\"", self.0),
            false => f.write_str(self.0),
        }
    }
}

fn map(name: &MapName) -> Word<'_> {
    Word(name.as_str())
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named => "format",
            Self::Raw => "raw format",
        })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShowPaths => f.write_str("show paths"),
            // Always quoted: a format may begin with what else is a keyword.
            Self::ShowPathsFormat(columns, format) => write!(f, "show paths {columns} \"{format}\""),
            Self::ShowPath(path) => write!(f, "show path {path}"),
            Self::ShowMaps => f.write_str("show maps"),
            Self::ShowMapsStatus => f.write_str("show maps status"),
            Self::ShowMapsStats => f.write_str("show maps stats"),
            Self::ShowTopology => f.write_str("show topology"),
            Self::ShowMapsJson => f.write_str("show maps json"),
            Self::ShowMapsFormat(columns, format) => write!(f, "show maps {columns} \"{format}\""),
            Self::ShowMapTopology(name) => write!(f, "show map {} topology", map(name)),
            Self::ShowMapJson(name) => write!(f, "show map {} json", map(name)),
            Self::ShowMapFormat(name, columns, format) => {
                write!(f, "show map {} {columns} \"{format}\"", map(name))
            }
            Self::ShowConfig => f.write_str("show config"),
            Self::ShowConfigLocal => f.write_str("show config local"),
            Self::ShowBlacklist => f.write_str("show blacklist"),
            Self::ShowDevices => f.write_str("show devices"),
            Self::ShowWildcards => f.write_str("show wildcards"),
            Self::ShowStatus => f.write_str("show status"),
            Self::ShowDaemon => f.write_str("show daemon"),
            Self::ResetMapsStats => f.write_str("reset maps stats"),
            Self::ResetMapStats(name) => write!(f, "reset map {} stats", map(name)),
            Self::ReassignMap(name) => write!(f, "reset map {}", map(name)),
            Self::AddPath(path) => write!(f, "add path {path}"),
            Self::RemovePath(path) => write!(f, "del path {path}"),
            Self::AddMap(name) => write!(f, "add map {}", map(name)),
            Self::RemoveMap(name) => write!(f, "del map {}", map(name)),
            Self::RemoveMaps => f.write_str("del maps"),
            Self::SwitchGroup(name, group) => write!(f, "switch map {} group {group}", map(name)),
            Self::Reconfigure => f.write_str("reconfigure"),
            Self::ReconfigureAll => f.write_str("reconfigure all"),
            Self::ReloadMap(name) => write!(f, "reload map {}", map(name)),
            Self::ResizeMap(name) => write!(f, "resize map {}", map(name)),
            Self::SuspendMap(name) => write!(f, "suspend map {}", map(name)),
            Self::ResumeMap(name) => write!(f, "resume map {}", map(name)),
            Self::FailPath(path) => write!(f, "fail path {path}"),
            Self::ReinstatePath(path) => write!(f, "reinstate path {path}"),
            Self::DisableQueueing(name) => write!(f, "disablequeueing map {}", map(name)),
            Self::DisableQueueingAll => f.write_str("disablequeueing maps"),
            Self::RestoreQueueing(name) => write!(f, "restorequeueing map {}", map(name)),
            Self::RestoreQueueingAll => f.write_str("restorequeueing maps"),
            Self::ForceQueueingDaemon => f.write_str("forcequeueing daemon"),
            Self::RestoreQueueingDaemon => f.write_str("restorequeueing daemon"),
            Self::ShowReservation(name) => write!(f, "getprstatus map {}", map(name)),
            Self::SetReservation(name) => write!(f, "setprstatus map {}", map(name)),
            Self::SetReservationPaths(name, paths) => {
                let paths: Vec<_> = paths.iter().map(PathName::as_str).collect();
                write!(f, "setprstatus map {} pathlist \"{}\"", map(name), paths.join(" "))
            }
            Self::UnsetReservation(name) => write!(f, "unsetprstatus map {}", map(name)),
            Self::ShowReservationKey(name) => write!(f, "getprkey map {}", map(name)),
            Self::SetReservationKey(name, key) => write!(f, "setprkey map {} key {key}", map(name)),
            Self::UnsetReservationKey(name) => write!(f, "unsetprkey map {}", map(name)),
            Self::ShowReservationHold(name) => write!(f, "getprhold map {}", map(name)),
            Self::SetReservationHold(name) => write!(f, "setprhold map {}", map(name)),
            Self::UnsetReservationHold(name) => write!(f, "unsetprhold map {}", map(name)),
            Self::SetMarginal(path) => write!(f, "setmarginal path {path}"),
            Self::UnsetMarginal(path) => write!(f, "unsetmarginal path {path}"),
            Self::UnsetMarginalMap(name) => write!(f, "unsetmarginal map {}", map(name)),
            Self::Shutdown => f.write_str("shutdown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_said_as_the_daemon_reads_them() {
        let name: MapName = "my map".parse().expect("a name");
        let format: Format = "%n %w".parse().expect("a format");
        assert_eq!(Command::ShowMapJson(name.clone()).to_string(), "show map \"my map\" json");
        assert_eq!(
            Command::ShowMapsFormat(Columns::Raw, format).to_string(),
            "show maps raw format \"%n %w\""
        );
        let paths = vec!["sda".parse().expect("a path"), "8:16".parse().expect("a path")];
        assert_eq!(
            Command::SetReservationPaths(name, paths).to_string(),
            "setprstatus map \"my map\" pathlist \"sda 8:16\""
        );
        assert!(Command::ShowTopology.is_question() && !Command::RemoveMaps.is_question());
    }

    #[test]
    fn reservation_keys_are_read_and_said() {
        let key = ReservationKey::parse("0x1a2b:aptpl\n").expect("a key");
        assert_eq!(key, ReservationKey::new(0x1a2b).with_aptpl());
        assert_eq!(key.to_string(), "0x1a2b:aptpl");
        assert_eq!(ReservationKey::parse("none\n"), None);
    }
}
