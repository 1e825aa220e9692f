//! Attach and detach: from a target's name to a map that takes I/O, and back to nothing.

mod detach;
mod events;
mod holders;
mod map;
mod repair;
#[cfg(all(test, feature = "fake"))]
mod tests;
mod undo;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use host::exec::{Module, Program};
use host::{Deadline, Iqn, Lock, Wwid};

pub use detach::Detached;
pub(crate) use detach::flush;
pub use holders::Holder;
pub use map::Resized;
pub(crate) use map::read_direct;
pub use repair::Orphan;

use crate::error::{Error, Result};
use crate::records::{NodeSpec, Records, Scan, Startup};
use crate::spec::{AttachSpec, Patience, Persistence, PortalSpec};
use crate::state::{Attached, DiskState, SessionPhase, SessionState};
use crate::{Initiator, discovery, session};
use events::Events;
use undo::Undo;

/// Our part of multipathd's configuration.
const CONF: &str = "/etc/multipath/conf.d/sankit.conf";
/// How long portals beyond the needed ones may take once enough are there.
const GRACE: Duration = Duration::from_secs(3);
/// How long a target may show nothing under a LUN's number before it is said not to be there.
const NO_LUN: Duration = Duration::from_secs(5);

impl Initiator {
    /// Attaches a disk of a target: logs in at every portal at once, asks each for this one disk, checks that each path is the same disk, and
    /// waits until the map takes I/O over all of them. What is attached already is found and kept; what others left half-made is adopted.
    ///
    /// Replaces `iscsiadm -m discovery`, `--login`, `sleep`, `multipath -ll`. Passwords go into open-iscsi's record files, never into
    /// arguments.
    ///
    /// # Errors
    /// [`Error::Iscsiadm`] (a portal refused), [`Error::NoLun`], [`Error::WrongDisk`], [`Error::TimedOut`]. What this call made (records,
    /// sessions, disks, the map) is taken back, and nothing else; [`Error::NotUndone`] names what could not be.
    pub fn attach(&self, spec: &AttachSpec, deadline: Deadline) -> Result<Attached> {
        spec.check()?;
        // A daemon that does not run is told before anything is changed.
        self.multipath.client.ask("show daemon", deadline)?;
        let _lock = self.lock_target(&spec.target, deadline)?;
        for module in [Module::ISCSI_TCP, Module::DM_MULTIPATH] {
            match self.host.exec().load(module, self.host.tree(), deadline) {
                Ok(_) | Err(host::exec::Error::NotInstalled { .. }) => {}
                Err(error) => return Err(Error::Module(error)),
            }
        }
        self.configure(&spec.patience, deadline)?;
        let mut undo = Undo::new(&spec.target, &self.sessions()?);
        match self.attach_all(spec, deadline, &mut undo) {
            Ok(attached) => Ok(attached),
            Err(cause) => Err(self.take_back(undo, cause)),
        }
    }

