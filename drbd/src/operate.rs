//! Commands on the volumes of a resource that is up: disks, resyncs, verifies, sizes, generations, options.
//!
//! DRBD 8.4 names a volume by its minor, which is looked up first: two round trips each.

use std::time::Duration;

use host::nl::{Message, NESTED};
use host::{Bytes, Deadline, Plan, Sectors};

use crate::link::About;
use crate::wire::{Command, MANDATORY, Packet, nest, request};
use crate::{
    ConnectionState, DiskOptions, DiskState, Drbd, Error, FACILITY, Metadata, Minor, NetOptions, Refusal,
    ResourceName, ResourceOptions, ResourceSpec, ResourceState, Result, Step, Volume, diff,
};

/// How a disk is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Detach {
    /// What is being written is waited for.
    #[default]
    Graceful,
    /// It is not: for a disk that does not answer any more. What it still does later is not known.
    Force,
}

/// What becomes of the record of what differs, when a new generation of data begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Bitmap {
    /// It stays.
    #[default]
    Keep,
    /// It is cleared: both disks are declared to be the same, whatever is on them. Skips the first sync of two new disks whose content does
    /// not matter yet.
    Clear,
}

/// What of a volume is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Verify {
    /// From where; `None` goes on where the last verify was stopped. Rounded down to 4 KiB.
    pub start: Option<Sectors>,
    /// Up to where; `None` for the end.
    pub stop: Option<Sectors>,
}

impl Verify {
    /// All of it.
    #[must_use]
    pub fn all() -> Self {
        Self { start: Some(Sectors(0)), stop: None }
    }

    /// Begins elsewhere.
    #[must_use]
    pub fn from(mut self, start: Sectors) -> Self {
        self.start = Some(start);
        self
    }

    /// Stops before the end.
    #[must_use]
    pub fn to(mut self, stop: Sectors) -> Self {
        self.stop = Some(stop);
        self
    }
}

/// The new size of a volume. Without more: as large as the smaller of both disks allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Resize {
    /// The size; smaller than it is, what is behind it is lost: shrink the file system first.
    pub size: Option<Bytes>,
    /// Take for granted that the peer, which is not connected, has the room.
    pub assume_peer_has_space: bool,
    /// Take for granted that what was added is the same on both disks, for example zeroes of a thin volume: it is not synced.
    pub assume_clean: bool,
}

impl Resize {
    /// As large as the disks allow.
    #[must_use]
    pub fn to_fit() -> Self {
        Self::default()
    }

    /// To a size.
    #[must_use]
    pub fn to(size: Bytes) -> Self {
        Self { size: Some(size), ..Self::default() }
    }

    /// Takes for granted that the peer has the room.
    #[must_use]
    pub fn assuming_peer_has_space(mut self) -> Self {
        self.assume_peer_has_space = true;
        self
    }

    /// Takes for granted that what was added is the same on both disks.
    #[must_use]
    pub fn assuming_clean(mut self) -> Self {
        self.assume_clean = true;
        self
    }
}

/// `SS_SUCCESS`: the state was another before.
const CHANGED: i32 = 1;
/// `NO_ERROR`: commands that are no changes of state.
const DONE: i32 = 101;

/// After this long a size that has not come about is given again.
const RESEND: Duration = Duration::from_secs(2);
/// The time of a peer's answer to an earlier size.
const SETTLE: Duration = Duration::from_millis(200);

impl Drbd {
    /// Attaches those disks of the spec that are not, their activity logs replayed; says whether there were any. `drbdadm attach NAME`.
    ///
    /// # Errors
    /// As [`plan`](Self::plan) and [`apply`](Self::apply); a disk that is in use is refused with who uses it.
    #[doc(alias = "drbdadm attach")]
    pub fn attach(&self, spec: &ResourceSpec) -> Result<bool> {
        let state = self.known(&spec.name, self.deadline())?;
        let steps = diff(Some(&state), spec)?.into_steps().into_iter();
        let plan: Plan<Step> = Plan::new(
            steps.filter(|step| matches!(step, Step::ApplyAl { .. } | Step::Attach { .. })).collect(),
        );
        if plan.is_empty() {
            return Ok(false);
        }
        self.apply(plan).map(|_| true)
    }

