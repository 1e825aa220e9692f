//! What the library's answers mean.

use std::path::Path;

use host::Host;

use crate::error::Error;
use crate::header::Header;
use crate::{holders, sys};

/// Makes an error of a refusal. One errno of the library means several things: what it said, who we are and what is on the device tell them apart.
pub(crate) fn explain(device: &Path, what: String, refused: sys::Refused) -> Error {
    let said = refused.log.as_deref().unwrap_or_default();
    let device_buf = device.to_path_buf();
    match refused.errno() {
        // A wrong volume key is told in words, a wrong passphrase is not.
        libc::EPERM if said.is_empty() || said.contains("does not match") => {
            Error::WrongPassphrase { device: device_buf }
        }
        libc::EPERM | libc::EACCES if !sys::is_root() => Error::Permission { what },
        // No key slot at all, or all of them are to be ignored.
        libc::ENOENT if said.is_empty() => Error::WrongPassphrase { device: device_buf },
        libc::ENOMEM => Error::NoMemory { device: device_buf },
        libc::EBUSY => {
            Error::Busy { object: device.display().to_string(), holders: holders::of(&Host::live(), device) }
        }
        libc::ETXTBSY => {
            Error::Unfinished { device: device_buf, what: format!("the header has a requirement: {said}") }
        }
        libc::EINVAL if said.contains("full") || said.contains("No space for new keyslot") => {
            Error::NoRoom { device: device_buf }
        }
        libc::ENOSPC => Error::NoRoom { device: device_buf },
        // It does not say whether there is no header or a damaged one, nor which copy of it: the reader does.
        libc::EINVAL | libc::EIO if !what.starts_with("format") => match Header::read(device) {
            Err(error @ (Error::NotLuks { .. } | Error::Damaged { .. })) => error,
            _ => Error::Library { what, log: refused.log, source: refused.source },
        },
        _ => Error::Library { what, log: refused.log, source: refused.source },
    }
}
