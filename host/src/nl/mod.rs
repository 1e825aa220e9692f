//! One synchronous netlink socket: deadlines, extended acknowledgements, dumps that are repeated when the kernel says they were torn.
//!
//! A message is built with [`Message`], sent with [`Socket::request`] (an acknowledgement is awaited), [`Socket::ask`] (an answer) or
//! [`Socket::dump`] (many), and taken apart with [`attributes`]. [`genl`] resolves generic netlink families.

#[cfg(feature = "fake")]
pub mod fake;
pub mod genl;
mod message;
mod socket;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use crate::Deadline;
use crate::sys;

pub use message::{Attribute, Attributes, Message, Reply, attributes};
pub use socket::{Error, Socket};

/// The flag `NLA_F_NESTED`: the attribute holds attributes. Generic netlink policies refuse a nest without it.
pub const NESTED: u16 = 0x8000;

/// Flags of a request (linux/netlink.h).
pub mod flags {
    /// It is a request.
    pub const REQUEST: u16 = 0x1;
    /// The message is one of several.
    pub const MULTI: u16 = 0x2;
    /// Acknowledge it.
    pub const ACK: u16 = 0x4;
    /// Show the result of the change to the sender.
    pub const ECHO: u16 = 0x8;
    /// The dump was torn by a change; repeat it.
    pub const DUMP_INTR: u16 = 0x10;
    /// Return the whole table.
    pub const DUMP: u16 = 0x300;
    /// Replace what is there.
    pub const REPLACE: u16 = 0x100;
    /// Fail if it is there.
    pub const EXCL: u16 = 0x200;
    /// Make it if it is not there.
    pub const CREATE: u16 = 0x400;
    /// Add at the end.
    pub const APPEND: u16 = 0x800;
}

/// A netlink protocol (linux/netlink.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// Links, addresses, routes.
    Route,
    /// Sockets.
    SockDiag,
    /// The iSCSI initiator's events.
    Iscsi,
    /// Kernel uevents.
    KobjectUevent,
    /// Generic netlink.
    Generic,
}

impl Protocol {
    fn number(self) -> i32 {
        match self {
            Self::Route => 0,
            Self::SockDiag => 4,
            Self::Iscsi => 8,
            Self::KobjectUevent => 15,
            Self::Generic => 16,
        }
    }
}

/// One open socket, the kernel's or a fake's.
pub trait Channel: fmt::Debug + Send {
    /// Sends one datagram.
    ///
    /// # Errors
    /// As `send(2)`.
    fn send(&mut self, data: &[u8]) -> io::Result<()>;

    /// Receives at least one datagram, each handed to `take`.
    ///
    /// # Errors
    /// `TimedOut` when the deadline passes; ENOBUFS when datagrams were lost.
    fn receive(&mut self, deadline: Deadline, take: &mut dyn FnMut(&[u8])) -> io::Result<()>;

    /// Joins a multicast group.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    fn join(&mut self, group: u32) -> io::Result<()>;

    /// The descriptor that becomes readable.
    fn fd(&self) -> BorrowedFd<'_>;
}

/// What opens sockets.
pub trait Kernel: fmt::Debug + Send + Sync {
    /// Opens a socket.
    ///
    /// # Errors
    /// As `socket(2)`.
    fn open(&self, protocol: Protocol) -> io::Result<Box<dyn Channel>>;
}

/// How a [`Host`](crate::Host) opens netlink sockets. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Transport(Arc<dyn Kernel>);

impl Transport {
    /// This machine's kernel, in the caller's network namespace.
    #[must_use]
    pub fn live() -> Self {
        Self::of(Live { namespace: None })
    }

    /// This machine's kernel in another network namespace (`/run/netns/NAME`, `/proc/PID/ns/net`). Sockets are opened by a thread of their
    /// own that enters it; the caller's thread stays where it is.
    #[must_use]
    pub fn in_namespace(path: impl Into<PathBuf>) -> Self {
        Self::of(Live { namespace: Some(path.into()) })
    }

    /// No kernel: every open answers "not supported here".
    #[must_use]
    pub fn none() -> Self {
        Self::of(Nothing)
    }

    /// Any implementation.
    #[must_use]
    pub fn of(kernel: impl Kernel + 'static) -> Self {
        Self(Arc::new(kernel))
    }

