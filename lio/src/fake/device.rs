//! Backstores and their access groups of the fake.

use super::{Configfs, Nodes, Outcome, Range, attributes, line, store};
use crate::state::TARGET;
use crate::wire::alua;
use host::fake::Node;

pub(super) const DEFAULT_LU_GROUP: &str = "LU Group Alias: default_lu_gp\nLU Group ID: 0\n";

impl Configfs {
    pub(super) fn make_device(&self, nodes: &mut Nodes, path: &str, plugin: &str) {
        for (file, value) in
            [("info", ""), ("control", ""), ("alias", ""), ("udev_path", ""), ("enable", "0\n")]
        {
            nodes.put(&format!("{path}/{file}"), value);
        }
        nodes.put(&format!("{path}/alua_lu_gp"), DEFAULT_LU_GROUP);
        self.make_access_group(nodes, &format!("{path}/alua/default_tg_pt_gp"));
        nodes.put(&format!("{path}/wwn/vpd_unit_serial"), "T10 VPD Unit Serial Number: \n");
        nodes.put(&format!("{path}/wwn/vendor_id"), "LIO-ORG\n");
        let product = match plugin {
            "iblock" => "IBLOCK",
            "fileio" => "FILEIO",
            "rd_mcp" => "RAMDISK-MCP",
            _ => "",
        };
        nodes.put(&format!("{path}/wwn/product_id"), line(product));
        nodes.put(&format!("{path}/wwn/revision"), "4.0\n");
        nodes.put(&format!("{path}/wwn/company_id"), "0x001405\n");
        nodes.put(&format!("{path}/pr/res_aptpl_metadata"), "Ready to process PR APTPL metadata..\n");
        let attrib = format!("{path}/attrib");
        let passthrough = matches!(plugin, "pscsi" | "user");
        self.put_values(
            nodes,
            &attrib,
            if passthrough { attributes::PASSTHROUGH } else { attributes::DEVICE },
        );
        if plugin == "pscsi" {
            nodes.take(&format!("{attrib}/cmd_time_out"));
            nodes.take(&format!("{attrib}/qfull_time_out"));
        }
        let hardware = [("hw_block_size", "512"), ("hw_max_sectors", "1024"), ("hw_queue_depth", "128")];
        let own = [("block_size", "512"), ("optimal_sectors", "1024"), ("queue_depth", "128")];
        let unmap = [("max_write_same_len", "65535"), ("cmd_time_out", "30"), ("qfull_time_out", "-1")];
        for (name, value) in hardware.into_iter().chain(own).chain(unmap) {
            let file = format!("{attrib}/{name}");
            if nodes.get(&file).is_some() {
                nodes.put(&file, line(value));
            }
        }
    }

    pub(super) fn make_access_group(&self, nodes: &mut Nodes, path: &str) {
        let id = if path.ends_with("/default_tg_pt_gp") { "0\n" } else { "\n" };
        self.put_values(nodes, path, attributes::ALUA);
        nodes.put(&format!("{path}/tg_pt_gp_id"), id);
        nodes.put(&format!("{path}/members"), "");
        for file in ["alua_access_type", "alua_access_status"] {
            let now = nodes.text(&format!("{path}/{file}")).unwrap_or_default();
            nodes.put(&format!("{path}/{file}"), line(&alua::word(file, now.trim())));
        }
    }

