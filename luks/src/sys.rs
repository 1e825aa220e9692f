//! libcryptsetup: one call a function, each with the reason it is sound.
//!
//! The library is not thread-safe: it has global state in libdevmapper.c, random.c, the crypto backend and the token handlers. So there is one
//! lock a process, and a [`Session`] holds it from the first call to the last: a context cannot be used without it, nor by another thread (the
//! guard is not `Send`). Two things give it up in between: a key derivation ([`Session::volume_key`]), which touches nothing but its own context,
//! and the progress of a long call, between two of its steps.

mod activate;
mod bench;
mod format;
mod keyslot;
mod machine;
mod reencrypt;
mod token;

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use libcryptsetup_rs_sys as raw;

use crate::spec::Place;

pub(crate) use activate::deactivate;
pub(crate) use bench::{activate_plain, benchmark_cipher, benchmark_kdf};
pub(crate) use keyslot::SlotStatus;
pub(crate) use machine::{drop_cache, is_root, keyring_secret};
pub(crate) use reencrypt::ReencryptRequest;

/// Any key slot, or any token: the library looks for one.
pub(crate) const ANY: c_int = raw::CRYPT_ANY_SLOT;

/// Only goes on with a reencryption that has begun.
pub(crate) const RESUME_ONLY: u32 = raw::CRYPT_REENCRYPT_RESUME_ONLY;

/// Closes a mapping when its last user has gone, and takes that back.
pub(crate) const DEFERRED: u32 = raw::CRYPT_DEACTIVATE_DEFERRED;
pub(crate) const DEFERRED_CANCEL: u32 = raw::CRYPT_DEACTIVATE_DEFERRED_CANCEL;

/// A reencryption that stopped between two parts, and one that stopped within a part.
pub(crate) const CLEAN: u32 = raw::crypt_reencrypt_info_CRYPT_REENCRYPT_CLEAN;
pub(crate) const CRASH: u32 = raw::crypt_reencrypt_info_CRYPT_REENCRYPT_CRASH;

/// The levels of what the library says; debugging has negative ones.
pub(crate) const LOG_NORMAL: u32 = raw::CRYPT_LOG_NORMAL;
pub(crate) const LOG_ERROR: u32 = raw::CRYPT_LOG_ERROR;
pub(crate) const LOG_VERBOSE: u32 = raw::CRYPT_LOG_VERBOSE;

static LOCK: Mutex<()> = Mutex::new(());

thread_local! {
    /// What the library said during the present call on this thread.
    static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// Whether this thread is in the library: a second session of the same thread would wait for the first one for ever.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A refused call: the errno and what the library said.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) source: io::Error,
    pub(crate) log: Option<String>,
}

impl Refused {
    /// The errno; 0 if the call did not come to have one.
    pub(crate) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or_default()
    }
}

pub(crate) type Answer<T> = Result<T, Refused>;

/// Who hears what the library says of one object: its level (0 normal, 1 error, 2 verbose, negative debug) and the text.
pub(crate) type Log = Arc<dyn Fn(i32, &str) + Send + Sync>;

/// Who hears how far a long call is, and may stop it: bytes done, bytes in all.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

fn refused(code: c_int) -> Refused {
    let said = SAID.with_borrow_mut(std::mem::take);
    let log = (!said.is_empty()).then(|| said.join(" "));
    Refused { source: io::Error::from_raw_os_error(code.saturating_neg()), log }
}

fn invalid() -> Refused {
    Refused { source: io::ErrorKind::InvalidInput.into(), log: None }
}

fn answer(code: c_int) -> Answer<c_int> {
    if code < 0 { Err(refused(code)) } else { Ok(code) }
}

