//! `luks-ls` as a program, on images.
#![allow(clippy::expect_used, clippy::panic)] // It is a test.

use std::path::Path;
use std::process::Command;

use luks::{FormatSpec, Kdf, KeyslotSpec, Overwrite, ReencryptSpec, Secret, Volume, WeakKdf};

type Done = Result<(), Box<dyn std::error::Error>>;

const QUICK: Kdf = Kdf::Pbkdf2Fixed { iterations: 1000 };

fn run(arguments: &[&Path]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_luks-ls")).args(arguments).output().expect("runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn it_tells_which_keys_a_backup_still_opens() -> Done {
    let dir = tempfile::tempdir()?;
    let (disk, file) = (dir.path().join("disk"), dir.path().join("backup"));
    std::fs::File::create(&disk)?.set_len(32 << 20)?;
    let (volume, old, new) = (Volume::at(&disk), Secret::from("old"), Secret::from("new"));
    let spec = FormatSpec::luks2().with_kdf(QUICK).with_weak_kdf(WeakKdf::Allowed);
    volume.format(&spec, &old, Overwrite::Never)?;
    volume.backup(&file)?;
    let ask = || run(&[Path::new("--backup"), &file, &disk]);
    let (code, text) = ask();
    assert!(code == Some(0) && text.contains("slot 0\tin use on the disk, too"), "{text}");
    volume.change_key(&old, &new, &KeyslotSpec::new().with_kdf(QUICK).with_weak_kdf(WeakKdf::Allowed))?;
    let (code, text) = ask();
    assert!(code == Some(1) && text.contains("slot 0\tREVOKED"), "{text}");
    // Only a new volume key ends that.
    let spec = ReencryptSpec::new().with_kdf(QUICK).with_weak_kdf(WeakKdf::Allowed);
    volume.reencrypt(&spec, &[&new], |_| std::ops::ControlFlow::Continue(()))?;
    let (code, text) = ask();
    assert!(code == Some(0) && text.contains("slot 0\tdead"), "{text}");
    let (code, text) = run(&[Path::new("--backup"), &disk, &dir.path().join("none")]);
    assert!(code == Some(1) && text.contains("none"), "{text}");
    let (code, text) = run(&[Path::new("--backup"), &file]);
    assert!(code == Some(2) && text.contains("DEVICES"), "{text}");
    Ok(())
}
