//! The forwarding engine: one thread, non-blocking sockets, `ppoll`.
//!
//! A frame goes from a port's input buffer straight into the output buffers of its destinations; nothing is
//! allocated for it unless it is delayed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::pcap::Pcap;
use super::{Counters, Impair};
use crate::guard::locked;
use crate::sys;

/// What a port holds back for a reader that does not read; more is dropped, as a switch does.
const QUEUE: usize = 4 * 1024 * 1024;

/// What a rate limit holds back; more is dropped.
const BACKLOG: Duration = Duration::from_millis(250);

/// The longest frame: 64 KiB and a header with two VLAN tags.
const MAX_FRAME: usize = 65_536 + 64;

/// One connection of a port.
#[derive(Debug)]
struct Link {
    stream: UnixStream,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
    sent: usize,
}

/// One port of a segment. QEMU connects to its listener, again after every start.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) segment: usize,
    pub(super) listener: UnixListener,
    pub(super) impair: Impair,
    pub(super) cut: bool,
    pub(super) counters: Counters,
    link: Option<Link>,
    /// When the rate limit lets the next frame through, in and out.
    next: [Option<Instant>; 2],
}

/// One segment: a switch that learns.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) impair: Impair,
    pub(super) pcap: Option<Pcap>,
    pub(super) counters: Counters,
    ports: Vec<usize>,
    table: HashMap<[u8; 6], usize>,
}

impl Segment {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

/// A frame that waits for its time. Ordered by time, then by arrival.
type Delayed = Reverse<(Instant, u64, usize, Vec<u8>)>;

/// All segments and ports.
#[derive(Debug)]
pub(super) struct State {
    pub(super) segments: Vec<Segment>,
    pub(super) ports: Vec<Port>,
    pub(super) stop: bool,
    delayed: BinaryHeap<Delayed>,
    arrivals: u64,
    random: u64,
}

impl State {
    /// An empty hub.
    pub(super) fn new() -> Self {
        let (segments, ports, delayed) = (Vec::new(), Vec::new(), BinaryHeap::new());
        Self { segments, ports, stop: false, delayed, arrivals: 0, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Adds a port and returns its number.
    pub(super) fn add_port(&mut self, segment: usize, listener: UnixListener) -> usize {
        let number = self.ports.len();
        let (impair, counters) = (Impair::default(), Counters::default());
        self.ports.push(Port {
            segment,
            listener,
            impair,
            cut: false,
            counters,
            link: None,
            next: [None; 2],
        });
        if let Some(segment) = self.segments.get_mut(segment) {
            segment.ports.push(number);
        }
        number
    }

    /// Accepts a connection of a port. A new one takes the place of the old one: its machine was restarted.
    fn accept(&mut self, number: usize) {
        let Some(port) = self.ports.get_mut(number) else { return };
        while let Ok((stream, _)) = port.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                let (input, output) = (vec![0; 4 * MAX_FRAME], Vec::with_capacity(MAX_FRAME));
                port.link = Some(Link { stream, input, filled: 0, output, sent: 0 });
            }
        }
    }

    fn disconnect(&mut self, number: usize) {
        if let Some(port) = self.ports.get_mut(number) {
            port.link = None;
        }
        for segment in &mut self.segments {
            segment.table.retain(|_, port| *port != number);
        }
    }

    /// Reads what a port has and forwards every whole frame.
    fn receive(&mut self, number: usize, now: Instant) {
        let Some(link) = self.ports.get_mut(number).and_then(|p| p.link.as_mut()) else { return };
        let (mut input, mut filled) = (std::mem::take(&mut link.input), link.filled);
        let result = link.stream.read(input.get_mut(filled..).unwrap_or_default());
        match result {
            Ok(0) => return self.disconnect(number),
            Ok(n) => filled += n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return self.disconnect(number),
        }
        let mut start = 0;
        let mut sound = true;
        while let Some((head, rest)) = input.get(start..filled).and_then(|b| b.split_first_chunk::<4>()) {
            let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
            if length > MAX_FRAME {
                sound = false;
                break;
            }
            let Some(frame) = rest.get(..length) else { break };
            self.forward(number, frame, now);
            start += 4 + length;
        }
        input.copy_within(start..filled, 0);
        if let Some(link) = self.ports.get_mut(number).and_then(|p| p.link.as_mut()) {
            link.input = input;
            link.filled = filled - start;
        }
        if !sound {
            self.disconnect(number);
        }
    }

    /// Forwards a frame from a port.
    fn forward(&mut self, from: usize, frame: &[u8], now: Instant) {
        let Some((destination, source)) = frame.split_first_chunk::<6>() else { return };
        let Some(source) = source.first_chunk::<6>() else { return };
        let Some(port) = self.ports.get_mut(from) else { return };
        port.counters.received += 1;
        let number = port.segment;
        let (cut, impair) = (port.cut, port.impair);
        let Some(segment) = self.segments.get_mut(number) else { return };
        segment.counters.received += 1;
        let whole = segment.impair;
        if cut || lost(&mut self.random, impair.loss) || lost(&mut self.random, whole.loss) {
            segment.counters.dropped += 1;
            if let Some(port) = self.ports.get_mut(from) {
                port.counters.dropped += 1;
            }
            return;
        }
        if let Some(pcap) = &mut segment.pcap {
            // A full disk must not stop the network; the capture just ends.
            if pcap.write(frame).is_err() {
                segment.pcap = None;
            }
        }
        segment.table.insert(*source, from);
        let mut due = now + impair.delay + whole.delay;
        if let Some(port) = self.ports.get_mut(from) {
            let Some(at) = port.pace(0, frame.len(), now) else { return };
            due += at.saturating_duration_since(now);
        }
        // The group bit of an address is the lowest of its first byte.
        let known = if destination[0] & 1 == 0 { segment.table.get(destination).copied() } else { None };
        if let Some(to) = known {
            return self.deliver(from, to, frame, now, due);
        }
        let mut next = 0;
        while let Some(to) = self.segments.get(number).and_then(|s| s.ports.get(next)).copied() {
            self.deliver(from, to, frame, now, due);
            next += 1;
        }
    }

