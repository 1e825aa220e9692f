//! `lab shell` and `lab exec`: clients of a running `lab up`.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use signal_hook::consts::SIGWINCH;
use signal_hook::iterator::Signals;

use crate::proto::{CHUNK, Decoder, Encoder, Frame, Kind, Request};
use crate::{run, sys};

/// A terminal in raw mode, restored when it is dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self> {
        let before = tcgetattr(io::stdin()).context("standard input is no terminal")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Opens a shell on a terminal.
pub(super) fn shell(node: &str, lab: Option<&str>) -> Result<ExitCode> {
    let stream = connect(node, lab)?;
    let size = sys::window(io::stdin().as_fd()).unwrap_or((24, 80));
    let script = "cd; [ -x /bin/bash ] && exec bash -i; exec sh -i";
    let term = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
    let request = Request {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![format!("TERM={term}"), "PS1=\\h:\\w# ".to_owned()],
        cwd: String::new(),
        rows: u32::from(size.0),
        columns: u32::from(size.1),
    };
    say(&stream, &Frame::new(0, Kind::Exec, request.encode()))?;
    let raw = if io::stdin().is_terminal() { Some(Raw::enter()?) } else { None };
    let resize = stream.try_clone()?;
    let mut signals = Signals::new([SIGWINCH])?;
    thread::spawn(move || {
        for _ in signals.forever() {
            if let Some((rows, columns)) = sys::window(io::stdin().as_fd()) {
                let body = Encoder::default().number(u32::from(rows)).number(u32::from(columns)).done();
                let _ = Frame::new(0, Kind::Resize, body).write(&mut &resize);
            }
        }
    });
    forward_input(&stream)?;
    let code = relay(&stream);
    drop(raw);
    code
}

/// Runs a command.
pub(super) fn exec(node: &str, lab: Option<&str>, argv: Vec<String>) -> Result<ExitCode> {
    let stream = connect(node, lab)?;
    let request = Request { argv, ..Request::default() };
    say(&stream, &Frame::new(0, Kind::Exec, request.encode()))?;
    // A terminal that nobody types on would leave commands such as cat waiting; it counts as empty.
    if io::stdin().is_terminal() {
        say(&stream, &Frame::new(0, Kind::StdinEnd, []))?;
    } else {
        forward_input(&stream)?;
    }
    relay(&stream)
}

/// Sends one request without input and prints the answer.
pub(super) fn ask(node: &str, lab: Option<&str>, kind: Kind, body: Vec<u8>) -> Result<ExitCode> {
    let stream = connect(node, lab)?;
    say(&stream, &Frame::new(0, kind, body))?;
    relay(&stream)
}

/// Connects to the machine of the only lab that is up, or of the named one.
fn connect(node: &str, lab: Option<&str>) -> Result<UnixStream> {
    let mut labs = run::living();
    labs.retain(|(_, sockets)| sockets.join(super::up::CONTROL).exists());
    if let Some(wanted) = lab {
        labs.retain(|(name, _)| name.starts_with(wanted));
    }
    let (_, sockets) = match labs.as_slice() {
        [] => bail!("no lab is up (start one with `lab up FILE.toml`)"),
        [one] => one,
        many => {
            let names: Vec<&str> = many.iter().map(|(name, _)| name.as_str()).collect();
            bail!("several labs are up, choose one with --lab: {}", names.join(", "))
        }
    };
    let stream = UnixStream::connect(sockets.join(super::up::CONTROL)).context("cannot reach the lab")?;
    say(&stream, &Frame::new(0, Kind::Node, node.as_bytes()))?;
    Ok(stream)
}

/// Sends a frame. A lab that has already hung up has said why, and the answer is read next.
fn say(mut stream: &UnixStream, frame: &Frame) -> io::Result<()> {
    match frame.write(&mut stream) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn forward_input(stream: &UnixStream) -> Result<()> {
    let mut out = stream.try_clone()?;
    thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        while let Ok(n) = io::stdin().read(&mut buffer) {
            let part = buffer.get(..n).unwrap_or_default();
            let frame =
                if n == 0 { Frame::new(0, Kind::StdinEnd, []) } else { Frame::new(0, Kind::Stdin, part) };
            if frame.write(&mut out).is_err() || n == 0 {
                break;
            }
        }
    });
    Ok(())
}

/// Prints what comes until the command ends; its exit code is ours.
fn relay(mut stream: &UnixStream) -> Result<ExitCode> {
    loop {
        let frame = Frame::read(&mut stream)?.context("the lab is gone")?;
        match frame.kind {
            Kind::Stdout => {
                io::stdout().write_all(&frame.body)?;
                io::stdout().flush()?;
            }
            Kind::Stderr => io::stderr().write_all(&frame.body)?,
            Kind::Exit => {
                let code = Decoder(&frame.body).number()?;
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)));
            }
            _ => bail!("{}", String::from_utf8_lossy(&frame.body)),
        }
    }
}
