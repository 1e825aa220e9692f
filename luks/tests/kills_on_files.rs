//! A rotation of a passphrase killed at many moments, on regular files.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)] // It is a test.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod kit;

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use kit::{image, quick1, quick2, slot};
use libtest_mimic::{Arguments, Failed, Trial};
use luks::{Overwrite, Secret, Volume};

/// Set for a child that rotates the passphrase of this volume, and is killed.
const CHILD: &str = "SANKIT_LUKS_DEVICE";
const KILLS: u32 = 10;

fn main() -> ExitCode {
    if let Ok(device) = std::env::var(CHILD) {
        let changed = Volume::at(device).change_key(Secret::from("a"), &Secret::from("b"), &slot());
        if let Err(error) = &changed {
            println!("{error}");
        }
        return if changed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let trials = vec![Trial::test("a_key_opens_after_each_kill_of_a_rotation", kills)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn start(device: &Path) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?).env(CHILD, device).stdout(Stdio::piped()).spawn()
}

fn rotate(device: &Path) -> Result<(), Failed> {
    let output = start(device)?.wait_with_output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stdout).into_owned().into()),
    }
}

fn kills() -> Result<(), Failed> {
    let (a, b) = (Secret::from("a"), Secret::from("b"));
    for spec in [quick2(), quick1()] {
        let dir = tempfile::tempdir()?;
        let device = image(dir.path(), "disk")?;
        let volume = Volume::at(&device);
        let fresh = || volume.format(&spec, &a, Overwrite::Always);
        fresh()?;
        let began = Instant::now();
        rotate(&device)?;
        let whole = began.elapsed();
        let (mut both, mut torn, mut killed) = (0, 0, 0);
        for n in 0..KILLS {
            fresh()?;
            let key = volume.volume_key(&a)?;
            let mut child = start(&device)?;
            // Moments all over the time that it takes: a sleep is what is tested here.
            std::thread::sleep(Duration::min(whole, whole * n / KILLS));
            child.kill()?;
            killed += u32::from(child.wait()?.code().is_none());
            let opens = |secret: &Secret| volume.volume_key(secret).is_ok_and(|k| k == key);
            let (old, new) = (opens(&a), opens(&b));
            assert!(old || new, "{:?}: kill {n}: no key opens the volume", spec.version);
            both += u32::from(old && new);
            // The same call again gets there, and leaves nothing over.
            let again = rotate(&device);
            assert!(again.is_ok(), "{:?}, kill {n}, {old} {new}: {again:?}", spec.version);
            assert!(!opens(&a) && opens(&b), "{:?}, kill {n}", spec.version);
            // What is left of a slot that was being wiped opens with nothing, and can be removed.
            if let [_, _] = volume.keyslots()?.as_slice() {
                assert!(!old, "{:?}, kill {n}: the old one was whole", spec.version);
                assert!(volume.remove_key(0, &b)?, "{:?}, kill {n}", spec.version);
                torn += 1;
            }
            assert!(volume.keyslots()?.len() == 1 && opens(&b), "{:?}, kill {n}", spec.version);
        }
        println!(
            "{:?}: {killed} of {KILLS} rotations of {whole:?} were killed, {both} with both keys in place, {torn} in the wipe",
            spec.version
        );
        assert!(killed > 0);
    }
    Ok(())
}
