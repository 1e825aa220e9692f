//! Prints which interrupt of which device fires where. `cargo run -p sankit-irqaff --example list`
#![allow(clippy::print_stdout)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for device in irqaff::Irqaff::new()?.list()? {
        println!("{device:#?}");
    }
    Ok(())
}
