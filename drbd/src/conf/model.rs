//! What a configuration means: which options hold for a resource, which hosts it has, and the spec of one of them.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::check::{device, endpoint, meta_disk};
use super::grammar::{Known, option};
use super::{At, Conf, Kind, Place};
use crate::{
    DiskOptions, Error, MetaDisk, Minor, NetOptions, ResourceName, ResourceOptions, ResourceSpec, Result,
    Volume, VolumeSpec,
};

/// To which part of a resource an option belongs, wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Net,
    Disk,
    Options,
    Handlers,
    Startup,
    Other,
}

/// An option that is set somewhere.
#[derive(Clone)]
pub(super) struct Set<'a> {
    pub(super) group: Group,
    pub(super) known: Known,
    pub(super) value: Cow<'a, str>,
    pub(super) at: At<'a>,
}

impl Set<'_> {
    pub(super) fn name(&self) -> &'static str {
        self.known.name()
    }
}

/// The sections with options that stand in a resource or in `common`.
const SECTIONS: &[(&str, Kind)] = &[
    ("net", Kind::Net),
    ("disk", Kind::Disk),
    ("options", Kind::Options),
    ("handlers", Kind::Handlers),
    ("startup", Kind::Startup),
    ("syncer", Kind::Syncer),
    ("proxy", Kind::Proxy),
];

fn group(section: Kind, known: Known) -> Group {
    match (section, known) {
        (Kind::Handlers, _) => Group::Handlers,
        (Kind::Startup, _) => Group::Startup,
        (_, Known::Row(row)) if NetOptions::table().iter().any(|other| std::ptr::eq(other, row)) => {
            Group::Net
        }
        (_, Known::Row(row)) if DiskOptions::table().iter().any(|other| std::ptr::eq(other, row)) => {
            Group::Disk
        }
        (_, Known::Row(_)) => Group::Options,
        _ => Group::Other,
    }
}

/// The options of one section of options.
pub(super) fn section_sets(kind: Kind, at: At<'_>) -> Vec<Set<'_>> {
    let set = |inner: At<'_>| -> Option<_> { option(kind, inner.statement.keyword()) };
    at.block()
        .filter_map(|inner| {
            let (known, off) = set(inner)?;
            let value = match inner.statement.word(1) {
                Some(value) => value,
                None => Cow::Borrowed(if off { "no" } else { "yes" }),
            };
            Some(Set { group: group(kind, known), known, value, at: inner })
        })
        .collect()
}

/// The options that stand in a resource or in `common`, but for those of hosts, volumes and connections.
pub(super) fn sets(at: At<'_>) -> Vec<Set<'_>> {
    let mut all: Vec<Set<'_>> = Vec::new();
    for inner in at.block() {
        let keyword = inner.statement.keyword();
        if keyword == "protocol" {
            let known = option(Kind::Net, keyword).map(|(known, _)| known);
            let value = inner.statement.word(1);
            all.extend(known.zip(value).map(|(known, value)| Set {
                group: Group::Net,
                known,
                value,
                at: inner,
            }));
        } else if let Some((_, kind)) =
            SECTIONS.iter().find(|(name, _)| *name == keyword && inner.statement.has_block())
        {
            all.extend(section_sets(*kind, inner));
        }
    }
    all
}

/// Enters options over others: of one section the first counts, between sections the later.
pub(super) fn overlay<'a>(under: &mut Vec<Set<'a>>, over: Vec<Set<'a>>) {
    let begin = under.len();
    for set in over {
        let is = |other: &Set<'a>| other.group == set.group && other.name() == set.name();
        if under.iter().skip(begin).any(is) {
            continue;
        }
        under.push(set);
    }
    let fresh = under.split_off(begin);
    under.retain(|old| !fresh.iter().any(|set| set.group == old.group && set.name() == old.name()));
    under.extend(fresh);
}

/// A volume on a host.
#[derive(Clone)]
pub(super) struct VolumeDef<'a> {
    pub(super) number: u16,
    pub(super) minor: Option<u32>,
    pub(super) disk: Option<Cow<'a, str>>,
    pub(super) meta: Option<(String, Option<u16>)>,
    pub(super) options: Vec<Set<'a>>,
    pub(super) at: At<'a>,
}

