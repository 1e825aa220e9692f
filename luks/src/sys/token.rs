//! Tokens: what a LUKS2 header says of keys that come from elsewhere.

use std::ffi::c_int;
use std::ptr;

use libcryptsetup_rs_sys as raw;

use super::{Answer, Session, answer, c_text, invalid, text_of};

/// A token as the library sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenSeen {
    /// Its type: "luks2-keyring", "systemd-tpm2".
    pub(crate) kind: String,
    /// Whether something here can open it: the library itself, or a plug-in that is installed.
    pub(crate) handled: bool,
}

impl Session {
    /// How many tokens a header can have.
    pub(crate) fn token_limit() -> c_int {
        // SAFETY: the type is NUL-terminated.
        unsafe { raw::crypt_token_max(raw::CRYPT_LUKS2.as_ptr().cast()) }
    }

    /// A token; `None` if there is none of this number.
    pub(crate) fn token(&mut self, token: c_int) -> Option<TokenSeen> {
        let mut kind = ptr::null();
        // SAFETY: the context is live; the library stores null or a pointer to a text of its own, which is copied at once.
        let status = unsafe { raw::crypt_token_status(self.cd, token, &raw mut kind) };
        let handled = match status {
            raw::crypt_token_info_CRYPT_TOKEN_INTERNAL | raw::crypt_token_info_CRYPT_TOKEN_EXTERNAL => true,
            raw::crypt_token_info_CRYPT_TOKEN_INVALID | raw::crypt_token_info_CRYPT_TOKEN_INACTIVE => {
                return None;
            }
            _ => false,
        };
        Some(TokenSeen { kind: text_of(kind).unwrap_or_default(), handled })
    }

    /// The JSON of a token.
    pub(crate) fn token_json(&mut self, token: c_int) -> Answer<String> {
        let mut json = ptr::null();
        // SAFETY: as in `token`.
        answer(unsafe { raw::crypt_token_json_get(self.cd, token, &raw mut json) })?;
        text_of(json).ok_or_else(invalid)
    }

    /// Writes a token's JSON, or removes the token; its number.
    pub(crate) fn set_token_json(&mut self, token: c_int, json: Option<&str>) -> Answer<c_int> {
        let json = json.map(c_text).transpose()?;
        // SAFETY: the context is live; the text is NUL-terminated, or null to remove.
        answer(unsafe { raw::crypt_token_json_set(self.cd, token, super::or_null(json.as_ref())) })
    }

    /// Writes a token that names a key of the kernel's keyring; its number.
    pub(crate) fn set_keyring_token(&mut self, token: c_int, description: &str) -> Answer<c_int> {
        let description = c_text(description)?;
        let params = raw::crypt_token_params_luks2_keyring { key_description: description.as_ptr() };
        // SAFETY: the context is live; the structure and its text live during the call.
        answer(unsafe { raw::crypt_token_luks2_keyring_set(self.cd, token, &raw const params) })
    }

    /// Says that a token opens a key slot.
    pub(crate) fn assign_token(&mut self, token: c_int, slot: c_int) -> Answer<()> {
        // SAFETY: the context is live; the library checks both numbers.
        answer(unsafe { raw::crypt_token_assign_keyslot(self.cd, token, slot) }).map(drop)
    }

    /// Says that it does not any more.
    pub(crate) fn unassign_token(&mut self, token: c_int, slot: c_int) -> Answer<()> {
        // SAFETY: as above.
        answer(unsafe { raw::crypt_token_unassign_keyslot(self.cd, token, slot) }).map(drop)
    }

    /// Whether a token opens a key slot.
    pub(crate) fn is_token_assigned(&mut self, token: c_int, slot: c_int) -> bool {
        // SAFETY: as above. 0 is yes, ENOENT no.
        unsafe { raw::crypt_token_is_assigned(self.cd, token, slot) == 0 }
    }
}
