//! What a node does: its verbs over all six crates, each idempotent, each printing its steps with their times.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use drbd::{Drbd, Metadata, Promote, ResourceState, VolumeSpec};
use host::exec::Module;
use host::{Deadline, Host};
use irqaff::Irqaff;
use lio::Lio;
use luks::Luks;
use netcfg::{FloatingAddr, Netcfg};

use crate::config::{Config, Unit};

/// By this name DRBD calls us: a link to `san-node`, which knows by it that it is the helper (see [`crate::helper`]).
pub const HELPER: &str = "/run/sankit/drbd-helper";
/// What the kernel calls by default.
const DRBDADM: &str = "/sbin/drbdadm";

/// How long `serve` waits for a connection that is not there yet, before it refuses.
const CONNECTING: Duration = Duration::from_secs(10);

/// What is known of the peer, for a takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Peer {
    /// Whatever DRBD says.
    #[default]
    Unknown,
    /// It has been told to release the unit: wait until it has, at most this long. Meanwhile this node makes ready.
    Releasing(Duration),
    /// A fencing result or an administrator says that it is dead. Never a time-out.
    Dead,
}

/// Whether a disk that has never held replicated data may be given metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NewMetadata {
    /// No.
    #[default]
    Refuse,
    /// Yes, where nothing known is on the disk.
    Create,
}

/// Whether this node's data becomes the truth though no disk is up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FirstSync {
    /// No.
    #[default]
    Refuse,
    /// Yes: the first time of all, on fresh disks of both nodes.
    FromHere,
}

/// A node with its facilities.
#[derive(Debug)]
pub struct Node {
    /// The machine.
    pub host: Host,
    /// What it should be.
    pub config: Config,
    luks: Luks,
}

/// One thing that [`Node::check`] looked at.
#[derive(Debug)]
#[non_exhaustive]
pub struct Finding {
    /// Whether it is in order.
    pub ok: bool,
    /// What was looked at, and what is wrong with it.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.ok { "ok  " } else { "FAIL" }, self.text)
    }
}

impl Node {
    /// A node on this machine.
    ///
    /// # Errors
    /// LUKS cannot be used here.
    pub fn live(host: &Host, config: Config) -> Result<Self> {
        Ok(Self::with_luks(host, config, Luks::on(host)?))
    }

    /// A node on a machine whose encrypted disks are a fake.
    #[must_use]
    pub fn with_luks(host: &Host, config: Config, luks: Luks) -> Self {
        Self { host: host.clone(), config, luks }
    }

    fn net(&self) -> Result<Netcfg> {
        Ok(Netcfg::on(&self.host)?)
    }

    fn mappings(&self) -> Vec<luks::MappingSpec> {
        self.config.units.iter().map(|unit| unit.mapping.clone()).collect()
    }

    /// Looks whether the machine has what the file asks for. Changes nothing.
    #[must_use]
    pub fn check(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut look = |what: &str, result: Result<String>| {
            found.push(match result {
                Ok(text) => Finding { ok: true, text: format!("{what}: {text}") },
                Err(error) => Finding { ok: false, text: format!("{what}: {error:#}") },
            });
        };
        look("file", Ok(format!("{} is in order for {}", self.config.path.display(), self.config.node)));
        look(
            "network",
            self.net().and_then(|net| Ok(format!("{} steps to go", net.plan(&self.config.net)?.len()))),
        );
        look(
            "passphrase",
            self.config.passphrase().map(|_| self.config.passphrase_file.display().to_string()),
        );
        look(
            "disks",
            self.luks
                .plan(&self.mappings())
                .map(|plan| format!("{} to open", plan.len()))
                .map_err(Into::into),
        );
        look("DRBD", Drbd::on(&self.host).map(|d| format!("{:?}", d.dialect())).map_err(Into::into));
        look("LIO", Lio::on(&self.host).map(|_| "loaded".to_owned()).map_err(Into::into));
        let portals: Vec<_> =
            self.config.units.iter().flat_map(|unit| unit.addresses.iter().map(|a| a.link.clone())).collect();
        let hints = self.net().and_then(|net| Ok(net.lint_spec(&self.config.net, &portals)?));
        for hint in hints.into_iter().flatten() {
            found.push(Finding { ok: true, text: format!("hint: {hint}") });
        }
        found
    }