/// A host of a resource.
#[derive(Clone)]
pub(super) struct Node<'a> {
    /// Its names; the address of a floating one.
    pub(super) names: Vec<String>,
    pub(super) address: Option<(&'static str, String, u16)>,
    pub(super) node_id: Option<u32>,
    pub(super) volumes: Vec<VolumeDef<'a>>,
    pub(super) at: At<'a>,
}

/// A resource with what it inherits.
#[derive(Clone)]
pub(super) struct Resolved<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) sets: Vec<Set<'a>>,
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) at: At<'a>,
}

impl<'a> Resolved<'a> {
    pub(super) fn set(&self, group: Group, name: &str) -> Option<&Set<'a>> {
        self.sets.iter().find(|set| set.group == group && set.name() == name)
    }

    /// The value an option has, by default the kernel's.
    pub(super) fn value(&self, group: Group, name: &str) -> String {
        if let Some(set) = self.set(group, name) {
            return set.value.to_ascii_lowercase();
        }
        let default = match group {
            Group::Net => NetOptions::new().get(name),
            Group::Disk => DiskOptions::new().get(name),
            _ => ResourceOptions::new().get(name),
        };
        default.unwrap_or_default().to_ascii_lowercase()
    }
}

impl Conf {
    /// Whether it needs DRBD 9: node ids, connections, paths, templates.
    #[must_use]
    pub fn is_for_9(&self) -> bool {
        fn has(at: At<'_>) -> bool {
            const NEW: &[&str] = &["node-id", "connection", "connection-mesh", "template-file", "path"];
            at.block().any(|inner| NEW.contains(&inner.statement.keyword()) || has(inner))
        }
        self.tops().into_iter().any(|at| {
            let keyword = at.statement.keyword();
            keyword.starts_with("require-drbd-module-version-") || (keyword == "resource" && has(at))
        })
    }

    /// The resources with what they inherit.
    pub(super) fn resolved(&self) -> Vec<Resolved<'_>> {
        let tops = self.tops();
        let mut common = Vec::new();
        for at in tops.iter().filter(|at| at.statement.keyword() == "common") {
            overlay(&mut common, sets(*at));
        }
        let resources = tops.iter().filter(|at| at.statement.keyword() == "resource");
        resources.filter_map(|at| resolve(*at, &common)).collect()
    }

    /// The spec of a resource on a node: what [`Drbd::ensure`](crate::Drbd::ensure) takes. `node` is its name as `uname -n` has it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such resource; [`Error::Spec`] with the place if it has not two hosts, lacks something, or has an
    /// option that 8.4 does not have.
    #[doc(alias = "drbdadm dump")]
    pub fn spec(&self, name: &ResourceName, node: &str) -> Result<ResourceSpec> {
        let found = self.resolved().into_iter().find(|resolved| resolved.name == name.as_str());
        let found = found.ok_or_else(|| Error::NotFound { name: name.clone() })?;
        spec(name, node, &found)
    }

    /// The specs of all resources that a node has.
    ///
    /// # Errors
    /// As [`spec`](Self::spec).
    pub fn specs(&self, node: &str) -> Result<Vec<ResourceSpec>> {
        let all = self.resolved();
        let here =
            all.iter().filter(|found| found.nodes.iter().any(|n| n.names.iter().any(|name| name == node)));
        here.map(|found| spec(&found.name.parse()?, node, found)).collect()
    }
}

