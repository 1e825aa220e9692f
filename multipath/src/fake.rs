//! A multipathd in memory: answers what it is told to, for tests without one.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host::Deadline;

use crate::Multipath;
use crate::daemon::{Client, Daemon};
pub use crate::discovery::fake::{FakeTarget, Fault, discover_from};

#[derive(Debug, Default)]
struct Inner {
    answers: BTreeMap<String, String>,
    asked: Vec<String>,
    dead: bool,
}

/// A scripted multipathd; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct FakeMultipathd(Arc<Mutex<Inner>>);

impl FakeMultipathd {
    /// A daemon without maps that answers everything else with "ok".
    #[must_use]
    pub fn new() -> Self {
        Self::default().with_answer(
            "show maps json",
            "{\n   \"major_version\": 0,\n   \"minor_version\": 1,\n   \"maps\": []\n}\n",
        )
    }

    /// Sets the answer to a command.
    #[must_use]
    pub fn with_answer(self, command: &str, answer: &str) -> Self {
        self.lock().answers.insert(command.to_owned(), answer.to_owned());
        self
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

    /// The maps of this daemon.
    #[must_use]
    pub fn multipath(&self) -> Multipath {
        Multipath { client: Client::of(self.clone()), timeout: Duration::from_secs(1) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Daemon for FakeMultipathd {
    fn ask(&self, command: &str, _: Deadline) -> io::Result<String> {
        let mut inner = self.lock();
        if inner.dead {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        inner.asked.push(command.to_owned());
        Ok(inner.answers.get(command).cloned().unwrap_or_else(|| "ok\n".to_owned()))
    }
}
