//! Makes a volume with a passphrase from a file: `format DEVICE PASSPHRASE-FILE [LABEL]`. Refuses if anything known is on the device.
#![allow(clippy::print_stdout)] // It is a program.

use luks::{FormatSpec, Overwrite, Secret, Volume};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (device, file) = (args.next().ok_or("which device?")?, args.next().ok_or("which passphrase?")?);
    let spec = FormatSpec::luks2().with_label(args.next().unwrap_or_default());
    println!("{:?}", Volume::at(device).format(&spec, &Secret::read(file)?, Overwrite::Never)?);
    Ok(())
}
