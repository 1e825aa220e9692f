//! The backstores' part of the pass.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use host::Bytes;

use super::super::{AluaGroupState, BackstoreId, BackstoreState, LuGroupState, State, TARGET};
use super::{Focus, Names, Read, Reader, Users, hexadecimal, side_by_side};
use crate::plan::note;
use crate::spec::{Access, AluaGroupSpec, Backing, BackstoreSpec, DEFAULT_GROUP, FileIo, Memory, WriteCache};
use crate::wire::attributes::{self, ALUA};
use crate::wire::{after_colon, alua, info};

impl Reader<'_> {
    /// The groups of backstores, where somebody may be in one.
    pub(super) fn lu_groups(&self, state: &mut State) -> Read<()> {
        let wanted = match self.focus {
            Focus::Spec(spec) => spec.luns.values().any(|disk| disk.lu_group.is_some()),
            _ => true,
        };
        if wanted {
            let dir = format!("{TARGET}/core/alua/lu_gps");
            for name in self.tree.dirs(&dir)? {
                let id = self.number(format!("{dir}/{name}/lu_gp_id"))?.and_then(|n| u16::try_from(n).ok());
                let text = match name == "default_lu_gp" {
                    true => String::new(),
                    false => self.tree.read_opt(format!("{dir}/{name}/members"))?.unwrap_or_default(),
                };
                let member =
                    |line: &str| line.split_once('/').map(|(adapter, name)| BackstoreId::new(adapter, name));
                // One page holds no more (target_lu_gp_members_show).
                let members = (text.len() < 3800)
                    .then(|| text.split(['\n', '\0']).filter_map(|line| member(line.trim())).collect());
                state.lu_groups.insert(name, LuGroupState { id: id.filter(|id| *id != 0), members });
            }
        }
        Ok(())
    }

    pub(super) fn backstores(&self, users: &Users, state: &mut State) -> Read<()> {
        let of_targets: BTreeSet<BackstoreId> = state
            .targets
            .values()
            .flat_map(|target| target.groups.iter())
            .flat_map(|group| group.luns.values())
            .filter_map(|lun| lun.backstore.clone())
            .collect();
        let named: HashMap<(&str, &str), &BackstoreSpec> = match self.focus {
            Focus::Spec(spec) => {
                spec.luns.values().map(|disk| ((disk.backing.plugin(), disk.name.as_str()), disk)).collect()
            }
            _ => HashMap::new(),
        };
        let identities: BTreeSet<String> =
            named.values().filter_map(|disk| disk.serial.as_ref()).map(|s| s.digits()).collect();
        // Besides the kernel's own.
        let grouped = state.lu_groups.len() > 1;
        let all: Vec<_> = state
            .adapters
            .iter()
            .flat_map(|(adapter, names)| names.iter().map(move |name| BackstoreId::new(adapter, name)))
            .collect();
        let look = |id: BackstoreId| {
            let spec = named.get(&(id.plugin(), id.name.as_str())).copied();
            let wanted = spec.is_some()
                || of_targets.contains(&id)
                || match self.focus {
                    Focus::Everything | Focus::Complete => true,
                    // What a run that broke off made for this target and did not export yet, or no more.
                    Focus::Removal(_, iqn) | Focus::Final(_, iqn) if !users.contains_key(&id) => {
                        self.alias(&id.path())?.as_deref() == Some(&note(iqn))
                    }
                    _ => false,
                };
            let users = users.get(&id).cloned().unwrap_or_default();
            match (wanted, self.focus) {
                (true, Focus::Final(..)) => self.bare(id, users).map(Some),
                (true, _) => self.backstore(id, spec, users, grouped).map(Some),
                // Of the others only the identity is needed, to refuse a second disk of the same.
                (false, Focus::Spec(_)) => self.identity_of(id, users, &identities).map(Some),
                (false, _) => Ok(None),
            }
        };
        let found = side_by_side(all, look)?;
        state.backstores = found.into_iter().flatten().map(|found| (found.id.clone(), found)).collect();
        for target in state.targets.values_mut() {
            let ids = target.groups.iter().flat_map(|g| g.luns.values()).filter_map(|l| l.backstore.as_ref());
            target.backstores =
                ids.filter_map(|id| Some((id.clone(), state.backstores.get(id)?.clone()))).collect();
            if matches!(self.focus, Focus::Spec(_) | Focus::Final(..)) {
                continue;
            }
            let (fabric, name, backstores) = (target.fabric, &target.iqn, &target.backstores);
            for group in &mut target.groups {
                for (lun, is) in &mut group.luns {
                    let backstore = is.backstore.as_ref().and_then(|id| backstores.get(id));
                    if backstore
                        .is_some_and(|backstore| backstore.alua.keys().any(|name| name != DEFAULT_GROUP))
                    {
                        let dir = format!("{TARGET}/{fabric}/{name}/{}/lun/lun_{lun}", group.dir);
                        is.alua_group = self.lun_group(&dir)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Only its access groups, which must go before it.
    fn bare(&self, id: BackstoreId, users: Vec<String>) -> Read<BackstoreState> {
        let groups = self.tree.dirs(format!("{}/alua", id.path()))?;
        let mut state = shell(id, users);
        state.alua = groups.into_iter().map(|name| (name, AluaGroupState::default())).collect();
        Ok(state)
    }

    fn identity_of(
        &self,
        id: BackstoreId,
        users: Vec<String>,
        wanted: &BTreeSet<String>,
    ) -> Read<BackstoreState> {
        let path = id.path();
        let serial = self.tree.read_opt(format!("{path}/wwn/vpd_unit_serial"))?;
        let mut state = shell(id, users);
        state.serial = serial.and_then(|text| after_colon(&text));
        let digits = state
            .serial
            .as_deref()
            .and_then(|serial| serial.parse().ok())
            .map(|s: crate::UnitSerial| s.digits());
        if digits.is_some_and(|digits| wanted.contains(&digits)) {
            let company = self.tree.read_opt(format!("{path}/wwn/company_id"))?;
            state.company = company.and_then(|text| hexadecimal(&text));
        }
        Ok(state)
    }

    fn backstore(
        &self,
        id: BackstoreId,
        spec: Option<&BackstoreSpec>,
        users: Vec<String>,
        grouped: bool,
    ) -> Read<BackstoreState> {
        let path = id.path();
        // What a specification does not set is not compared.
        let wwn = |file: &str, set: fn(&BackstoreSpec) -> bool| match spec.is_none_or(set) {
            true => self.tree.read_opt(format!("{path}/wwn/{file}")),
            false => Ok(None),
        };
        let text = |text: Option<String>| text.map(|text| text.trim().to_owned());
        // The kernel exports none that is not enabled (target_fabric_port_link), and one that is exported stays so.
        let enabled = !users.is_empty() || self.flag(format!("{path}/enable"))?;
        let mut state = shell(id, users);
        state.enabled = enabled;
        if spec.is_none() {
            state.alias = self.alias(&path)?;
        }
        state.serial = wwn("vpd_unit_serial", |_| true)?.and_then(|text| after_colon(&text));
        state.vendor = text(wwn("vendor_id", |s| s.vendor.is_some())?);
        state.product = text(wwn("product_id", |s| s.product.is_some())?);
        state.revision = text(wwn("revision", |s| s.revision.is_some())?);
        state.company = wwn("company_id", |s| s.company.is_some())?.and_then(|text| hexadecimal(&text));
        let names = spec.map_or(Names::All, |spec| Names::of(&spec.attributes));
        state.attributes = self.values(&format!("{path}/attrib"), &names)?;
        if state.enabled {
            let info = info::parse(&self.tree.read_opt(format!("{path}/info"))?.unwrap_or_default());
            state.access = if info.read_only { Access::ReadOnly } else { Access::ReadWrite };
            let block_size = match state.id.plugin() {
                "user" => self.number(format!("{path}/attrib/hw_block_size"))?,
                _ => None,
            };
            state.backing = backing(state.id.plugin(), &info, block_size);
        }
        self.alua_groups(&path, spec, &mut state.alua)?;
        if grouped && spec.is_none_or(|spec| spec.lu_group.is_some()) {
            let text = self.tree.read_opt(format!("{path}/alua_lu_gp"))?;
            state.lu_group = text.and_then(|text| alua::alias(&text)).filter(|name| name != "default_lu_gp");
        }
        Ok(state)
    }

    fn alua_groups(
        &self,
        backstore: &str,
        spec: Option<&BackstoreSpec>,
        groups: &mut BTreeMap<String, AluaGroupState>,
    ) -> Read<()> {
        if spec.is_some_and(|spec| spec.alua.is_empty()) || matches!(self.focus, Focus::Target(..)) {
            return Ok(());
        }
        for name in self.tree.dirs(format!("{backstore}/alua"))? {
            let wanted = spec.map(|spec| spec.alua.iter().find(|(wanted, _)| wanted.as_str() == name));
            let names = match wanted {
                // Of the kernel's own group only a list of everything says more than that it is there.
                None if name == DEFAULT_GROUP
                    && !matches!(self.focus, Focus::Everything | Focus::Complete) =>
                {
                    continue;
                }
                None => Names::Only(ALUA.iter().map(|row| row.name.to_owned()).collect()),
                Some(None) => continue,
                Some(Some((_, AluaGroupSpec { attributes, .. }))) => Names::of(attributes),
            };
            let dir = format!("{backstore}/alua/{name}");
            let attributes = self.values(&dir, &names)?;
            let attributes: BTreeMap<_, _> = attributes
                .into_iter()
                .map(|(file, text)| (file.clone(), alua::number(&file, &text)))
                .collect();
            let fresh = attributes
                .iter()
                .all(|(file, value)| attributes::default_of(ALUA, file) == Some(value.as_str()));
            if name == DEFAULT_GROUP && fresh {
                continue;
            }
            let id = self.number(format!("{dir}/tg_pt_gp_id"))?.and_then(|id| u16::try_from(id).ok());
            groups.insert(name, AluaGroupState { id, attributes });
        }
        Ok(())
    }

    fn alias(&self, backstore: &str) -> Read<Option<String>> {
        let text = self.tree.read_opt(format!("{backstore}/alias"))?.unwrap_or_default();
        Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
    }
}

fn shell(id: BackstoreId, users: Vec<String>) -> BackstoreState {
    BackstoreState {
        id,
        enabled: false,
        backing: None,
        access: Access::ReadWrite,
        serial: None,
        vendor: None,
        product: None,
        revision: None,
        company: None,
        attributes: BTreeMap::new(),
        alias: None,
        alua: BTreeMap::new(),
        lu_group: None,
        users,
    }
}

fn backing(plugin: &str, info: &info::Info, block_size: Option<u32>) -> Option<Backing> {
    let path = || info.device.as_ref().map(Into::into);
    Some(match plugin {
        "iblock" => Backing::Block { device: path()? },
        "fileio" => Backing::File {
            path: path()?,
            size: Bytes(info.size?),
            cache: if info.buffered { WriteCache::Back } else { WriteCache::Through },
            io: if info.asynchronous { FileIo::Async } else { FileIo::Blocking },
        },
        "rd_mcp" => Backing::Ramdisk {
            size: Bytes(info.pages?.saturating_mul(4096)),
            memory: if info.null { Memory::Null } else { Memory::Kept },
        },
        "pscsi" => {
            let (host, channel, target, lun) = info.address?;
            Backing::Scsi { host, channel, target, lun }
        }
        "user" => Backing::User {
            config: info.config.clone()?,
            size: Bytes(info.size?),
            block_size,
            data_area: info.data_area,
        },
        _ => return None,
    })
}
