//! Both nodes have written without each other: found, told, and ended by a person's choice of whose changes are thrown away.
//!
//! DRBD 8.4 drops the connection when it finds a split brain, and with it the connection's configuration: what recovers must be ready for
//! "unknown connection" and for a peer that is still waiting.

use std::time::Instant;

use host::{Deadline, Plan};

use crate::link::About;
use crate::state::Speedometer;
use crate::wire::{Command, Packet, nest, request};
use crate::{
    ConnState, Dialect, Drbd, Error, Progress, ReplState, ResourceName, ResourceSpec, ResourceState, Result,
    Role, Step, Volume,
};

/// A split brain that the kernel has found: what the helper `split-brain` is called for, whether one is installed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SplitBrain {
    /// The resource.
    pub resource: ResourceName,
    /// The volume it was found by; others of the resource may differ too.
    pub volume: Option<Volume>,
    /// This node's role when it was found.
    pub role: Role,
}

/// The generations of a volume's data (`drbdsetup show-gi`): what two nodes compare when they meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Generations {
    /// The volume.
    pub volume: Volume,
    /// This one; 4 for new metadata. Bit 0 says that the node is Primary.
    pub current: u64,
    /// The one from which on changes are recorded, because the peer lacks them; 0 if there are none.
    pub bitmap: u64,
    /// Former ones.
    pub history: [u64; 2],
}

/// How the data of two nodes are related.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Relation {
    /// Both are new.
    New,
    /// Both are of the same generation.
    Same,
    /// This node has what the other lacks.
    Ahead,
    /// The other has what this node lacks.
    Behind,
    /// Both have changes that the other lacks.
    SplitBrain,
    /// They have no generation in common.
    Unrelated,
}

impl Generations {
    /// Compares them with the peer's of the same volume, as the kernel does (`drbd_uuid_compare`, `drbd_receiver.c`). Pure.
    #[must_use]
    pub fn relation(&self, peer: &Self) -> Relation {
        const JUST_CREATED: u64 = 4;
        let plain = |uuid: u64| uuid & !1;
        let is_new = |uuid: u64| matches!(plain(uuid), 0 | JUST_CREATED);
        let known =
            |uuids: &[u64], uuid: u64| uuids.iter().any(|known| *known != 0 && plain(*known) == plain(uuid));
        match (is_new(self.current), is_new(peer.current)) {
            (true, true) => return Relation::New,
            (true, false) => return Relation::Behind,
            (false, true) => return Relation::Ahead,
            (false, false) => {}
        }
        let [mine, theirs] = [self, peer].map(|side| [side.bitmap, side.history[0], side.history[1]]);
        if plain(self.current) == plain(peer.current) {
            Relation::Same
        } else if known(&theirs, self.current) {
            Relation::Behind
        } else if known(&mine, peer.current) {
            Relation::Ahead
        } else if mine.iter().any(|uuid| *uuid != 0 && known(&theirs, *uuid)) {
            Relation::SplitBrain
        } else {
            Relation::Unrelated
        }
    }
}

/// Which side of a split brain a node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Side {
    /// What this node wrote since the split is thrown away.
    Victim,
    /// What this node has is kept.
    Survivor,
}

/// How far a recovery is.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Recovery {
    /// This side is ready and waits for the other.
    Waiting,
    /// The sides agree; the victim takes the survivor's data.
    Syncing(Progress),
    /// Both have the same.
    Done,
}

