//! The device-mapper's ioctl: one structure in front of a buffer, in and out.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Issues a device-mapper ioctl on a buffer that begins with `struct dm_ioctl` (linux/dm-ioctl.h) and says its own size in bytes 12..16.
pub(crate) fn ioctl(control: BorrowedFd<'_>, number: u8, buffer: &mut [u8]) -> io::Result<()> {
    let size = buffer.get(12..16).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    if size.and_then(|s| usize::try_from(s).ok()) != Some(buffer.len()) || buffer.len() < 312 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // _IOWR(0xfd, number, struct dm_ioctl of 312 bytes)
    let request = 0xc138_fd00_u32 | u32::from(number);
    // SAFETY: the buffer is live and borrowed exclusively; its data_size field equals its length (checked above), and the kernel reads
    // and writes no more than data_size bytes (drivers/md/dm-ioctl.c, copy_params and ctl_ioctl).
    match unsafe { libc::ioctl(control.as_raw_fd(), request as _, buffer.as_mut_ptr()) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
