//! The connection to a portal: made and read until a deadline, over a chosen interface or from a chosen address.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use host::Deadline;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockopt, setsockopt, socket, sockopt,
};

use crate::error::{Error, Result};
use crate::spec::PortalSpec;

/// What carries PDUs. All of a call ends at its deadline: a portal that sends a byte now and then does not hold us.
pub(crate) trait Stream: fmt::Debug + Send {
    fn send(&mut self, data: &[u8], deadline: Deadline) -> io::Result<()>;
    fn receive(&mut self, into: &mut [u8], deadline: Deadline) -> io::Result<()>;
}

/// The time left, as a socket takes it: never zero, which would be for ever.
fn left(deadline: Deadline) -> io::Result<Option<Duration>> {
    match deadline.left() {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(Some(left.max(Duration::from_millis(1)))),
    }
}

/// What a socket's own time-out is called differs from what it means.
fn plain(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Stream for TcpStream {
    fn send(&mut self, data: &[u8], deadline: Deadline) -> io::Result<()> {
        self.set_write_timeout(left(deadline)?)?;
        self.write_all(data).map_err(plain)
    }

    fn receive(&mut self, into: &mut [u8], deadline: Deadline) -> io::Result<()> {
        let mut got = 0;
        while let Some(rest) = into.get_mut(got..).filter(|rest| !rest.is_empty()) {
            self.set_read_timeout(left(deadline)?)?;
            match self.read(rest) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(plain(error)),
            }
        }
        Ok(())
    }
}

/// Connects to a portal, from where the spec says.
pub(crate) fn connect(spec: &PortalSpec, portal: SocketAddr, deadline: Deadline) -> Result<TcpStream> {
    let stream = open(spec, portal, deadline).and_then(|stream| {
        stream.set_nodelay(true)?;
        Ok(stream)
    });
    stream.map_err(|source| Error::Portal { portal, source })
}

fn open(spec: &PortalSpec, portal: SocketAddr, deadline: Deadline) -> io::Result<TcpStream> {
    let family = if portal.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = socket(family, SockType::Stream, flags, None)?;
    if let Some(interface) = &spec.interface {
        setsockopt(&fd, sockopt::BindToDevice, &OsString::from(interface.as_str()))?;
    }
    if let Some(source) = spec.source.filter(|source| source.is_ipv4() == portal.is_ipv4()) {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    }
    match nix::sys::socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(portal)) {
        Ok(()) => {}
        Err(Errno::EINPROGRESS) => loop {
            left(deadline)?;
            let wait = PollTimeout::try_from(deadline.poll_millis()).unwrap_or(PollTimeout::MAX);
            let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut polled, wait) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => break,
                Err(errno) => return Err(errno.into()),
            }
        },
        Err(errno) => return Err(errno.into()),
    }
    match getsockopt(&fd, sockopt::SocketError)? {
        0 => {}
        errno => return Err(io::Error::from_raw_os_error(errno)),
    }
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A portal whose answers are all written down already; what it is told goes nowhere. For the fuzzer and for tests.
#[cfg(feature = "fake")]
#[derive(Debug)]
pub(crate) struct Canned(pub(crate) io::Cursor<Vec<u8>>);

#[cfg(feature = "fake")]
impl Stream for Canned {
    fn send(&mut self, _: &[u8], _: Deadline) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, into: &mut [u8], _: Deadline) -> io::Result<()> {
        self.0.read_exact(into)
    }
}
