//! The operations that need `unsafe`: what runs between fork and exec, terminal ioctls, `ppoll`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Makes the child die with SIGKILL as soon as the *thread* that starts it ends.
///
/// The kernel ties `PR_SET_PDEATHSIG` to the parent thread, not to the parent process, so only a thread that
/// lives as long as the process may start such a child (see [`crate::guard`]).
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let hook = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        // The parent may have died between fork and prctl: then no signal will ever come.
        if nix::unistd::getppid() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the hook makes only async-signal-safe system calls and does not allocate.
    unsafe { command.pre_exec(hook) };
}

/// Makes the child the leader of a session of its own whose controlling terminal is its standard input.
pub(crate) fn own_terminal(command: &mut Command) {
    let hook = || {
        nix::unistd::setsid()?;
        // SAFETY: TIOCSCTTY takes an int by value; file descriptor 0 is the terminal at this point.
        let result = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the hook makes only async-signal-safe system calls and does not allocate.
    unsafe { command.pre_exec(hook) };
}

/// Sets the size of a terminal in character cells.
pub(crate) fn set_window(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads the size of a terminal: rows and columns. None if it is not a terminal.
pub(crate) fn window(terminal: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// Waits for events on raw descriptors; the timeout has nanosecond resolution, None waits for ever.
///
/// A descriptor closed meanwhile by another thread is reported as POLLNVAL, not as an error.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let wait = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(t.subsec_nanos()),
    });
    let wait = wait.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
    // SAFETY: fds is valid for its length, the timeout is null or a timespec that outlives the call.
    let result = unsafe { libc::ppoll(fds.as_mut_ptr(), count, wait, std::ptr::null()) };
    if result >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}
