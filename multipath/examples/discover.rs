//! Asks a portal what it serves, as `iscsiadm -m discovery -t sendtargets` does, without writing any record.
//! `cargo run -p sankit-multipath --example discover -- 10.1.24.10:3260`
#![allow(clippy::print_stdout)]

use std::time::Duration;

use multipath::{Deadline, Initiator};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let portal = std::env::args().nth(1).ok_or("give a portal: address:port")?.parse()?;
    for found in Initiator::new()?.discover(portal, None, Deadline::after(Duration::from_secs(10)))? {
        println!("{found:?}");
    }
    Ok(())
}
