//! Waiting for a state. The kernel's events wake the waiter up; what counts is the state it reads then, so that lost events do no harm.

use std::time::{Duration, Instant};

use host::Deadline;
use host::nl::{Error as NlError, Protocol, Socket};

use crate::link::About;
use crate::state::Speedometer;
use crate::wire::{Command, Packet};
use crate::{ConnState, Drbd, Error, Progress, ReplState, ResourceName, ResourceState, Result, watch};

/// How often the state is read without an event: progress has none.
const LOOK: Duration = Duration::from_millis(500);

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

    fn wait_for(
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
fn ended(state: &ResourceState) -> Option<Error> {
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
