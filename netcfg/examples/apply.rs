//! Makes the network as `/etc/network/interfaces` says: `apply FILE`. What ifupdown would do and this crate does not is listed; a second run
//! changes nothing.
#![allow(clippy::print_stdout)] // It is a program.

use std::error::Error;

use netcfg::{Host, Netcfg, interfaces};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "/etc/network/interfaces".to_owned());
    let host = Host::live();
    let imported = interfaces::import_file(host.tree(), &path)?;
    for line in &imported.left_out {
        println!("left out: {line}");
    }
    let net = Netcfg::on(&host)?;
    for finding in net.lint_spec(&imported.spec, &[])? {
        println!("lint: {finding}");
    }
    let plan = net.plan(&imported.spec)?;
    print!("{plan}");
    let changed = net.ensure(&imported.spec)?;
    println!("{}", if changed { "done" } else { "nothing to do" });
    Ok(())
}