    /// Two calls for one target wait for each other; those for different targets do not.
    fn lock_target(&self, target: &Iqn, deadline: Deadline) -> Result<Lock> {
        let fine = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':') { c } else { '_' };
        let name: String = target.as_str().chars().map(fine).collect();
        self.host.lock(&format!("multipath-{name}"), deadline).map_err(Error::Locked)
    }

    /// open-iscsi's records on this machine.
    #[must_use]
    pub fn records(&self) -> Records {
        Records::on(&self.host)
    }

    fn attach_all(&self, spec: &AttachSpec, deadline: Deadline, undo: &mut Undo) -> Result<Attached> {
        let mut events = Events::open(&self.host)?;
        let here = self.sessions()?;
        let has = |p: &SocketAddr| here.iter().any(|s| s.target == spec.target && s.portal == Some(*p));
        let mut todo: Vec<SocketAddr> = spec.portals.iter().filter(|p| !has(p)).copied().collect();
        let mut missing = Vec::new();
        if spec.needed() < spec.portals.len() {
            missing = reachable(&mut todo, deadline);
        }
        for portal in &todo {
            let node = self.node_of(spec, *portal, deadline)?;
            undo.records.extend(self.records().write(&node, deadline)?);
        }
        undo.tried.clone_from(&todo);
        missing.extend(self.login_all(spec, &todo, deadline));
        if spec.portals.len() - missing.len() < spec.needed() {
            // The first refusal is the one to tell: mostly all portals refuse for the same reason.
            return Err(missing.into_iter().next().map_or_else(
                || Error::Invalid { object: spec.to_string(), reason: "no portal".to_owned() },
                |(_, error)| error,
            ));
        }
        self.look_again(&here, spec)?;
        let wanted: Vec<SocketAddr> =
            spec.portals.iter().filter(|p| !missing.iter().any(|(m, _)| m == *p)).copied().collect();
        let mut search = Search::new(wanted, spec.needed());
        let mut paths = events.until(
            &format!("{spec} on all its portals"),
            deadline,
            || self.find_paths(spec, &mut search, undo),
            || self.seen(&spec.target),
        )?;
        paths.sort_by_key(|path| spec.portals.iter().position(|p| *p == path.portal));
        let late = search.wanted.iter().filter(|p| !paths.iter().any(|path| path.portal == **p));
        missing.extend(late.map(|portal| {
            let what = format!("a disk through {portal}");
            (*portal, Error::TimedOut { what, seen: self.seen(&spec.target) })
        }));
        let wwid = same_disk(spec, &paths)?;
        let mut attached = self.make_map(&wwid, &paths, &spec.target, &mut events, deadline, undo)?;
        if spec.persistence == Persistence::Always {
            for portal in &spec.portals {
                let node = self.node_of(spec, *portal, deadline)?;
                let node = node.with_startup(Startup::Automatic).with_scan(Scan::Auto);
                undo.records.extend(self.records().write(&node, deadline)?);
            }
        }
        attached.missing = missing.into_iter().map(|(portal, error)| (portal, told(&error))).collect();
        Ok(attached)
    }

    /// The record of a portal. Where the session is bound to an interface, open-iscsi wants to know the portal group, which the portal tells.
    fn node_of(&self, spec: &AttachSpec, portal: SocketAddr, deadline: Deadline) -> Result<NodeSpec> {
        let mut node =
            NodeSpec::new(spec.target.clone(), portal).with_scan(Scan::Manual).with_patience(spec.patience);
        node.chap = spec.chap.as_ref().map(crate::Chap::share);
        node.target_chap = spec.target_chap.as_ref().map(crate::Chap::share);
        node.digests.clone_from(&spec.digests);
        let Some(interface) = spec.interfaces.get(&portal) else { return Ok(node) };
        let mut ask = PortalSpec::new(portal).with_interface(interface.clone());
        ask.chap = spec.chap.as_ref().map(crate::Chap::share);
        ask.target_chap = spec.target_chap.as_ref().map(crate::Chap::share);
        let probe = discovery::probe(&ask, &self.name()?, &spec.target, deadline)?;
        if !probe.status.is_success() {
            let status = (probe.status.class, probe.status.detail);
            return Err(Error::Login { portal, reason: probe.status.to_string(), status });
        }
        Ok(node.with_interface(interface.clone(), probe.tag.unwrap_or(1)))
    }

    /// Logs in at all portals at once; returns those that refused.
    fn login_all(
        &self,
        spec: &AttachSpec,
        portals: &[SocketAddr],
        deadline: Deadline,
    ) -> Vec<(SocketAddr, Error)> {
        // Each login waits for a round trip of its own portal: all at once.
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let logins: Vec<_> = portals
                .iter()
                .map(|p| (*p, scope.spawn(|| self.login(&spec.target, *p, deadline))))
                .collect();
            logins.into_iter().map(|(portal, login)| (portal, login.join())).collect()
        });
        let failed = |(portal, outcome): (SocketAddr, std::thread::Result<Result<()>>)| match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some((portal, error)),
            Err(_) => {
                let reason = "the login panicked".to_owned();
                Some((portal, Error::Invalid { object: portal.to_string(), reason }))
            }
        };
        outcomes.into_iter().filter_map(failed).collect()
    }

    fn login(&self, target: &Iqn, portal: SocketAddr, deadline: Deadline) -> Result<()> {
        let at = portal.to_string();
        let args = ["-m", "node", "-T", target.as_str(), "-p", &at, "--login"];
        match self.host.exec().run_ok(Program::ISCSIADM, &args, deadline) {
            Ok(_) => Ok(()),
            // 15: the session is there already.
            Err(error) if error.code() == Some(15) => Ok(()),
            Err(source) => Err(Error::Iscsiadm { target: target.clone(), portal, source }),
        }
    }

    /// Has the kernel ask disks that were there before us who they are now: what it knows is from when they appeared, and a target may have
    /// exchanged the disk behind a LUN since.
    fn look_again(&self, here: &[SessionState], spec: &AttachSpec) -> Result<()> {
        let ours = here.iter().filter(|s| s.target == spec.target && s.phase == SessionPhase::LoggedIn);
        for disk in ours.flat_map(|s| &s.disks) {
            // A blocked disk would hold the write, and us with it.
            if disk.lun == u64::from(spec.lun) && disk.state == "running" {
                self.poke(&format!("/sys/block/{}/device/rescan", disk.device), "1")?;
            }
        }
        Ok(())
    }

    /// Writes to a device's file; a device that is gone meanwhile is no error.
    fn poke(&self, path: &str, value: &str) -> Result<()> {
        match self.host.tree().write(path, value) {
            Err(error) if !error.is_not_found() && error.errno() != Some(libc::ENODEV) => {
                Err(Error::Tree(error))
            }
            _ => Ok(()),
        }
    }

    /// One look at the paths; asks sessions for the disk that do not have it.
    fn find_paths(
        &self,
        spec: &AttachSpec,
        search: &mut Search,
        undo: &mut Undo,
    ) -> Result<Option<Vec<Path>>> {
        let sessions = self.sessions()?;
        let mut paths = Vec::new();
        for portal in search.wanted.clone() {
            let of_portal = |s: &&SessionState| s.target == spec.target && s.portal == Some(portal);
            let Some(session) = sessions.iter().find(of_portal) else { continue };
            if session.phase != SessionPhase::LoggedIn {
                continue;
            }
            match session.disks.iter().find(|d| d.lun == u64::from(spec.lun)) {
                Some(disk) => {
                    undo.saw(&disk.device);
                    if let Some(wwid) = disk.wwid.clone().filter(|_| disk.size > 0) {
                        paths.push(Path { portal, device: disk.device.clone(), wwid, size: disk.size });
                    }
                }
                None => search.ask(self, spec, session, portal)?,
            }
        }
        Ok(search.is_enough(paths.len()).then_some(paths))
    }

    fn seen(&self, target: &Iqn) -> String {
        let mine = |s: &&SessionState| &s.target == target;
        let text = |s: &SessionState| {
            // Without a unit serial LIO shows no page 0x83, and nobody can tell such disks apart.
            let named = |d: &DiskState| match &d.wwid {
                Some(_) => format!("{} (LUN {})", d.device, d.lun),
                None => format!(
                    "{} (LUN {}, without an identifier: its backstore needs a unit serial)",
                    d.device, d.lun
                ),
            };
            let disks: Vec<_> = s.disks.iter().map(named).collect();
            let portal = s.portal.map_or_else(|| "?".to_owned(), |p| p.to_string());
            let disks = if disks.is_empty() { "no disk".to_owned() } else { disks.join(", ") };
            format!("session {} to {portal} is {} with {disks}", s.id, s.phase)
        };
        match self.sessions() {
            Ok(all) if all.iter().any(|s| mine(&s)) => {
                all.iter().filter(mine).map(text).collect::<Vec<_>>().join("; ")
            }
            Ok(_) => "there is no session to it".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Writes multipathd's configuration for LIO where it differs, and makes the daemon read it. `true` if something changed.
    ///
    /// # Errors
    /// The file cannot be written or multipathd does not answer.
    pub fn configure(&self, patience: &Patience, deadline: Deadline) -> Result<bool> {
        let tree = self.host.tree();
        let wanted = patience.multipath_conf();
        let is_there = || tree.read_opt(CONF).map_err(Error::Tree).map(|now| now.as_deref() == Some(&wanted));
        if is_there()? {
            return Ok(false);
        }
        let _lock = self.host.lock("multipath", deadline).map_err(Error::Locked)?;
        if is_there()? {
            return Ok(false);
        }
        for dir in ["/etc/multipath", "/etc/multipath/conf.d"] {
            tree.ensure_dir(dir).map_err(Error::Tree)?;
        }
        tree.replace(CONF, &wanted, 0o644).map_err(Error::Tree)?;
        self.multipath.client.order("reconfigure", deadline)?;
        let mut events = Events::open(&self.host)?;
        let client = &self.multipath.client;
        events.until(
            "multipathd's new configuration",
            deadline,
            || {
                let answer = client.ask("show daemon", deadline)?;
                let busy =
                    ["configure", "init", "startup", "pending"].iter().any(|word| answer.contains(word));
                Ok((!busy).then_some(()))
            },
            || "it is still reading it".to_owned(),
        )?;
        // An administrator may mean it so; `check` tells it to whoever asks.
        for finding in self.check_conf(patience, deadline)? {
            log::warn!("multipath: {finding}");
        }
        Ok(true)
    }

    /// The kernel's iSCSI sessions, also those others made; `iscsiadm -m session -P3`, from sysfs.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn sessions(&self) -> Result<Vec<SessionState>> {
        session::list(self.host.tree())
    }
}

