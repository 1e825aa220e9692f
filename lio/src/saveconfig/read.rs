//! A text as a configuration.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use host::{Bytes, Iqn};

use super::file::{Group, Hidden, MoreOfGroup, NodeAcl, Portal, Sidecar, StorageObject, Value, Values};
use super::{file::File, write::KNOWN_ALUA};
use crate::error::{Error, Result};
use crate::name::{ChapUser, Lun, Tag};
use crate::spec::{
    Access, AclSpec, AluaGroupSpec, Backing, BackstoreSpec, ConfigSpec, Credentials, DEFAULT_GROUP, DemoMode,
    Enabled, Fabric, FileIo, IscsiSpec, MappedLunSpec, Memory, TargetSpec, Transport, WriteCache,
};
use crate::wire::attributes::{self, Range, Table};

/// What was left out or looks dangerous, one line each.
type Notes = Vec<String>;

/// Reads `saveconfig.json`. The second part names what was left out, and what is dangerous: a target that lets anybody in.
///
/// # Errors
/// [`Error::Invalid`] if it is no such file, or says what no kernel can do; [`Error::Form`] for a name or password that LIO cannot have.
pub fn read(text: &[u8]) -> Result<(ConfigSpec, Vec<String>)> {
    // The error of the parser would show what it found, which may be a password.
    let file: File = serde_json::from_slice(text).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Error::invalid("saveconfig.json", format!("at {place} it is not what targetcli writes"))
    })?;
    let (mut config, mut notes) = (ConfigSpec::new(), Notes::new());
    let more = file.x_lio.unwrap_or_default();
    let had_iscsi = more.shared || !file.fabric_modules.is_empty();
    let mut shared = IscsiSpec::new();
    for module in file
        .fabric_modules
        .into_iter()
        .filter(|module| module.name == "iscsi" && module.discovery_enable_auth)
    {
        credentials(
            "discovery",
            (module.discovery_userid, module.discovery_password),
            (module.discovery_mutual_userid, module.discovery_mutual_password),
            &mut shared.discovery,
            &mut notes,
        )?;
    }
    shared.cpus = more.cpus.as_deref().map(str::parse).transpose()?;
    config.iscsi = had_iscsi.then_some(shared);
    let mut disks = BTreeMap::new();
    for object in file.storage_objects {
        let key = format!("{}/{}", object.plugin, object.name);
        if let Some(disk) = backstore(object, &key, &more, &mut notes)? {
            disks.insert(key, disk);
        }
    }
    let mut used = HashMap::new();
    for target in file.targets {
        let Some(fabric) = Fabric::ALL.into_iter().find(|fabric| fabric.name() == target.fabric) else {
            notes.push(format!(
                "target {} of fabric {} is left out: it is not known",
                target.wwn, target.fabric
            ));
            continue;
        };
        // -1, the processor of the command, is the default (target_core_fabric_configfs.c).
        let affinity = target.parameters.get("cmd_completion_affinity").map(Value::text);
        if let Some(affinity) = affinity.filter(|affinity| affinity != "-1") {
            notes.push(format!("target {}: cmd_completion_affinity = {affinity} is left out", target.wwn));
        }
        if target.tpgs.is_empty() {
            notes.push(format!("target {} is left out: it has no portal group", target.wwn));
        }
        // As it is: what runs may be called as no rule allows.
        let name = Iqn::from_kernel(&target.wwn);
        for group in target.tpgs {
            let key = format!("{fabric}/{name}/{}", group.tag);
            let rest = more.groups.get(&key);
            config.targets.push(self::group(
                fabric,
                name.clone(),
                group,
                rest,
                &disks,
                &mut used,
                &mut notes,
            )?);
        }
    }
    config.backstores =
        disks.into_iter().filter(|(key, _)| !used.contains_key(key)).map(|(_, disk)| disk).collect();
    config.validate()?;
    Ok((config, notes))
}

type Pair = (Option<String>, Option<Hidden>);

