//! What `drbd-watch` shows: resources with their disks, connections and resyncs, and the last events. Text only, no terminal needed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::time::{Duration, Instant};

use drbd::{
    Bytes, ConnState, ConnectionState, DiskState, Event, PeerVolumeState, Phase, Progress, ReplState,
    ResourceState, Role, VolumeState,
};

/// How many events are kept for the screen.
const EVENTS: usize = 200;
/// The time over which a rate is measured.
const WINDOW: Duration = Duration::from_secs(10);

/// Colours of a terminal; without them the text is plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// None.
    Plain,
    /// ANSI.
    Colour,
}

impl Style {
    fn paint(self, code: u8, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    fn good(self, text: &str) -> String {
        self.paint(32, text)
    }

    fn worth_a_look(self, text: &str) -> String {
        self.paint(33, text)
    }

    fn bad(self, text: &str) -> String {
        self.paint(31, text)
    }

    fn dim(self, text: &str) -> String {
        self.paint(2, text)
    }
}

type Key = (String, String, u16);

/// The picture: states as they were told last, events, and what is needed to measure speeds.
#[derive(Debug, Default)]
pub struct View {
    states: BTreeMap<String, ResourceState>,
    events: VecDeque<String>,
    seen: BTreeMap<Key, VecDeque<(Instant, u64)>>,
}

impl View {
    /// Takes the states as they are, with progress.
    pub fn look(&mut self, states: Vec<ResourceState>, now: Instant) {
        self.states = states.into_iter().map(|state| (state.name.to_string(), state)).collect();
        let mut going = Vec::new();
        for state in self.states.values() {
            for (connection, volume) in peers(state) {
                let Some(progress) = volume.resync.or(volume.verify) else { continue };
                let key = key(state, connection, volume);
                let seen = self.seen.entry(key.clone()).or_default();
                while seen.len() > 1 && seen.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
                    seen.pop_front();
                }
                seen.push_back((now, progress.left.0));
                going.push(key);
            }
        }
        self.seen.retain(|key, _| going.contains(key));
    }

    /// Takes an event, told at a time of the day.
    pub fn take(&mut self, event: &Event, time: &str) {
        for text in describe(event) {
            self.events.push_front(format!("{time} {text}"));
        }
        self.events.truncate(EVENTS);
        match event {
            Event::Snapshot(states) => {
                self.states = states.iter().map(|state| (state.name.to_string(), state.clone())).collect();
            }
            Event::Created(state) => {
                self.states.insert(state.name.to_string(), (**state).clone());
            }
            Event::Changed { new, .. } => {
                self.states.insert(new.name.to_string(), (**new).clone());
            }
            Event::Removed(state) => {
                self.states.remove(state.name.as_str());
            }
            _ => {}
        }
    }

