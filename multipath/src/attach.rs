//! Attach and detach: from a target's name to a map that takes I/O, and back to nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use host::exec::{Module, Program};
use host::nl::{Protocol, Socket};
use host::{Deadline, Iqn, Wwid};

use crate::error::{Error, Result};
use crate::spec::{AttachSpec, Patience};
use crate::state::{Attached, SessionPhase, SessionState};
use crate::wire::record;
use crate::{Initiator, session};

/// Our part of multipathd's configuration.
const CONF: &str = "/etc/multipath/conf.d/sankit.conf";
/// The disks multipathd makes maps of by itself.
const WWIDS: &str = "/etc/multipath/wwids";

/// Wakes on each of the kernel's device events, so that nothing here waits longer than what it waits for.
struct Events(Socket);

impl Events {
    fn open(initiator: &Initiator) -> Result<Self> {
        let mut socket = initiator.host.nl().open(Protocol::KobjectUevent).map_err(Error::Events)?;
        // Group 1: the kernel's own, in the initial network namespace.
        socket.join(1).map_err(Error::Events)?;
        Ok(Self(socket))
    }

    /// Calls `look` after each event until it answers, or the deadline passes: then what `seen` says goes into the error.
    fn until<T>(
        &mut self,
        what: &str,
        deadline: Deadline,
        mut look: impl FnMut() -> Result<Option<T>>,
        seen: impl Fn() -> String,
    ) -> Result<T> {
        loop {
            if let Some(answer) = look()? {
                return Ok(answer);
            }
            if deadline.is_over() {
                return Err(Error::TimedOut { what: what.to_owned(), seen: seen() });
            }
            // multipathd's own state has no uevent: a look every 50 ms covers it. A uevent is no netlink message, so a datagram that cannot
            // be read as one is an event all the same.
            match self.0.event(deadline.or_after(Duration::from_millis(50))) {
                Ok(_) | Err(host::nl::Error::Malformed(_) | host::nl::Error::Overrun) => {}
                Err(error) => return Err(Error::Events(error)),
            }
        }
    }
}

impl Initiator {
    /// Attaches a disk of a target: logs in at every portal at once, checks that each path is the same disk, and waits until the map takes
    /// I/O over all of them. What is attached already is found and kept.
    ///
    /// Replaces `iscsiadm -m discovery`, `--login`, `sleep`, `multipath -ll`. Passwords go into open-iscsi's record files, never into
    /// arguments.
    ///
    /// # Errors
    /// [`Error::Iscsiadm`] (a portal refused), [`Error::WrongDisk`], [`Error::TimedOut`]. The sessions made by this call are logged out again.
    pub fn attach(&self, spec: &AttachSpec, deadline: Deadline) -> Result<Attached> {
        if spec.portals.is_empty() {
            return Err(Error::Invalid {
                object: spec.to_string(),
                reason: "give at least one portal".to_owned(),
            });
        }
        let _lock = self.host.lock("multipath", deadline).map_err(Error::Locked)?;
        for module in [Module::ISCSI_TCP, Module::DM_MULTIPATH] {
            match self.host.exec().load(module, self.host.tree(), deadline) {
                Ok(_) | Err(host::exec::Error::NotInstalled { .. }) => {}
                Err(error) => return Err(Error::Module(error)),
            }
        }
        self.configure(&spec.patience, deadline)?;
        let before: Vec<u32> = self.sessions()?.iter().map(|s| s.id).collect();
        let result = self.attach_all(spec, deadline);
        if result.is_err() {
            self.undo(spec, &before);
        }
        result
    }

