//! Reencryption: begin, run, look.

use std::ffi::c_int;
use std::ptr;

use libcryptsetup_rs_sys as raw;

use super::{Answer, Ended, Progress, Session, answer, c_text, or_null, step, text_of};
use crate::name::Cipher;

/// What is to be begun, or resumed if there is no cipher.
pub(crate) struct ReencryptRequest<'a> {
    /// The mapping, if the volume is open.
    pub(crate) name: Option<&'a str>,
    pub(crate) passphrase: &'a [u8],
    /// The slots of the present and of the new key.
    pub(crate) slots: (c_int, c_int),
    pub(crate) cipher: Option<&'a Cipher>,
    pub(crate) sector_size: u32,
    pub(crate) resilience: &'a str,
    /// The most that is in work at once, in 512-byte sectors; 0 leaves it to the library.
    pub(crate) hotzone: u64,
    pub(crate) flags: u32,
}

/// A reencryption that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReencryptSeen {
    /// 1: stopped in order; 2: crashed, the next opening or resuming recovers; 3: metadata that does not fit together.
    pub(crate) health: u32,
    pub(crate) resilience: String,
}

impl Session {
    /// Writes the metadata of a reencryption, or reads that of one to be resumed.
    pub(crate) fn reencrypt_init(&mut self, request: &ReencryptRequest<'_>) -> Answer<()> {
        let name = request.name.map(c_text).transpose()?;
        let cipher = request.cipher.map(|c| c_text(c.name())).transpose()?;
        let mode = request.cipher.map(|c| c_text(c.mode())).transpose()?;
        let resilience = c_text(request.resilience)?;
        let luks2 = raw::crypt_params_luks2 {
            pbkdf: ptr::null(),
            integrity: ptr::null(),
            integrity_params: ptr::null(),
            data_alignment: 0,
            data_device: ptr::null(),
            sector_size: request.sector_size,
            label: ptr::null(),
            subsystem: ptr::null(),
        };
        let params = raw::crypt_params_reencrypt {
            mode: raw::crypt_reencrypt_mode_info_CRYPT_REENCRYPT_REENCRYPT,
            direction: raw::crypt_reencrypt_direction_info_CRYPT_REENCRYPT_FORWARD,
            resilience: if request.resilience.is_empty() { ptr::null() } else { resilience.as_ptr() },
            hash: c"sha256".as_ptr(),
            data_shift: 0,
            max_hotzone_size: request.hotzone,
            device_size: 0,
            luks2: if request.cipher.is_some() { &raw const luks2 } else { ptr::null() },
            flags: request.flags,
        };
        // SAFETY: every pointer is null where that is allowed, or to a live text or structure; passphrase is a live slice of that length.
        answer(unsafe {
            raw::crypt_reencrypt_init_by_passphrase(
                self.cd,
                or_null(name.as_ref()),
                request.passphrase.as_ptr().cast(),
                request.passphrase.len(),
                request.slots.0,
                request.slots.1,
                or_null(cipher.as_ref()),
                or_null(mode.as_ref()),
                &raw const params,
            )
        })
        .map(drop)
    }

    /// Works until the end or until the progress says stop.
    pub(crate) fn reencrypt_run(&mut self, progress: Progress<'_>) -> Answer<Ended> {
        self.long(progress, |cd, user| {
            // SAFETY: the context is live and initialised for this; `step` matches the callback's type and gets the pointer made for it.
            unsafe { raw::crypt_reencrypt_run(cd, Some(step), user) }
        })
    }

    /// The reencryption that is under way; `None` if there is none.
    pub(crate) fn reencryption(&mut self) -> Option<ReencryptSeen> {
        let mut params = raw::crypt_params_reencrypt {
            mode: 0,
            direction: 0,
            resilience: ptr::null(),
            hash: ptr::null(),
            data_shift: 0,
            max_hotzone_size: 0,
            device_size: 0,
            luks2: ptr::null(),
            flags: 0,
        };
        // SAFETY: context and structure are live; the texts it gets belong to the context and are copied at once.
        let health = unsafe { raw::crypt_reencrypt_status(self.cd, &raw mut params) };
        (health != raw::crypt_reencrypt_info_CRYPT_REENCRYPT_NONE)
            .then(|| ReencryptSeen { health, resilience: text_of(params.resilience).unwrap_or_default() })
    }
}
