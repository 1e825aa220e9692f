//! The stream of changes: device events of device-mapper and the initiator's connection errors, as one.
//!
//! The kernel tells of each path that fails or comes back (`CONFIG_DM_UEVENT`), of each map that is made, changed or removed, and, up to the
//! recovery time before a path fails, of each connection that breaks. It does not tell of a group that is switched to, nor of what did not fit
//! into a socket's buffer: whatever changed a map makes its state be read again, and after a loss all of it, and the differences are told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use host::nl::{Channel, Protocol};
use host::{Deadline, DmName, Watch};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::Kernel;
use crate::error::{Error, Result};
use crate::state::{MapState, PathState};
use crate::wire::uevent::{self, IscsiEvent, Uevent};

/// Why a connection broke (`enum iscsi_err`, `include/scsi/iscsi_if.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[non_exhaustive]
pub enum ConnectionError {
    /// It broke, as the network has it (1011): reset, unreachable.
    Failed,
    /// The target closed it (1020).
    Closed,
    /// The target did not answer whether it lives (1022).
    PingTimedOut,
    /// Another reason: its number.
    Other(u32),
}

impl ConnectionError {
    fn new(code: u32) -> Self {
        match code {
            1011 => Self::Failed,
            1020 => Self::Closed,
            1022 => Self::PingTimedOut,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed => f.write_str("it failed"),
            Self::Closed => f.write_str("the target closed it"),
            Self::PingTimedOut => f.write_str("the target does not answer"),
            Self::Other(code) => write!(f, "error {code}"),
        }
    }
}

/// What a [`watch`](Kernel::watch) delivers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub enum Event {
    /// The maps as they are when the watch begins. Always the first event.
    Snapshot(Vec<MapState>),
    /// A map was made.
    MapAdded(Box<MapState>),
    /// A map changed: its paths, size, queueing, or it was suspended or resumed. Not: the state of a path alone.
    MapChanged {
        /// Before.
        old: Box<MapState>,
        /// After.
        new: Box<MapState>,
    },
    /// A map is gone; its last state.
    MapRemoved(Box<MapState>),
    /// A path failed: I/O goes over the others.
    PathFailed {
        /// The map's name.
        map: String,
        /// The path's number: "8:16".
        path: String,
        /// Its device: "sdb"; empty if it is gone.
        device: String,
        /// How many paths are left.
        left: usize,
    },
    /// A path is used again.
    PathReinstated {
        /// The map's name.
        map: String,
        /// The path's number.
        path: String,
        /// Its device.
        device: String,
        /// How many paths work now.
        left: usize,
    },
    /// The last path failed: I/O waits or fails from now on. Comes after its [`PathFailed`](Self::PathFailed).
    LastPathLost {
        /// The map's name.
        map: String,
    },
    /// A session's connection broke. Its paths fail when its recovery time is over, unless it is back by then.
    ConnectionFailed {
        /// The session's number.
        session: u32,
        /// The connection's number in it.
        connection: u32,
        /// Why.
        error: ConnectionError,
    },
    /// A session was made.
    SessionAdded {
        /// Its number.
        session: u32,
    },
    /// A session is gone.
    SessionRemoved {
        /// Its number.
        session: u32,
    },
    /// Messages were lost; the state was read again. The events that follow lead from the last known state to it; errors of connections that
    /// came meanwhile are lost.
    Resynchronised,
}

