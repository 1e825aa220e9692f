//! VLANs, bonds, addresses, routes, kernel parameters and floating addresses of a storage node, over rtnetlink.
//!
//! A [`NetSpec`] says what is wanted. [`Netcfg::plan`] compares it with what is ([`NetState`], at most four dumps; while nothing differs, of
//! what the spec names only) and returns the steps in the only order the kernel accepts; [`Netcfg::ensure`] applies them, undoes them if one
//! fails, and reads back what was done, because the kernel silently ignores options it does not know. What the spec does not name is never
//! touched.
//!
//! ```no_run
//! use netcfg::{BondMode, BondSpec, Host, LinkSpec, NetSpec, Netcfg, VlanId};
//! // A bond over VLAN sub-interfaces: the management network lives as long as one cable does.
//! let spec = NetSpec::default()
//!     .with_link(LinkSpec::existing("int1".parse()?).with_mtu(9000))
//!     .with_link(LinkSpec::existing("int2".parse()?).with_mtu(9000))
//!     .with_link(LinkSpec::vlan("int1.2".parse()?, "int1".parse()?, VlanId::new(2)?))
//!     .with_link(LinkSpec::vlan("int2.2".parse()?, "int2".parse()?, VlanId::new(2)?))
//!     .with_link(
//!         LinkSpec::bond(
//!             "bond_vlan2".parse()?,
//!             BondSpec::new(BondMode::ActiveBackup)
//!                 .with_port("int1.2".parse()?)
//!                 .with_port("int2.2".parse()?)
//!                 .with_primary("int1.2".parse()?),
//!         )
//!         .with_mtu(1500)
//!         .with_address("10.1.0.100/24".parse()?),
//!     );
//! let net = Netcfg::on(&Host::live())?;
//! print!("{}", net.plan(&spec)?);
//! let changed = net.ensure(&spec)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Needs `CAP_NET_ADMIN` (and `CAP_NET_RAW` to announce) in the network namespace; modules `bonding` and `8021q` are loaded when a spec
//! needs them and `modprobe` is there.
//!
//! Not yet: traffic shaping.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod apply;
mod bond;
#[cfg(feature = "confirm")]
pub mod confirm;
mod error;
mod ethtool;
pub mod export;
#[cfg(feature = "fake")]
pub mod fake;
mod floating;
mod hardware;
pub mod interfaces;
#[cfg(feature = "json")]
mod ip_json;
mod kinds;
pub mod lint;
mod name;
mod names;
mod parameter;
mod plan;
mod probe;
mod route;
mod spec;
mod state;
#[allow(unsafe_code)]
mod sys;
pub mod sysctl;
mod watch;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use host::exec::Module;
use host::nl::{Protocol, Socket};
use host::plan::Undo;

use ethtool::Ethtool;
use hardware::Group;

pub use bond::{BondAttribute, BondChange, BondMoment, BondOptionInfo, BondOptions, BondValue, BondWire};
pub use error::{Error, Result};
pub use floating::FloatingAddr;
pub use hardware::{HardwareAttribute, HardwareSpec, HardwareState};
pub use host::{Deadline, Host, IfName, Plan, Watch};
pub use kinds::{BridgeAttribute, BridgeSpec, MacvlanMode, VlanFlag, VlanProtocol, VlanSpec};
pub use name::{Prefix, VlanId};
pub use names::CardMatch;
pub use parameter::{SysctlBound, SysctlSpec};
pub use plan::{Step, diff, removal};
pub use probe::{Obstacle, PathReport, probe_path};
pub use route::{AddressSpec, Lifetime, RouteSpec, RuleSpec};
pub use spec::{BondMode, BondSpec, LinkKind, LinkSpec, NetSpec, Recreate};
pub use state::{
    AddressState, Aggregator, BondHealth, BondPortState, BondState, LinkKindState, LinkState, MiiStatus,
    NetState, RouteState, VlanState,
};
pub use watch::Event;

/// The network of a machine; the handle of this crate.
#[derive(Debug, Clone)]
pub struct Netcfg {
    host: Host,
    timeout: Duration,
}

/// What is read beside the links: with a thousand links that are up, their addresses and routes are most of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tables {
    addresses: bool,
    routes: bool,
    rules: bool,
}

impl Tables {
    const NONE: Self = Self { addresses: false, routes: false, rules: false };
    const ALL: Self = Self { addresses: true, routes: true, rules: true };

    /// Those that a spec names something of.
    fn of(spec: &NetSpec) -> Self {
        Self {
            addresses: spec.links.iter().any(|link| !link.addresses.is_empty()),
            routes: spec.links.iter().any(|link| !link.routes.is_empty()),
            rules: !spec.rules.is_empty(),
        }
    }
}

