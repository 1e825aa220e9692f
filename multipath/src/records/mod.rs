//! open-iscsi's database: node records and interfaces in `/etc/iscsi`, read and written under open-iscsi's own lock.
//! `iscsiadm -m node`, `iscsiadm -m iface`.

mod lock;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::tree::Kind;
use host::{Deadline, Host, IfName, Iqn};

use crate::Patience;
use crate::error::{Error, Result};
use crate::spec::{Chap, ChapDigest};
use crate::state::words;
use crate::wire::record::{Record, Value};
use lock::DbLock;

const NODES: &str = "/etc/iscsi/nodes";
const IFACES: &str = "/etc/iscsi/ifaces";
const CONF: &str = "/etc/iscsi/iscsid.conf";
/// The interface that leaves the route to the kernel.
const DEFAULT_IFACE: &str = "default";

words! {
    /// When a record's session is made (`node.startup`).
    Startup {
        /// Only when somebody asks.
        Manual = "manual",
        /// At boot, by `iscsiadm -m node --loginall=automatic` (Debian: `open-iscsi.service`).
        Automatic = "automatic",
        /// By the firmware's tools, before the root file system.
        OnBoot = "onboot",
    }
}

/// Which disks appear when a session is made (`node.session.scan`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Scan {
    /// Every one that the target shows us; needed where nobody asks for a single one, as at boot.
    #[default]
    Auto,
    /// None: only what is asked for by number, so that no foreign disk appears.
    Manual,
}

/// A node record that is wanted: one target through one portal.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeSpec {
    /// The target.
    pub target: Iqn,
    /// The portal.
    pub portal: SocketAddr,
    /// Its portal group, if it is known: a login to a portal of another group fails. Needed together with an interface.
    pub tag: Option<u16>,
    /// The interface that the session is bound to; default none, the kernel's route.
    pub interface: Option<IfName>,
    /// When the session is made. Default [`Startup::Manual`].
    pub startup: Startup,
    /// Which disks appear. Default [`Scan::Auto`].
    pub scan: Scan,
    /// How the initiator proves who it is.
    pub chap: Option<Chap>,
    /// How the target proves who it is.
    pub target_chap: Option<Chap>,
    /// The digests of CHAP; default those of `iscsid.conf` (Debian: MD5).
    pub digests: Option<Vec<ChapDigest>>,
    /// The timeouts.
    pub patience: Patience,
}

impl NodeSpec {
    /// A record without CHAP, for sessions made on request.
    #[must_use]
    pub fn new(target: Iqn, portal: SocketAddr) -> Self {
        Self {
            target,
            portal,
            tag: None,
            interface: None,
            startup: Startup::Manual,
            scan: Scan::default(),
            chap: None,
            target_chap: None,
            digests: None,
            patience: Patience::default(),
        }
    }

    /// Names the portal group.
    #[must_use]
    pub fn with_tag(mut self, tag: u16) -> Self {
        self.tag = Some(tag);
        self
    }

    /// Binds the session to an interface of a portal group.
    #[must_use]
    pub fn with_interface(mut self, interface: IfName, tag: u16) -> Self {
        (self.interface, self.tag) = (Some(interface), Some(tag));
        self
    }

    /// Sets when the session is made.
    #[must_use]
    pub fn with_startup(mut self, startup: Startup) -> Self {
        self.startup = startup;
        self
    }

    /// Sets which disks appear.
    #[must_use]
    pub fn with_scan(mut self, scan: Scan) -> Self {
        self.scan = scan;
        self
    }

    /// Logs in with CHAP.
    #[must_use]
    pub fn with_chap(mut self, chap: Chap) -> Self {
        self.chap = Some(chap);
        self
    }

    /// Wants the target to prove itself too.
    #[must_use]
    pub fn with_target_chap(mut self, chap: Chap) -> Self {
        self.target_chap = Some(chap);
        self
    }

    /// Sets the digests of CHAP, the preferred one first.
    #[must_use]
    pub fn with_digests(mut self, digests: impl IntoIterator<Item = ChapDigest>) -> Self {
        self.digests = Some(digests.into_iter().collect());
        self
    }

