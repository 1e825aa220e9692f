//! Reads what maps lead through: multipathd and the kernel joined, sessions, connections, addresses, cards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use host::nl::{Message, Protocol, attributes};
use host::{Bytes, Deadline, Host, Tree, Wwid};

use super::{ConnectionPhase, IscsiRoute, MapTopology, Nic, Route, Topology, Transport};
use crate::error::{Error, Result};
use crate::kernel::sysfs::{complete, fading};
use crate::state::{MapState, SessionState};
use crate::{Initiator, Kernel, Multipath, session};

/// rtnetlink's question for addresses (linux/rtnetlink.h), and how long its `struct ifaddrmsg` is.
const RTM_GETADDR: u16 = 22;
const IFADDRMSG: usize = 8;
/// The address of the other end of a point-to-point link, else ours; and ours.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// How long to ask the kernel for its addresses.
const PATIENCE: Duration = Duration::from_secs(2);

impl Initiator {
    /// Reads all maps with all that they lead through, down to the network cards, and judges them. `multipath -ll`, `lsblk`,
    /// `iscsiadm -m session -P3` and `ip address` in one.
    ///
    /// Asks multipathd and the kernel and joins what they say; one of them is enough. Sysfs is read once a path.
    ///
    /// # Errors
    /// Neither multipathd nor the kernel tells of maps: the kernel's error, or multipathd's if the kernel only lacks the right.
    pub fn topology(&self) -> Result<Topology> {
        let maps = joined(&self.multipath, &Kernel::on(&self.host))?;
        let sessions = session::list(self.host.tree())?;
        let addresses = addresses(&self.host);
        let mut nics = BTreeMap::new();
        let mut all = Vec::new();
        for mut map in maps {
            let mut routes = Vec::new();
            let tree = self.host.tree();
            for (n, group) in map.groups.iter_mut().enumerate() {
                for path in &mut group.paths {
                    if path.hctl.is_none() {
                        complete(tree, path)?;
                    }
                    routes.push(route(tree, Route::new(path.clone(), n), &map.node)?);
                }
            }
            for route in &mut routes {
                let device = &route.path.device;
                let found = sessions.iter().find(|session| session.disks.iter().any(|d| d.device == *device));
                if let Some(session) = found {
                    route.transport =
                        Transport::Iscsi(Box::new(iscsi(tree, route, session, &addresses, &mut nics)?));
                }
            }
            let used_by = holders(tree, &map.node)?;
            all.push(MapTopology::new(map, used_by, routes));
        }
        all.sort_by(|one, other| one.map.name.cmp(&other.map.name));
        Ok(Topology::new(all))
    }
}

/// The maps of both, by disk. What only one has is taken as that one says it.
fn joined(daemon: &Multipath, kernel: &Kernel) -> Result<Vec<MapState>> {
    match (daemon.list(), kernel.list()) {
        (Ok(watched), Ok(mut maps)) => {
            for map in &mut maps {
                if let Some(seen) = watched.iter().find(|seen| seen.wwid == map.wwid) {
                    enrich(map, seen);
                }
            }
            // A map that appeared since the kernel was asked.
            let new = |seen: &MapState| maps.iter().all(|map| map.wwid != seen.wwid);
            let late: Vec<_> = watched.iter().filter(|seen| new(seen)).cloned().collect();
            maps.extend(late);
            Ok(maps)
        }
        (Err(_), Ok(maps)) => Ok(maps),
        (Ok(maps), Err(_)) => Ok(maps),
        (Err(theirs), Err(ours)) => match ours.errno() {
            Some(libc::EACCES | libc::EPERM) => Err(theirs),
            _ => Err(ours),
        },
    }
}

/// Adds what only multipathd knows to what the kernel says.
fn enrich(map: &mut MapState, seen: &MapState) {
    map.queueing = seen.queueing.clone();
    map.failback = seen.failback.clone();
    map.counters = seen.counters;
    for (group, theirs) in map.groups.iter_mut().zip(&seen.groups) {
        group.priority = theirs.priority;
        group.marginal = theirs.marginal;
    }
    for path in map.groups.iter_mut().flat_map(|group| &mut group.paths) {
        let Some(theirs) = seen.paths().find(|theirs| theirs.number == path.number) else { continue };
        path.checker = theirs.checker.clone();
        path.checker_name.clone_from(&theirs.checker_name);
        path.priority = theirs.priority;
        path.marginal = theirs.marginal;
        path.target.clone_from(&theirs.target);
        path.adapter.clone_from(&theirs.adapter);
    }
}

