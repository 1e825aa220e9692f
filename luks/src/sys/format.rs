//! Making headers, converting them, and wiping.

use std::path::Path;
use std::ptr;

use libcryptsetup_rs_sys as raw;

use super::{Answer, Ended, Progress, Session, answer, c_path, c_text, invalid, or_null, step};
use crate::header::Version;
use crate::spec::{FormatSpec, Kdf, PlainSpec, WipePattern};

/// A key derivation in the library's form, with the texts it points to.
struct Pbkdf {
    raw: raw::crypt_pbkdf_type,
    _hash: std::ffi::CString,
}

fn pbkdf(kdf: &Kdf, hash: &str) -> Answer<Pbkdf> {
    let hash = c_text(hash)?;
    let name = match kdf {
        Kdf::Argon2id { .. } | Kdf::Argon2idFixed { .. } => c"argon2id",
        Kdf::Pbkdf2 { .. } | Kdf::Pbkdf2Fixed { .. } => c"pbkdf2",
    };
    let millis = |time: std::time::Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let mut raw = raw::crypt_pbkdf_type {
        type_: name.as_ptr(),
        hash: hash.as_ptr(),
        time_ms: 0,
        iterations: 0,
        max_memory_kb: 0,
        parallel_threads: 0,
        flags: 0,
    };
    match *kdf {
        Kdf::Argon2id { time, memory_kib } => {
            (raw.time_ms, raw.max_memory_kb, raw.parallel_threads) = (millis(time), memory_kib, 4);
        }
        Kdf::Argon2idFixed { passes, memory_kib, lanes } => {
            (raw.iterations, raw.max_memory_kb, raw.parallel_threads) = (passes, memory_kib, lanes);
            raw.flags = raw::CRYPT_PBKDF_NO_BENCHMARK;
        }
        Kdf::Pbkdf2 { time } => raw.time_ms = millis(time),
        Kdf::Pbkdf2Fixed { iterations } => {
            raw.iterations = iterations;
            raw.flags = raw::CRYPT_PBKDF_NO_BENCHMARK;
        }
    }
    // The hash's text is on the heap: moving the value does not move it.
    Ok(Pbkdf { raw, _hash: hash })
}

impl Session {
    /// Sets the key derivation of key slots made from now on.
    pub(crate) fn set_kdf(&mut self, kdf: &Kdf, hash: &str) -> Answer<()> {
        let kdf = pbkdf(kdf, hash)?;
        // SAFETY: the context is live; the structure and the texts it points to live during the call, which copies them.
        answer(unsafe { raw::crypt_set_pbkdf_type(self.cd, &raw const kdf.raw) }).map(drop)
    }

    /// Writes a new LUKS header, without key slots. `data` is the data's device if the header is detached.
    pub(crate) fn format(&mut self, spec: &FormatSpec, data: Option<&Path>) -> Answer<()> {
        let (cipher, mode) = (c_text(spec.cipher.name())?, c_text(spec.cipher.mode())?);
        let hash = c_text(&spec.hash)?;
        let uuid = spec.uuid.as_ref().map(|uuid| c_text(uuid.as_str())).transpose()?;
        let text = |text: &str| (!text.is_empty()).then(|| c_text(text)).transpose();
        let (label, subsystem) = (text(&spec.label)?, text(&spec.subsystem)?);
        let integrity = spec.integrity.map(|integrity| c_text(integrity.algorithm())).transpose()?;
        let data = data.map(c_path).transpose()?;
        let kdf = pbkdf(&spec.kdf, &spec.hash)?;
        // Callers give whole bytes.
        let key_size = usize::try_from(spec.key_bits / 8).map_err(|_| invalid())?;
        let key_size = key_size + spec.integrity.map_or(0, crate::spec::Integrity::key_size);
        if let Some(offset) = spec.data_offset {
            // SAFETY: the context is live; the offset is in sectors.
            answer(unsafe { raw::crypt_set_data_offset(self.cd, offset.0) })?;
        }
        self.set_kdf(&spec.kdf, &spec.hash)?;
        let mut luks1 = raw::crypt_params_luks1 {
            hash: hash.as_ptr(),
            data_alignment: 0,
            data_device: or_null(data.as_ref()),
        };
        let mut luks2 = raw::crypt_params_luks2 {
            pbkdf: &raw const kdf.raw,
            integrity: or_null(integrity.as_ref()),
            integrity_params: ptr::null(),
            data_alignment: 0,
            data_device: or_null(data.as_ref()),
            sector_size: spec.sector_size.unwrap_or(0),
            label: or_null(label.as_ref()),
            subsystem: or_null(subsystem.as_ref()),
        };
        let (kind, params): (&[u8], *mut std::ffi::c_void) = match spec.version {
            Version::Luks1 => (raw::CRYPT_LUKS1, (&raw mut luks1).cast()),
            Version::Luks2 => (raw::CRYPT_LUKS2, (&raw mut luks2).cast()),
        };
        // SAFETY: every pointer is null where that is allowed, or to a live NUL-terminated text or structure; a null key makes the library draw one.
        answer(unsafe {
            raw::crypt_format(
                self.cd,
                kind.as_ptr().cast(),
                cipher.as_ptr(),
                mode.as_ptr(),
                or_null(uuid.as_ref()),
                ptr::null(),
                key_size,
                params,
            )
        })
        .map(drop)
    }

