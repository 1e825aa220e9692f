//! The socket: native length, text, NUL, in one send each way (`libmpathcmd/mpath_cmd.c`).

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use host::{Deadline, ParseError};

use super::Daemon;

/// What libmpathcmd accepts too.
const MAX_REPLY: usize = 32 << 20;
/// How much memory an answer gets before its bytes are there: the length is what the other side says it is.
const STEP: usize = 1 << 20;

/// Where multipathd listens.
///
/// Written as in `MULTIPATH_SOCKET_NAME`: a path, or `@` and an abstract name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A socket in the file system; can be mounted into a container.
    Path(PathBuf),
    /// An abstract name, in the network namespace of the daemon.
    Abstract(String),
}

impl Address {
    /// Where all versions listen.
    const ABSTRACT: &str = "/org/kernel/linux/storage/multipathd";
    /// Where versions since 0.12 listen as well.
    const PATH: &str = "/run/multipathd.socket";

    /// Where the daemon of this machine may be, in the order to try (`libmpathcmd/mpath_fill_sockaddr.c`).
    pub(crate) fn usual() -> Vec<Self> {
        Self::of_environment(std::env::var_os("MULTIPATH_SOCKET_NAME"))
    }

    fn of_environment(name: Option<OsString>) -> Vec<Self> {
        match name.filter(|name| !name.is_empty()) {
            Some(name) => vec![match name.to_str() {
                Some(text) => Self::of(text),
                None => Self::Path(PathBuf::from(OsString::from_vec(name.into_vec()))),
            }],
            None => vec![Self::Path(Self::PATH.into()), Self::Abstract(Self::ABSTRACT.to_owned())],
        }
    }

    fn of(text: &str) -> Self {
        match text.strip_prefix('@') {
            Some(name) => Self::Abstract(name.to_owned()),
            None => Self::Path(text.into()),
        }
    }

    /// The address for the system's calls.
    pub(crate) fn resolve(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Path(path) => SocketAddr::from_pathname(path),
            Self::Abstract(name) => SocketAddr::from_abstract_name(name),
        }
    }
}

impl FromStr for Address {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| Err(ParseError::new("socket of multipathd", text, reason));
        match text {
            "" | "@" => bad("it is empty"),
            // sun_path has 108 bytes, one of them for the NUL or the mark of an abstract name.
            _ if text.len() > 107 => bad("at most 107 bytes"),
            _ if text.contains('\0') => bad("no NUL"),
            _ if !text.starts_with(['/', '@']) => bad("a path from the root, or @ and an abstract name"),
            _ => Ok(Self::of(text)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// The running multipathd, over one kept connection.
#[derive(Debug)]
pub(super) struct Live {
    addresses: Vec<Address>,
    kept: Mutex<Option<UnixStream>>,
}

impl Live {
    pub(super) fn new(addresses: Vec<Address>) -> Self {
        Self { addresses, kept: Mutex::new(None) }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let mut last = io::Error::from(ErrorKind::NotFound);
        for address in &self.addresses {
            match UnixStream::connect_addr(&address.resolve()?) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Where a conversation broke off.
enum Broken {
    /// The command has not gone out: it was not carried out.
    Sending(io::Error),
    /// The command went out; whether it was carried out nobody knows.
    Receiving(io::Error),
}

impl Broken {
    fn error(self) -> io::Error {
        match self {
            Self::Sending(error) | Self::Receiving(error) => error,
        }
    }
}

/// Sets how long the next system call may take; an error if the time is over.
fn limit(stream: &UnixStream, deadline: Deadline) -> io::Result<()> {
    let left = deadline.left();
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    let left = Some(left.max(Duration::from_millis(1)));
    stream.set_write_timeout(left)?;
    stream.set_read_timeout(left)
}

/// What the system calls "try again" is the end of the time here.
fn timed(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}

/// Reads exactly `length` bytes, however slowly they come, until the deadline.
fn read(stream: &mut UnixStream, length: usize, deadline: Deadline) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length.min(STEP)];
    let mut filled = 0;
    while filled < length {
        if filled == buffer.len() {
            buffer.resize(length.min(2 * filled), 0);
        }
        limit(stream, deadline)?;
        match stream.read(buffer.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(got) => filled += got,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(timed(error)),
        }
    }
    Ok(buffer)
}

fn converse(stream: &mut UnixStream, command: &str, deadline: Deadline) -> Result<String, Broken> {
    // One send: the daemon drops a connection whose length comes in two.
    let mut message = (command.len() + 1).to_ne_bytes().to_vec();
    message.extend(command.as_bytes());
    message.push(0);
    limit(stream, deadline).map_err(Broken::Sending)?;
    stream.write_all(&message).map_err(|error| Broken::Sending(timed(error)))?;
    receive(stream, deadline).map_err(Broken::Receiving)
}

fn receive(stream: &mut UnixStream, deadline: Deadline) -> io::Result<String> {
    let length = read(stream, size_of::<usize>(), deadline)?;
    let length = length.try_into().map(usize::from_ne_bytes).unwrap_or_default();
    if length == 0 || length >= MAX_REPLY {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("an answer of {length} bytes")));
    }
    let mut reply = read(stream, length, deadline)?;
    reply.pop();
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

/// Whether the other side has closed the connection.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof)
}

impl Daemon for Live {
    fn ask(&self, command: &str, deadline: Deadline) -> io::Result<String> {
        // Held for a moment only: a thread that finds the connection in use makes its own instead of waiting.
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = kept().take();
        if let Some(mut stream) = stream {
            match converse(&mut stream, command, deadline) {
                Ok(reply) => {
                    *kept() = Some(stream);
                    return Ok(reply);
                }
                // A kept connection dies with the daemon; a restarted one has another. A change is repeated only if the old daemon cannot
                // have seen it.
                Err(Broken::Sending(error)) if is_gone(&error) => {}
                Err(Broken::Receiving(error)) if is_gone(&error) && command.starts_with("show ") => {}
                Err(broken) => return Err(broken.error()),
            }
        }
        let mut stream = self.connect()?;
        let reply = converse(&mut stream, command, deadline).map_err(Broken::error)?;
        *kept() = Some(stream);
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_daemons_own_tools() {
        let of = |name: &str| Address::of_environment(Some(name.into()));
        assert_eq!(of("@x"), [Address::Abstract("x".to_owned())]);
        assert_eq!(of("/mnt/socket"), [Address::Path("/mnt/socket".into())]);
        let usual: Vec<_> = of("").iter().map(ToString::to_string).collect();
        assert_eq!(usual, ["/run/multipathd.socket", "@/org/kernel/linux/storage/multipathd"]);
        assert_eq!(Address::of_environment(None), of(""));
        for bad in ["", "@", "socket", &format!("/{}", "x".repeat(107))] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
        assert_eq!("@y".parse::<Address>().expect("an address"), Address::Abstract("y".to_owned()));
    }
}
