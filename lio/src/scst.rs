//! `scst.conf`, the configuration of SCST (scstadmin): read into ours, keeping what initiators know disks by.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use host::{Bytes, Iqn, Secret};

use crate::error::{Error, Result};
use crate::name::{ChapUser, CompanyId, Lun, UnitSerial};
use crate::spec::{
    Access, AclSpec, Backing, BackstoreSpec, ConfigSpec, Credentials, DemoMode, Enabled, FileIo, IscsiSpec,
    Memory, TargetSpec, WriteCache,
};
use crate::wire::scst::{Block, parse};

/// What cannot be said, or is said otherwise, one line each.
type Notes = Vec<String>;

/// Reads `scst.conf`. `size_of` is asked for the size of files, which the text does not say. The second part of the result names what LIO has no
/// equivalent of, and what initiators will see changed.
///
/// Serial, vendor, product and LUN numbers stay. The identifier that multipath shows stays where SCST was given one that LIO can have
/// (`naa_id` of 16 bytes that begins with 6); else it changes, since SCST 2 and 3 name disks by vendor and name (T10), LIO by NAA: what refers
/// to it (`/etc/multipath/wwids`, datastores) must follow.
///
/// ```
/// let text = "HANDLER vdisk_blockio {\n DEVICE r0 {\n filename /dev/drbd0\n usn 0a1b2c3d\n }\n}\n\
///     TARGET_DRIVER iscsi {\n TARGET iqn.2026-01.com.example:r0 {\n enabled 1\n allowed_portal 10.1.24.10\n\
///     GROUP vms {\n LUN 0 r0\n INITIATOR iqn.2026-01.com.example:host1\n }\n }\n}\n";
/// let (config, notes) = lio::scst::read(text, |_| None)?;
/// assert_eq!(config.targets[0].luns.len(), 1);
/// assert!(notes.iter().any(|note| note.contains("identifier")));
/// # Ok::<(), lio::Error>(())
/// ```
///
/// # Errors
/// The text has not the form of the file, or holds a name that no target can have.
#[doc(alias = "scstadmin")]
pub fn read(text: &str, size_of: impl Fn(&Path) -> Option<Bytes>) -> Result<(ConfigSpec, Vec<String>)> {
    let all = parse(text)?;
    let (mut notes, mut disks, mut config) = (Notes::new(), BTreeMap::new(), ConfigSpec::new());
    let setup = all.value("setup_id").and_then(|id| number(&id)).unwrap_or(0);
    for handler in all.of("HANDLER") {
        for device in handler.of("DEVICE") {
            if let Some(disk) = disk(handler.name(), device, setup, &size_of, &mut notes)? {
                disks.insert(device.name().to_owned(), disk);
            }
        }
    }
    for driver in all.of("TARGET_DRIVER") {
        if driver.name() != "iscsi" {
            notes.push(format!("driver {}: only iSCSI is read; its targets are left out", driver.name()));
            continue;
        }
        let mut shared = IscsiSpec::new();
        users(driver, "discovery", &mut shared.discovery, &mut notes)?;
        config.iscsi = Some(shared);
        for target in driver.of("TARGET") {
            config.targets.push(self::target(target, &disks, &mut notes)?);
        }
        others(
            "the iSCSI driver",
            driver,
            &["TARGET", "enabled", "IncomingUser", "OutgoingUser"],
            &mut notes,
        );
    }
    for group in all.of("DEVICE_GROUP") {
        notes.push(format!(
            "device group {}: access states of two nodes are HaPair's here; it is left out",
            group.name()
        ));
    }
    others("the file", &all, &["HANDLER", "TARGET_DRIVER", "DEVICE_GROUP", "setup_id"], &mut notes);
    let used: Vec<_> =
        config.targets.iter().flat_map(|target| target.luns.values().map(|disk| &disk.name)).collect();
    config.backstores = disks.values().filter(|disk| !used.contains(&&disk.name)).cloned().collect();
    config.validate()?;
    Ok((config, notes))
}

