//! Who may use the data: Primary and Secondary.

use std::time::Duration;

use host::Deadline;
use host::nl::NESTED;

use crate::link::About;
use crate::nine::{self, Force};
use crate::wire::{Command, MANDATORY, Packet, nest, request};
use crate::{
    ConnState, ConnectionState, Dialect, Drbd, Error, Holder, Minor, Refusal, ResourceName, ResourceState,
    Result, holders,
};

/// How [`Drbd::promote`] decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Promote {
    /// Only with UpToDate data, and not beside another Primary.
    #[default]
    IfSafe,
    /// The same, and only while the peer is connected and known to be Secondary, this node's disks are UpToDate and no resync is going on:
    /// a planned move, never a takeover. What is not so yet is waited for, two seconds at most.
    IfPeerAgrees,
    /// With whatever data this node has: an Outdated or Inconsistent disk is declared UpToDate. What the peer has and this node has not is
    /// lost, and the first of two new disks is chosen as the source this way. `drbdadm primary --force`.
    Force,
}

/// `SS_SUCCESS`: the role was another before.
const CHANGED: i32 = 1;

impl Drbd {
    /// Makes this node Primary: its devices can be used. `drbdadm primary NAME`, `DRBD_ADM_PRIMARY`, in 8.4 for each volume.
    ///
    /// Two round trips for a resource of one volume ([`Promote::IfSafe`]; the others look at the state first). A node that is Primary already
    /// stays so. If one of several volumes refuses, those promoted before it are demoted again. While the connection changes its state the kernel answers "try again" (-18), which is done
    /// until the time is up.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] with [`Refusal::NoUpToDateData`], [`Refusal::TwoPrimaries`] and others, with the state that
    /// was found; [`Error::Precondition`] of [`Promote::IfPeerAgrees`].
    #[doc(alias = "drbdadm primary")]
    pub fn promote(&self, name: &ResourceName, how: Promote) -> Result<()> {
        let deadline = self.deadline();
        match how {
            Promote::IfSafe => {}
            Promote::Force => self.settle(name, deadline)?,
            Promote::IfPeerAgrees => {
                // The peer's word that it is Secondary now may be on its way.
                let until = deadline.or_after(Duration::from_secs(2));
                while let Err(error) = agreed(&self.known(name, deadline)?) {
                    if !until.pause(Duration::from_millis(20)) {
                        return Err(error);
                    }
                }
            }
        }
        if self.dialect == Dialect::Drbd9 {
            return self.set_role_9(name, Some(how), deadline);
        }
        let minors = self.minors(name, deadline)?;
        let mut promoted = Vec::new();
        for minor in minors {
            match self.set_role(name, minor, Some(how), deadline) {
                Ok(CHANGED) => promoted.push(minor),
                Ok(_) => {}
                Err(error) => {
                    for minor in promoted {
                        if let Err(error) = self.set_role(name, minor, None, deadline) {
                            log::debug!("{name}: minor {minor} stays Primary: {error}");
                        }
                    }
                    return Err(self.with_state(name, error, deadline));
                }
            }
        }
        Ok(())
    }

    /// Makes this node Secondary: nobody here may use the devices. `drbdadm secondary NAME`, `DRBD_ADM_SECONDARY`, in 8.4 for each
    /// volume.
    ///
    /// Two round trips for a resource of one volume. A node that is Secondary already stays so.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Busy`] names who holds a device open; [`Error::Refused`] otherwise.
    #[doc(alias = "drbdadm secondary")]
    pub fn demote(&self, name: &ResourceName) -> Result<()> {
        let deadline = self.deadline();
        if self.dialect == Dialect::Drbd9 {
            return self.set_role_9(name, None, deadline);
        }
        let mut changed = Vec::new();
        for minor in self.minors(name, deadline)? {
            match self.set_role(name, minor, None, deadline) {
                Ok(CHANGED) => changed.push(minor),
                Ok(_) => {}
                Err(error) => {
                    // Half a resource serves nobody.
                    for minor in changed {
                        if let Err(error) = self.set_role(name, minor, Some(Promote::IfSafe), deadline) {
                            log::debug!("{name}: minor {minor} stays Secondary: {error}");
                        }
                    }
                    return Err(match error.refusal() {
                        Some(Refusal::DeviceInUse) => self.busy(Command::SECONDARY.1, name, &[minor]),
                        _ => self.with_state(name, error, deadline),
                    });
                }
            }
        }
        Ok(())
    }

