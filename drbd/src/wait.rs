//! Waiting for a state. The kernel's events wake the waiter up; what counts is the state it reads then, so that lost events do no harm.

use std::time::{Duration, Instant};

use host::Deadline;
use host::nl::{Error as NlError, Protocol, Socket};

use crate::link::About;
use crate::state::Speedometer;
use crate::wire::{Command, Packet, nest, request};
use crate::{
    ConnState, Drbd, Error, Progress, ReplState, ResourceName, ResourceState, Result, Sectors, Volume, watch,
};

/// How often the state is read without an event: progress has none.
const LOOK: Duration = Duration::from_millis(500);

/// How a volume came to be down (`enum drbd_timeout_flag`, include/linux/drbd.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StartKind {
    /// Both nodes had been there.
    Normal,
    /// It had been without its peer: the cluster was degraded.
    Degraded,
    /// The peer's data is known to be old.
    PeerOutdated,
    /// A number that DRBD 8.4 does not have.
    Other(u32),
}

impl StartKind {
    fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Normal,
            1 => Self::Degraded,
            2 => Self::PeerOutdated,
            other => Self::Other(other),
        }
    }
}

/// How long a starting node waits for its peer: `startup { }` of drbd.conf, where 0 stands for ever.
///
/// ```
/// use drbd::StartTimeouts;
/// use std::time::Duration;
/// let quick = StartTimeouts::forever().with_degraded(Duration::from_secs(60));
/// assert_eq!(quick.normal, Duration::MAX);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct StartTimeouts {
    /// When both nodes had been there: `wfc-timeout`.
    pub normal: Duration,
    /// When the cluster was degraded: `degr-wfc-timeout`.
    pub degraded: Duration,
    /// When the peer's data is known to be old: `outdated-wfc-timeout`.
    pub peer_outdated: Duration,
}

impl Default for StartTimeouts {
    fn default() -> Self {
        Self::forever()
    }
}

impl StartTimeouts {
    /// For ever, which is DRBD's default for all three.
    #[must_use]
    pub fn forever() -> Self {
        Self { normal: Duration::MAX, degraded: Duration::MAX, peer_outdated: Duration::MAX }
    }

    /// Sets `wfc-timeout`.
    #[must_use]
    pub fn with_normal(mut self, timeout: Duration) -> Self {
        self.normal = timeout;
        self
    }

    /// Sets `degr-wfc-timeout`.
    #[must_use]
    pub fn with_degraded(mut self, timeout: Duration) -> Self {
        self.degraded = timeout;
        self
    }

    /// Sets `outdated-wfc-timeout`.
    #[must_use]
    pub fn with_peer_outdated(mut self, timeout: Duration) -> Self {
        self.peer_outdated = timeout;
        self
    }

    /// The one for a kind of start.
    #[must_use]
    pub fn of(&self, kind: StartKind) -> Duration {
        match kind {
            StartKind::Degraded => self.degraded,
            StartKind::PeerOutdated => self.peer_outdated,
            StartKind::Normal | StartKind::Other(_) => self.normal,
        }
    }
}

impl Drbd {
    /// Waits until the resource is connected to its peer. `drbdsetup wait-connect-resource`.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the last state; [`Error::Disconnected`] as soon as the connection is `StandAlone`, which it does not leave by
    /// itself; [`Error::NotFound`].
    #[doc(alias = "drbdadm wait-connect")]
    pub fn wait_connected(&self, name: &ResourceName, deadline: Deadline) -> Result<()> {
        self.wait_for(name, "wait for the connection of", deadline, |state| {
            if state.is_connected() {
                return Ok(true);
            }
            ended(state).map_or(Ok(false), Err)
        })
    }

    /// Waits until the peer is known to be Secondary. What a move does on the node that takes over, while the other one lets go; the tools have
    /// nothing for it but asking again and again.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the last state; [`Error::Disconnected`] as soon as the connection is `StandAlone`; [`Error::NotFound`].
    pub fn wait_released(&self, name: &ResourceName, deadline: Deadline) -> Result<()> {
        self.wait_for(name, "wait for the peer's release of", deadline, |state| {
            if state.peer_is_secondary() == Some(true) {
                return Ok(true);
            }
            ended(state).map_or(Ok(false), Err)
        })
    }

    /// Waits until both nodes have all data: connected, all disks UpToDate, no resync going on. `drbdsetup wait-sync-resource`.
    ///
    /// `seen` is told of the progress of the whole resource at least twice a second while a resync is going on, with the speed of the
    /// last ten seconds and the time it will take.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the last state; [`Error::Disconnected`] as soon as the connection is `StandAlone`; [`Error::Refused`] if both
    /// nodes wait for a decision, because neither has UpToDate data; [`Error::NotFound`].
    #[doc(alias = "drbdadm wait-sync")]
    pub fn wait_synced(
        &self,
        name: &ResourceName,
        deadline: Deadline,
        mut seen: impl FnMut(&Progress),
    ) -> Result<()> {
        const WHAT: &str = "wait for the sync of";
        let mut meter = Speedometer::default();
        self.wait_for(name, WHAT, deadline, |state| {
            if let Some(progress) = state.resync() {
                seen(&meter.measure(progress, Instant::now()));
            }
            if state.is_synced() {
                return Ok(true);
            }
            if undecided(state) {
                let (object, info) = (name.to_string(), vec![format!("state: {}", state.summary())]);
                let refusal = crate::Refusal::NoUpToDateData;
                return Err(Error::Refused { command: WHAT, object, refusal, info });
            }
            ended(state).map_or(Ok(false), Err)
        })
    }

