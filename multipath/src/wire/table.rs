//! Table and status lines of the multipath target (drivers/md/dm-mpath.c and dm-ps-*.c, Linux 6.1 to 6.12).

use std::fmt::{self, Write};
use std::str::{FromStr, SplitAsciiWhitespace};
use std::time::Duration;

use host::ParseError;

use crate::state::{GroupPhase, PathState};

/// How I/O is handed to the paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum QueueMode {
    /// Requests: merged and scheduled before a path is chosen. The default.
    #[default]
    Requests,
    /// Bios: each goes its own way at once; for devices without a request queue, as stacked ones.
    Bios,
    /// A word of a newer kernel.
    Other(String),
}

/// The features of a map: what it does beyond choosing a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Features {
    /// I/O waits while there is no path, instead of failing.
    pub queue_if_no_path: bool,
    /// A handler that a device has already is kept.
    pub retain_attached_handler: bool,
    /// How often a group is initialised again after a failure, 1 to 50; `None` for the kernel's own judgement.
    pub init_retries: Option<u32>,
    /// How long to wait between these, up to 60 s; `None` for 2 s.
    pub init_delay: Option<Duration>,
    /// How I/O is handed to the paths.
    pub queue_mode: QueueMode,
    /// Words of a newer kernel.
    pub other: Vec<String>,
}

/// How a path is chosen for the next I/O.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Selector {
    /// In turn.
    RoundRobin,
    /// That with the fewest I/Os under way.
    QueueLength,
    /// That which will be through first, by bytes under way and relative throughput. multipathd's default.
    ServiceTime,
    /// That which was the fastest of late. Not built into Debian's kernels.
    HistoricalServiceTime {
        /// How quickly old times count less (fixed point, 10 bits); `None` for the kernel's.
        base_weight: Option<u32>,
        /// How much better another path must be; `None` for the kernel's.
        threshold: Option<u32>,
    },
    /// That which belongs to the processor that asks. Not built into Debian's kernels.
    IoAffinity,
    /// One of a newer kernel: its name and arguments.
    Other(String, Vec<String>),
}

impl Selector {
    /// Its name in a table.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::QueueLength => "queue-length",
            Self::ServiceTime => "service-time",
            Self::HistoricalServiceTime { .. } => "historical-service-time",
            Self::IoAffinity => "io-affinity",
            Self::Other(name, _) => name,
        }
    }

    fn arguments(&self) -> Vec<String> {
        match self {
            Self::HistoricalServiceTime { base_weight: Some(weight), threshold } => {
                std::iter::once(weight).chain(threshold).map(u32::to_string).collect()
            }
            Self::Other(_, arguments) => arguments.clone(),
            _ => Vec::new(),
        }
    }

    fn new(name: &str, arguments: Vec<String>) -> Self {
        let numbers: Option<Vec<u32>> = arguments.iter().map(|argument| argument.parse().ok()).collect();
        match (name, numbers.as_deref()) {
            ("round-robin", Some([])) => Self::RoundRobin,
            ("queue-length", Some([])) => Self::QueueLength,
            ("service-time", Some([])) => Self::ServiceTime,
            ("io-affinity", Some([])) => Self::IoAffinity,
            ("historical-service-time", Some(numbers)) if numbers.len() <= 2 => Self::HistoricalServiceTime {
                base_weight: numbers.first().copied(),
                threshold: numbers.get(1).copied(),
            },
            _ => Self::Other(name.to_owned(), arguments),
        }
    }
}

/// As multipathd prints it: "service-time 0".
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arguments = self.arguments();
        write!(f, "{} {}", self.name(), arguments.len())?;
        arguments.iter().try_for_each(|argument| write!(f, " {argument}"))
    }
}

/// A path in a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TablePath {
    /// Its device: a number ("8:16"), which is what the kernel prints, or a path ("/dev/sdb").
    pub device: String,
    /// After how many I/Os another path is looked for: 1, the default, for each. The kernel has deprecated more.
    pub repeat_count: u32,
    /// How fast it is in relation to the other paths, 0 to 100; 1 by default. [`Selector::ServiceTime`] only.
    pub throughput: u32,
    /// The processors it belongs to, as a mask. [`Selector::IoAffinity`] only, which needs it.
    pub processors: Option<String>,
    /// Arguments of a selector of a newer kernel.
    pub other: Vec<String>,
}

