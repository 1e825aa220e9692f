//! Prints targets, portals, LUNs and who is logged in. `cargo run -p sankit-lio --example list`
#![allow(clippy::print_stdout)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lio = lio::Lio::new()?;
    for target in lio.list()? {
        println!("{}", target.iqn);
        for group in &target.groups {
            let portals: Vec<&str> = group.portals.iter().map(|portal| portal.name.as_str()).collect();
            println!("  {} enabled={} {}", group.dir, group.enabled, portals.join(" "));
            for (lun, state) in &group.luns {
                println!("    lun {lun}: {:?}", state.backstore);
            }
        }
        for session in lio.sessions(&target.iqn)? {
            println!("  logged in: {session:?}");
        }
    }
    Ok(())
}
