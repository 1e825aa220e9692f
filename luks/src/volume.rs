//! Volumes on disks: making one, its key slots and tokens, keeping and restoring the header, changing the key of the data.

mod backup;
mod explain;
mod format;
mod keyslot;
mod reencrypt;
mod restore;
mod token;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use host::{Host, Secret};

pub use backup::{Backup, BackupSlot, SlotFate};
pub(crate) use explain::explain;
pub use reencrypt::{Health, Outcome, Progress, ReencryptState};

use crate::error::{Error, Result};
use crate::header::Header;
use crate::key::{Key, VolumeKey};
use crate::spec::{FormatSpec, Overwrite, Place};
use crate::sys::{self, Answer, Session};

/// An encrypted volume on a disk or in an image: what can be done to it without opening it. For opening it see [`Luks`](crate::Luks).
///
/// ```no_run
/// use luks::{KeyslotSpec, Secret, Volume};
/// let volume = Volume::at("/dev/sdb");
/// let (old, new) = (Secret::read("/run/keys/old")?, Secret::read("/run/keys/new")?);
/// let slot = volume.change_key(&old, &new, &KeyslotSpec::new())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Reading a LUKS2 header through libcryptsetup, which all calls but [`read`](Self::read) do, repairs a damaged copy from the good one.
#[derive(Clone)]
pub struct Volume {
    device: PathBuf,
    header: Option<PathBuf>,
    log: Option<sys::Log>,
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume")
            .field("device", &self.device)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// How important something is that the library says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogLevel {
    /// What a person who waits would like to know.
    Normal,
    /// Why something failed; the call's error has it too.
    Error,
    /// More than most would like to know.
    Verbose,
    /// What a developer of the library would like to know.
    Debug,
}

impl Volume {
    /// The volume of a device or image.
    #[must_use]
    pub fn at(device: impl Into<PathBuf>) -> Self {
        Self { device: device.into(), header: None, log: None }
    }

    pub(crate) fn of(place: Place<'_>) -> Self {
        Self { header: place.header.map(Path::to_path_buf), ..Self::at(place.device) }
    }

    /// Says that the header is not on the device but here; `cryptsetup --header`.
    #[must_use]
    pub fn with_header(mut self, header: impl Into<PathBuf>) -> Self {
        self.header = Some(header.into());
        self
    }

    /// Tells `log` what the library and this crate say of this volume. It is called on the thread that makes the call.
    #[must_use]
    pub fn with_log(mut self, log: impl Fn(LogLevel, &str) + Send + Sync + 'static) -> Self {
        self.log = Some(Arc::new(move |level, text| {
            let level = match u32::try_from(level) {
                Ok(sys::LOG_NORMAL) => LogLevel::Normal,
                Ok(sys::LOG_ERROR) => LogLevel::Error,
                Ok(sys::LOG_VERBOSE) => LogLevel::Verbose,
                _ => LogLevel::Debug,
            };
            log(level, text);
        }));
        self
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Where the header is: on the device, or apart.
    #[must_use]
    pub fn header_place(&self) -> &Path {
        self.header.as_deref().unwrap_or(&self.device)
    }

    /// Reads the header, without the library.
    ///
    /// # Errors
    /// [`Error::NotLuks`], [`Error::Damaged`], [`Error::Io`].
    pub fn read(&self) -> Result<Header> {
        Header::read(self.header_place())
    }

    fn place(&self) -> Place<'_> {
        Place { device: &self.device, header: self.header.as_deref() }
    }

    /// Tells what was done: once in the log of the program, once to the volume's own.
    fn say(&self, text: &str) {
        log::debug!("luks: {}: {text}", self.device.display());
        if let Some(log) = &self.log {
            log(0, text);
        }
    }

    fn init(&self, what: &str) -> Result<Session> {
        self.explained(what, Session::init(self.place(), self.log.as_ref()))
    }

    fn load(&self, what: &str) -> Result<Session> {
        self.explained(what, Session::load(self.place(), self.log.as_ref()))
    }

    fn explained<T>(&self, what: &str, answer: Answer<T>) -> Result<T> {
        answer.map_err(|refused| {
            explain(self.header_place(), format!("{what} {}", self.device.display()), refused)
        })
    }

    /// The mapping under which the volume is open, if it is. By UUID, and so whatever the device is called.
    pub(crate) fn open_as(&self) -> Result<Option<String>> {
        let Ok(header) = self.read() else { return Ok(None) };
        let mappings = crate::state::mappings(&Host::live())?;
        Ok(mappings.into_iter().find(|m| m.uuid.as_ref() == Some(&header.uuid)).map(|m| m.name))
    }

