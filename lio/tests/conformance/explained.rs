//! Every refusal that the kernel has for a configuration: the errno, and whether the error says which of the kernel's checks it was.

use lio::plan::Link;
use lio::{AclSpec, ErrorKind, Plan, Step, TargetSpec};

use super::{Bench, Outcome, TARGET, chain, iqn, ramdisk};

struct Refusal {
    step: Step,
    errno: i32,
    words: &'static str,
}

fn write(path: impl Into<String>, value: &str, errno: i32, words: &'static str) -> Refusal {
    let step = Step::Write { path: path.into(), value: value.to_owned(), before: None };
    Refusal { step, errno, words }
}

fn make(path: impl Into<String>, errno: i32, words: &'static str) -> Refusal {
    Refusal { step: Step::MakeDir { path: path.into() }, errno, words }
}

fn remove(path: impl Into<String>, errno: i32, words: &'static str) -> Refusal {
    Refusal { step: Step::RemoveDir { path: path.into(), restore: Vec::new() }, errno, words }
}

fn link(target: &str, path: impl Into<String>, errno: i32, words: &'static str) -> Refusal {
    Refusal { step: Step::Link { link: Link::new(target, path) }, errno, words }
}

/// Tries them all; what is not as it should be, a line each.
fn tried(bench: &Bench, refusals: Vec<Refusal>) -> Vec<String> {
    let lio = bench.lio();
    let mut wrong = Vec::new();
    for Refusal { step, errno, words } in refusals {
        let shown = step.to_string();
        match lio.apply(Plan::new(vec![step])) {
            Ok(_) => wrong.push(format!("{shown}: done, known is {errno}")),
            Err(error) => {
                let text = chain(&error);
                let busy = error.is_busy() == (errno == libc::EBUSY);
                if error.errno() != Some(errno) || !text.contains(words) || !busy {
                    wrong.push(format!("{shown}: errno {errno} and {words:?} expected: {text}"));
                }
            }
        }
    }
    wrong
}