impl Netcfg {
    /// The network of this machine.
    ///
    /// # Errors
    /// As [`on`](Self::on).
    pub fn new() -> Result<Self> {
        Self::on(&Host::live())
    }

    /// The network of a machine.
    ///
    /// # Errors
    /// Netlink cannot be opened there.
    pub fn on(host: &Host) -> Result<Self> {
        host.nl().open(Protocol::Route).map_err(Error::Read)?;
        Ok(Self { host: host.clone(), timeout: Duration::from_secs(30) })
    }

    /// Sets how long a read, or the wait for another process's lock, may take; default 30 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Reads all links with their addresses, the routes and the rules: `ip -d addr`, `ip route show table all`,
    /// `ip rule`. Four dumps, however many links.
    ///
    /// # Errors
    /// The kernel's tables cannot be read.
    pub fn list(&self) -> Result<NetState> {
        self.read(Tables::ALL)
    }

    fn read(&self, wanted: Tables) -> Result<NetState> {
        let deadline = Deadline::after(self.timeout);
        let mut socket = self.host.nl().open(Protocol::Route).map_err(Error::Read)?;
        let mut state = NetState::default();
        for reply in socket.dump(&wire::link::dump(), deadline).map_err(Error::Read)? {
            match wire::link::parse(&reply) {
                Ok(link) => drop(state.links.insert(link.index, link)),
                // One link that cannot be read must not hide the others.
                Err(error) => log::debug!("netcfg: a link is passed over: {error}"),
            }
        }
        if wanted.addresses {
            for reply in socket.dump(&wire::address::dump(), deadline).map_err(Error::Read)? {
                if let Some((index, address)) = wire::address::parse(&reply)?
                    && let Some(link) = state.links.get_mut(&index)
                {
                    link.addresses.push(address);
                }
            }
        }
        if wanted.routes {
            state.routes = Self::routes_of(&mut socket, deadline)?;
        }
        if wanted.rules {
            for reply in socket.dump(&wire::rule::dump(), deadline).map_err(Error::Read)? {
                state.rules.extend(wire::rule::parse(&reply)?);
            }
        }
        Ok(state)
    }

    /// The routes of all tables but the kernel's own.
    pub(crate) fn routes(&self) -> Result<Vec<RouteState>> {
        let mut socket = self.host.nl().open(Protocol::Route).map_err(Error::Read)?;
        Self::routes_of(&mut socket, Deadline::after(self.timeout))
    }

