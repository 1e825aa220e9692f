//! libcryptsetup, as far as this slice needs it: one call a function, each with the reason it is sound.
//!
//! The library is not thread-safe (global state in libdevmapper.c, random.c and the crypto backend), so every call here holds [`LOCK`], but for the key derivation in
//! `unlock`, which touches its own context only.

mod bench;
mod unlock;

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use libcryptsetup_rs_sys as raw;

use crate::header::Version;
use crate::spec::{Discards, FormatSpec, Kdf};

pub(crate) use bench::{activate_plain, benchmark_cipher, benchmark_kdf};
pub(crate) use unlock::{Derivation, activate_with_key, volume_key};

static LOCK: Mutex<()> = Mutex::new(());

thread_local! {
    /// What the library said during the present call on this thread.
    static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A refused call: the errno and what the library said.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) source: io::Error,
    pub(crate) log: Option<String>,
}

type Answer<T> = Result<T, Refused>;

fn refused(code: c_int) -> Refused {
    let said = SAID.with_borrow_mut(std::mem::take);
    let log = (!said.is_empty()).then(|| said.join(" "));
    Refused { source: io::Error::from_raw_os_error(code.saturating_neg()), log }
}

fn answer(code: c_int) -> Answer<c_int> {
    if code < 0 { Err(refused(code)) } else { Ok(code) }
}

/// Takes the lock again in the middle of a call that gave it up.
fn relock() -> MutexGuard<'static, ()> {
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Enters the library: one caller at a time, its words caught instead of printed.
fn enter() -> MutexGuard<'static, ()> {
    static QUIET: Once = Once::new();
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    QUIET.call_once(|| {
        // SAFETY: a null device sets the process-wide sink; the function lives as long as the program and takes no user pointer.
        unsafe { raw::crypt_set_log_callback(ptr::null_mut(), Some(catch), ptr::null_mut()) };
    });
    SAID.with_borrow_mut(Vec::clear);
    guard
}

extern "C" fn catch(_level: c_int, message: *const c_char, _user: *mut c_void) {
    if message.is_null() {
        return;
    }
    // SAFETY: the library passes a NUL-terminated text that lives during this call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().trim().to_owned();
    // Unwinding must not cross into C: neither push nor borrow panics here, the cell is never held during a call into the library.
    SAID.with(|said| {
        if let Ok(mut said) = said.try_borrow_mut() {
            said.push(text);
        }
    });
}

fn c_text(text: &str) -> Answer<CString> {
    CString::new(text).map_err(|_| Refused { source: io::ErrorKind::InvalidInput.into(), log: None })
}

fn c_path(path: &Path) -> Answer<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Refused { source: io::ErrorKind::InvalidInput.into(), log: None })
}

/// A device context of the library; freed when dropped. Only ever used on the thread that made it, under the lock.
struct Context(*mut raw::crypt_device);

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the pointer came from crypt_init and is freed once.
        unsafe { raw::crypt_free(self.0) };
    }
}

fn open_context(device: &Path) -> Answer<Context> {
    let path = c_path(device)?;
    let mut context = ptr::null_mut();
    // SAFETY: both pointers are live; on success the library stores a new context, which is owned here from then on.
    answer(unsafe { raw::crypt_init(&raw mut context, path.as_ptr()) })?;
    Ok(Context(context))
}

fn loaded(device: &Path) -> Answer<Context> {
    let context = open_context(device)?;
    // SAFETY: the context is live; a null type means any LUKS version, null parameters are allowed for LUKS.
    answer(unsafe { raw::crypt_load(context.0, ptr::null(), ptr::null_mut()) })?;
    Ok(context)
}

/// Opens a volume under a name.
pub(crate) fn activate(device: &Path, name: &str, passphrase: &[u8], discards: Discards) -> Answer<()> {
    let _guard = enter();
    let context = loaded(device)?;
    let name = c_text(name)?;
    let flags = if discards == Discards::Allowed { raw::CRYPT_ACTIVATE_ALLOW_DISCARDS } else { 0 };
    // SAFETY: the context is live and loaded; name is NUL-terminated; passphrase is a live slice of that length.
    let code = unsafe {
        raw::crypt_activate_by_passphrase(
            context.0,
            name.as_ptr(),
            raw::CRYPT_ANY_SLOT,
            passphrase.as_ptr().cast(),
            passphrase.len(),
            flags,
        )
    };
    answer(code).map(drop)
}

/// Checks a passphrase; the key slot it opens.
pub(crate) fn check(device: &Path, passphrase: &[u8]) -> Answer<c_int> {
    let _guard = enter();
    let context = loaded(device)?;
    // SAFETY: as in `activate`; a null name only checks.
    answer(unsafe {
        raw::crypt_activate_by_passphrase(
            context.0,
            ptr::null(),
            raw::CRYPT_ANY_SLOT,
            passphrase.as_ptr().cast(),
            passphrase.len(),
            0,
        )
    })
}

