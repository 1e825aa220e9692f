//! The one system call of this crate.

use std::io;

/// Mounts configfs where all tools expect it; EBUSY if it is mounted already. `mount -t configfs configfs /sys/kernel/config`.
pub(crate) fn mount_configfs() -> io::Result<()> {
    let (kind, dir) = (c"configfs", c"/sys/kernel/config");
    // SAFETY: the three strings are constants that end in NUL; flags are plain numbers; configfs takes no data, for which null is valid.
    let result = unsafe {
        libc::mount(
            kind.as_ptr(),
            dir.as_ptr(),
            kind.as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            std::ptr::null(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
