//! Shows what LIO exports: the tree as targetcli draws it, or JSON. Reads configfs once; takes no lock and changes nothing.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use lio::state::{AclState, GroupState};
use lio::{Backing, BackstoreId, BackstoreState, ConfigSpec, Fabric, Host, Iqn, Lio, TargetState};

/// Show backstores, targets, who may log in and what they see; the tree of "targetcli ls".
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// All that was read, with sessions, as JSON. Passwords are in neither form.
    #[arg(long)]
    json: bool,
    /// Columns of the tree.
    #[arg(long, default_value_t = 80)]
    width: usize,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("lio-ls: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<String> {
    let host = Host::live();
    let lio = Lio::on(&host)?;
    let (targets, backstores) = (lio.list()?, lio.backstores()?);
    if cli.json {
        return Ok(json(&targets, &backstores)? + "\n");
    }
    let sizes = |device: &Path| {
        let node = std::fs::canonicalize(device).ok()?;
        let text =
            host.tree().read_opt(format!("/sys/class/block/{}/size", node.file_name()?.display())).ok()??;
        text.trim().parse::<u64>().ok()?.checked_mul(512)
    };
    let mut lines = String::new();
    tree(&targets, &backstores, &lio.running()?.0, sizes).draw(&mut Vec::new(), cli.width, &mut lines);
    Ok(lines)
}

fn json(targets: &[TargetState], backstores: &[BackstoreState]) -> Result<String> {
    let target = |target: &TargetState| {
        serde_json::json!({
            "fabric": target.fabric.name(),
            "name": target.iqn,
            "portal_groups": target.groups,
            "session_count": target.session_count,
        })
    };
    let disk = |disk: &BackstoreState| -> Result<serde_json::Value> {
        let mut value = serde_json::to_value(disk)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("wwid".to_owned(), serde_json::to_value(disk.wwid())?);
        }
        Ok(value)
    };
    let all = serde_json::json!({
        "backstores": backstores.iter().map(disk).collect::<Result<Vec<_>>>()?,
        "targets": targets.iter().map(target).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&all)?)
}

/// A line of the tree and what is below it.
struct Node {
    name: String,
    text: String,
    children: Vec<Self>,
}

impl Node {
    fn new(name: impl Into<String>, text: impl Into<String>, mut children: Vec<Self>) -> Self {
        // Numbers at the end count: lun2 before lun10.
        children.sort_by_key(|child| {
            let digits = child.name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            let (word, number) = child.name.split_at(digits);
            (word.to_owned(), number.parse::<u64>().unwrap_or(0))
        });
        Self { name: name.into(), text: text.into(), children }
    }

    /// `margin` says for each level above whether more comes below it.
    fn draw(&self, margin: &mut Vec<bool>, width: usize, lines: &mut String) {
        let above = margin.len().saturating_sub(1);
        let indent: String = margin.iter().take(above).map(|more| if *more { "| " } else { "  " }).collect();
        let start = if margin.is_empty() { String::new() } else { format!("  {indent}") };
        let head = format!("{start}o- {}", self.name);
        let dots =
            ".".repeat((width - 1).saturating_sub(head.chars().count() + self.text.chars().count() + 3));
        // A line that is full has no dots, and no place for them.
        let gap = if dots.is_empty() { "" } else { " " };
        lines.push_str(&format!("{head} {dots}{gap}[{}]\n", self.text));
        for (number, child) in self.children.iter().enumerate() {
            margin.push(number + 1 < self.children.len());
            child.draw(margin, width, lines);
            margin.pop();
        }
    }
}

/// What targetcli calls the kinds of backstores.
fn kind(id: &BackstoreId, backing: Option<&Backing>) -> String {
    match (id.plugin(), backing) {
        ("iblock", _) => "block".to_owned(),
        ("rd_mcp", _) => "ramdisk".to_owned(),
        ("user", Some(Backing::User { config, .. })) => {
            format!("user:{}", config.split('/').next().unwrap_or_default())
        }
        (plugin, _) => plugin.to_owned(),
    }
}