/// The lock of the library, held by this thread.
struct Guard(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Drop for Guard {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// Enters the library: one caller at a time, its words caught instead of printed.
fn enter() -> Guard {
    let guard = lock();
    SAID.with_borrow_mut(Vec::clear);
    guard
}

fn lock() -> Guard {
    static QUIET: Once = Once::new();
    debug_assert!(!INSIDE.get(), "a session of this thread is still there");
    let guard = Guard(LOCK.lock().unwrap_or_else(PoisonError::into_inner));
    INSIDE.set(true);
    QUIET.call_once(|| {
        // SAFETY: a null device sets the process-wide sink; the function lives as long as the program and takes no user pointer.
        unsafe { raw::crypt_set_log_callback(ptr::null_mut(), Some(catch), ptr::null_mut()) };
    });
    guard
}

extern "C" fn catch(level: c_int, message: *const c_char, user: *mut c_void) {
    if message.is_null() {
        return;
    }
    // SAFETY: the library passes a NUL-terminated text that lives during this call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().trim().to_owned();
    // SAFETY: the user pointer is null for the process-wide sink, else the Log of a Session, which outlives its context.
    let log = unsafe { user.cast::<Log>().as_ref() };
    if let Some(log) = log {
        // Unwinding must not cross into C.
        drop(catch_unwind(AssertUnwindSafe(|| log(level, &text))));
    }
    // Neither borrow nor push panics here: the cell is never held during a call into the library.
    SAID.with(|said| {
        if let Ok(mut said) = said.try_borrow_mut()
            && level >= 0
        {
            said.push(text);
        }
    });
}

fn c_text(text: &str) -> Answer<CString> {
    CString::new(text).map_err(|_| invalid())
}

fn c_path(path: &Path) -> Answer<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| invalid())
}

/// The pointer of an optional text: null for none.
fn or_null(text: Option<&CString>) -> *const c_char {
    text.map_or(ptr::null(), |text| text.as_ptr())
}

/// The text the library keeps at a place; `None` for null.
fn text_of(place: *const c_char) -> Option<String> {
    if place.is_null() {
        return None;
    }
    // SAFETY: it is not null, and the library's texts are NUL-terminated and live as long as the context they were asked of.
    Some(unsafe { CStr::from_ptr(place) }.to_string_lossy().into_owned())
}

/// One context of the library, with the lock that makes its use safe.
pub(crate) struct Session {
    cd: *mut raw::crypt_device,
    /// The context's log has the address of what is in this box.
    _log: Option<Box<Log>>,
    /// Declared last: released after the context is freed.
    guard: Option<Guard>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.guard.get_or_insert_with(lock);
        // SAFETY: the pointer came from one of crypt_init*, nobody else has it, and it is freed once, under the lock.
        unsafe { raw::crypt_free(self.cd) };
    }
}

impl Session {
    fn with(
        log: Option<&Log>,
        init: impl FnOnce(&mut *mut raw::crypt_device) -> Answer<c_int>,
    ) -> Answer<Self> {
        let guard = enter();
        let mut cd = ptr::null_mut();
        init(&mut cd)?;
        let log = log.map(|log| Box::new(Arc::clone(log)));
        if let Some(log) = &log {
            let user = ptr::from_ref(&**log).cast_mut().cast();
            // SAFETY: the context is live; the box lives as long as it and `catch` only reads what is in it.
            unsafe { raw::crypt_set_log_callback(cd, Some(catch), user) };
        }
        Ok(Self { cd, _log: log, guard: Some(guard) })
    }

    /// A context of a device that is not looked at yet; `crypt_init_data_device`.
    pub(crate) fn init(place: Place<'_>, log: Option<&Log>) -> Answer<Self> {
        let device = c_path(place.device)?;
        let header = place.header.map(c_path).transpose()?;
        Self::with(log, |cd| match &header {
            // SAFETY: both pointers are live; on success the library stores a new context, which is owned here from then on.
            None => answer(unsafe { raw::crypt_init(cd, device.as_ptr()) }),
            Some(header) => {
                // SAFETY: as above.
                answer(unsafe { raw::crypt_init_data_device(cd, header.as_ptr(), device.as_ptr()) })
            }
        })
    }

    /// A context of a device with a LUKS header, which is read; `crypt_load`. A damaged copy of a LUKS2 header is repaired by that if the
    /// other one is good and the device can be written.
    pub(crate) fn load(place: Place<'_>, log: Option<&Log>) -> Answer<Self> {
        let session = Self::init(place, log)?;
        // SAFETY: the context is live; a null type means any LUKS version, null parameters are allowed for LUKS.
        answer(unsafe { raw::crypt_load(session.cd, ptr::null(), ptr::null_mut()) })?;
        Ok(session)
    }

