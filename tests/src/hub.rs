//! Links between machines: segments that the lab process serves itself.
//!
//! QEMU's `-netdev stream` needs neither root nor a network of the host, but it never connects again when its
//! peer is gone. So the lab is the server of every link and QEMU is always the client: a machine that dies
//! and is started again finds its port. On the socket a frame is preceded by its length, four bytes big endian.

mod engine;
mod pcap;

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::guard::locked;
use engine::State;

/// How frames are disturbed. The default disturbs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Impair {
    /// Added to the way of each frame.
    pub delay: Duration,
    /// Share of frames lost, 0.0 to 1.0. The same run loses the same frames.
    pub loss: f64,
    /// Bytes per second in each direction; None is no limit. Up to 250 ms wait, more is dropped. A segment
    /// has no rate of its own, set it on cables.
    pub rate: Option<u64>,
}

/// Frames counted at a port or a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames that came in.
    pub received: u64,
    /// Frames that went out (ports only).
    pub sent: u64,
    /// Frames dropped on purpose or for lack of room.
    pub dropped: u64,
}

struct Shared {
    state: Mutex<State>,
    wake: UnixStream,
}

impl Shared {
    /// Makes the engine see new ports and the end.
    fn ring(&self) {
        let _ = (&self.wake).write(&[1]);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hub")
    }
}

/// All segments of a lab.
#[derive(Debug)]
pub(crate) struct Hub {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    sockets: PathBuf,
}

impl Hub {
    /// Starts the engine. The sockets of the ports go into `sockets`.
    pub(crate) fn start(sockets: &Path) -> Result<Self> {
        let (wake, bell) = UnixStream::pair().context("cannot make a socket pair")?;
        wake.set_nonblocking(true)?;
        bell.set_nonblocking(true)?;
        let shared = Arc::new(Shared { state: Mutex::new(State::new()), wake });
        let engine = Arc::clone(&shared);
        let work = move || engine::run(&engine.state, &bell);
        let thread = thread::Builder::new().name("lab-hub".to_owned()).spawn(work);
        let thread = Some(thread.context("cannot start the hub")?);
        Ok(Self { shared, thread, sockets: sockets.to_owned() })
    }

    /// The segment of this name, added if there is none.
    pub(crate) fn segment(&self, name: &str) -> Segment {
        let mut state = locked(&self.shared.state);
        let known = state.segments.iter().position(|segment| segment.name == name);
        let number = known.unwrap_or(state.segments.len());
        if known.is_none() {
            state.segments.push(engine::Segment::new(name));
        }
        let (shared, sockets) = (Arc::clone(&self.shared), self.sockets.clone());
        Segment { shared, number, name: name.to_owned(), sockets }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        locked(&self.shared.state).stop = true;
        self.shared.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A segment: a switch that learns addresses. Frames up to 64 KiB, VLAN tags and all, pass unchanged.
#[derive(Debug, Clone)]
pub struct Segment {
    shared: Arc<Shared>,
    number: usize,
    name: String,
    sockets: PathBuf,
}

impl Segment {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Disturbs every frame of the segment, from now on. `rate` has no effect here.
    pub fn impair(&self, impair: Impair) {
        self.with(|segment| segment.impair = impair);
    }

    /// Writes every frame that enters the segment into a classic pcap file, from now on. The file is whole
    /// after every frame.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn capture(&self, path: &Path) -> Result<()> {
        let pcap = pcap::Pcap::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        self.with(|segment| segment.pcap = Some(pcap));
        Ok(())
    }

    /// Ends the capture.
    pub fn stop_capture(&self) {
        self.with(|segment| {
            if let Some(mut pcap) = segment.pcap.take() {
                let _ = pcap.flush();
            }
        });
    }

    /// The frames seen so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.with(|segment| segment.counters)
    }

    /// Connects the test itself to the segment.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn tap(&self) -> Result<Tap> {
        let cable = self.cable("tap")?;
        let stream = UnixStream::connect(cable.socket()).context("cannot connect to the hub")?;
        Ok(Tap { stream, cable })
    }

    /// Adds a port.
    pub(crate) fn cable(&self, owner: &str) -> Result<Cable> {
        let mut state = locked(&self.shared.state);
        let socket = self.sockets.join(format!("p{}", state.ports.len()));
        let listener = UnixListener::bind(&socket);
        let listener = listener.with_context(|| format!("cannot listen at {}", socket.display()))?;
        listener.set_nonblocking(true)?;
        let port = state.add_port(self.number, listener);
        drop(state);
        self.shared.ring();
        let (shared, segment) = (Arc::clone(&self.shared), self.name.clone());
        let carrier = Arc::new(Mutex::new(None));
        Ok(Cable { shared, port, socket, owner: owner.to_owned(), segment, mac: String::new(), carrier })
    }

    fn with<T>(&self, work: impl FnOnce(&mut engine::Segment) -> T) -> T
    where
        T: Default,
    {
        let mut state = locked(&self.shared.state);
        state.segments.get_mut(self.number).map(work).unwrap_or_default()
    }
}

