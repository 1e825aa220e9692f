//! Keeps a volume's header, says what a kept one still opens, or restores it.
//!
//! `header DEVICE backup FILE`, `header DEVICE compare FILE`, `header DEVICE restore FILE KEEP-FILE`, `header DEVICE repair`
#![allow(clippy::print_stdout)] // It is a program.

use luks::{Backup, Overwrite, Volume};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let volume = Volume::at(words.first().ok_or("which device?")?);
    match words.get(1..).unwrap_or_default() {
        ["backup", file] => println!("{:?}", volume.backup(file)?),
        ["compare", file] => {
            for slot in Backup::open(file)?.compare(&volume)? {
                println!("{slot:?}");
            }
        }
        ["restore", file, keep] => println!("{:?}", volume.restore(file, keep, Overwrite::Never)?),
        ["repair"] => println!("{}", volume.repair()?),
        other => return Err(format!("{other:?}: backup, compare, restore or repair").into()),
    }
    Ok(())
}
