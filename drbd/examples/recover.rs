//! What to do about a split brain of a resource: shows the generations, and whether one is to be suspected.
//! `cargo run -p sankit-drbd --example recover -- r0`
#![allow(clippy::print_stdout)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("which resource?")?.parse()?;
    let drbd = drbd::Drbd::new()?;
    for found in drbd.generations(&name)? {
        println!(
            "volume {}: {:016X}, bitmap {:016X}, history {:X?}",
            found.volume, found.current, found.bitmap, found.history
        );
    }
    match drbd.suspected_split_brain(&name)?.len() {
        0 => println!("no reason to suspect a split brain"),
        n => println!(
            "{n} volumes have changes that the peer lacks, and nothing connects: Drbd::recover on both sides ends it"
        ),
    }
    Ok(())
}
