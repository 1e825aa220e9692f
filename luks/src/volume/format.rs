//! Making a volume, and what is set in its header afterwards.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use host::{Bytes, Host, Secret, signature};

use super::reencrypt::{Outcome, Progress};
use super::{Volume, backup};
use crate::error::{Error, Result};
use crate::header::{Header, Version};
use crate::key::Key;
use crate::spec::{Discards, FormatSpec, Kdf, OpenFlags, Overwrite, Place, WeakKdf, WipePattern};
use crate::sys::{self, Session};
use crate::{Uuid, holders};

/// Refuses a derivation that makes guessing cheap, unless that is meant.
pub(super) fn check_kdf(kdf: &Kdf, weak: WeakKdf) -> Result<()> {
    kdf.check()?;
    if weak == WeakKdf::Refused && kdf.is_weak() {
        return Err(Error::WeakKdf { kdf: *kdf });
    }
    Ok(())
}

/// Opens a device or image for itself alone: refused if it is a block device that is mounted or held.
pub(super) fn open_alone(device: &Path, what: &str) -> Result<File> {
    let is_block = std::fs::metadata(device).is_ok_and(|m| m.file_type().is_block_device());
    let flags = if is_block { libc::O_EXCL } else { 0 };
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(device);
    opened.map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => {
            Error::Busy { object: device.display().to_string(), holders: holders::of(&Host::live(), device) }
        }
        _ => Error::Io { what: format!("{what} {}", device.display()), source },
    })
}

impl Volume {
    /// Makes a volume: writes a new LUKS header with one key slot. `cryptsetup luksFormat`. A detached header's file is made if it is missing.
    ///
    /// # Errors
    /// [`Error::HoldsData`] if anything known is on the device, unless [`Overwrite::Always`] is said: data in the place of the header is lost then.
    /// [`Error::Busy`] if somebody uses it. [`Error::WeakKdf`], [`Error::Parse`] for a spec that cannot be.
    pub fn format(&self, spec: &FormatSpec, passphrase: &Secret, overwrite: Overwrite) -> Result<Header> {
        spec.check()?;
        check_kdf(&spec.kdf, spec.weak_kdf)?;
        if let Some(header) = &self.header {
            make_header_file(header)?;
        }
        for device in [Some(&self.device), self.header.as_ref()].into_iter().flatten() {
            let mut file = open_alone(device, "open for formatting")?;
            let failed = |source| Error::Io { what: format!("read {}", device.display()), source };
            if overwrite == Overwrite::Never
                && let Some(what) = signature::find(&mut file).map_err(failed)?
            {
                return Err(Error::HoldsData { device: device.clone(), what });
            }
        }
        // The library takes the header's device first and the data's as a parameter.
        let place = Place::on(self.header_place());
        let mut session = self.explained("format", Session::init(place, self.log.as_ref()))?;
        let data = self.header.is_some().then_some(self.device.as_path());
        self.explained("format", session.format(spec, data))?;
        self.explained("format", session.add_slot(sys::ANY, None, passphrase.expose()))?;
        drop(session);
        self.say("formatted");
        self.read()
    }

    /// Overwrites a range of the device, or all of it; `Outcome::Stopped` if `progress` says so. Whatever is there is lost.
    ///
    /// # Errors
    /// [`Error::Busy`] if somebody uses the device; [`Error::HoldsData`] if it holds something known, unless [`Overwrite::Always`] is said.
    pub fn wipe(
        &self,
        pattern: WipePattern,
        range: Option<(Bytes, Bytes)>,
        overwrite: Overwrite,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        let mut file = open_alone(&self.device, "open for wiping")?;
        let failed = |source| Error::Io { what: format!("read {}", self.device.display()), source };
        if overwrite == Overwrite::Never
            && let Some(what) = signature::find(&mut file).map_err(failed)?
        {
            return Err(Error::HoldsData { device: self.device.clone(), what });
        }
        let size = io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(failed)?;
        drop(file);
        let (offset, length) = range.map_or((0, size), |(offset, length)| (offset.0, length.0));
        let mut session = self.init("wipe")?;
        self.wipe_in(&mut session, &self.device, pattern, (offset, length), progress)
    }

    fn wipe_in(
        &self,
        session: &mut Session,
        device: &Path,
        pattern: WipePattern,
        range: (u64, u64),
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        const BLOCK: usize = 1 << 20;
        let mut told = |done, total| progress(Progress::new(done, total));
        let ended = self.explained("wipe", session.wipe(device, pattern, range, BLOCK, &mut told))?;
        self.say(&format!("wiped {} bytes from {}: {ended:?}", range.1, range.0));
        Ok(ended.into())
    }

    /// Writes all of the data once, as a volume with integrity needs it after formatting: until then every sector reads as an error. Zeros, which
    /// on the disk are noise. `cryptsetup luksFormat --integrity` does this by itself. Stopped, it must be done again from the start.
    ///
    /// # Errors
    /// [`Error::Open`] if the volume is open; [`Error::WrongPassphrase`]; needs root.
    pub fn wipe_data(
        &self,
        key: impl Into<Key>,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        self.must_be_closed("wipe its data")?;
        let mut session = self.load("wipe the data of")?;
        let (_, key) = self.key_in(&mut session, &key.into())?;
        let name = format!("sankit-wipe-{}", std::process::id());
        // Without a journal, which would write everything twice, and unknown to udev.
        let flags = OpenFlags::PRIVATE | OpenFlags::NO_JOURNAL;
        self.explained("open", session.by_volume_key(Some(&name), key.expose(), flags.bits()))?;
        let node = Path::new("/dev/mapper").join(&name);
        let wiped = self.wipe_in(&mut session, &node, WipePattern::Zero, (0, 0), progress);
        drop(session);
        let closed = self.explained("close the wiped", sys::deactivate(&name, 0));
        wiped.and_then(|outcome| closed.map(|()| outcome))
    }

