//! What multipathd's answers mean, of all generations (`multipathd/uxlsnr.c` and `cli_handlers.c`, 0.9.4 to 0.14.3).

use std::fmt;
use std::str::FromStr;

use host::ParseError;

/// multipathd's version, from its help text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[non_exhaustive]
pub struct Version {
    /// 0.
    pub major: u32,
    /// The release series.
    pub minor: u32,
    /// The release.
    pub patch: u32,
}

impl Version {
    /// A version to compare with.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Finds `multipath-tools v0.9.4` in a help text.
    pub(crate) fn find(text: &str) -> Option<Self> {
        let rest = text.split_once("multipath-tools v")?.1;
        rest.split(|c: char| !(c.is_ascii_digit() || c == '.')).next()?.parse().ok()
    }
}

impl FromStr for Version {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut parts = text.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Ok(Self { major, minor, patch }),
            _ => Err(ParseError::new("version of multipathd", text, "it is three numbers: 0.9.4")),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// An answer of multipathd.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reply {
    /// Done; also the answer to a question about a list that is empty.
    Ok,
    /// What was asked for.
    Text(String),
    /// Nothing was done: the configuration excludes the path or map. Both generations count this as success.
    Blacklisted,
    /// It is removed later, when its last user is gone.
    Delayed,
    /// The path is gone although the map could not be loaded without it.
    RemovedAnyway,
    /// The daemon was busy for 4 s (`uxsock_timeout`) and did nothing.
    Timeout,
    /// The map or a partition of it is open. Told since 0.9.8; before, [`Failed`](Self::Failed).
    Busy,
    /// There is no such map or path. Told since 0.9.8; before, [`Failed`](Self::Failed).
    NotFound,
    /// The asker is not root.
    NeedsRoot,
    /// The daemon does not know the command, or wants more words; this is its version.
    Unknown(Option<Version>),
    /// It failed, and what it says beyond that: nothing before 0.9.8.
    Failed(String),
}

impl Reply {
    /// Reads an answer to a question or an order. An answer that no refusal begins with is the text that was asked for.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (failed, rest) = match text.strip_prefix("fail\n") {
            Some(rest) => (true, rest),
            None => (text == "fail", text),
        };
        match rest.trim_end() {
            "ok" if !failed => return Self::Ok,
            "" | "fail" if failed => return Self::Failed(String::new()),
            "blacklisted" => return Self::Blacklisted,
            "delayed" => return Self::Delayed,
            "map reload error. removed" => return Self::RemovedAnyway,
            "timeout" => return Self::Timeout,
            "map or partition in use" => return Self::Busy,
            "device not found" => return Self::NotFound,
            "permission deny: need to be root" => return Self::NeedsRoot,
            _ => {}
        }
        // The help text begins with what is wrong: "x: not found", "x: Missing argument", ": Not enough memory".
        let mut lines = rest.lines();
        let complaint = lines.next().unwrap_or_default();
        let wrong = [": not found", ": Missing argument", ": Not enough memory"];
        if wrong.iter().any(|end| complaint.ends_with(end))
            && lines.next().is_some_and(|line| line.starts_with("multipath-tools v"))
        {
            return Self::Unknown(Version::find(rest));
        }
        match failed {
            true => Self::Failed(rest.trim().replace('\n', " ")),
            false => Self::Text(text.to_owned()),
        }
    }

    /// Whether what was ordered is done or will be.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Ok | Self::Text(_) | Self::Delayed | Self::RemovedAnyway)
    }

    /// Whether the same command may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Timeout | Self::Busy)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Text(text) => text.trim_end(),
            Self::Blacklisted => "its configuration excludes it (blacklist); see `multipathd show blacklist`",
            Self::Delayed => "delayed until its last user is gone",
            Self::RemovedAnyway => "removed, although the map could not be loaded without it",
            Self::Timeout => "it was busy too long; a path may hang",
            Self::Busy => "the map or a partition of it is in use",
            Self::NotFound => "there is no such map or path",
            Self::NeedsRoot => "only root may do this",
            Self::Unknown(Some(version)) => return write!(f, "version {version} does not know this command"),
            Self::Unknown(None) => "it does not know this command",
            Self::Failed(text) if text.is_empty() => "it failed, and says no more; see its log",
            Self::Failed(text) => text,
        })
    }
}

/// What the daemon is doing (`show daemon`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DaemonState {
    /// Its process.
    pub pid: u32,
    /// Its phase.
    pub phase: DaemonPhase,
    /// It will read its configuration again. Told since 0.10.
    pub reconfigure_pending: bool,
}