    /// Opens a socket.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(&self, protocol: Protocol) -> Result<Socket, Error> {
        self.0
            .open(protocol)
            .map(Socket::new)
            .map_err(|source| Error::Io { what: "open a netlink socket", source })
    }
}

/// For layers: what stands between a host and its kernel opens the kernel's sockets through this.
impl Kernel for Transport {
    fn open(&self, protocol: Protocol) -> io::Result<Box<dyn Channel>> {
        self.0.open(protocol)
    }
}

#[derive(Debug)]
struct Nothing;

impl Kernel for Nothing {
    fn open(&self, _: Protocol) -> io::Result<Box<dyn Channel>> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this host has no kernel behind it (captured or fake)",
        ))
    }
}

#[derive(Debug)]
struct Live {
    namespace: Option<PathBuf>,
}

impl Kernel for Live {
    fn open(&self, protocol: Protocol) -> io::Result<Box<dyn Channel>> {
        let fd = match &self.namespace {
            None => sys::nl::open(protocol.number())?,
            Some(path) => {
                let namespace = File::open(path)?;
                let opened = std::thread::spawn(move || {
                    sys::nl::enter_netns(namespace.as_fd())?;
                    sys::nl::open(protocol.number())
                });
                opened
                    .join()
                    .map_err(|_| io::Error::other("the thread that enters the namespace panicked"))??
            }
        };
        Ok(Box::new(LiveChannel::new(fd)?))
    }
}

/// The room for events that nobody has read yet, in bytes of the kernel's memory.
const EVENTS: i32 = 8 << 20;

/// The kernel fills dumps up to 32 KiB a datagram when it sees room for it (`net/netlink/af_netlink.c`).
const SLOT: usize = 32 * 1024;
/// How many datagrams one system call takes: DRBD sends one a object.
const SLOTS: usize = 128;

#[derive(Debug)]
struct LiveChannel {
    fd: OwnedFd,
    /// Untouched pages of it cost nothing.
    arena: Box<[u8]>,
}

impl LiveChannel {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let set = |option| sys::nl::set_option(fd.as_fd(), libc::SOL_NETLINK, option, 1);
        // Old kernels lack one or the other; what they add is text and checks, not meaning.
        for option in [sys::nl::EXT_ACK, sys::nl::CAP_ACK, sys::nl::GET_STRICT_CHK] {
            if let Err(error) = set(option) {
                log::debug!("netlink socket option {option}: {error}");
            }
        }
        // Room for a burst of events; forced where the process may, else as far as net.core.rmem_max goes.
        const ROOM: i32 = 4 * 1024 * 1024;
        if sys::nl::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, ROOM).is_err() {
            sys::nl::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, ROOM)?;
        }
        Ok(Self { fd, arena: vec![0; SLOT * SLOTS].into_boxed_slice() })
    }
}

impl Channel for LiveChannel {
    fn send(&mut self, data: &[u8]) -> io::Result<()> {
        sys::nl::send(self.fd.as_fd(), data)
    }

    fn receive(&mut self, deadline: Deadline, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        loop {
            // First without waiting: the kernel answers a request inside send().
            match sys::nl::receive(self.fd.as_fd(), &mut self.arena, SLOT) {
                Ok(lengths) if !lengths.is_empty() => {
                    for (slot, length) in self.arena.chunks_exact(SLOT).zip(lengths) {
                        take(slot.get(..length).unwrap_or_default());
                    }
                    return Ok(());
                }
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
            if deadline.is_over() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            sys::poll_read(&[self.fd.as_fd()], deadline.poll_millis())?;
        }
    }

    fn join(&mut self, group: u32) -> io::Result<()> {
        let group = i32::try_from(group).map_err(|_| io::ErrorKind::InvalidInput)?;
        // Events come when they come: with the kernel's own 208 KiB two hundred uevents are too many. What the process may not have
        // (CAP_NET_ADMIN), it gets within net.core.rmem_max; a small buffer runs over sooner, and that is told.
        let room = |option| sys::nl::set_option(self.fd.as_fd(), libc::SOL_SOCKET, option, EVENTS);
        let _ = room(libc::SO_RCVBUFFORCE).or_else(|_| room(libc::SO_RCVBUF));
        sys::nl::set_option(self.fd.as_fd(), libc::SOL_NETLINK, sys::nl::ADD_MEMBERSHIP, group)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
