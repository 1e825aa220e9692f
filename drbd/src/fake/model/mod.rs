//! The rules of DRBD 8.4 as far as this crate meets them: what a command answers and what it changes.

mod peer;
mod volume;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::wire::Context;
use crate::{
    ConnState, DiskOptions, DiskState, MetaDisk, Metadata, MetadataFlags, MetadataSpec, NetOptions,
    ReplState, ResourceOptions,
};
use host::Sectors;

/// The generation of new metadata (`UUID_JUST_CREATED`).
pub(super) const JUST_CREATED: u64 = 4;

/// A refusal: the code and the kernel's words. Also the successes of state changes.
pub(super) type Verdict = (i32, &'static str);

pub(super) const OK: Verdict = (101, "");
pub(super) const CHANGED: Verdict = (1, "");
pub(super) const NOTHING_TO_DO: Verdict = (2, "");

/// What is on a disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Generation {
    pub(super) current: u64,
    pub(super) bitmap: u64,
    pub(super) disk: DiskState,
    pub(super) is_clean: bool,
}

impl Generation {
    /// What the kernel makes of a superblock when it attaches (`drbd_adm_attach`).
    pub(super) fn of(block: &Metadata) -> Self {
        let disk = match block.flags {
            flags if !flags.has(MetadataFlags::CONSISTENT) => DiskState::Inconsistent,
            flags if !flags.has(MetadataFlags::WAS_UP_TO_DATE) => DiskState::Outdated,
            _ => DiskState::UpToDate,
        };
        let bitmap = block.peers.first().map_or(0, |peer| peer.bitmap_uuid);
        Self { current: block.current_uuid, bitmap, disk, is_clean: block.is_clean }
    }

    /// And what it writes.
    pub(super) fn into_block(self, block: Metadata, size: u64) -> Metadata {
        let flags = match self.disk {
            DiskState::UpToDate => MetadataFlags::CONSISTENT.0 | MetadataFlags::WAS_UP_TO_DATE.0,
            DiskState::Outdated | DiskState::Consistent => MetadataFlags::CONSISTENT.0,
            _ => 0,
        };
        let mut block = Metadata {
            size: Sectors(size),
            current_uuid: self.current,
            flags: MetadataFlags(flags),
            is_clean: self.is_clean,
            ..block
        };
        block.peers.iter_mut().take(1).for_each(|peer| peer.bitmap_uuid = self.bitmap);
        block
    }
}

#[derive(Debug, Clone)]
pub(super) struct FakeDisk {
    /// In sectors.
    pub(super) size: u64,
    pub(super) meta: Option<Generation>,
    pub(super) claimed: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Backing {
    pub(super) path: String,
    pub(super) meta: MetaDisk,
    pub(super) options: DiskOptions,
}

#[derive(Debug, Clone)]
pub(super) struct Vol {
    pub(super) minor: u32,
    pub(super) primary: bool,
    pub(super) disk: DiskState,
    pub(super) backing: Option<Backing>,
    pub(super) size: u64,
    pub(super) current: u64,
    pub(super) bitmap: u64,
    /// What it does while connected.
    pub(super) repl: ReplState,
    /// In sectors.
    pub(super) out_of_sync: u64,
    pub(super) total: u64,
    /// Whether this node pauses its resync.
    pub(super) paused: bool,
    /// What a verify will find, in sectors.
    pub(super) differs: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Net {
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) state: ConnState,
    pub(super) options: NetOptions,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Res {
    pub(super) options: ResourceOptions,
    pub(super) volumes: BTreeMap<u16, Vol>,
    pub(super) net: Option<Net>,
    /// Whether somebody lets I/O wait.
    pub(super) suspended: bool,
}

/// What metadata leaves of a disk, in sectors.
fn room(size: u64) -> u64 {
    let usable = Sectors(size).bytes().and_then(|size| MetadataSpec::v08().usable(size));
    usable.map_or(0, |usable| usable.sectors().0)
}

impl Res {
    pub(super) fn is_primary(&self) -> bool {
        self.volumes.values().any(|v| v.primary)
    }