    /// Takes a volume's disk away; says whether it had one. A Primary goes on with its peer's. `drbdadm detach`, `DRBD_ADM_DETACH`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`], for example [`Refusal::NoUpToDateData`] if it is the last good copy that a Primary has.
    #[doc(alias = "drbdadm detach")]
    pub fn detach(&self, name: &ResourceName, volume: Volume, how: Detach) -> Result<bool> {
        let code = self.on_volume(Command::DETACH, name, volume, |message| match how {
            Detach::Graceful => message,
            Detach::Force => message.with_nest(nest::DETACH_PARMS | NESTED, |m| m.with_u8(1 | MANDATORY, 1)),
        })?;
        Ok(code == CHANGED || code == DONE)
    }

    /// Declares this node's data of a volume to be of no use: all of it is synced from the peer, at once or when that is connected.
    /// Destroys data. `drbdadm invalidate`, `DRBD_ADM_INVALIDATE`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`], for example [`Refusal::NoUpToDateData`] if it is a Primary's only good copy.
    #[doc(alias = "drbdadm invalidate")]
    pub fn invalidate(&self, name: &ResourceName, volume: Volume) -> Result<()> {
        self.on_volume(Command::INVALIDATE, name, volume, |message| message).map(drop)
    }

    /// Declares the peer's data of a volume to be of no use: all of it is synced from here. Destroys data on the peer.
    /// `drbdadm invalidate-remote`, `DRBD_ADM_INVAL_PEER`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`], for example [`Refusal::NeedsConnection`].
    #[doc(alias = "drbdadm invalidate-remote")]
    pub fn invalidate_peer(&self, name: &ResourceName, volume: Volume) -> Result<()> {
        self.on_volume(Command::INVAL_PEER, name, volume, |message| message).map(drop)
    }

    /// Begins to compare the disks of both nodes block by block, while they are in use. Needs the option `verify-alg`. What differs is marked
    /// ([`PeerVolumeState::out_of_sync`](crate::PeerVolumeState::out_of_sync)), and synced only after the next disconnect and connect.
    /// [`wait_verified`](Self::wait_verified) waits for the result. `drbdadm verify`, `DRBD_ADM_START_OV`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] with [`Refusal::NoVerifyAlg`], [`Refusal::NeedsConnection`], [`Refusal::ResyncRunning`].
    #[doc(alias = "drbdadm verify")]
    pub fn verify(&self, name: &ResourceName, volume: Volume, what: Verify) -> Result<()> {
        self.start_verify(name, volume, what).map(drop)
    }

    fn start_verify(&self, name: &ResourceName, volume: Volume, what: Verify) -> Result<i32> {
        self.on_volume(Command::START_OV, name, volume, |message| {
            if what == Verify::default() {
                return message;
            }
            message.with_nest(nest::START_OV_PARMS | NESTED, |mut m| {
                if let Some(start) = what.start {
                    m = m.with_u64(1 | MANDATORY, start.0);
                }
                match what.stop {
                    Some(stop) => m.with_u64(2 | MANDATORY, stop.0),
                    None => m,
                }
            })
        })
    }

    /// Stops a verify that this node began; says whether one was going on. `drbdsetup verify MINOR --stop=0s`.
    ///
    /// The kernel has no command for it, but takes the stop of a verify from the next one before it refuses that
    /// (`drbd_adm_start_ov`, `drbd_nl.c`). What was on its way to the peer is still compared.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Timeout`] if it does not stop; [`Error::Refused`] if the peer is too old for it.
    pub fn stop_verify(&self, name: &ResourceName, volume: Volume) -> Result<bool> {
        let deadline = self.deadline();
        let runs = |state: &ResourceState| {
            let peers = state.connections.iter().flat_map(|c| &c.volumes).filter(|v| v.volume == volume);
            peers.into_iter().any(|peer| peer.repl == crate::ReplState::VerifyS)
        };
        if !runs(&self.known(name, deadline)?) {
            return Ok(false);
        }
        match self.start_verify(name, volume, Verify::all().to(Sectors(1))) {
            Err(error) if error.refusal() == Some(Refusal::ResyncRunning) => {}
            other => return other.map(|_| true),
        }
        self.wait_for(name, "stop the verify of", deadline, |state| Ok(!runs(state)))?;
        Ok(true)
    }

