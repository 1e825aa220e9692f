//! Portal groups, ACLs, portals and LUNs of the fake.

use super::{Configfs, Nodes, Outcome, line, parent, parts, store};
use crate::state::TARGET;
use crate::wire::{attributes, parse_portal};
use host::fake::Node;

impl Configfs {
    pub(super) fn make_group(&self, nodes: &mut Nodes, path: &str) {
        nodes.put(&format!("{path}/enable"), "0\n");
        nodes.put(&format!("{path}/dynamic_sessions"), "");
        if self.kernel == super::Kernel::V6_12 {
            nodes.put(&format!("{path}/rtpi"), "0x0\n");
        }
        ["lun", "np", "acls"].iter().for_each(|dir| nodes.put_dir(&format!("{path}/{dir}")));
        self.put_values(nodes, &format!("{path}/attrib"), attributes::GROUP);
        self.put_values(nodes, &format!("{path}/param"), attributes::PARAMETER);
        Self::make_auth(nodes, &format!("{path}/auth"));
    }

    pub(super) fn make_auth(nodes: &mut Nodes, dir: &str) {
        for file in ["userid", "password", "userid_mutual", "password_mutual"] {
            nodes.put(&format!("{dir}/{file}"), "\n");
        }
        nodes.put(&format!("{dir}/authenticate_target"), "0\n");
    }

    pub(super) fn make_acl(&self, nodes: &mut Nodes, path: &str, initiator: &str, depth: String) {
        let info = format!("No active iSCSI Session for Initiator Endpoint: {initiator}\n");
        nodes.put(&format!("{path}/info"), info);
        nodes.put(&format!("{path}/cmdsn_depth"), depth);
        nodes.put(&format!("{path}/tag"), "");
        self.put_values(nodes, &format!("{path}/attrib"), attributes::ACL);
        Self::make_auth(nodes, &format!("{path}/auth"));
    }

