//! Each row of the attribute tables against what answers: the fake, or a kernel.

use std::collections::BTreeMap;

use host::tree::Kind;
use lio::wire::alua;
use lio::wire::attributes::{self, ALUA, Attribute, DEVICE, GROUP, PARAMETER, Range, Table};
use lio::{AclSpec, AluaGroupSpec, Enabled, Fabric, Lun, Secret, Tag, TargetSpec};

use super::{Bench, Outcome, TARGET, iqn, ramdisk};

/// The errno of a write; 0 for none.
fn write(bench: &Bench, path: &str, value: &str) -> i32 {
    match bench.host.tree().write(path, value) {
        Ok(()) => 0,
        Err(error) => error.errno().expect("the kernel answered"),
    }
}

fn read(bench: &Bench, path: &str) -> String {
    let text = bench.host.tree().read(path).expect(path);
    alua::number(path.rsplit('/').next().unwrap(), text.trim())
}

/// Values in and beyond the range of a row.
fn samples(row: &Attribute) -> (Vec<String>, Vec<String>) {
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    match row.range {
        Range::Flag => (own(&["0", "1"]), own(&["2", "x"])),
        Range::Number(least, most) => {
            let mut bad = own(&["x"]);
            // Below zero and above 32 bits the kernels differ in where they cut.
            bad.extend((least > 0).then(|| (least - 1).to_string()));
            bad.extend((most < 4_294_967_295).then(|| (most + 1).to_string()));
            (vec![least.to_string(), most.to_string()], bad)
        }
        // What is not supported answers otherwise than what is out of range.
        Range::Words(["0"]) => (own(&["0"]), own(&["1"])),
        Range::Words(["1"]) => (own(&["1"]), own(&["0"])),
        Range::Words(words) => (own(words), own(&["7"])),
        Range::Text(_) => (own(&["some text"]), Vec::new()),
        _ => (Vec::new(), Vec::new()),
    }
}

/// Tries a table on a directory; `skip` names what depends on more than the row.
fn ranges(bench: &Bench, dir: &str, table: Table, skip: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in table.iter().filter(|row| !skip.contains(&row.name)) {
        let path = format!("{dir}/{}", row.name);
        if !bench.host.tree().exists(&path).expect("readable") {
            continue;
        }
        let before = read(bench, &path);
        let (good, bad) = samples(row);
        for value in good {
            match write(bench, &path, &value) {
                0 if read(bench, &path) == value => {}
                0 => wrong.push(format!("{path}: wrote {value}, reads {}", read(bench, &path))),
                errno => wrong.push(format!("{path}: {value} answers errno {errno}")),
            }
        }
        // Of keys with a number the kernel reads the digits it finds, if any.
        for value in bad.into_iter().filter(|value| value != "x" || !dir.ends_with("/param")) {
            let errno = write(bench, &path, &value);
            if errno == 0 || (errno != row.errno && value != "x") {
                wrong.push(format!("{path}: {value} answers {errno}, known is {}", row.errno));
            }
        }
        match row.range {
            Range::Ignored => {
                let (errno, now) = (write(bench, &path, "0"), read(bench, &path));
                if errno != 0 || now != before {
                    wrong.push(format!("{path}: ignored? errno {errno}, {before} -> {now}"));
                }
            }
            Range::ReadOnly => {
                let errno = write(bench, &path, "1");
                if errno != row.errno {
                    wrong.push(format!("{path}: read-only? errno {errno}"));
                }
            }
            _ if write(bench, &path, &before) != 0 => {
                wrong.push(format!("{path}: cannot go back to {before}"))
            }
            _ => {}
        }
    }
    wrong
}

fn spec(bench: &Bench, name: &str) -> TargetSpec {
    TargetSpec::new(iqn(name))
        .with_lun(0, bench.disk(0, "oracle0"))
        .with_lun(1, ramdisk("oracle1"))
        .with_acl(
            AclSpec::new(iqn("host")).with_chap("u".parse().unwrap(), Secret::from("a long enough one")),
        )
        .enabled(Enabled::No)
}

/// Where the backstores of the specification are.
fn devices(bench: &Bench, spec: &TargetSpec) -> Result<BTreeMap<u16, String>, lio::Error> {
    let state = bench.lio().get(&spec.iqn)?.expect("there");
    let luns = &state.group(Tag(1)).expect("group").luns;
    let path = |id: &lio::BackstoreId| format!("{TARGET}/core/{}/{}", id.adapter, id.name);
    Ok(luns.iter().filter_map(|(lun, is)| Some((lun.number(), path(is.backstore.as_ref()?)))).collect())
}

