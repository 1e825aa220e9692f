//! The end of a split brain on DRBD 9, by peer.

use std::time::Instant;

use host::{Deadline, Plan};

use super::{Command, Connecting, Force, NodeId, Peer, Step};
use crate::state::Speedometer;
use crate::{
    ConnState, ConnectionState, DiskState, Drbd, Error, Recovery, ResourceName, ResourceState, Result, Side,
};

impl Drbd {
    /// Computes the steps by which this node recovers from a split brain with a peer on DRBD 9; changes nothing. The dry run of
    /// [`recover_9`](Self::recover_9): the victim's plan has [`Impact::DestroysData`](crate::Impact::DestroysData).
    ///
    /// # Errors
    /// [`Error::Precondition`] if the victim is Primary, or if there is nothing to recover from; [`Error::NotFound`]; [`Error::Unsupported`]
    /// on 8.4.
    pub fn plan_recovery_9(&self, name: &ResourceName, peer: NodeId, side: Side) -> Result<Plan<Step>> {
        self.needs_9()?;
        recovery(&self.known(name, self.deadline())?, peer, side)
    }

    /// Recovers from a split brain with a peer on DRBD 9, on this side: connects, as victim with `discard-my-data`, waits for the other side,
    /// and for the sync. Both sides run it. `drbdadm connect --discard-my-data NAME:PEER` on the victim, `drbdadm connect NAME:PEER` on the
    /// survivor.
    ///
    /// The order of the two is as with [`recover`](Self::recover). `seen` is told how far it is.
    ///
    /// # Errors
    /// As [`plan_recovery_9`](Self::plan_recovery_9) and [`apply_9`](Self::apply_9); [`Error::Disconnected`] if the sides do not agree;
    /// [`Error::Timeout`] if the other side does not come.
    #[doc(alias = "discard-my-data")]
    pub fn recover_9(
        &self,
        name: &ResourceName,
        peer: NodeId,
        side: Side,
        deadline: Deadline,
        mut seen: impl FnMut(&Recovery),
    ) -> Result<()> {
        let plan = self.plan_recovery_9(name, peer, side)?;
        if !plan.is_empty() {
            self.apply_9(plan)?;
        }
        seen(&Recovery::Waiting);
        let mut meter = Speedometer::default();
        self.wait_for(name, "recover", deadline, |state| {
            let alone =
                || Error::Disconnected { name: name.clone(), state: ConnState::StandAlone.to_string() };
            let connection = find(state, peer).ok_or_else(alone)?;
            if let Some(progress) = connection.volumes.iter().find_map(|volume| volume.resync) {
                seen(&Recovery::Syncing(meter.measure(progress, Instant::now())));
            }
            if connection.state == ConnState::StandAlone {
                return Err(alone());
            }
            let agree = |disk: DiskState| disk == DiskState::UpToDate;
            Ok(connection.is_up()
                && state.volumes.iter().all(|volume| agree(volume.disk))
                && connection.volumes.iter().all(|v| agree(v.peer_disk) && !v.repl.is_sync_pending()))
        })?;
        seen(&Recovery::Done);
        Ok(())
    }
}

fn find(state: &ResourceState, peer: NodeId) -> Option<&ConnectionState> {
    state.connections.iter().find(|connection| connection.node_id == Some(peer.0.into()))
}

/// The steps of one side. Pure.
fn recovery(state: &ResourceState, node: NodeId, side: Side) -> Result<Plan<Step>> {
    let unfit = |reason: &str| {
        let (command, name) = ("recover", state.name.clone());
        Err(Error::Precondition { command, name, reason: format!("{reason} ({})", state.summary()) })
    };
    if side == Side::Victim && state.is_primary() {
        return unfit("the victim is Primary, its data is in use; stop what uses it and demote it first");
    }
    let Some(connection) = find(state, node) else { return unfit("there is no such peer") };
    let mut plan = Plan::default();
    let peer = || Peer::new(state.name.clone(), node);
    let mut run = |command: Command, undo: Vec<Command>| plan.push(Step::Run { command, undo });
    match connection.state {
        // A recovery that is run again.
        ConnState::Connected if connection.volumes.iter().any(|v| v.repl.is_sync_pending()) => {
            return Ok(plan);
        }
        ConnState::Connected => return unfit("the nodes are connected, there is no split brain"),
        ConnState::StandAlone => {}
        // It waits: for a survivor that is all.
        _ if side == Side::Survivor => return Ok(plan),
        _ => run(Command::Disconnect(peer(), Force::No), vec![Command::Connect(peer(), Connecting::Usual)]),
    }
    let how = if side == Side::Victim { Connecting::DiscardMyData } else { Connecting::Usual };
    run(Command::Connect(peer(), how), vec![Command::Disconnect(peer(), Force::No)]);
    Ok(plan)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)] // A test.
mod tests {
    use super::*;
    use crate::Role;
    use crate::state::fresh_9;

    fn seen(role: Role, state: ConnState) -> ResourceState {
        let name = ResourceName::from_kernel("r0".to_owned());
        let mut all = crate::state::empty_resource(name);
        all.role = role;
        all.connections = vec![ConnectionState { node_id: Some(1), state, ..fresh_9() }];
        all
    }

    fn steps(state: &ResourceState, side: Side) -> Result<Vec<String>> {
        Ok(recovery(state, NodeId(1), side)?.steps().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn each_side_does_what_its_connection_needs_and_a_primary_is_never_the_victim() -> Result<()> {
        let alone = seen(Role::Secondary, ConnState::StandAlone);
        assert_eq!(steps(&alone, Side::Victim)?, ["drbdsetup connect r0 1 --discard-my-data"]);
        assert_eq!(steps(&alone, Side::Survivor)?, ["drbdsetup connect r0 1"]);
        let trying = seen(Role::Secondary, ConnState::Connecting);
        let victim = steps(&trying, Side::Victim)?;
        assert_eq!(victim, ["drbdsetup disconnect r0 1", "drbdsetup connect r0 1 --discard-my-data"]);
        assert!(steps(&seen(Role::Primary, ConnState::Connecting), Side::Survivor)?.is_empty());
        let error = steps(&seen(Role::Primary, ConnState::StandAlone), Side::Victim).expect_err("in use");
        assert!(error.to_string().contains("the victim is Primary"), "{error}");
        assert!(steps(&seen(Role::Secondary, ConnState::Connected), Side::Victim).is_err());
        assert!(recovery(&alone, NodeId(2), Side::Victim).is_err());
        assert_eq!(recovery(&alone, NodeId(1), Side::Victim)?.impact(), host::Impact::DestroysData);
        Ok(())
    }
}
