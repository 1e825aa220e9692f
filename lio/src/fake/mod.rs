//! LIO in memory: the default groups, values and errnos of its configfs tree, for tests without root.
//!
//! What it answers is what kernels 6.1 and 6.12 answer; the conformance suite of this crate runs on both. It has no I/O: sessions are
//! [put in](log_in).
//!
//! ```
//! use lio::{Host, Lio};
//! let memory = lio::fake::configfs();
//! let host = Host::fake().with_tree(memory.tree());
//! assert!(Lio::on(&host)?.list()?.is_empty());
//! # Ok::<(), lio::Error>(())
//! ```

mod device;
mod group;
mod mapper;

pub use mapper::mapper;

use std::collections::{BTreeMap, BTreeSet};

use host::Iqn;
use host::fake::{Errno, Memory, Node, Nodes, Rules, plain_link, plain_make_dir, plain_unlink, plain_write};

use crate::state::TARGET;
use crate::wire::attributes::{self, Attribute, Kernels, Range, Table};
use crate::wire::numbered;

type Outcome<T = ()> = Result<T, Errno>;

/// Which kernel a fake answers like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Kernel {
    /// Linux 6.1.
    #[default]
    V6_1,
    /// Linux 6.12.
    V6_12,
}

impl Kernel {
    fn has(self, attribute: &Attribute) -> bool {
        match attribute.kernels {
            Kernels::All => true,
            Kernels::Newer => self == Self::V6_12,
            Kernels::Older => self == Self::V6_1,
        }
    }
}

/// A machine with LIO of Linux 6.1 loaded and nothing configured. Put block devices in with `memory.edit(|nodes| nodes.put("/dev/vdb", ""))`; one with
/// the content `secondary` is refused as a DRBD resource that is not Primary.
#[must_use]
pub fn configfs() -> Memory {
    configfs_of(Kernel::V6_1)
}

/// The same of another kernel.
#[must_use]
pub fn configfs_of(kernel: Kernel) -> Memory {
    let memory = Memory::new().with_rules(TARGET, Configfs { kernel, ..Configfs::default() });
    memory.edit(|nodes| {
        let version = "Target Engine Core ConfigFS Infrastructure v5.0 on Linux/x86_64 on 6.1.0\n";
        nodes.put(&format!("{TARGET}/version"), version);
        nodes.put(&format!("{TARGET}/dbroot"), "/var/target\n");
        nodes.put(&format!("{TARGET}/core/alua/lu_gps/default_lu_gp/lu_gp_id"), "0\n");
        nodes.put(&format!("{TARGET}/core/alua/lu_gps/default_lu_gp/members"), "");
        nodes.put_dir("/sys/module/target_core_mod");
        nodes.put_dir("/sys/module/iscsi_target_mod");
        nodes.put("/dev/mapper/control", "");
        nodes.put("/proc/mounts", "");
        nodes.put("/proc/net/tcp", "  sl  local_address rem_address   st\n");
        nodes.put("/proc/net/tcp6", "  sl  local_address rem_address   st\n");
    });
    memory
}

/// Logs an initiator in, as far as configfs shows it. Disabling the target logs it out.
pub fn log_in(memory: &Memory, target: &Iqn, initiator: &Iqn) {
    memory.edit(|nodes| {
        let fabric = format!("{TARGET}/iscsi/{target}");
        let info = nodes
            .iter()
            .map(|(path, _)| path.to_owned())
            .find(|path| path.starts_with(&fabric) && path.ends_with(&format!("/acls/{initiator}/info")));
        if let Some(info) = info {
            nodes.put(&info, format!(
                "InitiatorName: {initiator}\nInitiatorAlias: fake\nLIO Session ID: 1   ISID: 0x00 02 3d 00 00 00  TSIH: 1  SessionType: Normal\n\
                 Session State: TARG_SESS_STATE_LOGGED_IN\n\
                 CID: 0  Connection State: TARG_CONN_STATE_LOGGED_IN\n   Address 192.0.2.5 TCP  StatSN: 0x1\n"
            ));
            nodes.put(&format!("{fabric}/fabric_statistics/iscsi_instance/sessions"), "1\n");
        }
    });
}

