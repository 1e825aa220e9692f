//! From what is to what is wanted on DRBD 9, as steps; and these carried out.

use std::fmt;
use std::path::PathBuf;

use host::plan::Undo;
use host::{Deadline, Impact, Plan};

use super::{Command, Connecting, Force, NodeId, Peer, PeerSpec, ResourceSpec};
use crate::plan::no_conflict;
use crate::read::is_unknown;
use crate::wire::nest;
use crate::{
    ConnState, ConnectionState, DiskOptions, DiskState, Drbd, Error, FACILITY, MetaDisk, Metadata, Minor,
    NetOptions, ResourceOptions, ResourceState, Result,
};

/// One change on DRBD 9. `Display` is the line of drbdsetup or drbdmeta that does the same; secrets are `***` in it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// Replays the activity log, if it is not clean. Nothing to undo.
    ApplyAl {
        /// The device.
        minor: Minor,
        /// Its disk.
        disk: PathBuf,
        /// Where its metadata is.
        meta: MetaDisk,
    },
    /// Carries out a command.
    Run {
        /// The command.
        command: Command,
        /// What takes it back.
        undo: Vec<Command>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApplyAl { minor, disk, meta } => {
                let (device, index) = meta.words(disk);
                write!(f, "drbdmeta {minor} v09 {device} {index} apply-al")
            }
            Self::Run { command, .. } => command.fmt(f),
        }
    }
}

impl host::plan::Step for Step {
    fn undo(&self) -> Vec<Self> {
        match self {
            Self::ApplyAl { .. } => Vec::new(),
            Self::Run { undo, .. } => {
                undo.iter().map(|command| Self::Run { command: command.clone(), undo: Vec::new() }).collect()
            }
        }
    }

    fn impact(&self) -> Impact {
        match self {
            Self::Run { command: Command::Connect(_, Connecting::DiscardMyData), .. } => Impact::DestroysData,
            Self::Run {
                command: Command::Disconnect(..) | Command::DelPeer(..) | Command::Down(_), ..
            } => Impact::DropsSessions,
            _ => Impact::Online,
        }
    }
}

/// A plan that is being written.
struct Steps<'a>(Plan<Step>, &'a ResourceSpec);

impl Steps<'_> {
    fn run(&mut self, command: Command, undo: Vec<Command>) {
        self.0.push(Step::Run { command, undo });
    }

    fn peer(&self, node: NodeId) -> Peer {
        Peer::new(self.1.name.clone(), node)
    }
}

/// The steps from a state (`None`: there is no such resource) to a spec. Pure.
///
/// Order: resource, peers that are no more, volumes, peers, their paths, their options, disks, connections, as `drbdadm adjust` of 9 has it.
/// Peers that the spec does not name are disconnected and deleted, as drbdadm does it; volumes that it does not name are left alone. Of
/// options those that differ are sent, and nothing else.
///
/// # Errors
/// [`Error::Spec`] or [`Error::Option`] if the spec is wrong by itself, [`Error::Conflict`] if what is there cannot become what is wanted:
/// another node id, a volume with another device, disk or place of its metadata, a connection with another transport.
pub fn diff(state: Option<&ResourceState>, spec: &ResourceSpec) -> Result<Plan<Step>> {
    spec.check()?;
    let mut steps = Steps(Plan::default(), spec);
    resource(state, spec, &mut steps)?;
    let seen = |node: NodeId| {
        let id = Some(u32::from(node.0));
        state.and_then(|state| state.connections.iter().find(|c| c.node_id == id))
    };
    for connection in state.iter().flat_map(|state| &state.connections) {
        let node = connection.node_id.and_then(|id| u8::try_from(id).ok()).map(NodeId);
        if let Some(node) = node.filter(|node| spec.peers.iter().all(|peer| peer.node != *node)) {
            forget(steps.peer(node), connection, &mut steps);
        }
    }
    for volume in &spec.volumes {
        match state.and_then(|state| state.volume(volume.volume)) {
            Some(seen) => no_conflict(&spec.name, seen, volume)?,
            None => {
                let options = spec.disk_options(volume).clone();
                let make = Command::NewMinor(spec.name.clone(), volume.volume, volume.minor, options);
                steps.run(make, vec![Command::DelMinor(volume.minor)]);
            }
        }
    }
    for peer in &spec.peers {
        connection(seen(peer.node), peer, &mut steps)?;
    }
    for peer in &spec.peers {
        paths(seen(peer.node), peer, &mut steps);
    }
    for peer in &spec.peers {
        peer_devices(seen(peer.node), peer, &mut steps);
    }
    disks(state, &mut steps);
    for peer in &spec.peers {
        let ended = |c: &ConnectionState| matches!(c.state, ConnState::StandAlone | ConnState::Disconnecting);
        if seen(peer.node).is_none_or(ended) {
            let peer = steps.peer(peer.node);
            let undo = vec![Command::Disconnect(peer.clone(), Force::No)];
            steps.run(Command::Connect(peer, Connecting::Usual), undo);
        }
    }
    Ok(steps.0)
}

