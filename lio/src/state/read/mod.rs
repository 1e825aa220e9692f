//! Reading configfs once: directories by one `readdir` each, files only where somebody needs them.

mod backstore;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;

use host::tree::Kind;
use host::{Iqn, Secret, Tree, TreeError};

use super::{
    AclState, AuthState, BackstoreId, GroupState, IscsiState, LunState, MappedLunState, PortalState, State,
    TARGET, TargetState,
};
use crate::error::{Error, Result};
use crate::name::{Lun, Tag};
use crate::spec::{AclSpec, Credentials, DemoMode, Fabric, TargetSpec, Transport};
use crate::wire::{alua, numbered, parse_portal, session};

/// What a pass over the tree is for: it decides how much is read. Names and links are always read, values only where needed.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Focus<'a> {
    /// All targets and all backstores, without passwords.
    Everything,
    /// All targets and all backstores, with all that is needed to make them anew.
    Complete,
    /// One target and its backstores, without passwords.
    Target(Fabric, &'a Iqn),
    /// One target and its backstores, with all that is needed to make them anew.
    Removal(Fabric, &'a Iqn),
    /// One target and its backstores, with no more than what is needed to remove them: nothing can be brought back from it.
    Final(Fabric, &'a Iqn),
    /// What a specification names.
    Spec(&'a TargetSpec),
}

impl Focus<'_> {
    fn wants(&self, fabric: Fabric, name: &Iqn) -> bool {
        match self {
            Self::Everything | Self::Complete => name.as_str() != "discovery_auth",
            Self::Target(of, target) | Self::Removal(of, target) | Self::Final(of, target) => {
                (*of, *target) == (fabric, name)
            }
            Self::Spec(spec) => (spec.fabric, &spec.iqn) == (fabric, name),
        }
    }

    /// Whether sessions are of interest.
    fn live(&self) -> bool {
        matches!(self, Self::Everything | Self::Target(..))
    }

    /// Whether names and links are all that is read.
    fn bare(&self) -> bool {
        matches!(self, Self::Final(..))
    }

    fn passwords(&self) -> bool {
        matches!(self, Self::Complete | Self::Removal(..) | Self::Spec(_))
    }
}

/// Which files of a directory of values are read.
enum Names {
    All,
    Only(BTreeSet<String>),
}

impl Names {
    fn of(values: &BTreeMap<String, String>) -> Self {
        Self::Only(values.keys().cloned().collect())
    }
}

type Read<T> = std::result::Result<T, TreeError>;

/// The LUN directories that export each backstore.
type Users = BTreeMap<BackstoreId, Vec<String>>;

/// Reads the configuration. `focus` decides how much.
///
/// # Errors
/// A file cannot be read. What vanishes while it is looked at is no error: it is not there.
pub fn read(tree: &Tree, focus: Focus<'_>) -> Result<State> {
    Reader { tree, focus }.state().map_err(Error::unreadable)
}

/// Reads what all iSCSI targets share, passwords too.
pub(crate) fn read_iscsi(tree: &Tree) -> Result<IscsiState> {
    let reader = Reader { tree, focus: Focus::Complete };
    let dir = format!("{TARGET}/iscsi");
    let read = || -> Read<IscsiState> {
        let cpus = tree.read_opt(format!("{dir}/cpus_allowed_list"))?;
        Ok(IscsiState {
            discovery: reader.auth(&format!("{dir}/discovery_auth"))?,
            enforced: reader.flag(format!("{dir}/discovery_auth/enforce_discovery_auth"))?,
            cpus: cpus.and_then(|text| text.trim().parse().ok()),
        })
    };
    read().map_err(Error::unreadable)
}

struct Reader<'a> {
    tree: &'a Tree,
    focus: Focus<'a>,
}

impl Reader<'_> {
    fn state(&self) -> Read<State> {
        let mut state = State::default();
        let fabrics = self.tree.dirs(TARGET)?;
        state.fabrics =
            Fabric::ALL.into_iter().filter(|f| fabrics.iter().any(|dir| dir == f.name())).collect();
        let adapters = self.tree.dirs(format!("{TARGET}/core"))?.into_iter().filter(|name| name != "alua");
        let names = |adapter: String| {
            let names = self.tree.dirs(format!("{TARGET}/core/{adapter}"))?;
            Ok((adapter, names))
        };
        state.adapters = side_by_side(adapters.collect(), names)?.into_iter().collect();
        let mut users = Users::new();
        for fabric in fabrics.iter().filter(|fabric| *fabric != "core") {
            for wwn in self.tree.dirs(format!("{TARGET}/{fabric}"))? {
                self.wwn(fabric, &wwn, &mut users, &mut state)?;
            }
        }
        self.lu_groups(&mut state)?;
        self.backstores(&users, &mut state)?;
        if let Focus::Spec(_) | Focus::Complete = self.focus {
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
    fn wwn(&self, fabric: &str, wwn: &str, users: &mut Users, state: &mut State) -> Read<()> {
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
        let Some(fabric) = Fabric::ALL.into_iter().find(|known| known.name() == fabric) else {
            return Ok(());
        };
        let iqn = Iqn::from_kernel(wwn);
        if !self.focus.wants(fabric, &iqn) {
            return Ok(());
        }
        let groups = groups
            .into_iter()
            .map(|(group, tag, luns)| self.group(fabric, &dir, group, tag, luns))
            .collect::<Read<Vec<_>>>()?;
        let session_count = match self.focus.live() && fabric == Fabric::Iscsi {
            true => self.number(format!("{dir}/fabric_statistics/iscsi_instance/sessions"))?,
            false => None,
        };
        let backstores = BTreeMap::new();
        let target = TargetState { fabric, iqn: iqn.clone(), groups, backstores, session_count };
        state.targets.insert((fabric, iqn), target);
        Ok(())
    }

    fn luns(&self, group: &str, users: &mut Users) -> Read<BTreeMap<Lun, LunState>> {
        let look = |name: String| {
            let Some(lun) = numbered(&name, "lun_").and_then(|n| Lun::try_from(n).ok()) else {
                return Ok(None);
            };
            let dir = format!("{group}/lun/{name}");
            let (link, backstore) = match self.link(&dir, "backstore")? {
                Some((link, path)) => {
                    let mut parts = path.iter().rev().map(|part| part.to_string_lossy().into_owned());
                    let id =
                        parts.next().zip(parts.next()).map(|(name, adapter)| BackstoreId::new(adapter, name));
                    (Some(link), id)
                }
                None => (None, None),
            };
            Ok(Some((lun, dir, LunState { link, backstore, alua_group: None })))
        };
        let mut luns = BTreeMap::new();
        for (lun, dir, is) in
            side_by_side(self.tree.dirs(format!("{group}/lun"))?, look)?.into_iter().flatten()
        {
            if let Some(id) = &is.backstore {
                users.entry(id.clone()).or_default().push(dir);
            }
            luns.insert(lun, is);
        }
        Ok(luns)
    }

    /// The one link of a directory and where it leads. The name that this crate gives it is tried first: to list a directory takes five
    /// calls, to read a link one.
    fn link(&self, dir: &str, usual: &str) -> Read<Option<(String, PathBuf)>> {
        match self.tree.read_link(format!("{dir}/{usual}")) {
            Ok(path) => return Ok(Some((usual.to_owned(), path))),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        match self.tree.links(dir)?.into_iter().next() {
            Some(link) => {
                let path = self.tree.read_link(format!("{dir}/{link}"))?;
                Ok(Some((link, path)))
            }
            None => Ok(None),
        }
    }

    fn group(
        &self,
        fabric: Fabric,
        target: &str,
        dir: String,
        tag: Tag,
        mut luns: BTreeMap<Lun, LunState>,
    ) -> Read<GroupState> {
        let path = format!("{target}/{dir}");
        let spec = match self.focus {
            Focus::Spec(spec) if spec.tag == tag => Some(spec),
            _ => None,
        };
        // Of the sibling groups of the one that is wanted only the portals matter.
        let sibling = matches!(self.focus, Focus::Spec(spec) if spec.tag != tag);
        let names = |of: &dyn Fn(&TargetSpec) -> Names| match spec {
            Some(spec) => of(spec),
            None if sibling || self.focus.bare() => Names::Only(BTreeSet::new()),
            None => Names::All,
        };
        let mut group = GroupState { tag, ..GroupState::default() };
        if let Some(spec) = spec {
            for (lun, is) in &mut luns {
                // Also where the default one is wanted: the backstore's other groups may have had the LUN before.
                let grouped = spec.luns.get(lun).is_some_and(|disk| !disk.alua.is_empty());
                if grouped && is.backstore.is_some() {
                    is.alua_group = self.lun_group(&format!("{path}/lun/lun_{lun}"))?;
                }
            }
        }
        if fabric == Fabric::Iscsi {
            group.attributes =
                self.values(&format!("{path}/attrib"), &names(&|s| Names::of(&s.all_attributes())))?;
            group.parameters =
                self.values(&format!("{path}/param"), &names(&|s| Names::of(&s.parameters)))?;
            if !sibling {
                for name in self.tree.dirs(format!("{path}/acls"))? {
                    let iqn = Iqn::from_kernel(&name);
                    let wanted = spec.and_then(|spec| Some((spec, spec.acls.get(&iqn)?)));
                    let acl = self.acl(&format!("{path}/acls/{name}"), wanted)?;
                    group.acls.insert(iqn, acl);
                }
                // Whoever is let in by name is asked by the ACL; the group's own passwords are for the others.
                let open =
                    |group: &GroupState| group.attributes.get("generate_node_acls").is_some_and(|n| n == "1");
                let asked = match spec {
                    Some(spec) => spec.demo_mode == DemoMode::Allowed || spec.auth != Credentials::default(),
                    None => matches!(self.focus, Focus::Complete) || open(&group),
                };
                if asked {
                    group.auth = self.auth(&format!("{path}/auth"))?;
                }
            }
            group.portals = self.portals(&path, spec, sibling)?;
            if self.focus.live() {
                let text = self.tree.read_opt(format!("{path}/dynamic_sessions"))?;
                group.dynamic_sessions = text.map(|text| session::parse_dynamic(&text)).unwrap_or_default();
            }
            group.enabled = self.flag(format!("{path}/enable"))?;
        } else if !sibling {
            let nexus = match self.tree.read_opt(format!("{path}/nexus")) {
                // Without one the file cannot be read (tcm_loop_tpg_nexus_show).
                Err(error) if error.errno() == Some(libc::ENODEV) => None,
                other => other?,
            };
            group.nexus = nexus.map(|text| Iqn::from_kernel(text.trim())).filter(|n| !n.as_str().is_empty());
            group.enabled = group.nexus.is_some();
        }
        if !sibling && !self.focus.bare() && spec.is_none_or(|spec| spec.port_id.is_some()) {
            let id = self.tree.read_opt(format!("{path}/rtpi"))?.and_then(|text| hexadecimal(&text));
            group.port_id = id.and_then(|id| u16::try_from(id).ok()).filter(|id| *id != 0);
        }
        group.dir = dir;
        group.luns = luns;
        Ok(group)
    }

    fn portals(&self, group: &str, spec: Option<&TargetSpec>, sibling: bool) -> Read<Vec<PortalState>> {
        let names = self.tree.dirs(format!("{group}/np"))?;
        let mut loaded = Vec::new();
        if !names.is_empty() && !sibling && !self.focus.bare() {
            for (transport, module) in [(Transport::Iser, "ib_isert"), (Transport::Cxgbit, "cxgbit")] {
                let asked =
                    spec.is_none_or(|spec| spec.transports.values().any(|wanted| *wanted == transport));
                if asked && self.tree.exists(format!("/sys/module/{module}"))? {
                    loaded.push(transport);
                }
            }
        }
        let mut portals = Vec::new();
        for name in names {
            let mut transport = Transport::Tcp;
            for other in &loaded {
                if let Some(file) = other.file()
                    && self.flag(format!("{group}/np/{name}/{file}"))?
                {
                    transport = *other;
                }
            }
            portals.push(PortalState { address: parse_portal(&name), name, transport });
        }
        Ok(portals)
    }

    fn lun_group(&self, lun: &str) -> Read<Option<String>> {
        let text = match self.tree.read_opt(format!("{lun}/alua_tg_pt_gp")) {
            // Not for backstores whose device answers for itself.
            Err(error) if error.errno() == Some(libc::ENODEV) => None,
            other => other?,
        };
        Ok(text.and_then(|text| alua::alias(&text)))
    }

    fn acl(&self, path: &str, spec: Option<(&TargetSpec, &AclSpec)>) -> Read<AclState> {
        let names = match spec {
            Some((target, acl)) => Names::of(&target.acl_attributes(acl)),
            None => Names::All,
        };
        let look = |name: String| {
            let Some(lun) = numbered(&name, "lun_").and_then(|n| Lun::try_from(n).ok()) else {
                return Ok(None);
            };
            let dir = format!("{path}/{name}");
            let found = self.link(&dir, "lun")?;
            let target_lun = found.as_ref().and_then(|(_, to)| {
                let name = to.file_name()?.to_string_lossy().into_owned();
                numbered(&name, "lun_").and_then(|n| Lun::try_from(n).ok())
            });
            // Before the link is there the file reads as nothing.
            let write_protected =
                found.is_some() && !self.focus.bare() && self.flag(format!("{dir}/write_protect"))?;
            let link = found.map(|(link, _)| link);
            Ok(Some((lun, MappedLunState { link, target_lun, write_protected })))
        };
        let luns = side_by_side(self.tree.dirs(path)?, look)?.into_iter().flatten().collect();
        if self.focus.bare() {
            return Ok(AclState { luns, ..AclState::default() });
        }
        let queue_depth = match spec {
            Some((_, acl)) if acl.queue_depth.is_none() => None,
            _ => self.number(format!("{path}/cmdsn_depth"))?.and_then(|n| u16::try_from(n).ok()),
        };
        let session = match self.focus.live() {
            true => self.tree.read_opt(format!("{path}/info"))?.and_then(|text| session::parse(&text)),
            false => None,
        };
        let tag = match spec {
            Some((_, acl)) if acl.tag.is_none() => None,
            _ => self.tree.read_opt(format!("{path}/tag"))?,
        };
        let tag = tag.map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty());
        let attributes = self.values(&format!("{path}/attrib"), &names)?;
        Ok(AclState {
            auth: self.auth(&format!("{path}/auth"))?,
            tag,
            queue_depth,
            attributes,
            luns,
            session,
        })
    }

    fn auth(&self, dir: &str) -> Read<AuthState> {
        let secret = |name: &str| self.credential(&format!("{dir}/{name}"));
        let name = |name: &str| {
            secret(name).map(|found| found.map(|s| String::from_utf8_lossy(s.expose()).into_owned()))
        };
        let mut auth =
            AuthState { user: name("userid")?, mutual_user: name("userid_mutual")?, ..AuthState::default() };
        if self.focus.passwords() {
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
            match self.tree.read_opt(format!("{dir}/{name}")) {
                Ok(Some(value)) => drop(values.insert(name, value.trim().to_owned())),
                // Files that only act when they are written (tcmu's reset_ring) cannot be read.
                Ok(None) => {}
                Err(error) if error.errno() == Some(libc::EACCES) => {}
                Err(error) => return Err(error),
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

/// Looks at many things, on as many threads as that is worth: with a few hundred LUNs it is the calls that take the time.
fn side_by_side<T: Send, R: Send>(items: Vec<T>, look: impl Fn(T) -> Read<R> + Sync) -> Read<Vec<R>> {
    const WORTH_A_THREAD: usize = 32;
    // Nothing waits here but for a processor. The question reads files of its own (cgroup limits).
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    let processors = || std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    let threads = items.len().div_ceil(WORTH_A_THREAD).min(*PROCESSORS.get_or_init(processors));
    if threads <= 1 {
        return items.into_iter().map(look).collect();
    }
    let size = items.len().div_ceil(threads);
    let mut items = items.into_iter();
    let parts: Vec<Vec<T>> = (0..threads).map(|_| items.by_ref().take(size).collect()).collect();
    let look = &look;
    std::thread::scope(|scope| {
        let work = |part: Vec<T>| part.into_iter().map(look).collect::<Read<Vec<R>>>();
        let workers: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || work(part))).collect();
        let mut all = Vec::new();
        for worker in workers {
            match worker.join() {
                Ok(part) => all.extend(part?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(all)
    })
}

/// A number that the kernel prints in hexadecimal, with or without `0x`.
fn hexadecimal(text: &str) -> Option<u32> {
    let text = text.trim();
    u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}