    /// Waits until no verify is going on; returns what is known to differ in each volume. `drbdsetup wait-sync-resource`.
    ///
    /// How far it is stands in [`PeerVolumeState::verify`](crate::PeerVolumeState::verify).
    ///
    /// # Errors
    /// [`Error::Timeout`] with the last state; [`Error::Disconnected`] if the connection ended, and the verify with it; [`Error::NotFound`].
    pub fn wait_verified(&self, name: &ResourceName, deadline: Deadline) -> Result<Vec<(Volume, Sectors)>> {
        let mut found = Vec::new();
        self.wait_for(name, "wait for the verify of", deadline, |state| {
            let peers: Vec<_> = state.connections.iter().flat_map(|c| &c.volumes).collect();
            found = peers.iter().map(|peer| (peer.volume, peer.out_of_sync)).collect();
            if !state.is_connected() {
                let state = state.summary();
                return Err(Error::Disconnected { name: name.clone(), state });
            }
            Ok(!peers.iter().any(|peer| matches!(peer.repl, ReplState::VerifyS | ReplState::VerifyT)))
        })?;
        Ok(found)
    }

    /// Asks how a volume came to be down, which decides how long a starting node waits for its peer. `DRBD_ADM_GET_TIMEOUT_TYPE`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`].
    pub fn start_kind(&self, name: &ResourceName, volume: Volume) -> Result<StartKind> {
        let deadline = self.deadline();
        let minor = self.minor_of(name, volume, deadline)?;
        let object = format!("{name}/{volume}");
        let about = About { command: Command::GET_TIMEOUT_TYPE, object: &object, deadline };
        let reply = self.link.ask(about, |family| request(family, about.command, minor.get(), 0))?;
        let packet = Packet::parse(&reply)?;
        if !packet.is_success() {
            return Err(about.refused(packet.code, packet.texts()));
        }
        let number = packet.field(nest::TIMEOUT_PARMS, 1).and_then(|field| field.u32()).unwrap_or_default();
        Ok(StartKind::from_number(number))
    }

    /// Until when a starting node waits for the peer of a resource: from now on, and of several volumes the longest, for
    /// [`wait_connected`](Self::wait_connected) and [`wait_synced`](Self::wait_synced). `drbdadm wait-con-int`, with the options of
    /// `startup { }`.
    ///
    /// # Errors
    /// As [`start_kind`](Self::start_kind).
    #[doc(alias = "drbdadm wait-connect")]
    pub fn start_deadline(&self, name: &ResourceName, timeouts: &StartTimeouts) -> Result<Deadline> {
        let mut longest = Duration::ZERO;
        for volume in self.known(name, self.deadline())?.volumes {
            longest = longest.max(timeouts.of(self.start_kind(name, volume.volume)?));
        }
        Ok(Deadline::after(longest))
    }

    pub(crate) fn wait_for(
        &self,
        name: &ResourceName,
        what: &'static str,
        deadline: Deadline,
        mut done: impl FnMut(&ResourceState) -> Result<bool>,
    ) -> Result<()> {
        let about = About { command: Command(0, what), object: name.as_str(), deadline };
        let mut events: Option<Socket> = None;
        loop {
            let Some(state) = self.get_before(name, deadline.max(Deadline::after(LOOK)))? else {
                return Err(Error::NotFound { name: name.clone() });
            };
            if done(&state)? {
                return Ok(());
            }
            if deadline.is_over() {
                let (object, info) = (name.to_string(), vec![format!("state: {}", state.summary())]);
                return Err(Error::Timeout { command: what, object, info });
            }
            match &mut events {
                Some(socket) => pause(about, socket, deadline.or_after(LOOK))?,
                // Opened only now: what happened before is in the state read next.
                None => events = Some(self.event_socket(about)?),
            }
        }
    }

    fn event_socket(&self, about: About<'_>) -> Result<Socket> {
        let family = self.link.family(about)?;
        let group = family.group(watch::GROUP).ok_or(Error::Unsupported { version: family.version })?;
        let mut socket = self.host.nl().open(Protocol::Generic).map_err(|error| about.failed(error))?;
        socket.join(group).map_err(|error| about.failed(error))?;
        Ok(socket)
    }
}

/// Waits for an event of this resource.
fn pause(about: About<'_>, socket: &mut Socket, deadline: Deadline) -> Result<()> {
    let mut ours = false;
    loop {
        match socket.event(deadline) {
            Ok(None) => return Ok(()),
            Ok(Some(reply)) => {
                ours |= Packet::parse(&reply)?.context.resource.as_deref() == Some(about.object);
                if ours && !socket.has_waiting() {
                    return Ok(());
                }
            }
            // More than could be read: reason enough to look.
            Err(NlError::Overrun) => return Ok(()),
            Err(error) => return Err(about.failed(error)),
        }
    }
}

/// Whether the connection has ended for good.
pub(crate) fn ended(state: &ResourceState) -> Option<Error> {
    let ended = |c: &crate::ConnectionState| c.state == ConnState::StandAlone;
    (state.connections.is_empty() || state.connections.iter().any(ended))
        .then(|| Error::Disconnected { name: state.name.clone(), state: ConnState::StandAlone.to_string() })
}

/// Whether both nodes are connected and quiet, and some volume has no UpToDate copy on either: only a person can say whose data counts.
fn undecided(state: &ResourceState) -> bool {
    use crate::DiskState::{Inconsistent, Outdated};
    let stuck = |disk| matches!(disk, Inconsistent | Outdated);
    state.connections.iter().filter(|c| c.state == ConnState::Connected).any(|connection| {
        connection.volumes.iter().any(|peer| {
            let local = state.volume(peer.volume).map(|v| v.disk);
            peer.repl == ReplState::Established && stuck(peer.peer_disk) && local.is_some_and(stuck)
        })
    })
}