    fn deliver(&mut self, from: usize, to: usize, frame: &[u8], now: Instant, mut due: Instant) {
        let Some(port) = self.ports.get_mut(to) else { return };
        if from == to || port.link.is_none() {
            return;
        }
        if port.cut || lost(&mut self.random, port.impair.loss) {
            port.counters.dropped += 1;
            return;
        }
        due += port.impair.delay;
        match port.pace(1, frame.len(), now) {
            Some(at) => due += at.saturating_duration_since(now),
            None => return,
        }
        if due <= now {
            port.put(frame);
        } else {
            self.arrivals += 1;
            self.delayed.push(Reverse((due, self.arrivals, to, frame.to_vec())));
        }
    }

    /// Sends the delayed frames whose time has come.
    fn release(&mut self, now: Instant) {
        while self.delayed.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, _, to, frame))) = self.delayed.pop() else { return };
            if let Some(port) = self.ports.get_mut(to) {
                port.put(&frame);
            }
        }
    }
}

impl Port {
    /// When the rate limit lets a frame through; None if its queue is full and the frame is dropped.
    fn pace(&mut self, direction: usize, length: usize, now: Instant) -> Option<Instant> {
        let Some(rate) = self.impair.rate else { return Some(now) };
        let slot = self.next.get_mut(direction)?;
        let at = slot.map_or(now, |t| t.max(now));
        if at.saturating_duration_since(now) > BACKLOG {
            self.counters.dropped += 1;
            return None;
        }
        let nanos = (length as u64).saturating_mul(1_000_000_000) / rate.max(1);
        *slot = Some(at + Duration::from_nanos(nanos));
        *slot
    }

    fn put(&mut self, frame: &[u8]) {
        let Some(link) = &mut self.link else { return };
        if self.cut || link.output.len() - link.sent > QUEUE {
            self.counters.dropped += 1;
            return;
        }
        let length = u32::try_from(frame.len()).unwrap_or(0);
        link.output.extend_from_slice(&length.to_be_bytes());
        link.output.extend_from_slice(frame);
        self.counters.sent += 1;
    }

    /// Writes what is queued. False when the connection is broken.
    fn flush(&mut self) -> bool {
        let Some(link) = &mut self.link else { return true };
        while link.sent < link.output.len() {
            match link.stream.write(link.output.get(link.sent..).unwrap_or_default()) {
                Ok(n) => link.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        link.output.clear();
        link.sent = 0;
        true
    }
}

fn lost(random: &mut u64, share: f64) -> bool {
    if share <= 0.0 {
        return false;
    }
    // xorshift64: the same run loses the same frames.
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    // 53 bits are what a double holds.
    ((*random >> 11) as f64) < share * ((1_u64 << 53) as f64)
}

/// Runs the hub until it is told to stop. A byte on `wake` makes it look at its state anew.
pub(super) fn run(state: &Mutex<State>, mut wake: &UnixStream) {
    let mut fds: Vec<libc::pollfd> = Vec::new();
    let mut bell = [0; 64];
    loop {
        let timeout = {
            let state = locked(state);
            if state.stop {
                return;
            }
            fds.clear();
            fds.push(entry(wake.as_raw_fd(), libc::POLLIN));
            for port in &state.ports {
                fds.push(entry(port.listener.as_raw_fd(), libc::POLLIN));
                let writes = port.link.as_ref().is_some_and(|l| !l.output.is_empty());
                let events = if writes { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
                fds.push(entry(port.link.as_ref().map_or(-1, |l| l.stream.as_raw_fd()), events));
            }
            let now = Instant::now();
            state.delayed.peek().map(|Reverse((due, ..))| due.saturating_duration_since(now))
        };
        if sys::poll(&mut fds, timeout).is_err() {
            return;
        }
        let mut state = locked(state);
        let now = Instant::now();
        let ready = |fd: Option<&libc::pollfd>| fd.is_some_and(|fd| fd.revents != 0);
        if ready(fds.first()) {
            let _ = wake.read(&mut bell);
        }
        for (number, pair) in fds.get(1..).unwrap_or_default().chunks_exact(2).enumerate() {
            if ready(pair.last()) {
                state.receive(number, now);
            }
            if ready(pair.first()) {
                state.accept(number);
            }
        }
        state.release(now);
        for number in 0..state.ports.len() {
            if state.ports.get_mut(number).is_some_and(|port| !port.flush()) {
                state.disconnect(number);
            }
        }
        for pcap in state.segments.iter_mut().filter_map(|s| s.pcap.as_mut()) {
            let _ = pcap.flush();
        }
    }
}

fn entry(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}