impl TablePath {
    /// A path with what the kernel takes by default.
    #[must_use]
    pub fn new(device: impl Into<String>) -> Self {
        Self { device: device.into(), repeat_count: 1, throughput: 1, processors: None, other: Vec::new() }
    }

    /// The same path that is this fast in relation to the others, 0 to 100.
    #[must_use]
    pub fn with_throughput(mut self, throughput: u32) -> Self {
        self.throughput = throughput;
        self
    }

    fn arguments(&self, selector: &Selector) -> Vec<String> {
        match selector {
            Selector::RoundRobin | Selector::QueueLength | Selector::HistoricalServiceTime { .. } => {
                vec![self.repeat_count.to_string()]
            }
            Selector::ServiceTime => vec![self.repeat_count.to_string(), self.throughput.to_string()],
            Selector::IoAffinity => self.processors.iter().cloned().collect(),
            Selector::Other(..) => self.other.clone(),
        }
    }

    fn parse(device: &str, arguments: Vec<String>, selector: &Selector) -> Result<Self, String> {
        let mut path = Self::new(device);
        let number = |n: usize, default: u32| match arguments.get(n) {
            Some(text) => text.parse().map_err(|_| format!("{text:?} is no number")),
            None => Ok(default),
        };
        let most = match selector {
            Selector::RoundRobin | Selector::QueueLength | Selector::HistoricalServiceTime { .. } => {
                path.repeat_count = number(0, 1)?;
                1
            }
            Selector::ServiceTime => {
                (path.repeat_count, path.throughput) = (number(0, 1)?, number(1, 1)?);
                2
            }
            Selector::IoAffinity => {
                path.processors = arguments.first().cloned();
                1
            }
            Selector::Other(..) => {
                path.other = arguments;
                return Ok(path);
            }
        };
        match arguments.len() <= most {
            true => Ok(path),
            false => {
                Err(format!("{} takes {most} arguments a path, not {}", selector.name(), arguments.len()))
            }
        }
    }
}

/// A path group in a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TableGroup {
    /// How a path is chosen.
    pub selector: Selector,
    /// Its paths, 1 to 1024.
    pub paths: Vec<TablePath>,
}

impl TableGroup {
    /// A group.
    #[must_use]
    pub fn new(selector: Selector, paths: impl IntoIterator<Item = TablePath>) -> Self {
        Self { selector, paths: paths.into_iter().collect() }
    }
}

/// The parameters of a multipath target, as in `dmsetup table`. What the kernel prints back differs in its words from what it was given and
/// is equal as a `Table`.
///
/// ```
/// use multipath::table::Table;
/// let given: Table = "1 queue_if_no_path 1 alua 1 1 service-time 0 2 1 8:16 1 8:32 1".parse()?;
/// let shown: Table = "1 queue_if_no_path 1 alua 1 1 service-time 0 2 2 8:16 1 1 8:32 1 1".parse()?;
/// assert_eq!(given, shown);
/// # Ok::<(), multipath::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Table {
    /// What the map does beyond choosing a path.
    pub features: Features,
    /// The handler of the target's commands to move LUNs, with its arguments: `alua`. Empty for none.
    pub handler: Vec<String>,
    /// The group to begin with, from 1; 0 if there is none.
    pub initial_group: u32,
    /// The path groups, the preferred one first; at most 1024.
    pub groups: Vec<TableGroup>,
}

impl Table {
    /// A table of these groups that begins with the first and fails I/O when no path is left.
    #[must_use]
    pub fn new(groups: impl IntoIterator<Item = TableGroup>) -> Self {
        let groups: Vec<_> = groups.into_iter().collect();
        let initial_group = u32::from(!groups.is_empty());
        Self { features: Features::default(), handler: Vec::new(), initial_group, groups }
    }

    /// The same table that lets I/O wait while no path is left.
    #[must_use]
    pub fn with_queueing(mut self) -> Self {
        self.features.queue_if_no_path = true;
        self
    }

    /// The same table with this handler: "alua".
    #[must_use]
    pub fn with_handler(mut self, handler: impl Into<String>) -> Self {
        self.handler = vec![handler.into()];
        self
    }
}

