//! Two nodes that serve one target: what both must agree on, and the change from one to the other.

mod gate;
mod operate;
mod reservation;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use host::DmName;

use crate::error::{Error, Result};
use crate::name::{GroupName, Tag};
use crate::spec::{Access, AluaGroupSpec, Backing, BackstoreSpec, TargetSpec};

pub use operate::HaState;

/// The access group of a pair's disks.
const GROUP: &str = "ha";

/// Which of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Side {
    /// The first one.
    One,
    /// The second one.
    Two,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        }
    }
}

/// How two nodes serve one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum HaMode {
    /// The node that serves has the target, the other one has nothing; the addresses move with it. Initiators lose their sessions in a move
    /// and log in again, to what they take for the same port.
    Floating,
    /// Both nodes have the target, initiators are logged in to both, and asymmetric access states (ALUA) say which one works. Nothing is made
    /// or removed in a move, and no session ends.
    Alua,
}

/// What is a node's own in [`HaMode::Alua`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct HaNode {
    /// The tag of its portal group and the number of its access group, 1 to 65535: initiators tell the nodes apart by it.
    pub tag: Tag,
    /// Its own addresses, which it always has.
    pub portals: Vec<SocketAddr>,
    /// The relative port identifier of its portal group, where the kernel lets one set it (6.4 and newer). Before, each kernel counts from 1,
    /// and both nodes' ports have the same number; initiators on Linux do not look at it.
    pub port_id: Option<u16>,
}

impl HaNode {
    /// Names a node by the tag of its portal group.
    #[must_use]
    pub fn new(tag: Tag) -> Self {
        Self { tag, portals: Vec::new(), port_id: None }
    }

    /// Adds an address of this node.
    #[must_use]
    pub fn with_portal(mut self, portal: SocketAddr) -> Self {
        self.portals.push(portal);
        self
    }

    /// Sets the relative port identifier (`tpgt_N/rtpi`); different on the two nodes.
    #[must_use]
    pub fn with_port_id(mut self, id: u16) -> Self {
        self.port_id = Some(id);
        self
    }
}

/// A target on two nodes. Both render the same pair, each its own [`Side`], so what initiators know the disks by cannot differ.
///
/// ```
/// use lio::{BackstoreSpec, HaNode, HaPair, Side, Tag, TargetSpec};
/// let target = TargetSpec::new("iqn.2026-01.com.example:r0".parse()?)
///     .with_lun(0, BackstoreSpec::block("r0".parse()?, "/dev/drbd0").with_serial("0a1b2c3d4e5f".parse()?));
/// let pair = HaPair::alua(target, [
///     HaNode::new(Tag(1)).with_portal("10.1.24.11:3260".parse()?),
///     HaNode::new(Tag(2)).with_portal("10.1.24.12:3260".parse()?),
/// ]);
/// let (one, two) = (pair.render(Side::One)?, pair.render(Side::Two)?);
/// assert_eq!((one.tag, two.tag), (Tag(1), Tag(2)));
/// assert!(HaPair::differences(pair.mode(), &one, &two).is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// In the ALUA mode a disk is not exported itself but a device-mapper device in front of it, `/dev/mapper/lio-NAME`, that leads to the disk on
/// the node that serves and answers every command with an error on the other: there a DRBD resource is Secondary and cannot be opened. Hence:
///
/// * at any time one node only can write, so that compare-and-write (ATS) is as atomic as on one node: the other has no disk to compare with,
///   and what waits in a move is answered with an error, never carried out later;
/// * persistent reservations are refused (`emulate_pr=0`): each kernel keeps its own, and cannot be given those of the other while the disk
///   is exported. Initiators are answered "invalid command", which Windows clusters and `SCSI-3` fencing understand as "not supported";
/// * thin provisioning is refused (`emulate_tpu`, `emulate_tpws`): the device in front cannot pass it while it leads nowhere.
#[doc(alias = "failover")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HaPair {
    /// What both have in common; in the ALUA mode without portals, with the disks themselves as backstores.
    pub target: TargetSpec,
    /// What is each node's own; `None` in the floating mode.
    pub nodes: Option<[HaNode; 2]>,
}

impl HaPair {
    /// Names a target that is on the node that serves; see [`HaMode::Floating`].
    #[must_use]
    pub fn floating(target: TargetSpec) -> Self {
        Self { target, nodes: None }
    }

