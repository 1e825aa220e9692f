//! One readable screen of a node, and the same as JSON.

use std::fmt;

use anyhow::Result;
use drbd::Drbd;
use lio::Lio;
use netcfg::Netcfg;
use serde::Serialize;

use crate::node::Node;

/// A node as it is.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: String,
    /// Its links that the file names.
    pub links: Vec<LinkStatus>,
    /// Its units.
    pub units: Vec<UnitStatus>,
}

/// One link.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct LinkStatus {
    /// Its name.
    pub name: String,
    /// "up", "no carrier", "down", "missing".
    pub state: String,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// The port in use, for an active-backup bond.
    pub active: Option<String>,
}

/// One unit.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct UnitStatus {
    /// Its name.
    pub name: String,
    /// Whether this node serves it: Primary, exported, with all its addresses.
    pub serving: bool,
    /// The encrypted disk: "open", "closed", "disk gone".
    pub disk: String,
    /// This node's role.
    pub role: Option<String>,
    /// The state of this node's replicated disk.
    pub replica: Option<String>,
    /// The connection to the peer.
    pub connection: Option<String>,
    /// The peer's role and disk.
    pub peer: Option<String>,
    /// How far a resync is, from 0 to 1.
    pub resync: Option<f64>,
    /// What is left of it in bytes.
    pub left: Option<u64>,
    /// The target's name.
    pub target: String,
    /// "enabled", "disabled", "absent".
    pub export: String,
    /// Who is logged in, one entry a session.
    pub initiators: Vec<String>,
    /// Its floating addresses, and whether they are here.
    pub addresses: Vec<(String, bool)>,
}

impl Node {
    /// Reads the node's present state: three netlink dumps, one of DRBD, one walk of the target's directory.
    ///
    /// # Errors
    /// The network cannot be read. What else is not there is said in its place.
    pub fn status(&self) -> Result<Status> {
        let net = Netcfg::on(&self.host)?.list()?;
        let mappings = self.luks().list()?;
        // Not loaded, or no right: the units say "absent".
        let resources = Drbd::on(&self.host).and_then(|d| d.list()).unwrap_or_default();
        let lio = Lio::on(&self.host);
        let links = self.config.net.links.iter().map(|spec| {
            let seen = net.link(&spec.name);
            let state = match seen {
                None => "missing",
                Some(link) if link.is_ready() => "up",
                Some(link) if link.up => "no carrier",
                Some(_) => "down",
            };
            let active = seen.and_then(|link| match &link.kind {
                netcfg::LinkKindState::Bond(bond) => {
                    bond.active.and_then(|a| net.name_of(a)).map(str::to_owned)
                }
                _ => None,
            });
            LinkStatus {
                name: spec.name.to_string(),
                state: state.to_owned(),
                mtu: seen.map(|link| link.mtu),
                addresses: seen.iter().flat_map(|l| &l.addresses).map(|a| a.prefix.to_string()).collect(),
                active,
            }
        });
        let links = links.collect();
        let mut units = Vec::new();
        for unit in &self.config.units {
            let disk = match mappings.iter().find(|m| m.name == unit.mapping.name.as_str()) {
                Some(mapping) if mapping.device.is_some() => "open",
                Some(_) => "disk gone",
                None => "closed",
            };
            let resource = resources.iter().find(|r| r.name == unit.resource.name);
            let connection = resource.and_then(|r| r.connections.first());
            let peer_volume = connection.and_then(|c| c.volumes.first());
            let progress = resource.and_then(drbd::ResourceState::resync);
            let target = match &lio {
                Ok(lio) => lio.get(&unit.target.iqn)?,
                Err(_) => None,
            };
            let initiators = match (&lio, &target) {
                (Ok(lio), Some(_)) => {
                    lio.sessions(&unit.target.iqn)?.into_iter().map(|s| s.initiator.to_string()).collect()
                }
                _ => Vec::new(),
            };
            let export =
                target.as_ref().map_or("absent", |t| if t.is_enabled() { "enabled" } else { "disabled" });
            let addresses: Vec<_> = unit
                .addresses
                .iter()
                .map(|a| {
                    let held = net.link(&a.link).is_some_and(|l| {
                        l.addresses.iter().any(|here| here.prefix.address == a.prefix.address)
                    });
                    (format!("{} on {}", a.prefix, a.link), held)
                })
                .collect();
            let primary = resource.is_some_and(drbd::ResourceState::is_primary);
            units.push(UnitStatus {
                name: unit.name.clone(),
                serving: primary && export == "enabled" && addresses.iter().all(|(_, held)| *held),
                disk: disk.to_owned(),
                role: resource.map(|r| r.role.to_string()),
                replica: resource.and_then(|r| r.volumes.first()).map(|v| v.disk.to_string()),
                connection: connection.map(|c| c.state.to_string()),
                peer: connection.zip(peer_volume).map(|(c, v)| format!("{}/{}", c.peer_role, v.peer_disk)),
                resync: progress.as_ref().map(|p| p.done),
                left: progress.as_ref().map(|p| p.left.0),
                target: unit.target.iqn.to_string(),
                export: export.to_owned(),
                initiators,
                addresses,
            });
        }
        Ok(Status { cluster: self.config.cluster.clone(), node: self.config.node.clone(), links, units })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} of cluster {}", self.node, self.cluster)?;
        writeln!(f, "\n  {:<15} {:<11} {:>6}  addresses", "link", "state", "mtu")?;
        for link in &self.links {
            let mtu = link.mtu.map_or_else(|| "-".to_owned(), |m| m.to_string());
            let active = link.active.as_ref().map(|a| format!(" (active {a})")).unwrap_or_default();
            writeln!(
                f,
                "  {:<15} {:<11} {mtu:>6}  {}{active}",
                link.name,
                link.state,
                link.addresses.join(" ")
            )?;
        }
        for unit in &self.units {
            let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            writeln!(
                f,
                "\n  unit {} {}",
                unit.name,
                if unit.serving { "SERVED HERE" } else { "not served here" }
            )?;
            writeln!(f, "    disk         {}", unit.disk)?;
            writeln!(
                f,
                "    replication  {} {}, {}, peer {}",
                or(&unit.role),
                or(&unit.replica),
                or(&unit.connection),
                or(&unit.peer)
            )?;
            if let (Some(done), Some(left)) = (unit.resync, unit.left) {
                writeln!(
                    f,
                    "    resync       {} {:.1} %, {} MiB left",
                    bar(done, 30),
                    done * 100.0,
                    left >> 20
                )?;
            }
            writeln!(f, "    target       {} {}", unit.target, unit.export)?;
            let who =
                if unit.initiators.is_empty() { "nobody".to_owned() } else { unit.initiators.join(", ") };
            writeln!(f, "    logged in    {who}")?;
            for (address, held) in &unit.addresses {
                writeln!(f, "    address      {address} {}", if *held { "here" } else { "not here" })?;
            }
        }
        Ok(())
    }
}

/// A bar of a width: `[#####>....]`.
#[must_use]
pub fn bar(done: f64, width: u32) -> String {
    let cells = (0..width).map(|cell| match done * f64::from(width) - f64::from(cell) {
        full if full >= 1.0 => '#',
        part if part > 0.0 => '>',
        _ => '.',
    });
    format!("[{}]", cells.collect::<String>())
}