    fn must_be_closed(&self, what: &'static str) -> Result<()> {
        match self.open_as()? {
            None => Ok(()),
            Some(open_as) => Err(Error::Open { device: self.device.clone(), open_as, what }),
        }
    }

    /// Checks that a key opens the volume, without opening it: `cryptsetup open --test-passphrase`. The key slot, unless it is the volume key.
    /// Takes as long as the key derivation, during which other volumes can be worked with.
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`], [`Error::NoKeyslot`], [`Error::TokenUnhandled`], [`Error::TokenRefused`], [`Error::NoKeyringKey`].
    pub fn check(&self, key: impl Into<Key>) -> Result<Option<u32>> {
        self.derive("check a key of", &key.into()).map(|(slot, _)| slot)
    }

    /// Derives the volume key: what `cryptsetup luksDump --dump-volume-key` shows. Who has it needs no passphrase.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn volume_key(&self, key: impl Into<Key>) -> Result<VolumeKey> {
        self.derive("derive the key of", &key.into()).map(|(_, key)| key)
    }

    /// The volume key, and the slot it came from.
    pub(crate) fn derive(&self, what: &str, key: &Key) -> Result<(Option<u32>, VolumeKey)> {
        let mut session = self.load(what)?;
        self.key_in(&mut session, key).map(|(slot, key)| (slot, VolumeKey::new(key)))
    }

    /// The volume key, and the slot it came from.
    fn key_in(&self, session: &mut Session, key: &Key) -> Result<(Option<u32>, Secret)> {
        let what = "derive the key of";
        let answer = match self.means(session, key)? {
            Means::Volume(key) => {
                self.explained(what, session.verify_volume_key(key.expose()))?;
                return Ok((None, key));
            }
            Means::Passphrase(slot, secret) => session.volume_key(slot, secret.expose()),
            Means::Token(token, pin) => {
                let pin = pin.as_ref().map(Secret::expose);
                let answer = session.volume_key_by_token(token, pin);
                Ok(answer.map_err(|refused| self.token_refused(session, token, refused))?)
            }
        };
        match answer {
            Ok((slot, key)) => Ok((u32::try_from(slot).ok(), key)),
            Err(refused) => Err(match (key, refused.errno()) {
                (Key::Slot(slot, _), libc::ENOENT | libc::EINVAL) => {
                    Error::NoKeyslot { device: self.device.clone(), slot: *slot }
                }
                _ => explain(self.header_place(), format!("{what} {}", self.device.display()), refused),
            }),
        }
    }

    /// What a key means to the library: what it does not know how to get is fetched here.
    pub(crate) fn means(&self, session: &mut Session, key: &Key) -> Result<Means> {
        Ok(match key {
            Key::Passphrase(secret) => Means::Passphrase(sys::ANY, secret.share()),
            Key::Slot(slot, secret) => Means::Passphrase(number(*slot), secret.share()),
            Key::Volume(key) => Means::Volume(key.secret().share()),
            Key::Keyring(description) => Means::Passphrase(sys::ANY, keyring(description)?),
            Key::Token { number: token, pin } => match self.token_passphrase(session, *token)? {
                Some((slot, secret)) => Means::Passphrase(slot, secret),
                None => Means::Token(number(*token), pin.as_ref().map(Secret::share)),
            },
        })
    }
}

/// What the library takes to open a volume.
pub(crate) enum Means {
    /// A passphrase, for this key slot or [`sys::ANY`].
    Passphrase(i32, Secret),
    /// The volume key.
    Volume(Secret),
    /// A token and its PIN.
    Token(i32, Option<Secret>),
}

/// A slot or token number in the library's type; what does not fit is out of its range anyway.
pub(crate) fn number(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// The passphrase that a key of the kernel's keyring holds.
fn keyring(description: &str) -> Result<Secret> {
    sys::keyring_secret(description)
        .map_err(|source| Error::NoKeyringKey { description: description.to_owned(), source })
}

impl Header {
    /// Makes a volume whose header is on its device: short for [`Volume::format`].
    ///
    /// # Errors
    /// As there.
    pub fn format(
        device: impl AsRef<Path>,
        spec: &FormatSpec,
        passphrase: &Secret,
        overwrite: Overwrite,
    ) -> Result<Self> {
        Volume::at(device.as_ref()).format(spec, passphrase, overwrite)
    }

    /// Checks a passphrase: short for [`Volume::check`].
    ///
    /// # Errors
    /// As there.
    pub fn check(device: impl AsRef<Path>, passphrase: &Secret) -> Result<()> {
        Volume::at(device.as_ref()).check(passphrase).map(drop)
    }

    /// Keeps a copy of the header: short for [`Volume::backup`], which has the warning.
    ///
    /// # Errors
    /// As there.
    pub fn backup(device: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Backup> {
        Volume::at(device.as_ref()).backup(to)
    }
}