    /// Sets the timeouts.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// What the record says beyond where it leads.
    fn values(&self) -> Vec<(&'static str, Value<'_>)> {
        let seconds = |d: Duration| Value::text(d.as_secs());
        let mut values = vec![
            ("node.startup", Value::text(&self.startup)),
            ("node.conn[0].startup", Value::text(&self.startup)),
            ("node.session.scan", Value::text(if self.scan == Scan::Auto { "auto" } else { "manual" })),
            (
                "node.session.timeo.replacement_timeout",
                seconds(self.patience.recovery.max(Duration::from_secs(1))),
            ),
            ("node.conn[0].timeo.noop_out_interval", seconds(self.patience.ping_interval)),
            ("node.conn[0].timeo.noop_out_timeout", seconds(self.patience.ping_timeout)),
            // Else the initiator waits 2 s before it reconnects for the first time.
            ("node.session.iscsi.DefaultTime2Wait", Value::text(0)),
            ("node.session.initial_login_retry_max", Value::text(4)),
        ];
        if let Some(chap) = &self.chap {
            values.push(("node.session.auth.authmethod", Value::text("CHAP")));
            values.push(("node.session.auth.username", Value::text(&chap.user)));
            values.push(("node.session.auth.password", Value::Hidden(&chap.secret)));
        }
        if let Some(chap) = &self.target_chap {
            values.push(("node.session.auth.username_in", Value::text(&chap.user)));
            values.push(("node.session.auth.password_in", Value::Hidden(&chap.secret)));
        }
        if let Some(digests) = &self.digests {
            let words: Vec<_> = digests.iter().map(|digest| digest.as_str()).collect();
            values.push(("node.session.auth.chap_algs", Value::text(words.join(","))));
        }
        values
    }
}

/// A node record that is there, also one that others made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeState {
    /// The target.
    pub target: Iqn,
    /// The portal's address or name.
    pub address: String,
    /// The portal's port.
    pub port: u16,
    /// The portal group; `None` in records of the older layout.
    pub tag: Option<u16>,
    /// The interface's record: "default", "iser", or a name of `/etc/iscsi/ifaces`.
    pub iface: String,
    /// When the session is made.
    pub startup: Startup,
    /// Whether we wrote it, and nobody else since.
    pub is_ours: bool,
    /// Everything it says, with `***` for secrets. What it does not say is open-iscsi's built-in default.
    pub values: BTreeMap<String, String>,
    path: PathBuf,
}

impl NodeState {
    /// The portal, if the record has it as an address.
    #[must_use]
    pub fn portal(&self) -> Option<SocketAddr> {
        self.address.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// The record's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// An interface record (`/etc/iscsi/ifaces/NAME`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IfaceState {
    /// Its name.
    pub name: String,
    /// The network interface that sessions are bound to.
    pub interface: Option<String>,
    /// The transport: "tcp", "iser", or that of an offloading adapter.
    pub transport: String,
    /// The initiator's name for sessions through it, if it is another than the machine's.
    pub initiator: Option<String>,
    /// Whether we wrote it.
    pub is_ours: bool,
}

/// What a write changed, to take it back.
#[derive(Debug)]
pub(crate) struct Changed {
    path: PathBuf,
    before: Option<Record>,
}

/// The records of a machine.
#[derive(Debug, Clone)]
pub struct Records {
    host: Host,
}

impl Records {
    /// The records of a machine, or of a captured tree.
    #[must_use]
    pub fn on(host: &Host) -> Self {
        Self { host: host.clone() }
    }

    /// Lists all node records, those of others too. `iscsiadm -m node`.
    ///
    /// # Errors
    /// A file cannot be read (as other users than root).
    pub fn list(&self) -> Result<Vec<NodeState>> {
        let mut found = Vec::new();
        for target in self.host.tree().dirs(NODES).map_err(Error::Tree)? {
            self.of_target(&target, &mut found)?;
        }
        Ok(found)
    }

    /// Lists the node records of one target.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn get(&self, target: &Iqn) -> Result<Vec<NodeState>> {
        let mut found = Vec::new();
        self.of_target(folder(target)?, &mut found)?;
        Ok(found)
    }

