//! The stream of changes: a snapshot, then what differs from it, in the kernel's order.
//!
//! The kernel tells of each link, address and route that changes (groups `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, ... of rtnetlink(7)). Three
//! things it does not tell: messages that did not fit into the socket's buffer (`ENOBUFS`), IPv4 routes that vanish with their link or
//! address (`fib_sync_down_dev`, `net/ipv4/fib_semantics.c`), and which route another one replaced. In these cases the tables are read again
//! and the differences are delivered as if they had been told.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use host::nl::{Error as NlError, Protocol, Reply, Socket, flags};
use host::{Deadline, Watch};

use crate::Netcfg;
use crate::error::{Error, Result};
use crate::state::{AddressState, LinkKindState, LinkState, NetState, RouteState};
use crate::wire::{
    self, RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, groups,
};

/// What a [`watch`](Netcfg::watch) delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Event {
    /// The network as it is when the watch begins. Always the first event.
    Snapshot(Box<NetState>),
    /// A link was made or has come from another namespace.
    LinkAdded(Box<LinkState>),
    /// A link changed: up, carrier, MTU, name, controller, an option.
    LinkChanged {
        /// Before.
        old: Box<LinkState>,
        /// After.
        new: Box<LinkState>,
    },
    /// A link is gone; its last state.
    LinkRemoved(Box<LinkState>),
    /// A bond uses another port than before (active-backup, balance-tlb, balance-alb). Comes after the bond's
    /// [`LinkChanged`](Self::LinkChanged).
    Failover {
        /// The bond's name.
        bond: String,
        /// The port it used, by name; `None` if it had none.
        from: Option<String>,
        /// The port it uses now; `None`: no port is left, the bond is cut off.
        to: Option<String>,
    },
    /// A link has a new address, or the flags of one changed: `tentative` ends when nobody else on the network has it.
    AddressAdded {
        /// The link's name.
        link: String,
        /// The address.
        address: AddressState,
    },
    /// A link has lost an address.
    AddressRemoved {
        /// The link's name.
        link: String,
        /// The address.
        address: AddressState,
    },
    /// A route was added.
    RouteAdded(RouteState),
    /// A route is gone.
    RouteRemoved(RouteState),
    /// Messages were lost; the state was read again. The events that follow lead from the last known state to it.
    Resynchronised,
}

impl Netcfg {
    /// Watches links, addresses and routes. `ip monitor`, without losing anything.
    ///
    /// The first event is the whole state. What happens while that is read may be told again after it: the last event about an object is
    /// right. Read until [`next_before`](Watch::next_before) with a deadline that is over gives `None` before polling the descriptor: several
    /// events may come from one message. Dropping the watch ends it and changes nothing.
    ///
    /// # Errors
    /// The socket cannot be opened, a group not joined, or the state not read. Later errors come from the watch itself, which stays usable.
    #[doc(alias = "ip monitor")]
    pub fn watch(&self) -> Result<Watch<Event, Error>> {
        let mut socket = self.host().nl().open(Protocol::Route).map_err(Error::Read)?;
        for group in groups::ALL {
            socket.join(group).map_err(Error::Read)?;
        }
        // Read after the groups are joined: what changes from now on is told.
        let state = self.list()?;
        let out = VecDeque::from([Event::Snapshot(Box::new(state.clone()))]);
        Ok(Watch::new(Source { net: self.clone(), socket, state, out }))
    }
}

#[derive(Debug)]
struct Source {
    net: Netcfg,
    socket: Socket,
    state: NetState,
    out: VecDeque<Event>,
}

