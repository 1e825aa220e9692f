//! Prints the multipath maps with all that they lead through, as `multipath -ll` does and further: session, portal, card, health.
//! `cargo run -p sankit-multipath --example list`, with `-- json` as JSON.
#![allow(clippy::print_stdout)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let topology = multipath::Initiator::new()?.topology()?;
    match std::env::args().nth(1).as_deref() {
        Some("json") => println!("{}", topology.to_json()?),
        _ => print!("{topology}"),
    }
    Ok(())
}