    fn of_target(&self, target: &str, found: &mut Vec<NodeState>) -> Result<()> {
        let tree = self.host.tree();
        let dir = Path::new(NODES).join(target);
        for entry in tree.list_opt(&dir).map_err(Error::Tree)? {
            let path = dir.join(&entry.name);
            if entry.kind != Kind::Dir {
                // The layout before there were interfaces, which open-iscsi writes where it does not know the portal group.
                found.extend(self.read(target, &entry.name, DEFAULT_IFACE, path)?);
                continue;
            }
            for file in tree.list_opt(&path).map_err(Error::Tree)? {
                if file.kind == Kind::File {
                    found.extend(self.read(target, &entry.name, &file.name, path.join(&file.name))?);
                }
            }
        }
        Ok(())
    }

    fn read(&self, target: &str, place: &str, iface: &str, path: PathBuf) -> Result<Option<NodeState>> {
        // ADDRESS,PORT or ADDRESS,PORT,TAG; anything else is not open-iscsi's, and neither is what begins with a dot.
        let mut parts = place.split(',');
        let (Some(address), Some(port)) = (parts.next(), parts.next().and_then(|port| port.parse().ok()))
        else {
            return Ok(None);
        };
        let tag = parts.next().and_then(|tag| tag.parse().ok());
        if iface.starts_with('.') || place.starts_with('.') {
            return Ok(None);
        }
        let Some(record) = self.open(&path)? else { return Ok(None) };
        Ok(Some(NodeState {
            target: Iqn::from_kernel(target),
            address: address.to_owned(),
            port,
            tag,
            iface: record.get("iface.iscsi_ifacename").unwrap_or(iface).to_owned(),
            startup: Startup::from_word(record.get("node.startup").unwrap_or("manual")),
            is_ours: record.is_ours(),
            values: record.values(),
            path,
        }))
    }

