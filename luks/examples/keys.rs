//! Lists, adds, changes or removes passphrases of a volume. Each is read from a file; none is ever an argument.
//!
//! `keys DEVICE`, `keys DEVICE add OLD-FILE NEW-FILE`, `keys DEVICE change OLD-FILE NEW-FILE`, `keys DEVICE remove SLOT FILE-OF-ONE-THAT-STAYS`
#![allow(clippy::print_stdout)] // It is a program.

use luks::{KeyslotSpec, Secret, Volume};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let volume = Volume::at(words.first().ok_or("which device?")?);
    match words.get(1..).unwrap_or_default() {
        [] => {
            for slot in volume.keyslots()? {
                println!("{slot:?}");
            }
        }
        ["add", old, new] => {
            let slot = volume.add_key(Secret::read(old)?, &Secret::read(new)?, &KeyslotSpec::new())?;
            println!("key slot {slot}");
        }
        ["change", old, new] => {
            let slot = volume.change_key(Secret::read(old)?, &Secret::read(new)?, &KeyslotSpec::new())?;
            println!("key slot {slot}; header backups made before still open with the old passphrase");
        }
        ["remove", slot, stays] => {
            println!("{}", volume.remove_key(slot.parse()?, Secret::read(stays)?)?);
        }
        other => return Err(format!("{other:?}: add, change or remove").into()),
    }
    Ok(())
}
