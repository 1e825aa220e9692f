//! Carrying out steps, and saying what a refusal means.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use host::tree::Tree;
use host::{Operation, TreeError};

use crate::error::{Error, ErrorKind, Result};
use crate::plan::Step;
use crate::state::TARGET;
use crate::wire::tcp::listens;
use crate::wire::{alua, attributes, parse_portal};

/// How many lanes are worked on at once. The grace periods of more than 16 hardly overlap better, and threads cost too.
const THREADS: usize = 16;

/// Carries out one step. What an undo finds already gone is accepted.
pub(crate) fn run(tree: &Tree, step: &Step) -> Result<()> {
    let done = match step {
        Step::MakeDir { path } => tree.make_dir(path),
        Step::RemoveDir { path, .. } => tree.remove_dir(path).map(drop),
        Step::Write { path, value, .. } => tree.write(path, value),
        // Without a line break: the kernel would keep it as part of the password (__DEF_NACL_AUTH_STR).
        Step::WriteSecret { path, secret, .. } => tree.write_secret(path, secret.secret()),
        Step::ClearSecret { path, .. } => tree.write(path, "NULL"),
        Step::Link { link } => tree.link(&link.target, &link.path),
        Step::Unlink { link, .. } => tree.unlink(&link.path).map(drop),
        Step::Together { lanes } => return together(tree, lanes),
    };
    done.map_err(|error| explain(tree, step, error))
}

/// Works on several lanes at a time; if a step fails, takes back what was done in all of them: as a whole or not at all.
fn together(tree: &Tree, lanes: &[Vec<Step>]) -> Result<()> {
    // What an initiator sees of a LUN is a list entry and costs no grace period (core_enable_device_list_for_node): threads would only
    // get in each other's way.
    let cheap = lanes.iter().flatten().all(|step| step.path().contains("/acls/"));
    let threads = if cheap { 1 } else { THREADS };
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut outcomes = Vec::new();
        while let Some(lane) = lanes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut done = 0;
            let mut outcome = Ok(());
            for step in lane {
                // Nobody begins anything once it is known that all of it must be taken back.
                if failed.load(Ordering::Relaxed) {
                    break;
                }
                outcome = run(tree, step);
                if outcome.is_err() {
                    failed.store(true, Ordering::Relaxed);
                    break;
                }
                done += 1;
            }
            outcomes.push((lane, done, outcome));
        }
        outcomes
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..lanes.len().min(threads)).map(|_| scope.spawn(work)).collect();
        let mut outcomes = work();
        for worker in workers {
            match worker.join() {
                Ok(more) => outcomes.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcomes
    });
    if !failed.load(Ordering::Relaxed) {
        return Ok(());
    }
    let (mut cause, mut back) = (Ok(()), Vec::new());
    for (lane, done, outcome) in outcomes {
        back.extend(lane.iter().take(done).rev().flat_map(host::plan::Step::undo));
        cause = cause.and(outcome);
    }
    let stopped = cause.as_ref().is_err_and(|error| error.kind() == ErrorKind::Stopped);
    for step in back.iter().filter(|_| !stopped) {
        if let Err(stuck) = run(tree, step) {
            log::debug!("cannot take back with {step}: {stuck}");
        }
    }
    cause
}

/// Where a path is in the tree.
enum Place<'a> {
    Target,
    Group,
    GroupEnable,
    Portal(&'a str),
    Lun,
    Acl,
    Mapped,
    AclDepth,
    Backstore,
    BackstoreEnable,
    BackstoreIdentity,
    BackstoreAttribute,
    Password,
    Tag,
    PortId,
    Nexus,
    AccessGroup,
    GroupNumber,
    LunGroup,
    Fabric,
    DiscoveryPassword,
    Processors,
    Transport,
    Value,
    Other,
}