fn resolve<'a>(at: At<'a>, common: &[Set<'a>]) -> Option<Resolved<'a>> {
    let mut all = common.to_vec();
    overlay(&mut all, sets(at));
    let shared = volumes(at);
    let mut nodes: Vec<Node<'a>> = Vec::new();
    for inner in at.block() {
        let words: Vec<_> = inner.statement.words(1).map(Cow::into_owned).collect();
        let parts: Vec<&str> = words.iter().map(String::as_str).collect();
        let address = match inner.statement.keyword() {
            "on" | "_this_host" => address_in(inner),
            "floating" => endpoint(&parts).ok(),
            _ => continue,
        };
        let names = match (&address, inner.statement.keyword()) {
            (Some((_, ip, port)), "floating") => vec![format!("{ip}:{port}")],
            _ => words,
        };
        let node_id = inner.statement.find("node-id").and_then(|s| s.word(1)?.parse().ok());
        let volumes = merged(&shared, volumes(inner));
        nodes.push(Node { names, address, node_id, volumes, at: inner });
    }
    addresses_of_connections(at, &mut nodes);
    Some(Resolved { name: at.statement.word(1)?, sets: all, nodes, at })
}

fn address_in(at: At<'_>) -> Option<(&'static str, String, u16)> {
    let statement = at.statement.find("address")?;
    let words: Vec<_> = statement.words(1).collect();
    endpoint(&words.iter().map(AsRef::as_ref).collect::<Vec<&str>>()).ok()
}

/// `connection { host NAME address ...; }` and `host NAME port N;` say where a host is, too.
fn addresses_of_connections(at: At<'_>, nodes: &mut [Node<'_>]) {
    for connection in at.block().filter(|inner| inner.statement.keyword() == "connection") {
        let paths: Vec<_> = connection.block().filter(|inner| inner.statement.keyword() == "path").collect();
        for host in connection.block().chain(paths.into_iter().flat_map(At::block)) {
            let words: Vec<_> = host.statement.words(1).collect();
            let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
            // By the whole name, or by what stands before its first dot.
            let found = |name: &str, nodes: &[Node<'_>]| {
                let is = |full: &String| full == name || full.split('.').next() == Some(name);
                nodes.iter().position(|node| node.names.iter().any(is))
            };
            match (host.statement.keyword(), words.as_slice()) {
                ("host", [name, "address", rest @ ..]) => {
                    let node = found(name, nodes).and_then(|place| nodes.get_mut(place));
                    if let Some(node) = node.filter(|node| node.address.is_none()) {
                        node.address = endpoint(rest).ok();
                    }
                }
                ("host", [name, "port", port, ..]) => {
                    let node = found(name, nodes).and_then(|place| nodes.get_mut(place));
                    if let (Some((_, _, old)), Ok(port)) =
                        (node.and_then(|n| n.address.as_mut()), port.parse())
                    {
                        *old = port;
                    }
                }
                _ => {}
            }
        }
    }
}