/// Notes the keys that nobody has read.
fn others(what: &str, block: &Block, known: &[&str], notes: &mut Notes) {
    let keys: std::collections::BTreeSet<&str> =
        block.inner.iter().map(Block::kind).filter(|key| !known.contains(key)).collect();
    notes.extend(keys.into_iter().map(|key| format!("{what}: LIO has no {key}; it is left out")));
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn is_on(block: &Block, key: &str) -> bool {
    block.value(key).is_some_and(|value| value == "1")
}

fn disk(
    handler: &str,
    device: &Block,
    setup: u64,
    size_of: &impl Fn(&Path) -> Option<Bytes>,
    notes: &mut Notes,
) -> Result<Option<BackstoreSpec>> {
    let (name, what) = (device.name(), format!("device {}", device.name()));
    let path = device.value("filename").unwrap_or_default();
    let (backing, vendor) = match handler {
        "vdisk_blockio" => (Backing::Block { device: path.as_str().into() }, "SCST_BIO"),
        "vdisk_fileio" => {
            let Some(size) = size_of(Path::new(&path)) else {
                notes.push(format!("{what}: the size of {path} is not known; it is left out"));
                return Ok(None);
            };
            let through = is_on(device, "write_through") || is_on(device, "nv_cache");
            let cache = if through { WriteCache::Through } else { WriteCache::Back };
            (Backing::File { path: path.as_str().into(), size, cache, io: FileIo::Blocking }, "SCST_FIO")
        }
        "vdisk_nullio" => {
            let mib = device.value("size_mb").and_then(|mib| mib.parse::<u64>().ok()).unwrap_or(1024);
            (Backing::Ramdisk { size: Bytes(mib << 20), memory: Memory::Null }, "SCST_NIO")
        }
        "dev_disk" => {
            let parts: Vec<u32> = name.split(':').filter_map(|part| part.parse().ok()).collect();
            let [host, channel, target, lun] = parts[..] else {
                notes.push(format!("{what}: it is no H:C:T:L; it is left out"));
                return Ok(None);
            };
            let spec = BackstoreSpec::new(name.parse()?, Backing::Scsi { host, channel, target, lun });
            return Ok(Some(spec));
        }
        other => {
            notes.push(format!("{what}: LIO has nothing like {other}; it is left out"));
            return Ok(None);
        }
    };
    let mut spec = BackstoreSpec::new(name.parse()?, backing);
    identity(&what, device, setup, vendor, &mut spec, notes)?;
    let block = matches!(spec.backing, Backing::Block { .. });
    if is_on(device, "read_only") && block {
        spec.access = Access::ReadOnly;
    } else if is_on(device, "read_only") {
        notes.push(format!("{what}: files are not opened read-only; write-protect it in each ACL"));
    }
    if let Some(size) = device.value("blocksize") {
        spec = spec.with_attribute("block_size", size);
    }
    if is_on(device, "thin_provisioned") {
        spec = spec.with_attribute("emulate_tpu", 1);
    }
    if device.value("rotational").is_some_and(|value| value == "0") {
        spec = spec.with_attribute("is_nonrot", 1);
    }
    const KNOWN: &[&str] = &[
        "filename",
        "write_through",
        "nv_cache",
        "read_only",
        "blocksize",
        "thin_provisioned",
        "rotational",
        "usn",
        "t10_vend_id",
        "prod_id",
        "prod_rev_lvl",
        "naa_id",
        "t10_dev_id",
        "size",
        "size_mb",
    ];
    others(&what, device, KNOWN, notes);
    Ok(Some(spec))
}

/// What initiators know a disk by. What was not set has SCST's own defaults (`vdisk_gen_dev_id_num`, `scst_vdisk.c`).
fn identity(
    what: &str,
    device: &Block,
    setup: u64,
    vendor: &str,
    spec: &mut BackstoreSpec,
    notes: &mut Notes,
) -> Result<()> {
    let own = format!("{:x}", (setup << 32) | u64::from(crc32c(device.name())));
    let serial = device.value("usn").unwrap_or(own);
    let naa = device.value("naa_id").map(|id| id.trim_start_matches("0x").to_ascii_lowercase());
    let naa =
        naa.filter(|id| id.len() == 32 && id.starts_with('6') && id.bytes().all(|b| b.is_ascii_hexdigit()));
    match naa.as_deref().and_then(|id| Some((id.get(1..7)?, id.get(7..)?))) {
        Some((company, rest)) => {
            let company = u32::from_str_radix(company, 16).unwrap_or_default();
            spec.company = Some(CompanyId::try_from(company)?);
            spec.serial = Some(rest.parse()?);
            if serial != rest {
                notes.push(format!(
                    "{what}: LIO makes the identifier of the serial; to keep the identifier the serial becomes {rest}, it was {serial}"
                ));
            }
        }
        None => {
            let serial: UnitSerial = serial.parse()?;
            notes.push(format!(
                "{what}: its serial {serial} stays, its identifier does not: initiators on Linux will see {}",
                serial.wwid()
            ));
            spec.serial = Some(serial);
        }
    }
    let text = |key: &str, most: usize, own: &str| {
        let value = device.value(key).unwrap_or_else(|| own.to_owned());
        value.chars().take(most).collect::<String>()
    };
    spec.vendor = Some(text("t10_vend_id", 8, vendor).parse()?);
    spec.product = Some(text("prod_id", 16, device.name()).parse()?);
    spec.revision = device.value("prod_rev_lvl").map(|revision| revision.trim().parse()).transpose()?;
    if device.value("t10_dev_id").is_some() {
        notes.push(format!(
            "{what}: the T10 identifier of LIO is made of product and serial; t10_dev_id is left out"
        ));
    }
    Ok(())
}

/// CRC-32C as the kernel's `crc32c(0, ...)` has it, without inversion, over the name and the zero that ends it.
fn crc32c(name: &str) -> u32 {
    name.bytes().chain([0]).fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 },
        )
    })
}