impl Drbd {
    /// Reads the generations of a resource's volumes that have a disk. `drbdsetup show-gi`, `DRBD_ADM_GET_STATUS`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unsupported`] on DRBD 9; the exchange with the kernel failed.
    #[doc(alias = "drbdadm show-gi")]
    pub fn generations(&self, name: &ResourceName) -> Result<Vec<Generations>> {
        if self.dialect() == Dialect::Drbd9 {
            return Err(Error::Unsupported { version: 2 });
        }
        let deadline = self.deadline();
        let mut found = Vec::new();
        for volume in self.known(name, deadline)?.volumes {
            let about = About { command: Command::GET_STATUS, object: name.as_str(), deadline };
            let reply =
                self.link.ask(about, |family| request(family, about.command, volume.minor.get(), 0))?;
            let packet = Packet::parse(&reply)?;
            let uuids =
                packet.field(nest::STATE_INFO, 7).map(|field| field.payload.to_vec()).unwrap_or_default();
            let mut uuids =
                uuids.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok().map(u64::from_ne_bytes));
            if let (Some(current), Some(bitmap), Some(a), Some(b)) =
                (uuids.next(), uuids.next(), uuids.next(), uuids.next())
            {
                found.push(Generations { volume: volume.volume, current, bitmap, history: [a, b] });
            }
        }
        Ok(found)
    }

    /// Whether a split brain is to be suspected: there is no connection, none is tried, and volumes have changes that the peer lacks. Those
    /// volumes are returned.
    ///
    /// One side cannot know more: [`Generations::relation`] with those of the peer tells it for sure, and a
    /// [`watch`](Self::watch) that is there when it happens ([`Event::SplitBrain`](crate::Event::SplitBrain)).
    ///
    /// # Errors
    /// As [`generations`](Self::generations).
    pub fn suspected_split_brain(&self, name: &ResourceName) -> Result<Vec<Generations>> {
        let state = self.known(name, self.deadline())?;
        if state
            .connections
            .iter()
            .any(|c| !matches!(c.state, ConnState::StandAlone | ConnState::Disconnecting))
        {
            return Ok(Vec::new());
        }
        Ok(self.generations(name)?.into_iter().filter(|generations| generations.bitmap != 0).collect())
    }

    /// Computes the steps by which this node recovers from a split brain; changes nothing. The dry run of [`recover`](Self::recover): the
    /// victim's plan has [`Impact::DestroysData`](crate::Impact::DestroysData).
    ///
    /// # Errors
    /// [`Error::Precondition`] if the victim is Primary, or if there is nothing to recover from; [`Error::NotFound`]; [`Error::Spec`].
    pub fn plan_recovery(&self, spec: &ResourceSpec, side: Side) -> Result<Plan<Step>> {
        spec.check()?;
        recovery(&self.known(&spec.name, self.deadline())?, spec, side)
    }

    /// Recovers from a split brain, on this side: connects, as victim with `discard-my-data`, waits for the other side, and for the sync.
    /// Both sides run it. `drbdadm connect --discard-my-data NAME` on the victim, `drbdadm connect NAME` on the survivor.
    ///
    /// If both connections were dropped, the order does not matter. Often the node that notices first hangs up before the other has
    /// noticed, which then goes on connecting. Is that the survivor, it needs nothing but the victim's recovery; is it the victim, it
    /// comes first, for otherwise the nodes meet as they were and the split brain is told again.
    ///
    /// Run again after a crash it goes on. `seen` is told how far it is. On the spec's volumes nothing else is changed.
    ///
    /// # Errors
    /// As [`plan_recovery`](Self::plan_recovery) and [`apply`](Self::apply); [`Error::Disconnected`] if the sides do not agree, for example
    /// because both or neither are victims; [`Error::Timeout`] if the other side does not come.
    #[doc(alias = "discard-my-data")]
    pub fn recover(
        &self,
        spec: &ResourceSpec,
        side: Side,
        deadline: Deadline,
        mut seen: impl FnMut(&Recovery),
    ) -> Result<()> {
        let plan = self.plan_recovery(spec, side)?;
        if !plan.is_empty() {
            self.apply(plan)?;
        }
        seen(&Recovery::Waiting);
        let mut meter = Speedometer::default();
        let wrong = if side == Side::Victim { ReplState::SyncSource } else { ReplState::SyncTarget };
        self.wait_for(&spec.name, "recover", deadline, |state| {
            let peers: Vec<_> = state.connections.iter().flat_map(|c| &c.volumes).collect();
            if peers.iter().any(|peer| peer.repl == wrong) {
                log::warn!("{}: this side is {side:?}, and yet {wrong}", spec.name);
            }
            if let Some(progress) = state.resync() {
                seen(&Recovery::Syncing(meter.measure(progress, Instant::now())));
            }
            if state.is_synced() {
                return Ok(true);
            }
            crate::wait::ended(state).map_or(Ok(false), Err)
        })?;
        seen(&Recovery::Done);
        Ok(())
    }
}