    fn attach_all(&self, spec: &AttachSpec, deadline: Deadline) -> Result<Attached> {
        let mut events = Events::open(self)?;
        let here = self.sessions()?;
        let has =
            |portal: &SocketAddr| here.iter().any(|s| s.target == spec.target && s.portal == Some(*portal));
        let todo: Vec<SocketAddr> = spec.portals.iter().filter(|p| !has(p)).copied().collect();
        let mut missing = Vec::new();
        for portal in &todo {
            self.write_record(spec, *portal, deadline)?;
        }
        // Each login waits for a round trip of its own portal: all at once.
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let logins: Vec<_> =
                todo.iter().map(|p| (*p, scope.spawn(|| self.login(&spec.target, *p, deadline)))).collect();
            logins.into_iter().map(|(portal, login)| (portal, login.join())).collect()
        });
        for (portal, outcome) in outcomes {
            let refused = match outcome {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(_) => {
                    Error::Invalid { object: portal.to_string(), reason: "the login panicked".to_owned() }
                }
            };
            missing.push((portal, refused));
            if spec.portals.len() - missing.len() < spec.needed() {
                return missing.pop().map_or_else(
                    || Err(Error::Invalid { object: spec.to_string(), reason: String::new() }),
                    |(_, e)| Err(e),
                );
            }
        }
        let wanted: Vec<SocketAddr> =
            spec.portals.iter().filter(|p| !missing.iter().any(|(m, _)| m == *p)).copied().collect();
        let paths = events.until(
            &format!("{spec} on all its portals"),
            deadline,
            || self.paths_of(spec, &wanted),
            || self.seen(&spec.target),
        )?;
        let wwid = same_disk(spec, &paths)?;
        self.remember(&wwid)?;
        let mut attached = events.until(
            &format!("a map of {wwid} with {} working paths", paths.len()),
            deadline,
            || self.map_of(&wwid, &paths, deadline),
            || self.seen(&spec.target),
        )?;
        attached.missing = missing.into_iter().map(|(portal, error)| (portal, error.to_string())).collect();
        Ok(attached)
    }

    /// Detaches a target: removes the maps of its disks, then its disks, then logs out, and deletes its records. `false` if nothing was there.
    ///
    /// # Errors
    /// [`Error::Busy`] names who uses a map; nothing is changed then.
    pub fn detach(&self, target: &Iqn, deadline: Deadline) -> Result<bool> {
        let _lock = self.host.lock("multipath", deadline).map_err(Error::Locked)?;
        let sessions: Vec<_> = self.sessions()?.into_iter().filter(|s| &s.target == target).collect();
        let maps = self.multipath.list_or_none(deadline)?;
        let mine: Vec<_> = maps
            .iter()
            .filter(|map| {
                map.paths().any(|p| sessions.iter().flat_map(|s| &s.disks).any(|d| d.device == p.device))
            })
            .collect();
        for map in &mine {
            let path = format!("/sys/block/{}/holders", map.node);
            let holders: Vec<_> =
                self.host.tree().list_opt(path).map_err(Error::Tree)?.into_iter().map(|e| e.name).collect();
            if !holders.is_empty() {
                return Err(Error::Busy {
                    object: format!("/dev/mapper/{}", map.name),
                    holders: holders.join(", "),
                });
            }
        }
        let mut events = Events::open(self)?;
        for map in &mine {
            let command = format!("del map {}", map.name);
            let refused = |answer: String| Error::Busy {
                object: format!("/dev/mapper/{}", map.name),
                holders: format!("an open file or mount (multipathd: {answer})"),
            };
            // udev may hold the map open for a moment after it appeared.
            let mut last = String::new();
            let deadline = deadline.or_after(Duration::from_secs(10));
            let done = events.until(
                &command,
                deadline,
                || {
                    last = self.multipath.client.ask(&command, deadline)?.trim().to_owned();
                    Ok((last == "ok").then_some(()))
                },
                String::new,
            );
            match done {
                Err(Error::TimedOut { .. }) => return Err(refused(last)),
                other => other?,
            }
        }
        let any = !sessions.is_empty() || self.has_record(target)?;
        for session in &sessions {
            for disk in &session.disks {
                let delete = format!("/sys/block/{}/device/delete", disk.device);
                match self.host.tree().write(&delete, "1") {
                    Err(error) if !error.is_not_found() => return Err(Error::Tree(error)),
                    _ => {}
                }
            }
        }
        if any {
            let args = ["-m", "node", "-T", target.as_str(), "-u"];
            self.iscsiadm(&args, target, &[0, 21], deadline)?;
            self.iscsiadm(
                &["-m", "node", "-T", target.as_str(), "-o", "delete"],
                target,
                &[0, 21],
                deadline,
            )?;
        }
        events.until(
            &format!("the end of the sessions to {target}"),
            deadline,
            || Ok(self.sessions()?.iter().all(|s| &s.target != target).then_some(())),
            || self.seen(target),
        )?;
        Ok(any)
    }

    /// Writes multipathd's configuration for LIO where it differs, and makes the daemon read it. `true` if something changed.
    ///
    /// # Errors
    /// The file cannot be written or multipathd does not answer.
    pub fn configure(&self, patience: &Patience, deadline: Deadline) -> Result<bool> {
        let tree = self.host.tree();
        let wanted = patience.multipath_conf();
        if tree.read_opt(CONF).map_err(Error::Tree)?.as_deref() == Some(wanted.as_str()) {
            return Ok(false);
        }
        for dir in ["/etc/multipath", "/etc/multipath/conf.d"] {
            tree.ensure_dir(dir).map_err(Error::Tree)?;
        }
        tree.replace(CONF, &wanted, 0o644).map_err(Error::Tree)?;
        self.multipath.client.order("reconfigure", deadline)?;
        let mut events = Events::open(self)?;
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
        Ok(true)
    }

    fn login(&self, target: &Iqn, portal: SocketAddr, deadline: Deadline) -> Result<()> {
        let at = portal.to_string();
        let args = ["-m", "node", "-T", target.as_str(), "-p", &at, "--login"];
        let outcome = self.host.exec().run_ok(Program::ISCSIADM, &args, deadline);
        match outcome {
            Ok(_) => Ok(()),
            // 15: the session is there already.
            Err(error) if error.code() == Some(15) => Ok(()),
            Err(source) => Err(Error::Iscsiadm { target: target.clone(), portal, source }),
        }
    }

    fn iscsiadm(&self, args: &[&str], target: &Iqn, fine: &[i32], deadline: Deadline) -> Result<()> {
        match self.host.exec().run_ok(Program::ISCSIADM, args, deadline) {
            Ok(_) => Ok(()),
            Err(error) if error.code().is_some_and(|code| fine.contains(&code)) => Ok(()),
            Err(source) => {
                let portal = SocketAddr::from(([0, 0, 0, 0], 0));
                Err(Error::Iscsiadm { target: target.clone(), portal, source })
            }
        }
    }

    /// Makes the node record and puts timeouts and secrets into its file ourselves: arguments can be read by everybody.
    fn write_record(&self, spec: &AttachSpec, portal: SocketAddr, deadline: Deadline) -> Result<()> {
        let at = portal.to_string();
        let args = ["-m", "node", "-T", spec.target.as_str(), "-p", &at, "-o", "new"];
        self.iscsiadm(&args, &spec.target, &[0, 15], deadline)?;
        let path = self.record_path(&spec.target, portal)?;
        let tree = self.host.tree();
        let record = tree.read(&path).map_err(Error::Tree)?;
        let seconds = |d: Duration| d.as_secs().to_string();
        let mut values = vec![
            ("node.startup", "manual".to_owned()),
            (
                "node.session.timeo.replacement_timeout",
                seconds(spec.patience.recovery.max(Duration::from_secs(1))),
            ),
            ("node.conn[0].timeo.noop_out_interval", seconds(spec.patience.ping_interval)),
            ("node.conn[0].timeo.noop_out_timeout", seconds(spec.patience.ping_timeout)),
            // Else the initiator waits 2 s before it reconnects for the first time.
            ("node.session.iscsi.DefaultTime2Wait", "0".to_owned()),
            ("node.session.initial_login_retry_max", "4".to_owned()),
        ];
        let secret = |s: &host::Secret| String::from_utf8_lossy(s.expose()).into_owned();
        if let Some(chap) = &spec.chap {
            values.push(("node.session.auth.authmethod", "CHAP".to_owned()));
            values.push(("node.session.auth.username", chap.user.clone()));
            values.push(("node.session.auth.password", secret(&chap.secret)));
        }
        if let Some(chap) = &spec.target_chap {
            values.push(("node.session.auth.username_in", chap.user.clone()));
            values.push(("node.session.auth.password_in", secret(&chap.secret)));
        }
        let wanted = record::with_values(&record, &values);
        if wanted != record {
            tree.replace(&path, wanted, 0o600).map_err(Error::Tree)?;
        }
        Ok(())
    }

    /// `/etc/iscsi/nodes/IQN/ADDRESS,PORT,TAG/default`, or a plain file `ADDRESS,PORT` of old databases.
    fn record_path(&self, target: &Iqn, portal: SocketAddr) -> Result<PathBuf> {
        let dir = PathBuf::from(format!("/etc/iscsi/nodes/{target}"));
        let begin = format!("{},{}", portal.ip(), portal.port());
        let entries = self.host.tree().list_opt(&dir).map_err(Error::Tree)?;
        let found = entries.iter().find(|e| e.name == begin || e.name.starts_with(&format!("{begin},")));
        match found {
            Some(entry) if entry.kind == host::tree::Kind::Dir => Ok(dir.join(&entry.name).join("default")),
            Some(entry) => Ok(dir.join(&entry.name)),
            None => Err(Error::NoRecord { path: dir.join(begin) }),
        }
    }

    fn has_record(&self, target: &Iqn) -> Result<bool> {
        self.host.tree().exists(format!("/etc/iscsi/nodes/{target}")).map_err(Error::Tree)
    }

    /// The path of each wanted portal, once all are there with an identifier.
    fn paths_of(&self, spec: &AttachSpec, wanted: &[SocketAddr]) -> Result<Option<Vec<Path>>> {
        let sessions = self.sessions()?;
        let path = |portal: &SocketAddr| {
            let session = sessions.iter().find(|s| s.target == spec.target && s.portal == Some(*portal))?;
            let disk = session.disks.iter().find(|d| d.lun == u64::from(spec.lun))?;
            let working = session.phase == SessionPhase::LoggedIn;
            working.then(|| disk.wwid.clone()).flatten().map(|wwid| Path {
                portal: *portal,
                device: disk.device.clone(),
                wwid,
            })
        };
        Ok(wanted.iter().map(path).collect())
    }

    fn seen(&self, target: &Iqn) -> String {
        let mine = |s: &&SessionState| &s.target == target;
        let text = |s: &SessionState| {
            let disks: Vec<_> = s.disks.iter().map(|d| format!("{} (LUN {})", d.device, d.lun)).collect();
            let portal = s.portal.map_or_else(|| "?".to_owned(), |p| p.to_string());
            format!("session {} to {portal} is {} with {}", s.id, s.phase, disks.join(", "))
        };
        match self.sessions() {
            Ok(all) if all.iter().any(|s| mine(&s)) => {
                all.iter().filter(mine).map(text).collect::<Vec<_>>().join("; ")
            }
            Ok(_) => "there is no session to it".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Puts the disk on multipathd's list: with `find_multipaths strict`, the default, nothing else becomes a map.
    fn remember(&self, wwid: &Wwid) -> Result<()> {
        let tree = self.host.tree();
        let line = format!("/{wwid}/");
        let mut list =
            tree.read_opt(WWIDS).map_err(Error::Tree)?.unwrap_or_else(|| "# Multipath wwids\n".to_owned());
        if list.lines().any(|l| l == line) {
            return Ok(());
        }
        list.push_str(&line);
        list.push('\n');
        tree.ensure_dir("/etc/multipath").map_err(Error::Tree)?;
        tree.replace(WWIDS, list, 0o600).map_err(Error::Tree)
    }

    /// The map, once it has all paths working and a size.
    fn map_of(&self, wwid: &Wwid, paths: &[Path], deadline: Deadline) -> Result<Option<Attached>> {
        let maps = self.multipath.list_or_none(deadline)?;
        let map = maps.iter().find(|map| map.wwid == wwid.as_str());
        for path in paths {
            if !map.is_some_and(|m| m.paths().any(|p| p.device == path.device)) {
                // It may know the path and not its disk yet; the answer says nothing that the next look does not.
                self.multipath.client.ask(&format!("add path {}", path.device), deadline)?;
            }
        }
        let Some(map) = map.filter(|m| !m.suspended && m.working() >= paths.len()) else { return Ok(None) };
        let size = self.host.tree().read_opt(format!("/sys/block/{}/size", map.node)).map_err(Error::Tree)?;
        let size =
            size.and_then(|s| s.trim().parse::<u64>().ok()).and_then(|s| s.checked_mul(512)).unwrap_or(0);
        let device = PathBuf::from("/dev/mapper").join(&map.name);
        // udev makes the node a moment after the map.
        if size == 0 || !self.host.tree().exists(&device).map_err(Error::Tree)? {
            return Ok(None);
        }
        let paths = paths.iter().map(|p| (p.portal, p.device.clone())).collect();
        Ok(Some(Attached::new(device, wwid.clone(), size, paths)))
    }

    /// Logs out of what a failed attach logged in to. What cannot be undone is logged: the error of the attach is the one that counts.
    fn undo(&self, spec: &AttachSpec, before: &[u32]) {
        let deadline = Deadline::after(Duration::from_secs(30));
        let Ok(now) = self.sessions() else { return };
        let mine = now.iter().filter(|s| s.target == spec.target);
        if mine.clone().any(|s| before.contains(&s.id)) {
            // Somebody else's sessions to the same target: log out of ours alone.
            for session in mine.filter(|s| !before.contains(&s.id)) {
                let id = session.id.to_string();
                if let Err(error) =
                    self.iscsiadm(&["-m", "session", "-r", &id, "-u"], &spec.target, &[0, 21], deadline)
                {
                    log::debug!("multipath: {error}");
                }
            }
            return;
        }
        for args in [
            ["-m", "node", "-T", spec.target.as_str(), "-u"].as_slice(),
            &["-m", "node", "-T", spec.target.as_str(), "-o", "delete"],
        ] {
            if let Err(error) = self.iscsiadm(args, &spec.target, &[0, 21], deadline) {
                log::debug!("multipath: {error}");
            }
        }
    }

    /// The kernel's iSCSI sessions, also those others made; `iscsiadm -m session -P3`, from sysfs.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn sessions(&self) -> Result<Vec<SessionState>> {
        session::list(self.host.tree())
    }
}

/// One path: which portal it leads through, and what it shows.
struct Path {
    portal: SocketAddr,
    device: String,
    wwid: Wwid,
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