impl Source {
    fn take(&mut self, reply: &Reply) -> Result<()> {
        match reply.kind {
            // A bridge tells of its ports in the same group, with its own family: a DELLINK of these removes no link.
            RTM_NEWLINK | RTM_DELLINK if reply.body.first() != Some(&0) => {}
            RTM_NEWLINK => {
                let link = wire::link::parse(reply)?;
                let down = self.state.links.get(&link.index).is_some_and(|old| old.up) && !link.up;
                self.link(link);
                if down {
                    self.routes()?;
                }
            }
            RTM_DELLINK => {
                let link = wire::link::parse(reply)?;
                if let Some(old) = self.state.links.remove(&link.index) {
                    self.out.push_back(Event::LinkRemoved(Box::new(old)));
                }
                self.routes()?;
            }
            RTM_NEWADDR => {
                if let Some((index, address)) = wire::address::parse(reply)? {
                    self.address_added(index, address);
                }
            }
            RTM_DELADDR => {
                if let Some((index, address)) = wire::address::parse(reply)? {
                    self.address_removed(index, address);
                    self.routes()?;
                }
            }
            RTM_NEWROUTE if reply.flags & flags::REPLACE != 0 => self.routes()?,
            RTM_NEWROUTE => {
                if let Some(route) = wire::address::parse_route(reply)?
                    && !self.state.routes.contains(&route)
                {
                    self.state.routes.push(route.clone());
                    self.out.push_back(Event::RouteAdded(route));
                }
            }
            RTM_DELROUTE => {
                if let Some(route) = wire::address::parse_route(reply)?
                    && let Some(at) = self.state.routes.iter().position(|known| *known == route)
                {
                    self.state.routes.remove(at);
                    self.out.push_back(Event::RouteRemoved(route));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A link as it is now. Its addresses are told apart.
    fn link(&mut self, mut new: LinkState) {
        let Some(old) = self.state.links.get(&new.index).cloned() else {
            self.state.links.insert(new.index, new.clone());
            self.out.push_back(Event::LinkAdded(Box::new(new)));
            return;
        };
        new.addresses.clone_from(&old.addresses);
        if new == old {
            return;
        }
        let active = |link: &LinkState| match &link.kind {
            LinkKindState::Bond(bond) => bond.active,
            _ => None,
        };
        let (from, to) = (active(&old), active(&new));
        let port = |index: Option<u32>| Some(self.state.name_of(index?)?.to_owned());
        let failover =
            (from != to).then(|| Event::Failover { bond: new.name.clone(), from: port(from), to: port(to) });
        self.state.links.insert(new.index, new.clone());
        self.out.push_back(Event::LinkChanged { old: Box::new(old), new: Box::new(new) });
        self.out.extend(failover);
    }

    fn address_added(&mut self, index: u32, address: AddressState) {
        let Some(link) = self.state.links.get_mut(&index) else { return };
        // A lifetime runs down by itself.
        let same = |known: &AddressState| AddressState { lifetime: address.lifetime, ..*known } == address;
        if link.addresses.iter().any(same) {
            return;
        }
        match link.addresses.iter_mut().find(|known| known.prefix == address.prefix) {
            Some(known) => *known = address,
            None => link.addresses.push(address),
        }
        self.out.push_back(Event::AddressAdded { link: link.name.clone(), address });
    }

    fn address_removed(&mut self, index: u32, address: AddressState) {
        let Some(link) = self.state.links.get_mut(&index) else { return };
        if let Some(at) = link.addresses.iter().position(|known| known.prefix == address.prefix) {
            let address = link.addresses.remove(at);
            self.out.push_back(Event::AddressRemoved { link: link.name.clone(), address });
        }
    }

    /// Reads the routes again, where the kernel does not say what became of them.
    fn routes(&mut self) -> Result<()> {
        let fresh = self.net.routes()?;
        self.routes_are(fresh);
        Ok(())
    }

    fn routes_are(&mut self, fresh: Vec<RouteState>) {
        let old = std::mem::take(&mut self.state.routes);
        let gone = old.iter().filter(|route| !fresh.contains(route)).cloned().map(Event::RouteRemoved);
        self.out.extend(gone);
        let new = fresh.iter().filter(|route| !old.contains(route)).cloned().map(Event::RouteAdded);
        self.out.extend(new);
        self.state.routes = fresh;
    }

    /// Messages were lost: reads everything again.
    fn start_over(&mut self) -> Result<()> {
        log::debug!("netcfg: events were lost; reading the state again");
        self.socket.drain().map_err(Error::Read)?;
        let fresh = self.net.list()?;
        self.out.push_back(Event::Resynchronised);
        let gone: Vec<u32> =
            self.state.links.keys().filter(|index| !fresh.links.contains_key(index)).copied().collect();
        for old in gone.iter().filter_map(|index| self.state.links.remove(index)) {
            self.out.push_back(Event::LinkRemoved(Box::new(old)));
        }
        for (index, link) in fresh.links {
            let addresses = link.addresses.clone();
            self.link(LinkState { addresses: Vec::new(), ..link });
            let known = self.state.links.get(&index).map(|link| link.addresses.clone()).unwrap_or_default();
            for old in known.iter().filter(|old| !addresses.iter().any(|new| new.prefix == old.prefix)) {
                self.address_removed(index, *old);
            }
            addresses.into_iter().for_each(|address| self.address_added(index, address));
        }
        self.routes_are(fresh.routes);
        Ok(())
    }
}

impl host::Source for Source {
    type Item = Event;
    type Error = Error;

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    fn next(&mut self, deadline: Deadline) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.out.pop_front() {
                return Ok(Some(event));
            }
            match self.socket.event(deadline) {
                Ok(Some(reply)) => self.take(&reply)?,
                Ok(None) if deadline.is_over() => return Ok(None),
                Ok(None) => {}
                Err(NlError::Overrun) => self.start_over()?,
                Err(error) => return Err(Error::Read(error)),
            }
        }
    }
}