    fn is_connected(&self) -> bool {
        self.net.as_ref().is_some_and(|net| net.state == ConnState::Connected)
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    pub(super) resources: BTreeMap<String, Res>,
    pub(super) disks: BTreeMap<String, FakeDisk>,
    /// Minors that somebody holds open.
    pub(super) held: Vec<u32>,
}

/// A resource on a node.
pub(super) type Place = (usize, String);

/// Several nodes and the network between them.
#[derive(Debug, Clone, Default)]
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    pub(super) is_cut: bool,
    generations: u64,
    /// Helpers that were called: where, for which volume and minor, which.
    pub(super) calls: Vec<(Place, u16, u32, &'static str)>,
}

impl Cluster {
    pub(super) fn get(&self, place: &Place) -> Option<&Res> {
        self.nodes.get(place.0)?.resources.get(&place.1)
    }

    pub(super) fn get_mut(&mut self, place: &Place) -> Option<&mut Res> {
        self.nodes.get_mut(place.0)?.resources.get_mut(&place.1)
    }

    fn disk_mut(&mut self, node: usize, path: &str) -> Option<&mut FakeDisk> {
        self.nodes.get_mut(node)?.disks.get_mut(path)
    }

    pub(super) fn places(&self) -> Vec<Place> {
        let nodes = self.nodes.iter().enumerate();
        nodes.flat_map(|(n, node)| node.resources.keys().map(move |name| (n, name.clone()))).collect()
    }

    /// Where a minor of a node is.
    pub(super) fn find(&self, node: usize, minor: u32) -> Option<(Place, u16)> {
        self.nodes.get(node)?.resources.iter().find_map(|(name, res)| {
            let (volume, _) = res.volumes.iter().find(|(_, v)| v.minor == minor)?;
            Some(((node, name.clone()), *volume))
        })
    }

    /// The other end of a connection, whether it is up or not.
    fn other_end(&self, place: &Place) -> Option<Place> {
        let net = self.get(place)?.net.as_ref()?;
        self.places().into_iter().filter(|other| other != place).find(|other| {
            let theirs = self.get(other).and_then(|res| res.net.as_ref());
            theirs.is_some_and(|theirs| (theirs.local, theirs.peer) == (net.peer, net.local))
        })
    }

    /// The peer of a connection that is up.
    pub(super) fn partner(&self, place: &Place) -> Option<Place> {
        self.get(place).filter(|res| res.is_connected())?;
        self.other_end(place)
    }

    fn new_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations * 0x1_0000
    }

    pub(super) fn new_resource(
        &mut self,
        node: usize,
        name: &str,
        options: ResourceOptions,
        exclusive: bool,
    ) -> Verdict {
        let Some(node) = self.nodes.get_mut(node) else { return (162, "") };
        if name.is_empty() || name.contains('/') {
            return (162, "invalid resource name");
        }
        if node.resources.contains_key(name) {
            return if exclusive { (162, "resource exists") } else { OK };
        }
        node.resources.insert(name.to_owned(), Res { options, ..Res::default() });
        OK
    }

    pub(super) fn del_resource(&mut self, place: &Place) -> Verdict {
        match self.get(place) {
            None => (158, "unknown resource"),
            Some(res) if res.net.is_some() => (125, ""),
            Some(res) if !res.volumes.is_empty() => (159, ""),
            Some(_) => {
                if let Some(node) = self.nodes.get_mut(place.0) {
                    node.resources.remove(&place.1);
                }
                OK
            }
        }
    }

    pub(super) fn new_minor(&mut self, place: &Place, volume: u16, minor: u32, exclusive: bool) -> Verdict {
        if self.get(place).is_none() {
            return (158, "unknown resource");
        }
        match self.find(place.0, minor) {
            Some((other, number)) if !exclusive && other == *place && number == volume => return OK,
            Some(_) => return (161, ""),
            None => {}
        }
        let Some(res) = self.get_mut(place).filter(|res| !res.volumes.contains_key(&volume)) else {
            return (161, "");
        };
        let fresh = Vol {
            minor,
            primary: false,
            disk: DiskState::Diskless,
            backing: None,
            size: 0,
            current: 0,
            bitmap: 0,
            repl: ReplState::Established,
            out_of_sync: 0,
            total: 0,
            paused: false,
            differs: 0,
        };
        res.volumes.insert(volume, fresh);
        OK
    }

    pub(super) fn del_minor(&mut self, node: usize, minor: u32) -> Verdict {
        let Some((place, volume)) = self.find(node, minor) else { return (127, "unknown minor") };
        let Some(res) = self.get_mut(&place) else { return (127, "") };
        if res.volumes.get(&volume).is_some_and(|v| v.primary || v.disk != DiskState::Diskless) {
            return (160, "");
        }
        res.volumes.remove(&volume);
        OK
    }