    /// Names a target that is on both nodes; see [`HaMode::Alua`].
    #[must_use]
    pub fn alua(target: TargetSpec, nodes: [HaNode; 2]) -> Self {
        Self { target, nodes: Some(nodes) }
    }

    /// How the nodes serve.
    #[must_use]
    pub fn mode(&self) -> HaMode {
        if self.nodes.is_some() { HaMode::Alua } else { HaMode::Floating }
    }

    /// Checks what can be checked without a kernel.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the part and what would be right.
    pub fn validate(&self) -> Result<()> {
        self.target.validate()?;
        let bad = |reason: &str| Err(Error::invalid(format!("pair {}", self.target.iqn), reason));
        let Some([one, two]) = &self.nodes else { return Ok(()) };
        if !self.target.portals.is_empty() {
            return bad("in the ALUA mode portals are a node's own; give them to HaNode");
        }
        if one.portals.is_empty() || two.portals.is_empty() {
            return bad("each node needs a portal of its own");
        }
        if one.portals.iter().any(|portal| two.portals.contains(portal)) {
            return bad("both nodes have the same portal; in the ALUA mode addresses do not move");
        }
        if one.tag == two.tag || one.tag.0 == 0 || two.tag.0 == 0 {
            return bad("the tags of the nodes differ, and are not 0");
        }
        if one.port_id.is_some() != two.port_id.is_some()
            || (one.port_id.is_some() && one.port_id == two.port_id)
        {
            return bad("the relative port identifiers are set on both nodes, and differ");
        }
        if !self.target.lun_groups.is_empty() || self.target.port_id.is_some() {
            return bad(
                "access groups and relative port identifiers are the pair's; leave them out of the target",
            );
        }
        self.target.luns.values().try_for_each(validate_disk)
    }

    /// What a node shall have. In the ALUA mode the access states are left out: they say who serves at the moment, and are what
    /// [`Lio::takeover`](crate::Lio::takeover) and [`Lio::standby`](crate::Lio::standby) change.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn render(&self, side: Side) -> Result<TargetSpec> {
        self.validate()?;
        let mut target = self.target.clone();
        let Some(node) = self.node(side) else { return Ok(target) };
        let name: GroupName = GROUP.parse()?;
        target.tag = node.tag;
        target.portals.clone_from(&node.portals);
        target.port_id = node.port_id;
        for (lun, disk) in &mut target.luns {
            disk.backing = Backing::Block { device: front(disk)?.path() };
            disk.attributes.insert("emulate_pr".to_owned(), "0".to_owned());
            // The kernel's own delay makes each command on a path that is not optimized wait 100 ms.
            let group = AluaGroupSpec::new(node.tag.0)
                .with_attribute("alua_access_type", 1)
                .with_attribute("nonop_delay_msecs", 0);
            disk.alua.insert(name.clone(), group);
            target.lun_groups.insert(*lun, name.clone());
        }
        Ok(target)
    }

    /// Compares the specifications of two nodes, also ones that were not rendered: read from files, or from what runs
    /// ([`Lio::running`](crate::Lio::running)). Each line is something by which initiators would take one disk for two, two for one, or lose
    /// a path.
    #[must_use]
    pub fn differences(mode: HaMode, one: &TargetSpec, two: &TargetSpec) -> Vec<String> {
        let mut found = Vec::new();
        let mut differ = |what: String, one: String, two: String| {
            if one != two {
                found
                    .push(format!("{what}: {one} on one node, {two} on the other; initiators need the same"));
            }
        };
        differ("name".to_owned(), one.iqn.to_string(), two.iqn.to_string());
        let numbers = |of: &TargetSpec| list(of.luns.keys());
        differ("LUN numbers".to_owned(), numbers(one), numbers(two));
        for (lun, disk) in &one.luns {
            let Some(twin) = two.luns.get(lun) else { continue };
            for (what, get) in IDENTITY {
                differ(format!("LUN {lun}, {what}"), get(disk), get(twin));
            }
        }
        differ("initiators".to_owned(), list(one.acls.keys()), list(two.acls.keys()));
        for (name, acl) in &one.acls {
            let Some(twin) = two.acls.get(name) else { continue };
            let seen = |target: &TargetSpec, acl| {
                let seen = target.mapped(acl);
                list(seen.iter().map(|(seen, m)| format!("{seen} shows {} ({:?})", m.target_lun, m.access)))
            };
            differ(format!("what {name} sees"), seen(one, acl), seen(two, twin));
            let same = acl.auth == twin.auth;
            differ(
                format!("passwords of {name}"),
                "one".to_owned(),
                (if same { "one" } else { "another" }).to_owned(),
            );
        }
        let tags = [one.tag, two.tag].map(|tag| tag.to_string());
        let ports = [one.port_id, two.port_id];
        let portals =
            [one, two].map(|of| of.portals.iter().copied().collect::<std::collections::BTreeSet<_>>());
        match mode {
            HaMode::Floating => {
                let [a, b] = tags;
                differ("tag".to_owned(), a, b);
                let [a, b] = ports.map(|id| id.map_or("the kernel's choice".to_owned(), |id| id.to_string()));
                differ("relative port identifier".to_owned(), a, b);
                differ("portals".to_owned(), list(&portals[0]), list(&portals[1]));
            }
            HaMode::Alua => {
                let mut equal = |what: &str| {
                    found.push(format!(
                        "{what} is the same on both nodes; initiators would take two ports for one"
                    ));
                };
                if tags[0] == tags[1] {
                    equal(&format!("tag {}", tags[0]));
                }
                if let [Some(a), Some(b)] = ports
                    && a == b
                {
                    equal(&format!("relative port identifier {a}"));
                }
                portals[0].intersection(&portals[1]).for_each(|portal| equal(&format!("portal {portal}")));
            }
        }
        found
    }

    fn node(&self, side: Side) -> Option<&HaNode> {
        let [one, two] = self.nodes.as_ref()?;
        Some(match side {
            Side::One => one,
            Side::Two => two,
        })
    }
}