/// The steps of one side. Pure.
fn recovery(state: &ResourceState, spec: &ResourceSpec, side: Side) -> Result<Plan<Step>> {
    let unfit = |reason: String| {
        let (command, name) = ("recover", spec.name.clone());
        Err(Error::Precondition { command, name, reason: format!("{reason} ({})", state.summary()) })
    };
    if side == Side::Victim && state.is_primary() {
        return unfit(
            "the victim is Primary, its data is in use; stop what uses it and demote it first".to_owned(),
        );
    }
    let mut plan = Plan::default();
    let connection = state.connections.first();
    let (name, local, peer) = (spec.name.clone(), spec.local, spec.peer);
    match connection.map(|connection| connection.state) {
        // It went through while the plan was thought of: a recovery that is run again.
        Some(ConnState::Connected)
            if connection.is_some_and(|c| c.volumes.iter().any(|v| v.repl.is_sync_pending())) =>
        {
            return Ok(plan);
        }
        Some(ConnState::Connected) => {
            return unfit("the nodes are connected, there is no split brain".to_owned());
        }
        // Its configuration is there still, and it is waiting: for a survivor that is all.
        Some(state)
            if side == Side::Survivor
                && !matches!(state, ConnState::StandAlone | ConnState::Disconnecting) =>
        {
            return Ok(plan);
        }
        Some(_) => {
            let before = connection.and_then(|connection| connection.options.clone());
            let (local, peer) =
                connection.map_or((local, peer), |connection| (connection.local, connection.peer));
            plan.push(Step::Disconnect { name: name.clone(), local, peer, before });
        }
        None => {}
    }
    let options = match side {
        Side::Victim => spec.net.clone().with_discard_my_data(),
        Side::Survivor => spec.net.clone(),
    };
    plan.push(Step::Connect { name, local, peer, options });
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(current: u64, bitmap: u64, history: [u64; 2]) -> Generations {
        Generations { volume: Volume(0), current, bitmap, history }
    }

    #[test]
    fn generations_are_compared_as_the_kernel_does() {
        let (old, older) = (0x1000, 0x2000);
        for (mine, theirs, expected) in [
            (made(4, 0, [0, 0]), made(4, 0, [0, 0]), Relation::New),
            (made(4, 0, [0, 0]), made(old, 0, [0, 0]), Relation::Behind),
            (made(old | 1, 0, [0, 0]), made(old, 0, [0, 0]), Relation::Same),
            (made(0x9000, old, [0, 0]), made(old, 0, [0, 0]), Relation::Ahead),
            (made(0x9000, 0, [old, 0]), made(old, 0, [0, 0]), Relation::Ahead),
            (made(0x9000, old, [older, 0]), made(0x8000, old | 1, [older, 0]), Relation::SplitBrain),
            (made(0x9000, 0, [old, older]), made(0x8000, 0, [0x7000, older]), Relation::SplitBrain),
            (made(0x9000, 0, [0, 0]), made(0x8000, 0, [0, 0]), Relation::Unrelated),
        ] {
            assert_eq!(mine.relation(&theirs), expected, "{mine:?} {theirs:?}");
            let back = match expected {
                Relation::Ahead => Relation::Behind,
                Relation::Behind => Relation::Ahead,
                same => same,
            };
            assert_eq!(theirs.relation(&mine), back, "{theirs:?} {mine:?}");
        }
    }
}
