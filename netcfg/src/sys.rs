//! The one system call rtnetlink has no message for: sending a frame.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Sends Ethernet frames, each out of its link.
pub(crate) fn send_frames(frames: &[(u32, Vec<u8>)]) -> io::Result<()> {
    // Protocol 0: this socket receives nothing.
    // SAFETY: socket takes three numbers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: sockaddr_ll is plain numbers, for which all zeros is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(|_| io::ErrorKind::InvalidInput)?;
    let size = u32::try_from(size_of::<libc::sockaddr_ll>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    for (index, frame) in frames {
        address.sll_ifindex = i32::try_from(*index).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the frame is a live slice of that length, the address a live sockaddr_ll of that size.
        let sent = unsafe {
            libc::sendto(
                fd.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