    /// Waits, for a few seconds at most, until the nodes of a fresh connection have told each other their states. A disk that is declared
    /// UpToDate in the middle of that is not told of any more, and the sync never begins (seen on Linux 6.1).
    fn settle(&self, name: &ResourceName, deadline: Deadline) -> Result<()> {
        let until = deadline.or_after(Duration::from_secs(5));
        let in_between = |c: &ConnectionState| c.state == ConnState::Connected && !c.is_up();
        while self.get_before(name, deadline)?.is_some_and(|state| state.connections.iter().any(in_between)) {
            if !until.pause(Duration::from_millis(20)) {
                break;
            }
        }
        Ok(())
    }

    /// The devices of a resource: one request.
    fn minors(&self, name: &ResourceName, deadline: Deadline) -> Result<Vec<Minor>> {
        let mut minors = Vec::new();
        for reply in self.table(Command::GET_DEVICES, Some(name), deadline)? {
            minors.push(Minor::from_kernel(Packet::parse(&reply)?.minor));
        }
        if minors.is_empty() {
            return Err(match self.get_before(name, deadline)? {
                None => Error::NotFound { name: name.clone() },
                Some(_) => Error::Conflict { name: name.clone(), what: "it has no volumes".to_owned() },
            });
        }
        Ok(minors)
    }

    fn set_role(
        &self,
        name: &ResourceName,
        minor: Minor,
        promote: Option<Promote>,
        deadline: Deadline,
    ) -> Result<i32> {
        let command = if promote.is_some() { Command::PRIMARY } else { Command::SECONDARY };
        let about = About { command, object: name.as_str(), deadline };
        self.link.change(about, |family| {
            let message = request(family, command, minor.get(), 0);
            match promote {
                Some(Promote::Force) => {
                    message.with_nest(nest::SET_ROLE_PARMS | NESTED, |m| m.with_u8(1 | MANDATORY, 1))
                }
                _ => message,
            }
        })
    }

    /// DRBD 9 takes the role of the whole resource.
    fn set_role_9(&self, name: &ResourceName, promote: Option<Promote>, deadline: Deadline) -> Result<()> {
        let force = if promote == Some(Promote::Force) { Force::Yes } else { Force::No };
        let command = match promote {
            Some(_) => nine::Command::Primary(name.clone(), force),
            None => nine::Command::Secondary(name.clone(), Force::No),
        };
        let Err(error) = self.carry_out(&command, deadline) else { return Ok(()) };
        Err(match error.refusal() {
            Some(Refusal::DeviceInUse) => {
                self.busy(Command::SECONDARY.1, name, &self.minors(name, deadline)?)
            }
            Some(Refusal::UnknownResource) => Error::NotFound { name: name.clone() },
            _ => self.with_state(name, error, deadline),
        })
    }

    /// Adds what the state was to a refusal.
    pub(crate) fn with_state(&self, name: &ResourceName, error: Error, deadline: Deadline) -> Error {
        let Error::Refused { command, object, refusal, mut info } = error else { return error };
        match self.get_before(name, deadline) {
            Ok(Some(state)) => info.push(format!("state: {}", state.summary())),
            Ok(None) => return Error::NotFound { name: name.clone() },
            Err(error) => log::debug!("{name}: {error}"),
        }
        Error::Refused { command, object, refusal, info }
    }

    pub(crate) fn busy(&self, command: &'static str, name: &ResourceName, minors: &[Minor]) -> Error {
        let holders: Vec<Holder> =
            minors.iter().flat_map(|minor| holders::of(self.host.tree(), *minor)).collect();
        Error::Busy { command, name: name.clone(), holders }
    }
}

/// Whether a planned move may happen now.
fn agreed(state: &ResourceState) -> Result<()> {
    let reason = match state.peer_is_secondary() {
        _ if state.is_primary() => return Ok(()),
        None => "the peer is not connected, so that its role is not known",
        Some(false) => "the peer is Primary; demote it there first",
        Some(true) if !state.is_synced() => "not all disks of both nodes are UpToDate; wait for the sync",
        Some(true) => return Ok(()),
    };
    let (name, reason) = (state.name.clone(), format!("{reason} ({})", state.summary()));
    Err(Error::Precondition { command: Command::PRIMARY.1, name, reason })
}
