//! Prints what would be done to export a device, as shell lines, and does nothing.
//! `cargo run -p sankit-lio --example plan -- iqn.2026-01.com.example:r0 /dev/vdb 10.1.24.10:3260 iqn.2026-01.com.example:hv`
#![allow(clippy::print_stdout)]

use lio::{AclSpec, BackstoreSpec, Lio, TargetSpec};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [target, device, portal, initiator] = words.as_slice() else {
        return Err("give target, device, portal, initiator".into());
    };
    let spec = TargetSpec::new(target.parse()?)
        .with_lun(0, BackstoreSpec::block("example".parse()?, device))
        .with_portal(portal.parse()?)
        .with_acl(AclSpec::new(initiator.parse()?));
    print!("{}", Lio::new()?.plan(&spec)?);
    Ok(())
}