    pub(super) fn attach(&mut self, node: usize, minor: u32, backing: Backing) -> Verdict {
        let Some((place, volume)) = self.find(node, minor) else { return (127, "unknown minor") };
        let attached = |res: &Res| res.volumes.get(&volume).is_some_and(|v| v.backing.is_some());
        if self.get(&place).is_some_and(attached) {
            return (124, "");
        }
        let Some(disk) = self.disk_mut(node, &backing.path) else { return (104, "") };
        let (size, Some(meta)) = (disk.size, disk.meta) else { return (119, "") };
        match () {
            () if disk.claimed => return (114, ""),
            () if !meta.is_clean => return (165, ""),
            () => disk.claimed = true,
        }
        if let Some(meta) = &mut disk.meta {
            // While it is attached the log is never clean.
            meta.is_clean = false;
        }
        if let Some(vol) = self.get_mut(&place).and_then(|res| res.volumes.get_mut(&volume)) {
            let room = room(size);
            let asked = backing.options.get("size").and_then(|text| text.strip_suffix('s')?.parse().ok());
            vol.size = asked.filter(|asked| *asked > 0).map_or(room, |asked: u64| asked.min(room));
            vol.current = meta.current;
            vol.bitmap = meta.bitmap;
            vol.disk = meta.disk;
            vol.backing = Some(backing);
        }
        self.handshake(&place);
        OK
    }

    pub(super) fn detach(&mut self, node: usize, minor: u32) -> Verdict {
        let Some((place, volume)) = self.find(node, minor) else { return (127, "unknown minor") };
        let peer = self.partner(&place).and_then(|p| self.get(&p)?.volumes.get(&volume).cloned());
        let Some(vol) = self.get_mut(&place).and_then(|res| res.volumes.get_mut(&volume)) else {
            return (127, "");
        };
        if vol.backing.is_none() {
            return NOTHING_TO_DO;
        }
        let peer_has = peer.as_ref().is_some_and(|peer| peer.disk == DiskState::UpToDate);
        if !peer_has && (vol.primary || peer.is_some_and(|peer| peer.primary)) {
            return (-2, "");
        }
        self.put_away(&place, volume);
        CHANGED
    }

    /// Writes what is known of a volume to its disk, and gives the disk back.
    fn put_away(&mut self, place: &Place, volume: u16) {
        let Some(vol) = self.get_mut(place).and_then(|res| res.volumes.get_mut(&volume)) else { return };
        let Some(backing) = vol.backing.take() else { return };
        let left = Generation { current: vol.current, bitmap: vol.bitmap, disk: vol.disk, is_clean: false };
        vol.disk = DiskState::Diskless;
        vol.repl = ReplState::Established;
        if let Some(disk) = self.disk_mut(place.0, &backing.path) {
            disk.claimed = false;
            disk.meta = Some(left);
        }
    }

    pub(super) fn connect(
        &mut self,
        place: &Place,
        ends: Option<(SocketAddr, SocketAddr)>,
        options: NetOptions,
    ) -> Verdict {
        let Some((local, peer)) = ends else { return (162, "connection endpoint(s) missing") };
        let Some(res) = self.get(place) else { return (158, "unknown resource") };
        let others = self.nodes.get(place.0).into_iter().flat_map(|node| node.resources.values());
        let others: Vec<_> = others.filter_map(|res| res.net.as_ref()).collect();
        if others.iter().any(|net| net.local == local) {
            return (102, "");
        }
        if others.iter().any(|net| net.peer == peer) {
            return (103, "");
        }
        if options.two_primaries() && options.get("protocol").as_deref() != Some("C") {
            return (139, "");
        }
        if options.discards_my_data() && res.is_primary() {
            return (123, "");
        }
        if let Some(res) = self.get_mut(place) {
            res.net = Some(Net { local, peer, state: ConnState::Connecting, options });
        }
        self.settle();
        CHANGED
    }

    /// The place of a connection that is named by its addresses alone.
    pub(super) fn by_addresses(&self, node: usize, context: &Context, minor: u32) -> Result<Place, Verdict> {
        if context.resource.is_some() {
            return Err((162, "no resource name expected"));
        }
        if minor != u32::MAX && self.find(node, minor).is_some() {
            return Err((162, "no minor number expected"));
        }
        let ends = |res: &Res| res.net.as_ref().map(|net| (net.local, net.peer));
        let found = self.nodes.get(node).and_then(|n| {
            n.resources.iter().find(|(_, res)| context.addresses.is_some() && ends(res) == context.addresses)
        });
        found.map(|(name, _)| (node, name.clone())).ok_or((162, "unknown connection"))
    }