impl DaemonState {
    /// Reads `pid 123 idle (pending reconfigure)`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let ("pid", Some(pid), Some(phase)) = (words.next()?, words.next(), words.next()) else {
            return None;
        };
        let reconfigure_pending = text.contains("(pending reconfigure)");
        Some(Self { pid: pid.parse().ok()?, phase: DaemonPhase::from_word(phase), reconfigure_pending })
    }

    /// Whether it works with the configuration it last was told to read.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.reconfigure_pending && matches!(self.phase, DaemonPhase::Idle | DaemonPhase::Running)
    }
}

crate::state::words! {
    /// A phase of the daemon's life.
    DaemonPhase {
        /// Before it has started.
        Init = "init",
        /// It starts.
        Startup = "startup",
        /// It reads its configuration and sets maps up.
        Configure = "configure",
        /// It works, and nothing is to be done.
        Idle = "idle",
        /// It works, and checks paths right now.
        Running = "running",
        /// It ends.
        Shutdown = "shutdown",
    }
}

/// The daemon's picture of its paths (`show status`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DaemonStatus {
    /// How many paths are in which checker state.
    pub checkers: Vec<(crate::CheckerState, u32)>,
    /// How many paths it watches.
    pub paths: u32,
    /// Uevents wait to be handled: not all that is there is known yet.
    pub busy: bool,
}

impl DaemonStatus {
    /// Reads `path checker states:`, lines of state and count, an empty line, `paths: N`, `busy: True|False`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut status = Self::default();
        let mut known = false;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.split_once(':') {
                Some(("paths", count)) => (status.paths, known) = (count.trim().parse().ok()?, true),
                Some(("busy", word)) => status.busy = word.trim().eq_ignore_ascii_case("true"),
                Some(_) => {}
                None => {
                    let (state, count) = line.rsplit_once(char::is_whitespace)?;
                    status.checkers.push((crate::CheckerState::from_word(state.trim()), count.parse().ok()?));
                }
            }
        }
        known.then_some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answers_of_both_generations_mean_the_same() {
        let both = [
            ("ok\n", "ok\n", Reply::Ok),
            ("fail\n", "fail\n", Reply::Failed(String::new())),
            ("timeout\n", "fail\ntimeout\n", Reply::Timeout),
            (
                "permission deny: need to be root\n",
                "fail\npermission deny: need to be root\n",
                Reply::NeedsRoot,
            ),
            ("blacklisted\n", "blacklisted\n", Reply::Blacklisted),
            ("delayed", "delayed\n", Reply::Delayed),
            ("map reload error. removed\n", "map reload error. removed\n", Reply::RemovedAnyway),
        ];
        for (old, new, meaning) in both {
            assert_eq!(Reply::parse(old), meaning, "{old:?}");
            assert_eq!(Reply::parse(new), meaning, "{new:?}");
        }
        assert_eq!(Reply::parse("fail\nmap or partition in use\n"), Reply::Busy);
        assert_eq!(Reply::parse("fail\ndevice not found\n"), Reply::NotFound);
        assert_eq!(Reply::parse("fail\nsomething new\n"), Reply::Failed("something new".to_owned()));
        let help =
            "z: not found\nmultipath-tools v0.9.4 (12/19, 2022)\nCLI commands reference:\n list|show\n";
        let version = Some(Version::new(0, 9, 4));
        assert_eq!(Reply::parse(help), Reply::Unknown(version));
        assert_eq!(Reply::parse(&format!("fail\n{help}")), Reply::Unknown(version));
    }

    #[test]
    fn a_text_that_only_looks_like_a_refusal_is_a_text() {
        for text in ["mpatha ok\n", "timeout 5\n", "okay\n", "sdb: not found\nnext line\n"] {
            assert_eq!(Reply::parse(text), Reply::Text(text.to_owned()));
        }
    }

    #[test]
    fn the_daemons_state_and_status_are_read() {
        let state = DaemonState::parse("pid 123 idle (pending reconfigure)\n").expect("a state");
        assert!(state.pid == 123 && state.phase == DaemonPhase::Idle && !state.is_settled());
        assert!(DaemonState::parse("pid 9 running\n").expect("a state").is_settled());
        assert!(DaemonState::parse("ok\n").is_none());
        let text =
            "path checker states:\nup                  3\ni/o pending         1\n\npaths: 4\nbusy: True\n";
        let status = DaemonStatus::parse(text).expect("a status");
        assert_eq!((status.paths, status.busy, status.checkers.len()), (4, true, 2));
        assert_eq!(status.checkers.get(1), Some(&(crate::CheckerState::Pending, 1)));
        assert!(DaemonStatus::parse("fail\n").is_none());
    }

    proptest! {
        #[test]
        fn any_text_has_a_meaning(text in "(fail\n)?\\PC{0,80}\n?") {
            let reply = Reply::parse(&text);
            prop_assert!(!(reply.is_done() && reply.is_retryable()));
        }
    }
}
