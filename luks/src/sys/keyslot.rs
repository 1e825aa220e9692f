//! Key slots, and the volume key that they hold.

use std::ffi::c_int;
use std::ptr;

use host::Secret;
use libcryptsetup_rs_sys as raw;

use super::{ANY, Answer, Session, answer, invalid, text_of};

/// What a key slot is, as the library tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotStatus {
    /// Out of range, or a status that this crate does not know.
    Invalid,
    Inactive,
    Active,
    /// The only one with the volume's key.
    ActiveLast,
    /// It holds a key that is not the volume's.
    Unbound,
}

impl Session {
    /// The status of a slot.
    pub(crate) fn slot_status(&mut self, slot: c_int) -> SlotStatus {
        // SAFETY: the context is live; any number is allowed.
        match unsafe { raw::crypt_keyslot_status(self.cd, slot) } {
            raw::crypt_keyslot_info_CRYPT_SLOT_INACTIVE => SlotStatus::Inactive,
            raw::crypt_keyslot_info_CRYPT_SLOT_ACTIVE => SlotStatus::Active,
            raw::crypt_keyslot_info_CRYPT_SLOT_ACTIVE_LAST => SlotStatus::ActiveLast,
            raw::crypt_keyslot_info_CRYPT_SLOT_UNBOUND => SlotStatus::Unbound,
            _ => SlotStatus::Invalid,
        }
    }

    /// How many slots the header can have.
    pub(crate) fn slot_limit(&self) -> c_int {
        let kind: &[u8] = if self.is_luks2() { raw::CRYPT_LUKS2 } else { raw::CRYPT_LUKS1 };
        // SAFETY: the type is NUL-terminated.
        unsafe { raw::crypt_keyslot_max(kind.as_ptr().cast()) }
    }

    /// The priority of a slot: 0 ignored, 1 normal, 2 preferred.
    pub(crate) fn slot_priority(&mut self, slot: c_int) -> i64 {
        // SAFETY: the context is live; any number is allowed.
        unsafe { raw::crypt_keyslot_get_priority(self.cd, slot) }.into()
    }

    /// Sets the priority of a slot.
    pub(crate) fn set_slot_priority(&mut self, slot: c_int, priority: i64) -> Answer<()> {
        let priority = c_int::try_from(priority).map_err(|_| invalid())?;
        // SAFETY: the context is live; the library checks both numbers.
        answer(unsafe { raw::crypt_keyslot_set_priority(self.cd, slot, priority) }).map(drop)
    }

    /// The size in bytes of the key in a slot.
    pub(crate) fn slot_key_size(&mut self, slot: c_int) -> Answer<usize> {
        // SAFETY: the context is live; the library checks the number.
        let size = unsafe { raw::crypt_keyslot_get_key_size(self.cd, slot) };
        usize::try_from(answer(size)?).map_err(|_| invalid())
    }

    /// Derives the volume key (or an unbound slot's key) from a passphrase; the slot that opened.
    ///
    /// The derivation takes all the time and touches its own context only (`LUKS2_keyslot_open`, `LUKS_open_key_with_hdr`), so it runs without the
    /// process-wide lock; but only if the slots' own cipher is one that the library does in user space: for others it may map a temporary device
    /// named by the process, of which there can be one.
    pub(crate) fn volume_key(&mut self, slot: c_int, passphrase: &[u8]) -> Answer<(c_int, Secret)> {
        let alone = self.opens_in_user_space(slot);
        // Room for the largest key there can be: the size is known only when the slot is.
        let mut key = vec![0_u8; 512];
        let mut size = key.len();
        let room = key.as_mut_ptr();
        let mut get = |cd| {
            // SAFETY: context, buffer and size are live; the library writes at most `size` bytes and then sets it.
            unsafe {
                raw::crypt_volume_key_get(
                    cd,
                    slot,
                    room.cast(),
                    &raw mut size,
                    passphrase.as_ptr().cast(),
                    passphrase.len(),
                )
            }
        };
        let code = if alone { self.unlocked(get) } else { get(self.cd) };
        let slot = answer(code)?;
        key.truncate(size);
        Ok((slot, Secret::new(key)))
    }