    /// Sets label and subsystem (LUKS2); `cryptsetup config --label --subsystem`. Empty removes them.
    ///
    /// # Errors
    /// [`Error::Library`] for LUKS1, which has none.
    pub fn set_label(&self, label: &str, subsystem: &str) -> Result<()> {
        FormatSpec::luks2().with_label(label).with_subsystem(subsystem).check()?;
        let mut session = self.load("set the label of")?;
        self.explained("set the label of", session.set_label(label, subsystem))?;
        self.say("label set");
        Ok(())
    }

    /// Sets the UUID; `cryptsetup luksUUID --uuid`. After copying a disk, say: two volumes of one UUID cannot be told apart.
    ///
    /// # Errors
    /// [`Error::Open`] if the volume is open: its mapping bears the old one.
    pub fn set_uuid(&self, uuid: &Uuid) -> Result<()> {
        self.must_be_closed("change its UUID")?;
        let mut session = self.load("set the UUID of")?;
        self.explained("set the UUID of", session.set_uuid(uuid.as_str()))?;
        self.say(&format!("UUID set to {uuid}"));
        Ok(())
    }

    /// The flags kept in the header (LUKS2), which are added to every opening.
    ///
    /// # Errors
    /// The header cannot be read.
    pub fn persistent_flags(&self) -> Result<OpenFlags> {
        let mut session = self.load("read the flags of")?;
        if !session.is_luks2() {
            return Ok(OpenFlags::empty());
        }
        self.explained("read the flags of", session.persistent_flags()).map(OpenFlags::from_bits_retain)
    }

    /// Sets the flags kept in the header (LUKS2), all at once; `cryptsetup open --persistent`. That discards are let through, which shows who has
    /// the disk what is in use, must be said beside the flags.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a flag that cannot be kept ([`OpenFlags::PERSISTENT`]), and for discards that were not said.
    pub fn set_persistent_flags(&self, flags: OpenFlags, discards: Discards) -> Result<()> {
        if !OpenFlags::PERSISTENT.contains(flags) {
            return Err(Error::Unsupported(
                "only the flags of OpenFlags::PERSISTENT can be kept in a header",
            ));
        }
        if flags.contains(OpenFlags::ALLOW_DISCARDS) && discards == Discards::Blocked {
            return Err(Error::Unsupported(
                "discards show which blocks are in use; say Discards::Allowed if every opening shall let them through",
            ));
        }
        let mut session = self.load("set the flags of")?;
        self.explained("set the flags of", session.set_persistent_flags(flags.bits()))?;
        self.say(&format!("persistent flags set: {flags:?}"));
        Ok(())
    }

    /// Writes a damaged copy of the header anew from the good one; `false` if both are good. `cryptsetup repair`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if no copy is good: restore a backup then.
    pub fn repair(&self) -> Result<bool> {
        let before = self.read()?;
        if !before.needs_repair {
            return Ok(false);
        }
        let mut session = self.init("repair")?;
        self.explained("repair", session.repair(before.version))?;
        drop(session);
        let after = self.read()?;
        if after.needs_repair {
            let reason = "a copy is still damaged after the repair".to_owned();
            return Err(Error::Damaged { device: self.device.clone(), reason });
        }
        self.say("header repaired");
        Ok(true)
    }

    /// Turns the header into the other version, in place: `cryptsetup convert`. The key slots stay, with their passphrases and derivation.
    ///
    /// It is not safe against a crash, so a backup is made first: if the machine stops in between, [`restore`](Self::restore) that.
    /// LUKS2 becomes LUKS1 only if all its key slots use PBKDF2 and it has nothing that LUKS1 has not.
    ///
    /// The way from an old volume (LUKS1, aes-cbc-essiv) to a new one: convert to LUKS2, then
    /// [`reencrypt`](Self::reencrypt) with aes-xts-plain64 and 512 bits, then [`change_key`](Self::change_key) with an Argon2id slot.
    ///
    /// # Errors
    /// [`Error::Open`] if the volume is open; [`Error::FileExists`] if the backup is there; [`Error::Library`] if it cannot be converted.
    pub fn convert(&self, to: Version, backup: impl AsRef<Path>) -> Result<Header> {
        if self.read()?.version == to {
            return self.read();
        }
        self.must_be_closed("convert its header")?;
        backup::write(self, backup.as_ref())?;
        let mut session = self.load("convert")?;
        self.explained("convert", session.convert(to))?;
        drop(session);
        self.say(&format!("converted to {to:?}"));
        self.read()
    }
}

/// Makes the file of a detached header, of mode 0600, if there is none. 16 MiB, sparse: what a LUKS2 header takes.
fn make_header_file(path: &Path) -> Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file
            .set_len(16 << 20)
            .map_err(|source| Error::Io { what: format!("make {}", path.display()), source }),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(Error::Io { what: format!("make {}", path.display()), source }),
    }
}
