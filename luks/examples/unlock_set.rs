//! Checks one passphrase on several volumes at once: `unlock_set KEY-FILE DEVICE...` Opens nothing.
#![allow(clippy::print_stdout)] // It is a program.

use luks::unlock::{Purpose, UnlockSet};
use luks::{Luks, MappingSpec, Secret, Source};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args_os().skip(1);
    let key = Secret::read(words.next().ok_or("the first word is a key file")?)?;
    let spec = |(n, device): (usize, std::ffi::OsString)| -> Result<_, luks::unlock::ParseError> {
        Ok(MappingSpec::new(format!("volume{n}").parse()?, Source::Path(device.into())))
    };
    let specs = words.enumerate().map(spec).collect::<Result<Vec<_>, _>>()?;
    for report in UnlockSet::new(specs).with_purpose(Purpose::Check).run(&Luks::new()?, &[key])? {
        println!("{}: {}", report.name, report.outcome);
    }
    Ok(())
}
