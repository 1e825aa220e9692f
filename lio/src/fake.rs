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

use std::collections::{BTreeMap, BTreeSet};

use host::Iqn;
use host::fake::{Errno, Memory, Node, Nodes, Rules, plain_link, plain_make_dir, plain_unlink, plain_write};

use crate::state::TARGET;
use crate::wire::{defaults, numbered, parse_portal};

type Outcome<T = ()> = Result<T, Errno>;

/// A machine with LIO loaded and nothing configured. Put block devices in with `memory.edit(|nodes| nodes.put("/dev/vdb", ""))`; one with
/// the content `secondary` is refused as a DRBD resource that is not Primary.
#[must_use]
pub fn configfs() -> Memory {
    let memory = Memory::new().with_rules(TARGET, Configfs::default());
    memory.edit(|nodes| {
        let version = "Target Engine Core ConfigFS Infrastructure v5.0 on Linux/x86_64 on 6.1.0\n";
        nodes.put(&format!("{TARGET}/version"), version);
        nodes.put(&format!("{TARGET}/dbroot"), "/var/target\n");
        nodes.put(&format!("{TARGET}/core/alua/lu_gps/default_lu_gp/lu_gp_id"), "0\n");
        nodes.put_dir("/sys/module/target_core_mod");
        nodes.put_dir("/sys/module/iscsi_target_mod");
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

/// What a `control` file was given.
#[derive(Debug, Clone, Default)]
struct Control {
    device: Option<String>,
    read_only: bool,
    pages: Option<u64>,
}

/// The rules of `target_core_mod` and `iscsi_target_mod`.
#[derive(Debug, Default)]
struct Configfs {
    /// Directories that somebody made; the others are the kernel's own and cannot be removed.
    made: BTreeSet<String>,
    control: BTreeMap<String, Control>,
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

impl Configfs {
    fn put_values(nodes: &mut Nodes, dir: &str, table: &[(&str, &str)]) {
        nodes.put_dir(dir);
        table.iter().for_each(|(name, value)| nodes.put(&format!("{dir}/{name}"), line(value)));
    }

    fn is_on(nodes: &Nodes, file: &str) -> bool {
        nodes.text(file).is_some_and(|text| text.trim() == "1")
    }

    /// `export_count`: a LUN links to the device.
    fn exported(nodes: &Nodes, device: &str) -> bool {
        !nodes.links_to(device).is_empty()
    }

    fn make_device(nodes: &mut Nodes, path: &str, plugin: &str) {
        for (file, value) in
            [("info", ""), ("control", ""), ("alias", ""), ("udev_path", ""), ("enable", "0\n")]
        {
            nodes.put(&format!("{path}/{file}"), value);
        }
        nodes.put(&format!("{path}/alua/default_tg_pt_gp/tg_pt_gp_id"), "0\n");
        nodes.put(&format!("{path}/wwn/vpd_unit_serial"), "T10 VPD Unit Serial Number: \n");
        nodes.put(&format!("{path}/wwn/vendor_id"), "LIO-ORG\n");
        nodes.put(
            &format!("{path}/wwn/product_id"),
            line(if plugin == "iblock" { "IBLOCK" } else { "RAMDISK-MCP" }),
        );
        nodes.put(&format!("{path}/wwn/company_id"), "0x001405\n");
        nodes.put(&format!("{path}/pr/res_aptpl_metadata"), "Ready to process PR APTPL metadata..\n");
        let newer = |name: &str| matches!(name, "emulate_rsoc" | "submit_type");
        let table: Vec<_> = defaults::DEVICE.iter().filter(|(name, _)| !newer(name)).copied().collect();
        Self::put_values(nodes, &format!("{path}/attrib"), &table);
        let hardware = [("hw_block_size", "512"), ("hw_max_sectors", "1024"), ("hw_queue_depth", "128")];
        let own =
            [("block_size", "512"), ("optimal_sectors", "1024"), ("queue_depth", "128"), ("is_nonrot", "0")];
        let unmap = [
            ("max_unmap_lba_count", "0"),
            ("max_unmap_block_desc_count", "0"),
            ("max_write_same_len", "65535"),
        ];
        for table in [&hardware[..], &own, &unmap] {
            Self::put_values(nodes, &format!("{path}/attrib"), table);
        }
    }

    fn make_group(nodes: &mut Nodes, path: &str) {
        nodes.put(&format!("{path}/enable"), "0\n");
        nodes.put(&format!("{path}/dynamic_sessions"), "");
        ["lun", "np", "acls"].iter().for_each(|dir| nodes.put_dir(&format!("{path}/{dir}")));
        Self::put_values(nodes, &format!("{path}/attrib"), defaults::GROUP);
        Self::put_values(nodes, &format!("{path}/param"), defaults::PARAMETER);
        Self::make_auth(nodes, path);
    }

    fn make_auth(nodes: &mut Nodes, path: &str) {
        for file in ["userid", "password", "userid_mutual", "password_mutual"] {
            nodes.put(&format!("{path}/auth/{file}"), "\n");
        }
    }

    fn make_acl(nodes: &mut Nodes, path: &str, initiator: &str, depth: String) {
        let info = format!("No active iSCSI Session for Initiator Endpoint: {initiator}\n");
        nodes.put(&format!("{path}/info"), info);
        nodes.put(&format!("{path}/cmdsn_depth"), depth);
        nodes.put(&format!("{path}/tag"), "");
        Self::put_values(nodes, &format!("{path}/attrib"), defaults::ACL);
        Self::make_auth(nodes, path);
    }

    fn make_portal(nodes: &Nodes, path: &str, name: &str) -> Outcome {
        let Some(address) = parse_portal(name) else { return Err(libc::EINVAL) };
        // One portal, one group: lio_target_call_addnptotpg finds it in a sibling and answers EINVAL.
        let target = parent(parent(parent(path)));
        let twin = nodes.iter().any(|(other, _)| {
            other.starts_with(&format!("{target}/"))
                && other.contains("/np/")
                && parse_portal(other.rsplit('/').next().unwrap_or_default()) == Some(address)
        });
        let table = nodes.text(if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" });
        let port = format!(":{:04X} ", address.port());
        match twin || table.is_some_and(|table| table.contains(&port)) {
            true => Err(libc::EINVAL),
            false => Ok(()),
        }
    }

    fn write_device(
        &mut self,
        nodes: &mut Nodes,
        device: &str,
        file: &[&str],
        text: &str,
    ) -> Outcome<String> {
        let enabled = Self::is_on(nodes, &format!("{device}/enable"));
        let exported = Self::exported(nodes, device);
        let value = text.trim_end();
        match *file {
            ["control"] => {
                let control = self.control.entry(device.to_owned()).or_default();
                for (key, value) in value.split([',', '\n']).filter_map(|pair| pair.split_once('=')) {
                    match key {
                        "udev_path" if enabled => return Err(libc::EEXIST),
                        "udev_path" => control.device = Some(value.to_owned()),
                        "readonly" => control.read_only = value == "1",
                        "rd_pages" => control.pages = Some(value.parse().map_err(|_| libc::EINVAL)?),
                        // Unknown keys are ignored without a word.
                        _ => {}
                    }
                }
                Ok(String::new())
            }
            ["enable"] => {
                if !value.contains('1') {
                    return Err(libc::EINVAL);
                }
                if enabled {
                    return Err(libc::EEXIST);
                }
                self.configure(nodes, device)?;
                Ok(line("1"))
            }
            ["alias" | "udev_path"] => Ok(line(value)),
            ["wwn", _] if exported => Err(libc::EINVAL),
            ["wwn", "vpd_unit_serial"] if value.len() > 253 => Err(libc::EOVERFLOW),
            ["wwn", "vpd_unit_serial"] => Ok(format!("T10 VPD Unit Serial Number: {value}\n")),
            ["wwn", "vendor_id"] if value.len() > 8 => Err(libc::EOVERFLOW),
            ["wwn", "product_id"] if value.len() > 16 => Err(libc::EOVERFLOW),
            ["wwn", "company_id"] => {
                let number = value
                    .strip_prefix("0x")
                    .map_or_else(|| value.parse(), |hex| u32::from_str_radix(hex, 16));
                match number.map_err(|_| libc::EINVAL)? {
                    number @ 0..0x0100_0000 => Ok(format!("{number:#08x}\n")),
                    _ => Err(libc::EOVERFLOW),
                }
            }
            ["wwn", _] => Ok(line(value)),
            ["attrib", name] => Self::write_attribute(name, value, enabled, exported),
            _ => Ok(text.to_owned()),
        }
    }

    fn write_attribute(name: &str, value: &str, enabled: bool, exported: bool) -> Outcome<String> {
        let number: i64 = value.parse().map_err(|_| libc::EINVAL)?;
        match name {
            _ if exported && defaults::DEVICE_UNEXPORTED.contains(&name) => Err(libc::EINVAL),
            // 6.1 dereferences a null pointer here; 6.12 answers this.
            "emulate_tpu" | "emulate_tpws" | "unmap_zeroes_data" if !enabled && number != 0 => {
                Err(libc::ENODEV)
            }
            "block_size" if ![512, 1024, 2048, 4096].contains(&number) => Err(libc::EINVAL),
            "emulate_write_cache" if number != 0 => Err(libc::EINVAL),
            "emulate_rest_reord" if number != 0 => Err(libc::ENOSYS),
            "alua_support" | "pgr_support" => Err(libc::ENOSYS),
            _ => Ok(line(value)),
        }
    }

    /// `target_configure_device`: opens the device.
    fn configure(&mut self, nodes: &mut Nodes, device: &str) -> Outcome {
        let control = self.control.get(device).cloned().unwrap_or_default();
        let info = format!("{device}/info");
        if device.contains("/core/rd_mcp_") {
            let pages = control.pages.ok_or(libc::EINVAL)?;
            nodes.put(&info, format!("Status: DEACTIVATED\n        TCM RamDisk ID: 0  RamDisk Makeup: rd_mcp\n        PAGES/PAGE_SIZE: {pages}*4096  SG_table_count: 1  nullio: 0 dummy: 0\n"));
            return Ok(());
        }
        let path = control.device.ok_or(libc::EINVAL)?;
        let content = nodes.text(&path).ok_or(libc::ENOENT)?;
        let claimed = self.control.iter().any(|(other, control)| {
            other != device
                && control.device.as_ref() == Some(&path)
                && Self::is_on(nodes, &format!("{other}/enable"))
        });
        match content.trim() {
            "secondary" => return Err(if control.read_only { libc::EMEDIUMTYPE } else { libc::EROFS }),
            "mounted" => return Err(libc::EBUSY),
            _ if claimed => return Err(libc::EBUSY),
            _ => {}
        }
        let read_only = u8::from(control.read_only);
        nodes.put(&info, format!("Status: DEACTIVATED  Max Queue Depth: 128  SectorSize: 512  HwMaxSectors: 1024\n        iBlock device: vdb  UDEV PATH: {path}  readonly: {read_only}\n        Major: 254 Minor: 16  CLAIMED: IBLOCK\n"));
        Ok(())
    }

    fn write_group(nodes: &mut Nodes, group: &str, file: &[&str], text: &str) -> Outcome<String> {
        let value = text.trim_end();
        let in_range = |range: std::ops::RangeInclusive<i64>| {
            value.parse::<i64>().ok().filter(|n| range.contains(n)).map(|_| line(value)).ok_or(libc::EINVAL)
        };
        match *file {
            ["enable"] => {
                in_range(0..=1)?;
                if value == "0" {
                    Self::log_out(nodes, group);
                }
                Ok(line(value))
            }
            ["attrib", "login_timeout"] => in_range(5..=30),
            ["attrib", "default_cmdsn_depth"] | ["acls", _, "cmdsn_depth"] => in_range(1..=512),
            ["attrib", "authentication"] => {
                let written = in_range(0..=1)?;
                let method = if value == "0" { "CHAP,None\n" } else { "CHAP\n" };
                nodes.put(&format!("{group}/param/AuthMethod"), method);
                Ok(written)
            }
            ["attrib", "generate_node_acls"] => {
                let written = in_range(0..=1)?;
                if value == "1" {
                    nodes.put(&format!("{group}/attrib/cache_dynamic_acls"), "1\n");
                }
                Ok(written)
            }
            ["acls", _, "attrib", "authentication"] => in_range(-1..=1),
            ["acls", _, "attrib", "nopin_timeout"] if value != "0" => in_range(3..=60),
            ["acls", _, "attrib", "nopin_response_timeout"] => in_range(3..=60),
            ["attrib", _] | ["acls", _, "attrib", _] => in_range(0..=i64::from(u32::MAX)),
            ["param", "DefaultTime2Wait" | "DefaultTime2Retain"] => in_range(0..=3600),
            ["param", "MaxBurstLength" | "FirstBurstLength"] => in_range(512..=16_777_215),
            ["acls", _, "auth", _] if text.len() >= 256 => Err(libc::EINVAL),
            // Stored as it comes, line break and all.
            ["acls", _, "auth", _] | ["auth", _] => Ok(line(text)),
            ["acls", initiator, lun, "write_protect"] => {
                let dir = format!("{group}/acls/{initiator}/{lun}");
                let linked = nodes.children(&dir).iter().any(|(_, node)| matches!(node, Node::Link(_)));
                if linked { in_range(0..=1) } else { Err(libc::ENODEV) }
            }
            _ => Ok(line(value)),
        }
    }

    fn log_out(nodes: &mut Nodes, group: &str) {
        for (initiator, _) in nodes.children(&format!("{group}/acls")) {
            let info = format!("No active iSCSI Session for Initiator Endpoint: {initiator}\n");
            nodes.put(&format!("{group}/acls/{initiator}/info"), info);
        }
        nodes.put(&format!("{}/fabric_statistics/iscsi_instance/sessions", parent(group)), "0\n");
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
                Self::make_auth(nodes, path);
                nodes.put(&format!("{path}/discovery_auth/enforce_discovery_auth"), "0\n");
                nodes.put(&format!("{path}/lio_version"), "Datera Inc. iSCSI Target v4.1.0\n");
                nodes.take(&format!("{path}/auth"));
            }
            ["core", adapter] => {
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
                Self::make_device(nodes, path, &plugin);
            }
            ["core", _, _, "alua", _] => nodes.put(&format!("{path}/tg_pt_gp_id"), "0\n"),
            ["iscsi", name] if name.len() > 223 => return Err(libc::EINVAL),
            ["iscsi", _] => {
                nodes.put(&format!("{path}/param/cmd_completion_affinity"), "-1\n");
                nodes.put(&format!("{path}/fabric_statistics/iscsi_instance/sessions"), "0\n");
            }
            ["iscsi", _, group] => {
                u16::try_from(numbered(group, "tpgt_")?).map_err(|_| libc::EINVAL)?;
                Self::make_group(nodes, path);
            }
            ["iscsi", _, _, "np", name] => Self::make_portal(nodes, path, name)?,
            ["iscsi", _, _, "lun", lun] => {
                numbered(lun, "lun_")?;
                nodes.put(&format!("{path}/alua_tg_pt_gp"), "");
                nodes.put_dir(&format!("{path}/statistics"));
            }
            ["iscsi", _, _, "acls", initiator] => {
                let depth = format!("{}/attrib/default_cmdsn_depth", parent(parent(path)));
                let depth = nodes.text(&depth).unwrap_or_else(|| line("64"));
                Self::make_acl(nodes, path, initiator, depth);
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
            Some(["core", adapter, name]) => {
                let device = format!("{TARGET}/core/{adapter}/{name}");
                self.write_device(nodes, &device, names.get(3..).unwrap_or_default(), &text)?
            }
            Some(["iscsi", iqn, group]) => {
                let group = format!("{TARGET}/iscsi/{iqn}/{group}");
                Self::write_group(nodes, &group, names.get(3..).unwrap_or_default(), &text)?
            }
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
            ["iscsi", _, _, "lun", _, _] => match parts(target)[..] {
                ["core", _, _] if linked => return Err(libc::EEXIST),
                ["core", _, _] if !Self::is_on(nodes, &format!("{target}/enable")) => {
                    return Err(libc::ENODEV);
                }
                ["core", _, _] => {}
                _ => return Err(libc::EFAULT),
            },
            ["iscsi", iqn, group, "acls", initiator, _, _] => {
                let luns = format!("{TARGET}/iscsi/{iqn}/{group}/lun");
                let exported = nodes.children(target).iter().any(|(_, node)| matches!(node, Node::Link(_)));
                let acl = format!("{TARGET}/iscsi/{iqn}/{group}/acls/{initiator}/");
                let twice = nodes.links_to(target).iter().any(|other| other.starts_with(&acl));
                if parent(target) != luns || !exported || linked || twice {
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
        plain_unlink(nodes, path)?;
        if parts(path).contains(&"acls") {
            nodes.put(&format!("{}/write_protect", parent(path)), "");
        }
        Ok(())
    }
}
