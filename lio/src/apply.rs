//! Carrying out steps, and saying what a refusal means.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use host::tree::Tree;
use host::{Operation, TreeError};

use crate::error::{Error, Result};
use crate::plan::{Link, Step};
use crate::state::TARGET;
use crate::wire::parse_portal;

/// How many links are made or removed at once. The grace periods of more than 16 hardly overlap better, and threads cost too.
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
        Step::Link { links } => at_once(
            links,
            |link| tree.link(&link.target, &link.path),
            |link| tree.unlink(&link.path).map(drop),
        ),
        Step::Unlink { links, .. } => at_once(
            links,
            |link| tree.unlink(&link.path).map(drop),
            |link| tree.link(&link.target, &link.path),
        ),
    };
    done.map_err(|error| explain(tree, step, error))
}

/// Does the same to all links, several at a time; if one fails, takes those done back: a step happens as a whole or not at all.
fn at_once(
    links: &[Link],
    forth: impl Fn(&Link) -> std::result::Result<(), TreeError> + Sync,
    back: impl Fn(&Link) -> std::result::Result<(), TreeError>,
) -> std::result::Result<(), TreeError> {
    if let [link] = links {
        return forth(link);
    }
    // Only a LUN costs grace periods; what an initiator sees of it is a list entry (core_enable_device_list_for_node).
    let threads = if links.iter().any(|link| link.path.contains("/acls/")) { 1 } else { THREADS };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut outcomes = Vec::new();
        while let Some(link) = links.get(next.fetch_add(1, Ordering::Relaxed)) {
            outcomes.push((link, forth(link)));
        }
        outcomes
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..links.len().min(threads)).map(|_| scope.spawn(work)).collect();
        let mut outcomes = work();
        for worker in workers {
            match worker.join() {
                Ok(more) => outcomes.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcomes
    });
    let mut failed = None;
    let mut done = Vec::new();
    for (link, outcome) in outcomes {
        match outcome {
            Ok(()) => done.push(link),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let Some(error) = failed else { return Ok(()) };
    if !error.is_stopped() {
        for link in done {
            if let Err(stuck) = back(link) {
                log::debug!("cannot take back {}: {stuck}", link.path);
            }
        }
    }
    Err(error)
}

/// Where a path is in the tree.
enum Place<'a> {
    Target,
    Group,
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
    Value,
    Other,
}

fn place(path: &str) -> Place<'_> {
    let Some(rest) = path.strip_prefix(TARGET) else { return Place::Other };
    let parts: Vec<_> = rest.trim_start_matches('/').split('/').collect();
    match parts[..] {
        ["core", _, _] => Place::Backstore,
        ["core", _, _, "enable"] => Place::BackstoreEnable,
        ["core", _, _, "wwn", _] => Place::BackstoreIdentity,
        ["core", _, _, "attrib", _] => Place::BackstoreAttribute,
        [_, _] => Place::Target,
        [_, _, _] => Place::Group,
        [_, _, _, "np", name] => Place::Portal(name),
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
        (_, libc::EPERM | libc::EACCES) => {
            "this needs root (CAP_SYS_ADMIN and write access to configfs)".to_owned()
        }
        (Place::Portal(name), libc::EINVAL) if making => portal_reason(tree, &path, name),
        (Place::Target, libc::EINVAL) => {
            "the module iscsi_target_mod is not loaded, or the name is longer than 223 bytes".to_owned()
        }
        (Place::BackstoreEnable, _) => return enable_reason(tree, path, errno, source),
        (Place::BackstoreIdentity, libc::EINVAL) => {
            "serial and names of a disk cannot change while it is exported; remove its target first"
                .to_owned()
        }
        (Place::BackstoreAttribute, libc::EINVAL) => {
            "the value is out of range, or the attribute cannot change while the disk is exported".to_owned()
        }
        (Place::BackstoreAttribute, libc::ENOSYS) => {
            "the device does not support it (emulate_tpu, emulate_tpws: it has no discard)".to_owned()
        }
        (Place::BackstoreAttribute | Place::Value, libc::ENOENT) => {
            "this kernel has no such attribute; leave it out".to_owned()
        }
        (Place::Value, libc::EINVAL) => {
            "the value is out of range for this attribute or parameter".to_owned()
        }
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

/// Whether a line of `/proc/net/tcp` is a listening socket of this port: `SL LOCAL:PORT REMOTE STATE`, state 0A.
fn listens(text: &str, port: u16) -> bool {
    let port = format!(":{port:04X}");
    text.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&port)) && words.nth(1) == Some("0A")
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_ports_are_found() {
        let text = "  sl  local_address rem_address   st\n   0: 00000000:0CBC 00000000:0000 0A 00000000\n   1: 0100007F:0050 0100007F:1234 01 0\n";
        assert!(listens(text, 3260) && !listens(text, 80));
    }
}
