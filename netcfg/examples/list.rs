//! Prints the links of this machine with their addresses, as `ip addr` does. `cargo run -p sankit-netcfg --example list`
#![allow(clippy::print_stdout)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let state = netcfg::Netcfg::new()?.list()?;
    println!("{state:#?}");
    Ok(())
}