    pub(super) fn disconnect(&mut self, place: &Place) -> Verdict {
        if let Some(res) = self.get_mut(place) {
            res.net = None;
        }
        self.lost(place);
        self.settle();
        CHANGED
    }

    /// The connection of a resource is gone: a Primary begins a new generation, and a sync stops where it was.
    fn lost(&mut self, place: &Place) {
        let numbers: Vec<u16> =
            self.get(place).map(|res| res.volumes.keys().copied().collect()).unwrap_or_default();
        for number in numbers {
            let fresh = self.new_generation();
            let Some(vol) = self.get_mut(place).and_then(|res| res.volumes.get_mut(&number)) else {
                continue;
            };
            if vol.primary && vol.disk == DiskState::UpToDate && vol.bitmap == 0 {
                (vol.bitmap, vol.current) = (vol.current, fresh);
            }
            vol.repl = ReplState::Established;
        }
    }

    pub(super) fn promote(&mut self, node: usize, minor: u32, force: bool) -> Verdict {
        let Some((place, volume)) = self.find(node, minor) else { return (127, "unknown minor") };
        let partner = self.partner(&place).and_then(|partner| self.get(&partner)).cloned();
        let allowed = |res: &Res| res.net.as_ref().is_some_and(|net| net.options.two_primaries());
        let (two, connected) = (self.get(&place).is_some_and(allowed), partner.is_some());
        let peer_has = partner.as_ref().and_then(|p| p.volumes.get(&volume)).map(|v| v.disk);
        let fresh = self.new_generation();
        let Some(vol) = self.get_mut(&place).and_then(|res| res.volumes.get_mut(&volume)) else {
            return (127, "");
        };
        if vol.primary {
            return NOTHING_TO_DO;
        }
        if partner.is_some_and(|p| p.is_primary()) && !two {
            return (-1, "");
        }
        if vol.disk != DiskState::UpToDate && peer_has != Some(DiskState::UpToDate) {
            let usable =
                matches!(vol.disk, DiskState::Inconsistent | DiskState::Outdated | DiskState::Consistent);
            if !force || !usable {
                return (-2, "");
            }
            vol.disk = DiskState::UpToDate;
            (vol.bitmap, vol.current) = (0, fresh);
        } else if !connected && vol.bitmap == 0 {
            (vol.bitmap, vol.current) = (vol.current, fresh);
        }
        vol.primary = true;
        self.handshake(&place);
        CHANGED
    }

    pub(super) fn demote(&mut self, node: usize, minor: u32) -> Verdict {
        let Some((place, volume)) = self.find(node, minor) else { return (127, "unknown minor") };
        let held = self.nodes.get(node).is_some_and(|node| node.held.contains(&minor));
        let Some(vol) = self.get_mut(&place).and_then(|res| res.volumes.get_mut(&volume)) else {
            return (127, "");
        };
        match (vol.primary, held) {
            (false, _) => NOTHING_TO_DO,
            (true, true) => (-12, ""),
            (true, false) => {
                vol.primary = false;
                CHANGED
            }
        }
    }

    pub(super) fn down(&mut self, place: &Place) -> Verdict {
        let Some(res) = self.get(place) else { return (158, "unknown resource") };
        let volumes: Vec<_> = res.volumes.iter().map(|(number, vol)| (*number, vol.minor)).collect();
        for (_, minor) in &volumes {
            if self.demote(place.0, *minor).0 < 0 {
                return (-12, "failed to demote");
            }
        }
        self.disconnect(place);
        for (number, _) in volumes {
            self.put_away(place, number);
        }
        if let Some(node) = self.nodes.get_mut(place.0) {
            node.resources.remove(&place.1);
        }
        OK
    }

    /// The node loses power: nothing is written, its peers lose it.
    pub(super) fn power_cut(&mut self, node: usize) {
        let gone: Vec<_> = self.places().into_iter().filter(|place| place.0 == node).collect();
        for place in &gone {
            let volumes: Vec<_> =
                self.get(place).map(|res| res.volumes.keys().copied().collect()).unwrap_or_default();
            volumes.into_iter().for_each(|number| self.put_away(place, number));
        }
        if let Some(node) = self.nodes.get_mut(node) {
            node.resources.clear();
            node.held.clear();
        }
        self.settle();
    }
}
