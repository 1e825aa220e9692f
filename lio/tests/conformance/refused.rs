//! What is refused, and whether the reason is said.

use std::net::SocketAddr;

use lio::{Access, BackstoreSpec, ErrorKind, Plan, Step, Tag, TargetSpec, UnitSerial};

use super::{Bench, Outcome, TARGET, chain, iqn, ramdisk};

pub fn sibling_portal(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let portal: SocketAddr = "127.0.0.1:13270".parse()?;
    let first = TargetSpec::new(iqn("sibling")).with_portal(portal);
    let second = TargetSpec::new(iqn("sibling")).with_tag(Tag(2)).with_portal(portal);
    lio.ensure(&first)?;
    let error = lio.plan(&second).expect_err("a conflict");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("tpgt_1"), "{error}");
    // Past the planner: the kernel's EINVAL is explained.
    lio.ensure(&second.clone().with_portal("127.0.0.1:13271".parse()?)).expect_err("still a conflict");
    let bare = TargetSpec::new(iqn("sibling")).with_tag(Tag(2));
    lio.ensure(&bare)?;
    let path = format!("{TARGET}/iscsi/{}/tpgt_2/np/{portal}", bare.iqn);
    let error = lio.apply(Plan::new(vec![Step::MakeDir { path }])).expect_err("EINVAL");
    assert_eq!(error.errno(), Some(libc::EINVAL));
    assert!(chain(&error).contains("is in tpgt_1 of the same target already"), "{}", chain(&error));
    lio.remove(&bare.iqn)?;
    Ok(())
}

pub fn taken_port(bench: &Bench) -> Outcome {
    let before = bench.snapshot();
    let _kept = (bench.take_port)(bench, 13280);
    let spec = TargetSpec::new(iqn("taken")).with_portal("127.0.0.1:13280".parse()?);
    let error = bench.lio().ensure(&spec).expect_err("the port is taken");
    assert!(chain(&error).contains("port 13280 is taken"), "{}", chain(&error));
    bench.same(&before, "failed");
    Ok(())
}

pub fn exported(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let spec = |disk: BackstoreSpec| TargetSpec::new(iqn("exported")).with_lun(0, disk);
    lio.ensure(&spec(bench.disk(0, "exported0")))?;
    let made = bench.snapshot();
    for (disk, words) in [
        (bench.disk(0, "exported0").with_serial("abc123".parse()?), "vpd_unit_serial"),
        (bench.disk(0, "exported0").with_product("other".parse()?), "product_id"),
        (bench.disk(0, "exported0").with_attribute("block_size", 4096), "block_size"),
        (bench.disk(1, "exported0"), "shall be on"),
        (bench.disk(0, "exported0").with_access(Access::ReadOnly), "access mode"),
    ] {
        let error = lio.ensure(&spec(disk)).expect_err(words);
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(words), "{error}");
    }
    bench.same(&made, "nothing was changed");
    // What the kernel changes on a live disk is changed.
    assert!(lio.ensure(&spec(bench.disk(0, "exported0").with_attribute("emulate_3pc", 0)))?);
    // Past the planner: the kernel says no, and the error says why.
    let id = lio.backstores()?.into_iter().find(|b| b.id.name == "exported0").expect("there").id;
    let dir = format!("{TARGET}/core/{}/{}", id.adapter, id.name);
    for (file, value, errno, words) in [
        ("attrib/block_size", "4096", libc::EINVAL, "while a LUN exports"),
        ("attrib/emulate_rest_reord", "1", libc::ENOSYS, "does not support"),
        ("attrib/emulate_write_cache", "1", libc::EINVAL, "its own cache"),
        ("wwn/product_id", "other", libc::EINVAL, "while it is exported"),
        ("alua_lu_gp", "nobody", libc::ENODEV, "no group of this name"),
        ("alua/default_tg_pt_gp/alua_access_state", "9", libc::EINVAL, "does not support this state"),
        ("alua/default_tg_pt_gp/preferred", "9", libc::EINVAL, "0 or 1"),
    ] {
        let step = Step::Write { path: format!("{dir}/{file}"), value: value.to_owned(), before: None };
        let error = lio.apply(Plan::new(vec![step])).expect_err(file);
        assert_eq!(error.errno(), Some(errno), "{file}: {}", chain(&error));
        assert!(chain(&error).contains(words), "{file}: {}", chain(&error));
    }
    lio.remove(&iqn("exported"))?;
    bench.same(&before, "removed");
    Ok(())
}

