//! How fast this machine encrypts, and which options of dm-crypt suit it: measured, not guessed.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

mod plot;
mod scratch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use host::Bytes;
use luks::bench::{self, Cipher, Load, Queues, Throughput, Way};
use luks::{Host, Overwrite};
use scratch::Scratch;

/// Measure key derivations, ciphers and dm-crypt on this machine, and recommend dm-crypt's options by what was measured.
///
/// Without a device: key derivations and ciphers only. With --zero: dm-crypt over a device that swallows what is written and reads as zeroes,
/// so that no disk is in the way. With a device: dm-crypt over it. What is on it is lost.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// A scratch device whose content may be destroyed.
    device: Option<PathBuf>,
    /// Measure over a dm-zero device, made for it and removed afterwards (needs the package dmsetup).
    #[arg(long, conflicts_with = "device")]
    zero: bool,
    /// Go ahead though something known is on the device.
    #[arg(long)]
    overwrite: bool,
    /// The size of one request.
    #[arg(long, default_value = "128K")]
    block: Bytes,
    /// How many threads ask at once [default: one for each processor].
    #[arg(long)]
    threads: Option<usize>,
    /// How many milliseconds each direction of each combination is measured, three times.
    #[arg(long, default_value_t = 500)]
    millis: u64,
    /// How many times each is measured; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Leave out key derivations and ciphers in memory.
    #[arg(long)]
    only_device: bool,
    /// Write a plot to this file (SVG).
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// The sectors that are measured: what every disk has, and what is eight times less work.
const SECTORS: [u32; 2] = [512, 4096];

/// One combination, its rounds and their median.
#[derive(Debug, Clone)]
struct Measured {
    way: Way,
    rounds: Vec<Throughput>,
    throughput: Throughput,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crypt-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if !cli.only_device {
        derivations()?;
        ciphers()?;
    }
    let mut load = Load::default()
        .with_block(usize::try_from(cli.block.0)?)
        .with_time(Duration::from_millis(cli.millis.max(1)));
    if let Some(threads) = cli.threads {
        load = load.with_threads(threads);
    }
    let scratch = match (&cli.device, cli.zero) {
        (Some(device), _) => Scratch::given(device.clone()),
        (None, true) => Scratch::zero(bench::scratch_size(&load))?,
        (None, false) if cli.only_device => bail!("there is no device: name one, or say --zero"),
        (None, false) => return Ok(()),
    };
    let overwrite = if cli.overwrite { Overwrite::Always } else { Overwrite::Never };
    Host::live().exec().load(
        host::exec::Module::DM_CRYPT,
        Host::live().tree(),
        host::Deadline::after(Duration::from_secs(20)),
    )?;
    let measured = measure(&scratch, &load, cli.rounds, overwrite)?;
    table(&measured, &load);
    advise(&measured);
    if let Some(path) = &cli.svg {
        plot::draw(path, &scratch.name(), &measured)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// The key derivations of cryptsetup with its defaults: two seconds, at most 1 GiB.
fn derivations() -> Result<()> {
    println!("key derivations that take 2 s here:");
    for hash in ["sha1", "sha256", "sha512"] {
        let cost = bench::kdf("pbkdf2", hash, Duration::from_secs(2), 0)?;
        println!("  pbkdf2-{hash:<8} {:>10} iterations", cost.iterations);
    }
    for kind in ["argon2i", "argon2id"] {
        let cost = bench::kdf(kind, "sha256", Duration::from_secs(2), 1 << 20)?;
        let memory = Bytes(u64::from(cost.memory_kib) * 1024);
        println!("  {kind:<15} {:>10} passes, {memory}, {} lanes", cost.iterations, cost.lanes);
    }
    Ok(())
}

fn ciphers() -> Result<()> {
    println!("ciphers in memory, one processor:        encrypt   decrypt");
    for cipher in Cipher::ALL {
        match bench::cipher(&cipher)? {
            Some(t) => println!("  {cipher:<32} {:>8.0}  {:>8.0}  MiB/s", t.write, t.read),
            None => println!("  {cipher:<32} this kernel cannot say (no AF_ALG)"),
        }
    }
    Ok(())
}

/// Measures each combination so many times. Round by round, so that what else the machine does meets them all.
fn measure(scratch: &Scratch, load: &Load, rounds: u32, mut overwrite: Overwrite) -> Result<Vec<Measured>> {
    let ways: Vec<Way> = Cipher::ALL
        .iter()
        .flat_map(|cipher| SECTORS.map(|sector| (*cipher, sector)))
        .flat_map(|(cipher, sector)| Queues::EACH.map(|queues| Way::new(cipher, sector, queues)))
        .collect();
    let mut seen: Vec<Vec<Throughput>> = vec![Vec::new(); ways.len()];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}, {} combinations", ways.len());
        for (way, seen) in ways.iter().zip(&mut seen) {
            let throughput = match bench::device(scratch.path(), way, load, overwrite) {
                Err(luks::Error::HoldsData { device, what }) => {
                    bail!(
                        "{} holds {what}, which would be lost; say --overwrite if that is meant",
                        device.display()
                    )
                }
                other => other?,
            };
            seen.push(throughput);
            // What is there now is noise, which may look like something.
            overwrite = Overwrite::Always;
        }
    }
    let measured = ways.into_iter().zip(seen).map(|(way, rounds)| {
        let of = |direction: fn(&Throughput) -> f64| median(rounds.iter().map(direction).collect());
        Measured { way, throughput: Throughput::new(of(|t| t.write), of(|t| t.read)), rounds }
    });
    Ok(measured.collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn table(measured: &[Measured], load: &Load) {
    println!("dm-crypt, {} threads, requests of {}:", load.threads, Bytes(load.block as u64));
    println!("  {:<32} {:>6}  {:<52} {:>8} {:>8}  MiB/s", "cipher", "sector", "options", "write", "read");
    for Measured { way, throughput, .. } in measured {
        let options = if way.queues == Queues::All { "(default)" } else { way.queues.options() };
        println!(
            "  {:<32} {:>6}  {options:<52} {:>8.0} {:>8.0}",
            way.cipher.to_string(),
            way.sector_size,
            throughput.write,
            throughput.read
        );
    }
}

/// The recommendation for each cipher and sector size, and how much it is worth.
fn advise(measured: &[Measured]) {
    println!("on this machine:");
    for cipher in Cipher::ALL {
        for sector in SECTORS {
            let of: Vec<&Measured> =
                measured.iter().filter(|m| m.way.cipher == cipher && m.way.sector_size == sector).collect();
            let rounds: Vec<_> = of.iter().map(|m| (m.way.queues, m.rounds.clone())).collect();
            let speed = |queues| of.iter().find(|m| m.way.queues == queues).map(|m| m.throughput.both());
            let Some(best) = bench::recommend(&rounds, 0.05) else {
                println!("  too few rounds to recommend anything: at least 3");
                return;
            };
            let advice = match (best, speed(best), speed(Queues::All)) {
                (Queues::All, ..) => "leave the default; nothing is better by 5 % in all rounds".to_owned(),
                (best, Some(a), Some(b)) => format!("{} ({:+.0} %)", best.options(), (a / b - 1.0) * 100.0),
                (best, ..) => best.options().to_owned(),
            };
            println!("  {cipher:<32} {sector:>6}  {advice}");
        }
    }
}
