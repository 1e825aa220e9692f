//! Compares what runs with what should run: the timeouts in force, the checker, the queueing, multipathd's configuration.

use std::fmt;
use std::time::Duration;

use host::Deadline;

use crate::Initiator;
use crate::error::{Error, Result};
use crate::spec::Patience;
use crate::state::{MapState, Queueing, SessionState};
use crate::wire::conf::{self, Setting};

/// The vendor by which LIO's disks are known in multipathd's configuration.
const LIO: &str = "(LIO-ORG|SUSE)";
/// Repeats what is not acknowledged steadily instead of ever more slowly.
const RETRANSMIT: &str = "/proc/sys/net/ipv4/tcp_thin_linear_timeouts";

/// What an initiator is meant to live through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Profile {
    /// A target that moves between two nodes: [`Patience::failover`].
    Failover,
    /// As VMware ESXi waits: pings every 15 s, answered within 10, 10 s to come back, 140 s without any path. For hosts that stand beside ESXi
    /// hosts at the same target and are to see what they see.
    Vmware,
    /// sanlock leases on the disk: an outage must end before the lease does, or the watchdog resets the host.
    Sanlock,
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 3] = [Self::Failover, Self::Vmware, Self::Sanlock];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Vmware => "vmware",
            Self::Sanlock => "sanlock",
        }
    }

    /// The timeouts it wants.
    #[must_use]
    pub fn patience(self) -> Patience {
        let seconds = Duration::from_secs;
        match self {
            Self::Failover => Patience::failover(),
            Self::Vmware => Patience {
                ping_interval: seconds(15),
                ping_timeout: seconds(10),
                recovery: seconds(10),
                queueing: seconds(140),
                polling: seconds(5),
            },
            Self::Sanlock => Patience { queueing: seconds(40), ..Patience::failover() },
        }
    }

    /// Why I/O may wait for a path as long as it may, and no longer.
    fn queueing_reason(self) -> &'static str {
        match self {
            Self::Failover => {
                "a node that takes over needs fencing, promotion and start: less than that fails I/O, for ever hangs whoever waits for it"
            }
            Self::Vmware => "ESXi gives a disk up after 140 s without a path (Misc.APDTimeout)",
            Self::Sanlock => {
                "sanlock renews a lease every 20 s and gives it up after 80 s (io_timeout 10); I/O that waits longer comes after the lease, and \
                 the watchdog resets the host"
            }
        }
    }
}

impl std::str::FromStr for Profile {
    type Err = host::ParseError;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|profile| profile.as_str() == text);
        known.ok_or_else(|| host::ParseError::new("profile", text, "failover, vmware or sanlock"))
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Where: a map, a session, a file.
    pub object: String,
    /// Which setting.
    pub setting: String,
    /// What it is.
    pub value: String,
    /// What it should be.
    pub wanted: String,
    /// Why.
    pub reason: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, setting, value, wanted, reason, fix } = self;
        write!(f, "{object}: {setting} is {value}, should be {wanted}; {reason}. {fix}")
    }
}

impl Finding {
    fn new(object: &str, setting: &str, value: impl fmt::Display, wanted: impl fmt::Display) -> Self {
        Self {
            object: object.to_owned(),
            setting: setting.to_owned(),
            value: value.to_string(),
            wanted: wanted.to_string(),
            reason: String::new(),
            fix: String::new(),
        }
    }

    fn because(mut self, reason: &str, fix: impl Into<String>) -> Self {
        (self.reason, self.fix) = (reason.to_owned(), fix.into());
        self
    }
}

/// Everything a check looks at, as it was read.
struct Seen<'a> {
    sessions: &'a [SessionState],
    maps: &'a [MapState],
    conf: &'a [Setting],
    retransmit: Option<&'a str>,
}

impl Initiator {
    /// Compares what runs with what a profile wants: values in force, not those of files. Empty if all is well. Nothing is changed.
    ///
    /// # Errors
    /// multipathd does not answer, or sysfs cannot be read.
    pub fn check(&self, profile: Profile, deadline: Deadline) -> Result<Vec<Finding>> {
        let conf = self.multipath.client.ask("show config local", deadline)?;
        let retransmit = self.host.tree().read_opt(RETRANSMIT).map_err(Error::Tree)?;
        let seen = Seen {
            sessions: &self.sessions()?,
            maps: &self.multipath.list()?,
            conf: &conf::parse(&conf),
            retransmit: retransmit.as_deref().map(str::trim),
        };
        Ok(judge(profile, &seen))
    }

    /// Whether multipathd runs with the configuration that a patience writes: what another file says after ours wins over it, and of a word that it
    /// does not know multipathd tells its log only.
    pub(crate) fn check_conf(&self, patience: &Patience, deadline: Deadline) -> Result<Vec<Finding>> {
        let text = self.multipath.client.ask("show config local", deadline)?;
        Ok(of_conf(patience, &conf::parse(&text)))
    }
}