/// As targetcli rounds.
#[allow(clippy::cast_precision_loss)] // One digit is shown.
fn human(bytes: u64) -> String {
    let mut size = bytes as f64;
    if size < 1024.0 {
        return format!("{bytes} bytes");
    }
    for unit in ["KiB", "MiB", "GiB", "TiB"] {
        size /= 1024.0;
        if size < 1024.0 {
            return format!("{size:.1}{unit}");
        }
    }
    format!("{:.1}PiB", size / 1024.0)
}

fn tree(
    targets: &[TargetState],
    backstores: &[BackstoreState],
    running: &ConfigSpec,
    size: impl Fn(&Path) -> Option<u64>,
) -> Node {
    let mut kinds: BTreeMap<String, Vec<Node>> =
        ["block", "fileio", "pscsi", "ramdisk"].map(|kind| (kind.to_owned(), Vec::new())).into();
    for disk in backstores {
        kinds.entry(kind(&disk.id, disk.backing.as_ref())).or_default().push(self::disk(disk, &size));
    }
    let kinds = kinds.into_iter().map(|(name, disks)| {
        let text = format!("Storage Objects: {}", disks.len());
        Node::new(name, text, disks)
    });
    let mut children = vec![Node::new("backstores", "...", kinds.collect())];
    let names: BTreeMap<&BackstoreId, &BackstoreState> =
        backstores.iter().map(|disk| (&disk.id, disk)).collect();
    for fabric in Fabric::ALL {
        let of: Vec<_> =
            targets.iter().filter(|target| target.fabric == fabric).map(|t| target(t, &names)).collect();
        let mut text = format!("Targets: {}", of.len());
        if let Some(shared) = running.iscsi.as_ref().filter(|_| fabric == Fabric::Iscsi)
            && shared.discovery_chap().is_some()
        {
            let how = if shared.mutual_discovery_chap().is_some() { "mutual" } else { "1-way" };
            text = format!("{how} disc auth, {text}");
        }
        children.push(Node::new(fabric.name(), text, of));
    }
    Node::new("/", "...", children)
}

fn disk(disk: &BackstoreState, size: impl Fn(&Path) -> Option<u64>) -> Node {
    let status = if disk.users.is_empty() { "deactivated" } else { "activated" };
    let cache = if disk.attributes.get("emulate_write_cache").is_some_and(|on| on == "1") {
        "write-back"
    } else {
        "write-thru"
    };
    let read_only = if disk.access == lio::Access::ReadOnly { "ro " } else { "" };
    let text = match &disk.backing {
        Some(Backing::Block { device }) => {
            format!("{} ({}) {read_only}{cache} {status}", device.display(), human(size(device).unwrap_or(0)))
        }
        Some(Backing::File { path, size, .. }) => {
            format!("{} ({}) {cache} {status}", path.display(), human(size.0))
        }
        Some(Backing::Ramdisk { size, memory }) => {
            let null = if *memory == lio::Memory::Null { "nullio " } else { "" };
            format!("{null}({}) {status}", human(size.0))
        }
        Some(Backing::User { config, size, .. }) => {
            let rest = config.split_once('/').map_or(config.as_str(), |(_, rest)| rest);
            format!("{rest} ({}) {status}", human(size.0))
        }
        Some(Backing::Scsi { host, channel, target, lun }) => {
            format!("{host}:{channel}:{target}:{lun} {status}")
        }
        _ => "not configured".to_owned(),
    };
    let name = |number: u8| match lio::AluaState::of(number) {
        lio::AluaState::Optimized => "Active/optimized",
        lio::AluaState::NonOptimized => "Active/non-optimized",
        lio::AluaState::Standby => "Standby",
        lio::AluaState::Unavailable => "Unavailable",
        lio::AluaState::Offline => "Offline",
        lio::AluaState::Transitioning => "Transitioning",
        _ => "LBA Dependent",
    };
    let mut groups: BTreeMap<&str, u8> = BTreeMap::from([("default_tg_pt_gp", 0)]);
    groups.extend(
        disk.alua
            .iter()
            .map(|(name, group)| (name.as_str(), group.state().map_or(0, lio::AluaState::number))),
    );
    if matches!(disk.backing, Some(Backing::Scsi { .. })) {
        groups.clear();
    }
    let groups: Vec<_> = groups
        .into_iter()
        .map(|(group, state)| Node::new(group, format!("ALUA state: {}", name(state)), Vec::new()))
        .collect();
    let alua = Node::new("alua", format!("ALUA Groups: {}", groups.len()), groups);
    Node::new(disk.id.name.as_str(), text, vec![alua])
}

