//! Reading configfs once: directories by one `readdir` each, files only where somebody needs them.

use std::collections::{BTreeMap, BTreeSet};

use host::tree::Kind;
use host::{Iqn, Secret, Tree, TreeError};

use super::{
    AclState, AuthState, BackstoreId, BackstoreState, GroupState, LunState, MappedLunState, PortalState,
    State, TARGET, TargetState,
};
use crate::error::{Error, Result};
use crate::name::{Lun, Tag};
use crate::plan::note;
use crate::spec::{AclSpec, TargetSpec};
use crate::wire::{after_colon, info, numbered, parse_portal, session};

/// What a pass over the tree is for: it decides how much is read. Names and links are always read, values only where needed.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Focus<'a> {
    /// All targets and all backstores, without passwords.
    Everything,
    /// One target and its backstores, without passwords.
    Target(&'a Iqn),
    /// One target and its backstores, with all that is needed to make them anew.
    Removal(&'a Iqn),
    /// What a specification names.
    Spec(&'a TargetSpec),
}

/// Which files of a directory of values are read.
enum Names {
    All,
    Only(BTreeSet<String>),
}

type Read<T> = std::result::Result<T, TreeError>;

/// Reads the configuration. `focus` decides how much.
///
/// # Errors
/// A file cannot be read. What vanishes while it is looked at is no error: it is not there.
pub fn read(tree: &Tree, focus: Focus<'_>) -> Result<State> {
    Reader { tree, focus }.state().map_err(Error::unreadable)
}

struct Reader<'a> {
    tree: &'a Tree,
    focus: Focus<'a>,
}

impl Reader<'_> {
    fn state(&self) -> Read<State> {
        let mut state = State::default();
        let fabrics = self.tree.dirs(TARGET)?;
        state.fabric = fabrics.iter().any(|fabric| fabric == "iscsi");
        for adapter in self.tree.dirs(format!("{TARGET}/core"))? {
            if adapter != "alua" {
                let names = self.tree.dirs(format!("{TARGET}/core/{adapter}"))?;
                state.adapters.insert(adapter, names);
            }
        }
        let mut users = BTreeMap::<BackstoreId, Vec<String>>::new();
        for fabric in fabrics.iter().filter(|fabric| *fabric != "core") {
            for wwn in self.tree.dirs(format!("{TARGET}/{fabric}"))? {
                self.wwn(fabric, &wwn, &mut users, &mut state)?;
            }
        }
        self.backstores(&users, &mut state)?;
        if let Focus::Spec(_) = self.focus {
            self.dbroot(&mut state)?;
        }
        Ok(state)
    }

    fn dbroot(&self, state: &mut State) -> Read<()> {
        let root = self.tree.read(format!("{TARGET}/dbroot"))?.trim().to_owned();
        for dir in [root.clone(), format!("{root}/pr"), format!("{root}/alua")] {
            if !self.tree.exists(&dir)? {
                state.missing_dirs.push(dir);
            }
        }
        state.dbroot = Some(root);
        Ok(())
    }

    /// One target of any fabric: all fabrics have the same directories (`target_core_fabric_configfs.c`).
    fn wwn(
        &self,
        fabric: &str,
        wwn: &str,
        users: &mut BTreeMap<BackstoreId, Vec<String>>,
        state: &mut State,
    ) -> Read<()> {
        let dir = format!("{TARGET}/{fabric}/{wwn}");
        let mut groups = Vec::new();
        for group in self.tree.dirs(&dir)? {
            let Some(tag) = numbered(&group, "tpgt_").and_then(|tag| u16::try_from(tag).ok()) else {
                continue;
            };
            let path = format!("{dir}/{group}");
            let luns = self.luns(&path, users)?;
            groups.push((group, Tag(tag), luns));
        }
        let iqn = Iqn::from_kernel(wwn);
        let wanted = match self.focus {
            Focus::Everything => wwn != "discovery_auth",
            Focus::Target(target) | Focus::Removal(target) => iqn == *target,
            Focus::Spec(spec) => iqn == spec.iqn,
        };
        if fabric != "iscsi" || !wanted {
            return Ok(());
        }
        let groups = groups
            .into_iter()
            .map(|(group, tag, luns)| self.group(&dir, group, tag, luns))
            .collect::<Read<Vec<_>>>()?;
        let session_count = match self.focus {
            Focus::Everything | Focus::Target(_) => {
                self.number(format!("{dir}/fabric_statistics/iscsi_instance/sessions"))?
            }
            _ => None,
        };
        let backstores = BTreeMap::new();
        state.targets.insert(iqn.clone(), TargetState { iqn, groups, backstores, session_count });
        Ok(())
    }

    fn luns(
        &self,
        group: &str,
        users: &mut BTreeMap<BackstoreId, Vec<String>>,
    ) -> Read<BTreeMap<Lun, LunState>> {
        let mut luns = BTreeMap::new();
        for name in self.tree.dirs(format!("{group}/lun"))? {
            let Some(lun) = numbered(&name, "lun_").and_then(|n| Lun::try_from(n).ok()) else { continue };
            let dir = format!("{group}/lun/{name}");
            let link = self.tree.links(&dir)?.into_iter().next();
            let backstore = match &link {
                Some(link) => {
                    let path = self.tree.read_link(format!("{dir}/{link}"))?;
                    let mut parts = path.iter().rev().map(|part| part.to_string_lossy().into_owned());
                    parts.next().zip(parts.next()).map(|(name, adapter)| BackstoreId::new(adapter, name))
                }
                None => None,
            };
            if let Some(id) = &backstore {
                users.entry(id.clone()).or_default().push(dir);
            }
            luns.insert(lun, LunState { link, backstore });
        }
        Ok(luns)
    }

    fn group(&self, target: &str, dir: String, tag: Tag, luns: BTreeMap<Lun, LunState>) -> Read<GroupState> {
        let path = format!("{target}/{dir}");
        let spec = match self.focus {
            Focus::Spec(spec) if spec.tag == tag => Some(spec),
            _ => None,
        };
        // Of the sibling groups of the one that is wanted only the portals matter.
        let sibling = matches!(self.focus, Focus::Spec(spec) if spec.tag != tag);
        let only = |names: BTreeMap<String, String>| Names::Only(names.into_keys().collect());
        let attributes = match spec {
            Some(spec) => only(spec.all_attributes()),
            None if sibling => Names::Only(BTreeSet::new()),
            None => Names::All,
        };
        let parameters = match spec {
            Some(spec) => only(spec.parameters.clone()),
            None if sibling => Names::Only(BTreeSet::new()),
            None => Names::All,
        };
        let mut acls = BTreeMap::new();
        if !sibling {
            for name in self.tree.dirs(format!("{path}/acls"))? {
                let iqn = Iqn::from_kernel(&name);
                let wanted = spec.and_then(|spec| Some((spec, spec.acls.get(&iqn)?)));
                acls.insert(iqn, self.acl(&format!("{path}/acls/{name}"), wanted)?);
            }
        }
        let portals = self.tree.dirs(format!("{path}/np"))?.into_iter();
        let portals = portals.map(|name| PortalState { address: parse_portal(&name), name }).collect();
        let dynamic_sessions = match self.focus {
            Focus::Everything | Focus::Target(_) => {
                let text = self.tree.read_opt(format!("{path}/dynamic_sessions"))?;
                text.map(|text| session::parse_dynamic(&text)).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        Ok(GroupState {
            enabled: self.flag(format!("{path}/enable"))?,
            attributes: self.values(&format!("{path}/attrib"), &attributes)?,
            parameters: self.values(&format!("{path}/param"), &parameters)?,
            dir,
            tag,
            portals,
            luns,
            acls,
            dynamic_sessions,
        })
    }

    fn acl(&self, path: &str, spec: Option<(&TargetSpec, &AclSpec)>) -> Read<AclState> {
        let names = match spec {
            Some((target, acl)) => Names::Only(target.acl_attributes(acl).into_keys().collect()),
            None => Names::All,
        };
        let mut luns = BTreeMap::new();
        for name in self.tree.dirs(path)? {
            let Some(lun) = numbered(&name, "lun_").and_then(|n| Lun::try_from(n).ok()) else { continue };
            let dir = format!("{path}/{name}");
            let link = self.tree.links(&dir)?.into_iter().next();
            let target_lun = match &link {
                Some(link) => {
                    let to = self.tree.read_link(format!("{dir}/{link}"))?;
                    let name = to.file_name().map(|name| name.to_string_lossy().into_owned());
                    name.and_then(|n| numbered(&n, "lun_")).and_then(|n| Lun::try_from(n).ok())
                }
                None => None,
            };
            // Before the link is there the file reads as nothing.
            let write_protected = link.is_some() && self.flag(format!("{dir}/write_protect"))?;
            luns.insert(lun, MappedLunState { link, target_lun, write_protected });
        }
        let queue_depth = match spec {
            Some((_, acl)) if acl.queue_depth.is_none() => None,
            _ => self.number(format!("{path}/cmdsn_depth"))?.and_then(|n| u16::try_from(n).ok()),
        };
        let session = match self.focus {
            Focus::Everything | Focus::Target(_) => {
                self.tree.read_opt(format!("{path}/info"))?.and_then(|text| session::parse(&text))
            }
            _ => None,
        };
        let attributes = self.values(&format!("{path}/attrib"), &names)?;
        Ok(AclState { auth: self.auth(path)?, queue_depth, attributes, luns, session })
    }

    fn auth(&self, path: &str) -> Read<AuthState> {
        let secret = |name: &str| self.credential(&format!("{path}/auth/{name}"));
        let name = |name: &str| {
            secret(name).map(|found| found.map(|s| String::from_utf8_lossy(s.expose()).into_owned()))
        };
        let mut auth =
            AuthState { user: name("userid")?, mutual_user: name("userid_mutual")?, ..AuthState::default() };
        if matches!(self.focus, Focus::Removal(_) | Focus::Spec(_)) {
            auth.secret = secret("password")?;
            auth.mutual_secret = secret("password_mutual")?;
        }
        Ok(auth)
    }

    /// A value of `auth/`: what was stored, and one line break. A value that begins with `NULL` is none (`iscsi_target_configfs.c`).
    fn credential(&self, path: &str) -> Read<Option<Secret>> {
        let mut bytes = match self.tree.read_bytes(path) {
            Ok(bytes) => bytes,
            // Without CAP_SYS_ADMIN a list is still a list.
            Err(error) if error.is_not_found() || error.errno() == Some(libc::EPERM) => return Ok(None),
            Err(error) => return Err(error),
        };
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        let secret = Secret::new(bytes);
        Ok((!secret.is_empty() && !secret.expose().starts_with(b"NULL")).then_some(secret))
    }

    fn backstores(&self, users: &BTreeMap<BackstoreId, Vec<String>>, state: &mut State) -> Read<()> {
        let of_targets: BTreeSet<BackstoreId> = state
            .targets
            .values()
            .flat_map(|target| target.groups.iter())
            .flat_map(|group| group.luns.values())
            .filter_map(|lun| lun.backstore.clone())
            .collect();
        for (adapter, names) in &state.adapters {
            for name in names {
                let id = BackstoreId::new(adapter, name);
                let spec = match self.focus {
                    Focus::Spec(spec) => spec.luns.values().find(|b| b.name.as_str() == name),
                    _ => None,
                };
                let wanted = spec.is_some()
                    || of_targets.contains(&id)
                    || match self.focus {
                        Focus::Everything => true,
                        // What a run that broke off made for this target and did not export yet, or no more.
                        Focus::Removal(iqn) if !users.contains_key(&id) => {
                            self.alias(&id.path())?.as_deref() == Some(&note(iqn))
                        }
                        _ => false,
                    };
                let names = match spec {
                    Some(spec) => Names::Only(spec.attributes.keys().cloned().collect()),
                    None => Names::All,
                };
                let users = users.get(&id).cloned().unwrap_or_default();
                let found = match (wanted, self.focus) {
                    (true, _) => self.backstore(id, &names, users)?,
                    // Of the others only the serial is needed, to refuse a second disk of the same identity.
                    (false, Focus::Spec(_)) => self.serial_of(id, users)?,
                    (false, _) => continue,
                };
                state.backstores.insert(found.id.clone(), found);
            }
        }
        for target in state.targets.values_mut() {
            let ids = target.groups.iter().flat_map(|g| g.luns.values()).filter_map(|l| l.backstore.as_ref());
            target.backstores =
                ids.filter_map(|id| Some((id.clone(), state.backstores.get(id)?.clone()))).collect();
        }
        Ok(())
    }

    fn serial_of(&self, id: BackstoreId, users: Vec<String>) -> Read<BackstoreState> {
        let serial = self.tree.read_opt(format!("{}/wwn/vpd_unit_serial", id.path()))?;
        Ok(BackstoreState {
            id,
            enabled: false,
            device: None,
            read_only: false,
            pages: None,
            serial: serial.and_then(|text| after_colon(&text)),
            vendor: None,
            product: None,
            company: None,
            alias: None,
            attributes: BTreeMap::new(),
            alua_groups: BTreeMap::new(),
            users,
        })
    }

    fn backstore(&self, id: BackstoreId, names: &Names, users: Vec<String>) -> Read<BackstoreState> {
        let path = id.path();
        let wwn = |file: &str| self.tree.read_opt(format!("{path}/wwn/{file}"));
        let text = self.tree.read_opt(format!("{path}/info"))?.unwrap_or_default();
        let info = info::parse(&text);
        let note = self.tree.read_opt(format!("{path}/udev_path"))?.unwrap_or_default();
        let note = Some(note.trim().to_owned()).filter(|note| !note.is_empty());
        let mut alua_groups = BTreeMap::new();
        if matches!(self.focus, Focus::Removal(_) | Focus::Everything) {
            for group in self.tree.dirs(format!("{path}/alua"))? {
                if group != "default_tg_pt_gp" {
                    let number = self.tree.read_opt(format!("{path}/alua/{group}/tg_pt_gp_id"))?;
                    alua_groups.insert(group, number.unwrap_or_default().trim().to_owned());
                }
            }
        }
        let company = wwn("company_id")?.and_then(|text| {
            let text = text.trim();
            u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
        });
        Ok(BackstoreState {
            enabled: self.flag(format!("{path}/enable"))?,
            device: info.device.or(note).map(Into::into),
            read_only: info.read_only,
            pages: info.pages,
            serial: wwn("vpd_unit_serial")?.and_then(|text| after_colon(&text)),
            vendor: wwn("vendor_id")?.map(|text| text.trim().to_owned()),
            product: wwn("product_id")?.map(|text| text.trim().to_owned()),
            company,
            alias: self.alias(&path)?,
            attributes: self.values(&format!("{path}/attrib"), names)?,
            alua_groups,
            id,
            users,
        })
    }

    fn alias(&self, backstore: &str) -> Read<Option<String>> {
        let text = self.tree.read_opt(format!("{backstore}/alias"))?.unwrap_or_default();
        Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    /// The values of a directory of values, trimmed.
    fn values(&self, dir: &str, names: &Names) -> Read<BTreeMap<String, String>> {
        let names: Vec<String> = match names {
            Names::Only(names) => names.iter().cloned().collect(),
            Names::All => {
                let entries = self.tree.list_opt(dir)?;
                entries.into_iter().filter(|entry| entry.kind == Kind::File).map(|entry| entry.name).collect()
            }
        };
        let mut values = BTreeMap::new();
        for name in names {
            if let Some(value) = self.tree.read_opt(format!("{dir}/{name}"))? {
                values.insert(name, value.trim().to_owned());
            }
        }
        Ok(values)
    }

    fn flag(&self, path: String) -> Read<bool> {
        Ok(self.tree.read_opt(path)?.is_some_and(|text| text.trim() == "1"))
    }

    fn number(&self, path: String) -> Read<Option<u32>> {
        Ok(self.tree.read_opt(path)?.and_then(|text| text.trim().parse().ok()))
    }
}