fn judge(profile: Profile, seen: &Seen<'_>) -> Vec<Finding> {
    let patience = profile.patience();
    let mut found = of_conf(&patience, seen.conf);
    for session in seen.sessions {
        found.extend(of_session(&patience, session));
    }
    for map in seen.maps.iter().filter(|map| is_lio(map, seen.sessions)) {
        found.extend(of_map(profile, &patience, map));
    }
    if profile != Profile::Vmware && seen.retransmit == Some("0") {
        let reason = "the node that takes over answers the next retransmission; with doubling intervals that comes as late again as the outage lasted";
        found.push(
            Finding::new(RETRANSMIT, "tcp_thin_linear_timeouts", 0, 1)
                .because(reason, "sysctl net.ipv4.tcp_thin_linear_timeouts=1"),
        );
    }
    found
}

fn is_lio(map: &MapState, sessions: &[SessionState]) -> bool {
    let mut disks = sessions.iter().flat_map(|s| &s.disks).filter(|d| d.vendor == "LIO-ORG");
    disks.any(|disk| map.paths().any(|path| path.device == disk.device))
}

fn of_session(patience: &Patience, session: &SessionState) -> Vec<Finding> {
    let object = format!("session {} to {}", session.id, session.target);
    let mut found = Vec::new();
    let recovery = patience.recovery.as_secs().max(1);
    let value = session.recovery.map_or_else(|| "off (for ever)".to_owned(), |s| format!("{s} s"));
    if session.recovery.map(u64::from) != Some(recovery) {
        let reason = "this long I/O waits on a lost connection before it takes another path; multipathd writes it over the record's value";
        let fix = "set fast_io_fail_tmo in multipathd's configuration (attach does)";
        found
            .push(Finding::new(&object, "recovery_tmo", value, format!("{recovery} s")).because(reason, fix));
    }
    let Some(connection) = session.connections.first() else { return found };
    for (setting, value, wanted, reason) in [
        (
            "noop_out_interval",
            connection.ping_interval,
            patience.ping_interval,
            "a path that dies in silence is noticed by the next ping at the earliest; 0 leaves it to TCP, which takes minutes",
        ),
        (
            "noop_out_timeout",
            connection.ping_timeout,
            patience.ping_timeout,
            "a path is given up when a ping is not answered for so long; shorter than a move of the target, the move costs a new login",
        ),
    ] {
        if value.is_some_and(|value| value != wanted) {
            let value = value.map_or(0, |value| value.as_secs());
            let fix = "it is fixed at login: attach with this profile's timeouts, then log out and in, one path after the other";
            found.push(
                Finding::new(&object, setting, format!("{value} s"), format!("{} s", wanted.as_secs()))
                    .because(reason, fix),
            );
        }
    }
    found
}

fn of_map(profile: Profile, patience: &Patience, map: &MapState) -> Vec<Finding> {
    let object = format!("map {}", map.name);
    let mut found = Vec::new();
    if let Some(path) = map.paths().find(|path| path.checker_name != "directio") {
        let reason = "LIO answers TEST UNIT READY whatever its disk does, so a dead path comes and goes and the queueing never ends";
        let fix = "path_checker directio, detect_checker no for LIO (attach writes it); before 0.9.5 it is not the default";
        found
            .push(Finding::new(&object, "path checker", &path.checker_name, "directio").because(reason, fix));
    }
    let wanted = patience.queueing.as_secs().div_ceil(patience.polling.as_secs().max(1));
    // With no path left the time runs already.
    let is_fine = match map.queueing {
        Queueing::Retries(retries) => u64::from(retries) == wanted,
        Queueing::Seconds(_) => true,
        _ => false,
    };
    if !is_fine {
        let fix = "set no_path_retry in multipathd's configuration (attach does), or undo disablequeueing";
        found.push(
            Finding::new(&object, "no_path_retry", &map.queueing, format!("{wanted} chk"))
                .because(profile.queueing_reason(), fix),
        );
    }
    if map.working() < 2 {
        let reason = "with one path its loss is the loss of the disk";
        found.push(
            Finding::new(&object, "working paths", map.working(), "2 or more")
                .because(reason, "attach over a second portal"),
        );
    }
    found
}