/// Reads words, with complaints that say which one.
struct Words<'a> {
    words: SplitAsciiWhitespace<'a>,
    read: usize,
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        Self { words: text.split_ascii_whitespace(), read: 0 }
    }

    fn word(&mut self, what: &str) -> Result<&'a str, String> {
        self.read += 1;
        self.words.next().ok_or_else(|| format!("it ends where {what} should be, at word {}", self.read))
    }

    fn number(&mut self, what: &str, most: u32) -> Result<u32, String> {
        let word = self.word(what)?;
        match word.parse() {
            Ok(number) if number <= most => Ok(number),
            _ => Err(format!("word {}, {what}, is {word:?} and should be 0 to {most}", self.read)),
        }
    }

    /// As many words as the number before them says.
    fn counted(&mut self, what: &str) -> Result<Vec<String>, String> {
        let count = self.number(what, LIMIT)?;
        self.some(what, count)
    }

    fn some(&mut self, what: &str, count: u32) -> Result<Vec<String>, String> {
        (0..count).map(|_| self.word(what).map(str::to_owned)).collect()
    }

    fn end(mut self) -> Result<(), String> {
        match self.words.next() {
            None => Ok(()),
            Some(word) => Err(format!("{word:?} and what follows it, after word {}, is too much", self.read)),
        }
    }
}

/// The kernel's own limit of groups, of paths and of arguments (dm-mpath.c, `_args`).
const LIMIT: u32 = 1024;

fn features(words: Vec<String>) -> Result<Features, String> {
    let mut features = Features::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next();
            let bad = || format!("{word} takes a number, not {:?}", value.as_deref().unwrap_or_default());
            value.as_deref().and_then(|v| v.parse::<u32>().ok()).ok_or_else(bad)
        };
        match word.as_str() {
            "queue_if_no_path" => features.queue_if_no_path = true,
            "retain_attached_hw_handler" => features.retain_attached_handler = true,
            "pg_init_retries" => features.init_retries = Some(number()?),
            "pg_init_delay_msecs" => features.init_delay = Some(Duration::from_millis(number()?.into())),
            "queue_mode" => {
                features.queue_mode = match words.next().as_deref() {
                    Some("bio") => QueueMode::Bios,
                    Some("rq" | "mq") => QueueMode::Requests,
                    Some(other) => QueueMode::Other(other.to_owned()),
                    None => return Err("queue_mode takes a word: bio or rq".to_owned()),
                }
            }
            _ => features.other.push(word),
        }
    }
    Ok(features)
}

impl Features {
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |some: &[&str]| words.extend(some.iter().map(|word| (*word).to_owned()));
        if self.queue_if_no_path {
            add(&["queue_if_no_path"]);
        }
        if let Some(retries) = self.init_retries {
            add(&["pg_init_retries", &retries.to_string()]);
        }
        if let Some(delay) = self.init_delay {
            add(&["pg_init_delay_msecs", &delay.as_millis().to_string()]);
        }
        if self.retain_attached_handler {
            add(&["retain_attached_hw_handler"]);
        }
        match &self.queue_mode {
            QueueMode::Requests => {}
            QueueMode::Bios => add(&["queue_mode", "bio"]),
            QueueMode::Other(mode) => add(&["queue_mode", mode]),
        }
        words.extend(self.other.iter().cloned());
        words
    }
}

/// As multipathd prints them: "1 `queue_if_no_path`".
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&counted(&self.words()))
    }
}

fn counted(words: &[String]) -> String {
    std::iter::once(words.len().to_string()).chain(words.iter().cloned()).collect::<Vec<_>>().join(" ")
}

impl FromStr for Table {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        table(text).map_err(|reason| ParseError::new("multipath table", text, reason))
    }
}

fn table(text: &str) -> Result<Table, String> {
    let mut words = Words::new(text);
    let features = features(words.counted("a feature")?)?;
    let handler = words.counted("the hardware handler")?;
    let count = words.number("the number of groups", LIMIT)?;
    let initial_group = words.number("the group to begin with", count)?;
    if (count == 0) != (initial_group == 0) {
        return Err(format!("there are {count} groups, and it begins with group {initial_group}"));
    }
    let groups = (0..count).map(|_| table_group(&mut words)).collect::<Result<_, _>>()?;
    words.end()?;
    Ok(Table { features, handler, initial_group, groups })
}

