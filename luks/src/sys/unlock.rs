//! The two halves of opening a volume: its key derived without the lock, and the mapping made of that key under it.

use std::ffi::c_int;
use std::path::Path;

use host::Secret;
use libcryptsetup_rs_sys as raw;

use super::{Answer, answer, c_text, enter, loaded};
use crate::spec::Discards;

/// Whether the key derivation may run beside others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Derivation {
    /// It touches nothing but its own context: the key slot's cipher is one that the library has itself.
    Parallel,
    /// It may need a device-mapper device of a name that is the same for all of a process, to decrypt the key slot.
    Alone,
}

/// The volume key in a key slot.
pub(crate) fn volume_key(device: &Path, slot: u32, passphrase: &[u8], how: Derivation) -> Answer<Secret> {
    let mut guard = Some(enter());
    let context = loaded(device)?;
    // SAFETY: the context is live and loaded.
    let size = answer(unsafe { raw::crypt_get_volume_key_size(context.0) })?;
    // A key of reencryption's may be larger than that of the data; 512 bytes are the largest there is.
    let mut key = vec![0_u8; usize::try_from(size).unwrap_or_default().max(512)];
    let mut length = key.len();
    if how == Derivation::Parallel {
        guard = None;
    }
    // SAFETY: the context is live and used by this thread only; key is a live buffer of `length` bytes, which the library replaces by the size
    // of the key; passphrase is a live slice. Without the lock: the library touches only the context here (keyslot.c, luks2_keyslot_luks2.c).
    let code = unsafe {
        raw::crypt_volume_key_get(
            context.0,
            c_int::try_from(slot).unwrap_or(c_int::MAX),
            key.as_mut_ptr().cast(),
            &raw mut length,
            passphrase.as_ptr().cast(),
            passphrase.len(),
        )
    };
    let result = answer(code);
    let _guard = guard.unwrap_or_else(super::relock);
    drop(context);
    // From here on it is wiped when dropped; what stands behind `length` is zero. It never moves to another place in memory.
    key.truncate(length);
    let key = Secret::new(key);
    result.map(|_| key)
}

/// Opens a volume under a name with its key.
pub(crate) fn activate_with_key(device: &Path, name: &str, key: &Secret, discards: Discards) -> Answer<()> {
    let _guard = enter();
    let context = loaded(device)?;
    let name = c_text(name)?;
    let flags = if discards == Discards::Allowed { raw::CRYPT_ACTIVATE_ALLOW_DISCARDS } else { 0 };
    let key = key.expose();
    // SAFETY: the context is live and loaded; name is NUL-terminated; key is a live slice of that length.
    let code = unsafe {
        raw::crypt_activate_by_volume_key(context.0, name.as_ptr(), key.as_ptr().cast(), key.len(), flags)
    };
    answer(code).map(drop)
}
