//! Prints each change as it happens, until interrupted. `cargo run -p sankit-drbd --example events`
#![allow(clippy::print_stdout)]

use drbd::Event;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for event in drbd::Drbd::new()?.watch()? {
        match event? {
            Event::Snapshot(all) => println!("{} resources", all.len()),
            Event::Changed { old, new } => println!("{}: {} -> {}", new.name, old.role, new.role),
            other => println!("{other:?}"),
        }
    }
    Ok(())
}
