//! What a configuration means to DRBD 9: node ids, connections between any number of hosts, paths.

use std::net::SocketAddr;

use super::check::endpoint;
use super::model::{
    Group, Node, Resolved, Set, disk_pairs, overlay, section_sets, socket_address, volume_specs,
};
use super::{At, Conf, Kind};
use crate::nine::{NodeId, PeerSpec, ResourceSpec};
use crate::{DiskOptions, Error, NetOptions, ResourceName, ResourceOptions, Result};

/// A host as a connection names it, with the address it has there.
type End = (String, Option<(&'static str, String, u16)>);

/// A connection between two hosts.
struct Connection<'a> {
    /// Pairs of ends; where a connection has none of its own, the hosts' addresses count.
    paths: Vec<[End; 2]>,
    options: Vec<Set<'a>>,
}

impl Conf {
    /// The spec of a resource on a node for DRBD 9: what [`Drbd::ensure_9`](crate::Drbd::ensure_9) takes. `node` is its name as `uname -n`
    /// has it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such resource; [`Error::Spec`] with the place if a host lacks an id, an address or a disk
    /// ([`to_9`](Self::to_9) gives ids to a configuration of 8.4), or has an option that DRBD 9 does not have.
    #[doc(alias = "drbdadm dump")]
    pub fn spec_9(&self, name: &ResourceName, node: &str) -> Result<ResourceSpec> {
        let found = self.resolved().into_iter().find(|resolved| resolved.name == name.as_str());
        spec(name, node, &found.ok_or_else(|| Error::NotFound { name: name.clone() })?)
    }
}

fn spec(name: &ResourceName, node: &str, found: &Resolved<'_>) -> Result<ResourceSpec> {
    let wrong = |at: At<'_>, reason: &str| Error::Spec {
        name: name.clone(),
        reason: format!("{}: {reason}", at.place(0)),
    };
    let here = find(found, node).ok_or_else(|| wrong(found.at, &format!("it has no host {node:?}")))?;
    let id = |node: &Node<'_>| {
        let id = node.node_id.and_then(|id| u8::try_from(id).ok());
        id.map(NodeId).ok_or_else(|| wrong(node.at, "the host has no node-id, which DRBD 9 needs"))
    };
    let mut wanted = ResourceSpec::new(name.clone(), id(here)?);
    let pairs = |sets: &[Set<'_>], group: Group| -> Vec<(&'static str, String)> {
        let sets = sets.iter().filter(|set| set.group == group);
        sets.map(|set| (set.name(), set.value.to_string())).collect()
    };
    let options = pairs(&found.sets, Group::Options);
    wanted.options =
        ResourceOptions::from_pairs(options.iter().map(|(name, value)| (*name, value.as_str())))?;
    wanted.disk = DiskOptions::from_pairs(disk_pairs(&found.sets))?;
    wanted.volumes = volume_specs(name, found, here)?;
    for connection in connections(found, here) {
        let mut peer: Option<PeerSpec> = None;
        let mut sets = found.sets.clone();
        let disk = DiskOptions::from_pairs(disk_pairs(&connection.options))?;
        overlay(&mut sets, connection.options);
        for ends in connection.paths {
            let [own, other] = ends;
            let there = find(found, &other.0)
                .ok_or_else(|| wrong(found.at, &format!("it has no host {:?}", other.0)))?;
            let address = |node: &Node<'_>, end: &End| -> Result<SocketAddr> {
                let place = end.1.as_ref().or(node.address.as_ref());
                let address = place.and_then(|(family, ip, port)| socket_address(family, ip, *port));
                address.ok_or_else(|| wrong(node.at, "the host has no address that can be used"))
            };
            let path = (address(here, &own)?, address(there, &other)?);
            let node = id(there)?;
            let name = there.names.first().cloned().unwrap_or_default();
            peer.get_or_insert_with(|| PeerSpec::new(node, name)).paths.push(path);
        }
        let Some(mut peer) = peer else { continue };
        let net = pairs(&sets, Group::Net);
        peer.net = NetOptions::from_pairs(net.iter().map(|(name, value)| (*name, value.as_str())))?;
        peer.disk = disk;
        wanted.peers.push(peer);
    }
    wanted.check()?;
    Ok(wanted)
}

fn is(node: &Node<'_>, name: &str) -> bool {
    node.names.iter().any(|full| full == name || full.split('.').next() == Some(name))
}

fn find<'a, 'b>(found: &'a Resolved<'b>, name: &str) -> Option<&'a Node<'b>> {
    found.nodes.iter().find(|node| is(node, name))
}

/// The connections of a host, each with its own end first.
fn connections<'a>(found: &Resolved<'a>, here: &Node<'_>) -> Vec<Connection<'a>> {
    let bare = |node: &Node<'_>| (node.names.first().cloned().unwrap_or_default(), None);
    let mut all = Vec::new();
    for at in found.at.block() {
        match at.statement.keyword() {
            "connection" => {
                let mut paths: Vec<_> =
                    at.block().filter(|inner| inner.statement.keyword() == "path").filter_map(ends).collect();
                paths.extend(ends(at));
                let options = own_sets(at);
                all.push(Connection { paths, options });
            }
            "connection-mesh" => {
                let lists = at.block().filter(|inner| inner.statement.keyword() == "hosts");
                let hosts: Vec<_> =
                    lists.flat_map(|list| list.statement.words(1)).map(|name| name.into_owned()).collect();
                for (place, one) in hosts.iter().enumerate() {
                    for other in hosts.iter().skip(place + 1) {
                        let paths = vec![[(one.clone(), None), (other.clone(), None)]];
                        all.push(Connection { paths, options: own_sets(at) });
                    }
                }
            }
            _ => {}
        }
    }
    // Two hosts without a word about their connection.
    if let ([one, other], true) = (found.nodes.as_slice(), all.is_empty()) {
        all.push(Connection { paths: vec![[bare(one), bare(other)]], options: Vec::new() });
    }
    let mine = all.into_iter().filter_map(|mut connection| {
        connection.paths.iter_mut().for_each(|ends| {
            if is(here, &ends[1].0) {
                ends.swap(0, 1);
            }
        });
        connection.paths.retain(|[own, other]| is(here, &own.0) && !is(here, &other.0));
        (!connection.paths.is_empty()).then_some(connection)
    });
    mine.collect()
}

fn own_sets(at: At<'_>) -> Vec<Set<'_>> {
    let sections = at.block().filter(|inner| inner.statement.has_block());
    let kinds = sections.filter_map(|inner| match inner.statement.keyword() {
        "net" => Some(section_sets(Kind::Net, inner)),
        "disk" => Some(section_sets(Kind::Disk, inner)),
        _ => None,
    });
    kinds.flatten().collect()
}

/// The two hosts of a connection or path.
fn ends(at: At<'_>) -> Option<[End; 2]> {
    let mut hosts = at.block().filter(|inner| inner.statement.keyword() == "host").filter_map(|host| {
        let words: Vec<_> = host.statement.words(1).collect();
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        match words.as_slice() {
            [name, "address", rest @ ..] => Some(((*name).to_owned(), endpoint(rest).ok())),
            [name, ..] => Some(((*name).to_owned(), None)),
            [] => None,
        }
    });
    Some([hosts.next()?, hosts.next()?])
}
