//! A small stateful rtnetlink in memory: links, VLANs, bonds, addresses and routes, with the kernel's refusals that matter here.

mod address;
mod bond;
mod ethtool;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host::Host;
use host::fake::Memory;
use host::nl::fake::{Answer, FakeKernel, Responder};
use host::nl::{Message, Protocol, Reply, attributes, flags};

use crate::BondMode;
use crate::wire::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_DELRULE, RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, RTM_GETRULE,
    RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTM_NEWRULE, groups,
};

#[derive(Debug, Clone, Default, PartialEq)]
struct Link {
    name: String,
    kind: Option<String>,
    /// A VLAN's parent and number.
    lower: u32,
    vlan: u16,
    mtu: u32,
    own_mtu: u32,
    up: bool,
    controller: u32,
    /// Its controller is a bond.
    in_bond: bool,
    /// The name of a bond's primary port, which the bond remembers when the port leaves.
    primary: String,
    /// A bond's options by attribute number, as they were sent; of other kinds what they were told.
    bond: BTreeMap<u16, Vec<u8>>,
    /// A card's settings; links of other kinds have none.
    card: ethtool::Card,
}

impl Link {
    fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

#[derive(Debug, Default)]
struct Net {
    links: BTreeMap<u32, Link>,
    /// Link, header and attributes of each address as they were sent.
    addresses: Vec<(u32, Vec<u8>)>,
    routes: Vec<Vec<u8>>,
    rules: Vec<Vec<u8>>,
    writes: usize,
}

/// A fake network; clones are the same.
#[derive(Debug, Clone)]
pub struct FakeNet {
    net: Arc<Mutex<Net>>,
    kernel: FakeKernel,
    memory: Memory,
}

impl FakeNet {
    /// A machine with a loopback and these network cards (MTU 1500, down).
    #[must_use]
    pub fn new(cards: &[&str]) -> Self {
        let mut net = Net::default();
        let card =
            |name: &str, mtu, up| Link { name: name.to_owned(), mtu, own_mtu: mtu, up, ..Link::default() };
        net.links.insert(1, card("lo", 65_536, true));
        net.links.extend((2..).zip(cards.iter().map(|name| card(name, 1500, false))));
        let net = Arc::new(Mutex::new(net));
        let kernel = FakeKernel::new(Rtnl(Arc::clone(&net)));
        let memory = Memory::new();
        memory.edit(|nodes| {
            for (key, value) in [
                ("net/core/rmem_max", "212992\n"),
                ("net/core/wmem_max", "212992\n"),
                ("net/core/rmem_default", "212992\n"),
                ("net/core/wmem_default", "212992\n"),
                ("net/core/netdev_max_backlog", "1000\n"),
                ("net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
                ("net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
                ("net/ipv4/tcp_reordering", "3\n"),
                ("net/ipv4/tcp_fin_timeout", "60\n"),
                ("net/ipv4/tcp_no_metrics_save", "0\n"),
                ("net/ipv4/tcp_window_scaling", "1\n"),
                ("vm/min_free_kbytes", "67584\n"),
            ] {
                nodes.put(&format!("/proc/sys/{key}"), value);
            }
        });
        Self { net, kernel, memory }
    }

    /// The machine that has this network.
    #[must_use]
    pub fn host(&self) -> Host {
        Host::fake().with_tree(self.memory.tree()).with_nl(self.kernel.transport())
    }

    /// Puts this network into a machine that has other fakes too.
    #[must_use]
    pub fn put_in(&self, host: Host) -> Host {
        host.with_nl(self.kernel.transport())
    }

    /// How many changes were asked for: a second `ensure` must not raise it.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.lock().writes
    }

    /// The names of all links, sorted: what "as it was before" is compared by, with their MTU, state, bond and addresses.
    #[must_use]
    pub fn picture(&self) -> Vec<String> {
        let net = self.lock();
        let mut lines: Vec<_> = net
            .links
            .iter()
            .map(|(index, link)| {
                let addresses: Vec<_> =
                    net.addresses.iter().filter(|(on, _)| on == index).map(|(_, b)| b).collect();
                format!(
                    "{} {:?} mtu {} up {} in {:?} addresses {addresses:?} {:?}",
                    link.name,
                    link.kind,
                    link.mtu,
                    link.up,
                    net.links.get(&link.controller).map(|c| c.name.as_str()),
                    link.card
                )
            })
            .collect();
        lines.extend(net.routes.iter().map(|route| format!("route {route:?}")));
        lines.extend(net.rules.iter().map(|rule| format!("rule {rule:?}")));
        lines.sort();
        lines
    }

    fn lock(&self) -> MutexGuard<'_, Net> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Rtnl(Arc<Mutex<Net>>);

type Refusal = (i32, Option<&'static str>);

impl Responder for Rtnl {
    fn answer(&mut self, protocol: Protocol, request: &Reply) -> Answer {
        let mut net = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if protocol == Protocol::Generic {
            let card =
                |name: &str| net.links.values().find(|link| link.name == name).map(|link| link.card.clone());
            let (answer, changed) = ethtool::answer(request, card);
            if let Some((name, card)) = changed {
                net.writes += 1;
                net.links
                    .values_mut()
                    .filter(|link| link.name == name)
                    .for_each(|link| link.card = card.clone());
            }
            return answer;
        }
        let dump = request.flags & flags::DUMP == flags::DUMP;
        match request.kind {
            RTM_GETLINK if dump => Answer::dump(net.links.iter().map(|(i, l)| shown(*i, l)).collect()),
            RTM_GETLINK => match net.find(&Fields::of(request)) {
                Some(index) => {
                    net.links.get(&index).map_or_else(Answer::default, |l| Answer::one(shown(index, l)))
                }
                None => Answer::status(libc::ENODEV, None),
            },
            RTM_GETADDR => {
                let all = net.addresses.iter().map(|(_, body)| Reply::new(RTM_NEWADDR, 0, 0, body.clone()));
                Answer::dump(all.collect())
            }
            RTM_GETROUTE => Answer::dump(
                net.routes.iter().map(|body| Reply::new(RTM_NEWROUTE, 0, 0, body.clone())).collect(),
            ),
            RTM_GETRULE => Answer::dump(
                net.rules.iter().map(|body| Reply::new(RTM_NEWRULE, 0, 0, body.clone())).collect(),
            ),
            kind => {
                net.writes += 1;
                let (links, addresses, routes) =
                    (net.links.clone(), net.addresses.clone(), net.routes.clone());
                let result = match kind {
                    RTM_NEWLINK => net.new_link(request),
                    RTM_DELLINK => net.delete_link(request),
                    RTM_NEWADDR => net.add_address(request),
                    RTM_DELADDR => net.delete_address(request),
                    RTM_NEWROUTE => net.add_route(request),
                    RTM_DELROUTE => net.delete_route(request),
                    RTM_NEWRULE if net.rules.contains(&request.body) => Err((libc::EEXIST, None)),
                    RTM_NEWRULE => {
                        net.rules.push(request.body.clone());
                        Ok(())
                    }
                    RTM_DELRULE => match net.rules.iter().position(|rule| *rule == request.body) {
                        Some(at) => {
                            net.rules.remove(at);
                            Ok(())
                        }
                        None => Err((libc::ENOENT, None)),
                    },
                    _ => Err((libc::EOPNOTSUPP, None)),
                };
                net.settle_primaries();
                let mut answer = match result {
                    Ok(()) => Answer::status(0, None),
                    Err((errno, text)) => Answer::status(errno, text),
                };
                let routed = matches!(kind, RTM_NEWROUTE | RTM_DELROUTE);
                answer.events = net.told(&links, &addresses, routed.then_some(&routes[..]));
                answer
            }
        }
    }
}

/// The attributes of a link request.
#[derive(Default)]
struct Fields {
    index: u32,
    flags: u32,
    change: u32,
    name: Option<String>,
    mtu: Option<u32>,
    lower: Option<u32>,
    controller: Option<u32>,
    kind: Option<String>,
    data: BTreeMap<u16, Vec<u8>>,
}

impl Fields {
    fn of(request: &Reply) -> Self {
        let word = |at: usize| {
            request.body.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
        };
        let mut fields = Self { index: word(4), flags: word(8), change: word(12), ..Self::default() };
        for attribute in attributes(request.body.get(16..).unwrap_or_default()).flatten() {
            match attribute.kind {
                3 => fields.name = attribute.text().map(str::to_owned),
                4 => fields.mtu = attribute.u32(),
                5 => fields.lower = attribute.u32(),
                10 => fields.controller = attribute.u32(),
                18 => {
                    for info in attribute.nested().flatten() {
                        match info.kind {
                            1 => fields.kind = info.text().map(str::to_owned),
                            2 => {
                                fields.data =
                                    info.nested().flatten().map(|a| (a.kind, a.payload.to_vec())).collect();
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        fields
    }
}

/// A link as the kernel shows it.
fn shown(index: u32, link: &Link) -> Reply {
    let up = if link.up { 0x1_0001_u32 } else { 0 };
    let mut header = vec![0; 4];
    header.extend(index.to_ne_bytes());
    header.extend(up.to_ne_bytes());
    header.extend([0; 4]);
    let mac = [0x52, 0x54, 0, 0, 0, index.to_le_bytes()[0]];
    let mut message = Message::new(RTM_NEWLINK, 0)
        .with_header(&header)
        .with(1, &mac)
        .with_str(3, &link.name)
        .with_u32(4, link.mtu)
        .with_u8(16, if link.up { 6 } else { 2 })
        .with_u32(50, 68)
        .with_u32(51, 65_535);
    if link.lower != 0 {
        message = message.with_u32(5, link.lower);
    }
    if link.controller != 0 {
        message = message.with_u32(10, link.controller);
    }
    if let Some(kind) = &link.kind {
        message = message.with_nest(18, |m| {
            m.with_str(1, kind).with_nest(2, |m| match kind.as_str() {
                "veth" => m,
                _ => link.bond.iter().fold(m, |m, (option, value)| m.with(*option, value)),
            })
        });
    }
    if link.in_bond {
        message = message.with_nest(18, |m| {
            let m = match &link.kind {
                Some(kind) => m
                    .with_str(1, kind)
                    .with_nest(2, |m| link.bond.iter().fold(m, |m, (option, value)| m.with(*option, value))),
                None => m,
            };
            m.with_str(4, "bond").with_nest(5, |m| m.with_u8(1, 0).with_u8(2, 0))
        });
    }
    Reply::new(RTM_NEWLINK, 0, 0, message.body().to_vec())
}

impl Net {
    /// What the kernel tells of a change: each link and address that is another one now. Routes only if they were changed by name: those
    /// that go with a link or address go silently (`fib_sync_down_dev`).
    fn told(
        &self,
        links: &BTreeMap<u32, Link>,
        addresses: &[(u32, Vec<u8>)],
        routes: Option<&[Vec<u8>]>,
    ) -> Vec<(u32, Reply)> {
        let mut events = Vec::new();
        let mut tell = |group, kind, body: &[u8]| events.push((group, Reply::new(kind, 0, 0, body.to_vec())));
        for (_, body) in addresses.iter().filter(|one| !self.addresses.contains(one)) {
            tell(groups::IPV4_ADDRESS, RTM_DELADDR, body);
        }
        for (index, link) in links.iter().filter(|(index, _)| !self.links.contains_key(index)) {
            tell(groups::LINK, RTM_DELLINK, &shown(*index, link).body);
        }
        for (index, link) in self.links.iter().filter(|(index, link)| links.get(index) != Some(link)) {
            tell(groups::LINK, RTM_NEWLINK, &shown(*index, link).body);
        }
        for (_, body) in self.addresses.iter().filter(|one| !addresses.contains(one)) {
            tell(groups::IPV4_ADDRESS, RTM_NEWADDR, body);
        }
        if let Some(routes) = routes {
            routes.iter().filter(|r| !self.routes.contains(r)).for_each(|r| {
                tell(groups::IPV4_ROUTE, RTM_DELROUTE, r);
            });
            self.routes.iter().filter(|r| !routes.contains(r)).for_each(|r| {
                tell(groups::IPV4_ROUTE, RTM_NEWROUTE, r);
            });
        }
        events
    }

    /// A bond shows its primary port only while that is a port.
    fn settle_primaries(&mut self) {
        let ports: Vec<(u32, String, u32)> =
            self.links.iter().map(|(index, l)| (*index, l.name.clone(), l.controller)).collect();
        for (index, bond) in self.links.iter_mut().filter(|(_, l)| l.is("bond") && !l.primary.is_empty()) {
            let port =
                ports.iter().find(|(_, name, controller)| controller == index && *name == bond.primary);
            let number = port.map_or(0, |(port, ..)| *port);
            bond.bond.insert(bond::PRIMARY, number.to_ne_bytes().to_vec());
        }
    }

    fn find(&self, fields: &Fields) -> Option<u32> {
        match &fields.name {
            // A number besides a name is the link that is to get the name.
            Some(name) if fields.index == 0 => {
                self.links.iter().find(|(_, l)| &l.name == name).map(|(index, _)| *index)
            }
            _ => self.links.contains_key(&fields.index).then_some(fields.index),
        }
    }

    fn new_link(&mut self, request: &Reply) -> Result<(), Refusal> {
        let fields = Fields::of(request);
        match self.find(&fields) {
            Some(_) if request.flags & flags::EXCL != 0 => Err((libc::EEXIST, None)),
            Some(index) => self.change(index, &fields),
            None if request.flags & flags::CREATE != 0 => self.create(&fields),
            None => Err((libc::ENODEV, None)),
        }
    }

    fn create(&mut self, fields: &Fields) -> Result<(), Refusal> {
        let mut link = Link {
            name: fields.name.clone().unwrap_or_default(),
            kind: fields.kind.clone(),
            ..Link::default()
        };
        match fields.kind.as_deref() {
            Some(kind @ ("vlan" | "macvlan")) => {
                let lower = fields.lower.ok_or((libc::EINVAL, Some("link not specified")))?;
                let parent = self.links.get(&lower).ok_or((libc::EINVAL, Some("link does not exist")))?;
                link.bond.clone_from(&fields.data);
                if kind == "vlan" {
                    let number = |id: &Vec<u8>| u16::try_from(bond::number_of(id)).ok();
                    link.vlan = fields.data.get(&1).and_then(number).unwrap_or_default();
                    link.bond.entry(5).or_insert_with(|| 0x8100_u16.to_be_bytes().to_vec());
                    link.bond.remove(&2);
                    merge_flags(&mut link, fields);
                    let same = |l: &Link| {
                        l.lower == lower && l.vlan == link.vlan && l.bond.get(&5) == link.bond.get(&5)
                    };
                    if self.links.values().any(|l| l.is("vlan") && same(l)) {
                        return Err((libc::EEXIST, Some("8021q: VLAN device already exists")));
                    }
                }
                if fields.flags & fields.change & 1 != 0 && !parent.up {
                    return Err((libc::ENETDOWN, None));
                }
                link.up = fields.flags & fields.change & 1 != 0;
                (link.lower, link.mtu) = (lower, fields.mtu.unwrap_or(parent.mtu));
                if link.mtu > parent.mtu {
                    return Err((libc::EINVAL, None));
                }
            }
            Some("bridge" | "dummy" | "veth") => {
                link.mtu = fields.mtu.unwrap_or(1500);
                link.up = fields.flags & fields.change & 1 != 0;
                if link.is("bridge") {
                    let words = [(1, 1500_u32), (2, 200), (3, 2000), (4, 30_000), (5, 0)];
                    link.bond.extend(words.map(|(key, value)| (key, value.to_ne_bytes().to_vec())));
                    link.bond
                        .extend([(6, 32_768_u16), (39, 1)].map(|(key, v)| (key, v.to_ne_bytes().to_vec())));
                    link.bond.extend([(7, vec![0]), (23, vec![1])]);
                }
                link.bond.extend(fields.data.clone());
            }
            Some("bond") => {
                link.mtu = fields.mtu.unwrap_or(1500);
                link.bond = bond::defaults(BondMode::BalanceRr);
                link.bond.insert(1, vec![0]);
                bond::set(&mut link, fields, false)?;
            }
            _ => return Err((libc::EOPNOTSUPP, Some("Unknown device type"))),
        }
        link.own_mtu = link.mtu;
        let index = self.links.keys().last().copied().unwrap_or(0) + 1;
        if link.is("veth") {
            // A link header, then the peer's attributes.
            let described = fields.data.get(&1).and_then(|data| data.get(16..)).unwrap_or_default();
            let name = attributes(described)
                .flatten()
                .find(|a| a.kind == 3)
                .and_then(|a| a.text().map(str::to_owned));
            let name = name.ok_or((libc::EINVAL, None))?;
            if self.links.values().any(|l| l.name == name) {
                return Err((libc::EEXIST, None));
            }
            let peer = Link {
                name,
                kind: link.kind.clone(),
                lower: index,
                mtu: 1500,
                own_mtu: 1500,
                ..Link::default()
            };
            self.links.insert(index + 1, peer);
            link.lower = index + 1;
            link.bond.clear();
        }
        self.links.insert(index, link);
        if let Some(controller) = fields.controller
            && let Err(refusal) = self.enslave(index, controller)
        {
            self.links.remove(&index);
            return Err(refusal);
        }
        Ok(())
    }

    fn change(&mut self, index: u32, fields: &Fields) -> Result<(), Refusal> {
        let has_ports = self.links.values().any(|l| l.controller == index);
        let lower_up = |net: &Self, link: &Link| {
            link.lower == 0 || link.is("veth") || net.links.get(&link.lower).is_some_and(|p| p.up)
        };
        let link = self.links.get(&index).cloned().ok_or((libc::ENODEV, None))?;
        let mut changed = link.clone();
        if changed.is("bond") && fields.kind.is_some() {
            bond::set(&mut changed, fields, has_ports)?;
            if let Some(port) = fields.data.get(&bond::PRIMARY) {
                let port = self.links.get(&bond::number_of(port));
                changed.primary = port.map(|port| port.name.clone()).unwrap_or_default();
            }
        } else if fields.kind.is_some() {
            merge_flags(&mut changed, fields);
            let others =
                fields.data.iter().filter(|(key, _)| !(changed.is("vlan") && matches!(key, 1 | 2 | 5)));
            changed.bond.extend(others.map(|(key, value)| (*key, value.clone())).collect::<Vec<_>>());
        }
        if let Some(mtu) = fields.mtu {
            let below = self.links.get(&link.lower).filter(|_| !link.is("veth")).map_or(65_535, |p| p.mtu);
            if mtu > below {
                return Err((libc::ERANGE, None));
            }
            changed.mtu = mtu;
        }
        if fields.change & 1 != 0 {
            changed.up = fields.flags & 1 != 0;
            if changed.up && !lower_up(self, &link) {
                return Err((libc::ENETDOWN, None));
            }
        }
        if let Some(name) = &fields.name {
            if link.up {
                return Err((libc::EBUSY, None));
            }
            if self.links.values().any(|l| l.name == *name) {
                return Err((libc::EEXIST, None));
            }
            changed.name.clone_from(name);
        }
        let (up_before, mtu) = (link.up, changed.mtu);
        let up = changed.up;
        self.links.insert(index, changed);
        for above in self.links.values_mut().filter(|l| l.lower == index && !l.is("veth")) {
            above.mtu = above.mtu.min(mtu);
            if up != up_before {
                above.up = up;
            }
        }
        if fields.mtu.is_some_and(|mtu| mtu != link.mtu) && link.is("bond") {
            self.links.values_mut().filter(|l| l.controller == index).for_each(|l| l.mtu = mtu);
        }
        match fields.controller {
            Some(0) => {
                if let Some(link) = self.links.get_mut(&index) {
                    let up = link.up && !link.in_bond;
                    (link.controller, link.up, link.mtu, link.in_bond) = (0, up, link.own_mtu, false);
                }
                Ok(())
            }
            Some(controller) => self.enslave(index, controller),
            None => Ok(()),
        }
    }

    fn enslave(&mut self, index: u32, controller: u32) -> Result<(), Refusal> {
        let bond = self.links.get(&controller).filter(|b| b.is("bond") || b.is("bridge")).cloned();
        let bond = bond.ok_or((libc::EINVAL, None))?;
        let link = self.links.get(&index).cloned().ok_or((libc::ENODEV, None))?;
        if bond.is("bridge") {
            if let Some(link) = self.links.get_mut(&index) {
                (link.controller, link.own_mtu) = (controller, link.mtu);
            }
            return Ok(());
        }
        if link.up {
            return Err((libc::EPERM, Some("Device can not be enslaved while up")));
        }
        if link.controller != 0 {
            return Err((libc::EBUSY, Some("Device is in use and cannot be enslaved")));
        }
        if link.lower != 0 && !self.links.get(&link.lower).is_some_and(|p| p.up) {
            return Err((libc::ENETDOWN, None));
        }
        if let Some(link) = self.links.get_mut(&index) {
            (link.own_mtu, link.mtu, link.controller, link.up) = (link.mtu, bond.mtu, controller, true);
            link.in_bond = true;
        }
        Ok(())
    }

    fn delete_link(&mut self, request: &Reply) -> Result<(), Refusal> {
        let index = self.find(&Fields::of(request)).ok_or((libc::ENODEV, None))?;
        if self.links.get(&index).is_some_and(|l| l.kind.is_none()) {
            return Err((libc::EOPNOTSUPP, None));
        }
        for port in self.links.values_mut().filter(|l| l.controller == index) {
            (port.controller, port.up, port.mtu) = (0, port.up && !port.in_bond, port.own_mtu);
            port.in_bond = false;
        }
        let mut gone = vec![index];
        gone.extend(self.links.iter().filter(|(_, l)| l.lower == index).map(|(i, _)| *i));
        self.links.retain(|i, _| !gone.contains(i));
        self.addresses.retain(|(i, _)| !gone.contains(i));
        self.routes.retain(|body| address::oif(body).is_none_or(|i| !gone.contains(&i)));
        Ok(())
    }
}

/// The kernel takes the flags under the mask and keeps the others; a new VLAN has `reorder_hdr`.
fn merge_flags(link: &mut Link, fields: &Fields) {
    if !link.is("vlan") {
        return;
    }
    let word = |bytes: Option<&Vec<u8>>, at: usize| {
        bytes.and_then(|b| b.get(at..at + 4)?.try_into().ok()).map(u32::from_ne_bytes)
    };
    let now = word(link.bond.get(&2), 0).unwrap_or(1);
    let (set, mask) = (word(fields.data.get(&2), 0).unwrap_or(0), word(fields.data.get(&2), 4).unwrap_or(0));
    let flags = now & !mask | set & mask;
    link.bond.insert(2, [flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat());
}