/// What stands on a device, by name.
fn holders(tree: &Tree, device: &str) -> Result<Vec<String>> {
    let entries = tree.list_opt(format!("/sys/block/{device}/holders")).map_err(Error::Tree)?;
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

/// The path's own device.
fn route(tree: &Tree, mut route: Route, map: &str) -> Result<Route> {
    if route.path.device.is_empty() {
        return Ok(route);
    }
    let base = format!("/sys/block/{}", route.path.device);
    let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
    route.wwid = fading(tree, &format!("{base}/device/wwid"))?.and_then(|text| Wwid::from_sysfs(&text).ok());
    route.size =
        number(fading(tree, &format!("{base}/size"))?).map(|sectors| Bytes(sectors.saturating_mul(512)));
    route.read_only = number(fading(tree, &format!("{base}/ro"))?).map(|ro| ro != 0);
    route.used_by = holders(tree, &route.path.device)?;
    route.used_by.retain(|holder| holder != map);
    Ok(route)
}

fn iscsi(
    tree: &Tree,
    route: &Route,
    session: &SessionState,
    addresses: &BTreeMap<IpAddr, u32>,
    nics: &mut BTreeMap<u32, Option<Nic>>,
) -> Result<IscsiRoute> {
    let base = format!("/sys/class/iscsi_connection/connection{}:0", session.id);
    let seconds = |file: &str| -> Result<Option<Duration>> {
        let text = fading(tree, &format!("{base}/{file}"))?;
        Ok(text.and_then(|text| text.parse().ok()).filter(|n| *n != 0).map(Duration::from_secs))
    };
    let state = fading(tree, &format!("{base}/state"))?;
    // iscsi_tcp tells the connection's own address as that of its host adapter (drivers/scsi/iscsi_tcp.c, ISCSI_HOST_PARAM_IPADDRESS).
    let local = fading(tree, &format!("{base}/local_ipaddr"))?.and_then(|text| text.parse::<IpAddr>().ok());
    let local = match (local, route.path.hctl) {
        (None, Some(hctl)) => fading(tree, &format!("/sys/class/iscsi_host/host{}/ipaddress", hctl.host))?
            .and_then(|text| text.parse().ok()),
        (local, _) => local,
    };
    let index = local.and_then(|local| addresses.get(&local)).copied();
    let nic = match index {
        Some(index) => match nics.get(&index) {
            Some(known) => known.clone(),
            None => {
                let found = nic(tree, index)?;
                nics.insert(index, found.clone());
                found
            }
        },
        None => None,
    };
    Ok(IscsiRoute {
        session: session.id,
        target: session.target.clone(),
        portal: session.portal,
        phase: session.phase.clone(),
        connection: state.map(|state| ConnectionPhase::from_word(&state)),
        local,
        nic,
        recovery: session.recovery.map(|seconds| Duration::from_secs(seconds.into())),
        ping_interval: seconds("recv_tmo")?,
        ping_timeout: seconds("ping_tmo")?,
    })
}

/// Which card has which address; empty where the kernel does not tell (a captured machine).
fn addresses(host: &Host) -> BTreeMap<IpAddr, u32> {
    let dump = || -> std::result::Result<Vec<_>, host::nl::Error> {
        let question = Message::new(RTM_GETADDR, 0).with_header(&[0; IFADDRMSG]);
        host.nl().open(Protocol::Route)?.dump(&question, Deadline::after(PATIENCE))
    };
    let replies = match dump() {
        Ok(replies) => replies,
        Err(error) => {
            log::debug!("multipath: no addresses: {error}");
            return BTreeMap::new();
        }
    };
    let one = |body: &[u8]| -> Option<(IpAddr, u32)> {
        let index = u32::from_ne_bytes(body.get(4..IFADDRMSG)?.try_into().ok()?);
        let all: Vec<_> = attributes(body.get(IFADDRMSG..)?).flatten().collect();
        let of =
            |kind| all.iter().find(|attribute| attribute.kind == kind).map(|attribute| attribute.payload);
        let bytes = of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS))?;
        let address = match bytes.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
            _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        };
        Some((address, index))
    };
    replies.iter().filter_map(|reply| one(&reply.body)).collect()
}

const NET: &str = "/sys/class/net";

/// The card of this number, with what it stands on.
fn nic(tree: &Tree, index: u32) -> Result<Option<Nic>> {
    for entry in tree.list_opt(NET).map_err(Error::Tree)? {
        let found = fading(tree, &format!("{NET}/{}/ifindex", entry.name))?;
        if found.and_then(|text| text.parse().ok()) == Some(index) {
            let mut ports = BTreeSet::new();
            ports_of(tree, &entry.name, &mut ports, 0)?;
            // All ports, or nothing follows.
            let switches: Option<BTreeSet<String>> = ports.iter().map(|port| switch_of(tree, port)).collect();
            let (ports, switches) =
                (ports.into_iter().collect(), switches.unwrap_or_default().into_iter().collect());
            return Ok(Some(Nic { name: entry.name, ports, switches }));
        }
    }
    Ok(None)
}

/// Goes down through VLANs, bonds and bridges (`lower_X` links). The kernel allows eight levels (`MAX_NEST_DEV`).
fn ports_of(tree: &Tree, name: &str, ports: &mut BTreeSet<String>, depth: usize) -> Result<()> {
    let entries = tree.list_opt(format!("{NET}/{name}")).map_err(Error::Tree)?;
    let lower: Vec<_> = entries.iter().filter_map(|entry| entry.name.strip_prefix("lower_")).collect();
    if lower.is_empty() || depth > 8 {
        ports.insert(name.to_owned());
        return Ok(());
    }
    lower.into_iter().try_for_each(|below| ports_of(tree, below, ports, depth + 1))
}

/// Which switch a port says it is on; most say EOPNOTSUPP.
fn switch_of(tree: &Tree, port: &str) -> Option<String> {
    let text = tree.read_opt(format!("{NET}/{port}/phys_switch_id")).ok().flatten()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
