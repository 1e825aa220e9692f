//! The judge's hand in a guest: writes sequence-stamped blocks and reports each acknowledged one to the host at once, or reads them back.
//!
//! `san-writer write DEVICE RUN UNIT INTERVAL_MS BLOCKS > PORT` writes until it gets SIGTERM. Each block of 4 KiB goes out with
//! `O_DIRECT|O_SYNC`; when the kernel has acknowledged it, a record of 32 bytes goes to the host through the virtio-serial port: unit,
//! kind (0 submitted, 1 acknowledged, 2 failed), sequence, block, time in nanoseconds or errno. `san-writer read DEVICE RUN BLOCKS` prints
//! what stands in each block. SIGUSR1 makes the next write go past the end of the device: a real I/O error, to prove that it is seen.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const BLOCK: usize = 4096;
const MAGIC: &[u8; 8] = b"SANKITB1";

/// A block's memory, aligned as `O_DIRECT` wants it.
#[repr(C, align(4096))]
struct Page([u8; BLOCK]);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let result = match words.as_slice() {
        ["write", device, run, unit, interval, blocks] => write(device, run, unit, interval, blocks),
        ["read", device, run, blocks] => read(device, run, blocks),
        ["plant", what, device, run, block] => plant(what, device, run, block),
        _ => Err(anyhow::anyhow!("usage: san-writer write|read|plant ...")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("san-writer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Stamps a page: magic, run, sequence, block, a pattern of the sequence, and a checksum over all of it.
fn stamp(page: &mut Page, run: u64, sequence: u64, block: u64) {
    let mut state = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block;
    for chunk in page.0.chunks_exact_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&state.to_le_bytes());
    }
    for (place, value) in [(8, run), (16, sequence), (24, block)] {
        if let Some(field) = page.0.get_mut(place..place + 8) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    }
    if let Some(field) = page.0.get_mut(..8) {
        field.copy_from_slice(MAGIC);
    }
    let sum = sum(&page.0);
    if let Some(field) = page.0.get_mut(BLOCK - 8..) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
}

/// FNV-1a over all but the last eight bytes.
fn sum(page: &[u8]) -> u64 {
    let body = page.get(..BLOCK - 8).unwrap_or_default();
    body.iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn field(page: &[u8], at: usize) -> u64 {
    page.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn open(device: &str) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_SYNC)
        .open(device)
        .with_context(|| format!("cannot open {device}"))
}

fn write(device: &str, run: &str, unit: &str, interval: &str, blocks: &str) -> Result<()> {
    let (run, unit, blocks): (u64, u64, u64) = (run.parse()?, unit.parse()?, blocks.parse()?);
    let interval = Duration::from_millis(interval.parse()?);
    let disk = open(device)?;
    // Standard output without its buffer: a record is one write, and a port can be opened by one only, so two writers share it.
    let mut host = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let (stop, break_next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&stop))?;
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&break_next))?;
    let mut page = Box::new(Page([0; BLOCK]));
    let mut tell = |kind: u64, sequence: u64, block: u64, value: u64| -> Result<()> {
        let head = unit << 32 | kind;
        let record: Vec<u8> = [head, sequence, block, value].iter().flat_map(|v| v.to_le_bytes()).collect();
        host.write_all(&record).context("the host does not listen")
    };
    for sequence in 1_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let started = Instant::now();
        let block = sequence % blocks;
        stamp(&mut page, run, sequence, block);
        tell(0, sequence, block, 0)?;
        let place = if break_next.swap(false, Ordering::SeqCst) { 1 << 50 } else { block * 4096 };
        match disk.write_all_at(&page.0, place) {
            Ok(()) => tell(1, sequence, block, u64::try_from(started.elapsed().as_nanos())?)?,
            Err(error) => {
                tell(2, sequence, block, u64::from(error.raw_os_error().unwrap_or(0).unsigned_abs()))?
            }
        }
        if let Some(rest) = interval.checked_sub(started.elapsed()) {
            std::thread::sleep(rest);
        }
    }
    Ok(())
}

fn read(device: &str, run: &str, blocks: &str) -> Result<()> {
    let (run, blocks): (u64, u64) = (run.parse()?, blocks.parse()?);
    let disk = open(device)?;
    let mut page = Box::new(Page([0; BLOCK]));
    let mut out = std::io::stdout().lock();
    for block in 0..blocks {
        disk.read_exact_at(&mut page.0, block * 4096)
            .with_context(|| format!("cannot read block {block}"))?;
        let found = if page.0.iter().all(|b| *b == 0) {
            "empty".to_owned()
        } else if page.0.get(..8) != Some(MAGIC) || sum(&page.0) != field(&page.0, BLOCK - 8) {
            "broken".to_owned()
        } else if field(&page.0, 8) != run || field(&page.0, 24) != block {
            "foreign".to_owned()
        } else {
            field(&page.0, 16).to_string()
        };
        writeln!(out, "{block} {found}")?;
    }
    Ok(())
}

/// Spoils a block, so that the judge can be judged: "lost" empties it, "stale" puts an older version there.
fn plant(what: &str, device: &str, run: &str, block: &str) -> Result<()> {
    let (run, block): (u64, u64) = (run.parse()?, block.parse()?);
    let disk = open(device)?;
    let mut page = Box::new(Page([0; BLOCK]));
    match what {
        "lost" => {}
        "stale" => {
            stamp(&mut page, run, block, block);
            let mut now = Box::new(Page([0; BLOCK]));
            disk.read_exact_at(&mut now.0, block * 4096)?;
            if now.0 == page.0 {
                bail!("block {block} was written only once: no older version of it can be planted");
            }
        }
        other => bail!("{other:?} cannot be planted"),
    }
    disk.write_all_at(&page.0, block * 4096).context("cannot plant")
}
