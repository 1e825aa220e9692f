//! The library's benchmarks, and plain mappings with a random key for ours.

use std::path::Path;
use std::ptr;
use std::time::Duration;

use libcryptsetup_rs_sys as raw;

use super::{Answer, Place, Session, answer, c_text, enter};

/// What a benchmark of a key derivation found: iterations, memory in KiB, lanes.
pub(crate) type Cost = (u32, u32, u32);

/// Finds the cost with which a key derivation takes that long here; holds the lock for some seconds.
pub(crate) fn benchmark_kdf(
    kind: &str,
    hash: &str,
    time: Duration,
    memory_kib: u32,
    lanes: u32,
) -> Answer<Cost> {
    let _guard = enter();
    let (kind, hash) = (c_text(kind)?, c_text(hash)?);
    let mut kdf = raw::crypt_pbkdf_type {
        type_: kind.as_ptr(),
        hash: hash.as_ptr(),
        time_ms: u32::try_from(time.as_millis()).unwrap_or(u32::MAX),
        iterations: 0,
        max_memory_kb: memory_kib,
        parallel_threads: lanes,
        flags: 0,
    };
    let (password, salt) = (b"foobarfo", b"0123456789abcdef0123456789abcdef");
    // SAFETY: a null device is allowed; all pointers are to live data of the lengths given; there is no progress callback.
    let code = unsafe {
        raw::crypt_benchmark_pbkdf(
            ptr::null_mut(),
            &raw mut kdf,
            password.as_ptr().cast(),
            password.len(),
            salt.as_ptr().cast(),
            salt.len(),
            64,
            None,
            ptr::null_mut(),
        )
    };
    answer(code)?;
    Ok((kdf.iterations, kdf.max_memory_kb, kdf.parallel_threads))
}

/// How fast the kernel's crypto interface encrypts and decrypts in memory, in MiB/s.
pub(crate) fn benchmark_cipher(cipher: &str, mode: &str, key_bytes: usize) -> Answer<(f64, f64)> {
    let _guard = enter();
    let (cipher, mode) = (c_text(cipher)?, c_text(mode)?);
    let (mut encrypt, mut decrypt) = (0.0, 0.0);
    // SAFETY: a null device is allowed; the texts are NUL-terminated; the results are live.
    let code = unsafe {
        raw::crypt_benchmark(
            ptr::null_mut(),
            cipher.as_ptr(),
            mode.as_ptr(),
            key_bytes,
            16,
            1 << 20,
            &raw mut encrypt,
            &raw mut decrypt,
        )
    };
    answer(code)?;
    Ok((encrypt, decrypt))
}

/// Makes a plain mapping with this key.
pub(crate) fn activate_plain(
    device: &Path,
    name: &str,
    (cipher, mode): (&str, &str),
    key: &[u8],
    sector_size: u32,
    flags: u32,
) -> Answer<()> {
    let session = Session::init(Place::on(device), None)?;
    let (cipher, mode, name) = (c_text(cipher)?, c_text(mode)?, c_text(name)?);
    let mut params = raw::crypt_params_plain { hash: ptr::null(), offset: 0, skip: 0, size: 0, sector_size };
    // SAFETY: the context is live; every pointer is to a live text or structure; plain dm-crypt takes no UUID and no key here, and writes nothing.
    answer(unsafe {
        raw::crypt_format(
            session.cd,
            raw::CRYPT_PLAIN.as_ptr().cast(),
            cipher.as_ptr(),
            mode.as_ptr(),
            ptr::null(),
            ptr::null(),
            key.len(),
            (&raw mut params).cast(),
        )
    })?;
    // SAFETY: the context is live and formatted; name is NUL-terminated; key is a live slice of that length.
    let code = unsafe {
        raw::crypt_activate_by_volume_key(session.cd, name.as_ptr(), key.as_ptr().cast(), key.len(), flags)
    };
    answer(code).map(drop)
}