impl Kernel {
    /// Watches maps, paths and connections. `multipathd`'s log, `udevadm monitor` and `dmsetup wait`, without losing anything.
    ///
    /// Needs no multipathd, but `CAP_SYS_ADMIN`, and the initial network namespace: the kernel tells of devices only there. Connection errors need
    /// `CAP_NET_ADMIN` and the initiator's module; where they cannot be heard the rest is watched. Read until
    /// [`next_before`](Watch::next_before) with a deadline that is over gives `None` before polling the descriptor: several events may come from
    /// one message. Dropping the watch ends it and changes nothing.
    ///
    /// # Errors
    /// The sockets cannot be opened, or the maps not be listed. Later errors come from the watch itself, which stays usable.
    #[doc(alias = "dmsetup wait")]
    pub fn watch(&self) -> Result<Watch<Event, Error>> {
        // Of the transport itself: what it answers are no netlink messages.
        let open = |protocol| -> io::Result<Box<dyn Channel>> {
            let mut channel = host::nl::Kernel::open(self.host.nl(), protocol)?;
            // The kernel's own events; those for iscsid.
            channel.join(1)?;
            Ok(channel)
        };
        let uevents = open(Protocol::KobjectUevent).map_err(Error::Watch)?;
        let iscsi = open(Protocol::Iscsi)
            .inspect_err(|error| log::debug!("multipath: connection errors cannot be heard: {error}"))
            .ok();
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from).map_err(Error::Watch)?;
        for channel in [Some(&uevents), iscsi.as_ref()].into_iter().flatten() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
            epoll.add(channel.fd(), event).map_err(io::Error::from).map_err(Error::Watch)?;
        }
        // Read after the sockets listen: what changes from now on is told.
        let maps = self.list()?;
        let out = VecDeque::from([Event::Snapshot(maps.clone())]);
        let maps = maps.into_iter().map(|map| (map.name.clone(), map)).collect();
        Ok(Watch::new(Source {
            kernel: self.clone(),
            uevents,
            iscsi,
            epoll,
            maps,
            fallen: BTreeSet::new(),
            out,
            stale: false,
        }))
    }
}

#[derive(Debug)]
struct Source {
    kernel: Kernel,
    uevents: Box<dyn Channel>,
    iscsi: Option<Box<dyn Channel>>,
    epoll: Epoll,
    maps: BTreeMap<String, MapState>,
    /// Map and number of each path of whose failure the kernel has told, and whose return nobody has told or seen yet.
    fallen: BTreeSet<(String, String)>,
    out: VecDeque<Event>,
    /// Something could not be read: all is read again.
    stale: bool,
}

/// Takes all datagrams that wait; `true` if some were lost.
fn drain(channel: &mut dyn Channel, take: &mut dyn FnMut(&[u8])) -> Result<bool> {
    let mut lost = false;
    loop {
        match channel.receive(Deadline::after(Duration::ZERO), take) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(lost),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
            Err(error) => return Err(Error::Watch(error)),
        }
    }
}

impl Source {
    /// Takes what the sockets have and reads the state of what it is about.
    fn look(&mut self) -> Result<()> {
        let (mut heard, mut errors) = (Vec::new(), Vec::new());
        let mut lost = drain(&mut *self.uevents, &mut |datagram| heard.extend(uevent::parse(datagram)))?;
        if let Some(channel) = &mut self.iscsi {
            lost |= drain(&mut **channel, &mut |datagram| errors.extend(uevent::iscsi(datagram)))?;
        }
        self.out.extend(errors.into_iter().map(|error| match error {
            IscsiEvent::Error { session, connection, code } => {
                Event::ConnectionFailed { session, connection, error: ConnectionError::new(code) }
            }
            IscsiEvent::Created { session } => Event::SessionAdded { session },
            IscsiEvent::Destroyed { session } => Event::SessionRemoved { session },
        }));
        if lost {
            self.out.push_back(Event::Resynchronised);
            self.stale = true;
        }
        let (mut changed, mut nodes) = (BTreeSet::new(), BTreeSet::new());
        for event in heard {
            match event {
                Uevent::Path { map, path, reinstated } => {
                    let state = if reinstated { PathState::Active } else { PathState::Failed };
                    // A path failed whatever it is by now; only what was told already is not told twice.
                    if let Some(known) = self.maps.get_mut(&map) {
                        let at = (map.clone(), path.clone());
                        if reinstated {
                            self.fallen.remove(&at);
                        } else if !self.fallen.insert(at) {
                            // It failed, and fails: in between the table was loaded anew (multipathd does that), which makes all paths
                            // active and tells nobody.
                            self.out.extend(turned(known, &path, &PathState::Active));
                        }
                        self.out.extend(turned(known, &path, &state));
                    }
                    changed.insert(map);
                }
                Uevent::Device(node) => {
                    nodes.insert(node);
                }
            }
        }
        if self.stale {
            return self.resynchronise();
        }
        if !nodes.is_empty() {
            let known =
                self.maps.values().filter(|map| nodes.contains(&map.node)).map(|map| map.name.clone());
            changed.extend(known);
            let devices = self.kernel.devices().inspect_err(|_| self.stale = true)?;
            let is = |minor: u32| nodes.contains(&format!("dm-{minor}"));
            changed.extend(
                devices.iter().filter(|device| is(device.number.minor)).map(|device| device.name.to_string()),
            );
        }
        for name in changed {
            let found = self.kernel.get_by_name(&DmName::from_kernel(name.as_str()));
            let new = found.inspect_err(|_| self.stale = true)?;
            self.replace(&name, new);
        }
        Ok(())
    }