/// An error with its causes, in one line.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Takes the portals out at which nobody listens: iscsid would try such a one for a minute, and go on trying when nobody wants it any more.
fn reachable(portals: &mut Vec<SocketAddr>, deadline: Deadline) -> Vec<(SocketAddr, Error)> {
    let deadline = deadline.or_after(GRACE);
    let tried: Vec<_> = std::thread::scope(|scope| {
        let reach = |p: SocketAddr| {
            move || TcpStream::connect_timeout(&p, deadline.left().max(Duration::from_millis(1)))
        };
        let threads: Vec<_> = portals.iter().map(|p| (*p, scope.spawn(reach(*p)))).collect();
        threads.into_iter().map(|(portal, thread)| (portal, thread.join())).collect()
    });
    let dead: Vec<_> = tried
        .into_iter()
        .filter_map(|(portal, outcome)| match outcome {
            Ok(Err(source)) => Some((portal, Error::Portal { portal, source })),
            _ => None,
        })
        .collect();
    portals.retain(|portal| !dead.iter().any(|(d, _)| d == portal));
    dead
}

/// One path: which portal it leads through, and what it shows.
#[derive(Debug)]
struct Path {
    portal: SocketAddr,
    device: String,
    wwid: Wwid,
    size: u64,
}

/// The search for a disk through several portals.
struct Search {
    wanted: Vec<SocketAddr>,
    needed: usize,
    asked: BTreeMap<SocketAddr, (Instant, Instant)>,
    enough_since: Option<Instant>,
}

