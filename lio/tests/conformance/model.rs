//! The parts of the model beside block devices, LUNs and ACLs.

use lio::{
    Access, AclSpec, AluaGroupSpec, AluaState, Backing, BackstoreSpec, Bytes, CompanyId, DemoMode, Error,
    ErrorKind, Fabric, FileIo, Iqn, IscsiSpec, LuGroup, Memory, Removal, Secret, Tag, TargetSpec, UnitSerial,
    WriteCache,
};

use super::{Bench, Outcome, TARGET, chain, iqn, ramdisk, shown};

fn serial(name: &str) -> UnitSerial {
    UnitSerial::derived_from(name)
}

pub fn backstores(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let file = |name: &str, cache, io| {
        let backing =
            Backing::File { path: format!("/tmp/sankit-{name}").into(), size: Bytes(8 << 20), cache, io };
        BackstoreSpec::new(name.parse().unwrap(), backing).with_serial(serial(name))
    };
    let null = Backing::Ramdisk { size: Bytes(1 << 30), memory: Memory::Null };
    let mut spec = TargetSpec::new(iqn("kinds"))
        .with_lun(0, bench.disk(0, "kind0").with_revision("1.2".parse()?))
        .with_lun(1, file("kind1", WriteCache::Through, FileIo::Blocking))
        .with_lun(2, file("kind2", WriteCache::Back, FileIo::Async))
        .with_lun(3, ramdisk("kind3"))
        .with_lun(4, BackstoreSpec::new("kind4".parse()?, null).with_serial(serial("kind4")));
    let user = Backing::User {
        config: "nobody/x y".to_owned(),
        size: Bytes(1 << 20),
        block_size: Some(4096),
        data_area: Some(16),
    };
    if (bench.has_module)(bench, "target_core_user") {
        spec = spec.with_lun(5, BackstoreSpec::new("kind5".parse()?, user).with_serial(serial("kind5")));
    }
    if let Some([host, channel, target, lun]) = bench.scsi {
        let backing = Backing::Scsi { host, channel, target, lun };
        spec = spec.with_lun(6, BackstoreSpec::new("kind6".parse()?, backing));
    }
    lio.ensure(&spec)?;
    assert!(!lio.ensure(&spec)?, "{}", lio.plan(&spec)?);
    let state = lio.get(&spec.iqn)?.expect("there");
    for (lun, disk) in &spec.luns {
        let is = state.backstore(Tag(1), *lun).expect("its backstore");
        assert_eq!((is.backing.as_ref(), is.access), (Some(&disk.backing), disk.access), "LUN {lun}");
        assert_eq!(is.wwid(), disk.wwid());
    }
    // All of them come back when a removal fails at its end.
    let all = bench.snapshot();
    let plan = lio.plan_removal(&spec.iqn)?;
    let undo = lio.apply(plan)?;
    bench.same(&before, "removed");
    lio.apply(undo.into_plan())?;
    bench.same(&all, "brought back");
    assert!(!lio.ensure(&spec)?);
    lio.remove(&spec.iqn)?;
    bench.same(&before, "removed again");
    let read_only = ramdisk("kind7").with_access(Access::ReadOnly);
    let error =
        lio.plan(&TargetSpec::new(iqn("kinds")).with_lun(0, read_only)).expect_err("no read-only memory");
    assert!(error.to_string().contains("only block devices"), "{error}");
    Ok(())
}