    fn resynchronise(&mut self) -> Result<()> {
        let mut now: BTreeMap<_, _> =
            self.kernel.list()?.into_iter().map(|map| (map.name.clone(), map)).collect();
        self.stale = false;
        let names: BTreeSet<String> = self.maps.keys().chain(now.keys()).cloned().collect();
        for name in names {
            let new = now.remove(&name);
            self.replace(&name, new);
        }
        Ok(())
    }

    /// Tells what differs between what was known of a map and what is seen of it.
    fn replace(&mut self, name: &str, new: Option<MapState>) {
        let old = match &new {
            Some(new) => self.maps.insert(name.to_owned(), new.clone()),
            None => self.maps.remove(name),
        };
        if old.as_ref().map(|map| &map.wwid) != new.as_ref().map(|map| &map.wwid) {
            self.fallen.retain(|(map, _)| map != name);
        }
        match (old, new) {
            (None, None) => {}
            (None, Some(new)) => self.out.push_back(Event::MapAdded(Box::new(new))),
            (Some(old), None) => self.out.push_back(Event::MapRemoved(Box::new(old))),
            // Removed and made again in between: another disk.
            (Some(old), Some(new)) if old.wwid != new.wwid => {
                self.out.push_back(Event::MapRemoved(Box::new(old)));
                self.out.push_back(Event::MapAdded(Box::new(new)));
            }
            (Some(mut old), Some(new)) => {
                for path in new.paths() {
                    if path.state == PathState::Active {
                        self.fallen.remove(&(name.to_owned(), path.number.clone()));
                    }
                    self.out.extend(turned(&mut old, &path.number, &path.state));
                }
                if lasting(&old) != lasting(&new) {
                    self.out.push_back(Event::MapChanged { old: Box::new(old), new: Box::new(new) });
                }
            }
        }
    }
}

/// Puts a path into a state and tells of it, if it was in another.
fn turned(map: &mut MapState, number: &str, state: &PathState) -> Vec<Event> {
    let paths = map.groups.iter_mut().flat_map(|group| &mut group.paths);
    let Some(path) = paths.into_iter().find(|path| path.number == number && path.state != *state) else {
        return Vec::new();
    };
    path.state = state.clone();
    let (name, path, device) = (map.name.clone(), path.number.clone(), path.device.clone());
    let left = map.paths().filter(|path| path.state == PathState::Active).count();
    match state {
        PathState::Active => vec![Event::PathReinstated { map: name, path, device, left }],
        PathState::Failed if left == 0 => {
            vec![
                Event::PathFailed { map: name.clone(), path, device, left },
                Event::LastPathLost { map: name },
            ]
        }
        PathState::Failed => vec![Event::PathFailed { map: name, path, device, left }],
        _ => Vec::new(),
    }
}

/// A map without what changes with each path and with each that opens it.
fn lasting(map: &MapState) -> MapState {
    let mut map = map.clone();
    map.open_count = None;
    for path in map.groups.iter_mut().flat_map(|group| &mut group.paths) {
        path.failures = None;
        path.state = PathState::Undefined;
        path.device_state = crate::DeviceState::Unknown;
    }
    map
}

impl host::Source for Source {
    type Item = Event;
    type Error = Error;

    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    fn next(&mut self, deadline: Deadline) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.out.pop_front() {
                return Ok(Some(event));
            }
            self.look()?;
            if !self.out.is_empty() {
                continue;
            }
            if deadline.is_over() {
                return Ok(None);
            }
            let time = EpollTimeout::try_from(deadline.poll_millis()).unwrap_or(EpollTimeout::NONE);
            match self.epoll.wait(&mut [EpollEvent::empty(); 2], time) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(Error::Watch(errno.into())),
            }
        }
    }
}
