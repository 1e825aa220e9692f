//! A specification of what runs.

use host::{Iqn, ParseError, Secret};

use crate::name::{ChapSecret, ChapUser, Lun};
use crate::spec::{
    Access, AclSpec, AluaGroupSpec, BackstoreSpec, ConfigSpec, Credentials, DEFAULT_GROUP, DemoMode, Enabled,
    Fabric, IscsiSpec, LuGroup, MappedLunSpec, TargetSpec, Transport,
};
use crate::state::{AclState, AuthState, BackstoreState, GroupState, IscsiState, State};
use crate::wire::attributes::{self, Range, Table};

/// What cannot be said, one line each.
type Notes = Vec<String>;

/// The configuration that was read with [`Focus::Complete`](crate::state::Focus::Complete).
pub(crate) fn config(state: &State, iscsi: &IscsiState) -> (ConfigSpec, Notes) {
    let (mut config, mut notes) = (ConfigSpec::new(), Notes::new());
    config.iscsi = state.fabrics.contains(&Fabric::Iscsi).then(|| {
        let mut shared = IscsiSpec::new();
        if iscsi.enforced {
            credentials("discovery", &iscsi.discovery, &mut shared.discovery, &mut notes);
        } else if iscsi.discovery.user.is_some() {
            notes.push("discovery: its password is not asked for, and is left out".to_owned());
        }
        shared.cpus.clone_from(&iscsi.cpus);
        shared
    });
    for target in state.targets.values() {
        if target.groups.is_empty() {
            notes.push(format!("target {} is left out: it has no portal group", target.iqn));
        }
        for group in &target.groups {
            config.targets.push(self::group(state, target.fabric, &target.iqn, group, &mut notes));
        }
    }
    for backstore in state.backstores.values().filter(|backstore| backstore.users.is_empty()) {
        config.backstores.extend(self::backstore(state, backstore, &mut notes));
    }
    (config, notes)
}

fn credentials(what: &str, is: &AuthState, to: &mut Credentials, notes: &mut Notes) {
    let mut pair = |user: &Option<String>, secret: &Option<Secret>| -> Option<(ChapUser, Secret)> {
        let (user, secret) = match (user, secret) {
            (Some(user), Some(secret)) => (user, secret.share()),
            (None, None) => return None,
            _ => {
                notes.push(format!(
                    "{what}: a CHAP user without a password, or a password without a user, is left out"
                ));
                return None;
            }
        };
        let checked = user.parse::<ChapUser>().and_then(|user| {
            ChapSecret::new(secret.share())?;
            Ok::<_, ParseError>((user, secret))
        });
        checked.map_err(|error| notes.push(format!("{what}: {error}"))).ok()
    };
    let (forth, back) = (pair(&is.user, &is.secret), pair(&is.mutual_user, &is.mutual_secret));
    if let Some((user, secret)) = forth {
        to.set(user, secret);
    }
    if let Some((user, secret)) = back {
        to.set_mutual(user, secret);
    }
}

