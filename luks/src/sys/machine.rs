//! What is asked of the kernel directly: who we are, and its keyrings.

use std::ffi::c_long;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use host::Secret;

use super::c_text;

/// Whether this process is root as far as device-mapper is concerned.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and always succeeds.
    unsafe { libc::geteuid() == 0 }
}

/// Drops what the page cache has of a file, so that the next read is of the medium (`posix_fadvise(2)`). Only clean pages go: sync first.
pub(crate) fn drop_cache(file: &std::fs::File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the life of the borrow; the call takes numbers only.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// `KEYCTL_READ` of linux/keyctl.h.
const KEYCTL_READ: libc::c_int = 11;

/// Reads the key of type "user" with this description from the keyrings of this thread, process, session or user (`request_key(2)`).
pub(crate) fn keyring_secret(description: &str) -> io::Result<Secret> {
    let text = c_text(description).map_err(|refused| refused.source)?;
    let nothing: *const libc::c_char = ptr::null();
    // SAFETY: both texts are NUL-terminated; a null callout asks nobody, and ring 0 attaches the key nowhere.
    let key = unsafe {
        libc::syscall(libc::SYS_request_key, c"user".as_ptr(), text.as_ptr(), nothing, 0 as c_long)
    };
    if key < 0 {
        return Err(io::Error::last_os_error());
    }
    // The largest payload of a user key (security/keys/user_defined.c), so that one read gets all of it and no copy is left behind.
    let mut bytes = vec![0_u8; 32767];
    // SAFETY: the buffer is live and has the length given; the kernel writes no more than that.
    let size = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_READ, key, bytes.as_mut_ptr(), bytes.len()) };
    match usize::try_from(size) {
        Ok(size) => {
            bytes.truncate(size);
            Ok(Secret::new(bytes))
        }
        Err(_) => Err(io::Error::last_os_error()),
    }
}