    /// Whether the slots that would be tried are encrypted with a cipher the library has in itself.
    fn opens_in_user_space(&mut self, slot: c_int) -> bool {
        let slots = if slot == ANY { 0..self.slot_limit() } else { slot..slot.saturating_add(1) };
        slots.into_iter().all(|slot| {
            if matches!(self.slot_status(slot), SlotStatus::Inactive | SlotStatus::Invalid) {
                return true;
            }
            let mut size = 0;
            // SAFETY: the context is live; the answer is null or a text of the library's, the size is written to a live place.
            let cipher = text_of(unsafe { raw::crypt_keyslot_get_encryption(self.cd, slot, &raw mut size) });
            cipher.is_some_and(|c| c.starts_with("aes-xts") || c.starts_with("aes-cbc"))
        })
    }

    /// The volume key by what a token yields; the slot that opened.
    pub(crate) fn volume_key_by_token(
        &mut self,
        token: c_int,
        pin: Option<&[u8]>,
    ) -> Answer<(c_int, Secret)> {
        let (pin, length) = pin.map_or((ptr::null(), 0), |pin| (pin.as_ptr().cast(), pin.len()));
        let mut context = ptr::null_mut();
        // SAFETY: the context is live; a null type means any; the PIN is null with length 0 or a live slice; the library stores a new context.
        answer(unsafe {
            raw::crypt_keyslot_context_init_by_token(
                self.cd,
                token,
                ptr::null(),
                pin,
                length,
                ptr::null_mut(),
                &raw mut context,
            )
        })?;
        let mut key = vec![0_u8; 512];
        let mut size = key.len();
        // SAFETY: both contexts are live; the library writes at most `size` bytes to the buffer and then sets it.
        let code = unsafe {
            raw::crypt_volume_key_get_by_keyslot_context(
                self.cd,
                ANY,
                key.as_mut_ptr().cast(),
                &raw mut size,
                context,
            )
        };
        let result = answer(code);
        // SAFETY: the context came from the call above and is freed once.
        unsafe { raw::crypt_keyslot_context_free(context) };
        key.truncate(size);
        let key = Secret::new(key);
        result.map(|slot| (slot, key))
    }

    /// Checks a volume key against the header's digest.
    pub(crate) fn verify_volume_key(&mut self, key: &[u8]) -> Answer<()> {
        // SAFETY: the context is live, the key a live slice of that length.
        answer(unsafe { raw::crypt_volume_key_verify(self.cd, key.as_ptr().cast(), key.len()) }).map(drop)
    }

    /// Makes a key slot for the volume's key; a null key means that of a context just formatted.
    pub(crate) fn add_slot(&mut self, slot: c_int, key: Option<&[u8]>, passphrase: &[u8]) -> Answer<c_int> {
        let (place, size) = key.map_or((ptr::null(), 0), |key| (key.as_ptr().cast(), key.len()));
        // SAFETY: the context is live; key and passphrase are live slices of these lengths, or null with 0.
        answer(unsafe {
            raw::crypt_keyslot_add_by_volume_key(
                self.cd,
                slot,
                place,
                size,
                passphrase.as_ptr().cast(),
                passphrase.len(),
            )
        })
    }

    /// Makes a key slot for a key that is not the volume's yet: a new one of this size, or one that other unbound slots hold already.
    pub(crate) fn add_unbound_slot(
        &mut self,
        key: Option<&[u8]>,
        size: usize,
        passphrase: &[u8],
    ) -> Answer<c_int> {
        let reuse = if key.is_some() { raw::CRYPT_VOLUME_KEY_DIGEST_REUSE } else { 0 };
        // SAFETY: as in `add_slot`; a null key makes the library draw one of `size` bytes.
        answer(unsafe {
            raw::crypt_keyslot_add_by_key(
                self.cd,
                raw::CRYPT_ANY_SLOT,
                key.map_or(ptr::null(), |key| key.as_ptr().cast()),
                size,
                passphrase.as_ptr().cast(),
                passphrase.len(),
                raw::CRYPT_VOLUME_KEY_NO_SEGMENT | reuse,
            )
        })
    }

    /// Wipes a key slot.
    pub(crate) fn destroy_slot(&mut self, slot: c_int) -> Answer<()> {
        // SAFETY: the context is live; the library checks the number.
        answer(unsafe { raw::crypt_keyslot_destroy(self.cd, slot) }).map(drop)
    }
}