/// The attributes that can be written, those of the table that are not what a fresh object has included: a specification says all.
fn writable(
    table: Table,
    is: &std::collections::BTreeMap<String, String>,
) -> std::collections::BTreeMap<String, String> {
    let kept = |(name, value): &(&String, &String)| match attributes::of(table, name) {
        Some(row) => !matches!(row.range, Range::Ignored | Range::ReadOnly) && row.range.allows(value),
        None => false,
    };
    is.iter().filter(kept).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn backstore(state: &State, is: &BackstoreState, notes: &mut Notes) -> Option<BackstoreSpec> {
    let what = format!("backstore {}/{}", is.id.adapter, is.id.name);
    let Some(backing) = is.backing.clone() else {
        notes.push(format!("{what} is not configured, or of a kind that is not known; it is left out"));
        return None;
    };
    let name = match is.id.name.parse() {
        Ok(name) => name,
        Err(error) => {
            notes.push(format!("{what} is left out: {error}"));
            return None;
        }
    };
    let mut spec = BackstoreSpec::new(name, backing);
    spec.access = is.access;
    spec.attributes = writable(spec.backing.table(), &is.attributes);
    spec.forget_device();
    if !matches!(spec.backing, crate::spec::Backing::Scsi { .. }) {
        spec.serial = is
            .serial
            .as_ref()
            .and_then(|serial| serial.parse().map_err(|error| notes.push(format!("{what}: {error}"))).ok());
        spec.vendor = is.vendor.as_deref().filter(|v| *v != "LIO-ORG").and_then(|v| v.parse().ok());
        let own = ["IBLOCK", "FILEIO", "RAMDISK-MCP", "TCMU", "USER", "PSCSI"];
        spec.product = is.product.as_deref().filter(|p| !own.contains(p)).and_then(|p| p.parse().ok());
        spec.revision = is.revision.as_deref().filter(|r| *r != "4.0").and_then(|r| r.parse().ok());
        let company = is.company.and_then(|id| crate::CompanyId::try_from(id).ok());
        spec.company = company.filter(|id| *id != crate::CompanyId::default());
    }
    for (name, group) in &is.alua {
        let id = if name == DEFAULT_GROUP { Some(0) } else { group.id };
        let (Ok(name), Some(id)) = (name.parse(), id) else {
            notes.push(format!("{what}: the access group {name} has no number; it is left out"));
            continue;
        };
        let mut wanted = AluaGroupSpec::new(id);
        wanted.attributes = writable(attributes::ALUA, &group.attributes);
        if matches!(wanted.attributes.get("alua_access_type").map(String::as_str), Some("0" | "2")) {
            wanted.attributes.remove("alua_access_state");
        }
        spec.alua.insert(name, wanted);
    }
    spec.lu_group = is.lu_group.as_ref().and_then(|name| {
        let id = state.lu_groups.get(name)?.id?;
        Some(LuGroup::new(name.parse().ok()?, id))
    });
    Some(spec)
}

fn group(state: &State, fabric: Fabric, name: &Iqn, is: &GroupState, notes: &mut Notes) -> TargetSpec {
    let what = format!("target {name} {}", is.dir);
    let mut spec = TargetSpec::new(name.clone()).with_tag(is.tag);
    spec.fabric = fabric;
    spec.enabled = if is.enabled { Enabled::Yes } else { Enabled::No };
    spec.attributes = writable(attributes::GROUP, &is.attributes);
    spec.parameters = writable(attributes::PARAMETER, &is.parameters);
    let open = is.attributes.get("generate_node_acls").is_some_and(|n| n == "1");
    spec.demo_mode = if open { DemoMode::Allowed } else { DemoMode::Refused };
    credentials(&what, &is.auth, &mut spec.auth, notes);
    spec.nexus.clone_from(&is.nexus);
    // One that the kernel chose too: initiators know the path by it. Of the other fabrics it is the kernel's alone.
    spec.port_id = is.port_id.filter(|_| fabric == Fabric::Iscsi);
    for (lun, is) in &is.luns {
        let disk = is.backstore.as_ref().and_then(|id| state.backstores.get(id));
        let Some(disk) = disk.and_then(|disk| backstore(state, disk, notes)) else {
            notes.push(format!("{what}: LUN {lun} has no backstore that could be made anew; it is left out"));
            continue;
        };
        let group = is.alua_group.as_deref().filter(|name| *name != DEFAULT_GROUP);
        if let Some(group) = group.and_then(|name| name.parse().ok()) {
            spec.lun_groups.insert(*lun, group);
        }
        if let Some(link) =
            is.link.as_deref().filter(|link| *link != "backstore").and_then(|link| link.parse().ok())
        {
            spec.link_names.insert(*lun, link);
        }
        spec.luns.insert(*lun, disk);
    }
    for portal in &is.portals {
        let Some(address) = portal.address else {
            notes.push(format!("{what}: portal {} is no address; it is left out", portal.name));
            continue;
        };
        spec.portals.push(address);
        if portal.transport != Transport::Tcp {
            spec.transports.insert(address, portal.transport);
        }
    }
    for (name, acl) in &is.acls {
        let acl = self::acl(name, acl, &spec, notes);
        spec.acls.insert(name.clone(), acl);
    }
    spec
}

fn acl(name: &Iqn, is: &AclState, target: &TargetSpec, notes: &mut Notes) -> AclSpec {
    let what = format!("acl {name} of target {}", target.iqn);
    let mut spec = AclSpec::new(name.clone());
    credentials(&what, &is.auth, &mut spec.auth, notes);
    spec.attributes = writable(attributes::ACL, &is.attributes);
    spec.queue_depth = is.queue_depth;
    spec.tag =
        is.tag.as_ref().and_then(|tag| tag.parse().map_err(|e| notes.push(format!("{what}: {e}"))).ok());
    let mut luns = std::collections::BTreeMap::<Lun, MappedLunSpec>::new();
    for (seen, mapped) in &is.luns {
        let Some(target_lun) = mapped.target_lun.filter(|lun| target.luns.contains_key(lun)) else {
            notes.push(format!("{what}: LUN {seen} shows nothing; it is left out"));
            continue;
        };
        let access = if mapped.write_protected { Access::ReadOnly } else { Access::ReadWrite };
        luns.insert(*seen, MappedLunSpec { target_lun, access });
        if let Some(link) =
            mapped.link.as_deref().filter(|link| *link != "lun").and_then(|link| link.parse().ok())
        {
            spec.link_names.insert(*seen, link);
        }
    }
    spec.luns = Some(luns);
    spec
}