    fn open(&self, path: &Path) -> Result<Option<Record>> {
        match self.host.tree().read_bytes(path) {
            Ok(bytes) => Ok(Some(Record::new(bytes))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(Error::Tree(error)),
        }
    }

    /// Makes a node record as it is wanted; says whether something was written. A record of others keeps what the spec does not name.
    /// `iscsiadm -m node -o new`, `-o update`; secrets are no arguments of any program.
    ///
    /// # Errors
    /// [`Error::Locked`] if open-iscsi's lock is not free in time; [`Error::Invalid`] for an interface without a portal group.
    pub fn ensure(&self, spec: &NodeSpec, deadline: Deadline) -> Result<bool> {
        Ok(!self.write(spec, deadline)?.is_empty())
    }

    /// As `ensure`; returns what to take back. Nothing if nothing was written.
    pub(crate) fn write(&self, spec: &NodeSpec, deadline: Deadline) -> Result<Vec<Changed>> {
        let mut changed = Vec::new();
        let result = self.write_all(spec, deadline, &mut changed);
        if let Err(error) = result {
            self.restore(changed, Deadline::after(Duration::from_secs(5)))?;
            return Err(error);
        }
        Ok(changed)
    }

    fn write_all(&self, spec: &NodeSpec, deadline: Deadline, changed: &mut Vec<Changed>) -> Result<()> {
        let target = folder(&spec.target)?;
        let invalid = |reason: &str| {
            Err(Error::Invalid { object: format!("record of {target}"), reason: reason.to_owned() })
        };
        if spec.interface.is_some() && spec.tag.is_none() {
            return invalid("a session that is bound to an interface needs its portal group, too");
        }
        let _lock = DbLock::take(&self.host, deadline)?;
        let iface = match &spec.interface {
            None => None,
            Some(interface) => Some((self.iface_of(interface, changed)?, interface)),
        };
        let iface_name = iface.as_ref().map_or(DEFAULT_IFACE, |(name, _)| name);
        let mut all = Vec::new();
        self.of_target(target, &mut all)?;
        let address = spec.portal.ip().to_string();
        let here = all
            .into_iter()
            .find(|n| n.address == address && n.port == spec.portal.port() && n.iface == iface_name);
        let place = format!("{address},{}", spec.portal.port());
        let path = match (&here, spec.tag) {
            (Some(here), _) => here.path.clone(),
            (None, Some(tag)) => {
                Path::new(NODES).join(target).join(format!("{place},{tag}")).join(iface_name)
            }
            (None, None) => Path::new(NODES).join(target).join(place),
        };
        let record = match here {
            Some(here) if !here.is_ours => match self.open(&here.path)? {
                Some(theirs) => theirs.with(&spec.values()),
                None => return invalid("it went away while it was changed"),
            },
            _ => self.fresh(spec, iface_name)?,
        };
        self.put(path, record, changed)
    }

    /// A record of ours: what open-iscsi's configuration says of new ones, and what the spec says.
    fn fresh(&self, spec: &NodeSpec, iface: &str) -> Result<Record> {
        let mut values = vec![
            ("node.name", Value::text(&spec.target)),
            ("node.tpgt", spec.tag.map_or(Value::Absent, Value::text)),
            ("node.conn[0].address", Value::text(spec.portal.ip())),
            ("node.conn[0].port", Value::text(spec.portal.port())),
            ("iface.iscsi_ifacename", Value::text(iface)),
            ("iface.transport_name", Value::text("tcp")),
        ];
        if let Some(interface) = &spec.interface {
            values.push(("iface.net_ifacename", Value::text(interface)));
        }
        values.extend(spec.values());
        let record = Record::ours().with(&values);
        let conf = self.open(Path::new(CONF))?;
        Ok(conf.map_or_else(|| record.with(&[]), |conf| record.with_defaults(&conf, &["node."])))
    }

    fn put(&self, path: PathBuf, record: Record, changed: &mut Vec<Changed>) -> Result<()> {
        let before = self.open(&path)?;
        if before.as_ref().is_some_and(|before| before.same_as(&record)) {
            return Ok(());
        }
        let tree = self.host.tree();
        let dirs: Vec<_> = path.ancestors().skip(1).filter(|dir| dir.starts_with("/etc/iscsi")).collect();
        for dir in dirs.into_iter().rev() {
            tree.ensure_dir(dir).map_err(Error::Tree)?;
        }
        changed.push(Changed { path: path.clone(), before });
        tree.replace(&path, record.expose(), 0o600).map_err(Error::Tree)
    }

    /// The interface record that binds to a network interface; a new one of its name if there is none.
    fn iface_of(&self, interface: &IfName, changed: &mut Vec<Changed>) -> Result<String> {
        let all = self.ifaces()?;
        let fits = |i: &&IfaceState| {
            i.interface.as_deref() == Some(interface.as_str())
                && i.transport == "tcp"
                && i.initiator.is_none()
        };
        if let Some(there) = all.iter().find(fits) {
            return Ok(there.name.clone());
        }
        let name = interface.as_str();
        let taken = |name: &str| ["default", "iser"].contains(&name) || all.iter().any(|i| i.name == name);
        let name = if taken(name) { format!("sankit-{name}") } else { name.to_owned() };
        let record = Record::ours().with(&[
            ("iface.iscsi_ifacename", Value::text(&name)),
            ("iface.net_ifacename", Value::text(interface)),
            ("iface.transport_name", Value::text("tcp")),
        ]);
        self.put(Path::new(IFACES).join(&name), record, changed)?;
        Ok(name)
    }

    /// Lists the interface records. `iscsiadm -m iface`; "default" and "iser" are built in and have none.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn ifaces(&self) -> Result<Vec<IfaceState>> {
        let mut found = Vec::new();
        for entry in self.host.tree().list_opt(IFACES).map_err(Error::Tree)? {
            // Debian ships a file of comments there.
            if entry.kind != Kind::File || entry.name.starts_with('.') || entry.name == "iface.example" {
                continue;
            }
            let Some(record) = self.open(&Path::new(IFACES).join(&entry.name))? else { continue };
            let text = |key: &str| record.get(key).map(str::to_owned);
            found.push(IfaceState {
                name: text("iface.iscsi_ifacename").unwrap_or(entry.name),
                interface: text("iface.net_ifacename"),
                transport: text("iface.transport_name").unwrap_or_else(|| "tcp".to_owned()),
                initiator: text("iface.initiatorname"),
                is_ours: record.is_ours(),
            });
        }
        Ok(found)
    }