    /// Pauses the resync of a volume from this side; says whether it was not. `drbdadm pause-sync`, `DRBD_ADM_PAUSE_SYNC`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`], for example [`Refusal::NoDisk`].
    #[doc(alias = "drbdadm pause-sync")]
    pub fn pause_sync(&self, name: &ResourceName, volume: Volume) -> Result<bool> {
        match self.on_volume(Command::PAUSE_SYNC, name, volume, |message| message) {
            Err(error) if error.refusal() == Some(Refusal::PauseAlreadySet) => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// Takes this side's pause of a resync back; says whether there was one. The peer or `resync-after` may hold it still: see
    /// [`PeerVolumeState::paused`](crate::PeerVolumeState::paused). `drbdadm resume-sync`, `DRBD_ADM_RESUME_SYNC`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`].
    #[doc(alias = "drbdadm resume-sync")]
    pub fn resume_sync(&self, name: &ResourceName, volume: Volume) -> Result<bool> {
        match self.on_volume(Command::RESUME_SYNC, name, volume, |message| message) {
            Err(error) => match error.refusal() {
                Some(Refusal::PauseAlreadyCleared) => Ok(false),
                Some(Refusal::PausedByDependency | Refusal::PausedByPeer) => Ok(true),
                _ => Err(error),
            },
            Ok(_) => Ok(true),
        }
    }

    /// Lets I/O to all volumes of a resource wait, on this node; says whether it did not. Whoever writes hangs until
    /// [`resume_io`](Self::resume_io). `drbdadm suspend-io`, `DRBD_ADM_SUSPEND_IO`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`].
    #[doc(alias = "drbdadm suspend-io")]
    pub fn suspend_io(&self, name: &ResourceName) -> Result<bool> {
        self.on_resource(Command::SUSPEND_IO, name)
    }

    /// Lets I/O go on, whatever it waits for: also after a fencing that came to nothing or the loss of all data, when it then fails; says
    /// whether it stood still. `drbdadm resume-io`, `DRBD_ADM_RESUME_IO`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`].
    #[doc(alias = "drbdadm resume-io")]
    pub fn resume_io(&self, name: &ResourceName) -> Result<bool> {
        self.on_resource(Command::RESUME_IO, name)
    }

    /// Changes the size of a volume on both nodes, after their disks have grown or before they shrink; returns the new size.
    /// `drbdadm resize`, `DRBD_ADM_RESIZE`.
    ///
    /// One node must be Primary. What was added is synced. A size that this node's disk has no room for is refused before the kernel hears of
    /// it: Linux 6.1 says yes to it, changes nothing, and hangs at the next `down` (seen with both ends in one kernel).
    ///
    /// Two changes within the time in which the peer answers cross each other: the answer to the first brings its size back on one node
    /// (`receive_sizes` in `drivers/block/drbd/drbd_receiver.c`). A size is therefore looked at again after 200 ms if there is a peer, and
    /// given again if it went away or does not come within two seconds.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] with [`Refusal::ResizeNeedsPrimary`], [`Refusal::ResizeDuringResync`] and others;
    /// [`Error::Precondition`] if there is no room on this node; [`Error::Timeout`] if the size does not come about, because the peer has
    /// none.
    #[doc(alias = "drbdadm resize")]
    pub fn resize(&self, name: &ResourceName, volume: Volume, to: Resize) -> Result<Sectors> {
        let deadline = self.deadline();
        if let Some(size) = to.size {
            self.has_room(&self.known(name, deadline)?, volume, size)?;
        }
        self.send_resize(name, volume, to)?;
        let Some(wanted) = to.size else {
            return Ok(self.known(name, deadline)?.volume(volume).map_or(Sectors(0), |v| v.size));
        };
        // The nodes agree on it; DRBD's sizes are whole blocks of 4 KiB.
        let size = |state: &ResourceState| state.volume(volume).map_or(Sectors(0), |volume| volume.size);
        let reached = |state: &ResourceState| wanted.sectors().0 / 8 == size(state).0 / 8;
        let mut is = Sectors(0);
        loop {
            let part = deadline.or_after(RESEND);
            match self.wait_for(name, "resize", part, |state| {
                is = size(state);
                Ok(reached(state))
            }) {
                Ok(()) => {}
                Err(Error::Timeout { .. }) if !deadline.is_over() => {
                    self.send_resize_again(name, volume, to)?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            // A peer's late answer to an earlier change may still come, and with it the earlier size.
            if !self.known(name, deadline)?.connections.iter().any(ConnectionState::is_up) {
                return Ok(is);
            }
            let _ = deadline.pause(SETTLE);
            if reached(&self.known(name, deadline)?) {
                return Ok(is);
            }
            self.send_resize_again(name, volume, to)?;
        }
    }

    fn send_resize(&self, name: &ResourceName, volume: Volume, to: Resize) -> Result<()> {
        let sent = self.on_volume(Command::RESIZE, name, volume, |message| {
            if to == Resize::default() {
                return message;
            }
            message.with_nest(nest::RESIZE_PARMS | NESTED, |mut m| {
                if let Some(size) = to.size {
                    m = m.with_u64(1 | MANDATORY, size.sectors().0);
                }
                m = m.with_u8(2 | MANDATORY, u8::from(to.assume_peer_has_space));
                m.with_u8(3 | MANDATORY, u8::from(to.assume_clean))
            })
        });
        sent.map(drop)
    }

    /// A refusal of a repetition says that the first one is being carried out.
    fn send_resize_again(&self, name: &ResourceName, volume: Volume, to: Resize) -> Result<()> {
        log::info!("{FACILITY}: {name}/{volume} has not the size it was given; it is given once more");
        match self.send_resize(name, volume, to) {
            Err(error) if error.refusal().is_some() => Ok(()),
            other => other,
        }
    }

    /// An error if a volume's disk, as it is attached, has no room for so much.
    fn has_room(&self, state: &ResourceState, volume: Volume, size: Bytes) -> Result<()> {
        let seen = state.volume(volume);
        let Some((disk, meta)) = seen.and_then(|v| Some((v.disk_path.as_ref()?, v.meta_disk.as_ref()?)))
        else {
            return Ok(());
        };
        match Metadata::room(&self.host, disk, meta)? {
            Some(room) if room < size => {
                let reason = format!("{size} are asked for, and {} has room for {room}", disk.display());
                Err(Error::Precondition { command: Command::RESIZE.1, name: state.name.clone(), reason })
            }
            _ => Ok(()),
        }
    }

    /// Begins a new generation of a volume's data. `drbdadm new-current-uuid`, `DRBD_ADM_NEW_C_UUID`.
    ///
    /// With [`Bitmap::Clear`], on a connected pair of new disks: both are declared UpToDate and the same, without a sync.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`], for example [`Refusal::NeedsConnection`].
    #[doc(alias = "drbdadm new-current-uuid")]
    pub fn new_current_uuid(&self, name: &ResourceName, volume: Volume, bitmap: Bitmap) -> Result<()> {
        let sent = self.on_volume(Command::NEW_C_UUID, name, volume, |message| match bitmap {
            Bitmap::Keep => message,
            Bitmap::Clear => {
                message.with_nest(nest::NEW_C_UUID_PARMS | NESTED, |m| m.with_u8(1 | MANDATORY, 1))
            }
        });
        sent.map(drop)
    }

    /// Declares this node's data of a volume to be old, so that it will not become Primary by itself; says whether it was not.
    /// `drbdadm outdate`, `DRBD_ADM_OUTDATE`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`], for example with [`Refusal::LowerThanOutdated`]; [`Error::Precondition`] if the node is
    /// connected, where Linux 6.1 says yes and changes nothing.
    #[doc(alias = "drbdadm outdate")]
    pub fn outdate(&self, name: &ResourceName, volume: Volume) -> Result<bool> {
        let code = self.on_volume(Command::OUTDATE, name, volume, |message| message)?;
        let state = self.known(name, self.deadline())?;
        match state.volume(volume).map(|volume| volume.disk) {
            Some(DiskState::Outdated) => Ok(code == CHANGED),
            _ => {
                let reason = format!("the disk stays as it is; disconnect first ({})", state.summary());
                Err(Error::Precondition { command: Command::OUTDATE.1, name: name.clone(), reason })
            }
        }
    }

    /// Sets the options of a volume's disk, the others back to their defaults; says whether anything was different.
    /// `drbdsetup disk-options --set-defaults`, `DRBD_ADM_CHG_DISK_OPTS`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] without a disk; as [`apply`](Self::apply).
    #[doc(alias = "drbdsetup disk-options")]
    pub fn set_disk_options(
        &self,
        name: &ResourceName,
        volume: Volume,
        options: &DiskOptions,
    ) -> Result<bool> {
        options.check_84()?;
        let state = self.known(name, self.deadline())?;
        let Some((minor, before)) = state.volume(volume).and_then(|v| Some((v.minor, v.options.clone()?)))
        else {
            let what = format!("volume {volume} has no disk");
            return Err(Error::Conflict { name: name.clone(), what });
        };
        let changed = !before.differences(options).is_empty();
        self.one_step(changed.then(|| Step::SetDisk { minor, options: options.clone(), before }))
    }

    /// Sets the options of a connection, the others back to their defaults; says whether anything was different.
    /// `drbdsetup net-options --set-defaults`, `DRBD_ADM_CHG_NET_OPTS`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] without a connection; as [`apply`](Self::apply).
    #[doc(alias = "drbdsetup net-options")]
    pub fn set_net_options(&self, name: &ResourceName, options: &NetOptions) -> Result<bool> {
        options.check_84()?;
        let state = self.known(name, self.deadline())?;
        let Some(connection) = state.connections.into_iter().next() else {
            return Err(Error::Conflict { name: name.clone(), what: "it has no connection".to_owned() });
        };
        let before = connection.options.unwrap_or_default();
        let changed = !before.differences(options).is_empty();
        let (name, options, local, peer) = (name.clone(), options.clone(), connection.local, connection.peer);
        self.one_step(changed.then_some(Step::SetNet { name, local, peer, options, before }))
    }

    /// Sets the options of a resource, the others back to their defaults; says whether anything was different.
    /// `drbdsetup resource-options --set-defaults`, `DRBD_ADM_RESOURCE_OPTS`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; as [`apply`](Self::apply).
    #[doc(alias = "drbdsetup resource-options")]
    pub fn set_resource_options(&self, name: &ResourceName, options: &ResourceOptions) -> Result<bool> {
        options.check_84()?;
        let before = self.known(name, self.deadline())?.options.unwrap_or_default();
        let changed = !before.differences(options).is_empty();
        let (name, options) = (name.clone(), options.clone());
        self.one_step(changed.then_some(Step::SetResource { name, options, before }))
    }

    fn one_step(&self, step: Option<Step>) -> Result<bool> {
        match step {
            Some(step) => self.apply(Plan::new(vec![step])).map(|_| true),
            None => Ok(false),
        }
    }

    /// A resource that must be there.
    pub(crate) fn known(&self, name: &ResourceName, deadline: Deadline) -> Result<ResourceState> {
        self.get_before(name, deadline)?.ok_or_else(|| Error::NotFound { name: name.clone() })
    }

    /// The device of a volume: one request.
    pub(crate) fn minor_of(&self, name: &ResourceName, volume: Volume, deadline: Deadline) -> Result<Minor> {
        for reply in self.table(Command::GET_DEVICES, Some(name), deadline)? {
            let packet = Packet::parse(&reply)?;
            if packet.context.volume.map(Volume) == Some(volume) {
                return Ok(Minor::from_kernel(packet.minor));
            }
        }
        self.known(name, deadline)?;
        Err(Error::Conflict { name: name.clone(), what: format!("it has no volume {volume}") })
    }

    fn on_volume(
        &self,
        command: Command,
        name: &ResourceName,
        volume: Volume,
        fill: impl Fn(Message) -> Message,
    ) -> Result<i32> {
        let deadline = self.deadline();
        let minor = self.minor_of(name, volume, deadline)?;
        let object = format!("{name}/{volume}");
        let about = About { command, object: &object, deadline };
        let done = self.link.change(about, |family| fill(request(family, command, minor.get(), 0)));
        match done {
            Ok(code) => {
                log::debug!("{FACILITY}: {} {object}", command.1);
                Ok(code)
            }
            Err(error) if error.refusal() == Some(Refusal::DeviceInUse) => {
                Err(self.busy(command.1, name, &[minor]))
            }
            Err(error) => Err(self.with_state(name, error, deadline)),
        }
    }

    /// A command of the whole resource that 8.4 takes by one of its minors.
    fn on_resource(&self, command: Command, name: &ResourceName) -> Result<bool> {
        let state = self.known(name, self.deadline())?;
        let was = state.suspended.any();
        let Some(volume) = state.volumes.first() else {
            return Err(Error::Conflict { name: name.clone(), what: "it has no volumes".to_owned() });
        };
        if (command == Command::SUSPEND_IO) == was {
            return Ok(false);
        }
        self.on_volume(command, name, volume.volume, |message| message).map(|_| true)
    }
}