    /// The steps of `apply`, as a person would type them.
    ///
    /// # Errors
    /// A facility cannot be read, or the file contradicts the machine.
    pub fn plan(&self) -> Result<Vec<String>> {
        let mut lines: Vec<String> = Vec::new();
        fn add<S: fmt::Display>(lines: &mut Vec<String>, plan: &host::Plan<S>) {
            lines.extend(plan.steps().iter().map(ToString::to_string));
        }
        add(&mut lines, &self.net()?.plan(&self.config.net)?);
        if let Some(policy) = self.policy() {
            add(&mut lines, &Irqaff::on(&self.host)?.plan(&policy)?);
        }
        add(&mut lines, &self.luks.plan(&self.mappings())?);
        let drbd = Drbd::on(&self.host)?;
        for unit in &self.config.units {
            add(&mut lines, &drbd.plan(&unit.resource)?);
        }
        Ok(lines)
    }

    /// Makes the network, and nothing else, as the file says, on trial: it comes back as it was after `time` unless it is confirmed. `false` if
    /// it is so already.
    ///
    /// # Errors
    /// As [`Netcfg::apply_on_trial`].
    pub fn try_network(&self, time: Duration) -> Result<bool> {
        let net = self.net()?;
        let plan = net.plan(&self.config.net)?;
        if plan.is_empty() {
            return Ok(false);
        }
        net.apply_on_trial(plan, time).context("network")?;
        Ok(true)
    }

    fn policy(&self) -> Option<irqaff::Policy> {
        let irq = self.config.irq.as_ref()?;
        // By the file, not by what is there now: a bond can be named before it is made.
        let links = irq.links.iter().flat_map(|link| self.config.cards(link)).map(irqaff::DeviceName::from);
        let policy = irqaff::Policy::spread(links).over(irq.cpus.clone());
        Some(if irq.xps { policy.with_xps() } else { policy })
    }

    /// Makes the node ready to serve: network, interrupts, disks, replication. `false` if it was, and then nothing is written.
    ///
    /// # Errors
    /// The first facility that fails, with its step; the steps of that facility are undone.
    pub fn apply(&self, metadata: NewMetadata) -> Result<bool> {
        // What can be known beforehand is known before the first step: a mistake in the disks leaves the network alone too.
        self.plan()?;
        Lio::on(&self.host)?;
        let mut changed = self.net()?.ensure(&self.config.net).context("network")?;
        if let Some(policy) = self.policy() {
            changed |= Irqaff::on(&self.host)?.ensure(&policy).context("interrupts")?;
        }
        let specs = self.mappings();
        if !self.luks.plan(&specs).context("disks")?.is_empty() {
            changed |= self.luks.ensure(&specs, &self.config.passphrase()?).context("disks")?;
        }
        self.warm_up()?;
        let drbd = Drbd::on(&self.host)?;
        changed |= self.helper(&drbd)?;
        for unit in &self.config.units {
            if drbd.get(&unit.resource.name)?.is_none() {
                changed |=
                    self.metadata(unit, metadata).with_context(|| format!("metadata of {}", unit.name))?;
            }
            changed |=
                drbd.ensure(&unit.resource).with_context(|| format!("replication of {}", unit.name))?;
        }
        Ok(changed)
    }

    /// Makes this program DRBD's helper, in the place of drbdadm. By default DRBD runs `/sbin/drbdadm before-resync-source minor-N` before a
    /// resync; drbdadm finds no such resource in its own configuration, says so with code 1, and the kernel takes that for a veto and drops
    /// the connection (`drbd_receiver.c`, `receive_bitmap`). A helper that somebody else has set is left alone.
    ///
    /// The module's parameter is a path of 79 bytes at most, and the kernel adds its own words to it: no room for `san-node drbd-helper`, nor
    /// for any path there may be. So it gets the path of a link in `/run/sankit`, made anew if this program has moved.
    fn helper(&self, drbd: &Drbd) -> Result<bool> {
        let (set, link) = (drbd.helper()?, Path::new(HELPER));
        if set != Path::new(DRBDADM) && set != link {
            return Ok(false);
        }
        let mut changed = false;
        if let Some(dir) = self.host.run_dir() {
            let tree = self.host.tree();
            let program = std::env::current_exe().context("where is this program?")?;
            if tree.read_link(link).ok() != Some(program.clone()) {
                tree.ensure_dir(dir)?;
                tree.unlink(link)?;
                tree.link(&program, link)?;
                changed = true;
            }
        }
        Ok(drbd.set_helper(link)? || changed)
    }