    pub(super) fn write_device(
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
                // Unknown keys are ignored without a word.
                for (key, value) in value.split([',', '\n']).filter_map(|pair| pair.split_once('=')) {
                    match key {
                        "udev_path" | "fd_dev_name" if enabled => return Err(libc::EEXIST),
                        "fd_dev_size" | "rd_pages" | "dev_size" if value.parse::<u64>().is_err() => {
                            return Err(libc::EINVAL);
                        }
                        "fd_async_io" | "fd_buffered_io" if value != "1" => return Err(libc::EINVAL),
                        _ => {}
                    }
                    self.control
                        .entry(device.to_owned())
                        .or_default()
                        .insert(key.to_owned(), value.to_owned());
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
            ["alua_lu_gp"] => {
                let name = Some(value).filter(|name| *name != "NULL").unwrap_or("default_lu_gp");
                let id =
                    nodes.text(&format!("{TARGET}/core/alua/lu_gps/{name}/lu_gp_id")).ok_or(libc::ENODEV)?;
                let member = device.strip_prefix(&format!("{TARGET}/core/")).unwrap_or(device);
                Self::set_member(nodes, &line(member), Some(name));
                Ok(format!("LU Group Alias: {name}\nLU Group ID: {id}"))
            }
            ["wwn", _] if exported => Err(libc::EINVAL),
            ["wwn", "vpd_unit_serial"] if value.len() > 253 => Err(libc::EOVERFLOW),
            ["wwn", "vpd_unit_serial"] => Ok(format!("T10 VPD Unit Serial Number: {value}\n")),
            ["wwn", "vendor_id"] if value.len() > 8 => Err(libc::EOVERFLOW),
            ["wwn", "product_id"] if value.len() > 16 => Err(libc::EOVERFLOW),
            ["wwn", "revision"] if value.len() > 4 => Err(libc::EOVERFLOW),
            ["wwn", "company_id"] => {
                let number = value
                    .strip_prefix("0x")
                    .map_or_else(|| value.parse(), |hex| u32::from_str_radix(hex, 16));
                match number.map_err(|_| libc::EINVAL)? {
                    number @ 0..0x0100_0000 => Ok(format!("{number:#08x}\n")),
                    _ => Err(libc::EOVERFLOW),
                }
            }
            ["wwn", _] if value.bytes().any(|byte| !(0x20..0x7f).contains(&byte)) => Err(libc::EINVAL),
            ["wwn", _] => Ok(line(value)),
            ["pr", "res_aptpl_metadata"] => {
                let get = |key: &str| value.split([',', '\n']).find_map(|one| one.strip_prefix(key));
                let complete = get("initiator_node=").is_some()
                    && get("target_node=").is_some()
                    && get("sa_res_key=").is_some_and(|key| key != "0");
                let on = Self::is_on(nodes, &format!("{device}/attrib/emulate_pr"));
                match on && (exported || !complete) {
                    true => Err(libc::EINVAL),
                    false => Ok("Ready to process PR APTPL metadata..\n".to_owned()),
                }
            }
            ["attrib", name] => self.write_attribute(nodes, device, name, value, enabled, exported),
            ["alua", group, name] => {
                Self::write_access_group(nodes, &format!("{device}/alua/{group}"), name, value, enabled)
            }
            _ => Ok(text.to_owned()),
        }
    }

    fn write_attribute(
        &self,
        nodes: &Nodes,
        device: &str,
        name: &str,
        value: &str,
        enabled: bool,
        exported: bool,
    ) -> Outcome<String> {
        let passthrough = device.contains("/core/pscsi_") || device.contains("/core/user_");
        let table = if passthrough { attributes::PASSTHROUGH } else { attributes::DEVICE };
        let Some(row) = attributes::of(table, name) else { return Ok(line(value)) };
        let now = nodes.text(&format!("{device}/attrib/{name}")).unwrap_or_default();
        if row.range == Range::Ignored {
            return Ok(now);
        }
        value.parse::<i64>().map_err(|_| libc::EINVAL)?;
        match name {
            _ if row.range == Range::ReadOnly => Err(row.errno),
            _ if exported && !row.while_exported => Err(libc::EINVAL),
            // 6.1 dereferences a null pointer here; 6.12 answers this.
            "emulate_tpu" | "emulate_tpws" | "unmap_zeroes_data" if !enabled && value != "0" => {
                Err(libc::ENODEV)
            }
            "pi_prot_type" if !enabled && value != "0" => Err(libc::ENODEV),
            "emulate_tpu" | "emulate_tpws" if value == "1" && !device.contains("/core/fileio_") => {
                Err(libc::ENOSYS)
            }
            "emulate_write_cache" if value != "0" && device.contains("/core/iblock_") => Err(libc::EINVAL),
            "alua_support" | "pgr_support" if value != now.trim() && !device.contains("/core/user_") => {
                Err(libc::ENOSYS)
            }
            "optimal_sectors" if value.parse::<u32>().is_ok_and(|n| n > 1024) => Err(libc::EINVAL),
            "queue_depth" if value.parse::<u32>().is_ok_and(|n| n > 128) => Err(libc::EINVAL),
            // It acts, and stays 0.
            "pi_prot_format" => store(row, value).map(|()| line("0")),
            _ => store(row, value).map(|()| line(value)),
        }
    }

