//! Tokens of a LUKS2 header.

use std::time::Duration;

use host::exec::Program;
use host::{Deadline, Host, Secret};

use super::{Volume, keyring, number};
use crate::error::{Error, Result};
use crate::state::TokenState;
use crate::sys::{self, Session};
use crate::wire;

/// The type of tokens that `cryptsetup token add` makes.
const KEYRING: &str = "luks2-keyring";
/// The type of tokens that `clevis luks bind` makes.
const CLEVIS: &str = "clevis";
/// How long a pin of clevis may take: a TPM needs a second, a Tang server an answer over the network.
const PATIENCE: Duration = Duration::from_secs(60);

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

    /// The passphrase that a token stands for, and the key slot it is of, where that can be had without the library: from the kernel's keyring,
    /// and from clevis. `None` where a plug-in of the library's opens it. Refuses a token that is not there or that nothing here can open.
    ///
    /// With a passphrase a volume in reencryption opens, too; a token of the library's opens none (libcryptsetup 2.6 to 2.8).
    pub(crate) fn token_passphrase(
        &self,
        session: &mut Session,
        token: u32,
    ) -> Result<Option<(i32, Secret)>> {
        let device = self.device.clone();
        let Some(seen) = session.is_luks2().then(|| session.token(number(token))).flatten() else {
            return Err(Error::NoToken { device, token });
        };
        let secret = match seen.kind.as_str() {
            KEYRING | CLEVIS => {
                let json = self.explained("read a token of", session.token_json(number(token)))?;
                let broken = || Error::Damaged {
                    device: device.clone(),
                    reason: format!("token {token} is of type {} and has not its fields", seen.kind),
                };
                if seen.kind == KEYRING {
                    keyring(&wire::token::description(&json).ok_or_else(broken)?)?
                } else {
                    let message = wire::token::message(&json).ok_or_else(broken)?;
                    // A Tang server may take its time: nobody else need wait for the library.
                    let answer = session.apart(|| {
                        let (deadline, host) = (Deadline::after(PATIENCE), Host::live());
                        host.exec().run_secret(Program::CLEVIS, &["decrypt"], message.as_bytes(), deadline)
                    });
                    answer.map_err(|source| Error::TokenProgram { device: device.clone(), token, source })?
                }
            }
            _ if seen.handled => return Ok(None),
            _ => return Err(Error::TokenUnhandled { device, token, kind: seen.kind }),
        };
        let header = self.read()?;
        let slots = header.tokens.iter().find(|one| one.number == token).map(|one| one.keyslots.as_slice());
        // Two keys make a volume in reencryption, and they are in two slots.
        let slot = match (slots, &header.reencryption) {
            (Some([slot]), None) => number(*slot),
            _ => sys::ANY,
        };
        Ok(Some((slot, secret)))
    }

    /// Why the library got no key from a token.
    pub(crate) fn token_refused(&self, session: &mut Session, token: i32, refused: sys::Refused) -> Error {
        let device = self.device.clone();
        let (number, seen) = (u32::try_from(token).unwrap_or_default(), session.token(token));
        match refused.errno() {
            libc::ENOMEM => Error::NoMemory { device },
            // What libcryptsetup.h says of a token that wants a PIN.
            libc::ENOANO => Error::TokenPin { device, token: number },
            _ => {
                let kind = seen.map(|seen| seen.kind).unwrap_or_default();
                Error::TokenRefused { device, token: number, kind, log: refused.log, source: refused.source }
            }
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