/// What initiators know a disk by.
type Identity = (&'static str, fn(&BackstoreSpec) -> String);
const IDENTITY: [Identity; 6] = [
    ("serial", |disk| shown(disk.serial.as_ref())),
    ("identifier", |disk| shown(disk.wwid().as_ref())),
    ("vendor", |disk| shown(disk.vendor.as_ref())),
    ("product", BackstoreSpec::shown_product),
    ("revision", |disk| shown(disk.revision.as_ref())),
    ("block size", |disk| shown(disk.attributes.get("block_size"))),
];

fn shown(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "the kernel's".to_owned(), ToString::to_string)
}

fn list<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    let all: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// The device in front of a disk, which LIO opens.
fn front(disk: &BackstoreSpec) -> Result<DmName> {
    Ok(format!("lio-{}", disk.name).parse()?)
}

/// What a disk of the ALUA mode cannot be.
fn validate_disk(disk: &BackstoreSpec) -> Result<()> {
    let bad = |reason: &str| Err(Error::invalid(format!("backstore {}", disk.name), reason));
    let set = |name: &str, value: &str| disk.attributes.get(name).is_some_and(|is| is == value);
    let path = match &disk.backing {
        Backing::Block { device } => device.as_path(),
        _ => Path::new(""),
    };
    match () {
        () if path.as_os_str().is_empty() => {
            bad("in the ALUA mode a disk is a block device that both nodes have")
        }
        () if disk.access != Access::ReadWrite => {
            bad("in the ALUA mode a disk is written; write-protect its mapped LUNs instead")
        }
        () if !disk.alua.is_empty() => {
            bad("in the ALUA mode the access groups are the pair's; leave them out")
        }
        () if set("emulate_pr", "1") || !disk.reservations.is_empty() => bad(
            "in the ALUA mode each kernel would keep persistent reservations of its own; leave emulate_pr out (it becomes 0), or use the floating mode",
        ),
        () if set("emulate_tpu", "1") || set("emulate_tpws", "1") => {
            bad("in the ALUA mode there is no thin provisioning; leave emulate_tpu and emulate_tpws out")
        }
        () if set("block_size", "512") || !disk.attributes.contains_key("block_size") => {
            front(disk).map(drop)
        }
        () => bad("in the ALUA mode blocks have 512 bytes"),
    }
}

