//! Lists LUKS volumes with the state of their headers, or the mappings that are open; without libcryptsetup, cache or lock.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use luks::header::{Found, Header, Identity, Parsed, scan};
use luks::{Backup, Host, Luks, SlotFate, Volume};

/// List LUKS volumes: UUID, label, cipher, key slots, tokens, and the state of each copy of the header.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Devices or images; default all block devices of this machine.
    devices: Vec<PathBuf>,
    /// Only device and UUID, from the first 4 KiB, unverified.
    #[arg(long)]
    uuid: bool,
    /// Which keys this header backup of the device still opens, beside those that are in use: exit code 1 if one was revoked on the disk and
    /// lives on here.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["uuid", "mappings"], requires = "devices")]
    backup: Option<PathBuf>,
    /// The open mappings instead.
    #[arg(long, conflicts_with_all = ["uuid", "devices"])]
    mappings: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("luks-ls: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything that was looked at is whole.
fn run(cli: &Cli) -> Result<bool> {
    let host = Host::live();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut whole = true;
    if cli.mappings {
        for open in Luks::on(&host)?.list()? {
            let uuid = open.uuid.map_or("-".to_owned(), |uuid| uuid.to_string());
            let device = open.device.unwrap_or_else(|| "gone".to_owned());
            let state = if open.suspended { "suspended" } else { "active" };
            writeln!(out, "{}\t{uuid}\t{device}\t{state}\t{}", open.name, open.holders.join(","))?;
        }
        return Ok(true);
    }
    if let Some(file) = &cli.backup {
        let [device] = cli.devices.as_slice() else { bail!("a backup is of one device: name one") };
        for slot in Backup::open(file)?.compare(&Volume::at(device))? {
            whole &= slot.fate != SlotFate::Revoked;
            let fate = match slot.fate {
                SlotFate::Current => "in use on the disk, too",
                SlotFate::Revoked => {
                    "REVOKED on the disk: with this backup its passphrase still opens the data"
                }
                SlotFate::Dead => "dead: the volume key is another one since",
                _ => "unknown",
            };
            writeln!(out, "{}\tslot {}\t{fate}", file.display(), slot.number)?;
        }
        return Ok(whole);
    }
    if cli.uuid && !cli.devices.is_empty() {
        for device in &cli.devices {
            let found = Identity::read(device)?;
            whole &= found.is_some();
            let uuid = found.map_or("-".to_owned(), |found| found.uuid.to_string());
            writeln!(out, "{}\t{uuid}", device.display())?;
        }
        return Ok(whole);
    }
    let found = if cli.devices.is_empty() {
        scan(&host)?
    } else {
        cli.devices.iter().map(|device| Found::look(&host, device)).collect::<Result<_, _>>()?
    };
    for found in found {
        let device = found.device.display();
        match &found.parsed {
            Parsed::Header(header) if cli.uuid => writeln!(out, "{device}\t{}", header.uuid)?,
            Parsed::Header(header) => {
                whole &= !header.needs_repair;
                writeln!(out, "{device}\t{}", line(header))?;
            }
            Parsed::Damaged(copies) => {
                whole = false;
                writeln!(out, "{device}\tDAMAGED: {copies}")?;
            }
            _ => {
                whole = false;
                writeln!(out, "{device}\tno LUKS header")?;
            }
        }
    }
    Ok(whole)
}

fn line(header: &Header) -> String {
    let slots: Vec<_> = header.keyslots.iter().map(|slot| format!("{}:{}", slot.number, slot.kdf)).collect();
    let tokens: Vec<_> =
        header.tokens.iter().map(|token| format!("{}:{}", token.number, token.kind)).collect();
    let copies: Vec<_> = header.copies.iter().map(ToString::to_string).collect();
    let label = if header.label.is_empty() { "-" } else { &header.label };
    let reencryption = if header.reencryption.is_some() { "\tin reencryption" } else { "" };
    format!(
        "{}\t{:?}\t{label}\t{}\t{}\tslots {}\ttokens {}\t{}{reencryption}",
        header.uuid,
        header.version,
        header.cipher,
        header.sector_size,
        slots.join(" "),
        tokens.join(" "),
        copies.join("; ")
    )
}