/// `IncomingUser "NAME PASSWORD"`: what is asked of initiators; `OutgoingUser`: what is proved to them.
fn users(block: &Block, what: &str, to: &mut Credentials, notes: &mut Notes) -> Result<()> {
    for (key, mutual) in [("IncomingUser", false), ("OutgoingUser", true)] {
        let mut lines = block.of(key);
        let Some(line) = lines.next() else { continue };
        if lines.next().is_some() {
            notes.push(format!("{what}: LIO knows one {key}; the first one is taken"));
        }
        let mut words = line.words.iter().skip(1).flat_map(|words| words.split_whitespace());
        let (Some(user), Some(secret)) = (words.next(), words.next()) else {
            notes.push(format!("{what}: {key} has no name and password; it is left out"));
            continue;
        };
        let (user, secret): (ChapUser, Secret) = (user.parse()?, Secret::from(secret));
        if mutual { to.set_mutual(user, secret) } else { to.set(user, secret) }
    }
    Ok(())
}

fn target(target: &Block, disks: &BTreeMap<String, BackstoreSpec>, notes: &mut Notes) -> Result<TargetSpec> {
    let iqn: Iqn = target.name().parse()?;
    let what = format!("target {iqn}");
    let mut spec = TargetSpec::new(iqn);
    spec.enabled = if is_on(target, "enabled") { Enabled::Yes } else { Enabled::No };
    let mut auth = Credentials::default();
    users(target, &what, &mut auth, notes)?;
    for portal in target.of("allowed_portal") {
        let Ok(address) = portal.name().parse::<IpAddr>() else {
            notes.push(format!(
                "{what}: portal {} is a pattern; name its addresses. It is left out",
                portal.name()
            ));
            continue;
        };
        spec = spec.with_portal(SocketAddr::new(address, 3260));
    }
    if spec.portals.is_empty() {
        notes.push(format!("{what}: SCST listens on all addresses, so does this; name addresses where others shall not reach it"));
        spec = spec.with_portal(SocketAddr::from(([0, 0, 0, 0], 3260)));
    }
    for key in [
        "InitialR2T",
        "ImmediateData",
        "MaxBurstLength",
        "FirstBurstLength",
        "MaxOutstandingR2T",
        "HeaderDigest",
        "DataDigest",
    ] {
        if let Some(value) = target.value(key) {
            spec = spec.with_parameter(key, value);
        }
    }
    if let Some(id) = target.value("rel_tgt_id").and_then(|id| id.parse::<u16>().ok()) {
        notes.push(format!(
            "{what}: rel_tgt_id {id} can be kept on Linux 6.4 and newer; say with_port_id({id}) there"
        ));
    }
    let all = map(&what, target, disks, &mut spec, notes)?;
    for group in target.of("GROUP") {
        let what = format!("{what}, group {}", group.name());
        let luns = map(&what, group, disks, &mut spec, notes)?;
        for initiator in group.of("INITIATOR") {
            let Ok(name) = initiator.name().parse::<Iqn>() else {
                notes.push(format!(
                    "{what}: LIO knows no patterns; initiator {} is left out",
                    initiator.name()
                ));
                continue;
            };
            let mut acl = AclSpec::new(name);
            acl.auth = auth.clone();
            for (seen, (lun, access)) in &luns {
                acl = acl.with_lun(*seen, *lun, *access);
            }
            spec = spec.with_acl(acl);
        }
        others(&what, group, &["LUN", "INITIATOR"], notes);
    }
    if !all.is_empty() {
        notes.push(format!("{what}: its LUNs outside of groups are for everybody; demo mode lets everybody in, better name initiators"));
        spec.demo_mode = DemoMode::Allowed;
        spec.auth = auth;
    }
    const KNOWN: &[&str] = &[
        "enabled",
        "LUN",
        "GROUP",
        "allowed_portal",
        "IncomingUser",
        "OutgoingUser",
        "InitialR2T",
        "ImmediateData",
        "MaxBurstLength",
        "FirstBurstLength",
        "MaxOutstandingR2T",
        "HeaderDigest",
        "DataDigest",
        "rel_tgt_id",
    ];
    others(&what, target, KNOWN, notes);
    Ok(spec)
}

