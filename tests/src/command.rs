//! Commands in a guest and what becomes of them.

use std::fmt;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::client::{Channel, Event};
use crate::proto::{CHUNK, Decoder, Encoder, Kind, Request};

/// How long a command may take if nothing else is said.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// A command for a guest: arguments, environment, directory, input, deadline.
#[derive(Debug, Clone)]
pub struct Cmd {
    pub(crate) request: Request,
    pub(crate) stdin: Vec<u8>,
    pub(crate) keep_stdin: bool,
    pub(crate) deadline: Duration,
}

impl Cmd {
    /// A command: program and arguments. It starts in `/` and has 120 s.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        let request = Request { argv, ..Request::default() };
        Self { request, stdin: Vec::new(), keep_stdin: false, deadline: DEADLINE }
    }

    /// A script for `/bin/sh`; it ends at the first command that fails (`set -e`).
    #[must_use]
    pub fn sh(script: &str) -> Self {
        Self::new(["sh", "-ec", script])
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.request.env.push(format!("{name}={value}"));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, directory: &str) -> Self {
        directory.clone_into(&mut self.request.cwd);
        self
    }

    /// Gives bytes as standard input. Without it the input is empty.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Leaves standard input open after the given bytes, for [`Running::write`].
    #[must_use]
    pub fn open_stdin(mut self) -> Self {
        self.keep_stdin = true;
        self
    }

    /// Sets how long it may take, 120 s by default. For a spawned command it counts from `wait`.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it on a terminal of that size; its errors come with its output.
    #[must_use]
    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.request.rows = u32::from(rows.max(1));
        self.request.columns = u32::from(columns);
        self
    }
}

impl<S: Into<String>, const N: usize> From<[S; N]> for Cmd {
    fn from(argv: [S; N]) -> Self {
        Self::new(argv)
    }
}

impl<S: Into<String>> From<Vec<S>> for Cmd {
    fn from(argv: Vec<S>) -> Self {
        Self::new(argv)
    }
}

impl<S: Into<String> + Clone> From<&[S]> for Cmd {
    fn from(argv: &[S]) -> Self {
        Self::new(argv.iter().cloned())
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.request.argv.join(" "))
    }
}

/// What a finished command has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code; 128 + signal if a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output. Bytes that are not UTF-8 are replaced; [`crate::Machine::pull`] is exact.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// From the request to the answer, on the host's clock.
    pub elapsed: Duration,
}

impl Output {
    /// Whether the exit code is 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + signal if a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// From standard output or the terminal.
    Stdout(Vec<u8>),
    /// From standard error.
    Stderr(Vec<u8>),
}

/// A command that runs in a guest. Dropping it lets the command run on; [`Running::kill`] ends it.
#[derive(Debug)]
pub struct Running {
    channel: Channel,
    what: String,
    deadline: Duration,
    start: Instant,
    exit: Option<Exit>,
    pending: String,
}

impl Running {
    /// Sends the request.
    pub(crate) fn start(channel: Channel, command: &Cmd) -> Result<Self> {
        channel.send(Kind::Exec, command.request.encode())?;
        for part in command.stdin.chunks(CHUNK) {
            channel.send(Kind::Stdin, part)?;
        }
        if !command.keep_stdin && command.request.rows == 0 {
            channel.send(Kind::StdinEnd, [])?;
        }
        let (what, deadline) = (command.to_string(), command.deadline);
        Ok(Self { channel, what, deadline, start: Instant::now(), exit: None, pending: String::new() })
    }

