//! A configuration as text.

use std::collections::BTreeMap;

use host::Secret;

use super::file::{
    FabricModule, File, Group, Hidden, LunEntry, MappedLun, MoreOfBackstore, MoreOfGroup, NodeAcl, Portal,
    Sidecar, StorageObject, Target, Value, Values,
};
use crate::error::{Error, Result};
use crate::spec::{
    Access, AclSpec, Backing, BackstoreSpec, Chap, ConfigSpec, Credentials, DEFAULT_GROUP, Enabled, Fabric,
    FileIo, Memory, TargetSpec, Transport, WriteCache,
};

/// rtslib's word for what a backstore is on.
pub(super) fn plugin(backing: &Backing) -> &'static str {
    match backing {
        Backing::Block { .. } => "block",
        Backing::File { .. } => "fileio",
        Backing::Ramdisk { .. } => "ramdisk",
        Backing::Scsi { .. } => "pscsi",
        Backing::User { .. } => "user",
    }
}

/// The files of an access group that rtslib reads; another one would be set as an attribute of its object, and lost.
pub(super) const KNOWN_ALUA: [&str; 14] = [
    "alua_access_state",
    "alua_access_status",
    "alua_access_type",
    "alua_support_active_nonoptimized",
    "alua_support_active_optimized",
    "alua_support_offline",
    "alua_support_standby",
    "alua_support_transitioning",
    "alua_support_unavailable",
    "alua_write_metadata",
    "implicit_trans_secs",
    "nonop_delay_msecs",
    "preferred",
    "trans_delay_msecs",
];

/// Writes a configuration as `saveconfig.json`, passwords in it.
///
/// # Errors
/// [`Error::Invalid`] for a configuration that [`ConfigSpec::validate`] refuses, or a password that is no UTF-8.
pub fn write(config: &ConfigSpec) -> Result<Secret> {
    config.validate()?;
    let mut disks: BTreeMap<(&str, &str), &BackstoreSpec> = BTreeMap::new();
    let exported = config.targets.iter().flat_map(|target| target.luns.values());
    for disk in exported.chain(&config.backstores) {
        disks.insert((plugin(&disk.backing), disk.name.as_str()), disk);
    }
    let mut more = Sidecar::default();
    let mut file = File::default();
    for ((plugin, name), disk) in disks {
        let rest = more_of(disk);
        if rest != MoreOfBackstore::default() {
            more.backstores.insert(format!("{plugin}/{name}"), rest);
        }
        file.storage_objects.push(storage_object(disk));
    }
    let mut targets: BTreeMap<(Fabric, &str), Target> = BTreeMap::new();
    for spec in &config.targets {
        let rest = more_of_group(spec);
        if rest != MoreOfGroup::default() {
            more.groups.insert(format!("{}/{}/{}", spec.fabric, spec.iqn, spec.tag), rest);
        }
        let fresh =
            || Target { fabric: spec.fabric.to_string(), wwn: spec.iqn.to_string(), ..Target::default() };
        targets.entry((spec.fabric, spec.iqn.as_str())).or_insert_with(fresh).tpgs.push(group(spec));
    }
    file.targets = targets.into_values().collect();
    if let Some(iscsi) = &config.iscsi {
        more.shared = true;
        more.cpus = iscsi.cpus.as_ref().map(ToString::to_string);
        if let Some(chap) = iscsi.discovery_chap() {
            let mutual = iscsi.mutual_discovery_chap();
            file.fabric_modules.push(FabricModule {
                discovery_enable_auth: true,
                discovery_mutual_password: mutual.map(hidden),
                discovery_mutual_userid: mutual.map(user),
                discovery_password: Some(hidden(chap)),
                discovery_userid: Some(user(chap)),
                name: "iscsi".to_owned(),
            });
        }
    }
    if more.shared || !more.backstores.is_empty() || !more.groups.is_empty() {
        file.x_lio = Some(more);
    }
    let mut text = serde_json::to_vec_pretty(&file)
        .map_err(|error| Error::invalid("saveconfig.json", error.to_string()))?;
    text.push(b'\n');
    Ok(Secret::new(text))
}

fn hidden(chap: &Chap) -> Hidden {
    Hidden(chap.secret.secret().share())
}

fn user(chap: &Chap) -> String {
    chap.user.to_string()
}

fn values<'a>(values: impl IntoIterator<Item = (&'a String, &'a String)>) -> Values {
    values.into_iter().map(|(name, value)| (name.clone(), Value::of(value))).collect()
}

