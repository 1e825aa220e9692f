//! One running command of the agent.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{Host, Input};
use crate::proto::{CHUNK, Kind, Request};
use crate::sys;

/// Where a command's output comes from.
struct Source {
    file: File,
    kind: Kind,
    open: bool,
}

/// Runs a command to its end and sends its output and its exit status.
pub(super) fn run(
    request: &Request,
    id: u32,
    host: &Host,
    over: Sender<Input>,
    input: &Receiver<Input>,
) -> Result<()> {
    let (program, arguments) = request.argv.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(if request.cwd.is_empty() { "/" } else { &request.cwd });
    for pair in &request.env {
        if let Some((name, value)) = pair.split_once('=') {
            command.env(name, value);
        }
    }
    let (mut child, mut sources, sink, terminal) = start(command, request, program)?;
    let group = Pid::from_raw(i32::try_from(child.id())?);
    // The waiter drops the writing end when the child is dead; the reader sees that as a hang-up.
    let (hang_up, alive) = nix::unistd::pipe().context("cannot make a pipe")?;
    let waiter = thread::spawn(move || {
        let status = child.wait();
        drop(alive);
        status
    });
    // The reader is not waited for: a daemon that the command left behind may keep the pipes open for ever.
    let relay = host.clone();
    thread::spawn(move || pump(&mut sources, &hang_up, id, &relay, &over));
    feed(input, sink, terminal, group);
    finish(host, id, waiter.join().map_err(|_| anyhow!("the waiter panicked"))?);
    Ok(())
}

type Started = (Child, Vec<Source>, Option<File>, Option<OwnedFd>);

fn start(mut command: Command, request: &Request, program: &str) -> Result<Started> {
    if request.rows > 0 {
        let pty = nix::pty::openpty(None, None).context("cannot open a terminal")?;
        sys::set_window(pty.master.as_fd(), u16::try_from(request.rows)?, u16::try_from(request.columns)?)?;
        command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave);
        sys::own_terminal(&mut command);
        let child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        let file = File::from(pty.master.try_clone()?);
        let sources = vec![Source { file: file.try_clone()?, kind: Kind::Stdout, open: true }];
        return Ok((child, sources, Some(file), Some(pty.master)));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    let sink = child.stdin.take().map(|s| File::from(OwnedFd::from(s)));
    let mut sources = Vec::new();
    if let Some(out) = child.stdout.take() {
        sources.push(Source { file: File::from(OwnedFd::from(out)), kind: Kind::Stdout, open: true });
    }
    if let Some(err) = child.stderr.take() {
        sources.push(Source { file: File::from(OwnedFd::from(err)), kind: Kind::Stderr, open: true });
    }
    Ok((child, sources, sink, None))
}

/// Relays output until the command is dead and its pipes are empty, says so, and goes on for as long as
/// anybody keeps the pipes open, so that a daemon left behind never blocks on them.
fn pump(sources: &mut [Source], over: &OwnedFd, id: u32, host: &Host, done: &Sender<Input>) {
    let mut buffer = vec![0; CHUNK];
    let mut dead = false;
    loop {
        let mut fds = Vec::with_capacity(3);
        for source in sources.iter() {
            // A negative descriptor is skipped by poll.
            fds.push(pollfd(if source.open { source.file.as_raw_fd() } else { -1 }));
        }
        fds.push(pollfd(if dead { -1 } else { over.as_raw_fd() }));
        // After the death of the command what is in the pipes is all there will be: do not wait for more.
        let wait = dead.then_some(std::time::Duration::ZERO);
        if sys::poll(&mut fds, wait).is_err() {
            break;
        }
        let mut quiet = true;
        for (source, fd) in sources.iter_mut().zip(&fds) {
            if fd.revents != 0 && source.open {
                quiet = false;
                source.open = relay(source, &mut buffer, id, host);
            }
        }
        let hang_up = fds.last().is_some_and(|fd| fd.revents != 0);
        if quiet && dead {
            break;
        }
        dead |= hang_up;
    }
    let _ = done.send(Input::Over);
    for source in sources.iter_mut().filter(|s| s.open) {
        let _ = io::copy(&mut source.file, &mut io::sink());
    }
}

fn pollfd(fd: i32) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// Relays one chunk; false at the end of the source.
fn relay(source: &mut Source, buffer: &mut [u8], id: u32, host: &Host) -> bool {
    match source.file.read(buffer) {
        Ok(0) => false,
        Ok(n) => {
            host.send(id, source.kind, buffer.get(..n).unwrap_or_default());
            true
        }
        Err(e) => e.kind() == io::ErrorKind::Interrupted,
    }
}

/// Passes input and signals to the command until it is over.
fn feed(input: &Receiver<Input>, sink: Option<File>, terminal: Option<OwnedFd>, group: Pid) {
    // Writing may block for as long as the command does not read, so it has a thread of its own. That thread
    // ends with the queue, or with the broken pipe when the command is dead.
    let (queue, data) = channel::<Vec<u8>>();
    let mut queue = Some(queue);
    thread::spawn(move || {
        let Some(mut sink) = sink else { return };
        for bytes in data {
            if sink.write_all(&bytes).is_err() {
                break;
            }
        }
    });
    for part in input {
        match part {
            Input::Data(bytes) => {
                if let Some(queue) = &queue {
                    let _ = queue.send(bytes);
                }
            }
            Input::End => queue = None,
            Input::Signal(number) => {
                if let Ok(signal) = Signal::try_from(number) {
                    let _ = killpg(group, signal);
                }
            }
            Input::Resize(rows, columns) => {
                if let Some(terminal) = &terminal {
                    let _ = sys::set_window(terminal.as_fd(), rows, columns);
                }
            }
            Input::Over => return,
        }
    }
}

fn finish(host: &Host, id: u32, status: io::Result<ExitStatus>) {
    match status {
        Ok(status) => {
            let signal = u32::try_from(status.signal().unwrap_or(0)).unwrap_or(0);
            let code = status.code().and_then(|c| u32::try_from(c).ok()).unwrap_or(128 + signal);
            host.exit(id, code, signal);
        }
        Err(e) => host.error(id, &format!("cannot wait for the command: {e}")),
    }
}