pub fn twins(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let one = TargetSpec::new(iqn("twin1")).with_lun(0, ramdisk("twin"));
    lio.ensure(&one)?;
    let other = ramdisk("twin2").with_serial(UnitSerial::derived_from("twin"));
    let error =
        lio.ensure(&TargetSpec::new(iqn("twin2")).with_lun(0, other.clone())).expect_err("same serial");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("rd_mcp_"), "{error}");
    let both = TargetSpec::new(iqn("twin3")).with_lun(0, ramdisk("twin")).with_lun(1, other);
    assert_eq!(lio.plan(&both).expect_err("same serial").kind(), ErrorKind::Invalid);
    let none = BackstoreSpec::ramdisk("none".parse()?, lio::Bytes(4096));
    let error = lio.plan(&TargetSpec::new(iqn("twin3")).with_lun(0, none)).expect_err("no serial");
    assert!(error.to_string().contains("with_serial"), "{error}");
    lio.remove(&one.iqn)?;
    Ok(())
}

pub fn claimed(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    lio.ensure(&TargetSpec::new(iqn("claim1")).with_lun(0, bench.disk(0, "claim1")))?;
    let error = lio
        .ensure(&TargetSpec::new(iqn("claim2")).with_lun(0, bench.disk(0, "claim2")))
        .expect_err("claimed");
    assert!(
        error.is_busy() && error.is_retryable() && error.errno() == Some(libc::EBUSY),
        "{}",
        chain(&error)
    );
    assert!(chain(&error).contains("iblock_0/claim1"), "{}", chain(&error));
    lio.remove(&iqn("claim1"))?;
    bench.same(&before, "removed");
    Ok(())
}

pub fn missing_device(bench: &Bench) -> Outcome {
    let before = bench.snapshot();
    let disk = BackstoreSpec::block("nodisk".parse()?, "/dev/no-such-disk").with_serial("a1".parse()?);
    let error = bench.lio().ensure(&TargetSpec::new(iqn("nodisk")).with_lun(0, disk)).expect_err("no device");
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Refused, Some(libc::ENOENT)));
    assert!(chain(&error).contains("there is no device /dev/no-such-disk"), "{}", chain(&error));
    bench.same(&before, "failed");
    Ok(())
}

pub fn unknown_attribute(bench: &Bench) -> Outcome {
    let before = bench.snapshot();
    let spec = TargetSpec::new(iqn("unknown")).with_attribute("no_such_thing", 1);
    let error = bench.lio().ensure(&spec).expect_err("no such attribute");
    assert!(chain(&error).contains("this kernel has no such attribute"), "{}", chain(&error));
    // Past the check of the specification: the kernel says no, and the error says what it takes.
    let spec = TargetSpec::new(iqn("unknown"));
    bench.lio().ensure(&spec)?;
    let path = format!("{TARGET}/iscsi/{}/tpgt_1/attrib/login_timeout", spec.iqn);
    let step = Step::Write { path, value: "4".to_owned(), before: None };
    let error = bench.lio().apply(Plan::new(vec![step])).expect_err("out of range");
    assert!(chain(&error).contains("LIO takes 5 to 30"), "{}", chain(&error));
    bench.lio().remove(&spec.iqn)?;
    bench.same(&before, "failed");
    Ok(())
}

pub fn create_refuses(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let spec = TargetSpec::new(iqn("create"));
    lio.create(&spec)?;
    assert_eq!(lio.create(&spec).expect_err("there").kind(), ErrorKind::AlreadyExists);
    assert!(!lio.ensure(&spec)?);
    lio.remove(&spec.iqn)?;
    Ok(())
}