    /// Waits for more output until the deadline; None when the command has ended.
    ///
    /// # Errors
    /// If the deadline passes, the machine dies, or the command could not be started.
    pub fn chunk(&mut self, deadline: Instant) -> Result<Option<Chunk>> {
        if self.exit.is_some() {
            return Ok(None);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match self.channel.receive(left) {
            Ok(Event { kind: Kind::Stdout, body }) => Ok(Some(Chunk::Stdout(body))),
            Ok(Event { kind: Kind::Stderr, body }) => Ok(Some(Chunk::Stderr(body))),
            Ok(Event { kind: Kind::Exit, body }) => {
                let mut body = Decoder(&body);
                let (code, signal) = (body.number()?, body.number()?);
                let signal = i32::try_from(signal).ok().filter(|s| *s != 0);
                self.exit = Some(Exit { code: i32::try_from(code).unwrap_or(-1), signal });
                Ok(None)
            }
            Ok(Event { body, .. }) => {
                bail!("{}: `{}`: {}", self.channel.owner(), self.what, String::from_utf8_lossy(&body))
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("{}: `{}` passed its deadline", self.channel.owner(), self.what)
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("{}: the machine went down while `{}` ran", self.channel.owner(), self.what)
            }
        }
    }

    /// Waits for the next line of standard output, without its end; None when the command has ended. Standard
    /// error is passed over.
    ///
    /// # Errors
    /// As [`Running::chunk`].
    pub fn line(&mut self, deadline: Instant) -> Result<Option<String>> {
        loop {
            if let Some((line, rest)) = self.pending.split_once('\n') {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.pending = rest;
                return Ok(Some(line));
            }
            match self.chunk(deadline)? {
                Some(Chunk::Stdout(bytes)) => self.pending.push_str(&String::from_utf8_lossy(&bytes)),
                Some(Chunk::Stderr(_)) => {}
                None if self.pending.is_empty() => return Ok(None),
                None => return Ok(Some(std::mem::take(&mut self.pending))),
            }
        }
    }

    /// Waits for the end and hands each piece of output to `each` as it comes. The deadline of the command
    /// counts from here; a command that passes it is killed.
    ///
    /// # Errors
    /// As [`Running::chunk`].
    pub fn wait_with(&mut self, mut each: impl FnMut(Chunk)) -> Result<Exit> {
        let deadline = Instant::now() + self.deadline;
        loop {
            match self.chunk(deadline) {
                Ok(Some(chunk)) => each(chunk),
                Ok(None) => break,
                Err(error) => {
                    let _ = self.kill();
                    return Err(error);
                }
            }
        }
        Ok(self.exit.unwrap_or(Exit { code: -1, signal: None }))
    }

    /// Waits for the end and collects the output that has not been taken yet.
    ///
    /// # Errors
    /// As [`Running::chunk`]; the text shows the output so far.
    pub fn wait(mut self) -> Result<Output> {
        let (mut out, mut err) = (std::mem::take(&mut self.pending).into_bytes(), Vec::new());
        let result = self.wait_with(|chunk| match chunk {
            Chunk::Stdout(bytes) => out.extend(bytes),
            Chunk::Stderr(bytes) => err.extend(bytes),
        });
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (stdout, stderr) = (text(out), text(err));
        match result {
            Ok(Exit { code, signal }) => {
                Ok(Output { code, signal, stdout, stderr, elapsed: self.start.elapsed() })
            }
            Err(error) => bail!("{error:#}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"),
        }
    }

    /// Writes to standard input or the terminal.
    ///
    /// # Errors
    /// If the machine is down.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        bytes.chunks(CHUNK).try_for_each(|part| self.channel.send(Kind::Stdin, part))
    }

    /// Closes standard input.
    ///
    /// # Errors
    /// If the machine is down.
    pub fn close_stdin(&self) -> Result<()> {
        self.channel.send(Kind::StdinEnd, [])
    }

    /// Sends SIGKILL to the command and its children.
    ///
    /// # Errors
    /// If the machine is down.
    pub fn kill(&self) -> Result<()> {
        self.signal(libc::SIGKILL)
    }

    /// Sends a signal to the command and its children (its process group).
    ///
    /// # Errors
    /// If the machine is down.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let number = u32::try_from(signal)?;
        self.channel.send(Kind::Signal, Encoder::default().number(number).done())
    }
}
