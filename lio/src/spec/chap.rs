//! CHAP in one or both directions: of an ACL, of a portal group, of discovery.

use host::{ParseError, Secret};

use crate::error::{Error, Result};
use crate::name::{ChapSecret, ChapUser};

/// A user name and its password.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chap {
    /// The name.
    pub user: ChapUser,
    /// The password.
    pub secret: ChapSecret,
}

impl Chap {
    fn checked(user: ChapUser, secret: Secret) -> std::result::Result<Self, ParseError> {
        ChapSecret::new(secret).map(|secret| Self { user, secret })
    }
}

/// What is proved in each direction; as invalid as the secrets were, for validation to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Credentials {
    forth: Option<std::result::Result<Chap, ParseError>>,
    back: Option<std::result::Result<Chap, ParseError>>,
}

impl Credentials {
    pub(crate) fn set(&mut self, user: ChapUser, secret: Secret) {
        self.forth = Some(Chap::checked(user, secret));
    }

    pub(crate) fn set_mutual(&mut self, user: ChapUser, secret: Secret) {
        self.back = Some(Chap::checked(user, secret));
    }

    pub(crate) fn chap(&self) -> Option<&Chap> {
        self.forth.as_ref()?.as_ref().ok()
    }

    pub(crate) fn mutual(&self) -> Option<&Chap> {
        self.back.as_ref()?.as_ref().ok()
    }

    pub(crate) fn validate(&self, object: &str) -> Result<()> {
        let given = [&self.forth, &self.back].into_iter().flatten();
        if let Some(error) = given.filter_map(|chap| chap.as_ref().err()).next() {
            return Err(Error::Form { source: error.clone() });
        }
        match (self.chap(), self.mutual()) {
            (None, Some(_)) => Err(Error::invalid(object, "mutual CHAP needs CHAP; add with_chap")),
            (Some(one), Some(other)) if one.secret == other.secret => Err(Error::invalid(
                object,
                "both directions have the same password (RFC 7143, 12.1.3 forbids it); choose two",
            )),
            _ => Ok(()),
        }
    }
}