fn storage_object(disk: &BackstoreSpec) -> StorageObject {
    let mut out = StorageObject {
        name: disk.name.to_string(),
        plugin: plugin(&disk.backing).to_owned(),
        attributes: values(&disk.attributes),
        wwn: disk.serial.as_ref().map(ToString::to_string),
        ..StorageObject::default()
    };
    for (name, group) in disk.alua.iter().filter(|(name, _)| name.as_str() != DEFAULT_GROUP) {
        let known = group.attributes.iter().filter(|(file, _)| KNOWN_ALUA.contains(&file.as_str()));
        let mut entry = values(known);
        entry.insert("name".to_owned(), Value::Text(name.to_string()));
        entry.insert("tg_pt_gp_id".to_owned(), Value::Number(group.id.into()));
        out.alua_tpgs.push(entry);
    }
    match &disk.backing {
        Backing::Block { device } => {
            out.dev = Some(device.display().to_string());
            out.readonly = Some(disk.access == Access::ReadOnly);
            out.write_back = Some(false);
        }
        Backing::File { path, size, cache, io } => {
            out.dev = Some(path.display().to_string());
            out.size = Some(size.0);
            out.write_back = Some(*cache == WriteCache::Back);
            out.aio = Some(*io == FileIo::Async);
        }
        Backing::Ramdisk { memory, .. } => {
            out.size = disk.backing.pages().map(|pages| pages.saturating_mul(4096));
            out.nullio = (*memory == Memory::Null).then_some(true);
        }
        Backing::Scsi { host, channel, target, lun } => {
            out.dev = Some(format!("{host}:{channel}:{target}:{lun}"));
        }
        Backing::User { config, size, block_size, data_area } => {
            out.config = Some(config.clone());
            out.size = Some(size.0);
            let values = [("hw_block_size", *block_size), ("max_data_area_mb", *data_area)];
            let said = values.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
            out.control = Some(said.collect::<Vec<_>>().join(",")).filter(|text| !text.is_empty());
        }
    }
    out
}

fn more_of(disk: &BackstoreSpec) -> MoreOfBackstore {
    let lost = |(name, group): &(&crate::GroupName, &crate::AluaGroupSpec)| {
        name.as_str() == DEFAULT_GROUP
            || !group.attributes.keys().all(|file| KNOWN_ALUA.contains(&file.as_str()))
    };
    MoreOfBackstore {
        alua: disk.alua.iter().filter(lost).map(|(name, group)| (name.clone(), group.clone())).collect(),
        company: disk.company,
        lu_group: disk.lu_group.clone(),
        product: disk.product.clone(),
        revision: disk.revision.clone(),
        vendor: disk.vendor.clone(),
    }
}

fn more_of_group(spec: &TargetSpec) -> MoreOfGroup {
    let depth = |acl: &AclSpec| Some((acl.initiator.clone(), acl.queue_depth?));
    MoreOfGroup {
        all_luns: spec
            .acls
            .values()
            .filter(|acl| acl.luns.is_none())
            .map(|acl| acl.initiator.clone())
            .collect(),
        nexus: spec.nexus.clone(),
        port_id: spec.port_id,
        queue_depths: spec.acls.values().filter_map(depth).collect(),
    }
}

/// Password, user, mutual password and mutual user.
type Texts = (Option<Hidden>, Option<String>, Option<Hidden>, Option<String>);

fn chap(auth: &Credentials) -> Texts {
    let (forth, back) = (auth.chap(), auth.mutual());
    (forth.map(hidden), forth.map(user), back.map(hidden), back.map(user))
}

fn group(spec: &TargetSpec) -> Group {
    let (chap_password, chap_userid, chap_mutual_password, chap_mutual_userid) = chap(&spec.auth);
    let lun = |(lun, disk): (&crate::Lun, &BackstoreSpec)| LunEntry {
        alias: Some(spec.link_names.get(lun).map_or("backstore", |name| name.as_str()).to_owned()),
        alua_tg_pt_gp_name: Some(
            spec.lun_groups.get(lun).map_or_else(|| DEFAULT_GROUP.to_owned(), ToString::to_string),
        ),
        index: lun.number().into(),
        storage_object: format!("/backstores/{}/{}", plugin(&disk.backing), disk.name),
    };
    let portal = |address: &std::net::SocketAddr| {
        let transport = spec.transports.get(address).copied().unwrap_or_default();
        let ip_address =
            if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() };
        Portal {
            ip_address,
            iser: transport == Transport::Iser,
            offload: transport == Transport::Cxgbit,
            port: address.port(),
        }
    };
    Group {
        attributes: values(&spec.all_attributes()),
        chap_mutual_password,
        chap_mutual_userid,
        chap_password,
        chap_userid,
        enable: spec.enabled == Enabled::Yes,
        luns: spec.luns.iter().map(lun).collect(),
        node_acls: spec.acls.values().map(|acl| node_acl(spec, acl)).collect(),
        // All of these are texts to rtslib, numbers too.
        parameters: spec
            .parameters
            .iter()
            .map(|(name, text)| (name.clone(), Value::Text(text.clone())))
            .collect(),
        portals: spec.portals.iter().map(portal).collect(),
        tag: spec.tag.0,
    }
}

fn node_acl(spec: &TargetSpec, acl: &AclSpec) -> NodeAcl {
    let (chap_password, chap_userid, chap_mutual_password, chap_mutual_userid) = chap(&acl.auth);
    let mapped = spec.mapped(acl).into_iter().map(|(seen, mapped)| MappedLun {
        alias: Some(acl.link_names.get(&seen).map_or("lun", |name| name.as_str()).to_owned()),
        index: seen.number().into(),
        tpg_lun: mapped.target_lun.number().into(),
        write_protect: mapped.access == Access::ReadOnly,
    });
    NodeAcl {
        attributes: values(&spec.acl_attributes(acl)),
        chap_mutual_password,
        chap_mutual_userid,
        chap_password,
        chap_userid,
        mapped_luns: mapped.collect(),
        node_wwn: acl.initiator.to_string(),
        tag: acl.tag.as_ref().map(ToString::to_string),
    }
}