fn credentials(what: &str, forth: Pair, back: Pair, to: &mut Credentials, notes: &mut Notes) -> Result<()> {
    for ((user, secret), mutual) in [(forth, false), (back, true)] {
        let user = user.filter(|user| !user.is_empty());
        let secret = secret.filter(|secret| !secret.0.is_empty());
        match (user, secret) {
            (Some(user), Some(secret)) => {
                let user: ChapUser = user.parse()?;
                if mutual { to.set_mutual(user, secret.0) } else { to.set(user, secret.0) }
            }
            (None, None) => {}
            _ => notes.push(format!(
                "{what}: a user without a password, or a password without a user, is left out"
            )),
        }
    }
    Ok(())
}

/// What the kernel takes; the rest is only in the file because rtslib saves all that it can read.
fn values(what: &str, table: Table, values: Values, notes: &mut Notes) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (name, value) in values {
        let value = value.text();
        match attributes::of(table, &name) {
            Some(row) if matches!(row.range, Range::Ignored | Range::ReadOnly) => {}
            Some(row) if !row.range.allows(&value) => {
                notes.push(format!("{what}: {name} = {value} is left out: LIO takes {}", row.range));
            }
            // Of a newer kernel, or what tcmu shows of its own: that is in the backing.
            None if std::ptr::eq(table, attributes::PASSTHROUGH) => {}
            _ => drop(out.insert(name, value)),
        }
    }
    out
}

/// A value that is written to `control`.
fn control(object: &StorageObject, key: &str) -> Option<u32> {
    let mut pairs = object.control.as_deref()?.split(',').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == key)?.1.parse().ok()
}

/// Names what a specification has no word for.
fn left_out(object: &StorageObject, what: &str, notes: &mut Notes) {
    if object.exclusive == Some(false) {
        notes.push(format!("{what}: exclusive = false is left out; it is opened for LIO alone"));
    }
    // The default of target_core_user.c, which rtslib saves too.
    if let Some(sectors) = object.hw_max_sectors.filter(|sectors| *sectors != 128) {
        notes.push(format!("{what}: hw_max_sectors = {sectors} is left out"));
    }
    let known = ["hw_block_size=", "max_data_area_mb="];
    let values = object.control.as_deref().unwrap_or_default().split(',');
    for value in values.filter(|v| !v.is_empty() && !known.iter().any(|key| v.starts_with(key))) {
        notes.push(format!("{what}: {value} is left out"));
    }
}

