//! Steps carried out over one netlink socket.

use std::collections::BTreeMap;
use std::time::Duration;

use host::nl::{self, Message, Socket};
use host::{Deadline, Host, IfName};

use crate::bond::settable;
use crate::error::{Error, Result};
use crate::ethtool::Ethtool;
use crate::hardware::HardwareSpec;
use crate::plan::Step;
use crate::route::Lifetime;
use crate::wire::{address, link, rule};

/// How long one message may take: the kernel answers inside the send, but a driver may hold the lock for seconds.
const ONE: Duration = Duration::from_secs(30);

pub(crate) struct Executor<'a> {
    host: &'a Host,
    socket: Socket,
    /// For the settings of cards, opened by the first of them.
    ethtool: Option<Ethtool>,
    /// Numbers of links by name; forgotten when a link comes or goes.
    known: BTreeMap<IfName, u32>,
}

impl<'a> Executor<'a> {
    pub(crate) fn new(host: &'a Host) -> Result<Self> {
        let socket = host.nl().open(nl::Protocol::Route).map_err(Error::Read)?;
        Ok(Self { host, socket, ethtool: None, known: BTreeMap::new() })
    }

    pub(crate) fn index(&mut self, name: &IfName) -> Result<u32> {
        if let Some(index) = self.known.get(name) {
            return Ok(*index);
        }
        let answer = self.socket.ask(&link::get(name), Deadline::after(ONE));
        let reply = answer.map_err(|e| match e.errno() {
            Some(libc::ENODEV) => Error::NoLink { name: name.to_string(), have: "it went away".to_owned() },
            _ => Error::Read(e),
        })?;
        let index = link::parse(&reply)?.index;
        self.known.insert(name.clone(), index);
        Ok(index)
    }

    fn send(&mut self, what: &Step, message: &Message) -> Result<()> {
        self.socket.request(message, Deadline::after(ONE)).map_err(|source| Error::Kernel {
            what: what.to_string(),
            hint: hint(what, &source),
            source,
        })
    }

    fn set_hardware(&mut self, step: &Step, name: &IfName, to: &HardwareSpec) -> Result<()> {
        let ethtool = match &mut self.ethtool {
            Some(open) => open,
            none => none.insert(Ethtool::open(self.host)?),
        };
        ethtool.set(name, to).map_err(|source| Error::Kernel {
            what: step.to_string(),
            hint: hint(step, &source),
            source,
        })
    }

    pub(crate) fn run(&mut self, step: &Step) -> Result<()> {
        let message = match step {
            Step::SetHardware { name, to, .. } => return self.set_hardware(step, name, to),
            Step::Sysctl { path, to, .. } => return self.host.tree().write(path, to).map_err(Error::Sysctl),
            Step::Rename { from, to } => {
                let message = link::rename(self.index(from)?, to);
                self.known.clear();
                message
            }
            Step::CreateLink { name, kind, mtu, mac, controller, up } => {
                let parent = kind.parent().map(|parent| self.index(parent)).transpose()?;
                let controller = controller.as_ref().map(|c| self.index(c)).transpose()?;
                let (mtu, mac, up) = (*mtu, *mac, *up);
                link::create(&link::Birth { name, kind, parent, mtu, mac, controller, up })
            }
            Step::DeleteLink { name, .. } => {
                let index = match self.index(name) {
                    // A VLAN goes with its parent.
                    Err(Error::NoLink { .. }) => return Ok(()),
                    other => other?,
                };
                self.known.clear();
                link::delete(index)
            }
            Step::SetKind { name, to, .. } => link::set_kind(self.index(name)?, to),
            Step::SetBond { name, to, .. } => link::set_bond(self.index(name)?, &settable(to)),
            Step::SetPrimary { name, to, .. } => {
                let port = to.as_ref().map(|p| self.index(p)).transpose()?.unwrap_or(0);
                link::set_primary(self.index(name)?, port)
            }
            Step::SetMtu { name, to, .. } => link::set_mtu(self.index(name)?, *to),
            Step::SetUp { name, up } => link::set_up(self.index(name)?, *up),
            Step::SetController { name, to, .. } => {
                let controller = to.as_ref().map(|c| self.index(c)).transpose()?.unwrap_or(0);
                link::set_controller(self.index(name)?, controller)
            }
            Step::AddAddress { name, address } => address::add(self.index(name)?, address),
            Step::ChangeAddress { name, to, .. } => {
                let for_ever = Lifetime::new(Duration::MAX, Duration::MAX);
                let spec = to.clone().with_lifetime(to.lifetime.unwrap_or(for_ever));
                address::change(self.index(name)?, &spec)
            }
            Step::AddRule { rule } => rule::add(rule),
            Step::DeleteRule { rule } => rule::delete(rule),
            Step::DeleteAddress { name, address } => address::delete(self.index(name)?, &address.prefix),
            Step::AddRoute { name, route } => address::add_route(self.index(name)?, route),
            Step::DeleteRoute { name, route } => address::delete_route(self.index(name)?, route),
        };
        match (self.send(step, &message), step) {
            // It is as wanted already: somebody was faster, or it went with something else.
            (Err(e), Step::AddAddress { .. } | Step::AddRoute { .. } | Step::AddRule { .. })
                if e.errno() == Some(libc::EEXIST) =>
            {
                Ok(())
            }
            (Err(e), Step::DeleteRule { .. }) if e.errno() == Some(libc::ENOENT) => Ok(()),
            (Err(e), Step::DeleteAddress { .. }) if e.errno() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            (Err(e), Step::DeleteRoute { .. }) if e.errno() == Some(libc::ESRCH) => Ok(()),
            (result, _) => result,
        }
    }
}

/// What the kernel does not say itself.
fn hint(step: &Step, error: &nl::Error) -> Option<&'static str> {
    Some(match (step, error.errno()?) {
        (_, libc::EPERM | libc::EACCES) if !matches!(error, nl::Error::Kernel { message: Some(_), .. }) => {
            "it needs CAP_NET_ADMIN in this network namespace: run as root"
        }
        (Step::CreateLink { .. }, libc::EOPNOTSUPP) => {
            "the kernel has no such link type; load its module (bonding, 8021q, bridge, veth, macvlan, dummy)"
        }
        (Step::CreateLink { .. }, libc::EEXIST) => "a link of this name has come up meanwhile",
        (Step::SetMtu { .. } | Step::CreateLink { .. }, libc::EINVAL | libc::ERANGE) => {
            "the MTU is out of range, or larger than that of the link below"
        }
        (Step::SetHardware { .. }, libc::EOPNOTSUPP) => "the card's driver cannot change that",
        (Step::SetHardware { .. }, libc::EINVAL | libc::ERANGE) => {
            "the card takes no such value, or not together with the others"
        }
        (Step::Rename { .. }, libc::EBUSY) => "a link is renamed while it is down only",
        (Step::AddRoute { .. }, libc::ENETUNREACH | libc::EHOSTUNREACH) => {
            "the gateway is in no network of this link; give the link an address beside it"
        }
        _ => return None,
    })
}