fn of_conf(patience: &Patience, settings: &[Setting]) -> Vec<Finding> {
    let wanted = conf::parse(&patience.multipath_conf());
    let mut found = Vec::new();
    let reason = "another file says otherwise after ours, or multipathd does not know the word";
    let fix = "look through /etc/multipath.conf and /etc/multipath/conf.d, then multipathd reconfigure";
    let mut compare = |object: &str, want: &Setting, value: Option<&str>| {
        // 0.9.4 shows `detect_checker no` as written, and numbers as numbers; yes and on mean the same.
        let plain = |text: &str| match text {
            "on" => "yes".to_owned(),
            "off" => "no".to_owned(),
            other => other.to_owned(),
        };
        if value.map(plain) != Some(plain(&want.value)) {
            found.push(
                Finding::new(object, &want.key, value.unwrap_or("not set"), &want.value).because(reason, fix),
            );
        }
    };
    for want in wanted.iter().filter(|s| s.section == ["defaults"]) {
        compare("multipathd's defaults", want, conf::get(settings, &["defaults"], &want.key));
    }
    // `show config local` shows devices that are there only; without a LIO disk there is nothing to compare.
    for device in conf::devices(settings, LIO) {
        for want in wanted.iter().filter(|s| s.section == ["devices", "device"] && s.key != "product") {
            let value = device.iter().rfind(|s| s.key == want.key).map(|s| s.value.as_str());
            compare("multipathd's settings for LIO", want, value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{ConnectionState, Negotiated, SessionTimeouts};
    use crate::state::{DiskState, SessionPhase};
    use host::Iqn;

    fn maps(checker: &str, queueing: &str) -> Vec<MapState> {
        let text = include_str!("../tests/fixtures/maps-0.9.4.json");
        let mut maps = crate::wire::maps::parse(text).expect("a fixture");
        for map in &mut maps {
            map.queueing = Queueing::from_word(queueing);
            for path in map.groups.iter_mut().flat_map(|group| &mut group.paths) {
                path.checker_name = checker.to_owned();
                path.state = crate::PathState::Active;
                path.checker = crate::CheckerState::Ready;
            }
        }
        maps
    }

    fn session(maps: &[MapState], recovery: u32, ping: u64) -> SessionState {
        let disk = |device: &str| DiskState {
            device: device.to_owned(),
            lun: 0,
            wwid: None,
            address: String::new(),
            state: "running".to_owned(),
            size: 0,
            vendor: "LIO-ORG".to_owned(),
            model: String::new(),
        };
        SessionState {
            id: 1,
            target: Iqn::from_kernel("iqn.2026-01.a:one"),
            portal: None,
            phase: SessionPhase::LoggedIn,
            recovery: Some(recovery),
            disks: maps.iter().flat_map(MapState::paths).map(|path| disk(&path.device)).collect(),
            tag: None,
            host: None,
            target_id: 0,
            iface: None,
            interface: None,
            local: None,
            initiator: None,
            chap_user: None,
            target_chap_user: None,
            negotiated: Negotiated::default(),
            timeouts: SessionTimeouts::default(),
            connections: vec![ConnectionState {
                id: 0,
                phase: None,
                address: None,
                portal: None,
                local_port: None,
                ping_interval: Some(Duration::from_secs(ping)),
                ping_timeout: Some(Duration::from_secs(3)),
                header_digest: None,
                data_digest: None,
                max_recv: None,
                max_xmit: None,
            }],
        }
    }

    fn findings(profile: Profile, checker: &str, queueing: &str, recovery: u32, ping: u64) -> Vec<String> {
        let maps = maps(checker, queueing);
        let conf = conf::parse(&profile.patience().multipath_conf());
        let sessions = [session(&maps, recovery, ping)];
        let seen = Seen { sessions: &sessions, maps: &maps, conf: &conf, retransmit: Some("1") };
        judge(profile, &seen).iter().map(|finding| finding.setting.clone()).collect()
    }

    #[test]
    fn what_is_as_it_should_be_is_no_finding() {
        assert_eq!(findings(Profile::Failover, "directio", "120 chk", 5, 1), Vec::<String>::new());
        assert_eq!(findings(Profile::Sanlock, "directio", "40 chk", 5, 1), Vec::<String>::new());
    }

    #[test]
    fn each_wrong_value_is_found_with_reason_and_fix() {
        assert_eq!(findings(Profile::Failover, "tur", "120 chk", 5, 1), ["path checker"]);
        for queueing in ["on", "off", "12 chk", "-"] {
            assert_eq!(
                findings(Profile::Failover, "directio", queueing, 5, 1),
                ["no_path_retry"],
                "{queueing}"
            );
        }
        assert!(findings(Profile::Failover, "directio", "12 sec", 5, 1).is_empty(), "it is counting down");
        assert_eq!(
            findings(Profile::Failover, "directio", "120 chk", 120, 5),
            ["recovery_tmo", "noop_out_interval"]
        );
        assert_eq!(
            findings(Profile::Sanlock, "directio", "120 chk", 5, 1),
            ["no_path_retry"],
            "longer than the lease"
        );
        let seen = Seen { sessions: &[], maps: &[], conf: &[], retransmit: Some("0") };
        let all = judge(Profile::Failover, &seen);
        assert!(all.iter().all(|f| !f.reason.is_empty() && !f.fix.is_empty()));
        let settings: Vec<_> = all.iter().map(|f| f.setting.as_str()).collect();
        assert_eq!(settings, ["polling_interval", "max_polling_interval", "tcp_thin_linear_timeouts"]);
    }

    #[test]
    fn a_file_that_wins_over_ours_is_found() {
        let patience = Patience::failover();
        let text = patience.multipath_conf().replace("no_path_retry 120", "no_path_retry \"queue\"");
        let found = of_conf(&patience, &conf::parse(&text));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].value.as_str(), found[0].wanted.as_str()), ("queue", "120"));
    }
}