/// Closes a mapping.
pub(crate) fn deactivate(name: &str) -> Answer<()> {
    let _guard = enter();
    let name = c_text(name)?;
    // SAFETY: a null context is allowed: the library looks the mapping up by its name, which is NUL-terminated.
    answer(unsafe { raw::crypt_deactivate(ptr::null_mut(), name.as_ptr()) }).map(drop)
}

/// Writes a copy of the header to a new file.
pub(crate) fn backup(device: &Path, to: &Path) -> Answer<()> {
    let _guard = enter();
    let context = loaded(device)?;
    let to = c_path(to)?;
    // SAFETY: the context is live and loaded; the path is NUL-terminated; a null type means the one loaded.
    answer(unsafe { raw::crypt_header_backup(context.0, ptr::null(), to.as_ptr()) }).map(drop)
}

/// Writes a new header with one key slot for the passphrase.
pub(crate) fn format(device: &Path, spec: &FormatSpec, passphrase: &[u8]) -> Answer<()> {
    let _guard = enter();
    let context = open_context(device)?;
    let (cipher, mode) = spec.cipher.split_once('-').unwrap_or((&spec.cipher, "cbc-plain"));
    let (cipher, mode, hash) = (c_text(cipher)?, c_text(mode)?, c_text(&spec.hash)?);
    let uuid = spec.uuid.as_ref().map(|uuid| c_text(uuid.as_str())).transpose()?;
    let uuid = uuid.as_ref().map_or(ptr::null(), |uuid| uuid.as_ptr());
    let label = c_text(&spec.label)?;
    let key_bytes = usize::try_from(spec.key_bits / 8).unwrap_or(0);
    let kdf_name = match spec.kdf {
        Kdf::Argon2id { .. } | Kdf::Argon2idFixed { .. } => c"argon2id",
        Kdf::Pbkdf2 { .. } | Kdf::Pbkdf2Fixed { .. } => c"pbkdf2",
    };
    let millis = |time: std::time::Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let mut kdf = raw::crypt_pbkdf_type {
        type_: kdf_name.as_ptr(),
        hash: hash.as_ptr(),
        time_ms: 0,
        iterations: 0,
        max_memory_kb: 0,
        parallel_threads: 0,
        flags: 0,
    };
    match spec.kdf {
        Kdf::Argon2id { time, memory_kib } => {
            (kdf.time_ms, kdf.max_memory_kb, kdf.parallel_threads) = (millis(time), memory_kib, 4);
        }
        Kdf::Argon2idFixed { passes, memory_kib, lanes } => {
            (kdf.iterations, kdf.max_memory_kb, kdf.parallel_threads) = (passes, memory_kib, lanes);
            kdf.flags = raw::CRYPT_PBKDF_NO_BENCHMARK;
        }
        Kdf::Pbkdf2 { time } => kdf.time_ms = millis(time),
        Kdf::Pbkdf2Fixed { iterations } => {
            kdf.iterations = iterations;
            kdf.flags = raw::CRYPT_PBKDF_NO_BENCHMARK;
        }
    }
    // SAFETY: the context is live; kdf and the texts it points to live during the call, which copies them.
    answer(unsafe { raw::crypt_set_pbkdf_type(context.0, &raw const kdf) })?;
    let code = match spec.version {
        Version::Luks1 => {
            let mut params =
                raw::crypt_params_luks1 { hash: hash.as_ptr(), data_alignment: 0, data_device: ptr::null() };
            // SAFETY: every pointer is to a live, NUL-terminated text or a live structure; a null key makes the library create one.
            unsafe {
                raw::crypt_format(
                    context.0,
                    raw::CRYPT_LUKS1.as_ptr().cast(),
                    cipher.as_ptr(),
                    mode.as_ptr(),
                    uuid,
                    ptr::null(),
                    key_bytes,
                    (&raw mut params).cast(),
                )
            }
        }
        Version::Luks2 => {
            let mut params = raw::crypt_params_luks2 {
                pbkdf: &raw const kdf,
                integrity: ptr::null(),
                integrity_params: ptr::null(),
                data_alignment: 0,
                data_device: ptr::null(),
                sector_size: spec.sector_size.unwrap_or(0),
                label: if spec.label.is_empty() { ptr::null() } else { label.as_ptr() },
                subsystem: ptr::null(),
            };
            // SAFETY: as above.
            unsafe {
                raw::crypt_format(
                    context.0,
                    raw::CRYPT_LUKS2.as_ptr().cast(),
                    cipher.as_ptr(),
                    mode.as_ptr(),
                    uuid,
                    ptr::null(),
                    key_bytes,
                    (&raw mut params).cast(),
                )
            }
        }
    };
    answer(code)?;
    // SAFETY: the context was just formatted and holds its volume key, which a null key refers to; passphrase is a live slice of that length.
    answer(unsafe {
        raw::crypt_keyslot_add_by_volume_key(
            context.0,
            raw::CRYPT_ANY_SLOT,
            ptr::null(),
            0,
            passphrase.as_ptr().cast(),
            passphrase.len(),
        )
    })
    .map(drop)
}

/// Whether this process is root as far as device-mapper is concerned.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and always succeeds.
    unsafe { libc::geteuid() == 0 }
}