fn backstore(
    object: StorageObject,
    key: &str,
    more: &Sidecar,
    notes: &mut Notes,
) -> Result<Option<BackstoreSpec>> {
    let what = format!("backstore {key}");
    let needs = |field: &str| Error::invalid(&what, format!("the file has no {field} for it"));
    let dev = || object.dev.clone().ok_or_else(|| needs("dev"));
    let size = || object.size.map(Bytes).ok_or_else(|| needs("size"));
    let rest = more.backstores.get(key);
    let back = object.write_back.or(object.buffered_mode).unwrap_or(false);
    let backing = match object.plugin.as_str() {
        "block" => Backing::Block { device: dev()?.into() },
        "fileio" => Backing::File {
            path: dev()?.into(),
            // Of a device it is the device's.
            size: object.size.map_or(Bytes(1), Bytes),
            cache: if back { WriteCache::Back } else { WriteCache::Through },
            io: if object.aio == Some(true) { FileIo::Async } else { FileIo::Blocking },
        },
        "ramdisk" => Backing::Ramdisk {
            size: size()?,
            memory: if object.nullio == Some(true) { Memory::Null } else { Memory::Kept },
        },
        "pscsi" => {
            let numbers: Vec<u32> = dev()?.split(':').filter_map(|n| n.parse().ok()).collect();
            let [host, channel, target, lun] = numbers[..] else {
                notes.push(format!("{what} is left out: its device is not written as H:C:T:L"));
                return Ok(None);
            };
            Backing::Scsi { host, channel, target, lun }
        }
        "user" => Backing::User {
            config: object.config.clone().ok_or_else(|| needs("config"))?,
            size: size()?,
            block_size: control(&object, "hw_block_size"),
            data_area: control(&object, "max_data_area_mb"),
        },
        other => {
            notes.push(format!("{what} is left out: backstores of kind {other} are not known"));
            return Ok(None);
        }
    };
    left_out(&object, &what, notes);
    let passed = matches!(backing, Backing::Scsi { .. });
    let mut disk = BackstoreSpec::new(object.name.parse()?, backing);
    disk.serial =
        object.wwn.as_deref().filter(|wwn| !wwn.is_empty() && !passed).map(str::parse).transpose()?;
    disk.access = if object.readonly == Some(true) { Access::ReadOnly } else { Access::ReadWrite };
    disk.attributes = values(&what, disk.backing.table(), object.attributes, notes);
    disk.forget_device();
    for mut entry in object.alua_tpgs {
        let (Some(name), Some(id)) = (entry.remove("name"), entry.remove("tg_pt_gp_id")) else { continue };
        let (name, id) = (name.text(), id.text());
        // rtslib saves the kernel's own and does not restore it.
        let Some(id) = id.parse::<u16>().ok().filter(|id| *id != 0 && name != DEFAULT_GROUP) else {
            continue;
        };
        entry.retain(|file, _| KNOWN_ALUA.contains(&file.as_str()));
        let mut group = AluaGroupSpec::new(id);
        group.attributes = values(&format!("access group {name} of {what}"), attributes::ALUA, entry, notes);
        if matches!(group.attributes.get("alua_access_type").map(String::as_str), Some("0" | "2")) {
            group.attributes.remove("alua_access_state");
        }
        disk.alua.insert(name.parse()?, group);
    }
    if let Some(rest) = rest {
        disk.alua.extend(rest.alua.clone());
        disk.company = rest.company;
        disk.lu_group.clone_from(&rest.lu_group);
        disk.product.clone_from(&rest.product);
        disk.revision.clone_from(&rest.revision);
        disk.vendor.clone_from(&rest.vendor);
    }
    Ok(Some(disk))
}

fn group(
    fabric: Fabric,
    name: Iqn,
    is: Group,
    rest: Option<&MoreOfGroup>,
    disks: &BTreeMap<String, BackstoreSpec>,
    used: &mut HashMap<String, ()>,
    notes: &mut Notes,
) -> Result<TargetSpec> {
    let what = format!("target {name} tpg{}", is.tag);
    let mut spec = TargetSpec::new(name).with_tag(Tag(is.tag));
    spec.fabric = fabric;
    spec.enabled = if is.enable { Enabled::Yes } else { Enabled::No };
    if fabric == Fabric::Iscsi {
        spec.attributes = values(&what, attributes::GROUP, is.attributes, notes);
        spec.parameters = values(&what, attributes::PARAMETER, is.parameters, notes);
    } else {
        for (name, value) in is.attributes.iter().filter(|(_, value)| value.text() != "0") {
            notes.push(format!("{what}: {name} = {} is left out", value.text()));
        }
        // rtslib does not save it, and makes up another one each time.
        spec.nexus = Some(rest.and_then(|rest| rest.nexus.clone()).unwrap_or_else(|| spec.iqn.clone()));
    }
    let on = |name: &str| spec.attributes.get(name).is_some_and(|value| value == "1");
    if on("generate_node_acls") {
        let writes = if on("demo_mode_write_protect") { "" } else { " and write" };
        let asked = if on("authentication") { "" } else { " without a password" };
        notes.push(format!("{what} is in demo mode: anybody who reaches a portal may log in{asked}{writes}"));
        spec.demo_mode = DemoMode::Allowed;
    }
    let chap = ((is.chap_userid, is.chap_password), (is.chap_mutual_userid, is.chap_mutual_password));
    credentials(&what, chap.0, chap.1, &mut spec.auth, notes)?;
    spec.port_id = rest.and_then(|rest| rest.port_id);
    for entry in is.luns {
        let lun = Lun::try_from(entry.index)?;
        let key = entry.storage_object.trim_start_matches("/backstores/");
        let Some(disk) = disks.get(key) else {
            notes.push(format!("{what}: LUN {lun} is left out: the file has no backstore {key}"));
            continue;
        };
        used.insert(key.to_owned(), ());
        spec.luns.insert(lun, disk.clone());
        if let Some(group) = entry.alua_tg_pt_gp_name.filter(|name| name != DEFAULT_GROUP && !name.is_empty())
        {
            spec.lun_groups.insert(lun, group.parse()?);
        }
        if let Some(alias) = entry.alias.filter(|alias| !alias.is_empty() && alias != "backstore") {
            spec.link_names.insert(lun, alias.parse()?);
        }
    }
    for entry in is.portals {
        portal(&what, &entry, &mut spec, notes);
    }
    for entry in is.node_acls {
        let acl = node_acl(&what, entry, rest, &spec, notes)?;
        spec.acls.insert(acl.initiator.clone(), acl);
    }
    unsay(&mut spec);
    Ok(spec)
}

