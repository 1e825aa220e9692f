//! What the tests on regular files and those in a guest share.
#![allow(dead_code, clippy::expect_used, clippy::disallowed_types, clippy::disallowed_methods)] // It is for tests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use luks::{FormatSpec, Kdf, KeyslotSpec, WeakKdf};

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Cheap to derive: what is tested is not how long guessing takes.
pub(crate) const QUICK: Kdf = Kdf::Pbkdf2Fixed { iterations: 1000 };

/// A LUKS2 volume with a cheap key derivation.
pub(crate) fn quick2() -> FormatSpec {
    FormatSpec::luks2().with_kdf(QUICK).with_weak_kdf(WeakKdf::Allowed)
}

/// A LUKS1 volume, as article 1's are: aes-cbc-essiv:sha256.
pub(crate) fn quick1() -> FormatSpec {
    let cipher = "aes-cbc-essiv:sha256".parse().expect("a cipher");
    FormatSpec::luks1().with_cipher(cipher, 256).with_kdf(QUICK).with_weak_kdf(WeakKdf::Allowed)
}

/// A key slot with a cheap derivation.
pub(crate) fn slot() -> KeyslotSpec {
    KeyslotSpec::new().with_kdf(QUICK).with_weak_kdf(WeakKdf::Allowed)
}

/// An image of 32 MiB.
pub(crate) fn image(dir: &Path, name: &str) -> std::io::Result<PathBuf> {
    let path = dir.join(name);
    std::fs::File::create(&path)?.set_len(32 << 20)?;
    Ok(path)
}

/// Runs `cryptsetup` with a passphrase on its standard input; its standard output if it succeeds. `None` where it is not installed.
pub(crate) fn cryptsetup(args: &[&str], stdin: &str) -> Option<Result<String, String>> {
    let spawned = Command::new("cryptsetup")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            return None;
        }
    };
    // It may not read it.
    drop(child.stdin.take().expect("a pipe").write_all(stdin.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("cryptsetup {args:?}: {}: {}", output.status, text(&output.stderr))),
    })
}

/// As [`cryptsetup`], where it must be there.
pub(crate) fn peer(args: &[&str], stdin: &str) -> Result<String, String> {
    cryptsetup(args, stdin).unwrap_or_else(|| Err("cryptsetup is not installed".to_owned()))
}

/// Whether `cryptsetup` opens a volume with a passphrase.
pub(crate) fn peer_opens(device: &Path, passphrase: &str) -> bool {
    let device = device.to_str().expect("text");
    peer(&["open", "--test-passphrase", "--key-file", "-", device], passphrase).is_ok()
}

pub(crate) fn has_peer() -> bool {
    cryptsetup(&["--version"], "").is_some()
}
