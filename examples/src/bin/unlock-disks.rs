//! Opens a set of encrypted disks with one passphrase, asked for once; those that are open are skipped.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use luks::{Host, Luks, MappingSpec, Secret};

/// Open encrypted disks by UUID with one passphrase: unlock-disks UUID=NAME...
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The disks: LUKS UUID and the name it gets in /dev/mapper, for example 1bd1f798-d105-4150-841b-f2751f419efc=VM_STORAGE_1.
    #[arg(required = true)]
    disks: Vec<String>,
    /// Read the passphrase from a file instead of the terminal.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Say what would be opened, and open nothing.
    #[arg(long)]
    dry_run: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("unlock-disks: {error:#}");
            // As cryptsetup: 2 for a wrong passphrase.
            let wrong = error.downcast_ref::<luks::Error>().is_some_and(luks::Error::is_wrong_passphrase);
            ExitCode::from(if wrong { 2 } else { 1 })
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let spec = |text: &String| -> Result<MappingSpec> {
        let (uuid, name) = text.split_once('=').ok_or_else(|| anyhow!("{text:?}: write UUID=NAME"))?;
        Ok(MappingSpec::by_uuid(name.parse()?, uuid.parse()?))
    };
    let specs: Vec<MappingSpec> = cli.disks.iter().map(spec).collect::<Result<_>>()?;
    let luks = Luks::on(&Host::live())?;
    let plan = luks.plan(&specs)?;
    let skipped = specs.len() - plan.len();
    if skipped > 0 {
        println!("{skipped} of {} are open already", specs.len());
    }
    if cli.dry_run || plan.is_empty() {
        print!("{plan}");
        return Ok(());
    }
    let passphrase = match &cli.key_file {
        Some(file) => Secret::read(file)?,
        None => {
            Secret::new(rpassword::prompt_password("Passphrase: ").context("no passphrase")?.into_bytes())
        }
    };
    print!("{plan}");
    luks.apply(plan, &passphrase)?;
    println!("all {} are open", specs.len());
    Ok(())
}