    /// `target_core_alua_tg_pt_gp_attrs`.
    fn write_access_group(
        nodes: &mut Nodes,
        group: &str,
        name: &str,
        value: &str,
        enabled: bool,
    ) -> Outcome<String> {
        let text = |file: &str| nodes.text(&format!("{group}/{file}")).unwrap_or_default().trim().to_owned();
        let id = text("tg_pt_gp_id");
        if name == "tg_pt_gp_id" {
            let number: u16 = value.parse().ok().filter(|n| *n != 0).ok_or(libc::EINVAL)?;
            let siblings = format!("{}/", super::parent(group));
            let twin = nodes.iter().any(|(path, _)| {
                path.starts_with(&siblings)
                    && path.ends_with("/tg_pt_gp_id")
                    && nodes.text(path).is_some_and(|other| other.trim() == value)
            });
            return if id.is_empty() && !twin { Ok(line(&number.to_string())) } else { Err(libc::EINVAL) };
        }
        let numbered = name.starts_with("alua_support_")
            || matches!(name, "alua_access_state" | "alua_access_status" | "alua_write_metadata");
        if id.is_empty() && numbered {
            return Err(libc::EINVAL);
        }
        if name == "alua_access_state" {
            let kind = alua::number("alua_access_type", &text("alua_access_type"));
            let support = match value {
                "0" => "active_optimized",
                "1" => "active_nonoptimized",
                "2" => "standby",
                "3" => "unavailable",
                "4" => "lba_dependent",
                "14" => "offline",
                _ => "transitioning",
            };
            match () {
                () if !enabled => return Err(libc::ENODEV),
                () if !matches!(kind.as_str(), "1" | "3") => return Err(libc::EINVAL),
                () if text(&format!("alua_support_{support}")) != "1" => return Err(libc::EINVAL),
                () => {}
            }
            nodes.put(&format!("{group}/alua_access_status"), "Altered by Implicit ALUA\n");
        }
        if let Some(row) = attributes::of(attributes::ALUA, name) {
            store(row, value)?;
        }
        Ok(line(&alua::word(name, value)))
    }

    /// Puts a backstore in a group of backstores, and takes it out of the others.
    pub(super) fn set_member(nodes: &mut Nodes, member: &str, group: Option<&str>) {
        let dir = format!("{TARGET}/core/alua/lu_gps");
        for (name, _) in nodes.children(&dir) {
            let file = format!("{dir}/{name}/members");
            let now = nodes.text(&file).unwrap_or_default();
            let kept = now.replace(member, "");
            let new =
                if group == Some(name.as_str()) && name != "default_lu_gp" { kept + member } else { kept };
            if new != now {
                nodes.put(&file, new);
            }
        }
    }