pub fn refusals(bench: &Bench) -> Outcome {
    let (lio, tree, before) = (bench.lio(), bench.host.tree(), bench.snapshot());
    let core = format!("{TARGET}/core");
    assert!(lio.backstores()?.is_empty(), "the directory for reservations changes only then");
    let mut wrong = tried(
        bench,
        vec![write(format!("{TARGET}/dbroot"), "/no/such/dir", libc::ENOENT, "there is no such directory")],
    );
    let acl = AclSpec::new(iqn("host1"));
    let spec = TargetSpec::new(iqn("explained"))
        .with_lun(0, bench.disk(0, "explained0"))
        .with_lun(1, ramdisk("explained1"))
        .with_portal("[::1]:13274".parse()?)
        .with_acl(acl.clone());
    lio.ensure(&spec)?;
    let other = TargetSpec::new(iqn("explained2")).with_lun(0, ramdisk("explained2")).with_acl(acl);
    lio.ensure(&other)?;
    let state = lio.get(&spec.iqn)?.expect("there");
    let device = |name: &str| {
        let id = state.backstores.keys().find(|id| id.name == name).expect("there");
        format!("{core}/{}/{}", id.adapter, id.name)
    };
    let (block, ram) = (device("explained0"), device("explained1"));
    let group = format!("{TARGET}/iscsi/{}/tpgt_1", spec.iqn);
    let acl = format!("{group}/acls/{}", iqn("host1"));
    let stranger = format!("{TARGET}/iscsi/{}/tpgt_1/lun/lun_0", other.iqn);
    // Backstores that are not enabled, a LUN without one, groups with and without a number.
    let shell = format!("{core}/rd_mcp_77/shell");
    let file = format!("{core}/fileio_77/shell");
    let made = [
        format!("{core}/rd_mcp_77"),
        shell.clone(),
        format!("{core}/fileio_77"),
        file.clone(),
        format!("{shell}/alua/one"),
        format!("{shell}/alua/two"),
        format!("{core}/alua/lu_gps/explained1"),
        format!("{core}/alua/lu_gps/explained2"),
        format!("{group}/lun/lun_9"),
        format!("{acl}/lun_9"),
    ];
    for dir in &made {
        tree.make_dir(dir)?;
    }
    tree.write(format!("{shell}/alua/one/tg_pt_gp_id"), "7")?;
    tree.write(format!("{core}/alua/lu_gps/explained1/lu_gp_id"), "7")?;
    let long = "x".repeat(256);
    let lu_group = format!("{core}/alua/lu_gps/explained");
    let alua = format!("{shell}/alua");
    wrong.extend(tried(
        bench,
        vec![
            write(format!("{TARGET}/dbroot"), "/tmp", libc::EINVAL, "only while there is no backstore"),
            make(format!("{TARGET}/no-such-fabric"), libc::EINVAL, "the module of this fabric is not loaded"),
            // Adapters and backstores.
            make(format!("{core}/nothing_0"), libc::EINVAL, "an adapter is called"),
            make(format!("{core}/iblock"), libc::EINVAL, "an adapter is called"),
            make(format!("{core}/iblock_x"), libc::EINVAL, "an adapter is called"),
            make(format!("{core}/iblock_{}", "1".repeat(60)), libc::ENAMETOOLONG, "at most 63 bytes"),
            write(format!("{file}/control"), "fd_dev_size=x", libc::EINVAL, "a number is none"),
            write(format!("{file}/control"), "fd_async_io=2", libc::EINVAL, "fd_async_io is not 1"),
            write(format!("{block}/control"), "udev_path=/dev/null", libc::EEXIST, "once and for all"),
            write(format!("{shell}/enable"), "1", libc::EINVAL, "was given no device"),
            write(format!("{shell}/enable"), "0", libc::EINVAL, "by removing it"),
            write(format!("{block}/enable"), "1", libc::EEXIST, "enabled already"),
            write(format!("{block}/wwn/vpd_unit_serial"), "1", libc::EINVAL, "while it is exported"),
            write(format!("{shell}/wwn/vendor_id"), "123456789", libc::EOVERFLOW, "a vendor 8"),
            write(format!("{shell}/wwn/vendor_id"), "a\u{7}b", libc::EINVAL, "printable ASCII"),
            write(format!("{shell}/wwn/company_id"), "16777216", libc::EOVERFLOW, "below 0x1000000"),
            write(format!("{shell}/wwn/company_id"), "x", libc::EINVAL, "a company is a number"),
            write(format!("{block}/attrib/block_size"), "4096", libc::EINVAL, "while a LUN exports"),
            write(format!("{block}/attrib/emulate_write_cache"), "1", libc::EINVAL, "its own cache"),
            write(format!("{block}/attrib/emulate_rest_reord"), "1", libc::ENOSYS, "does not support"),
            write(format!("{block}/attrib/emulate_tas"), "2", libc::EINVAL, "while a LUN exports"),
            write(format!("{block}/attrib/emulate_caw"), "2", libc::EINVAL, "0 or 1"),
            write(format!("{block}/attrib/emulate_3pc"), "x", libc::EINVAL, "0 or 1"),
            write(format!("{block}/attrib/no_such"), "1", libc::ENOENT, "no such attribute"),
            write(format!("{shell}/attrib/pi_prot_type"), "1", libc::ENODEV, "not enabled"),
            write(
                format!("{ram}/pr/res_aptpl_metadata"),
                "initiator_node=x",
                libc::EINVAL,
                "before a LUN exports it",
            ),
            write(
                format!("{shell}/pr/res_aptpl_metadata"),
                "initiator_node=x,target_node=y,sa_res_key=0",
                libc::EINVAL,
                "a key other than 0",
            ),
            // Groups of backstores and of ports.
            write(format!("{lu_group}1/lu_gp_id"), "8", libc::EINVAL, "set once"),
            write(format!("{lu_group}2/lu_gp_id"), "7", libc::EINVAL, "no other group"),
            write(format!("{block}/alua_lu_gp"), "nobody", libc::ENODEV, "no group of this name"),
            write(format!("{alua}/one/tg_pt_gp_id"), "8", libc::EINVAL, "set once"),
            write(format!("{alua}/two/tg_pt_gp_id"), "7", libc::EINVAL, "no other group"),
            write(format!("{alua}/two/alua_access_state"), "2", libc::EINVAL, "no number yet"),
            write(format!("{alua}/one/alua_access_state"), "2", libc::ENODEV, "not enabled"),
            write(format!("{alua}/one/alua_access_type"), "4", libc::EINVAL, "0 to 3"),
            write(format!("{alua}/one/nonop_delay_msecs"), "10001", libc::EINVAL, "0 to 10000"),
            write(format!("{alua}/one/implicit_trans_secs"), "256", libc::EINVAL, "0 to 255"),
            write(
                format!("{group}/lun/lun_0/alua_tg_pt_gp"),
                "nobody",
                libc::ENODEV,
                "no group of this name",
            ),
            // Targets and portal groups.
            make(
                format!("{TARGET}/iscsi/iqn.2026-01.lab:{}", "x".repeat(220)),
                libc::EINVAL,
                "longer than 223 bytes",
            ),
            make(format!("{TARGET}/iscsi/{}/tpgt_65536", spec.iqn), libc::EINVAL, "N from 0 to 65535"),
            make(format!("{TARGET}/iscsi/{}/group1", spec.iqn), libc::EINVAL, "called tpgt_N"),
            write(format!("{group}/enable"), "2", libc::EINVAL, "0 or 1"),
            write(format!("{group}/attrib/login_timeout"), "4", libc::EINVAL, "5 to 30"),
            write(format!("{group}/attrib/no_such"), "1", libc::ENOENT, "no such attribute"),
            write(format!("{group}/param/MaxConnections"), "0", libc::EINVAL, "1 to 65535"),
            write(format!("{group}/param/TargetAlias"), "", libc::EFAULT, "no empty value"),
            write(format!("{TARGET}/iscsi/cpus_allowed_list"), "none", libc::EINVAL, "such as 0-3,8"),
            write(format!("{TARGET}/iscsi/discovery_auth/password"), &long, libc::EINVAL, "255 bytes"),
            write(
                format!("{TARGET}/iscsi/discovery_auth/enforce_discovery_auth"),
                "2",
                libc::EINVAL,
                "0 or 1",
            ),
            make(format!("{group}/np/here"), libc::EINVAL, "is no portal"),
            make(format!("{group}/np/[0:0:0:0:0:0:0:1]:13274"), libc::EINVAL, "is in tpgt_1"),
            write(format!("{group}/np/[::1]:13274/iser"), "2", libc::EINVAL, "0 or 1"),
            // LUNs, ACLs and what they see.
            make(format!("{group}/lun/9"), libc::EINVAL, "called lun_N"),
            link(&shell, format!("{group}/lun/lun_9/x"), libc::ENODEV, "not enabled"),
            link(&ram, format!("{group}/lun/lun_0/x"), libc::EEXIST, "has a backstore already"),
            link(
                &format!("{core}/rd_mcp_77"),
                format!("{group}/lun/lun_9/x"),
                libc::EFAULT,
                "leads to a backstore",
            ),
            make(format!("{acl}/9"), libc::EINVAL, "called lun_N"),
            write(format!("{acl}/cmdsn_depth"), "513", libc::EINVAL, "1 to 512"),
            write(format!("{acl}/tag"), &long[..64], libc::EINVAL, "63 bytes"),
            write(format!("{acl}/auth/userid"), &long, libc::EINVAL, "255 bytes"),
            write(format!("{acl}/attrib/nopin_timeout"), "61", libc::EINVAL, "0 to 60"),
            write(format!("{acl}/lun_0/write_protect"), "2", libc::EINVAL, "0 or 1"),
            link(&stranger, format!("{acl}/lun_9/x"), libc::EINVAL, "its own portal group"),
            link(&format!("{group}/lun/lun_9"), format!("{acl}/lun_9/x"), libc::EINVAL, "has no backstore"),
            link(&format!("{group}/lun/lun_1"), format!("{acl}/lun_0/x"), libc::EINVAL, "already"),
            link(&ram, format!("{acl}/lun_9/x"), libc::EFAULT, "leads to a LUN"),
            // What cannot go, and what can be made nowhere.
            remove(&ram, libc::EBUSY, "tpgt_1 lun_1"),
            remove(format!("{group}/lun/lun_0"), libc::EBUSY, "a link to it"),
            remove(&acl, libc::ENOTEMPTY, "another program made"),
            remove(&group, libc::ENOTEMPTY, "another program made"),
            remove(format!("{group}/attrib"), libc::EPERM, "go with the object they belong to"),
            make(format!("{group}/attrib/x"), libc::EPERM, "a directory of the kernel's own"),
            link(&ram, format!("{group}/attrib/x"), libc::EPERM, "from a LUN to a backstore"),
        ],
    ));
    wrong.extend(tried(
        bench,
        vec![match tree.exists(format!("{group}/rtpi"))? {
            true => write(format!("{group}/rtpi"), "5", libc::EINVAL, "while the portal group is disabled"),
            false => {
                write(format!("{group}/rtpi"), "5", libc::ENOENT, "chooses the relative port identifier")
            }
        }],
    ));
    for dir in made.iter().rev() {
        tree.remove_dir(dir)?;
    }
    lio.remove(&spec.iqn)?;
    lio.remove(&other.iqn)?;
    bench.same(&before, "removed");
    assert!(wrong.is_empty(), "{wrong:#?}");
    let nobody = lio.enable(&spec.iqn).expect_err("it is gone");
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
    Ok(())
}