pub fn access_groups(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let disk = |first: AluaState| {
        let implicit = |id, state| {
            AluaGroupSpec::new(id)
                .with_attribute("alua_access_type", 1)
                .with_attribute("nonop_delay_msecs", 0)
                .with_state(state)
        };
        ramdisk("alua")
            .with_alua_group("node1".parse().unwrap(), implicit(1, first))
            .with_alua_group("node2".parse().unwrap(), implicit(2, AluaState::Standby))
    };
    let spec = |state, group: &str| {
        TargetSpec::new(iqn("alua")).with_lun(0, disk(state)).with_lun_group(0, group.parse().unwrap())
    };
    let one = spec(AluaState::Optimized, "node1");
    lio.ensure(&one)?;
    assert!(!lio.ensure(&one)?, "{}", lio.plan(&one)?);
    let state = lio.list()?.into_iter().find(|target| target.iqn == one.iqn).expect("there");
    let backstore = state.backstores.values().next().expect("its backstore");
    assert_eq!(
        (backstore.alua["node2"].id, backstore.alua["node2"].state()),
        (Some(2), Some(AluaState::Standby))
    );
    assert_eq!(state.groups[0].luns.values().next().unwrap().alua_group.as_deref(), Some("node1"));
    // A changed state is one write, and so is another group.
    let standby = spec(AluaState::Standby, "node1");
    let plan = lio.plan(&standby)?;
    assert!(plan.len() == 1 && shown(&plan)[0].ends_with("/alua/node1/alua_access_state"), "{plan}");
    lio.apply(plan)?;
    assert!(!lio.ensure(&standby)?);
    let moved = spec(AluaState::Standby, "node2");
    let plan = lio.plan(&moved)?;
    assert!(plan.len() == 1 && shown(&plan)[0].ends_with("/alua_tg_pt_gp"), "{plan}");
    let undo = lio.apply(plan)?;
    assert!(!lio.ensure(&moved)?);
    lio.apply(undo.into_plan())?;
    assert!(!lio.ensure(&standby)?);
    // A number is for ever.
    let other = TargetSpec::new(iqn("alua"))
        .with_lun(0, ramdisk("alua").with_alua_group("node1".parse()?, AluaGroupSpec::new(9)));
    let error = lio.plan(&other).expect_err("another number");
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("has the number 1"), "{error}");
    // With all its groups it comes back.
    let all = bench.snapshot();
    let undo = lio.apply(lio.plan_removal(&one.iqn)?)?;
    bench.same(&before, "removed");
    lio.apply(undo.into_plan())?;
    bench.same(&all, "brought back");
    let once = lio.clone().with_removal(Removal::Final);
    assert!(once.remove(&one.iqn)? && !once.remove(&one.iqn)?);
    bench.same(&before, "removed again");
    let wrong =
        TargetSpec::new(iqn("alua")).with_lun(0, ramdisk("alua")).with_lun_group(0, "nobody".parse()?);
    assert!(lio.plan(&wrong).expect_err("no such group").to_string().contains("has no access group nobody"));
    Ok(())
}

pub fn lu_groups(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let group = || LuGroup::new("units".parse().unwrap(), 9);
    let disk = |name: &str| {
        ramdisk(name).with_lu_group(group()).with_alua_group("a".parse().unwrap(), AluaGroupSpec::new(1))
    };
    let one = TargetSpec::new(iqn("lug1")).with_lun(0, disk("lug1")).with_lun_group(0, "a".parse()?);
    let two = TargetSpec::new(iqn("lug2")).with_lun(0, disk("lug2")).with_lun_group(0, "a".parse()?);
    for spec in [&one, &two] {
        lio.ensure(spec)?;
        assert!(!lio.ensure(spec)?, "{}", lio.plan(spec)?);
    }
    // One write flips both, on a kernel.
    if bench.real {
        let path = |n: usize| -> Result<String, Error> {
            let id =
                lio.backstores()?.into_iter().find(|b| b.id.name == format!("lug{n}")).expect("there").id;
            Ok(format!("{TARGET}/core/{}/{}/alua/a/alua_access_state", id.adapter, id.name))
        };
        bench.host.tree().write(path(1)?, "2")?;
        assert_eq!(bench.host.tree().read(path(2)?)?.trim(), "2");
    }
    lio.remove(&one.iqn)?;
    assert!(bench.host.tree().exists(format!("{TARGET}/core/alua/lu_gps/units"))?, "somebody is in it");
    lio.remove(&two.iqn)?;
    bench.same(&before, "removed");
    Ok(())
}