impl Search {
    fn new(wanted: Vec<SocketAddr>, needed: usize) -> Self {
        Self { wanted, needed, asked: BTreeMap::new(), enough_since: None }
    }

    /// All are there; or enough, and the others have had their time.
    fn is_enough(&mut self, found: usize) -> bool {
        if found >= self.wanted.len() {
            return true;
        }
        if found < self.needed {
            self.enough_since = None;
            return false;
        }
        self.enough_since.get_or_insert_with(Instant::now).elapsed() >= GRACE
    }

    /// Has the kernel ask a target for one LUN: at once, then twice a second.
    fn ask(
        &mut self,
        initiator: &Initiator,
        spec: &AttachSpec,
        session: &SessionState,
        portal: SocketAddr,
    ) -> Result<()> {
        let now = Instant::now();
        let (first, last) = *self.asked.entry(portal).or_insert((now, now));
        if first != now && last.elapsed() < Duration::from_millis(500) {
            return Ok(());
        }
        let Some(host) = session.host else { return Ok(()) };
        // The unit is there and its disk on the way: asking again would only hold it up.
        let unit = format!("/sys/bus/scsi/devices/{host}:0:{}:{}", session.target_id, spec.lun);
        if initiator.host.tree().exists(unit).map_err(Error::Tree)? {
            self.asked.insert(portal, (now, now));
            return Ok(());
        }
        if first != now && first.elapsed() >= NO_LUN {
            let seen: Vec<_> = session.disks.iter().map(|d| format!("LUN {}", d.lun)).collect();
            let seen = if seen.is_empty() { "nothing".to_owned() } else { seen.join(", ") };
            return Err(Error::NoLun { target: spec.target.clone(), portal, lun: spec.lun, seen });
        }
        self.asked.insert(portal, (first, now));
        // Channel, target, LUN: no other disk of the target appears (drivers/scsi/scsi_transport_iscsi.c, iscsi_user_scan).
        let what = format!("0 {} {}", session.target_id, spec.lun);
        initiator.poke(&format!("/sys/class/scsi_host/host{host}/scan"), &what)
    }
}

/// The disk all paths show.
fn same_disk(spec: &AttachSpec, paths: &[Path]) -> Result<Wwid> {
    let expected = spec.wwid.as_ref().or_else(|| paths.first().map(|p| &p.wwid));
    let Some(expected) = expected else {
        return Err(Error::Invalid { object: spec.to_string(), reason: "no path".to_owned() });
    };
    match paths.iter().find(|p| &p.wwid != expected) {
        None => Ok(expected.clone()),
        Some(odd) => Err(Error::WrongDisk {
            device: odd.device.clone(),
            target: spec.target.clone(),
            found: odd.wwid.clone(),
            expected: expected.clone(),
        }),
    }
}