    /// Describes a plain dm-crypt device: nothing is written.
    pub(crate) fn plain(&mut self, spec: &PlainSpec) -> Answer<()> {
        let (cipher, mode) = (c_text(spec.cipher.name())?, c_text(spec.cipher.mode())?);
        let hash = spec.hash.as_deref().map(c_text).transpose()?;
        let mut params = raw::crypt_params_plain {
            hash: or_null(hash.as_ref()),
            offset: spec.offset.0,
            skip: spec.skip.0,
            size: spec.size.0,
            sector_size: spec.sector_size,
        };
        // SAFETY: every pointer is to a live text or structure; plain has neither UUID nor a key at this point.
        answer(unsafe {
            raw::crypt_format(
                self.cd,
                raw::CRYPT_PLAIN.as_ptr().cast(),
                cipher.as_ptr(),
                mode.as_ptr(),
                ptr::null(),
                ptr::null(),
                usize::try_from(spec.key_bits / 8).map_err(|_| invalid())?,
                (&raw mut params).cast(),
            )
        })
        .map(drop)
    }

    /// Turns the header into the other version, in place.
    pub(crate) fn convert(&mut self, to: Version) -> Answer<()> {
        let kind: &[u8] = if to == Version::Luks1 { raw::CRYPT_LUKS1 } else { raw::CRYPT_LUKS2 };
        // SAFETY: the context is live, the type NUL-terminated; null parameters are what the library asks for.
        answer(unsafe { raw::crypt_convert(self.cd, kind.as_ptr().cast(), ptr::null_mut()) }).map(drop)
    }

    /// Writes a damaged header anew from what is good of it; for a context that is not loaded.
    pub(crate) fn repair(&mut self, version: Version) -> Answer<()> {
        let kind: &[u8] = if version == Version::Luks1 { raw::CRYPT_LUKS1 } else { raw::CRYPT_LUKS2 };
        // SAFETY: as in `convert`.
        answer(unsafe { raw::crypt_repair(self.cd, kind.as_ptr().cast(), ptr::null_mut()) }).map(drop)
    }

    /// Writes a copy of the header to a new file.
    pub(crate) fn backup(&mut self, to: &Path) -> Answer<()> {
        let to = c_path(to)?;
        // SAFETY: the context is live and loaded; the path is NUL-terminated; a null type means the one loaded.
        answer(unsafe { raw::crypt_header_backup(self.cd, ptr::null(), to.as_ptr()) }).map(drop)
    }

    /// Sets the UUID.
    pub(crate) fn set_uuid(&mut self, uuid: &str) -> Answer<()> {
        let uuid = c_text(uuid)?;
        // SAFETY: the context is live, the text NUL-terminated.
        answer(unsafe { raw::crypt_set_uuid(self.cd, uuid.as_ptr()) }).map(drop)
    }

    /// Sets label and subsystem of a LUKS2 header; empty removes them.
    pub(crate) fn set_label(&mut self, label: &str, subsystem: &str) -> Answer<()> {
        let (label, subsystem) = (c_text(label)?, c_text(subsystem)?);
        // SAFETY: the context is live, both texts NUL-terminated.
        answer(unsafe { raw::crypt_set_label(self.cd, label.as_ptr(), subsystem.as_ptr()) }).map(drop)
    }

    /// Overwrites a range of a device, in bytes.
    pub(crate) fn wipe(
        &mut self,
        device: &Path,
        pattern: WipePattern,
        range: (u64, u64),
        block: usize,
        progress: Progress<'_>,
    ) -> Answer<Ended> {
        let device = c_path(device)?;
        let pattern = match pattern {
            WipePattern::Zero => raw::crypt_wipe_pattern_CRYPT_WIPE_ZERO,
            WipePattern::Random => raw::crypt_wipe_pattern_CRYPT_WIPE_RANDOM,
        };
        self.long(progress, |cd, user| {
            // SAFETY: context and path are live; `step` matches the callback's type and gets the pointer that `long` made for it.
            unsafe {
                raw::crypt_wipe(cd, device.as_ptr(), pattern, range.0, range.1, block, 0, Some(step), user)
            }
        })
    }
}
