//! Says what is wrong or unwise in a drbd.conf, or brings it to DRBD 9: `conf lint [FILE]`, `conf to-9 FILE`.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use drbd::Host;
use drbd::conf::{Conf, Severity};

fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let path = words.get(1).map_or(Conf::PATH, String::as_str);
    let conf = Conf::load(&Host::live(), path)?;
    match words.first().map(String::as_str) {
        Some("to-9") => {
            let (converted, changes) = conf.to_9()?;
            changes.iter().for_each(|change| eprintln!("{change}"));
            print!("{}", converted.text(0).unwrap_or_default());
            Ok(std::process::ExitCode::SUCCESS)
        }
        _ => {
            let findings = conf.lint();
            findings.iter().for_each(|finding| println!("{finding}"));
            let is_bad = findings.iter().any(|finding| finding.severity == Severity::Error);
            Ok(if is_bad { std::process::ExitCode::FAILURE } else { std::process::ExitCode::SUCCESS })
        }
    }
}