    /// The context of an open mapping; `crypt_init_by_name_and_header`.
    pub(crate) fn by_name(name: &str, header: Option<&Path>, log: Option<&Log>) -> Answer<Self> {
        let name = c_text(name)?;
        let header = header.map(c_path).transpose()?;
        Self::with(log, |cd| {
            // SAFETY: the pointers are to a live place and live texts; a null header means that of the mapping's own device.
            answer(unsafe { raw::crypt_init_by_name_and_header(cd, name.as_ptr(), or_null(header.as_ref())) })
        })
    }

    /// Runs something that only touches this context, without the lock.
    fn unlocked<T>(&mut self, run: impl FnOnce(*mut raw::crypt_device) -> T) -> T {
        self.guard = None;
        let result = run(self.cd);
        self.guard = Some(lock());
        result
    }

    /// Does something that is none of the library's business, without the lock.
    pub(crate) fn apart<T>(&mut self, run: impl FnOnce() -> T) -> T {
        self.unlocked(|_| run())
    }

    /// Calls something long with a progress callback, which lets other callers in between two of its steps.
    fn long(
        &mut self,
        progress: Progress<'_>,
        run: impl FnOnce(*mut raw::crypt_device, *mut c_void) -> c_int,
    ) -> Answer<Ended> {
        let mut watched = Watched { progress, guard: &mut self.guard, stopped: false };
        let code = run(self.cd, ptr::from_mut(&mut watched).cast());
        let stopped = watched.stopped;
        match answer(code) {
            // Whatever code the library makes of a progress that says stop: it stopped because of that, after cleaning up.
            Ok(_) if !stopped => Ok(Ended::Finished),
            Err(refused) if !stopped => Err(refused),
            _ => Ok(Ended::Stopped),
        }
    }

    /// The header's LUKS2 metadata; `crypt_dump_json`.
    pub(crate) fn json(&mut self) -> Answer<String> {
        let mut text = ptr::null();
        // SAFETY: the context is live; the library stores a pointer to a text of its own, which is copied below before anything else is called.
        answer(unsafe { raw::crypt_dump_json(self.cd, &raw mut text, 0) })?;
        text_of(text).ok_or_else(invalid)
    }

    /// Whether the header read is LUKS2 (else LUKS1).
    pub(crate) fn is_luks2(&self) -> bool {
        // SAFETY: the context is live; the answer is null or a text of the library's.
        text_of(unsafe { raw::crypt_get_type(self.cd) }).as_deref() == Some("LUKS2")
    }

    /// The UUID of what is loaded.
    pub(crate) fn uuid(&self) -> Option<String> {
        // SAFETY: as in `is_luks2`.
        text_of(unsafe { raw::crypt_get_uuid(self.cd) })
    }

    /// The size of the volume key in bytes.
    pub(crate) fn volume_key_size(&self) -> Answer<usize> {
        // SAFETY: the context is live.
        let size = unsafe { raw::crypt_get_volume_key_size(self.cd) };
        usize::try_from(answer(size)?).map_err(|_| invalid())
    }
}

/// How a long call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Finished,
    Stopped,
}

struct Watched<'a> {
    progress: Progress<'a>,
    guard: &'a mut Option<Guard>,
    stopped: bool,
}

extern "C" fn step(size: u64, offset: u64, user: *mut c_void) -> c_int {
    // SAFETY: `Session::long` passes a live Watched for the time of the call, and the library calls back on the same thread.
    let Some(watched) = (unsafe { user.cast::<Watched<'_>>().as_mut() }) else { return 1 };
    *watched.guard = None;
    // A progress that panics must not unwind into C: it counts as a wish to stop.
    let verdict = catch_unwind(AssertUnwindSafe(|| (watched.progress)(offset, size)));
    *watched.guard = Some(lock());
    watched.stopped = !matches!(verdict, Ok(ControlFlow::Continue(())));
    c_int::from(watched.stopped)
}