pub fn group_passwords(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let spec = TargetSpec::new(iqn("open"))
        .with_demo_mode(DemoMode::Allowed)
        .with_chap("anybody".parse()?, Secret::from("a password for all"))
        .with_mutual_chap("us".parse()?, Secret::from("and one of our own"))
        .with_acl(AclSpec::new(iqn("host1")).with_tag("racks.1".parse()?));
    lio.ensure(&spec)?;
    assert!(!lio.ensure(&spec)?, "{}", lio.plan(&spec)?);
    let dir = format!("{TARGET}/iscsi/{}/tpgt_1", spec.iqn);
    assert_eq!(bench.host.tree().read(format!("{dir}/auth/password"))?, "a password for all\n");
    assert_eq!(bench.host.tree().read(format!("{dir}/attrib/authentication"))?.trim(), "1");
    assert_eq!(bench.host.tree().read(format!("{dir}/acls/{}/tag", iqn("host1")))?.trim(), "racks.1");
    let all = bench.snapshot();
    let undo = lio.apply(lio.plan_removal(&spec.iqn)?)?;
    lio.apply(undo.into_plan())?;
    bench.same(&all, "brought back");
    assert!(!lio.ensure(&spec)?);
    let without = TargetSpec::new(iqn("open")).with_demo_mode(DemoMode::Allowed);
    lio.ensure(&without)?;
    assert!(!lio.ensure(&without)?);
    lio.remove(&spec.iqn)?;
    bench.same(&before, "removed");
    Ok(())
}

pub fn discovery(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = lio.get_iscsi()?;
    let spec = IscsiSpec::new()
        .with_discovery_chap("scout".parse()?, Secret::from("who may ask for it"))
        .with_mutual_discovery_chap("us".parse()?, Secret::from("and who answers it"))
        .with_cpus("0".parse()?);
    let plan = lio.plan_iscsi(&spec)?;
    assert!(shown(&plan).iter().any(|line| line.ends_with("enforce_discovery_auth")), "{plan}");
    assert!(!plan.to_string().contains("who may ask"));
    let undo = lio.apply(plan)?;
    assert!(!lio.ensure_iscsi(&spec)?, "{}", lio.plan_iscsi(&spec)?);
    let state = lio.get_iscsi()?;
    assert!(state.enforced && state.discovery.user.as_deref() == Some("scout"));
    lio.apply(undo.into_plan())?;
    assert_eq!(lio.get_iscsi()?, before);
    assert!(lio.ensure_iscsi(&spec)? && lio.ensure_iscsi(&IscsiSpec::new())?);
    let state = lio.get_iscsi()?;
    assert!(!state.enforced && state.discovery.secret.is_none());
    if let Some(cpus) = before.cpus {
        lio.ensure_iscsi(&IscsiSpec::new().with_cpus(cpus))?;
    }
    Ok(())
}

pub fn other_fabrics(bench: &Bench) -> Outcome {
    let before = bench.lio();
    let naa = |n: u8| -> Iqn { format!("naa.500140500000000{n:x}").parse().expect("a name") };
    for (spec, module) in
        [(TargetSpec::loopback(naa(1)), "tcm_loop"), (TargetSpec::vhost(naa(2)), "vhost_scsi")]
    {
        if !(bench.has_module)(bench, module) {
            eprintln!("{module} is not here: {} not tried", spec.fabric);
            continue;
        }
        let lio = before.clone().of(spec.fabric);
        let spec = spec.with_lun(0, ramdisk("fabric")).with_lun(1, bench.disk(1, "fabric1"));
        // The directory of the fabric stays.
        lio.ensure(&spec)?;
        lio.remove(&spec.iqn)?;
        let before = bench.snapshot();
        lio.create(&spec)?;
        assert!(!lio.ensure(&spec)?, "{}", lio.plan(&spec)?);
        let state = lio.get(&spec.iqn)?.expect("there");
        assert_eq!((state.fabric, state.groups[0].nexus.clone()), (spec.fabric, spec.nexus.clone()));
        assert!(lio.clone().of(Fabric::Iscsi).get(&spec.iqn)?.is_none());
        let all = bench.snapshot();
        let undo = lio.apply(lio.plan_removal(&spec.iqn)?)?;
        bench.same(&before, "removed");
        lio.apply(undo.into_plan())?;
        bench.same(&all, "brought back");
        assert!(!lio.ensure(&spec)?);
        assert!(lio.remove(&spec.iqn)? && !lio.remove(&spec.iqn)?);
        bench.same(&before, "removed again");
    }
    let wrong = TargetSpec::loopback(naa(1)).with_portal("127.0.0.1:3260".parse()?);
    assert!(before.plan(&wrong).expect_err("no portals").to_string().contains("only iSCSI targets"));
    Ok(())
}