/// The volumes of a resource or host section: numbered ones, else one that is made of the section's own statements.
fn volumes(at: At<'_>) -> Vec<VolumeDef<'_>> {
    let numbered = at.block().filter(|inner| inner.statement.keyword() == "volume");
    let mut all: Vec<_> = numbered
        .filter_map(|inner| {
            let number = inner.statement.word(1)?.parse().ok()?;
            let options =
                inner.block().filter(|i| i.statement.keyword() == "disk" && i.statement.has_block());
            let options = options.flat_map(|inner| section_sets(Kind::Disk, inner)).collect();
            Some(VolumeDef { options, ..volume(number, inner) })
        })
        .collect();
    let implicit = volume(0, at);
    if implicit.minor.is_some() || implicit.disk.is_some() || implicit.meta.is_some() {
        all.push(implicit);
    }
    all
}

fn volume(number: u16, at: At<'_>) -> VolumeDef<'_> {
    let mut volume = VolumeDef { number, minor: None, disk: None, meta: None, options: Vec::new(), at };
    for inner in at.block().filter(|inner| !inner.statement.has_block()) {
        let words: Vec<_> = inner.statement.words(1).collect();
        let parts: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        match inner.statement.keyword() {
            "device" => volume.minor = device(&parts).ok().flatten(),
            "disk" => volume.disk = words.into_iter().next(),
            "meta-disk" | "flexible-meta-disk" => volume.meta = meta_disk(&parts),
            _ => {}
        }
    }
    volume
}

/// A host's volumes over those of the resource.
fn merged<'a>(shared: &[VolumeDef<'a>], own: Vec<VolumeDef<'a>>) -> Vec<VolumeDef<'a>> {
    let mut all = shared.to_vec();
    for volume in own {
        match all.iter_mut().find(|other| other.number == volume.number) {
            Some(under) => {
                under.minor = volume.minor.or(under.minor);
                under.disk = volume.disk.or_else(|| under.disk.take());
                under.meta = volume.meta.or_else(|| under.meta.take());
                overlay(&mut under.options, volume.options);
                under.at = volume.at;
            }
            None => all.push(volume),
        }
    }
    all.sort_by_key(|volume| volume.number);
    all
}

fn spec(name: &ResourceName, node: &str, found: &Resolved<'_>) -> Result<ResourceSpec> {
    let wrong =
        |place: Place, reason: &str| Error::Spec { name: name.clone(), reason: format!("{place}: {reason}") };
    let whole = |reason: &str| wrong(found.at.place(1), reason);
    let is_here = |n: &&Node<'_>| n.names.iter().any(|name| name == node);
    let here = found.nodes.iter().find(is_here).ok_or_else(|| whole(&format!("it has no host {node:?}")))?;
    let others: Vec<_> = found.nodes.iter().filter(|n| !is_here(n)).collect();
    let [there] = others.as_slice() else {
        return Err(whole(&format!("it has {} hosts, and this crate sets up two", found.nodes.len())));
    };
    let address = |node: &Node<'_>| -> Result<SocketAddr> {
        let at = || node.at.place(0);
        let (family, ip, port) =
            node.address.as_ref().ok_or_else(|| wrong(at(), "the host has no address"))?;
        socket_address(family, ip, *port).ok_or_else(|| {
            wrong(
                at(),
                &format!("the address {family} {ip}:{port} cannot be used: ipv4, or ipv6 without a scope"),
            )
        })
    };
    let mut spec = ResourceSpec::new(name.clone(), address(here)?, address(there)?);
    let pairs = |group: Group| {
        let sets = found.sets.iter().filter(move |set| set.group == group);
        sets.map(|set| (set.name(), &*set.value)).collect::<Vec<_>>()
    };
    spec.net = NetOptions::from_pairs(pairs(Group::Net))?;
    spec.disk = DiskOptions::from_pairs(disk_pairs(&found.sets))?;
    spec.options = ResourceOptions::from_pairs(pairs(Group::Options))?;
    spec.volumes = volume_specs(name, found, here)?;
    spec.check()?;
    Ok(spec)
}

/// The volumes of a host.
pub(super) fn volume_specs(
    name: &ResourceName,
    found: &Resolved<'_>,
    here: &Node<'_>,
) -> Result<Vec<VolumeSpec>> {
    let mut all = Vec::new();
    for volume in &here.volumes {
        let at = |reason: &str| Error::Spec {
            name: name.clone(),
            reason: format!("{}: {reason}", volume.at.place(0)),
        };
        let minor = Minor::new(volume.minor.ok_or_else(|| at("the volume has no device"))?)?;
        let disk = volume.disk.as_deref().filter(|disk| *disk != "none");
        let disk =
            disk.ok_or_else(|| at("the volume has no disk, and this crate sets up none without one"))?;
        let meta = match volume.meta.clone() {
            None => MetaDisk::Internal,
            Some((text, None)) if text == "internal" => MetaDisk::Internal,
            Some((path, None)) => MetaDisk::External(path.into()),
            Some((path, Some(index))) => MetaDisk::Indexed(path.into(), index),
        };
        let mut wanted = VolumeSpec::new(Volume(volume.number), minor, disk).with_meta(meta);
        if !volume.options.is_empty() {
            let mut sets = found.sets.clone();
            overlay(&mut sets, volume.options.clone());
            wanted.options = Some(DiskOptions::from_pairs(disk_pairs(&sets))?);
        }
        all.push(wanted);
    }
    Ok(all)
}

pub(super) fn disk_pairs<'a>(sets: &'a [Set<'_>]) -> Vec<(&'a str, &'a str)> {
    sets.iter().filter(|set| set.group == Group::Disk).map(|set| (set.name(), &*set.value)).collect()
}

pub(super) fn socket_address(family: &str, ip: &str, port: u16) -> Option<SocketAddr> {
    match family {
        "ipv4" => ip.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port)),
        "ipv6" => {
            let (ip, scope) = ip.split_once('%').map_or((ip, "0"), |(ip, scope)| (ip, scope));
            Some(SocketAddr::V6(SocketAddrV6::new(ip.parse().ok()?, port, 0, scope.parse().ok()?)))
        }
        _ => None,
    }
}
