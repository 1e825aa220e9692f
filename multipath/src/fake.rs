//! A multipathd in memory, for tests without one: it has maps, carries out what it is told, answers as the generation one chooses, and can be
//! made to misbehave. Asked directly ([`FakeMultipathd::multipath`]) or over a real socket ([`FakeMultipathd::serve`]).
//!
//! ```
//! use multipath::fake::FakeMultipathd;
//! use multipath::{GroupPhase, GroupState, MapState, PathInfo, PathState};
//! let paths = [PathInfo::new("sdb", "8:16", PathState::Active), PathInfo::new("sdc", "8:32", PathState::Active)];
//! let group = GroupState::new(GroupPhase::Active, 50, "service-time 0", paths);
//! let daemon = FakeMultipathd::new().with_map(MapState::new("mpatha", "36001405aa", "dm-0").with_group(group));
//! let multipath = daemon.multipath();
//! multipath.fail_path(&"sdb".parse()?)?;
//! assert_eq!(multipath.list()?.first().map(MapState::working), Some(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
mod mapper;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host::Deadline;

use crate::daemon::{Client, Daemon};
pub use crate::discovery::fake::{FakeTarget, Fault, discover_from};
use crate::{MapState, Multipath};

pub use mapper::{FakeMapper, Faults};
pub use server::FakeServer;

/// How old the daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Generation {
    /// 0.9.4, of Debian 12: a failure is the one word `fail`, or a text without it; a map is found by alias or `dm-N` only.
    #[default]
    V0_9_4,
    /// 0.14: every failure begins with `fail`, busy and not found are told, WWIDs name maps.
    V0_14,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Asker {
    /// Root: may do all.
    #[default]
    Root,
    /// Anybody else: may only ask.
    Other,
}

/// What goes wrong with one command.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mishap {
    /// The daemon is busy and says "timeout", this many times.
    Timeout(u32),
    /// The connection is closed instead of an answer, once.
    Cut,
    /// The answer comes this much later.
    Late(Duration),
    /// The answer stops after its length, and nothing follows.
    Half,
}

#[derive(Debug, Default)]
struct Inner {
    answers: BTreeMap<String, String>,
    asked: Vec<String>,
    dead: bool,
    generation: Generation,
    asker: Asker,
    maps: Vec<MapState>,
    /// Queueing as configured, while it is disabled.
    configured: BTreeMap<String, crate::Queueing>,
    held: BTreeSet<String>,
    blacklist: BTreeSet<String>,
    mishaps: BTreeMap<String, Mishap>,
}

/// A multipathd in memory; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct FakeMultipathd(Arc<Mutex<Inner>>);

impl FakeMultipathd {
    /// A daemon of the oldest generation without maps. What it knows no better answer to it answers with "ok".
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes it answer as this generation does.
    #[must_use]
    pub fn with_generation(self, generation: Generation) -> Self {
        self.lock().generation = generation;
        self
    }

    /// Makes the asker somebody else.
    #[must_use]
    pub fn with_asker(self, asker: Asker) -> Self {
        self.lock().asker = asker;
        self
    }

    /// Gives it a map, which commands change.
    #[must_use]
    pub fn with_map(self, map: MapState) -> Self {
        self.lock().maps.push(map);
        self
    }

    /// Sets the answer to a command, whatever it would be else.
    #[must_use]
    pub fn with_answer(self, command: &str, answer: &str) -> Self {
        self.lock().answers.insert(command.to_owned(), answer.to_owned());
        self
    }

    /// Makes a command go wrong.
    #[must_use]
    pub fn with_mishap(self, command: &str, mishap: Mishap) -> Self {
        self.lock().mishaps.insert(command.to_owned(), mishap);
        self
    }

    /// Excludes a path or map, as the configuration's `blacklist` does.
    #[must_use]
    pub fn with_blacklisted(self, device: &str) -> Self {
        self.lock().blacklist.insert(device.to_owned());
        self
    }

    /// Somebody opens a map: it cannot be removed.
    pub fn hold(&self, map: &str) {
        self.lock().held.insert(map.to_owned());
    }

    /// The map is closed again.
    pub fn release(&self, map: &str) {
        self.lock().held.remove(map);
    }

    /// Changes its maps behind its back, as the kernel does.
    pub fn edit(&self, change: impl FnOnce(&mut Vec<MapState>)) {
        change(&mut self.lock().maps);
    }

    /// Ends the daemon: every question is refused from now on.
    pub fn die(&self) {
        self.lock().dead = true;
    }

    /// What it was asked, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.lock().asked.clone()
    }

    /// The maps of this daemon, asked without a socket.
    #[must_use]
    pub fn multipath(&self) -> Multipath {
        Multipath { client: Client::of(self.clone()), timeout: Duration::from_secs(1) }
    }

    /// Serves on a socket of its own, under an abstract name nobody else has, until the returned value is dropped.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn serve(&self) -> io::Result<FakeServer> {
        FakeServer::start(self.clone(), server::unused())
    }

    /// Serves at an address: a path or an abstract name.
    ///
    /// # Errors
    /// The socket cannot be made: its name is in use, or its directory is not there.
    pub fn serve_at(&self, address: crate::daemon::Address) -> io::Result<FakeServer> {
        FakeServer::start(self.clone(), address)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Daemon for FakeMultipathd {
    fn ask(&self, command: &str, _: Deadline) -> io::Result<String> {
        let mut inner = self.lock();
        match inner.dead {
            true => Err(io::ErrorKind::ConnectionRefused.into()),
            false => Ok(inner.answer(command)),
        }
    }
}