fn target(target: &TargetState, disks: &BTreeMap<&BackstoreId, &BackstoreState>) -> Node {
    let mut groups: Vec<_> =
        target.groups.iter().map(|group| self::group(target.fabric, group, disks)).collect();
    if target.fabric == Fabric::Loopback && groups.len() == 1 {
        // It can have one portal group only, which is not shown.
        let group = groups.remove(0);
        return Node::new(target.iqn.as_str(), group.text, group.children);
    }
    Node::new(target.iqn.as_str(), format!("TPGs: {}", groups.len()), groups)
}

fn group(fabric: Fabric, group: &GroupState, disks: &BTreeMap<&BackstoreId, &BackstoreState>) -> Node {
    let on = |name: &str| group.attributes.get(name).is_some_and(|value| value != "0");
    let (open, asked) = (on("generate_node_acls"), on("authentication"));
    let text = match fabric {
        Fabric::Iscsi if !group.enabled => "disabled".to_owned(),
        Fabric::Iscsi => {
            let acls = if open { "gen-acls" } else { "no-gen-acls" };
            let mutual = group.auth.mutual_user.is_some();
            let auth = match (asked, open) {
                (false, _) => "no-auth",
                (true, false) => "auth per-acl",
                (true, true) if mutual => "tpg-auth, mutual auth",
                (true, true) => "tpg-auth, 1-way auth",
            };
            format!("{acls}, {auth}")
        }
        _ => group.nexus.as_ref().map_or_else(|| "disabled".to_owned(), ToString::to_string),
    };
    let of = |id: &BackstoreId| format!("{}/{}", kind(id, None), id.name);
    let luns: Vec<_> = group
        .luns
        .iter()
        .map(|(number, lun)| {
            let text = lun.backstore.as_ref().map_or("BROKEN STORAGE LINK".to_owned(), |id| {
                let device = disks
                    .get(id)
                    .and_then(|disk| disk.device())
                    .map(|device| format!(" ({})", device.display()));
                let alua = lun.alua_group.as_deref().unwrap_or("default_tg_pt_gp");
                format!("{}{} ({alua})", of(id), device.unwrap_or_default())
            });
            Node::new(format!("lun{number}"), text, Vec::new())
        })
        .collect();
    let mut children = vec![Node::new("luns", format!("LUNs: {}", luns.len()), luns)];
    if fabric == Fabric::Iscsi {
        let acls: Vec<_> =
            group.acls.iter().map(|(name, acl)| self::acl(name, acl, group, asked, open, &of)).collect();
        children.push(Node::new("acls", format!("ACLs: {}", acls.len()), acls));
        let portal = |portal: &lio::state::PortalState| {
            let text = match portal.transport {
                lio::Transport::Iser => "iser",
                lio::Transport::Cxgbit => "offload",
                _ => "OK",
            };
            Node::new(portal.name.as_str(), text, Vec::new())
        };
        let portals: Vec<_> = group.portals.iter().map(portal).collect();
        children.push(Node::new("portals", format!("Portals: {}", portals.len()), portals));
    }
    Node::new(format!("tpg{}", group.tag), text, children)
}