    /// Loads now what the kernel would load in the middle of the first takeover, where it takes seconds: packet sockets at the first
    /// announcement, the iSCSI fabric at its first directory, and four kinds of backstores at the first adapter of any kind
    /// (`transport_subsystem_check_init`, `drivers/target/target_core_transport.c`, starts modprobe four times even if they are loaded).
    fn warm_up(&self) -> Result<()> {
        if self.host.run_dir().is_none() {
            return Ok(());
        }
        Lio::on(&self.host)?;
        let tree = self.host.tree();
        tree.ensure_dir("/sys/kernel/config/target/iscsi")?;
        if tree.dirs("/sys/kernel/config/target/core")?.iter().all(|name| name == "alua") {
            // An adapter without a device: made and taken away at once.
            const ADAPTER: &str = "/sys/kernel/config/target/core/iblock_0";
            tree.ensure_dir(ADAPTER)?;
            tree.remove_dir(ADAPTER)?;
        }
        match self.host.exec().load(Module::AF_PACKET, tree, Deadline::after(CONNECTING)) {
            Ok(_) | Err(host::exec::Error::NotInstalled { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn metadata(&self, unit: &Unit, policy: NewMetadata) -> Result<bool> {
        let mut made = false;
        for volume in &unit.resource.volumes {
            if self.has_metadata(volume)? {
                continue;
            }
            if policy == NewMetadata::Refuse {
                bail!(
                    "{} has no DRBD metadata; if it is a new disk, say --create-metadata (what is at its end is lost)",
                    volume.disk.display()
                );
            }
            Metadata::create(&self.host, volume, drbd::Overwrite::Never)?;
            made = true;
        }
        Ok(made)
    }

    fn has_metadata(&self, volume: &VolumeSpec) -> Result<bool> {
        // A fake machine has no disks to look at; its DRBD answers at attach.
        if self.host.run_dir().is_none() {
            return Ok(true);
        }
        Ok(Metadata::exists(&self.host, &volume.disk, volume.minor)?)
    }

    /// Serves a unit here: promote, objects, enable, addresses, announcement, in this order: nobody can reach a target that cannot serve yet.
    ///
    /// # Errors
    /// Refused unless the peer is known to be Secondary or said to be dead. A unit that was not served before and
    /// whose serving fails at a step is released again.
    pub fn serve(
        &self,
        unit: &Unit,
        peer: Peer,
        first: FirstSync,
        say: &mut dyn FnMut(&str, Duration),
    ) -> Result<()> {
        let mut step = Stopwatch::new(say);
        let drbd = Drbd::on(&self.host)?;
        let name = &unit.resource.name;
        let look = || {
            drbd.get(name)?.ok_or_else(|| anyhow!("resource {name} is not up here; run san-node apply first"))
        };
        let mut state = look()?;
        if !state.is_primary() && !state.is_connected() && peer != Peer::Dead {
            // A connection that is just being made deserves a moment; what comes of it is judged below.
            if let Err(error) = drbd.wait_connected(name, Deadline::after(CONNECTING)) {
                step.did(&format!("no peer ({error})"));
            }
            state = look()?;
        }
        let lio = Lio::on(&self.host)?;
        if state.is_primary() {
            step.did("promoted");
            return self.open_up(unit, &lio, &mut step);
        }
        if let Peer::Releasing(patience) = peer {
            drbd.wait_released(name, Deadline::after(patience))
                .with_context(|| format!("{} has not released it", self.config.peer))?;
            state = look()?;
            step.did("awaited");
        }
        allowed(&state, peer, &self.config.peer)?;
        let how = if first == FirstSync::FromHere { first_sync_allowed(&state)? } else { Promote::IfSafe };
        step.did("checked");
        drbd.promote(name, how)?;
        step.did("promoted");
        let result = self.open_up(unit, &lio, &mut step);
        match result.as_ref().err().and_then(|_| self.release(unit, &mut |_, _| {}).err()) {
            // What was not served before is not served now.
            None => result,
            Some(worse) => result.context(format!("it could not be taken back either ({worse:#})")),
        }
    }

    /// From promoted to reachable: objects, enable, addresses, announcement.
    fn open_up(&self, unit: &Unit, lio: &Lio, step: &mut Stopwatch<'_>) -> Result<()> {
        lio.ensure(&unit.target)?;
        step.did("exported");
        for address in &unit.addresses {
            address.claim(&self.host)?;
        }
        step.did("addresses");
        FloatingAddr::announce_all(&self.host, &unit.addresses)?;
        step.did("announced");
        Ok(())
    }

    /// Stops serving a unit here: addresses away first (packets to them are dropped then, nothing is refused), target, Secondary.
    ///
    /// # Errors
    /// A step fails; running it again goes on from there.
    pub fn release(&self, unit: &Unit, say: &mut dyn FnMut(&str, Duration)) -> Result<()> {
        let mut step = Stopwatch::new(say);
        for address in &unit.addresses {
            address.release(&self.host)?;
        }
        step.did("addresses");
        Lio::on(&self.host)?.remove(&unit.target.iqn)?;
        step.did("target");
        let drbd = Drbd::on(&self.host)?;
        if drbd.get(&unit.resource.name)?.is_some_and(|state| state.is_primary()) {
            drbd.demote(&unit.resource.name)?;
        }
        step.did("demoted");
        Ok(())
    }

    /// Takes down everything that `apply` and `serve` set up. No data is lost; disks keep their headers and metadata.
    ///
    /// # Errors
    /// A step fails; running it again goes on from there.
    pub fn destroy(&self, say: &mut dyn FnMut(&str, Duration)) -> Result<()> {
        for unit in &self.config.units {
            self.release(unit, say)?;
        }
        let mut step = Stopwatch::new(say);
        let drbd = Drbd::on(&self.host)?;
        for unit in &self.config.units {
            drbd.remove(&unit.resource.name)?;
        }
        step.did("replication");
        for unit in &self.config.units {
            self.luks.remove(&unit.mapping.name)?;
        }
        step.did("disks");
        let net = self.net()?;
        net.apply(net.plan_removal(&self.config.net)?)?;
        step.did("network");
        Ok(())
    }

    /// Waits until a unit's disks are the same on both nodes, telling of the progress.
    ///
    /// # Errors
    /// The deadline passes, or the resource is not up.
    pub fn wait_synced(
        &self,
        unit: &Unit,
        deadline: Deadline,
        seen: impl FnMut(&drbd::Progress),
    ) -> Result<()> {
        let drbd = Drbd::on(&self.host)?;
        drbd.wait_connected(&unit.resource.name, deadline)?;
        Ok(drbd.wait_synced(&unit.resource.name, deadline, seen)?)
    }

    /// The mappings of the encrypted disks.
    pub(crate) fn luks(&self) -> &Luks {
        &self.luks
    }
}

/// Whether this node may become Primary, as far as the peer is concerned.
fn allowed(state: &ResourceState, peer: Peer, peer_name: &str) -> Result<()> {
    match (state.peer_is_secondary(), peer) {
        (Some(true), _) => Ok(()),
        // DRBD may not have noticed yet. It asks the peer itself before it promotes, and refuses if that is alive and Primary.
        (_, Peer::Dead) => Ok(()),
        (Some(false), _) => {
            bail!("{peer_name} serves {}; release it there first (san-node release)", state.name)
        }
        (None, Peer::Unknown | Peer::Releasing(_)) => bail!(
            "{peer_name} does not answer, and that does not mean it is dead: if it is alive and serving, both would write. Make sure that it is \
             switched off, then say --peer-is-dead"
        ),
    }
}

/// The first promotion of all: fresh metadata here, and nothing better at the peer.
fn first_sync_allowed(state: &ResourceState) -> Result<Promote> {
    let fresh = state.volumes.iter().all(|volume| volume.current_uuid & !1 == 4);
    let peer_has_data = state.connections.iter().flat_map(|c| &c.volumes).any(|v| {
        matches!(
            v.peer_disk,
            drbd::DiskState::UpToDate | drbd::DiskState::Consistent | drbd::DiskState::Outdated
        )
    });
    match (fresh, peer_has_data) {
        (_, true) => bail!(
            "the peer's disk of {} holds data that was in sync once; --first-sync would overwrite it",
            state.name
        ),
        (false, _) => Ok(Promote::IfSafe),
        (true, false) => Ok(Promote::Force),
    }
}

/// Tells how long each step took.
struct Stopwatch<'a> {
    say: &'a mut dyn FnMut(&str, Duration),
    since: Instant,
}

impl<'a> Stopwatch<'a> {
    fn new(say: &'a mut dyn FnMut(&str, Duration)) -> Self {
        Self { say, since: Instant::now() }
    }

    fn did(&mut self, what: &str) {
        (self.say)(what, self.since.elapsed());
        self.since = Instant::now();
    }
}
