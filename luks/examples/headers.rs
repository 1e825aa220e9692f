//! What is on the disks of this machine, and whether each copy of each header is whole; or on the devices that are named.
#![allow(clippy::print_stdout)] // It is a program.

use luks::Host;
use luks::header::{Found, Parsed, scan};

fn main() -> luks::Result<()> {
    let host = Host::live();
    let named: Vec<_> = std::env::args_os().skip(1).collect();
    let found = match named.is_empty() {
        true => scan(&host)?,
        false => named.iter().map(|device| Found::look(&host, device.as_ref())).collect::<Result<_, _>>()?,
    };
    for found in found {
        match found.parsed {
            Parsed::Header(header) => {
                println!("{}: {} {}", found.device.display(), header.uuid, header.cipher);
                header.copies.iter().for_each(|copy| println!("  {copy}"));
                header.keyslots.iter().for_each(|slot| println!("  key slot {}: {}", slot.number, slot.kdf));
                header.tokens.iter().for_each(|token| println!("  token {}: {}", token.number, token.kind));
            }
            Parsed::Damaged(copies) => println!("{}: damaged: {copies}", found.device.display()),
            _ => println!("{}: no LUKS header", found.device.display()),
        }
    }
    Ok(())
}