fn resource(state: Option<&ResourceState>, spec: &ResourceSpec, steps: &mut Steps<'_>) -> Result<()> {
    let name = &spec.name;
    let Some(state) = state else {
        let make = Command::NewResource(name.clone(), spec.node, spec.options.clone());
        steps.run(make, vec![Command::DelResource(name.clone())]);
        return Ok(());
    };
    if let Some(id) = state.node_id.filter(|id| *id != u32::from(spec.node.0)) {
        let what = format!("this node has the id {id} in it, not {}", spec.node);
        return Err(Error::Conflict { name: name.clone(), what });
    }
    let before = state.options.clone().unwrap_or_default();
    if let Some((to, from)) = spec.options.changes_9(nest::RESOURCE_OPTS, &before) {
        let set = |options: ResourceOptions| Command::ResourceOptions(name.clone(), options);
        steps.run(set(to), vec![set(from)]);
    }
    Ok(())
}

/// Takes a peer away.
fn forget(peer: Peer, seen: &ConnectionState, steps: &mut Steps<'_>) {
    if seen.state != ConnState::StandAlone {
        let undo = vec![Command::Connect(peer.clone(), Connecting::Usual)];
        steps.run(Command::Disconnect(peer.clone(), Force::No), undo);
    }
    let mut undo = Vec::new();
    if let Some(options) = &seen.options {
        undo.push(Command::NewPeer(peer.clone(), options.clone()));
        undo.extend(seen.paths.iter().map(|path| Command::NewPath(peer.clone(), path.local, path.peer)));
        let options = seen.volumes.iter().filter_map(|v| Some((v.volume, v.options.clone()?)));
        undo.extend(options.map(|(volume, o)| Command::PeerDeviceOptions(peer.clone(), volume, o)));
    }
    steps.run(Command::DelPeer(peer, Force::No), undo);
}

/// A peer with its options.
fn connection(seen: Option<&ConnectionState>, wanted: &PeerSpec, steps: &mut Steps<'_>) -> Result<()> {
    let peer = steps.peer(wanted.node);
    match seen {
        None => {
            let options = wanted.net.clone().with("_name", &wanted.name)?;
            let undo = vec![Command::DelPeer(peer.clone(), Force::No)];
            steps.run(Command::NewPeer(peer.clone(), options), undo);
        }
        Some(seen) => {
            let before = seen.options.clone().unwrap_or_default();
            for name in ["transport", "load-balance-paths"] {
                let (is, to) =
                    (before.get(name).unwrap_or_default(), wanted.net.get(name).unwrap_or_default());
                // A module says which transport it took where none was asked for.
                if is != to && wanted.net.is_set(name) {
                    let what = format!("the connection to {} has {name} {is:?}, not {to:?}", wanted.name);
                    return Err(Error::Conflict { name: steps.1.name.clone(), what });
                }
            }
            if let Some((to, from)) = wanted.net.changes_9(nest::NET_CONF, &before) {
                let set = |options: NetOptions| Command::NetOptions(peer.clone(), options);
                steps.run(set(to), vec![set(from)]);
            }
        }
    }
    Ok(())
}

/// The ways to a peer: the new ones first, so that there is one at any time.
fn paths(seen: Option<&ConnectionState>, wanted: &PeerSpec, steps: &mut Steps<'_>) {
    let peer = steps.peer(wanted.node);
    let paths = seen.map(|seen| seen.paths.as_slice()).unwrap_or_default();
    for (local, remote) in &wanted.paths {
        if !paths.iter().any(|path| (path.local, path.peer) == (*local, *remote)) {
            let undo = vec![Command::DelPath(peer.clone(), *local, *remote)];
            steps.run(Command::NewPath(peer.clone(), *local, *remote), undo);
        }
    }
    for path in paths.iter().filter(|path| !wanted.paths.contains(&(path.local, path.peer))) {
        let undo = vec![Command::NewPath(peer.clone(), path.local, path.peer)];
        steps.run(Command::DelPath(peer.clone(), path.local, path.peer), undo);
    }
}

