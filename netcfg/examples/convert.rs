//! Reads /etc/network/interfaces, or another file, and writes the same network for another program:
//! `convert [FILE] interfaces|networkd|netplan`. What is no setting of the network goes to standard error.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use netcfg::{Host, export, interfaces};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, format) = match arguments.as_slice() {
        [format] => ("/etc/network/interfaces", format),
        [file, format] => (file.as_str(), format),
        _ => return Err("usage: convert [FILE] interfaces|networkd|netplan".into()),
    };
    let imported = interfaces::import_file(Host::live().tree(), file)?;
    for remark in &imported.left_out {
        eprintln!("{remark}");
    }
    match format.as_str() {
        "interfaces" => print!("{}", interfaces::export(&imported.spec)?),
        "networkd" => {
            for file in export::networkd(&imported.spec)? {
                println!("# /etc/systemd/network/{}\n{}", file.name, file.text);
            }
        }
        "netplan" => print!("{}", export::netplan(&imported.spec)?.text),
        other => return Err(format!("{other} is none of interfaces, networkd, netplan").into()),
    }
    Ok(())
}
