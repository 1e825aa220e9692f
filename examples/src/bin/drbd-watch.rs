//! A live view of DRBD over the kernel's events: resources, roles, disks, resyncs with their speed and the time left, and what happened last.
//! Plain text with colours, redrawn in place: it runs in any terminal and over ssh.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Parser;
use drbd::{Deadline, Drbd, Event};
use san_node::drbd_view::{Style, View, describe};

/// Watch DRBD: resources, roles, disks, resyncs with time left, events. Ends with Ctrl-C.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Print what there is and end.
    #[arg(long)]
    once: bool,
    /// Print JSON: with --once all states as one value, else one event a line.
    #[arg(long)]
    json: bool,
    /// How often running resyncs are looked at, in milliseconds.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    interval: u64,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads any more.
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("drbd-watch: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let drbd = Drbd::new()?;
    let mut out = std::io::stdout().lock();
    if cli.once && cli.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&drbd.list()?)?)?;
        return Ok(());
    }
    let is_screen = std::io::stdout().is_terminal() && !cli.once;
    let style = if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        Style::Colour
    } else {
        Style::Plain
    };
    let mut view = View::default();
    if cli.once {
        view.look(drbd.list()?, Instant::now());
        write!(out, "{}", view.render(size().0, usize::MAX, style))?;
        return Ok(());
    }
    let mut watch = drbd.watch()?;
    let interval = Duration::from_millis(cli.interval);
    let mut looked = Instant::now();
    loop {
        let event = watch.next_before(Deadline::after(interval))?;
        if let Some(event) = &event {
            if cli.json {
                writeln!(out, "{}", serde_json::to_string(event)?)?;
                out.flush()?;
                continue;
            }
            if !is_screen {
                // Into a file or a pipe: a line for each change.
                for line in describe(event) {
                    writeln!(out, "{} {line}", time())?;
                }
                out.flush()?;
            }
            view.take(event, &time());
            // Several may have come at once: they are drawn together.
            if !matches!(event, Event::Snapshot(_)) && looked.elapsed() < Duration::from_millis(100) {
                continue;
            }
        }
        if is_screen && (event.is_some() || view.is_moving()) {
            view.look(drbd.list()?, Instant::now());
            looked = Instant::now();
            let (columns, lines) = size();
            // The last line stays free: an end of line there would scroll.
            let screen = view.render(columns, lines.saturating_sub(1), style);
            // To the corner, each line to its end and no further, and the rest of the screen.
            write!(out, "\x1b[H\x1b[?7l{}\x1b[J\x1b[?7h", screen.replace('\n', "\x1b[K\r\n"))?;
            out.flush()?;
        }
    }
}

/// Columns and lines of the terminal, as they are now; 100 and 40 where there is none.
fn size() -> (usize, usize) {
    match terminal_size::terminal_size() {
        // A serial line says 0.
        Some((terminal_size::Width(columns), terminal_size::Height(lines))) if columns > 0 && lines > 0 => {
            (usize::from(columns.max(20)), usize::from(lines.max(2)))
        }
        _ => (100, 40),
    }
}

/// The time of the day in UTC.
fn time() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()) % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
