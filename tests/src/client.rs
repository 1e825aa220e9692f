//! The host's end of the agent's port: many channels over one socket.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::guard::locked;
use crate::proto::{Decoder, Frame, Kind, VERSION};

/// What is said where the machine ended without a word.
pub(crate) const WENT_DOWN: &str = "the machine went down";

/// What a channel hears.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) body: Vec<u8>,
}

/// The listeners by channel. None when the machine is gone.
type Listeners = Option<HashMap<u32, Sender<Event>>>;

/// A connection to an agent.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    owner: String,
    writer: Arc<Mutex<UnixStream>>,
    listeners: Arc<Mutex<Listeners>>,
    next: Arc<AtomicU32>,
    hello: Arc<Mutex<Receiver<Event>>>,
}

impl Client {
    /// Takes over the socket of the agent's port. The agent may still have to start.
    pub(crate) fn new(owner: &str, stream: UnixStream) -> Result<Self> {
        let mut reader = stream.try_clone().context("cannot clone a socket")?;
        let (sender, hello) = channel();
        let listeners: Arc<Mutex<Listeners>> = Arc::new(Mutex::new(Some(HashMap::from([(0, sender)]))));
        let heard = Arc::clone(&listeners);
        let work = move || {
            while let Ok(Some(Frame { channel, kind, body })) = Frame::read(&mut reader) {
                let mut listeners = locked(&heard);
                let Some(listeners) = listeners.as_mut() else { break };
                if let Some(listener) = listeners.get(&channel) {
                    let _ = listener.send(Event { kind, body });
                }
                if matches!(kind, Kind::Exit | Kind::Error) {
                    listeners.remove(&channel);
                }
            }
            // Everybody who waits sees the end of its queue now.
            *locked(&heard) = None;
        };
        thread::Builder::new().name(format!("agent-{owner}")).spawn(work).context("cannot start a thread")?;
        Ok(Self {
            owner: owner.to_owned(),
            writer: Arc::new(Mutex::new(stream)),
            listeners,
            next: Arc::new(AtomicU32::new(1)),
            hello: Arc::new(Mutex::new(hello)),
        })
    }

    /// Waits for the agent's first word. False when the deadline passes first.
    pub(crate) fn ready(&self, deadline: Duration) -> Result<bool> {
        match locked(&self.hello).recv_timeout(deadline) {
            Ok(Event { kind: Kind::Hello, body }) => {
                let version = Decoder(&body).number()?;
                if version != VERSION {
                    bail!(
                        "the agent speaks version {version}, not {VERSION}: build it again (cargo build --bins)"
                    );
                }
                Ok(true)
            }
            Ok(event) => bail!("the agent began with {:?}", event.kind),
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => bail!(WENT_DOWN),
        }
    }

    /// Opens a channel.
    pub(crate) fn open(&self) -> Result<Channel> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = channel();
        match locked(&self.listeners).as_mut() {
            Some(listeners) => drop(listeners.insert(id, sender)),
            None => bail!("{}: the machine is down", self.owner),
        }
        Ok(Channel { id, events, client: self.clone() })
    }

    fn send(&self, frame: &Frame) -> Result<()> {
        frame
            .write(&mut *locked(&self.writer))
            .with_context(|| format!("{}: the machine is down", self.owner))
    }
}

/// One conversation with an agent.
#[derive(Debug)]
pub(crate) struct Channel {
    id: u32,
    events: Receiver<Event>,
    client: Client,
}

impl Channel {
    /// The machine's name.
    pub(crate) fn owner(&self) -> &str {
        &self.client.owner
    }

    /// Says something.
    pub(crate) fn send(&self, kind: Kind, body: impl Into<Vec<u8>>) -> Result<()> {
        self.client.send(&Frame::new(self.id, kind, body))
    }

    /// A way to say something from another thread.
    pub(crate) fn sender(&self) -> impl Fn(Kind, Vec<u8>) -> Result<()> + Send + 'static {
        let (client, id) = (self.client.clone(), self.id);
        move |kind, body| client.send(&Frame::new(id, kind, body))
    }

    /// Waits for an event.
    pub(crate) fn receive(&self, deadline: Duration) -> Result<Event, RecvTimeoutError> {
        self.events.recv_timeout(deadline)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Some(listeners) = locked(&self.client.listeners).as_mut() {
            listeners.remove(&self.id);
        }
    }
}