fn place(path: &str) -> Place<'_> {
    let Some(rest) = path.strip_prefix(TARGET) else { return Place::Other };
    let parts: Vec<_> = rest.trim_start_matches('/').split('/').collect();
    match parts[..] {
        [_] => Place::Fabric,
        ["iscsi", "cpus_allowed_list"] => Place::Processors,
        ["iscsi", "discovery_auth", _] => Place::DiscoveryPassword,
        ["core", "alua", "lu_gps", _, "lu_gp_id"] | ["core", _, _, "alua", _, "tg_pt_gp_id"] => {
            Place::GroupNumber
        }
        ["core", _, _, "alua", _, _] => Place::AccessGroup,
        ["core", _, _, "alua_lu_gp"] | [_, _, _, "lun", _, "alua_tg_pt_gp"] => Place::LunGroup,
        ["core", _, _] => Place::Backstore,
        ["core", _, _, "enable"] => Place::BackstoreEnable,
        ["core", _, _, "wwn", _] => Place::BackstoreIdentity,
        ["core", _, _, "attrib", _] => Place::BackstoreAttribute,
        [_, _] => Place::Target,
        [_, _, _] => Place::Group,
        [_, _, _, "np", name] => Place::Portal(name),
        [_, _, _, "np", _, _] => Place::Transport,
        [_, _, _, "rtpi"] => Place::PortId,
        [_, _, _, "nexus"] => Place::Nexus,
        [_, _, _, "enable"] => Place::GroupEnable,
        [_, _, _, "acls", _, "tag"] => Place::Tag,
        [_, _, _, "auth", _] => Place::Password,
        [_, _, _, "lun", _] | [_, _, _, "lun", _, _] => Place::Lun,
        [_, _, _, "acls", _] => Place::Acl,
        [_, _, _, "acls", _, "auth", _] => Place::Password,
        [_, _, _, "acls", _, "cmdsn_depth"] => Place::AclDepth,
        [_, _, _, "acls", _, "attrib", _] | [_, _, _, "attrib" | "param", _] => Place::Value,
        [_, _, _, "acls", _, _] | [_, _, _, "acls", _, _, _] => Place::Mapped,
        _ => Place::Other,
    }
}