/// What holds for the volumes at a peer.
fn peer_devices(seen: Option<&ConnectionState>, wanted: &PeerSpec, steps: &mut Steps<'_>) {
    let peer = steps.peer(wanted.node);
    for volume in &steps.1.volumes {
        let there = seen.and_then(|seen| seen.volumes.iter().find(|v| v.volume == volume.volume));
        let before = there.and_then(|there| there.options.clone()).unwrap_or_default();
        let options = steps.1.disk_options(volume).overlaid(&wanted.disk);
        if let Some((to, from)) = options.changes_9(nest::PEER_DEVICE_OPTS, &before) {
            let set = |options: DiskOptions| Command::PeerDeviceOptions(peer.clone(), volume.volume, options);
            // With a new peer its options go by themselves.
            let undo = if there.is_some() { vec![set(from)] } else { Vec::new() };
            steps.run(set(to), undo);
        }
    }
}

fn disks(state: Option<&ResourceState>, steps: &mut Steps<'_>) {
    for volume in &steps.1.volumes {
        let (minor, options) = (volume.minor, steps.1.disk_options(volume).clone());
        let seen = state.and_then(|state| state.volume(volume.volume));
        if let Some(seen) = seen.filter(|seen| seen.disk != DiskState::Diskless) {
            let before = seen.options.clone().unwrap_or_default();
            if let Some((to, from)) = options.changes_9(nest::DISK_CONF, &before) {
                let undo = vec![Command::DiskOptions(minor, from)];
                steps.run(Command::DiskOptions(minor, to), undo);
            }
            continue;
        }
        let (disk, meta) = (volume.disk.clone(), volume.meta.clone());
        steps.0.push(Step::ApplyAl { minor, disk: disk.clone(), meta: meta.clone() });
        let undo = vec![Command::Detach(minor, crate::Detach::Graceful)];
        steps.run(Command::Attach(minor, disk, meta, options), undo);
    }
}

impl Drbd {
    /// Computes the steps from what is there to what is wanted on DRBD 9; changes nothing. `drbdadm -d adjust NAME`.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`diff`]; [`Error::Unsupported`] on 8.4.
    #[doc(alias = "drbdadm adjust")]
    pub fn plan_9(&self, spec: &ResourceSpec) -> Result<Plan<Step>> {
        self.needs_9()?;
        let mut state = self.get(&spec.name)?;
        if let Some(state) = &mut state {
            self.recognise_disks(state, &spec.volumes);
        }
        diff(state.as_ref(), spec)
    }

    /// Carries a plan out on DRBD 9, under the lock of DRBD's configuration. Stops at the first step that fails and takes back those before
    /// it.
    ///
    /// # Errors
    /// [`Error::Apply`] says which step failed, why, and what became of the others; [`Error::Lock`] if another process changes the
    /// configuration; [`Error::Unsupported`] on 8.4.
    pub fn apply_9(&self, plan: Plan<Step>) -> Result<Undo<Step>> {
        self.needs_9()?;
        let deadline = self.deadline();
        let _lock = self.host.lock(FACILITY, deadline)?;
        Ok(host::plan::apply(&self.host, FACILITY, plan, |step| self.step_9(step, deadline))?)
    }

    /// Makes a resource of DRBD 9 as the spec says, or changes it to that; says whether anything was changed. Does not wait for the peers.
    /// `drbdadm up NAME`, `drbdadm adjust NAME`.
    ///
    /// Options that the spec does not set are brought to their defaults, a connection that is `StandAlone` is connected again, a peer that the
    /// spec does not name is deleted. The role is not touched. [`remove`](Self::remove) takes it down.
    ///
    /// # Errors
    /// As [`plan_9`](Self::plan_9) and [`apply_9`](Self::apply_9).
    #[doc(alias = "drbdadm up")]
    pub fn ensure_9(&self, spec: &ResourceSpec) -> Result<bool> {
        let plan = self.plan_9(spec)?;
        if plan.is_empty() {
            return Ok(false);
        }
        self.apply_9(plan).map(|_| true)
    }

    fn step_9(&self, step: &Step, deadline: Deadline) -> Result<()> {
        match step {
            Step::ApplyAl { disk, meta, .. } => Metadata::apply_al(&self.host, disk, meta).map(drop),
            Step::Run { command, .. } => {
                if let Command::NewMinor(name, volume, minor, _) = command {
                    self.await_no_device(name, *volume, *minor, deadline)?;
                }
                let done = self.carry_out(command, deadline);
                // What is not there needs no removing.
                match (done, command) {
                    (
                        Err(error),
                        Command::DelResource(_)
                        | Command::DelMinor(_)
                        | Command::DelPeer(..)
                        | Command::DelPath(..)
                        | Command::Disconnect(..),
                    ) if error.refusal().is_some_and(is_unknown) => Ok(()),
                    (done, _) => done.map(drop),
                }
            }
        }
    }
}