type Seen = BTreeMap<Lun, (Lun, Access)>;

/// The LUNs of a target or group, as they are seen; each disk gets a LUN of the target, of the same number where that is free.
fn map(
    what: &str,
    block: &Block,
    disks: &BTreeMap<String, BackstoreSpec>,
    spec: &mut TargetSpec,
    notes: &mut Notes,
) -> Result<Seen> {
    let mut seen = Seen::new();
    for line in block.of("LUN") {
        let number: Lun = line.name().parse()?;
        let device = line.words.get(2).map_or("", String::as_str);
        let Some(disk) = disks.get(device) else {
            notes.push(format!("{what}: LUN {number} is {device}, which there is not; it is left out"));
            continue;
        };
        let there = spec.luns.iter().find(|(_, other)| other.name == disk.name).map(|(lun, _)| *lun);
        let lun = match there {
            Some(lun) => lun,
            None if !spec.luns.contains_key(&number) => number,
            None => {
                let free = (0..=u64::from(u16::MAX))
                    .filter_map(|n| Lun::try_from(n).ok())
                    .find(|lun| !spec.luns.contains_key(lun));
                free.ok_or_else(|| Error::invalid(what, "it has more LUNs than there are numbers"))?
            }
        };
        spec.luns.insert(lun, disk.clone());
        let access = if is_on(line, "read_only") { Access::ReadOnly } else { Access::ReadWrite };
        seen.insert(number, (lun, access));
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
# Automatically generated by SCST Configurator
setup_id 0x1
HANDLER vdisk_blockio {
    DEVICE vm1 {
        filename /dev/drbd/by-res/vm1/0
        nv_cache 0
        usn 1a2b3c4d
        threads_num 8
    }
    DEVICE vm2 {
        filename /dev/drbd1
        naa_id 0x60014051a2b3c4d5e6f708192a3b4c5d
        read_only 1
    }
    DEVICE spare {
        filename /dev/drbd2
    }
}
HANDLER vdisk_fileio {
    DEVICE iso { filename /srv/iso.img }
    DEVICE gone { filename /srv/gone.img }
}
HANDLER vcdrom { DEVICE cd { } }
TARGET_DRIVER iscsi {
    enabled 1
    IncomingUser "scout a-long-password"
    TARGET iqn.2026-01.com.example:vms {
        enabled 1
        IncomingUser "vmware another-password"
        allowed_portal 10.1.24.10
        InitialR2T No
        QueuedCommands 128
        GROUP esx {
            LUN 0 vm1
            LUN 1 vm2 { read_only 1 }
            INITIATOR iqn.2026-01.com.example:esx1
            INITIATOR iqn.2026-01.com.example:esx*
        }
        GROUP backup {
            LUN 0 vm2
            INITIATOR iqn.2026-01.com.example:backup
        }
    }
    TARGET iqn.2026-01.com.example:open { LUN 0 iso }
}
TARGET_DRIVER qla2x00t { }
"#;

    #[test]
    fn what_initiators_know_a_disk_by_stays() {
        let (config, notes) =
            read(TEXT, |path| path.ends_with("iso.img").then_some(Bytes(1 << 20))).expect("well formed");
        let vms = &config.targets[0];
        let lun = |n: u8| &vms.luns[&Lun::from(n)];
        assert_eq!(lun(0).serial.as_ref().map(UnitSerial::as_str), Some("1a2b3c4d"));
        assert_eq!((shown(&lun(0).vendor), shown(&lun(0).product)), ("SCST_BIO".into(), "vm1".into()));
        assert_eq!(lun(1).wwid().expect("a serial").as_str(), "360014051a2b3c4d5e6f708192a3b4c5d");
        assert_eq!(lun(1).access, Access::ReadOnly);
        // The first group's numbers are the target's; the second sees the same disk under another one.
        let backup = &vms.acls[&"iqn.2026-01.com.example:backup".parse().unwrap()];
        let mapped = &backup.luns.as_ref().expect("said")[&Lun::from(0)];
        assert_eq!((mapped.target_lun, mapped.access), (Lun::from(1), Access::ReadWrite));
        let esx = &vms.acls[&"iqn.2026-01.com.example:esx1".parse().unwrap()];
        assert_eq!(esx.chap().expect("a password").user.as_str(), "vmware");
        assert_eq!(esx.luns.as_ref().expect("said")[&Lun::from(1)].access, Access::ReadOnly);
        assert_eq!(vms.parameters["InitialR2T"], "No");
        // Demo mode is said to be one.
        assert_eq!(
            (config.targets[1].demo_mode, config.targets[1].enabled),
            (DemoMode::Allowed, Enabled::No)
        );
        assert_eq!(config.backstores.len(), 1);
        assert!(config.iscsi.as_ref().expect("said").discovery_chap().is_some());
        for words in [
            "device vm1: LIO has no threads_num",
            "device vm1: its serial 1a2b3c4d stays, its identifier does not",
            "the size of /srv/gone.img is not known",
            "LIO has nothing like vcdrom",
            "driver qla2x00t",
            "LIO knows no patterns; initiator iqn.2026-01.com.example:esx*",
            "LIO has no QueuedCommands",
            "demo mode lets everybody in",
        ] {
            assert!(notes.iter().any(|note| note.contains(words)), "{words}: {notes:#?}");
        }
        assert!(!notes.iter().any(|note| note.contains("password\"") || note.contains("another-password")));
    }

    fn shown(value: &Option<impl ToString>) -> String {
        value.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn a_serial_that_was_not_set_is_the_one_that_scst_makes() {
        // The check value of CRC-32C with inversion is e3069283; without, over "\0" alone, it is 0.
        assert_eq!(crc32c(""), 0);
        let (config, _) = read(TEXT, |_| None).expect("well formed");
        let serial = config.backstores[0].serial.as_ref().expect("made").to_string();
        assert!(serial.starts_with('1') && serial.len() == 9, "{serial}");
    }
}
