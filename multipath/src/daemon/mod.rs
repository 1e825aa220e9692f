//! multipathd's control socket: commands, answers, one kept connection.

mod command;
mod socket;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use host::Deadline;

pub use command::{Columns, Command, ReservationKey};
pub use socket::Address;

use crate::error::{Error, Result};
use crate::wire::reply::{DaemonState, DaemonStatus, Reply, Version};

/// What carries commands to multipathd.
pub(crate) trait Daemon: fmt::Debug + Send + Sync {
    /// Sends a command and returns the answer, whatever it says. A question may be sent twice if the connection broke.
    fn ask(&self, command: &str, deadline: Deadline) -> io::Result<String>;
}

/// How long the daemon is left alone after it said that it is busy.
const AGAIN: Duration = Duration::from_millis(50);

/// A client of multipathd. Clones share one connection, which is made at the first command and kept; commands of several threads take turns.
///
/// It speaks to all versions from 0.9.4 on. Nothing is forked: one question on the open connection costs some 60 us, `multipathd show` 2 ms.
#[derive(Debug, Clone)]
pub struct Client(Arc<dyn Daemon>);

impl Client {
    /// The daemon of this machine: at `$MULTIPATH_SOCKET_NAME` if that is set, else at `/run/multipathd.socket` (since 0.12), else at the
    /// abstract name of all versions.
    #[must_use]
    pub fn live() -> Self {
        Self(Arc::new(socket::Live::new(Address::usual())))
    }

    /// The daemon at one address: in a container, the path that the machine's socket is mounted at.
    #[must_use]
    pub fn at(address: Address) -> Self {
        Self(Arc::new(socket::Live::new(vec![address])))
    }

    #[cfg(feature = "fake")]
    pub(crate) fn of(daemon: impl Daemon + 'static) -> Self {
        Self(Arc::new(daemon))
    }

    /// Says a command and returns what the daemon makes of it, refusals too. While it answers "timeout" (it was busy for 4 s and did
    /// nothing) the command is repeated, until the deadline.
    ///
    /// # Errors
    /// [`Error::NoDaemon`], [`Error::Connection`], [`Error::TimedOut`]. [`Error::Invalid`] if the command has more than 511 bytes.
    pub fn run(&self, command: &Command, deadline: Deadline) -> Result<Reply> {
        let text = command.to_string();
        loop {
            let reply = Reply::parse(&self.ask(&text, deadline)?);
            if reply != Reply::Timeout || !deadline.pause(AGAIN) {
                if !command.is_question() {
                    log::debug!("multipathd {text}: {reply}");
                }
                return Ok(reply);
            }
        }
    }

    /// Says a command that changes something and expects it done. `Delayed` and `RemovedAnyway` are answers, not errors.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Daemon`] if it is refused.
    pub fn expect(&self, command: &Command, deadline: Deadline) -> Result<Reply> {
        match self.run(command, deadline)? {
            reply if reply.is_done() => Ok(reply),
            reply => Err(Error::Daemon { command: command.to_string(), reply }),
        }
    }

    /// Asks a question and returns the text; empty if the list is empty (for which the daemon says `ok`).
    ///
    /// # Errors
    /// As [`expect`](Self::expect).
    pub fn text(&self, question: &Command, deadline: Deadline) -> Result<String> {
        match self.run(question, deadline)? {
            Reply::Text(text) => Ok(text),
            Reply::Ok => Ok(String::new()),
            reply => Err(Error::Daemon { command: question.to_string(), reply }),
        }
    }

    /// The daemon's version, by a command it cannot know: it answers with its help text, to everybody. `multipath -h`.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Answer`].
    pub fn version(&self, deadline: Deadline) -> Result<Version> {
        const NONSENSE: &str = "z";
        match Reply::parse(&self.ask(NONSENSE, deadline)?) {
            Reply::Unknown(Some(version)) => Ok(version),
            other => Err(Error::Answer {
                command: NONSENSE.to_owned(),
                reason: format!("a help text with a version was expected, not {:?}", other.to_string()),
            }),
        }
    }

    /// What the daemon is doing; `show daemon`.
    ///
    /// # Errors
    /// As [`text`](Self::text), and [`Error::Answer`].
    pub fn state(&self, deadline: Deadline) -> Result<DaemonState> {
        let text = self.text(&Command::ShowDaemon, deadline)?;
        DaemonState::parse(&text).ok_or_else(|| unreadable(&Command::ShowDaemon, &text))
    }

    /// How many paths the daemon has, and whether it is up to date; `show status`.
    ///
    /// # Errors
    /// As [`text`](Self::text), and [`Error::Answer`].
    pub fn status(&self, deadline: Deadline) -> Result<DaemonStatus> {
        let text = self.text(&Command::ShowStatus, deadline)?;
        DaemonStatus::parse(&text).ok_or_else(|| unreadable(&Command::ShowStatus, &text))
    }

    /// The reservation key of a map; `getprkey map`.
    ///
    /// # Errors
    /// As [`text`](Self::text), and [`Error::Answer`].
    pub fn reservation_key(
        &self,
        map: &crate::MapName,
        deadline: Deadline,
    ) -> Result<Option<ReservationKey>> {
        let question = Command::ShowReservationKey(map.clone());
        let text = self.text(&question, deadline)?;
        match (ReservationKey::parse(&text), text.trim()) {
            (None, "none" | "") => Ok(None),
            (None, _) => Err(unreadable(&question, &text)),
            (key, _) => Ok(key),
        }
    }

    /// Sends any text and returns the answer, whatever it says.
    pub(crate) fn ask(&self, command: &str, deadline: Deadline) -> Result<String> {
        if command.len() >= command::MAX_COMMAND {
            let reason = format!("a command has at most 511 bytes, not {}; give less", command.len());
            return Err(Error::Invalid { object: command.to_owned(), reason });
        }
        self.0.ask(command, deadline).map_err(|source| match source.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Error::NoDaemon(source),
            io::ErrorKind::TimedOut => Error::TimedOut {
                what: format!("multipathd's answer to {command:?}"),
                seen: "it accepts the command and says nothing: a path may hang".to_owned(),
            },
            _ => Error::Connection { command: command.to_owned(), source },
        })
    }

    /// Asks for a change and expects "ok".
    pub(crate) fn order(&self, command: &str, deadline: Deadline) -> Result<()> {
        match Reply::parse(&self.ask(command, deadline)?) {
            Reply::Ok => Ok(()),
            reply => Err(Error::Daemon { command: command.to_owned(), reply }),
        }
    }
}

fn unreadable(command: &Command, text: &str) -> Error {
    let begin: String = text.chars().take(60).collect();
    Error::Answer { command: command.to_string(), reason: format!("it begins with {begin:?}") }
}
