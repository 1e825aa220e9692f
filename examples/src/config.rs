//! `node.toml`: one file for both nodes, the same on each. Every mistake is named by file, line and fix before anything is changed.

mod raw;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use drbd::{DiskOptions, Minor, NetOptions, ResourceName, ResourceSpec, Volume, VolumeSpec};
use host::{CpuSet, DmName, IfName, Iqn, Secret};
use lio::{AclSpec, BackstoreSpec, ChapUser, Lun, ProductId, TargetSpec, UnitSerial};
use luks::{MappingSpec, Uuid};
use netcfg::{
    BondAttribute, BondMode, BondSpec, FloatingAddr, LinkKind, LinkSpec, NetSpec, Prefix, RouteSpec,
    SysctlSpec, VlanId,
};
use toml::Spanned;

use raw::{Raw, RawLink, RawUnit};

/// A checked `node.toml`, from the point of view of one node.
#[derive(Debug)]
#[non_exhaustive]
pub struct Config {
    /// The file.
    pub path: PathBuf,
    /// The cluster's name.
    pub cluster: String,
    /// This node.
    pub node: String,
    /// The other one.
    pub peer: String,
    /// The network of this node.
    pub net: NetSpec,
    /// Where the interrupts of which links go.
    pub irq: Option<Irq>,
    /// The file with the passphrase of the disks.
    pub passphrase_file: PathBuf,
    /// The storage units.
    pub units: Vec<Unit>,
}

/// The interrupts to place.
#[derive(Debug)]
#[non_exhaustive]
pub struct Irq {
    /// The links whose queues are spread.
    pub links: Vec<IfName>,
    /// The processors they are spread over.
    pub cpus: CpuSet,
    /// Whether sending queues follow (XPS).
    pub xps: bool,
}

/// One storage unit: a disk, its replication, its target, its floating addresses.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// The node that serves it when all is well.
    pub home: String,
    /// The encrypted disk of this node.
    pub mapping: MappingSpec,
    /// Its DRBD resource.
    pub resource: ResourceSpec,
    /// Its target.
    pub target: TargetSpec,
    /// The addresses that move with it.
    pub addresses: Vec<FloatingAddr>,
}

impl Config {
    /// Reads and checks a file, from the point of view of `node`.
    ///
    /// # Errors
    /// The first mistake, with file, line and fix.
    pub fn read(path: &Path, node: &str) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(path, &text, node)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(path: &Path, text: &str, node: &str) -> Result<Self> {
        let file = Source { path, text };
        let raw: Raw = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |span| file.line(span.start));
            anyhow!("{}:{line}: {}", path.display(), e.message().replace('\n', " "))
        })?;
        Reader { file, raw: &raw, node }.config()
    }

    /// The unit of a name.
    ///
    /// # Errors
    /// There is none; the error lists those that are.
    pub fn unit(&self, name: &str) -> Result<&Unit> {
        self.units.iter().find(|unit| unit.name == name).ok_or_else(|| {
            let names: Vec<_> = self.units.iter().map(|u| u.name.as_str()).collect();
            anyhow!("{} has no unit {name:?}; it has {}", self.path.display(), names.join(", "))
        })
    }

    /// The cards that a link stands for: itself, the ports of a bond, the card below a VLAN.
    pub(crate) fn cards(&self, link: &IfName) -> BTreeSet<IfName> {
        let (mut cards, mut seen, mut open) = (BTreeSet::new(), BTreeSet::new(), vec![link]);
        while let Some(name) = open.pop() {
            match self.net.link(name).map(|spec| &spec.kind) {
                _ if !seen.insert(name) => {}
                Some(LinkKind::Existing) | None => drop(cards.insert(name.clone())),
                Some(kind) => open.extend(kind.parent().into_iter().chain(kind.ports())),
            }
        }
        cards
    }

    /// The passphrase of the disks.
    ///
    /// # Errors
    /// The file cannot be read; the error never shows what is in it.
    pub fn passphrase(&self) -> Result<Secret> {
        Secret::read(&self.passphrase_file)
            .with_context(|| format!("the passphrase file of {} cannot be used", self.path.display()))
    }
}

struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
    }

    fn wrong<T>(&self, place: &Spanned<T>, reason: impl std::fmt::Display) -> anyhow::Error {
        anyhow!("{}:{}: {reason}", self.path.display(), self.line(place.span().start))
    }

    /// Parses a text at a place.
    fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, place: &Spanned<String>) -> Result<T> {
        place.get_ref().parse().map_err(|e| self.wrong(place, e))
    }
}

struct Reader<'a> {
    file: Source<'a>,
    raw: &'a Raw,
    node: &'a str,
}

impl Reader<'_> {
    fn config(&self) -> Result<Config> {
        let [a, b] = self.raw.nodes.get_ref().as_slice() else {
            return Err(self
                .file
                .wrong(&self.raw.nodes, "a cluster has two nodes: nodes = [\"n1\", \"n2\"]"));
        };
        let peer = match self.node {
            n if n == a && a != b => b,
            n if n == b && a != b => a,
            n => {
                let reason =
                    format!("this node is {n:?} and not one of {a}, {b}; name it here, or say --node NAME");
                return Err(self.file.wrong(&self.raw.nodes, reason));
            }
        };
        let net = self.net()?;
        let units = self.units(peer, &net)?;
        Ok(Config {
            path: self.file.path.to_path_buf(),
            cluster: self.raw.cluster.get_ref().clone(),
            node: self.node.to_owned(),
            peer: peer.clone(),
            irq: self.irq(&net)?,
            net,
            passphrase_file: self.raw.encryption.passphrase_file.get_ref().clone(),
            units,
        })
    }

    fn known_node(&self, name: &str, place: &Spanned<String>) -> Result<()> {
        if self.raw.nodes.get_ref().iter().any(|node| node == name) {
            return Ok(());
        }
        let nodes = self.raw.nodes.get_ref().join(", ");
        Err(self.file.wrong(place, format!("{name:?} is none of the nodes {nodes}")))
    }

    fn net(&self) -> Result<NetSpec> {
        let mut spec = NetSpec::default();
        let mut addresses: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for link in &self.raw.link {
            let name: IfName = self.file.parsed(&link.name)?;
            if !names.insert(name.clone()) {
                return Err(self.file.wrong(&link.name, format!("{name} is described twice; merge the two")));
            }
            let mut wanted = self.link(link, name)?;
            wanted.mtu = link.mtu;
            for (node, text) in &link.address {
                self.known_node(node, text)?;
                let address: Prefix = self.file.parsed(text)?;
                let user = format!("{} of {node}", link.name.get_ref());
                if let Some(other) = addresses.insert(address.address, user.clone()) {
                    let reason = format!(
                        "address {} is given to {other} and to {user}; each needs its own",
                        address.address
                    );
                    return Err(self.file.wrong(text, reason));
                }
                if node == self.node {
                    wanted = wanted.with_address(address);
                }
            }
            if let Some(gateway) = &link.gateway {
                let address: IpAddr = self.file.parsed(gateway)?;
                if !wanted.addresses.iter().any(|own| own.prefix.contains(address)) {
                    let reason = format!(
                        "gateway {address} is in no network of {}; give the link an address beside it",
                        wanted.name
                    );
                    return Err(self.file.wrong(gateway, reason));
                }
                wanted = wanted.with_route(RouteSpec::default_via(address));
            }
            spec = spec.with_link(wanted);
        }
        let tables = [&self.raw.sysctl, &self.raw.sysctl_at_least, &self.raw.sysctl_forced];
        for (table, (floor, force)) in tables.into_iter().zip([(false, false), (true, false), (false, true)])
        {
            for (key, value) in table {
                let value = scalar(value)
                    .ok_or_else(|| self.file.wrong(key, "the value is a number or a text of numbers"))?;
                let made = match floor {
                    true => SysctlSpec::at_least(key.get_ref(), value),
                    false => SysctlSpec::exactly(key.get_ref(), value),
                };
                let made = made.map_err(|e| self.file.wrong(key, e))?;
                let verdict = netcfg::sysctl::explain(&made.key, &made.value);
                if let Some(harm) = verdict.filter(|v| v.advice == netcfg::sysctl::Advice::Harmful && !force)
                {
                    let reason = format!("{}; put it under [sysctl-forced] if you must", harm.reason);
                    return Err(self
                        .file
                        .wrong(key, format!("{} = {} does harm: {reason}", made.key, made.value)));
                }
                spec = spec.with_sysctl(if force { made.forced() } else { made });
            }
        }
        Ok(spec)
    }

    fn link(&self, link: &RawLink, name: IfName) -> Result<LinkSpec> {
        match (&link.vlan, &link.bond) {
            (Some(_), Some(_)) => Err(self.file.wrong(&link.name, "a link is a VLAN or a bond, not both")),
            (Some(vlan), None) => {
                let id = VlanId::new(*vlan.id.get_ref()).map_err(|e| self.file.wrong(&vlan.id, e))?;
                Ok(LinkSpec::vlan(name, self.file.parsed(&vlan.parent)?, id))
            }
            (None, Some(bond)) => {
                let mode: BondMode = self.file.parsed(&bond.mode)?;
                let millis = Duration::from_millis;
                let mut spec = BondSpec::new(mode)
                    .with_miimon(millis(bond.miimon))
                    .with_delays(millis(bond.updelay), millis(bond.downdelay));
                for port in &bond.ports {
                    spec = spec.with_port(self.file.parsed(port)?);
                }
                if let Some(primary) = &bond.primary {
                    let port: IfName = self.file.parsed(primary)?;
                    if !spec.ports.contains(&port) {
                        return Err(self
                            .file
                            .wrong(primary, format!("primary {port} is none of the bond's ports")));
                    }
                    spec = spec.with_primary(port);
                }
                if let Some(count) = bond.peer_notices {
                    spec = spec.with_peer_notices(count);
                }
                for (key, value) in &bond.options {
                    let info = BondAttribute::from_name(&key.get_ref().replace('-', "_"));
                    let info = info.ok_or_else(|| {
                        let names: Vec<_> = BondAttribute::all().map(|info| info.ip).collect();
                        self.file.wrong(key, format!("no option of a bond; there are {}", names.join(", ")))
                    })?;
                    let text = scalar(value).unwrap_or_default();
                    let value = info.parse(&text).map_err(|e| self.file.wrong(key, e))?;
                    spec = spec.with_option(info.attribute, value);
                }
                Ok(LinkSpec::bond(name, spec))
            }
            (None, None) => Ok(LinkSpec::existing(name)),
        }
    }

    fn irq(&self, net: &NetSpec) -> Result<Option<Irq>> {
        let Some(irq) = &self.raw.irq else { return Ok(None) };
        let mut links = Vec::new();
        for link in &irq.links {
            let name: IfName = self.file.parsed(link)?;
            if net.link(&name).is_none() {
                return Err(self.file.wrong(link, format!("{name} is none of the links above")));
            }
            links.push(name);
        }
        let cpus: CpuSet = self.file.parsed(&irq.cpus)?;
        if cpus.is_empty() {
            return Err(self.file.wrong(&irq.cpus, "name at least one processor, for example \"0-5\""));
        }
        Ok(Some(Irq { links, cpus, xps: irq.xps }))
    }

    /// The addresses of the replication link: this node's and the peer's.
    fn replication(&self, peer: &str) -> Result<(IpAddr, IpAddr)> {
        let replication = self.raw.replication.get_ref();
        if !replication.trusted {
            let reason = "the replication link is not declared trusted, and DRBD 8.4 sends every block in clear text over it; use a \
                          dedicated cable or a VPN and say trusted = true";
            return Err(self.file.wrong(&self.raw.replication, reason));
        }
        let link = self.raw.link.iter().find(|l| l.name.get_ref() == replication.link.get_ref()).ok_or_else(
            || {
                let reason = format!(
                    "replication runs over {:?}, which is none of the links",
                    replication.link.get_ref()
                );
                self.file.wrong(&replication.link, reason)
            },
        )?;
        let address = |node: &str| -> Result<IpAddr> {
            let text = link.address.get(node).ok_or_else(|| {
                let reason = format!(
                    "{} has no address on {node}; replication needs one on both nodes",
                    link.name.get_ref()
                );
                self.file.wrong(&link.name, reason)
            })?;
            Ok(self.file.parsed::<Prefix>(text)?.address)
        };
        Ok((address(self.node)?, address(peer)?))
    }

    fn options(&self) -> Result<(NetOptions, DiskOptions)> {
        let replication = self.raw.replication.get_ref();
        let (mut net, mut disk) = (NetOptions::new(), DiskOptions::new());
        for (key, value) in &replication.net {
            let text = scalar(value)
                .ok_or_else(|| self.file.wrong(key, "the value is a number, text or true/false"))?;
            net.set(key.get_ref(), &text).map_err(|e| self.file.wrong(key, e))?;
        }
        for (key, value) in &replication.disk {
            let text = scalar(value)
                .ok_or_else(|| self.file.wrong(key, "the value is a number, text or true/false"))?;
            disk.set(key.get_ref(), &text).map_err(|e| self.file.wrong(key, e))?;
        }
        if let Some(file) = &replication.secret_file {
            let secret = Secret::read(file.get_ref())
                .map_err(|e| self.file.wrong(file, format!("{e}: {}", e.source)))?;
            net = net.with_shared_secret(&secret).map_err(|e| self.file.wrong(file, e))?;
            if !net.is_set("cram-hmac-alg") {
                net.set("cram-hmac-alg", "sha1").map_err(|e| self.file.wrong(file, e))?;
            }
        }
        Ok((net, disk))
    }

    fn units(&self, peer: &str, net: &NetSpec) -> Result<Vec<Unit>> {
        let (local, remote) = self.replication(peer)?;
        let (net_options, disk_options) = self.options()?;
        let acls = self.acls()?;
        let mut taken: BTreeMap<String, String> = BTreeMap::new();
        for link in &self.raw.link {
            for text in link.address.values() {
                let address: Prefix = self.file.parsed(text)?;
                taken.insert(format!("address {}", address.address), format!("link {}", link.name.get_ref()));
            }
        }
        let mut units = Vec::new();
        for raw in &self.raw.unit {
            let name = raw.name.get_ref();
            let mut once = |what: String, place: std::ops::Range<usize>| match taken
                .insert(what.clone(), format!("unit {name}"))
            {
                None => Ok(()),
                Some(other) => {
                    let line = self.file.line(place.start);
                    bail!(
                        "{}:{line}: {what} is used by {other} and by unit {name}; each needs its own",
                        self.file.path.display()
                    )
                }
            };
            once(format!("unit {name}"), raw.name.span())?;
            once(format!("minor {}", raw.minor.get_ref()), raw.minor.span())?;
            once(format!("replication port {}", raw.port.get_ref()), raw.port.span())?;
            once(format!("target {}", raw.target.get_ref()), raw.target.span())?;
            for (node, disk) in &raw.disk {
                self.known_node(node, disk)?;
                once(format!("disk {}", disk.get_ref()), disk.span())?;
            }
            for floating in &raw.address {
                let address: Prefix = self.file.parsed(&floating.address)?;
                once(format!("address {}", address.address), floating.address.span())?;
            }
            self.known_node(raw.home.get_ref(), &raw.home)?;
            units.push(self.unit(raw, (local, remote), (&net_options, &disk_options), &acls, net)?);
        }
        Ok(units)
    }

    fn acls(&self) -> Result<Vec<AclSpec>> {
        let mut acls = Vec::new();
        for raw in &self.raw.initiator {
            let name: Iqn = self.file.parsed(&raw.name)?;
            // Pings every 5 s would keep dead sessions for 35 s.
            let mut acl = AclSpec::new(name)
                .with_attribute("nopin_timeout", 5)
                .with_attribute("nopin_response_timeout", 5);
            match (&raw.user, &raw.secret_file) {
                (Some(user), Some(file)) => {
                    let user: ChapUser = self.file.parsed(user)?;
                    let secret = Secret::read(file.get_ref())
                        .map_err(|e| self.file.wrong(file, format!("{e}: {}", e.source)))?;
                    acl = acl.with_chap(user, secret);
                }
                (None, None) => {}
                _ => return Err(self.file.wrong(&raw.name, "CHAP needs both user and secret-file")),
            }
            acls.push(acl);
        }
        Ok(acls)
    }

    fn unit(
        &self,
        raw: &RawUnit,
        (local, remote): (IpAddr, IpAddr),
        (net_options, disk_options): (&NetOptions, &DiskOptions),
        acls: &[AclSpec],
        net: &NetSpec,
    ) -> Result<Unit> {
        let name = raw.name.get_ref();
        let mapping_name: DmName = self.file.parsed(&raw.name)?;
        let resource: ResourceName = self.file.parsed(&raw.name)?;
        let disk = raw.disk.get(self.node).ok_or_else(|| {
            self.file.wrong(&raw.name, format!("unit {name} has no disk on {}; add its LUKS UUID", self.node))
        })?;
        let uuid: Uuid = self.file.parsed(disk)?;
        let minor = Minor::new(*raw.minor.get_ref()).map_err(|e| self.file.wrong(&raw.minor, e))?;
        let port = *raw.port.get_ref();
        let device = mapping_name.path();
        let resource =
            ResourceSpec::new(resource, SocketAddr::new(local, port), SocketAddr::new(remote, port))
                .with_volume(VolumeSpec::new(Volume(0), minor, &device))
                .with_net(net_options.clone())
                .with_disk(disk_options.clone());
        resource.check().map_err(|e| self.file.wrong(&raw.name, e))?;
        let iqn: Iqn = self.file.parsed(&raw.target)?;
        let serial = match &raw.serial {
            Some(serial) => self.file.parsed(serial)?,
            // The same on both nodes, or the initiator sees another disk after a move.
            None => UnitSerial::derived_from(&format!("{}/{name}", self.raw.cluster.get_ref())),
        };
        let mut backstore =
            BackstoreSpec::block(self.file.parsed(&raw.name)?, minor.path()).with_serial(serial);
        // Initiators tell disks apart by the first eight characters of the product.
        let product: String = name.chars().rev().take(16).collect::<Vec<_>>().into_iter().rev().collect();
        backstore =
            backstore.with_product(product.parse::<ProductId>().map_err(|e| self.file.wrong(&raw.name, e))?);
        let lun = Lun::try_from(raw.lun).map_err(|e| self.file.wrong(&raw.name, e))?;
        // Zero: the initiator reconnects at once instead of waiting two seconds first.
        let mut target = TargetSpec::new(iqn).with_lun(lun, backstore).with_parameter("DefaultTime2Wait", 0);
        let mut addresses = Vec::new();
        for floating in &raw.address {
            let link: IfName = self.file.parsed(&floating.link)?;
            let address: Prefix = self.file.parsed(&floating.address)?;
            match net.link(&link).map(|l| &l.kind) {
                None => return Err(self.file.wrong(&floating.link, format!("{link} is none of the links"))),
                Some(LinkKind::Bond(bond)) if !matches!(bond.mode, BondMode::ActiveBackup) => {
                    let reason = format!(
                        "{link} is a {} bond, where one iSCSI session never gets faster; use one portal a card",
                        bond.mode
                    );
                    return Err(self.file.wrong(&floating.link, reason));
                }
                Some(_) => {}
            }
            target = target.with_portal(SocketAddr::new(address.address, floating.port));
            addresses.push(FloatingAddr::new(link, address));
        }
        if addresses.is_empty() {
            return Err(self
                .file
                .wrong(&raw.name, format!("unit {name} has no address; nobody could reach it")));
        }
        for acl in acls {
            target = target.with_acl(acl.clone());
        }
        target.validate().map_err(|e| self.file.wrong(&raw.target, e))?;
        Ok(Unit {
            name: name.clone(),
            home: raw.home.get_ref().clone(),
            mapping: MappingSpec::by_uuid(mapping_name, uuid),
            resource,
            target,
            addresses,
        })
    }
}

/// A TOML value as the text an option takes.
fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(true) => Some("yes".to_owned()),
        toml::Value::Boolean(false) => Some("no".to_owned()),
        _ => None,
    }
}
