//! How fast this machine derives a key and encrypts in memory.
#![allow(clippy::print_stdout)] // It is a program.

use std::time::Duration;

use luks::bench::{self, Cipher};

fn main() -> luks::Result<()> {
    let cost = bench::kdf("argon2id", "sha256", Duration::from_secs(1), 256 * 1024)?;
    println!("argon2id in 1 s: {} passes of {} KiB, {} lanes", cost.iterations, cost.memory_kib, cost.lanes);
    for cipher in Cipher::ALL {
        match bench::cipher(&cipher)? {
            Some(t) => println!("{cipher}: {:.0} MiB/s in, {:.0} MiB/s out", t.write, t.read),
            None => println!("{cipher}: this kernel cannot say"),
        }
    }
    Ok(())
}