    /// Whether something goes on that events do not tell: a resync or a verify.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        let mut all = self.states.values().flat_map(peers);
        all.any(|(_, volume)| volume.repl.is_syncing() || volume.repl.is_verifying())
    }

    /// The screen: `width` columns, at most `height` lines.
    #[must_use]
    pub fn render(&self, width: usize, height: usize, style: Style) -> String {
        let mut lines = Vec::new();
        if self.states.is_empty() {
            lines.push("no resources".to_owned());
        }
        for state in self.states.values() {
            self.resource(state, width, style, &mut lines);
        }
        let room = height.saturating_sub(lines.len() + 1);
        if room > 0 && !self.events.is_empty() {
            lines.push(style.dim(&"-".repeat(width.min(40))));
            lines.extend(self.events.iter().take(room.saturating_sub(1)).map(|event| cut(event, width)));
        }
        lines.truncate(height.max(1));
        lines.iter().fold(String::new(), |mut out, line| {
            out.push_str(line.trim_end());
            out.push('\n');
            out
        })
    }

    fn resource(&self, state: &ResourceState, width: usize, style: Style, lines: &mut Vec<String>) {
        let role = match state.role {
            Role::Primary => style.good("Primary"),
            other => other.to_string(),
        };
        let mut line = format!("{}  {role}", style.paint(1, state.name.as_str()));
        if state.suspended.any() {
            line.push_str(&style.bad("  I/O suspended"));
        }
        lines.push(line);
        for volume in &state.volumes {
            lines.push(own_volume(volume, style));
        }
        if state.connections.is_empty() {
            lines.push(format!("  {}", style.bad("StandAlone")));
        }
        for connection in &state.connections {
            let name = connection.peer_name.clone().unwrap_or_else(|| connection.peer.to_string());
            let conn = match connection.state {
                ConnState::Connected => style.good("Connected"),
                ConnState::StandAlone => style.bad("StandAlone"),
                other => style.worth_a_look(&other.to_string()),
            };
            lines.push(format!("  -> {name}  {conn}  {}", connection.peer_role));
            for volume in &connection.volumes {
                self.peer_volume(state, connection, volume, width, style, lines);
            }
        }
    }

    fn peer_volume(
        &self,
        state: &ResourceState,
        connection: &ConnectionState,
        volume: &PeerVolumeState,
        width: usize,
        style: Style,
        lines: &mut Vec<String>,
    ) {
        let repl = match volume.repl {
            ReplState::Established => String::new(),
            other => format!("  {}", style.worth_a_look(&other.to_string())),
        };
        let out = match volume.out_of_sync.0 {
            0 => String::new(),
            sectors => format!("  {} differ", amount(Bytes(sectors.saturating_mul(512)))),
        };
        let pause = if volume.paused.user || volume.paused.peer || volume.paused.dependency {
            "  paused"
        } else {
            ""
        };
        lines.push(format!("     {}: {}{repl}{out}{pause}", volume.volume, disk(volume.peer_disk, style)));
        if let Some(progress) = volume.resync.or(volume.verify) {
            let progress = self.measured(&key(state, connection, volume), progress);
            lines.push(format!("        {}", bar(&progress, width.saturating_sub(8), style)));
        }
    }

    /// With the rate and the time left that two looks say, where the kernel does not.
    fn measured(&self, key: &Key, progress: Progress) -> Progress {
        if progress.rate.is_some() {
            return progress;
        }
        let Some(seen) = self.seen.get(key) else { return progress };
        let (Some((first, before)), Some((last, now))) = (seen.front(), seen.back()) else { return progress };
        let millis = u64::try_from(last.duration_since(*first).as_millis()).unwrap_or(u64::MAX);
        let done = before.checked_sub(*now).filter(|done| *done > 0 && millis > 0);
        let rate = done.map(|done| Bytes(done.saturating_mul(1000) / millis.max(1)));
        let eta =
            rate.filter(|rate| rate.0 > 0).map(|rate| Duration::from_secs(progress.left.0.div_ceil(rate.0)));
        let mut measured = progress;
        measured.rate = rate;
        measured.eta = eta;
        measured
    }
}

fn peers(state: &ResourceState) -> impl Iterator<Item = (&ConnectionState, &PeerVolumeState)> {
    state
        .connections
        .iter()
        .flat_map(|connection| connection.volumes.iter().map(move |volume| (connection, volume)))
}

fn key(state: &ResourceState, connection: &ConnectionState, volume: &PeerVolumeState) -> Key {
    (state.name.to_string(), connection.peer.to_string(), volume.volume.0)
}

fn own_volume(volume: &VolumeState, style: Style) -> String {
    let path = volume.disk_path.as_ref().map_or_else(String::new, |path| format!("  {}", path.display()));
    let size = amount(Bytes(volume.size.0.saturating_mul(512)));
    format!(
        "  {}: {}  {}  {size}{path}",
        volume.volume,
        volume.minor.path().display(),
        disk(volume.disk, style)
    )
}

fn disk(state: DiskState, style: Style) -> String {
    let text = state.to_string();
    match state {
        DiskState::UpToDate => style.good(&text),
        DiskState::Inconsistent | DiskState::Outdated | DiskState::Failed => style.bad(&text),
        _ => style.worth_a_look(&text),
    }
}

