//! Mappings: opening, closing, and changing them while they are open.

use std::ffi::c_int;
use std::ptr;

use libcryptsetup_rs_sys as raw;

use super::{Answer, Session, answer, c_text, enter, or_null};

/// The runtime attributes of a mapping (`struct crypt_active_device`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Active {
    pub(crate) offset: u64,
    pub(crate) iv_offset: u64,
    pub(crate) size: u64,
    pub(crate) flags: u32,
}

/// Closes a mapping; `crypt_deactivate_by_name`.
pub(crate) fn deactivate(name: &str, flags: u32) -> Answer<()> {
    let _guard = enter();
    let name = c_text(name)?;
    // SAFETY: a null context is allowed: the library looks the mapping up by its name, which is NUL-terminated.
    answer(unsafe { raw::crypt_deactivate_by_name(ptr::null_mut(), name.as_ptr(), flags) }).map(drop)
}

impl Session {
    /// Opens with a passphrase, or only checks it if there is no name; the key slot that it opened.
    pub(crate) fn by_passphrase(
        &mut self,
        name: Option<&str>,
        slot: c_int,
        passphrase: &[u8],
        flags: u32,
    ) -> Answer<c_int> {
        let name = name.map(c_text).transpose()?;
        // SAFETY: the context is live; the name is null or NUL-terminated; passphrase is a live slice of that length.
        answer(unsafe {
            raw::crypt_activate_by_passphrase(
                self.cd,
                or_null(name.as_ref()),
                slot,
                passphrase.as_ptr().cast(),
                passphrase.len(),
                flags,
            )
        })
    }

    /// Opens with the volume key, or only checks it if there is no name.
    pub(crate) fn by_volume_key(&mut self, name: Option<&str>, key: &[u8], flags: u32) -> Answer<()> {
        let name = name.map(c_text).transpose()?;
        // SAFETY: as in `by_passphrase`.
        answer(unsafe {
            raw::crypt_activate_by_volume_key(
                self.cd,
                or_null(name.as_ref()),
                key.as_ptr().cast(),
                key.len(),
                flags,
            )
        })
        .map(drop)
    }

    /// Opens with what a token yields, or only tries it if there is no name; the key slot that was opened.
    pub(crate) fn by_token(
        &mut self,
        name: Option<&str>,
        token: c_int,
        pin: Option<&[u8]>,
        flags: u32,
    ) -> Answer<c_int> {
        let name = name.map(c_text).transpose()?;
        let (pin, length) = pin.map_or((ptr::null(), 0), |pin| (pin.as_ptr().cast(), pin.len()));
        // SAFETY: the context is live; a null type means any; the PIN is null with length 0 or a live slice; no user pointer is given.
        answer(unsafe {
            raw::crypt_activate_by_token_pin(
                self.cd,
                or_null(name.as_ref()),
                ptr::null(),
                token,
                pin,
                length,
                ptr::null_mut(),
                flags,
            )
        })
    }

    /// What a mapping is like.
    pub(crate) fn active(&mut self, name: &str) -> Answer<Active> {
        let name = c_text(name)?;
        let mut seen = raw::crypt_active_device { offset: 0, iv_offset: 0, size: 0, flags: 0 };
        // SAFETY: context and structure are live, the name NUL-terminated.
        answer(unsafe { raw::crypt_get_active_device(self.cd, name.as_ptr(), &raw mut seen) })?;
        Ok(Active { offset: seen.offset, iv_offset: seen.iv_offset, size: seen.size, flags: seen.flags })
    }

    /// Changes the size of a mapping; 0 sectors means as large as the device allows.
    pub(crate) fn resize(&mut self, name: &str, sectors: u64) -> Answer<()> {
        let name = c_text(name)?;
        // SAFETY: the context is live, the name NUL-terminated.
        answer(unsafe { raw::crypt_resize(self.cd, name.as_ptr(), sectors) }).map(drop)
    }

    /// Stops a mapping's I/O and wipes its key from the kernel.
    pub(crate) fn suspend(&mut self, name: &str) -> Answer<()> {
        let name = c_text(name)?;
        // SAFETY: the context is live, the name NUL-terminated.
        answer(unsafe { raw::crypt_suspend(self.cd, name.as_ptr()) }).map(drop)
    }

    /// Gives a suspended mapping its key back.
    pub(crate) fn resume_by_passphrase(
        &mut self,
        name: &str,
        slot: c_int,
        passphrase: &[u8],
    ) -> Answer<c_int> {
        let name = c_text(name)?;
        // SAFETY: the context is live, the name NUL-terminated, passphrase a live slice of that length.
        answer(unsafe {
            raw::crypt_resume_by_passphrase(
                self.cd,
                name.as_ptr(),
                slot,
                passphrase.as_ptr().cast(),
                passphrase.len(),
            )
        })
    }

    /// As `resume_by_passphrase`, with the volume key.
    pub(crate) fn resume_by_volume_key(&mut self, name: &str, key: &[u8]) -> Answer<()> {
        let name = c_text(name)?;
        // SAFETY: as in `resume_by_passphrase`.
        answer(unsafe {
            raw::crypt_resume_by_volume_key(self.cd, name.as_ptr(), key.as_ptr().cast(), key.len())
        })
        .map(drop)
    }

    /// As `resume_by_passphrase`, with what a token yields.
    pub(crate) fn resume_by_token(&mut self, name: &str, token: c_int, pin: Option<&[u8]>) -> Answer<c_int> {
        let name = c_text(name)?;
        let (pin, length) = pin.map_or((ptr::null(), 0), |pin| (pin.as_ptr().cast(), pin.len()));
        // SAFETY: as in `by_token`.
        answer(unsafe {
            raw::crypt_resume_by_token_pin(
                self.cd,
                name.as_ptr(),
                ptr::null(),
                token,
                pin,
                length,
                ptr::null_mut(),
            )
        })
    }

    /// The flags kept in the header, with which every opening of the volume is made.
    pub(crate) fn persistent_flags(&mut self) -> Answer<u32> {
        let mut flags = 0;
        // SAFETY: context and number are live.
        answer(unsafe {
            raw::crypt_persistent_flags_get(
                self.cd,
                raw::crypt_flags_type_CRYPT_FLAGS_ACTIVATION,
                &raw mut flags,
            )
        })?;
        Ok(flags)
    }

    /// Sets them, all at once.
    pub(crate) fn set_persistent_flags(&mut self, flags: u32) -> Answer<()> {
        // SAFETY: the context is live.
        answer(unsafe {
            raw::crypt_persistent_flags_set(self.cd, raw::crypt_flags_type_CRYPT_FLAGS_ACTIVATION, flags)
        })
        .map(drop)
    }
}