    /// `target_configure_device`: opens the device.
    fn configure(&mut self, nodes: &mut Nodes, device: &str) -> Outcome {
        let control = self.control.get(device).cloned().unwrap_or_default();
        let get = |key: &str| control.get(key).map(String::as_str);
        let number = |key: &str| get(key).and_then(|n| n.parse::<u64>().ok());
        let on = |key: &str| u8::from(get(key) == Some("1"));
        let adapter = device.rsplit('/').nth(1).unwrap_or_default();
        let plugin = adapter.rsplit_once('_').map_or(adapter, |(plugin, _)| plugin);
        let rest = match plugin {
            "rd_mcp" => {
                let (pages, null) = (number("rd_pages").ok_or(libc::EINVAL)?, on("rd_nullio"));
                format!(
                    "        TCM RamDisk ID: 0  RamDisk Makeup: rd_mcp\n        PAGES/PAGE_SIZE: {pages}*4096  SG_table_count: 1  nullio: {null} dummy: 0\n"
                )
            }
            "fileio" => {
                let (path, size) =
                    (get("fd_dev_name").ok_or(libc::EINVAL)?, number("fd_dev_size").ok_or(libc::EINVAL)?);
                if on("fd_buffered_io") == 1 {
                    nodes.put(&format!("{device}/attrib/emulate_write_cache"), "1\n");
                }
                let mode = if on("fd_buffered_io") == 1 { "Buffered-WCE" } else { "O_DSYNC" };
                format!(
                    "        TCM FILEIO ID: 0        File: {path}  Size: {size}  Mode: {mode} Async: {}\n",
                    on("fd_async_io")
                )
            }
            "pscsi" => {
                let part = |key: &str| number(key).ok_or(libc::EINVAL);
                let (host, channel) = (part("scsi_host_id")?, part("scsi_channel_id")?);
                let (target, lun) = (part("scsi_target_id")?, part("scsi_lun_id")?);
                format!(
                    "        SCSI Device Bus Location: Channel ID: {channel} Target ID: {target} LUN: {lun} Host ID: {host}\n"
                )
            }
            "user" => {
                let (config, size) =
                    (get("dev_config").ok_or(libc::EINVAL)?, number("dev_size").ok_or(libc::EINVAL)?);
                if let Some(block) = number("hw_block_size") {
                    nodes.put(&format!("{device}/attrib/hw_block_size"), line(&block.to_string()));
                }
                let area = number("max_data_area_mb").unwrap_or(8);
                format!(
                    "        Config: {config} Size: {size} MaxDataAreaMB: {area} DataPagesPerBlk: 1 CmdRingSizeMB: 8\n"
                )
            }
            _ => self.open_block(nodes, device)?,
        };
        let status = "Status: DEACTIVATED  Max Queue Depth: 128  SectorSize: 512  HwMaxSectors: 1024\n";
        nodes.put(&format!("{device}/info"), format!("{status}{rest}"));
        Ok(())
    }

    fn open_block(&self, nodes: &Nodes, device: &str) -> Outcome<String> {
        let control = self.control.get(device);
        let get = |key: &str| control.and_then(|control| control.get(key));
        let path = get("udev_path").ok_or(libc::EINVAL)?;
        let read_only = get("readonly").is_some_and(|n| n == "1");
        let node = match nodes.get(path) {
            Some(Node::Link(target)) => target.clone(),
            _ => path.clone(),
        };
        let content = nodes.text(&node).ok_or(libc::ENOENT)?;
        let claimed = self.control.iter().any(|(other, control)| {
            other != device
                && control.get("udev_path") == Some(path)
                && Self::is_on(nodes, &format!("{other}/enable"))
        });
        match content.trim() {
            "secondary" => return Err(if read_only { libc::EMEDIUMTYPE } else { libc::EROFS }),
            "mounted" => return Err(libc::EBUSY),
            _ if claimed => return Err(libc::EBUSY),
            _ => {}
        }
        let read_only = u8::from(read_only);
        Ok(format!(
            "        iBlock device: vdb  UDEV PATH: {path}  readonly: {read_only}\n        Major: 254 Minor: 16  CLAIMED: IBLOCK\n"
        ))
    }
}
