//! Tokens of a LUKS2 header.

use super::{Volume, number};
use crate::error::{Error, Result};
use crate::state::TokenState;
use crate::sys::{self, Session};

impl Volume {
    /// The tokens of the header, with their JSON. LUKS1 has none.
    ///
    /// # Errors
    /// The header cannot be read.
    pub fn tokens(&self) -> Result<Vec<TokenState>> {
        let mut session = self.load("list the tokens of")?;
        if !session.is_luks2() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for token in 0..Session::token_limit() {
            let Some(seen) = session.token(token) else { continue };
            let slots = 0..session.slot_limit();
            found.push(TokenState {
                number: u32::try_from(token).unwrap_or_default(),
                kind: seen.kind,
                handled: seen.handled,
                slots: slots
                    .filter(|slot| session.is_token_assigned(token, *slot))
                    .filter_map(|slot| u32::try_from(slot).ok())
                    .collect(),
                json: self.explained("read a token of", session.token_json(token))?,
            });
        }
        Ok(found)
    }

    /// Adds a token "luks2-keyring": key slot `slot` opens with the key of this description in the kernel's keyring. `cryptsetup token add`.
    ///
    /// # Errors
    /// [`Error::NoKeyslot`] if the slot is empty: then no token is left.
    pub fn add_keyring_token(&self, slot: u32, description: &str) -> Result<u32> {
        let mut session = self.load("add a token to")?;
        let token = self.explained("add a token to", session.set_keyring_token(sys::ANY, description))?;
        self.assign(&mut session, token, slot)
    }

    /// Adds a token of any type from its JSON: `cryptsetup token import`. Its "keyslots" say what it opens. The library checks those types it
    /// knows, and those it has a plug-in for.
    ///
    /// # Errors
    /// [`Error::Library`] if it is no token.
    pub fn add_token(&self, json: &str) -> Result<u32> {
        let mut session = self.load("add a token to")?;
        let token = self.explained("add a token to", session.set_token_json(sys::ANY, Some(json)))?;
        self.say(&format!("token {token} added"));
        Ok(u32::try_from(token).unwrap_or_default())
    }

    /// Says that a token opens a key slot.
    ///
    /// # Errors
    /// [`Error::NoToken`], [`Error::NoKeyslot`].
    pub fn assign_token(&self, token: u32, slot: u32) -> Result<()> {
        let mut session = self.load("assign a token of")?;
        if session.token(number(token)).is_none() {
            return Err(Error::NoToken { device: self.device.clone(), token });
        }
        match session.assign_token(number(token), number(slot)) {
            Ok(()) => {
                self.say(&format!("token {token} opens key slot {slot}"));
                Ok(())
            }
            Err(_) => Err(Error::NoKeyslot { device: self.device.clone(), slot }),
        }
    }

    fn assign(&self, session: &mut Session, token: i32, slot: u32) -> Result<u32> {
        if session.assign_token(token, number(slot)).is_err() {
            self.explained("take back a token of", session.set_token_json(token, None))?;
            return Err(Error::NoKeyslot { device: self.device.clone(), slot });
        }
        self.say(&format!("token {token} added for key slot {slot}"));
        Ok(u32::try_from(token).unwrap_or_default())
    }

    /// Removes a token; `false` if there was none. `cryptsetup token remove`. Its key slots stay.
    ///
    /// # Errors
    /// The header cannot be written.
    pub fn remove_token(&self, token: u32) -> Result<bool> {
        let mut session = self.load("remove a token of")?;
        if session.token(number(token)).is_none() {
            return Ok(false);
        }
        self.explained("remove a token of", session.set_token_json(number(token), None))?;
        self.say(&format!("token {token} removed"));
        Ok(true)
    }

    /// Refuses a token that is not there or that nothing here can open.
    pub(crate) fn handled(&self, session: &mut Session, token: u32) -> Result<()> {
        let device = self.device.clone();
        match session.is_luks2().then(|| session.token(number(token))).flatten() {
            None => Err(Error::NoToken { device, token }),
            Some(seen) if !seen.handled => Err(Error::TokenUnhandled { device, token, kind: seen.kind }),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn move_tokens(&self, session: &mut Session, from: u32, to: u32) -> Result<()> {
        if !session.is_luks2() {
            return Ok(());
        }
        for token in 0..Session::token_limit() {
            if session.token(token).is_some() && session.is_token_assigned(token, number(from)) {
                self.explained("move a token of", session.assign_token(token, number(to)))?;
                self.explained("move a token of", session.unassign_token(token, number(from)))?;
            }
        }
        Ok(())
    }
}