    fn routes_of(socket: &mut Socket, deadline: Deadline) -> Result<Vec<RouteState>> {
        let mut routes = Vec::new();
        for reply in socket.dump(&wire::address::dump_routes(), deadline).map_err(Error::Read)? {
            routes.extend(wire::address::parse_route(&reply)?);
        }
        Ok(routes)
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Reads one link; `None` if there is none of this name. `ip -d addr show NAME`.
    ///
    /// # Errors
    /// The kernel's tables cannot be read.
    pub fn get(&self, name: &IfName) -> Result<Option<LinkState>> {
        Ok(self.list()?.link(name).cloned())
    }

    /// The steps that lead from the present state to the spec; empty if there is nothing to do. Changes nothing, but loads the modules
    /// that the spec's link types need, without which the kernel cannot say what it takes.
    ///
    /// # Errors
    /// The spec contradicts itself or the machine ([`Error::Invalid`], [`Error::NoLink`]).
    pub fn plan(&self, spec: &NetSpec) -> Result<Plan<Step>> {
        let sysctls = self.sysctls(spec)?;
        // What the spec names nothing of matters to changes only, which may take it along.
        let named = Tables::of(spec);
        let mut state = self.read(named)?;
        self.read_hardware(&mut state, spec)?;
        let plan = diff(&state, spec, &sysctls)?;
        if plan.is_empty() || named == Tables::ALL {
            return Ok(plan);
        }
        let hardware = std::mem::take(&mut state.hardware);
        diff(&NetState { hardware, ..self.list()? }, spec, &sysctls)
    }

    /// The settings of those cards that the spec has settings for: two messages a card and more only if it asks for more.
    fn read_hardware(&self, state: &mut NetState, spec: &NetSpec) -> Result<()> {
        let mut ethtool = None;
        for link in spec.links.iter().filter(|link| !link.hardware.is_empty()) {
            let found = match &link.card {
                Some(card) => card.find(state),
                None => state.link(&link.name),
            };
            // What is not there, the plan says better.
            let Some(found) = found.filter(|found| found.kind == LinkKindState::Physical) else { continue };
            let (index, name) = (found.index, found.name.parse::<IfName>()?);
            let ethtool = match &mut ethtool {
                Some(open) => open,
                none => none.insert(Ethtool::open(&self.host)?),
            };
            let groups: BTreeSet<Group> = link.hardware.values.keys().map(|a| a.info().group).collect();
            let groups: Vec<Group> = groups.into_iter().collect();
            let now = ethtool.read(&name, &groups, !link.hardware.features.is_empty())?;
            state.hardware.insert(index, now);
        }
        Ok(())
    }

    /// Reads what a card does: rings, queues, interrupt moderation, pause frames, offloads; `ethtool -g -l -c -a -k NAME`. A link that is no
    /// card has its features only.
    ///
    /// # Errors
    /// [`Error::Read`] with ENODEV if there is no such link; the kernel is built without `ETHTOOL_NETLINK`.
    #[doc(alias = "ethtool")]
    pub fn hardware(&self, name: &IfName) -> Result<HardwareState> {
        Ethtool::open(&self.host)?.read(name, &Group::ALL, true)
    }

    /// Looks the machine over for what the kernel accepts and a storage network should not have.
    ///
    /// # Errors
    /// The present state cannot be read.
    pub fn lint(&self) -> Result<Vec<lint::Finding>> {
        let sysctls = self.values(lint::SYSCTLS.iter().map(|path| (*path).to_owned()))?;
        let mut state = self.list()?;
        self.read_pauses(&mut state)?;
        Ok(lint::state(&state, &sysctls))
    }

    /// Whether the cards that run heed and send pause frames.
    fn read_pauses(&self, state: &mut NetState) -> Result<()> {
        let is_card = |link: &&LinkState| link.kind == LinkKindState::Physical && link.up && link.carrier;
        let cards: Vec<(u32, String)> =
            state.links.values().filter(is_card).map(|link| (link.index, link.name.clone())).collect();
        let Ok(mut ethtool) = Ethtool::open(&self.host) else { return Ok(()) };
        for (index, name) in cards {
            let now = ethtool.read(&name.parse()?, &[Group::Pause], false)?;
            state.hardware.insert(index, now);
        }
        Ok(())
    }

    /// Looks a spec over, with this machine's kernel parameters where it names none. `portals` are the links that carry iSCSI.
    ///
    /// # Errors
    /// A kernel parameter cannot be read.
    pub fn lint_spec(&self, spec: &NetSpec, portals: &[IfName]) -> Result<Vec<lint::Finding>> {
        let sysctls = self.values(lint::SYSCTLS.iter().map(|path| (*path).to_owned()))?;
        Ok(lint::spec(spec, &sysctls, portals))
    }

    /// Writes a spec's kernel parameters as `/etc/sysctl.d/NAME.conf`, so that the next boot sets them too; `false` if the file says so
    /// already. A minimum is written as what the machine has, if that is more.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_sysctl_file(&self, spec: &NetSpec, name: &str) -> Result<bool> {
        let path = format!("/etc/sysctl.d/{name}.conf");
        let text = sysctl::file(&spec.sysctls, &self.sysctls(spec)?);
        if self.host.tree().read_opt(&path).map_err(Error::File)?.as_deref() == Some(text.as_str()) {
            return Ok(false);
        }
        self.host.tree().replace(&path, &text, 0o644).map_err(Error::File)?;
        Ok(true)
    }

    fn sysctls(&self, spec: &NetSpec) -> Result<BTreeMap<String, String>> {
        self.values(spec.sysctls.iter().map(SysctlSpec::path))
    }

    fn values(&self, paths: impl Iterator<Item = String>) -> Result<BTreeMap<String, String>> {
        let read = |path: String| match self.host.tree().read_opt(&path) {
            Ok(Some(value)) => Some(Ok((path, value))),
            Ok(None) => None,
            Err(error) => Some(Err(Error::Sysctl(error))),
        };
        paths.filter_map(read).collect()
    }

    /// Carries out a plan; undoes what was done if a step fails. Returns the way back.
    ///
    /// # Errors
    /// [`Error::Step`] names the step, the kernel's words and what became of the steps before it.
    pub fn apply(&self, plan: Plan<Step>) -> Result<Undo<Step>> {
        let _lock = self.host.lock("netcfg", Deadline::after(self.timeout)).map_err(Error::Locked)?;
        self.load_modules(&plan)?;
        let mut executor = apply::Executor::new(&self.host)?;
        Ok(host::plan::apply(&self.host, "netcfg", plan, |step| executor.run(step))?)
    }