fn table_group(words: &mut Words<'_>) -> Result<TableGroup, String> {
    let name = words.word("a path selector")?;
    let selector = Selector::new(name, words.counted("an argument of the selector")?);
    let paths = words.number("the number of paths", LIMIT)?;
    let arguments = words.number("the number of arguments a path", LIMIT)?;
    if paths == 0 {
        return Err("a group has at least one path".to_owned());
    }
    let path = |_| {
        let device = words.word("a path")?;
        TablePath::parse(device, words.some("an argument of a path", arguments)?, &selector)
    };
    let paths = (0..paths).map(path).collect::<Result<_, _>>()?;
    Ok(TableGroup { selector, paths })
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} {}",
            self.features,
            counted(&self.handler),
            self.groups.len(),
            self.initial_group
        )?;
        for group in &self.groups {
            let arguments = group.paths.first().map_or(0, |path| path.arguments(&group.selector).len());
            write!(f, " {} {} {arguments}", group.selector, group.paths.len())?;
            for path in &group.paths {
                write!(f, " {}", path.device)?;
                path.arguments(&group.selector).iter().try_for_each(|argument| write!(f, " {argument}"))?;
            }
        }
        Ok(())
    }
}

/// A path in a status.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct StatusPath {
    /// Its number: "8:16".
    pub device: String,
    /// Whether the kernel uses it.
    pub state: PathState,
    /// How often it failed since the table was loaded.
    pub failures: u32,
    /// What the selector knows of it: of service-time the bytes under way and the relative throughput, of queue-length the I/Os under way.
    pub selector: Vec<String>,
}

/// A path group in a status.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct StatusGroup {
    /// Whether it takes I/O.
    pub state: GroupPhase,
    /// What the selector says of itself.
    pub selector: Vec<String>,
    /// Its paths.
    pub paths: Vec<StatusPath>,
}

/// The status of a multipath target, as in `dmsetup status`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Status {
    /// I/O is held while a group is initialised.
    pub holds_io: bool,
    /// Initialisations under way.
    pub initialising: u32,
    /// The group that is used next, from 1; 0 if there is none.
    pub next_group: u32,
    /// The groups, in the table's order.
    pub groups: Vec<StatusGroup>,
}

impl FromStr for Status {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        status(text).map_err(|reason| ParseError::new("multipath status", text, reason))
    }
}

fn status(text: &str) -> Result<Status, String> {
    let mut words = Words::new(text);
    let features = words.counted("a feature")?;
    words.counted("the hardware handler")?;
    let count = words.number("the number of groups", LIMIT)?;
    let next_group = words.number("the next group", count)?;
    let groups = (0..count).map(|_| status_group(&mut words)).collect::<Result<_, _>>()?;
    words.end()?;
    let feature = |n: usize| features.get(n).and_then(|f| f.parse::<u32>().ok()).unwrap_or_default();
    Ok(Status { holds_io: feature(0) != 0, initialising: feature(1), next_group, groups })
}

fn status_group(words: &mut Words<'_>) -> Result<StatusGroup, String> {
    let state = match words.word("the state of a group")? {
        "A" => GroupPhase::Active,
        "E" => GroupPhase::Enabled,
        "D" => GroupPhase::Disabled,
        other => GroupPhase::Other(other.to_owned()),
    };
    let selector = words.counted("what the selector says")?;
    let paths = words.number("the number of paths", LIMIT)?;
    let infos = words.number("the number of words a path", LIMIT)?;
    let path = |_| {
        let device = words.word("a path")?.to_owned();
        let state = match words.word("the state of a path")? {
            "A" => PathState::Active,
            "F" => PathState::Failed,
            other => PathState::Other(other.to_owned()),
        };
        let failures = words.number("how often a path failed", u32::MAX)?;
        let selector = words.some("what the selector says of a path", infos)?;
        Ok(StatusPath { device, state, failures, selector })
    };
    let paths = (0..paths).map(path).collect::<Result<_, String>>()?;
    Ok(StatusGroup { state, selector, paths })
}

/// As in `dmsetup status`; for fakes.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!(
            "2 {} {} 0 {} {}",
            u32::from(self.holds_io),
            self.initialising,
            self.groups.len(),
            self.next_group
        );
        for group in &self.groups {
            let state = match &group.state {
                GroupPhase::Active => "A",
                GroupPhase::Disabled => "D",
                GroupPhase::Other(word) => word,
                _ => "E",
            };
            let infos = group.paths.first().map_or(0, |path| path.selector.len());
            write!(text, " {state} {} {} {infos}", counted(&group.selector), group.paths.len())?;
            for path in &group.paths {
                let state = match &path.state {
                    PathState::Active => "A",
                    PathState::Other(word) => word,
                    _ => "F",
                };
                write!(text, " {} {state} {}", path.device, path.failures)?;
                path.selector.iter().try_for_each(|word| write!(text, " {word}"))?;
            }
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests;