fn acl(
    name: &Iqn,
    acl: &AclState,
    group: &GroupState,
    asked: bool,
    open: bool,
    of: &dyn Fn(&BackstoreId) -> String,
) -> Node {
    let luns: Vec<_> = acl
        .luns
        .iter()
        .map(|(seen, mapped)| {
            let access = if mapped.write_protected { "ro" } else { "rw" };
            let shown =
                mapped.target_lun.and_then(|lun| Some((lun, group.luns.get(&lun)?.backstore.as_ref()?)));
            let text = shown
                .map_or("BROKEN LUN LINK".to_owned(), |(lun, id)| format!("lun{lun} {} ({access})", of(id)));
            Node::new(format!("mapped_lun{seen}"), text, Vec::new())
        })
        .collect();
    let mut words = Vec::new();
    words.extend(acl.tag.as_ref().map(|_| format!("({name})")));
    words.extend(asked.then(|| match (open, acl.auth.mutual_user.is_some()) {
        (true, _) => "auth via tpg".to_owned(),
        (false, true) => "mutual auth".to_owned(),
        (false, false) => "1-way auth".to_owned(),
    }));
    words.push(format!("Mapped LUNs: {}", luns.len()));
    Node::new(acl.tag.clone().unwrap_or_else(|| name.to_string()), words.join(", "), luns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lio::{AclSpec, BackstoreSpec, Secret, TargetSpec};

    fn machine() -> Result<Lio> {
        let memory = lio::fake::configfs();
        memory.edit(|nodes| nodes.put("/dev/drbd0", ""));
        let lio = Lio::on(&Host::fake().with_tree(memory.tree()))?;
        let disk = BackstoreSpec::block("r0".parse()?, "/dev/drbd0").with_serial("0a1b".parse()?);
        let ram = BackstoreSpec::ramdisk("ram".parse()?, lio::Bytes(3 << 20)).with_serial("0a1c".parse()?);
        let acl = AclSpec::new("iqn.2026-01.lab.x:hv".parse()?)
            .with_chap("u".parse()?, Secret::from("a long secret"));
        let target = TargetSpec::new("iqn.2026-01.lab.x:t".parse()?)
            .with_lun(2, disk)
            .with_lun(10, ram)
            .with_portal("10.0.0.1:3260".parse()?)
            .with_acl(acl);
        lio.ensure(&target)?;
        Ok(lio)
    }

    #[test]
    fn the_tree_is_drawn_as_targetcli_draws_it() -> Result<()> {
        let lio = machine()?;
        let mut lines = String::new();
        let tree = tree(&lio.list()?, &lio.backstores()?, &lio.running()?.0, |_| Some(1 << 30));
        tree.draw(&mut Vec::new(), 80, &mut lines);
        assert!(lines.starts_with("o- / ....") && lines.lines().all(|line| line.len() == 80), "{lines}");
        let bare: Vec<String> = lines.lines().map(|line| line.replace('.', "")).collect();
        for line in [
            "  | | o- r0  [/dev/drbd0 (10GiB) write-thru activated]",
            "  | |   o- alua  [ALUA Groups: 1]",
            "  | |     o- default_tg_pt_gp  [ALUA state: Active/optimized]",
            "  o- iscsi  [Targets: 1]",
            "  | o- iqn2026-01labx:t  [TPGs: 1]",
            "  |   o- tpg1  [no-gen-acls, auth per-acl]",
            "  |     o- acls  [ACLs: 1]",
            "  |     | o- iqn2026-01labx:hv  [1-way auth, Mapped LUNs: 2]",
            "  |     |   o- mapped_lun2  [lun2 block/r0 (rw)]",
            "  |     |   o- mapped_lun10  [lun10 ramdisk/ram (rw)]",
            "  |     | o- lun2  [block/r0 (/dev/drbd0) (default_tg_pt_gp)]",
            "  |       o- 10001:3260  [OK]",
        ] {
            assert!(bare.iter().any(|drawn| drawn == line), "{line}\n{lines}");
        }
        Ok(())
    }

    #[test]
    fn json_has_everything_but_passwords() -> Result<()> {
        let lio = machine()?;
        let text = json(&lio.list()?, &lio.backstores()?)?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        assert_eq!(
            value.pointer("/targets/0/portal_groups/0/luns/2/backstore/name"),
            Some(&"r0".into()),
            "{text}"
        );
        assert!(value.pointer("/backstores/0/wwid").is_some_and(serde_json::Value::is_string), "{text}");
        assert!(!text.contains("a long secret"));
        Ok(())
    }
}
