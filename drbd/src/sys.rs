//! The system calls of this crate: one operation a block, each with the reason it holds.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How a range becomes zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zeroing {
    /// The range may become a hole: `FALLOC_FL_PUNCH_HOLE`.
    Punch,
    /// It stays allocated; the kernel writes zeroes where the device cannot do it: `FALLOC_FL_ZERO_RANGE`.
    Fill,
}

/// Makes a range of a block device or file read as zeroes (`blkdev_fallocate`, block/fops.c), without passing the zeroes through memory.
pub(crate) fn zero(fd: BorrowedFd<'_>, how: Zeroing, offset: u64, length: u64) -> io::Result<()> {
    let mode = match how {
        Zeroing::Punch => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        Zeroing::Fill => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
    };
    let number = |n: u64| libc::off_t::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let (offset, length) = (number(offset)?, number(length)?);
    // SAFETY: fallocate takes a descriptor, open for the life of the borrow, and numbers; it touches no memory of ours.
    match unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops what the page cache holds of a device: DRBD writes past it, so it may be old.
pub(crate) fn drop_cache(fd: BorrowedFd<'_>) {
    // SAFETY: posix_fadvise takes a descriptor, open for the life of the borrow, and numbers. It is advice: its answer changes nothing.
    unsafe { libc::posix_fadvise(fd.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// Lets tokio say when a descriptor is readable.
#[cfg(feature = "tokio")]
pub(crate) fn readable(
    fd: std::os::fd::OwnedFd,
) -> io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    // SAFETY: the descriptor is owned, so open until the result is dropped; an OwnedFd is always the same one, and is not handed out.
    unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }
        .map_err(Into::into)
}