pub fn defaults(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let spec = spec(bench, "defaults");
    lio.ensure(&spec)?;
    let group = format!("{TARGET}/iscsi/{}/tpgt_1", spec.iqn);
    let mut wrong = Vec::new();
    let devices = devices(bench, &spec)?;
    for (dir, table) in [
        (format!("{group}/attrib"), GROUP),
        (format!("{group}/param"), PARAMETER),
        (format!("{group}/acls/{}/attrib", iqn("host")), attributes::ACL),
        (format!("{}/attrib", devices[&0]), DEVICE),
        (format!("{}/attrib", devices[&1]), DEVICE),
        (format!("{}/alua/default_tg_pt_gp", devices[&1]), ALUA),
    ] {
        for entry in bench.host.tree().list(&dir)?.iter().filter(|entry| entry.kind == Kind::File) {
            match attributes::of(table, &entry.name) {
                Some(row) => {
                    let value = read(bench, &format!("{dir}/{}", entry.name));
                    if row.default.is_some_and(|default| default != value) {
                        wrong.push(format!("{dir}/{} is {value}, known as {:?}", entry.name, row.default));
                    }
                }
                None if ["tg_pt_gp_id", "members"].contains(&entry.name.as_str()) => {}
                None => wrong.push(format!("{dir}/{} is in no table", entry.name)),
            }
        }
        for row in table.iter().filter(|row| row.kernels == attributes::Kernels::All) {
            if !bench.host.tree().exists(format!("{dir}/{}", row.name))? {
                wrong.push(format!("{dir} has no {}", row.name));
            }
        }
    }
    lio.remove(&spec.iqn)?;
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

pub fn device(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let spec = spec(bench, "ranges");
    lio.ensure(&spec)?;
    let devices = devices(bench, &spec)?;
    let group = format!("{TARGET}/iscsi/{}/tpgt_1", spec.iqn);
    // Not exported, so that nothing is refused for that.
    for lun in [0, 1] {
        bench.host.tree().unlink(format!("{group}/acls/{}/lun_{lun}/lun", iqn("host")))?;
        bench.host.tree().unlink(format!("{group}/lun/lun_{lun}/backstore"))?;
    }
    // What needs a device with discard, with protection information or of more than this size.
    let skip = [
        "emulate_tpu",
        "emulate_tpws",
        "unmap_zeroes_data",
        "pi_prot_type",
        "pi_prot_format",
        "pi_prot_verify",
        "pgr_support",
        "queue_depth",
        "optimal_sectors",
        "block_size",
        "emulate_write_cache",
    ];
    let mut wrong = ranges(bench, &format!("{}/attrib", devices[&1]), DEVICE, &skip);
    wrong.extend(ranges(bench, &format!("{}/attrib", devices[&0]), DEVICE, &skip));
    // And what is special.
    let (block, ram) = (format!("{}/attrib", devices[&0]), format!("{}/attrib", devices[&1]));
    for (path, value, errno) in [
        (format!("{block}/emulate_write_cache"), "1", libc::EINVAL),
        (format!("{ram}/emulate_write_cache"), "1", 0),
        (format!("{ram}/block_size"), "513", libc::EINVAL),
        (format!("{ram}/block_size"), "4096", 0),
        (format!("{ram}/block_size"), "512", 0),
        (format!("{ram}/emulate_tpu"), "1", libc::ENOSYS),
        (format!("{ram}/emulate_tpws"), "1", libc::ENOSYS),
        (format!("{ram}/pgr_support"), "0", libc::ENOSYS),
        (format!("{ram}/alua_support"), "0", libc::ENOSYS),
        (format!("{ram}/optimal_sectors"), "4294967295", libc::EINVAL),
        (format!("{}/wwn/vendor_id", devices[&0]), "123456789", libc::EOVERFLOW),
        (format!("{}/wwn/product_id", devices[&0]), "12345678901234567", libc::EOVERFLOW),
        (format!("{}/wwn/revision", devices[&0]), "12345", libc::EOVERFLOW),
        (format!("{}/wwn/company_id", devices[&0]), "0x1000000", libc::EOVERFLOW),
        (format!("{}/enable", devices[&0]), "1", libc::EEXIST),
        (format!("{}/enable", devices[&0]), "0", libc::EINVAL),
    ] {
        let answer = write(bench, &path, value);
        if answer != errno {
            wrong.push(format!("{path}: {value} answers {answer}, known is {errno}"));
        }
    }
    lio.remove(&spec.iqn)?;
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

pub fn exported(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let spec = spec(bench, "guards");
    lio.ensure(&spec)?;
    let devices = devices(bench, &spec)?;
    let dir = format!("{}/attrib", devices[&1]);
    let mut wrong = Vec::new();
    for row in DEVICE {
        let path = format!("{dir}/{}", row.name);
        let special = ["pi_prot_format", "pi_prot_type"].contains(&row.name);
        if special
            || matches!(row.range, Range::ReadOnly | Range::Ignored)
            || !bench.host.tree().exists(&path)?
        {
            continue;
        }
        // The value that is there: nothing about it can be wrong.
        let (now, errno) = (read(bench, &path), if row.while_exported { 0 } else { libc::EINVAL });
        let answer = write(bench, &path, &now);
        if answer != errno {
            wrong.push(format!("{path}: answers {answer}, known is {errno}"));
        }
    }
    for file in ["vpd_unit_serial", "vendor_id", "product_id", "revision", "company_id"] {
        let answer = write(bench, &format!("{}/wwn/{file}", devices[&1]), "1");
        if answer != libc::EINVAL {
            wrong.push(format!("wwn/{file} answers {answer}"));
        }
    }
    lio.remove(&spec.iqn)?;
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

pub fn group(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let spec = spec(bench, "groups");
    lio.ensure(&spec)?;
    let group = format!("{TARGET}/iscsi/{}/tpgt_1", spec.iqn);
    // One attribute sets another.
    let mut wrong =
        ranges(bench, &format!("{group}/attrib"), GROUP, &["generate_node_acls", "cache_dynamic_acls"]);
    wrong.extend(ranges(
        bench,
        &format!("{group}/param"),
        PARAMETER,
        &["IFMarkInt", "OFMarkInt", "IFMarker", "OFMarker"],
    ));
    let acl = format!("{group}/acls/{}", iqn("host"));
    wrong.extend(ranges(bench, &format!("{acl}/attrib"), attributes::ACL, &["nopin_timeout"]));
    let long = "x".repeat(256);
    for (path, value, errno) in [
        (format!("{acl}/attrib/nopin_timeout"), "0", 0),
        (format!("{acl}/attrib/nopin_timeout"), "2", libc::EINVAL),
        (format!("{acl}/attrib/nopin_timeout"), "3", 0),
        (format!("{acl}/attrib/nopin_timeout"), "61", libc::EINVAL),
        (format!("{acl}/cmdsn_depth"), "513", libc::EINVAL),
        (format!("{acl}/cmdsn_depth"), "512", 0),
        (format!("{acl}/auth/password"), long.as_str(), libc::EINVAL),
        (format!("{group}/enable"), "2", libc::EINVAL),
        (format!("{group}/attrib/generate_node_acls"), "1", 0),
        (format!("{group}/attrib/cache_dynamic_acls"), "1", 0),
    ] {
        let answer = write(bench, &path, value);
        if answer != errno {
            wrong.push(format!(
                "{path}: {} answers {answer}, known is {errno}",
                value.get(..9).unwrap_or(value)
            ));
        }
    }
    if read(bench, &format!("{group}/attrib/cache_dynamic_acls")) != "1" {
        wrong.push("generate_node_acls does not set cache_dynamic_acls".to_owned());
    }
    write(bench, &format!("{group}/attrib/authentication"), "0");
    if read(bench, &format!("{group}/param/AuthMethod")) != "CHAP,None" {
        wrong.push(format!(
            "authentication=0 makes AuthMethod {}",
            read(bench, &format!("{group}/param/AuthMethod"))
        ));
    }
    lio.remove(&spec.iqn)?;
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

pub fn access_group(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let disk = ramdisk("oracle2").with_alua_group("one".parse()?, AluaGroupSpec::new(7));
    let spec = TargetSpec::new(iqn("access")).with_lun(0, disk).with_lun_group(0, "one".parse()?);
    lio.ensure(&spec)?;
    let devices = devices(bench, &spec)?;
    let dir = format!("{}/alua/one", devices[&0]);
    // Each state needs its support, which is tried before in the same table.
    let mut wrong =
        ranges(bench, &dir, ALUA, &["alua_access_state", "alua_access_type", "alua_support_lba_dependent"]);
    for (file, value, errno) in [
        ("alua_access_state", "1", 0),
        ("alua_access_state", "2", 0),
        ("alua_access_state", "3", 0),
        ("alua_access_state", "7", libc::EINVAL),
        ("alua_support_standby", "0", 0),
        ("alua_access_state", "2", libc::EINVAL),
        ("alua_access_type", "2", 0),
        ("alua_access_state", "0", libc::EINVAL),
        ("alua_access_type", "4", libc::EINVAL),
        ("tg_pt_gp_id", "8", libc::EINVAL),
    ] {
        let answer = write(bench, &format!("{dir}/{file}"), value);
        if answer != errno {
            wrong.push(format!("{file}: {value} answers {answer}, known is {errno}"));
        }
    }
    lio.remove(&spec.iqn)?;
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// What must precede what, by the errno of the wrong order.
pub fn order(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let spec = spec(bench, "order");
    lio.ensure(&spec)?;
    let (tree, core) = (bench.host.tree(), format!("{TARGET}/core"));
    let group = format!("{TARGET}/iscsi/{}/tpgt_1", spec.iqn);
    let errno = |result: Result<(), host::TreeError>| result.map_or_else(|e| e.errno().unwrap_or(-1), |()| 0);
    let gone = |result: Result<bool, host::TreeError>| errno(result.map(drop));
    let devices = devices(bench, &spec)?;
    let shell = format!("{core}/rd_mcp_77");
    tree.make_dir(&shell)?;
    tree.make_dir(format!("{shell}/shell"))?;
    tree.make_dir(format!("{group}/lun/lun_9"))?;
    tree.make_dir(format!("{shell}/shell/alua/one"))?;
    let acl = format!("{group}/acls/{}", iqn("host"));
    let answers = [
        (
            "a LUN of a shell",
            errno(tree.link(format!("{shell}/shell"), format!("{group}/lun/lun_9/x"))),
            libc::ENODEV,
        ),
        ("enable without control", errno(tree.write(format!("{shell}/shell/enable"), "1")), libc::EINVAL),
        (
            "a state without a number",
            errno(tree.write(format!("{shell}/shell/alua/one/alua_access_state"), "2")),
            libc::EINVAL,
        ),
        ("a number", errno(tree.write(format!("{shell}/shell/alua/one/tg_pt_gp_id"), "5")), 0),
        (
            "a number again",
            errno(tree.write(format!("{shell}/shell/alua/one/tg_pt_gp_id"), "6")),
            libc::EINVAL,
        ),
        (
            "a state of a shell",
            errno(tree.write(format!("{shell}/shell/alua/one/alua_access_state"), "2")),
            libc::ENODEV,
        ),
        (
            "the group of an empty LUN",
            errno(tree.write(format!("{group}/lun/lun_9/alua_tg_pt_gp"), "one")),
            libc::ENODEV,
        ),
        ("a second link", errno(tree.link(&devices[&1], format!("{group}/lun/lun_0/y"))), libc::EEXIST),
        (
            "a LUN mapped twice",
            {
                tree.make_dir(format!("{acl}/lun_9"))?;
                errno(tree.link(format!("{group}/lun/lun_0"), format!("{acl}/lun_9/x")))
            },
            0,
        ),
        ("an exported backstore", gone(tree.remove_dir(&devices[&0])), libc::EBUSY),
        ("a LUN with a link", gone(tree.remove_dir(format!("{group}/lun/lun_0"))), libc::EBUSY),
        ("an ACL with LUNs", gone(tree.remove_dir(&acl)), libc::ENOTEMPTY),
        ("a group with ACLs", gone(tree.remove_dir(&group)), libc::ENOTEMPTY),
        ("a kernel's own directory", gone(tree.remove_dir(format!("{group}/attrib"))), libc::EPERM),
        ("an adapter with a backstore", gone(tree.remove_dir(&shell)), libc::ENOTEMPTY),
        ("an unknown plugin", errno(tree.make_dir(format!("{core}/nothing_0"))), libc::EINVAL),
        ("a LUN without its prefix", errno(tree.make_dir(format!("{group}/lun/9"))), libc::EINVAL),
        ("no address", errno(tree.make_dir(format!("{group}/np/here"))), libc::EINVAL),
    ];
    let wrong: Vec<_> = answers.iter().filter(|(_, is, known)| is != known).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    tree.unlink(format!("{acl}/lun_9/x"))?;
    assert_eq!(
        write(bench, &format!("{acl}/lun_9/write_protect"), "1"),
        0,
        "nothing to protect, and no complaint"
    );
    tree.remove_dir(format!("{acl}/lun_9"))?;
    tree.remove_dir(format!("{shell}/shell/alua/one"))?;
    tree.remove_dir(format!("{shell}/shell"))?;
    tree.remove_dir(&shell)?;
    lio.remove(&spec.iqn)?;
    assert_eq!(lio.of(Fabric::Iscsi).get(&spec.iqn)?, None);
    assert_eq!(Lun::from(9).number(), 9);
    Ok(())
}
