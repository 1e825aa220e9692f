//! Claims an address and tells the network, as `ip addr add` and `arping -A` do. Needs root.
//! `cargo run -p sankit-netcfg --example announce -- eth0.24 10.1.24.10/24`
#![allow(clippy::print_stdout)]

use netcfg::{FloatingAddr, Host};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [link, address] = words.as_slice() else { return Err("give interface and address/length".into()) };
    let host = Host::live();
    let floating = FloatingAddr::new(link.parse()?, address.parse()?);
    floating.claim(&host)?;
    floating.announce(&host)?;
    println!("{address} is on {link}");
    Ok(())
}
