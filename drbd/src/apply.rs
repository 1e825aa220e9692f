//! Carrying plans out, and the changes that need no plan.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use host::nl::{NESTED, flags};
use host::plan::Undo;
use host::{Deadline, Plan};

use crate::link::About;
use crate::read::is_unknown;
use crate::wire::{Command, Context, MANDATORY, NO_MINOR, SET_DEFAULTS, nest, request};
use crate::{
    Drbd, Error, FACILITY, Holder, Metadata, Minor, NetOptions, Refusal, ResourceName, ResourceSpec,
    ResourceState, Result, Step, Volume, VolumeSpec, diff, holders,
};

impl Drbd {
    /// Computes the steps from what is there to what is wanted; changes nothing. `drbdadm -d adjust NAME`.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`diff`].
    #[doc(alias = "drbdadm adjust")]
    pub fn plan(&self, spec: &ResourceSpec) -> Result<Plan<Step>> {
        let mut state = self.get(&spec.name)?;
        if let Some(state) = &mut state {
            self.recognise_disks(state, &spec.volumes);
        }
        diff(state.as_ref(), spec)
    }

    /// Carries a plan out, under the lock of DRBD's configuration. Stops at the first step that fails and takes back those before it.
    ///
    /// # Errors
    /// [`Error::Apply`] says which step failed, why, and what became of the others; [`Error::Lock`] if another process changes the
    /// configuration.
    pub fn apply(&self, plan: Plan<Step>) -> Result<Undo<Step>> {
        let deadline = self.deadline();
        let _lock = self.host.lock(FACILITY, deadline)?;
        Ok(host::plan::apply(&self.host, FACILITY, plan, |step| self.run(step, deadline))?)
    }

    /// Makes a resource: its volumes, disks and connection. Does not wait for the peer. `drbdadm up NAME`.
    ///
    /// The disks must have metadata ([`Metadata::create`]).
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if there is one of this name, else as [`apply`](Self::apply).
    #[doc(alias = "drbdadm up")]
    pub fn create(&self, spec: &ResourceSpec) -> Result<()> {
        let exists = || Error::AlreadyExists { name: spec.name.clone() };
        if self.get(&spec.name)?.is_some() {
            return Err(exists());
        }
        match self.apply(diff(None, spec)?) {
            // Another process was faster.
            Err(Error::Apply { failed }) if failed.number == 1 && is_taken(failed.cause.as_ref()) => {
                Err(exists())
            }
            other => other.map(drop),
        }
    }

    /// Makes a resource as the spec says, or changes it to that; says whether anything was changed. Does not wait for the peer.
    /// `drbdadm adjust NAME`.
    ///
    /// Options that the spec does not set are brought to their defaults. A connection that is `StandAlone` is connected again. Volumes
    /// that the spec does not name are left alone. The role is not touched.
    ///
    /// # Errors
    /// As [`plan`](Self::plan) and [`apply`](Self::apply).
    pub fn ensure(&self, spec: &ResourceSpec) -> Result<bool> {
        let plan = self.plan(spec)?;
        if plan.is_empty() {
            return Ok(false);
        }
        self.apply(plan).map(|_| true)
    }

    /// Makes several resources as their specs say, reading the kernel's state once for all of them; says whether anything was changed.
    /// `drbdadm adjust all`. Resources that no spec names are left alone.
    ///
    /// # Errors
    /// As [`plan`](Self::plan) and [`apply`](Self::apply): what was done to any of them is taken back if one fails.
    #[doc(alias = "drbdadm adjust all")]
    pub fn ensure_all(&self, specs: &[ResourceSpec]) -> Result<bool> {
        let plan = self.plan_all(specs)?;
        if plan.is_empty() {
            return Ok(false);
        }
        self.apply(plan).map(|_| true)
    }