/// The disks of a pair by the one file that changes the access state of each; one for all of a group of backstores.
fn flips(disks: Vec<(&BackstoreSpec, String)>) -> Vec<String> {
    let mut groups = BTreeMap::new();
    let mut files = Vec::new();
    for (disk, dir) in disks {
        let file = format!("{dir}/alua/{GROUP}/alua_access_state");
        match &disk.lu_group {
            // A transition of one takes the groups of the same number of all of them with it (core_alua_do_port_transition).
            Some(group) if groups.insert(group.name.clone(), ()).is_some() => {}
            _ => files.push(file),
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> TargetSpec {
        let disk = |name: &str| {
            BackstoreSpec::block(name.parse().unwrap(), format!("/dev/{name}"))
                .with_serial(crate::UnitSerial::derived_from(name))
        };
        TargetSpec::new("iqn.2026-01.lab:r".parse().unwrap()).with_lun(0, disk("r0")).with_lun(7, disk("r1"))
    }

    fn nodes() -> [HaNode; 2] {
        [(1, "10.0.0.1:3260"), (2, "10.0.0.2:3260")]
            .map(|(tag, portal)| HaNode::new(Tag(tag)).with_portal(portal.parse().unwrap()))
    }

    #[test]
    fn what_the_alua_mode_cannot_keep_is_refused_with_the_reason() {
        let with = |name: &str, value: u16| {
            let mut target = target();
            let disk = target.luns.remove(&crate::Lun::from(0)).unwrap();
            target.with_lun(0, disk.with_attribute(name, value))
        };
        let mut same = nodes();
        same[1].tag = Tag(1);
        let mut portal = nodes();
        portal[1].portals = portal[0].portals.clone();
        let mut port_id = nodes();
        port_id[0].port_id = Some(5);
        let cases = [
            (with("emulate_pr", 1), nodes(), "persistent reservations"),
            (with("emulate_tpu", 1), nodes(), "thin provisioning"),
            (with("block_size", 4096), nodes(), "512 bytes"),
            (target().with_port_id(3), nodes(), "leave them out"),
            (target().with_portal("10.0.0.9:3260".parse().unwrap()), nodes(), "a node's own"),
            (target(), same, "tags of the nodes differ"),
            (target(), portal, "same portal"),
            (target(), port_id, "port identifiers"),
        ];
        for (target, nodes, words) in cases {
            let error = HaPair::alua(target, nodes).render(Side::One).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn what_initiators_would_notice_is_found() {
        let pair = HaPair::alua(target(), nodes());
        let (one, two) = (pair.render(Side::One).unwrap(), pair.render(Side::Two).unwrap());
        assert_eq!(HaPair::differences(HaMode::Alua, &one, &two), Vec::<String>::new());
        let found = HaPair::differences(HaMode::Floating, &one, &two);
        assert!(
            found.iter().any(|line| line.starts_with("tag: 1"))
                && found.iter().any(|l| l.starts_with("portals")),
            "{found:?}"
        );
        let found = HaPair::differences(HaMode::Alua, &one, &one);
        assert!(
            found.len() == 2 && found[0].contains("tag 1") && found[1].contains("10.0.0.1:3260"),
            "{found:?}"
        );
        let mut other = two.clone();
        let disk = other.luns.remove(&crate::Lun::from(0)).unwrap().with_serial("ab".parse().unwrap());
        other.luns.insert(crate::Lun::from(1), disk);
        let found = HaPair::differences(HaMode::Alua, &one, &other);
        assert!(found.iter().any(|line| line.contains("LUN numbers: 0, 7 on one node, 1, 7")), "{found:?}");
        let mut other = two;
        other.luns.get_mut(&crate::Lun::from(7)).unwrap().company = Some(0x1406.try_into().unwrap());
        let found = HaPair::differences(HaMode::Alua, &one, &other);
        assert!(found.len() == 1 && found[0].contains("LUN 7, identifier"), "{found:?}");
    }

    #[test]
    fn a_group_of_backstores_needs_one_write() {
        let group = crate::LuGroup::new("units".parse().unwrap(), 5);
        let mut target = target();
        target.luns.values_mut().for_each(|disk| disk.lu_group = Some(group.clone()));
        let dirs = || target.luns.values().zip(["a", "b"].map(str::to_owned)).collect();
        assert_eq!(flips(dirs()), ["a/alua/ha/alua_access_state"]);
        target.luns.values_mut().for_each(|disk| disk.lu_group = None);
        let dirs = target.luns.values().zip(["a", "b"].map(str::to_owned)).collect();
        assert_eq!(flips(dirs).len(), 2);
    }
}
