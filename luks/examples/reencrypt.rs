//! Gives a volume a new key, and aes-xts with it, while it is in use. Run again it goes on: `reencrypt DEVICE PASSPHRASE-FILE...`
//!
//! For an old LUKS1 volume call `reencrypt DEVICE FILE...` after `Volume::convert`; the first error says so.
#![allow(clippy::print_stdout)] // It is a program.

use std::ops::ControlFlow;

use luks::{Cipher, Progress, ReencryptSpec, Secret, Volume};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let volume = Volume::at(args.next().ok_or("which device?")?);
    let secrets = args.map(Secret::read).collect::<Result<Vec<_>, _>>()?;
    let first = secrets.first().ok_or("which passphrases?")?;
    let show = |p: Progress| {
        println!("{} of {}", p.done, p.total);
        ControlFlow::Continue(())
    };
    let outcome = match volume.reencryption()? {
        Some(_) => volume.resume_reencrypt(first, None, show)?,
        None => {
            let spec = ReencryptSpec::new().with_cipher(Cipher::aes_xts(), 512);
            volume.reencrypt(&spec, &secrets.iter().collect::<Vec<_>>(), show)?
        }
    };
    println!("{outcome:?}");
    Ok(())
}