pub fn port_ids(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let bare = TargetSpec::new(iqn("rtpi"));
    lio.ensure(&bare)?;
    let there = bench.host.tree().exists(format!("{TARGET}/iscsi/{}/tpgt_1/rtpi", bare.iqn))?;
    lio.remove(&bare.iqn)?;
    let spec = TargetSpec::new(iqn("rtpi")).with_port_id(77);
    match there {
        false => {
            let error = lio.ensure(&spec).expect_err("this kernel chooses them");
            assert!(chain(&error).contains("6.4"), "{}", chain(&error));
        }
        true => {
            lio.ensure(&spec)?;
            assert!(!lio.ensure(&spec)?);
            assert_eq!(lio.get(&spec.iqn)?.expect("there").groups[0].port_id, Some(77));
            let error = lio.plan(&TargetSpec::new(iqn("rtpi")).with_port_id(78)).expect_err("it serves");
            assert_eq!(error.kind(), ErrorKind::Conflict);
            let twin = TargetSpec::new(iqn("rtpi2")).with_port_id(77);
            let error = lio.ensure(&twin).expect_err("somebody has it");
            assert!(chain(&error).contains("relative port identifier"), "{}", chain(&error));
            lio.remove(&spec.iqn)?;
        }
    }
    bench.same(&before, "removed");
    Ok(())
}

pub fn ranges(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    for (spec, words) in [
        (TargetSpec::new(iqn("bad")).with_attribute("login_timeout", 99), "5 to 30"),
        (TargetSpec::new(iqn("bad")).with_parameter("InitialR2T", "Maybe"), "Yes, No"),
        (TargetSpec::new(iqn("bad")).with_parameter("MaxBurstLength", 1), "512 to 16777215"),
        (
            TargetSpec::new(iqn("bad")).with_lun(0, ramdisk("bad").with_attribute("block_size", 513)),
            "512, 1024",
        ),
        (
            TargetSpec::new(iqn("bad")).with_lun(0, ramdisk("bad").with_attribute("hw_block_size", 512)),
            "cannot be written",
        ),
        (
            TargetSpec::new(iqn("bad")).with_acl(AclSpec::new(iqn("h")).with_attribute("dataout_timeout", 1)),
            "2 to 60",
        ),
        (TargetSpec::new(iqn("bad")).with_attribute("login_timeout", "010"), "plain decimal"),
    ] {
        let error = lio.ensure(&spec).expect_err(words);
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(words), "{error}");
    }
    bench.same(&before, "nothing was done");
    Ok(())
}

pub fn companies(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let one = TargetSpec::new(iqn("company1")).with_lun(0, ramdisk("company"));
    let disk =
        ramdisk("company2").with_serial(serial("company")).with_company(CompanyId::try_from(0x00c0ff)?);
    let two = TargetSpec::new(iqn("company2")).with_lun(0, disk);
    lio.ensure(&one)?;
    lio.ensure(&two)?;
    assert!(!lio.ensure(&one)? && !lio.ensure(&two)?);
    let wwids: Vec<_> = lio.backstores()?.iter().filter_map(lio::BackstoreState::wwid).collect();
    assert!(wwids.len() >= 2 && wwids.windows(2).all(|pair| pair[0] != pair[1]), "{wwids:?}");
    lio.remove(&one.iqn)?;
    lio.remove(&two.iqn)?;
    Ok(())
}
