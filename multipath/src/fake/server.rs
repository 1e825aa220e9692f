//! The daemon in memory behind a real socket, with multipathd's own rules of framing (multipathd/uxlsnr.c).

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use host::Deadline;

use super::{FakeMultipathd, Mishap};
use crate::daemon::{Address, Client};

/// How long the daemon waits for the rest of a command (`uxsock_timeout`).
const PATIENCE: Duration = Duration::from_secs(4);
const MAX_COMMAND: usize = 512;

/// An abstract name that no other server of this machine has.
pub(super) fn unused() -> Address {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    Address::Abstract(format!("sankit/fake-multipathd/{}/{number}", std::process::id()))
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    open: Mutex<Vec<UnixStream>>,
}

impl Shared {
    fn hang_up(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A [`FakeMultipathd`] on a socket. Ends when dropped.
#[derive(Debug)]
pub struct FakeServer {
    address: Address,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl FakeServer {
    pub(super) fn start(daemon: FakeMultipathd, address: Address) -> io::Result<Self> {
        let listener = UnixListener::bind_addr(&address.resolve()?)?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if theirs.over.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(copy) = stream.try_clone() {
                    theirs.open.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
                }
                let daemon = daemon.clone();
                std::thread::spawn(move || {
                    while turn(&daemon, &stream).is_ok() {}
                    // A copy of it is in the list: only this closes it. The other side may have done so already.
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Ok(Self { address, shared, accepting: Some(accepting) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// A client of it.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::at(self.address.clone())
    }

    /// Closes all connections, as a restart of the daemon does, and goes on serving new ones.
    pub fn hang_up(&self) {
        self.shared.hang_up();
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the one who accepts; where that fails it has ended.
        let awake = self.address.resolve().and_then(|address| UnixStream::connect_addr(&address));
        if let (Ok(_), Some(accepting)) = (awake, self.accepting.take()) {
            // A panic of that thread has been printed.
            let _ = accepting.join();
        }
        self.shared.hang_up();
        if let Address::Path(path) = &self.address {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// One command and its answer; an error ends the connection.
fn turn(daemon: &FakeMultipathd, mut stream: &UnixStream) -> io::Result<()> {
    const WORD: usize = size_of::<usize>();
    let mut message = [0; WORD + MAX_COMMAND];
    stream.set_read_timeout(None)?;
    // The length must come whole.
    let mut filled = stream.read(message.get_mut(..WORD).unwrap_or_default())?;
    let length = message.first_chunk::<WORD>().copied().map_or(0, usize::from_ne_bytes);
    if filled < WORD || length == 0 || length > MAX_COMMAND {
        return Err(ErrorKind::InvalidData.into());
    }
    let deadline = Deadline::after(PATIENCE);
    while filled < WORD + length {
        let left = deadline.left().max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        match stream.read(message.get_mut(filled..WORD + length).unwrap_or_default()) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(got) => filled += got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return reply(stream, "timeout\n"),
            Err(error) => return Err(error),
        }
    }
    let text = String::from_utf8_lossy(message.get(WORD..filled).unwrap_or_default());
    let command = text.split('\0').next().unwrap_or_default();
    let (dead, mishap) = {
        let mut inner = daemon.lock();
        let mishap = match inner.mishaps.get(command) {
            Some(Mishap::Cut) => inner.mishaps.remove(command),
            other => other.cloned(),
        };
        (inner.dead, mishap)
    };
    match mishap {
        _ if dead => return Err(ErrorKind::ConnectionReset.into()),
        Some(Mishap::Cut) => {
            daemon.lock().asked.push(command.to_owned());
            stream.shutdown(Shutdown::Both)?;
            return Err(ErrorKind::ConnectionReset.into());
        }
        Some(Mishap::Half) => {
            daemon.lock().asked.push(command.to_owned());
            return stream.write_all(&1000_usize.to_ne_bytes());
        }
        Some(Mishap::Late(time)) => {
            let _ = Deadline::never().pause(time);
        }
        Some(Mishap::Timeout(_)) | None => {}
    }
    let answer = daemon.lock().answer(command);
    reply(stream, &answer)
}

fn reply(mut stream: &UnixStream, text: &str) -> io::Result<()> {
    let mut message = (text.len() + 1).to_ne_bytes().to_vec();
    message.extend(text.as_bytes());
    message.push(0);
    stream.write_all(&message)
}