    /// Deletes a node record, whoever made it, with the folders that become empty and its mark at the discovery it came from; `false` if it
    /// was not there. `iscsiadm -m node -o delete`
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub fn remove(&self, node: &NodeState, deadline: Deadline) -> Result<bool> {
        let _lock = DbLock::take(&self.host, deadline)?;
        let Some(record) = self.open(&node.path)? else { return Ok(false) };
        if let Some(link) = discovery_link(node, &record) {
            self.host.tree().unlink(link).map_err(Error::Tree)?;
        }
        self.unlink(&node.path)
    }

    /// Removes what an interrupted removal left of a target: folders without a record.
    pub(crate) fn tidy(&self, target: &Iqn, deadline: Deadline) -> Result<()> {
        let tree = self.host.tree();
        let dir = Path::new(NODES).join(folder(target)?);
        if !tree.exists(&dir).map_err(Error::Tree)? || !self.get(target)?.is_empty() {
            return Ok(());
        }
        let _lock = DbLock::take(&self.host, deadline)?;
        for inner in tree.dirs(&dir).map_err(Error::Tree)? {
            self.remove_empty(&dir.join(inner))?;
        }
        self.remove_empty(&dir).map(drop)
    }

    /// Removes a folder with nothing in it; says whether it is gone.
    fn remove_empty(&self, dir: &Path) -> Result<bool> {
        match self.host.tree().remove_dir(dir) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.errno(), Some(libc::ENOTEMPTY | libc::EEXIST)) => Ok(false),
            Err(error) => Err(Error::Tree(error)),
        }
    }

    fn unlink(&self, path: &Path) -> Result<bool> {
        let tree = self.host.tree();
        let was = tree.unlink(path).map_err(Error::Tree)?;
        for dir in
            path.ancestors().skip(1).take_while(|dir| *dir != Path::new(NODES) && dir.starts_with(NODES))
        {
            if !self.remove_empty(dir)? {
                break;
            }
        }
        Ok(was)
    }

    /// Takes back what writes changed, the last one first.
    pub(crate) fn restore(&self, changed: Vec<Changed>, deadline: Deadline) -> Result<()> {
        if changed.is_empty() {
            return Ok(());
        }
        let _lock = DbLock::take(&self.host, deadline)?;
        for Changed { path, before } in changed.into_iter().rev() {
            match before {
                Some(before) => {
                    self.host.tree().replace(&path, before.expose(), 0o600).map_err(Error::Tree)?;
                }
                None => drop(self.unlink(&path)?),
            }
        }
        Ok(())
    }
}

/// A target's name as a folder: what the kernel or a file gave us might be no name at all.
fn folder(target: &Iqn) -> Result<&str> {
    let name = target.as_str();
    let fine = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0', ' ']);
    if fine {
        Ok(name)
    } else {
        Err(Error::Invalid { object: format!("{name:?}"), reason: "this is no target's name".to_owned() })
    }
}

/// Where open-iscsi remembers which discovery a record came from (`setup_disc_to_node_link`, `usr/idbm.c`).
fn discovery_link(node: &NodeState, record: &Record) -> Option<PathBuf> {
    let tag = node.tag?;
    let name = format!("{},{},{},{tag},{}", node.target, node.address, node.port, node.iface);
    match record.get("node.discovery_type")? {
        "send_targets" => {
            let (address, port) = (record.get("node.discovery_address")?, record.get("node.discovery_port")?);
            let from = format!("{address},{port}");
            (!from.contains('/')).then(|| Path::new("/etc/iscsi/send_targets").join(from).join(name))
        }
        "static" => Some(Path::new("/etc/iscsi/static").join(name)),
        "fw" => Some(Path::new("/etc/iscsi/fw").join(name)),
        _ => None,
    }
}