/// Takes out of a specification what follows from the rest of it anyway.
fn unsay(spec: &mut TargetSpec) {
    for name in ["generate_node_acls", "authentication", "demo_mode_write_protect"] {
        if let Some(value) = spec.attributes.remove(name)
            && spec.all_attributes().get(name) != Some(&value)
        {
            spec.attributes.insert(name.to_owned(), value);
        }
    }
    let mut acls = std::mem::take(&mut spec.acls);
    spec.acls.clone_from(&acls);
    for acl in acls.values_mut() {
        let Some(value) = acl.attributes.remove("authentication") else { continue };
        let follows = spec.acl_attributes(acl).remove("authentication");
        if follows.as_deref() != Some(value.as_str()) {
            acl.attributes.insert("authentication".to_owned(), value);
        }
    }
    spec.acls = acls;
}

fn portal(what: &str, entry: &Portal, spec: &mut TargetSpec, notes: &mut Notes) {
    let address = entry.ip_address.trim_matches(['[', ']']).parse();
    match address {
        Ok(ip) => {
            let address = SocketAddr::new(ip, entry.port);
            spec.portals.push(address);
            match (entry.iser, entry.offload) {
                (true, _) => drop(spec.transports.insert(address, Transport::Iser)),
                (false, true) => drop(spec.transports.insert(address, Transport::Cxgbit)),
                (false, false) => {}
            }
        }
        Err(_) => notes.push(format!("{what}: portal {} is left out: it is no address", entry.ip_address)),
    }
}

fn node_acl(
    what: &str,
    entry: NodeAcl,
    rest: Option<&MoreOfGroup>,
    target: &TargetSpec,
    notes: &mut Notes,
) -> Result<AclSpec> {
    let what = format!("acl {} of {what}", entry.node_wwn);
    let mut acl = AclSpec::new(Iqn::from_kernel(&entry.node_wwn));
    acl.attributes = values(&what, attributes::ACL, entry.attributes, notes);
    let chap =
        ((entry.chap_userid, entry.chap_password), (entry.chap_mutual_userid, entry.chap_mutual_password));
    credentials(&what, chap.0, chap.1, &mut acl.auth, notes)?;
    acl.tag = entry.tag.as_deref().filter(|tag| !tag.is_empty()).map(str::parse).transpose()?;
    acl.queue_depth = rest.and_then(|rest| rest.queue_depths.get(&acl.initiator).copied());
    let mut luns = BTreeMap::new();
    for mapped in entry.mapped_luns {
        let (seen, target_lun) = (Lun::try_from(mapped.index)?, Lun::try_from(mapped.tpg_lun)?);
        if !target.luns.contains_key(&target_lun) {
            notes.push(format!("{what}: LUN {seen} is left out: the target has no LUN {target_lun}"));
            continue;
        }
        let access = if mapped.write_protect { Access::ReadOnly } else { Access::ReadWrite };
        luns.insert(seen, MappedLunSpec { target_lun, access });
        if let Some(alias) = mapped.alias.filter(|alias| !alias.is_empty() && alias != "lun") {
            acl.link_names.insert(seen, alias.parse()?);
        }
    }
    let all = rest.is_some_and(|rest| rest.all_luns.contains(&acl.initiator));
    acl.luns = (!all).then_some(luns);
    Ok(acl)
}