/// LIO answers most mistakes with EINVAL alone: the cause is found by looking at what the kernel checks.
fn explain(tree: &Tree, step: &Step, source: TreeError) -> Error {
    let path = step.path().to_owned();
    if source.is_stopped() {
        return Error::Refused { reason: "stopped here on purpose".to_owned(), source };
    }
    let errno = source.errno().unwrap_or_default();
    let refused = |reason: String, source| Error::Refused { reason, source };
    let making = matches!(source.operation, Operation::MakeDir);
    let reason = match (place(&path), errno) {
        (_, libc::EEXIST) if making => {
            return Error::Busy {
                object: path,
                holder: "another program, which made it in this very moment; try again".to_owned(),
                source,
            };
        }
        (Place::Nexus, libc::EPERM) => "the initiator cannot go while the target has LUNs".to_owned(),
        (_, libc::EPERM | libc::EACCES) => {
            "this needs root (CAP_SYS_ADMIN and write access to configfs)".to_owned()
        }
        (Place::Portal(name), libc::EINVAL) if making => portal_reason(tree, &path, name),
        (Place::Target, libc::EINVAL) => {
            "the module iscsi_target_mod is not loaded, or the name is longer than 223 bytes".to_owned()
        }
        (Place::Fabric, libc::EINVAL) if making => {
            "the module of this fabric is not loaded and the kernel does not load it by itself (modprobe vhost_scsi)".to_owned()
        }
        (Place::PortId, libc::ENOENT) => {
            "this kernel chooses the relative port identifier itself; Linux 6.4 and newer let one set it. Leave it out".to_owned()
        }
        (Place::PortId, libc::EINVAL) => {
            "the relative port identifier is 1 to 65535 and changes only while the portal group is disabled".to_owned()
        }
        (Place::GroupEnable, libc::EINVAL) => port_id_reason(tree, &path),
        (Place::Nexus, libc::EEXIST) => "it has an initiator already".to_owned(),
        (Place::Nexus, libc::EINVAL) => "the initiator of this fabric is called naa. and 16 hexadecimal digits".to_owned(),
        (Place::GroupNumber, libc::EINVAL) => {
            "the number of a group is 1 to 65535, set once, and no other group of the same kind may have it".to_owned()
        }
        (Place::AccessGroup, libc::EINVAL) => access_reason(tree, &path),
        (Place::AccessGroup, libc::ENODEV) => "the backstore is not enabled; states can be set only then".to_owned(),
        (Place::LunGroup, libc::ENODEV) => {
            "there is no group of this name, the LUN has no backstore, or its device answers for itself".to_owned()
        }
        (Place::Tag, libc::EINVAL) => "a tag has at most 63 bytes".to_owned(),
        (Place::DiscoveryPassword, libc::EINVAL) => "LIO takes at most 255 bytes".to_owned(),
        (Place::Processors, libc::EINVAL) => "it is no list of processors such as 0-3,8".to_owned(),
        (Place::Transport, libc::ENODEV | libc::ENOENT) => {
            "there is no RDMA or Chelsio device at this address, or its module (ib_isert, cxgbit) is missing".to_owned()
        }
        (Place::BackstoreEnable, _) => return enable_reason(tree, path, errno, source),
        (Place::BackstoreIdentity, libc::EINVAL) => {
            "serial and names of a disk cannot change while it is exported; remove its target first"
                .to_owned()
        }
        (Place::BackstoreAttribute, libc::EINVAL) => attribute_reason(tree, &path),
        (Place::BackstoreAttribute, libc::ENOSYS) => {
            "the device does not support it (emulate_tpu, emulate_tpws: it has no discard)".to_owned()
        }
        (Place::BackstoreAttribute | Place::Value, libc::ENOENT) => {
            "this kernel has no such attribute; leave it out".to_owned()
        }
        (Place::Value, libc::EINVAL) => value_reason(&path),
        (Place::AclDepth, libc::EINVAL) => "the queue depth is 1 to 512".to_owned(),
        (Place::Password, libc::EINVAL) => "LIO takes at most 255 bytes".to_owned(),
        (Place::Lun, libc::ENODEV) => "the backstore is not enabled".to_owned(),
        (Place::Mapped, libc::EINVAL) => {
            "the LUN is not exported by this portal group, or the initiator sees it under another number"
                .to_owned()
        }
        (Place::Backstore, libc::EBUSY) => {
            let object = format!("backstore {path}");
            return Error::Busy {
                object,
                holder: "a LUN of another target; remove that first".to_owned(),
                source,
            };
        }
        (Place::Group | Place::Acl | Place::Lun | Place::Target, libc::EBUSY) => {
            let holder = "a link to it, or a persistent reservation being registered; try again".to_owned();
            return Error::Busy { object: path, holder, source };
        }
        (_, libc::ENOTEMPTY) => {
            "it holds something that another program made; look with ls, or remove it with targetcli"
                .to_owned()
        }
        (_, libc::EBUSY) => {
            return Error::Busy { object: path, holder: "another program; try again".to_owned(), source };
        }
        _ => "see the kernel's log (dmesg) for its reason".to_owned(),
    };
    refused(reason, source)
}

/// Which of its checks an attribute of a backstore did not pass.
fn attribute_reason(tree: &Tree, path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let row =
        attributes::of(attributes::DEVICE, name).or_else(|| attributes::of(attributes::PASSTHROUGH, name));
    let info =
        path.split("/attrib/").next().and_then(|dir| tree.read_opt(format!("{dir}/info")).ok().flatten());
    let exported = info.is_some_and(|info| info.starts_with("Status: ACTIVATED"));
    match row {
        Some(row) if exported && !row.while_exported => {
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
fn enable_reason(tree: &Tree, path: String, errno: i32, source: TreeError) -> Error {
    let dir = path.trim_end_matches("/enable");
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