    /// Computes the steps of [`ensure_all`](Self::ensure_all); changes nothing.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_all(&self, specs: &[ResourceSpec]) -> Result<Plan<Step>> {
        let mut states: BTreeMap<_, _> =
            self.list()?.into_iter().map(|state| (state.name.clone(), state)).collect();
        let mut plan = Plan::default();
        for spec in specs {
            let mut state = states.remove(&spec.name);
            if let Some(state) = &mut state {
                self.recognise_disks(state, &spec.volumes);
            }
            plan.append(diff(state.as_ref(), spec)?);
        }
        Ok(plan)
    }

    /// Takes a resource down: ends its connection, detaches its disks, deletes its devices and itself; says whether it was there. The data
    /// and metadata stay on the disks. `drbdadm down NAME`, `DRBD_ADM_DOWN`.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is Primary here (the kernel would demote it silently, this crate does not) or a device is held open.
    #[doc(alias = "drbdadm down")]
    pub fn remove(&self, name: &ResourceName) -> Result<bool> {
        let deadline = self.deadline();
        let _lock = self.host.lock(FACILITY, deadline)?;
        let Some(state) = self.get_before(name, deadline)? else { return Ok(false) };
        let command = Command::DOWN;
        if state.is_primary() {
            let mut holders = vec![Holder::Primary];
            holders.extend(state.volumes.iter().flat_map(|v| holders::of(self.host.tree(), v.minor)));
            return Err(Error::Busy { command: command.1, name: name.clone(), holders });
        }
        let about = About { command, object: name.as_str(), deadline };
        // The same in both dialects.
        let done = self.link.change_9(about, |family| {
            Context::resource(name.as_str()).encode(request(family, command, NO_MINOR, 0), MANDATORY)
        });
        match done {
            Ok(_) => {
                log::debug!("{FACILITY}: drbdsetup down {name}");
                Ok(true)
            }
            Err(error) => match error.refusal() {
                Some(refusal) if is_unknown(refusal) => Ok(false),
                Some(Refusal::DeviceInUse) => {
                    let minors: Vec<_> = state.volumes.iter().map(|v| v.minor).collect();
                    Err(self.busy(command.1, name, &minors))
                }
                _ => Err(error),
            },
        }
    }

    /// Ends the connection of a resource and forgets its configuration; says whether there was one.
    /// [`ensure`](Self::ensure) connects again. `drbdadm disconnect NAME`, `DRBD_ADM_DISCONNECT`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`], for example with [`Refusal::Diskless`] if this is the Primary's only access to the data.
    #[doc(alias = "drbdadm disconnect")]
    pub fn disconnect(&self, name: &ResourceName) -> Result<bool> {
        let deadline = self.deadline();
        let _lock = self.host.lock(FACILITY, deadline)?;
        let state = self.get_before(name, deadline)?.ok_or_else(|| Error::NotFound { name: name.clone() })?;
        let Some(connection) = state.connections.first() else { return Ok(false) };
        self.end_connection(name, connection.local, connection.peer, deadline)
    }

    /// Connects a resource that is there with the addresses and options of the spec, and looks at nothing else of it; says whether it did:
    /// `false` if it has a connection that is up or being tried. `drbdadm connect NAME`, `DRBD_ADM_CONNECT`.
    ///
    /// The way to use [`NetOptions::with_discard_my_data`].
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`], for example with [`Refusal::LocalAddressInUse`].
    #[doc(alias = "drbdadm connect")]
    pub fn connect(&self, spec: &ResourceSpec) -> Result<bool> {
        spec.check()?;
        let deadline = self.deadline();
        let _lock = self.host.lock(FACILITY, deadline)?;
        let name = &spec.name;
        let state = self.get_before(name, deadline)?.ok_or_else(|| Error::NotFound { name: name.clone() })?;
        if !state.connections.is_empty() {
            return Ok(false);
        }
        self.begin_connection(name, spec.local, spec.peer, &spec.net, deadline)?;
        Ok(true)
    }

    /// The kernel shows a disk by the path it was attached with, which may be another link to the same device.
    pub(crate) fn recognise_disks(&self, state: &mut ResourceState, volumes: &[VolumeSpec]) {
        let tree = self.host.tree();
        for wanted in volumes {
            let Some(seen) = state.volumes.iter_mut().find(|v| v.volume == wanted.volume) else { continue };
            if seen.disk_path.as_ref().is_some_and(|path| holders::same_device(tree, path, &wanted.disk)) {
                seen.disk_path = Some(wanted.disk.clone());
            }
            let meta = seen.meta_disk.as_ref().filter(|meta| meta.index() == wanted.meta.index());
            let device = meta.map(|meta| meta.device(Path::new("")).to_path_buf());
            if device.is_some_and(|path| holders::same_device(tree, &path, wanted.meta.device(Path::new(""))))
            {
                seen.meta_disk = Some(wanted.meta.clone());
            }
        }
    }

    fn run(&self, step: &Step, deadline: Deadline) -> Result<()> {
        match step {
            Step::NewResource { name, options } => {
                let about = About { command: Command::NEW_RESOURCE, object: name.as_str(), deadline };
                self.link.change(about, |family| {
                    let message = request(family, about.command, NO_MINOR, 0).with_flags(flags::EXCL);
                    let message = Context::resource(name.as_str()).encode(message, MANDATORY);
                    match options.is_empty() {
                        true => message,
                        false => message.with_nest(nest::RESOURCE_OPTS | NESTED, |m| options.encode(true, m)),
                    }
                })?;
            }
            Step::DelResource { name } => {
                let about = About { command: Command::DEL_RESOURCE, object: name.as_str(), deadline };
                gone(self.link.change(about, |family| {
                    Context::resource(name.as_str())
                        .encode(request(family, about.command, NO_MINOR, 0), MANDATORY)
                }))?;
            }
            Step::SetResource { name, options, .. } => {
                let about = About { command: Command::RESOURCE_OPTS, object: name.as_str(), deadline };
                self.link.change(about, |family| {
                    let message = request(family, about.command, NO_MINOR, SET_DEFAULTS);
                    Context::resource(name.as_str())
                        .encode(message, MANDATORY)
                        .with_nest(nest::RESOURCE_OPTS | NESTED, |m| options.encode(false, m))
                })?;
            }
            Step::NewMinor { name, volume, minor } => self.new_minor(name, *volume, *minor, deadline)?,
            Step::DelMinor { minor } => self.minor_command(Command::DEL_MINOR, *minor, deadline)?,
            Step::ApplyAl { minor, disk, meta } => {
                log::debug!("{FACILITY}: activity log of minor {minor}");
                Metadata::apply_al(&self.host, disk, meta)?;
            }
            Step::Attach { minor, disk, meta, options } => {
                let object = format!("{} to minor {minor}", disk.display());
                let about = About { command: Command::ATTACH, object: &object, deadline };
                let (disk, device) = (path(disk)?, path(meta.device(disk))?);
                let done = self.link.change(about, |family| {
                    let message = request(family, about.command, minor.get(), 0);
                    message.with_nest(nest::DISK_CONF | NESTED, |m| {
                        let index = meta.index().cast_unsigned();
                        options.encode(true, m.with_str(1, disk).with_str(2, device).with_u32(3, index))
                    })
                });
                done.map_err(|error| self.with_holders(error, Path::new(disk), Path::new(device)))?;
            }
            Step::Detach { minor } => self.minor_command(Command::DETACH, *minor, deadline)?,
            Step::SetDisk { minor, options, .. } => {
                let object = format!("minor {minor}");
                let about = About { command: Command::CHG_DISK_OPTS, object: &object, deadline };
                self.link.change(about, |family| {
                    request(family, about.command, minor.get(), SET_DEFAULTS)
                        .with_nest(nest::DISK_CONF | NESTED, |m| options.encode(false, m))
                })?;
            }
            Step::Connect { name, local, peer, options } => {
                self.begin_connection(name, *local, *peer, options, deadline)?;
            }
            Step::Disconnect { name, local, peer, .. } => {
                self.end_connection(name, *local, *peer, deadline)?;
            }
            Step::SetNet { name, local, peer, options, .. } => {
                let about = About { command: Command::CHG_NET_OPTS, object: name.as_str(), deadline };
                self.link.change(about, |family| {
                    let message = request(family, about.command, NO_MINOR, SET_DEFAULTS);
                    Context::connection(*local, *peer)
                        .encode(message, MANDATORY)
                        .with_nest(nest::NET_CONF | NESTED, |m| options.encode(false, m))
                })?;
            }
        }
        Ok(())
    }

    /// Adds who holds the disk to a refusal because it is in use.
    fn with_holders(&self, error: Error, disk: &Path, device: &Path) -> Error {
        let Error::Refused { command, object, refusal, mut info } = error else { return error };
        let held = match refusal {
            Refusal::DiskClaimed => Some(disk),
            Refusal::MetaDiskClaimed => Some(device),
            _ => None,
        };
        let holders = held.map(|path| holders::of_disk(self.host.tree(), path)).unwrap_or_default();
        info.extend(holders.iter().map(|holder| format!("it is in use by {holder}")));
        Error::Refused { command, object, refusal, info }
    }

    fn new_minor(&self, name: &ResourceName, volume: Volume, minor: Minor, deadline: Deadline) -> Result<()> {
        self.await_no_device(name, volume, minor, deadline)?;
        let object = format!("{} for {name}/{volume}", minor.path().display());
        let about = About { command: Command::NEW_MINOR, object: &object, deadline };
        self.link.change(about, |family| {
            let message = request(family, about.command, minor.get(), 0).with_flags(flags::EXCL);
            Context::volume(name.as_str(), volume.0).encode(message, MANDATORY)
        })?;
        Ok(())
    }

    /// A device that was deleted a moment ago may still be known to sysfs and udev; making it again then fails or confuses udev.
    pub(crate) fn await_no_device(
        &self,
        name: &ResourceName,
        volume: Volume,
        minor: Minor,
        deadline: Deadline,
    ) -> Result<()> {
        let sysfs = format!("/sys/block/drbd{minor}");
        while self.host.tree().exists(&sysfs)? && !self.knows(minor, deadline)? {
            if !deadline.pause(Duration::from_millis(10)) {
                let object = format!("{name}/{volume} ({sysfs} is still there)");
                return Err(Error::Timeout { command: Command::NEW_MINOR.1, object, info: Vec::new() });
            }
        }
        Ok(())
    }

    fn knows(&self, minor: Minor, deadline: Deadline) -> Result<bool> {
        let replies = self.table(Command::GET_DEVICES, None, deadline)?;
        let mut minors = replies.iter().map(|reply| crate::wire::Packet::parse(reply).map(|p| p.minor));
        minors.try_fold(false, |found, number| Ok(found | (number? == minor.get())))
    }

    fn minor_command(&self, command: Command, minor: Minor, deadline: Deadline) -> Result<()> {
        let object = format!("minor {minor}");
        let about = About { command, object: &object, deadline };
        gone(self.link.change(about, |family| request(family, command, minor.get(), 0)))
    }

    fn begin_connection(
        &self,
        name: &ResourceName,
        local: SocketAddr,
        peer: SocketAddr,
        options: &NetOptions,
        deadline: Deadline,
    ) -> Result<()> {
        let about = About { command: Command::CONNECT, object: name.as_str(), deadline };
        let context = Context { addresses: Some((local, peer)), ..Context::resource(name.as_str()) };
        self.link.change(about, |family| {
            context
                .encode(request(family, about.command, NO_MINOR, 0), MANDATORY)
                .with_nest(nest::NET_CONF | NESTED, |m| options.encode(true, m))
        })?;
        Ok(())
    }

    /// Ends a connection; `false` if there was none: the kernel forgets it by itself after a split brain.
    fn end_connection(
        &self,
        name: &ResourceName,
        local: SocketAddr,
        peer: SocketAddr,
        deadline: Deadline,
    ) -> Result<bool> {
        let about = About { command: Command::DISCONNECT, object: name.as_str(), deadline };
        let done = self.link.change(about, |family| {
            Context::connection(local, peer).encode(request(family, about.command, NO_MINOR, 0), MANDATORY)
        });
        match done {
            Ok(_) => Ok(true),
            Err(Error::Refused { refusal: Refusal::InvalidRequest, info, .. })
                if info.iter().any(|text| text.contains("unknown connection")) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// What is not there needs no removing.
fn gone(result: Result<i32>) -> Result<()> {
    match result {
        Err(error) if error.refusal().is_some_and(is_unknown) => Ok(()),
        other => other.map(drop),
    }
}

fn is_taken(error: Option<&Error>) -> bool {
    let Some(Error::Refused { refusal, info, .. }) = error else { return false };
    *refusal == Refusal::InvalidRequest && info.iter().any(|text| text.contains("exists"))
}

fn path(path: &Path) -> Result<&str> {
    let bad = || crate::ParseError::new("device path", path.display().to_string(), "it is no UTF-8");
    Ok(path.to_str().ok_or_else(bad)?)
}