    pub(super) fn make_portal(nodes: &Nodes, path: &str, name: &str) -> Outcome {
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

    pub(super) fn write_group(
        &self,
        nodes: &mut Nodes,
        group: &str,
        file: &[&str],
        text: &str,
    ) -> Outcome<String> {
        let value = text.trim_end();
        let in_range = |range: std::ops::RangeInclusive<i64>| {
            value.parse::<i64>().ok().filter(|n| range.contains(n)).map(|_| line(value)).ok_or(libc::EINVAL)
        };
        let checked = |table, name: &str| {
            attributes::of(table, name).map_or(Ok(()), |row| store(row, value)).map(|()| line(value))
        };
        match *file {
            ["enable"] => {
                in_range(0..=1)?;
                match value {
                    "0" => Self::log_out(nodes, group),
                    _ => Self::choose_port_id(nodes, group)?,
                }
                Ok(line(value))
            }
            ["rtpi"] => {
                let id: u16 = value.parse().ok().filter(|id| *id != 0).ok_or(libc::EINVAL)?;
                match Self::is_on(nodes, &format!("{group}/enable")) {
                    true => Err(libc::EINVAL),
                    false => Ok(format!("{id:#x}\n")),
                }
            }
            ["acls", _, "cmdsn_depth"] => in_range(1..=512),
            ["attrib", "authentication"] => {
                let written = checked(attributes::GROUP, "authentication")?;
                let method = if value == "0" { "CHAP,None\n" } else { "CHAP\n" };
                nodes.put(&format!("{group}/param/AuthMethod"), method);
                Ok(written)
            }
            ["attrib", "generate_node_acls"] => {
                let written = checked(attributes::GROUP, "generate_node_acls")?;
                if value == "1" {
                    nodes.put(&format!("{group}/attrib/cache_dynamic_acls"), "1\n");
                }
                Ok(written)
            }
            ["np", _, "iser" | "cxgbit"] => in_range(0..=1),
            ["acls", _, "attrib", "nopin_timeout"] if value != "0" => in_range(3..=60),
            ["acls", _, "attrib", name] => checked(attributes::ACL, name),
            ["attrib", name] => checked(attributes::GROUP, name),
            ["param", name] => checked(attributes::PARAMETER, name),
            ["acls", _, "tag"] if value.len() > 63 => Err(libc::EINVAL),
            ["acls", _, "tag"] if value == "NULL" => Ok(String::new()),
            ["acls", _, "auth", _] if text.len() >= 256 => Err(libc::EINVAL),
            // Stored as it comes, line break and all.
            ["acls", _, "auth", _] | ["auth", _] => Ok(line(text)),
            ["acls", initiator, lun, "write_protect"] => {
                let dir = format!("{group}/acls/{initiator}/{lun}");
                let linked = nodes.children(&dir).iter().any(|(_, node)| matches!(node, Node::Link(_)));
                // Without a link there is nothing to protect, and nobody complains (core_update_device_list_access).
                in_range(0..=1).map(|written| if linked { written } else { String::new() })
            }
            ["lun", lun, "alua_tg_pt_gp"] => {
                Self::move_lun(nodes, &format!("{group}/lun/{lun}/alua_tg_pt_gp"), text)
            }
            _ => Ok(line(value)),
        }
    }

    /// `core_alua_store_tg_pt_gp_info`.
    pub(super) fn move_lun(nodes: &mut Nodes, file: &str, text: &str) -> Outcome<String> {
        let dir = parent(file);
        let device = nodes.children(dir).into_iter().find_map(|(_, node)| match node {
            Node::Link(target) => Some(target),
            _ => None,
        });
        let name = Some(text.trim_end()).filter(|name| *name != "NULL").unwrap_or("default_tg_pt_gp");
        let id = format!("{}/alua/{name}/tg_pt_gp_id", device.ok_or(libc::ENODEV)?);
        let id = nodes.text(&id).ok_or(libc::ENODEV)?;
        Ok(format!("TG Port Alias: {name}\nTG Port Group ID: {id}"))
    }

    /// `target_tpg_register_rtpi`: the lowest free one, unless one was set, which nobody else may have.
    fn choose_port_id(nodes: &mut Nodes, group: &str) -> Outcome {
        let file = format!("{group}/rtpi");
        let Some(now) = nodes.text(&file) else { return Ok(()) };
        let number = |text: &str| u16::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0);
        let on = |path: &str| Self::is_on(nodes, &format!("{}/enable", parent(path)));
        let taken: Vec<u16> = nodes
            .iter()
            .filter(|(path, _)| {
                path.starts_with(TARGET) && path.ends_with("/rtpi") && *path != file && on(path)
            })
            .filter_map(|(path, _)| nodes.text(path).map(|text| number(&text)))
            .collect();
        match number(&now) {
            0 => {
                let free = (1..=u16::MAX).find(|id| !taken.contains(id)).ok_or(libc::ENOSPC)?;
                nodes.put(&file, format!("{free:#x}\n"));
                Ok(())
            }
            id if taken.contains(&id) => Err(libc::EINVAL),
            _ => Ok(()),
        }
    }

    /// What a directory leaves when it goes: LUNs in their groups, backstores in theirs.
    pub(super) fn leave_groups(&self, nodes: &mut Nodes, path: &str) {
        match parts(path)[..] {
            ["core", "alua", "lu_gps", name] => {
                let alias = format!("LU Group Alias: {name}\n");
                let files: Vec<String> = nodes
                    .iter()
                    .filter(|(file, _)| file.ends_with("/alua_lu_gp"))
                    .filter(|(file, _)| nodes.text(file).is_some_and(|text| text.starts_with(&alias)))
                    .map(|(file, _)| file.to_owned())
                    .collect();
                files.iter().for_each(|file| nodes.put(file, super::device::DEFAULT_LU_GROUP));
            }
            ["core", adapter, name] => Self::set_member(nodes, &format!("{adapter}/{name}\n"), None),
            _ => {}
        }
    }

    pub(super) fn log_out(nodes: &mut Nodes, group: &str) {
        for (initiator, _) in nodes.children(&format!("{group}/acls")) {
            let info = format!("No active iSCSI Session for Initiator Endpoint: {initiator}\n");
            nodes.put(&format!("{group}/acls/{initiator}/info"), info);
        }
        nodes.put(&format!("{}/fabric_statistics/iscsi_instance/sessions", parent(group)), "0\n");
    }
}
