//! What a refusal of LIO means. It answers most mistakes with EINVAL alone: the cause is found by looking at what the kernel checks.

use std::path::Path;

use host::tree::Tree;
use host::{Operation, TreeError};

use crate::error::Error;
use crate::plan::Step;
use crate::state::TARGET;
use crate::wire::tcp::listens;
use crate::wire::{alua, attributes, numbered, parse_portal};

/// Where a path is in the tree.
enum Place<'a> {
    Fabric,
    DbRoot,
    Adapter,
    LuGroup,
    Backstore,
    Control,
    BackstoreEnable,
    BackstoreIdentity,
    BackstoreAttribute,
    Reservations,
    GroupNumber,
    AccessGroup,
    Target,
    Group,
    GroupEnable,
    PortId,
    Nexus,
    Portal(&'a str),
    Transport,
    Lun(&'a str),
    LunLink,
    LunGroup,
    Acl,
    AclDepth,
    Mapped(&'a str),
    MappedLink,
    WriteProtect,
    Password,
    Tag,
    Enforce,
    Processors,
    Value,
    Other,
}

fn place(path: &str) -> Place<'_> {
    let Some(rest) = path.strip_prefix(TARGET) else { return Place::Other };
    let parts: Vec<_> = rest.trim_start_matches('/').split('/').collect();
    match parts[..] {
        ["dbroot"] => Place::DbRoot,
        [_] => Place::Fabric,
        ["iscsi", "cpus_allowed_list"] => Place::Processors,
        ["iscsi", "discovery_auth", "enforce_discovery_auth"] => Place::Enforce,
        ["iscsi", "discovery_auth", _] | [_, _, _, "auth", _] | [_, _, _, "acls", _, "auth", _] => {
            Place::Password
        }
        ["core", "alua", "lu_gps", _] => Place::LuGroup,
        ["core", "alua", "lu_gps", _, "lu_gp_id"] | ["core", _, _, "alua", _, "tg_pt_gp_id"] => {
            Place::GroupNumber
        }
        ["core", _, _, "alua", _, _] => Place::AccessGroup,
        ["core", _, _, "alua_lu_gp"] | [_, _, _, "lun", _, "alua_tg_pt_gp"] => Place::LunGroup,
        ["core", _] => Place::Adapter,
        ["core", _, _] => Place::Backstore,
        ["core", _, _, "control"] => Place::Control,
        ["core", _, _, "enable"] => Place::BackstoreEnable,
        ["core", _, _, "wwn", _] => Place::BackstoreIdentity,
        ["core", _, _, "attrib", _] => Place::BackstoreAttribute,
        ["core", _, _, "pr", _] => Place::Reservations,
        [_, _] => Place::Target,
        [_, _, _] => Place::Group,
        [_, _, _, "rtpi"] => Place::PortId,
        [_, _, _, "nexus"] => Place::Nexus,
        [_, _, _, "enable"] => Place::GroupEnable,
        [_, _, _, "np", name] => Place::Portal(name),
        [_, _, _, "np", _, _] => Place::Transport,
        [_, _, _, "lun", name] => Place::Lun(name),
        [_, _, _, "lun", _, _] => Place::LunLink,
        [_, _, _, "acls", _] => Place::Acl,
        [_, _, _, "acls", _, "tag"] => Place::Tag,
        [_, _, _, "acls", _, "cmdsn_depth"] => Place::AclDepth,
        [_, _, _, "acls", _, "attrib", _] | [_, _, _, "attrib" | "param", _] => Place::Value,
        [_, _, _, "acls", _, name] => Place::Mapped(name),
        [_, _, _, "acls", _, _, "write_protect"] => Place::WriteProtect,
        [_, _, _, "acls", _, _, _] => Place::MappedLink,
        _ => Place::Other,
    }
}

pub(super) fn explain(tree: &Tree, step: &Step, source: TreeError) -> Error {
    let path = step.path().to_owned();
    if source.is_stopped() {
        return Error::Refused { reason: "stopped here on purpose".to_owned(), source };
    }
    let place = place(&path);
    let reason = match source.errno().unwrap_or_default() {
        errno if matches!(place, Place::BackstoreEnable) => return enable_reason(tree, step, errno, source),
        libc::EPERM | libc::EACCES => forbidden(&place, &source.operation).to_owned(),
        libc::EEXIST => match there_already(&place, &source.operation) {
            Some(reason) => reason.to_owned(),
            None => {
                let holder = "another program, which made it in this very moment; try again".to_owned();
                return Error::Busy { object: path.clone(), holder, source };
            }
        },
        libc::EBUSY => {
            let (object, holder) = user_of(tree, &place, &path);
            return Error::Busy { object, holder, source };
        }
        libc::ENOTEMPTY => {
            "it holds something that another program made; look with ls, or remove it with targetcli"
                .to_owned()
        }
        libc::EINVAL => invalid(tree, &place, step, &path),
        errno => other(&place, errno, &source.operation).to_owned(),
    };
    Error::Refused { reason, source }
}

/// EPERM: of configfs where nothing can be made or removed, of LIO where nobody but root may look.
fn forbidden(place: &Place<'_>, operation: &Operation) -> &'static str {
    match (place, operation) {
        (Place::Nexus, _) => "the initiator cannot go while the target has LUNs",
        // A user who may not write gets EACCES from the file system, before configfs is asked.
        (_, Operation::MakeDir) => {
            "nothing can be made in a directory of the kernel's own, or this needs root (write access to configfs)"
        }
        (_, Operation::RemoveDir) => {
            "the kernel's own directories go with the object they belong to, or this needs root (write access to configfs)"
        }
        (_, Operation::Link) => {
            "links lead from a LUN to a backstore and from a mapped LUN to a LUN only, or this needs root (write access to configfs)"
        }
        _ => "this needs root (CAP_SYS_ADMIN and write access to configfs)",
    }
}

/// EEXIST where it says something about the object; `None` where somebody else was faster.
fn there_already(place: &Place<'_>, operation: &Operation) -> Option<&'static str> {
    match (place, operation) {
        (Place::Control, _) => {
            Some("the backstore is enabled; what it stands on is said before, once and for all")
        }
        (Place::LunLink, Operation::Link) => {
            Some("the LUN has a backstore already; take the link away first")
        }
        (Place::MappedLink, Operation::Link) => {
            Some("the mapped LUN leads to a LUN already; take the link away first")
        }
        (Place::Nexus, _) => Some("it has an initiator already"),
        (_, Operation::MakeDir) => None,
        _ => Some("there is one already"),
    }
}

/// EBUSY: what is in use, and by whom.
fn user_of(tree: &Tree, place: &Place<'_>, path: &str) -> (String, String) {
    let holder = match place {
        Place::Backstore => match exporters(tree, path).first() {
            Some(lun) => format!("{lun}; remove that first"),
            None => "a LUN of another target; remove that first".to_owned(),
        },
        Place::Group | Place::Acl | Place::Lun(_) | Place::Target => {
            "a link to it, or a persistent reservation being registered; try again".to_owned()
        }
        _ => "another program; try again".to_owned(),
    };
    match place {
        Place::Backstore => (format!("backstore {path}"), holder),
        _ => (path.to_owned(), holder),
    }
}

/// The LUNs that export a backstore.
fn exporters(tree: &Tree, device: &str) -> Vec<String> {
    let wanted = device.strip_prefix(TARGET).unwrap_or(device);
    let mut found = Vec::new();
    for fabric in tree.dirs(TARGET).unwrap_or_default().iter().filter(|name| *name != "core") {
        for target in tree.dirs(format!("{TARGET}/{fabric}")).unwrap_or_default() {
            for group in tree.dirs(format!("{TARGET}/{fabric}/{target}")).unwrap_or_default() {
                let luns = format!("{TARGET}/{fabric}/{target}/{group}/lun");
                for lun in tree.dirs(&luns).unwrap_or_default() {
                    let links = tree.links(format!("{luns}/{lun}")).unwrap_or_default();
                    let leads = |link: &String| {
                        let to = tree.read_link(format!("{luns}/{lun}/{link}"));
                        to.is_ok_and(|to| to.to_string_lossy().ends_with(wanted))
                    };
                    if links.iter().any(leads) {
                        found.push(format!("{target} {group} {lun}"));
                    }
                }
            }
        }
    }
    found
}

/// EINVAL: which of its checks the kernel means.
fn invalid(tree: &Tree, place: &Place<'_>, step: &Step, path: &str) -> String {
    let making = matches!(step, Step::MakeDir { .. });
    let short = match place {
        Place::Fabric if making => {
            "the module of this fabric is not loaded and the kernel does not load it by itself (modprobe vhost_scsi)"
        }
        Place::DbRoot => {
            "the directory for reservations changes only while there is no backstore, and has at most 4094 bytes"
        }
        Place::Adapter => {
            "an adapter is called iblock_N, fileio_N, rd_mcp_N, pscsi_N or user_N, and its module can be loaded (target_core_)"
        }
        Place::Control => "a number is none, or fd_async_io is not 1 (it is 0 by leaving it out)",
        Place::BackstoreIdentity => return identity_reason(tree, path),
        Place::BackstoreAttribute => return attribute_reason(tree, path),
        Place::Reservations => return reservations_reason(tree, path),
        Place::GroupNumber => {
            "the number of a group is 1 to 65535, set once, and no other group of the same kind may have it"
        }
        Place::AccessGroup => return access_reason(tree, path),
        Place::Target => match path.rsplit('/').next().map_or(0, str::len) > 223 {
            true => "the name is longer than 223 bytes",
            false => {
                "the name is not one of this fabric's: iqn., eui. or naa., of loopback and vhost naa. and 16 digits"
            }
        },
        Place::Group => return group_reason(tree, path),
        Place::GroupEnable => return port_id_reason(tree, path),
        Place::PortId => {
            "the relative port identifier is 1 to 65535 and changes only while the portal group is disabled"
        }
        Place::Nexus => "the initiator of this fabric is called naa. and 16 hexadecimal digits",
        Place::Portal(name) if making => return portal_reason(tree, path, name),
        Place::Transport | Place::Enforce | Place::WriteProtect => "the kernel wants 0 or 1 here",
        Place::Lun(name) | Place::Mapped(name) if making => match numbered(name, "lun_") {
            None => "a LUN is called lun_N, N a number",
            Some(_) => "the number is too large for a LUN, or the initiator has one of this number",
        },
        Place::MappedLink => return mapping_reason(tree, step, path),
        Place::AclDepth => "the queue depth is 1 to 512",
        Place::Password => "LIO takes at most 255 bytes",
        Place::Tag => "a tag has at most 63 bytes",
        Place::Processors => "it is no list of processors such as 0-3,8",
        Place::Value => return value_reason(path),
        _ => "see the kernel's log (dmesg) for its reason",
    };
    short.to_owned()
}

/// The other errnos.
fn other(place: &Place<'_>, errno: i32, operation: &Operation) -> &'static str {
    match (place, errno) {
        (_, libc::EFAULT) if matches!(operation, Operation::Write) => {
            "configfs takes no empty value; the word NULL takes one away where LIO knows it"
        }
        (Place::LunLink, libc::EFAULT) => "a LUN leads to a backstore, and this is none",
        (Place::MappedLink, libc::EFAULT) => "a mapped LUN leads to a LUN of its group, and this is none",
        (_, libc::ENAMETOOLONG) => "the name is too long; an adapter's has at most 63 bytes",
        (Place::DbRoot, libc::ENOENT | libc::ENOTDIR) => "there is no such directory",
        (Place::Control, libc::ERANGE) => "a number is too large",
        (Place::BackstoreIdentity, libc::EOVERFLOW) => {
            "a serial has at most 253 bytes, a vendor 8, a product 16, a revision 4; a company is below 0x1000000"
        }
        (Place::BackstoreIdentity, libc::EOPNOTSUPP) => "a SCSI device brings its own identity",
        (Place::BackstoreAttribute, libc::ENODEV) | (Place::AccessGroup, libc::ENODEV) => {
            "the backstore is not enabled; this can be set only then"
        }
        (Place::BackstoreAttribute, libc::ENOSYS) => {
            "the device does not support it (emulate_tpu, emulate_tpws: it has no discard)"
        }
        (Place::PortId, libc::ENOENT) => {
            "this kernel chooses the relative port identifier itself; Linux 6.4 and newer let one set it. Leave it out"
        }
        (Place::BackstoreAttribute | Place::Value, libc::ENOENT) => {
            "this kernel has no such attribute; leave it out"
        }
        (Place::BackstoreAttribute | Place::Value, libc::ERANGE) => "the number is too large",
        (Place::LunGroup, libc::ENODEV) => {
            "there is no group of this name, the LUN has no backstore, or its device answers for itself"
        }
        (Place::LunLink, libc::ENODEV) => "the backstore is not enabled",
        (Place::Transport, libc::ENODEV | libc::ENOENT) => {
            "there is no RDMA or Chelsio device at this address, or its module (ib_isert, cxgbit) is missing"
        }
        (_, libc::ENOENT) => "what it belongs to is not there, or this kernel has no such file",
        _ => "see the kernel's log (dmesg) for its reason",
    }
}

fn read(tree: &Tree, path: &str) -> String {
    // The look-ups only improve the text: one that fails improves nothing.
    tree.read_opt(path).ok().flatten().unwrap_or_default()
}

/// Whether a LUN exports the backstore that a file belongs to (`export_count`).
fn is_exported(tree: &Tree, path: &str) -> bool {
    let device: Vec<_> = path.strip_prefix(TARGET).unwrap_or(path).split('/').skip(1).take(3).collect();
    read(tree, &format!("{TARGET}/{}/info", device.join("/"))).starts_with("Status: ACTIVATED")
}

/// Why a serial or a name of a disk is refused (`target_wwn_vpd_unit_serial_store` and its neighbours).
fn identity_reason(tree: &Tree, path: &str) -> String {
    match is_exported(tree, path) {
        true => "serial and names of a disk cannot change while it is exported; remove its target first"
            .to_owned(),
        false => "vendor, product and revision are printable ASCII, and a company is a number".to_owned(),
    }
}

/// Why a persistent reservation is not taken (`target_pr_res_aptpl_metadata_store`).
fn reservations_reason(tree: &Tree, path: &str) -> String {
    match is_exported(tree, path) {
        true => "persistent reservations are given to a disk before a LUN exports it; remove the LUN first"
            .to_owned(),
        false => "a registration has an initiator, a target and a key other than 0, and a holder has a type"
            .to_owned(),
    }
}

/// Why `mkdir` of a portal group answers EINVAL, as it does to everything.
fn group_reason(tree: &Tree, path: &str) -> String {
    let (target, name) = path.rsplit_once('/').unwrap_or((path, ""));
    let number = |name: &str| numbered(name, "tpgt_").and_then(|n| u16::try_from(n).ok());
    let Some(tag) = number(name) else {
        return "a portal group is called tpgt_N, N from 0 to 65535 without zeros before it".to_owned();
    };
    let twin = tree.dirs(target).unwrap_or_default().into_iter().find(|other| number(other) == Some(tag));
    match twin {
        Some(other) => format!("the target has {other}, which is the same"),
        None if target.contains("/loopback/") => "a loopback target has one portal group".to_owned(),
        None => "the kernel does not make this portal group; see its log (dmesg)".to_owned(),
    }
}

/// Why an initiator is not shown a LUN (`target_fabric_mappedlun_link`).
fn mapping_reason(tree: &Tree, step: &Step, path: &str) -> String {
    let target = match step {
        Step::Link { link } => link.target.as_str(),
        _ => "",
    };
    let group = path.split("/acls/").next().unwrap_or_default();
    let lun = target.rsplit('/').next().unwrap_or_default();
    if target != format!("{group}/lun/{lun}") {
        return "an initiator is shown LUNs of its own portal group only".to_owned();
    }
    if tree.links(target).unwrap_or_default().is_empty() {
        return format!("{lun} has no backstore; link it first");
    }
    "the initiator sees this LUN under another number, or another LUN under this one, already".to_owned()
}

/// Which of its checks an attribute of a backstore did not pass.
fn attribute_reason(tree: &Tree, path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let row =
        attributes::of(attributes::DEVICE, name).or_else(|| attributes::of(attributes::PASSTHROUGH, name));
    match row {
        Some(row) if is_exported(tree, path) && !row.while_exported => {
            format!("{name} cannot change while a LUN exports the backstore; remove the LUN first")
        }
        Some(_) if name == "emulate_write_cache" && path.contains("/core/iblock_") => {
            "a block device has its own cache, whose setting the kernel follows (queue/write_cache)"
                .to_owned()
        }
        Some(row) => format!("LIO takes {}, and no more than what the device has (hw_ files)", row.range),
        None => {
            "the value is out of range, or the attribute cannot change while the disk is exported".to_owned()
        }
    }
}

/// The range of an attribute or parameter.
fn value_reason(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let table = match path {
        _ if path.contains("/acls/") => attributes::ACL,
        _ if path.contains("/param/") => attributes::PARAMETER,
        _ => attributes::GROUP,
    };
    match attributes::of(table, name) {
        Some(row) => format!("LIO takes {}", row.range),
        None => "the value is out of range for this attribute or parameter".to_owned(),
    }
}

/// Why a state or another file of an access group is refused (`target_core_alua.c`).
fn access_reason(tree: &Tree, path: &str) -> String {
    let (dir, file) = path.rsplit_once('/').unwrap_or((path, ""));
    let read = |name: &str| tree.read_opt(format!("{dir}/{name}")).ok().flatten().unwrap_or_default();
    let kind = alua::number("alua_access_type", &read("alua_access_type"));
    match file {
        _ if read("tg_pt_gp_id").trim().is_empty() => {
            "the group has no number yet; write tg_pt_gp_id first".to_owned()
        }
        "alua_access_state" if !matches!(kind.as_str(), "1" | "3") => {
            "the group does not allow implicit changes; write 1 or 3 to alua_access_type first".to_owned()
        }
        "alua_access_state" => {
            "the group does not support this state: see its alua_support_ files".to_owned()
        }
        _ => match attributes::of(attributes::ALUA, file) {
            Some(row) => format!("LIO takes {}", row.range),
            None => "the value is out of range".to_owned(),
        },
    }
}

/// Why a portal group cannot be enabled: `target_tpg_register_rtpi` is the only check that answers EINVAL.
fn port_id_reason(tree: &Tree, path: &str) -> String {
    let own = path.rsplit_once('/').map_or(path, |(dir, _)| dir);
    let read =
        |dir: &str, file: &str| tree.read_opt(format!("{dir}/{file}")).ok().flatten().unwrap_or_default();
    let id = read(own, "rtpi");
    for fabric in tree.dirs(TARGET).unwrap_or_default().iter().filter(|name| *name != "core") {
        for target in tree.dirs(format!("{TARGET}/{fabric}")).unwrap_or_default() {
            let dir = format!("{TARGET}/{fabric}/{target}");
            for group in tree.dirs(&dir).unwrap_or_default() {
                let other = format!("{dir}/{group}");
                if other != own
                    && !id.is_empty()
                    && read(&other, "rtpi") == id
                    && read(&other, "enable").trim() == "1"
                {
                    return format!(
                        "{target} {group} has the relative port identifier {} too; choose another one",
                        id.trim()
                    );
                }
            }
        }
    }
    "the kernel wants 0 or 1 here".to_owned()
}

/// Why `mkdir np/ADDR:PORT` answers EINVAL, as it does to everything (`lio_target_call_addnptotpg`).
fn portal_reason(tree: &Tree, path: &str, name: &str) -> String {
    let Some(address) = parse_portal(name) else {
        return format!("{name} is no portal; write ADDRESS:PORT or [ADDRESS]:PORT");
    };
    let target = path.rsplit_once("/tpgt_").map_or(path, |(target, _)| target);
    // The look-ups only improve the text: one that fails improves nothing.
    for group in tree.dirs(target).unwrap_or_default().iter().filter(|dir| dir.starts_with("tpgt_")) {
        let portals = tree.dirs(format!("{target}/{group}/np")).unwrap_or_default();
        if portals.iter().any(|other| parse_portal(other) == Some(address)) {
            return format!(
                "portal {address} is in {group} of the same target already; it can be in one group only"
            );
        }
    }
    let table = if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let listening = tree.read_opt(table).ok().flatten().is_some_and(|text| listens(&text, address.port()));
    match listening {
        true => format!("port {} is taken: something listens there already (ss -ltnp)", address.port()),
        false => format!(
            "the kernel could not bind {address}; is it an address of this machine's family and no multicast?"
        ),
    }
}

/// Why `enable` of a backstore is refused: errnos of `blkdev_get_by_path` and of `target_configure_device`.
fn enable_reason(tree: &Tree, step: &Step, errno: i32, source: TreeError) -> Error {
    let dir = step.path().trim_end_matches("/enable");
    let turns_on = matches!(step, Step::Write { value, .. } if value.contains('1'));
    let device = tree.read_opt(format!("{dir}/udev_path")).ok().flatten().unwrap_or_default();
    let device = device.trim();
    let reason = match errno {
        libc::EBUSY => {
            let object = device.to_owned();
            return Error::Busy { object, holder: holder(tree, dir, device), source };
        }
        libc::EROFS | libc::EACCES | libc::EMEDIUMTYPE => format!(
            "{device} cannot be opened for writing: a DRBD resource must be Primary here first, a read-only disk needs Access::ReadOnly"
        ),
        libc::ENOENT | libc::ENXIO | libc::ENODEV => format!("there is no device {device}"),
        libc::ENOTBLK => format!("{device} is no block device"),
        libc::EEXIST => "the backstore is enabled already".to_owned(),
        libc::EINVAL if !turns_on => {
            "a backstore is enabled by writing 1, and ends by removing it".to_owned()
        }
        libc::EINVAL => format!("the backstore was given no device, or {device} cannot be used"),
        libc::ENOMEM => "there is not enough memory".to_owned(),
        _ => format!("{device} cannot be opened"),
    };
    Error::Refused { reason, source }
}

/// Who holds a block device exclusively, as far as the kernel shows it.
fn holder(tree: &Tree, dir: &str, device: &str) -> String {
    let core = format!("{TARGET}/core");
    for adapter in tree.dirs(&core).unwrap_or_default() {
        for name in tree.dirs(format!("{core}/{adapter}")).unwrap_or_default() {
            let other = format!("{core}/{adapter}/{name}");
            let read =
                |file: &str| tree.read_opt(format!("{other}/{file}")).ok().flatten().unwrap_or_default();
            if other != dir && read("udev_path").trim() == device && read("enable").trim() == "1" {
                return format!("the backstore {adapter}/{name}; one device is one backstore");
            }
        }
    }
    let name =
        Path::new(device).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let holders = tree.list_opt(format!("/sys/class/block/{name}/holders")).unwrap_or_default();
    if let Some(holder) = holders.first() {
        return format!("the block device {} that stands on it", holder.name);
    }
    let mounts = tree.read_opt("/proc/mounts").ok().flatten().unwrap_or_default();
    let mounted = mounts.lines().find_map(|line| {
        let (what, rest) = line.split_once(' ')?;
        (what == device).then(|| rest.split(' ').next().unwrap_or_default().to_owned())
    });
    match mounted {
        Some(point) => format!("a file system mounted on {point}; unmount it"),
        None => "somebody who opened it exclusively: a mount, md, LVM, DRBD or another target (lsblk, fuser)"
            .to_owned(),
    }
}
