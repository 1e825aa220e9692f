//! Prints the multipath maps with their paths, as `multipath -ll` does. `cargo run -p sankit-multipath --example list`
#![allow(clippy::print_stdout)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for map in multipath::Multipath::new()?.list()? {
        println!("{map:#?}");
    }
    Ok(())
}
