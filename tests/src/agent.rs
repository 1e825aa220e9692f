//! The guest agent: runs commands, reads and writes files, opens terminals, over one virtio-serial port.
//!
//! Threads and blocking calls only. As `lab-agent init` it is the first process: it starts itself once more as
//! the agent and reaps orphans, so that reaping never steals a child the agent waits for.

mod process;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, Result};
use nix::sys::reboot::{RebootMode, reboot};

use crate::proto::{CHUNK, Decoder, Encoder, Frame, Kind, Request, VERSION};

/// The name of the agent's port.
pub(crate) const PORT: &str = "lab.agent";

/// What a running channel can be told.
enum Input {
    Data(Vec<u8>),
    End,
    Signal(i32),
    Resize(u16, u16),
    /// From within: the command is dead and its output is read.
    Over,
}

/// The way back to the host, shared by all channels.
#[derive(Clone)]
struct Host(Arc<Mutex<File>>);

impl Host {
    fn send(&self, channel: u32, kind: Kind, body: impl Into<Vec<u8>>) {
        // The host is the only listener: when it is gone there is nobody to tell.
        let _ = Frame::new(channel, kind, body).write(&mut *locked(&self.0));
    }

    fn exit(&self, channel: u32, code: u32, signal: u32) {
        self.send(channel, Kind::Exit, Encoder::default().number(code).number(signal).done());
    }

    fn error(&self, channel: u32, text: &str) {
        self.send(channel, Kind::Error, text.as_bytes());
    }
}

/// Locks; a panic of another thread does not make the data useless here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the agent: `init` as its only argument makes it the first process. Returns only on an error.
///
/// # Errors
/// If the port is not there or breaks.
pub fn main() -> Result<()> {
    if env::args().nth(1).as_deref() == Some("init") { init() } else { serve() }
}

/// Starts the agent, then reaps whatever dies. The machine goes off with the agent.
fn init() -> Result<()> {
    let program = env::current_exe().context("cannot find my own program")?;
    let agent = std::process::Command::new(program).spawn().context("cannot start the agent")?;
    loop {
        match nix::sys::wait::wait() {
            Ok(status) if status.pid().map(nix::unistd::Pid::as_raw) == i32::try_from(agent.id()).ok() => {
                println!("init: the agent ended: {status:?}");
                break;
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => {
                println!("init: wait: {e}");
                break;
            }
        }
    }
    nix::unistd::sync();
    reboot(RebootMode::RB_POWER_OFF).context("cannot switch the machine off")?;
    Ok(())
}

/// Finds a virtio-serial port by its name and gives every port its name under `/dev/virtio-ports`, which is
/// udev's work where there is one.
fn ports() -> Result<PathBuf> {
    let mut found = None;
    fs::create_dir_all("/dev/virtio-ports")?;
    for entry in fs::read_dir("/sys/class/virtio-ports").context("no virtio-serial ports")? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let name = name.trim();
        let device = Path::new("/dev").join(entry.file_name());
        let _ = symlink(&device, Path::new("/dev/virtio-ports").join(name));
        if name == PORT {
            found = Some(device);
        }
    }
    found.with_context(|| format!("no virtio-serial port is named {PORT}"))
}

fn serve() -> Result<()> {
    // udev, or the driver itself, may need a moment more than this process took to start.
    let mut port = ports();
    for _ in 0..200 {
        if port.is_ok() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
        port = ports();
    }
    let port = port?;
    let open = OpenOptions::new().read(true).write(true).open(&port);
    let mut input = open.with_context(|| format!("cannot open {}", port.display()))?;
    let host = Host(Arc::new(Mutex::new(input.try_clone()?)));
    host.send(0, Kind::Hello, Encoder::default().number(VERSION).done());
    let channels: Arc<Mutex<HashMap<u32, Sender<Input>>>> = Arc::default();
    loop {
        // The port answers "end of file" while nobody is connected on the host's side.
        let Some(frame) = Frame::read(&mut input).context("the stream from the host broke")? else {
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let id = frame.channel;
        match frame.kind {
            Kind::Ping => host.exit(id, 0, 0),
            Kind::PowerOff => power_off(),
            Kind::Exec | Kind::Write | Kind::Read => {
                let (sender, receiver) = channel();
                let over = sender.clone();
                locked(&channels).insert(id, sender);
                let (host, channels) = (host.clone(), Arc::clone(&channels));
                thread::spawn(move || {
                    if let Err(error) = handle(&frame, &host, over, &receiver) {
                        host.error(id, &format!("{error:#}"));
                    }
                    locked(&channels).remove(&id);
                });
            }
            Kind::Stdin => tell(&channels, id, Input::Data(frame.body)),
            Kind::StdinEnd => tell(&channels, id, Input::End),
            Kind::Signal => {
                let number = Decoder(&frame.body).number()?;
                tell(&channels, id, Input::Signal(i32::try_from(number)?));
            }
            Kind::Resize => {
                let mut body = Decoder(&frame.body);
                let (rows, columns) = (u16::try_from(body.number()?)?, u16::try_from(body.number()?)?);
                tell(&channels, id, Input::Resize(rows, columns));
            }
            _ => host.error(id, "the host sent a kind of frame that only a guest sends"),
        }
    }
}

fn tell(channels: &Mutex<HashMap<u32, Sender<Input>>>, id: u32, input: Input) {
    // A channel that has ended meanwhile needs nothing any more.
    if let Some(sender) = locked(channels).get(&id) {
        let _ = sender.send(input);
    }
}

fn handle(frame: &Frame, host: &Host, over: Sender<Input>, input: &Receiver<Input>) -> Result<()> {
    match frame.kind {
        Kind::Exec => process::run(&Request::decode(&frame.body)?, frame.channel, host, over, input),
        Kind::Write => write_file(frame, host, input),
        _ => read_file(frame, host),
    }
}

fn write_file(frame: &Frame, host: &Host, input: &Receiver<Input>) -> Result<()> {
    let mut body = Decoder(&frame.body);
    let (path, mode) = (body.text()?, body.number()?);
    if let Some(parent) = Path::new(&path).parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&path);
    let mut file = open.with_context(|| format!("cannot create {path}"))?;
    for part in input {
        match part {
            Input::Data(data) => file.write_all(&data).with_context(|| format!("cannot write {path}"))?,
            Input::End => break,
            _ => {}
        }
    }
    // The mode given to open is cut by the umask and ignored for a file that exists. Kernel files have none.
    if file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o7777 != mode) {
        let _ = fs::set_permissions(&path, fs::Permissions::from_mode(mode));
    }
    host.exit(frame.channel, 0, 0);
    Ok(())
}

fn read_file(frame: &Frame, host: &Host) -> Result<()> {
    let path = Decoder(&frame.body).text()?;
    let mut file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => host.send(frame.channel, Kind::Stdout, buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).with_context(|| format!("cannot read {path}")),
        }
    }
    host.exit(frame.channel, 0, 0);
    Ok(())
}

/// Writes everything back and switches the machine off.
fn power_off() {
    nix::unistd::sync();
    let _ = reboot(RebootMode::RB_POWER_OFF);
}
