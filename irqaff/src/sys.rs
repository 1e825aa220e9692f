//! The one system call that the standard library does not have.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// The room for one credentials message.
#[allow(clippy::cast_possible_truncation, clippy::as_conversions)] // Twelve bytes.
// SAFETY: CMSG_SPACE computes from its argument alone.
const ROOM: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// Aligned as control messages must be.
#[repr(align(8))]
struct Control([u8; ROOM]);

/// Sends a text together with this process's credentials (`SCM_CREDENTIALS`, unix(7)).
pub(crate) fn send_with_credentials(socket: &UnixStream, text: &str) -> io::Result<()> {
    // SAFETY: these three take nothing and cannot fail.
    let who = unsafe { libc::ucred { pid: libc::getpid(), uid: libc::geteuid(), gid: libc::getegid() } };
    let mut control = Control([0; ROOM]);
    let mut part = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
    // SAFETY: all zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = ROOM;
    // SAFETY: the control buffer is aligned and has room for one header with a ucred; sendmsg reads text and buffer, which both live.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_CREDENTIALS;
        #[allow(clippy::cast_possible_truncation, clippy::as_conversions)] // Twelve bytes.
        let size = libc::CMSG_LEN(size_of::<libc::ucred>() as u32) as usize;
        (*header).cmsg_len = size;
        libc::CMSG_DATA(header).cast::<libc::ucred>().write_unaligned(who);
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    match usize::try_from(sent) {
        Ok(sent) if sent == text.len() => Ok(()),
        Ok(_) => Err(io::Error::from(io::ErrorKind::WriteZero)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_text_arrives_with_credentials_or_without() {
        let (mut there, here) = UnixStream::pair().expect("a pair");
        send_with_credentials(&here, "setup").expect("sent");
        drop(here);
        let mut text = String::new();
        there.read_to_string(&mut text).expect("read");
        assert_eq!(text, "setup");
    }
}
