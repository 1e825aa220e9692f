//! Says what a disk or file holds already, as `blkid` and `wipefs` do. `cargo run -p sankit-host --example signature -- /dev/vdb`
#![allow(clippy::print_stdout)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args_os().skip(1) {
        let found = host::signature::find(&mut std::fs::File::open(&path)?)?;
        println!("{}: {found:?}", path.to_string_lossy());
    }
    Ok(())
}