/// The rules of `target_core_mod` and `iscsi_target_mod`.
#[derive(Debug, Default)]
struct Configfs {
    /// Directories that somebody made; the others are the kernel's own and cannot be removed.
    made: BTreeSet<String>,
    control: BTreeMap<String, BTreeMap<String, String>>,
    kernel: Kernel,
}

fn parts(path: &str) -> Vec<&str> {
    let rest = path.strip_prefix(TARGET).unwrap_or(path);
    rest.split('/').filter(|part| !part.is_empty()).collect()
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn line(value: &str) -> String {
    format!("{value}\n")
}

/// What the kernel makes of a value that the table has a row for.
fn store(row: &Attribute, value: &str) -> Outcome {
    match row.range {
        _ if row.range.allows(value) => Ok(()),
        _ => Err(row.errno),
    }
}

impl Configfs {
    fn put_values(&self, nodes: &mut Nodes, dir: &str, table: Table) {
        nodes.put_dir(dir);
        for row in table.iter().filter(|row| self.kernel.has(row)) {
            nodes.put(&format!("{dir}/{}", row.name), line(row.default.unwrap_or("0")));
        }
    }

    /// The first word of `info`: whether somebody exports the device.
    fn set_status(nodes: &mut Nodes, device: &str, status: &str) {
        let file = format!("{device}/info");
        if let Some(text) = nodes.text(&file)
            && let Some((_, rest)) = text.strip_prefix("Status: ").and_then(|text| text.split_once(' '))
        {
            nodes.put(&file, format!("Status: {status} {rest}"));
        }
    }

    fn is_on(nodes: &Nodes, file: &str) -> bool {
        nodes.text(file).is_some_and(|text| text.trim() == "1")
    }

    /// `export_count`: a LUN links to the device.
    fn exported(nodes: &Nodes, device: &str) -> bool {
        !nodes.links_to(device).is_empty()
    }
}

impl Rules for Configfs {
    fn make_dir(&mut self, nodes: &mut Nodes, path: &str) -> Outcome {
        let numbered = |name: &str, prefix| numbered(name, prefix).ok_or(libc::EINVAL);
        if nodes.get(path).is_some() {
            return Err(libc::EEXIST);
        }
        if nodes.get(parent(path)).is_none() {
            return Err(libc::ENOENT);
        }
        match parts(path)[..] {
            ["iscsi"] => {
                Self::make_auth(nodes, &format!("{path}/discovery_auth"));
                nodes.put(&format!("{path}/discovery_auth/enforce_discovery_auth"), "0\n");
                nodes.put(&format!("{path}/lio_version"), "Datera Inc. iSCSI Target v4.1.0\n");
                nodes.put(&format!("{path}/cpus_allowed_list"), "0-1\n");
            }
            ["loopback" | "vhost"] => {}
            ["core", adapter] if adapter.len() > 63 => return Err(libc::ENAMETOOLONG),
            ["core", adapter] if *adapter != *"alua" => {
                let (plugin, index) = adapter.rsplit_once('_').ok_or(libc::EINVAL)?;
                let known = ["iblock", "fileio", "rd_mcp", "pscsi", "user"].contains(&plugin);
                if !known || index.parse::<u32>().is_err() {
                    return Err(libc::EINVAL);
                }
                nodes.put(
                    &format!("{path}/hba_info"),
                    format!("HBA Index: {index} plugin: {plugin} version: v5.0\n"),
                );
            }
            ["core", adapter, _] => {
                let plugin = adapter.rsplit_once('_').map_or(adapter, |(plugin, _)| plugin).to_owned();
                self.make_device(nodes, path, &plugin);
            }
            ["core", "alua", "lu_gps", _] => {
                nodes.put(&format!("{path}/lu_gp_id"), "0\n");
                nodes.put(&format!("{path}/members"), "");
            }
            ["core", _, _, "alua", _] => self.make_access_group(nodes, path),
            ["iscsi", name] if name.len() > 223 => return Err(libc::EINVAL),
            ["iscsi", _] => {
                nodes.put(&format!("{path}/param/cmd_completion_affinity"), "-1\n");
                nodes.put(&format!("{path}/fabric_statistics/iscsi_instance/sessions"), "0\n");
            }
            ["iscsi", _, group] => {
                u16::try_from(numbered(group, "tpgt_")?).map_err(|_| libc::EINVAL)?;
                self.make_group(nodes, path);
            }
            ["loopback" | "vhost", name] if !name.contains("naa.") => return Err(libc::EINVAL),
            ["loopback" | "vhost", _] => {}
            ["loopback" | "vhost", _, group] => {
                u16::try_from(numbered(group, "tpgt_")?).map_err(|_| libc::EINVAL)?;
                ["lun", "np", "acls"].iter().for_each(|dir| nodes.put_dir(&format!("{path}/{dir}")));
                nodes.put(&format!("{path}/nexus"), "");
            }
            ["iscsi", _, _, "np", name] => {
                Self::make_portal(nodes, path, name)?;
                ["iser", "cxgbit"].iter().for_each(|file| nodes.put(&format!("{path}/{file}"), "0\n"));
            }
            ["iscsi" | "loopback" | "vhost", _, _, "lun", lun] => {
                numbered(lun, "lun_")?;
                nodes.put(&format!("{path}/alua_tg_pt_gp"), "");
                nodes.put_dir(&format!("{path}/statistics"));
            }
            ["iscsi", _, _, "acls", initiator] => {
                let depth = format!("{}/attrib/default_cmdsn_depth", parent(parent(path)));
                let depth = nodes.text(&depth).unwrap_or_else(|| line("64"));
                self.make_acl(nodes, path, initiator, depth);
            }
            ["iscsi", _, _, "acls", _, lun] => {
                numbered(lun, "lun_")?;
                nodes.put(&format!("{path}/write_protect"), "");
                nodes.put_dir(&format!("{path}/statistics"));
            }
            [_] => return Err(libc::EINVAL),
            _ => return Err(libc::EPERM),
        }
        if nodes.get(path).is_none() {
            plain_make_dir(nodes, path)?;
        }
        self.made.insert(path.to_owned());
        Ok(())
    }

    fn remove_dir(&mut self, nodes: &mut Nodes, path: &str) -> Outcome {
        match nodes.get(path) {
            None => return Err(libc::ENOENT),
            Some(Node::Dir) if self.made.contains(path) => {}
            Some(Node::Dir) => return Err(libc::EPERM),
            Some(_) => return Err(libc::ENOTDIR),
        }
        if !nodes.links_to(path).is_empty() {
            return Err(libc::EBUSY);
        }
        let below = format!("{path}/");
        let links = nodes.iter().any(|(at, node)| at.starts_with(&below) && matches!(node, Node::Link(_)));
        if links || self.made.iter().any(|made| made.starts_with(&below)) {
            return Err(libc::ENOTEMPTY);
        }
        self.leave_groups(nodes, path);
        nodes.take(path);
        self.made.remove(path);
        self.control.remove(path);
        Ok(())
    }

    fn write(&mut self, nodes: &mut Nodes, path: &str, data: &[u8]) -> Outcome {
        match nodes.get(path) {
            None => return Err(libc::ENOENT),
            Some(Node::File(_)) => {}
            Some(_) => return Err(libc::EISDIR),
        }
        if data.is_empty() {
            return Err(libc::EFAULT);
        }
        let text = String::from_utf8_lossy(data.get(..4095).unwrap_or(data)).into_owned();
        let names = parts(path);
        let content = match names.get(..3) {
            Some(["core", "alua", "lu_gps"]) => {
                // Once and for all, and no two the same.
                let set = nodes.text(path).is_some_and(|now| now.trim() != "0");
                let twin = nodes.iter().any(|(other, _)| {
                    other.ends_with("/lu_gp_id")
                        && nodes.text(other).is_some_and(|id| id.trim() == text.trim_end())
                });
                match path.ends_with("/lu_gp_id") && (set || twin) {
                    true => return Err(libc::EINVAL),
                    false => line(text.trim_end()),
                }
            }
            Some(["core", adapter, name]) => {
                let device = format!("{TARGET}/core/{adapter}/{name}");
                self.write_device(nodes, &device, names.get(3..).unwrap_or_default(), &text)?
            }
            Some(["iscsi", "discovery_auth", file]) => match (*file, text.trim_end()) {
                ("enforce_discovery_auth", "0" | "1") => line(text.trim_end()),
                ("enforce_discovery_auth", _) => return Err(libc::EINVAL),
                _ if text.len() >= 256 => return Err(libc::EINVAL),
                _ => line(text.trim_end()),
            },
            Some(["iscsi", iqn, group]) => {
                let group = format!("{TARGET}/iscsi/{iqn}/{group}");
                self.write_group(nodes, &group, names.get(3..).unwrap_or_default(), &text)?
            }
            Some(["loopback" | "vhost", _, _]) if path.ends_with("/nexus") => match text.trim_end() {
                "NULL" => String::new(),
                naa if naa.starts_with("naa.") => line(naa),
                _ => return Err(libc::EINVAL),
            },
            Some(["loopback" | "vhost", ..]) if path.ends_with("/alua_tg_pt_gp") => {
                Self::move_lun(nodes, path, &text)?
            }
            _ if names[..] == ["dbroot"] => match nodes.get(text.trim_end()) {
                _ if self.made.iter().any(|dir| matches!(parts(dir)[..], ["core", _, _])) => {
                    return Err(libc::EINVAL);
                }
                Some(Node::Dir) => line(text.trim_end()),
                Some(_) => return Err(libc::ENOTDIR),
                None => return Err(libc::ENOENT),
            },
            _ if names[..] == ["iscsi", "cpus_allowed_list"] => match text.trim_end().parse::<host::CpuSet>()
            {
                Ok(_) => line(text.trim_end()),
                Err(_) => return Err(libc::EINVAL),
            },
            _ => line(text.trim_end()),
        };
        plain_write(nodes, path, content.as_bytes())
    }

    fn link(&mut self, nodes: &mut Nodes, target: &str, path: &str) -> Outcome {
        if nodes.get(path).is_some() {
            return Err(libc::EEXIST);
        }
        match nodes.get(target) {
            None => return Err(libc::ENOENT),
            Some(Node::Dir) => {}
            Some(_) => return Err(libc::ENOTDIR),
        }
        let dir = parent(path);
        let linked = nodes.children(dir).iter().any(|(_, node)| matches!(node, Node::Link(_)));
        match parts(path)[..] {
            ["iscsi" | "loopback" | "vhost", _, _, "lun", _, _] => match parts(target)[..] {
                ["core", _, _] if linked => return Err(libc::EEXIST),
                ["core", _, _] if !Self::is_on(nodes, &format!("{target}/enable")) => {
                    return Err(libc::ENODEV);
                }
                ["core", _, _] => {
                    Self::set_status(nodes, target, "ACTIVATED");
                    let group = "TG Port Alias: default_tg_pt_gp\nTG Port Group ID: 0\n";
                    nodes.put(&format!("{dir}/alua_tg_pt_gp"), group);
                }
                _ => return Err(libc::EFAULT),
            },
            ["iscsi", _, _, "acls", _, _, _] if !matches!(parts(target)[..], [_, _, _, "lun", _]) => {
                return Err(libc::EFAULT);
            }
            ["iscsi", iqn, group, "acls", _, _, _] => {
                let luns = format!("{TARGET}/iscsi/{iqn}/{group}/lun");
                let exported = nodes.children(target).iter().any(|(_, node)| matches!(node, Node::Link(_)));
                if parent(target) != luns || !exported || linked {
                    return Err(libc::EINVAL);
                }
                nodes.put(&format!("{dir}/write_protect"), "0\n");
            }
            _ => return Err(libc::EPERM),
        }
        plain_link(nodes, target, path)
    }

    fn unlink(&mut self, nodes: &mut Nodes, path: &str) -> Outcome {
        match nodes.get(path) {
            None => return Err(libc::ENOENT),
            Some(Node::Link(_)) => {}
            Some(_) => return Err(libc::EPERM),
        }
        let target = match nodes.get(path) {
            Some(Node::Link(target)) => target.clone(),
            _ => String::new(),
        };
        plain_unlink(nodes, path)?;
        if nodes.links_to(&target).is_empty() {
            Self::set_status(nodes, &target, "DEACTIVATED");
        }
        let file = if parts(path).contains(&"acls") { "write_protect" } else { "alua_tg_pt_gp" };
        nodes.put(&format!("{}/{file}", parent(path)), "");
        Ok(())
    }
}
