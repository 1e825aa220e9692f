//! multipathd's control socket.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use host::Deadline;

use crate::error::{Error, Result};

/// What carries commands to multipathd.
pub(crate) trait Daemon: fmt::Debug + Send + Sync {
    fn ask(&self, command: &str, deadline: Deadline) -> io::Result<String>;
}

/// The longest command, with its NUL (`MAX_CMD_LEN`).
const MAX_COMMAND: usize = 512;
/// What libmpathcmd accepts too.
const MAX_REPLY: usize = 32 << 20;

/// The running multipathd, over one kept connection.
#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<Option<UnixStream>>);

fn connect() -> io::Result<UnixStream> {
    // Since 0.12 there is a path, which can be seen from a container; before, only the abstract name.
    if let Ok(stream) = UnixStream::connect("/run/multipathd.socket") {
        return Ok(stream);
    }
    UnixStream::connect_addr(&SocketAddr::from_abstract_name("/org/kernel/linux/storage/multipathd")?)
}

/// One command and its reply: native length, text, NUL, in one send each way (libmpathcmd).
fn converse(stream: &mut UnixStream, command: &str, deadline: Deadline) -> io::Result<String> {
    let mut text = command.as_bytes().to_vec();
    text.push(0);
    if text.len() > MAX_COMMAND {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a command has at most 511 bytes"));
    }
    let mut message = text.len().to_ne_bytes().to_vec();
    message.extend(text);
    let left = Some(deadline.left().max(Duration::from_millis(1)));
    stream.set_write_timeout(left)?;
    stream.set_read_timeout(left)?;
    stream.write_all(&message)?;
    let mut length = [0; size_of::<usize>()];
    stream.read_exact(&mut length)?;
    let length = usize::from_ne_bytes(length);
    if length == 0 || length >= MAX_REPLY {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a reply of {length} bytes")));
    }
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply)?;
    reply.pop();
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

impl Daemon for Live {
    fn ask(&self, command: &str, deadline: Deadline) -> io::Result<String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = kept.is_none();
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => connect()?,
        };
        match converse(&mut stream, command, deadline) {
            Ok(reply) => {
                *kept = Some(stream);
                Ok(reply)
            }
            // A kept connection dies with the daemon; a restarted one has another.
            Err(_) if !fresh => {
                let mut stream = connect()?;
                let reply = converse(&mut stream, command, deadline)?;
                *kept = Some(stream);
                Ok(reply)
            }
            Err(error) => Err(error),
        }
    }
}

/// A client of multipathd; clones share a connection.
#[derive(Debug, Clone)]
pub(crate) struct Client(Arc<dyn Daemon>);

impl Client {
    pub(crate) fn live() -> Self {
        Self(Arc::new(Live::default()))
    }

    #[cfg(feature = "fake")]
    pub(crate) fn of(daemon: impl Daemon + 'static) -> Self {
        Self(Arc::new(daemon))
    }

    /// Asks and returns the answer, whatever it says.
    pub(crate) fn ask(&self, command: &str, deadline: Deadline) -> Result<String> {
        self.0.ask(command, deadline).map_err(Error::NoDaemon)
    }

    /// Asks for a change and expects "ok".
    pub(crate) fn order(&self, command: &str, deadline: Deadline) -> Result<()> {
        let answer = self.ask(command, deadline)?;
        match answer.trim() {
            "ok" => Ok(()),
            other => Err(Error::Daemon { command: command.to_owned(), answer: other.replace('\n', " ") }),
        }
    }
}
