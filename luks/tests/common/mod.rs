//! What several tests of this crate need: images of headers, made by hand or by `cryptsetup`.
#![allow(dead_code, unreachable_pub)] // Each test uses some of it.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::indexing_slicing
)] // It is a test.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::Digest;

/// The corpus of a fuzz target: names and bytes, sorted.
pub fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let read = |entry: io::Result<std::fs::DirEntry>| -> io::Result<_> {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?))
    };
    let mut files: Vec<_> = entries.map(read).collect::<io::Result<_>>().expect("can be read");
    files.sort();
    assert!(files.len() > 10, "{} has {} files", dir.display(), files.len());
    files
}

/// Both copies of a LUKS2 header of 16 KiB each around this JSON, with right checksums.
pub fn luks2_around(json: &[u8]) -> Vec<u8> {
    let mut area = json.to_vec();
    area.resize(12 * 1024, 0);
    [(0_u64, b"LUKS\xba\xbe"), (0x4000, b"SKUL\xba\xbe")]
        .into_iter()
        .flat_map(|(place, magic)| {
            let mut head = vec![0; 4096];
            let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
            put(0, magic);
            put(6, &2_u16.to_be_bytes());
            put(8, &0x4000_u64.to_be_bytes());
            put(16, &3_u64.to_be_bytes());
            put(72, b"sha256");
            put(168, b"1bd1f798-d105-4150-841b-f2751f419efc");
            put(256, &place.to_be_bytes());
            let sum = sha2::Sha256::new().chain_update(&head).chain_update(&area).finalize();
            head[448..480].copy_from_slice(&sum);
            [head, area.clone()].concat()
        })
        .collect()
}

/// Makes a file of that size with these first bytes.
pub fn image(path: &Path, size: u64, head: &[u8]) -> io::Result<()> {
    std::fs::write(path, head)?;
    std::fs::OpenOptions::new().write(true).open(path)?.set_len(size)
}

/// Runs `cryptsetup`; whether it succeeded, and what it printed.
pub fn cryptsetup(args: &[&str]) -> (bool, String) {
    let output = Command::new("cryptsetup").args(args).output().expect("cryptsetup runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), text.concat())
}

/// Why `cryptsetup` cannot be asked, if it cannot.
pub fn no_cryptsetup() -> Option<&'static str> {
    let is_there = Command::new("cryptsetup").arg("--version").output().is_ok();
    (!is_there).then_some("cryptsetup is not installed (package cryptsetup-bin)")
}

/// Runs `cryptsetup` and expects success.
pub fn must(args: &[&str]) -> String {
    let (ok, text) = cryptsetup(args);
    assert!(ok, "cryptsetup {args:?}: {text}");
    text
}

/// A new volume by `cryptsetup luksFormat` on a sparse file, with cheap PBKDF2 and the passphrase "skull".
pub fn made(dir: &Path, name: &str, extra: &[&str]) -> PathBuf {
    let (path, key) = (dir.join(name), key_file(dir, "skull"));
    std::fs::File::create(&path).and_then(|file| file.set_len(40 << 20)).expect("a file");
    let fixed = ["luksFormat", "--batch-mode", "--key-file", &key];
    must(&[&fixed, extra, &[path.to_str().expect("UTF-8")]].concat());
    path
}

/// A file with a passphrase.
pub fn key_file(dir: &Path, passphrase: &str) -> String {
    let path = dir.join(format!("{passphrase}.key"));
    std::fs::write(&path, passphrase).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

/// The options that make a passphrase cheap to check.
pub const CHEAP: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
