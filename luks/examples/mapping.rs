//! Opens, suspends, resumes, resizes or closes a mapping; without a verb lists all of them.
//!
//! `mapping`, `mapping open NAME DEVICE KEY-FILE`, `mapping suspend NAME`, `mapping resume NAME KEY-FILE`, `mapping resize NAME KEY-FILE`,
//! `mapping close NAME`
#![allow(clippy::print_stdout)] // It is a program.

use luks::{Key, Luks, MappingSpec, Source};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let luks = Luks::new()?;
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {
            for mapping in luks.list()? {
                println!("{mapping:?}");
            }
        }
        ["open", name, device, key] => {
            let spec = MappingSpec::new(name.parse()?, Source::Path(device.into()));
            println!("{}", luks.ensure(&[spec], Key::file(key, 0, None)?)?);
        }
        ["suspend", name] => println!("{}", luks.suspend(&name.parse()?)?),
        ["resume", name, key] => println!("{}", luks.resume(&name.parse()?, None, Key::file(key, 0, None)?)?),
        ["resize", name, key] => luks.resize(&name.parse()?, None, Some(&Key::file(key, 0, None)?))?,
        ["close", name] => println!("{}", luks.remove(&name.parse()?)?),
        other => return Err(format!("{other:?}: open, suspend, resume, resize or close").into()),
    }
    Ok(())
}
