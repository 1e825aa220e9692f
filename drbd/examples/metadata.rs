//! Shows the metadata of a disk, or as text (`--dump`); `--new` makes some where nothing known is.
//! `cargo run -p sankit-drbd --example metadata -- /dev/vdb`
#![allow(clippy::print_stdout)]

use drbd::{Bytes, Host, MetaDisk, Metadata, MetadataSpec, Minor, Overwrite, Volume, VolumeSpec};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let disk = std::path::PathBuf::from(words.next().ok_or("which disk?")?);
    let host = Host::live();
    match words.next().as_deref() {
        Some("--new") => {
            let volume = VolumeSpec::new(Volume(0), Minor::new(0)?, &disk);
            println!("{:?}", Metadata::create(&host, &volume, Overwrite::Never)?);
        }
        Some("--dump") => {
            Metadata::dump(&host, &disk, &MetaDisk::Internal, &mut std::io::stdout().lock())?;
        }
        _ => match Metadata::find(&host, &disk, &MetaDisk::Internal)? {
            Some(found) => println!("{found:#?}"),
            None => println!("none; of 1 TiB it would take {:?}", MetadataSpec::v08().loss(Bytes(1 << 40))),
        },
    }
    Ok(())
}