/// Something that can switch the carrier of a network card: its running machine.
pub(crate) trait Carrier: Send + Sync {
    /// Switches the carrier of network card `index`.
    fn set_link(&self, index: usize, up: bool) -> Result<()>;
}

/// A machine and the number of its card.
type Plug = Arc<Mutex<Option<(Weak<dyn Carrier>, usize)>>>;

/// The cable between one network card and its segment. It stays when the machine dies.
#[derive(Clone)]
pub struct Cable {
    shared: Arc<Shared>,
    port: usize,
    socket: PathBuf,
    owner: String,
    segment: String,
    mac: String,
    carrier: Plug,
}

impl fmt::Debug for Cable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cable({} to {}, {})", self.owner, self.segment, self.mac)
    }
}

impl Cable {
    /// Drops every frame in both directions. The guest sees no loss of carrier.
    pub fn cut(&self) {
        self.with(|port| port.cut = true);
    }

    /// Ends [`Cable::cut`].
    pub fn restore(&self) {
        self.with(|port| port.cut = false);
    }

    /// Pulls the plug: the guest sees the carrier go. Not every emulated card tells its driver at once;
    /// virtio-net does.
    ///
    /// # Errors
    /// If the machine is off.
    pub fn unplug(&self) -> Result<()> {
        self.set_carrier(false)
    }

    /// Puts the plug back.
    ///
    /// # Errors
    /// If the machine is off.
    pub fn plug(&self) -> Result<()> {
        self.set_carrier(true)
    }

    /// Disturbs the frames of this cable, from now on, in both directions.
    pub fn impair(&self, impair: Impair) {
        self.with(|port| port.impair = impair);
    }

    /// The frames of this cable so far: received from the machine, sent to it.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.with(|port| port.counters)
    }

    /// The hardware address of the card, lower case with colons; empty for a [`Tap`].
    #[must_use]
    pub fn mac(&self) -> &str {
        &self.mac
    }

    /// The name of the segment.
    #[must_use]
    pub fn segment(&self) -> &str {
        &self.segment
    }

    /// Where QEMU connects.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Says which card of which machine the cable is plugged into.
    pub(crate) fn attach(&mut self, mac: String) {
        self.mac = mac;
    }

    /// Says who switches the carrier.
    pub(crate) fn set_owner(&self, machine: Weak<dyn Carrier>, index: usize) {
        *locked(&self.carrier) = Some((machine, index));
    }

    fn set_carrier(&self, up: bool) -> Result<()> {
        let plug = locked(&self.carrier).clone();
        match plug.and_then(|(machine, index)| Some((machine.upgrade()?, index))) {
            Some((machine, index)) => machine.set_link(index, up),
            None => bail!("{self:?} is not plugged into a machine"),
        }
    }

    fn with<T: Default>(&self, work: impl FnOnce(&mut engine::Port) -> T) -> T {
        let mut state = locked(&self.shared.state);
        state.ports.get_mut(self.port).map(work).unwrap_or_default()
    }
}

/// A port of the test itself: sends and receives raw Ethernet frames.
#[derive(Debug)]
pub struct Tap {
    stream: UnixStream,
    cable: Cable,
}

impl Tap {
    /// Its cable, to cut and to disturb.
    #[must_use]
    pub fn cable(&self) -> &Cable {
        &self.cable
    }

    /// Sends a frame, without checksum.
    ///
    /// # Errors
    /// If the hub is gone.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let mut bytes = u32::try_from(frame.len())?.to_be_bytes().to_vec();
        bytes.extend_from_slice(frame);
        (&self.stream).write_all(&bytes).context("the hub is gone")
    }

    /// Waits for a frame; None when the deadline passes first.
    ///
    /// # Errors
    /// If the hub is gone.
    pub fn receive(&self, deadline: Duration) -> Result<Option<Vec<u8>>> {
        self.stream.set_read_timeout(Some(deadline.max(Duration::from_millis(1))))?;
        let mut head = [0; 4];
        match (&self.stream).read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e).context("the hub is gone"),
        }
        let mut frame = vec![0; usize::try_from(u32::from_be_bytes(head))?];
        // The hub writes frames whole; the rest is there or on its way.
        self.stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        (&self.stream).read_exact(&mut frame).context("the hub is gone")?;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests;