/// `[#####.....] 48.3 %  1.2 GiB left  110.0 MiB/s  0:00:11`
fn bar(progress: &Progress, width: usize, style: Style) -> String {
    let mut text = format!("{:5.1} %  {} left", progress.done * 100.0, amount(progress.left));
    if let Some(rate) = progress.rate {
        let _ = write!(text, "  {}/s", amount(rate));
    }
    if let Some(eta) = progress.eta {
        let seconds = eta.as_secs();
        let _ = write!(text, "  {}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    }
    let cells = width.saturating_sub(text.len() + 4).min(40);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    // At most 40.
    let full = ((progress.done.clamp(0.0, 1.0) * cells as f64) as usize).min(cells);
    format!("[{}{}] {text}", style.good(&"#".repeat(full)), ".".repeat(cells - full))
}

/// `1.2 GiB`
fn amount(bytes: Bytes) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes.0, 0);
    let mut rest = 0;
    while value >= 1024 && unit + 1 < UNITS.len() {
        rest = value % 1024;
        value /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{value} {name}") } else { format!("{value}.{} {name}", rest * 10 / 1024) }
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// An event in words, one line for each thing that changed.
#[must_use]
pub fn describe(event: &Event) -> Vec<String> {
    match event {
        Event::Snapshot(states) => vec![format!("watching {} resource(s)", states.len())],
        Event::Created(state) => vec![format!("{}: made", state.name)],
        Event::Removed(state) => vec![format!("{}: taken down", state.name)],
        Event::Changed { old, new } => changes(old, new),
        Event::Helper(helper) => match helper.phase {
            Phase::Call => vec![format!("{}: the kernel calls {}", helper.resource, helper.name)],
            Phase::Response(0xffff_fffe) => {
                vec![format!("{}: {} is not there", helper.resource, helper.name)]
            }
            Phase::Response(status) => {
                vec![format!("{}: {} ended with {}", helper.resource, helper.name, status >> 8)]
            }
            _ => vec![format!("{}: {}", helper.resource, helper.name)],
        },
        Event::SplitBrain(split) => {
            vec![format!("{}: SPLIT BRAIN, the connection is dropped", split.resource)]
        }
        Event::Resynchronised => vec!["events were lost; the state was read again".to_owned()],
        Event::ModuleUnloaded => vec!["the module was unloaded".to_owned()],
        other => vec![format!("{other:?}")],
    }
}

fn changes(old: &ResourceState, new: &ResourceState) -> Vec<String> {
    let name = &new.name;
    let mut out = Vec::new();
    let mut say = |what: String, from: String, to: String| {
        if from != to {
            out.push(format!("{name}: {what} {from} -> {to}"));
        }
    };
    say("role".to_owned(), old.role.to_string(), new.role.to_string());
    say("I/O".to_owned(), io(old).to_owned(), io(new).to_owned());
    for volume in &new.volumes {
        let before = old.volume(volume.volume).map_or_else(|| "none".to_owned(), |v| v.disk.to_string());
        say(format!("disk {}", volume.volume), before, volume.disk.to_string());
    }
    let find = |state: &ResourceState, like: &ConnectionState| -> Option<ConnectionState> {
        state.connections.iter().find(|c| (c.node_id, c.peer) == (like.node_id, like.peer)).cloned()
    };
    for connection in old.connections.iter().filter(|c| find(new, c).is_none()) {
        say(format!("connection to {}", connection.peer), connection.state.to_string(), "gone".to_owned());
    }
    for connection in &new.connections {
        let before = find(old, connection);
        let peer = connection.peer;
        let conn = before.as_ref().map_or_else(|| "none".to_owned(), |c| c.state.to_string());
        say(format!("connection to {peer}"), conn, connection.state.to_string());
        let role = before.as_ref().map_or_else(|| Role::Unknown.to_string(), |c| c.peer_role.to_string());
        say(format!("role of {peer}"), role, connection.peer_role.to_string());
        for volume in &connection.volumes {
            let was = before.as_ref().and_then(|c| c.volumes.iter().find(|v| v.volume == volume.volume));
            let words = |f: &dyn Fn(&PeerVolumeState) -> String| was.map_or_else(|| "none".to_owned(), f);
            let number = volume.volume;
            say(format!("replication {number}"), words(&|v| v.repl.to_string()), volume.repl.to_string());
            say(
                format!("peer disk {number}"),
                words(&|v| v.peer_disk.to_string()),
                volume.peer_disk.to_string(),
            );
        }
    }
    out
}

fn io(state: &ResourceState) -> &'static str {
    if state.suspended.any() { "suspended" } else { "running" }
}