    fn load_modules(&self, plan: &Plan<Step>) -> Result<()> {
        let deadline = Deadline::after(self.timeout);
        let wanted = |step: &Step| match step {
            Step::CreateLink { kind: LinkKind::Bond(_), .. } => Some(Module::BONDING),
            Step::CreateLink { kind: LinkKind::Vlan(_), .. } => Some(Module::VLAN),
            Step::CreateLink { kind: LinkKind::Dummy, .. } => Some(Module::DUMMY),
            // The kernel loads the others by itself (`rtnl-link-KIND`).
            _ => None,
        };
        let mut modules: Vec<Module> = plan.steps().iter().filter_map(wanted).collect();
        modules.sort_by_key(|m| m.name);
        modules.dedup();
        for module in modules {
            match self.host.exec().load(module, self.host.tree(), deadline) {
                Ok(_) => {}
                // In a container the host loads it, or it is built in: the kernel's own answer to the step will tell.
                Err(host::exec::Error::NotInstalled { .. }) => {}
                Err(error) => return Err(Error::Module(error)),
            }
        }
        Ok(())
    }

    /// Makes the network as the spec says; `false` if it was, and then nothing is written. Reads back what it did.
    ///
    /// # Errors
    /// As [`plan`](Self::plan) and [`apply`](Self::apply); [`Error::NotTaken`] if the kernel accepted a step without effect.
    pub fn ensure(&self, spec: &NetSpec) -> Result<bool> {
        let plan = self.plan(spec)?;
        if plan.is_empty() {
            return Ok(false);
        }
        self.apply(plan)?;
        let left = self.plan(spec)?;
        if left.is_empty() {
            return Ok(true);
        }
        let steps: Vec<_> = left.steps().iter().map(ToString::to_string).collect();
        Err(Error::NotTaken { steps: steps.join("; ") })
    }

    /// Makes what the spec describes, where none of its VLANs and bonds is there yet.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] names the first that is; else as [`ensure`](Self::ensure).
    pub fn create(&self, spec: &NetSpec) -> Result<()> {
        let state = self.list()?;
        let made = spec.links.iter().filter(|l| !matches!(l.kind, LinkKind::Existing));
        if let Some(there) = made.into_iter().find(|l| state.link(&l.name).is_some()) {
            return Err(Error::AlreadyExists { object: there.name.to_string() });
        }
        self.ensure(spec).map(drop)
    }

    /// Deletes a bond or VLAN; `false` if there was none. `ip link del`.
    ///
    /// # Errors
    /// It is a network card, which cannot be deleted, or the kernel refuses.
    pub fn remove(&self, name: &IfName) -> Result<bool> {
        match self.get(name)?.map(|link| link.kind) {
            None => Ok(false),
            Some(LinkKindState::Physical) => Err(Error::Invalid {
                object: name.to_string(),
                reason: "it is a network card; only bonds, VLANs and other software links can be deleted"
                    .to_owned(),
            }),
            Some(_) => {
                self.apply(Plan::new(vec![Step::DeleteLink { name: name.clone(), was: None }])).map(|_| true)
            }
        }
    }

    /// The steps that take away what a spec makes.
    ///
    /// # Errors
    /// The present state cannot be read.
    pub fn plan_removal(&self, spec: &NetSpec) -> Result<Plan<Step>> {
        Ok(removal(&self.list()?, spec))
    }

    /// Waits until packets can pass through all these links: up, with carrier, operational.
    ///
    /// # Errors
    /// [`Error::TimedOut`] names the first link that is not ready.
    pub fn wait_ready(&self, names: &[IfName], deadline: Deadline) -> Result<()> {
        /// `RTNLGRP_LINK`.
        const LINK_EVENTS: u32 = 1;
        let mut events = self.host.nl().open(Protocol::Route).map_err(Error::Read)?;
        events.join(LINK_EVENTS).map_err(Error::Read)?;
        loop {
            // After joining: a change between this look and the wait is an event that waits.
            let state = self.read(Tables::NONE)?;
            let not_ready = names.iter().find(|name| !state.link(name).is_some_and(LinkState::is_ready));
            let Some(name) = not_ready else { return Ok(()) };
            match events.event(deadline) {
                Ok(Some(_)) | Err(host::nl::Error::Overrun) => {}
                Ok(None) => return Err(Error::TimedOut { object: name.to_string(), what: "ready" }),
                Err(error) => return Err(Error::Read(error)),
            }
        }
    }
}
