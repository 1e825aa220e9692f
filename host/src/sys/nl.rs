//! Netlink sockets.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `SOL_NETLINK` options (linux/netlink.h).
pub(crate) const ADD_MEMBERSHIP: i32 = 1;
pub(crate) const CAP_ACK: i32 = 10;
pub(crate) const EXT_ACK: i32 = 11;
pub(crate) const GET_STRICT_CHK: i32 = 12;

/// Opens and binds a raw netlink socket.
pub(crate) fn open(protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket takes three numbers.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: sockaddr_nl is plain numbers, for which all zeros is a value.
    let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
    address.nl_family =
        libc::sa_family_t::try_from(libc::AF_NETLINK).map_err(|_| io::ErrorKind::InvalidInput)?;
    let size =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the address is a live sockaddr_nl and size is its size.
    match unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) } {
        0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets a number option.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<i32>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the value is a live i32 and size is its size.
    match unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends one datagram to the kernel.
pub(crate) fn send(fd: BorrowedFd<'_>, data: &[u8]) -> io::Result<()> {
    loop {
        // SAFETY: data is a live slice of that length, which the kernel reads.
        let sent =
            unsafe { libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) };
        match usize::try_from(sent) {
            Ok(n) if n == data.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    }
}

/// Receives as many datagrams as there are, at most one a slot, without waiting. `arena` is cut into slots of `slot` bytes; the lengths
/// received are returned. A datagram longer than a slot is an error (EMSGSIZE), never cut silently.
pub(crate) fn receive(fd: BorrowedFd<'_>, arena: &mut [u8], slot: usize) -> io::Result<Vec<usize>> {
    let mut vectors: Vec<libc::iovec> = arena
        .chunks_exact_mut(slot)
        .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: slot })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: mmsghdr is plain numbers and pointers, for which all zeros is a value.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect();
    let count = u32::try_from(headers.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: headers is a live array of `count` structures; each points to one iovec in `vectors`, which lives as long, and that to its
    // own chunk of `arena`, which is borrowed exclusively; there is no timeout.
    let got = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT as _,
            std::ptr::null_mut(),
        )
    };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let received = headers.get(..got).unwrap_or_default();
    if received.iter().any(|h| h.msg_hdr.msg_flags & libc::MSG_TRUNC != 0) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    received.iter().map(|h| usize::try_from(h.msg_len).map_err(io::Error::other)).collect()
}

/// Moves the calling thread into a network namespace. Only ever called on a thread made for it.
pub(crate) fn enter_netns(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes an open descriptor and a constant.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
