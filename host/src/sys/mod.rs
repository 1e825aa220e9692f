//! The system calls of this crate: one operation a block, each with the reason it holds.

#[cfg(feature = "dm")]
pub(crate) mod dm;
#[cfg(feature = "nl")]
pub(crate) mod nl;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Tries to take an exclusive `flock(2)`; `false` if somebody else holds it.
pub(crate) fn try_lock(file: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: flock takes a descriptor, which is open for the life of the borrow, and a constant; it touches no memory of ours.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            e => Err(e),
        },
    }
}

/// Ends this process at once, as a power cut would: no destructor, no buffer flushed.
pub(crate) fn kill_self() -> ! {
    // SAFETY: kill and getpid take and return numbers only.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    std::process::abort()
}

/// `poll(2)` on a few descriptors for reading; says which are ready (or hung up). An interrupted call reports none.
#[cfg(any(feature = "nl", feature = "exec"))]
pub(crate) fn poll_read(fds: &[BorrowedFd<'_>], millis: i32) -> io::Result<Vec<bool>> {
    let mut polls: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    let count = libc::nfds_t::try_from(polls.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: polls is a live array of `count` initialised pollfd structures, which the kernel reads and whose revents it writes.
    if unsafe { libc::poll(polls.as_mut_ptr(), count, millis) } < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::Interrupted => Ok(vec![false; fds.len()]),
            _ => Err(error),
        };
    }
    Ok(polls.iter().map(|p| p.revents != 0).collect())
}

/// A descriptor that becomes readable when the process ends.
#[cfg(feature = "exec")]
pub(crate) fn pidfd(pid: u32) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::{FromRawFd, OwnedFd, RawFd};
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: pidfd_open takes two numbers; it touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel just made this descriptor and nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes reads of a descriptor return instead of waiting.
#[cfg(feature = "exec")]
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL takes an open descriptor and returns a number.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: F_SETFL takes an open descriptor and a number.
    if flags < 0 || unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
